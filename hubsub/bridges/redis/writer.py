"""Writing to streams: each record is stored once, even if it is sent again."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapter import Received, Record
from ..address import cached
from .answers import is_unknown, refusal
from .connection import Connection
from .control import Channels
from .entries import Batch, Entries, unpackable
from .resp import Command, arguments, encode, pack
from .scripts import APPEND
from .source import new_epoch

DEAD = ":dead"
"""What the stream of dead letters has behind the name of the one that they were read from."""
SENDER_SECONDS = 86400
"""Seconds that the server remembers the last record stored of a sender."""


class Writer:
    """Writes records over a connection of its own; it is made for that connection.

    Args:
        connection: Used for nothing else, since it may carry much.
        sender: The id of the sender of these records.
        reader: The reader that gives up messages, as `Link.reader`.
        entries: Turns records into entries.
        channels: Has the channels of control messages.
        maxlen: Entries that a stream keeps; empty for all.
    """

    def __init__(
        self, connection: Connection, sender: str, reader: str, entries: Entries, channels: Channels, maxlen: bytes
    ) -> None:
        self.connection = connection
        self._sender = sender
        self._reader = reader
        self._entries = entries
        self._channels = channels
        self._maxlen = maxlen
        self._heading = cached(self._pack_heading)

    async def append(self, stream: str, records: Sequence[Record], indices: Sequence[int]) -> dict[int, Exception]:
        """Store records, in order; return the errors of those that are refused, by the indices given.

        Raises:
            BrokerBusy: The server accepts nothing for now. Sending all of them again stores none twice.
        """
        refused: dict[int, Exception] = {}
        for batch in self._entries.batches(records, indices, refused):
            refused |= await self._append(stream, batch)
        return refused

    async def _append(self, stream: str, batch: Batch) -> dict[int, Exception]:
        exchange = self.connection.exchange
        start = b"*%d\r\n" % (9 + batch.values)
        rest = b"".join([self._heading(stream), arguments(self._maxlen, SENDER_SECONDS, new_epoch()), *batch.parts])
        (reply,) = await exchange(start + arguments("EVALSHA", APPEND.sha) + rest, 1)
        if is_unknown(reply):
            (reply,) = await exchange(start + arguments("EVAL", APPEND.text) + rest, 1)
        if isinstance(reply, Exception):
            return dict.fromkeys(batch.indices, refusal(reply))
        return {batch.indices[index]: refusal(error) for index, error in reply}

    def _pack_heading(self, stream: str) -> bytes:
        """Return the keys of the script that appends to a stream, as they are sent."""
        return arguments(3, stream, f"{stream}:sender:{self._sender}", f"{stream}:epoch")

    async def publish(self, records: Sequence[Record], indices: Sequence[int]) -> dict[int, Exception]:
        """Send control messages to whoever listens; return the errors of those that are refused."""
        refused: dict[int, Exception] = {}
        commands: list[Command] = []
        sent: list[int] = []
        for record, index in zip(records, indices, strict=True):
            try:
                command = self._channels.pack(record)
            except Exception as error:
                refused[index] = unpackable(record.key, error)
            else:
                commands.append(command)
                sent.append(index)
        for index, reply in zip(sent, await self.connection.ask(*commands), strict=True):
            if isinstance(reply, Exception):
                refused[index] = refusal(reply)
        return refused

    async def bury(self, received: Received, why: str) -> Exception | None:
        """Write a message beside its stream, with the reason; return the error if it is refused for good."""
        try:
            fields = self._entries.dead_letter(received, why, self._reader)
            trim = ("MAXLEN", "~", self._maxlen) if self._maxlen else ()
            command = pack(("XADD", encode(f"{received.lane}{DEAD}"), *trim, "*", *fields))
        except Exception as error:
            return unpackable(received.key, error)
        (reply,) = await self.connection.exchange(command, 1)
        return refusal(reply) if isinstance(reply, Exception) else None
