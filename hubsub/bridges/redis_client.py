"""Connections to Redis: where a URL, options or a client of the user's lead, without what redis-py does by itself.

redis-py's connections are used, its clients are not: what those add (a pool that reconnects, retries, health checks,
metrics, replies made into dicts) is the relay's task, or time spent on every message.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from ..errors import HubsubError, MissingDriver

# One command, its name first.
Command: TypeAlias = tuple[bytes | str | float, ...]

# `redis-stream+sentinel` and the like: TLS, the adapter's own words, sentinel.
_SCHEME = re.compile(r"(redis|rediss)(-[a-z-]+)?(\+sentinel)?\Z")
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)
_PASSWORDS = re.compile(r"(?<=password=)[^&\s]*")

# What the adapters decide: the relay keeps deadlines and tries again, replies are bytes, and RESP 2 is read faster.
_DECIDED = {
    "socket_timeout",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "health_check_interval",
    "decode_responses",
    "encoding",
    "encoding_errors",
}
# What redis-py notes among the settings of a client for its own use.
_NOTED = re.compile(r"maint_|oss_|orig_|himport_|connection_pool\Z|legacy_responses\Z")


def without_password(text: str) -> str:
    """`text`, a URL perhaps, without user, password and passwords among its options."""
    return _PASSWORDS.sub("…", _CREDENTIALS.sub("…@", text))


def is_refusal(error: Exception) -> bool:
    """True if the server refuses this very command for good; False if it may well take it a while later."""
    exceptions = import_module("redis.exceptions")
    passing = (
        exceptions.OutOfMemoryError,
        exceptions.ReadOnlyError,
        exceptions.NoScriptError,
        exceptions.ExecAbortError,
        exceptions.ClusterError,
        exceptions.AskError,
    )
    # Everything else that is no ResponseError, LOADING among it, is the connection's.
    return (
        isinstance(error, exceptions.ResponseError)
        and not isinstance(error, passing)
        and not str(error).startswith(("BUSY ", "NOREPLICAS", "MASTERDOWN", "MISCONF", "UNBLOCKED"))
    )


class Server:
    """Opens connections to one Redis server, or to the master that Sentinels name at that moment.

    Args:
        adapter: The class that needs it, for messages.
        url: `redis://user:password@host:6379/0`, `rediss://` for TLS,
            `redis+sentinel://user:password@host:26379,host:26379/service/0`; in place of `redis` may stand the
            adapter's own scheme, beginning with it. Options of a connection may follow, as in `?ssl_ca_certs=ca.pem`.
        client: A `redis.asyncio.Redis` in place of the URL. Only its settings are used, and it stays the user's.
        options: Further options of a connection of redis-py.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: Both or neither of URL and client, a client of a cluster, an option that does not exist, or one that
            the adapters decide.
        ValueError: The URL makes no sense.
    """

    def __init__(self, adapter: str, url: str | None, client: Any, options: Mapping[str, Any]) -> None:
        try:
            self._driver: Any = import_module("redis.asyncio.sentinel")
        except ImportError as error:
            raise MissingDriver(adapter, "redis", "redis") from error
        if (url is None) == (client is None):
            raise TypeError(f"{adapter} takes a URL or a client: one of them")
        if decided := _DECIDED & options.keys():
            raise TypeError(f"{adapter} decides by itself about {', '.join(sorted(decided))}")
        self._adapter = adapter
        self._sentinels: Any = None
        self.address = without_password(url) if url is not None else type(client).__name__
        ours: dict[str, Any] = {"socket_timeout": None, "protocol": 2, "retry": None}
        self._pool: Any
        if url is None:
            self._pool = self._pool_like(client, {**options, **ours})
            return
        settings = self._parse(url)
        self.database = int(options.get("db", settings.get("db", 0)))
        sentinels = settings.pop("sentinels", None)
        if sentinels is None:
            self._pool = self._driver.ConnectionPool(**{**settings, **options, **ours})
            self._pool.make_connection()  # options that do not exist are told now
            return
        service = settings.pop("service")
        # A Sentinel that does not answer must not keep us from asking the next one.
        theirs = {**ours, "socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        for name in ("username", "password"):
            if f"sentinel_{name}" in settings:
                theirs[name] = settings.pop(f"sentinel_{name}")
        if settings.pop("connection_class", None) is not None:
            theirs |= {name: value for name, value in {**settings, **options}.items() if name.startswith("ssl_")}
            theirs["ssl"] = settings["ssl"] = True
        self._sentinels = self._driver.Sentinel(sentinels, sentinel_kwargs=theirs)
        self._pool = self._driver.SentinelConnectionPool(service, self._sentinels, **{**settings, **options, **ours})
        self._pool.make_connection()

    def _parse(self, url: str) -> dict[str, Any]:
        """The options of a connection that are written in the URL."""
        parse_url = import_module("redis.asyncio.connection").parse_url
        scheme, separator, rest = url.partition("://")
        match = _SCHEME.match(scheme)
        if not match or not separator:
            raise ValueError(f"{self.address} is no URL for {self._adapter}: it would begin with redis or rediss")
        tls, _, sentinel = match.groups()
        try:
            if not sentinel:
                settings = dict(parse_url(f"{tls}://{rest}"))
            else:
                parts = urlsplit(f"{tls}://{rest}")
                credentials, at, hosts = parts.netloc.rpartition("@")
                service, _, database = parts.path.strip("/").partition("/")
                if not service or not hosts:
                    raise ValueError
                settings = dict(parse_url(f"{tls}://{credentials}{at}host/{database}?{parts.query}"))
                del settings["host"]
                addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
                settings["sentinels"] = [(each.hostname or "localhost", each.port or 26379) for each in addresses]
                settings["service"] = service
        except ValueError:
            # Not as a cause: it may quote what stands where a port should.
            raise ValueError(f"{self.address} cannot be read as a URL of Redis") from None
        if decided := _DECIDED & settings.keys():
            raise TypeError(f"{self._adapter} decides by itself about {', '.join(sorted(decided))}")
        return settings

    def _pool_like(self, client: Any, options: dict[str, Any]) -> Any:
        """A pool that makes connections with the settings of `client`."""
        pool = getattr(client, "connection_pool", None)
        if pool is None:
            raise TypeError(f"{self._adapter} needs a redis.asyncio.Redis, not a {type(client).__name__}")
        settings = {name: value for name, value in pool.connection_kwargs.items() if not _NOTED.match(name)}
        settings |= {"health_check_interval": 0, "decode_responses": False, "encoding": "utf-8"}
        settings |= {"retry_on_error": [], "retry_on_timeout": False}
        settings |= {"connection_class": pool.connection_class, **options}
        self.database = int(settings.get("db") or 0)
        if isinstance(pool, self._driver.SentinelConnectionPool):
            return self._driver.SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **settings)
        return self._driver.ConnectionPool(**settings)

    async def open(self) -> Connection:
        """A new connection; it has answered."""
        connection = Connection(self._pool.make_connection(), self._adapter)
        try:
            await connection.open()
            if isinstance(self._pool, self._driver.SentinelConnectionPool):
                # A master that came back after it was replaced is named for a while yet.
                role, *_ = await connection.one("ROLE")
                if role != b"master":
                    raise ConnectionError(f"what the Sentinels of {self.address} take for the master is none")
        except self._driver.MasterNotFoundError:
            # Not as a cause: it quotes the settings of the Sentinels.
            raise ConnectionError(f"no Sentinel of {self.address} names a master") from None
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Let go of what was opened beside connections."""
        if self._sentinels is not None:
            for sentinel in self._sentinels.sentinels:
                await sentinel.aclose()

    def __repr__(self) -> str:
        return self.address


