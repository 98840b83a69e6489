"""The routes that publishes may still be running along, though they have left the cache."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import compress
from sys import getrefcount
from weakref import ref

from .routes import Route


class Running:
    """Weak references to routes that have left the cache: only a running publish keeps such a route alive.

    A removal needs them, to remove a target from publishes that have not reached it yet.
    """

    __slots__ = ("_most", "noted")

    def __init__(self) -> None:
        self.noted: list[ref[Route]] = []
        self._most = 64

    def note(self, routes: Iterable[Route]) -> None:
        """Note routes that leave the cache, or were never in it."""
        self.noted += map(ref, routes)
        if len(self.noted) > self._most:
            self.alive()

    def note_used(self, routes: Collection[Route]) -> None:
        """Note those routes of a retired cache that something else refers to as well."""
        used = compress(routes, map((_HELD + 1).__lt__, map(getrefcount, routes)))
        # A key of one part is in the cache twice, by itself and by its part.
        self.noted += [ref(route) for route in used if len(route.key) > 1 or getrefcount(route) > _HELD + 2]

    def alive(self) -> list[Route]:
        """Return the routes that publishes are running along, and perhaps a few that something else keeps alive."""
        alive = [route for each in self.noted if (route := each()) is not None]
        self.noted = list(map(ref, alive))
        self._most = 2 * len(alive) + 64
        return alive


def _references() -> int:
    """Return what `getrefcount` gives, called as above, for an object that only a dictionary refers to."""
    routes = {number: Route() for number in range(2)}
    return max(map(getrefcount, routes.values()))


_HELD = _references()
