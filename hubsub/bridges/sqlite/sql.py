"""The tables of a log in SQLite, and the functions that query them; those that write run within a transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from os import urandom
from time import time as now
from typing import Any, TypeVar

from ...errors import BridgeError
from ..adapter import Received
from ..log import LogState, Row

Connection = sqlite3.Connection
R = TypeVar("R", bound=tuple[Any, ...])

VERSION = 1
"""The version of the tables, in `pragma user_version`."""
OURS = int.from_bytes(b"hubs")
"""Marks a file of hubsub, in `pragma application_id`."""
MOST_BYTES = 4 << 20
"""The most bytes of payloads in one read; but at least one message is read."""
CONTROL_SECONDS = 30
"""Seconds for which a control message is kept."""
MOST_CONTROL = 100_000
"""The most control messages that are kept."""
SENDER_SECONDS = 86400
"""Seconds for which the last sequence of a sender is kept."""

# A message with a `reader` is a dead letter that was sent back to it. `shared` has a group, and the number of its next
# message, which no member has received yet. A message that was handed back is in hand, with no owner, until 0.
TABLES = """
create table if not exists log (space text primary key, epoch text, last integer, time real) without rowid;
create table if not exists message (space text, number integer, key text, data blob, time real, reader text,
    primary key (space, number)) without rowid;
create table if not exists sender (space text, sender text, last integer, time real,
    primary key (space, sender)) without rowid;
create table if not exists name (space text, name text, place text, owner text, until real,
    primary key (space, name)) without rowid;
create table if not exists shared (space text, name text, next integer, primary key (space, name)) without rowid;
create table if not exists in_hand (space text, name text, number integer, owner text, until real, attempts integer,
    primary key (space, name, number)) without rowid;
create index if not exists in_hand_until on in_hand (space, name, until);
create table if not exists control (number integer primary key autoincrement, space text, key text, data blob,
    time real);
create table if not exists delayed (number integer primary key autoincrement, space text, key text, data blob,
    due real);
create index if not exists delayed_due on delayed (space, due);
create table if not exists dead (number integer primary key autoincrement, space text, key text, data blob, stored real,
    position text, attempts integer, reason text, reader text, time real);
"""
NAMES = frozenset(re.findall(r"(?:table|index) if not exists (\w+)", TABLES))
# Cast, since another program may have written anything.
MESSAGES = """select number, cast(key as blob), data, time, reader, 0 from message where space = ? and number >= ?
    order by number limit ?"""
DUE = """select h.number, cast(m.key as blob), m.data, m.time, m.reader, h.attempts + (h.owner is not null),
        m.number is null
    from in_hand h left join message m on m.space = h.space and m.number = h.number
    where h.space = ? and h.name = ? and h.until <= ? order by h.number limit ?"""
# Whoever keeps a position for a name has to hold it already.
HOLD = """insert into name values (?, ?, ?, ?, ?) on conflict (space, name) do update
    set owner = excluded.owner, until = excluded.until, place = coalesce(excluded.place, name.place)
    where name.owner = excluded.owner or (name.until <= ? and excluded.place is null)"""
TAKE = "insert or replace into in_hand values (?, ?, ?, ?, ?, ?)"
CONTROL = "select number, key, data from control where space = ? and number > ? order by number"
BURY = """insert into dead (space, key, data, stored, position, attempts, reason, reader, time)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
LETTERS = """select number, cast(key as blob), data, stored, position, attempts, reason, reader, time from dead
    where space = ? and number < ? order by number desc limit ?"""


class GroupGone(ConnectionError):
    """The group no longer exists."""


# Opening


def prepare(db: Connection, path: str, space: str, synchronous: str) -> None:
    """Create the tables, and the log of a namespace, if there are none.

    Raises:
        BridgeError: The file belongs to another program, has another version, or is where no log can be.
    """
    if not _is_ready(db, path, space):
        (mode,) = db.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise BridgeError(f"{path} is on a disk where SQLite cannot share memory: use a local disk")
        db.execute("begin immediate")
        try:
            if not _is_ready(db, path, space):
                # Also if somebody has dropped a table of the log: its messages are reported as missing.
                for statement in TABLES.strip().split(";\n"):
                    db.execute(statement)
                db.execute(f"pragma user_version = {VERSION}")
                db.execute(f"pragma application_id = {OURS}")
                db.execute("insert or ignore into log values (?, ?, 0, 0)", (space, urandom(8).hex()))
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise
    db.execute(f"pragma synchronous = {synchronous}")


