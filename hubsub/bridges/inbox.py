"""A queue of messages that a broker has pushed and nobody has received yet, for adapters that need one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from .adapter import Loss, Received


class Inbox:
    """The received messages of a connection: `put` adds them, `Adapter.receive` takes them, and `fail` ends it.

    It is made for one connection, on its loop, and belongs to the thread of the loop. Messages that came before it
    failed can still be taken; then taking raises.
    """

    def __init__(self) -> None:
        self._items: list[Received | Loss] = []
        self._news = asyncio.Event()
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_failed(self) -> bool:
        """True if the connection is lost or closed."""
        return self._error is not None

    def put(self, items: Iterable[Received | Loss]) -> None:
        """Append messages that have come; after the end they are ignored."""
        if self._error is None:
            self._items += items
            if self._items:
                self._news.set()

    def ring(self) -> None:
        """Wake `wait`, whether messages have come or not."""
        self._news.set()

    def fail(self, error: Exception) -> None:
        """End it: taking raises this error, or the one that ended it before."""
        if self._error is None:
            self._error = error
        self._news.set()

    def take(self) -> list[Received | Loss]:
        """Return the messages that have come, perhaps none.

        Raises:
            Exception: There are none; this is the error that ended it.
        """
        if not self._items and self._error is not None:
            raise self._error
        self._news.clear()
        items, self._items = self._items, []
        return items

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for messages since the last `take`, for `ring` or `fail`, or until `seconds` have passed."""
        if seconds is None:
            await self._news.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def receive(self) -> list[Received | Loss]:
        """Wait for messages, and return all that have come.

        Raises:
            Exception: There are none; this is the error that ended it.
        """
        while not (items := self.take()):
            await self.wait()
        return items
