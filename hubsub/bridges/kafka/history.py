"""What stands in topics of Kafka already, read from the end back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from .options import Options
from .writer import stopped


async def read_back(
    options: Options, topics: Sequence[str], limit: int, before: str | float | None, after: str | float | None
) -> list[Any]:
    """Return the last `limit` records of each partition, in order; see `Adapter.history`."""
    consumer = AIOKafkaConsumer(**options.consumer)
    try:
        await consumer.start()
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
        records = []
        for partition in partitions:
            records += await _last(consumer, partition, limit, first[partition], last[partition])
        return records
    finally:
        await stopped(consumer.stop(), consumer._client)


async def _partitions(
    consumer: Any, topics: Sequence[str], before: str | float | None, after: str | float | None
) -> list[TopicPartition]:
    for position in (before, after):
        if isinstance(position, str):
            topic, partition, _ = position.rsplit(":", 2)
            return [TopicPartition(topic, int(partition))]
    cluster = await consumer._client.fetch_all_metadata()
    return [
        TopicPartition(topic, each) for topic in topics for each in sorted(cluster.partitions_for_topic(topic) or ())
    ]


def _offset(position: str) -> int:
    return int(position.rpartition(":")[2])


def _milliseconds(moment: float) -> float:
    # A time of a record is a whole number of them, which the float does not quite reach.
    return round(max(0.0, moment) * 1000, 3)


async def _at(consumer: Any, partitions: Sequence[TopicPartition], moment: int) -> dict[TopicPartition, int]:
    """Where the first record of that moment or a later one stands, where there is one."""
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, moment))
    return {partition: each.offset for partition, each in found.items() if each is not None}


async def _last(consumer: Any, partition: TopicPartition, limit: int, first: int, last: int) -> list[Any]:
    """The last records of a partition between two offsets."""
    # What was compacted away leaves holes: then it takes another, longer step back.
    step = limit
    while True:
        start = max(first, last - step)
        records = await _between(consumer, partition, start, last)
        if len(records) >= limit or start == first:
            return records[-limit:]
        step *= 4


async def _between(consumer: Any, partition: TopicPartition, start: int, end: int) -> list[Any]:
    records: list[Any] = []
    if start < end:
        consumer.seek(partition, start)
        # The position also passes what is no record: what was compacted away, the marks of transactions.
        while await consumer.position(partition) < end:
            batches = await consumer.getmany(partition, timeout_ms=1000)
            records += batches.get(partition, ())
    return [record for record in records if record.offset < end]
