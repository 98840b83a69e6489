"""The connection that subscribes: what is asked for and confirmed there, and what comes, each in its place."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ...errors import BridgeError
from ...key import PLUS, STAR, Key, is_subset
from ..adapter import Received
from ..address import Addresses, Copies, cached
from .answers import sound
from .connection import Connection
from .resp import Command, pack

NAMES_A_COMMAND = 1000  # so that no subscription keeps the server from everybody else for long
MOST_UNREAD = 4 << 20
"""Bytes that wait to be received; then no more are read until they were."""

_GLOB = re.compile(r"[*?\[\]\\]")

as_tuple = tuple.__new__
# What a message has beside key and payload.
PLAIN = tuple(Received._field_defaults.values())
CONTROL = tuple({**Received._field_defaults, "is_control": True}.values())


class Subscriber:
    """What comes is taken in at once, also while nobody receives: behind it may stand a confirmation.

    Args:
        connection: It is for nothing else.
        addresses: Makes channels of keys, and keys of channels.
        most_patterns: More than so many are folded into wider ones.
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
        self._wild: dict[Key[Any], None] = {}  # what is wanted
        self._globs: dict[bytes, Key[Any]] = {}  # what of that was asked for, as the server is to match it
        self._asked: deque[_Asked] = deque()
        self._control: set[Key[Any]] = set()
        # What the server has confirmed: of channels the key, and what their messages have beside it.
        self._channels: dict[bytes, tuple[Key[Any], tuple[Any, ...]]] = {}
        self._patterns: dict[bytes, Key[Any]] = {}
        self._copies = Copies()
        connection.hand_over(self._take)

    # Receiving

    def receive(self) -> list[Received]:
        """What has come since the last call."""
        received = self._inbox
        if received:
            self._inbox = []
            self.connection.resume()
        return received

    def _take(self, replies: list[Any]) -> None:
        """Append the messages; note the confirmations in their places among them."""
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
            else:
                self._answered(reply)
        if self._inbox:
            if self.connection.unread > MOST_UNREAD:
                self.connection.pause()
            self._news()

    def _key_of(self, channel: bytes) -> Key[Any] | None:
        return self._addresses.key(self._addresses.to_text(channel))

    # Subscribing

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Have what is sent to these keys received as control messages; return when it is confirmed."""
        self._control.update(keys)
        await self._change(b"SUBSCRIBE", keys)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Have what matches these received; return when it is confirmed.

        Raises:
            BridgeError: The user has not the right to this.
        """
        self._wild.update(dict.fromkeys(pattern for pattern in patterns if pattern.is_wildcard))
        await self._change(b"SUBSCRIBE", [pattern for pattern in patterns if pattern not in self._control])

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        for pattern in patterns:
            self._wild.pop(pattern, None)
        await self._change(b"UNSUBSCRIBE", [pattern for pattern in patterns if pattern not in self._control])

    async def _change(self, verb: bytes, patterns: Iterable[Key[Any]]) -> None:
        """Ask for exact keys, and for whatever follows from the patterns that are wanted now; wait until confirmed."""
        if self.connection.error is not None:
            raise self.connection.failure()
        globs: dict[bytes, Key[Any]] = {}
        for pattern in folded(self._wild, self._most_patterns):
            glob = self._glob(pattern)
            # Two patterns that Redis does not tell apart: the wider one is meant.
            if glob not in globs or is_subset(globs[glob], pattern):
                globs[glob] = pattern
        addresses = self._addresses
        exact = {addresses.to_bytes(addresses.address(key)): key for key in patterns if not key.is_wildcard}
        new = {glob: pattern for glob, pattern in globs.items() if self._globs.get(glob) != pattern}
        old = {glob: pattern for glob, pattern in self._globs.items() if glob not in globs}
        self._globs = globs

        asked = [
            _Asked(what, dict(part))
            # What comes in the place of something else comes first.
            for what, names in ((verb, exact), (b"PSUBSCRIBE", new), (b"PUNSUBSCRIBE", old))
            for part in _parts(list(names.items()), NAMES_A_COMMAND)
        ]
        self._asked.extend(asked)
        self.connection.write(pack(*(each.command() for each in asked)))
        if self._asked:
            # Also if there was nothing to ask: what it relies on may have been asked for a moment ago.
            done = asyncio.get_running_loop().create_future()
            self._asked[-1].waiting.append(done)
            await done

    def _glob(self, pattern: Key[Any]) -> bytes:
        """The pattern as Redis matches it: `*` there crosses separators, so that more may come than was meant."""
        parts = ("*" if part in (STAR, PLUS) else _literally(self._addresses.escape(part)) for part in pattern)
        return self._addresses.to_bytes(_literally(self._addresses.prefix) + self._addresses.separator.join(parts))

    def _answered(self, reply: Any) -> None:
        """Redis has carried out, for one name, what was asked for first, or has refused a whole command."""
        sound(reply)
        if not (self._asked and isinstance(reply, list)):
            raise ConnectionError("Redis has sent what nobody asked for")
        asked = self._asked[0]
        kind, address = reply[0], reply[1]
        # The copies change here, among the messages, and thereby at once with what the server sends.
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
        """The connection has failed: let nobody wait for confirmations any more."""
        while self._asked:
            for done in self._asked.popleft().waiting:
                if not done.done():
                    done.set_exception(self.reason())

    def reason(self) -> Exception:
        """Why the connection is lost: what the server has refused, if that is it."""
        error = self.connection.error
        return error if isinstance(error, BridgeError) else self.connection.failure()


_OF_PATTERNS = (b"psubscribe", b"punsubscribe")


class _Asked:
    """A command whose confirmations are on their way, one for each name."""

    __slots__ = ("patterns", "verb", "waiting")

    def __init__(self, verb: bytes, patterns: dict[bytes, Key[Any]]) -> None:
        self.verb = verb
        self.patterns = patterns
        self.waiting: list[asyncio.Future[None]] = []

    def command(self) -> Command:
        """What is sent."""
        return (self.verb, *self.patterns)


def folded(patterns: Collection[Key[Any]], most: int) -> Collection[Key[Any]]:
    """At most `most` patterns that match all that these match: the longest are cut to a common beginning first."""
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
