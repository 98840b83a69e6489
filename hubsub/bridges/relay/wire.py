"""The wire format: a message with its metadata by CloudEvents 1.0, in the broker's headers or in a JSON envelope."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ..._core.callables import discard
from ..._core.declarations import accepts, name_of
from ...codec import Codec, codec_of
from ...describe import describe, describe_error
from ...errors import DecodeError, EncodeError, SignatureError
from ...event import Gap, Meta
from ...key import Key
from ..address import cached
from .signing import ENVELOPE as SIGNED_ENVELOPE
from .signing import NO_MORE, WIDTH, Hash, Secrets, Signer, constant_of, in_headers

MESSAGE = "hubsub.message"
"""The type of what was published; any type that is not ours is a message too."""
GAP = "hubsub.gap"
"""The type of a `Notice`."""
BEAT = "hubsub.beat"
"""The type of a sign of life."""

JSON = "application/json"
ENVELOPE = "application/cloudevents+json"

# What is longer neither leaves nor enters: all of it is remembered in one place or another.
LONGEST_KEY = 1024
"""Characters of a key: of its parts, and one more for each."""
LONGEST_NAME = 1024
"""Characters of `id`, `source` and `correlation`, each."""
LONGEST_TIME = 64
"""Characters of a `time`."""
MOST_IN_HEADERS = 65_536
"""Characters of the names and values of all headers together, with attributes that `Meta` has no field for."""
MOST_HOPS = 2**31 - 1
"""The largest `hops`: as the integers of CloudEvents."""
MOST_KEYS = 64
"""Keys in a `Notice`, at most; patterns may be 16 times as many."""

Packed = tuple[bytes, dict[str, str]]

as_tuple = tuple.__new__  # of a named one: in a third of the time


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

    Keys are those of this process. What is too long to be remembered, see `LONGEST_KEY` and the others, is refused
    both ways.

    Args:
        codec: The codec of the messages, or its name.
        source: Who sends, unless the metadata says otherwise. May be set anew.
        envelope: Send messages as CloudEvents. If not, metadata stays behind: only the payload is sent, and where the
            broker has headers, those of the user. What is received is understood either way.
        headers: The broker has headers; else what is sent goes in an envelope.
        type_of: Tells what the messages of an exact key are declared to be.
        secret: Sign all that is sent, and refuse what is not signed: a secret, or several, of which the first signs and
            all are accepted.
        namespace: That of the bridge; signatures are for one namespace.
        prefix: What keys begin with in this process, and not at the broker.
        window: Seconds that a signed message may be old or early when it comes live.

    Raises:
        ValueError: There is no such codec; or a secret without envelopes, or an empty one.
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
        secret: Secrets | None = None,
        namespace: str = "",
        prefix: Sequence[str] = (),
        window: float = 300.0,
    ) -> None:
        self.codec = codec_of(codec)
        self.envelope = envelope
        self.headers = headers
        if secret is not None and not envelope:
            raise ValueError(
                "a signature travels in the envelope, which envelope=False leaves out: leave out secret= too"
            )
        self._signer = None if secret is None else Signer(secret, namespace, prefix, window)
        self._type_of = type_of
        self._encode = self.codec.encode
        self._short = _ShortKeys(_unsigned if self._signer is None else self._signer.of_key)
        content_type = self.codec.content_type
        self._form = _media_type(content_type)
        self._is_json = _is_json(self._form)
        # What the headers of `pack_plain` say of a message, whoever sent it.
        plain = {"ce_type": MESSAGE, "content-type": content_type}
        self._plain = (plain if self._signer is None else {**plain, "ce_specversion": "1.0"}).items()
        self._plain_names = _PLAIN_HEADERS if self._signer is None else _PLAIN_HEADERS | {"ce_signature"}
        # What is signed of the attributes that all plain messages of a source have alike.
        self._constant_of: Callable[[str], str] = cached(lambda source: constant_of(source, MESSAGE, content_type))
        self.source = source

    @property
    def source(self) -> str:
        """Who sends."""
        return self._source

    @source.setter
    def source(self, source: str) -> None:
        # Whatever is the same for all messages is written once.
        self._source = source
        own = f'"specversion":"1.0","source":{json.dumps(source)},'
        self._own = f"{{{own}".encode()
        self._before_id = f'{own}"type":"{MESSAGE}","datacontenttype":{json.dumps(self.codec.content_type)},"id":"'
        self._ce = {"ce_specversion": "1.0", "ce_source": source, **dict(self._plain)}
        self._ce_size = _bytes_of(self._ce) + len("ce_id") + len("ce_time")
        self._constant = self._constant_of(source)
        if self._signer is not None:
            self._ce_size += len("ce_signature") + WIDTH
            self._signer.renew()

    # Packing

    def pack_plain(self, key: Key[Any], message: Any, id: str, time: str) -> Packed:
        """Return payload and headers of a message that has no metadata of its own.

        Args:
            key: What it was published to.
            message: The message.
            id: Unique within `source`; in plain ASCII, without quotes and backslashes.
            time: When it was published, as `time_text` says it.

        Raises:
            EncodeError: The codec cannot encode it, or the key is too long.
        """
        if key not in self._short and (why := self._short.check(key)):
            raise EncodeError(key, why)
        try:
            data = self._encode(message)
        except Exception as error:
            raise EncodeError(key, _text_of(error)) from error
        if type(data) is not bytes:
            data = _as_bytes(self.codec, key, data)
        if not self.envelope:
            return data, {"content-type": self.codec.content_type} if self.headers else {}
        if self.headers:
            headers = {**self._ce, "ce_id": id, "ce_time": time}
            if self._signer is not None:
                text = f"{self._constant}{len(id)}:{id}{len(time)}:{time}{NO_MORE}"
                headers["ce_signature"] = self._signer.sign(self._short[key], text, data)
            return data, headers
        name = "data"
        if not self._is_json:
            name, data = _in_json(key, data, self._form)
        if self._signer is None:
            return f'{{{self._before_id}{id}","time":"{time}","{name}":'.encode() + data + b"}", {}
        return self._sign_envelope(key, f'{self._before_id}{id}","time":"{time}","{name}":'.encode() + data + b"}"), {}

    def pack(self, kind: str, key: Key[Any], message: Any, meta: Meta) -> Packed:
        """Return payload and headers of anything.

        Args:
            kind: `MESSAGE`; or `GAP`, with a `Notice`; or `BEAT`, with anything that JSON can hold. The last two are
                CloudEvents whatever `envelope` says.
            key: What it was published to.
            message: The message.
            meta: With at least an `id`; without a `source` it is from here. Its `position`, and whether it was
                `redelivered` or `replayed`, are the broker's to say and do not travel.

        Raises:
            EncodeError: It cannot be encoded; it has no id; something in `meta`, or the key, is too long; or `meta` has
                something of another type than it should, such as a header that is no string.
        """
        if key not in self._short and (why := self._short.check(key)):
            raise EncodeError(key, why)
        codec = self.codec if kind == MESSAGE else _JSON_CODEC
        try:
            data = codec.encode(_notice_data(message) if kind == GAP else message)
        except Exception as error:
            raise EncodeError(key, _text_of(error)) from error
        if type(data) is not bytes:
            data = _as_bytes(codec, key, data)
        try:
            headers = meta.headers
            if headers:
                _check_sendable(headers)
            if not self.envelope and kind == MESSAGE:
                packed = {**headers, "content-type": codec.content_type} if self.headers else {}
                _bytes_of(packed)
                return data, packed
            attributes, others = self._attributes(kind, codec, meta, headers)
            if self.headers:
                packed = _beside(attributes, others)
                _bytes_of(packed)  # a broker's driver would fail on them later
                return data, packed if self._signer is None else self._sign_headers(key, data, packed)
        except Exception as error:
            raise EncodeError(key, f"its metadata cannot be encoded: {_text_of(error)}") from error
        if others:
            attributes["headers"] = json.dumps(others)
        name, data = _in_json(key, data, _media_type(codec.content_type))
        payload = f'{json.dumps(attributes, separators=(",", ":"))[:-1]},"{name}":'.encode() + data + b"}"
        return payload if self._signer is None else self._sign_envelope(key, payload[1:]), {}

    def _attributes(
        self, kind: str, codec: Codec, meta: Meta, headers: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The attributes of an event, in the order of `_PLAIN`, and the headers that are none."""
        id, source, correlation = meta.id, meta.source or self._source, meta.correlation
        if not id:
            raise ValueError("it has no id")
        if not _are_names(id, source, correlation):
            _check_names(id, source, correlation)
        attributes: dict[str, Any] = {"specversion": "1.0", "source": source, "type": kind}
        attributes |= {"datacontenttype": codec.content_type, "id": id}
        if meta.time is not None:
            attributes["time"] = time_text(meta.time)
        if meta.hops != 1:
            if not isinstance(meta.hops, int) or not 0 <= meta.hops <= MOST_HOPS:
                raise ValueError(f"its hops are {describe(meta.hops)}, and have to be a number from 0 to {MOST_HOPS}")
            attributes["hops"] = int(meta.hops)
        if meta.reply_to is not None:
            text = meta.reply_to.text
            if meta.reply_to.is_wildcard:
                raise ValueError(f"it cannot be replied to a pattern, {describe(meta.reply_to)}")
            _check_length("reply_to", text, LONGEST_KEY)
            attributes["replyto"] = text
        if correlation is not None:
            attributes["correlation"] = correlation
        others = {}
        for name, value in headers.items():
            attribute = name[3:] if name.startswith("ce_") else ""
            is_free = value and _FREE_NAME.fullmatch(attribute) and not (attribute == "type" and _is_ours(kind, value))
            if is_free and not (self._signer is not None and attribute in _OF_SIGNATURES):
                attributes[attribute] = value
            else:
                others[name] = value
        return attributes, others

    def size(self, payload: bytes, headers: Mapping[str, str]) -> int:
        """Return how many bytes something has that was packed: its payload, and the names and values of its headers."""
        if not headers:
            return len(payload)
        # As `pack_plain` has made them: that needs no look at each.
        if (
            headers.get("ce_source") is self._source
            and headers.get("ce_type") is MESSAGE
            and len(headers) == len(self._plain_names)
            and (time := headers.get("ce_time")) is not None
        ):
            return len(payload) + self._ce_size + len(headers["ce_id"].encode()) + len(time)
        return len(payload) + _bytes_of(headers)

    # Signing

    def _sign_envelope(self, key: Key[Any], rest: bytes) -> bytes:
        """An envelope of what follows its brace: the signature stands in front, and is of all that stands behind it."""
        assert self._signer is not None
        signature = self._signer.sign(self._short[key], SIGNED_ENVELOPE, rest)
        return f'{{"signature":"{signature}",'.encode() + rest

    def _sign_headers(self, key: Key[Any], payload: bytes, headers: dict[str, str]) -> dict[str, str]:
        assert self._signer is not None
        attributes, others = _parted(headers, None)
        if others:
            # So that a broker can add some of its own.
            attributes["ce_signedheaders"] = " ".join(quote(name, safe="") for name in others)
        signature = self._signer.sign(self._short[key], in_headers(attributes, others, True), payload)
        return {**attributes, **others, "ce_signature": signature}

    def renewed(self, key: Key[Any], payload: bytes, headers: Mapping[str, str]) -> Packed:
        """Return something that was packed, signed as of now: to be sent a second time, or long after it was packed."""
        if self._signer is None:
            return payload, dict(headers)
        if key not in self._short:
            self._short.check(key)
        if headers:
            unsigned = {name: value for name, value in headers.items() if name != "ce_signedheaders"}
            return payload, self._sign_headers(key, payload, unsigned)
        return self._sign_envelope(key, payload[_SIGNATURE_ENDS:]), {}

    # Unpacking

    def is_own(self, payload: bytes | None, headers: Mapping[str, str]) -> bool:
        """True if something says that it was sent by this very source; tells without decoding or verifying it.

        What was sent without its metadata cannot be recognized.
        """
        if headers and "ce_source" in headers:
            return headers["ce_source"] == self._source
        if payload is None:
            return False
        if self._signer is None:
            return payload.startswith(self._own)
        return payload.startswith(_SIGNATURE_BEGINS) and payload.startswith(self._own[1:], _SIGNATURE_ENDS)

    def unpack(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str], live: bool = True) -> Unpacked:
        """Return what was received: an event of a hub, a CloudEvent of anybody, or else a plain payload.

        Args:
            key: What it was published to.
            payload: None for a message that is None.
            headers: What the broker gave beside it.
            live: It comes straight from whoever sent it, and once. Not so from a log, or from a broker that delivers
                again: there a signed message may be of any age, and come again.

        Raises:
            DecodeError: The payload is not what the codec, or the type that is declared, makes of messages; or
                something is too long. Its `meta` is what could be read of the metadata.
            SignatureError: It is not signed with the secret, or not rightly.
        """
        try:
            if key not in self._short and (why := self._short.check(key)):
                raise DecodeError(key, why)
            if payload and headers and headers.keys() == self._plain_names and headers.items() >= self._plain:
                # What `pack_plain` has made.
                id, source, time = headers["ce_id"], headers["ce_source"], headers["ce_time"]
                if self._signer is not None:
                    constant = self._constant if source == self._source else self._constant_of(source)
                    text = f"{constant}{len(id)}:{id}{len(time)}:{time}{NO_MORE}"
                    self._signer.verify(key, self._short[key], headers["ce_signature"], text, payload, live)
                if len(id) > LONGEST_NAME or len(source) > LONGEST_NAME or len(time) > LONGEST_TIME:
                    return self._unpack_attributes(key, payload, headers)
                meta = as_tuple(Meta, (id, source, _seconds_of(time), _NO_HEADERS, 1, *_NO_MORE))
                try:
                    return as_tuple(Unpacked, (MESSAGE, self.codec.decode(payload, self._type_of(key)), meta))
                except Exception as error:
                    raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error
            if self._signer is not None:
                return self._unpack_signed(self._signer, key, payload, headers, live)
            if headers:
                return self._unpack_with_headers(key, payload, headers)
            return self._unpack_alone(key, payload, _PLAIN.match(payload) if payload and self._form == JSON else None)
        except DecodeError as error:
            error.payload = payload
            raise
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload) from error

    def _unpack_signed(
        self, signer: Signer, key: Key[Any], payload: bytes | None, headers: Mapping[str, str], live: bool
    ) -> Unpacked:
        """Unpack what is signed; nothing else is even looked at."""
        signature = headers.get("ce_signature") if headers else None
        if signature is not None:
            attributes, others = _parted(headers, headers.get("ce_signedheaders", ""))
            text = in_headers(attributes, others, payload is not None)
            signer.verify(key, self._short[key], signature, text, payload or b"", live)
            attributes.pop("ce_signedheaders", None)
            return self._unpack_with_headers(key, payload, {**attributes, **others})
        plain = _SIGNED_PLAIN.match(payload) if payload and self._form == JSON else None
        found = plain or (_SIGNED.match(payload) if payload else None)
        if found is not None and payload is not None:
            signature = found[1].decode()
            rest = payload[_SIGNATURE_ENDS:]
            signer.verify(key, self._short[key], signature, SIGNED_ENVELOPE, rest, live)
            return self._unpack_alone(key, payload, plain)
        raise SignatureError(key, "it is not signed, and this bridge has a secret=")

    def _unpack_alone(self, key: Key[Any], payload: bytes | None, plain: re.Match[bytes] | None) -> Unpacked:
        """Unpack what has no headers; `plain` is how it begins if it is as `pack_plain` writes it."""
        if plain is None or payload is None or not payload.endswith(b"}"):
            return self._unpack_payload(key, payload, None, {})
        meta = _plain_meta(*plain.groups()[-4:])
        try:
            return as_tuple(Unpacked, (MESSAGE, self.codec.decode(payload[plain.end() : -1], self._type_of(key)), meta))
        except Exception as error:
            # Something follows the data in the envelope; or the data is none, or not of its type.
            envelope = _envelope_of(payload)
            if envelope is not None:
                return self._unpack_envelope(key, envelope, {})
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error

    def _unpack_with_headers(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        if "ce_specversion" not in headers:
            headers = _from_http(headers)
        if "ce_specversion" in headers:
            return self._unpack_attributes(key, payload, headers)
        _check_headers(headers)
        others = {name: value for name, value in headers.items() if name != "content-type"}
        return self._unpack_payload(key, payload, headers.get("content-type"), others)

    def _unpack_attributes(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        """Unpack what has the attributes of an event in its headers."""
        content_type = headers.get("content-type")
        attributes: dict[str, Any] = {}
        others = {}
        for name, value in headers.items():
            if name.startswith("ce_"):
                attributes[name[3:]] = value
            elif name != "content-type":
                others[name] = value
        kind, meta = _kind_of(attributes), _meta(attributes, others)
        if not payload and content_type is not None and _is_json(_media_type(content_type)):
            payload = None  # which the event may go without, and JSON not
        return self._decode(kind, key, payload, content_type, meta)

    def _unpack_payload(
        self, key: Key[Any], payload: bytes | None, content_type: str | None, headers: dict[str, str]
    ) -> Unpacked:
        """Unpack what has no attributes in its headers: an envelope, or a plain payload."""
        if payload is not None and (content_type is None or _media_type(content_type) == ENVELOPE):
            envelope = _envelope_of(payload)
            if envelope is not None:
                return self._unpack_envelope(key, envelope, headers)
        meta = Meta(headers=headers, hops=1) if headers else None
        return self._decode(MESSAGE, key, payload, content_type, meta)

    def _unpack_envelope(self, key: Key[Any], envelope: dict[str, Any], headers: dict[str, str]) -> Unpacked:
        form = envelope.pop("datacontenttype", JSON)
        data, base64 = envelope.pop("data", _MISSING), envelope.pop("data_base64", _MISSING)
        kind, meta = _kind_of(envelope), _meta(envelope, headers)
        try:
            if not isinstance(form, str):
                raise TypeError(f"its datacontenttype is {describe(form)}")
            payload = _out_of_json(data, base64, _media_type(form))
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", None, meta) from error
        return self._decode(kind, key, payload, form, meta)

    def _decode(
        self, kind: str, key: Key[Any], payload: bytes | None, content_type: str | None, meta: Meta | None
    ) -> Unpacked:
        try:
            if kind != MESSAGE:
                message = None if payload is None else _JSON_CODEC.decode(payload, None)
                return Unpacked(kind, _notice(message) if kind == GAP else message, meta)
            declared = self._type_of(key)
            if payload is not None:
                return Unpacked(kind, self._codec_for(content_type).decode(payload, declared), meta)
            if declared is not None and not accepts(declared, None):
                raise ValueError(f"it has no data, and is declared as {name_of(declared)}")
            return Unpacked(kind, None, meta)
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error

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

# What `Wire.pack_plain` makes, and the simplest of `Wire.pack`, up to the data; not signed, or without the signature.
_TEXT = rb'([^"\\\x00-\x1f]{1,%d}+)'
_REST = (
    rb'"specversion":"1\.0","source":"%b","type":"hubsub\.message","datacontenttype":"application/json",'
    rb'"id":"%b","time":"%b"(?:,"hops":([0-9]{1,9}+))?+,"data":'
    % (_TEXT % LONGEST_NAME, _TEXT % LONGEST_NAME, _TEXT % LONGEST_TIME)
)
_SIGNATURE_BEGINS = b'{"signature":"'
_SIGNATURE_ENDS = len(_SIGNATURE_BEGINS) + WIDTH + len('",')
_BEGINS = rb'\{"signature":"([0-9a-f-]{%d})",' % WIDTH
_PLAIN = re.compile(rb"\{" + _REST)
_SIGNED_PLAIN = re.compile(_BEGINS + _REST)
_SIGNED = re.compile(_BEGINS)
_PLAIN_HEADERS = {"ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time"}
_SIGNATURE = re.compile("[0-9a-f]{16}-[0-9]{10}-[0-9]{12}-[0-9a-f]{32}")
_MISSING = object()
# Attributes that belong to a signature.
_OF_SIGNATURES = ("signature", "signedheaders")
# Names of attributes that are not in `Meta`, or said otherwise.
_IN_META = {"specversion", "datacontenttype", "id", "source", "time"}
_FREE_NAME = re.compile(
    "(?!(?:specversion|source|id|time|datacontenttype|data|hops|replyto|correlation|headers)$)[a-z0-9]+"
)


def _unsigned(key: Key[Any]) -> Any:
    """Nothing of a key is signed."""


class _ShortKeys(dict[Key[Any], Hash]):
    """Keys that are not too long, those that were asked for lately, with what signatures for them begin with.

    Args:
        signed: Makes that.
    """

    MOST = 32768
    MOST_CHARACTERS = 4 * 1024 * 1024

    def __init__(self, signed: Callable[[Key[Any]], Hash]) -> None:
        super().__init__()
        self._signed = signed
        self._characters = 0

    def check(self, key: Key[Any]) -> str:
        """Return why a key is refused; an empty text if it is not, and from now on it is here."""
        length = sum(map(len, key)) + len(key)
        if length > LONGEST_KEY:
            return f"the key has {length} characters, and at most {LONGEST_KEY} cross a bridge"
        self._characters += length
        if len(self) >= self.MOST or self._characters > self.MOST_CHARACTERS:
            self.clear()
            self._characters = length
        self[key] = self._signed(key)
        return ""


def _as_bytes(codec: Codec, key: Key[Any], data: Any) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    discard(data)  # a coroutine, say
    raise EncodeError(key, f"the codec {describe(codec.name)} returned {describe(data)}, and no bytes")


def _text_of(error: Exception) -> str:
    """What an error says, bounded."""
    return describe_error(error).removeprefix(f"{type(error).__name__}: ")


def time_text(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as CloudEvents write it: in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def seconds_of(text: str) -> float | None:
    """Return the seconds since the epoch of a time as CloudEvents write it; None if it is none."""
    return _seconds_of(text) if len(text) <= LONGEST_TIME else None


@lru_cache(1024)  # those of one batch have one
def _seconds_of(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text.upper())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


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


# Headers


def _check_length(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise ValueError(f"its {name} has {len(text)} characters, and at most {most} cross a bridge")


def _are_names(id: Any, source: Any, correlation: Any) -> bool:
    return (
        type(id) is type(source) is str
        and len(id) <= LONGEST_NAME
        and len(source) <= LONGEST_NAME
        and (correlation is None or (type(correlation) is str and len(correlation) <= LONGEST_NAME))
    )


def _check_names(id: Any, source: Any, correlation: Any) -> None:
    """Raise what is wrong with one of them, if anything is."""
    for name, value in (("id", id), ("source", source), ("correlation", correlation)):
        if value is not None:
            if not isinstance(value, str):
                raise TypeError(f"its {name} is {describe(value)}, and has to be a str")
            _check_length(name, value, LONGEST_NAME)


def _check_headers(headers: Mapping[str, str]) -> None:
    length = len("".join((*headers, *headers.values())))
    if length > MOST_IN_HEADERS:
        raise ValueError(f"its headers have {length} characters, and at most {MOST_IN_HEADERS} cross a bridge")


def _check_sendable(headers: Mapping[str, str]) -> None:
    """Raise what is wrong with headers of a user, if anything is."""
    try:
        _check_headers(headers)
    except TypeError:
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"its header {describe(name)} is {describe(value)}, and headers are strings") from None
        raise


def _bytes_of(headers: Mapping[str, str]) -> int:
    """How many bytes the names and values have.

    Raises:
        ValueError: Halves of surrogate pairs are among them.
    """
    return len("".join((*headers, *headers.values())).encode())


def _parted(headers: Mapping[str, str], signed: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The attributes among headers, with the content type, and the others: all of them, or those that are signed."""
    attributes, others = {}, {}
    for name, value in headers.items():
        if name.startswith("ce_") or name == "content-type":
            if name != "ce_signature":
                attributes[name] = value
        elif signed is None:
            others[name] = value
    if signed:
        # One that is missing makes the signature wrong, as one that was changed.
        others = {name: headers[name] for name in map(unquote, signed.split(" ")) if name in headers}
    return attributes, others


# Data in an envelope


def _in_json(key: Key[Any], data: bytes, form: str) -> tuple[str, bytes]:
    """The member of an envelope, name and value, that holds an encoded message."""
    if _is_json(form):
        return "data", data
    if not form.startswith("text/"):
        return "data_base64", b'"%b"' % b64encode(data)
    try:
        return "data", json.dumps(data.decode()).encode()
    except UnicodeDecodeError as error:
        raise EncodeError(key, f"its payload is no text in UTF-8: {error}") from error


def _out_of_json(data: Any, base64: Any, form: str) -> bytes | None:
    """The encoded message that two members of an envelope hold; None if it has neither.

    Raises:
        ValueError: It has both, or what it has cannot be.
        TypeError: What should be in base64 is no text.
    """
    if base64 is not _MISSING:
        if data is not _MISSING:
            raise ValueError("it has both data and data_base64")
        return b64decode(base64, validate=True)
    if data is _MISSING:
        return None
    return data.encode() if isinstance(data, str) and not _is_json(form) else json.dumps(data).encode()


def _envelope_of(payload: bytes) -> dict[str, Any] | None:
    """The CloudEvent that a payload is, if it is one."""
    if b'"specversion"' not in payload:
        return None
    try:
        envelope = json.loads(payload)
    except (ValueError, RecursionError):
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
    number = 1 if hops is None else int(hops)
    return as_tuple(Meta, (id.decode(), source.decode(), _seconds_of(time.decode()), _NO_HEADERS, number, *_NO_MORE))


_NO_HEADERS: Mapping[str, str] = {}
# What metadata has by default behind that.
_NO_MORE = tuple(Meta._field_defaults.values())[5:]


def _meta(attributes: dict[str, Any], headers: dict[str, str]) -> Meta:
    """The metadata in attributes, and headers that are none; attributes that are not ours become headers.

    Raises:
        ValueError: Something in it is too long.
    """
    headers = dict(headers)
    hops, reply_to, correlation = 1, None, None
    # Whoever else has attributes of these names may mean something else by them.
    if "hops" in attributes and (number := _hops_of(attributes["hops"])) is not None:
        hops = number
        del attributes["hops"]
    if "replyto" in attributes:
        with suppress(TypeError, ValueError):
            reply_to = _exact_key(attributes["replyto"])
            del attributes["replyto"]
    if type(attributes.get("correlation")) in (str, int):
        correlation = str(attributes["correlation"])
        del attributes["correlation"]
    if "headers" in attributes:
        with suppress(TypeError, ValueError, AttributeError):
            headers |= {name: _as_text(value) for name, value in json.loads(attributes["headers"]).items()}
            del attributes["headers"]
    if "signature" in attributes and _SIGNATURE.fullmatch(_as_text(attributes["signature"])):
        # Of a bridge with a secret, and this one has none.
        for name in _OF_SIGNATURES:
            attributes.pop(name, None)
    for name, value in attributes.items():
        if name not in _IN_META:
            headers[f"ce_{name}"] = value if isinstance(value, str) else json.dumps(value)
    if headers:
        _check_headers(headers)
    id, source, time = attributes.get("id"), attributes.get("source"), attributes.get("time")
    if not _are_names(id, source, correlation):
        _check_names(id, source, correlation)
    seconds = None
    if isinstance(time, str):
        _check_length("time", time, LONGEST_TIME)
        seconds = _seconds_of(time)
    return Meta(id or None, source or None, seconds, headers, hops, reply_to=reply_to, correlation=correlation)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hops_of(value: Any) -> int | None:
    """The number of hops that an attribute says; None if it means something else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MOST_HOPS)):
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_HOPS else None


def _exact_key(text: Any) -> Key[Any]:
    """The key that can be published to whose text form this is.

    Raises:
        ValueError: It is too long, no key, or one with wildcards.
        TypeError: It is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"{describe(text)} is no text")
    _check_length("key", text, LONGEST_KEY)
    key: Key[Any] = Key.parse(text)
    if key.is_wildcard:
        raise ValueError(f"{describe(key)} is a pattern")
    return key


def _notice_data(notice: Notice) -> dict[str, Any]:
    gap, patterns = notice
    keys = None if gap.keys is None else [key.text for key in gap.keys]
    return {**gap._asdict(), "keys": keys, "patterns": [pattern.text for pattern in patterns]}


def _notice(data: Any) -> Notice:
    reason, count, keys, patterns = data["reason"], data["count"], data["keys"], data["patterns"]
    since, until = float(data["since"]), float(data["until"])
    if not isinstance(reason, str) or not isinstance(patterns, list) or not isinstance(keys, (list, type(None))):
        raise TypeError("it is no notice of a gap")
    if not (isfinite(since) and isfinite(until)) or not (count is None or (type(count) is int and count >= 0)):
        raise ValueError("it is a notice of a gap whose figures cannot be")
    _check_length("reason", reason, LONGEST_NAME)
    if len(keys or ()) > MOST_KEYS or len(patterns) > 16 * MOST_KEYS:
        raise ValueError("it is a notice of a gap in too many keys")
    for pattern in patterns:
        _check_length("pattern", pattern, LONGEST_KEY)
    gap = Gap(reason, count, since, until, None if keys is None else tuple(map(_exact_key, keys)))
    return Notice(gap, tuple(map(Key.parse, patterns)))
