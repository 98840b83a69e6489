"""The first publish of a key: its route is found among the patterns, and remembered."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare
from .patterns import add_patterns, four_parts, new_keys


def _first_publishes(library: Any, hub: Any, words: int, number: int) -> Side:
    keys = (library.Key(*key) for key in new_keys(words))

    def seconds() -> float:
        fresh = list(islice(keys, number))
        publish = hub.publish
        began = perf_counter()
        for key in fresh:
            publish(key, 20.5)
        return (perf_counter() - began) / number

    return seconds


def _hub(patterns: int, words: int) -> hubsub.Hub:
    hub = hubsub.Hub()
    for pattern in four_parts(patterns, words):
        hub.add_listener(pattern, _listener)
    return hub


def _listener(key: Any, message: Any) -> None:
    pass


@compare(at_least=500, rounds=9)
def match_four_parts_10k_patterns() -> tuple[Side, Side]:
    """First `Hub.publish` of a new key among 10 000 patterns of four parts, a third with wildcards, against aiopubsub's
    `Hub.publish`."""
    peer = aiopubsub.Hub()
    add_patterns(peer, four_parts(10_000, 14), _listener)
    return (
        _first_publishes(hubsub, _hub(10_000, 14), 14, 3_000),
        _first_publishes(aiopubsub, peer, 14, 10),
    )


@compare(at_most=3, rounds=9)
def match_four_parts_1m_patterns() -> tuple[Side, Side]:
    """First `Hub.publish` of a new key among 1 000 000 such patterns, of a vocabulary so much wider that a key has as
    many matches, against ours among 10 000."""
    # One wildcard each: 65 ** 3 is a hundred times 14 ** 3, so a hundred times the patterns give as many matches.
    return (
        _first_publishes(hubsub, _hub(1_000_000, 65), 65, 3_000),
        _first_publishes(hubsub, _hub(10_000, 14), 14, 3_000),
    )
