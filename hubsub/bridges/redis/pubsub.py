"""Redis Pub/Sub: messages reach whoever is subscribed at that moment, and are kept nowhere."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ...key import PLUS, STAR, Key, is_subset
from ..adapter import Adapter, Features, Link, Received, Record
from ..address import Addresses, Copies, cached
from .connection import Connection, refusal
from .resp import Command, pack
from .server import Server

NAMES_A_COMMAND = 1000  # so that no subscription keeps the server from everybody else for long

# What may stand in a channel: all but the separator, carriage returns, and what UTF-8 does not have.
_ALLOWED = r"\0-\x0c\x0e-9;-\ud7ff\ue000-\U0010ffff"
_GLOB = re.compile(r"[*?\[\]\\]")

as_tuple = tuple.__new__
PLAIN = tuple(Received._field_defaults.values())  # what a message has beside key and payload


class RedisAdapter(Adapter):
    """Redis Pub/Sub through two connections, one that subscribes and one that publishes.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` with TLS, or
            `redis+sentinel://host:port,host:port/service/0`; options in its query.
        client: Instead of it, a `redis.asyncio.Redis` whose settings are used. The client itself is left alone.
        options: Those of redis-py's connections, of those to Sentinels with `sentinel_` before them; `ssl_context`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no one address, or an option does not exist or is for the bridge to decide.
        ValueError: The URL makes no sense.
    """

    most_patterns = 100
    """Each pattern at the server slows every PUBLISH of everybody; more than these are folded into wider ones."""

    features = Features(order="all", confirms="received", patterns=True, max_payload=512 * 1024 * 1024)

    def __init__(self, url: str | None = None, *, client: Any = None, **options: Any) -> None:
        self._server = Server(type(self).__name__, url, client, options)
        self._connections: list[Connection] = []
        self._forget()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    # Connecting

    async def connect(self, link: Link) -> None:
        self._forget()
        self._addresses = _addresses(link.namespace, self._server.database)
        self._head = cached(self._publish_head)
        self._key = cached(self._key_of)
        self._sending = await self._open()
        if link.reads:
            self._reading = await self._open()

    async def _open(self) -> Connection:
        connection = await self._server.open()
        self._connections.append(connection)
        return connection

    def _forget(self) -> None:
        """Begin anew: the server knows nothing of a new connection."""
        self._wild: dict[Key[Any], None] = {}  # what is wanted
        self._globs: dict[bytes, Key[Any]] = {}  # what of that was asked for, as the server is to match it
        self._asked: deque[_Asked] = deque()
        self._lost: Exception | None = None
        self._patterns: dict[bytes, Key[Any]] = {}  # what the server has confirmed, exact ones included
        self._copies = Copies()

    async def close(self) -> None:
        self._fail(ConnectionResetError("the connection to Redis is closed"))
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        head = self._head
        data = b"".join([b"%b%d\r\n%b\r\n" % (head(key), len(payload), payload) for key, payload, *_ in records])
        replies = await self._sending.exchange(data, len(records))
        return {index: refusal(reply) for index, reply in enumerate(replies) if type(reply) is not int}

    def _publish_head(self, key: Key[Any]) -> bytes:
        """A command to publish, up to the length of the payload."""
        address = self._addresses.to_bytes(self._addresses.address(key))
        return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(address), address)

    # Receiving

    async def receive(self) -> list[Received]:
        try:
            received: list[Received] = []
            while not received:
                self._take(await self._reading.read(), received)
            return received
        except Exception as error:
            self._fail(error)
            raise

    def _take(self, replies: list[Any], received: list[Received]) -> None:
        """Append the messages; note the confirmations in their places among them."""
        patterns, key_of, is_first, append = self._patterns, self._key, self._copies.is_first, received.append
        for reply in replies:
            kind = reply[0] if type(reply) is list else None
            if kind == b"message":
                append(as_tuple(Received, (patterns[reply[1]], reply[2], *PLAIN)))
            elif kind == b"pmessage":
                _, glob, channel, payload = reply
                key = key_of(channel)
                if key is not None and is_first(key, patterns[glob]):
                    append(as_tuple(Received, (key, payload, *PLAIN)))
            else:
                self._answered(reply)

    def _key_of(self, channel: bytes) -> Key[Any] | None:
        return self._addresses.key(self._addresses.to_text(channel))

    # Subscribing

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        self._wild.update(dict.fromkeys(pattern for pattern in patterns if pattern.is_wildcard))
        await self._change(b"SUBSCRIBE", patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        for pattern in patterns:
            self._wild.pop(pattern, None)
        await self._change(b"UNSUBSCRIBE", patterns)

    async def _change(self, verb: bytes, patterns: Iterable[Key[Any]]) -> None:
        """Ask for exact keys, and for whatever follows from the patterns that are wanted now; wait until confirmed."""
        if self._lost is not None:
            raise self._lost
        globs: dict[bytes, Key[Any]] = {}
        for pattern in folded(self._wild, self.most_patterns):
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
        self._reading.write(pack(*(each.command() for each in asked)))
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
        if isinstance(reply, Exception):
            raise reply
        if not (self._asked and isinstance(reply, list)):
            raise ConnectionError("Redis has sent what nobody asked for")
        asked = self._asked[0]
        address = reply[1]
        # The copies change here, among the messages, and thereby at once with what the server sends.
        old = self._patterns.pop(address, None)
        if old is not None:
            self._copies.remove(old)
        pattern = asked.patterns.pop(address)
        if reply[0] in (b"subscribe", b"psubscribe"):
            self._patterns[address] = pattern
            self._copies.add(pattern)
        if not asked.patterns:
            self._asked.popleft()
            for done in asked.waiting:
                if not done.done():
                    done.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Let nobody wait for confirmations any more, now or later."""
        self._lost = error
        while self._asked:
            for done in self._asked.popleft().waiting:
                if not done.done():
                    done.set_exception(error)


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


def _addresses(namespace: str, database: int) -> Addresses:
    # Channels are common to all databases, so the number is part of their names. Without a namespace existing channels
    # are joined, whatever they are called.
    prefix = f"{Addresses(':', allowed=_ALLOWED).escape(namespace)}:{database}:" if namespace else ""
    return Addresses(":", allowed=_ALLOWED, prefix=prefix, binary=True, foreign=not namespace)


def _literally(text: str) -> str:
    return _GLOB.sub(r"\\\g<0>", text)


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
