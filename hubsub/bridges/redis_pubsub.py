"""Redis Pub/Sub: messages reach whoever is subscribed at that moment, and are kept nowhere."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import MissingDriver
from ..key import PLUS, STAR, Key, is_subset
from .adapter import Adapter, Features, Link, Received, Record
from .address import Addresses, Copies, cached
from .resp import Incomplete, Refused, Stream, command, read_reply

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis

# Set on every connection. The relay keeps the deadlines and tries again; a driver that does so too doubles messages.
OURS: Mapping[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "health_check_interval": 0,
    "retry": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
}

NAMES_A_COMMAND = 1000  # so that no subscription keeps the server from everybody else for long

# With anything else that Redis says to a PUBLISH it is loading, demoted or shutting down: no state to go on with.
REFUSED_FOR_GOOD = {"ERR", "NOPERM", "OOM"}

# A message, up to its payload. A channel that holds a carriage return, which ours never do, is left to `read_reply`.
_MESSAGE = re.compile(
    rb"\*(?:3\r\n\$7\r\nmessage|4\r\n\$8\r\npmessage\r\n\$\d+\r\n([^\r]*))\r\n\$(\d+)\r\n([^\r]*)\r\n\$(\d+)\r\n"
)
# What may stand in a channel: all but the separator, carriage returns, and what UTF-8 does not have.
_ALLOWED = r"\0-\x0c\x0e-9;-\ud7ff\ue000-\U0010ffff"
_GLOB = re.compile(r"[*?\[\]\\]")


class RedisAdapter(Adapter):
    """Redis Pub/Sub through two connections, one that subscribes and one that publishes.

    Args:
        url: `redis://`, `rediss://` or `redis+sentinel://host:port,host:port/service/db`, with the options of redis-py
            in its query.
        client: Instead of an address: a client of `redis.asyncio` whose settings are used. The client itself is left
            alone.
        ssl_context: For TLS, instead of the options of redis-py.
        options: More options of redis-py's connections, and `sentinel_kwargs`, those of the connections to sentinels.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: An option does not exist, or there is no one address.
        ValueError: The URL makes no sense, or an option is set that the bridge sets itself.
    """

    most_patterns = 100
    """Each pattern at the server slows every PUBLISH of everybody; more than these are folded into wider ones."""

    features = Features(order="all", confirms="received", patterns=True, max_payload=512 * 1024 * 1024)

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Redis | None = None,
        ssl_context: SSLContext | None = None,
        **options: Any,
    ) -> None:
        try:
            import redis.asyncio.sentinel
        except ImportError as error:
            raise MissingDriver("RedisAdapter", "redis", "redis") from error

        self._sentinel = redis.asyncio.sentinel
        if client is None:
            self._pool = _pool_of(url, options, tls=ssl_context is not None)
        elif url is not None or options or ssl_context is not None:
            raise TypeError("RedisAdapter takes a url with options, or a client that has its own, not both")
        elif not isinstance(client, redis.asyncio.Redis):
            raise TypeError(f"client is a redis.asyncio.Redis, not {type(client)}; of a cluster give any node's URL")
        else:
            self._pool = client.connection_pool
        self._is_own = client is None
        self._ssl_context = ssl_context
        self._connections: list[Any] = []
        self._make_connection()  # options that do not exist are told now
        self._forget()

    def __repr__(self) -> str:
        return f"<RedisAdapter {self._where()}>"

    def _where(self) -> str:
        settings = self._pool.connection_kwargs
        if isinstance(self._pool, self._sentinel.SentinelConnectionPool):
            return f"{self._pool.service_name} by sentinel"
        return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")

    # Connecting

    async def connect(self, link: Link) -> None:
        self._forget()
        self._addresses = _addresses(link.namespace, self._pool.connection_kwargs.get("db") or 0)
        self._head = cached(self._publish_head)
        self._key = cached(self._key_of)
        try:
            self._sending = await self._open()
            if link.reads:
                self._reading = await self._open()
        finally:
            if self._is_own and isinstance(self._pool, self._sentinel.SentinelConnectionPool):
                for sentinel in self._pool.sentinel_manager.sentinels:
                    await sentinel.aclose()

    async def _open(self) -> Stream:
        connection = self._make_connection()
        self._connections.append(connection)
        try:
            await connection.connect()
        except self._sentinel.MasterNotFoundError:
            # The driver's own words may contain the settings of the sentinels.
            raise ConnectionError(f"no sentinel that answers knows a master for {self._where()}") from None
        # The driver's own reading of replies costs as much as all the rest of a bridge.
        stream = Stream(connection._reader, connection._writer)
        by_sentinel = isinstance(self._pool, self._sentinel.SentinelConnectionPool)
        answer = await stream.ask(b"ROLE" if by_sentinel else b"PING")
        if isinstance(answer, Refused) and answer.code not in REFUSED_FOR_GOOD:
            raise answer
        if by_sentinel and isinstance(answer, list) and answer[0] != b"master":
            raise ConnectionError(f"what the sentinels take for the master of {self._where()} is none")
        return stream

    def _make_connection(self) -> Any:
        settings = {**self._pool.connection_kwargs, **OURS, "retry_on_error": []}
        if "maint_notifications_config" in settings:  # of redis-py 7 and later, for RESP3 only
            settings["maint_notifications_config"] = None
        connection: Any = self._pool.connection_class(**settings)
        if self._ssl_context is not None:
            connection.ssl_context.context = self._ssl_context
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
            writer: asyncio.StreamWriter | None = connection._writer
            if writer is not None:
                # Without a goodbye, which a server that is frozen would never take.
                writer.transport.abort()
            await connection.disconnect(nowait=True)
            if writer is not None:
                with suppress(OSError):
                    await writer.wait_closed()

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        head = self._head
        self._sending.write(
            b"".join([b"%b%d\r\n%b\r\n" % (head(key), len(payload), payload) for key, payload, _, _ in records])
        )
        errors: dict[int, Exception] = {}
        answered = 0
        while answered < len(records):
            *lines, rest = (await self._sending.read()).split(b"\r\n")
            self._sending.put_back(rest)
            for line in lines:
                if line[:1] != b":":
                    errors[answered] = _refusal(line)
                answered += 1
        return errors

    def _publish_head(self, key: Key[Any]) -> bytes:
        """A command to publish, up to the length of the payload."""
        address = self._addresses.address(key).encode()
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

    def _take(self, data: bytes, received: list[Received]) -> None:
        """Append the messages; note the confirmations in their places among them; put the rest back."""
        patterns = self._patterns
        key_of = self._key
        at = 0
        missing = 1
        try:
            while at < len(data):
                match = _MESSAGE.match(data, at)
                if match is not None and len(match[3]) == int(match[2]):
                    glob, _, channel, length = match.groups()
                    start = match.end()
                    end = start + int(length)
                    if end + 2 > len(data):
                        raise Incomplete(end + 2 - len(data))
                    payload = data[start:end]
                    at = end + 2
                else:
                    reply, at = read_reply(data, at)
                    if not isinstance(reply, list) or reply[0] not in (b"message", b"pmessage"):
                        self._answered(reply)
                        continue
                    glob, channel, payload = (None, *reply[1:]) if len(reply) == 3 else reply[1:]
                if glob is None:
                    received.append(Received(patterns[channel], payload))
                else:
                    key = key_of(channel)
                    if key is not None and self._copies.is_first(key, patterns[glob]):
                        received.append(Received(key, payload))
        except Incomplete as incomplete:
            missing = incomplete.missing
        self._reading.put_back(data[at:], missing)

    def _key_of(self, channel: bytes) -> Key[Any] | None:
        return self._addresses.key(channel.decode(errors="surrogateescape"))

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
        exact = {self._addresses.address(key).encode(): key for key in patterns if not key.is_wildcard}
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
        self._reading.write(b"".join(command(each.command, each.patterns) for each in asked))
        if self._asked:
            # Also if there was nothing to ask: what it relies on may have been asked for a moment ago.
            done = asyncio.get_running_loop().create_future()
            self._asked[-1].waiting.append(done)
            await done

    def _glob(self, pattern: Key[Any]) -> bytes:
        """The pattern as Redis matches it: `*` there crosses separators, so that more may come than was meant."""
        parts = ("*" if part in (STAR, PLUS) else _literally(self._addresses.escape(part)) for part in pattern)
        return (_literally(self._addresses.prefix) + self._addresses.separator.join(parts)).encode()

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

    __slots__ = ("command", "patterns", "waiting")

    def __init__(self, command: bytes, patterns: dict[bytes, Key[Any]]) -> None:
        self.command = command
        self.patterns = patterns
        self.waiting: list[asyncio.Future[None]] = []


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
    bare = Addresses(":", allowed=_ALLOWED)
    return Addresses(":", allowed=_ALLOWED, prefix=f"{bare.escape(namespace)}:{database}:") if namespace else bare


def _literally(text: str) -> str:
    return _GLOB.sub(r"\\\g<0>", text)


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _refusal(line: bytes) -> Refused:
    """What one PUBLISH was answered.

    Raises:
        ConnectionError: It makes no sense to go on with this connection.
    """
    refused = Refused(line[1:].decode(errors="replace"))
    if refused.code not in REFUSED_FOR_GOOD:
        raise ConnectionError(f"Redis cannot publish: {refused}")
    return refused


# The address of the server


def _pool_of(url: str | None, options: Mapping[str, Any], tls: bool) -> ConnectionPool:
    """The settings of a connection, in the form in which a client has them."""
    from redis.asyncio import connection as driver

    if url is None and not options:
        raise TypeError("RedisAdapter needs a url, options that say where Redis is, or a client")
    if url is not None and options.keys() & {"host", "port", "path"}:
        raise TypeError("the url says where Redis is; host, port and path are for doing without one")
    sentinels, service, plain = _split(url) if url is not None else ([], "", None)
    settings: dict[str, Any] = {**(driver.parse_url(plain) if plain else {}), **options}
    for name in OURS.keys() & settings.keys():
        raise ValueError(f"{name} is not for you to set: the bridge keeps deadlines and tries again by itself")
    settings["protocol"] = OURS["protocol"]  # the pool prepares more for newer protocols
    if settings.pop("ssl", False) or tls:
        settings["connection_class"] = driver.SSLConnection
    return _sentinel_pool(sentinels, service, settings) if sentinels else driver.ConnectionPool(**settings)


def _sentinel_pool(sentinels: list[tuple[str, int]], service: str, settings: dict[str, Any]) -> ConnectionPool:
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
    from redis.backoff import NoBackoff

    tls = settings.pop("connection_class", None) is not None
    del settings["host"]
    # A sentinel that is down or frozen must not keep us long from asking the next.
    asking = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
    sentinel: Any = Sentinel
    pool: Any = SentinelConnectionPool
    manager = sentinel(sentinels, sentinel_kwargs={**asking, **settings.pop("sentinel_kwargs", {})})
    made: ConnectionPool = pool(service, manager, ssl=tls, **settings)
    return made


def _split(url: str) -> tuple[list[tuple[str, int]], str, str]:
    """The sentinels and the service that a URL names, if it does, and the rest as a URL that the driver understands.

    Raises:
        ValueError: It makes no sense. What it says is not repeated: it may be part of a password.
    """
    parts = urlsplit(url)
    scheme, _, by = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or by not in ("", "sentinel"):
        raise ValueError("the URL of a Redis begins with redis://, rediss://, redis+sentinel:// or rediss+sentinel://")
    credentials, at, hosts = parts.netloc.rpartition("@")
    database = parts.path.strip("/")
    sentinels: list[tuple[str, int]] = []
    service = ""
    try:
        each = [urlsplit(f"//{host}") for host in (hosts.split(",") if by else [hosts])]
        places = [(place.hostname or "localhost", place.port or 26379) for place in each]
    except ValueError:
        places = []
    if by:
        service, _, database = database.partition("/")
        sentinels = places
        hosts = "localhost"
        if not service:
            raise ValueError("the URL of a service behind sentinels is redis+sentinel://host:port,host:port/service")
    if not places or parts.fragment or "@" in parts.path + parts.query or not re.fullmatch("[0-9]*", database):
        raise ValueError(
            "not the URL of a Redis: the port and the database are numbers, and in a password"
            " everything but letters and digits is best percent-encoded"
        )
    return sentinels, service, urlunsplit((scheme, f"{credentials}{at}{hosts}", database, parts.query, ""))
