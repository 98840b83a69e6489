"""Subscribing and unsubscribing where much is subscribed already."""

from __future__ import annotations

from itertools import islice
from time import perf_counter, thread_time
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare, measure
from .patterns import add_patterns, four_parts, new_keys

WORDS = 400


def _listener(key: Any, message: Any) -> None:
    pass


def _changes(library: Any, hub: Any, number: int) -> Side:
    """Subscribe and unsubscribe so many patterns, each one for the first time."""
    # They are the end of a longer list of which the hub holds the beginning.
    patterns = iter([library.Key(*pattern) for pattern in four_parts(60_000, WORDS)[10_000:]])
    subscriber = library.Subscriber(hub, "bench")

    def seconds() -> float:
        fresh = list(islice(patterns, number))
        assert len(fresh) == number
        began = perf_counter()
        for pattern in fresh:
            subscriber.subscribe(pattern)
            subscriber.unsubscribe(pattern)
        return (perf_counter() - began) / number

    return seconds


def _hub(routes: int) -> hubsub.Hub:
    hub = hubsub.Hub(route_cache=200_000)
    for pattern in four_parts(60_000, WORDS)[:10_000]:
        hub.add_listener(pattern, _listener)
    for number, key in enumerate(islice(new_keys(WORDS), routes)):
        hub.publish(key)
        if number == 0:
            # From here on the hub knows that patterns come and go, and indexes its routes.
            hub.subscribe(("come", "*", "and", "go")).close()
    assert hub.stats().cached_routes == routes
    return hub


@compare(at_least=200, rounds=9)
def subscribe_unsubscribe_10k_patterns() -> tuple[Side, Side]:
    """`Subscriber.subscribe` and `unsubscribe` of a new pattern each time, a third with wildcards, where 10 000 are
    subscribed, against aiopubsub's."""
    peer = aiopubsub.Hub()
    add_patterns(peer, four_parts(60_000, WORDS)[:10_000], _listener)
    return _changes(hubsub, _hub(0), 1_000), _changes(aiopubsub, peer, 5)


@compare(at_most=3)
def subscribe_unsubscribe_100k_cached_routes() -> tuple[Side, Side]:
    """The same with 100 000 cached routes, against ours with none."""
    return _changes(hubsub, _hub(100_000), 1_000), _changes(hubsub, _hub(0), 1_000)


def _changes_of_one_subscriber(number: int) -> Side:
    """Subscribe and unsubscribe one more pattern where one Subscriber holds so many of them already, in one queue."""
    subscriber = hubsub.Subscriber(hubsub.Hub(), "bench")
    subscriber.subscribe([hubsub.Key("sensor", f"room{index}", "celsius") for index in range(number)])
    patterns = iter([hubsub.Key("motor", f"{index}", "speed") for index in range(100_000)])

    def seconds() -> float:
        fresh = list(islice(patterns, 1_000))
        began = thread_time()
        for pattern in fresh:
            subscriber.subscribe(pattern)
            subscriber.unsubscribe(pattern)
        return (thread_time() - began) / len(fresh)

    return seconds


@compare(at_most=1.3)
def subscribe_unsubscribe_beside_20k_of_one_subscriber() -> tuple[Side, Side]:
    """`Subscriber.subscribe` and `unsubscribe` of a new pattern each time where this Subscriber holds 20 000 others,
    against 200 others."""
    return _changes_of_one_subscriber(20_000), _changes_of_one_subscriber(200)


def _close_inside_a_publish(number: int) -> Side:
    """Close a Subscriber of so many listeners of one key in the middle of a publish of it."""

    def seconds() -> float:
        hub = hubsub.Hub()
        key = hubsub.Key("sensor", "kitchen")
        took = 0.0

        def close(key: Any, message: Any) -> None:
            nonlocal took
            began = thread_time()
            subscriber.close()
            took = thread_time() - began

        hub.add_listener(key, close)
        subscriber = hubsub.Subscriber(hub, "bench")
        for _ in range(number):
            # Functions of their own: one that is added twice would stay one listener.
            subscriber.add_sync_listener(key, lambda key, message: None)
        hub.publish(key)
        assert hub.has_subscribers(key)
        return took / number

    return seconds


@compare(at_most=1.3)
def close_8k_listeners_inside_a_publish() -> tuple[Side, Side]:
    """`Subscriber.close` of 8 000 listeners of a key inside a publish of it, against 1 000; each listener of either."""
    return _close_inside_a_publish(8_000), _close_inside_a_publish(1_000)


@measure("ms", at_most=0.3, rounds=11)
def publish_after_one_of_50k_listeners_has_left() -> Side:
    """What the next `Hub.publish` of a key takes more than the one before, when one of its 50 000 listeners is
    removed between them: processor time."""
    hub = hubsub.Hub()
    key = hubsub.Key("sensor", "kitchen")
    listeners = [hub.add_listener(key, _listener) for _ in range(50_000)]
    # From here on the hub knows that patterns come and go.
    hub.add_listener(("come", "*", "and", "go"), _listener).remove()

    def milliseconds() -> float:
        for _ in range(3):
            began = thread_time()
            hub.publish(key)
            before = thread_time() - began
        listeners.pop(len(listeners) // 2).remove()
        began = thread_time()
        hub.publish(key)
        return max(0.0, thread_time() - began - before) * 1000

    return milliseconds
