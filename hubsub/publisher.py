"""A publisher: a hub seen through a prefix."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Generic

from .hub import Hub
from .key import STAR, Key, KeyLike, Patterns, T, as_patterns, publishable


class Publisher(Generic[T]):
    """Publishes under a prefix: `Publisher(hub, "host").publish(("cpu", "0"), 12.5)` publishes `("host", "cpu", "0")`.

    Args:
        hub: Where to publish.
        prefix: A key, a tuple, or a string for one part; prepended to every key. It may be the empty key.
    """

    # Full keys remembered; beyond it all are forgotten, and made anew as they come.
    REMEMBERED = 10_000

    __slots__ = ("_full", "hub", "prefix")

    def __init__(self, hub: Hub, prefix: KeyLike[T]) -> None:
        self.hub = hub
        self.prefix: Key[T] = publishable(prefix) if prefix != () else Key()
        self._full: dict[tuple[str, ...] | str, Key[T]] = {}

    def __repr__(self) -> str:
        return f"<Publisher {self.prefix!r} on {self.hub!r}>"

    def publish(self, key: KeyLike[Any], message: T = None) -> int:  # type: ignore[assignment]
        """Publish under the prefix; as `Hub.publish`."""
        try:
            full = self._full[key]
        except (KeyError, TypeError):
            full = self._full_key(key)
        return self.hub.publish(full, message)

    async def publish_wait(self, key: KeyLike[Any], message: T = None) -> int:  # type: ignore[assignment]
        """Publish under the prefix when each full queue has a place; as `Hub.publish_wait`."""
        try:
            full = self._full[key]
        except (KeyError, TypeError):
            full = self._full_key(key)
        return await self.hub.publish_wait(full, message)

    def request(self, key: KeyLike[Any], message: T = None, timeout: float | None = 30.0) -> Awaitable[Any]:  # type: ignore[assignment]
        """Ask under the prefix; as `Hub.request`."""
        try:
            full = self._full[key]
        except (KeyError, TypeError):
            full = self._full_key(key)
        return self.hub.request(full, message, timeout)

    async def publish_confirmed(self, key: KeyLike[Any], message: T = None, timeout: float | None = 30.0) -> int:  # type: ignore[assignment]
        """Publish under the prefix, and wait until everybody has finished with it; as `Hub.publish_confirmed`."""
        return await self.hub.publish_confirmed(self._full_key(key), message, timeout)

    def has_subscribers(self, patterns: Patterns = STAR) -> bool:
        """True if anybody is subscribed to something under the prefix that a pattern matches; by default: to anything.

        As `Hub.has_subscribers`.
        """
        return self.hub.has_subscribers([self.prefix + pattern for pattern in as_patterns(patterns)])

    def _full_key(self, key: KeyLike[Any]) -> Key[T]:
        full = self.prefix + publishable(key)
        if len(self._full) >= self.REMEMBERED:
            self._full.clear()
        self._full[key] = full
        return full
