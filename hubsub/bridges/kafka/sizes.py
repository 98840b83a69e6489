"""How large batches and records may be: what a slow line carries in a moment, and what a topic accepts."""

from __future__ import annotations

import asyncio
from time import monotonic

from aiokafka.structs import TopicPartition

# The most seconds that a batch should take over a slow line, and the most bytes that it has over any line.
BATCH_SECONDS, LEAST_BATCH = 1.0, 16_384
# Bytes of the first batch, when the line is still unknown.
FIRST_BATCH = 65_536
# Bytes of a batch without its records.
BATCH_OVERHEAD = 61
# Seconds for which a size that was too large is remembered.
TOO_LARGE_FOR = 30.0
# The most topics and partitions of which something is remembered.
MOST_REMEMBERED = 1_000


class Sizes:
    """Learns from each batch how large the next one may be.

    Args:
        most_batch: The most bytes of a batch.
        most_record: The most bytes of a record.
    """

    def __init__(self, most_batch: int, most_record: int) -> None:
        self._most_batch = most_batch
        self._most_record = most_record
        self._of_line = min(FIRST_BATCH, most_batch)
        self._refused: dict[str, tuple[int, float]] = {}
        self._answered_at: dict[TopicPartition, float] = {}

    def batch(self, topic: str) -> int:
        """Return how many bytes the next batch for a topic may have."""
        refused = self.too_large(topic)
        return self._of_line if refused is None else min(self._of_line, refused)

    def record(self, topic: str) -> int:
        """Return how many bytes a record may have, including what a batch adds to it."""
        refused = self.too_large(topic)
        return self._most_record if refused is None else min(self._most_record, refused - BATCH_OVERHEAD - 1)

    def too_large(self, topic: str) -> int | None:
        """Return the size of the smallest batch that the topic has refused lately."""
        size, until = self._refused.get(topic, (None, 0.0))
        return size if until > monotonic() else None

    def refused(self, topic: str, size: int) -> None:
        """Note that the topic has refused a batch of that size."""
        known = self.too_large(topic)
        if len(self._refused) >= MOST_REMEMBERED:
            self._refused.clear()
        self._refused[topic] = (min(size, known or size), monotonic() + TOO_LARGE_FOR)

    def stored(self, partition: TopicPartition, size: int, began: float, round_trip: float) -> None:
        """Let batches grow or shrink by the time that this one took, without the round trip.

        Args:
            partition: The partition, which gets one batch after the other.
            size: Its bytes.
            began: When it was given to the driver, by the clock of the loop.
            round_trip: Seconds of a round trip.
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
