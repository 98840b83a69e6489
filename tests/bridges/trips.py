"""A line that counts how often it is travelled."""

from __future__ import annotations

import asyncio
from typing import Self

from brokers.redis_server import Redis


class Trips:
    """Counts how often clients of a port have to wait for an answer before they say more."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: list[int] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.server.close()

    def url(self, server: Redis) -> str:
        return server.url.replace(str(server.port), str(self.server.sockets[0].getsockname()[1]))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        index = len(self.counts)
        self.counts.append(0)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        is_answered = True

        async def there() -> None:
            nonlocal is_answered
            while data := await reader.read(65536):
                self.counts[index] += is_answered
                is_answered = False
                to_server.write(data)
            to_server.close()

        async def back() -> None:
            nonlocal is_answered
            while data := await from_server.read(65536):
                is_answered = True
                writer.write(data)
            writer.close()

        await asyncio.gather(there(), back(), return_exceptions=True)
