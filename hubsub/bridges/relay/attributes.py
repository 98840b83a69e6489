"""The metadata of a message as the attributes of a CloudEvent, in headers or in an envelope, and its limits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from ...describe import describe
from ...event import Meta
from ...key import Key

MESSAGE = "hubsub.message"
"""The type of a published message; foreign types are messages too."""
GAP = "hubsub.gap"
"""The type of a `Notice`."""
BEAT = "hubsub.beat"
"""The type of a beat."""

# Limits of what is sent and received: all of it is remembered somewhere.
LONGEST_KEY = 1024
"""Characters of a key: of its parts, plus one for each."""
LONGEST_NAME = 1024
"""Characters of `id`, `source` and `correlation`, each."""
LONGEST_TIME = 64
"""Characters of a `time`."""
MOST_IN_HEADERS = 65_536
"""Characters of the names and values of all headers, including attributes that `Meta` has no field for."""
MOST_HOPS = 2**31 - 1
"""The largest `hops`: the largest integer of CloudEvents."""

as_tuple = tuple.__new__  # of the named tuple's, in a third of the time

_SIGNATURE = re.compile("[0-9a-f]{16}-[0-9]{10}-[0-9]{12}-[0-9a-f]{32}")
# Attributes that belong to a signature.
OF_SIGNATURES = ("signature", "signedheaders")
DUE = "hubsubdue"
"""The attribute of a delayed message; foreign messages may have a `due` of another meaning."""
# Names of attributes that `Meta` does not have, or has in another form.
_IN_META = {"specversion", "datacontenttype", "id", "source", "time"}
_FREE_NAME = re.compile(
    "(?!(?:specversion|source|id|time|datacontenttype|data|hops|replyto|correlation|headers|hubsubdue)$)[a-z0-9]+"
)


# Metadata as attributes


def attributes_of(
    kind: str, content_type: str, meta: Meta, source: str, *, is_signed: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the attributes of an event, those that all events have first, and the headers that are not attributes.

    Args:
        kind: `MESSAGE`, `GAP` or `BEAT`.
        content_type: The content type of the data.
        meta: The metadata.
        source: The sender, unless `meta` has one.
        is_signed: The names of a signature's headers are reserved.

    Raises:
        ValueError: Something is missing, too long, or invalid.
        TypeError: Something is of the wrong type.
    """
    id, source, correlation = meta.id, meta.source or source, meta.correlation
    if not id:
        raise ValueError("it has no id")
    if not are_names(id, source, correlation):
        check_names(id, source, correlation)
    attributes: dict[str, Any] = {"specversion": "1.0", "source": source, "type": kind}
    attributes |= {"datacontenttype": content_type, "id": id}
    if meta.time is not None:
        attributes["time"] = time_text(meta.time)
    if meta.hops != 1:
        if not isinstance(meta.hops, int) or not 0 <= meta.hops <= MOST_HOPS:
            raise ValueError(f"its hops must be a number from 0 to {MOST_HOPS}, not {describe(meta.hops)}")
        attributes["hops"] = int(meta.hops)
    if meta.reply_to is not None:
        text = meta.reply_to.text
        if meta.reply_to.is_wildcard:
            raise ValueError(f"its reply_to must be an exact key, not the pattern {describe(meta.reply_to)}")
        check_length("reply_to", text, LONGEST_KEY)
        attributes["replyto"] = text
    if correlation is not None:
        attributes["correlation"] = correlation
    if meta.due is not None:
        attributes[DUE] = time_text(meta.due)
    others = {}
    for name, value in meta.headers.items():
        attribute = name[3:] if name.startswith("ce_") else ""
        is_free = value and _FREE_NAME.fullmatch(attribute) and not (attribute == "type" and _is_ours(kind, value))
        if is_free and not (is_signed and attribute in OF_SIGNATURES):
            attributes[attribute] = value
        else:
            others[name] = value
    return attributes, others


def _is_ours(kind: str, type: str) -> bool:
    return kind != MESSAGE or type in (MESSAGE, GAP, BEAT)


def beside(attributes: dict[str, Any], others: dict[str, str]) -> dict[str, str]:
    """Return attributes and other headers as headers."""
    hidden = {name: value for name, value in others.items() if name.startswith("ce_") or name == "content-type"}
    packed = {name: value for name, value in others.items() if name not in hidden}
    if hidden:
        attributes["headers"] = json.dumps(hidden)
    packed["content-type"] = attributes.pop("datacontenttype")
    packed.update((f"ce_{name}", str(value)) for name, value in attributes.items())
    return packed


# Attributes as metadata


def kind_of(attributes: dict[str, Any]) -> str:
    """Return the kind of an event; a type of ours is removed from the attributes."""
    if attributes.get("type") in (MESSAGE, GAP, BEAT):
        kind: str = attributes.pop("type")
        return kind
    return MESSAGE


