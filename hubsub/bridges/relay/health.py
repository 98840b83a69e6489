"""How a bridge fares, and what it leaves behind."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["new", "connecting", "up", "down", "closed", "failed"]


class Health(NamedTuple):
    """How a bridge fares, at a moment."""

    state: State
    """"failed" if its adapter is broken: then it does not try again, and `last_error` says why."""
    since: float
    """When it came to that state, in seconds since the epoch."""
    last_received: float | None
    """When something came last, in seconds since the epoch."""
    outbox_messages: int
    """Messages that wait to be sent."""
    outbox_bytes: int
    """Bytes of those which are encoded."""
    oldest_age: float | None
    """Seconds since the one that waits longest was encoded; None if there is none."""
    sent: int
    """Messages that the broker has taken."""
    received: int
    """Messages that came into the hub."""
    in_flight: int
    """Messages that came and are not finished."""
    lag: int | None
    """Messages at the broker that had not come when something came last; None if the adapter does not know."""
    reconnects: int
    """Connections but for the first."""
    gaps: int
    """Gaps that were reported to subscribers."""
    echoes: int
    """Own messages that came back, and went no further."""
    duplicates: int
    """Messages that came again, and went no further."""
    failures: int
    """Attempts that ended with a listener's failure."""
    dead_letters: int
    """Messages that were given up."""
    unclaimed: int
    """Messages that nobody was subscribed to."""
    undecodable: int
    """Messages that came and could not be decoded, or not be published here."""
    unclear: int
    """Messages that were sent again because nobody knew whether they had been; they may have come twice."""
    refused: int
    """Messages that could not be sent at all."""
    last_error: BaseException | None
    """Why it is not connected, or was not."""


class Leftover(NamedTuple):
    """What a bridge could not finish before it was closed."""

    unsent: int
    """Messages that the broker did not get."""
    unfinished: int
    """Messages that came and were not handled; a durable broker delivers them again, to another member of a group at
    once."""
