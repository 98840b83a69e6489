"""A file of SQLite, open in a thread of its own: what is asked of it never stops the loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from ...errors import BridgeError, BrokerBusy

V = TypeVar("V")
Connection = sqlite3.Connection
Work = Callable[[Connection], V]

LOCKED_SECONDS = 0.2
"""How long SQLite waits for a lock; meanwhile nothing else is done in the thread."""
PATIENCE = 2.0
"""How long a lock is waited for in all, with other work in between."""
LOOK_SECONDS = 0.004
"""Between two looks whether another connection has changed something, while there is nothing to do."""
UPKEEP_SECONDS = 1.0
"""Between two looks whether the file is still the one that was opened, and whether there is something to tidy up."""


class Locked(BrokerBusy):
    """Another program holds a lock that is needed."""


class _Job(NamedTuple):
    work: Work[Any]
    done: asyncio.Future[Any]
    writes: bool


class File:
    """One connection to the file, from `open` to `close`, made for one event loop.

    Args:
        path: Where it is.
        prepare: Called with the new connection, in the thread.
        changed: Called in the thread whenever something was committed, by whomever.
        tidy: Called in the thread about once a second.
        failed: Called on the loop when looking for changes fails: the connection is of no use any more.
    """

    def __init__(
        self,
        path: str,
        prepare: Work[None],
        changed: Work[None],
        tidy: Work[None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.path = path
        self._prepare = prepare
        self._changed = changed
        self._tidy = tidy
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._is_closed = False
        self._identity: tuple[int, int] | None = None
        self._upkeep_at = self._look_at = 0.0
        self._version = 0

    # On the loop

    async def open(self) -> None:
        """Open it.

        Raises:
            BridgeError: It cannot be opened; the message names the remedy.
        """
        # A thread that the interpreter does not wait for: SQLite undoes what it was about to write.
        Thread(target=self._main, name=f"hubsub {os.path.basename(self.path)}", daemon=True).start()
        await self._opened

    async def run(self, work: Work[V], *, writes: bool = False) -> V:
        """Do some work in the thread; if it writes, as one transaction, which is undone if it fails.

        Raises:
            BrokerBusy: Nothing can be written just now, and nothing was: the file is locked, or its disk is full.
            BridgeError: It is damaged, or whatever else SQLite says; the message names the remedy.
            ConnectionError: It is closed, or the file was replaced.
        """
        until = self._loop.time() + PATIENCE
        while True:
            if self._is_closed:
                raise ConnectionResetError(f"{self.path} is closed")
            done: asyncio.Future[V] = self._loop.create_future()
            self._jobs.put(_Job(work, done, writes))
            try:
                return await done
            except Locked:
                if self._loop.time() > until:
                    raise

    def close(self) -> None:
        """Have the thread end, after what it is doing. Closing twice is safe."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)

    async def ended(self) -> None:
        """Wait until the thread has ended and the file is closed."""
        await self._ended.wait()

    # In the thread

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _main(self) -> None:
        db: Connection | None = None
        try:
            db = self._connect()
        except Exception as error:
            self.post(_settle, self._opened, None, explained(error, self.path))
        else:
            self.post(_settle, self._opened, None, None)
            self._work(db)
        finally:
            if db is not None:
                with suppress(sqlite3.Error):
                    db.close()
            self.post(self._ended.set)

    def _connect(self) -> Connection:
        until = monotonic() + PATIENCE
        while True:
            db = sqlite3.connect(self.path, timeout=LOCKED_SECONDS, isolation_level=None)
            try:
                self._prepare(db)
                self._identity = _identity(self.path)
            except sqlite3.OperationalError as error:
                db.close()
                if monotonic() > until or not isinstance(explained(error, self.path), Locked):
                    raise
            except BaseException:
                db.close()
                raise
            else:
                return db

    def _work(self, db: Connection) -> None:
        is_sound = True
        while not self._is_closed:
            try:
                job = self._jobs.get(timeout=LOOK_SECONDS if is_sound else None)
            except Empty:
                job = None
            if job is not None:
                self._do(db, job)
            if is_sound and not self._is_closed and (job is None or monotonic() > self._look_at):
                try:
                    self._look(db)
                except Exception as error:
                    trouble = explained(error, self.path)
                    if not isinstance(trouble, Locked):
                        is_sound = False
                        self.post(self._failed, trouble)
        with suppress(Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    self.post(_settle, job.done, None, ConnectionResetError(f"{self.path} is closed"))

    def _do(self, db: Connection, job: _Job) -> None:
        try:
            result = self._transact(db, job.work) if job.writes else job.work(db)
        except Exception as error:
            self.post(_settle, job.done, None, explained(error, self.path, writes=job.writes))
            return
        self.post(_settle, job.done, result, None)
        if job.writes:
            with suppress(sqlite3.Error):  # looking finds out
                self._changed(db)

    def _transact(self, db: Connection, work: Work[V]) -> V:
        db.execute("begin immediate")
        try:
            result = work(db)
            if self._is_closed:
                # Whoever wanted it has gone: what was to be taken would be in nobody's hands.
                raise ConnectionResetError(f"{self.path} is closed")
            db.execute("commit")
        except BaseException:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("rollback")
            raise
        self._check_identity()
        return result

    def _look(self, db: Connection) -> None:
        """Find out whether another connection has committed something; once a second look after all else."""
        now = monotonic()
        self._look_at = now + LOOK_SECONDS
        (version,) = db.execute("pragma data_version").fetchone()
        if version != self._version:
            self._version = version
            self._changed(db)
        if now > self._upkeep_at:
            self._upkeep_at = now + UPKEEP_SECONDS
            self._check_identity()
            with suppress(sqlite3.OperationalError):
                self._transact(db, self._tidy)

    def _check_identity(self) -> None:
        """See to it that others see what is written: a file that was deleted or replaced is nobody else's."""
        if _identity(self.path) != self._identity:
            raise ConnectionResetError(f"{self.path} was deleted, moved or replaced while it was open")


def _settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if not done.done():
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# What one record does, or a bug of ours.
_OF_ONE = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError)


def explained(error: Exception, path: str, *, writes: bool = False) -> Exception:
    """Return what an error of SQLite means for whoever uses the file, and what to do; any other one as it is."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, _OF_ONE):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = BrokerBusy if writes else BridgeError
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        kind, why = Locked, "is locked by another program: end the transaction that it holds open in it"
    elif code == sqlite3.SQLITE_FULL:
        why = "has no room to grow: make room on its disk, or raise the limit of its size"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        why = "is read only: give this user the right to write it, and the folder that it is in"
    elif code == sqlite3.SQLITE_IOERR:
        why = f"cannot be read or written ({error}): look at its disk, and at the limit of its size"
    elif code == sqlite3.SQLITE_CANTOPEN:
        why = "cannot be opened: its folder has to be there, and this user has to have the right to write in it"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        kind = BridgeError
        why = (
            f"is damaged, or no database of SQLite ({error}): move it away to begin a new log; its command .recover"
            " saves what can be read"
        )
    else:
        kind, why = BridgeError, f"cannot be used: {error}"
    found = kind(f"{path} {why}")
    found.__cause__ = error
    return found
