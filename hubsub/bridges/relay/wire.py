"""The wire format: a message with its metadata by CloudEvents 1.0, in the broker's headers or in a JSON envelope."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from ..._core.callables import discard
from ...codec import Codec, codec_of
from ...describe import describe, describe_error
from ...errors import DecodeError, EncodeError
from ...event import Gap, Meta
from ...key import NAMESPACE, Key

MESSAGE = "hubsub.message"
"""The type of what was published; any type that is not ours is a message too."""
GAP = "hubsub.gap"
"""The type of a `Notice`."""
BEAT = "hubsub.beat"
"""The type of a sign of life."""

JSON = "application/json"
ENVELOPE = "application/cloudevents+json"

Packed = tuple[bytes, dict[str, str]]


class Notice(NamedTuple):
    """What one bridge tells the others of messages that its outbox dropped."""

    gap: Gap
    patterns: tuple[Key[Any], ...]
    """What it would have sent; tells whom it may concern where `gap.keys` is None."""


class Unpacked(NamedTuple):
    """What was received, decoded."""

    kind: str
    """`MESSAGE`, `GAP` or `BEAT`."""
    message: Any
    """A `Notice` if it is a `GAP`."""
    meta: Meta | None
    """None if nothing came with the message."""


class Wire:
    """Packs messages for a broker and unpacks what comes from it, be it from a hub or from anybody else.

    `Meta.headers` travel beside the message. One called `ce_x` is the CloudEvents attribute `x`: so `ce_type` and
    `ce_subject` can be chosen, and those of foreign events are found there.

    Args:
        codec: The codec of the messages, or its name.
        source: Who sends, unless the metadata says otherwise. May be set anew.
        envelope: Send messages as CloudEvents. If not, metadata stays behind: only the payload is sent, and where the
            broker has headers, those of the user. What is received is understood either way.
        headers: The broker has headers; else what is sent goes in an envelope.
        type_of: Tells what the messages of an exact key are declared to be.

    Raises:
        ValueError: There is no such codec.
        ImportError: The codec needs a package that is missing.
    """

    def __init__(
        self,
        codec: str | Codec,
        source: str,
        *,
        envelope: bool = True,
        headers: bool = False,
        type_of: Callable[[Key[Any]], Any] = lambda key: None,
    ) -> None:
        self.codec = codec_of(codec)
        self.envelope = envelope
        self.headers = headers
        self._type_of = type_of
        self._form = _media_type(self.codec.content_type)
        # What the headers of `pack_plain` say of a message, whoever sent it.
        self._plain = {"ce_type": MESSAGE, "content-type": self.codec.content_type}.items()
        self.source = source

    @property
    def source(self) -> str:
        """Who sends."""
        return self._source

    @source.setter
    def source(self, source: str) -> None:
        # Whatever is the same for all messages is written once.
        self._source = source
        self._own = _own = f'{{"specversion":"1.0","source":{json.dumps(source)},'.encode()
        attributes = f'"type":"{MESSAGE}","datacontenttype":{json.dumps(self.codec.content_type)},"id":"'
        self._prefix = _own + attributes.encode()
        self._ce = {"ce_specversion": "1.0", "ce_source": source, **dict(self._plain)}

    # Packing

    def pack_plain(self, key: Key[Any], message: Any, id: str, time: str) -> Packed:
        """Return payload and headers of a message that has no metadata of its own.

        Args:
            key: What it was published to, for errors.
            message: The message.
            id: Unique within `source`; in plain ASCII, without quotes and backslashes.
            time: When it was published, as `time_text` says it.

        Raises:
            EncodeError: The codec cannot encode it.
        """
        data = _encoded(self.codec, key, message)
        if not self.envelope:
            return data, {"content-type": self.codec.content_type} if self.headers else {}
        if self.headers:
            return data, {**self._ce, "ce_id": id, "ce_time": time}
        name, data = _in_json(data, self._form)
        return b'%b%b","time":"%b","%b":%b}' % (self._prefix, id.encode(), time.encode(), name, data), {}

    def pack(self, kind: str, key: Key[Any], message: Any, meta: Meta) -> Packed:
        """Return payload and headers of anything.

        Args:
            kind: `MESSAGE`; or `GAP`, with a `Notice`; or `BEAT`, with anything that JSON can hold. The last two are
                CloudEvents whatever `envelope` says.
            key: What it was published to, for errors.
            message: The message.
            meta: With at least an `id`; without a `source` it is from here. Its `position`, and whether it was
                `redelivered` or `replayed`, are the broker's to say and do not travel.

        Raises:
            EncodeError: It cannot be encoded, or has no id.
        """
        codec = self.codec if kind == MESSAGE else _JSON_CODEC
        data = _encoded(codec, key, _notice_data(message) if kind == GAP else message)
        # A reply without metadata would be nobody's.
        if not self.envelope and kind == MESSAGE and key[0] != NAMESPACE:
            return data, {**meta.headers, "content-type": codec.content_type} if self.headers else {}
        try:
            attributes, others = self._attributes(kind, codec, meta)
            if self.headers:
                packed = _beside(attributes, others)
                "".join((*packed, *packed.values())).encode()  # a broker's driver would fail on them later
                return data, packed
        except (ValueError, OverflowError, OSError) as error:
            raise EncodeError(key, f"its metadata cannot be encoded: {error}") from error
        if others:
            attributes["headers"] = json.dumps(others)
        name, data = _in_json(data, _media_type(codec.content_type))
        return b'%b,"%b":%b}' % (json.dumps(attributes, separators=(",", ":"))[:-1].encode(), name, data), {}

    def _attributes(self, kind: str, codec: Codec, meta: Meta) -> tuple[dict[str, Any], dict[str, str]]:
        """The attributes of an event, in the order of `_PLAIN`, and the headers that are none."""
        if not meta.id:
            raise ValueError("it has no id")
        attributes: dict[str, Any] = {"specversion": "1.0", "source": meta.source or self._source, "type": kind}
        attributes |= {"datacontenttype": codec.content_type, "id": meta.id}
        if meta.time is not None:
            attributes["time"] = time_text(meta.time)
        if meta.hops != 1:
            attributes["hops"] = meta.hops
        if meta.reply_to is not None:
            attributes["replyto"] = meta.reply_to.text
        if meta.correlation is not None:
            attributes["correlation"] = meta.correlation
        others = {}
        for name, value in meta.headers.items():
            attribute = name[3:] if name.startswith("ce_") else ""
            if not value or not _FREE_NAME.fullmatch(attribute) or (attribute == "type" and _is_ours(kind, value)):
                others[name] = value
            else:
                attributes[attribute] = value
        return attributes, others

    # Unpacking

    def is_own(self, payload: bytes | None, headers: Mapping[str, str]) -> bool:
        """True if something was sent by this very source; tells without decoding it.

        What was sent without its metadata cannot be recognized.
        """
        if headers and "ce_source" in headers:
            return headers["ce_source"] == self._source
        return payload is not None and payload.startswith(self._own)

    def unpack(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        """Return what was received: an event of a hub, a CloudEvent of anybody, or else a plain payload.

        Args:
            key: What it was published to.
            payload: None for a message that is None.
            headers: What the broker gave beside it.

        Raises:
            DecodeError: The payload is not what the codec, or the type that is declared, makes of messages.
        """
        try:
            if headers:
                return self._unpack_with_headers(key, payload, headers)
            if payload is None:
                return Unpacked(MESSAGE, None, None)
            plain = _PLAIN.match(payload) if self._form == JSON else None
            if plain is not None and payload.endswith(b"}"):
                try:
                    message = self.codec.decode(payload[plain.end() : -1], self._type_of(key))
                except (ValueError, RecursionError):
                    pass  # something follows the data in the envelope, or the data is none
                else:
                    return Unpacked(MESSAGE, message, _plain_meta(*plain.groups()))
            return self._unpack_payload(key, payload, None, {})
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {error}", payload) from error

    def _unpack_with_headers(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        if payload and headers.keys() == _PLAIN_HEADERS and headers.items() >= self._plain:
            message = self.codec.decode(payload, self._type_of(key))
            time = seconds_of(headers["ce_time"])
            return Unpacked(MESSAGE, message, Meta(headers["ce_id"], headers["ce_source"], time, _NO_HEADERS, 1))
        if "ce_specversion" not in headers:
            headers = _from_http(headers)
        content_type = headers.get("content-type")
        is_event = "ce_specversion" in headers
        attributes: dict[str, Any] = {}
        others = {}
        for name, value in headers.items():
            if is_event and name.startswith("ce_"):
                attributes[name[3:]] = value
            elif name != "content-type":
                others[name] = value
        if not is_event:
            return self._unpack_payload(key, payload, content_type, others)
        kind, meta = _kind_of(attributes), _meta(attributes, others)
        if not payload and content_type is not None and _is_json(_media_type(content_type)):
            payload = None  # which the event may go without, and JSON not
        return self._unpacked(kind, key, payload, content_type, meta)

    def _unpack_payload(
        self, key: Key[Any], payload: bytes | None, content_type: str | None, headers: dict[str, str]
    ) -> Unpacked:
        """Unpack what has no attributes in its headers: an envelope, or a plain payload."""
        if payload is not None and (content_type is None or _media_type(content_type) == ENVELOPE):
            envelope = _envelope_of(payload)
            if envelope is not None:
                form = str(envelope.pop("datacontenttype", JSON))
                payload = _out_of_json(envelope, _media_type(form))
                return self._unpacked(_kind_of(envelope), key, payload, form, _meta(envelope, headers))
        meta = Meta(headers=headers, hops=1) if headers else None
        return self._unpacked(MESSAGE, key, payload, content_type, meta)

    def _unpacked(
        self, kind: str, key: Key[Any], payload: bytes | None, content_type: str | None, meta: Meta | None
    ) -> Unpacked:
        if payload is None:
            message = None
        elif kind == MESSAGE:
            message = self._codec_for(content_type).decode(payload, self._type_of(key))
        else:
            message = _JSON_CODEC.decode(payload, None)
        return Unpacked(kind, _notice(message) if kind == GAP else message, meta)

    def _codec_for(self, content_type: str | None) -> Codec:
        """Our codec, unless the type of the content says that it is something else."""
        form = self._form if content_type is None else _media_type(content_type)
        if form == self._form:
            return self.codec
        if _is_json(form):
            return _JSON_CODEC
        return codec_of("str" if form.startswith("text/") else "msgpack" if form in _MSGPACK else "bytes")


_JSON_CODEC = codec_of("json")
_MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")

# What `Wire.pack_plain` makes, and the simplest of `Wire.pack`, up to the data.
_PLAIN = re.compile(
    rb'\{"specversion":"1\.0","source":"([^"\\]+)","type":"hubsub\.message","datacontenttype":"application/json",'
    rb'"id":"([^"\\]+)","time":"([^"\\]+)"(?:,"hops":([0-9]+))?,"data":'
)
_PLAIN_HEADERS = {"ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time"}
# Names of attributes that are not in `Meta`, or said otherwise.
_IN_META = {"specversion", "datacontenttype", "id", "source", "time", "correlation"}
_FREE_NAME = re.compile(
    "(?!(?:specversion|source|id|time|datacontenttype|data|hops|replyto|correlation|headers)$)[a-z0-9]+"
)


def _encoded(codec: Codec, key: Key[Any], message: Any) -> bytes:
    try:
        payload = codec.encode(message)
    except Exception as error:
        kind = f"{type(error).__name__}: "
        raise EncodeError(key, describe_error(error).removeprefix(kind)) from error
    if not isinstance(payload, bytes | bytearray | memoryview):
        discard(payload)  # a coroutine, say
        raise EncodeError(key, f"the codec {codec.name!r} returned {describe(payload)}, and no bytes")
    return payload


def time_text(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as CloudEvents write it: in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@lru_cache(1024)  # those of one batch have one
def seconds_of(text: str) -> float | None:
    """Return the seconds since the epoch of a time as CloudEvents write it; None if it is none."""
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _media_type(content_type: str) -> str:
    """The bare media type, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def _is_json(form: str) -> bool:
    return form in (JSON, "text/json") or form.endswith("+json")


