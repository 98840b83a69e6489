"""Streams that are read, and how many entries to request of each if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from ..adapter import Loss
from .position import Position
from .resp import encode


@dataclass(slots=True, eq=False)
class Source:
    """A stream that is read; it outlives connections."""

    stream: str
    raw: bytes
    position: Position | None = None
    """The position of reading, without a group."""
    returned: Position | None = None
    """The position up to which messages were received."""
    known: Position | None = None
    """The position up to which messages were certainly used, since the next ones were requested."""
    is_joined: bool = False
    """True if our group existed when it was last read."""
    mine: bytes | None = None
    """The id from which to read our own pending messages; None if all were read."""
    returns: bytes | None = None
    """The id from which to look for messages handed back; None if there are none."""
    others: bytes | None = None
    """The id from which to look for messages that others left behind; None if not now."""
    lost: list[Loss] = field(default_factory=list)
    lag: int | None = None
    """Entries that have not been read yet."""
    is_broken: bool = False
    """True if the key at the server does not hold a stream. Reported once; checked at each read."""
    weight: int = 0
    """How many of the entries requested last it returned."""

    def beside(self, *names: str) -> bytes:
        """Return the name of a key at the server that belongs to the stream."""
        return encode(":".join((self.stream, *names)))

    def broken(self, is_broken: bool) -> list[Loss]:
        """Note whether the key holds no stream; return the loss to report, if that is new."""
        is_news = is_broken and not self.is_broken
        self.is_broken = is_broken
        return [Loss("no longer a stream: WRONGTYPE", None, self.stream)] if is_news else []

    def brought(self, count: int, asked: int) -> None:
        """Note how many of the requested entries came."""
        self.weight = 2 * count if count == asked else count


class Shares:
    """Divides the room for entries among several streams.

    A stream that returned more gets more, and each gets at least one entry; without room for that, they take turns.
    """

    def __init__(self) -> None:
        self._turn = 0

    def of(self, sources: Sequence[Source], most: int) -> list[tuple[Source, int]]:
        """Return streams, each with a number of entries to request; together at most `most`, which is at least one."""
        if len(sources) == 1:
            return [(sources[0], most)]
        if most < len(sources):
            self._turn += most
            return [(sources[(self._turn + index) % len(sources)], 1) for index in range(most)]
        spare = most - len(sources)
        weights = sum(source.weight for source in sources)
        if not weights:
            return [(source, 1 + spare // len(sources)) for source in sources]
        return [(source, 1 + spare * source.weight // weights) for source in sources]


def new_epoch() -> str:
    """Return a new random epoch."""
    return uuid4().hex


def ids_by_stream(tokens: Sequence[Any]) -> dict[bytes, list[bytes]]:
    """Return the ids in a group's tokens, by the stream that they belong to."""
    ids: dict[bytes, list[bytes]] = {}
    for source, id in tokens:
        ids.setdefault(source.raw, []).append(id)
    return ids
