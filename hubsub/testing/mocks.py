"""A hub that records and delivers nothing: aiopubsub's `testing.mocks`, for tests that were written for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hubsub import Hub, Key

Pattern = tuple[str, ...]


class _Subscribers(defaultdict[Key[Any], list[Any]]):
    """The subscribers of each pattern: what would be called with a message that matches it."""

    def __init__(self) -> None:
        super().__init__(list)


class MockHub(Hub):
    """A `Hub` that records what is published, and delivers nothing.

    New tests use a `Hub` and a `Recorder`, which leaves delivery unchanged.
    """

    def __init__(self) -> None:
        super().__init__(name="mock")
        self.published: list[tuple[Key[Any], Any]] = []
        """Pairs of key and message, in the order of publishing."""
        self.published_by_key: defaultdict[Key[Any], list[Any]] = defaultdict(list)
        """The messages of each key, in the order of publishing."""
        self.subscribers: defaultdict[Key[Any], list[Any]] = _Subscribers()
        """What would be called with key and message, by pattern."""

    def publish(self, key: Any, message: Any = None) -> int:
        """Record the message; return 0, since nobody gets it."""
        named: Key[Any] = Key.create_from(key)
        self.published.append((named, message))
        self.published_by_key[named].append(message)
        return 0

    def has_subscribers(self, patterns: Any = "*", local: bool = True) -> bool:
        """As `Hub.has_subscribers`, and also true if a test has put something into `subscribers`."""
        several = patterns if isinstance(patterns, list | set | frozenset) else [patterns]
        return super().has_subscribers(patterns, local) or any(
            subscribed and pattern.is_subset_of(wanted)
            for pattern, subscribed in self.subscribers.items()
            for wanted in several
        )

    def _add(self, registration: Any, patterns: Sequence[Pattern], history: int = 0) -> None:
        super()._add(registration, patterns, history)
        for pattern in patterns:
            self.subscribers[Key(*pattern)].append(registration.deliver)

    def _remove(self, registration: Any, patterns: Iterable[Pattern] | None = None, stays: bool = False) -> None:
        taken = registration._patterns if patterns is None else tuple(patterns)
        super()._remove(registration, patterns, stays)
        for pattern in taken:
            subscribed = self.subscribers[Key(*pattern)]
            if registration.deliver in subscribed:
                subscribed.remove(registration.deliver)


class MockAsyncQueue:
    """A queue whose items are in `data`."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    async def put(self, item: Any) -> None:
        """Add an item."""
        self.data.append(item)

    def put_nowait(self, item: Any) -> None:
        """Add an item."""
        self.data.append(item)

    async def get(self) -> Any:
        """Remove the first item and return it."""
        return self.data.pop(0)


__all__ = ["MockAsyncQueue", "MockHub"]
