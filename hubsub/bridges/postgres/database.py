"""The URL and options of a database, and how to connect to it."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlencode

from ...errors import MissingDriver
from ..urls import Option, one_of, read_options, read_url

LIKE = "postgres://user:password@host:5432/database"
DECIDED = frozenset(
    (
        *("dsn", "loop", "connection_class", "record_class", "client_encoding"),
        *("timeout", "connect_timeout", "command_timeout", "keepalives", "tcp_user_timeout"),
        *("statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size"),
    )
)
"""Options of asyncpg that the bridge sets: it has its own deadlines, and reconnects by itself."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _password(value: Any) -> Any:
    return value if callable(value) else _text(value)


def _port(value: Any) -> int:
    if isinstance(value, bool) or not 0 < (number := int(value)) < 65536:
        raise ValueError
    return number


def _context(value: Any) -> Any:
    if not isinstance(value, (bool, tls.SSLContext)):
        raise ValueError
    return value


def _settings(value: Any) -> dict[str, str]:
    return {_text(name): _text(setting) for name, setting in value.items()}


TEXT = Option("text", _text)
# asyncpg reads these only from the query of a URL.
IN_QUERY: Mapping[str, Option] = {
    "sslmode": one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    **dict.fromkeys(("sslrootcert", "sslcert", "sslkey", "sslcrl"), TEXT),
    "sslpassword": Option("text", _text, is_secret=True),
    **dict.fromkeys(("ssl_min_protocol_version", "ssl_max_protocol_version"), one_of("TLSv1.2", "TLSv1.3")),
    "sslnegotiation": one_of("postgres", "direct"),
}
OPTIONS: Mapping[str, Option] = {
    "host": TEXT,
    "port": Option("a number from 1 to 65535", _port),
    "database": TEXT,
    "user": TEXT,
    "password": Option("text, or a function that returns it", _password, is_secret=True),
    "passfile": TEXT,
    "ssl": Option("an ssl.SSLContext, or True or False", _context),
    **IN_QUERY,
    "target_session_attrs": one_of("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "application_name": TEXT,
    "options": TEXT,
    "server_settings": Option("a dict of names and texts", _settings),
}


class Database:
    """Opens connections to one database.

    Args:
        adapter: The name of the adapter's class, for errors.
        url: `postgres://user:password@host:5432/database?option=value`. Several hosts are separated by commas: the
            first one that accepts writes is used. `postgres:///database?host=/run/postgresql` is a socket.
        given: Options in addition to the URL, or instead of it.
        own: The adapter's own options; the URL may have them, too.
        schemes: The schemes of such a URL.
        like: An example of a URL, for errors.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: No address is given, or two are; or an option does not exist, or the bridge sets it.
        ValueError: The URL or an option is invalid. The error does not repeat the URL, which may contain a password.
    """

    def __init__(
        self,
        adapter: str,
        url: str | None,
        given: Mapping[str, Any],
        own: Mapping[str, Option],
        schemes: tuple[str, ...] = ("postgres", "postgresql"),
        like: str = LIKE,
    ) -> None:
        try:
            self._driver: Any = import_module("asyncpg")
        except ImportError as error:
            raise MissingDriver(adapter, "asyncpg", "postgres") from error
        if url is None and not given.keys() & {"host", "database", "user"}:
            raise TypeError(f"{adapter} needs a URL, like {like}, or options that say where Postgres is")
        read = read_url(url or f"{schemes[0]}://", like=like, port=5432, schemes=dict.fromkeys(schemes, False))
        if decided := sorted(DECIDED & (given.keys() | dict(read.options).keys())):
            raise TypeError(f"{adapter} sets {', '.join(decided)} itself: leave it out")
        values = read_options(adapter, {**own, **OPTIONS}, given, read.options)
        self.own = {name: values.pop(name) for name in own if name in values}
        """The values of the adapter's own options."""
        authority = (url or "").partition("://")[2].partition("?")[0].partition("/")[0]
        has_host = bool(authority.rpartition("@")[2])
        for name, value, is_there in (
            ("host", [unquote(host) for host, _ in read.hosts], has_host),
            ("port", [port for _, port in read.hosts], has_host),
            ("database", read.path, bool(read.path)),
            ("user", read.user, bool(read.user)),
            ("password", read.password, read.password is not None),
        ):
            if is_there and name in values:
                raise TypeError(f"{name} is given twice: in the URL and as an option; give it once")
            if is_there:
                values[name] = value
        if "port" in values and "host" not in values:
            values["host"] = "localhost"
        if "ssl" in values and "sslmode" in values:
            raise TypeError("ssl and sslmode are two ways to set TLS: give one of them")
        query = {name: values.pop(name) for name in IN_QUERY if name in values}
        self._url = f"postgres://?{urlencode(query)}" if query else None
        server = {"application_name": "hubsub", **values.pop("server_settings", {})}
        server |= {name: values.pop(name) for name in ("application_name", "options") if name in values}
        # Of several hosts only the primary: a standby can neither notify nor listen.
        self._settings = {"target_session_attrs": "primary", **values, "server_settings": server}

    def __repr__(self) -> str:
        hosts = self._settings.get("host", "localhost")
        ports = self._settings.get("port", 5432)
        hosts = hosts if isinstance(hosts, list) else [hosts]
        ports = ports if isinstance(ports, list) else [ports] * len(hosts)
        where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
        return f"{where}/{self._settings.get('database') or self._settings.get('user') or ''}"

    async def connect(self, transports: list[Any]) -> Any:
        """Return a new connection of asyncpg.

        Args:
            transports: Its transport is appended here as soon as it begins to connect.

        Raises:
            Exception: An error of asyncpg; `errors.explained` translates it.
        """
        loop: Any = _Watched(asyncio.get_running_loop(), transports)
        return await self._driver.connect(self._url, loop=loop, timeout=None, **self._settings)


class Instant:
    """A listener of notifications that is called at once, and not in the loop's next turn; it raises nothing.

    A turn costs more than what such a listener does.
    """

    __slots__ = ("listener",)

    def __init__(self, listener: Callable[..., None]) -> None:
        self.listener = listener

    def __call__(self, *arguments: Any) -> None:
        self.listener(*arguments)


class _Watched:
    """An event loop that lists the connections it makes, so that the bridge can see the bytes of a slow one move."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transports: list[Any]) -> None:
        self._loop = loop
        self._transports = transports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> Any:
        if type(callback) is Instant:
            return callback.listener(*arguments)
        return self._loop.call_soon(callback, *arguments, context=context)

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        made = await self._loop.create_connection(*arguments, **options)
        self._transports.append(made[0])
        return made
