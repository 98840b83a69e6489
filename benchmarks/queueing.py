"""Messages in bulk: a thousand are published, then all of them are handled, and so on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import thread_time
from types import ModuleType
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare
from .peers import same_api

KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen", "celsius")


def _side(task: Callable[..., Any], library: ModuleType, messages: int, prefixed: bool = False) -> Side:
    return lambda: asyncio.run(task(library, messages, prefixed)) / messages


@compare(at_least=20)
def bulk_through_async_listener() -> tuple[Side, Side]:
    """`Hub.publish` of 1000 messages until one async listener has handled them, against aiopubsub's `Hub.publish` and
    async listener."""
    return _side(same_api.bulk, hubsub, 30_000), _side(same_api.bulk, aiopubsub, 3_000)


@compare(at_least=20)
def bulk_through_async_listener_with_prefix() -> tuple[Side, Side]:
    """`Publisher.publish` of 1000 messages until one async listener has handled them, against aiopubsub's
    `Publisher.publish` and async listener."""
    return _side(same_api.bulk, hubsub, 30_000, True), _side(same_api.bulk, aiopubsub, 3_000, True)


@compare(at_least=2.5)
def bulk_through_queue() -> tuple[Side, Side]:
    """`Hub.publish` of 1000 messages, then `Subscriber.consume` of each, against aiopubsub's `Hub.publish` and
    `Subscriber.consume`."""
    return _side(same_api.queue, hubsub, 30_000), _side(same_api.queue, aiopubsub, 30_000)


@compare(at_least=2.5)
def bulk_through_queue_with_prefix() -> tuple[Side, Side]:
    """`Publisher.publish` of 1000 messages, then `Subscriber.consume` of each, against aiopubsub's `Publisher.publish`
    and `Subscriber.consume`."""
    return _side(same_api.queue, hubsub, 30_000, True), _side(same_api.queue, aiopubsub, 10_000, True)


QUEUES, KEPT = 1_000, 200


def _into_queues(collects: bool) -> Side:
    """Publish to a thousand queues that nobody reads: seconds a message in each queue."""

    def seconds() -> float:
        hub = hubsub.Hub()
        queues = [hub.subscribe(KEY) for _ in range(QUEUES)]
        hub.publish(KEY, 0)
        if not collects:
            gc.disable()
        try:
            began = thread_time()
            for message in range(KEPT):
                hub.publish(KEY, message)
            took = thread_time() - began
        finally:
            gc.enable()
        assert queues[0].pending == KEPT + 1
        return took / KEPT / QUEUES

    return seconds


@compare(at_most=1.2)
def publish_to_1k_queues_with_the_collector_on() -> tuple[Side, Side]:
    """`Hub.publish` of 200 messages to 1 000 queues, kept there, with the garbage collector on, against the same with
    it off: whatever is made for each queue is work for the collector."""
    return _into_queues(True), _into_queues(False)
