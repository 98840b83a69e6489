"""Control messages beside a stream: sent by Pub/Sub to whoever listens at that moment, and stored nowhere."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import DecodeError
from ...key import Key
from ..adapter import Received, Record
from .answers import is_denied, sound
from .connection import Connection
from .entries import Entries
from .resp import pack

MOST_UNREAD = 1 << 20
"""Bytes of control messages that may wait to be received; beyond it reading pauses until they were received."""


class Channels:
    """The channels of the control messages of a namespace, and the format of the messages.

    Channels are common to all databases of a server, so the database number is in their names. They differ from those
    of the Pub/Sub adapter, whose names have the number as their second part.
    """

    def __init__(self, namespace: str, database: int, entries: Entries) -> None:
        self._prefix = f"{namespace or 'hubsub'}:control:{database}:".encode("utf-8", "surrogatepass")
        self._entries = entries

    def channel(self, key: Key[Any]) -> bytes:
        """Return the channel of the control messages of a key."""
        return self._prefix + self._entries.address(key)

    def waking(self, group: str) -> bytes:
        """Return the channel that wakes the members of a group when messages were handed back."""
        return self._prefix + b"group:" + group.encode("utf-8", "surrogatepass")

    def pack(self, record: Record) -> tuple[bytes, bytes, bytes]:
        """Return the command that sends a record: the length of the headers, the headers, and the payload.

        Raises:
            Exception: The record cannot be sent.
        """
        headers = json.dumps(dict(record.headers)).encode() if record.headers else b""
        return b"PUBLISH", self.channel(record.key), b"%d\n%b%b" % (len(headers), headers, record.payload)


def unpack(key: Key[Any], data: bytes) -> Received:
    """Return the message that came by the channel of a key."""
    try:
        length, _, rest = data.partition(b"\n")
        if not length.isdigit() or len(length) > 9 or int(length) > len(rest):
            raise ValueError("its headers are missing")
        headers = json.loads(rest[: int(length)]) if int(length) else {}
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ValueError("its headers are not strings")
    except (ValueError, RecursionError) as error:
        trouble = DecodeError(key, f"not a control message: {error}", data[:1000])
        return Received(key, data, is_control=True, trouble=trouble)
    return Received(key, rest[int(length) :], headers, is_control=True)


class Control:
    """The connection that receives control messages.

    Args:
        connection: Used for nothing else.
        news: Called when there is something to receive.
    """

    def __init__(self, connection: Connection, news: Callable[[], None]) -> None:
        self.connection = connection
        self.inbox: deque[Received] = deque()
        self._news = news
        self._keys: dict[bytes, Key[Any]] = {}
        self._calls: dict[bytes, Callable[[], None]] = {}
        self._asked: deque[tuple[int, asyncio.Future[Any]]] = deque()
        connection.hand_over(self._take)

    async def listen(self, channels: Mapping[bytes, Key[Any]]) -> None:
        """Receive what is sent to these channels, under their keys; return when the server has confirmed that.

        Raises:
            BridgeError: The user lacks the permission.
        """
        self._keys |= channels
        sound(await self._subscribe(list(channels)))

    async def watch(self, channel: bytes, call: Callable[[], None]) -> None:
        """Call a function whenever a message comes by a channel, if the user may subscribe to it."""
        self._calls[channel] = call
        reply = await self._subscribe([channel])
        if not is_denied(reply):
            sound(reply)

    async def _subscribe(self, channels: Sequence[bytes]) -> Any:
        if not channels:
            return None
        if self.connection.error is not None:
            raise ConnectionResetError("the connection for control messages is closed")
        done = asyncio.get_running_loop().create_future()
        self._asked.append((len(channels), done))
        self.connection.write(pack((b"SUBSCRIBE", *channels)))
        return await done

    def ping(self) -> None:
        """Send a PING, so that the kernel notices a dead connection."""
        self.connection.write(pack((b"PING",)))

    def receive(self) -> list[Received]:
        """Return the messages that have come since the last call."""
        received = list(self.inbox)
        self.inbox.clear()
        self.connection.resume()
        return received

    def _take(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._answered(reply)
            elif isinstance(reply, list) and reply[0] == b"message":
                _, channel, data = reply
                if channel in self._calls:
                    self._calls[channel]()
                elif channel in self._keys:
                    self.inbox.append(unpack(self._keys[channel], data))
            elif isinstance(reply, list) and reply[0] == b"subscribe":
                self._answered(None)
        if self.inbox:
            if self.connection.unread > MOST_UNREAD:
                self.connection.pause()
            self._news()

    def _answered(self, error: Exception | None) -> None:
        if self._asked:
            left, done = self._asked[0]
            if left > 1 and error is None:
                self._asked[0] = (left - 1, done)
                return
            self._asked.popleft()
            if not done.done():
                done.set_result(error)
        # Else a PING was refused, which is a reply too.

    def lost(self) -> None:
        """Called when the connection has failed: wake every caller with an error."""
        while self._asked:
            _, done = self._asked.popleft()
            if not done.done():
                done.set_exception(ConnectionResetError("the connection for control messages is closed"))
