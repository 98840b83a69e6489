"""Declaring what a link needs at RabbitMQ: the exchange, its queue, and exactly its bindings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pamqp import commands

from ..together import together
from . import frames
from .client import Channel, Connection, Refused
from .errors import LOCKED, NOT_FOUND
from .names import RECREATED, Names
from .streams import STREAM, entries

V = TypeVar("V")

MOST_DELIVERIES = 1_000_000
"""RabbitMQ drops a message after that many deliveries; the bridge gives it up long before."""
STREAMS_START = 2.0
"""Seconds that RabbitMQ may take, after it has started, until its streams can be used."""
STARTING = ("is down or inaccessible", "replica on the local node")
"""Words of its refusals until then."""
QUORUM: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": MOST_DELIVERIES}
# For RabbitMQ a lost connection, even one from before it was killed, can remain a consumer with messages in hand. The
# next one has to wait until it is given up, or would get later messages first.
ONE_READER: dict[str, Any] = {"x-single-active-consumer": True}


async def exists(connection: Connection, method: Any) -> bool:
    """Return whether the object of a passive declaration exists."""
    try:
        channel = await connection.channel(method)
    except Refused as error:
        if error.code != NOT_FOUND:
            raise
        return False
    channel.close()
    return True


class Lock:
    """A lock that is held while an exclusive queue of its name exists; it ends with the connection."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def take(self) -> bool:
        """Try to acquire it; return whether this connection holds it."""
        try:
            channel = await self._connection.channel(commands.Queue.Declare(queue=self._name, exclusive=True))
        except Refused as error:
            if error.code != LOCKED:
                raise
            return False
        channel.close()
        return True

    async def __aenter__(self) -> None:
        while not await self.take():  # noqa: ASYNC110 - RabbitMQ does not notify when it is free
            await asyncio.sleep(0.05)

    async def __aexit__(self, *error: object) -> None:
        if self._connection.error is None:
            channel = await self._connection.channel(commands.Queue.Delete(queue=self._name))
            channel.close()


async def publish(
    channel: Channel,
    connection: Connection,
    exchange: str,
    key: str,
    headers: Mapping[str, str],
    body: bytes,
    own: Mapping[str, Any] = frames.NONE,
) -> bool:
    """Publish a durable message over a channel with confirmations; return whether a queue has got it.

    Raises:
        Refused: RabbitMQ refuses it.
        ConnectionError: It is not confirmed.
    """
    returned = channel.returned
    head = frames.publish_head(channel.number, exchange, key, mandatory=True)
    data = head + frames.content(channel.number, headers, body, connection.frame_max, own)
    tag = channel.next_tag()
    connection.write(data)
    while tag in channel.unconfirmed:
        if channel.error is not None:
            raise channel.error
        await channel.confirmed()
    if tag in channel.rejected:
        channel.rejected.discard(tag)
        raise ConnectionError("RabbitMQ could not store it")
    return channel.returned == returned


def _exchange(name: str, kind: str, *, passive: bool = False, arguments: Any = None) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(
        exchange=name, exchange_type=kind, durable=True, passive=passive, arguments=arguments
    )


async def exchange_exists(connection: Connection, names: Names) -> bool:
    """Return whether the exchange exists; never create it.

    Raises:
        Refused: It was declared in another way.
    """
    # A passive declaration compares nothing. Any other one creates the exchange if it has just been deleted, and then
    # no bridge notices that the bindings are gone. So the second one asks for an argument that the exchange never has:
    # it is refused for that, or for a real difference; or it has created the exchange, which is then deleted again. If
    # the first one is refused, RabbitMQ ignores the second.
    passive = _exchange(names.exchange, "topic", passive=True)
    probe = _exchange(names.exchange, "topic", arguments={"alternate-exchange": names.control})
    try:
        channel = await connection.channel(passive, probe)
    except Refused as error:
        if error.code == NOT_FOUND:
            return False
        if "'alternate-exchange'" in str(error):
            return True
        raise
    await channel.call(commands.Exchange.Delete(exchange=names.exchange, if_unused=True))
    channel.close()
    return False


async def declare_exchanges(connection: Connection, channel: Channel, names: Names) -> None:
    """Create the exchanges that are missing, and compare those that exist.

    Before the main one is created, the bridges that were bound to an earlier one are notified: their bindings are gone.
    """
    control = channel.call(_exchange(names.control, "direct"))
    _, is_there = await together((control, exchange_exists(connection, names)))
    if not is_there:
        async with Lock(connection, names.lock):
            if not await exchange_exists(connection, names):
                # Before it is created: a bridge that finds it has been notified, or was not bound.
                speaking = await connection.channel(confirms=True)
                await publish(speaking, connection, names.control, RECREATED, {}, b"")
                await channel.call(_exchange(names.exchange, "topic"))
                speaking.close()


def binds(queue: str, exchange: str, patterns: Sequence[str]) -> list[Any]:
    """Return the methods that bind a queue to patterns."""
    return [commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=each) for each in patterns]


async def bind_exactly(connection: Connection, queue: str, exchange: str, patterns: Sequence[str]) -> None:
    """Bind a queue that outlives its readers to these patterns, and to no others that were bound here before.

    RabbitMQ does not say what is bound: the last entry of a stream does.
    """
    memory, wanted = f"{queue}:bound", set(patterns)
    declare = commands.Queue.Declare(queue=memory, durable=True, arguments=dict(STREAM))
    channel = await when_started(lambda: connection.channel(declare, confirms=True))
    before = await when_started(lambda: _last(connection, memory))
    if before != wanted:
        # If the bridge ends before this is done, the next one still knows of everything that may be bound.
        await publish(channel, connection, "", memory, {}, _text(before | wanted))
    await channel.call(*binds(queue, exchange, patterns))
    if before - wanted:
        await channel.call(
            *[
                commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=each)
                for each in sorted(before - wanted)
            ]
        )
        await publish(channel, connection, "", memory, {}, _text(wanted))
    channel.close()


async def when_started(call: Callable[[], Awaitable[V]]) -> V:
    """Return what a call about a stream returns, and make it again while RabbitMQ has only just started."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STREAMS_START
    while True:
        try:
            return await call()
        except Refused as error:
            if not any(words in str(error) for words in STARTING) or loop.time() > deadline:
                raise
        await asyncio.sleep(0.02)


async def _last(connection: Connection, memory: str) -> set[str]:
    found = set[str]()
    async for message in entries(connection, memory, "last"):
        found = set(json.loads(message.body))
    return found


def _text(patterns: set[str]) -> bytes:
    return json.dumps(sorted(patterns)).encode()