def _is_ours(kind: str, type: str) -> bool:
    return kind != MESSAGE or type in (MESSAGE, GAP, BEAT)


def _kind_of(attributes: dict[str, Any]) -> str:
    """What kind of event it is; a type of ours is taken out of the attributes."""
    if attributes.get("type") in (MESSAGE, GAP, BEAT):
        kind: str = attributes.pop("type")
        return kind
    return MESSAGE


# Data in an envelope


def _in_json(data: bytes, form: str) -> tuple[bytes, bytes]:
    """The member of an envelope, name and value, that holds an encoded message."""
    if form == JSON or _is_json(form):
        return b"data", data
    if form.startswith("text/"):
        return b"data", json.dumps(data.decode()).encode()
    return b"data_base64", b'"%b"' % b64encode(data)


def _out_of_json(envelope: dict[str, Any], form: str) -> bytes | None:
    """Take the encoded message out of an envelope; None if it has none."""
    data, base64 = envelope.pop("data", envelope), envelope.pop("data_base64", None)
    if base64 is not None:
        return b64decode(base64, validate=True)
    if data is envelope:
        return None
    return data.encode() if isinstance(data, str) and not _is_json(form) else json.dumps(data).encode()


def _envelope_of(payload: bytes) -> dict[str, Any] | None:
    """The CloudEvent that a payload is, if it is one."""
    if b'"specversion"' not in payload:
        return None
    try:
        envelope = json.loads(payload)
    except ValueError:
        return None
    if not isinstance(envelope, dict) or not str(envelope.get("specversion")).startswith("1."):
        return None
    required = [envelope.get(name) for name in ("id", "source", "type")]
    return envelope if all(isinstance(value, str) and value for value in required) else None


