"""Where a URL or options lead, and who the bridge is there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import BridgeError, MissingDriver
from ..tls import CONTEXT, Tls
from ..urls import Option, count, read_options, read_url

LIKE = "nats://user:password@host:4222"
DECIDED = frozenset(
    (
        *("servers", "allow_reconnect", "max_reconnect_attempts", "reconnect_time_wait", "connect_timeout"),
        *("ping_interval", "max_outstanding_pings", "dont_randomize", "flusher_queue_size", "pending_size"),
        *("flush_timeout", "drain_timeout", "no_echo", "verbose", "pedantic", "skip_subject_validation"),
        *("error_cb", "disconnected_cb", "closed_cb", "discovered_server_cb", "reconnected_cb", "lame_duck_mode_cb"),
        *("reconnect_to_server_handler", "name"),
    )
)
"""The bridge keeps its own deadlines, and connects again by itself."""
PING = 0.7
"""Seconds between two questions whether a connection lives, less than a bridge takes for silence: a server may hold up
one that publishes while it waits for the slow line of another client."""
HANGS = 2.0
"""Seconds that one of several servers may take for each step of connecting."""
CREDENTIALS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def _secret(value: Any) -> Any:
    return value if callable(value) else _text(value)


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


FILE = Option("the path of a file", _path)
TEXT = Option("text that is not empty", _text)
OPTIONS: Mapping[str, Option] = {
    "user": TEXT,
    "password": Option("text that is not empty, or a function that returns it", _secret, is_secret=True),
    "token": Option("text that is not empty, or a function that returns it", _secret, is_secret=True),
    "user_credentials": FILE,
    "nkeys_seed": FILE,
    "nkeys_seed_str": Option("a seed, as text", _text, is_secret=True),
    "tls": CONTEXT,
    "tls_ca": FILE,
    "tls_cert": FILE,
    "tls_key": FILE,
    "tls_hostname": TEXT,
    "client_name": TEXT,
    "inbox_prefix": TEXT,
    "max_payload": count("bytes"),
}
LOGINS = ("token", "user_credentials", "nkeys_seed", "nkeys_seed_str", "user")


class Server:
    """Connects to one server of several.

    Args:
        adapter: The class that needs it, for messages.
        url: `nats://user:password@host:4222,host:4222?option=value`, or `nats://token@host`; `tls://` demands TLS.
        given: Options beside it.
        schemes: What such a URL may begin with, and whether that demands TLS.
        own: The adapter's own options, which may stand in the URL, too.

    Raises:
        MissingDriver: nats-py is not installed.
        TypeError: There is no address, or an option does not exist, is given twice or is for the bridge to decide.
        ValueError: The URL or an option makes no sense. The URL is not repeated: a password may be anywhere in it.
    """

    def __init__(
        self,
        adapter: str,
        url: str | None,
        given: Mapping[str, Any],
        schemes: Mapping[str, bool],
        own: Mapping[str, Option] | None = None,
    ) -> None:
        try:
            self._driver: Any = import_module("nats.aio.client")
        except ImportError as error:
            raise MissingDriver(adapter, "nats-py", "nats") from error
        like = LIKE.replace("nats", next(iter(schemes)))
        if url is None:
            raise TypeError(f"{adapter} needs a URL, like {like}")
        read = read_url(url, like=like, port=4222, schemes=schemes)
        if read.path:
            raise ValueError(f"the URL names no path; it must be like {like}")
        if decided := sorted(DECIDED & (given.keys() | dict(read.options).keys())):
            raise TypeError(f"{adapter} decides by itself about {', '.join(decided)}")
        own = own or {}
        values = read_options(adapter, {**own, **OPTIONS}, given, read.options)
        self.own = {name: values.pop(name) for name in own if name in values}
        """The values of the adapter's own options."""
        login = {} if read.user is None else {"token": read.user}
        if read.user is not None and read.password is not None:
            login = {"user": read.user, "password": read.password}
        if twice := login.keys() & values.keys():
            raise TypeError(f"the URL says {' and '.join(sorted(twice))} already; give it once")
        values |= login
        if len(logins := [name for name in LOGINS if name in values]) > 1:
            raise TypeError(f"{' and '.join(logins)} are several ways to say who it is; give one of them")
        if ("user" in values) != ("password" in values):
            raise TypeError("give user and password together")
        if "tls" in values and values.keys() & {"tls_ca", "tls_cert", "tls_key"}:
            raise TypeError("tls has the certificates already; give it alone, or tls_ca, tls_cert and tls_key")
        if "tls_key" in values and "tls_cert" not in values:
            raise TypeError("tls_key belongs to tls_cert; give both")
        self.max_payload: int = values.pop("max_payload", 1 << 20)
        """Bytes that the servers accept, by their `max_payload`: headers and payload of a message together."""
        self.is_tls = read.tls
        """A connection has to be by TLS, whatever the server says."""
        self._hosts = [f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in read.hosts]
        self._name = values.pop("client_name", "hubsub")
        self.inbox_prefix: str = values.get("inbox_prefix", "_INBOX")
        """What the subjects begin with to which servers and services reply."""
        context, *files = (values.pop(name, None) for name in ("tls", "tls_ca", "tls_cert", "tls_key"))
        self._tls: Tls | None = None
        if context is not None:
            self._tls = Tls(lambda: context)
        elif self.is_tls or any(files):
            self._tls = Tls.of_files(*files)
        self._values = values
        self.is_one_of_several = len(self._hosts) > 1
        random.shuffle(self._hosts)

    def __repr__(self) -> str:
        return ",".join(sorted(self._hosts))

    def turn(self) -> None:
        """Ask another one first from now on: the first may be the one that hangs."""
        self._hosts.append(self._hosts.pop(0))

    async def open(self, make: Any) -> Any:
        """Return a client of nats-py's that is connected.

        Args:
            make: Called with nats-py's `Client`; returns the client to connect, which is closed by whoever made it.

        Raises:
            BridgeError: The server refuses it for good, or a file is missing; the error says what to change.
            OSError: No server answers, or it cannot serve now.
        """
        failures: list[Exception] = []

        async def failed(error: Exception) -> None:
            failures.append(error)

        try:
            options = await asyncio.to_thread(self._options)
        except (OSError, ValueError) as error:
            raise BridgeError(f"the bridge cannot say who it is to NATS: {error}") from error
        client = make(self._driver.Client)
        try:
            await client.connect(
                [f"nats://{host}" for host in self._hosts],
                error_cb=failed,
                allow_reconnect=False,
                # Without these it tries sixty times, two seconds apart.
                max_reconnect_attempts=1,
                reconnect_time_wait=0.01,
                # Whether the line moves, the bridge sees by itself; one of several is not worth so much patience.
                connect_timeout=HANGS if self.is_one_of_several else 3600,
                ping_interval=PING,
                max_outstanding_pings=1e9,
                dont_randomize=True,
                name=self._name,
                **options,
            )
        except Exception as error:
            reason = next((each for each in reversed(failures) if _says_more(each)), error)
            raise explained(reason) from error
        return client

    def _options(self) -> dict[str, Any]:
        """What the driver is given, with what its files say now."""
        values = dict(self._values)
        if self._tls is not None:
            values["tls"] = self._tls.context()
        if (path := values.pop("user_credentials", None)) is not None:
            text = path.read_text()
            if not all(words in text for words in CREDENTIALS):
                # The driver would look for them for ever.
                raise ValueError(f"{path} is no credentials file: it lacks {' or '.join(CREDENTIALS)}")
            values["user_credentials"] = self._driver.RawCredentials(text)
        if (path := values.pop("nkeys_seed", None)) is not None:
            values["nkeys_seed_str"] = path.read_text().strip()
        if "nkeys_seed_str" in values:
            _check_seed(values["nkeys_seed_str"])
        return values


