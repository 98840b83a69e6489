"""Codecs: messages as the payloads that a broker carries, and back."""

from __future__ import annotations

import json
import pickle
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, partial, singledispatch
from importlib import import_module
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from ..log import Logger
from ..types import accepts, name_of

logger = Logger("hubsub.bridge.codec")

Decode = Callable[[bytes], Any]


@runtime_checkable
class Codec(Protocol):
    """Makes payloads of messages. What its methods raise becomes an `EncodeError` or a `DecodeError` with the key."""

    name: str
    """What it is called."""
    content_type: str
    """The media type of its payloads."""

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message."""
        ...

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload: of that type, or as it comes if that is None."""
        ...


class JsonCodec:
    """JSON in UTF-8. Encoding takes the standard library alone; decoding is quicker where msgspec is installed.

    Typed messages are decoded by msgspec or pydantic, whichever is installed; pydantic's own classes by pydantic.
    """

    name = "json"
    content_type = "application/json"

    def __init__(self) -> None:
        self._decode = _json_decoder(None)

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message.

        Raises:
            ValueError: JSON cannot hold something in it; the error tells where.
        """
        try:
            return _to_json(message).encode()
        except UnicodeEncodeError:
            # A half of a surrogate pair has no UTF-8 form, but an escaped one.
            return json.dumps(message, separators=(",", ":"), default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise _located(error, message, _to_json) from error

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload.

        Raises:
            ValueError: It is no JSON, or not of that type.
            ImportError: Decoding to that type needs a package that is missing.
        """
        return self._decode(payload) if type is None else _json_decoder(type)(payload)


class MsgpackCodec:
    """MessagePack, by msgspec: smaller than JSON, and bytes stay bytes.

    Raises:
        ImportError: msgspec is not installed.
    """

    name = "msgpack"
    content_type = "application/msgpack"

    def __init__(self) -> None:
        try:
            import msgspec
        except ImportError:
            raise ImportError("the codec 'msgpack' needs msgspec: pip install 'hubsub[msgpack]'") from None
        self._to_msgpack: Callable[[Any], bytes] = msgspec.msgpack.Encoder(enc_hook=_dumped).encode
        self._decoder = cache(self._make_decoder)
        self._decode: Decode = msgspec.msgpack.Decoder().decode

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message.

        Raises:
            ValueError: MessagePack cannot hold something in it; the error tells where.
        """
        try:
            return self._to_msgpack(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _located(error, message, self._to_msgpack) from error

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload.

        Raises:
            ValueError: It is no MessagePack, or not of that type.
            ImportError: Decoding to that type needs pydantic, which is missing.
        """
        return self._decode(payload) if type is None else self._decoder(type)(payload)

    def _make_decoder(self, type: Any) -> Decode:
        import msgspec

        if _is_of_pydantic(type):
            validate = _validator(type).validate_python
            return lambda payload: validate(self._decode(payload))
        return msgspec.msgpack.Decoder(type, dec_hook=_by_pydantic).decode


class BytesCodec:
    """Bytes as they are; the other side gets `bytes`."""

    name = "bytes"
    content_type = "application/octet-stream"

    def encode(self, message: Any) -> bytes:
        """Return bytes, or anything like it, as bytes.

        Raises:
            TypeError: It is something else.
        """
        if isinstance(message, (bytes, bytearray, memoryview)):
            return bytes(message)
        raise TypeError(f"the codec 'bytes' sends bytes, not {name_of(type(message))}")

    def decode(self, payload: bytes, type: Any) -> bytes:
        """Return the payload.

        Raises:
            ValueError: Another type is asked for.
        """
        _check(payload, type)
        return payload


class StrCodec:
    """Text in UTF-8."""

    name = "str"
    content_type = "text/plain; charset=utf-8"

    def encode(self, message: Any) -> bytes:
        """Return the text in UTF-8.

        Raises:
            TypeError: It is no text.
            ValueError: Half of a surrogate pair is in it.
        """
        if isinstance(message, str):
            return message.encode()
        raise TypeError(f"the codec 'str' sends str, not {name_of(type(message))}")

    def decode(self, payload: bytes, type: Any) -> str:
        """Return the text.

        Raises:
            ValueError: It is not in UTF-8, or another type is asked for.
        """
        text = payload.decode()
        _check(text, type)
        return text


