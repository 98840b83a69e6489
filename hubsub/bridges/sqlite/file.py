"""A file of SQLite, open in a thread of its own: what is asked of it never stops the loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic, time
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

from ...errors import BridgeError, BrokerBusy

V = TypeVar("V")
Connection = sqlite3.Connection
Work = Callable[[Connection], V]

LOCKED_SECONDS = 0.2
"""How long SQLite waits for a lock; meanwhile nothing else is done in the thread."""
PATIENCE = 2.0
"""How long a lock is waited for in all, with other work in between."""
FORK_SECONDS = 2.0
"""How long a fork waits until the file is closed: one that hangs is left open."""
LOOK_SECONDS = 0.004
"""Between two looks whether another connection has changed something, while there is nothing to do."""
QUICK_SECONDS, QUICK_FOR = 0.001, 0.1
"""The same, for so long after something was changed: what changes often is soon changed again."""
UPKEEP_SECONDS = 1.0
"""Between two looks whether the file is still the one that was opened, and whether there is something to tidy up."""


class Locked(BrokerBusy):
    """Another program holds a lock that is needed."""


class _Job(NamedTuple):
    work: Work[Any]
    done: asyncio.Future[Any]
    writes: bool


class _Pause(NamedTuple):
    """The file is to be closed while the process forks."""

    is_closed: Event
    is_over: Event


class File:
    """One connection to the file, from `open` to `close`, made for one event loop.

    Args:
        path: Where it is.
        prepare: Called with the new connection, in the thread.
        changed: Called in the thread whenever something was committed, by whomever; returns when `tidy` is to be
            called at the latest, in seconds since the epoch.
        tidy: Called in the thread about once a second, within a transaction.
        failed: Called on the loop when looking for changes fails: the connection is of no use any more.
    """

    def __init__(
        self,
        path: str,
        prepare: Work[None],
        changed: Work[float | None],
        tidy: Work[None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.path = path
        self._prepare = prepare
        self._changed = changed
        self._tidy = tidy
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | _Pause | None] = SimpleQueue()
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._is_closed = False
        self._identity: tuple[int, int] | None = None
        self._upkeep_at = self._look_at = self._quick_until = 0.0
        self._tidy_by: float | None = None
        self._version = 0

    # On the loop

    async def open(self) -> None:
        """Open it.

        Raises:
            BridgeError: It cannot be opened; the message names the remedy.
        """
        _FILES.add(self)
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

    def pause(self) -> _Pause | None:
        """Have the file be closed, until `is_over` is set; None if there is nothing to close."""
        if self._is_closed:
            return None
        pause = _Pause(Event(), Event())
        self._jobs.put(pause)
        return pause

    # In the thread

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _main(self) -> None:
        try:
            self._live()
        except Exception as error:
            trouble = explained(error, self.path)
            self.post(_settle, self._opened, None, trouble)
            self.post(self._failed, trouble)
            while (job := self._jobs.get()) is not None:
                self._refuse(job, trouble)
        with suppress(Empty):
            while True:
                self._refuse(self._jobs.get_nowait(), ConnectionResetError(f"{self.path} is closed"))
        self.post(self._ended.set)

    def _refuse(self, job: _Job | _Pause | None, error: Exception) -> None:
        if isinstance(job, _Pause):
            job.is_closed.set()
        elif job is not None:
            self.post(_settle, job.done, None, error)

    def _live(self) -> None:
        """Open, work, and close; once more after each fork."""
        while not self._is_closed:
            db = self._connect()
            self.post(_settle, self._opened, None, None)
            try:
                pause = self._work(db)
            finally:
                with suppress(sqlite3.Error):
                    db.close()
            if pause is not None:
                pause.is_closed.set()
                pause.is_over.wait()

    def _connect(self) -> Connection:
        until = monotonic() + PATIENCE
        while True:
            db = sqlite3.connect(self.path, timeout=LOCKED_SECONDS, isolation_level=None)
            try:
                self._prepare(db)
                self._identity = self._identity or _identity(self.path)
                self._check_identity()
                self._version = 0
            except sqlite3.OperationalError as error:
                db.close()
                if monotonic() > until or not isinstance(explained(error, self.path), Locked):
                    raise
            except BaseException:
                db.close()
                raise
            else:
                return db

    def _work(self, db: Connection) -> _Pause | None:
        """Do what is asked for, until it is to be closed, or to be closed for a while."""
        while not self._is_closed:
            try:
                job = self._jobs.get(timeout=QUICK_SECONDS if monotonic() < self._quick_until else LOOK_SECONDS)
            except Empty:
                job = None
            if isinstance(job, _Pause):
                return job
            if job is not None:
                self._do(db, job)
            if not self._is_closed and (job is None or monotonic() > self._look_at):
                try:
                    self._look(db)
                except sqlite3.OperationalError as error:
                    if not isinstance(explained(error, self.path), Locked):
                        raise
        return None

    def _do(self, db: Connection, job: _Job) -> None:
        try:
            result = self._transact(db, job.work) if job.writes else job.work(db)
        except Exception as error:
            self.post(_settle, job.done, None, explained(error, self.path, writes=job.writes))
            return
        self.post(_settle, job.done, result, None)
        if job.writes:
            with suppress(sqlite3.Error):  # looking finds out
                self._tidy_by = self._changed(db)

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
            self._quick_until = now + QUICK_FOR
            self._tidy_by = self._changed(db)
        if now > self._upkeep_at or (self._tidy_by is not None and time() > self._tidy_by):
            self._upkeep_at, self._tidy_by = now + UPKEEP_SECONDS, None
            self._check_identity()
            with suppress(sqlite3.OperationalError):
                self._transact(db, self._tidy)
                self._tidy_by = self._changed(db)

    def _check_identity(self) -> None:
        """See to it that others see what is written: a file that was deleted or replaced is nobody else's."""
        if _identity(self.path) != self._identity:
            raise ConnectionResetError(f"{self.path} was deleted, moved or replaced while it was open")


# SQLite remembers by process which locks it holds. A child would take those of its parent for its own, and go on
# writing into what its parent has deleted: so nothing is open while a process forks.
_FILES: WeakSet[File] = WeakSet()
_PAUSES: list[_Pause] = []


def _before_fork() -> None:
    _PAUSES.extend(pause for file in list(_FILES) if (pause := file.pause()) is not None)
    until = monotonic() + FORK_SECONDS
    for pause in _PAUSES:
        pause.is_closed.wait(max(0.0, until - monotonic()))


def _after_fork() -> None:
    for pause in _PAUSES:
        pause.is_over.set()
    _PAUSES.clear()


def _after_fork_in_child() -> None:
    _PAUSES.clear()
    _FILES.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


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
