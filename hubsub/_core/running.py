"""The routes that publishes may still be running along, though no cache has them any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import compress
from sys import getrefcount
from weakref import ref

from .routes import Route


class Running:
    """Knows routes that have left the cache as long as somebody runs along them: nobody else keeps them alive.

    A removal needs them, to take what was removed out of publishes that have not come to it yet.
    """

    __slots__ = ("_most", "noted")

    def __init__(self) -> None:
        self.noted: list[ref[Route]] = []
        self._most = 64

    def note(self, routes: Iterable[Route]) -> None:
        """These leave the cache, or never were in it."""
        self.noted += map(ref, routes)
        if len(self.noted) > self._most:
            self.alive()

    def note_used(self, routes: Collection[Route]) -> None:
        """Note those of a cache's routes, which it keeps for some time, that somebody else refers to as well."""
        used = compress(routes, map((_HELD + 1).__lt__, map(getrefcount, routes)))
        # A key of one part is in the cache twice.
        self.noted += [ref(route) for route in used if len(route.key) > 1 or getrefcount(route) > _HELD + 2]

    def alive(self) -> list[Route]:
        """Those that somebody runs along; a few more, perhaps, that something else has kept."""
        alive = [route for each in self.noted if (route := each()) is not None]
        self.noted = list(map(ref, alive))
        self._most = 2 * len(alive) + 64
        return alive


def _references() -> int:
    """What `getrefcount` says of what only a dictionary refers to, asked as above."""
    routes = {number: Route() for number in range(2)}
    return max(map(getrefcount, routes.values()))


_HELD = _references()
