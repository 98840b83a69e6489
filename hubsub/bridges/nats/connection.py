"""One connection to a NATS server: what comes, in its order, and what is confirmed by a PONG."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ..adapter import bytes_each_way
from ..inbox import Inbox
from .server import Server, explained

MOST_UNREAD = 16 << 20
"""Bytes that may wait to be received; beyond it reading pauses until they were received."""
OURS = 1 << 40
"""Subscriptions from this number on are the bridge's; the others are the driver's own."""


class Message(NamedTuple):
    """What the server sends for a subscription."""

    sid: int
    subject: bytes
    reply: bytes
    """Where a reply is to go; empty if none is expected."""
    head: bytes
    """Its headers; empty if it has none."""
    payload: bytes


class Connection:
    """From one connect until it is lost.

    The driver connects and logs in. Its own handling of messages, a queue and a task for each subscription, would lose
    their order: here one parser hands them on as they come.

    Args:
        server: Where to connect.
        inbox: Fails when the connection is lost.
        take: Called with the messages of the bridge's own subscriptions.
    """

    def __init__(self, server: Server, inbox: Inbox, take: Callable[[list[Message]], None]) -> None:
        self._server = server
        self.inbox = inbox
        self._take = take
        self._waiting: deque[asyncio.Future[None]] = deque()  # for a PONG each
        self._parser = _Parser(self)
        self._unread = 0
        self._drained = asyncio.Event()
        self._sid = OURS
        self.denied: list[str] = []
        """The server's latest errors about what it does not permit."""
        self.client: Any = None

    async def open(self) -> None:
        """Connect.

        Raises:
            BridgeError: The server refuses it for good; the error says what to change.
            OSError: It does not answer, or cannot serve now.
        """
        await self._server.open(self._make)
        self._parser.client = self.client
        self.client._ps = self._parser
        if self.client.is_closed:
            self.lost(ConnectionResetError("the connection to NATS is lost"))

    def _make(self, base: Any) -> Any:
        connection, is_tls = self, self._server.is_tls

        class Client(base):  # type: ignore[misc]
            async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
                if initial_connection and is_tls:
                    # Without TLS, anyone on the way could read the password.
                    info["tls_required"] = True
                await super()._process_info(info, initial_connection)
                if info.get("ldm") and not initial_connection:
                    connection.leave()

            async def _send_ping(self, future: Any = None) -> None:
                # The driver does so regularly: it shows that the connection lives. While an answer is outstanding, that
                # one shows it: of a frozen server, the system still acknowledges PING, which would pass for a line
                # that moves.
                if not connection._waiting:
                    connection.ping()

            async def _close(self, status: int, do_cbs: bool = True) -> None:
                connection.lost(ConnectionResetError("the connection to NATS is lost"))
                await super()._close(status, do_cbs)

        self.client = Client()
        return self.client

    def next_sid(self) -> int:
        """Return an unused number for a subscription."""
        self._sid += 1
        return self._sid

    # What goes

    async def ask(self, data: bytes) -> None:
        """Send commands; return when the server has carried them out.

        Raises:
            OSError: The connection is lost.
        """
        if self.inbox.is_failed:
            self.inbox.take()
            raise ConnectionResetError("the connection to NATS is lost")
        # In one piece: the driver's own flush lets PING overtake what waits to be written.
        pong = self.ping(data)
        await self.client._transport.drain()
        await asyncio.shield(pong)  # it keeps its place among the answers, even if the caller is cancelled

    def ping(self, data: bytes = b"") -> asyncio.Future[None]:
        """Send commands, and PING behind them; return what is done when the server has answered."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(pong)
        self.client._transport.write(data + b"PING\r\n")
        return pong

    # What comes

    async def came(self, messages: list[Message], size: int) -> None:
        """Hand on what the parser has read; returns when there is room for more."""
        self._unread += size
        if messages:
            self._take(messages)
        while self._unread > MOST_UNREAD and not self.inbox.is_failed:
            self._drained.clear()
            await self._drained.wait()

    def drained(self) -> None:
        """What had come was received: there is room."""
        self._unread = 0
        self._drained.set()

    def pong(self) -> None:
        """The server has done all that was sent before the oldest PING."""
        if self._waiting and not (future := self._waiting.popleft()).done():
            future.set_result(None)

    def complained(self, text: str) -> None:
        """Handle an error of the server: it ignores what it does not permit, and closes the connection for all else."""
        if text.lower().startswith("permissions violation"):
            self.denied.append(text)
            del self.denied[:-1000]
        else:
            self.lost(explained(ConnectionResetError(f"NATS closes the connection: {text}")))

    def leave(self) -> None:
        """Leave a server that is about to close its connections, if the URL names another one."""
        if self._server.is_one_of_several:
            self.lost(ConnectionResetError("the server shuts down (lame duck mode)"))

    # Its end

    def lost(self, error: Exception) -> None:
        """End it: every caller that waits gets this error."""
        self.inbox.fail(error)
        self._drained.set()
        while self._waiting:
            if not (future := self._waiting.popleft()).done():
                future.set_exception(error)
                future.exception()  # its caller may be gone

    async def close(self) -> None:
        """Cut it, whatever it is doing. Closing twice is safe."""
        self.lost(ConnectionResetError("the connection to NATS is closed"))
        client = self.client
        if client is None:
            return
        for transport in self._transports():
            transport.abort()
        # What the driver does to close waits for ever after a handshake that has failed.
        client._status = client.CLOSED
        tasks = [client._reading_task, client._ping_interval_task, client._flusher_task]
        going = [task for task in tasks if task is not None and not task.done()]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def _transports(self) -> list[Any]:
        transport = getattr(self.client, "_transport", None)
        writers = [getattr(transport, name, None) for name in ("_bare_io_writer", "_io_writer")]
        return list(dict.fromkeys(writer.transport for writer in writers if writer is not None))

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that were sent, and that came."""
        for transport in self._transports():
            if sum(moved := bytes_each_way(transport)):
                return moved
        return 0, 0


