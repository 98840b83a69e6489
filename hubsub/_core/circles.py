"""Listeners that publish in a circle: ending the whole cascade at once, where the stack is full."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from itertools import islice
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..describe import describe
from ..key import Key
from ..log import Logger

if TYPE_CHECKING:
    from types import FrameType

logger = Logger("hubsub.hub")

NOWHERE: dict[Any, Any] = {}
"""Where publishes look for their routes after the stack was full: they find none, and so reach `Circles.check`."""


class Overrun(RecursionError):
    """A publish was refused: listeners publish in a circle, and have filled the stack."""


def caused_by_circle(error: BaseException | None) -> bool:
    """True if an error was caused by the refusal of a publish."""
    while error is not None and not isinstance(error, Overrun):
        error = error.__cause__
    return error is not None


class Circles:
    """Refuses publishes that go round in circles, once the stack was full several times.

    A failing listener does not stop the others. So after a cascade has filled the stack, each of its levels would go on
    with its next listener, which fills the stack again; with two listeners a level, that takes for ever. Code that
    finds the stack full cannot call anything: it counts in `overruns`, sets `key`, and makes publishes look for routes
    in `NOWHERE`. So all further publishes go through `check`, until the outermost one has returned.

    Circles are found by walking the stack, which happens after an overrun only. This is a protection and not a promise:
    in a compiled core it would find nothing, and refuse nothing.

    Args:
        delivering: The code of the functions that call listeners; each has the hub as `self`, and a `route` or `event`.
    """

    __slots__ = ("_crowded", "_delivering", "_is_logged", "key", "overruns", "refused")

    # Overruns before anything is refused: a single listener that recurses must not affect the others.
    FORGIVEN = 8
    # After so many overruns, or publishes refused in a circle, every publish that is nested `SHALLOW` deep is refused:
    # the keys may be new each time.
    MOST_OVERRUNS = 16
    MOST_REFUSED = 10_000
    SHALLOW = 4
    # Nested publishes beyond which it must be a circle.
    DEEP = 10

    def __init__(self, delivering: Collection[CodeType]) -> None:
        self._delivering = delivering
        self._is_logged = False
        self._crowded = 0  # consecutive checks that found little room
        self.overruns = 0
        self.refused = 0
        self.key: object = None

    def look(self, hub: object, key: Key[Any]) -> bool:
        """Return whether the nested publishes, `key` the innermost, are a circle that fills the stack unnoticed.

        Listeners may swallow the error, and it may be raised each time in their call of `publish`, before `publish` can
        notice it. Then, too, every publish has to go through `check`.
        """
        try:
            publishing = list(self._publishing(hub))
        except RecursionError:
            return False  # there is room for it further up
        if len(publishing) < self.DEEP or _has_room(sys.getrecursionlimit() // 10):
            self._crowded = 0
            return False
        self._crowded += 1
        if self._crowded < 2:
            return False
        self.key = key
        self.overruns = 1 + (self.FORGIVEN if publishing.count(key) > 1 else self.MOST_OVERRUNS)
        return True

    def check(self, hub: object, key: Key[Any]) -> bool:
        """Return whether the outermost publish has returned, so that the hub is back to normal.

        Raises:
            Overrun: The publish of `key` is refused.
        """
        publishing = self._publishing(hub)
        path = list(islice(publishing, self.SHALLOW))
        if not path:
            if not self._is_logged:  # listeners have swallowed it
                self._log([self.key])
            self.overruns = self.refused = 0
            self._is_logged = False
            return True
        if self.overruns <= self.FORGIVEN:
            return False
        refuses_all = self.overruns > self.MOST_OVERRUNS or self.refused > self.MOST_REFUSED
        if not (refuses_all and len(path) == self.SHALLOW) and key not in path and key not in publishing:
            return False
        self.refused += 1
        try:
            self._log_once(key, self._publishing(hub))
        except RecursionError:
            pass  # there is room for it further up
        raise Overrun("maximum recursion depth exceeded: refused until the outermost publish has returned")

    def report(self, hub: object, key: Key[Any]) -> bool:
        """Log, once, that the stack was full while `key` was delivered; return False if not because of a circle."""
        publishing = self._publishing(hub)
        next(publishing, None)  # the publish of `key` itself
        return self._log_once(key, publishing)

    def _log_once(self, key: Key[Any], publishing: Iterator[Key[Any]]) -> bool:
        if self._is_logged:
            return True
        path = [key]
        for each in publishing:
            path.append(each)
            if each == key:
                break
        else:
            # No key repeats: they may be new each time.
            if len(path) < self.DEEP:
                return False
        self._log(path[: self.DEEP])
        return True

    def _log(self, path: list[Any]) -> None:
        if not _has_room(50):  # for the log handlers
            raise RecursionError
        keys = " -> ".join(map(describe, reversed(path)))
        logger.error("maximum recursion depth exceeded: listeners publish for one another without end, %s", keys)
        self._is_logged = True

    def _publishing(self, hub: object) -> Iterator[Key[Any]]:
        """The keys that are being published, the innermost first."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code in self._delivering:
                known = frame.f_locals
                if known.get("self") is hub:
                    if "route" in known:
                        yield known["route"].key
                    elif "event" in known:
                        yield known["event"][0]
            frame = frame.f_back


def _has_room(calls: int) -> bool:
    """True if the stack has room for `calls` more calls."""
    try:
        _call(calls)
    except RecursionError:
        return False
    return True


def _call(calls: int) -> None:
    if calls:
        _call(calls - 1)
