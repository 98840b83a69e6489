"""Which place of a route has failed, where one callable stands in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..key import Deliver, Key
from .routes import Route

# What is to be done about a failure, once its place is known: given the place, the message and the error.
Failed = Callable[[Route, int, Any, BaseException], None]


class Probe:
    """Stands in for the place after each that may have failed: the one that is called tells which it was.

    The loop of a publish knows what it called but not where, and to know it would cost every call something. But it
    goes on with the next place, of this very list. So the failure is told there, just before that is delivered to.
    """

    __slots__ = ("_error", "_failed", "_instead", "_place", "_probes", "_route")

    def __init__(
        self,
        route: Route,
        place: int,
        instead: Deliver | None,
        error: BaseException,
        failed: Failed,
        probes: list[Probe],
    ) -> None:
        self._route = route
        self._place = place
        self._instead = instead
        self._error = error
        self._failed = failed
        self._probes = probes

    @classmethod
    def set(cls, route: Route, places: Sequence[int], error: BaseException, failed: Failed) -> None:
        """Have `failed` called, at the next step of a publish along `route`, for that of `places` that has failed."""
        probes: list[Probe] = []
        for place in places:
            after = place + 1
            probe = cls(route, after, route[after] if after < len(route) else None, error, failed, probes)
            probes.append(probe)
        # All at once: a place may be both in question and after one.
        for probe in probes:
            route[probe._place : probe._place + 1] = [probe]

    def __call__(self, key: Key[Any], message: Any) -> None:
        route, instead = self._route, self._instead
        for probe in reversed(self._probes):
            if route[probe._place] is probe:  # and not a place that something was removed from
                route[probe._place : probe._place + 1] = [] if probe._instead is None else [probe._instead]
        self._failed(route, self._place - 1, message, self._error)
        if self._place < len(route):
            instead = route[self._place]
            try:
                instead(key, message)
            except BaseException as error:
                self._failed(route, self._place, message, error)