# Metadata


def _beside(attributes: dict[str, Any], others: dict[str, str]) -> dict[str, str]:
    """Attributes, and headers that are none, as headers."""
    hidden = {name: value for name, value in others.items() if name.startswith("ce_") or name == "content-type"}
    packed = {name: value for name, value in others.items() if name not in hidden}
    if hidden:
        attributes["headers"] = json.dumps(hidden)
    packed["content-type"] = attributes.pop("datacontenttype")
    packed.update((f"ce_{name}", str(value)) for name, value in attributes.items())
    return packed


def _from_http(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers of an event as HTTP spells them, in our spelling; others as they are."""
    if not any(name.lower() == "ce-specversion" for name in headers):
        return headers
    lower = {name.lower(): value for name, value in headers.items()}
    plain = {name: value for name, value in lower.items() if not name.startswith("ce-")}
    return plain | {f"ce_{name[3:]}": unquote(lower[name]) for name in lower.keys() - plain.keys()}


def _plain_meta(source: bytes, id: bytes, time: bytes, hops: bytes | None) -> Meta:
    return Meta(id.decode(), source.decode(), seconds_of(time.decode()), _NO_HEADERS, 1 if hops is None else int(hops))


_NO_HEADERS: Mapping[str, str] = {}


def _meta(attributes: dict[str, Any], headers: dict[str, str]) -> Meta:
    """The metadata in attributes, and headers that are none; attributes that are not ours become headers."""
    headers = dict(headers)
    hops, reply_to = 1, None
    # Whoever else has attributes of these names may mean something else by them.
    if "hops" in attributes:
        with suppress(TypeError, ValueError):
            hops = int(attributes["hops"])
            del attributes["hops"]
    if "replyto" in attributes:
        with suppress(TypeError, ValueError):
            reply_to = Key.parse(attributes["replyto"])
            del attributes["replyto"]
    if "headers" in attributes:
        with suppress(TypeError, ValueError, AttributeError):
            headers |= {str(name): str(value) for name, value in json.loads(attributes["headers"]).items()}
            del attributes["headers"]
    for name, value in attributes.items():
        if name not in _IN_META:
            headers[f"ce_{name}"] = value if isinstance(value, str) else json.dumps(value)
    correlation = attributes.get("correlation")
    return Meta(
        id=attributes.get("id"),
        source=attributes.get("source"),
        time=seconds_of(str(attributes.get("time"))),
        headers=headers,
        hops=hops,
        reply_to=reply_to,
        correlation=None if correlation is None else str(correlation),
    )


def _notice_data(notice: Notice) -> dict[str, Any]:
    gap, patterns = notice
    keys = None if gap.keys is None else [key.text for key in gap.keys]
    return {**gap._asdict(), "keys": keys, "patterns": [pattern.text for pattern in patterns]}


def _notice(data: Any) -> Notice:
    keys = data["keys"]
    gap = Gap(
        str(data["reason"]),
        None if data["count"] is None else int(data["count"]),
        float(data["since"]),
        float(data["until"]),
        None if keys is None else tuple(map(Key.parse, keys)),
    )
    return Notice(gap, tuple(map(Key.parse, data["patterns"])))
