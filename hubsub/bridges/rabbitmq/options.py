"""What a URL and options say of RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import MissingDriver
from ..tls import CONTEXT, read_tls
from ..urls import Option, count, read_options, read_url, seconds

if TYPE_CHECKING:
    from .client import Login

LIKE = "amqp://user:password@host:5672/vhost"
SCHEMES = {"amqp": False, "amqps": True}
MOST_NAME = 127
"""Bytes of an exchange's name: names of queues begin with it, and have 255."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _exchange(value: Any) -> str:
    if not 0 < len(_text(value).encode()) <= MOST_NAME or value in ("amq.direct", "amq.fanout", "amq.headers"):
        raise ValueError
    return str(value)


_FILE = Option("the name of a file", _text)
OPTIONS: Mapping[str, Option] = {
    "exchange": Option(f"the name of a topic exchange, of 1 to {MOST_NAME} bytes", _exchange),
    "expires": seconds(1, 30 * 86400),
    "heartbeat": count("seconds"),
    "connection_name": Option("text", _text),
    "user": Option("text", _text),
    "password": Option("text", _text, is_secret=True),
    "ssl_context": CONTEXT,
    "cafile": _FILE,
    "certfile": _FILE,
    "keyfile": _FILE,
}


class Settings:
    """What a URL and the options beside it say; its `repr` has no secret.

    Args:
        adapter: The class that needs it, for messages.
        url: `amqp://user:password@host:5672/vhost?option=value`; of several hosts, with commas between them, each is
            tried in turn.
        given: Options beside it.

    Raises:
        MissingDriver: pamqp is not installed.
        TypeError: There is no URL, an option does not exist, or it is given twice.
        ValueError: The URL or an option is invalid. The URL is not repeated: a password may be anywhere in it.
    """

    def __init__(self, adapter: str, url: str, given: Mapping[str, Any]) -> None:
        try:
            import_module("pamqp.commands")
        except ImportError as error:
            raise MissingDriver(adapter, "pamqp", "amqp") from error
        if not isinstance(url, str):
            raise TypeError(f"{adapter} needs a URL, like {LIKE}")
        read = read_url(url, like=LIKE, port=5671 if url.startswith("amqps:") else 5672, schemes=SCHEMES)
        values = read_options(adapter, OPTIONS, given, read.options)
        for name, value in (("user", read.user), ("password", read.password)):
            if value is not None and name in values:
                raise TypeError(f"the URL says {name} already; give it once")
        if len(read.path.encode()) > 255:
            raise ValueError(f"the virtual host in the URL must be a name of at most 255 bytes, as in {LIKE}")
        self._hosts = read.hosts
        self._vhost = read.path or "/"
        self._user = read.user or values.get("user", "guest")
        self._password = values.get("password", "guest") if read.password is None else read.password
        self._tls = read_tls(values, None if read.tls else "amqps")
        self._heartbeat: int = values.get("heartbeat", 10)
        self._name: str = values.get("connection_name", "hubsub")
        self.exchange: str | None = values.get("exchange")
        self.expires: float = values.get("expires", 600.0)
        self._attempts = 0

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self._hosts)
        return f"{hosts}{'' if self._vhost == '/' else '/' + self._vhost}"

    @property
    def heartbeat(self) -> int:
        """Seconds between two heartbeats, at most."""
        return self._heartbeat

    def login(self) -> Login:
        """Return the login; each call names the next host."""
        from .client import Login

        tls = None if self._tls is None else self._tls.context()
        host, port = self._hosts[self._attempts % len(self._hosts)]
        self._attempts += 1
        return Login(host, port, self._vhost, self._user, self._password, tls, self._heartbeat, self._name)
