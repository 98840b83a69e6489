"""Where an endpoint is, and how to speak to it: a URL and options, read once."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from inspect import isawaitable
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from ...describe import describe
from ...errors import MissingDriver
from ..tls import CONTEXT, read_tls
from ..urls import Option, count, one_of, read_options, read_url

Token: TypeAlias = "str | Callable[[], str | Awaitable[str | None] | None]"

LIKE = "wss://host:443/path"
SCHEMES = {"ws": False, "wss": True}
MOST_BYTES = 16 * 1024 * 1024
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _token(value: Any) -> Any:
    return value if callable(value) else _text(value)


def _headers(value: Any) -> dict[str, str]:
    headers = dict(value)
    for name, text in headers.items():
        if not _HEADER.fullmatch(name) or re.search(r"[\r\n\0]", text):
            raise ValueError
        text.encode("latin-1")
    return headers


def _proxy(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    return value if value is True else _text(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False, "1": True, "0": False}[value]


def _whether(value: Any) -> bool:
    try:
        return _truth(value)
    except (KeyError, TypeError):
        raise ValueError from None


TEXT = Option("text that is not empty", _text)
OPTIONS = {
    "token": Option("text that is not empty, or a function that returns it", _token, is_secret=True),
    "headers": Option("a dict of HTTP headers, names and values in latin-1", _headers, is_secret=True),
    "snapshot": Option("True or False", _whether),
    "max_size": count("bytes"),
    "compression": one_of("deflate", "none"),
    "proxy": Option("the URL of a proxy, True for that of the system, or none", _proxy, is_secret=True),
    "ssl_context": CONTEXT,
    "ssl_ca_certs": TEXT,
    "ssl_certfile": TEXT,
    "ssl_keyfile": TEXT,
}
# Options that cannot be written as text.
NOT_IN_URL = ("headers", "ssl_context")


class Endpoint:
    """One endpoint, perhaps on several hosts.

    Args:
        adapter: The name of the adapter's class, for messages.
        url: `wss://user:password@host:443,host:443/path?option=value`. Parameters that are no options of the adapter go
            to the endpoint.
        given: Options.

    Raises:
        MissingDriver: websockets or msgspec is not installed.
        TypeError: An option does not exist, is given twice, or needs TLS.
        ValueError: The URL or an option is invalid. The error repeats nothing that may be secret.
    """

    def __init__(self, adapter: str, url: str, given: Mapping[str, Any]) -> None:
        try:
            self.driver: Any = import_module("websockets.asyncio.client")
            import_module("msgspec")
        except ImportError as error:
            driver = (error.name or "websockets").partition(".")[0]
            raise MissingDriver(adapter, driver, "ws") from error
        port = 443 if url.startswith("wss") else 80
        parts = read_url(url, like=LIKE, port=port, schemes=SCHEMES)
        ours = tuple((name, text) for name, text in parts.options if name in OPTIONS and name not in NOT_IN_URL)
        theirs = [pair for pair in parts.options if pair not in ours]
        options = read_options(adapter, OPTIONS, given, ours)
        # Not decoded: an encoded slash is not the same as one.
        path = url.partition("://")[2].partition("?")[0].partition("/")[2]
        path = quote(path, safe="/%:@!$&'()*+,;=-._~")
        self._hosts = [f"{parts.scheme}://{_host(host)}:{port}/{path}" for host, port in parts.hosts]
        self._query = f"?{urlencode(theirs, quote_via=quote)}" if theirs else ""
        self._turn = 0
        self._token: Token | None = options.get("token")
        self.snapshot: bool = options.get("snapshot", False)
        headers = options.get("headers", {})
        if parts.user is not None:
            login = f"{parts.user}:{parts.password or ''}".encode()
            headers = {"Authorization": f"Basic {b64encode(login).decode()}", **headers}
        compression = options.get("compression", "none")
        self._settings: dict[str, Any] = {
            "additional_headers": headers,
            "max_size": options.get("max_size", MOST_BYTES),
            "compression": None if compression == "none" else compression,
            "proxy": options.get("proxy", True),
        }
        self._tls = read_tls(options, None if parts.tls else "wss", ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))

    def __repr__(self) -> str:
        return self._hosts[self._turn % len(self._hosts)]

    @property
    def settings(self) -> dict[str, Any]:
        """What the driver is given for a connection."""
        return self._settings if self._tls is None else {**self._settings, "ssl": self._tls.context()}

    @property
    def url(self) -> str:
        """The URL without its login."""
        return f"{self!r}{self._query}"

    def next(self) -> None:
        """Connect to the next host at the next attempt."""
        self._turn += 1

    @property
    def renews_token(self) -> bool:
        """True if there may be another token next time."""
        return callable(self._token)

    async def token(self) -> str | None:
        """Return the token, if there is one.

        Raises:
            ConnectionError: The function that should return it does not.
        """
        if not callable(self._token):
            return self._token
        try:
            token = self._token()
            if isawaitable(token):
                token = await token
        except Exception as error:
            # Its text may be secret.
            raise ConnectionError(f"the function given as token= raised {type(error).__name__}") from error
        if token is not None and not isinstance(token, str):
            raise ConnectionError(f"the function given as token= returned {describe(type(token).__name__)}, and no str")
        return token


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
