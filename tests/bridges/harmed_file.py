"""A file of SQLite, as the fault suite wants a broker: on a disk that can hang, vanish, be slow and be locked."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any, cast
from unittest import SkipTest

from hubsub.bridges import Adapter, Link
from hubsub.bridges.sqlite import SQLiteAdapter
from hubsub.bridges.sqlite.file import File
from hubsub.testing import conformance


class HarmedSQLite(conformance.Broker):
    """A file, on a disk that can hang, vanish and be slow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "there"
        self.folder.mkdir(exist_ok=True)
        self.line = DiskLine()
        self.disk = DiskLine()
        self._stranger: sqlite3.Connection | None = None

    def adapter(self, *, direct: bool = False) -> Adapter:
        return HarmedAdapter(self.folder / "log.db", [self.disk] if direct else [self.disk, self.line])

    @property
    def _away(self) -> Path:
        return self.folder.with_name("away")

    async def start(self) -> None:
        if self._away.exists():
            self._away.rename(self.folder)

    def kill(self) -> None:
        self.folder.rename(self._away)

    def freeze(self) -> None:
        self.disk.stall()

    def thaw(self) -> None:
        self.disk.resume()

    def open(self) -> sqlite3.Connection:
        """Open the file as another program does."""
        return sqlite3.connect(self.folder / "log.db", isolation_level=None, timeout=30)

    async def refuse_writes(self) -> None:
        self._stranger = self.open()
        self._stranger.execute("begin immediate")

    async def take_writes(self) -> None:
        if self._stranger is not None:
            self._stranger.close()
            self._stranger = None

    async def forbid(self, namespace: str) -> None:
        self._execute(
            f"create trigger forbidden before insert on message when new.space = '{namespace}' begin"
            " select raise(abort, 'forbidden'); end"
        )

    async def allow(self, namespace: str) -> None:
        self._execute("drop trigger forbidden")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        for parts, payload, _ in messages:
            address: Any = parts if isinstance(parts, bytes) else "/".join(parts).encode("utf-8", "surrogatepass")
            self._execute(
                "insert into message select ?, last + 1, ?, ?, 1, null from (select max(last, coalesce("
                "(select max(number) from message where space = log.space), 0)) as last from log where space = ?)",
                namespace,
                address,
                payload,
                namespace,
            )

    def _execute(self, query: str, *values: Any) -> None:
        with closing(self.open()) as db:
            db.execute(query, values)


class DiskLine:
    """What is between an adapter and a file: nothing, unless that is slow, hangs or breaks."""

    def __init__(self) -> None:
        self.files: set[HarmedFile] = set()
        self._may_ask, self._may_answer = Event(), Event()
        self._may_ask.set()
        self._may_answer.set()
        self._seconds = 0.0
        self._is_refusing = False
        self._left: int | None = None  # questions, until it is cut

    @property
    def connections(self) -> int:
        return len(self.files)

    def open(self, file: HarmedFile) -> None:
        self._may_ask.wait()
        if self._is_refusing:
            raise ConnectionRefusedError("refused by the test")
        self.files.add(file)

    def ask(self) -> None:
        """Pass, as soon as that is possible."""
        self._may_ask.wait()
        sleep(self._seconds)

    def answer(self) -> None:
        """Come back, as soon as that is possible."""
        self._may_answer.wait()
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.cut()

    def cut(self) -> None:
        self._left = None
        for file in list(self.files):
            file.is_cut = True

    def cut_after(self, size: int) -> None:
        self._left = size // 50

    def abandon(self) -> None:
        raise SkipTest("a file knows nothing of those who have it open")

    def forget(self) -> None:
        pass

    def stall(self) -> None:
        self._may_ask.clear()

    def stall_replies(self) -> None:
        self._may_answer.clear()

    def resume(self) -> None:
        self._may_ask.set()
        self._may_answer.set()

    def slow(self, rate: float | None) -> None:
        if rate is not None:
            raise SkipTest("a file has no narrow line, only one that takes long")

    def delay(self, seconds: float) -> None:
        self._seconds = seconds

    def refuse(self) -> None:
        self._is_refusing = True

    async def accept(self) -> None:
        self._is_refusing = False


class HarmedFile(File):
    """One that is opened, asked and answers over such lines."""

    lines: list[DiskLine]
    is_cut = False

    def _connect(self) -> sqlite3.Connection:
        for line in self.lines:
            line.open(self)
        return super()._connect()

    def _main(self) -> None:
        try:
            super()._main()
        finally:
            for line in self.lines:
                line.files.discard(self)

    def _do(self, db: sqlite3.Connection, job: Any) -> None:
        def work(db: sqlite3.Connection) -> Any:
            if self.is_cut:
                raise ConnectionResetError("cut by the test")
            return job.work(db)

        for line in self.lines:
            line.ask()
        super()._do(db, job._replace(work=work))

    def _look(self, db: sqlite3.Connection) -> None:
        if self.is_cut:
            raise ConnectionResetError("cut by the test")
        super()._look(db)

    def post(self, call: Any, *arguments: Any) -> None:
        for line in self.lines:
            line.answer()
        super().post(call, *arguments)


class HarmedAdapter(SQLiteAdapter):
    """Opens such files."""

    def __init__(self, path: Path, lines: list[DiskLine]) -> None:
        super().__init__(path)
        self._lines = lines

    def make_file(self, link: Link) -> File:
        file = super().make_file(link)
        file.__class__ = HarmedFile
        cast(HarmedFile, file).lines = self._lines
        return file
