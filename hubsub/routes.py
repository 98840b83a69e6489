"""Where a key leads, remembered: the cache that makes publishing as cheap as a loop over the listeners."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Protocol

from .key import PLUS, STAR, Key

Deliver = Callable[[Key[Any], Any], object]


class Target(Protocol):
    """What routes lead to: a registration."""

    deliver: Deliver
    counted: int


class Route(list[Deliver]):
    """The callables that a message of one key is delivered to, in order of subscription.

    It is never changed while it is in use but for one thing: the place of what was closed is overwritten with `gone`.
    Counting each listener's messages would cost every publish a step per listener; so a route counts its own
    publishes, and `fold` adds them to its targets when somebody asks or when the route is given up.
    """

    __slots__ = ("key", "mailboxes", "published", "targets")

    # Routes are put in sets: by identity, not by content.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __init__(self, key: Key[Any], targets: Sequence[Target]) -> None:
        super().__init__([target.deliver for target in targets])
        self.key = key
        self.targets = targets
        self.published = 0
        self.mailboxes: Sequence[Any] | None = None  # filled by the first publish_wait


def gone(key: Key[Any], message: Any) -> None:
    """Stand in a running publish for what was closed since it began."""


class Tally:
    """Totals of routes that are no more."""

    __slots__ = ("published", "routed")

    def __init__(self) -> None:
        self.published = 0
        self.routed = 0

    def fold(self, route: Route) -> None:
        """Add what `route` counted to its targets and to the totals, and start it at nought."""
        published = route.published
        if published:
            route.published = 0
            self.published += published
            self.routed += published * len(route)
            for target in route.targets:
                target.counted += published


class RouteCache:
    """Routes by key, bounded; finds those that a pattern touches without looking at the others.

    Args:
        limit: Routes kept. Beyond it the oldest are given up, a few at a time.
        tally: Where routes that are given up are counted.
    """

    __slots__ = ("_index", "_limit", "_tally", "routes", "size")

    EVICTED_AT_ONCE = 64
    # Beyond this many candidates, finding the touched routes costs more than making all of them anew bit by bit.
    MOST_SEARCHED = 4096

    def __init__(self, limit: int, tally: Tally) -> None:
        # A key of one part is also found under its bare string: hub.publish("tick").
        self.routes: dict[tuple[str, ...] | str, Route] = {}
        # By length of key, then place, then part: the routes that have this part in this place.
        self._index: dict[int, tuple[dict[str, set[Route]], ...]] = {}
        self._limit = limit
        self._tally = tally
        self.size = 0

    def add(self, route: Route) -> None:
        """Remember a route."""
        if self.size >= self._limit:
            # Oldest first, by insertion. Walking a dict from its front passes over the places of what was removed;
            # done for many at once, that is a fraction of the cost of making one route.
            for old in list(islice(self.routes.values(), self.EVICTED_AT_ONCE)):
                self.drop(old)
        key = route.key
        self.size += 1
        self.routes[key] = route
        length = len(key)
        places = self._index.get(length)
        if places is None:
            places = self._index[length] = tuple([{} for _ in key])
        for routes, part in zip(places, key):  # noqa: B905 - equally long, and strict= is slow here
            held = routes.get(part)
            if held is None:
                routes[part] = {route}
            else:
                held.add(route)
        if length == 1:
            self.routes[key[0]] = route

    def drop(self, route: Route) -> None:
        """Give a route up, having added what it counted; a publish that runs on it runs on."""
        key = route.key
        if self.routes.pop(key, None) is None:
            return
        self.size -= 1
        if len(key) == 1:
            del self.routes[key[0]]
        places = self._index[len(key)]
        for routes, part in zip(places, key, strict=True):
            held = routes[part]
            held.discard(route)
            if not held:
                del routes[part]
        if not places[0]:
            del self._index[len(key)]
        self._tally.fold(route)

    def touched(self, pattern: tuple[str, ...], most: int = sys.maxsize) -> list[Route] | None:
        """Return the routes whose key matches `pattern`.

        None if they are more than `most`, or if finding that out would cost more than to make them all anew.
        """
        if STAR not in pattern and PLUS not in pattern:
            route = self.routes.get(pattern)
            return [] if route is None else [route]
        found: list[Route] = []
        for length, places in self._index.items():
            if length < len(pattern) or (length > len(pattern) and pattern[-1] != STAR):
                continue
            sets = [places[place].get(part) for place, part in enumerate(pattern) if part not in (STAR, PLUS)]
            if None in sets:
                continue
            if sets:
                sets.sort(key=len)  # type: ignore[arg-type]
                if len(sets[0]) > max(most, self.MOST_SEARCHED):  # type: ignore[arg-type]
                    return None
                found.extend(set.intersection(*sets))  # type: ignore[arg-type]
            else:
                for held in places[0].values():
                    if len(found) + len(held) > most:
                        return None
                    found.extend(held)
            if len(found) > most:
                return None
        return found

    def fold(self) -> None:
        """Bring every figure up to date."""
        for route in self.routes.values():
            self._tally.fold(route)

    def dismantle(self, most: int) -> bool:
        """Give up to `most` routes up, and as much of the index; return whether more is left."""
        routes = self.routes
        for _ in range(min(most, len(routes))):
            self._tally.fold(routes.popitem()[1])
        index = self._index
        left = most
        while index and left > 0:
            length, places = index.popitem()
            for held in places:
                while held and left > 0:
                    held.popitem()
                    left -= 1
            if any(places):
                index[length] = places
        return bool(routes or index)
