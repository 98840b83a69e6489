"""Which topics can be read at the moment: one that cannot does not affect the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from ...log import Episode
from . import tolerant
from .metadata import denied_topic

# Seconds after which a denied topic is tried again; checks of a missing topic before it is logged.
DENIED_FOR, GONE = 10.0, 4


class Topics:
    """Leaves out denied topics for a while, and logs which ones are gone.

    Args:
        topics: The topics to read.
        trouble: The log.
    """

    def __init__(self, topics: Sequence[str], trouble: Episode) -> None:
        self._topics = topics
        self._trouble = trouble
        self._denied: dict[str, float] = {}
        self._gone: dict[str, int] = {}

    def deny(self, consumer: Any, topic: str) -> None:
        """Continue without a denied topic for a while.

        Raises:
            PermissionError: There is no other topic.
        """
        self._denied[topic] = monotonic() + DENIED_FOR
        topics = {partition.topic for partition in consumer.assignment()}
        if topics <= self._denied.keys():
            raise denied_topic(topic, "Read")
        self._trouble.error("%s: it is left out", denied_topic(topic, "Read"))
        consumer.pause(*(partition for partition in consumer.assignment() if partition.topic == topic))

    async def ask_for_denied(self, consumer: Any, positions: Mapping[TopicPartition, int]) -> None:
        """Try denied topics again.

        Raises:
            PermissionError: They are still denied, and there are no others.
        """
        denied, self._denied = self._denied, {}
        for partition in consumer.assignment() if denied else ():
            if partition.topic in denied and partition.topic not in self._denied:
                try:
                    await tolerant.fetch(consumer._client, partition, positions[partition], size=1)
                except TopicAuthorizationFailedError:
                    self.deny(consumer, partition.topic)
                except KafkaError:
                    pass

    def look(self, consumer: Any) -> None:
        """Log topics that are gone, and try denied ones again."""
        now = monotonic()
        for topic, until in list(self._denied.items()):
            if now > until:
                del self._denied[topic]
                consumer.resume(*(partition for partition in consumer.assignment() if partition.topic == topic))
        for topic in self._topics:
            if consumer.partitions_for_topic(topic):
                self._gone.pop(topic, None)
            else:
                self._gone[topic] = self._gone.get(topic, 0) + 1
                if self._gone[topic] == GONE:
                    self._trouble.error("the topic %r is gone; it is read again once it exists", topic)
        if self._trouble.is_on and not self._gone and not self._denied:
            self._trouble.end()
