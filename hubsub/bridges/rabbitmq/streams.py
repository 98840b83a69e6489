"""Streams of RabbitMQ, which are logs: what is read stays there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from pamqp import commands

from . import frames
from .client import Connection
from .frames import OFFSET, Message

STREAM: dict[str, Any] = {"x-queue-type": "stream"}
"""The arguments of a queue that is one."""
AT_ONCE = 200


async def entries(connection: Connection, name: str, first: int | str) -> AsyncGenerator[Message]:
    """Yield the entries of the stream from an offset on."""
    came: list[Message] = []
    prefetch = commands.Basic.Qos(prefetch_count=AT_ONCE)
    consume = commands.Basic.Consume(queue=name, consumer_tag="entries", arguments={OFFSET: first})
    channel = await connection.channel()
    try:
        channel.consumers[b"entries"] = came.append
        await channel.call(prefetch, consume)
        # RabbitMQ does not say where a stream ends. But a channel sends all entries that there are, up to its prefetch,
        # before it answers the next method: if none came before that, this is the end. That holds for a method that is
        # sent after the answer to the one before it.
        await channel.call(prefetch)
        while came:
            batch = came.copy()
            came.clear()
            for message in batch:
                yield message
            connection.write(frames.ack(channel.number, batch[-1].tag, multiple=True))
            await channel.call(prefetch)
    finally:
        channel.close()
