"""A stream that is read, and how much of each to ask for where there are several."""

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
    """A stream that is read. Outlives connections."""

    stream: str
    raw: bytes
    position: Position | None = None
    """Where reading is, without a group."""
    returned: Position | None = None
    """What was received reaches up to here."""
    known: Position | None = None
    """What was received up to here was certainly used: the next was asked for."""
    is_joined: bool = False
    """Our group was there."""
    mine: bytes | None = None
    """From where what is pending of us is still to be read; None if all of it was."""
    returns: bytes | None = None
    """From where to look for what others handed back; None if there is nothing."""
    others: bytes | None = None
    """From where to look for what others left behind; None if not now."""
    lost: list[Loss] = field(default_factory=list)
    lag: int | None = None
    """Entries that are still to be read."""
    is_broken: bool = False
    """The key of the server holds no stream. Told once; looked at again and again."""
    weight: int = 0
    """How much it brought of what was asked for last."""

    def beside(self, *names: str) -> bytes:
        """A key of the server that belongs to the stream."""
        return encode(":".join((self.stream, *names)))

    def broken(self, is_broken: bool) -> list[Loss]:
        """It holds no stream, or does again; what is to be told of that."""
        is_news = is_broken and not self.is_broken
        self.is_broken = is_broken
        return [Loss("no stream any more: WRONGTYPE", None, self.stream)] if is_news else []

    def brought(self, count: int, asked: int) -> None:
        """So many entries of those which were asked for."""
        self.weight = 2 * count if count == asked else count


class Shares:
    """How many entries to ask of each of several streams, so that all in all they are no more than there is room for.

    What brought much gets much, and each gets one at least; where there is not even room for that, they take turns.
    """

    def __init__(self) -> None:
        self._turn = 0

    def of(self, sources: Sequence[Source], most: int) -> list[tuple[Source, int]]:
        """Some of the streams, each with a number of entries; together `most`, which is at least one."""
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
    """A random string."""
    return uuid4().hex


def ids_by_stream(tokens: Sequence[Any]) -> dict[bytes, list[bytes]]:
    """The ids of tokens of a group, by the streams to which they belong."""
    ids: dict[bytes, list[bytes]] = {}
    for source, id in tokens:
        ids.setdefault(source.raw, []).append(id)
    return ids