def _check_seed(seed: str) -> None:
    """Raise ValueError, without the seed, if it is none."""
    try:
        import_module("nkeys").from_seed(bytearray(seed.encode())).wipe()
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"nkeys_seed is no seed ({type(error).__name__}); it begins with SU") from None


def _says_more(error: Exception) -> bool:
    return type(error).__name__ != "NoServersError"


REMEDIES = {
    "authorization violation": "correct user and password, token=, user_credentials= or nkeys_seed=",
    "authentication expired": "renew the credentials",
    "authentication revoked": "renew the credentials",
    "authentication timeout": "raise the server's authorization timeout, or look at the line",
    "maximum connections": "raise max_connections of the server, or of the account",
    "maximum subscriptions": "raise max_subscriptions of the server, or of the account; or listen to fewer, wider keys",
    "maximum payload": "give max_payload= as the server has it",
    "tls required": "use tls://",
    "permissions violation": "allow it in the permissions of the user; the documentation lists the subjects",
    "certificate verify failed": "name the authority with tls_ca=, or check the name in the certificate",
}
"""What to do about an error, by words in it."""


def explained(error: Exception) -> Exception:
    """Return the error to raise for what a connection ended with: it says what to do, if that is known."""
    text = str(error).removeprefix("nats: ").strip("'")
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in text.lower()), None)
    if remedy is not None:
        told: Exception = BridgeError(f"NATS refuses the bridge: {text}; {remedy}")
    elif isinstance(error, (OSError, BridgeError)):
        return error
    else:
        told = ConnectionResetError(f"there is no connection to NATS: {text or type(error).__name__}")
    told.__cause__ = error
    return told
