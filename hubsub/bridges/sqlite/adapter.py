"""`sqlite:///absolute/path`, `sqlite://relative/path`: a log in a file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ...errors import BrokerBusy, HubsubError, NoSuchLetter
from ...key import Key
from ..adapter import Buried, Link, Loss, Received, Record, SentBack
from ..log import LogAdapter
from ..numbered import LogState
from ..urls import count, decoded, one_of, or_none, read_options, seconds, split_query
from . import sql
from .file import File, Work

V = TypeVar("V")
LIKE = "sqlite:///absolute/path or sqlite://relative/path"
OPTIONS = {
    "maxlen": or_none(count("messages")),
    "max_age": or_none(seconds(most=1e10)),
    "lease": seconds(),
    "synchronous": one_of("normal", "full"),
}
LEAVE_SECONDS = 0.5
"""How long closing waits for the file to be closed; a disk that does not answer is left alone."""


class SQLiteAdapter(LogAdapter):
    """A log in a file of SQLite: durable, without any server, for all processes of one machine.

    Args:
        url: `sqlite:///absolute/path` or `sqlite://relative/path`, options in its query; or a path, as `pathlib` has
            them. The file is made if it is not there; its folder has to be.
        maxlen: Messages that a namespace keeps, by default 1 000 000; None, in a URL `none`, for all.
        max_age: Seconds that a message is kept; by default, and with None, for ever.
        lease: Seconds after which what a member of a group has not finished is given to another, unless extended; 30.
        synchronous: What a confirmation survives: "normal", the death of every process; "full", a power cut too.

    Raises:
        TypeError: There is no such option, or it is given twice.
        ValueError: The URL or a figure makes no sense.
    """

    features = replace(LogAdapter.features, max_payload=512 << 20, dead_letters=True, delays=True)

    def __init__(self, url: str | os.PathLike[str], **options: Any) -> None:
        path, in_url = _read(url) if isinstance(url, str) else (os.fspath(url), ())
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

    # The file

    async def open(self) -> None:
        if self._file is not None:
            await self._file.ended()  # one thread at a time, also when a disk does not answer
        self._listening = {}
        self._file = self.make_file(self.link)
        await self._file.open()

    def make_file(self, link: Link) -> File:
        """The file, not open yet; for tests, which can have it misbehave."""
        space, inbox = link.namespace, self.inbox

        def changed(db: sqlite3.Connection) -> float | None:
            file.post(self._came, inbox, self._hear(db, space))
            return sql.next_due(db, space)

        def prepare(db: sqlite3.Connection) -> None:
            sql.prepare(db, self.path, space, self._synchronous)

        def tidy(db: sqlite3.Connection) -> None:
            sql.release(db, space, self._maxlen)
            sql.tidy(db, space, self._max_age)

        file = File(self.path, prepare, changed, tidy, inbox.fail)
        return file

    async def shut(self) -> None:
        if self._file is not None:
            self._file.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._file.ended(), LEAVE_SECONDS)

    def forget(self) -> None:
        if self._file is not None:
            self._file.close()  # in a forked process there is no thread to close it, and nothing is touched
            self._file = None

    async def _ask(self, work: Work[V]) -> V:
        return await self._opened().run(work)

    async def _write(self, work: Work[V]) -> V:
        return await self._opened().run(work, writes=True)

    def _opened(self) -> File:
        if self._file is None:
            raise ConnectionResetError(f"{self!r} is not connected")
        return self._file

    async def ping(self) -> None:
        await self._ask(lambda db: None)

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        link, address = self.link, self.addresses.address
        stored = [(each.sequence, address(each.key), each.payload, each.due) for each in records if not each.is_control]
        control = [(address(each.key), each.payload) for each in records if each.is_control]

        def store(db: sqlite3.Connection) -> None:
            sql.append(db, link.namespace, link.sender, stored, self._maxlen)
            sql.tell(db, link.namespace, control)

        try:
            await self._write(store)
        except _REFUSALS as error:
            return dict.fromkeys(range(len(records)), error)
        except BrokerBusy:
            raise
        except HubsubError as error:
            # A damaged file takes nothing either: it is opened anew, and none of the records is to blame.
            self.inbox.fail(error)
            raise BrokerBusy(str(error)) from error
        return {}

    async def bury(self, received: Received, why: str) -> Exception | None:
        link, address = self.link, self.addresses.address(received.key)
        try:
            await self._write(
                lambda db: sql.bury(db, link.namespace, link.reader, address, received, why, self._maxlen)
            )
        except _REFUSALS as error:
            return error
        return None

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        bound = sys.maxsize if before is None else _number_of_letter(before)
        found = []
        for number, *row, position, attempts, reason, reader, time in await self._ask(
            lambda db: sql.letters(db, self.link.namespace, limit, bound)
        ):
            received = super().received((number, *row), None, "", attempts)._replace(position=position)
            found.append(Buried(received, str(reason or ""), f"{LETTER}{number}", time, reader))
        return found

    async def redeliver(self, position: str) -> None:
        link, number = self.link, _number_of_letter(position)
        if not await self._write(lambda db: sql.send_back(db, link.namespace, number, self._maxlen)):
            raise NoSuchLetter(position)

    # Control messages

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        def begin(db: sqlite3.Connection) -> None:
            self._heard = sql.last_control(db)
            self._listening = {self.addresses.address(key): key for key in keys}

        await self._ask(begin)

    def _hear(self, db: sqlite3.Connection, space: str) -> list[Received]:
        """The control messages that have come; in the thread of the file."""
        if not self._listening:
            return []
        rows = sql.control(db, space, self._heard)
        if rows:
            self._heard = rows[-1][0]
        listening = self._listening
        return [Received(listening[key], data, is_control=True, time=None) for _, key, data in rows if key in listening]

    def _came(self, inbox: Any, control: list[Received]) -> None:
        inbox.put(control)
        inbox.ring()

    # What the log is asked

    async def state(self) -> LogState:
        return await self._ask(lambda db: sql.state(db, self.link.namespace))

    def received(self, row: Any, token: Any, epoch: str, attempts: int = 0) -> Received:
        found = super().received(row[:4], token, epoch, attempts)
        return found if row[4] is None else SentBack.to(str(row[4]), found)

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Any]]:
        return await self._ask(lambda db: sql.read(db, self.link.namespace, after, limit))

    async def before(self, moment: float) -> int:
        return await self._ask(lambda db: sql.before(db, self.link.namespace, moment))

    async def hold(self, name: str, seconds: float) -> bool:
        link = self.link
        return await self._write(lambda db: sql.hold(db, link.namespace, name, link.sender, seconds))

    async def kept(self, name: str) -> str | None:
        return await self._ask(lambda db: sql.kept(db, self.link.namespace, name))

    async def keep(self, name: str, place: str) -> bool:
        link = self.link
        return await self._write(lambda db: sql.keep(db, link.namespace, name, link.sender, place))

    async def join(self, group: str, after: int) -> bool:
        link = self.link
        return await self._write(lambda db: sql.join(db, link.namespace, group, link.sender, after))

    async def take(self, group: str, limit: int) -> Sequence[Received | Loss]:
        link = self.link
        if not await self._ask(lambda db: sql.has_news(db, link.namespace, group)):
            return []
        there, taken, missing = await self._write(
            lambda db: sql.take(db, link.namespace, group, link.sender, limit, self.lease)
        )
        lost = [Loss("trimmed", missing)] if missing else []
        return [*lost, *(self.received(row, row[0], there.epoch, attempts) for row, attempts in taken)]

    async def done(self, group: str, numbers: Sequence[int]) -> None:
        await self._write(lambda db: sql.done(db, self.link.namespace, group, numbers))

    async def prolong(self, group: str, numbers: Sequence[int]) -> None:
        link = self.link
        await self._write(lambda db: sql.prolong(db, link.namespace, group, link.sender, numbers, self.lease))

    async def give_back(self, group: str, numbers: Sequence[int] | None) -> None:
        link = self.link
        await self._write(lambda db: sql.give_back(db, link.namespace, group, link.sender, numbers))


_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, OverflowError)
"""Of a record for good: it is too long, or a trigger of the user's forbids it."""

LETTER = "dead-"
"""What the position of a dead letter begins with; behind it is its number."""


def _number_of_letter(position: str) -> int:
    number = position.removeprefix(LETTER)
    if number == position or not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise NoSuchLetter(position)
    return int(number)


def _read(url: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Path and options of a URL."""
    scheme, colon, rest = url.partition("://")
    if scheme != "sqlite" or not colon:
        raise ValueError(f"a log in SQLite is {LIKE}; a path alone is given as a pathlib.Path")
    rest, options = split_query(rest, LIKE)
    path = decoded(rest, LIKE)
    if path.startswith("/"):
        path = f"/{path.lstrip('/')}"  # as SQLAlchemy has it, with two slashes
    if path in ("", "/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"the URL names no file: it is like {LIKE}")
    if path.strip("/") == ":memory:":
        raise ValueError(
            "a database in memory is of one connection alone; a bridge within one process is memory://name"
        )
    return path, options
