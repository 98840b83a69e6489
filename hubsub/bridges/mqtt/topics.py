"""Keys as topics, patterns as filters, headers as user properties, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import EncodeError
from ...key import Key
from ..address import Addresses, cached

PLANES = "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 17))
ALLOWED = rf' !"$-*,-.0-~\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd{PLANES}'
"""The characters of a topic, but for the separator: no wildcards, no control characters, nothing that is no character.

A broker closes the connection over any other.
"""
OWN = "$SYS"
"""Under which brokers say how they are."""


_quoted = Addresses("/", allowed=ALLOWED)


def quoted(text: str) -> str:
    """Return text as one level of a topic, or as a client id."""
    return _quoted.escape(text)


class Topics:
    """The topics of a namespace."""

    def __init__(self, namespace: str) -> None:
        prefix = f"{quoted(namespace)}/" if namespace else ""
        self._addresses = Addresses("/", allowed=ALLOWED, prefix=prefix, foreign=not namespace)
        self.key = self._addresses.key
        """The key of a topic; None if it is not in the namespace."""
        self.topic = cached(self._topic)
        """The topic of a key; raises EncodeError if it has none."""

    def _topic(self, key: Key[Any]) -> str:
        topic = self._addresses.address(key)
        if not topic:
            raise EncodeError(key, "an empty text is no topic of MQTT")
        if topic[0] == "$":
            raise EncodeError(key, "topics that begin with $ are the broker's own")
        return topic

    def filter(self, pattern: Key[Any]) -> str:
        """Return the filter that matches the topics of the keys that a pattern matches."""
        # Not # alone, which also matches the topic above it.
        return self._addresses.pattern(pattern, "+", "+/#")

    def below(self, *parts: str) -> str:
        """Return a topic in the hub's own part of the namespace."""
        return self._addresses.address(Key("Hub", *parts))


_TEXTS = Addresses("\0", allowed=rf"+#/{ALLOWED}", foreign=True)
_ATTRIBUTE = re.compile("[a-z0-9]+")
CONTENT_TYPE = "content-type"


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what headers of these names are called as user properties: as CloudEvents' binding to MQTT 5 has it.

    There an attribute has its own name. So one that is called like an attribute and is none keeps the `ce_` at the
    others.
    """
    bare = "ce_specversion" in names and not any(_ATTRIBUTE.fullmatch(name) for name in names)
    return tuple(name[3:] if bare and name.startswith("ce_") else _written(name) for name in names)


def _written(text: str) -> str:
    return _TEXTS.escape(text)


def _read(text: str) -> str:
    key = _TEXTS.key(text) if "%" in text else None
    return text if key is None else key[0]


_names: Callable[[Any], tuple[str, ...]] = cached(_named)


def properties_of(headers: Mapping[str, str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the content type and the user properties for headers; what a broker would not accept is escaped."""
    values = headers.values()
    together = "".join(values)
    if "%" in together or not together.isprintable():
        values = [_written(value) for value in values]  # type: ignore[assignment]
    content_type = headers.get(CONTENT_TYPE)
    pairs = list(zip(_names(tuple(headers)), values, strict=True))
    if content_type is not None:
        del pairs[list(headers).index(CONTENT_TYPE)]
    return content_type, pairs


def headers_of(content_type: str | None, properties: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that a message has come with."""
    headers: dict[str, str] = {}
    if properties:
        names, values = zip(*properties, strict=True)
        if "%" in "".join(values):
            values = tuple(map(_read, values))
        headers.update(zip(_names_of(names), values, strict=True))
    if content_type is not None:
        headers[CONTENT_TYPE] = content_type
    return headers


def _meant(properties: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of headers that came as user properties of these names."""
    names = tuple(map(_read, properties))
    if "specversion" not in names or "ce_specversion" in names:
        return names
    return tuple(f"ce_{name}" if _ATTRIBUTE.fullmatch(name) else name for name in names)


_names_of: Callable[[Any], tuple[str, ...]] = cached(_meant)
