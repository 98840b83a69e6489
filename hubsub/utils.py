"""A publisher that waits for slow consumers: aiopubsub's `ThrottledPublisher`, for programs written for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ._core.checks import count
from .hub import Hub
from .key import Key, KeyLike
from .publisher import Publisher


class ThrottledPublisher:
    """Publishes at once, then waits until the queues of what it published are short enough.

    It polls. `Publisher.publish_wait` waits first, without polling, and then delivers to everyone in one step: use that
    in new programs.

    Args:
        hub: Where the queues are.
        publisher: The publisher to publish with.
        max_qsize: Messages that may be pending in each queue.
        delay_sequence_factory: Called for each publish; returns the seconds of the pauses, of which the last one is
            repeated.
    """

    # Keys whose queues are waited for; beyond it the key that has been silent longest is left out.
    REMEMBERED = 1000

    def __init__(
        self,
        hub: Hub,
        publisher: Publisher[Any],
        max_qsize: int,
        delay_sequence_factory: Callable[[], Iterable[float]],
    ) -> None:
        self._hub = hub
        self._publisher = publisher
        self._max_qsize = count(max_qsize, "max_qsize", least=0)
        self._delays = delay_sequence_factory
        self._published: dict[Key[Any], None] = {}

    async def publish(self, key: KeyLike[Any], message: Any) -> None:
        """Publish, then wait until no queue that got the message holds more than `max_qsize` messages."""
        self._publisher.publish(key, message)
        full = self._publisher.prefix + key
        self._published.pop(full, None)
        self._published[full] = None
        if len(self._published) > self.REMEMBERED:
            del self._published[next(iter(self._published))]
        delays, delay = iter(self._delays()), 0.0
        for each in list(self._published):
            while max(self._hub.get_subscriber_queue_sizes(each), default=0) > self._max_qsize:
                delay = next(delays, delay)
                await asyncio.sleep(delay)
