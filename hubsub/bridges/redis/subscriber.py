"""The connection that subscribes: its requests, their confirmations, and the messages, in order."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ...key import PLUS, STAR, Key, is_subset
from ..adapter import Received
from ..address import Addresses, Copies, cached
from .answers import sound
from .connection import Connection
from .resp import Command, pack

NAMES_A_COMMAND = 1000  # so that no command blocks the server for long
MOST_UNREAD = 4 << 20
"""Bytes that may wait to be received; beyond it reading pauses until they were received."""

_GLOB = re.compile(r"[*?\[\]\\]")

as_tuple = tuple.__new__
# The fields of a received message beside key and payload.
PLAIN = tuple(Received._field_defaults.values())
CONTROL = tuple({**Received._field_defaults, "is_control": True}.values())


class Subscriber:
    """Subscribes at the server and receives messages, even while nobody calls `receive`: a confirmation may follow.

    Args:
        connection: Used for nothing else.
        addresses: Turns keys into channels, and channels into keys.
        most_patterns: If there are more patterns, they are merged into wider ones.
        news: Called when there is something to receive.
    """

    def __init__(
        self, connection: Connection, addresses: Addresses, most_patterns: int, news: Callable[[], None]
    ) -> None:
        self.connection = connection
        self._addresses = addresses
        self._most_patterns = most_patterns
        self._news = news
        self._inbox: list[Received] = []
        self._key = cached(self._key_of)
        self._wild: dict[Key[Any], None] = {}  # the wanted patterns
        self._globs: dict[bytes, Key[Any]] = {}  # the patterns subscribed to, by the glob sent to the server
        self._asked: deque[_Request] = deque()
        self._control: set[Key[Any]] = set()
        # The confirmed channels, each with its key and the fixed fields of its messages.
        self._channels: dict[bytes, tuple[Key[Any], tuple[Any, ...]]] = {}
        self._patterns: dict[bytes, Key[Any]] = {}
        self._copies = Copies()
        connection.hand_over(self._take)

    # Receiving

    def receive(self) -> list[Received]:
        """Return the messages that have come since the last call."""
        received = self._inbox
        if received:
            self._inbox = []
            self.connection.resume()
        return received

    def _take(self, replies: list[Any]) -> None:
        """Append the messages; handle the confirmations among them, in order."""
        channels, patterns, key_of = self._channels, self._patterns, self._key
        is_first, append = self._copies.is_first, self._inbox.append
        for reply in replies:
            kind = reply[0] if type(reply) is list else None
            if kind == b"message":
                key, tail = channels[reply[1]]
                append(as_tuple(Received, (key, reply[2], *tail)))
            elif kind == b"pmessage":
                _, glob, channel, payload = reply
                key_ = key_of(channel)
                if key_ is not None and is_first(key_, patterns[glob]):
                    append(as_tuple(Received, (key_, payload, *PLAIN)))
            elif kind != b"pong" and reply != b"PONG":
                self._answered(reply)
        if self._inbox:
            if self.connection.unread > MOST_UNREAD:
                self.connection.pause()
            self._news()

    def _key_of(self, channel: bytes) -> Key[Any] | None:
        return self._addresses.key(self._addresses.to_text(channel))

    # Subscribing

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive what is sent to these keys as control messages; return when the server has confirmed that."""
        self._control.update(keys)
        await self._change(b"SUBSCRIBE", keys)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive what matches these patterns; return when the server has confirmed that.

        Raises:
            BridgeError: The user lacks the permission.
        """
        self._wild.update(dict.fromkeys(pattern for pattern in patterns if pattern.is_wildcard))
        await self._change(b"SUBSCRIBE", [pattern for pattern in patterns if pattern not in self._control])

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        for pattern in patterns:
            self._wild.pop(pattern, None)
        await self._change(b"UNSUBSCRIBE", [pattern for pattern in patterns if pattern not in self._control])

    async def _change(self, verb: bytes, patterns: Iterable[Key[Any]]) -> None:
        """Send the changes for exact keys and for the patterns wanted now; wait until they are confirmed."""
        if self.connection.error is not None:
            raise self.connection.failure()
        globs: dict[bytes, Key[Any]] = {}
        for pattern in folded(self._wild, self._most_patterns):
            glob = self._glob(pattern)
            # Redis does not distinguish two of the patterns: the wider one counts.
            if glob not in globs or is_subset(globs[glob], pattern):
                globs[glob] = pattern
        addresses = self._addresses
        exact = {addresses.to_bytes(addresses.address(key)): key for key in patterns if not key.is_wildcard}
        new = {glob: pattern for glob, pattern in globs.items() if self._globs.get(glob) != pattern}
        old = {glob: pattern for glob, pattern in self._globs.items() if glob not in globs}
        self._globs = globs

        asked = [
            _Request(what, dict(part))
            # Subscribe to what replaces a pattern before unsubscribing from that.
            for what, names in ((verb, exact), (b"PSUBSCRIBE", new), (b"PUNSUBSCRIBE", old))
            for part in _parts(list(names.items()), NAMES_A_COMMAND)
        ]
        self._asked.extend(asked)
        self.connection.write(pack(*(each.command() for each in asked)))
        if self._asked:
            # Also if nothing was sent: an earlier request that covers it may not be confirmed yet.
            done = asyncio.get_running_loop().create_future()
            self._asked[-1].waiting.append(done)
            await done

    def _glob(self, pattern: Key[Any]) -> bytes:
        """Return the pattern as a glob for Redis; its `*` crosses separators, so the glob may match more."""
        parts = ("*" if part in (STAR, PLUS) else _literally(self._addresses.escape(part)) for part in pattern)
        return self._addresses.to_bytes(_literally(self._addresses.prefix) + self._addresses.separator.join(parts))

    def _answered(self, reply: Any) -> None:
        """Handle the confirmation of a name of the oldest request, or the refusal of a whole command."""
        sound(reply)
        if not (self._asked and isinstance(reply, list)):
            raise ConnectionError("Redis has sent a reply to no command")
        asked = self._asked[0]
        kind, address = reply[0], reply[1]
        # The copies change here, among the messages, exactly when the server changes what it sends.
        pattern = asked.patterns.pop(address)
        old = self._patterns.pop(address, None) if kind in _OF_PATTERNS else self._pop_channel(address)
        if old is not None:
            self._copies.remove(old)
        if kind == b"subscribe":
            self._channels[address] = (pattern, CONTROL if pattern in self._control else PLAIN)
            self._copies.add(pattern)
        elif kind == b"psubscribe":
            self._patterns[address] = pattern
            self._copies.add(pattern)
        if not asked.patterns:
            self._asked.popleft()
            for done in asked.waiting:
                if not done.done():
                    done.set_result(None)

    def _pop_channel(self, address: bytes) -> Key[Any] | None:
        key, _ = self._channels.pop(address, (None, ()))
        return key

    def lost(self) -> None:
        """Called when the connection has failed: wake whoever waits for a confirmation with an error."""
        while self._asked:
            for done in self._asked.popleft().waiting:
                if not done.done():
                    done.set_exception(self.connection.reason())


_OF_PATTERNS = (b"psubscribe", b"punsubscribe")


class _Request:
    """A command whose confirmations are outstanding, one for each name."""

    __slots__ = ("patterns", "verb", "waiting")

    def __init__(self, verb: bytes, patterns: dict[bytes, Key[Any]]) -> None:
        self.verb = verb
        self.patterns = patterns
        self.waiting: list[asyncio.Future[None]] = []

    def command(self) -> Command:
        """Return the command to send."""
        return (self.verb, *self.patterns)


def folded(patterns: Collection[Key[Any]], most: int) -> Collection[Key[Any]]:
    """Return at most `most` patterns that match everything these match; the longest are cut to a prefix first."""
    depth = max(map(len, patterns), default=0)
    while len(patterns) > most:
        depth -= 1
        groups: dict[Key[Any], list[Key[Any]]] = {}
        for pattern in patterns:
            if len(pattern) > depth:
                groups.setdefault(Key(*pattern[:depth], STAR), []).append(pattern)
        kept = dict.fromkeys(patterns)
        for wide, narrow in sorted(groups.items(), key=lambda item: -len(item[1])):
            if len(kept) <= most or len(narrow) == 1:
                break
            for pattern in narrow:
                del kept[pattern]
            kept[wide] = None
        patterns = kept
    return patterns


def _literally(text: str) -> str:
    return _GLOB.sub(r"\\\g<0>", text)


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
