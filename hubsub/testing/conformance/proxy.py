"""A line to a broker that fails the way lines do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections import deque
from typing import Self

PIECE = 65536
"""Bytes that are read at once; fewer on a slow line."""
MOST_ON_THE_WAY = 8 << 20
"""The most bytes that one direction of a connection holds on their way over a long line."""
BUFFER = 65536
"""Size of the system's receive buffer: a larger one would acknowledge bytes at once, however slow the line."""


class Proxy:
    """Passes bytes between clients and a port of this machine, in `async with`, and harms connections on request.

    Args:
        target: The port that it connects to.
        url: The URL of the target; `self.url` is the same through this proxy.
        port: The port to listen on; 0 for a free one.
    """

    def __init__(self, target: int, *, url: str = "", port: int = 0) -> None:
        self.target = target
        self.port = port
        self._url = url
        self._server: asyncio.Server | None = None
        self._lines: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._ended: set[asyncio.StreamWriter] = set()
        self._abandoned: list[asyncio.StreamWriter] = []
        self._delay = 0.0
        self._left: int | None = None  # bytes left until everything is cut
        self._requests = _Direction()
        self._replies = _Direction()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse and cut everything. Closing twice is safe."""
        self.refuse()
        self.cut()
        await asyncio.gather(*self._lines, return_exceptions=True)

    @property
    def url(self) -> str:
        """The URL of the target, with the port of this proxy."""
        return re.sub(rf":{self.target}\b", f":{self.port}", self._url)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._lines)

    def stall(self) -> None:
        """Let nothing through, in neither direction, while connections stay and new ones are accepted."""
        self._requests.is_open.clear()
        self._replies.is_open.clear()

    def stall_replies(self) -> None:
        """Let through what clients send but not the broker's replies: it carries out requests, and nobody knows."""
        self._replies.is_open.clear()

    def resume(self) -> None:
        """Let through the bytes that were held back, and all that follow."""
        self._requests.is_open.set()
        self._replies.is_open.set()

    def slow(self, rate: float | None) -> None:
        """Let through `rate` bytes a second in each direction, over all connections together; None for no limit."""
        self._requests.rate = self._replies.rate = rate

    def delay(self, seconds: float) -> None:
        """Delay everything by `seconds` in each direction, without limiting the rate."""
        self._delay = seconds

    def cut(self) -> None:
        """Reset all connections, on both sides; bytes that were held back are lost."""
        self._left = None
        for line, writers in self._lines.items():
            for writer in writers:
                _reset(writer)
            line.cancel()
        self.forget()

    def abandon(self) -> None:
        """Reset all connections on the clients' side only: the broker is not told, and nobody reads what it sends.

        So it is where a client's network has changed, or a router between them has forgotten the connection.
        """
        for line, writers in self._lines.items():
            client, *targets = writers
            self._abandoned += targets
            writers[:] = [client]
            _reset(client)
            line.cancel()

    def forget(self) -> None:
        """Reset on the broker's side what was abandoned."""
        for writer in self._abandoned:
            _reset(writer)
        self._abandoned.clear()

    def cut_after(self, size: int) -> None:
        """Cut when `size` more bytes have passed, in any direction of any connection."""
        self._left = size

    def half_close(self) -> None:
        """End the stream to all clients, dropping later bytes, while bytes from the clients still go through."""
        for client, *_ in self._lines.values():
            if client not in self._ended:
                self._ended.add(client)
                client.write_eof()

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Accept connections again, on the same port."""
        if self._server is None:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # that of connections, too
            listening.bind(("127.0.0.1", self.port))
            self._server = await asyncio.start_server(self._connected, sock=listening)
            self.port = listening.getsockname()[1]

    async def _connected(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        # A connection that was cut has ended as it should; asyncio would log an error.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(from_client, client)

    async def _carry(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        writers = self._lines[line] = [client]
        try:
            if self._delay:
                await asyncio.sleep(2 * self._delay)
            from_target, target = await self._connect()
            writers.append(target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(from_client, target, self._requests))
                both.create_task(self._pass(from_target, client, self._replies))
        except* OSError:
            # One side has gone without closing: the other side is reset, too.
            for writer in writers:
                _reset(writer)
        finally:
            for writer in writers:
                writer.transport.abort()
                self._ended.discard(writer)
            del self._lines[line]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.socket()
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.target))
            return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: _Direction) -> None:
        """Read at the rate of the line, and write bytes when they have reached its other end."""
        way = _Way()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(source, way, direction))
            both.create_task(self._write(way, target, direction))

    async def _read(self, source: asyncio.StreamReader, way: _Way, direction: _Direction) -> None:
        loop = asyncio.get_running_loop()
        data = b"anything"
        while data:
            await direction.is_open.wait()
            data = await source.read(direction.piece())
            await direction.passes(len(data))
            await way.put(data, loop.time() + self._delay)

    async def _write(self, way: _Way, target: asyncio.StreamWriter, direction: _Direction) -> None:
        loop = asyncio.get_running_loop()
        data = b"anything"
        while data:
            data, due = await way.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await direction.is_open.wait()
            if target in self._ended:
                continue
            if not data:
                target.write_eof()
            elif self._left is None:
                target.write(data)
                await target.drain()
            else:
                await self._write_the_last(data, target)

    async def _write_the_last(self, data: bytes, target: asyncio.StreamWriter) -> None:
        """Write the bytes that may still pass, and cut when none may."""
        assert self._left is not None
        last = data[: self._left]
        self._left -= len(last)
        target.write(last)
        await target.drain()
        if self._left == 0:
            # In a turn of its own, a little later: the bytes written must arrive, and cutting cancels this task.
            asyncio.get_running_loop().call_later(0.002, self.cut)
            await asyncio.Event().wait()


class _Direction:
    """The state that all connections share in one direction."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.rate: float | None = None
        self._free_at = 0.0

    def piece(self) -> int:
        """How many bytes to read at once; on a narrow line, what passes in a fiftieth of a second."""
        return PIECE if self.rate is None else max(1, min(PIECE, int(self.rate / 50)))

    async def passes(self, size: int) -> None:
        """Return when `size` bytes have passed."""
        if self.rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + size / self.rate
        await asyncio.sleep(self._free_at - now)


class _Way:
    """The bytes on their way in one direction of a connection."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[bytes, float]] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, data: bytes, due: float) -> None:
        while self._size > MOST_ON_THE_WAY:
            self._room.clear()
            await self._room.wait()
        self._pieces.append((data, due))
        self._size += len(data)
        self._news.set()

    async def get(self) -> tuple[bytes, float]:
        while not self._pieces:
            self._news.clear()
            await self._news.wait()
        data, due = self._pieces.popleft()
        self._size -= len(data)
        self._room.set()
        return data, due


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other side gets an error, not the end of the data."""
    if writer.transport.is_closing():
        return
    # By a copy of the descriptor, because not every loop allows access to its sockets.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
