"""A connection to RabbitMQ and its channels: one object each, made for it and thrown away with it."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pamqp.frame
from pamqp import commands

from ..adapter import bytes_each_way
from . import frames
from .frames import Message

HEARTBEAT = frames.frame(frames.HEARTBEAT, 0, b"")
GREETING = b"AMQP\0\0\x09\x01"
CAPABILITIES = dict.fromkeys(
    (
        *("authentication_failure_close", "basic.nack", "connection.blocked"),
        *("consumer_cancel_notify", "exchange_exchange_bindings", "publisher_confirms"),
    ),
    True,
)


class Refused(Exception):
    """RabbitMQ has closed a channel or a connection, and says why."""

    def __init__(self, code: int, text: str, *, ends_connection: bool = False) -> None:
        super().__init__(text or f"code {code}")
        self.code = code
        self.ends_connection = ends_connection


class Login(NamedTuple):
    """Where to connect, by which account and how."""

    host: str
    port: int
    vhost: str
    user: str
    password: str
    tls: ssl.SSLContext | None
    heartbeat: int
    name: str

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}{'' if self.vhost == '/' else '/' + self.vhost}"


class Channel:
    """A channel: calls are answered in their order, and what is published is confirmed by number."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self.number = number
        self.error: Exception | None = None
        """Why it is closed; None while it is open."""
        self._calls: deque[asyncio.Future[Any]] = deque()
        self._begun: tuple[bytes, tuple[int, bool, bytes, bytes, bytes]] | None = None
        self._header: tuple[int, dict[str, str], dict[str, Any], float | None] | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self.consumers: dict[bytes, Callable[[Message], None]] = {}
        self.published = 0
        """How many messages were published, which is the number of the last one."""
        self.unconfirmed: dict[int, None] = {}
        """The numbers of those that are not confirmed."""
        self.rejected: set[int] = set()
        """The numbers of those that the broker could not store."""
        self.returned = 0
        """How many came back because no queue wanted them."""
        self._news: asyncio.Future[None] | None = None

    async def call(self, *methods: Any) -> Any:
        """Send methods together, in one round trip; return RabbitMQ's answer to the last one.

        Raises:
            Refused: It has closed the channel instead of answering one of them, and ignored those behind it.
            ConnectionError: The connection is lost.
        """
        if self.error is not None:
            raise self.error
        answers = [self._connection.loop.create_future() for _ in methods]
        self._calls += answers
        self.tell(*methods)
        return [await answer for answer in answers][-1]

    def tell(self, *methods: Any) -> None:
        """Send methods without waiting for an answer."""
        self._connection.write(b"".join([pamqp.frame.marshal(method, self.number) for method in methods]))

    def close(self) -> None:
        """Close it, when all calls are answered; it does not wait for the answer to this."""
        if self.error is None:
            self.tell(commands.Channel.Close(200, "", 0, 0))
            self.fail(ConnectionResetError("the channel is closed"))

    def fail(self, error: Exception) -> None:
        """End it: every caller that waits gets this error."""
        if self.error is None:
            self.error = error
        for call in self._calls:
            if not call.done():
                call.set_exception(error)
                call.exception()
        self._calls.clear()
        self._wake()
        self._connection.channels.pop(self.number, None)

    @property
    def is_waiting(self) -> bool:
        """True while a call is not answered."""
        return bool(self._calls)

    def next_tag(self) -> int:
        """Return the number of the message that is published next, and expect its confirmation."""
        self.published += 1
        self.unconfirmed[self.published] = None
        return self.published

    async def confirmed(self) -> None:
        """Wait until all is confirmed, or the channel or the connection has other news."""
        self._news = self._connection.loop.create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # What comes

    def method(self, payload: bytes) -> None:
        """A method has come."""
        what = payload[:4]
        if what == frames.DELIVER:
            self._begun = what, frames.read_delivery(payload)
        elif what in (frames.ACK, frames.NACK):
            self._confirm(*frames.read_tag(payload), is_stored=what == frames.ACK)
        elif what == frames.GET_OK:
            self._begun = what, frames.read_got(payload)
        elif what == frames.RETURN:
            self._begun = what, (0, False, b"", b"", b"")
        else:
            data = frames.frame(frames.METHOD, self.number, payload)
            self._answer(pamqp.frame.unmarshal(data)[2])

    def _answer(self, method: Any) -> None:
        if isinstance(method, commands.Channel.Close):
            self.tell(commands.Channel.CloseOk())
            self.fail(Refused(method.reply_code or 0, method.reply_text))
            self._connection.changed()
        elif isinstance(method, commands.Basic.Cancel):
            self._connection.cancelled()
        elif isinstance(method, commands.Channel.Flow):
            self.tell(commands.Channel.FlowOk(method.active))
        elif self.number == 0 and self._connection.control(method):
            pass
        elif self._calls:
            call = self._calls.popleft()
            if not call.done():
                call.set_result(method)

    def _confirm(self, tag: int, multiple: bool, *, is_stored: bool) -> None:
        tags = [each for each in self.unconfirmed if each <= tag] if multiple else [tag]
        for each in tags:
            self.unconfirmed.pop(each, None)
        if not is_stored:
            self.rejected.update(tags)
        if not self.unconfirmed:
            self._wake()

    def header(self, payload: bytes) -> None:
        """The metadata of a message has come."""
        self._header = frames.read_header(payload)
        self._missing = self._header[0]
        if not self._missing:
            self._complete()

    def body(self, payload: bytes) -> None:
        """A piece of the body of a message has come."""
        self._body.append(payload)
        self._missing -= len(payload)
        if self._missing <= 0:
            self._complete()

    def _complete(self) -> None:
        assert self._begun is not None
        assert self._header is not None
        (what, (tag, redelivered, exchange, key, consumer)), pieces = self._begun, self._body
        _, texts, headers, time = self._header
        self._begun, self._header, self._body = None, None, []
        if what == frames.RETURN:
            self.returned += 1
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        message = Message(tag, redelivered, frames.decoded(exchange), key, texts, headers, body, time)
        if what == frames.DELIVER:
            self.consumers[consumer](message)
        elif self._calls and not (call := self._calls.popleft()).done():
            call.set_result(message)


