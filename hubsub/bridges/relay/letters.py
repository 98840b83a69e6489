"""Dead letters as a bridge shows them: stored messages that were given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import InvalidKey
from ...event import Meta
from ...key import Key
from ..adapter import Buried
from .wire import Wire


class StoredLetter(NamedTuple):
    """A dead letter that a broker stores: a message that a bridge, here or elsewhere, has given up."""

    key: Key[Any]
    """What it was published to, as far as that can be read. It may be a key that cannot be published to."""
    message: Any
    """The message; if it cannot be decoded, its bytes, or None if it has none."""
    reason: str
    """Why it was given up, for example the error of the last attempt. Empty if that was not written."""
    attempts: int
    """How often the process that gave it up called listeners with it."""
    position: str
    """The position of the letter, for `Bridge.redeliver`; `meta.position` is that of the message."""
    time: float | None
    """When it was given up, in seconds since the epoch."""
    meta: Meta = Meta()
    """The metadata of the message: id, source, headers, and when it was published."""
    error: Exception | None = None
    """The error, if it cannot be decoded."""
    group: str | None = None
    """The group that gave it up, and gets it if it is sent back."""
    name: str | None = None
    """The name of the bridge that gave it up, and gets it if it is sent back."""


def letter_of(buried: Buried, wire: Wire, key_of: Callable[[Key[Any]], Key[Any]]) -> StoredLetter:
    """Return a stored letter as a bridge shows it. Never raises, whatever is in it.

    Args:
        buried: The letter.
        wire: Decodes it.
        key_of: Returns the key on this side for one at the broker.
    """
    received = buried.received
    key = key_of(received.key)
    message: Any = received.payload
    meta: Meta | None = None
    # A key that cannot be published to does not decide the type of the message.
    error = None if isinstance(received.trouble, InvalidKey) else received.trouble
    if error is None:
        try:
            _, message, meta = wire.unpack(key, received.payload, received.headers, False)
        except Exception as trouble:
            error, meta = trouble, getattr(trouble, "meta", None)
    if meta is None:
        meta = Meta(time=received.time, hops=1)
    # Nobody waits for a reply any longer.
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
