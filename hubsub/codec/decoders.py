"""Decoding to a declared type, by msgspec or pydantic, whichever is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

from .._core.declarations import accepts, name_of

Decode = Callable[[bytes], Any]

_AS_THEY_COME = (dict, list, str, int, bool, type(None))


def check(message: object, declared: Any) -> None:
    """Refuse a message that is plainly not of the declared type.

    Raises:
        ValueError: It is not.
    """
    if declared is not None and not accepts(declared, message):
        raise ValueError(f"the message is a {name_of(type(message))}, and declared as {name_of(declared)}")


def is_of_pydantic(type: Any) -> bool:
    """True for pydantic's models and dataclasses, whose rules only pydantic knows."""
    return hasattr(type, "__pydantic_validator__")


def _loads(payload: bytes) -> Any:
    return json.loads(payload.decode())  # given bytes, it would guess the encoding


@cache
def json_decoder(type: Any) -> Decode:
    """Return a function that decodes JSON to that type, or to whatever type it has if `type` is None.

    Raises:
        ImportError: It needs a package that is missing.
    """
    msgspec = optional("msgspec")
    if type is None or type is Any:
        return _loads if msgspec is None else _lenient(msgspec, msgspec.json.Decoder().decode, _loads)
    if not is_of_pydantic(type) and msgspec is not None:
        try:
            decode = msgspec.json.Decoder(type, dec_hook=by_pydantic).decode
        except TypeError:  # a type that msgspec does not support
            return _json_validator(type)

        def convert(payload: bytes) -> Any:
            return msgspec.convert(_loads(payload), type, str_keys=True, dec_hook=by_pydantic)

        return _lenient(msgspec, decode, convert)
    if type in _AS_THEY_COME:
        return partial(_loaded, type)
    return _json_validator(type)


def _lenient(msgspec: Any, decode: Decode, again: Decode) -> Decode:
    """Return a decoder that also accepts what only the standard library does: `NaN`, and halves of surrogate pairs."""

    def read(payload: bytes) -> Any:
        try:
            return decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return again(payload)

    return read


def _loaded(type: Any, payload: bytes) -> Any:
    message = _loads(payload)
    check(message, type)
    return message


def _json_validator(type: Any) -> Decode:
    """Return a decoder by pydantic, with bytes as base64, except for types with settings of their own."""
    if is_of_pydantic(type):
        decode: Decode = validator(type).validate_json
        return decode
    pydantic = _pydantic_for(type)
    one: Any = pydantic.TypeAdapter(tuple[type], config=pydantic.ConfigDict(val_json_bytes="base64"))
    return lambda payload: one.validate_json(b"[%b]" % payload)[0]


@cache
def validator(type: Any) -> Any:
    """Return pydantic's `TypeAdapter` of a type.

    Raises:
        ImportError: pydantic is not installed.
    """
    return _pydantic_for(type).TypeAdapter(type)


def _pydantic_for(type: Any) -> Any:
    pydantic = optional("pydantic")
    if pydantic is None:
        extras = "pip install 'hubsub[msgpack]' or 'hubsub[pydantic]'"
        raise ImportError(f"decoding to {name_of(type)} needs msgspec or pydantic: {extras}")
    return pydantic


def by_pydantic(type: Any, value: Any) -> Any:
    """Decode a value of a type that msgspec does not know."""
    return validator(type).validate_python(value)


def optional(name: str) -> Any:
    """Return a module, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None