class Connection:
    """One connection, for any number of callers; once it has failed, it fails.

    redis-py opens it (TCP, TLS or a socket; authentication, database, Sentinel) and names the errors. What is said is
    written and read here: its parser awaits every element of a reply, which for an entry of a stream takes longer than
    everything else that happens to a message.
    """

    __slots__ = ("_adapter", "_connection", "_data", "_reader", "_replies", "_turn", "_writer")

    def __init__(self, connection: Any, adapter: str) -> None:
        self._connection = connection
        self._adapter = adapter
        self._data = b""  # has come, and is no whole reply yet
        self._replies: deque[Any] = deque()
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and have a PING answered."""
        await self._connection.connect()
        self._reader: StreamReader = self._connection._reader
        self._writer: StreamWriter = self._connection._writer
        await self.one("PING")

    async def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send packed commands; return the reply of each: bytes, int, None, a list of such, or a `ResponseError`."""
        async with self._turn:
            try:
                self._writer.write(data)
                await self._writer.drain()
                while len(self._replies) < count:
                    await self._fetch()
            except BaseException:
                # The replies that are still to come would be taken for those of other commands.
                await self.close()
                raise
            popleft = self._replies.popleft
            return [self._sound(popleft()) for _ in range(count)]

    async def _fetch(self) -> None:
        """Wait for data, and take it apart as far as it goes."""
        pieces = [self._data]
        while True:
            piece = await self._reader.read(1 << 20)
            if not piece:
                raise ConnectionResetError(f"the connection of {self._adapter} to Redis is closed")
            pieces.append(piece)
            # What ends otherwise is incomplete, so that a long reply is not taken apart again with each piece of it.
            if piece.endswith(b"\n"):
                break
        tokens = b"".join(pieces).split(b"\r\n")
        self._data = tokens.pop()
        at = 0
        try:
            while at < len(tokens):
                reply, after = parse(tokens, at, self._connection._parser.parse_error)
                self._replies.append(reply)
                at = after
        except IndexError:
            self._data = b"\r\n".join([*tokens[at:], self._data])

    async def ask(self, *commands: Command) -> list[Any]:
        """Send the commands together; return the reply of each, which may be a `ResponseError`."""
        return await self.exchange(b"".join(map(pack, commands)), len(commands))

    async def one(self, *command: Any) -> Any:
        """Send a command and return its reply.

        Raises:
            redis.ResponseError: The server refuses it.
        """
        (reply,) = await self.ask(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def atomically(self, *commands: Command) -> list[Any]:
        """Like `ask`, with nothing happening between the commands."""
        *queued, replies = await self.ask(("MULTI",), *commands, ("EXEC",))
        if isinstance(replies, Exception):
            # Why stands with the command that could not be queued.
            raise next((reply for reply in queued if isinstance(reply, Exception)), replies)
        return list(replies)

    def _sound(self, reply: Any) -> Any:
        """`reply`, unless it is an error of the connection or of a cluster."""
        if isinstance(reply, Exception):
            exceptions = import_module("redis.exceptions")
            if isinstance(reply, exceptions.AskError):
                raise HubsubError(f"{self._adapter} cannot use a Redis Cluster: one server, or Sentinel") from reply
            if not isinstance(reply, exceptions.ResponseError):
                raise reply
        return reply

    async def close(self) -> None:
        """Cut it, whatever it is doing; a caller that waits for a reply gets an exception."""
        writer = self._connection._writer
        if writer is not None:
            # Closing would wait until a server that has stopped reading has read what was sent.
            writer.transport.abort()
        await self._connection.disconnect(nowait=True)


def pack(command: Command) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n%b" % (len(command), arguments(*command))


def arguments(*values: bytes | str | float) -> bytes:
    """Arguments of a command as they are sent."""
    parts: list[bytes] = []
    for value in values:
        if not isinstance(value, bytes):
            value = encode(str(value))
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


def encode(text: str) -> bytes:
    """Text as it stands in Redis: UTF-8, for any string."""
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """Text that stands in Redis; of what is no text, as much as is."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def is_unknown(reply: Any) -> bool:
    """True if the server does not have the script that it was to run."""
    return isinstance(reply, Exception) and isinstance(reply, import_module("redis.exceptions").NoScriptError)


class _Heads(dict[int, bytes]):
    """What stands before a string of so many bytes."""

    def __missing__(self, length: int) -> bytes:
        head = b"$%d" % length
        if length < 4096:
            self[length] = head
        return head


_head = _Heads().__getitem__


def parse(tokens: list[bytes], at: int, error: Callable[[str], Exception]) -> tuple[Any, int]:
    """Read a reply that begins at one of the tokens, which are the data split at its line ends; and where it is over.

    Raises:
        IndexError: It goes on beyond the last token.
    """
    token = tokens[at]
    kind = token[:1]
    at += 1
    if kind == b"*":
        count = int(token[1:])
        if count < 0:
            return None, at
        end = at + 2 * count
        strings = tokens[at + 1 : end : 2]
        # Strings without a line end in them are every other token. All of that runs in C.
        if len(strings) == count and tokens[at:end:2] == list(map(_head, map(len, strings))):
            return strings, end
        replies: list[Any] = []
        for _ in range(count):
            token = tokens[at]
            # As below, without a call.
            if token[:1] == b"$" and token != b"$-1" and token == _head(len(tokens[at + 1])):
                replies.append(tokens[at + 1])
                at += 2
            else:
                reply, at = parse(tokens, at, error)
                replies.append(reply)
        return replies, at
    if kind == b"$":
        length = int(token[1:])
        if length < 0:
            return None, at
        string = tokens[at]
        at += 1
        if len(string) < length:
            start = at - 1
            size = len(string)
            while size < length:
                size += 2 + len(tokens[at])
                at += 1
            string = b"\r\n".join(tokens[start:at])
        return string, at
    if kind == b":":
        return int(token[1:]), at
    if kind == b"+":
        return token[1:], at
    return error(token[1:].decode("utf-8", "replace")), at
