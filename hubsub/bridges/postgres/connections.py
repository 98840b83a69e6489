"""The two connections of a bridge: one receives, the other sends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..adapter import bytes_each_way
from ..inbox import Inbox
from ..together import together
from .database import Database
from .errors import explained

Begin = Callable[[Any], Awaitable[object]]


class Connections:
    """Two connections, from one connect until they are lost or closed. If one of them is lost, both are."""

    def __init__(self, database: Database, inbox: Inbox | None = None) -> None:
        self._database = database
        self._connections: list[Any] = []
        # Their transports, each from when it begins to connect.
        self._listening: list[Any] = []
        self._asking: list[Any] = []
        self._turn = asyncio.Lock()
        self._asking_turn = asyncio.Lock()
        self.inbox = inbox or Inbox()
        """What was received; it fails when a connection is lost."""
        self.listener: Any = None
        """The connection that receives notifications."""
        self.asker: Any = None
        """The connection that sends."""

    async def begin(self, listen: Begin, ask: Begin) -> None:
        """Open both connections at once, and prepare each.

        Args:
            listen: Prepares the connection that receives.
            ask: Prepares the connection that sends.

        Raises:
            BridgeError: The database refuses the connection for good; the error says what to change.
            OSError: The database does not answer, or accepts no connections now.
        """
        both = self._open(self._listening, listen), self._open(self._asking, ask)
        try:
            self.listener, self.asker = await together(both)
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and (explanation := explained(error)) is not error:
                raise explanation from error
            raise

    async def _open(self, transports: list[Any], begin: Begin) -> Any:
        connection = await self._database.connect(transports)
        self._connections.append(connection)
        connection.add_termination_listener(self._lost)
        await begin(connection)
        return connection

    async def hear(self, channel: str, call: Callable[[Any, int, str, str], None]) -> None:
        """Call `call` with each notification of a channel; return when the server has confirmed it."""
        async with self._turn:
            await self.listener.add_listener(channel, call)

    async def read(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a query over the connection that receives, so that it does not wait for a batch; return the rows."""
        async with self._turn:
            return list(await self.listener.fetch(sql, *arguments))

    async def write(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a query over the connection that sends; return the rows."""
        async with self._asking_turn:
            return list(await self.asker.fetch(sql, *arguments))

    async def ping(self) -> None:
        """Return when the server has answered."""
        async with self._turn:
            await self.listener.execute("select 1")

    @property
    def activity(self) -> int:
        """Changes whenever bytes have moved."""
        return sum(map(sum, map(moved, (self._listening, self._asking))))

    @property
    def receiving(self) -> int | None:
        """Changes whenever the receiving connection has received bytes; None if the system does not count them."""
        return moved(self._listening)[1] or None

    @property
    def sending(self) -> int | None:
        """Changes whenever bytes have moved over the sending connection; None if the system does not count them."""
        return sum(moved(self._asking)) or None

    def _lost(self, connection: Any) -> None:
        self.inbox.fail(ConnectionResetError("the connection to Postgres is lost"))

    async def close(self) -> None:
        """Abort both connections, whatever they are doing. Closing twice is safe."""
        self.inbox.fail(ConnectionResetError("the connection to Postgres is closed"))
        for connection in self._connections:
            connection.terminate()
        for transport in (*self._listening, *self._asking):
            transport.abort()
        # Tasks that the driver has started end in the next turn of the loop.
        await asyncio.sleep(0)


def moved(transports: list[Any]) -> tuple[int, int]:
    """Return how many bytes were sent over transports, and how many were received."""
    each = [bytes_each_way(transport) for transport in transports]
    return sum(sent for sent, _ in each), sum(received for _, received in each)
