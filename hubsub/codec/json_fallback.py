"""JSON forms of values that JSON does not know, and errors that say which part of a message cannot be encoded.

Keys of JSON objects are strings, so two keys of a dict may become equal: such a dict is refused.
"""

from __future__ import annotations

import json
import json.encoder
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import singledispatch
from typing import Any
from uuid import UUID

from .._core.declarations import name_of
from ..describe import describe


@singledispatch
def plain(value: Any) -> Any:
    """Return the JSON form of a value; it may contain further values that need this."""
    if hasattr(value, "__pydantic_serializer__"):
        result = value.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
        # It has kept only one of keys that are written alike.
        if _has_keys_alike(value):
            raise KeysAlike(())
        return result
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__struct_fields__"):
        # With its tags and other names, which msgspec knows best.
        return sys.modules["msgspec"].to_builtins(value, enc_hook=plain)
    raise TypeError(f"JSON has no form for a {name_of(type(value))}")


@plain.register(set)
@plain.register(frozenset)
def _(value: Any) -> list[Any]:
    return list(value)


@plain.register(bytes)
@plain.register(bytearray)
@plain.register(memoryview)
def _(value: Any) -> str:
    return b64encode(value).decode()


@plain.register(date)
@plain.register(time)
def _(value: Any) -> str:
    text: str = value.isoformat()
    return text


@plain.register
def _(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


@plain.register
def _(value: timedelta) -> str:
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


@plain.register(UUID)
@plain.register(Decimal)
def _(value: Any) -> str:
    return str(value)


@plain.register
def _(value: Enum) -> Any:
    return value.value


_STYLE: dict[str, Any] = {"separators": (",", ":"), "default": plain, "allow_nan": False}
to_ascii_json: Callable[[Any], str] = json.JSONEncoder(**_STYLE).encode


def _encoder() -> Callable[[Any], str]:
    """Return a JSON encoder. `JSONEncoder.encode` makes one each time, which takes longer than a short message."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(ensure_ascii=False, **_STYLE).encode
    # A value that contains itself is found by its depth, which is cheaper than keeping a record of each container.
    chunks_of = make(None, plain, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    join = "".join
    return lambda message: join(chunks_of(message, 0))


to_json = _encoder()


def dumped(value: Any) -> Any:
    """Return the form of a value that msgspec does not know."""
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, by_alias=True)
    raise TypeError(f"MessagePack has no form for a {name_of(type(value))}")


# Keys that JSON writes alike


class KeysAlike(ValueError):
    """Two keys of a dict would be equal in JSON."""

    def __init__(self, keys: Sequence[object]) -> None:
        super().__init__(f"JSON writes {' and '.join(map(describe, keys)) or 'two'} of its keys alike")


def check_keys(message: Any, payload: bytes) -> None:
    """Refuse a message with a dict that has two keys written alike in the payload: `1` and `"1"`, for example.

    This takes nearly no time if no key in the payload looks like a value of another type.

    Raises:
        ValueError: There is such a dict; the error says where.
    """
    folded = payload.translate(_FOLDED)
    if (folded.find(b'0":') < 0 or folded.find(b'"0') < 0) and folded.find(b'"trrr":') < 0:
        return
    found = _NOT_ONLY_TEXT.findall(payload)
    if len(found) == len(set(found)):
        return
    try:
        # Strings and other keys cannot be compared.
        _to_sorted_json(message)
    except TypeError:
        if _has_doubles(payload):
            raise where_alike(message) from None


def where_alike(message: Any) -> ValueError:
    """Return an error that says where in a message two keys are written alike."""
    try:
        _refuse_keys_alike(message)
    except KeysAlike as error:
        return located(error, message, _refuse_keys_alike)
    return located(KeysAlike(()), message, _refuse_keys_alike)


# After translation, a key that is a number begins with `"0` and ends with `0":`, and true, false and null become `trrr`
# behind a quotation mark. Few other keys do.
_FOLDED = bytes.maketrans(b"0123456789-.ftanrluse", b"0" * 12 + b'"' + b"ttt" + b"rrrrr")
_NOT_ONLY_TEXT = re.compile(rb'"(?:-?[0-9][^"\\]*|true|false|null)":')
_to_sorted_json: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, **_STYLE).encode


def _has_doubles(payload: bytes) -> bool:
    """True if an object in a JSON payload has a key twice."""
    doubles = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        doubles.append(len({name for name, _ in pairs}) < len(pairs))

    json.loads(payload, object_pairs_hook=note)
    return any(doubles)


def _refuse_keys_alike(value: Any) -> None:
    if _has_keys_alike(value):
        raise KeysAlike(_keys_alike(value))


_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


def _has_keys_alike(value: Any) -> bool:
    """True if a value has a dict with two keys that are written alike; the value must not contain itself."""
    if type(value) in _SCALARS:
        return False
    if isinstance(value, Mapping):
        return bool(_keys_alike(value)) or any(map(_has_keys_alike, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return not _SCALARS.issuperset(map(type, value)) and any(map(_has_keys_alike, value))
    names = _fields_of(value)
    return any(_has_keys_alike(getattr(value, name)) for name in names) if names else False


def _keys_alike(value: Any) -> Sequence[object]:
    """Return two keys of a dict that are written alike; none if there are none, or it is not a dict."""
    if isinstance(value, Mapping) and not _STR.issuperset(map(type, value)):
        written: dict[Any, Any] = {}
        for key in value:
            text = key if isinstance(key, str) else to_ascii_json({key: 0})[2:-4] if type(key) in _SCALARS else str(key)
            if text in written:
                return [written[text], key]
            written[text] = key
    return ()


_STR = frozenset({str})


# Where the fault is


def located(error: Exception, message: Any, encode: Callable[[Any], object]) -> ValueError:
    """Return an error that says which part of a message cannot be encoded."""
    path, value, why = "message", message, error
    known = set()
    while id(value) not in known:
        known.add(id(value))
        for name, part in _parts(value):
            try:
                encode(part)
            except Exception as fault:
                path, value, why = path + name, part, fault
                break
        else:
            break
    else:
        return ValueError(f"{path} contains itself")
    if isinstance(value, float):
        return ValueError(f"{path} is {value}, which JSON cannot represent")
    return ValueError(f"{path} cannot be encoded: {why}")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with the path to it."""
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
    else:
        for name in _fields_of(value):
            yield f".{name}", getattr(value, name)


def _fields_of(value: Any) -> Iterable[str]:
    """Return the names of the fields of a dataclass, model or struct."""
    if isinstance(value, type):
        return ()
    names = getattr(value, "__struct_fields__", None) or getattr(type(value), "model_fields", None)
    if extra := getattr(value, "__pydantic_extra__", None):
        return (*(names or ()), *extra)
    if names is None and is_dataclass(value):
        return [field.name for field in fields(value)]
    return names or ()
