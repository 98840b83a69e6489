"""What a broker has sent and nobody has received yet: for adapters to which something comes unasked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from .adapter import Loss, Received


class Inbox:
    """Made for one connection, on its loop: what comes is put here, `Adapter.receive` takes it, and `fail` ends it.

    What came before it failed can still be taken; then taking raises. Belongs to the thread of the loop.
    """

    def __init__(self) -> None:
        self._items: list[Received | Loss] = []
        self._news = asyncio.Event()
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_failed(self) -> bool:
        """The connection is lost or closed."""
        return self._error is not None

    def put(self, items: Iterable[Received | Loss]) -> None:
        """Append what has come. After the end nothing is taken in any more."""
        if self._error is None:
            self._items += items
            if self._items:
                self._news.set()

    def ring(self) -> None:
        """Have `wait` return, whether something has come or not."""
        self._news.set()

    def fail(self, error: Exception) -> None:
        """End it: taking raises this, or what it was ended with before."""
        if self._error is None:
            self._error = error
        self._news.set()

    def take(self) -> list[Received | Loss]:
        """What has come, perhaps nothing.

        Raises:
            Exception: There is nothing, and it was ended with this.
        """
        if not self._items and self._error is not None:
            raise self._error
        self._news.clear()
        items, self._items = self._items, []
        return items

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until something has come since the last `take`, it rings or fails, or so many seconds are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def receive(self) -> list[Received | Loss]:
        """Wait until something has come, and return all of it.

        Raises:
            Exception: There is nothing, and it was ended with this.
        """
        while not (items := self.take()):
            await self.wait()
        return items
