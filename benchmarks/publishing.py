"""Publishing to a route that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare, seconds_per_call

KEY = hubsub.Key("sensor", "kitchen", "celsius")


def listener(key: Any, message: Any) -> None:
    pass


def _listeners(number: int) -> list[Callable[[Any, Any], None]]:
    """Make so many functions: one function many times would stay in the processor's caches."""

    def make() -> Callable[[Any, Any], None]:
        def listener(key: Any, message: Any) -> None:
            pass

        return listener

    return [make() for _ in range(number)]


def _publish_and_loop(number: int, times: int) -> tuple[Side, Side]:
    listeners = tuple(_listeners(number))
    hub = hubsub.Hub()
    for each in listeners:
        hub.add_listener(KEY, each)
    assert hub.publish(KEY, 20.5) == number

    def loop(key: Any, message: Any) -> None:
        for each in listeners:
            each(key, message)

    return (
        lambda: seconds_per_call(hub.publish, KEY, 20.5, times),
        lambda: seconds_per_call(loop, KEY, 20.5, times),
    )


@compare(at_most=1.8)
def publish_to_1_sync_listener() -> tuple[Side, Side]:
    """`Hub.publish` to one sync listener, statistics included, against a function that loops over a tuple of one."""
    return _publish_and_loop(1, 100_000)


@compare(at_most=1.1)
def publish_to_100_sync_listeners() -> tuple[Side, Side]:
    """`Hub.publish` to 100 different sync listeners, against a function that loops over a tuple of them."""
    return _publish_and_loop(100, 3_000)


@compare(at_least=6)
def publish_with_prefix() -> tuple[Side, Side]:
    """`Publisher.publish` to one sync listener, against aiopubsub's `Publisher.publish`."""
    hub = hubsub.Hub()
    hub.add_listener(KEY, listener)
    publisher = hubsub.Publisher(hub, KEY[:1])

    peer = aiopubsub.Hub()
    aiopubsub.Subscriber(peer, "bench").add_sync_listener(aiopubsub.Key(*KEY), listener)
    peer_publisher = aiopubsub.Publisher(peer, aiopubsub.Key(*KEY[:1]))

    ours, theirs = hubsub.Key(*KEY[1:]), aiopubsub.Key(*KEY[1:])
    return (
        lambda: seconds_per_call(publisher.publish, ours, 20.5, 50_000),
        lambda: seconds_per_call(peer_publisher.publish, theirs, 20.5, 10_000),
    )


def _publish_between_changes(pattern: hubsub.Key) -> tuple[Side, Side]:
    hub = hubsub.Hub()
    hub.add_listener(("sensor", "*"), listener)
    keys = [hubsub.Key("sensor", f"room{number}", "celsius") for number in range(1_000)]
    tens = [keys[start : start + 10] for start in range(0, len(keys), 10)]
    for key in keys:
        hub.publish(key, 20.5)

    def seconds(change: bool) -> float:
        total = 0.0
        publish = hub.publish
        for _ in range(10):
            for ten in tens:
                if change:
                    hub.add_listener(pattern, listener).remove()
                began = perf_counter()
                for key in ten:
                    publish(key, 20.5)
                total += perf_counter() - began
        return total / 10 / len(keys)

    return lambda: seconds(True), lambda: seconds(False)


@compare(at_most=1.2)
def publish_between_unrelated_subscribes_exact() -> tuple[Side, Side]:
    """`Hub.publish` with an unrelated exact key subscribed and unsubscribed before every tenth, against none; the
    publishes alone are timed."""
    return _publish_between_changes(hubsub.Key("motor", "left", "speed"))


@compare(at_most=1.2)
def publish_between_unrelated_subscribes_wildcard() -> tuple[Side, Side]:
    """`Hub.publish` with a pattern of another first part subscribed and unsubscribed before every tenth, against none;
    the publishes alone are timed."""
    return _publish_between_changes(hubsub.Key("motor", "*", "speed"))


@compare(at_most=2)
def publish_wait_with_room() -> tuple[Side, Side]:
    """`Hub.publish_wait` to one queue with room, against `Hub.publish` to it; emptying it is not timed."""
    lot = 1_000

    async def wait() -> float:
        hub = hubsub.Hub()
        subscription = hub.subscribe(KEY)
        total = 0.0
        for _ in range(20):
            began = perf_counter()
            for message in range(lot):
                await hub.publish_wait(KEY, message)
            total += perf_counter() - began
            await subscription.get_batch(lot)
        return total / 20 / lot

    async def instantly() -> float:
        hub = hubsub.Hub()
        subscription = hub.subscribe(KEY)
        total = 0.0
        for _ in range(20):
            began = perf_counter()
            for message in range(lot):
                hub.publish(KEY, message)
            total += perf_counter() - began
            await subscription.get_batch(lot)
        return total / 20 / lot

    return lambda: asyncio.run(wait()), lambda: asyncio.run(instantly())
