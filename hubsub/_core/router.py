"""Where each key leads: the matcher, and the routes that were made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Generic, TypeVar

from ..key import Key, is_subset
from .matcher import Matcher
from .routes import Route, RouteCache, Tally, Target

R = TypeVar("R", bound=Target)  # what keys lead to


class Router(Generic[R]):
    """Answers where a key leads, and remembers the answer until a change of subscription touches it.

    A change costs what it touches: a few routes are dropped one by one; for more the whole cache is swapped for an
    empty one, and the old one is dismantled in slices, so that the loop never stalls.

    Args:
        limit: Keys whose routes are remembered; 0 for none.
    """

    # A change that touches more routes than this swaps the cache.
    MOST_DROPPED = 300
    # Routes dismantled in one turn of the loop.
    SLICE = 300

    def __init__(self, limit: int) -> None:
        self.matcher: Matcher[R] = Matcher()
        self.misses = 0
        self.changes = 0  # grows whenever a key may lead elsewhere than before
        self.tally = Tally()
        self.caching = limit > 0
        self.cache = RouteCache(limit, self.tally)
        # Where the hot path looks; the very dict of the cache.
        self.routes = self.cache.routes
        self.retired: list[RouteCache] = []
        self._dismantling_on: asyncio.AbstractEventLoop | None = None
        self._indexed = False
        self._limit = limit
        self._uncached: list[Route] = []
        # Asked with each route that is made who is to stand first in it, given the key and how many it leads to.
        self.observers: list[Callable[[Key[Any], int], R | None]] = []
        # Set once a target is on several patterns: only then can a key lead to it more than once.
        self.several = False

    def add(self, pattern: tuple[str, ...], target: R) -> int:
        """Let a pattern lead to a target, too; return how many it leads to now."""
        self.forget(pattern)
        return self.matcher.add(pattern, target)

    def remove(self, pattern: tuple[str, ...], target: R) -> int:
        """Let a pattern not lead to a target any more; return how many it still leads to."""
        self.forget(pattern)
        self._fold_uncached()  # and let go of it
        return self.matcher.remove(pattern, target)

    def targets(self, key: Key[Any]) -> list[R]:
        """Where an exact key leads, in order of subscription, each target once."""
        found = self.matcher.match(key)
        return self._in_order(found) if len(found) > 1 else found

    def observed(self, key: Key[Any], targets: list[R]) -> list[R]:
        """The targets of an exact key, after those who only observe it."""
        if not self.observers:
            return targets
        asked = [observer(key, len(targets)) for observer in self.observers]
        return [target for target in asked if target is not None] + targets

    def _in_order(self, targets: list[R]) -> list[R]:
        if self.several:
            targets = list(dict.fromkeys(targets))
        targets.sort(key=_by_order)
        return targets

    def make(self, key: Key[Any]) -> Route:
        """Make the route of an exact key that has none, and remember it."""
        targets = self.matcher.match(key)
        if len(targets) > 1:
            targets = self._in_order(targets)
        width = len(targets)
        diverted = None
        if self.observers:
            observers = self.observed(key, targets)
            if _diverts(observers[: len(observers) - width], key):
                diverted, targets, width = targets, self.observed(key, []), 0
            else:
                targets = observers
        route = Route(map(_deliver_of, targets))
        if diverted is not None:
            route.diverted = diverted
        route.width = width
        route.key = key
        route.targets = targets
        route.sole = targets[0] if width == len(targets) == 1 else None
        route.published = 0
        self.misses += 1
        if self.caching:
            if self.cache.size >= self.cache.limit:
                self.swap()
            self.cache.add(route)
        else:
            self._fold_uncached()
            self._uncached.append(route)
        return route

    # Figures

    def fold_all(self) -> None:
        """Bring every figure up to date."""
        self._fold_uncached()
        for cache in (self.cache, *self.retired):
            cache.fold()

    def fold(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Bring the figures of whoever is registered on these patterns up to date."""
        self._fold_uncached()
        for cache in self.retired:
            cache.fold()
        if not self.cache.indexed:
            # Making the index would take longer than looking at every route.
            self.cache.fold()
            return
        for pattern in patterns:
            for route in self.cache.touched(pattern) or ():
                self.tally.fold(route)

    def _fold_uncached(self) -> None:
        for route in self._uncached:
            self.tally.fold(route)
        self._uncached.clear()

    # Forgetting

    def remember(self, caching: bool) -> None:
        """Remember routes from now on, or make every one anew."""
        self.caching = caching and self._limit > 0
        if not self.caching:
            self.swap()

    def forget(self, pattern: tuple[str, ...]) -> None:
        """Forget the routes that a change of this pattern touches."""
        self.changes += 1
        touched = self.cache.touched(pattern, self.MOST_DROPPED)
        if touched is None:
            # The next cache knows from the start that patterns come and go.
            self._indexed = True
            self.swap()
        else:
            for route in touched:
                self.cache.drop(route)

    def swap(self) -> None:
        """Start an empty cache."""
        old = self.cache
        if not old.routes:
            return
        self.cache = RouteCache(self._limit, self.tally, indexed=self._indexed)
        self.routes = self.cache.routes
        self.retired.append(old)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Nobody has to wait for it: all at once.
            self.fold_all()
            self.retired.clear()
        else:
            self.dismantle_on(loop)

    def dismantle_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dismantle what is retired, a slice in each turn of the loop."""
        # A loop that ended in the middle of it does not go on: this one does.
        if self.retired and self._dismantling_on is not loop:
            self._dismantling_on = loop
            loop.call_soon(self._dismantle, loop)

    def _dismantle(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._dismantling_on is not loop:
            return
        if self.retired and not self.retired[0].dismantle(self.SLICE):
            del self.retired[0]
        if self.retired:
            loop.call_soon(self._dismantle, loop)
        else:
            self._dismantling_on = None

    async def clear(self) -> None:
        """Forget every route."""
        self.swap()
        while self.retired:  # noqa: ASYNC110 - not waiting: giving the loop its turns
            await asyncio.sleep(0)


def _diverts(observers: Iterable[Any], key: tuple[str, ...]) -> bool:
    """True if one of them takes what is published to `key` for itself."""
    return any(is_subset(key, pattern) for each in observers for pattern in each.diverts)


_deliver_of: Any = attrgetter("deliver")
_by_order: Any = attrgetter("order")
