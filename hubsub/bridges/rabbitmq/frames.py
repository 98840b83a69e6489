"""Frames of AMQP 0-9-1 that carry messages, packed and read without detours; what is rare is left to pamqp."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import pamqp.decode
import pamqp.encode

from ..address import cached

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
HEAD = struct.Struct(">BHI")
"""Kind, channel and size of a frame."""
PUBLISH, RETURN, DELIVER, GET_OK, ACK, NACK = (struct.pack(">HH", 60, method) for method in (40, 50, 60, 71, 80, 120))
"""Class and method, with which the frame of a method begins."""
PERSISTENT = b"\x02"
COUNT, OFFSET = "x-delivery-count", "x-stream-offset"
"""Headers that RabbitMQ adds: how often a message was delivered before; where it is in its stream."""
NONE: Mapping[str, Any] = {}
MOST_NAME = 255
"""Bytes of a short string: names of queues and headers, routing keys."""

# The properties of a message, by their bits, in the order in which they follow each other.
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 15, 13, 12
_SHORT = "content_type content_encoding . . . correlation_id reply_to expiration message_id . type user_id app_id"
_PROPERTIES = dict(zip(range(15, 2, -1), _SHORT.split(), strict=True)) | {2: "cluster_id"}
_PRIORITY, _TIMESTAMP = 11, 6
_LENGTH = struct.Struct(">I")
_SIZES = struct.Struct(">HHQH")
_DELIVERY = struct.Struct(">QB")


class Message(NamedTuple):
    """What has come: delivered, got, or returned."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: bytes
    properties: Mapping[str, str]
    headers: Mapping[str, Any]
    body: bytes
    time: float | None


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a whole frame."""
    return b"%b%b%b" % (HEAD.pack(kind, channel, len(payload)), payload, END)


def short(text: str | bytes) -> bytes:
    """Return a short string.

    Raises:
        ValueError: It is longer than 255 bytes.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(data) > MOST_NAME:
        raise ValueError(f"{len(data)} bytes, where RabbitMQ accepts {MOST_NAME}")
    return bytes([len(data)]) + data


