"""Where a URL, options or a client of the user's lead, without what redis-py does by itself.

redis-py's connections are used, its clients and pools are not: what those add (reconnecting, retries, health checks,
metrics, replies made into dicts) is the relay's task, or time spent on every message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from importlib import import_module
from ssl import SSLContext
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from ...errors import MissingDriver
from .connection import Connection, refusal
from .resp import decode

SENTINEL_SECONDS = 1.0
"""How long a Sentinel that does not answer keeps us from asking the next one."""

# Set on every connection: the relay keeps deadlines and tries again, and a driver that does so too doubles messages.
OURS: Mapping[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "health_check_interval": 0,
    "retry": None,
    "retry_on_timeout": False,
}
DECIDED = OURS.keys() | {"retry_on_error", "decode_responses", "encoding", "encoding_errors"}
# What redis-py notes among the settings of a client for its own use.
_NOTED = re.compile(r"(maint_|oss_|orig_|himport_|connection_pool$|legacy_responses$)")
# `redis-stream+sentinel` and the like: TLS, the adapter's own words, Sentinel.
_SCHEME = re.compile(r"(rediss?)(?:-[a-z-]+)?(\+sentinel)?")


class Server:
    """Opens connections to one Redis server, or to the master that Sentinels name at that moment.

    Args:
        adapter: The class that needs it, for messages.
        url: `redis://user:password@host:6379/0`, `rediss://` for TLS,
            `redis+sentinel://user:password@host:26379,host:26379/service/0`; behind `redis` may stand words of the
            adapter's, as in `redis-stream`. Options may follow, as in `?ssl_ca_certs=ca.pem`.
        client: A `redis.asyncio.Redis` in place of all that. Only its settings are used, and it stays the user's.
        options: Those of redis-py's connections; with `sentinel_` before their names, those of the connections to
            Sentinels, which speak TLS like the others unless `sentinel_ssl=False`; and `ssl_context`, for all of them.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no one address, or an option does not exist or is for the adapter to decide.
        ValueError: The URL makes no sense. It is not repeated: a password may be anywhere in it.
    """

    def __init__(self, adapter: str, url: str | None, client: Any, options: Mapping[str, Any]) -> None:
        try:
            self._driver: Any = import_module("redis.asyncio")
        except ImportError as error:
            raise MissingDriver(adapter, "redis", "redis") from error
        self._adapter = adapter
        self._service: str | None = None
        self._sentinels: list[_Place] = []
        if client is None:
            self._place = self._written(url, options)
        elif url is None and not options:
            self._place = self._borrowed(client)
        else:
            raise TypeError(f"{adapter} takes a URL with options, or a client that has its own, not both")
        for place in (self._place, *self._sentinels):
            place.connection()  # options that do not exist are told now
        self.database = int(self._place.settings.get("db") or 0)

    def __repr__(self) -> str:
        settings = self._place.settings
        where = self._service and f"{self._service} by Sentinel"
        where = where or settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
        return f"{where}/{self.database}"

    def _written(self, url: str | None, options: Mapping[str, Any]) -> _Place:
        """What URL and options say."""
        if url is None and not options:
            raise TypeError(f"{self._adapter} needs a URL, options that say where Redis is, or a client")
        if url is not None and options.keys() & {"host", "port", "path"}:
            raise TypeError("the URL says where Redis is; host, port and path are for doing without one")
        settings: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        hosts: list[dict[str, Any]] = []
        if url is not None:
            settings, theirs, hosts = self._read(url)
        for name, value in options.items():
            (theirs if name.startswith("sentinel_") else settings)[name.removeprefix("sentinel_")] = value
        if decided := DECIDED & (settings.keys() | theirs.keys()):
            raise TypeError(f"{self._adapter} decides by itself about {', '.join(sorted(decided))}")
        if theirs and not hosts:
            raise TypeError(f"{self._adapter} is told of no Sentinels: redis+sentinel://host:port,host:port/service")

        connections = self._driver.connection
        kinds = (connections.Connection, connections.SSLConnection)
        context = settings.pop("ssl_context", None)
        tls = bool(settings.pop("ssl", context is not None))
        their_tls = bool(theirs.pop("ssl", tls))
        if their_tls:
            theirs = {name: value for name, value in settings.items() if name.startswith("ssl_")} | theirs
        self._sentinels = [
            _Place(kinds[their_tls], {**theirs, **host}, context if their_tls else None) for host in hosts
        ]
        kind = connections.UnixDomainSocketConnection if "path" in settings else kinds[tls]
        return _Place(kind, settings, context)

    def _read(self, url: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """The options in a URL, those for connections to Sentinels, and where these are."""
        scheme, _, rest = url.partition("://")
        match = _SCHEME.fullmatch(scheme)
        if match is None:
            raise ValueError(f"the URL of a Redis, for {self._adapter}, begins with redis or rediss")
        tls, by_sentinel = match.groups()
        parse_url = self._driver.connection.parse_url
        try:
            parts = urlsplit(f"//{rest}")
            credentials, at, hosts = parts.netloc.rpartition("@")
            database = parts.path.strip("/")
            if by_sentinel:
                self._service, _, database = database.partition("/")
            each = [urlsplit(f"//{host}") for host in hosts.split(",")]
            sentinels = [{"host": one.hostname or "localhost", "port": one.port or 26379} for one in each]
            if parts.fragment or "@" in parts.path + parts.query or not re.fullmatch("[0-9]*", database):
                raise ValueError
            options = parse_qsl(parts.query)
            ours = [(name, value) for name, value in options if not name.startswith("sentinel_")]
            theirs = [(name.removeprefix("sentinel_"), value) for name, value in options if (name, value) not in ours]
            place = "" if by_sentinel else hosts
            settings = dict(parse_url(f"redis://{credentials}{at}{place}/{database}?{urlencode(ours)}"))
            their_settings = dict(parse_url(f"redis://?{urlencode(theirs)}"))
        except ValueError:
            # Not as a cause: it may quote what stands where a port should.
            raise ValueError(
                "not the URL of a Redis: the port and the database are numbers, and in a password"
                " everything but letters and digits is best percent-encoded"
            ) from None
        if "ssl" in settings or "ssl" in their_settings:
            raise TypeError("a URL asks for TLS by its beginning, rediss")
        if tls == "rediss":
            settings["ssl"] = True
        if not by_sentinel:
            return settings, their_settings, []
        if not self._service:
            raise ValueError("the URL of a service behind Sentinels is redis+sentinel://host:port,host:port/service")
        return settings, their_settings, sentinels

    def _borrowed(self, client: Any) -> _Place:
        """What a client of the user's says."""
        if not isinstance(client, self._driver.Redis):
            raise TypeError(
                f"{self._adapter} needs a redis.asyncio.Redis, not {type(client)}; of a cluster that carries"
                " Pub/Sub, give any node's URL"
            )
        pool: Any = client.connection_pool
        place = _Place.of(pool)
        manager = getattr(pool, "sentinel_manager", None)
        if manager is None:
            return place
        self._service = pool.service_name
        self._sentinels = [_Place.of(sentinel.connection_pool) for sentinel in manager.sentinels]
        connections = self._driver.connection
        tls = issubclass(place.kind, connections.SSLConnection)
        return place._replace(kind=connections.SSLConnection if tls else connections.Connection)

    async def open(self) -> Connection:
        """A new connection; the server, which is a master, has answered."""
        where = await self._master() if self._sentinels else {}
        connection = Connection(self._place.connection(**where), self._adapter)
        try:
            await connection.open()
            (answer,) = await connection.ask(("ROLE" if where else "PING",))
            if isinstance(answer, Exception):
                refusal(answer)  # an answer, from one who grants us little
            elif where and answer[0] != b"master":
                # One that came back after it was replaced is named for a while yet.
                raise ConnectionError(f"what the Sentinels take for the master of {self!r} is none")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _master(self) -> dict[str, Any]:
        """Where the first of the Sentinels that knows a master says that it is."""
        for place in [*self._sentinels]:
            sentinel = Connection(place.connection(), self._adapter)
            try:
                async with asyncio.timeout(SENTINEL_SECONDS):
                    await sentinel.open()
                    reply = await sentinel.one("SENTINEL", "MASTER", self._service)
            except (OSError, self._driver.RedisError):
                continue
            finally:
                await sentinel.close()
            master = dict(zip(reply[::2], reply[1::2], strict=True))
            if b"down" not in master[b"flags"]:
                # Whoever answers is asked first the next time.
                self._sentinels.remove(place)
                self._sentinels.insert(0, place)
                return {"host": decode(master[b"ip"]), "port": int(master[b"port"])}
        raise ConnectionError(f"no Sentinel that answers knows a master for {self!r}")


class _Place(NamedTuple):
    """Where a server is, and how it is spoken to."""

    kind: Any  # a class of redis-py's connections
    settings: dict[str, Any]
    context: SSLContext | None = None

    @classmethod
    def of(cls, pool: Any) -> _Place:
        """Where the connections of a pool lead."""
        settings = {name: value for name, value in pool.connection_kwargs.items() if not _NOTED.match(name)}
        return cls(pool.connection_class, settings)

    def connection(self, **where: Any) -> Any:
        """One of redis-py's connections, not connected yet."""
        connection = self.kind(**{**self.settings, **where, **OURS, "retry_on_error": []})
        if self.context is not None:
            connection.ssl_context.context = self.context
        return connection
