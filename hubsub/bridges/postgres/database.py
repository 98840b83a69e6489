"""Where a URL or options lead."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Mapping
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
"""The bridge keeps its own deadlines, and connects again by itself."""


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
# What asyncpg reads from a query only.
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
        adapter: The class that needs it, for messages.
        url: `postgres://user:password@host:5432/database?option=value`; of several hosts, with commas between them,
            the one that takes writes is used; `postgres:///database?host=/run/postgresql` for a socket.
        given: Options beside it, or instead of it.
        own: The adapter's own options, which may stand in the URL, too.
        schemes: What such a URL may begin with.
        like: An example, for messages.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: There is no one address, or an option does not exist or is for the bridge to decide.
        ValueError: The URL or an option makes no sense. The URL is not repeated: a password may be anywhere in it.
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
            raise TypeError(f"{adapter} decides by itself about {', '.join(decided)}")
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
                raise TypeError(f"the URL says {name} already; give it once")
            if is_there:
                values[name] = value
        if "port" in values and "host" not in values:
            values["host"] = "localhost"
        if "ssl" in values and "sslmode" in values:
            raise TypeError("ssl and sslmode say the same; give one of them")
        query = {name: values.pop(name) for name in IN_QUERY if name in values}
        self._url = f"postgres://?{urlencode(query)}" if query else None
        server = {"application_name": "hubsub", **values.pop("server_settings", {})}
        server |= {name: values.pop(name) for name in ("application_name", "options") if name in values}
        # Of several the one that takes writes: a standby can neither send nor listen.
        self._settings = {"target_session_attrs": "primary", **values, "server_settings": server}

    def __repr__(self) -> str:
        hosts = self._settings.get("host", "localhost")
        ports = self._settings.get("port", 5432)
        hosts = hosts if isinstance(hosts, list) else [hosts]
        ports = ports if isinstance(ports, list) else [ports] * len(hosts)
        where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
        return f"{where}/{self._settings.get('database') or self._settings.get('user') or ''}"

    async def connect(self, transports: list[Any]) -> Any:
        """Return a connection of asyncpg's.

        Args:
            transports: Its transport stands there as soon as it begins to connect.

        Raises:
            Exception: As asyncpg raises it; `errors.explained` says what it means.
        """
        loop: Any = _Watched(asyncio.get_running_loop(), transports)
        return await self._driver.connect(self._url, loop=loop, timeout=None, **self._settings)


class _Watched:
    """An event loop that notes which connections are made, so that a slow one is not taken for a dead one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transports: list[Any]) -> None:
        self._loop = loop
        self._transports = transports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        made = await self._loop.create_connection(*arguments, **options)
        self._transports.append(made[0])
        return made
