"""Finds where each key leads: the matcher, and a cache of the routes made from its results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any, Generic, TypeVar

from ..key import PLUS, STAR, Key, is_subset
from .matcher import Matcher
from .routes import FIRST, Route, RouteCache, Tally, Target
from .running import Running
from .runs import Run, joined
from .wide import WideRoutes

R = TypeVar("R", bound=Target)  # what keys lead to


class Router(Generic[R]):
    """Finds where a key leads, and caches the route until a change of subscription affects it.

    The cost of a change depends on how many routes it affects: a few are dropped one by one; for more, the whole cache
    is swapped for an empty one, and the old one is dismantled in slices, so that the loop never stalls.

    Args:
        limit: Keys whose routes are cached; 0 for none.
    """

    # A change that affects more routes than this swaps the cache.
    MOST_DROPPED = 300
    # Routes dismantled in one turn of the loop.
    SLICE = 300
    # Routes dismantled for each route that is made meanwhile.
    STEP = 4

    def __init__(self, limit: int) -> None:
        self.matcher: Matcher[R] = Matcher()
        self.misses = 0
        self.changes = 0  # grows whenever the route of a key may have changed
        self.tally = Tally()
        self.caching = limit > 0
        self.cache = RouteCache(limit, self.tally)
        # Called with the routes of each new cache.
        self.swapped: Callable[[Mapping[Any, Route]], None] = lambda routes: None
        self.retired: list[RouteCache] = []
        self._dismantling_on: asyncio.AbstractEventLoop | None = None
        self._indexed = False
        self._limit = limit
        self._uncached: list[Route] = []
        self._running = Running()
        self._wide = WideRoutes()
        # Called for each new route, with the key and its number of subscriptions; return the observer to put first.
        self.observers: list[Callable[[Key[Any], int], R | None]] = []
        # Set once any target is on several patterns: only then can a key lead to one more than once.
        self.several = False
        # Comes first in routes to several targets of which one may refuse the calling thread.
        self.guard: Any = None
        # Set once a target has been registered again: routes in use may still have it at its old index.
        self.reordered = False

    @property
    def routes(self) -> dict[tuple[str, ...] | str, Route]:
        """The cached routes, by key."""
        return self.cache.routes

    def add(self, pattern: tuple[str, ...], target: R) -> int:
        """Make a pattern lead to a target, too; return how many targets it leads to now.

        `target.is_on` is true already.
        """
        self.forget(pattern)
        if self._wide.kept:
            self._wide.changed(pattern, target)
        return self.matcher.add(pattern, target)

    def remove(self, pattern: tuple[str, ...], target: R) -> int:
        """Make a pattern no longer lead to a target; return how many targets it still leads to.

        `target.is_on` is false already. A running publish still reaches the target until `withdraw`.
        """
        self.forget(pattern)
        if self._wide.kept:
            self._wide.changed(pattern, target)
        self._fold_uncached()  # and drop its routes
        return self.matcher.remove(pattern, target)

    def withdraw(self, target: R, left: Collection[tuple[str, ...]]) -> None:
        """Make running publishes skip a target, except for keys of the patterns that it has `left`."""
        if not self._running.noted and not self.retired:
            return
        for cache in self.retired:
            if not cache.is_searched:
                cache.is_searched = True
                self._running.note_used(cache.routes.values())
        for route in self._running.alive():
            if not left or not any(is_subset(route.key, pattern) for pattern in left):
                route.withdraw(target, self.reordered)

    def targets(self, key: Key[Any]) -> list[R]:
        """Return the targets of an exact key in order of subscription, each once."""
        found = self.matcher.match(key)
        return self._in_order(found) if len(found) > 1 else found

    def observed(self, key: Key[Any], targets: list[R]) -> list[R]:
        """Return the targets of an exact key, with its observers in front."""
        return self._observers_of(key, len(targets)) + targets if self.observers else targets

    def _observers_of(self, key: Key[Any], routed: int) -> list[R]:
        """Return the observers of an exact key that leads to `routed` subscriptions."""
        return [each for observer in self.observers if (each := observer(key, routed)) is not None]

    def _in_order(self, targets: list[R]) -> list[R]:
        if self.several:
            targets = list(dict.fromkeys(targets))
        targets.sort(key=_by_order)
        return targets

    def make(self, key: Key[Any]) -> Route:
        """Make the route of an exact key that has none, and cache it."""
        route = self._wide.take(key) if self._wide.kept else None
        if route is None:
            targets = self.matcher.match(key)
            if len(targets) > 1:
                targets = self._in_order(targets)
            route = Route(map(_deliver_of, targets))
            route.key = key
            route.targets = route.steps = targets
            route.is_judged = False
        route.published = 0
        route.tick = FIRST
        route.width = width = len(route)
        if width == 1:
            route.sole, route.only = route.targets[0], route[0]
        else:
            route.sole = route.only = None
        if self.observers:
            self._add_observers(route)
        if len(route.targets) > 1 and not route.is_judged:
            self._arrange(route)
        self.misses += 1
        if self.caching:
            if self.retired:
                # The loop may not get its turns: then filling the next cache dismantles the last one.
                self._dismantle_some(self.STEP)
            if self.cache.size >= self.cache.limit:
                self.swap()
            self.cache.add(route)
        else:
            self._fold_uncached()
            self._uncached.append(route)
            if len(route.targets) > 1:
                self._running.note((route,))
        return route

    def _arrange(self, route: Route) -> None:
        """Join adjacent queues to runs, and put the guard in front if one of the targets may refuse the thread."""
        targets = route.targets
        steps = joined(targets) if len(targets) >= Run.LEAST else None
        if steps is not None:
            route.steps = steps
            route[:] = map(_deliver_of, steps)
        if self.guard is not None:
            may_refuse = list(map(_may_refuse, targets))
            if any(may_refuse) and not all(may_refuse):
                route.steps = [self.guard, *route.steps]
                route.insert(0, self.guard.deliver)

    def _add_observers(self, route: Route) -> None:
        """Put the observers of a route first in it; one that diverts its key replaces everybody else."""
        key = route.key
        observers: list[Any] = self._observers_of(key, len(route))
        if not observers:
            return
        if any(is_subset(key, pattern) for each in observers for pattern in each.diverts):
            route.diverted = route.targets
            observers = self._observers_of(key, 0)
            route.targets = route.steps = observers
            route[:] = map(_deliver_of, observers)
            route.width = 0
        else:
            route.targets[:0] = observers
            route[:0] = map(_deliver_of, observers)
        route.sole = None
        route.only = route[0] if len(route) == 1 else None

    # Counters

    def fold_all(self) -> None:
        """Bring every counter up to date."""
        self._fold_uncached()
        for cache in (self.cache, *self.retired):
            cache.fold()

    def fold(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Bring the counters of the targets that are registered on these patterns up to date."""
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
        """Cache routes from now on, or make every route again each time."""
        self.caching = caching and self._limit > 0
        if not self.caching:
            self.swap()

    def forget(self, pattern: tuple[str, ...]) -> None:
        """Drop the routes that a change of this pattern affects."""
        self.changes += 1
        if pattern not in self.cache.routes and STAR not in pattern and PLUS not in pattern:
            return  # the usual case
        touched = self.cache.touched(pattern, self.MOST_DROPPED)
        if touched is None:
            # Patterns come and go: index the next cache from the start.
            self._indexed = True
            self.swap()
        else:
            for route in touched:
                self.cache.drop(route)
                if len(route.targets) > 1:
                    self._running.note((route,))
                    self._wide.keep(route)

    def renew(self, target: R, patterns: Iterable[tuple[str, ...]]) -> None:
        """Have a target that is on these patterns called by its new `deliver`, from the next publish on."""
        for pattern in patterns:
            self.forget(pattern)
        if self._wide.kept:
            self._wide.renew(target)

    def swap(self) -> None:
        """Start an empty cache."""
        old = self.cache
        if not old.routes:
            return
        self.cache = RouteCache(self._limit, self.tally, indexed=self._indexed)
        self.swapped(self.cache.routes)
        self.retired.append(old)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # No loop is running that this could block: all at once.
            self.fold_all()
            for cache in self.retired:
                if not cache.is_searched:
                    self._running.note_used(cache.routes.values())
            self.retired.clear()
        else:
            self.dismantle_on(loop)

    def forked(self) -> None:
        """Stop dismantling on a loop: in a forked process the loop is the parent's."""
        self._dismantling_on = None

    def dismantle_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dismantle the retired caches, a slice in each turn of the loop."""
        # A loop that ended in the middle of it will not go on: this one does.
        if self.retired and self._dismantling_on is not loop:
            self._dismantling_on = loop
            loop.call_soon(self._dismantle, loop)

    def _dismantle(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._dismantling_on is not loop:
            return
        if self.retired:
            self._dismantle_some(self.SLICE)
        if self.retired:
            loop.call_soon(self._dismantle, loop)
        else:
            self._dismantling_on = None

    def _dismantle_some(self, most: int) -> None:
        """Dismantle up to `most` routes of the cache that was retired first."""
        cache = self.retired[0]
        given_up = cache.dismantle(most)
        if not cache.is_searched:
            self._running.note(given_up)
        if cache.is_empty():
            del self.retired[0]

    async def clear(self) -> None:
        """Drop every route."""
        self.swap()
        self._wide.clear()
        while self.retired:  # noqa: ASYNC110 - not waiting: giving the loop its turns
            await asyncio.sleep(0)


_deliver_of: Any = attrgetter("deliver")
_may_refuse: Any = attrgetter("may_refuse")
_by_order: Any = attrgetter("order")
