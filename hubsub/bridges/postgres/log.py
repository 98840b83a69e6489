"""`postgres-log://`: a durable log in tables of PostgreSQL; NOTIFY only wakes its readers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from ...codec import codec_of
from ...errors import BridgeError, EncodeError, NoSuchLetter
from ...key import Key, KeyLike, publishable
from ..adapter import Buried, Link, Received, Record
from ..address import Addresses
from ..log import LogAdapter, LogState, Row, letter_number
from ..urls import count, or_none, seconds
from . import outbox, schema
from .alarm import Alarm
from .connections import Connections
from .database import Database, Instant
from .errors import refusal
from .frames import MOST_BYTES, Frames, channel_of

LIKE = "postgres-log://user:password@host:5432/database"
OWN = {"maxlen": or_none(count("messages")), "max_age": or_none(seconds(most=1e10)), "lease": seconds()}
PAGE_BYTES = 1 << 20
"""The most bytes of payloads that one query reads or releases; but always at least one message."""
RETRY_SECONDS = 0.5
"""The pause after a release of delayed messages that failed."""
RELEASE_SECONDS = 0.05
"""The least time between two releases, so that messages due shortly after each other are released together."""
Refused: TypeAlias = dict[int, Exception]

# From the catalogue itself: a name in a query may be resolved by a plan that is older than the table.
TABLES = """select c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'hubsub' and c.relname = any($1)"""
STATE = """select epoch, coalesce((select min(number) from hubsub.message where namespace = $1), last + 1) as first,
    last from hubsub.log where namespace = $1"""
READ = f"""with state as ({STATE})
    select s.epoch, s.first, s.last, m.number, m.key, m.data, extract(epoch from m.time)::double precision, m.reader,
        0
    from state s left join (
        select m.*, sum(octet_length(data)) over (order by number) - octet_length(data) as size_before from (
            select * from hubsub.message where namespace = $1 and number > $2 order by number limit $3
        ) m
    ) m on coalesce(m.size_before, 0) < {PAGE_BYTES} order by m.number"""
BEFORE = "select hubsub.before($1, to_timestamp($2::double precision))"
APPEND = "select hubsub.append($1, $2, $3, $4, $5, $6)"
APPEND_LATER = "select hubsub.append($1, $2, $3, $4, $5, $6, $7)"
RELEASE = f"select next, seconds from hubsub.release($1, $2, {PAGE_BYTES})"
NOTIFY = "select count(pg_notify($1, text)) from unnest($2::text[]) as t (text)"
# Whoever keeps a position for a name has to hold it already.
HOLD = """insert into hubsub.name values ($1, $2, $5, $3, clock_timestamp() + $4 * interval '1 second')
    on conflict (namespace, name) do update
    set owner = excluded.owner, until = excluded.until, place = coalesce(excluded.place, name.place)
    where name.owner = excluded.owner or (name.until <= clock_timestamp() and excluded.place is null)
    returning coalesce(place, '')"""
TAKE = "select * from hubsub.take($1, $2, $3, $4, $5, $6)"
DONE = "delete from hubsub.in_hand where (namespace, name) = ($1, $2) and number = any($3)"
JOIN = "insert into hubsub.shared values ($1, $2, $3) on conflict do nothing returning 1"
PROLONG = """update hubsub.in_hand set owner = case when $5::double precision > 0 then owner end,
    until = case when $5::double precision > 0 then clock_timestamp() + $5 * interval '1 second' else '-infinity' end
    where (namespace, name, owner) = ($1, $2, $3) and ($4::bigint[] is null or number = any($4))"""
BURY = """insert into hubsub.dead (namespace, reader, key, data, reason, attempts, position)
    values ($1, $2, $3, $4, $5, $6, $7)"""
TRIM_DEAD = """delete from hubsub.dead where namespace = $1 and number <=
    (select number from hubsub.dead where namespace = $1 order by number desc offset $2 limit 1)"""
DEAD = """select number, reader, key, data, reason, attempts, position, extract(epoch from time)::double precision
    from hubsub.dead where namespace = $1 and ($2::bigint is null or number < $2) order by number desc limit $3"""


class PostgresLogAdapter(LogAdapter):
    """A durable log in tables of a database; the first bridge creates them in the schema `hubsub`.

    Args:
        url: `postgres-log://user:password@host:5432/database`; options in its query.
        maxlen: How many messages a namespace keeps, 1 000 000 by default; None, in a URL `none`, keeps all.
        max_age: For how many seconds a message is kept; None, the default, for ever.
        lease: Seconds after which an unfinished message of a group's member goes to another, unless extended; 30.
        options: Those of `PostgresAdapter`.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: No address is given, or two are; or an option does not exist, or the bridge sets it.
        ValueError: The URL or an option is invalid.
    """

    features = replace(LogAdapter.features, max_payload=MOST_BYTES, dead_letters=True, delays=True)
    UPKEEP_SECONDS = 60.0

    def __init__(self, url: str | None = None, **options: Any) -> None:
        schemes = ("postgres-log", "postgresql-log")
        self._database = Database(type(self).__name__, url, options, OWN, schemes, LIKE)
        own = self._database.own
        super().__init__(own.get("lease", 30.0))
        self._maxlen: int | None = own.get("maxlen", 1_000_000)
        self._max_age: float | None = own.get("max_age")
        self._lines: Connections | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        self._due = Alarm()
        self._next_due = math.inf
        self._is_unicode = True
        self._namespace = "hubsub"
        self._encode: Callable[[Any], bytes] = codec_of("json").encode

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database!r}>"

    def features_for(self, link: Link) -> Any:
        if "\0" in link.namespace or not link.namespace.isprintable():
            raise ValueError(f"the namespace {link.namespace!r} must be printable text: Postgres stores it as text")
        self._namespace = link.namespace
        self._encode = link.encode or self._encode
        return super().features_for(link)

    # Connecting

    async def open(self) -> None:
        self._lines = Connections(self._database, self.inbox)
        self._frames, self._control_frames = Frames(), Frames(is_control=True)
        self._keys: set[Key[Any]] = set()
        self._due = Alarm()
        await self._lines.open(self._listen, self._prepare)
        self._upkeep = [asyncio.create_task(self._keep_tidy()), asyncio.create_task(self._keep_releasing())]

    async def _prepare(self, connection: Any) -> None:
        """Create what is missing, and release messages that became due while no bridge was connected."""
        self._is_unicode = connection.get_settings().server_encoding == "UTF8"
        if self._is_unicode:
            self.addresses = LogAdapter.addresses
        else:
            self.addresses = Addresses("/", allowed="!-.0-~")
        if await self._version(connection) != schema.VERSION:
            await self._make_tables(connection)
        await connection.execute("select hubsub.start_log($1)", self.link.namespace)
        await connection.fetchval(RELEASE, self.link.namespace, self._maxlen)

    async def _make_tables(self, connection: Any) -> None:
        """Create the tables, upgrade older ones, or create those that somebody has dropped."""
        version = None
        try:
            async with connection.transaction():
                await connection.execute("select pg_advisory_xact_lock(7232, 1)")
                # Another bridge may have done it meanwhile.
                version = await self._version(connection)
                if version is None or version < schema.VERSION:
                    await connection.execute(schema.SCRIPT)
        except Exception as error:
            if getattr(error, "sqlstate", None) != "42501":
                raise
            what = f"have version {version}, and this hubsub needs {schema.VERSION}" if version else "are missing"
            raise BridgeError(
                f"tables of {self!r} {what}, and its role may not make them: {error}; as a role that may, run"
                " python -m hubsub postgres-schema --grant ROLE | psql DATABASE"
            ) from error
        if version is not None and version > schema.VERSION:
            raise BridgeError(
                f"{self!r} has tables of version {version}, and this hubsub knows version {schema.VERSION}: upgrade"
                " hubsub, or use another database"
            )

    async def _version(self, connection: Any) -> int | None:
        """Return the version of the tables; None if one of them is missing."""
        there = {row[0] for row in await connection.fetch(TABLES, schema.NAMES)}
        if "version" not in there:
            return None
        version: int | None = await connection.fetchval("select max(version) from hubsub.version")
        is_whole = version != schema.VERSION or there.issuperset(schema.NAMES)
        return version if is_whole else None

    async def _listen(self, connection: Any) -> None:
        bell = f"{channel_of(self.link.namespace)}:log"
        self._control = f"{bell}:control"
        if self.link.reads:
            await connection.add_listener(bell, Instant(lambda *_: self.inbox.ring()))
        await connection.add_listener(f"{bell}:due", self._note_due)

    def _note_due(self, connection: Any, pid: int, channel: str, text: str) -> None:
        # When, and not in how many seconds: the transaction that delayed it may have taken long.
        with suppress(ValueError):  # any program can notify there
            if float(text) < self._next_due:
                self._due.set(0)

    async def _keep_tidy(self) -> None:
        pause = min(self.UPKEEP_SECONDS, max(0.5, (self._max_age or math.inf) / 4))
        while True:
            # A failure here also occurs in calls that report it.
            with suppress(Exception):
                await self._connected().write("select hubsub.tidy($1, $2)", self.link.namespace, self._max_age)
            await asyncio.sleep(pause)

    async def _keep_releasing(self) -> None:
        """Release delayed messages when they are due. Every bridge does, because the sender may have died."""
        while True:
            self._due.clear()
            self._next_due = math.inf
            seconds: float | None = RETRY_SECONDS
            # Likewise; and meanwhile another bridge may release them.
            with suppress(Exception):
                ((due, seconds),) = await self._connected().write(RELEASE, self.link.namespace, self._maxlen)
                self._next_due = math.inf if due is None else due
            self._due.set(self.UPKEEP_SECONDS if seconds is None else min(seconds, self.UPKEEP_SECONDS))
            await asyncio.sleep(RELEASE_SECONDS)
            await self._due.wait()

    async def shut(self) -> None:
        upkeep, self._upkeep = self._upkeep, []
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)
        if self._lines is not None:
            await self._lines.close()

    def forget(self) -> None:
        self._lines, self._upkeep = None, []

    def _connected(self) -> Connections:
        if self._lines is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._lines

    async def ping(self) -> None:
        await self._connected().ping()

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of its connections."""
        return 0 if self._lines is None else self._lines.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever the reading connection has received bytes."""
        return None if self._lines is None else self._lines.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved over the sending connection."""
        return None if self._lines is None else self._lines.sending

    async def _ask(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a query over the reading connection, with the namespace as first argument; return the rows."""
        try:
            return await self._connected().read(sql, self.link.namespace, *arguments)
        except Exception as error:
            raise refusal(error) from error

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        refused: Refused = {}
        stored: list[tuple[int, int, str, bytes, float | None]] = []
        control: list[tuple[int, str]] = []
        for index, record in enumerate(records):
            try:
                if record.is_control:
                    control += [(index, text) for text in self._frames.pack(record)]
                else:
                    address = self.addresses.address(record.key)
                    stored.append((index, record.sequence, address, bytes(record.payload), record.due))
            except Exception as error:
                refused[index] = EncodeError(record.key, f"it cannot be stored: {error}")
                refused[index].__cause__ = error
        if stored:
            indices, *columns, dues = zip(*stored, strict=True)
            refused |= await self._append(indices, columns, dues)
        if control:
            indices, texts = zip(*control, strict=True)
            try:
                await self._connected().write(NOTIFY, self._control, texts)
            except Exception as error:
                refused |= dict.fromkeys(indices, refusal(error))
        return refused

    async def _append(self, indices: Sequence[int], columns: Sequence[Any], dues: Sequence[float | None]) -> Refused:
        """Store messages by their sequences, addresses, payloads and due times; return the errors by their indices."""
        link = self.link
        arguments = (link.namespace, link.sender, *columns, self._maxlen)
        try:
            if any(due is not None for due in dues):
                rows = await self._connected().write(APPEND_LATER, *arguments, dues)
            else:
                rows = await self._connected().write(APPEND, *arguments)
        except Exception as error:
            return dict.fromkeys(indices, refusal(error))
        if not rows[0][0]:
            raise ConnectionResetError(f"the log of {link.namespace!r} was deleted")
        return {}

    async def publish_in(self, connection: Any, key: KeyLike[Any], message: Any, *, due: float | None = None) -> None:
        """Publish in a transaction of yours: if it is committed, the message is sent; otherwise it never existed.

        All bridges of the namespace receive it as a message of another program, your own too. The bridge need not be
        connected, but the tables must exist. The commit of a `repeatable read` or `serializable` transaction may fail
        with 40001; run it again then, as always.

        Args:
            connection: A connection, cursor or session of asyncpg, psycopg 3 or SQLAlchemy, in a transaction.
            key: An exact key.
            message: Anything that the codec of the bridge can encode, or JSON without a bridge. bytes are sent as they
                are.
            due: When to deliver it, in seconds since the epoch; None, or a time that has passed, means at once.

        Raises:
            InvalidKey: `key` is a pattern, or no key.
            EncodeError: The codec cannot encode the message.
            TypeError: `connection` is none of these.
            ValueError: `due` is not a time.
            Exception: An error of the driver.
        """
        key = publishable(key)
        try:
            payload = message if isinstance(message, bytes) else self._encode(message)
        except Exception as error:
            raise EncodeError(key, f"cannot be encoded: {error}") from error
        await outbox.publish(connection, self.addresses.address(key), payload, self._namespace, due)

    # Control messages

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        self._keys.update(keys)
        await self._connected().listen(self._control, self._take_control)

    def _take_control(self, connection: Any, pid: int, channel: str, text: str) -> None:
        received = self._control_frames.unpack(pid, text)
        if received is not None and received.key in self._keys:
            self.inbox.put([received])

    # What the log is asked

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        rows = await self._ask(READ, after, limit)
        if not rows:
            raise ConnectionResetError(f"the log of {self.link.namespace!r} was deleted")
        found = [row[3:] for row in map(tuple, rows) if row[3] is not None]
        return LogState(*rows[0][:3]), found

    async def before(self, moment: float) -> int:
        return int((await self._ask(BEFORE, moment))[0][0])

    async def hold(self, seconds: float, position: str | None = None) -> str | None:
        rows = await self._ask(HOLD, self.link.name, self.link.sender, float(seconds), position)
        return rows[0][0] if rows else None

    async def join(self, after: int) -> bool:
        return bool(await self._ask(JOIN, self.link.group, after + 1))

    async def take(self, limit: int) -> tuple[str, Sequence[Row], int]:
        rows = await self._ask(TAKE, self.link.group, self.link.sender, limit, PAGE_BYTES, self.lease)
        if not rows:
            raise ConnectionResetError(f"the group {self.link.group!r} of {self.link.namespace!r} was deleted")
        *taken, (_, epoch, _, _, _, gone) = map(tuple, rows)
        return epoch, taken, gone

    async def prolong(self, numbers: Sequence[int] | None, seconds: float) -> None:
        numbers = None if numbers is None else list(numbers)
        await self._ask(PROLONG, self.link.group, self.link.sender, numbers, float(seconds))

    async def done(self, numbers: Sequence[int]) -> None:
        await self._ask(DONE, self.link.group, list(numbers))

    # Dead letters

    async def bury(self, received: Received, why: str) -> Exception | None:
        why = why.replace("\0", "\\0").encode("utf-8" if self._is_unicode else "ascii", "backslashreplace").decode()
        address, position = self.addresses.address(received.key), received.position
        letter = (self.link.reader, address, received.payload, why, received.attempts, position)
        try:
            await self._connected().read(BURY, self.link.namespace, *letter)
        except Exception as error:
            return refusal(error)
        if self._maxlen is not None:
            await self._ask(TRIM_DEAD, self._maxlen)
        return None

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        rows = await self._ask(DEAD, None if before is None else letter_number(before), limit)
        found = []
        for number, reader, key, data, reason, attempts, position, time in reversed(rows):
            received = self.received((0, key, data, None, None, attempts), position)
            found.append(Buried(received, reason, f"dead-{number}", time, reader))
        return found

    async def redeliver(self, position: str) -> None:
        if not (await self._ask("select hubsub.redeliver($1, $2)", letter_number(position)))[0][0]:
            raise NoSuchLetter(position)
