"""The wire format: a message with its metadata by CloudEvents 1.0, in the broker's headers or in a JSON envelope."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ..._core.callables import discard
from ..._core.declarations import accepts, name_of
from ...codec import Codec, codec_of
from ...describe import describe, describe_error
from ...errors import DecodeError, EncodeError, SignatureError
from ...event import Meta
from ...key import Key
from ..address import cached
from .attributes import (
    BEAT,
    GAP,
    LONGEST_KEY,
    LONGEST_NAME,
    LONGEST_TIME,
    MESSAGE,
    MOST_HOPS,
    MOST_IN_HEADERS,
    NO_HEADERS,
    NO_REPLY,
    as_tuple,
    attributes_of,
    beside,
    bytes_of,
    cached_seconds_of,
    check_headers,
    check_sendable,
    from_http,
    kind_of,
    meta_of,
    parted,
    plain_meta,
    seconds_of,
    time_text,
)
from .envelope import ENVELOPE, JSON, MISSING, envelope_of, in_json, is_json, media_type, out_of_json
from .notices import MOST_KEYS, Notice, notice_data, notice_of
from .signing import ENVELOPE as SIGNED_ENVELOPE
from .signing import NO_MORE, WIDTH, Hash, Secrets, Signer, constant_of, in_headers

__all__ = [
    "BEAT",
    "GAP",
    "LONGEST_KEY",
    "LONGEST_NAME",
    "LONGEST_TIME",
    "MESSAGE",
    "MOST_HOPS",
    "MOST_IN_HEADERS",
    "MOST_KEYS",
    "Notice",
    "Packed",
    "Unpacked",
    "Wire",
    "as_tuple",
    "seconds_of",
    "time_text",
]

Packed = tuple[bytes, dict[str, str]]


class Unpacked(NamedTuple):
    """What was received, decoded."""

    kind: str
    """`MESSAGE`, `GAP` or `BEAT`."""
    message: Any
    """A `Notice` if it is a `GAP`."""
    meta: Meta | None
    """None if the message had no metadata."""


class Wire:
    """Packs messages for a broker and unpacks received ones, whether they are from a hub or another program.

    `Meta.headers` are sent beside the message. A header called `ce_x` is the CloudEvents attribute `x`: a sender can
    choose `ce_type` and `ce_subject`, and finds those of foreign events there.

    Keys are those of this process. Metadata beyond `LONGEST_KEY` and the other limits is refused both ways, since all
    of it is remembered somewhere.

    Args:
        codec: The codec of the messages, or its name.
        source: The sender, unless the metadata has one. It may be changed.
        envelope: Send messages as CloudEvents. If False, send the payload only, and where the broker has headers, those
            of the user; other metadata is dropped. Received messages are understood either way.
        headers: The broker has headers; if False, everything that is sent goes into an envelope.
        type_of: Returns the declared type of an exact key's messages.
        secret: Sign all that is sent, and refuse what is not signed: a secret, or several, of which the first signs and
            all are accepted.
        namespace: The namespace of the bridge, for which signatures are valid.
        prefix: A prefix that the keys have here, but not at the broker.
        window: Seconds that a signed live message may be old, or ahead of the clock here.

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
        self._form = media_type(content_type)
        self._is_json = is_json(self._form)
        # The headers of `pack_plain` that do not depend on the sender.
        plain = {"ce_type": MESSAGE, "content-type": content_type}
        self._plain = plain if self._signer is None else {**plain, "ce_specversion": "1.0"}
        self._plain_names = _PLAIN_HEADERS if self._signer is None else _PLAIN_HEADERS | {"ce_signature"}
        # What is signed of the attributes that all plain messages of a source have in common.
        self._constant_of: Callable[[str], str] = cached(lambda source: constant_of(source, MESSAGE, content_type))
        self.source = source

    @property
    def source(self) -> str:
        """The sender."""
        return self._source

    @source.setter
    def source(self, source: str) -> None:
        # What all messages have in common is formatted once.
        self._source = source
        own = f'"specversion":"1.0","source":{json.dumps(source)},'
        self._own = f"{{{own}".encode()
        self._before_id = f'{own}"type":"{MESSAGE}","datacontenttype":{json.dumps(self.codec.content_type)},"id":"'
        self._ce = {"ce_specversion": "1.0", "ce_source": source, **self._plain}
        self._ce_size = bytes_of(self._ce) + len("ce_id") + len("ce_time")
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
            time: When it was published, as `time_text` writes it.

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
            name, data = in_json(key, data, self._form)
        if self._signer is None:
            return f'{{{self._before_id}{id}","time":"{time}","{name}":'.encode() + data + b"}", {}
        return self._sign_envelope(key, f'{self._before_id}{id}","time":"{time}","{name}":'.encode() + data + b"}"), {}

    def pack(self, kind: str, key: Key[Any], message: Any, meta: Meta) -> Packed:
        """Return payload and headers of a message of any kind.

        Args:
            kind: `MESSAGE`; or `GAP`, with a `Notice`; or `BEAT`, with anything that JSON can hold. The last two are
                CloudEvents whatever `envelope` says.
            key: What it was published to.
            message: The message.
            meta: Has at least an `id`; without a `source`, it is from here. `position`, `redelivered` and `replayed`
                are set by the receiver's broker, and not sent.

        Raises:
            EncodeError: It cannot be encoded; it has no id; the key, or something in `meta`, is too long; or something
                in `meta` is of the wrong type, such as a header that is not a string.
        """
        if key not in self._short and (why := self._short.check(key)):
            raise EncodeError(key, why)
        codec = self.codec if kind == MESSAGE else _JSON_CODEC
        try:
            data = codec.encode(notice_data(message) if kind == GAP else message)
        except Exception as error:
            raise EncodeError(key, _text_of(error)) from error
        if type(data) is not bytes:
            data = _as_bytes(codec, key, data)
        try:
            headers = meta.headers
            if headers:
                check_sendable(headers)
            if not self.envelope and kind == MESSAGE:
                packed = {**headers, "content-type": codec.content_type} if self.headers else {}
                bytes_of(packed)
                return data, packed
            attributes, others = attributes_of(
                kind, codec.content_type, meta, self._source, is_signed=self._signer is not None
            )
            if self.headers:
                packed = beside(attributes, others)
                bytes_of(packed)  # otherwise a driver would fail on them later
                return data, packed if self._signer is None else self._sign_headers(key, data, packed)
        except Exception as error:
            raise EncodeError(key, f"its metadata cannot be encoded: {_text_of(error)}") from error
        if others:
            attributes["headers"] = json.dumps(others)
        name, data = in_json(key, data, media_type(codec.content_type))
        payload = f'{json.dumps(attributes, separators=(",", ":"))[:-1]},"{name}":'.encode() + data + b"}"
        return payload if self._signer is None else self._sign_envelope(key, payload[1:]), {}

    def size(self, payload: bytes, headers: Mapping[str, str]) -> int:
        """Return the size of a packed message in bytes: its payload, and the names and values of its headers."""
        if not headers:
            return len(payload)
        # As `pack_plain` makes them: their size is known.
        if (
            headers.get("ce_source") is self._source
            and headers.get("ce_type") is MESSAGE
            and len(headers) == len(self._plain_names)
            and (time := headers.get("ce_time")) is not None
        ):
            return len(payload) + self._ce_size + len(headers["ce_id"].encode()) + len(time)
        return len(payload) + bytes_of(headers)

    # Signing

    def _sign_envelope(self, key: Key[Any], rest: bytes) -> bytes:
        """Return an envelope; `rest` is what follows its brace. The signature comes first, and covers all after it."""
        assert self._signer is not None
        signature = self._signer.sign(self._short[key], SIGNED_ENVELOPE, rest)
        return f'{{"signature":"{signature}",'.encode() + rest

    def _sign_headers(self, key: Key[Any], payload: bytes, headers: dict[str, str]) -> dict[str, str]:
        assert self._signer is not None
        attributes, others = parted(headers, None)
        if others:
            # So that an adapter can add headers of its own.
            attributes["ce_signedheaders"] = " ".join(quote(name, safe="") for name in others)
        signature = self._signer.sign(self._short[key], in_headers(attributes, others, True), payload)
        return {**attributes, **others, "ce_signature": signature}

    def renewed(self, key: Key[Any], payload: bytes, headers: Mapping[str, str]) -> Packed:
        """Return a packed message with a new signature, to send it again, or long after it was packed."""
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
        """True if a received message names this source as its sender; it is neither decoded nor verified.

        A message that was sent without metadata cannot be recognized.
        """
        if headers and "ce_source" in headers:
            return headers["ce_source"] == self._source
        if payload is None:
            return False
        if self._signer is None:
            return payload.startswith(self._own)
        return payload.startswith(_SIGNATURE_BEGINS) and payload.startswith(self._own[1:], _SIGNATURE_ENDS)

    def unpack_plain(
        self,
        key: Key[Any],
        payload: bytes | None,
        headers: Mapping[str, str],
        live: bool,
        about: tuple[object, bool, bool] = (None, False, False),
    ) -> tuple[Any, Meta] | None:
        """Return the message that `pack_plain` has made with headers, and its metadata; None if it is another one.

        Args:
            key: As of `unpack`.
            payload: As of `unpack`.
            headers: As of `unpack`.
            live: As of `unpack`.
            about: The position, whether it was redelivered, and whether it is replayed.

        Raises:
            DecodeError: As `unpack`.
            SignatureError: As `unpack`.
        """
        meta: Meta | None = None
        try:
            # As comparing the items would, in a quarter of the time.
            if (
                not payload
                or len(headers) != len(self._plain_names)
                or headers.get("ce_type") != MESSAGE
                or headers.get("content-type") != self.codec.content_type
                or headers.keys() != self._plain_names
                or (self._signer is not None and headers["ce_specversion"] != "1.0")
            ):
                return None
            id, source, time = headers["ce_id"], headers["ce_source"], headers["ce_time"]
            if len(id) > LONGEST_NAME or len(source) > LONGEST_NAME or len(time) > LONGEST_TIME:
                return None
            if key not in self._short and (why := self._short.check(key)):
                raise DecodeError(key, why)
            if self._signer is not None:
                constant = self._constant if source == self._source else self._constant_of(source)
                text = f"{constant}{len(id)}:{id}{len(time)}:{time}{NO_MORE}"
                self._signer.verify(key, self._short[key], headers["ce_signature"], text, payload, live)
            meta = as_tuple(Meta, (id, source, cached_seconds_of(time), NO_HEADERS, 1, *about, *NO_REPLY))
            return self.codec.decode(payload, self._type_of(key)), meta
        except DecodeError as error:
            error.payload = payload
            raise
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error

    def unpack(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str], live: bool = True) -> Unpacked:
        """Return a received message: an event of a hub, a foreign CloudEvent, or a plain payload.

        Args:
            key: What it was published to.
            payload: None for a message that is None.
            headers: The broker's headers.
            live: It comes directly from its sender, and once. From a log, or from a broker that redelivers, a signed
                message may be of any age and come again.

        Raises:
            DecodeError: The payload is not valid for the codec or the declared type, or something is too long. Its
                `meta` is what could be read of the metadata.
            SignatureError: It is not signed, or its signature is wrong.
        """
        if headers and (plain := self.unpack_plain(key, payload, headers, live)) is not None:
            return Unpacked(MESSAGE, *plain)
        return self.unpack_other(key, payload, headers, live)

    def unpack_other(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str], live: bool) -> Unpacked:
        """As `unpack`, of what `unpack_plain` returns None for."""
        try:
            if key not in self._short and (why := self._short.check(key)):
                raise DecodeError(key, why)
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
        """Unpack a signed message; nothing else in it is read before it is verified."""
        signature = headers.get("ce_signature") if headers else None
        if signature is not None:
            attributes, others = parted(headers, headers.get("ce_signedheaders", ""))
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
        """Unpack a message without headers; `plain` is how it begins if `pack_plain` has made it."""
        if plain is None or payload is None or not payload.endswith(b"}"):
            return self._unpack_payload(key, payload, None, {})
        meta = plain_meta(*plain.groups()[-4:])
        try:
            return as_tuple(Unpacked, (MESSAGE, self.codec.decode(payload[plain.end() : -1], self._type_of(key)), meta))
        except Exception as error:
            # Something follows the data in the envelope, or the data is invalid or not of its type.
            envelope = envelope_of(payload)
            if envelope is not None:
                return self._unpack_envelope(key, envelope, {})
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error

    def _unpack_with_headers(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        if "ce_specversion" not in headers:
            headers = from_http(headers)
        if "ce_specversion" in headers:
            return self._unpack_attributes(key, payload, headers)
        check_headers(headers)
        others = {name: value for name, value in headers.items() if name != "content-type"}
        return self._unpack_payload(key, payload, headers.get("content-type"), others)

    def _unpack_attributes(self, key: Key[Any], payload: bytes | None, headers: Mapping[str, str]) -> Unpacked:
        """Unpack a message with the attributes of an event in its headers."""
        content_type = headers.get("content-type")
        attributes: dict[str, Any] = {}
        others = {}
        for name, value in headers.items():
            if name.startswith("ce_"):
                attributes[name[3:]] = value
            elif name != "content-type":
                others[name] = value
        kind, meta = kind_of(attributes), meta_of(attributes, others)
        if not payload and content_type is not None and is_json(media_type(content_type)):
            payload = None  # an event may have none, JSON may not
        return self._decode(kind, key, payload, content_type, meta)

    def _unpack_payload(
        self, key: Key[Any], payload: bytes | None, content_type: str | None, headers: dict[str, str]
    ) -> Unpacked:
        """Unpack a message without attributes in its headers: an envelope, or a plain payload."""
        if payload is not None and (content_type is None or media_type(content_type) == ENVELOPE):
            envelope = envelope_of(payload)
            if envelope is not None:
                return self._unpack_envelope(key, envelope, headers)
        meta = Meta(headers=headers, hops=1) if headers else None
        return self._decode(MESSAGE, key, payload, content_type, meta)

    def _unpack_envelope(self, key: Key[Any], envelope: dict[str, Any], headers: dict[str, str]) -> Unpacked:
        form = envelope.pop("datacontenttype", JSON)
        data, base64 = envelope.pop("data", MISSING), envelope.pop("data_base64", MISSING)
        kind, meta = kind_of(envelope), meta_of(envelope, headers)
        try:
            if not isinstance(form, str):
                raise TypeError(f"its datacontenttype is {describe(form)}")
            payload = out_of_json(data, base64, media_type(form))
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", None, meta) from error
        return self._decode(kind, key, payload, form, meta)

    def _decode(
        self, kind: str, key: Key[Any], payload: bytes | None, content_type: str | None, meta: Meta | None
    ) -> Unpacked:
        try:
            if kind != MESSAGE:
                message = None if payload is None else _JSON_CODEC.decode(payload, None)
                return Unpacked(kind, notice_of(message) if kind == GAP else message, meta)
            declared = self._type_of(key)
            if payload is not None:
                return Unpacked(kind, self._codec_for(content_type).decode(payload, declared), meta)
            if declared is not None and not accepts(declared, None):
                raise ValueError(f"it has no data, and is declared as {name_of(declared)}")
            return Unpacked(kind, None, meta)
        except Exception as error:
            raise DecodeError(key, f"cannot be decoded: {_text_of(error)}", payload, meta) from error

    def _codec_for(self, content_type: str | None) -> Codec:
        """Return this bridge's codec, unless the content type names another format."""
        form = self._form if content_type is None else media_type(content_type)
        if form == self._form:
            return self.codec
        if is_json(form):
            return _JSON_CODEC
        return codec_of("str" if form.startswith("text/") else "msgpack" if form in _MSGPACK else "bytes")


_JSON_CODEC = codec_of("json")
_MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")

# What `Wire.pack_plain` makes, and the simplest results of `Wire.pack`, up to the data, without the signature.
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


def _unsigned(key: Key[Any]) -> Any:
    """Stands for signing where nothing is signed."""


class _ShortKeys(dict[Key[Any], Hash]):
    """A cache of recently used keys that are not too long, each with what its signed text begins with.

    Args:
        signed: Returns what the signed text of a key begins with.
    """

    MOST = 32768
    MOST_CHARACTERS = 4 * 1024 * 1024

    def __init__(self, signed: Callable[[Key[Any]], Hash]) -> None:
        super().__init__()
        self._signed = signed
        self._characters = 0

    def check(self, key: Key[Any]) -> str:
        """Return why a key is refused; if it is not, cache it and return an empty text."""
        length = sum(map(len, key)) + len(key)
        if length > LONGEST_KEY:
            return f"the key has {length} characters; at most {LONGEST_KEY} cross a bridge"
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
    raise EncodeError(key, f"the codec {describe(codec.name)} returned {describe(data)} instead of bytes")


def _text_of(error: Exception) -> str:
    """Return the text of an error, bounded."""
    return describe_error(error).removeprefix(f"{type(error).__name__}: ")
