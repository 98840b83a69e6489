"""Callbacks added straight to a hub, by pattern and function: aiopubsub's `Hub.add_subscriber`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from .callables import identity_of
from .listener import Listener

Pattern = tuple[str, ...]


class DirectSubscribers:
    """The listeners added straight to a hub, each on one pattern; each may report how many messages are unhandled."""

    __slots__ = ("_by_pattern", "_unread")

    def __init__(self) -> None:
        self._by_pattern: dict[tuple[Pattern, Hashable], Listener] = {}
        self._unread: dict[Listener, Callable[[], int]] = {}

    def find(self, pattern: Pattern, function: Callable[..., object]) -> Listener | None:
        """Return the listener of a function on a pattern, if there is one."""
        return self._by_pattern.get((pattern, identity_of(function)))

    def counts(self, listener: Listener, unread: Callable[[], int]) -> None:
        """From now on call `unread` to learn how many messages a listener has not handled."""
        self._unread[listener] = unread

    def unread(self, target: Any) -> Callable[[], int] | None:
        """Return the function that counts the unhandled messages of a target, if there is one."""
        return self._unread.get(target) if self._unread else None

    # Called by the hub

    def _note(self, registration: Any, patterns: Iterable[Pattern]) -> None:
        for pattern in patterns:
            self._by_pattern[pattern, identity_of(registration.function)] = registration

    def _forget(self, registration: Any, patterns: Iterable[Pattern]) -> None:
        for pattern in patterns:
            self._by_pattern.pop((pattern, identity_of(registration.function)), None)
        self._unread.pop(registration, None)
