"""Records as messages of a stream, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import BridgeError, EncodeError, PayloadTooLarge
from ..adapter import Received, Record, SentBack
from ..log import Row
from .headers import pack, unpack
from .jetapi import BATCH
from .letters import ID, READER
from .pulls import Stored
from .streams import Streams
from .subjects import LONGEST

as_tuple = tuple.__new__

ID_LINE = f"\r\n{ID}: ".encode()
BATCH_LINE = b"\r\n" + BATCH


class Storable(NamedTuple):
    """A message that a stream is to store."""

    stream: str
    id: bytes
    """By which JetStream knows it when it is stored again."""
    subject: bytes
    head: bytes
    payload: bytes


class Written(NamedTuple):
    """What became of records that are to be sent."""

    stored: list[Storable]
    indices: list[int]
    """The index of the record of each of these."""
    control: list[tuple[int, bytes, bytes]]
    """For each control message the index of its record, its subject, and the command that publishes it."""
    refused: dict[int, Exception]
    """By their indices, the errors of those that cannot be sent."""


async def write(streams: Streams, records: Sequence[Record], sender: str, most: int) -> Written:
    """Return records as messages.

    Args:
        streams: The streams, which exist then.
        records: The records.
        sender: The sender that has numbered them.
        most: The largest message of the server, in bytes.
    """
    stored, indices, control, refused = written = Written([], [], [], {})
    stream, id = "", b""
    for index, (key, payload, headers, sequence, is_control) in enumerate(records):
        try:
            if is_control:
                subject = streams.control.subject(key)
            else:
                stream, subject = await streams.place(key)
            head = pack(headers)
            if len(subject) > LONGEST:
                raise ValueError(f"its subject has {len(subject)} bytes, and NATS takes {LONGEST}")
        except (OSError, BridgeError):
            raise
        except Exception as error:
            refused[index] = EncodeError(key, f"it cannot be stored: {error}")
            refused[index].__cause__ = error
            continue
        if not is_control:
            id = b"%b-%d" % (sender.encode(), sequence)
            head = b"%b%b%b\r\n\r\n" % (head[:-4], ID_LINE, id)
        if (size := len(head) + len(payload)) > most:
            refused[index] = PayloadTooLarge(key, size, most)
        elif is_control:
            line = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), size, head, payload)
            control.append((index, subject, line))
        else:
            indices.append(index)
            stored.append(as_tuple(Storable, (stream, id, subject, head, payload)))
    return written


def read(streams: Streams, row: Row, position: str | None, token: Any) -> Received:
    """Return what was received: a message of a stream."""
    assert isinstance(row, Stored)
    _, subject, _, head, payload = row.message
    headers: dict[str, str] = {}
    own: Mapping[str, str] = {}
    if head:
        at = head.rfind(ID_LINE)
        if at > 0 and ((end := head.find(b"\r\n", at + 2)) == len(head) - 4 or head.startswith(BATCH_LINE, end)):
            head = head[:at] + b"\r\n\r\n"  # what is left is alike for many, and is read once
        _, headers, own = unpack(head)
    reader = own.get(READER) if own else None
    key = streams.key(subject)
    found = as_tuple(Received, (key, payload, headers, None, position, token, row[5], row[3], False, False, None))
    return found if reader is None else SentBack.to(reader, found)
