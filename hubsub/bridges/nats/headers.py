"""Headers of NATS messages: any text becomes one line that every client reads, and is read again as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..address import as_hex, cached, unescaped

BEGIN = "NATS/1.0"
END = "\r\n"
NONE: Mapping[str, str] = {}
NAMELESS = "%"
"""Stands for an empty name, which clients skip."""

OWN = "hubsub-"
"""What the names of headers begin with that are ours, and not the message's."""

# What cannot stand in a name or a value, what would be read as an escape, and how names begin whose headers the server
# acts upon, or which are our own: a message that has come from anywhere may have any.
_NOT_IN_NAMES = re.compile(
    r"[^!#-'*+\-.0-9A-Z^_`a-z|~]|%(?=[0-9A-Fa-f]{2})|\A[Nn](?=[Aa][Tt][Ss]-)|\A[Hh](?=[Uu][Bb][Ss][Uu][Bb]-)"
)
_NOT_IN_VALUES = re.compile(r"^ | \Z|[\x00-\x1f\x7f\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})")
# What most messages of hubs have: all but the last two is the same for all of a sender, and is read and written once.
_PLAIN = ("ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time")
_OWN = re.compile(rb"\r\nce_id: ([!-$&-~]+)\r\nce_time: ([!-$&-~]+)\r\n\r\n")
_UNUSUAL = re.compile(r"[^!-$&-~]")


def pack(headers: Mapping[str, str], own: Mapping[str, str] = NONE) -> bytes:
    """Return headers as NATS has them before a payload: those of the message, and those for the server or for us.

    Control characters, spaces at the ends and halves of surrogate pairs, and in names whatever cannot stand there, are
    escaped as in addresses: `%` and two hexadecimal digits for each byte. A `%` is escaped only where it would be read
    as an escape; and the first letter of a name, where the server would act upon the header.
    """
    if not own and tuple(headers) == _PLAIN:
        *same, id, time = headers.values()
        if id and time and not _UNUSUAL.search(id + time):
            return f"{_begin(tuple(same))}ce_id: {id}\r\nce_time: {time}\r\n\r\n".encode()
    lines = "".join([f"{name}: {_value(value)}{END}" for name, value in own.items()])
    return f"{BEGIN}{END}{_write(headers)}{lines}{END}".encode()


def unpack(block: bytes) -> tuple[str, dict[str, str], Mapping[str, str]]:
    """Return the status of a message, empty if it has none; its headers, of several of one name the last; and ours."""
    at = block.rfind(b"\r\nce_id: ")
    if at > 0 and (own := _OWN.fullmatch(block, at)) is not None:
        status, headers, ours = _read_same(block[:at])
        return status, {**headers, "ce_id": own[1].decode(), "ce_time": own[2].decode()}, ours
    return _read(block)


def _write(headers: Mapping[str, str]) -> str:
    return "".join([f"{_name(name)}: {_value(value)}{END}" for name, value in headers.items()])


def _begin_of(values: tuple[str, ...]) -> str:
    return f"{BEGIN}{END}{_write(dict(zip(_PLAIN, values, strict=False)))}"


_begin: Callable[[tuple[str, ...]], str] = cached(_begin_of)


def _read(block: bytes) -> tuple[str, dict[str, str], Mapping[str, str]]:
    text = block.decode(errors="replace")
    first, *lines = text.split(END)
    headers = {name: value.strip(" \t") for name, colon, value in [line.partition(":") for line in lines] if colon}
    ours: Mapping[str, str] = NONE
    if OWN in text:
        ours = {name: _meant(headers.pop(name), _value) for name in tuple(headers) if name.startswith(OWN)}
    if "%" in text:
        headers = {_meant(name, _name): _meant(value, _value) for name, value in headers.items()}
    return first[len(BEGIN) :].strip(), headers, ours


_read_same: Callable[[bytes], tuple[str, dict[str, str], Mapping[str, str]]] = cached(_read)


def _name(name: str) -> str:
    escaped = _NOT_IN_NAMES.sub(as_hex, name)
    return "%25" if escaped == NAMELESS else escaped or NAMELESS


def _value(value: str) -> str:
    return _NOT_IN_VALUES.sub(as_hex, value)


def _meant(text: str, write: Callable[[str], str]) -> str:
    """What was written, if this is how it is written here; others write what they like."""
    read = "" if text == NAMELESS and write is _name else unescaped(text)
    return read if write(read) == text else text