def _is_ready(db: Connection, path: str, space: str) -> bool:
    there = {name for (name,) in db.execute("select name from sqlite_master where name not like 'sqlite_%'")}
    (version,), (owner,) = (db.execute(f"pragma {name}").fetchone() for name in ("user_version", "application_id"))
    if not (there or version or owner):
        return False
    if owner != OURS:
        raise BridgeError(f"{path} is the database of another program: give the log a file of its own")
    if version != VERSION:
        raise BridgeError(
            f"{path} has tables of version {version}, and this hubsub knows version {VERSION}: use another file, or the"
            " hubsub that made it"
        )
    if not there >= NAMES:
        return False
    return db.execute("select 1 from log where space = ?", (space,)).fetchone() is not None


# Reading


def state(db: Connection, space: str) -> LogState:
    """Return the state of a log.

    Raises:
        ConnectionError: The namespace no longer has a log; connecting again creates one.
    """
    epoch, last, _ = _log(db, space)
    (first,) = db.execute("select min(number) from message where space = ?", (space,)).fetchone()
    return LogState(epoch, last + 1 if first is None else first, last)


def _log(db: Connection, space: str) -> tuple[str, int, float]:
    """Return the epoch and the last number of a log, and when that was stored.

    Another program may have added messages by itself.
    """
    found = db.execute("select epoch, last, time from log where space = ?", (space,)).fetchone()
    if found is None:
        raise ConnectionResetError(f"the log of {space!r} was deleted")
    (last,) = db.execute("select max(number) from message where space = ?", (space,)).fetchone()
    return found[0], max(found[1], last or 0), found[2]


def read(db: Connection, space: str, after: int, limit: int) -> tuple[LogState, list[Row]]:
    """Return the state of the log, and the first messages after a number."""
    db.execute("begin")
    try:
        return state(db, space), list(_bounded(db.execute(MESSAGES, (space, after + 1, limit))))
    finally:
        db.execute("rollback")


def _bounded(rows: Iterable[R]) -> Iterator[R]:
    """Yield rows until their payloads, in the third column, exceed `MOST_BYTES`."""
    size = 0
    for row in rows:
        yield row
        size += len(row[2] or b"") if isinstance(row[2], (bytes, str)) else 0
        if size > MOST_BYTES:
            break


def judged(row: tuple[Any, ...]) -> tuple[Row, TypeError | None]:
    """Return a message with a text for its address and bytes for its payload; and what is wrong if they were neither.

    Another program may have written anything.
    """
    number, key, payload, time, reader, attempts = row
    error: TypeError | None = None
    address = "?"
    if isinstance(key, bytes):
        address = key.decode("utf-8", "surrogateescape")
    else:
        error = TypeError(f"its key is {key!r}, which is not text")
    if isinstance(payload, str):
        payload = payload.encode("utf-8", "surrogatepass")
    elif not isinstance(payload, bytes | None):
        payload, error = repr(payload).encode(), TypeError(f"its payload is {payload!r}, which is not bytes")
    return (number, address, payload, time, None if reader is None else str(reader), attempts), error


def before(db: Connection, space: str, moment: float) -> int:
    """Return the number of the last message that was stored before a moment; the times of messages never fall."""
    there = state(db, space)
    low, high = there.first - 1, there.last
    while low < high:
        middle = (low + high + 1) // 2
        query = "select number, time from message where space = ? and number >= ? order by number limit 1"
        number, time = db.execute(query, (space, middle)).fetchone() or (middle, float("inf"))
        if time < moment:
            low = number
        else:
            high = middle - 1
    return low