class _Parser:
    """In the place of the driver's: splits what comes into messages and the server's words."""

    client: Any = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._needed = 0

    def reset(self) -> None:
        """Called by the driver when it begins."""

    async def parse(self, data: bytes = b"") -> None:
        """Called by the driver with what has come."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else data
        messages: list[Message] = []
        try:
            at = await self._split(data, messages)
        except Exception as error:
            self._connection.lost(explained(error))
            raise ConnectionResetError("the connection to NATS is lost") from error
        rest = data[at:]
        self._parts, self._size = [rest] if rest else [], len(rest)
        await self._connection.came(messages, at)

    async def _split(self, data: bytes, messages: list[Message]) -> int:
        """Append the messages that are whole, those behind the server's last word; return where the rest begins."""
        at, find, append = 0, data.find, messages.append
        new = tuple.__new__
        self._needed = 0
        while (end := find(b"\r\n", at)) >= 0:
            kind = data[at : at + 4]
            if kind == b"HMSG":
                words = data[at:end].split()
                begin, head, size = end + 2, int(words[-2]), int(words[-1])
                if len(data) < begin + size + 2:
                    self._needed = begin + size + 2 - at
                    break
                reply = words[3] if len(words) == 6 else b""
                split = begin + head
                sid, payload = int(words[2]), data[split : begin + size]
                message = new(Message, (sid, words[1], reply, data[begin:split], payload))
                at = begin + size + 2
            elif kind == b"MSG ":
                words = data[at:end].split()
                begin, size = end + 2, int(words[-1])
                if len(data) < begin + size + 2:
                    self._needed = begin + size + 2 - at
                    break
                reply = words[3] if len(words) == 5 else b""
                message = new(Message, (int(words[2]), words[1], reply, b"", data[begin : begin + size]))
                at = begin + size + 2
            else:
                if messages:
                    # They come before what was confirmed after them.
                    await self._connection.came(messages, 0)
                    messages.clear()
                await self._heed(data[at:end])
                at = end + 2
                continue
            if message[0] > OURS:
                append(message)
            else:
                sid, subject, reply, head_, payload = message
                await self.client._process_msg(sid, subject, reply, payload, head_)
        return at

    async def _heed(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"PONG":
            self._connection.pong()
        elif word == b"PING":
            self.client._transport.write(b"PONG\r\n")
        elif word == b"INFO":
            await self.client._process_info(json.loads(rest))
        elif word == b"-ERR":
            self._connection.complained(rest.decode(errors="replace").strip().strip("'"))
        elif word != b"+OK":
            raise ConnectionResetError("NATS has sent a command that the bridge does not know")
