"""Patterns and keys of four parts, the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import aiopubsub

Pattern = tuple[str, ...]


def four_parts(number: int, words: int) -> list[Pattern]:
    """Return so many different patterns over a vocabulary of so many words; a third has a wildcard in one place."""
    random = Random(number)
    vocabulary = [f"word{number}" for number in range(words)]
    patterns: dict[Pattern, None] = {}
    while len(patterns) < number:
        parts = random.choices(vocabulary, k=4)
        if len(patterns) % 3 == 0:
            parts[random.randrange(4)] = "*"
        patterns[tuple(parts)] = None
    return list(patterns)


def new_keys(words: int) -> Iterator[Pattern]:
    """Yield keys over that vocabulary, none of them twice."""
    random = Random(words)
    vocabulary = [f"word{number}" for number in range(words)]
    seen = set()
    while True:
        key = tuple(random.choices(vocabulary, k=4))
        if key not in seen:
            seen.add(key)
            yield key


def add_patterns(hub: aiopubsub.Hub, patterns: Iterable[Pattern], listener: Callable[..., Any]) -> None:
    """Subscribe a listener to patterns the short way: by its front door, aiopubsub takes time by the square of them."""
    for pattern in patterns:
        hub._subscribers[aiopubsub.Key(*pattern)].append(listener)
