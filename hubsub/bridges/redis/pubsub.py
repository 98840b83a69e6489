"""Redis Pub/Sub: messages reach whoever is subscribed at that moment, and are stored nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ...errors import EncodeError
from ...key import Key
from ..adapter import Features, Link, Received, Record
from ..address import Addresses, cached
from ..lines import Line, LineAdapter
from .answers import refusal
from .connection import Connection
from .server import Server
from .subscriber import Subscriber

# The characters of a channel: all but the separator, carriage returns, and halves of surrogate pairs.
_ALLOWED = r"\0-\x0c\x0e-9;-\ud7ff\ue000-\U0010ffff"


class RedisAdapter(LineAdapter[Line]):
    """Redis Pub/Sub through two connections, one that subscribes and one that publishes.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` with TLS, or
            `redis+sentinel://host:port,host:port/service/0`; options in its query.
        client: Instead of a URL, a `redis.asyncio.Redis` whose settings are used. The client itself is not touched.
        options: Options of redis-py's connections; with the prefix `sentinel_`, of those to Sentinels; `ssl_context`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no address, or more than one; or an option does not exist, or is set by the bridge.
        ValueError: The URL is invalid.
    """

    most_patterns = 100
    """Each pattern at the server slows down every PUBLISH of every client; beyond it, patterns are merged."""

    features = Features(order="all", confirms="received", patterns=True, max_payload=512 * 1024 * 1024)

    def __init__(self, url: str | None = None, *, client: Any = None, **options: Any) -> None:
        self._server = Server(type(self).__name__, url, client, options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def line(self, link: Link) -> Line:
        return PubSubLine(self._server, link, self.most_patterns)


class PubSubLine(Line):
    """The two connections, from one `connect` until they are lost or closed. If one is lost, both are."""

    def __init__(self, server: Server, link: Link, most_patterns: int) -> None:
        self._server = server
        self._subscribes = link.reads or bool(link.control)
        self._most_patterns = most_patterns
        self._addresses = addresses_of(link.namespace, server.database)
        self._head = cached(self._publish_head)
        self._news = asyncio.Event()
        self._is_closed = False
        self.connections: list[Connection] = []
        self.sender: Connection | None = None
        self.subscriber: Subscriber | None = None

    async def open(self) -> None:
        """Open both connections at the same time."""
        (self.sender, _), *reading = await self._server.open(
            self.connections, self._lost, [], *([[]] if self._subscribes else [])
        )
        for connection, _ in reading:
            self._subscribe_over(connection)

    def _subscribe_over(self, connection: Connection) -> Subscriber:
        self.subscriber = Subscriber(connection, self._addresses, self._most_patterns, self._news.set)
        return self.subscriber

    @property
    def activity(self) -> int:
        return sum(connection.moved for connection in self.connections)

    @property
    def receiving(self) -> int | None:
        return None if self.subscriber is None else self.subscriber.connection.received

    @property
    def sending(self) -> int | None:
        return None if self.sender is None else self.sender.moved

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive what is sent to these keys as control messages."""
        await (await self._subscribing()).listen(keys)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive what matches these patterns."""
        await (await self._subscribing()).subscribe(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        await (await self._subscribing()).unsubscribe(patterns)

    async def _subscribing(self) -> Subscriber:
        """Return the connection that subscribes; open it if need be."""
        if self.subscriber is None and not self._is_closed:
            ((connection, _),) = await self._server.open(self.connections, self._lost, [])
            return self._subscribe_over(connection)
        if self.subscriber is None:
            raise ConnectionResetError("the connection to Redis is closed")
        return self.subscriber

    def _sending(self) -> Connection:
        if self.sender is None:
            raise ConnectionResetError("the connection to Redis is closed")
        return self.sender

    def _lost(self) -> None:
        """Called when a connection has failed."""
        if self.subscriber is not None:
            self.subscriber.lost()
        self._news.set()

    async def close(self) -> None:
        """Cut the connections. Closing twice is safe."""
        self._is_closed = True
        for connection in self.connections:
            await connection.close()
        self._lost()

    async def ping(self) -> None:
        """Return when the server has replied; a refusal is a reply, too."""
        await self._sending().ask(("PING",))

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Publish records in order; return the errors of those that are refused."""
        head, exchange = self._head, self._sending().exchange
        try:
            data = b"".join([b"%b%d\r\n%b\r\n" % (head(key), len(payload), payload) for key, payload, *_ in records])
        except Exception:
            return await self._send_what_can_be(records)
        replies = await exchange(data, len(records))
        return {index: refusal(reply) for index, reply in enumerate(replies) if type(reply) is not int}

    async def _send_what_can_be(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Publish records of which at least one cannot be packed; return the errors of those that are refused."""
        refused: dict[int, Exception] = {}
        good: dict[int, bytes] = {}
        for index, (key, payload, *_) in enumerate(records):
            try:
                good[index] = b"%b%d\r\n%b\r\n" % (self._head(key), len(payload), payload)
            except Exception as error:
                refused[index] = EncodeError(key, f"it cannot be sent to Redis: {error}")
                refused[index].__cause__ = error
        if good:
            replies = await self._sending().exchange(b"".join(good.values()), len(good))
            for index, reply in zip(good, replies, strict=True):
                if type(reply) is not int:
                    refused[index] = refusal(reply)
        return refused

    def _publish_head(self, key: Key[Any]) -> bytes:
        """Return the PUBLISH command of a key, up to the length of the payload."""
        address = self._addresses.to_bytes(self._addresses.address(key))
        return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(address), address)

    async def receive(self) -> list[Received]:
        """Wait for messages, and return all that have come."""
        while True:
            self._news.clear()
            if self.subscriber is not None and (received := self.subscriber.receive()):
                return received
            for connection in self.connections:
                if connection.error is not None:
                    raise connection.reason()
            if self._is_closed:
                raise ConnectionResetError("the connection to Redis is closed")
            await self._news.wait()


def addresses_of(namespace: str, database: int) -> Addresses:
    """Return what turns keys into channels, and back."""
    # Channels are common to all databases, so the number is part of their names. Without a namespace, channels of other
    # programs are used, whatever their names are.
    prefix = f"{Addresses(':', allowed=_ALLOWED).escape(namespace)}:{database}:" if namespace else ""
    return Addresses(":", allowed=_ALLOWED, prefix=prefix, binary=True, foreign=not namespace)
