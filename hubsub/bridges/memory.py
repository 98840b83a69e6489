"""`memory://name`: a broker within the process. It is a reference for adapters, and can misbehave in tests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..key import Key, is_subset
from .adapter import Adapter, Features, Link, Received, Record


class MemoryBroker:
    """Passes messages between all adapters that are connected to the same name.

    Tests can have it misbehave: `drop` and `duplicate` are called with each record, and return whether it is lost or
    doubled; `delay` is in seconds; while `thawed` is clear, nothing is answered or delivered; while `is_down`, nobody
    can connect. `cut()` breaks every connection.
    """

    named: ClassVar[dict[str, MemoryBroker]] = {}

    def __init__(self) -> None:
        self.connections: list[MemoryAdapter] = []
        self.drop: Callable[[Record], bool] = _never
        self.duplicate: Callable[[Record], bool] = _never
        self.delay = 0.0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.is_down = False

    def cut(self) -> None:
        """Break every connection."""
        for adapter in list(self.connections):
            adapter.break_off()


def _never(record: Record) -> bool:
    return False


class MemoryAdapter(Adapter):
    """Joins hubs of one process: `memory://name`.

    A message reaches every connection that is subscribed to a pattern matching its key, in order; nothing is stored.
    """

    features = Features(order="all", confirms="received", patterns=True, headers=True)

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker = MemoryBroker.named.setdefault(url, MemoryBroker())
        self._patterns: set[Key[Any]] = set()
        self._inbox: deque[Received] = deque()
        self._news = asyncio.Event()
        self._is_connected = False

    def __repr__(self) -> str:
        return f"MemoryAdapter({self.url!r})"

    async def connect(self, link: Link) -> None:
        await self.broker.thawed.wait()
        if self.broker.is_down:
            raise ConnectionError("the broker is down")
        self._patterns.clear()
        self._inbox.clear()
        self._news = asyncio.Event()  # belongs to the running loop
        self._is_connected = True
        self.broker.connections.append(self)

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        await asyncio.sleep(self.broker.delay)
        await self.broker.thawed.wait()
        if not self._is_connected:
            raise ConnectionError("the connection is broken")
        for record in records:
            if not self.broker.drop(record):
                for _ in range(1 + self.broker.duplicate(record)):
                    for other in self.broker.connections:
                        other.deliver(record)
        return {}

    def deliver(self, record: Record) -> None:
        """Queue a record to be received, if a pattern matches."""
        if any(is_subset(record.key, pattern) for pattern in self._patterns):
            self._inbox.append(Received(record.key, record.payload, record.headers))
            self._news.set()

    async def receive(self) -> Sequence[Received]:
        while not self._inbox:
            if not self._is_connected:
                raise ConnectionError("the connection is broken")
            self._news.clear()
            await self._news.wait()
        batch = list(self._inbox)
        self._inbox.clear()
        return batch

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self.broker.thawed.wait()
        self._patterns.update(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        self._patterns.difference_update(patterns)

    def break_off(self) -> None:
        """Lose the connection."""
        self._is_connected = False
        if self in self.broker.connections:
            self.broker.connections.remove(self)
        self._news.set()

    async def close(self) -> None:
        self.break_off()
