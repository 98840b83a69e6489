"""How long the event loop stands still."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import thread_time
from typing import Any

import hubsub

from .harness import Side, measure


def _listener(key: Any, message: Any) -> None:
    pass


async def _longest_pause() -> float:
    """Subscribe to everything; return the longest time, in milliseconds, from one turn of the loop to the next.

    It is processor time: the loop never waits here, and what other processes take from it is none of ours.
    """
    hub = hubsub.Hub(route_cache=200_000)
    hub.add_listener(("sensor", "*"), _listener)
    for number in range(100_000):
        # Parts that few keys share, that many share, and that all of them share.
        hub.publish(("sensor", f"room{number % 100}", f"{number}", "celsius"))
    longest = await _longest_turn(lambda: hub.add_listener(("*",), _listener))
    assert hub.stats().cached_routes == 0
    return longest


async def _longest_turn(act: Callable[[], object]) -> float:
    """Act, and return the longest processor time, in milliseconds, from one turn of the loop to the next."""
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    before = thread_time()
    longest = 0.0
    is_watching = True

    def turn() -> None:
        nonlocal before, longest
        now = thread_time()
        longest = max(longest, now - before)
        before = now
        if is_watching:
            loop.call_soon(turn)

    turn()
    for _ in range(10):
        await asyncio.sleep(0)
    longest = 0.0
    act()
    # Long enough for whatever the hub puts off.
    for _ in range(3_000):
        await asyncio.sleep(0)
    is_watching = False
    gc.unfreeze()
    return longest * 1000


@measure("ms", at_most=2, rounds=11)
def pause_subscribe_all_100k_cached_routes() -> Side:
    """Longest processor time from one turn of the event loop to the next while `("*",)` is subscribed with
    100 000 cached routes, the call itself included."""
    return lambda: asyncio.run(_longest_pause())


def _hub_of_100k_patterns() -> hubsub.Hub:
    hub = hubsub.Hub()
    for number in range(100_000):
        hub.add_listener(("sensor", f"room{number % 100}", f"{number}", "celsius"), _listener)
    return hub


@measure("ms", at_most=5, rounds=5)
def pause_report_gap_100k_patterns() -> Side:
    """The same while a gap is reported for a pattern that none of 100 000 subscribed patterns overlaps:
    `hub.border.report_gap`, as a bridge calls it."""
    hub = _hub_of_100k_patterns()
    gap = hubsub.Gap("disconnected", None, 0.0, 1.0, None)
    return lambda: asyncio.run(_longest_turn(lambda: hub.border.report_gap(("motor", "*"), gap)))


@measure("ms", at_most=5, rounds=5)
def pause_report_gap_to_all_of_100k_patterns() -> Side:
    """The same for a pattern that overlaps all of them."""
    hub = _hub_of_100k_patterns()
    gap = hubsub.Gap("disconnected", None, 0.0, 1.0, None)
    return lambda: asyncio.run(_longest_turn(lambda: hub.border.report_gap(("sensor", "*"), gap)))


@measure("ms", at_most=5, rounds=5)
def pause_has_subscribers_100k_patterns() -> Side:
    """The same while `Hub.has_subscribers` looks for a pattern with a wildcard that none of 100 000 subscribed patterns
    overlaps."""
    hub = _hub_of_100k_patterns()
    return lambda: asyncio.run(_longest_turn(lambda: hub.has_subscribers(("+", "room7", "nowhere", "*"))))
