"""A publisher: a hub seen through a prefix."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Generic

from ._core.asking import Replies
from .describe import describe
from .event import Event
from .hub import Hub
from .key import STAR, Key, KeyLike, Patterns, T, as_patterns, publishable


class Publisher(Generic[T]):
    """Publishes under a prefix: `Publisher(hub, "host").publish(("cpu", "0"), 12.5)` publishes `("host", "cpu", "0")`.

    Args:
        hub: The hub to publish on.
        prefix: A key, a tuple, or a string for one part; prepended to every key. It may be the empty key.

    Raises:
        TypeError: `hub` is no Hub.
        InvalidKey: The prefix is no exact key.
    """

    # Full keys cached; beyond it the cache is cleared.
    REMEMBERED = 10_000

    __slots__ = ("_full", "hub", "prefix")

    def __init__(self, hub: Hub, prefix: KeyLike[T]) -> None:
        if not isinstance(hub, Hub):
            raise TypeError(f"a Publisher needs a Hub, then a prefix: {describe(hub)} is no Hub")
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
        """Publish under the prefix once every full queue has room; as `Hub.publish_wait`."""
        return await self.hub.publish_wait(self._full_key(key), message)

    async def publish_confirmed(
        self,
        key: KeyLike[Any],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int:
        """Publish under the prefix, and wait until everybody has finished with it; as `Hub.publish_confirmed`."""
        return await self.hub.publish_confirmed(self._full_key(key), message, timeout, headers=headers, due=due)

    def publish_with_headers(
        self, key: KeyLike[Any], message: T, headers: Mapping[str, str], *, due: float | None = None
    ) -> int:
        """Publish under the prefix, with headers that travel along; as `Hub.publish_with_headers`."""
        return self.hub.publish_with_headers(self._full_key(key), message, headers, due=due)

    def publish_many(self, pairs: Iterable[tuple[KeyLike[Any], T]]) -> int:
        """Publish each (key, message) under the prefix; as `Hub.publish_many`."""
        return sum(self.publish(key, message) for key, message in pairs)

    def publish_event(self, event: Event[T]) -> int:
        """Publish an event under the prefix, with its metadata; as `Hub.publish_event`."""
        if not isinstance(event, Event):
            raise TypeError(f"publish_event takes a hubsub.Event, not {describe(event)}")
        return self.hub.publish_event(Event(self._full_key(event.key), event.message, event.meta))

    def publish_threadsafe(self, key: KeyLike[Any], message: T = None) -> concurrent.futures.Future[int]:  # type: ignore[assignment]
        """Publish under the prefix from any thread; as `Hub.publish_threadsafe`."""
        # Not through the cached keys: they belong to the thread of the hub.
        return self.hub.publish_threadsafe(self.prefix + publishable(key), message)

    def request(
        self,
        key: KeyLike[Any],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send a request under the prefix; as `Hub.request`."""
        return self.hub.request(self._full_key(key), message, timeout, local, headers=headers)

    def request_many(
        self,
        key: KeyLike[Any],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        limit: int | None = None,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Replies:
        """Send a request under the prefix, for every reply; as `Hub.request_many`."""
        return self.hub.request_many(self._full_key(key), message, timeout, limit, local, headers=headers)

    def has_subscribers(self, patterns: Patterns = STAR) -> bool:
        """True if anybody is subscribed to a key under the prefix that a pattern matches; by default, to any of them.

        As `Hub.has_subscribers`.
        """
        return self.hub.has_subscribers([self.prefix + pattern for pattern in as_patterns(patterns)])

    def _full_key(self, key: KeyLike[Any]) -> Key[T]:
        """Return the whole key, from the cache where possible."""
        try:
            return self._full[key]
        except (KeyError, TypeError):
            pass
        full = self.prefix + publishable(key)
        if len(self._full) >= self.REMEMBERED:
            self._full.clear()
        self._full[key] = full
        return full
