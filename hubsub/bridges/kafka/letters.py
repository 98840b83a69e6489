"""Dead letters in topics, which are append-only: which ones exist, and the marks that record what became of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition

from ...errors import NoSuchLetter
from .history import between, know, reading
from .options import Options

MARK = "hubsub-letter"
"""The header of a record with its `Mark`."""
NOBODY = "nobody"
"""A `Link.reader` that no bridge has."""
CHUNK = 200
"""Records read at a time."""


class Mark(NamedTuple):
    """The part of a record in dead letters: it is one, it was one and is sent back, or it says that one is gone."""

    given_up_by: str | None = None
    """For a letter: the `Link.reader` that has given it up."""
    attempts: int = 0
    """How often listeners were called with it."""
    sent_back_to: str | None = None
    """For a letter that is sent back: the `Link.reader` that it is for."""
    gone: int | None = None
    """For a note: the offset of the letter, in the same partition, that was sent back."""
    namespace: str = ""
    """The namespace of the reader, since several may share a topic."""

    @property
    def text(self) -> str:
        """Return the value of the header."""
        return json.dumps(self._asdict())

    @classmethod
    def read(cls, text: str | bytes) -> Mark:
        """Return the mark in a value of the header; an empty one if it is foreign."""
        try:
            mark = cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError):
            return cls()
        texts = (mark.given_up_by or "", mark.sent_back_to or "", mark.namespace)
        numbers = (mark.attempts, mark.gone or 0)
        is_ours = all(isinstance(each, str) for each in texts) and all(isinstance(each, int) for each in numbers)
        return mark if is_ours else cls()


def mark_of(record: Any) -> Mark:
    """Return the mark of a record; an empty one if it has none."""
    return next((Mark.read(value) for name, value in reversed(record.headers) if name == MARK and value), Mark())


def place_of(position: str, topics: Sequence[str]) -> tuple[TopicPartition, int]:
    """Return the partition and the offset of a position in one of these topics.

    Raises:
        NoSuchLetter: No letter can have that position.
    """
    topic, _, rest = position.rpartition(":")[0].rpartition(":")
    offset = position.rpartition(":")[2]
    if topic not in topics or not all(each.isdecimal() and len(each) < 19 for each in (rest, offset)):
        raise NoSuchLetter(position)
    return TopicPartition(topic, int(rest)), int(offset)


async def list_letters(
    options: Options, topics: Sequence[str], limit: int, before: tuple[TopicPartition, int] | None
) -> list[tuple[TopicPartition, Any]]:
    """Return the last `limit` dead letters of these topics, in the order of their times.

    Args:
        options: Of the consumer.
        topics: The topics of dead letters; one that does not exist has none, and is not created.
        limit: The most letters.
        before: Return only letters before this position, even if its letter is gone.
    """
    async with reading(options) as consumer:
        first, last = await _ends(consumer, topics)
        bound: tuple[Any, ...] | None = None
        if before is not None:
            partition, offset = before
            if partition not in first or not first[partition] <= offset < last[partition]:
                # It has expired; so has everything before it.
                return []
            (record, *_) = await between(consumer, partition, offset, last[partition], most=1)
            bound = _order(partition, record)
        found: list[tuple[TopicPartition, Any]] = []
        for partition in first:
            records = await _last(consumer, partition, limit, first[partition], last[partition], bound)
            found += ((partition, record) for record in records)
    return sorted(found, key=lambda each: _order(*each))[-limit:]


async def find_letter(options: Options, partition: TopicPartition, offset: int) -> Any:
    """Return the dead letter at a position; None if there is none, or no longer."""
    async with reading(options) as consumer:
        first, last = await _ends(consumer, [partition.topic])
        if partition not in first or not first[partition] <= offset < last[partition]:
            return None
        letter: Any = None
        for start in range(offset, last[partition], CHUNK):
            for record in await between(consumer, partition, start, min(start + CHUNK, last[partition])):
                gone = mark_of(record).gone
                if gone == offset:
                    return None
                if record.offset == offset and gone is None:
                    letter = record
        return letter


async def _ends(consumer: Any, topics: Sequence[str]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Assign all partitions of these topics, and return the first and the next offset of each."""
    there = [topic for topic in topics if await consumer._client.exists(topic)]
    await know(consumer, there)
    known = consumer.partitions_for_topic
    partitions = [TopicPartition(topic, each) for topic in there for each in sorted(known(topic) or ())]
    if not partitions:
        return {}, {}
    first = dict(await consumer.beginning_offsets(partitions))
    last = dict(await consumer.end_offsets(partitions))
    consumer.assign(partitions)
    return first, last


async def _last(
    consumer: Any, partition: TopicPartition, limit: int, first: int, end: int, bound: tuple[Any, ...] | None
) -> list[Any]:
    """Return the last letters of a partition that were not sent back; a later record notes each that was."""
    gone: set[int] = set()
    found: list[Any] = []
    while first < end and len(found) < limit:
        start = max(first, end - CHUNK)
        for record in reversed(await between(consumer, partition, start, end)):
            mark = mark_of(record)
            if mark.gone is not None:
                gone.add(mark.gone)
            elif record.offset not in gone and (bound is None or _order(partition, record) < bound):
                found.append(record)
        end = start
    return found[:limit]


def _order(partition: TopicPartition, record: Any) -> tuple[Any, ...]:
    return record.timestamp, partition.topic, partition.partition, record.offset