def control(db: Connection, space: str, after: int) -> list[tuple[int, str, bytes]]:
    """Return the control messages after a number."""
    return db.execute(CONTROL, (space, after)).fetchall()


def last_control(db: Connection) -> int:
    """Return the number of the last control message ever."""
    found = db.execute("select seq from sqlite_sequence where name = 'control'").fetchone()
    return 0 if found is None else int(found[0])


# Writing


def send(
    db: Connection,
    space: str,
    sender: str,
    rows: Sequence[tuple[int, str, bytes, float | None]],
    control: Sequence[tuple[str, bytes]],
    maxlen: int | None,
) -> None:
    """Store messages, and control messages for whoever listens to their addresses now.

    Args:
        rows: The sequence, address and payload of each message, and when it is due, if later. Those that were stored
            before are skipped.
        control: The address and payload of each control message.
    """
    time = now()
    db.executemany(
        "insert into control (space, key, data, time) values (?, ?, ?, ?)",
        [(space, address, data, time) for address, data in control],
    )
    found = db.execute("select last from sender where space = ? and sender = ?", (space, sender)).fetchone()
    new = [row for row in rows if found is None or row[0] > found[0]]
    if not new:
        return
    _store(db, space, [(address, data, None) for _, address, data, due in new if due is None], maxlen)
    later = [(space, address, data, due) for _, address, data, due in new if due is not None]
    db.executemany("insert into delayed (space, key, data, due) values (?, ?, ?, ?)", later)
    db.execute("insert or replace into sender values (?, ?, ?, ?)", (space, sender, new[-1][0], now()))


def next_due(db: Connection, space: str) -> float | None:
    """Return when the first delayed message is due; None if there is none."""
    (due,) = db.execute("select min(due) from delayed where space = ?", (space,)).fetchone()
    return None if due is None else float(due)


def _release(db: Connection, space: str, maxlen: int | None) -> None:
    """Place the delayed messages that are due among the others."""
    query = "select number, key, data from delayed where space = ? and due <= ? order by due, number limit 1000"
    found = db.execute(query, (space, now())).fetchall()
    if found:
        _store(db, space, [(key, data, None) for _, key, data in found], maxlen)
        db.executemany("delete from delayed where number = ?", [(number,) for number, _, _ in found])


def _store(db: Connection, space: str, rows: Sequence[tuple[Any, Any, str | None]], maxlen: int | None) -> None:
    """Append messages, each with address, payload and reader."""
    if not rows:
        return
    _, last, time = _log(db, space)
    time = max(time, now())  # a clock that is set back does not disturb their order
    db.executemany(
        "insert into message values (?, ?, ?, ?, ?, ?)",
        [(space, number, address, data, time, reader) for number, (address, data, reader) in enumerate(rows, last + 1)],
    )
    last += len(rows)
    db.execute("update log set last = ?, time = ? where space = ?", (last, time, space))
    if maxlen is not None:
        db.execute("delete from message where space = ? and number <= ?", (space, last - maxlen))


def tidy(db: Connection, space: str, maxlen: int | None, max_age: float | None) -> None:
    """Deliver the delayed messages that are due, and delete what is too old.

    That is control messages, what is known of senders, and messages if they have an age.
    """
    _release(db, space, maxlen)
    time = now()
    oldest = db.execute("select time from control order by number limit 1").fetchone()
    if oldest is not None and not time - CONTROL_SECONDS <= oldest[0] <= time:
        db.execute("delete from control where not time between ? and ?", (time - CONTROL_SECONDS, time))
    db.execute("delete from control where number <= ?", (last_control(db) - MOST_CONTROL,))
    db.execute("delete from sender where space = ? and time < ?", (space, time - SENDER_SECONDS))
    if max_age is not None:
        db.execute("delete from message where space = ? and number <= ?", (space, before(db, space, time - max_age)))


# Names


def hold(db: Connection, space: str, name: str, owner: str, seconds: float, place: str | None) -> str | None:
    """Hold a name, and keep a place for it; return what is kept, or None if another sender holds it."""
    time = now()
    if not db.execute(HOLD, (space, name, place, owner, time + seconds, time)).rowcount:
        return None
    (kept,) = db.execute("select place from name where space = ? and name = ?", (space, name)).fetchone()
    return "" if kept is None else str(kept)


