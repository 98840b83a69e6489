"""A tap: records messages without being a subscription."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import time as now
from typing import TYPE_CHECKING, Any, NamedTuple

from ..describe import describe_all
from ..event import Event, Meta
from ..key import Key, is_subset
from .handles import Handle, Removal
from .routes import Observer

if TYPE_CHECKING:
    pass


class Tapped(NamedTuple):
    """A message that a tap has recorded."""

    key: Key[Any]
    message: Any
    time: float
    """When it was published, in seconds since the epoch."""
    routed: int
    """How many subscriptions its key led to, including any that a bridge left out."""
    meta: Meta | None = None
    """Its metadata, if it had any."""


class Tap(Handle):
    """Records the messages that match its patterns, until `close()`, or leaving it as a context manager.

    Each message is recorded before it is delivered. What happened to it afterwards is in the counters of the
    subscriptions and in `Hub.explain`. Like a subscription, a tap sees the hub's own namespace if a pattern matches it.
    """

    __slots__ = ("_close", "_observers", "_patterns", "_records", "closed", "forgotten", "limit")

    def __init__(self, close: Callable[[Tap], None], patterns: list[tuple[str, ...]], limit: int) -> None:
        self._close = close
        self._patterns = patterns
        self._records: deque[Tapped] = deque(maxlen=limit)
        self._observers: dict[int, Observer] = {}
        self.limit = limit
        self.closed = False
        """True once it has been closed."""
        self.forgotten = 0
        """Records that were dropped because of the limit."""

    @property
    def patterns(self) -> tuple[Key[Any], ...]:
        """The patterns that it records."""
        return tuple(Key.create_from(pattern) for pattern in self._patterns)

    @property
    def records(self) -> list[Tapped]:
        """What it has recorded, oldest first."""
        return list(self._records)

    def clear(self) -> None:
        """Forget the records, and reset the counter of dropped ones."""
        self._records.clear()
        self.forgotten = 0

    def close(self) -> Removal:
        """Record nothing more; what was recorded stays. Closing twice is safe; awaiting it is optional."""
        if not self.closed:
            self._close(self)
            self.closed = True
        return Removal()

    def _end(self) -> Removal:
        return self.close()

    def _observer(self, key: Key[Any], routed: int) -> Any:
        """Return the observer of an exact key that leads to `routed` subscriptions."""
        if not any(is_subset(key, pattern) for pattern in self._patterns):
            return None
        if routed not in self._observers:
            self._observers[routed] = self._make_observer(routed)
        return self._observers[routed]

    def _make_observer(self, routed: int) -> Observer:
        records = self._records

        def record(key: Key[Any], message: Any, meta: Meta | None = None) -> None:
            if len(records) == records.maxlen:
                self.forgotten += 1
            records.append(Tapped(key, message, now(), routed, meta))

        def record_event(event: Event[Any]) -> None:
            record(event.key, event.message, event.meta)

        return Observer(record, record_event)

    def __len__(self) -> int:
        return len(self._records)

    def __bool__(self) -> bool:
        return True  # even if it is empty

    def __repr__(self) -> str:
        patterns = describe_all(self._patterns)
        return f"<Tap {patterns} recorded={len(self._records)}{' closed' if self.closed else ''}>"
