"""The frames of subprotocol `hubsub.v1`: those of clients, and those of the server. See docs/web/protocol.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from ..event import Gap
from ..key import Key

SUBPROTOCOL = "hubsub.v1"
VERSION = 1

# Close codes.
GOING_AWAY = 1001
TOO_LARGE = 1009
RESTART = 1012
MALFORMED = 4400
IDENTITY = 4401
FORBIDDEN = 4403
TIMED_OUT = 4408
TOO_SLOW = 4413
TOO_MANY = 4429

# What every client can count to, JavaScript's too.
MOST = 2**53 - 1

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
KeyParts: TypeAlias = list[str]
Position: TypeAlias = dict[str, Annotated[int, msgspec.Meta(ge=0, le=MOST)]]
"""The highest number that was seen of each origin."""


class _Frame(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """What a client sends; `type` names it."""


class SubscriptionOf(msgspec.Struct, forbid_unknown_fields=True):
    """A subscription that a client had before."""

    id: Id
    patterns: list[KeyParts]
    snapshot: bool = False
    gaps: bool = True


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """Where a client was, and what it was subscribed to."""

    at: Position
    subscriptions: list[SubscriptionOf]


class Hello(_Frame, tag="hello"):
    """Says who the client is, and where it was."""

    token: str | None = None
    resume: Resume | None = None


class Subscribe(_Frame, tag="subscribe"):
    """Asks for the messages of some patterns."""

    id: Id
    patterns: list[KeyParts]
    history: int = 0
    snapshot: bool = False
    gaps: bool = True


class Unsubscribe(_Frame, tag="unsubscribe"):
    """Ends a subscription, or a responder."""

    id: Id
    of: Id


class _Message(_Frame):
    """What is published and what is asked have in common."""

    id: Id
    key: KeyParts
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    headers: dict[str, str] | None = None


class Publish(_Message, tag="publish"):
    """Publishes a message."""

    confirm: float | None = None


class Request(_Message, tag="request"):
    """Asks whoever responds to a key."""

    timeout: float | None = None


class Missed(_Frame, tag="gap"):
    """Says that messages which the client wanted to publish are lost."""

    id: Id
    reason: str
    count: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None
    since: float
    until: float
    patterns: list[KeyParts]


class Respond(_Frame, tag="respond"):
    """Offers to respond to requests of some patterns."""

    id: Id
    patterns: list[KeyParts]


class Reply(_Frame, tag="reply"):
    """Answers a request that the server has passed on."""

    id: Id
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    error: str | None = None


class Ping(_Frame, tag="ping"):
    """Asks whether the other side is there."""


class Pong(_Frame, tag="pong"):
    """It is."""


ClientFrame: TypeAlias = Hello | Subscribe | Unsubscribe | Publish | Request | Missed | Respond | Reply | Ping | Pong

_decode_type = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode_frame = msgspec.json.Decoder(ClientFrame)
_decode_frames = msgspec.json.Decoder(list[msgspec.Raw])
encode = msgspec.json.Encoder().encode

TYPES = frozenset(each.__struct_config__.tag for each in ClientFrame.__args__)

# Every string is matched in one pass, and to its end: without the possessive quantifiers a long one takes seconds, and
# one that is full of escaped quotes the square of its length.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING, re.DOTALL)


class ProtocolError(Exception):
    """A frame that cannot be followed; `code` is that of the error frame, `id` of the request if it is known.

    The frame itself is sound, and only the message in it is not, if `is_of_message`.
    """

    def __init__(self, code: str, message: str, id: int | None = None, *, is_of_message: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.is_of_message = is_of_message


def frames_of(text: str, depth: int) -> Iterable[ClientFrame | ProtocolError]:
    """Yield what a text frame holds, in order: an object, or each of an array of objects.

    What cannot be read is yielded as the error that says so.
    """
    if is_deeper(text, depth):
        yield ProtocolError("malformed", f"a frame may be nested {depth} deep")
        return
    try:
        is_array = text.lstrip(" \t\r\n")[:1] == "["
        each = _decode_frames.decode(text) if is_array else [msgspec.Raw(text.encode())]
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        yield ProtocolError("malformed", "a frame must be a JSON object, or an array of them")
        return
    for raw in each:
        try:
            yield _frame_of(bytes(raw))
        except ProtocolError as error:
            yield error


def _frame_of(raw: bytes) -> ClientFrame:
    try:
        frame: ClientFrame = _decode_frame.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _reason(raw, error) from None
    # Readers differ in which of two values with the same name they believe.
    if _may_have_doubles(raw):
        _refuse_doubles(raw, getattr(frame, "id", None))
    return frame


def _reason(raw: bytes, error: Exception) -> ProtocolError:
    """Say what is wrong with a frame, and to which request it belongs as far as that can be read."""
    try:
        parts = _decode_type.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return ProtocolError("malformed", "a frame must be a JSON object")
    id = _part(parts, "id", int)
    kind = _part(parts, "type", str)
    if kind is not None and kind not in TYPES:
        return ProtocolError("unknown-type", "unknown frame type", id)
    return ProtocolError("malformed", str(error)[:200], id)


def _part(parts: Mapping[str, msgspec.Raw], name: str, type: type) -> Any:
    try:
        return msgspec.json.decode(parts[name], type=type)
    except (KeyError, msgspec.MsgspecError, UnicodeError):
        return None


# All strings, since what follows the quotes within one could pass for a name; and what makes a name of one.
_NAMES = re.compile(f"({_STRING})".encode() + rb"\s*+(:?)", re.DOTALL)


def _may_have_doubles(raw: bytes) -> bool:
    names = [string for string, colon in _NAMES.findall(raw) if colon]
    return len(set(names)) != len(names) or any(b"\\" in name for name in names)


def _refuse_doubles(raw: bytes, id: int | None) -> None:
    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ProtocolError("malformed", "an object has the same name twice", id)
        return found

    json.loads(raw, object_pairs_hook=look)


def is_deeper(text: str, most: int) -> bool:
    """True if arrays and objects are nested deeper than `most`."""
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            if depth > most:
                return True
        elif character in "]}":
            depth -= 1
    return False


# Numbers that may become infinite, which JSON cannot say.
# It begins with a set, so that the search skips what is no digit at once; and of many digits it tries only the first.
_HUGE = re.compile(rb"[0-9](?:[eE]\+?[0-9]{3}|(?<![0-9][0-9])[0-9]{308})")


def may_be_infinite(data: bytes) -> bool:
    """True if a number in JSON may be too large for a float."""
    return _HUGE.search(data) is not None


# What a client is sent


def message_frame(
    key: Key[Any],
    data: bytes,
    at: str | None,
    *,
    is_json: bool = True,
    headers: Mapping[str, str] | None = None,
    time: float | None = None,
    replayed: bool = False,
    asks: bool = False,
) -> bytes:
    """Return a message as an object of a frame; the only one without a `type`.

    Args:
        key: Its key.
        data: What the codec made of the message.
        at: Its position, `"origin:number"`; None if it has none.
        is_json: `data` is JSON; else it travels in base64.
        headers: What its publisher sent along.
        time: When it was published, seconds since the epoch.
        replayed: It comes from a history.
        asks: It is a request, which those who respond also get as such.
    """
    parts = [b'{"key":', encode(key), b",", *_data(data, is_json)]
    if at is not None:
        parts += (b',"at":', encode(at))
    if headers:
        parts += (b',"headers":', encode(headers))
    if time is not None:
        parts += (b',"time":', encode(round(time, 3)))
    if asks:
        parts.append(b',"request":true')
    parts.append(b',"replayed":true}' if replayed else b"}")
    return b"".join(parts)


def _data(data: bytes, is_json: bool) -> tuple[bytes, bytes]:
    """The name under which data travel, and what they are there."""
    return (b'"data":', data) if is_json else (b'"data_base64":', encode(data))


def welcome(connection: str, at: Position, ping: float, limits: Mapping[str, Any]) -> bytes:
    """The first frame: what the server grants, and where the client is."""
    return encode(
        {
            "type": "welcome",
            "version": VERSION,
            "connection": connection,
            "ping": ping,
            "at": at,
            "limits": limits,
        }
    )


def ok(id: int, at: Position, **more: Any) -> bytes:
    """The answer to a request that was followed."""
    return encode({"type": "ok", "id": id, "at": at, **more})


def ok_with_data(id: int, data: bytes, is_json: bool) -> bytes:
    """The answer to a request, with the reply that somebody gave."""
    return b'{"type":"ok","id":%d,%b%b}' % (id, *_data(data, is_json))


def request_frame(id: int, key: Key[Any], data: bytes, is_json: bool, headers: Mapping[str, str]) -> bytes:
    """A request to a client that responds."""
    more = b',"headers":' + encode(headers) if headers else b""
    return b'{"type":"request","id":%d,"key":%b,%b%b%b}' % (id, encode(key), *_data(data, is_json), more)


def error_frame(id: int | None, code: str, message: str) -> bytes:
    """The answer to what cannot be followed."""
    return encode({"type": "error", "id": id, "code": code, "message": message})


def gap_frame(gap: Gap, of: int) -> bytes:
    """Messages of a subscription are missing here."""
    return encode({"type": "gap", "of": of, **gap._asdict()})


def bye(code: int, reason: str, retry: int | None = None) -> bytes:
    """What is said before a close; `retry` is in milliseconds."""
    frame: dict[str, Any] = {"type": "bye", "code": code, "reason": reason}
    if retry is not None:
        frame["retry"] = retry
    return encode(frame)


PING = encode({"type": "ping"})
PONG = encode({"type": "pong"})