def from_http(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of an event with HTTP's names changed to ours; others unchanged."""
    if not any(name.lower() == "ce-specversion" for name in headers):
        return headers
    lower = {name.lower(): value for name, value in headers.items()}
    plain = {name: value for name, value in lower.items() if not name.startswith("ce-")}
    return plain | {f"ce_{name[3:]}": unquote(lower[name]) for name in lower.keys() - plain.keys()}


def plain_meta(source: bytes, id: bytes, time: bytes, hops: bytes | None) -> Meta:
    """Return the metadata of a message that has only these attributes."""
    number = 1 if hops is None else int(hops)
    return as_tuple(
        Meta, (id.decode(), source.decode(), cached_seconds_of(time.decode()), NO_HEADERS, number, *NO_MORE_META)
    )


NO_HEADERS: Mapping[str, str] = {}
# The defaults of the fields after these: of what a broker knows, and of what requests have.
NO_MORE_META = tuple(Meta._field_defaults.values())[5:]
NO_REPLY = NO_MORE_META[3:]


def meta_of(attributes: dict[str, Any], headers: dict[str, str]) -> Meta:
    """Return the metadata in attributes and other headers; foreign attributes become headers.

    Raises:
        ValueError: Something in it is too long.
    """
    headers = dict(headers)
    hops, reply_to, correlation = 1, None, None
    # In foreign messages, attributes of these names may mean something else.
    if "hops" in attributes and (number := _hops_of(attributes["hops"])) is not None:
        hops = number
        del attributes["hops"]
    if "replyto" in attributes:
        with suppress(TypeError, ValueError):
            reply_to = exact_key(attributes["replyto"])
            del attributes["replyto"]
    if type(attributes.get("correlation")) in (str, int):
        correlation = str(attributes["correlation"])
        del attributes["correlation"]
    if "headers" in attributes:
        with suppress(TypeError, ValueError, AttributeError):
            headers |= {name: _as_text(value) for name, value in json.loads(attributes["headers"]).items()}
            del attributes["headers"]
    due = None
    if DUE in attributes and (due := seconds_of(_as_text(attributes[DUE]))) is not None:
        del attributes[DUE]
    if "signature" in attributes and _SIGNATURE.fullmatch(_as_text(attributes["signature"])):
        # From a bridge with a secret; this one has none.
        for name in OF_SIGNATURES:
            attributes.pop(name, None)
    for name, value in attributes.items():
        if name not in _IN_META:
            headers[f"ce_{name}"] = value if isinstance(value, str) else json.dumps(value)
    if headers:
        check_headers(headers)
    id, source, time = attributes.get("id"), attributes.get("source"), attributes.get("time")
    if not are_names(id, source, correlation):
        check_names(id, source, correlation)
    seconds = None
    if isinstance(time, str):
        check_length("time", time, LONGEST_TIME)
        seconds = cached_seconds_of(time)
    return Meta(id or None, source or None, seconds, headers, hops, reply_to=reply_to, correlation=correlation, due=due)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hops_of(value: Any) -> int | None:
    """Return the number of hops in an attribute; None if it means something else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MOST_HOPS)):
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_HOPS else None


def exact_key(text: Any) -> Key[Any]:
    """Return the key that a text stands for.

    Raises:
        ValueError: It is too long, not a key, or has wildcards.
        TypeError: It is not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"{describe(text)} is not a str")
    check_length("key", text, LONGEST_KEY)
    key: Key[Any] = Key.parse(text)
    if key.is_wildcard:
        raise ValueError(f"{describe(key)} is a pattern")
    return key


def parted(headers: Mapping[str, str], signed: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return the attributes among headers, with the content type, and the others: all, or those that are signed."""
    attributes, others = {}, {}
    for name, value in headers.items():
        if name.startswith("ce_") or name == "content-type":
            if name != "ce_signature":
                attributes[name] = value
        elif signed is None:
            others[name] = value
    if signed:
        # If one is missing, the signature is wrong, as if it were changed.
        others = {name: headers[name] for name in map(unquote, signed.split(" ")) if name in headers}
    return attributes, others


# Times


def time_text(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as CloudEvents write it: in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def seconds_of(text: str) -> float | None:
    """Return the seconds since the epoch of a time as CloudEvents write it; None if it is not one."""
    return cached_seconds_of(text) if len(text) <= LONGEST_TIME else None


@lru_cache(1024)  # a batch has one time
def cached_seconds_of(text: str) -> float | None:
    """As `seconds_of`, for a text that is short enough to be cached."""
    try:
        time = datetime.fromisoformat(text.upper())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


# Limits


def check_length(name: str, text: str, most: int) -> None:
    """Raise ValueError if a text is too long."""
    if len(text) > most:
        raise ValueError(f"its {name} has {len(text)} characters; at most {most} cross a bridge")


def are_names(id: Any, source: Any, correlation: Any) -> bool:
    """True if `check_names` would find nothing wrong with them."""
    return (
        type(id) is type(source) is str
        and len(id) <= LONGEST_NAME
        and len(source) <= LONGEST_NAME
        and (correlation is None or (type(correlation) is str and len(correlation) <= LONGEST_NAME))
    )


def check_names(id: Any, source: Any, correlation: Any) -> None:
    """Raise an error for the first one that is wrong, if any is."""
    for name, value in (("id", id), ("source", source), ("correlation", correlation)):
        if value is not None:
            if not isinstance(value, str):
                raise TypeError(f"its {name} must be a str, not {describe(value)}")
            check_length(name, value, LONGEST_NAME)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError if they are too long; TypeError if one is not a str."""
    length = len("".join((*headers, *headers.values())))
    if length > MOST_IN_HEADERS:
        raise ValueError(f"its headers have {length} characters; at most {MOST_IN_HEADERS} cross a bridge")


def check_sendable(headers: Mapping[str, str]) -> None:
    """Raise an error if headers of a user are wrong."""
    try:
        check_headers(headers)
    except TypeError:
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"its header {describe(name)} is {describe(value)}, and headers are strings") from None
        raise


def bytes_of(headers: Mapping[str, str]) -> int:
    """Return the number of bytes of the names and values.

    Raises:
        ValueError: They contain a lone surrogate.
    """
    return len("".join((*headers, *headers.values())).encode())