def publish_head(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """Return the first frame of a message that is published.

    Raises:
        ValueError: The routing key is longer than 255 bytes.
    """
    payload = PUBLISH + b"\0\0" + short(exchange) + short(routing_key) + bytes([mandatory])
    return frame(METHOD, channel, payload)


BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-hubsub-", "hubsub-wait-", COUNT, OFFSET)
"""How headers begin that are not the message's own, but RabbitMQ's or ours."""
# And upon these RabbitMQ acts: it routes to what they name, or refuses the message.
_NOT_IN_NAMES = re.compile(rf"\A(?:[%](?=[0-9A-F]{{2}})|B?CC\Z|{'|'.join(map(re.escape, BROKERS))})")


def name_of(name: str) -> str:
    """Return the name under which a header of a message is written, whatever name somebody has given it."""
    return f"%{ord(name[0]):02X}{name[1:]}" if _NOT_IN_NAMES.match(name) else name


def name_in(name: str) -> str:
    """Return the name of a header that is written as this."""
    if name[:1] == "%":
        with suppress(ValueError):
            meant = chr(int(name[1:3], 16)) + name[3:]
            return meant if name_of(meant) == name else name
    return name


def _written(name: str) -> bytes:
    return short(name_of(name))


_name = cached(_written)


def content(
    channel: int,
    headers: Mapping[str, str],
    body: bytes,
    frame_max: int,
    own: Mapping[str, Any] = NONE,
    *,
    mode: bytes = PERSISTENT,
) -> bytes:
    """Return the frames of a message behind the first: its metadata and its body.

    Args:
        channel: The number of the channel.
        headers: Those of the message.
        body: The message itself.
        frame_max: The most bytes of a frame.
        own: Further headers, for RabbitMQ or for bridges.
        mode: Whether RabbitMQ is to write it to its disk.

    Raises:
        ValueError: The metadata is larger than a frame may be, or a name in it is longer than 255 bytes.
    """
    flags, typed = 1 << _HEADERS | 1 << _DELIVERY_MODE, b""
    parts = []
    for name, value in headers.items():
        if name == "content-type" and len(value) < MOST_NAME // 4:
            flags, typed = flags | 1 << _CONTENT_TYPE, short(value)
        else:
            data = value.encode("utf-8", "surrogatepass")
            parts.append(b"%bS%b%b" % (_name(name), _LENGTH.pack(len(data)), data))
    for name, value in own.items():
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            parts.append(b"%bS%b%b" % (short(name), _LENGTH.pack(len(data)), data))
        else:
            parts.append(short(name) + pamqp.encode.encode_table_value(value))
    table = b"".join(parts)
    size = len(body)
    header = b"%b%b%b%b%b" % (_SIZES.pack(60, 0, size, flags), typed, _LENGTH.pack(len(table)), table, mode)
    if len(header) + 8 > frame_max:
        raise ValueError(f"{len(header)} bytes of headers, where RabbitMQ accepts {frame_max - 8}")
    if size + 8 <= frame_max:
        return frame(HEADER, channel, header) + (frame(BODY, channel, body) if size else b"")
    step = frame_max - 8
    bodies = (frame(BODY, channel, body[at : at + step]) for at in range(0, size, step))
    return b"".join((frame(HEADER, channel, header), *bodies))


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return the frame that acknowledges one message, or all up to it."""
    return frame(METHOD, channel, ACK + _DELIVERY.pack(tag, multiple))


def nack(channel: int, tag: int) -> bytes:
    """Return the frame that gives a message back to its queue."""
    return frame(METHOD, channel, NACK + _DELIVERY.pack(tag, 2))


def read_tag(payload: bytes) -> tuple[int, bool]:
    """Return the tag of an acknowledgement, and whether it is for all up to it."""
    tag, flags = _DELIVERY.unpack_from(payload, 4)
    return tag, bool(flags & 1)


def _short_at(payload: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end], end


def read_delivery(payload: bytes) -> tuple[int, bool, bytes, bytes, bytes]:
    """Return tag, whether it was delivered before, exchange, routing key and consumer of a delivery."""
    consumer, at = _short_at(payload, 4)
    tag, flags = _DELIVERY.unpack_from(payload, at)
    exchange, at = _short_at(payload, at + 9)
    return tag, bool(flags), exchange, _short_at(payload, at)[0], consumer


def read_got(payload: bytes) -> tuple[int, bool, bytes, bytes, bytes]:
    """Return the same of a message that was asked for."""
    tag, flags = _DELIVERY.unpack_from(payload, 4)
    exchange, at = _short_at(payload, 13)
    return tag, bool(flags), exchange, _short_at(payload, at)[0], b""


def read_header(payload: bytes) -> tuple[int, dict[str, str], dict[str, Any], float | None]:
    """Return size of the body, properties that are text, headers, and time of a message."""
    _, _, size, flags = _SIZES.unpack_from(payload)
    at = _SIZES.size
    texts: dict[str, str] = {}
    headers: dict[str, Any] = {}
    time: float | None = None
    for bit in range(15, 1, -1):
        if not flags >> bit & 1:
            continue
        if bit == _HEADERS:
            (length,) = _LENGTH.unpack_from(payload, at)
            headers = _read_table(payload[at : at + 4 + length])
            at += 4 + length
        elif bit in (_DELIVERY_MODE, _PRIORITY):
            at += 1
        elif bit == _TIMESTAMP:
            time = float(int.from_bytes(payload[at : at + 8]))
            at += 8
        else:
            text, at = _short_at(payload, at)
            texts[_PROPERTIES[bit]] = decoded(text)
    return size, texts, headers, time


def _read_table(data: bytes) -> dict[str, Any]:
    table: dict[str, Any] = {}
    at, end = 4, len(data)
    while at < end:
        name, at = _short_at(data, at)
        if data[at] != 83:  # "S", a long string
            return _read_any_table(data)
        (length,) = _LENGTH.unpack_from(data, at + 1)
        at += 5
        table[decoded(name)] = decoded(data[at : at + length])
        at += length
    return table


def decoded(data: bytes) -> str:
    """Return bytes as text, whatever they are."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        with suppress(UnicodeDecodeError):
            return data.decode("utf-8", "surrogatepass")
        return data.decode("utf-8", "surrogateescape")


def _read_any_table(data: bytes) -> dict[str, Any]:
    """Return a table, whatever is in it; an empty one if it cannot be decoded."""
    try:
        return pamqp.decode.field_table(data)[1]
    except Exception:
        return {}


def as_text(value: Any) -> str:
    """Return the value of a header as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return decoded(bytes(value))
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)
