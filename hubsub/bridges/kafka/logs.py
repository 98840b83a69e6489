"""Which log a partition has: with a topic that is deleted and made anew, it is another one."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from aiokafka.structs import TopicPartition

from ..adapter import Loss


class Lane(NamedTuple):
    """A partition, for as long as its log goes on."""

    topic: str
    partition: int
    era: int
    """How many logs there were before it, as far as this reader knows: it grows when a topic is made anew."""


class Logs:
    """Knows in which log a position was found, by the id that the broker gives a topic when it makes it."""

    def __init__(self) -> None:
        self._eras: dict[TopicPartition, int] = {}
        self._ids: dict[TopicPartition, bytes] = {}

    def lane(self, partition: TopicPartition) -> Lane:
        """What is ordered and acknowledged in itself."""
        return Lane(partition.topic, partition.partition, self._eras.get(partition, 0))

    def recreated(self, partition: TopicPartition) -> Loss:
        """Say that it has another log."""
        self._eras[partition] = self._eras.get(partition, 0) + 1
        return Loss("recreated", None, self.lane(partition))

    def note(self, partitions: Iterable[TopicPartition], ids: Mapping[str, bytes]) -> None:
        """Positions are in the logs of topics with these ids."""
        self._ids |= {partition: ids[partition.topic] for partition in partitions if partition.topic in ids}

    def is_another(self, partition: TopicPartition, ids: Mapping[str, bytes]) -> bool:
        """True if it has another log by now than the one in which a position was found."""
        known, current = self._ids.get(partition), ids.get(partition.topic)
        return known is not None and current is not None and known != current

    def forget_all_but(self, partitions: Container[TopicPartition]) -> None:
        """What others read meanwhile, they know better."""
        self._ids = {partition: id for partition, id in self._ids.items() if partition in partitions}
