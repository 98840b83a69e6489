"""`sqlite:///absolute/path`, `sqlite://relative/path`: a log in a file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ...errors import BrokerBusy, HubsubError, NoSuchLetter
from ...key import Key
from ..adapter import Buried, Link, Received, Record
from ..log import LogAdapter, LogState, Row, letter_number
from ..urls import count, one_of, or_none, read_options, read_path, seconds
from . import sql
from .file import File

V = TypeVar("V")
LIKE = "sqlite:///absolute/path or sqlite://relative/path"
OPTIONS = {
    "maxlen": or_none(count("messages")),
    "max_age": or_none(seconds(most=1e10)),
    "lease": seconds(),
    "synchronous": one_of("normal", "full"),
}
LEAVE_SECONDS = 0.5
"""Seconds that closing waits for the file; a disk that does not answer is left alone."""


class SQLiteAdapter(LogAdapter):
    """A durable log in a file of SQLite, without a server, for all processes of one machine.

    Args:
        url: `sqlite:///absolute/path` or `sqlite://relative/path`, with options in its query; or a `pathlib.Path`. The
            file is created if it does not exist; its folder has to exist.
        maxlen: Messages that a namespace keeps, by default 1 000 000; None, in a URL `none`, for all.
        max_age: Seconds for which a message is kept; by default, and with None, for ever.
        lease: Seconds, by default 30, after which a message that a member has not finished goes to another member.
        synchronous: "normal" if a confirmation survives the death of every process; "full" if a power cut too.

    Raises:
        TypeError: An option does not exist, or is given twice.
        ValueError: The URL or a value is invalid.
    """

    features = replace(LogAdapter.features, max_payload=512 << 20, dead_letters=True, delays=True)

    def __init__(self, url: str | os.PathLike[str], **options: Any) -> None:
        path, in_url = read_path(url, "sqlite", LIKE) if isinstance(url, str) else (os.fspath(url), ())
        if path.strip("/") == ":memory:":
            raise ValueError("a database in memory is seen by one connection only; use memory://name within a process")
        self.path = os.path.abspath(path)
        given = read_options(type(self).__name__, OPTIONS, options, in_url)
        super().__init__(given.get("lease", 30.0))
        self._maxlen: int | None = given.get("maxlen", 1_000_000)
        self._max_age: float | None = given.get("max_age")
        self._synchronous: str = given.get("synchronous", "normal")
        self._file: File | None = None
        self._listening: dict[str, Key[Any]] = {}
        self._heard = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    async def open(self) -> None:
        if self._file is not None:
            await self._file.ended()  # one thread at a time, also when a disk does not answer
        self._listening = {}
        self._file = self.make_file(self.link)
        await self._file.open()

    def make_file(self, link: Link) -> File:
        """Return the file, not open yet. Tests have it misbehave."""
        space, inbox = link.namespace, self.inbox

        def changed(db: sqlite3.Connection) -> float | None:
            file.post(inbox.put, self._hear(db, space))
            file.post(inbox.ring)
            return sql.next_due(db, space)

        prepare = partial(sql.prepare, path=self.path, space=space, synchronous=self._synchronous)
        tidy = partial(sql.tidy, space=space, maxlen=self._maxlen, max_age=self._max_age)
        file = File(self.path, prepare, changed, tidy, inbox.fail)
        return file

    async def shut(self) -> None:
        if self._file is not None:
            self._file.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._file.ended(), LEAVE_SECONDS)

    def forget(self) -> None:
        if self._file is not None:
            self._file.close()  # no thread of a forked process would do it
            self._file = None

    async def _ask(self, work: Callable[..., V], *arguments: Any, writes: bool = False) -> V:
        """Have the thread call a function of `sql` for the namespace; if it writes, in a transaction."""
        if self._file is None:
            raise ConnectionResetError(f"{self!r} is not connected")
        return await self._file.run(lambda db: work(db, self.link.namespace, *arguments), writes=writes)

    async def _write(self, work: Callable[..., V], *arguments: Any) -> V:
        return await self._ask(work, *arguments, writes=True)

    async def ping(self) -> None:
        await self._ask(lambda db, space: None)

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        address = self.addresses.address
        stored = [(each.sequence, address(each.key), each.payload, each.due) for each in records if not each.is_control]
        control = [(address(each.key), each.payload) for each in records if each.is_control]
        try:
            await self._write(sql.send, self.link.sender, stored, control, self._maxlen)
        except _REFUSALS as error:
            return dict.fromkeys(range(len(records)), error)
        except BrokerBusy:
            raise
        except HubsubError as error:
            # A damaged file: it is opened again, and none of the records is to blame.
            self.inbox.fail(error)
            raise BrokerBusy(str(error)) from error
        return {}

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        def begin(db: sqlite3.Connection, space: str) -> None:
            self._heard = sql.last_control(db)
            self._listening = {self.addresses.address(key): key for key in keys}

        await self._ask(begin)

    def _hear(self, db: sqlite3.Connection, space: str) -> list[Received]:
        """Return the control messages that have come; called in the thread of the file."""
        listening = self._listening
        rows = sql.control(db, space, self._heard) if listening else []
        if rows:
            self._heard = rows[-1][0]
        return [Received(listening[key], data, is_control=True) for _, key, data in rows if key in listening]

    # The log

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        return await self._ask(sql.read, after, limit)

    def received(self, row: Row, position: str | None, token: Any = None) -> Received:
        sound, error = sql.judged(row)
        found = super().received(sound, position, token)
        return found if error is None else found._replace(trouble=error)

    async def before(self, moment: float) -> int:
        return await self._ask(sql.before, moment)

    async def hold(self, seconds: float, position: str | None = None) -> str | None:
        return await self._write(sql.hold, self.link.name, self.link.sender, seconds, position)

    async def join(self, after: int) -> bool:
        return await self._write(sql.join, self.link.group, after)

    async def take(self, limit: int) -> tuple[str, Sequence[Row], int]:
        if not await self._ask(sql.has_news, self.link.group):
            return "", [], 0
        return await self._write(sql.take, self.link.group, self.link.sender, limit, self.lease)

    async def prolong(self, numbers: Sequence[int] | None, seconds: float) -> None:
        await self._write(sql.prolong, self.link.group, self.link.sender, numbers, seconds)

    async def done(self, numbers: Sequence[int]) -> None:
        await self._write(sql.done, self.link.group, numbers)

    # Dead letters

    async def bury(self, received: Received, why: str) -> Exception | None:
        address = self.addresses.address(received.key)
        try:
            await self._write(sql.bury, self.link.reader, address, received, why, self._maxlen)
        except _REFUSALS as error:
            return error
        return None

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        rows = await self._ask(sql.letters, limit, sys.maxsize if before is None else letter_number(before))
        return [
            Buried(self.received((*row, None, attempts), position), str(reason or ""), f"dead-{row[0]}", time, reader)
            for *row, position, attempts, reason, reader, time in rows
        ]

    async def redeliver(self, position: str) -> None:
        if not await self._write(sql.send_back, letter_number(position), self._maxlen):
            raise NoSuchLetter(position)


_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, OverflowError)
"""Errors by which SQLite refuses a record for good: it is too long, or a trigger of the user forbids it."""
