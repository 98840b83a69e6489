"""Likely mistakes with their remedies: a line in the log in debug mode, and a line of an explanation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

from ..describe import describe, name_of_callable
from ..key import PLUS, STAR, Key
from ..log import Logger
from .async_listener import AsyncListener
from .listener import Listener
from .registration import Registration
from .routes import Route

Pattern = tuple[str, ...]

logger = Logger("hubsub.hub")

# Lists of patterns that are remembered.
MOST_LISTS = 1000

# The separators and wildcards of other systems.
_SEPARATORS = re.compile(r"[./:]")
_WILDCARDS = {STAR: STAR, PLUS: PLUS, "#": STAR, "**": STAR, ">": STAR}

# The wildcards of others for all that is below, which are parts like any other here.
_FOREIGN = _WILDCARDS.keys() - {STAR, PLUS}


def meant_by(pattern: Pattern) -> Key[Any] | None:
    """Return the pattern that was probably meant, if a part of this one is a pattern or a wildcard elsewhere.

    >>> meant_by(("order.*",))
    ('order', '*')
    """
    parts: list[str] = []
    is_other = False
    for part in pattern:
        pieces = _SEPARATORS.split(part)
        if len(pieces) > 1 and "" not in pieces and not _WILDCARDS.keys().isdisjoint(pieces):
            is_other = True
            parts += [_WILDCARDS.get(piece, piece) for piece in pieces]
        else:
            parts.append(part)
    if parts and parts[-1] in _FOREIGN:
        is_other = True
        parts[-1] = STAR
    return Key.create_from(tuple(parts)) if is_other else None


def hint_on_pattern(pattern: Pattern) -> str | None:
    """Return a hint that a pattern matches only itself, if it looks as if it matched more."""
    meant = meant_by(pattern)
    if meant is None:
        return None
    return f"{Key.create_from(pattern)!r} matches only itself; as a pattern write {meant!r}"


def hint_on_waiting(registration: Registration, is_bound: bool) -> str | None:
    """Return a hint that nobody handles what is queued, and why."""
    mailbox = registration.mailbox
    if mailbox is None or not mailbox.pending:
        return None
    if isinstance(registration, AsyncListener):
        if not is_bound:
            return "its messages wait for an event loop, and none has run yet; await hub.start() binds the hub to one"
        return None
    if mailbox.line and is_unread(registration):
        return "publish_wait waits for room in it, and nobody has read it yet"
    return None


def is_unread(registration: Registration) -> bool:
    """True if it is a queue that nobody has ever read."""
    mailbox = registration.mailbox
    reads_itself = isinstance(registration, Listener) or registration.remote
    return mailbox is not None and not reads_itself and not mailbox.awaited and not registration.delivered


def hint_on_list(key: Pattern) -> str:
    """Return a hint that the parts of a key were subscribed to, and not the key."""
    return f"a list names several patterns, {list(key)!r}; one pattern is a tuple, {key!r}"


class Hints:
    """Logs likely mistakes in debug mode, each once.

    Args:
        hub: Named in the log.
        slow: Returns the seconds within which a sync listener should return, since it blocks the loop.
    """

    def __init__(self, hub: object, slow: Callable[[], float]) -> None:
        self._hub = hub
        self._slow = slow
        self._seen: set[object] = set()
        # What was subscribed to as several patterns of one part, and may have been meant as a key: the newest last.
        self._lists: dict[Pattern, None] = {}
        self.slowest: dict[int, float] = {}
        """The seconds of the longest call that was too slow, by the `order` of the listener."""

    def on_patterns(self, patterns: Iterable[Pattern]) -> None:
        """Check patterns that are subscribed to, or carried."""
        if isinstance(patterns, list) and len(patterns) > 1 and all(len(pattern) == 1 for pattern in patterns):
            self._lists[tuple(part for (part,) in patterns)] = None
            if len(self._lists) > MOST_LISTS:
                del self._lists[next(iter(self._lists))]
        for pattern in patterns:
            meant = meant_by(pattern)
            if meant is not None and self._is_first(pattern):
                key = Key.create_from(pattern)
                logger.warning("%r matches only itself; as a pattern write %r", key, meant)

    def on_waiting(self, key: Key[Any], registrations: Iterable[Registration]) -> None:
        """Check registrations whose queues a publisher is waiting for."""
        for registration in registrations:
            mailbox = registration.mailbox
            if mailbox is None or mailbox.has_room(key, 0):
                continue
            if is_unread(registration) and self._is_first(("waiting", registration.order)):
                logger.warning("publish_wait of %r waits for room in %r, which nobody has read yet", key, registration)

    def on_route(self, route: Route) -> Route:
        """Check where a key leads; return its route, with each sync listener replaced by a call that times it."""
        key = tuple(route.key)
        if not route.width and key in self._lists and self._is_first(("list", key)):
            logger.warning("%r leads to nobody: %s", route.key, hint_on_list(key))
        for index, target in enumerate(route.steps):
            if isinstance(target, Listener) and target.mailbox is None:
                route[index] = partial(self._timed, target, route[index])
        return route

    def _timed(self, listener: Listener, deliver: Callable[..., object], key: Key[Any], message: Any) -> object:
        began = perf_counter()
        try:
            return deliver(key, message)
        finally:
            took = perf_counter() - began
            if took >= self._slow():
                self._too_slow(listener, key, took)

    def _too_slow(self, listener: Listener, key: Key[Any], took: float) -> None:
        known = self.slowest.get(listener.order, 0.0)
        self.slowest[listener.order] = max(known, took)
        if took > 2 * known:
            name = name_of_callable(listener.function)
            logger.warning("listener %s blocked the event loop for %.2f s, with %r", name, took, key)

    def hint_on_slow(self, registration: Registration) -> str | None:
        """Return a hint of how long a sync listener blocked the loop."""
        took = self.slowest.get(registration.order)
        return None if took is None else f"it blocked the event loop for up to {took:.2f} s"

    def _is_first(self, what: object) -> bool:
        is_first = what not in self._seen
        self._seen.add(what)
        return is_first

    def __repr__(self) -> str:
        return f"<Hints of {describe(self._hub)}>"
