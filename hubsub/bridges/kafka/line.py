"""Watching connections: one that moves bytes is alive, and a silent one is given up.

The driver has a deadline for each request, counted from its start. A large answer over a slow line misses it, and is
requested again, for ever. So the driver's deadlines are set very far off, and this module measures silence instead:
time in which the event loop ran and nothing moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiokafka.conn import CloseReason

# Seconds of silence after which a connection is given up, beyond what its answers may take.
SILENCE = 5.0
# Seconds between two checks.
TICK = 0.25
# Bytes that may be buffered on the way, where they are not seen to move, and bytes a second of the slowest line.
BUFFERED, SLOWEST = 1 << 20, 64 * 1024
# The number of sent bytes that count as one sign of life. The few bytes of a request do not count: the kernel of a
# frozen broker acknowledges them too.
SENT = 4096


class Connection(Protocol):
    """A connection that is watched."""

    host: Any
    port: Any
    is_ready: bool
    """True once it is established."""
    silent: float
    """Seconds of silence while it owes an answer."""
    owed_before: int | None
    """What `owed` returned at the last check."""
    moved: int
    """Bytes received and pieces sent since the last check."""
    is_coming: bool
    """True if an answer has arrived in part."""

    def look(self) -> tuple[int, int]:
        """Return the bytes received since the last check, and the pieces sent."""
        ...

    def owed(self) -> int | None:
        """The request whose answer is due next; None if none is."""
        ...

    def waits_for_group(self) -> bool:
        """True if the answer may take as long as a rebalance of a group."""
        ...

    def close(self, reason: Any = None, exc: Any = None) -> Any:
        """Close it."""
        ...


class Client(Protocol):
    """A client whose connections are watched."""

    @property
    def connections(self) -> Collection[Connection]:
        """All connections, including those that are being made."""
        ...


class Line:
    """The traffic between the clients of one kind and their brokers; it outlives both.

    Args:
        patience: Seconds that an answer may take without anything being wrong.
        group_patience: Seconds that a rebalance of a group may take.
    """

    def __init__(self, patience: float = 0.0, group_patience: float = 0.0) -> None:
        self.received = 0
        """Bytes received."""
        self.sent = 0
        """Pieces of `SENT` bytes that the other side has acknowledged."""
        self.connected = 0
        """Connections that were made."""
        self.silent = 0.0
        """Seconds of silence, while the loop ran."""
        self.rate: float | None = None
        """Received bytes a second while an answer took a whole `TICK`; None if no answer takes that long."""
        self.round_trip = 0.0
        """Seconds that the newest connection took to answer."""
        self.owed = 0
        """Bytes of requests that are not answered yet."""
        self.broken: ConnectionError | None = None
        """Set when a connection is lost, even if the driver goes on with another one."""
        self.on_broken: Callable[[], object] = _nothing
        """Called when a connection is lost."""
        self._patience = patience
        self._group_patience = group_patience
        self._clients: list[Client] = []
        self._waits: set[_Wait] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last = 0.0
        self._moved = 0

    @property
    def moved(self) -> int:
        """Grows with every sign of life, in either direction."""
        self._look()
        return self.received + self.sent

    @property
    def limit(self) -> float:
        """Seconds of silence after which a connection counts as lost."""
        on_the_way = min(self.owed, BUFFERED) / SLOWEST
        return SILENCE + self._patience + min(30.0, self.round_trip) + on_the_way

    @asynccontextmanager
    async def patience(
        self,
        what: str = "Kafka does not answer",
        *,
        silence: float | None = None,
        most: float = float("inf"),
        of: Connection | None = None,
    ) -> AsyncIterator[None]:
        """Run the block as long as something moves, unless it is interrupted.

        Args:
            what: The text of the error if nothing moves.
            silence: Seconds of silence, by default the line's `limit`.
            most: The most seconds that it may take in all.
            of: The connection that must move; by default any.

        Raises:
            ConnectionError: Nothing moved for that long, it took too long, or it was interrupted.
        """
        wait: _Wait | None = None
        try:
            async with asyncio.timeout(None) as timeout:
                wait = _Wait(timeout, what, silence, most, of)
                self._waits.add(wait)
                self._start()
                yield
        except TimeoutError:
            if wait is None or not wait.timeout.expired():
                raise
            raise ConnectionError(wait.what) from None
        finally:
            if wait is not None:
                self._waits.discard(wait)

    def interrupt(self) -> None:
        """End everything that waits."""
        for wait in self._waits:
            wait.end("the connection to Kafka is given up")

    def cut(self) -> None:
        """Cut all connections: the driver makes new ones."""
        for client in self._clients:
            for connection in list(client.connections):
                connection.is_ready = False  # it was closed on purpose
                connection.close(reason=CloseReason.CONNECTION_BROKEN)

    def lose(self, connection: Connection) -> None:
        """Note that a connection was lost."""
        self.broken = ConnectionError(f"the connection to {connection.host}:{connection.port} was lost")
        self.on_broken()

    # Watching

    def add(self, client: Client) -> None:
        """Watch the connections of a client."""
        self._clients.append(client)
        self.silent = 0.0
        self._start()

    def remove(self, client: Client) -> None:
        """Stop watching a client."""
        if client in self._clients:
            self._look()
            self._clients.remove(client)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._last = loop.time()
            loop.call_later(TICK, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        if not self._clients and not self._waits:
            self._loop = None
            return
        now = loop.time()
        # While the loop was blocked, nothing could be received.
        elapsed, self._last = now - self._last, now
        passed = min(elapsed, 2 * TICK)
        self._look()
        moved, self._moved = self.received + self.sent - self._moved, self.received + self.sent
        self.silent = 0.0 if moved else self.silent + passed
        for wait in list(self._waits):
            wait.step(passed, bool(moved if wait.of is None else wait.of.moved), self.limit)
        self.rate = None
        for client in self._clients:
            for connection in list(client.connections):
                self._watch(connection, elapsed, passed)
        loop.call_later(TICK, self._tick, loop)

    def _look(self) -> None:
        for client in self._clients:
            for connection in client.connections:
                received, sent = connection.look()
                self.received += received
                self.sent += sent

    def _watch(self, connection: Connection, elapsed: float, passed: float) -> None:
        """Give up a connection that owes an answer and was silent for too long."""
        owed = connection.owed()
        moved, connection.moved = connection.moved, 0
        is_same = owed is not None and owed == connection.owed_before
        if is_same and moved and connection.is_coming:
            self.rate = moved / elapsed
        connection.silent = connection.silent + passed if is_same and not moved else 0.0
        connection.owed_before, connection.is_coming = owed, is_same and moved > 0
        limit = self.limit + (self._group_patience if connection.waits_for_group() else 0.0)
        if connection.is_ready and connection.silent > limit:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)


def _nothing() -> None:
    pass


class _Wait:
    """A wait that goes on as long as something moves."""

    def __init__(
        self, timeout: asyncio.Timeout, what: str, silence: float | None, most: float, of: Connection | None
    ) -> None:
        self.timeout = timeout
        self.what = what
        self.of = of
        self._silence = silence
        self._most = most
        self._silent = self._taken = 0.0

    def step(self, passed: float, moved: bool, limit: float) -> None:
        """Called after each tick with the time that has passed."""
        self._silent = 0.0 if moved else self._silent + passed
        self._taken += passed
        if self._silent > (limit if self._silence is None else self._silence) or self._taken > self._most:
            self.end(self.what)

    def end(self, what: str) -> None:
        """End it now."""
        when = self.timeout.when()
        if when is None:
            self.what = what
            self.timeout.reschedule(asyncio.get_running_loop().time())
