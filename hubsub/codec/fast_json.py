"""JSON by msgspec, for the messages that it writes as the standard library does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .decoders import optional

_SCALARS = frozenset({str, int, float, bool, type(None)})
_STR = frozenset({str})


def fast_encoder() -> Callable[[Any], bytes | None] | None:
    """Return a function that encodes plain messages; None if msgspec is not installed.

    The function returns None for every other message: one with objects of other classes, with keys that are not
    strings, or with anything that JSON cannot represent. Those are the standard library's, with its forms and errors.
    """
    msgspec = optional("msgspec")
    if msgspec is None:
        return None
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
    decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode

    def encoded(message: Any) -> bytes | None:
        try:
            if not _is_plain(message):
                return None
            payload = encode(message)
            # It writes an infinite number, or one that is none, as null. Seldom is there one to be found.
            return payload if payload.find(b"null") < 0 or decode(payload) == message else None
        except Exception:
            return None

    return encoded


def _is_plain(value: Any) -> bool:
    """True if it consists of the classes that JSON knows, and of no subclass of them."""
    kind = type(value)
    if kind is dict:
        if not _STR.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _SCALARS
    return _SCALARS.issuperset(map(type, value)) or all(map(_is_plain, value))