# Groups


def join(db: Connection, space: str, group: str, after: int) -> bool:
    """Create a group if there is none; return whether it was created."""
    made = db.execute("insert or ignore into shared values (?, ?, ?)", (space, group, after + 1))
    return made.rowcount > 0


def has_news(db: Connection, space: str, group: str) -> bool:
    """Return whether there are messages for a member of a group."""
    start = _next(db, space, group)
    (is_due,) = db.execute(
        "select exists (select 1 from in_hand where space = ? and name = ? and until <= ?)", (space, group, now())
    ).fetchone()
    return bool(is_due) or state(db, space).last >= start


def _next(db: Connection, space: str, group: str) -> int:
    found = db.execute("select next from shared where space = ? and name = ?", (space, group)).fetchone()
    if found is None:
        raise GroupGone(f"the group {group!r} of {space!r} was deleted")
    return int(found[0])


def take(db: Connection, space: str, group: str, owner: str, limit: int, lease: float) -> tuple[str, list[Row], int]:
    """Lend a member messages that nobody has; return the epoch, the messages, and how many are gone."""
    time = now()
    there, start = state(db, space), _next(db, space, group)
    rows: list[Row] = []
    gone: list[int] = []
    for *row, is_gone in _bounded(db.execute(DUE, (space, group, time, limit))):
        if is_gone:
            gone.append(row[0])
        else:
            rows.append(tuple(row))
    done(db, space, group, gone)
    missing = len(gone)
    if not rows:
        for row in _bounded(db.execute(MESSAGES, (space, start, limit))):
            missing += row[0] - start
            start = row[0] + 1
            rows.append(row)
        if not rows and there.last >= start:
            missing += there.last + 1 - start
            start = there.last + 1
        db.execute("update shared set next = ? where space = ? and name = ?", (start, space, group))
    until = time + lease
    db.executemany(TAKE, [(space, group, row[0], owner, until, row[5]) for row in rows])
    return there.epoch, rows, missing


def done(db: Connection, space: str, group: str, numbers: Iterable[int]) -> None:
    """Count messages as handled: nobody has them any more."""
    db.executemany(
        "delete from in_hand where space = ? and name = ? and number = ?",
        [(space, group, number) for number in numbers],
    )


def prolong(db: Connection, space: str, group: str, owner: str, numbers: Iterable[int] | None, seconds: float) -> None:
    """Extend the leases of those of these messages, or of all, that a member has; 0 seconds hand them back."""
    query = "update in_hand set owner = ?, until = ? where space = ? and name = ? and owner = ?"
    values = (owner if seconds else None, now() + seconds if seconds else 0, space, group, owner)
    if numbers is None:
        db.execute(query, values)
    else:
        db.executemany(f"{query} and number = ?", [(*values, number) for number in numbers])


# Dead letters


def bury(
    db: Connection, space: str, reader: str, address: str, received: Received, why: str, maxlen: int | None
) -> None:
    """Append a message that cannot be handled to the dead letters."""
    _, payload, _, _, position, _, attempts, time, *_ = received
    values = (space, address, payload, time, position, attempts, why, reader, now())
    number = db.execute(BURY, values).lastrowid
    if maxlen is not None:
        db.execute("delete from dead where space = ? and number <= ?", (space, (number or 0) - maxlen))


def letters(db: Connection, space: str, limit: int, before: int) -> list[tuple[Any, ...]]:
    """Return the last dead letters below a number, the oldest first."""
    return db.execute(LETTERS, (space, before, limit)).fetchall()[::-1]


def send_back(db: Connection, space: str, number: int, maxlen: int | None) -> bool:
    """Move a dead letter back to the messages; return whether there was one."""
    which = (space, number)
    found = db.execute("select key, data, reader from dead where space = ? and number = ?", which).fetchone()
    if found is None:
        return False
    _store(db, space, [found], maxlen)
    db.execute("delete from dead where space = ? and number = ?", which)
    return True
