"""Codecs: messages as the payloads that a broker carries, and back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from inspect import iscoroutinefunction
from typing import Any, Protocol, runtime_checkable

from .._core.declarations import name_of
from ..log import Logger
from .decoders import Decode, by_pydantic, check, is_of_pydantic, json_decoder, optional, validator
from .fast_json import fast_encoder
from .json_fallback import KeysAlike, check_keys, dumped, located, to_ascii_json, to_json, where_alike

logger = Logger("hubsub.bridge.codec")


@runtime_checkable
class Codec(Protocol):
    """Turns messages into payloads and back. Errors become an `EncodeError` or a `DecodeError` with the key."""

    name: str
    """Its name."""
    content_type: str
    """The media type of its payloads."""

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message."""
        ...

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload: of that type, or of whatever type it decodes to if `type` is None."""
        ...


class JsonCodec:
    """JSON in UTF-8. It needs the standard library only, and is several times as fast if msgspec is installed.

    Typed messages are decoded by msgspec or pydantic, whichever is installed; pydantic's own classes by pydantic.
    """

    name = "json"
    content_type = "application/json"

    def __init__(self) -> None:
        self._decode = json_decoder(None)
        self._fast = fast_encoder()

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message.

        Raises:
            ValueError: JSON cannot represent some part of it, or writes two keys of a dict alike; the error says where.
        """
        if self._fast is not None and (payload := self._fast(message)) is not None:
            return payload
        try:
            payload = to_json(message).encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair cannot be UTF-8, but JSON can escape it.
            payload = to_ascii_json(message).encode()
        except KeysAlike as error:
            raise where_alike(message) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise located(error, message, to_json) from error
        check_keys(message, payload)
        return payload

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload.

        Raises:
            ValueError: It is not JSON, or not of that type.
            ImportError: Decoding to that type needs a package that is missing.
        """
        return self._decode(payload) if type is None else json_decoder(type)(payload)


class MsgpackCodec:
    """MessagePack, by msgspec: smaller than JSON, and bytes stay bytes.

    Raises:
        ImportError: msgspec is not installed.
    """

    name = "msgpack"
    content_type = "application/msgpack"

    def __init__(self) -> None:
        msgspec = optional("msgspec")
        if msgspec is None:
            raise ImportError("the codec 'msgpack' needs msgspec: pip install 'hubsub[msgpack]'")
        self._msgpack = msgspec.msgpack
        self._to_msgpack: Callable[[Any], bytes] = self._msgpack.Encoder(enc_hook=dumped).encode
        self._decode: Decode = self._msgpack.Decoder().decode
        self._decoder = cache(self._make_decoder)

    def encode(self, message: Any) -> bytes:
        """Return the payload of a message.

        Raises:
            ValueError: MessagePack cannot represent some part of it; the error says where.
        """
        try:
            return self._to_msgpack(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise located(error, message, self._to_msgpack) from error

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message of a payload.

        Raises:
            ValueError: It is not MessagePack, or not of that type.
            ImportError: Decoding to that type needs pydantic, which is missing.
        """
        return self._decode(payload) if type is None else self._decoder(type)(payload)

    def _make_decoder(self, type: Any) -> Decode:
        if not is_of_pydantic(type):
            with suppress(TypeError):  # a type that msgspec does not support
                decode: Decode = self._msgpack.Decoder(type, dec_hook=by_pydantic).decode
                return decode
        validate = validator(type).validate_python
        return lambda payload: validate(self._decode(payload))


class BytesCodec:
    """Bytes as they are; the other side gets `bytes`."""

    name = "bytes"
    content_type = "application/octet-stream"

    def encode(self, message: Any) -> bytes:
        """Return a bytes-like message as bytes.

        Raises:
            TypeError: It is not bytes-like.
        """
        if isinstance(message, (bytes, bytearray, memoryview)):
            return bytes(message)
        raise TypeError(f"the codec 'bytes' sends bytes, not {name_of(type(message))}")

    def decode(self, payload: bytes, type: Any) -> bytes:
        """Return the payload.

        Raises:
            ValueError: Another type is asked for.
        """
        check(payload, type)
        return payload


class StrCodec:
    """Text in UTF-8."""

    name = "str"
    content_type = "text/plain; charset=utf-8"

    def encode(self, message: Any) -> bytes:
        """Return the text in UTF-8.

        Raises:
            TypeError: It is not a str.
            ValueError: It has half of a surrogate pair in it.
        """
        if isinstance(message, str):
            return message.encode()
        raise TypeError(f"the codec 'str' sends str, not {name_of(type(message))}")

    def decode(self, payload: bytes, type: Any) -> str:
        """Return the text.

        Raises:
            ValueError: It is not in UTF-8, or another type is asked for.
        """
        text = payload.decode()
        check(text, type)
        return text


class PickleCodec:
    """Any Python object. Whoever can send to the broker can run any code here, so it is used only if named."""

    name = "pickle"
    content_type = "application/x-python-pickle"

    def encode(self, message: Any) -> bytes:
        """Return the pickled message."""
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)

    def decode(self, payload: bytes, type: Any) -> Any:
        """Return the message that was pickled.

        Raises:
            ValueError: It is not of that type.
        """
        message = pickle.loads(payload)
        check(message, type)
        return message


_BUILT_IN: dict[str, type[Codec]] = {
    "json": JsonCodec,
    "msgpack": MsgpackCodec,
    "bytes": BytesCodec,
    "str": StrCodec,
    "pickle": PickleCodec,
}


def codec_of(codec: str | Codec) -> Codec:
    """Return the codec of that name; a codec is returned unchanged.

    Raises:
        ValueError: There is no codec of that name, or the object is not a codec.
        ImportError: The codec needs a package that is missing.
    """
    if not isinstance(codec, str):
        if not isinstance(codec, Codec):
            raise ValueError(f"{codec!r} is not a codec: it needs name, content_type, encode and decode")
        for method in (codec.encode, codec.decode):
            if iscoroutinefunction(method):
                raise ValueError(f"{codec!r} is not a codec: its {method.__name__} is async, and must not be")
        return codec
    if codec not in _BUILT_IN:
        raise ValueError(f"no codec is called {codec!r}; known codecs are {', '.join(_BUILT_IN)}")
    if codec == "pickle":
        _warn_of_pickle()
    return _BUILT_IN[codec]()


@cache  # warn once
def _warn_of_pickle() -> None:
    logger.warning("codec 'pickle': whoever can send to the broker can run any code in this process")
