"""One connection to a Redis: what is said over it, and what its answers mean."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

from ...errors import HubsubError
from .resp import Command, Parser, pack


class Connection:
    """One connection; once it has failed, it fails.

    redis-py opens it (TCP, TLS or a socket; authentication, database) and names the errors. What is said is written and
    read here. Either any number of callers ask and get answers, or one reads and others write, as after SUBSCRIBE.
    """

    __slots__ = ("_adapter", "_connection", "_parser", "_reader", "_turn", "_writer")

    def __init__(self, connection: Any, adapter: str) -> None:
        self._connection = connection
        self._adapter = adapter
        self._parser = Parser(self._error)
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and log in."""
        await self._connection.connect()
        self._reader: StreamReader = self._connection._reader
        self._writer: StreamWriter = self._connection._writer

    def write(self, data: bytes) -> None:
        """Send packed commands some time; that they were lost is seen by reading."""
        self._writer.write(data)

    async def read(self, *, is_flow: bool = True) -> list[Any]:
        """Wait for replies, and return those that are there; they come all the time unless `is_flow` is false.

        Each is bytes, int, None, a list of such, or a `ResponseError`; any other error is raised.
        """
        replies: list[Any] = []
        while not replies:
            piece = await self._reader.read(1 << 20)
            if not piece:
                raise ConnectionResetError(f"the connection of {self._adapter} to Redis is closed")
            replies = self._parser.feed(piece, is_flow=is_flow)
        return replies

    async def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send so many packed commands; return the reply of each."""
        async with self._turn:
            try:
                self.write(data)
                replies: list[Any] = []
                while len(replies) < count:
                    replies += await self.read(is_flow=False)
                return replies
            except BaseException:
                # The replies that are still to come would be taken for those of other commands.
                await self.close()
                raise

    async def ask(self, *commands: Command) -> list[Any]:
        """Send the commands together; return the reply of each."""
        return await self.exchange(pack(*commands), len(commands))

    async def one(self, *command: Any) -> Any:
        """Send a command and return its reply.

        Raises:
            redis.ResponseError: The server refuses it.
        """
        return sound(*await self.ask(command))

    async def atomically(self, *commands: Command) -> list[Any]:
        """Like `ask`, with nothing happening between the commands."""
        *queued, replies = await self.ask(("MULTI",), *commands, ("EXEC",))
        if isinstance(replies, Exception):
            # Why stands with the command that could not be queued.
            raise next((reply for reply in queued if isinstance(reply, Exception)), replies)
        return list(replies)

    def _error(self, words: str) -> Exception:
        """An error that the server tells, unless it is one of the connection or of a cluster, which is raised."""
        exceptions = import_module("redis.exceptions")
        error = self._connection._parser.parse_error(words)
        if isinstance(error, exceptions.AskError):
            raise HubsubError(f"{self._adapter} cannot use a Redis Cluster: one server, or Sentinel") from error
        if not isinstance(error, exceptions.ResponseError):
            raise error
        return cast(Exception, error)

    async def close(self) -> None:
        """Cut it, whatever it is doing; who waits for a reply gets an exception. Closing twice is safe."""
        writer: StreamWriter | None = self._connection._writer
        if writer is not None:
            # Closing would wait until a server that has stopped reading has read what was sent.
            writer.transport.abort()
            await self._connection.disconnect(nowait=True)
            with suppress(OSError):
                await writer.wait_closed()


def sound(reply: Any) -> Any:
    """Return a reply; raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def is_unknown(reply: Any) -> bool:
    """True if the server does not have the script that it was to run."""
    return isinstance(reply, Exception) and isinstance(reply, import_module("redis.exceptions").NoScriptError)


def refusal(error: Exception) -> Exception:
    """Return an error by which the server refuses this very command for good; raise one that may pass."""
    exceptions = import_module("redis.exceptions")
    passing = (
        exceptions.OutOfMemoryError,
        exceptions.ReadOnlyError,
        exceptions.NoScriptError,
        exceptions.ExecAbortError,
        exceptions.ClusterError,
        exceptions.AskError,
    )
    if isinstance(error, passing) or str(error).startswith(("BUSY ", "NOREPLICAS", "MISCONF", "UNBLOCKED")):
        raise error
    return error
