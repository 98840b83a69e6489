"""Keys as the addresses of a broker, and back, without loss; and which of overlapping patterns a message came by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..key import Key, is_subset

A = TypeVar("A")
B = TypeVar("B")


class Addresses:
    """Joins the parts of a key with a separator, and escapes in them what the broker cannot hold.

    A character is escaped as `%` and the two hexadecimal digits of each byte of its UTF-8 form. So different keys have
    different addresses; an address that was not made here is read as far as that makes sense.

    Args:
        separator: Between two parts, one character.
        forbidden: Characters that the broker gives a meaning.
        allowed: If given, only these characters are written as they are: a set for a regular expression.
        empty: Stands for an empty part, where the broker wants every part to have a character.
        prefix: Put before every address.
    """

    def __init__(
        self, separator: str, *, forbidden: str = "", allowed: str | None = None, empty: str = "", prefix: str = ""
    ) -> None:
        self.separator = separator
        self.prefix = prefix
        self._empty = empty
        unsafe = f"[^{allowed}]|[%]" if allowed else f"[{re.escape('%' + separator + forbidden)}]"
        self._unsafe = re.compile(unsafe)
        self.address = cached(self._address)
        """The address of an exact key."""
        self.key = cached(self._key)
        """The key of an address; None if it does not begin with the prefix."""

    def escape(self, part: str) -> str:
        """One part, as it stands in an address."""
        if not part:
            return self._empty
        escaped = self._unsafe.sub(_as_hex, part)
        # A part that looks like what stands for an empty one.
        return escaped if escaped != self._empty else "".join(map(_hex_of, part))

    def _address(self, key: Key[Any]) -> str:
        return self.prefix + self.separator.join(map(self.escape, key))

    def _key(self, address: str) -> Key[Any] | None:
        if not address.startswith(self.prefix):
            return None
        parts = address[len(self.prefix) :].split(self.separator)
        return Key(*(_unescape(part) if part != self._empty else "" for part in parts))


_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")


def _hex_of(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _as_hex(match: re.Match[str]) -> str:
    return _hex_of(match[0])


def _unescape(part: str) -> str:
    return _ESCAPES.sub(_as_text, part) if "%" in part else part


def _as_text(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return match[0]


def cached(function: Callable[[A], B], most: int = 65536) -> Callable[[A], B]:
    """`function`, remembering what it returned for the last arguments; forgets all at once when there are too many."""
    known: dict[A, B] = {}

    def call(argument: A) -> B:
        try:
            return known[argument]
        except KeyError:
            if len(known) >= most:
                known.clear()
            result = known[argument] = function(argument)
            return result

    return call


class Copies:
    """Tells the first copy of a message from the others, where a broker sends one for each pattern that matches.

    The patterns are those that the broker has confirmed, to be added and removed in the order of its confirmations
    among the messages: then exactly one copy of each message counts, whatever is subscribed meanwhile.
    """

    def __init__(self) -> None:
        self._exact: set[tuple[str, ...]] = set()
        self._wild: dict[tuple[str, ...], None] = {}
        self._first: Callable[[Key[Any]], tuple[str, ...] | None] = cached(self._first_wild)

    def add(self, pattern: Key[Any]) -> None:
        """Copies by this pattern come from now on."""
        if pattern.is_wildcard:
            self._wild[pattern] = None
            self._first = cached(self._first_wild)
        else:
            self._exact.add(pattern)

    def remove(self, pattern: Key[Any]) -> None:
        """No more copies by this pattern come."""
        self._exact.discard(pattern)
        if self._wild.pop(pattern, pattern) is None:
            self._first = cached(self._first_wild)

    def is_first(self, key: Key[Any], pattern: tuple[str, ...]) -> bool:
        """True if the copy that came by `pattern` is the one that counts."""
        if key in self._exact:
            return pattern == key
        return self._first(key) == pattern

    def _first_wild(self, key: Key[Any]) -> tuple[str, ...] | None:
        return next((each for each in self._wild if is_subset(key, each)), None)
