"""The same on every other supported Python that this machine has. Run as a program, it is what runs there."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import hubsub

from .harness import Side, measure

ROOT = Path(__file__).resolve().parent.parent
KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen", "celsius")
ROUNDS = 9


def _functions(number: int) -> list[Any]:
    def make() -> Any:
        def listener(key: Any, message: Any) -> None:
            pass

        return listener

    return [make() for _ in range(number)]


def _seconds(function: Any, times: int) -> float:
    began = perf_counter()
    for _ in repeat(None, times):
        function(KEY, 20.5)
    return (perf_counter() - began) / times


def _publish_and_loop(number: int, times: int) -> float:
    """How much longer publishing to so many sync listeners takes than a function that loops over them."""
    functions = tuple(_functions(number))
    hub = hubsub.Hub()
    for each in functions:
        hub.add_listener(KEY, each)
    hub.publish(KEY, 20.5)

    def loop(key: Any, message: Any) -> None:
        for each in functions:
            each(key, message)

    return median(_seconds(hub.publish, times) / _seconds(loop, times) for _ in range(ROUNDS))


TASKS = {"1": (1, 100_000), "100": (100, 3_000)}


def others() -> list[Any]:
    """The supported interpreters of this machine but for this one's version, by `tools/setup_env.py`."""
    sys.path.insert(0, str(ROOT / "tools"))
    import setup_env

    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [python for python in setup_env.find_pythons() if python.minor != here]


def _there(python: Any, task: str) -> Side:
    command = [python.path, "-m", "benchmarks.interpreters", task]
    # Nothing is installed there, and nothing has to be.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda: float(subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment).stdout)


def _register(python: Any, task: str, at_most: float, sentence: str) -> None:
    def prepare() -> Side:
        return _there(python, task)

    number = TASKS[task][0]
    prepare.__name__ = f"publish_to_{number}_sync_listener{'s' * (number > 1)}_python_{python.minor.replace('.', '_')}"
    prepare.__doc__ = sentence
    measure("×", at_most=at_most, rounds=5)(prepare)


if __name__ == "__main__":
    print(_publish_and_loop(*TASKS[sys.argv[1]]))
else:
    for each in others():
        _register(each, "1", 1.8, f"`publish_to_1_sync_listener` on Python {each.minor}.")
        _register(each, "100", 1.1, f"`publish_to_100_sync_listeners` on Python {each.minor}.")
