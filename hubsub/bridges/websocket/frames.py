"""The frames of `hubsub.v1`, as a client sends and reads them; see docs/web/protocol.md."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...errors import EncodeError, InvalidKey
from ...key import Key
from ..adapter import Received, Record

SUBPROTOCOL = "hubsub.v1"

# Close codes after which coming back is of no use, and the one of a token that is not accepted.
MALFORMED = 4400
IDENTITY = 4401
FORBIDDEN = 4403

JSON = "application/json"
MESSAGE = "hubsub.message"
NAME = "hubsub"
"""The header of a message that has its name: what is known of it, as attributes of a CloudEvent."""
# Attributes that a name has not, or may not have.
_NOT_IN_NAME = {"specversion", "datacontenttype", "replyto", "correlation", "hubsubdue", "signature", "signedheaders"}
# Characters of what the endpoint says, in errors.
MOST_TEXT = 200
# The highest number that every client can count to.
MOST = 2**53 - 1


class Frame(msgspec.Struct):
    """What an endpoint sends; without a `type` it is a message."""

    type: str = ""
    id: int | None = None
    key: list[str] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    at: str | dict[str, int] | None = None
    headers: dict[str, str] | None = None
    time: float | None = None
    replayed: bool | int | None = None
    request: bool = False
    resumed: bool | None = None
    code: str | int | None = None
    message: str | None = None
    of: int | None = None
    reason: str | None = None
    count: int | None = None
    since: float | None = None
    until: float | None = None
    keys: list[list[str]] | None = None
    limits: dict[str, float] | None = None
    retry: int | None = None


_decode = msgspec.json.Decoder(list[Frame]).decode
_decode_name = msgspec.json.Decoder(dict[str, str]).decode
encode = msgspec.json.Encoder().encode


def frames_of(text: str) -> list[Frame]:
    """Return the frames of a text frame.

    Raises:
        ConnectionError: They are none.
    """
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ConnectionError("the endpoint sent what is no frame of hubsub.v1") from None


def said(frame: Frame) -> str:
    """What the endpoint says in an error, in bounds."""
    return f"{str(frame.code)[:MOST_TEXT]}: {(frame.message or '')[:MOST_TEXT]}"


def place_of(at: Any) -> tuple[str, int] | None:
    """The origin of a message, and its number there; None if it has none."""
    if not isinstance(at, str):
        return None
    origin, _, number = at.rpartition(":")
    if not origin or not number.isascii() or not number.isdigit() or len(number) > len(str(MOST)):
        return None
    return origin, int(number)


# Messages


def payload_of(frame: Frame) -> tuple[bytes, str | None]:
    """The payload of a frame, and its media type if that is known.

    Raises:
        ValueError: It is not base64.
    """
    if frame.data_base64 is not None:
        try:
            return base64.b64decode(frame.data_base64, validate=True), None
        except binascii.Error as error:
            raise ValueError(f"data_base64 is no base64: {error}") from error
    return (b"null" if isinstance(frame.data, msgspec.UnsetType) else bytes(frame.data)), JSON


def received_of(frame: Frame) -> Received:
    """A message as the relay expects it, with all that its name says."""
    key, trouble = key_of(frame)
    headers = dict(frame.headers or {})
    attributes = _named(headers)
    is_replayed = frame.replayed is True
    if "id" not in attributes or "source" not in attributes:
        place = place_of(frame.at)
        if place is not None:
            attributes["id"], attributes["source"] = str(frame.at), place[0]
    if "time" not in attributes and frame.time is not None and (time := _time_text(frame.time)) is not None:
        attributes["time"] = time
    for name, value in attributes.items():
        headers[f"ce_{name}"] = value
    headers["ce_specversion"] = "1.0"
    headers.setdefault("ce_type", MESSAGE)
    payload: bytes | None = None
    try:
        payload, form = payload_of(frame)
        if form is not None:
            headers["content-type"] = form
    except ValueError as error:
        trouble = trouble or error
    position = frame.at if isinstance(frame.at, str) else None
    return Received(key, payload, headers, position=position, is_replayed=is_replayed, trouble=trouble)


def key_of(frame: Frame) -> tuple[Key[Any], Exception | None]:
    """The key of a frame; if it is none, a key that stands for it, and why."""
    try:
        return Key.create_from(frame.key or ()), None
    except InvalidKey as error:
        return Key("?"), error


def _named(headers: dict[str, str]) -> dict[str, str]:
    """The attributes in the name of a message, which is removed from its headers."""
    name = headers.get(NAME)
    if name is None:
        return {}
    try:
        attributes = _decode_name(name)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}  # of another program
    del headers[NAME]
    return {name: value for name, value in attributes.items() if name not in _NOT_IN_NAME}


def source_of(frame: Frame) -> tuple[str, str]:
    """The source of a message, and its id there."""
    attributes = _named(dict(frame.headers or {}))
    return attributes.get("source", ""), attributes.get("id", "")


def _time_text(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


# What is sent


def headers_of(record: Record, source: str, id: str) -> dict[str, str]:
    """The headers of a message that leaves: those of its publisher, and its name.

    Args:
        record: The message.
        source: The source of a message that has none.
        id: What it is called, if it does not say.

    Raises:
        EncodeError: One of them is called as the name is.
    """
    name = {"source": source, "id": id}
    headers = {}
    for header, value in record.headers.items():
        if not header.startswith("ce_"):
            if header == NAME:
                raise EncodeError(record.key, f"the header {NAME!r} is the bridge's own; call yours otherwise")
            if header != "content-type":
                headers[header] = value
        elif header[3:] not in _NOT_IN_NAME and not (header == "ce_type" and value == MESSAGE):
            name[header[3:]] = value
    headers[NAME] = json.dumps(name, separators=(",", ":"))
    return headers


def data_of(record: Record, depth: int) -> dict[str, Any]:
    """The field that has the payload of a record.

    Raises:
        EncodeError: It is said to be JSON and is not, or is nested too deeply for the endpoint.
    """
    form = record.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form and form != JSON and not form.endswith("+json"):
        return {"data_base64": base64.b64encode(record.payload).decode()}
    try:
        msgspec.json.decode(record.payload, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise EncodeError(record.key, f"its payload is no JSON that the endpoint accepts: {error}") from error
    if _is_deeper(record.payload, depth):
        raise EncodeError(record.key, f"it is nested more than {depth} deep, which the endpoint does not accept")
    return {"data": msgspec.Raw(record.payload)}


# Possessive: else a long string takes a long time.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def _is_deeper(payload: bytes, most: int) -> bool:
    if payload.count(b"[") + payload.count(b"{") <= most:
        return False
    depth = 0
    for byte in _STRINGS.sub(b"", payload):
        if byte in b"[{":
            depth += 1
            if depth > most:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def reply_headers(id: str, source: str, correlation: str, error: str | None = None) -> Mapping[str, str]:
    """The headers of the reply to a request, as the relay knows it."""
    headers = {"ce_specversion": "1.0", "ce_type": MESSAGE, "ce_id": id, "ce_source": source}
    headers["ce_correlation"] = correlation
    if error is not None:
        headers["error"] = error
    return headers
