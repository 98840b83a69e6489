"""What a listener weighs. Run as a program, it is the fresh process in which that is measured."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from typing import Any

import psutil

import hubsub

from .harness import Side, measure


def _listener(key: Any, message: Any) -> None:
    pass


def _bytes_per_listener(number: int, traced: bool) -> float:
    keys = [hubsub.Key("sensor", f"room{index}", "celsius") for index in range(number)]
    subscriber = hubsub.Subscriber(hubsub.Hub(), "bench")
    process = psutil.Process()

    def occupied() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if traced else process.memory_info().rss

    if traced:
        tracemalloc.start()
    before = occupied()
    for key in keys:
        subscriber.add_sync_listener(key, _listener)
    return (occupied() - before) / number


def _in_a_fresh_process(number: int, how: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", str(number), how]
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


if __name__ == "__main__":
    print(_bytes_per_listener(int(sys.argv[1]), sys.argv[2] == "traced"))
