"""URLs of brokers, and options in them and beside them: read the same way for all adapters, repeating no secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]]+))?(?::(?P<port>[0-9]{1,5}))?")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL. Neither login nor options are in its `repr`: they may be secret."""

    scheme: str
    tls: bool
    """True if the scheme asks for TLS."""
    hosts: tuple[tuple[str, int], ...]
    """Each host with its port; IPv6 addresses without their brackets."""
    path: str
    """Decoded, without the first slash; empty if there is none."""
    user: str | None = field(repr=False, default=None)
    password: str | None = field(repr=False, default=None)
    options: tuple[tuple[str, str], ...] = field(repr=False, default=())
    """The query: names and values, decoded, in order."""


def read_url(url: str, *, like: str, port: int, schemes: Mapping[str, bool]) -> Url:
    """Return the parts of a URL like `scheme://user:password@host:port,host:port/path?option=value`.

    Args:
        url: The URL. The characters `/ ? # @ : %` in user, password, path and query must be percent-encoded.
        like: An example, for messages.
        port: The default port.
        schemes: The possible schemes, and whether they ask for TLS.

    Raises:
        ValueError: The URL is invalid. The error does not repeat any of it: a password may be anywhere in it.
    """
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in schemes:
        raise ValueError(f"the URL must be like {like}")
    rest, options = split_query(rest, like)
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if "@" in path or "@" in login:
        raise _nonsense(like)
    user, colon, password = login.partition(":")
    return Url(
        scheme=scheme,
        tls=schemes[scheme],
        hosts=tuple(_host(each, port, like) for each in hosts.split(",")),
        path=decoded(path, like),
        user=decoded(user, like) if at else None,
        password=decoded(password, like) if colon else None,
        options=options,
    )


def read_path(url: str, scheme: str, like: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the path and the options of a URL like `scheme:///absolute/path` or `scheme://relative/path`.

    Raises:
        ValueError: The URL is invalid, or names no file.
    """
    found, colon, rest = url.partition("://")
    if found != scheme or not colon:
        raise ValueError(f"the URL must be like {like}; a path alone is given as a pathlib.Path")
    rest, options = split_query(rest, like)
    path = decoded(rest, like)
    if path.startswith("/"):
        path = f"/{path.lstrip('/')}"  # SQLAlchemy begins it with two slashes
    if path in ("", "/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"the URL names no file; it must be like {like}")
    return path, options


def split_query(rest: str, like: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a URL, or the end of one, without its query; and the query's names and values.

    Raises:
        ValueError: It has characters that should have been percent-encoded.
    """
    rest, _, query = rest.partition("?")
    if "#" in rest + query or "@" in query or _CONTROL.search(rest + query):
        raise _nonsense(like)
    try:
        # A plus stays a plus, as in the rest of a URL: passwords have them.
        query = query.replace("+", "%2B")
        return rest, tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict"))
    except ValueError:
        raise _nonsense(like) from None


def decoded(text: str, like: str) -> str:
    """Return text with its percent-escapes undone.

    Raises:
        ValueError: They are not UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _nonsense(like) from None


def _host(text: str, port: int, like: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or port) not in range(1, 65536):
        raise _nonsense(like)
    return match["six"] or match["host"] or "localhost", int(match["port"] or port)


def _nonsense(like: str) -> ValueError:
    # Without a cause and without quoting the URL: a password may be anywhere in it.
    return ValueError(
        f"the URL is invalid; it must be like {like}, with numbers as ports; in a user, password, path or option,"
        " percent-encode everything but letters and digits"
    )


@dataclass(frozen=True, slots=True)
class Option:
    """An option of an adapter, which may be an argument, or text in the query of a URL."""

    what: str
    """The valid values, for messages: `seconds, more than 0`."""
    read: Callable[[Any], Any]
    """Converts an argument or text into the value; raises ValueError or TypeError if it is invalid."""
    several: bool = False
    """True if a URL may have it several times; its value is a tuple. An argument is a value, a list or a tuple."""
    is_secret: bool = False
    """True if no message may repeat its value."""


def read_options(
    adapter: str, known: Mapping[str, Option], given: Mapping[str, Any], in_url: tuple[tuple[str, str], ...] = ()
) -> dict[str, Any]:
    """Return the values of the options that are given as arguments or in the query of a URL, by name.

    Args:
        adapter: The name of the adapter's class, for messages.
        known: All options of the adapter.
        given: The arguments.
        in_url: The names and values of the query.

    Raises:
        TypeError: There is no such option, or it is given both as an argument and in the URL.
        ValueError: A value is invalid, or is in the URL twice. The error does not repeat values in the URL.
    """
    texts: dict[str, list[str]] = {}
    for name, text in in_url:
        texts.setdefault(name, []).append(text)
    if unknown := sorted((given.keys() | texts.keys()) - known.keys()):
        # A name in a URL may be the rest of a password that was not encoded.
        named = ", ".join(name for name in unknown if name in given or name.isidentifier())
        raise TypeError(f"{adapter} has no option {named or 'of that name'}: it has {', '.join(known)}")
    if both := sorted(given.keys() & texts.keys()):
        raise TypeError(f"{adapter} is given {', '.join(both)} twice: in the URL, and as an argument")
    values: dict[str, Any] = {}
    for name, those in texts.items():
        option = known[name]
        if len(those) > 1 and not option.several:
            raise ValueError(f"{name} is in the URL {len(those)} times")
        values[name] = _value(name, option, those if option.several else those[0], in_url=True)
    for name, value in given.items():
        values[name] = _value(name, known[name], value)
    return values


def _value(name: str, option: Option, value: Any, *, in_url: bool = False) -> Any:
    is_shown = not (in_url or option.is_secret)
    try:
        if option.several:
            return tuple(map(option.read, value if isinstance(value, (list, tuple)) else [value]))
        return option.read(value)
    except (ValueError, TypeError, OverflowError):
        pass  # the error may quote the value
    raise ValueError(f"{name} must be {option.what}" + (f", not {value!r}" if is_shown else ""))


def seconds(least: float = 0.0, most: float = 1e6) -> Option:
    """Return an option that is a time: more than `least` seconds, and less than `most`."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not least < (number := float(value)) < most:
            raise ValueError
        return number

    return Option(f"a number of seconds, more than {least:g} and less than {most:g}", read)


def or_none(option: Option) -> Option:
    """Return the same option that may also be None, which is `none` in a URL."""

    def read(value: Any) -> Any:
        is_none = value is None or (isinstance(value, str) and value.lower() == "none")
        return None if is_none else option.read(value)

    return Option(f"{option.what}, or none", read, option.several, option.is_secret)


def count(what: str, least: int = 1) -> Option:
    """Return an option that is a whole number of something, at least `least`."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or (number := int(value)) != (value if not isinstance(value, str) else number):
            raise ValueError
        if number < least:
            raise ValueError
        return number

    return Option(f"a number of {what}, at least {least}", read)


def one_of(*words: str) -> Option:
    """Return an option that is one of these words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Option(f"one of {', '.join(words)}", read)
