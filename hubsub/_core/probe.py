"""Which callable of a route has failed, where the same one stands at several indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..key import Deliver, Key
from .routes import Route

# Handles a failure once its index is known: called with the route, the index, the message and the error.
Failed = Callable[[Route, int, Any, BaseException], None]


class Probe:
    """Replaces the callable after each index that may have failed: which probe is called shows which index it was.

    The loop of a publish knows what it called but not at which index, and counting would cost a step for every call.
    But it goes on with the next index of the same list. So the failure is reported there, just before that callable is
    called.
    """

    __slots__ = ("_error", "_failed", "_index", "_instead", "_probes", "_route")

    def __init__(
        self,
        route: Route,
        index: int,
        instead: Deliver | None,
        error: BaseException,
        failed: Failed,
        probes: list[Probe],
    ) -> None:
        self._route = route
        self._index = index
        self._instead = instead
        self._error = error
        self._failed = failed
        self._probes = probes

    @classmethod
    def set(cls, route: Route, indices: Sequence[int], error: BaseException, failed: Failed) -> None:
        """Have `failed` called, at the next step of the publish along `route`, for the index that has failed."""
        probes: list[Probe] = []
        for index in indices:
            after = index + 1
            probe = cls(route, after, route[after] if after < len(route) else None, error, failed, probes)
            probes.append(probe)
        # All at once: an index may both be a candidate and follow one.
        for probe in probes:
            route[probe._index : probe._index + 1] = [probe]

    def __call__(self, key: Key[Any], message: Any) -> None:
        route, instead = self._route, self._instead
        for probe in reversed(self._probes):
            if route[probe._index] is probe:  # and not overwritten by a removal
                route[probe._index : probe._index + 1] = [] if probe._instead is None else [probe._instead]
        self._failed(route, self._index - 1, message, self._error)
        if self._index < len(route):
            instead = route[self._index]
            try:
                instead(key, message)
            except BaseException as error:
                self._failed(route, self._index, message, error)