class PickleCodec:
    """Any Python object. Whoever can send to the broker can run any code in this process: only by name."""

    name = "pickle"
    content_type = "application/x-python-pickle"

    def encode(self, message: Any) -> bytes:
        """Return the pickled message."""
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return what was pickled.

        Raises:
            ValueError: It is not of that type.
        """
        message = pickle.loads(payload)
        _check(message, type)
        return message


def _check(message: object, declared: Any) -> None:
    if declared is not None and not accepts(declared, message):
        raise ValueError(f"is a {name_of(type(message))}, and declared as {name_of(declared)}")


_BUILT_IN: dict[str, type[Codec]] = {
    "json": JsonCodec,
    "msgpack": MsgpackCodec,
    "bytes": BytesCodec,
    "str": StrCodec,
    "pickle": PickleCodec,
}


def codec_of(codec: str | Codec) -> Codec:
    """Return the codec of that name, or what is one already.

    Raises:
        ValueError: There is none of that name.
        ImportError: It needs a package that is missing.
    """
    if not isinstance(codec, str):
        if not isinstance(codec, Codec):
            raise ValueError(f"{codec!r} is no codec: it needs name, content_type, encode and decode")
        return codec
    if codec not in _BUILT_IN:
        raise ValueError(f"no codec is called {codec!r}; there are {', '.join(_BUILT_IN)}")
    if codec == "pickle":
        _warn_of_pickle()
    return _BUILT_IN[codec]()


@cache  # once is enough
def _warn_of_pickle() -> None:
    logger.warning("codec 'pickle': whoever can send to the broker can run any code in this process")


# What JSON has no form for


@singledispatch
def _plain(value: Any) -> Any:
    """Return what stands for a value in JSON; it may hold such values in turn."""
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__struct_fields__"):
        # With its tags and other names, which msgspec knows best.
        return sys.modules["msgspec"].to_builtins(value, str_keys=True, enc_hook=_plain)
    raise TypeError(f"nothing in JSON stands for a {name_of(type(value))}")


@_plain.register(set)
@_plain.register(frozenset)
def _(value: Any) -> list[Any]:
    return list(value)


@_plain.register(bytes)
@_plain.register(bytearray)
@_plain.register(memoryview)
def _(value: Any) -> str:
    return b64encode(value).decode()


@_plain.register(date)
@_plain.register(time)
def _(value: Any) -> str:
    return value.isoformat()


@_plain.register
def _(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


@_plain.register
def _(value: timedelta) -> str:
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


@_plain.register(UUID)
@_plain.register(Decimal)
def _(value: Any) -> str:
    return str(value)


@_plain.register
def _(value: Enum) -> Any:
    return value.value


_to_json: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False
).encode


def _dumped(value: Any) -> Any:
    """Return what stands for a value that msgspec does not know."""
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, by_alias=True)
    raise TypeError(f"nothing in MessagePack stands for a {name_of(type(value))}")


# Where the fault is


def _located(error: Exception, message: Any, encode: Callable[[Any], object]) -> ValueError:
    """Return an error that says which part of a message cannot be encoded."""
    place, value, why = "message", message, error
    known = set()
    while id(value) not in known:
        known.add(id(value))
        for name, part in _parts(value):
            try:
                encode(part)
            except Exception as fault:
                place, value, why = place + name, part, fault
                break
        else:
            break
    else:
        return ValueError(f"{place} holds itself")
    if isinstance(value, float):
        return ValueError(f"{place} is {value}, for which there is no number in JSON")
    return ValueError(f"{place} cannot be encoded: {why}")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, each with what leads to it."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        for index, part in enumerate(value):
            yield f".{names[index]}" if names else f"[{index}]", part
    elif isinstance(value, (set, frozenset)):
        for part in value:
            yield "{…}", part
    elif isinstance(value, Enum):
        yield ".value", value.value
    elif not isinstance(value, type):
        names = getattr(value, "__struct_fields__", None) or getattr(type(value), "model_fields", None)
        if names is None and is_dataclass(value):
            names = [field.name for field in fields(value)]
        for name in names or ():
            yield f".{name}", getattr(value, name)


# Decoding to a type

_AS_THEY_COME = (dict, list, str, int, bool, type(None))


def _is_of_pydantic(type: Any) -> bool:
    """True for pydantic's models and dataclasses, which have rules that only it knows."""
    return hasattr(type, "__pydantic_validator__")


def _loads(payload: bytes) -> Any:
    return json.loads(payload.decode())  # of bytes it would guess the encoding


@cache
def _json_decoder(type: Any) -> Decode:
    msgspec = _optional("msgspec")
    if type is None or type is Any:
        return _loads if msgspec is None else _lenient(msgspec, msgspec.json.Decoder().decode, _loads)
    if not _is_of_pydantic(type) and msgspec is not None:
        try:
            decode = msgspec.json.Decoder(type, dec_hook=_by_pydantic).decode
        except TypeError:  # one of those types that it does not support
            return _json_validator(type)

        def convert(payload: bytes) -> Any:
            return msgspec.convert(_loads(payload), type, str_keys=True, dec_hook=_by_pydantic)

        return _lenient(msgspec, decode, convert)
    if type in _AS_THEY_COME:
        return partial(_loaded, type)
    return _json_validator(type)


def _lenient(msgspec: Any, decode: Decode, again: Decode) -> Decode:
    """Read what msgspec refuses and the standard library does not: `NaN`, and halves of surrogate pairs."""

    def read(payload: bytes) -> Any:
        try:
            return decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return again(payload)

    return read


def _loaded(type: Any, payload: bytes) -> Any:
    message = _loads(payload)
    _check(message, type)
    return message


def _json_validator(type: Any) -> Decode:
    """Decode by pydantic, which must be told that bytes are in base64; types with settings of their own keep them."""
    if _is_of_pydantic(type):
        return _validator(type).validate_json
    pydantic = _pydantic_for(type)
    one: Any = pydantic.TypeAdapter(tuple[type], config=pydantic.ConfigDict(val_json_bytes="base64"))
    return lambda payload: one.validate_json(b"[%b]" % payload)[0]


@cache
def _validator(type: Any) -> Any:
    return _pydantic_for(type).TypeAdapter(type)


def _pydantic_for(type: Any) -> Any:
    pydantic = _optional("pydantic")
    if pydantic is None:
        raise ImportError(
            f"decoding to {name_of(type)} needs msgspec or pydantic: pip install 'hubsub[msgpack]' or 'hubsub[pydantic]'"
        )
    return pydantic


def _by_pydantic(type: Any, value: Any) -> Any:
    """Decode what msgspec does not know."""
    return _validator(type).validate_python(value)


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None
