"""Messages as notifications: unique texts of at most 7 999 bytes; a longer message is several of them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from itertools import count
from typing import Any

from ...errors import DecodeError
from ...key import Key
from ..adapter import Received, Record
from ..address import Addresses

as_tuple = tuple.__new__

LONGEST = 7999
"""The most bytes that a notification may have in Postgres."""
MOST_BYTES = 64 << 20
"""The most bytes of a message, which is then split over many notifications."""
_PIECE = LONGEST - 40
_JOINED = LONGEST - 20
"""The most bytes of joined messages, without the number."""
_HEAD = re.compile(r":([0-9a-f]+)(=?)(?:\.([0-9]{1,6})([+.]))?")


def channel_of(namespace: str) -> str:
    """Return the channel of a namespace: its name, or a digest of a long or odd name. Suffixes follow a `:`.

    The SQL function `hubsub.bell` computes the same.
    """
    if re.fullmatch("[ -9;-~]{1,48}", namespace):
        return namespace
    return f"hubsub:{sha256(namespace.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


class Frames:
    """Packs messages as `:1f orders/new {"tea": 2}`: a number, the address, the payload; and unpacks them.

    All text is ASCII, whatever the encoding of the database. A payload that is not ASCII is in base64, marked by a `=`
    after the number. The notifications of a split message have `.0+`, `.1+`, `.2.` after the number; one transaction
    sends them, so they arrive together. The number makes each notification unique, because a transaction sends only one
    of several equal ones.

    Short messages of a batch share notifications, because each notification costs more than a message in it:
    `*1f 12,13 orders/new 1orders/old 22` has a number, the lengths, and that many characters for each message. One
    object serves one connection.

    Args:
        is_control: Unpack control messages.
    """

    def __init__(self, *, is_control: bool = False) -> None:
        self._addresses = Addresses("/", allowed="!-.0-~")
        self._numbers = count()
        self._is_control = is_control
        self._key: Any = self._addresses.key  # never None without a prefix
        self._tail = Received(Key(""), b"", is_control=is_control)[2:]
        self._begun: tuple[object, ...] = ()  # sender, number and encoding of a split message that is incomplete
        self._pieces: list[str] = []

    def pack(self, record: Record) -> list[str]:
        """Return the notifications that a record becomes."""
        return self.pack_all([record])

    def pack_all(self, records: Sequence[Record]) -> list[str]:
        """Return the notifications that several records become."""
        address_of = self._addresses.address
        texts: list[str] = []
        joined: list[str] = []
        size = 0
        for record in records:
            key, payload = record[0], record[1]
            if payload.isascii() and b"\0" not in payload:
                text = f"{address_of(key)} {payload.decode('ascii')}"
                length = len(text) + 5  # and its length in the head
                if length <= _JOINED:
                    if size + length > _JOINED:
                        texts.append(self._join(joined))
                        joined, size = [], 0
                    joined.append(text)
                    size += length
                    continue
            if joined:
                texts.append(self._join(joined))
                joined, size = [], 0
            texts += self.frame(address_of(key), payload)
        if joined:
            texts.append(self._join(joined))
        return texts

    def _join(self, joined: list[str]) -> str:
        number = next(self._numbers)
        if len(joined) == 1:
            return f":{number:x} {joined[0]}"
        return f"*{number:x} {','.join(map(str, map(len, joined)))} {''.join(joined)}"

    def frame(self, address: str, payload: bytes) -> list[str]:
        """Return the notifications that a payload becomes under an address."""
        is_text = payload.isascii() and b"\0" not in payload
        data = (payload if is_text else b64encode(payload)).decode("ascii")
        head, body = f":{next(self._numbers):x}{'' if is_text else '='}", f"{address} {data}"
        if len(head) + len(body) < LONGEST:
            return [f"{head} {body}"]
        pieces = [body[start : start + _PIECE] for start in range(0, len(body), _PIECE)]
        marks = ["+"] * (len(pieces) - 1) + ["."]
        return [f"{head}.{index}{mark} {piece}" for index, (mark, piece) in enumerate(zip(marks, pieces, strict=True))]

    def unpack_all(self, sender: object, text: str) -> Sequence[Received]:
        """Return the messages of a notification; none if it is part of one that is not complete yet."""
        if text[:1] != "*":
            one = self.unpack(sender, text)
            return () if one is None else (one,)
        _, _, rest = text.partition(" ")
        lengths, _, body = rest.partition(" ")
        key, tail, found, start = self._key, self._tail, [], 0
        try:
            for length in map(int, lengths.split(",")):
                address, space, data = body[start : start + length].partition(" ")
                if length <= 0 or not space:
                    raise ValueError
                found.append(as_tuple(Received, (key(address), data.encode(), *tail)))
                start += length
        except ValueError:
            start = -1
        if start != len(body):
            return (self._trouble(text, "the lengths of its messages are wrong"),)
        return found

    def unpack(self, sender: object, text: str) -> Received | None:
        """Return the message of a notification; None if it is split, and not complete yet.

        Args:
            sender: Identifies the sender; pieces of different senders are not joined.
            text: The text of the notification.
        """
        head, _, body = text.partition(" ")
        if head[:1] == ":" and head[1:].isalnum():
            address, space, data = body.partition(" ")
            if space:
                return as_tuple(Received, (self._key(address), data.encode(), *self._tail))
        return self._unpack_odd(sender, head, body, text)

    def _received(self, address: str, payload: bytes, trouble: Exception | None = None) -> Received:
        return Received(self._key(address), payload, is_control=self._is_control, trouble=trouble)

    def _unpack_odd(self, sender: object, head: str, body: str, text: str) -> Received | None:
        match = _HEAD.fullmatch(head)
        if match is None:
            return self._trouble(text, "no bridge sent it")
        number, is_coded, index, mark = match.groups()
        if index is not None:
            if index == "0":
                self._begun, self._pieces = (sender, number, is_coded), []
            if self._begun != (sender, number, is_coded) or int(index) != len(self._pieces):
                return self._trouble(text, "the notification before it is missing")
            if len(self._pieces) * LONGEST > 3 * MOST_BYTES // 2:
                self._pieces = []
                return self._trouble(text, "it is part of a message that is too long")
            self._pieces.append(body)
            if mark == "+":
                return None
            body, self._begun, self._pieces = "".join(self._pieces), (), []
        address, space, data = body.partition(" ")
        if not space:
            return self._trouble(text, "it has no address")
        try:
            return self._received(address, b64decode(data, validate=True) if is_coded else data.encode())
        except ValueError:
            return self._trouble(text, "it is not base64")

    def _trouble(self, text: str, why: str) -> Received:
        _, _, body = text.partition(" ")
        address = body.partition(" ")[0]
        error = DecodeError(self._key(address), f"a notification cannot be read: {why}", text[:1000].encode())
        return self._received(address, text.encode(), error)
