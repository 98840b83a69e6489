"""The headers of an entry: packed and read, those that all messages of a sender have in common only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from ..address import LONGEST, cached
from .resp import arguments, decode, encode

CONSTANT = 4
"""How many headers are remembered: the first ones, which are the same in message after message."""
MOST_SENDERS = 1000
"""Senders whose constant headers are remembered."""


class _Names(dict[str, str]):
    """The bytes between one value and the length of the next: the end of the line, and the name of a header."""

    def __missing__(self, name: str) -> str:
        between = f"\r\n${len(encode(name))}\r\n{name}\r\n$"
        if len(self) < 4096 and len(name) < 100:
            self[name] = between
        return between


_names = _Names()
_name_of = cached(decode)


class Headers:
    """Packs and reads the headers of entries."""

    __slots__ = ("_constant_names", "_constant_values", "_known", "_packed")

    def __init__(self) -> None:
        self._constant_names: list[str] = []
        self._constant_values: list[str] = []
        self._packed = ""  # these, as they are sent
        # By the value of the second header, which names the sender: the constant fields, and the headers they are.
        self._known: dict[bytes, tuple[list[bytes], dict[str, str]]] = {}

    def pack(self, headers: Mapping[str, str]) -> bytes:
        """Return the rest of an entry behind its payload: the end of the line, and the headers as arguments.

        Raises:
            TypeError: A header is not a string.
        """
        names, values = [*headers], [*headers.values()]
        # The values are mostly the same objects as before, which takes no comparing.
        if values[:CONSTANT] == self._constant_values and names[:CONSTANT] == self._constant_names:
            text = self._packed
        else:
            constant = dict(zip(names[:CONSTANT], values[:CONSTANT], strict=True))
            text = _text_of("", list(constant), constant)
            if len(text) <= LONGEST:
                self._constant_names, self._constant_values, self._packed = [*constant], [*constant.values()], text
        text = _text_of(text, names[CONSTANT:], headers)
        # The lengths are in characters, and must be in bytes.
        if text.isascii():
            return f"{text}\r\n".encode()
        return b"\r\n" + arguments(*chain.from_iterable(headers.items()))

    def read(self, fields: list[bytes]) -> dict[str, str]:
        """Return the headers of an entry, whose fields are names and values in turn."""
        if len(fields) < 2 * CONSTANT:
            return _decoded(fields)
        constant = fields[: 2 * CONSTANT]
        known = self._known.get(constant[3])
        if known is None or known[0] != constant:
            known = constant, _decoded(constant)
            if sum(map(len, constant)) <= LONGEST:
                if len(self._known) >= MOST_SENDERS:
                    self._known.clear()
                self._known[constant[3]] = known
        headers = known[1].copy()
        for at in range(2 * CONSTANT, len(fields), 2):
            try:
                headers[_name_of(fields[at])] = fields[at + 1].decode()
            except UnicodeDecodeError:
                headers[_name_of(fields[at])] = decode(fields[at + 1])
        return headers


def _text_of(text: str, names: Sequence[str], headers: Mapping[str, str]) -> str:
    """Return headers of these names as they are sent, behind a text."""
    between = _names
    for name in names:
        value = headers[name]
        text = f"{text}{between[name]}{len(value)}\r\n" + value  # raises an error if it is no text
    return text


def _decoded(fields: Sequence[bytes]) -> dict[str, str]:
    return dict(zip(map(_name_of, fields[::2]), map(decode, fields[1::2]), strict=True))
