"""The state and counters of a bridge, and what it left unfinished."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["new", "connecting", "up", "down", "closed", "failed"]


class Health(NamedTuple):
    """State and counters of a bridge at a moment."""

    state: State
    """"failed" if its adapter is broken, or it is not let in: then it does not try again; `last_error` says why."""
    since: float
    """When it entered that state, in seconds since the epoch."""
    last_received: float | None
    """When something was received last, in seconds since the epoch."""
    outbox_messages: int
    """Messages that wait to be sent."""
    outbox_bytes: int
    """Bytes of those that are encoded already."""
    oldest_age: float | None
    """Seconds since the oldest of them was encoded; None if there is none."""
    sent: int
    """Messages that the broker has accepted."""
    received: int
    """Messages that were delivered to the hub."""
    in_flight: int
    """Messages that were received and are unfinished."""
    lag: int | None
    """Messages left at the broker when something was received last; None if the adapter does not know."""
    reconnects: int
    """Connections after the first one."""
    gaps: int
    """Gaps that were reported to subscribers."""
    echoes: int
    """Own messages that came back and were dropped."""
    duplicates: int
    """Messages that came again and were dropped."""
    failures: int
    """Attempts that ended with a listener's failure."""
    dead_letters: int
    """Messages that were given up."""
    unclaimed: int
    """Messages that nobody was subscribed to."""
    undecodable: int
    """Received messages that could not be decoded, or not be published here."""
    unclear: int
    """Messages that were sent again, since it was unknown whether they had been; they may arrive twice."""
    refused: int
    """Messages that could not be sent."""
    unroutable: int
    """Messages that the broker confirmed though nobody wanted them: no queue was bound to their key. Where the broker
    does not say, 0."""
    last_error: BaseException | None
    """The last error, by which it is or was not connected."""


class Leftover(NamedTuple):
    """What a bridge could not finish before it was closed."""

    unsent: int
    """Messages that the broker did not get."""
    unfinished: int
    """Messages that were received and not handled; a durable broker delivers them again, in a group at once."""
