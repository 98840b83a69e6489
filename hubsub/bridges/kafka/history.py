"""Reading stored messages of topics, from the end backwards."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from . import tolerant
from .client import CONNECT, Client
from .line import Line
from .options import Options
from .reader import UNREADABLE
from .stopping import stop_consumer


async def read_back(
    options: Options, topics: Sequence[str], limit: int, before: str | float | None, after: str | float | None
) -> list[tuple[TopicPartition, list[Any]]]:
    """Return the last `limit` records of each partition, in order; see `Adapter.history`.

    It uses a consumer of its own, so that cancelling the call affects nothing else.
    """
    async with reading(options) as consumer:
        return await _read_back(consumer, topics, limit, before, after)


@asynccontextmanager
async def reading(options: Options) -> AsyncIterator[Any]:
    """A consumer for one call, which gives up when the broker is silent."""
    consumer = AIOKafkaConsumer(**options.consumer)
    line = Line(options.fetch_wait)
    client = Client.adopt(consumer._client, line, options.tls)
    try:
        async with line.patience(silence=CONNECT):
            await consumer.start()
            yield consumer
    finally:
        await stop_consumer(consumer, client)


async def _read_back(
    consumer: Any, topics: Sequence[str], limit: int, before: str | float | None, after: str | float | None
) -> list[tuple[TopicPartition, list[Any]]]:
    partitions = await _partitions(consumer, topics, before, after)
    first = dict(await consumer.beginning_offsets(partitions))
    last = dict(await consumer.end_offsets(partitions))
    if isinstance(before, str):
        last = {each: min(last[each], _offset(before)) for each in partitions}
    elif before is not None:
        last |= await _at(consumer, partitions, math.ceil(_milliseconds(before)))
    if isinstance(after, str):
        first = {each: max(first[each], _offset(after) + 1) for each in partitions}
    elif after is not None:
        first = last | await _at(consumer, partitions, math.floor(_milliseconds(after)) + 1)
    consumer.assign(partitions)
    return [(each, await _last(consumer, each, limit, first[each], last[each])) for each in partitions]


async def _partitions(
    consumer: Any, topics: Sequence[str], before: str | float | None, after: str | float | None
) -> list[TopicPartition]:
    for position in (before, after):
        if isinstance(position, str):
            topic, partition, _ = position.rsplit(":", 2)
            if topic not in topics:
                raise ValueError(f"{position!r} is no position in {', '.join(topics)}")
            await know(consumer, [topic])
            return [TopicPartition(topic, int(partition))]
    await know(consumer, topics)
    known = consumer.partitions_for_topic
    return [TopicPartition(topic, each) for topic in topics for each in sorted(known(topic) or ())]


async def know(consumer: Any, topics: Sequence[str]) -> None:
    """Load the partitions of these topics into a consumer, as far as they exist."""
    for error in (await consumer._client.learn(topics)).values():
        # A missing topic has nothing to read.
        if not isinstance(error, LookupError):
            raise error


def _offset(position: str) -> int:
    return int(position.rpartition(":")[2])


def _milliseconds(moment: float) -> float:
    # The time of a record is a whole number of milliseconds, which the float may just miss.
    return round(max(0.0, moment) * 1000, 3)


async def _at(consumer: Any, partitions: Sequence[TopicPartition], moment: int) -> dict[TopicPartition, int]:
    """Return the offset of the first record of that time or later in each partition that has one."""
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, moment))
    return {partition: each.offset for partition, each in found.items() if each is not None}


async def _last(consumer: Any, partition: TopicPartition, limit: int, first: int, last: int) -> list[Any]:
    """Return the last records of a partition between two offsets."""
    # Compaction leaves holes: then it takes another, longer step back.
    step = limit
    while True:
        start = max(first, last - step)
        records = await between(consumer, partition, start, last)
        if len(records) >= limit or start == first:
            return records[-limit:]
        step *= 4


async def between(consumer: Any, partition: TopicPartition, start: int, end: int, most: int | None = None) -> list[Any]:
    """Return the records of a partition between two offsets; the first `most` of them."""
    records: list[Any] = []
    if start < end:
        consumer.seek(partition, start)
        # The position also passes offsets without records: compacted ones, and markers of transactions.
        while (position := await consumer.position(partition)) < end and (most is None or len(records) < most):
            try:
                records += (await consumer.getmany(partition, timeout_ms=1000)).get(partition, ())
            except Exception as error:
                if isinstance(error, (KafkaError, OSError)) and not isinstance(error, UNREADABLE):
                    raise
                isolation = int(consumer._isolation_level == "read_committed")
                found, after = await tolerant.fetch(consumer._client, partition, position, isolation)
                records += found
                consumer.seek(partition, after)
    return [record for record in records if record.offset < end][:most]
