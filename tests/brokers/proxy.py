"""A line to a broker that fails the way lines do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from typing import Self


class Proxy:
    """Passes bytes between clients and a port of this machine, in `async with`, and does harm when it is asked to.

    Args:
        target: The port that it connects to.
        url: The url of what is there; `self.url` is the same by way of this proxy.
        port: Listen here, else on a free port.
    """

    def __init__(self, target: int, *, url: str = "", port: int = 0) -> None:
        self.target = target
        self.port = port
        self.delay = 0.0
        """Seconds that each piece of at most 64 KiB is kept back, in both directions: the line is slow, and narrow."""
        self._url = url
        self._server: asyncio.Server | None = None
        self._lines: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._ended: set[asyncio.StreamWriter] = set()
        self._requests = asyncio.Event()
        self._replies = asyncio.Event()
        self.resume()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        await asyncio.gather(*self._lines, return_exceptions=True)

    @property
    def url(self) -> str:
        """The url of the target, with the port of this proxy."""
        return re.sub(rf":{self.target}\b", f":{self.port}", self._url)

    @property
    def lines(self) -> int:
        """How many clients are connected."""
        return len(self._lines)

    def stall(self) -> None:
        """Let nothing through, in neither direction, while connections stay and new ones are accepted."""
        self._requests.clear()
        self._replies.clear()

    def stall_replies(self) -> None:
        """Let through what clients send and not what the broker answers: it does what it is told, and nobody knows."""
        self._replies.clear()

    def resume(self) -> None:
        """Let through what was kept back, and all that follows."""
        self._requests.set()
        self._replies.set()

    def cut(self) -> None:
        """Reset all connections, on both sides; what was kept back is lost."""
        for line, writers in self._lines.items():
            for writer in writers:
                _reset(writer)
            line.cancel()

    def half_close(self) -> None:
        """Tell all clients that no more bytes come, and drop those that do, while the clients' still go through."""
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
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        # Whoever is cut has ended as he should; asyncio would report it.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(from_client, client)

    async def _carry(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        writers = self._lines[line] = [client]
        try:
            from_target, target = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(from_client, target, self._requests))
                both.create_task(self._pass(from_target, client, self._replies))
        except* OSError:
            # One side is gone without saying goodbye: the other one learns it the same way.
            for writer in writers:
                _reset(writer)
        finally:
            for writer in writers:
                writer.transport.abort()
                self._ended.discard(writer)
            del self._lines[line]

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, may_pass: asyncio.Event) -> None:
        data = b"anything"
        while data:
            data = await source.read(65536)
            await may_pass.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if target in self._ended:
                continue
            if data:
                target.write(data)
                await target.drain()
            else:
                target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other side gets an error, not the end of the data."""
    if writer.transport.is_closing():
        return
    # By a copy of the descriptor, because not every loop lets its sockets be touched.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
