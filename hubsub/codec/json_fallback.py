"""What stands in JSON for values that it has no form for, and which part of a message cannot be encoded at all."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import singledispatch
from typing import Any
from uuid import UUID

from .._core.declarations import name_of


@singledispatch
def plain(value: Any) -> Any:
    """Return what stands for a value in JSON; it may hold such values in turn."""
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__struct_fields__"):
        # With its tags and other names, which msgspec knows best.
        return sys.modules["msgspec"].to_builtins(value, str_keys=True, enc_hook=plain)
    raise TypeError(f"nothing in JSON stands for a {name_of(type(value))}")


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


to_json: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=plain, allow_nan=False
).encode
to_ascii_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), default=plain, allow_nan=False).encode


def dumped(value: Any) -> Any:
    """Return what stands for a value that msgspec does not know."""
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, by_alias=True)
    raise TypeError(f"nothing in MessagePack stands for a {name_of(type(value))}")


# Where the fault is


def located(error: Exception, message: Any, encode: Callable[[Any], object]) -> ValueError:
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
