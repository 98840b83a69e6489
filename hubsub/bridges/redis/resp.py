"""RESP2, the protocol of Redis: packs commands, and parses replies, by hiredis where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol, TypeAlias

# A command, its name first.
Command: TypeAlias = tuple[bytes | str | float, ...]


def pack(*commands: Command) -> bytes:
    """Return commands as they are sent."""
    return b"".join([b"*%d\r\n%b" % (len(command), arguments(*command)) for command in commands])


def arguments(*values: bytes | str | float) -> bytes:
    """Return arguments of a command as they are sent."""
    parts: list[bytes] = []
    for value in values:
        if not isinstance(value, bytes):
            value = encode(str(value))
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


def encode(text: str) -> bytes:
    """Return text as Redis stores it: UTF-8, for any string."""
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """Return bytes from Redis as text; bytes that are not UTF-8 are replaced."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


class Replies(Protocol):
    """Parses replies from bytes that come in pieces of any size: bytes, int, None, a list of such, or an error."""

    def feed(self, piece: bytes, *, is_flow: bool = True) -> list[Any]:
        """Add a piece; return the replies that are complete now, perhaps none.

        Args:
            piece: Bytes, at least one.
            is_flow: More may come at any time. Else nothing follows the replies to the commands, so that they end
                where a piece ends.

        Raises:
            ValueError: This is not RESP2.
        """
        ...


def parser(error: Callable[[str], Exception]) -> Replies:
    """Return a parser for a new connection: by hiredis, in C, if that is installed.

    Args:
        error: Turns the text of an error into the object that stands for it.
    """
    try:
        hiredis = import_module("hiredis")
    except ImportError:
        return Parser(error)
    return HiredisParser(hiredis, error)


_MORE = object()


class HiredisParser:
    """Parses replies by hiredis, which is in C: those of streams in a sixth of the time."""

    __slots__ = ("_feed", "_next", "_wrong")

    def __init__(self, hiredis: Any, error: Callable[[str], Exception]) -> None:
        reader = hiredis.Reader(replyError=error, notEnoughData=_MORE)
        self._wrong: type[Exception] = hiredis.ProtocolError
        self._feed: Callable[[bytes], None] = reader.feed
        self._next: Callable[[], Any] = reader.gets

    def feed(self, piece: bytes, *, is_flow: bool = True) -> list[Any]:
        """As `Replies.feed`."""
        self._feed(piece)
        try:
            return list(iter(self._next, _MORE))
        except self._wrong as error:
            raise ValueError(f"not a reply of Redis: {error}") from None


class Parser:
    """Parses replies without hiredis.

    Everything is split at line ends at once, and the elements of a reply are handled in C as far as possible: a parser
    that goes from element to element takes longer than everything else that happens to a message.

    Args:
        error: Turns the text of an error into the object that stands for it.
    """

    __slots__ = ("_enough", "_error", "_pieces", "_size")

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self._error = error
        self._pieces: list[bytes] = []  # received, but not a whole reply yet
        self._size = 0  # of the pieces
        self._enough = 0  # the size at which to parse again

    def feed(self, piece: bytes, *, is_flow: bool = True) -> list[Any]:
        """As `Replies.feed`."""
        self._pieces.append(piece)
        self._size += len(piece)
        # Parsing a long reply with every piece would take time by the square of its length. Its last piece ends with a
        # line end, or with half of one that was cut in two.
        if piece[-2:] not in (b"\r\n", b"\n") and not (is_flow and self._size >= self._enough):
            return []
        tokens = b"".join(self._pieces).split(b"\r\n")
        rest = tokens.pop()
        replies, at = _parse_all(tokens, self._error)
        if at < len(tokens):
            rest = b"\r\n".join([*tokens[at:], rest])
        self._pieces = [rest]
        self._size = len(rest)
        self._enough = 2 * self._size
        return replies


class _Heads(dict[int, bytes]):
    """The bytes before a string, by its length."""

    def __missing__(self, length: int) -> bytes:
        head = b"$%d" % length
        if length < 4096:
            self[length] = head
        return head


_head = _Heads().__getitem__
_number = {b":%d" % number: number for number in range(1000)}.__getitem__
# The tokens of an array of strings without line ends, by the number of strings.
_WIDTHS = {b"*%d" % count: 1 + 2 * count for count in range(10)}


def _parse_all(tokens: list[bytes], error: Callable[[str], Exception]) -> tuple[list[Any], int]:
    """Parse the replies that are complete; return them, and where the first incomplete one begins."""
    with suppress(KeyError):  # the replies to a batch of PUBLISH
        return list(map(_number, tokens)), len(tokens)
    replies: list[Any] = []
    append, head, widths = replies.append, _head, _WIDTHS
    at, end = 0, len(tokens)
    with suppress(IndexError):
        while at < end:
            # For messages, which come in masses; `_parse` handles the rest, and incomplete replies.
            width = widths.get(tokens[at])
            if width is not None:
                over = at + width
                strings = tokens[at + 2 : over : 2]
                if tokens[at + 1 : over : 2] == list(map(head, map(len, strings))) and over <= end:
                    append(strings)
                    at = over
                    continue
            reply, at = _parse(tokens, at, error)
            append(reply)
    return replies, at


def _parse(tokens: list[bytes], at: int, error: Callable[[str], Exception]) -> tuple[Any, int]:
    """Parse the reply that begins at one of the tokens; return it, and where it ends.

    Raises:
        IndexError: It continues beyond the last token.
        ValueError: This is not RESP2.
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
        # Strings without a line end are every other token.
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
                reply, at = _parse(tokens, at, error)
                replies.append(reply)
        return replies, at
    if kind == b"$":
        length = int(token[1:])
        if length < 0:
            return None, at
        start = at
        size = len(tokens[at])
        at += 1
        while size < length:
            size += 2 + len(tokens[at])
            at += 1
        return b"\r\n".join(tokens[start:at]), at
    if kind == b":":
        return int(token[1:]), at
    if kind == b"+":
        return token[1:], at
    if kind == b"-":
        return error(token[1:].decode("utf-8", "replace")), at
    raise ValueError(f"not a reply of Redis: it begins with {kind!r}")
