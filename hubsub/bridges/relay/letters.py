"""Dead letters as a bridge shows them: what a broker keeps of the messages that were given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import InvalidKey
from ...event import Meta
from ...key import Key
from ..adapter import Buried
from .wire import Wire


class StoredLetter(NamedTuple):
    """A dead letter, as a broker keeps it: a message that was given up by some bridge, here or elsewhere."""

    key: Key[Any]
    """What it was published to, as far as that can be read; perhaps nothing can be published to it."""
    message: Any
    """The message; if it cannot be decoded, its bytes, or None if it has none."""
    reason: str
    """Why it was given up, for example the error of the last attempt. Empty if that was not written."""
    attempts: int
    """How often listeners were called with it by the process that gave it up."""
    position: str
    """Where the letter stands: what `Bridge.redeliver` takes. `meta.position` is where the message stood."""
    time: float | None
    """When it was given up, in seconds since the epoch."""
    meta: Meta = Meta()
    """What is known of the message: its id, source, headers, and when it was published."""
    error: Exception | None = None
    """Why it cannot be decoded, if it cannot."""
    group: str | None = None
    """The group that gave it up, and gets it back."""
    name: str | None = None
    """The name of the bridge that gave it up, and gets it back."""


def letter_of(buried: Buried, wire: Wire, key_of: Callable[[Key[Any]], Key[Any]]) -> StoredLetter:
    """What a bridge shows of a dead letter. Whatever is in it, nothing is raised.

    Args:
        buried: The letter.
        wire: Decodes it.
        key_of: From a key at the broker to the one on this side.
    """
    received = buried.received
    key = key_of(received.key)
    message: Any = received.payload
    meta: Meta | None = None
    # A key that cannot be published to says nothing of the message.
    error = None if isinstance(received.trouble, InvalidKey) else received.trouble
    if error is None:
        try:
            _, message, meta = wire.unpack(key, received.payload, received.headers, False)
        except Exception as trouble:
            error, meta = trouble, getattr(trouble, "meta", None)
    if meta is None:
        meta = Meta(time=received.time, hops=1)
    # The asker no longer waits for a reply.
    meta = meta._replace(position=received.position, reply_to=None, correlation=None)
    kind, _, reader = (buried.reader or "").partition(":")
    return StoredLetter(
        key,
        message,
        buried.reason,
        received.attempts,
        buried.position,
        buried.time,
        meta,
        error,
        reader if kind == "group" else None,
        reader if kind == "name" else None,
    )
