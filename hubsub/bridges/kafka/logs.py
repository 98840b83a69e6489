"""The log of a partition, which is another one after its topic was deleted and created again."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from aiokafka.structs import TopicPartition

from ..adapter import Loss


class Lane(NamedTuple):
    """A partition, as long as it keeps its log."""

    topic: str
    partition: int
    era: int
    """How many logs it had before, as far as this reader knows; it grows when the topic is created again."""


class _Lanes(dict[TopicPartition, Lane]):
    def __missing__(self, partition: TopicPartition) -> Lane:
        lane = self[partition] = Lane(partition.topic, partition.partition, 0)
        return lane


class Logs:
    """Knows the log that each position belongs to, by the id that the broker gives a topic when it creates it."""

    def __init__(self) -> None:
        self.lanes: dict[TopicPartition, Lane] = _Lanes()
        """The lane of each partition: what is ordered, and acknowledged, by itself."""
        self._ids: dict[TopicPartition, bytes] = {}

    def recreated(self, partition: TopicPartition) -> Loss:
        """Return the loss by which a partition got another log."""
        lane = self.lanes[partition]
        self.lanes[partition] = lane = lane._replace(era=lane.era + 1)
        return Loss("recreated", None, lane)

    def note(self, partitions: Iterable[TopicPartition], ids: Mapping[str, bytes]) -> None:
        """Note that positions are in the logs of topics with these ids."""
        self._ids |= {partition: ids[partition.topic] for partition in partitions if partition.topic in ids}

    def is_another(self, partition: TopicPartition, ids: Mapping[str, bytes]) -> bool:
        """True if a partition has another log now than the one of its position."""
        known, current = self._ids.get(partition), ids.get(partition.topic)
        return known is not None and current is not None and known != current

    def forget_all_but(self, partitions: Container[TopicPartition]) -> None:
        """Forget partitions that other members read."""
        self._ids = {partition: id for partition, id in self._ids.items() if partition in partitions}
