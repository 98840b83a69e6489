"""The entries of a stream: made from records, and read as messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

from ...errors import DecodeError, EncodeError
from ...key import Key
from ..adapter import Buried, Loss, Received, Record, SentBack
from ..address import Addresses, cached
from .headers import Headers
from .resp import arguments, decode
from .scripts import MOST_VALUES

# All but the separator, line ends, which make reading slow, and halves of surrogate pairs.
ALLOWED = r"\0-\x09\x0b\x0c\x0e-9;-\ud7ff\ue000-\U0010ffff"

MOST_HEADERS = MOST_VALUES // 2 - 2
MOST_BATCH_VALUES = 100_000
"""Arguments of one call: the server accepts ten times as many."""
MOST_BATCH_BYTES = 4 << 20
"""Approximate bytes of one call; only a single large record exceeds it."""

GIVEN_UP_BY, SENT_BACK_TO = "given-up-by", "sent-back-to"
"""The first field of a dead letter, and of what is sent back: the `Link.reader` that it was, or is, for.

Where others have `key`, so that it costs nothing to look for it.
"""
ABOUT = ("reason", "position", "attempts")
"""The last fields of a dead letter."""

as_tuple = tuple.__new__
_LIVE = (False, False, None)  # the last fields of what was received
_GIVEN_UP_BY, _SENT_BACK_TO = GIVEN_UP_BY.encode(), SENT_BACK_TO.encode()


class Batch(NamedTuple):
    """Packed records that one call of the script appends."""

    parts: list[bytes]
    values: int
    """The number of arguments."""
    indices: list[int]


class Entries:
    """Turns records into entries, and entries into messages, including entries that other programs have written."""

    def __init__(self) -> None:
        self._addresses = Addresses(":", allowed=ALLOWED, binary=True)
        self._head = cached(self._pack_key)
        self._headers = Headers()
        self.key: Callable[[bytes], Key[Any]] = cached(self._read_key)
        """The key of an address."""

    def address(self, key: Key[Any]) -> bytes:
        """Return the parts of a key as they are written in the field `key`."""
        return self._addresses.to_bytes(self._addresses.address(key))

    # Out

    def batches(
        self, records: Sequence[Record], indices: Iterable[int], refused: dict[int, Exception]
    ) -> Iterator[Batch]:
        """Yield records packed for APPEND, in as many calls as needed; put those that cannot be packed in `refused`."""
        head, counts, pack_headers = self._head, _counts, self._headers.pack
        parts: list[bytes] = []
        packed: list[int] = []
        count = size = 0
        # Written in the protocol's own form: packing each argument by itself would double the time spent here.
        for (key, payload, headers, sequence, _), index in zip(records, indices, strict=True):
            try:
                number, values = b"%d" % sequence, 4 + 2 * len(headers)
                length = len(payload)
                part = b"$%d\r\n%b\r\n%b%b$%d\r\n%b" % (
                    len(number),
                    number,
                    counts[values],
                    head(key),
                    length,
                    payload,
                )
                fields = pack_headers(headers) if headers else b"\r\n"
            except Exception as error:
                refused[index] = unpackable(key, error)
                continue
            parts.append(part)
            parts.append(fields)
            packed.append(index)
            count += 2 + values
            size += length
            if count > MOST_BATCH_VALUES or size > MOST_BATCH_BYTES:
                yield Batch(parts, count, packed)
                parts, packed, count, size = [], [], 0, 0
        if packed:
            yield Batch(parts, count, packed)

    def _pack_key(self, key: Key[Any]) -> bytes:
        """Return the start of an entry as it is sent."""
        return arguments("key", self.address(key), "payload")

    def dead_letter(self, received: Received, why: str, reader: str) -> list[bytes | str]:
        """Return the fields of an entry with a message that could not be handled, the reason, and who gave it up.

        If the entry is put back into the stream, it is that message again.
        """
        about = zip(ABOUT, (why, received.position or "", str(received.attempts)), strict=True)
        self._headers.pack(received.headers)
        message = ("key", self.address(received.key), "payload", received.payload or b"")
        return [GIVEN_UP_BY, reader, *message, *chain(*received.headers.items()), *chain(*about)]

    # In

    def read(
        self,
        stream: str,
        entries: Sequence[Any],
        found: list[Received | Loss],
        token_of: Callable[[bytes], Any] | None = None,
    ) -> None:
        """Append a message for each entry, which is an id, fields and perhaps the number of deliveries.

        An entry that cannot be read becomes a message that says why.
        """
        key_of, headers_of, append = self.key, self._headers.read, found.append
        prefix = stream + ":"
        attempts = 0
        token: Any = None
        last, time = "", 0.0
        for entry in entries:
            id, fields = entry[0], entry[1]
            if fields is None:  # pending, but deleted
                continue
            if len(entry) == 3:
                attempts = entry[2] - 1
            if token_of is not None:
                token = token_of(id)
            text = id.decode()
            # A batch is stored within a millisecond.
            if not last or not text.startswith(last):
                last = text[: text.index("-") + 1]
                time = int(last[:-1]) / 1000
            tail: tuple[Any, ...] = _LIVE
            try:
                if fields[0] == b"key" and fields[2:3] == [b"payload"]:
                    key, payload = key_of(fields[1]), fields[3]
                    headers = headers_of(fields[4:]) if len(fields) > 4 else {}
                else:
                    key, payload, headers = self._take_apart(stream, fields)
                    if fields[0] == _SENT_BACK_TO:
                        received = Received(key, payload, headers, stream, prefix + text, token, attempts, time)
                        append(SentBack.to(decode(fields[1]), received))
                        continue
            except Exception as error:
                key, payload, headers = Key(stream), None, {}
                tail = (False, False, DecodeError(key, f"the entry cannot be read: {error}"))
            append(as_tuple(Received, (key, payload, headers, stream, prefix + text, token, attempts, time, *tail)))

    def _take_apart(self, stream: str, fields: Sequence[bytes]) -> tuple[Key[Any], bytes, dict[str, str]]:
        """Return the key, payload and headers of a letter, or of an entry that another program wrote."""
        if fields[0] in (_GIVEN_UP_BY, _SENT_BACK_TO):
            fields = fields[2:]
            if fields[0] == b"key" and fields[2:3] == [b"payload"]:
                return self.key(fields[1]), fields[3], self._headers.read(list(fields[4:]))
        named = {decode(name): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
        address = named.pop("key", None)
        key = Key(stream) if address is None else self.key(address)
        payload = named.pop("payload", None)
        values = {name: decode(value) for name, value in named.items()}
        if payload is None:
            return key, json.dumps(values).encode(), {}
        return key, payload, values

    def read_letter(self, stream: str, entry: Sequence[Any]) -> Buried:
        """Return the dead letter that an entry of their stream is, whoever wrote it."""
        id, fields = entry[0].decode(), list(entry[1])
        reader: str | None = None
        about = dict.fromkeys(ABOUT, "")
        if fields[0] == _GIVEN_UP_BY:
            reader = decode(fields[1])
            del fields[:2]
        if tuple(map(decode, fields[-6::2])) == ABOUT:
            about = dict(zip(ABOUT, map(decode, fields[-5::2]), strict=True))
            del fields[-6:]
        found: list[Received | Loss] = []
        self.read(stream, [(entry[0], fields)], found)
        attempts = int(about["attempts"]) if about["attempts"].isdecimal() else 0
        received = cast(Received, found[0])._replace(position=about["position"] or None, attempts=attempts, time=None)
        return Buried(received, about["reason"], f"{stream}:{id}", _time_of(id), reader)

    def _read_key(self, address: bytes) -> Key[Any]:
        return cast(Key[Any], self._addresses.key(self._addresses.to_text(address)))


def _time_of(id: str) -> float:
    return int(id.partition("-")[0]) / 1000


def unpackable(key: Any, error: Exception) -> EncodeError:
    """Return the error of a record that cannot be packed."""
    refusal = EncodeError(key, f"it cannot be sent to Redis: {error}")
    refusal.__cause__ = error
    return refusal


class _Counts(dict[int, bytes]):
    """The number of an entry's values, as it is sent.

    Raises:
        ValueError: There are too many values.
    """

    def __missing__(self, values: int) -> bytes:
        if values > MOST_VALUES:
            raise ValueError(f"it has {values // 2 - 2} headers, and an entry holds at most {MOST_HEADERS}")
        self[values] = arguments(values)
        return self[values]


_counts = _Counts()
