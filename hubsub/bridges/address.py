"""Turns keys into a broker's addresses and back without loss; and finds the pattern that a message came by."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..key import PLUS, STAR, Key, escaped, is_subset

A = TypeVar("A")
B = TypeVar("B")


class Addresses:
    """Joins the parts of a key with a separator, and escapes characters that the broker does not allow.

    A character is escaped as `%` and the two hexadecimal digits of each byte of its UTF-8 form. So different keys have
    different addresses, and each address is read as the key that it was made from.

    A part of an address that was not made here is read and written unchanged: whatever comes in under a key can be
    published and subscribed to by that key. Only text that looks exactly like an escape made here, such as `%2F` where
    `/` is the separator, is read as one. So a `%` is escaped only where it would be read as something else.

    Args:
        separator: Between two parts, one character.
        forbidden: Characters that have a special meaning for the broker.
        allowed: If given, only these characters are written unescaped: a set as in a regular expression.
        empty: Written for an empty part, if the broker does not allow one.
        prefix: Put before every address.
        binary: The broker's names are arbitrary bytes, which `to_text` and `to_bytes` convert. Then any name that comes
            in can also be written, `allowed` or not, UTF-8 or not.
        foreign: The names are chosen by other programs. Else addresses that hubsub 0.1.0 wrote are read as they were
            meant: it escaped every `%`, so that `a%25` is the key `a%` too.
    """

    def __init__(
        self,
        separator: str,
        *,
        forbidden: str = "",
        allowed: str | None = None,
        empty: str = "",
        prefix: str = "",
        binary: bool = False,
        foreign: bool = False,
    ) -> None:
        self.separator = separator
        self.prefix = prefix
        self._empty = empty
        meant = re.escape(separator + forbidden)
        self._unsafe = re.compile(f"[^{allowed}]|[%]" if allowed else f"[%{meant}]")
        # Characters that the broker does not allow, and so never sends.
        self._forbidden = re.compile(f"[{meant}]" if binary or not allowed else f"(?!%)[^{allowed}]")
        self._binary = binary
        self._foreign = foreign
        # Halves of surrogate pairs are written unescaped.
        self._halves = not self._unsafe.search("\ud800")
        self.address = cached(self._address)
        """The address of an exact key."""
        self.key = cached(self._key)
        """The key of an address; None if it does not begin with the prefix."""

    def pattern(self, key: Key[Any], one: str = "*", rest: str = ">") -> str:
        """Return what a broker calls a pattern: it matches the addresses of the keys that the pattern matches.

        Args:
            key: A pattern, or an exact key, whose address is returned.
            one: What stands for exactly one part of an address; it must be among the characters that are escaped.
            rest: What stands for one part or more, at the end: `*.#` where `#` alone matches nothing, too.
        """
        *parts, last = (one if part in (STAR, PLUS) else self.escape(part) for part in key)
        return self.prefix + self.separator.join([*parts, rest if key[-1] == STAR else last])

    def escape(self, part: str) -> str:
        """Return a part of a key as it is written in an address."""
        if part and part != self._empty and not (self._unsafe.search(part) and self._has_to_be_escaped(part)):
            return part
        return self._escaped(part)

    def to_bytes(self, address: str) -> bytes:
        """Return an address as bytes, for a broker whose names are arbitrary bytes; `to_text` is the inverse."""
        try:
            return address.encode()
        except UnicodeEncodeError:
            return address.encode("utf-8", "surrogateescape" if self._is_of_bytes(address) else "surrogatepass")

    def to_text(self, address: bytes) -> str:
        """Return bytes as an address; bytes that are not UTF-8 become what `surrogateescape` makes of them."""
        if self._halves:
            with suppress(UnicodeDecodeError):
                return address.decode("utf-8", "surrogatepass")
        return address.decode("utf-8", "surrogateescape")

    def _is_of_bytes(self, text: str) -> bool:
        """True if every half of a surrogate pair in it stands for a byte that is not UTF-8."""
        try:
            return self.to_text(text.encode("utf-8", "surrogateescape")) == text
        except UnicodeEncodeError:
            return False

    def _escaped(self, part: str) -> str:
        if not part:
            return self._empty
        escaped = self._unsafe.sub(as_hex, part)
        # A part that looks like the text written for an empty one.
        return escaped if escaped != self._empty else "".join(map(_hex_of, part))

    def _has_to_be_escaped(self, part: str) -> bool:
        """True if it is not allowed in an address, or would be read as something else."""
        if self._is_impossible(part):
            return True
        if "%" not in part or self._escaped(unescaped(part)) != part:
            return False
        if not self._foreign:
            return True
        # It looks like an escaped part. Unescaped, however often, does it become one that had to be escaped?
        least = min(len(match[1]) for match in _ESCAPED_AGAIN.finditer(part))
        part = _ESCAPED_AGAIN.sub(lambda match: "%" + match[1][least:], part)
        once = unescaped(part)
        return self._is_impossible(once) and self._escaped(once) == part

    def _is_impossible(self, part: str) -> bool:
        """True if the broker does not allow it unescaped."""
        if self._forbidden.search(part):
            return True
        return self._binary and not self._halves and not self._is_of_bytes(part)

    def _address(self, key: Key[Any]) -> str:
        return self.prefix + self.separator.join(map(self.escape, key))

    def _key(self, address: str) -> Key[Any] | None:
        if not address.startswith(self.prefix):
            return None
        return Key(*map(self._part, address[len(self.prefix) :].split(self.separator)))

    def _part(self, text: str) -> str:
        if text == self._empty:
            return ""
        if "%" not in text:
            return text
        part = unescaped(text)
        if self._escaped(part) != text or (self._foreign and not self._has_to_be_escaped(part)):
            return text
        return part


_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_ESCAPED_AGAIN = re.compile("%((?:25)*)")


def _hex_of(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def as_hex(match: re.Match[str]) -> str:
    """Return what a regular expression has found as it is written escaped."""
    return _hex_of(match[0])


def unescaped(part: str) -> str:
    """Return text with all escapes undone that are UTF-8."""
    return _ESCAPES.sub(_as_text, part)


def _as_text(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return match[0]


LONGEST = 1024
"""Characters or bytes of the longest argument whose result `cached` keeps."""


def cached(function: Callable[[A], B], most: int = 65536, most_size: int = 4 * 1024 * 1024) -> Callable[[A], B]:
    """Return `function` with a cache of its results; arguments are texts, bytes, or keys.

    Arguments longer than `LONGEST` are not cached. Beyond `most` arguments, or `most_size` characters in all, the cache
    is cleared. So a sender of names of any length and number cannot make it take more memory than that.
    """
    known: dict[A, B] = {}
    size = 0

    def call(argument: A) -> B:
        nonlocal size
        try:
            return known[argument]
        except KeyError:
            result = function(argument)
            length = _length(argument)
            if length <= LONGEST:
                size += length
                if len(known) >= most or size > most_size:
                    known.clear()
                    size = length
                known[argument] = result
            return result

    return call


def _length(argument: Any) -> int:
    return sum(map(len, argument)) if isinstance(argument, tuple) else len(argument)


class Copies:
    """Finds the first copy of a message, where a broker sends one for each pattern that matches.

    Add and remove patterns as the broker confirms them, in the order of its confirmations among the messages: then
    exactly one copy of each message counts, whatever is subscribed to meanwhile.
    """

    def __init__(self) -> None:
        self._exact: set[tuple[str, ...]] = set()
        self._wild: dict[tuple[str, ...], None] = {}
        self._first: Callable[[Key[Any]], tuple[str, ...] | None] = cached(self._first_wild)

    def add(self, pattern: Key[Any]) -> None:
        """Expect copies by this pattern from now on."""
        if pattern.is_wildcard:
            self._wild[pattern] = None
            self._first = cached(self._first_wild)
        else:
            self._exact.add(pattern)

    def remove(self, pattern: Key[Any]) -> None:
        """Expect no more copies by this pattern."""
        self._exact.discard(pattern)
        if self._wild.pop(pattern, pattern) is None:
            self._first = cached(self._first_wild)

    def is_first(self, key: Key[Any], pattern: tuple[str, ...]) -> bool:
        """True if the copy that came by `pattern` is the one that counts."""
        if key in self._exact:
            return pattern == key
        return self._first(key) == pattern

    def _first_wild(self, key: Key[Any]) -> tuple[str, ...] | None:
        # A key that others publish may look like a pattern: it is an exact key all the same.
        exact = escaped(key)
        return next((each for each in self._wild if is_subset(exact, each)), None)