class Connection(asyncio.Protocol):
    """A connection, from `open` until it is lost or closed.

    Args:
        login: Where it leads.
        lost: Called once when it has ended.
    """

    def __init__(self, login: Login, lost: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._login = login
        self._lost = lost
        self._transport: Any = None
        self._buffer = bytearray()
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self.loop.create_future()
        self.channels: dict[int, Channel] = {}
        self._root = Channel(self, 0)
        self.channels[0] = self._root
        self._last = 0  # number of a channel
        self._most_channels = 65535
        self.frame_max = 4096
        self.properties: Mapping[str, Any] = {}
        """The properties by which RabbitMQ describes itself."""
        self.error: Exception | None = None
        """Why it has ended; None while it has not."""
        self.blocked: str | None = None
        """Why RabbitMQ reads nothing from it at the moment; None if it does."""

    def __repr__(self) -> str:
        return f"<connection to {self._login!r}>"

    # Its life

    async def open(self) -> None:
        """Connect and log in.

        Raises:
            Refused: RabbitMQ refuses the account or the virtual host.
            OSError: There is no answer.
        """
        login, root = self._login, self._root
        server_name = login.host if login.tls else None
        await self.loop.create_connection(
            lambda: self, login.host, login.port, ssl=login.tls, server_hostname=server_name
        )
        if self.error is not None:  # it was aborted meanwhile
            raise self.error
        started = self.loop.create_future()
        root._calls.append(started)
        self.write(GREETING)
        start: commands.Connection.Start = await started
        self.properties = start.server_properties
        properties: dict[str, Any] = {
            "product": "hubsub",
            "connection_name": login.name,
            "capabilities": CAPABILITIES,
        }
        tune: commands.Connection.Tune = await root.call(
            commands.Connection.StartOk(properties, "PLAIN", f"\0{login.user}\0{login.password}", "en_US")
        )
        self.frame_max = tune.frame_max or 131072
        self._most_channels = tune.channel_max or self._most_channels
        beat = min(login.heartbeat, tune.heartbeat or login.heartbeat)
        root.tell(commands.Connection.TuneOk(tune.channel_max, self.frame_max, beat))
        await root.call(commands.Connection.Open(login.vhost))
        self._beat(beat / 2)

    def _beat(self, every: float, heard: int = 0) -> None:
        if self.error is None:
            # While RabbitMQ owes an answer, only what it sends is a sign of life: of a frozen one, the system still
            # acknowledges a heartbeat. But an answer may wait for minutes behind messages, on a narrow line.
            if self._received != heard or not any(channel.is_waiting for channel in self.channels.values()):
                self.write(HEARTBEAT)
            self._timer = self.loop.call_later(every, self._beat, every, self._received)

    async def channel(self, *methods: Any, confirms: bool = False) -> Channel:
        """Return a new channel, open; these methods are sent together with what opens it, and are carried out.

        Raises:
            Refused: RabbitMQ has closed it instead.
            ConnectionError: The connection is lost.
        """
        if self.error is not None:
            raise self.error
        # Numbers go round: something of the channel that was closed last may still be on its way.
        while (number := self._last % self._most_channels + 1) in self.channels:
            self._last = number
        self._last = number
        channel = self.channels[self._last] = Channel(self, self._last)
        await channel.call(commands.Channel.Open(), *[commands.Confirm.Select()] * confirms, *methods)
        return channel

    async def close(self, patience: float) -> None:
        """End it when RabbitMQ has carried out everything before, or after `patience` seconds."""
        if self.error is None and self._transport is not None:
            self._root.tell(commands.Connection.Close(200, "", 0, 0))
            await asyncio.wait([self._ended], timeout=patience)
        self.abort()

    def abort(self) -> None:
        """End at once. Doing it twice is safe."""
        self.fail(ConnectionResetError("the connection to RabbitMQ is closed"))

    def fail(self, error: Exception) -> None:
        """End it for this reason, unless it has ended."""
        if self.error is None:
            self.error = error
            if self._timer is not None:
                self._timer.cancel()
            for channel in list(self.channels.values()):
                channel.fail(error)
            if not self._ended.done():
                self._ended.set_result(None)
            self._lost()
        if self._transport is not None:
            self._transport.abort()

    # Bytes

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that were sent and acknowledged, and that were received, without heartbeats that came."""
        return (0, 0) if self._transport is None else (bytes_each_way(self._transport)[0], self._received)

    def write(self, data: bytes) -> None:
        """Send bytes; how many wait is bounded by what the callers have in hand."""
        if self.error is None:
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.error is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionResetError(f"RabbitMQ has closed the connection{f': {exc}' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at > 7:
                kind, number, size = frames.HEAD.unpack_from(buffer, at)
                if kind > frames.HEARTBEAT:  # also of the greeting by which it asks for another protocol
                    raise ConnectionError("it is no RabbitMQ, or speaks another protocol than AMQP 0-9-1")
                stop = at + 7 + size
                if stop >= end:
                    break
                payload = bytes(buffer[at + 7 : stop])
                at = stop + 1
                channel = self.channels.get(number)
                if channel is None:
                    continue  # it was on its way when the channel was closed
                if kind == frames.BODY:
                    channel.body(payload)
                elif kind == frames.HEADER:
                    channel.header(payload)
                elif kind == frames.METHOD:
                    channel.method(payload)
                elif kind == frames.HEARTBEAT:
                    self._received -= len(HEARTBEAT)
        except Exception as error:
            self.fail(error if isinstance(error, ConnectionError) else _garbled(error))
        del buffer[:at]

    # What concerns the connection

    def control(self, method: Any) -> bool:
        """Handle a method about the connection itself; return False if it answers a call."""
        if isinstance(method, commands.Connection.Close):
            self._root.tell(commands.Connection.CloseOk())
            self.fail(Refused(method.reply_code or 0, method.reply_text, ends_connection=True))
        elif isinstance(method, commands.Connection.CloseOk):
            self.abort()
        elif isinstance(method, commands.Connection.Blocked):
            self.blocked = method.reason or "out of memory or disk space"
            self.changed()
        elif isinstance(method, commands.Connection.Unblocked):
            self.blocked = None
            self.changed()
        else:
            return False
        return True

    def changed(self) -> None:
        """Wake the callers that wait for confirmations."""
        for channel in list(self.channels.values()):
            channel._wake()

    def cancelled(self) -> None:
        """RabbitMQ delivers no more to a consumer: its queue was deleted, or its node has failed."""
        self.fail(QueueGone("RabbitMQ delivers no more: the queue was deleted, or its node has failed"))


class QueueGone(ConnectionResetError):
    """The queue that was consumed is gone."""


def _garbled(error: Exception) -> ConnectionError:
    lost = ConnectionResetError(f"RabbitMQ sent what cannot be read: {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
