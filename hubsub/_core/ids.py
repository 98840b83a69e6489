"""Ids of messages: each is unique, and nobody can guess one."""

from __future__ import annotations

import os
from itertools import count
from typing import ClassVar
from weakref import WeakSet

COUNTED = 5
"""Bytes of an id that are a counter."""
RANDOM = 8
"""Bytes of an id that are random."""
WIDTH = COUNTED + RANDOM
DIGITS = "0123456789abcdef"

# A batch has as many ids as the last byte of the counter has values.
LAST = bytes(range(256))


class Ids:
    """Mints ids: 26 hexadecimal digits, of which 10 count up and 16 are random.

    No id is minted twice, not even after a fork. Knowing all earlier ids does not help to guess the next one.
    """

    __slots__ = ("__weakref__", "_made", "_numbers")

    _all: ClassVar[WeakSet[Ids]] = WeakSet()

    def __init__(self) -> None:
        self._numbers = count()
        self._made: list[str] = []
        Ids._all.add(self)

    def mint(self) -> str:
        """Return a new id."""
        try:
            return self._made.pop()
        except IndexError:
            self._made = _batch(next(self._numbers))
            return self._made.pop()

    @classmethod
    def forget(cls) -> None:
        """Discard the ids that were made in advance."""
        for ids in list(cls._all):
            ids._made = []


# The parent process has the same random bits, and will use them itself.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Ids.forget)


def _batch(number: int) -> list[str]:
    """Return the ids of a batch, the last one first.

    They are made column by column, and become text only at the end: one by one, an id would cost three times as much.
    """
    size = len(LAST)
    columns = bytearray(WIDTH * size)
    head = (number % 256 ** (COUNTED - 1)).to_bytes(COUNTED - 1, "big")
    for column, byte in enumerate(head):
        if byte:
            columns[column::WIDTH] = bytes((byte,)) * size
    columns[COUNTED - 1 :: WIDTH] = LAST[::-1]
    random = os.urandom(RANDOM * size)
    for column in range(RANDOM):
        columns[COUNTED + column :: WIDTH] = random[column * size : (column + 1) * size]
    return columns.hex("-", WIDTH).split("-")


def is_unguessable(id: str) -> bool:
    """True if it has the form of the ids that `Ids` mints, which nobody can guess."""
    # For each message that is received: a regular expression, or stripping its digits, would take twice as long.
    try:
        return len(id) == 2 * WIDTH and bytes.fromhex(id).hex() == id
    except ValueError:
        return False
