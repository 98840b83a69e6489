"""What every bridge does for the log while it is connected: it drops what is too old, and releases what is due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .alarm import Alarm
from .sql import RELEASE

RETRY_SECONDS = 0.5
"""The pause after a release of delayed messages that failed."""
RELEASE_SECONDS = 0.05
"""The least time between two releases, so that messages due shortly after each other are released together."""


class Upkeep:
    """Keeps a log tidy, in two tasks. Every bridge does, because any other may have died.

    Args:
        write: Runs a statement over the sending connection.
        namespace: That of the log.
        maxlen: How many messages it keeps; None for all.
        max_age: For how many seconds it keeps one; None for ever.
        most: The most seconds between two looks.
    """

    def __init__(
        self,
        write: Callable[..., Awaitable[Any]],
        namespace: str,
        maxlen: int | None,
        max_age: float | None,
        most: float,
    ) -> None:
        self._write = write
        self._namespace = namespace
        self._maxlen = maxlen
        self._max_age = max_age
        self._most = most
        self._due = Alarm()
        self._next_due = math.inf
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the tasks."""
        self._tasks = [asyncio.create_task(self._tidy()), asyncio.create_task(self._release())]

    async def stop(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def note_due(self, connection: Any, pid: int, channel: str, text: str) -> None:
        """Note that a delayed message was stored, which is due at the time that `text` says."""
        # When, and not in how many seconds: the transaction that delayed it may have taken long.
        with suppress(ValueError):  # any program can notify there
            if float(text) < self._next_due:
                self._due.set(0)

    async def _tidy(self) -> None:
        pause = min(self._most, max(0.5, (self._max_age or math.inf) / 4))
        while True:
            # A failure here also occurs in calls that report it.
            with suppress(Exception):
                await self._write("select hubsub.tidy($1, $2)", self._namespace, self._max_age)
            await asyncio.sleep(pause)

    async def _release(self) -> None:
        while True:
            self._due.clear()
            self._next_due = math.inf
            seconds: float | None = RETRY_SECONDS
            # Likewise; and meanwhile another bridge may release them.
            with suppress(Exception):
                ((due, seconds),) = await self._write(RELEASE, self._namespace, self._maxlen)
                self._next_due = math.inf if due is None else due
            self._due.set(self._most if seconds is None else min(seconds, self._most))
            await asyncio.sleep(RELEASE_SECONDS)
            await self._due.wait()
