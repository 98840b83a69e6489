"""Subscribing and unsubscribing where much is subscribed already."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare
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
