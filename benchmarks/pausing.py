"""How long the event loop stands still."""

from __future__ import annotations

import asyncio
import gc
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
    hub.add_listener(("*",), _listener)
    # Long enough for whatever the hub puts off.
    for _ in range(3_000):
        await asyncio.sleep(0)
    is_watching = False
    assert hub.stats().cached_routes == 0
    return longest * 1000


@measure("ms", at_most=2, rounds=11)
def pause_subscribe_all_100k_cached_routes() -> Side:
    """Longest processor time from one turn of the event loop to the next while `("*",)` is subscribed with
    100 000 cached routes, the call itself included."""
    return lambda: asyncio.run(_longest_pause())
