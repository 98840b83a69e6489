"""What comes over a connection, in order, and how far this client has got: its position."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from ...key import Key
from ..adapter import Loss, Received

# Messages that wait to be received; then nothing more is read.
MOST_WAITING = 10_000
# Origins of a position; beyond it, the one that has not changed for longest is forgotten.
MOST_ORIGINS = 1024


class Position:
    """How far a client has got, and what it was subscribed to there. It outlives connections."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        """The highest number that has been received of each origin."""
        self.patterns: list[Key[Any]] = []
        """What was subscribed to when the connection was lost."""
        self.left: float | None = None
        """When something was received last before that, in seconds since the epoch."""
        self.failures = 0
        """How often in succession what follows could not be read."""

    def advance(self, at: dict[str, int]) -> None:
        """Everything up to there has been received."""
        for origin, number in at.items():
            if number >= self.at.get(origin, -1):
                self.at[origin] = number
        while len(self.at) > MOST_ORIGINS:
            del self.at[next(iter(self.at))]

    def forget(self) -> None:
        """Begin anew, wherever that is."""
        self.at = {}
        self.patterns = []
        self.failures = 0


class Mark(NamedTuple):
    """A position that holds when all before it has been received."""

    at: dict[str, int]
    replaces: bool = False
    """It is that of another server, or of another life of it."""


class Flow:
    """Messages, losses and positions of one connection, on their way from the socket to `Adapter.receive`.

    The position advances when something is received, not when it arrives: what waits here is lost with the connection.
    """

    def __init__(self, position: Position) -> None:
        self._position = position
        self._items: deque[tuple[Received | Loss | None, Mark | None]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._error: Exception | None = None

    @property
    def error(self) -> Exception | None:
        """Why the connection has ended."""
        return self._error

    def put(self, item: Received | Loss | None, mark: Mark | None = None) -> None:
        """Something has come; a mark holds behind it."""
        self._items.append((item, mark))
        self._news.set()

    def fail(self, error: Exception) -> None:
        """Nothing more comes; the first reason counts."""
        if self._error is None:
            self._error = error
        self._news.set()
        self._room.set()

    async def has_room(self) -> None:
        """Wait until there is room for more."""
        while len(self._items) > MOST_WAITING and self._error is None:
            self._room.clear()
            await self._room.wait()

    async def receive(self) -> list[Received | Loss]:
        """Wait for something, and return all that has come.

        Raises:
            Exception: There is nothing; this is what has ended the connection.
        """
        while True:
            batch: list[Received | Loss] = []
            while self._items:
                item, mark = self._items.popleft()
                if mark is not None:
                    if mark.replaces:
                        self._position.at = {}
                    self._position.advance(mark.at)
                if item is not None:
                    batch.append(item)
            self._room.set()
            if batch:
                self._position.failures = 0
                return batch
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
