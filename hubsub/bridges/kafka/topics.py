"""Which of the topics that are read can be read just now: one that cannot is no trouble of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from ...log import Episode
from . import tolerant
from .metadata import denied_topic

# Seconds after which a topic that is not for us is asked for again; looks at one that is missing, before that is said.
DENIED_FOR, GONE = 10.0, 4


class Topics:
    """Leaves out what is not for us, and says which topic is gone.

    Args:
        topics: What is read.
        trouble: Where it is said.
    """

    def __init__(self, topics: Sequence[str], trouble: Episode) -> None:
        self._topics = topics
        self._trouble = trouble
        self._denied: dict[str, float] = {}
        self._gone: dict[str, int] = {}

    def deny(self, consumer: Any, topic: str) -> None:
        """Go on without a topic that is not for us, for a while.

        Raises:
            PermissionError: There is no other one.
        """
        self._denied[topic] = monotonic() + DENIED_FOR
        topics = {partition.topic for partition in consumer.assignment()}
        if topics <= self._denied.keys():
            raise denied_topic(topic, "Read")
        self._trouble.error("%s: it is left out", denied_topic(topic, "Read"))
        consumer.pause(*(partition for partition in consumer.assignment() if partition.topic == topic))

    async def ask_for_denied(self, consumer: Any, positions: Mapping[TopicPartition, int]) -> None:
        """See whether what was not for us is by now.

        Raises:
            PermissionError: There is nothing else, and it is not.
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
        """Say when a topic is gone; try again what was not for us."""
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
