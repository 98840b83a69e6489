"""`postgres-log://`: a durable log in tables of PostgreSQL; NOTIFY only wakes its readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ...codec import codec_of
from ...errors import EncodeError, NoSuchLetter
from ...key import Key, KeyLike, publishable
from ..adapter import Buried, Link, Received, Record
from ..address import Addresses
from ..log import LogAdapter, LogState, Row, letter_number
from ..urls import count, or_none, seconds
from . import outbox, sql, tables
from .connections import Connections
from .database import Database, Instant
from .errors import refusal
from .frames import MOST_BYTES, Frames, channel_of
from .upkeep import Upkeep

LIKE = "postgres-log://user:password@host:5432/database"
OWN = {"maxlen": or_none(count("messages")), "max_age": or_none(seconds(most=1e10)), "lease": seconds()}
Refused: TypeAlias = dict[int, Exception]


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
        self._upkeep: Upkeep | None = None
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
        upkeep = Upkeep(self._lines.write, self.link.namespace, self._maxlen, self._max_age, self.UPKEEP_SECONDS)
        self._upkeep = upkeep
        await self._lines.begin(self._listen, self._prepare)
        upkeep.start()

    async def _prepare(self, connection: Any) -> None:
        """Create what is missing, and release messages that became due while no bridge was connected."""
        self._is_unicode = connection.get_settings().server_encoding == "UTF8"
        if self._is_unicode:
            self.addresses = LogAdapter.addresses
        else:
            self.addresses = Addresses("/", allowed="!-.0-~")
        await tables.make_sure(connection, self)
        await connection.execute("select hubsub.start_log($1)", self.link.namespace)
        await connection.fetchval(sql.RELEASE, self.link.namespace, self._maxlen)

    async def _listen(self, connection: Any) -> None:
        bell = f"{channel_of(self.link.namespace)}:log"
        self._control = f"{bell}:control"
        if self.link.reads:
            await connection.add_listener(bell, Instant(lambda *_: self.inbox.ring()))
        if self._upkeep is not None:
            await connection.add_listener(f"{bell}:due", self._upkeep.note_due)

    async def shut(self) -> None:
        upkeep, self._upkeep = self._upkeep, None
        if upkeep is not None:
            await upkeep.stop()
        if self._lines is not None:
            await self._lines.close()

    def forget(self) -> None:
        self._lines = self._upkeep = None

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

    async def _ask(self, statement: str, *arguments: Any) -> list[Any]:
        """Run a query over the reading connection, with the namespace as first argument; return the rows."""
        try:
            return await self._connected().read(statement, self.link.namespace, *arguments)
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
                await self._connected().write(sql.NOTIFY, self._control, texts)
            except Exception as error:
                refused |= dict.fromkeys(indices, refusal(error))
        return refused

    async def _append(self, indices: Sequence[int], columns: Sequence[Any], dues: Sequence[float | None]) -> Refused:
        """Store messages by their sequences, addresses, payloads and due times; return the errors by their indices."""
        link = self.link
        arguments = (link.namespace, link.sender, *columns, self._maxlen)
        try:
            if any(due is not None for due in dues):
                rows = await self._connected().write(sql.APPEND_LATER, *arguments, dues)
            else:
                rows = await self._connected().write(sql.APPEND, *arguments)
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
        await self._connected().hear(self._control, self._take_control)

    def _take_control(self, connection: Any, pid: int, channel: str, text: str) -> None:
        received = self._control_frames.unpack(pid, text)
        if received is not None and received.key in self._keys:
            self.inbox.put([received])

    # What the log is asked

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        rows = await self._ask(sql.READ, after, limit)
        if not rows:
            raise ConnectionResetError(f"the log of {self.link.namespace!r} was deleted")
        found = [row[3:] for row in map(tuple, rows) if row[3] is not None]
        return LogState(*rows[0][:3]), found

    async def before(self, moment: float) -> int:
        return int((await self._ask(sql.BEFORE, moment))[0][0])

    async def hold(self, seconds: float, position: str | None = None) -> str | None:
        rows = await self._ask(sql.HOLD, self.link.name, self.link.sender, float(seconds), position)
        return rows[0][0] if rows else None

    async def join(self, after: int) -> bool:
        return bool(await self._ask(sql.JOIN, self.link.group, after + 1))

    async def take(self, limit: int) -> tuple[str, Sequence[Row], int]:
        rows = await self._ask(sql.TAKE, self.link.group, self.link.sender, limit, sql.PAGE_BYTES, self.lease)
        if not rows:
            raise ConnectionResetError(f"the group {self.link.group!r} of {self.link.namespace!r} was deleted")
        *taken, (_, epoch, _, _, _, gone) = map(tuple, rows)
        return epoch, taken, gone

    async def prolong(self, numbers: Sequence[int] | None, seconds: float) -> None:
        numbers = None if numbers is None else list(numbers)
        await self._ask(sql.PROLONG, self.link.group, self.link.sender, numbers, float(seconds))

    async def done(self, numbers: Sequence[int]) -> None:
        await self._ask(sql.DONE, self.link.group, list(numbers))

    # Dead letters

    async def bury(self, received: Received, why: str) -> Exception | None:
        why = why.replace("\0", "\\0").encode("utf-8" if self._is_unicode else "ascii", "backslashreplace").decode()
        address, position = self.addresses.address(received.key), received.position
        letter = (self.link.reader, address, received.payload, why, received.attempts, position)
        try:
            await self._connected().read(sql.BURY, self.link.namespace, *letter)
        except Exception as error:
            return refusal(error)
        if self._maxlen is not None:
            await self._ask(sql.TRIM_DEAD, self._maxlen)
        return None

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        rows = await self._ask(sql.DEAD, None if before is None else letter_number(before), limit)
        found = []
        for number, reader, key, data, reason, attempts, position, time in reversed(rows):
            received = self.received((0, key, data, None, None, attempts), position)
            found.append(Buried(received, reason, f"dead-{number}", time, reader))
        return found

    async def redeliver(self, position: str) -> None:
        if not (await self._ask("select hubsub.redeliver($1, $2)", letter_number(position)))[0][0]:
            raise NoSuchLetter(position)
