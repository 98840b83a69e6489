"""Queues that are full, and what is kept for later."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from itertools import repeat
from time import perf_counter
from typing import Any

import hubsub
from hubsub import Overflow

from .harness import Side, compare, measure

KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen", "celsius")


def _publish_to(maxsize: int, overflow: Overflow, number: int = 20_000) -> Side:
    """Publish to a queue that nobody reads, filled up before the timing; one that grows is emptied between rounds."""

    def seconds() -> float:
        hub = hubsub.Hub()
        hub.subscribe(KEY, maxsize=maxsize, overflow=overflow)
        publish = hub.publish
        for message in range(2_000):
            publish(KEY, message)
        began = perf_counter()
        for message in range(number):
            publish(KEY, message)
        return (perf_counter() - began) / number

    return seconds


@compare(at_most=2)
def publish_to_full_queue_drop_oldest() -> tuple[Side, Side]:
    """`Hub.publish` to one full queue that drops its oldest message, against one that is never full."""
    return _publish_to(1_000, Overflow.DROP_OLDEST), _publish_to(10**9, Overflow.GROW)


@compare(at_most=2)
def publish_to_full_queue_latest() -> tuple[Side, Side]:
    """`Hub.publish` to one queue that keeps the latest message of the key, against one that keeps all of them."""
    return _publish_to(1, Overflow.LATEST), _publish_to(10**9, Overflow.GROW)


def _fill(is_fresh: bool, number: int = 1_000) -> Side:
    """Publish so many messages to a queue, one after the other, that has held as many before or has not."""

    def seconds() -> float:
        hub = hubsub.Hub()
        total = 0.0
        for _ in range(20):
            with hub.subscribe(KEY) as queue:
                hub.publish(KEY)  # so that the route is there
                for message in range(0 if is_fresh else number):
                    hub.publish(KEY, message)
                queue.take(number + 1)
                began = perf_counter()
                for message in range(number):
                    hub.publish(KEY, message)
                total += perf_counter() - began
        return total / number / 20

    return seconds


@compare(at_most=1.2)
def fill_of_a_fresh_queue() -> tuple[Side, Side]:
    """`Hub.publish` of 1000 messages to a queue that never held more than one, against one that has held as many."""
    return _fill(True), _fill(False)


def _drain_latest(keys: int) -> Side:
    names: list[hubsub.Key[Any]] = [hubsub.Key("sensor", str(number)) for number in range(keys)]
    lots = 40_000 // keys

    async def seconds() -> float:
        hub = hubsub.Hub()
        subscription = hub.subscribe(("sensor", "*"), maxsize=keys, overflow=Overflow.LATEST)
        total = 0.0
        for _ in range(lots):
            for name in names:
                hub.publish(name)
            began = perf_counter()
            for _ in names:
                await subscription.consume()
            total += perf_counter() - began
        return total / keys / lots

    return lambda: asyncio.run(seconds())


@compare(at_most=1.5)
def drain_latest_40k_keys() -> tuple[Side, Side]:
    """`Subscription.consume` of the latest message of 40 000 keys, against 400 keys; each message of either."""
    return _drain_latest(40_000), _drain_latest(400)


# More than any queue below holds, so that under `LATEST`, too, there is something to drop.
KEYS: list[hubsub.Key[Any]] = [hubsub.Key("sensor", str(number)) for number in range(200)]
PATTERN: hubsub.Key[Any] = hubsub.Key("sensor", "*")


def _with_a_stuck_one(overflow: Overflow, is_there: bool) -> Side:
    """Deliver to 999 subscriptions that are read, and to one that is not."""

    async def seconds() -> float:
        hub = hubsub.Hub(maxsize=100, overflow=overflow)
        read = [hub.subscribe(PATTERN) for _ in range(999)]
        if is_there:
            hub.subscribe(PATTERN)
        total = 0.0
        for first in (0, 50, 100, 150, 0, 50):
            began = perf_counter()
            for key in KEYS[first : first + 50]:
                hub.publish(key)
            for subscription in read:
                await subscription.get_batch(100)
            total += perf_counter() - began
        return total / 6 / 50

    return lambda: asyncio.run(seconds())


@compare(at_most=1.05)
def deliver_to_999_beside_a_stuck_one_drop_oldest() -> tuple[Side, Side]:
    """Publishing to 1 000 bounded queues that drop their oldest message, of which one is never read, and reading the
    others, against the same without the stuck one."""
    return _with_a_stuck_one(Overflow.DROP_OLDEST, True), _with_a_stuck_one(Overflow.DROP_OLDEST, False)


@compare(at_most=1.05)
def deliver_to_999_beside_a_stuck_one_drop_newest() -> tuple[Side, Side]:
    """The same where a full queue drops the newest message."""
    return _with_a_stuck_one(Overflow.DROP_NEWEST, True), _with_a_stuck_one(Overflow.DROP_NEWEST, False)


@compare(at_most=1.05)
def deliver_to_999_beside_a_stuck_one_latest() -> tuple[Side, Side]:
    """The same where a queue keeps the latest message of each key."""
    return _with_a_stuck_one(Overflow.LATEST, True), _with_a_stuck_one(Overflow.LATEST, False)


@compare(at_most=1.05)
def deliver_to_999_beside_a_stuck_one_close() -> tuple[Side, Side]:
    """The same where a full queue is closed."""
    return _with_a_stuck_one(Overflow.CLOSE, True), _with_a_stuck_one(Overflow.CLOSE, False)


def _growth(overflow: Overflow) -> float:
    """Bytes that a stuck subscription takes for a million messages beyond those of the first six hundred thousand."""

    async def growth() -> float:
        hub = hubsub.Hub(maxsize=100, overflow=overflow)
        stuck = hub.subscribe(PATTERN)
        hub.add_listener(PATTERN, _ignore)
        message = object()
        tracemalloc.start()
        for _ in range(3_000):  # until no figure is a small number, which weighs nothing
            for key in KEYS:
                hub.publish(key, message)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in repeat(None, 1_000_000 // len(KEYS)):
            for key in KEYS:
                hub.publish(key, message)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert stuck.pending == 100
        return after - before

    return asyncio.run(growth())


def _ignore(key: Any, message: Any) -> None:
    pass


@measure("bytes", at_most=0, rounds=1)
def growth_of_stuck_queue_drop_oldest() -> Side:
    """Memory that a queue of 100 messages which nobody reads takes beyond its bound in 1 000 000 deliveries of 200
    keys: the oldest are dropped."""
    return lambda: _growth(Overflow.DROP_OLDEST)


@measure("bytes", at_most=0, rounds=1)
def growth_of_stuck_queue_drop_newest() -> Side:
    """The same: the newest are dropped."""
    return lambda: _growth(Overflow.DROP_NEWEST)


@measure("bytes", at_most=0, rounds=1)
def growth_of_stuck_queue_latest() -> Side:
    """The same: the latest of each key is kept, and the keys that wait longest are dropped."""
    return lambda: _growth(Overflow.LATEST)


@measure("bytes", at_most=0, rounds=1)
def growth_of_stuck_queue_close() -> Side:
    """The same: the queue is closed, and a listener beside it gets the rest."""
    return lambda: _growth(Overflow.CLOSE)


@measure("bytes", at_most=300, rounds=1)
def memory_of_history_100k_keys() -> Side:
    """Retained history of 100 000 keys, one message each: bytes a key beyond key and message, as counted by
    tracemalloc."""

    def weigh() -> float:
        keys: list[hubsub.Key[Any]] = [hubsub.Key("sensor", str(number)) for number in range(100_000)]
        messages = [object() for _ in keys]
        hub = hubsub.Hub(route_cache=0)
        hub.retain(("sensor", "*"))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for key, message in zip(keys, messages, strict=True):
            hub.publish(key, message)
        weight = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return weight / len(keys)

    return weigh
