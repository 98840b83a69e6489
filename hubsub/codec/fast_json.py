"""JSON by msgspec, for the messages that it writes as the standard library does."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from .decoders import optional

# The classes whose values are all written alike; floats are not: `NaN`, and infinite ones.
_SCALARS = frozenset({str, int, bool, type(None)})
_FLOAT = frozenset({float})
_FEW = 16


def fast_encoder() -> Callable[[Any], bytes | None] | None:
    """Return a function that encodes plain messages; None if msgspec is not installed.

    The function returns None for every other message: one with objects of other classes, with keys that are not
    strings, or with anything that JSON cannot represent. Those are the standard library's, with its forms and errors.
    """
    msgspec = optional("msgspec")
    if msgspec is None:
        return None
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

    def encoded(message: Any) -> bytes | None:
        try:
            return encode(message) if _is_plain(message) else None
        except Exception:
            return None

    return encoded


def _is_plain(value: Any) -> bool:
    """True if it consists of the classes that JSON knows, of no subclass of them, and of finite numbers."""
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _SCALARS or (kind is float and isfinite(value))
    if len(value) > _FEW:
        kinds = {*map(type, value)}
        if kinds <= _SCALARS:
            return True
        if kinds == _FLOAT:
            return all(map(isfinite, value))
    # Few values, or mixed ones: a loop takes less than making iterators.
    for each in value:
        kind = type(each)
        if kind is float:
            if not isfinite(each):
                return False
        elif kind not in _SCALARS and not _is_plain(each):
            return False
    return True
