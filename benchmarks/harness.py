"""Run both sides of a comparison in turns, round after round."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from itertools import repeat
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

Side = Callable[[], float]
"""One round of one side: returns its seconds per operation, or another figure where there is no comparison."""


class Missing(Exception):
    """What a benchmark needs is not on this machine. Says why, and the remedy."""


class Benchmark(NamedTuple):
    """A function that prepares the sides, and what they are to reach. Its docstring is the line in the table."""

    prepare: Callable[[], tuple[Side, Side] | Side]
    unit: str
    at_most: float | None
    at_least: float | None
    rounds: int

    @property
    def name(self) -> str:
        return self.prepare.__name__

    @property
    def sentence(self) -> str:
        return " ".join((self.prepare.__doc__ or "").split())

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"at most {_with_unit(f'{self.at_most:g}', self.unit)}"
        if self.at_least is not None:
            return f"at least {_with_unit(f'{self.at_least:g}', self.unit)}"
        return "none"

    def is_reached_by(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


class Result(NamedTuple):
    """What the rounds of a benchmark gave."""

    benchmark: Benchmark
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_reached(self) -> bool:
        return self.benchmark.is_reached_by(self.median)


BENCHMARKS: list[Benchmark] = []

shorter = 1
"""What takes its time by design is to take this fraction of it."""


def compare(*, at_most: float | None = None, at_least: float | None = None, rounds: int = 15) -> Any:
    """Register a function that returns two sides, ours first.

    With `at_most` the ratio is what ours takes as a multiple of theirs, otherwise how many times faster ours is.
    """
    return _register("×", at_most, at_least, rounds)


def measure(unit: str, *, at_most: float, rounds: int) -> Any:
    """Register a function that returns one side, whose figures are of this unit and compared with nothing."""
    return _register(unit, at_most, None, rounds)


def _register(unit: str, at_most: float | None, at_least: float | None, rounds: int) -> Any:
    def register(prepare: Callable[[], Any]) -> Callable[[], Any]:
        BENCHMARKS.append(Benchmark(prepare, unit, at_most, at_least, rounds))
        return prepare

    return register


def run(benchmark: Benchmark, quick: bool) -> Result:
    """Prepare a benchmark and run its rounds: a fifth of them for a quick look."""
    rounds = -(-benchmark.rounds // 5) if quick else benchmark.rounds
    prepared = benchmark.prepare()
    if not isinstance(prepared, tuple):
        return Result(benchmark, [value for (value,) in in_turns([prepared], rounds)])
    pairs = in_turns(prepared, rounds)
    if benchmark.at_most is not None:
        return Result(benchmark, [ours / theirs for ours, theirs in pairs])
    return Result(benchmark, [theirs / ours for ours, theirs in pairs])


def in_turns(sides: Iterable[Side], rounds: int) -> list[tuple[float, ...]]:
    """Run each side once a round; return the figures of each round.

    What was prepared is hidden from the garbage collector: a full collection that walks a million patterns would be
    charged to whoever happens to allocate just then. What a round allocates is collected as always.
    """
    sides = list(sides)
    gc.collect()
    gc.freeze()
    try:
        return [tuple([_once(side) for side in sides]) for _ in range(rounds)]
    finally:
        gc.unfreeze()


def _once(side: Side) -> float:
    # So that nobody pays for the garbage of whoever came before.
    gc.collect()
    return side()


def seconds_per_call(function: Callable[[Any, Any], object], key: Any, message: Any, times: int) -> float:
    """Call `function(key, message)` so often. The loop is part of the figure, on both sides alike."""
    began = perf_counter()
    for _ in repeat(None, times):
        function(key, message)
    return (perf_counter() - began) / times


def figure(value: float, unit: str) -> str:
    """A figure with its unit, three digits long: more is not to be had by measuring."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{value:.{decimals}f}" if value >= 0.1 else f"{value:.2g}"
    return _with_unit(text, unit)


def _with_unit(text: str, unit: str) -> str:
    return text + unit if unit == "×" else f"{text} {unit}"
