"""Copies of routes of very many targets, kept so that a target that comes or goes does not cost a new route."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from ..key import Key, is_subset
from .routes import Route, Target


class WideRoutes:
    """Keeps copies of wide routes that were dropped, without their observers, and keeps them up to date.

    Making a route of 50,000 targets takes milliseconds; removing one target from a copy does not. Each copy is kept
    until its key is published to, or until more has changed than is worth it.
    """

    # The number of targets from which a route counts as wide.
    LEAST = 500
    # Changes of a copy before it is dropped, so that closing all of its targets stays linear.
    MOST_CHANGES = 16
    # Routes kept.
    MOST_KEPT = 16

    __slots__ = ("_changes", "kept")

    def __init__(self) -> None:
        self.kept: dict[Key[object], Route] = {}
        """The copies, by key."""
        self._changes: dict[Key[object], int] = {}

    def keep(self, route: Route) -> None:
        """Keep a copy of a route that is dropped, if it is wide."""
        width = route.width
        if width < self.LEAST:
            return
        if len(self.kept) >= self.MOST_KEPT:
            self.take(next(iter(self.kept)))
        has_runs = route.steps is not route.targets
        copy = Route(route if not has_runs else map(_deliver_of, route.targets))
        copy.targets = copy.steps = route.targets.copy()
        if width < len(copy):
            del copy[:-width], copy.targets[:-width]
        copy.key = route.key
        copy.is_judged = route.is_judged and not has_runs
        self.kept[route.key] = copy
        self._changes[route.key] = 0

    def changed(self, pattern: tuple[str, ...], target: Target) -> None:
        """Update the copies after a target has come to a pattern, or gone from it."""
        for key in [key for key in self.kept if is_subset(key, pattern)]:
            self._changes[key] += 1
            if self._changes[key] > self.MOST_CHANGES:
                self.take(key)
            else:
                self.kept[key].update(target)

    def renew(self, target: Target) -> None:
        """Update the copies after a target has got another callable."""
        for key, copy in self.kept.items():
            index = copy.find(target, True) if target.is_on(key) else None
            if index is not None:
                copy[index] = target.deliver

    def take(self, key: Key[object]) -> Route | None:
        """Return the copy kept for a key, up to date but without observers, and drop it here; None if there is none."""
        self._changes.pop(key, None)
        return self.kept.pop(key, None)

    def clear(self) -> None:
        """Keep nothing."""
        self.kept.clear()
        self._changes.clear()


_deliver_of: Any = attrgetter("deliver")
