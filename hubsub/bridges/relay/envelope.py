"""The envelope: a CloudEvent in JSON, and the encoded message in it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

from ...errors import EncodeError
from ...key import Key

JSON = "application/json"
ENVELOPE = "application/cloudevents+json"

MISSING = object()
"""Stands for a member that an envelope does not have."""


def media_type(content_type: str) -> str:
    """Return the media type without parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(form: str) -> bool:
    """True if data of this media type is JSON."""
    return form in (JSON, "text/json") or form.endswith("+json")


def in_json(key: Key[Any], data: bytes, form: str) -> tuple[str, bytes]:
    """Return the member of an envelope, name and value, that holds an encoded message."""
    if is_json(form):
        return "data", data
    if not form.startswith("text/"):
        return "data_base64", b'"%b"' % b64encode(data)
    try:
        return "data", json.dumps(data.decode()).encode()
    except UnicodeDecodeError as error:
        raise EncodeError(key, f"its payload is not text in UTF-8: {error}") from error


def out_of_json(data: Any, base64: Any, form: str) -> bytes | None:
    """Return the encoded message in two members of an envelope; None if it has neither.

    Raises:
        ValueError: It has both, or one that is invalid.
        TypeError: `data_base64` is not a string.
    """
    if base64 is not MISSING:
        if data is not MISSING:
            raise ValueError("it has both data and data_base64")
        return b64decode(base64, validate=True)
    if data is MISSING:
        return None
    return data.encode() if isinstance(data, str) and not is_json(form) else json.dumps(data).encode()


def envelope_of(payload: bytes) -> dict[str, Any] | None:
    """Return the CloudEvent in a payload; None if it is not one."""
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
