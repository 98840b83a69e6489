"""Codecs: messages as bytes and back, for bridges and whatever else leaves the process."""

from .builtin import BytesCodec, Codec, JsonCodec, MsgpackCodec, PickleCodec, StrCodec, codec_of

__all__ = ["BytesCodec", "Codec", "JsonCodec", "MsgpackCodec", "PickleCodec", "StrCodec", "codec_of"]
