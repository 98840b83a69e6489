"""Where a URL or options lead, and as whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ...errors import MissingDriver
from ...key import PLUS, STAR, Key
from ..tls import CONTEXT, read_tls
from ..urls import Option, Url, count, read_options, read_url, seconds
from .connection import Connection

LIKE = "mqtt://user:password@host:1883"
WEEK = 7 * 86400.0
LONGEST_NAME = 65535


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or not 0 < len(value.encode()) <= LONGEST_NAME:
        raise ValueError
    return value


def _qos(value: Any) -> int:
    if isinstance(value, bool) or str(value) not in ("0", "1", "2"):
        raise ValueError
    return int(value)


def _pattern(value: Any) -> Key[Any]:
    key = Key.parse(value) if isinstance(value, str) else Key.create_from(value)
    if not key or not all(isinstance(part, str) for part in key):
        raise ValueError
    return key


def _key(value: Any) -> Key[Any]:
    key = _pattern(value)
    if STAR in key or PLUS in key:
        raise ValueError
    return key


OPTIONS: Mapping[str, Option] = {
    "qos": Option("0, 1 or 2", _qos),
    "retain": Option("a pattern, in a URL in its text form: state/*", _pattern, several=True),
    "will": Option("an exact key, in a URL in its text form: status/gateway", _key),
    "client_id": Option("text", _text),
    "session": seconds(most=4e9),
    "keep_alive": count("seconds"),
    "user": Option("text", _text),
    "password": Option("text", _text, is_secret=True),
    "cafile": Option("the path of a file", _text),
    "certfile": Option("the path of a file", _text),
    "keyfile": Option("the path of a file", _text),
    "ssl_context": CONTEXT,
}


class Server:
    """A broker, and how it is connected to.

    Args:
        adapter: The class that needs it, for messages.
        url: `mqtt://user:password@host:1883`, or `mqtts://` with TLS; of several hosts, with commas between them, the
            first that accepts a connection is used.
        given: Options beside it.

    Raises:
        MissingDriver: mqtt5 is not installed.
        TypeError: There is no URL, or an option does not exist.
        ValueError: The URL or an option is invalid. The URL is not repeated: a password may be anywhere in it.
    """

    def __init__(self, adapter: str, url: str | None, given: Mapping[str, Any]) -> None:
        try:
            self.driver: Any = import_module("mqtt5")
        except ImportError as error:
            raise MissingDriver(adapter, "mqtt5", "mqtt") from error
        levels = self.driver.QoS
        self.levels = (levels.AT_MOST_ONCE, levels.AT_LEAST_ONCE, levels.EXACTLY_ONCE)
        """The levels of QoS, as mqtt5 has them."""
        if url is None:
            raise TypeError(f"{adapter} needs a URL, like {LIKE}")
        read = _read(url)
        self._url = read
        if isinstance(given.get("retain"), tuple):
            given = {**given, "retain": [given["retain"]]}  # a pattern, as everywhere
        values = read_options(adapter, OPTIONS, given, read.options)
        if (read.user is not None or read.password is not None) and {"user", "password"} & values.keys():
            raise TypeError(f"{adapter} is given user or password twice: in the URL, and as an option")
        self._user: str | None = values.get("user", read.user or None)
        self._password: str | None = values.get("password", read.password)
        self.qos: int = values.get("qos", 1)
        self.retain: tuple[Key[Any], ...] = values.get("retain", ())
        self.will: Key[Any] | None = values.get("will")
        self.client_id: str | None = values.get("client_id")
        self.session = int(values.get("session", WEEK))
        self.keep_alive: int = min(LONGEST_NAME, values.get("keep_alive", 30))
        self._tls = read_tls(values, None if read.tls else "mqtts")

    def __repr__(self) -> str:
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._url.hosts)

    async def connect(
        self,
        take: Callable[[Any], None],
        taken: Callable[[], None],
        lost: Callable[[], None],
        opened: list[Connection],
        **hello: Any,
    ) -> tuple[Connection, Any]:
        """Connect to the first host that can be reached; return the connection and the broker's answer.

        Args:
            take: Called with each message that comes.
            taken: Called after the last of the messages that came together.
            lost: Called when the connection has failed.
            opened: Where the connection is put before anything is sent, so that it can be watched.
            hello: What else the `ConnectPacket` says.
        """
        packet = self.driver.ConnectPacket(
            username=self._user,
            password=None if self._password is None else self._password.encode(),
            keep_alive=self.keep_alive,
            **hello,
        )
        context = None if self._tls is None else self._tls.context()
        for number, (host, port) in enumerate(self._url.hosts, 1):
            connection = Connection(self.driver, take, taken, lost)
            opened.append(connection)
            try:
                return connection, await connection.open(host, port, context, packet)
            except OSError:
                opened.remove(connection)
                if number == len(self._url.hosts):
                    raise
        raise AssertionError("a URL has at least one host")


def _read(url: str) -> Url:
    port = 8883 if url.startswith("mqtts:") else 1883
    read = read_url(url, like=LIKE, port=port, schemes={"mqtt": False, "mqtts": True})
    if read.path:
        raise ValueError(f"the URL of an MQTT broker has no path: {LIKE}; the namespace is an option of the bridge")
    return read
