"""The tasks that all of the libraries have in common, each through every library that can do it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .harness import in_turns

TASKS = {
    "sync": "Publish to 1 sync listener",
    "bulk": "Publish through an async listener, in bulk",
    "queue": "Publish through a queue, in bulk",
}

# Module, and the name people know it by; hubsub is what the others are measured by.
PEERS = {
    "hubsub": "hubsub",
    "by_hand": "by hand",
    "aiopubsub": "aiopubsub",
    "blinker": "blinker",
    "pyee": "pyee",
    "pypubsub": "PyPubSub",
    "pymitter": "pymitter",
    "bubus": "bubus",
}

SECONDS_A_ROUND = 0.02
# Beyond it a message was lost, and waiting on would be for ever.
SECONDS_AT_MOST = 60


class Throughput(NamedTuple):
    """One library at one task."""

    name: str
    seconds: list[float]
    """Per message, round by round."""
    relative: list[float]
    """Messages in the time that hubsub takes for one."""

    @property
    def median(self) -> float:
        return median(self.relative)


class Elsewhere:
    """A peer that needs an environment of its own: it runs in a process there, a round whenever it is told to."""

    def __init__(self, python: Path, peer: str) -> None:
        command = [str(python), "-m", "benchmarks.worker", peer]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.tasks = self._line().split()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return line

    def run(self, task: str, messages: int, *arguments: str) -> float:
        assert self._process.stdin is not None
        print(task, messages, *arguments, file=self._process.stdin)
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# By name, as far as their environments are there.
ELSEWHERE: dict[str, Elsewhere] = {}

Task = Callable[..., float]


def local(peer: str, task: str) -> Task | None:
    """Return the function that does this task through this peer, here; None if the peer cannot."""
    function: Any = getattr(import_module(f"{__package__}.peers.{peer}"), task, None)
    if inspect.iscoroutinefunction(function):
        return lambda *arguments: asyncio.run(asyncio.wait_for(function(*arguments), SECONDS_AT_MOST))
    return function


def run(task: str, rounds: int) -> list[Throughput]:
    """Run a task through everyone who can do it, in turns; hubsub is first, the others by speed."""
    functions = {name: function for peer, name in PEERS.items() if (function := local(peer, task)) is not None}
    for name, there in ELSEWHERE.items():
        if task in there.tasks:
            functions[name] = lambda messages, there=there: there.run(task, messages)

    sides = []
    for function in functions.values():
        messages = _enough(function)
        sides.append(lambda function=function, messages=messages: function(messages) / messages)
    figures = in_turns(sides, rounds)

    found = []
    for name, seconds in zip(functions, zip(*figures, strict=True), strict=True):
        relative = [each[0] / own for each, own in zip(figures, seconds, strict=True)]
        found.append(Throughput(name, list(seconds), relative))
    return [found[0], *sorted(found[1:], key=lambda each: -each.median)]


def _enough(function: Task) -> int:
    """Return how many messages make a round that is neither too short to time nor a waste of it."""
    function(100)
    messages = int(SECONDS_A_ROUND / (function(100) / 100))
    return min(messages // 1000 * 1000, 50_000) if messages >= 1000 else 100
