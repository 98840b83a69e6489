"""Connections to the server that a URL, options or a client name, without redis-py's own retries.

redis-py's connections are used, its clients and pools are not: what those add (reconnecting, retries, health checks,
metrics, replies made into dicts) is the relay's task, or costs time for every message. They only connect: `connection`
logs in, in one round trip instead of five.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from ...errors import BridgeError, MissingDriver
from ..tls import Tls
from ..together import together
from .answers import is_denied, sound
from .connection import Connection
from .resp import Command, decode

SENTINEL_SECONDS = 1.0
"""Seconds that a Sentinel may be silent before the next one is asked as well."""
SENTINEL_SILENCE = 5.0
"""Seconds without any bytes over its line after which a Sentinel is given up."""

Node: TypeAlias = tuple[str, int]
"""The host and the port of a node of a Redis Cluster."""

# Set on every connection: the relay has deadlines and retries, and a driver that retries too duplicates messages.
OURS: Mapping[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "health_check_interval": 0,
    "retry": None,
    "retry_on_timeout": False,
    "redis_connect_func": lambda connection: None,
}
DECIDED = OURS.keys() | {"retry_on_error", "decode_responses", "encoding", "encoding_errors"}
# The options of redis-py that are most useful in a URL.
USUAL = ("client_name", "socket_connect_timeout", "socket_keepalive", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# Settings of a client that redis-py keeps for its own use.
_NOTED = re.compile(r"(maint_|oss_|orig_|himport_|connection_pool$|legacy_responses$)")
# `redis-stream+sentinel` and the like: TLS, words of the adapter, Sentinel or Cluster.
_SCHEME = re.compile(r"(rediss?)(?:-[a-z-]+)?(\+sentinel|\+cluster)?")
# redis-py's own timeout for a connect, in seconds, which is too short for a slow line.
_DRIVERS_OWN = 5


class Server:
    """Opens connections to one Redis server, or to the master that Sentinels name at that moment.

    Args:
        adapter: The name of the adapter's class, for messages.
        url: `redis://user:password@host:6379/0`, `rediss://` for TLS,
            `redis+sentinel://user:password@host:26379,host:26379/service/0`; behind `redis` may stand words of the
            adapter's, as in `redis-stream`. Options may follow, as in `?ssl_ca_certs=ca.pem`; `?path=/run/redis.sock`
            instead of a host.
        client: Instead of all that, a `redis.asyncio.Redis`. Only its settings are used; the client is not touched.
        options: Options of redis-py's connections; with the prefix `sentinel_`, of the connections to Sentinels, which
            use TLS like the others unless `sentinel_ssl=False`; and `ssl_context`, for all of them.
        scheme: The scheme of the adapter's URLs, for messages.
        own: The names of the adapter's own options that a URL may have.
        is_cluster: It is a Redis Cluster, of which the URL names one node or several: `redis+cluster://host:port,host`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no address, or more than one; or an option does not exist, or is set by the adapter.
        ValueError: The URL is invalid. The error does not repeat it: a password may be anywhere in it.
    """

    def __init__(
        self,
        adapter: str,
        url: str | None,
        client: Any,
        options: Mapping[str, Any],
        *,
        scheme: str = "redis",
        own: Collection[str] = (),
        is_cluster: bool = False,
    ) -> None:
        try:
            self._driver: Any = import_module("redis.asyncio")
        except ImportError as error:
            raise MissingDriver(adapter, "redis", "redis") from error
        self._adapter = adapter
        self._scheme = scheme
        self._own = own
        self.own: tuple[tuple[str, str], ...] = ()
        """The adapter's own options in the URL."""
        self._is_cluster = is_cluster
        self.nodes: list[Node] = []
        """The nodes of a cluster that were named."""
        self._service: str | None = None
        self._sentinels: list[ServerAddress] = []
        if client is None:
            self._address = self._written(url, options)
        elif url is None and not options:
            self._address = self._borrowed(client)
        else:
            raise TypeError(f"{adapter} needs either a URL with options or a client, not both")
        self.failures: tuple[type[Exception], ...] = (OSError, self._driver.RedisError)
        """What `open` raises if a server cannot be reached."""
        if is_cluster:
            self._read_cluster()
        self._address, *self._sentinels = (each.secured() for each in (self._address, *self._sentinels))
        self.database = int(self._address.settings.get("db") or 0)

    def __repr__(self) -> str:
        if self._is_cluster:
            return ",".join(f"{host}:{port}" for host, port in self.nodes)
        settings = self._address.settings
        where = self._service and f"{self._service} by Sentinel"
        where = where or settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
        return f"{where}/{self.database}"

    # Reading the arguments

    def _written(self, url: str | None, options: Mapping[str, Any]) -> ServerAddress:
        """Return the address that URL and options name."""
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
            raise TypeError(f"{self._adapter} sets {', '.join(sorted(decided))} itself; leave it out")
        if theirs and not hosts:
            raise TypeError(
                f"{self._adapter} has sentinel_ options but no Sentinels: {self._scheme}+sentinel://host:port/service"
            )

        connections = self._driver.connection
        kinds = (connections.Connection, connections.SSLConnection)
        context = settings.pop("ssl_context", None)
        given = None if context is None else Tls(lambda: context)
        tls = bool(settings.pop("ssl", context is not None))
        their_tls = bool(theirs.pop("ssl", tls))
        if "path" in settings and (tls or hosts or "host" in settings):
            raise TypeError("a Unix socket has a path and nothing else: no host, no Sentinels, no TLS")
        kind = connections.UnixDomainSocketConnection if "path" in settings else kinds[tls]
        self._check(kind, settings)
        self._check(kinds[their_tls], theirs)
        if their_tls:
            theirs = {name: value for name, value in settings.items() if name.startswith("ssl_")} | theirs
        self._sentinels = [
            ServerAddress(kinds[their_tls], {**theirs, **host}, given if their_tls else None) for host in hosts
        ]
        return ServerAddress(kind, settings, given)

    def _read_cluster(self) -> None:
        """Check what a cluster does not have; without a URL, the options name the only node."""
        settings = self._address.settings
        if settings.get("db") or "path" in settings:
            raise TypeError("a Redis Cluster has only the database 0, and no Unix socket")
        if not self.nodes:
            self.nodes = [(settings.get("host", "localhost"), int(settings.get("port", 6379)))]

    def _check(self, kind: Any, settings: Mapping[str, Any]) -> None:
        """Refuse options that do not exist."""
        known = {
            name
            for each in kind.__mro__
            if "__init__" in vars(each) and each is not object
            for name in inspect.signature(each.__init__).parameters
        }
        if unknown := sorted(settings.keys() - known):
            usual = ", ".join((*self._own, *USUAL))
            raise TypeError(
                f"{self._adapter} has no option {', '.join(unknown)}: it has {usual}, and the others of redis-py's"
                f" {kind.__name__}"
            )

    def _read(self, url: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Return the options in a URL, those for connections to Sentinels, and the addresses of the Sentinels."""
        scheme, _, rest = url.partition("://")
        match = _SCHEME.fullmatch(scheme)
        if match is None:
            raise ValueError(
                f"the URL of a Redis, for {self._adapter}, is {self._scheme}://user:password@host:6379/0 (with TLS"
                f" {self._scheme.replace('redis', 'rediss')}), {self._scheme}+sentinel://host:port,host:port/service/0,"
                f" or for a socket {self._scheme}:///0?path=/run/redis.sock"
            )
        tls, kind = match.groups()
        by_sentinel = kind == "+sentinel"
        if (kind == "+cluster") != self._is_cluster:
            raise ValueError(
                "the URL of a Redis Cluster is redis+cluster://host:port,host:port, for RedisClusterAdapter;"
                f" {self._adapter} has {self._scheme}://"
            )
        parse_url = self._driver.connection.parse_url
        try:
            parts = urlsplit(f"//{rest}")
            credentials, at, hosts = parts.netloc.rpartition("@")
            database = parts.path.strip("/")
            if by_sentinel:
                self._service, _, database = database.partition("/")
            each = [urlsplit(f"//{host}") for host in hosts.split(",")]
            port = 6379 if self._is_cluster else 26379
            nodes = [(one.hostname or "localhost", one.port or port) for one in each]
            if parts.fragment or "@" in parts.path + parts.query or not re.fullmatch("[0-9]*", database):
                raise ValueError
            options = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise self._nonsense() from None
        self.own = tuple((name, value) for name, value in options if name in self._own)
        options = [(name, value) for name, value in options if name not in self._own]
        ours = [(name, value) for name, value in options if not name.startswith("sentinel_")]
        theirs = [(name.removeprefix("sentinel_"), value) for name, value in options if (name, value) not in ours]
        where = "" if kind else hosts
        try:
            settings = dict(parse_url(f"redis://{credentials}{at}{where}/{database}?{urlencode(ours)}"))
            their_settings = dict(parse_url(f"redis://?{urlencode(theirs)}"))
        except ValueError:
            # Not as a cause: it may quote text of the URL.
            raise self._nonsense() from None
        if {"host", "port"} & dict(options).keys():
            raise TypeError("host and port belong at the beginning of a URL, not in its query")
        if "ssl" in settings or "ssl" in their_settings:
            raise TypeError("for TLS a URL begins with rediss; there is no such option in its query")
        # redis-py would ignore them.
        settings |= {name: value for name, value in ours if not value}
        their_settings |= {name: value for name, value in theirs if not value}
        if tls == "rediss":
            settings["ssl"] = True
        if self._is_cluster:
            self.nodes = nodes
        if not by_sentinel:
            return settings, their_settings, []
        if not self._service:
            raise ValueError(
                f"the URL of a service behind Sentinels is {self._scheme}+sentinel://host:port,host:port/service"
            )
        return settings, their_settings, [{"host": host, "port": port} for host, port in nodes]

    def _nonsense(self) -> ValueError:
        return ValueError(
            "not the URL of a Redis: the port and the database must be numbers; in a password, percent-encode"
            " everything but letters and digits"
        )

    def _borrowed(self, client: Any) -> ServerAddress:
        """Return the address that a client of the user's connects to."""
        if not isinstance(client, self._driver.Redis):
            raise TypeError(
                f"{self._adapter} needs a redis.asyncio.Redis, not {type(client)}; for Pub/Sub on a cluster,"
                " give the URL of any node"
            )
        pool: Any = client.connection_pool
        address = ServerAddress.of(pool)
        manager = getattr(pool, "sentinel_manager", None)
        if manager is None:
            return address
        self._service = pool.service_name
        self._sentinels = [ServerAddress.of(sentinel.connection_pool) for sentinel in manager.sentinels]
        connections = self._driver.connection
        tls = issubclass(address.kind, connections.SSLConnection)
        return address._replace(kind=connections.SSLConnection if tls else connections.Connection)

    # Connecting

    async def open(
        self,
        into: list[Connection],
        lost: Callable[[], None],
        *several: Sequence[Command],
        where: Node | None = None,
    ) -> list[tuple[Connection, list[Any]]]:
        """Open several connections at the same time; all of them lead to a master that has replied.

        Args:
            into: Each connection is appended when it begins to connect; the owner of the list closes them.
            lost: Called whenever one of them has failed.
            several: The first commands of each connection.
            where: The node of a cluster.

        Returns:
            Each connection with the replies to its first commands.
        """
        master = await self._master(into) if self._sentinels else {}
        place = master if where is None else {"host": where[0], "port": where[1]}
        opened = [Connection(self._address.driver(**place), self._adapter, lost) for _ in several]
        into += opened
        replies = await together(
            self._open(connection, commands, by_sentinel=bool(master))
            for connection, commands in zip(opened, several, strict=True)
        )
        return list(zip(opened, replies, strict=True))

    async def _open(self, connection: Connection, commands: Sequence[Command], *, by_sentinel: bool) -> list[Any]:
        answer, *replies = await connection.open(("ROLE" if by_sentinel else "PING",), *commands)
        if is_denied(answer):
            pass  # a reply, though a refusal
        elif sound(answer) and by_sentinel and answer[0] != b"master":
            # Sentinels go on naming a master for a while that came back after it was replaced.
            raise ConnectionError(f"the server that the Sentinels name as the master of {self!r} is not a master")
        return replies

    async def _master(self, into: list[Connection]) -> dict[str, Any]:
        """Return the address of the master from the first Sentinel that replies and knows one.

        A silent Sentinel is not given up at once, since its line may be slow; the next one is asked as well.
        """
        waiting = list(self._sentinels)
        asked: dict[asyncio.Task[dict[str, Any] | None], ServerAddress] = {}
        try:
            while waiting or asked:
                if waiting:
                    sentinel = waiting.pop(0)
                    asked[asyncio.ensure_future(self._ask_sentinel(sentinel, into))] = sentinel
                patience = SENTINEL_SECONDS if waiting else None
                done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    sentinel = asked.pop(task)
                    if found := task.result():
                        # The Sentinel that replied is asked first the next time.
                        self._sentinels.remove(sentinel)
                        self._sentinels.insert(0, sentinel)
                        return found
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise ConnectionError(f"no Sentinel that replied knows a master for {self!r}")

    async def _ask_sentinel(self, sentinel: ServerAddress, into: list[Connection]) -> dict[str, Any] | None:
        """Return the master's address that a Sentinel names; None if it knows none, or is not a Sentinel."""
        connection = Connection(sentinel.driver(), self._adapter)
        into.append(connection)
        asking = asyncio.ensure_future(connection.open(("SENTINEL", "MASTER", self._service or "")))
        try:
            moved = -1
            while not asking.done():
                if moved == connection.moved:
                    return None
                moved = connection.moved
                await asyncio.wait([asking], timeout=SENTINEL_SILENCE)
            (reply,) = asking.result()
            master = dict(zip(sound(reply)[::2], reply[1::2], strict=True))
        except (OSError, self._driver.RedisError, BridgeError):
            return None
        finally:
            asking.cancel()
            into.remove(connection)
            await connection.close()
            await asyncio.gather(asking, return_exceptions=True)
        if b"down" in master[b"flags"]:
            return None
        return {"host": decode(master[b"ip"]), "port": int(master[b"port"])}


class ServerAddress(NamedTuple):
    """The address of a server, and the settings for connections to it."""

    kind: Any  # a class of redis-py's connections
    settings: dict[str, Any]
    tls: Tls | None = None

    @classmethod
    def of(cls, pool: Any) -> ServerAddress:
        """Return the address of the connections of a pool."""
        settings = {name: value for name, value in pool.connection_kwargs.items() if not _NOTED.match(name)}
        if settings.get("socket_connect_timeout") == _DRIVERS_OWN:
            del settings["socket_connect_timeout"]
        return cls(pool.connection_class, settings)

    def driver(self, **where: Any) -> Any:
        """Return a redis-py connection that is not connected yet."""
        ours = {"socket_connect_timeout": None, **self.settings, **where, **OURS, "retry_on_error": []}
        driver = self.kind(**ours)
        if self.tls is not None:
            driver.ssl_context.context = self.tls.context()
        return driver

    def secured(self) -> ServerAddress:
        """Return it with a context for all of its connections, if they use TLS: redis-py makes one for each.

        Raises:
            Exception: The settings do not go together.
        """
        if not hasattr(self.driver(), "ssl_context") or self.tls is not None:
            return self
        files = [self.settings.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile")]
        return self._replace(tls=Tls(lambda: self.driver().ssl_context.get(), filter(None, files)))
