"""What a listener weighs. Run as a program, it is the fresh process in which that is measured."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import psutil

import hubsub

from .harness import Side, measure


def _listener(key: Any, message: Any) -> None:
    pass


async def _async_listener(key: Any, message: Any) -> None:
    pass


def _bytes_each(number: int, kind: str, traced: bool) -> float:
    keys = [hubsub.Key("sensor", f"room{index}", "celsius") for index in range(number)]
    hub = hubsub.Hub()
    subscriber = hubsub.Subscriber(hub, "bench")
    process = psutil.Process()
    add: dict[str, Callable[[Any], object]] = {
        "listener": lambda key: subscriber.add_sync_listener(key, _listener),
        "async listener": lambda key: hub.add_listener(key, _async_listener),
        "subscription": lambda key: hub.subscribe(key),
    }

    def occupied() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if traced else process.memory_info().rss

    if traced:
        tracemalloc.start()
    before = occupied()
    for key in keys:
        add[kind](key)
    return (occupied() - before) / number


def _in_a_fresh_process(number: int, how: str, kind: str = "listener") -> float:
    command = [sys.executable, "-m", "benchmarks.memory", str(number), how, kind]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


@measure("bytes", at_most=500, rounds=3)
def memory_of_listeners_1m_exact_keys() -> Side:
    """Each of 1 000 000 listeners added by `Subscriber.add_sync_listener`, one function on as many exact keys, the keys
    themselves not counted: resident memory of a fresh process."""
    return lambda: _in_a_fresh_process(1_000_000, "resident")


@measure("bytes", at_most=500, rounds=1)
def memory_of_listeners_100k_exact_keys_traced() -> Side:
    """The same of 100 000, as counted by tracemalloc."""
    return lambda: _in_a_fresh_process(100_000, "traced")


@measure("bytes", at_most=2400, rounds=1)
def memory_of_subscriptions_10k_traced() -> Side:
    """Each of 10 000 subscriptions made by `Hub.subscribe`, with its empty queue, on as many exact keys, the keys
    themselves not counted, as counted by tracemalloc."""
    return lambda: _in_a_fresh_process(10_000, "traced", "subscription")


@measure("bytes", at_most=2400, rounds=1)
def memory_of_async_listeners_10k_traced() -> Side:
    """The same of async listeners, added by `Hub.add_listener`."""
    return lambda: _in_a_fresh_process(10_000, "traced", "async listener")


if __name__ == "__main__":
    print(_bytes_each(int(sys.argv[1]), sys.argv[3], sys.argv[2] == "traced"))
