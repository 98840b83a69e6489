"""The bytes of RESP2, the protocol of Redis, for who reads and writes many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

CHUNK = 1 << 18  # bytes, about what a socket hands over at once


class Refused(Exception):
    """What Redis answers to a command that it does not carry out; `code` is the first word of it."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Incomplete(Exception):
    """The bytes end within a reply; at least `missing` more are needed."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


def command(name: bytes, arguments: Iterable[bytes]) -> bytes:
    """One command, as it is sent."""
    words = [name, *arguments]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def read_reply(data: bytes, at: int) -> tuple[Any, int]:
    """Return the reply that begins there, and where it ends. An error is returned, too.

    Raises:
        Incomplete: It does not end in `data`.
        ValueError: This is not RESP2.
    """
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        raise Incomplete(1)
    kind = data[at : at + 1]
    line = data[at + 1 : line_end]
    at = line_end + 2
    if kind == b"+":
        return line, at
    if kind == b"-":
        return Refused(line.decode(errors="replace")), at
    if kind not in (b":", b"$", b"*"):
        raise ValueError(f"not a reply of Redis: {kind!r}")
    number = int(line)
    if kind == b":":
        return number, at
    if number < 0:
        return None, at
    if kind == b"$":
        end = at + number
        if end + 2 > len(data):
            raise Incomplete(end + 2 - len(data))
        return data[at:end], end + 2
    items = []
    for _ in range(number):
        item, at = read_reply(data, at)
        items.append(item)
    return items, at


class Stream:
    """A connection that was set up, read in as few steps as its bytes allow."""

    __slots__ = ("_missing", "_reader", "_rest", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self._missing = 1

    def write(self, data: bytes) -> None:
        """Send these bytes some time; that they were lost is seen by reading."""
        self._writer.write(data)

    async def read(self) -> bytes:
        """Wait for more bytes; return them, behind those that were put back.

        Raises:
            ConnectionError: The connection is lost or closed.
        """
        if self._missing > CHUNK:
            # A large reply is put together once instead of with every chunk of it.
            try:
                chunk = await self._reader.readexactly(self._missing)
            except asyncio.IncompleteReadError:
                chunk = b""
        else:
            chunk = await self._reader.read(CHUNK)
        if not chunk:
            raise ConnectionResetError("the connection to Redis is closed")
        return self._rest + chunk

    def put_back(self, rest: bytes, missing: int = 1) -> None:
        """Keep the beginning of a reply until at least `missing` more bytes are there."""
        self._rest = rest
        self._missing = missing

    async def ask(self, name: bytes) -> Any:
        """Send a command without arguments, and return the answer; nothing else may be on its way."""
        self.write(command(name, ()))
        while True:
            data = await self.read()
            try:
                answer, end = read_reply(data, 0)
            except Incomplete as incomplete:
                self.put_back(data, incomplete.missing)
            else:
                self.put_back(data[end:])
                return answer
