"""Sending by NOTIFY and receiving by LISTEN, over the two connections of a bridge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from ...errors import EncodeError, PayloadTooLarge
from ...key import Key, is_subset
from ..adapter import Link, Received, Record
from ..lines import Line
from .connections import Connections
from .database import Database, Instant
from .errors import refusal
from .frames import LONGEST, Frames, channel_of

NOTIFY = "select count(pg_notify($1, text)) from unnest($2::text[]) as t (text)"
NOTIFY_EACH = "select count(pg_notify(channel, text)) from unnest($1::text[], $2::text[]) as t (channel, text)"

Notice: TypeAlias = tuple[int, str, str]
"""The index of a record, a channel, and a text to send there for the record."""


class Traffic(Connections, Line):
    """Sends and receives, from one connect until the connection is lost.

    Args:
        database: Where to connect.
        link: What the relay wants.
        channels: The channels of other programs, if any.
        pids: The process ids of our own backends, each with the time until which it may notify.
    """

    def __init__(self, database: Database, link: Link, channels: tuple[str, ...], pids: dict[int, float]) -> None:
        super().__init__(database)
        self._incoming = link.incoming if link.reads else ()
        self._channels = channels
        self._pids = pids
        self._data = channel_of(link.namespace)
        self._control = f"{self._data}:control"
        self._frames, self._control_frames = Frames(), Frames(is_control=True)
        self._keys: set[Key[Any]] = set()  # those of control messages for this bridge
        self._came: list[tuple[int, str, str]] = []  # process id, channel and text of what was not returned yet

    async def open(self) -> None:
        await self.begin(self._begin_listening, self._prepare)

    async def _prepare(self, connection: Any) -> None:
        self._notify = await connection.prepare(NOTIFY)
        self._notify_each = await connection.prepare(NOTIFY_EACH)
        # By a query: behind a pooler the protocol gives another one.
        self._pids[await connection.fetchval("select pg_backend_pid()")] = math.inf

    async def _begin_listening(self, connection: Any) -> None:
        if not self._channels and self._incoming:
            await connection.add_listener(self._data, Instant(self._take))
        for name in self._channels:
            if any(is_subset(Key(name), pattern) for pattern in self._incoming):
                await connection.add_listener(name, Instant(self._take))

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        self._keys.update(keys)
        await self.hear(self._control, Instant(self._take))

    # What comes

    def _take(self, connection: Any, pid: int, channel: str, text: str) -> None:
        self._came.append((pid, channel, text))
        if len(self._came) == 1:
            self.inbox.ring()

    async def receive(self) -> list[Received]:
        """Wait for messages, and return those that have come."""
        while True:
            came, self._came = self._came, []
            if received := self._read(came):
                return received
            self.inbox.take()  # raises if the connection is lost
            if not self._came:
                await self.inbox.wait()

    def _read(self, came: list[tuple[int, str, str]]) -> list[Received]:
        received: list[Received] = []
        pids, control, unpack = self._pids, self._control, self._frames.unpack_all
        is_foreign = bool(self._channels)
        for pid, channel, text in came:
            if channel == control:
                received += (each for each in self._control_frames.unpack_all(pid, text) if each.key in self._keys)
            elif pid in pids and pids[pid] > time.monotonic():
                continue  # our own
            elif is_foreign:
                received.append(Received(Key(channel), text.encode()))
            else:
                received += unpack(pid, text)
        return received

    # What goes

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Send records in order; return the errors of those that are refused, by their indices."""
        is_control = {record.is_control for record in records}
        if len(is_control) == 1 and (not self._channels or is_control == {True}):
            channel = self._control if is_control.pop() else self._data
            try:
                texts = self._frames.pack_all(records)
            except Exception:
                return await self._send_what_can_be(records)
            try:
                await self._notify.fetch(channel, texts)
                return {}
            except Exception as error:
                refusal(error)  # raises, unless the refusal is for good
        return await self._send_what_can_be(records)

    async def _send_what_can_be(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Send records of which one may be refused, or some may be equal."""
        refused: dict[int, Exception] = {}
        lot: list[Notice] = []
        there: set[tuple[str, str]] = set()
        for index, record in enumerate(records):
            try:
                notices = self._notices(record)
            except PayloadTooLarge as error:
                refused[index] = error
            except Exception as error:
                refused[index] = EncodeError(record.key, f"it cannot be sent by NOTIFY: {error}")
                refused[index].__cause__ = error
            else:
                if not there.isdisjoint(notices):
                    # A transaction sends only one of several equal notifications.
                    await self._send(lot, refused)
                    lot, there = [], set()
                lot += [(index, *notice) for notice in notices]
                there.update(notices)
        await self._send(lot, refused)
        return refused

    def _notices(self, record: Record) -> list[tuple[str, str]]:
        """Return channels and texts: the notifications of a record."""
        if record.is_control or not self._channels:
            channel = self._control if record.is_control else self._data
            return [(channel, text) for text in self._frames.pack_all([record])]
        if len(record.key) > 1 or record.key[0] not in self._channels:
            raise ValueError(f"add ?channel= with its name to the URL; the channels are {', '.join(self._channels)}")
        if len(record.payload) > LONGEST:
            raise PayloadTooLarge(record.key, len(record.payload), LONGEST)
        if b"\0" in record.payload:
            raise ValueError("a text in Postgres cannot contain NUL")
        return [(record.key[0], record.payload.decode())]

    async def _send(self, lot: Sequence[Notice], refused: dict[int, Exception]) -> None:
        """Send notifications in one transaction; if it is refused, send each record in a transaction of its own."""
        if not lot:
            return
        try:
            await self._notify_each.fetch([channel for _, channel, _ in lot], [text for _, _, text in lot])
        except Exception as error:
            why = refusal(error)
            records = [list(notices) for _, notices in groupby(lot, itemgetter(0))]
            if len(records) == 1:
                refused[lot[0][0]] = why
                return
            for notices in records:
                await self._send(notices, refused)
