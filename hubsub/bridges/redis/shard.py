"""Sharded Pub/Sub: the connection to a master of a Redis Cluster that receives what is sent to exact keys."""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ...key import Key
from ..adapter import Received
from .answers import Moved, sound
from .connection import Connection
from .resp import pack
from .subscriber import MOST_UNREAD, as_tuple

SLOTS = 16384
Wanted: TypeAlias = dict[bytes, tuple[Key[Any], tuple[Any, ...]]]
"""Channels, each with its key and the fixed fields of its messages."""


def slot_of(channel: bytes) -> int:
    """Return the slot of a channel: of what stands between the first braces, if anything does."""
    begin = channel.find(b"{") + 1
    if begin and (end := channel.find(b"}", begin)) > begin:
        channel = channel[begin:end]
    return crc_hqx(channel, 0) % SLOTS


class Shard:
    """The connection to a master that receives what is sent to exact keys.

    Args:
        connection: Used for nothing else.
        news: Called when there is something to receive.
    """

    def __init__(self, connection: Connection, news: Callable[[], None]) -> None:
        self.connection = connection
        self.channels: Wanted = {}
        """The confirmed channels."""
        self._news = news
        self._inbox: list[Received] = []
        self._gone: Wanted = {}
        self._asked: deque[tuple[bytes, bytes, Any, asyncio.Future[Moved | None]]] = deque()
        connection.hand_over(self._take)

    async def subscribe(self, channels: Wanted) -> list[tuple[bytes, Moved]]:
        """Subscribe to channels; return those whose slots have moved, when the node has replied to all."""
        return await self._change(b"ssubscribe", channels)

    async def unsubscribe(self, channels: Wanted) -> list[tuple[bytes, Moved]]:
        """Undo `subscribe`."""
        return await self._change(b"sunsubscribe", channels)

    async def _change(self, verb: bytes, channels: Wanted) -> list[tuple[bytes, Moved]]:
        if self.connection.error is not None:
            raise self.connection.failure()
        loop = asyncio.get_running_loop()
        asked = [(verb, channel, what, loop.create_future()) for channel, what in channels.items()]
        self._asked.extend(asked)
        # One by one, since channels of several slots must not be in one command.
        self.connection.write(pack(*((verb, channel) for _, channel, _, _ in asked)))
        replies = await asyncio.gather(*(done for _, _, _, done in asked))
        return [(channel, reply) for channel, reply in zip(channels, replies, strict=True) if reply is not None]

    def leave(self, channels: Iterable[bytes]) -> None:
        """Count channels as gone, since another node has them."""
        for channel in list(channels):
            self._gone[channel] = self.channels.pop(channel)

    def receive(self) -> list[Received]:
        """Return the messages that have come since the last call."""
        received = self._inbox
        if received:
            self._inbox = []
            self.connection.resume()
        return received

    def gone(self) -> Wanted:
        """Return the channels whose slots have moved since the last call."""
        gone, self._gone = self._gone, {}
        return gone

    def _take(self, replies: list[Any]) -> None:
        channels, append = self.channels, self._inbox.append
        for reply in replies:
            kind = reply[0] if type(reply) is list else None
            if kind == b"smessage":
                if (what := channels.get(reply[1])) is not None:
                    append(as_tuple(Received, (what[0], reply[2], *what[1])))
            elif kind != b"pong" and reply != b"PONG":  # of a connection that has subscribed, and of one that has not
                self._answered(kind, reply)
        if self._inbox and self.connection.unread > MOST_UNREAD:
            self.connection.pause()
        self._news()

    def _answered(self, kind: bytes | None, reply: Any) -> None:
        asked = self._asked[0] if self._asked else None
        if kind is not None and (asked is None or (kind, reply[1]) != asked[:2]):
            # Nobody has asked for it: the slot has moved to another node.
            if kind == b"sunsubscribe" and reply[1] in self.channels:
                self._gone[reply[1]] = self.channels.pop(reply[1])
            return
        if asked is None:
            raise reply if isinstance(reply, Exception) else ConnectionError("Redis has sent a reply to no command")
        self._asked.popleft()
        verb, channel, what, done = asked
        if kind == b"ssubscribe":
            self.channels[channel] = what
        elif verb == b"sunsubscribe":
            self.channels.pop(channel, None)
        if kind is None and not isinstance(reply, Moved):
            self._asked.appendleft(asked)
            sound(reply)  # costs the connection, and this caller gets the error like the others
        if not done.done():
            done.set_result(reply if isinstance(reply, Moved) and verb == b"ssubscribe" else None)

    def lost(self) -> None:
        """Called when a connection has failed: wake whoever waits for a confirmation with an error."""
        while self._asked:
            done = self._asked.popleft()[3]
            if not done.done():
                done.set_exception(self.connection.reason())
