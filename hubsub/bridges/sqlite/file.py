"""A file of SQLite, open in a thread of its own, so that no query blocks the loop."""

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
"""Seconds that SQLite waits for a lock, and the thread with it."""
PATIENCE = 2.0
"""Seconds that a job waits for a lock in all, with other jobs in between."""
FORK_SECONDS = 2.0
"""Seconds that a fork waits until the file is closed; a file that hangs is left open."""
LOOK_SECONDS = 0.004
"""Seconds between two checks, in an idle thread, whether another connection has changed something."""
QUICK_SECONDS, QUICK_FOR = 0.001, 0.1
"""The same for a while after a change, since another one often follows soon; and for how many seconds."""
UPKEEP_SECONDS = 1.0
"""Seconds between two checks whether the file is still the one that was opened, and something to tidy up."""


class Locked(BrokerBusy):
    """Another program holds the lock that is needed."""


class _Job(NamedTuple):
    work: Work[Any]
    done: asyncio.Future[Any]
    writes: bool


class _Pause(NamedTuple):
    """A request to close the file while the process forks."""

    is_closed: Event
    is_over: Event


class File:
    """One connection to the file, from `open` to `close`, made for one event loop.

    Args:
        path: The path of the file.
        prepare: Called in the thread with the new connection.
        changed: Called in the thread after each commit of any process; returns the latest time for the next call of
            `tidy`, in seconds since the epoch.
        tidy: Called in the thread about once a second, within a transaction.
        failed: Called on the loop when checking for changes fails, which makes the connection useless.
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
        """Open the file.

        Raises:
            BridgeError: The file cannot be opened; the message names the remedy.
        """
        _FILES.add(self)
        # The interpreter does not wait for this thread: SQLite rolls back what it was about to write.
        Thread(target=self._main, name=f"hubsub {os.path.basename(self.path)}", daemon=True).start()
        await self._opened

    async def run(self, work: Work[V], *, writes: bool = False) -> V:
        """Call a function in the thread; if it writes, in a transaction, which is rolled back if the function fails.

        Raises:
            BrokerBusy: Nothing was written, since the file is locked, its disk is full, or the like.
            BridgeError: The file is damaged, or SQLite reports another error; the message names the remedy.
            ConnectionError: The file is closed, or was replaced.
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
        """End the thread after its current job. Closing twice is safe."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)

    async def ended(self) -> None:
        """Wait until the thread has ended and the file is closed."""
        await self._ended.wait()

    def pause(self) -> _Pause | None:
        """Request that the file is closed until `is_over` is set; return None if it is closed already."""
        if self._is_closed:
            return None
        pause = _Pause(Event(), Event())
        self._jobs.put(pause)
        return pause

    # In the thread

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
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
        """Open the file, do the jobs, and close it; start over after each fork."""
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
        """Do the jobs until the file is closed, or a pause is requested, which is returned."""
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
            with suppress(sqlite3.Error):  # the next check meets it, too
                self._tidy_by = self._changed(db)

    def _transact(self, db: Connection, work: Work[V]) -> V:
        db.execute("begin immediate")
        try:
            result = work(db)
            if self._is_closed:
                # Nobody waits for the result: messages that were lent would be in nobody's hands.
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
        """Check whether another connection has committed something; once a second, tidy up."""
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
        """Raise an error if the file was deleted or replaced: nobody else would see what is written to it."""
        if _identity(self.path) != self._identity:
            raise ConnectionResetError(f"{self.path} was deleted, moved or replaced while it was open")


# SQLite records for each process which locks it holds. A child would take its parent's locks for its own, and would
# continue to write to a file that its parent has deleted. So no file is open while a process forks.
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


# Errors that one record causes, or a bug of hubsub.
_OF_ONE = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError)


def explained(error: Exception, path: str, *, writes: bool = False) -> Exception:
    """Return an error that says what an error of SQLite means, and what to do; return any other error unchanged."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, _OF_ONE):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = BrokerBusy if writes else BridgeError
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        kind, why = Locked, "is locked by another program: end that program's open transaction"
    elif code == sqlite3.SQLITE_FULL:
        why = "has no room to grow: make room on its disk, or raise the limit of its size"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        why = "is read only: give this user the right to write it, and to write in its folder"
    elif code == sqlite3.SQLITE_IOERR:
        why = f"cannot be read or written ({error}): check its disk, and the limit of its size"
    elif code == sqlite3.SQLITE_CANTOPEN:
        why = "cannot be opened: its folder must exist, and this user needs the right to write in it"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        kind = BridgeError
        why = (
            f"is damaged, or no database of SQLite ({error}): move it away to begin a new log; SQLite's command"
            " .recover saves what can be read"
        )
    else:
        kind, why = BridgeError, f"cannot be used: {error}"
    found = kind(f"{path} {why}")
    found.__cause__ = error
    return found
