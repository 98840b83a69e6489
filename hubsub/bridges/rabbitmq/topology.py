"""What a link needs at RabbitMQ, and sees to it that it is there: the exchange, its queue, and exactly its bindings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from pamqp import commands

from . import frames
from .client import Channel, Connection, Refused
from .errors import LOCKED, NOT_FOUND
from .names import RECREATED, Names
from .streams import STREAM, entries

MOST_DELIVERIES = 1_000_000
"""RabbitMQ would drop what was delivered so often: it is the bridge that gives messages up."""
QUORUM: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": MOST_DELIVERIES}


async def exists(connection: Connection, method: Any) -> bool:
    """Return whether what a passive declaration names is there."""
    channel = await connection.channel()
    try:
        await channel.call(method)
    except Refused as error:
        if error.code != NOT_FOUND:
            raise
        return False
    await channel.close()
    return True


class Lock:
    """Is held while a queue of that name exists, which only this connection may use; it ends with the connection."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def take(self) -> bool:
        """Return whether it is ours now."""
        channel = await self._connection.channel()
        try:
            await channel.call(commands.Queue.Declare(queue=self._name, exclusive=True))
        except Refused as error:
            if error.code != LOCKED:
                raise
            return False
        await channel.close()
        return True

    async def __aenter__(self) -> None:
        while not await self.take():  # noqa: ASYNC110 - nobody says when it is free
            await asyncio.sleep(0.05)

    async def __aexit__(self, *error: object) -> None:
        if self._connection.error is None:
            channel = await self._connection.channel()
            await channel.call(commands.Queue.Delete(queue=self._name))
            await channel.close()


async def publish(channel: Channel, connection: Connection, exchange: str, key: str, headers: Any, body: bytes) -> bool:
    """Publish a message that is kept, over a channel with confirmations; return whether a queue has it.

    Raises:
        Refused: RabbitMQ does not take it.
        ConnectionError: It is not confirmed.
    """
    returned = channel.returned
    head = frames.publish_head(channel.number, exchange, key, mandatory=True)
    data = head + frames.content(channel.number, headers, body, connection.frame_max)
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
    """Return whether the exchange is there; it is never made by that.

    Raises:
        Refused: It was declared in another way.
    """
    if not await exists(connection, _exchange(names.exchange, "topic", passive=True)):
        return False
    # A passive declaration does not compare. Any other one would make the exchange if it has been deleted since, and
    # nobody would learn that the bindings are gone. So this one asks for what our exchange never has: it is refused
    # for that, or for what is really wrong, or it has made the exchange, which then is deleted again.
    probe = _exchange(names.exchange, "topic", arguments={"alternate-exchange": names.control})
    channel = await connection.channel()
    try:
        await channel.call(probe)
    except Refused as error:
        if "'alternate-exchange'" in str(error):
            return True
        raise
    await channel.call(commands.Exchange.Delete(exchange=names.exchange, if_unused=True))
    await channel.close()
    return False


async def declare_exchanges(connection: Connection, channel: Channel, names: Names) -> None:
    """See to it that both exchanges are there, and as they should be.

    Whoever makes the main one says so to those who were bound to one of that name before: their bindings are gone.
    """
    await channel.call(_exchange(names.control, "direct"))
    if not await exchange_exists(connection, names):
        async with Lock(connection, names.lock):
            if not await exchange_exists(connection, names):
                # Before it is made: whoever finds it there has heard of this, or need not.
                speaking = await connection.channel(confirms=True)
                await publish(speaking, connection, names.control, RECREATED, {}, b"")
                await channel.call(_exchange(names.exchange, "topic"))
                await speaking.close()


async def bind(channel: Channel, queue: str, exchange: str, patterns: Sequence[str]) -> None:
    """Bind a queue to patterns."""
    await asyncio.gather(
        *(channel.call(commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=each)) for each in patterns)
    )


async def bind_exactly(connection: Connection, queue: str, exchange: str, patterns: Sequence[str]) -> None:
    """Bind a queue that outlives its readers to these patterns, and to no others that were bound here before.

    RabbitMQ does not say what is bound: the last entry of a stream does.
    """
    memory, before, wanted = f"{queue}:bound", set[str](), set(patterns)
    channel = await connection.channel(confirms=True)
    await channel.call(commands.Queue.Declare(queue=memory, durable=True, arguments=dict(STREAM)))
    async for message in entries(connection, memory, "last"):
        before = set(json.loads(message.body))
    if before != wanted:
        # If we end before this is done, the next one still knows of everything that may be bound.
        await publish(channel, connection, "", memory, {}, _text(before | wanted))
    await bind(channel, queue, exchange, patterns)
    for each in sorted(before - wanted):
        await channel.call(commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=each))
    if before - wanted:
        await publish(channel, connection, "", memory, {}, _text(wanted))
    await channel.close()


def _text(patterns: set[str]) -> bytes:
    return json.dumps(sorted(patterns)).encode()
