"""PostgreSQL by LISTEN and NOTIFY: messages reach whoever listens at that moment, and are kept nowhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from ...errors import EncodeError, PayloadTooLarge
from ...key import NAMESPACE, PLUS, STAR, Key, is_subset
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from ..urls import Option
from .database import Database
from .errors import refusal
from .frames import LONGEST, MOST_BYTES, Frames
from .lines import Lines

NOTIFY = "select count(pg_notify(channel, text)) from unnest($1::text[], $2::text[]) as t (channel, text)"
LONGEST_NAME = 63
OWN_FOR = 60.0
"""Seconds in which a server may still send on what was left in a connection that is lost."""


def _channel(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name.encode()) <= LONGEST_NAME or "\0" in name:
        raise ValueError
    if name in (NAMESPACE, STAR, PLUS):
        raise ValueError
    return name


OWN = {"channel": Option("a name of 1 to 63 bytes, and neither Hub, * nor +", _channel, several=True)}


def channels_of(namespace: str) -> tuple[str, str]:
    """The channel of a namespace's messages, and that of its control messages. A long or odd name is shortened."""
    if len(namespace) > 54 or not (namespace.isascii() and namespace.isprintable()) or ":" in namespace:
        digest = sha256(namespace.encode("utf-8", "surrogatepass")).hexdigest()
        namespace = f"{namespace.encode('ascii', 'ignore').decode().replace(chr(0), '')[:20]}:{digest[:32]}"
    return namespace, f"{namespace}:control"


class PostgresAdapter(Adapter):
    """LISTEN and NOTIFY through two connections, one that listens and one that notifies.

    Args:
        url: `postgres://user:password@host:5432/database`; options in its query.
        channel: A channel of other programs, or several. What is published to `Key("chat")` goes to the channel `chat`
            as it stands, and what they send there is received under that key. For bridges with `envelope=False`.
        options: `host`, `user`, `password`, `ssl` (an `ssl.SSLContext`) and so on; those of libpq by their names there.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: There is no one address, or an option does not exist or is for the bridge to decide.
        ValueError: The URL or an option makes no sense.
    """

    features = Features(order="all", confirms="received", max_payload=MOST_BYTES)

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._database = Database(type(self).__name__, url, options, OWN)
        self._channels: tuple[str, ...] = self._database.own.get("channel", ())
        if self._channels:
            self.features = replace(self.features, max_payload=LONGEST)
        self._pids: dict[int, float] = {}  # of our own backends that notify, and until when
        self._line: _Line | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database!r}{''.join(f' channel={name}' for name in self._channels)}>"

    def features_for(self, link: Link) -> Features:
        if not link.namespace and not self._channels:
            raise ValueError("without a namespace name the channels: postgres://...?channel=chat&channel=news")
        return self.features

    async def connect(self, link: Link) -> None:
        now = time.monotonic()
        self._pids = {pid: min(end, now + OWN_FOR) for pid, end in self._pids.items() if end > now}
        self._line = _Line(self._database, link, self._channels, self._pids)
        await self._line.begin()

    def _connected(self) -> _Line:
        if self._line is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._line

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self._connected().listen_to(keys)

    async def ping(self) -> None:
        await self._connected().ping()

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self._connected().send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self._connected().inbox.receive()

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()

    def forget(self) -> None:
        # What the parent process notifies of is not our own any more.
        self._pids, self._line = {}, None

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of its connections."""
        return 0 if self._line is None else self._line.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it listens."""
        return None if self._line is None else self._line.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it notifies."""
        return None if self._line is None else self._line.sending


Notice: TypeAlias = tuple[int, str, str]
"""The index of a record, a channel, and what goes there for it."""


class _Line(Lines):
    """Its connections, and what comes and goes over them."""

    def __init__(self, database: Database, link: Link, channels: tuple[str, ...], pids: dict[int, float]) -> None:
        super().__init__(database)
        self._incoming = link.incoming if link.reads else ()
        self._channels = channels
        self._pids = pids
        self._data, self._control = channels_of(link.namespace)
        self._frames, self._control_frames = Frames(), Frames(is_control=True)
        self._keys: set[Key[Any]] = set()  # of the control messages that are for us

    async def begin(self) -> None:
        """Connect and listen."""
        await self.open(self._listen, self._prepare)

    async def _prepare(self, connection: Any) -> None:
        self._notify = await connection.prepare(NOTIFY)
        # Asked for: behind a pooler it is another one than the protocol says.
        self._pids[await connection.fetchval("select pg_backend_pid()")] = math.inf

    async def _listen(self, connection: Any) -> None:
        if not self._channels and self._incoming:
            await connection.add_listener(self._data, self._take)
        for name in self._channels:
            if any(is_subset(Key(name), pattern) for pattern in self._incoming):
                await connection.add_listener(name, self._take_foreign)

    async def listen_to(self, keys: Sequence[Key[Any]]) -> None:
        """Receive what is sent to these keys as control messages; return when that is confirmed."""
        self._keys.update(keys)
        await self.listen(self._control, self._take_control)

    # What comes

    def _is_own(self, pid: int) -> bool:
        return pid in self._pids and self._pids[pid] > time.monotonic()

    def _take(self, connection: Any, pid: int, channel: str, text: str) -> None:
        if not self._is_own(pid) and (received := self._frames.unpack(pid, text)) is not None:
            self.inbox.put((received,))

    def _take_foreign(self, connection: Any, pid: int, channel: str, text: str) -> None:
        if not self._is_own(pid):
            self.inbox.put((Received(Key(channel), text.encode()),))

    def _take_control(self, connection: Any, pid: int, channel: str, text: str) -> None:
        received = self._control_frames.unpack(pid, text)
        if received is not None and received.key in self._keys:
            self.inbox.put((received,))

    # What goes

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Notify, in order; return the errors of those that are refused."""
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
                if self._channels and not there.isdisjoint(notices):
                    # Of equal ones a transaction sends one.
                    await self._send(lot, refused)
                    lot, there = [], set()
                lot += [(index, *notice) for notice in notices]
                there.update(notices)
        await self._send(lot, refused)
        return refused

    def _notices(self, record: Record) -> list[tuple[str, str]]:
        """Channels, and what goes there for a record."""
        if record.is_control or not self._channels:
            channel = self._control if record.is_control else self._data
            return [(channel, text) for text in self._frames.pack(record)]
        if len(record.key) > 1 or record.key[0] not in self._channels:
            raise ValueError(f"name its channel in the URL, by ?channel=; there is {', '.join(self._channels)}")
        if len(record.payload) > LONGEST:
            raise PayloadTooLarge(record.key, len(record.payload), LONGEST)
        if b"\0" in record.payload:
            raise ValueError("Postgres has no NUL in a text")
        return [(record.key[0], record.payload.decode())]

    async def _send(self, lot: Sequence[Notice], refused: dict[int, Exception]) -> None:
        """Send these in one transaction; where it is refused, each record in one of its own."""
        if not lot:
            return
        try:
            await self._notify.fetch([channel for _, channel, _ in lot], [text for _, _, text in lot])
        except Exception as error:
            why = refusal(error)
            records = [list(notices) for _, notices in groupby(lot, itemgetter(0))]
            if len(records) == 1:
                refused[lot[0][0]] = why
                return
            for notices in records:
                await self._send(notices, refused)
