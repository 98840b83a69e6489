"""How large what is sent may be: what passes a slow line in a moment, and what a topic takes."""

from __future__ import annotations

import asyncio
from time import monotonic

from aiokafka.structs import TopicPartition

# Seconds that a batch should take at most over a slow line, and bytes that it may have over any.
BATCH_SECONDS, LEAST_BATCH = 1.0, 16_384
# Bytes of the first one: nobody knows the line yet.
FIRST_BATCH = 65_536
# Bytes of a batch that are no record.
BATCH_OVERHEAD = 61
# Seconds for which it is remembered what size was too large.
TOO_LARGE_FOR = 30.0
# Topics, and partitions, of which something is remembered.
MOST_REMEMBERED = 1_000


class Sizes:
    """Learns from each batch how large the next one may be.

    Args:
        most_batch: Bytes that a batch may have at best.
        most_record: Bytes that a record may have at best.
    """

    def __init__(self, most_batch: int, most_record: int) -> None:
        self._most_batch = most_batch
        self._most_record = most_record
        self._of_line = min(FIRST_BATCH, most_batch)
        self._refused: dict[str, tuple[int, float]] = {}
        self._answered_at: dict[TopicPartition, float] = {}

    def batch(self, topic: str) -> int:
        """Bytes that the next batch for a topic may have."""
        refused = self.too_large(topic)
        return self._of_line if refused is None else min(self._of_line, refused)

    def record(self, topic: str) -> int:
        """Bytes that a record may have, with what a batch adds to it."""
        refused = self.too_large(topic)
        return self._most_record if refused is None else min(self._most_record, refused - BATCH_OVERHEAD - 1)

    def too_large(self, topic: str) -> int | None:
        """Bytes of the smallest batch that the topic refused for its size, lately."""
        size, until = self._refused.get(topic, (None, 0.0))
        return size if until > monotonic() else None

    def refused(self, topic: str, size: int) -> None:
        """The topic refused a batch of so many bytes for its size."""
        known = self.too_large(topic)
        if len(self._refused) >= MOST_REMEMBERED:
            self._refused.clear()
        self._refused[topic] = (min(size, known or size), monotonic() + TOO_LARGE_FOR)

    def stored(self, partition: TopicPartition, size: int, began: float, round_trip: float) -> None:
        """Have batches grow or shrink as the time tells that this one took, beyond that of the way.

        Args:
            partition: Where it went, one after the other.
            size: Bytes.
            began: When it was handed over, by the clock of the loop.
            round_trip: Seconds.
        """
        now = asyncio.get_running_loop().time()
        before = self._answered_at.get(partition, 0.0)
        if len(self._answered_at) > MOST_REMEMBERED:
            self._answered_at.clear()
        self._answered_at[partition] = now
        took = now - max(began, before) - round_trip
        if took > BATCH_SECONDS / 2:
            self._of_line = max(LEAST_BATCH, min(self._of_line, int(size / took * BATCH_SECONDS)))
        elif took < BATCH_SECONDS / 4 and self._of_line < self._most_batch:
            self._of_line = min(self._most_batch, self._of_line * 2)
