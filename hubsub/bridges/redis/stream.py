"""Redis Streams: messages are stored and counted, so that none goes missing unnoticed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor
from operator import itemgetter
from typing import Any, cast

from ...errors import NoSuchLetter
from ...key import Key
from ..adapter import Buried, Features, Link, Loss, Received, Record
from ..lines import LineAdapter
from ..log import LogAdapter, features_of
from ..urls import count, or_none, read_options, seconds
from .entries import Entries, unpackable
from .pace import Pace
from .position import number_of
from .reader import Setup
from .resp import encode
from .server import Server
from .session import Session
from .source import Source
from .writer import DEAD

_POSITION = re.compile("[0-9]{1,20}(-[0-9]{1,20})?")
_ID = re.compile("[0-9]{1,19}-[0-9]{1,19}")
_LAST = 2**64 - 1
OPTIONS = {"maxlen": or_none(count("entries")), "lease": seconds()}
"""The options of the adapter itself."""


class RedisStreamAdapter(LineAdapter[Session]):
    """Redis Streams through up to four connections: for reading, sending, acknowledging, and control messages.

    Args:
        url: `redis-stream://user:password@host:6379/0`, `rediss-stream://` with TLS, or
            `redis-stream+sentinel://host:port,host:port/service/0`; options in its query, `maxlen` and `lease` too.
        client: Instead of a URL, a `redis.asyncio.Redis` whose settings are used. The client itself is not touched.
        route: Returns the name of the stream of a key; without it there is one stream, named like the namespace.
        sources: The names of the streams to read; required with `route`.
        maxlen: Entries that a stream keeps, or a few more; None, in a URL `none`, if it is never trimmed.
        lease: Seconds after which a message that a member of a group has not finished goes to another, unless extended.
        options: Options of redis-py's connections; with the prefix `sentinel_`, of those to Sentinels; `ssl_context`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no address, or more than one; an option does not exist, or is set by the bridge; or
            arguments do not go together.
        ValueError: The URL or a number is invalid.
    """

    BLOCK = 1000
    """Milliseconds that the server waits for a message before it replies that there is none."""

    features = replace(LogAdapter.features, dead_letters=True, headers=True, max_payload=512 << 20)

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        route: Callable[[Key[Any]], str] | None = None,
        sources: Iterable[str] | None = None,
        maxlen: int | None = 1_000_000,
        lease: float = 30.0,
        **options: Any,
    ) -> None:
        if route is not None and sources is None:
            raise TypeError("route= needs sources=, the streams to read, which may be an empty list")
        name = type(self).__name__
        self._server = Server(name, url, client, options, scheme="redis-stream", own=OPTIONS)
        own = read_options(name, OPTIONS, {"maxlen": maxlen, "lease": lease})
        own |= read_options(name, OPTIONS, {}, self._server.own)
        maxlen, self._lease = own["maxlen"], own["lease"]
        self._route = route
        self._names = None if sources is None else tuple(sources)
        self._entries = Entries()
        self._setup = Setup(
            server=self._server,
            entries=self._entries,
            maxlen=b"" if maxlen is None else b"%d" % maxlen,
            lease=self._lease,
            block=self.BLOCK,
            pace=Pace(),
        )
        self._history_pace = Pace()
        self._namespace = ""
        self._reads: tuple[str, str | None, str | None] | None = None
        self._sources: list[Source] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def features_for(self, link: Link) -> Features:
        return features_of(self.features, link, self._lease, "key" if self._route else "all")

    @property
    def lag(self) -> int | None:  # type: ignore[override]
        """Entries that have not been read yet; None for a group, whose members read for each other."""
        lags = [source.lag for source in self._sources]
        return sum(filter(None, lags)) if lags and None not in lags else None

    def line(self, link: Link) -> Session:
        self._namespace = link.namespace
        reads = (link.namespace, link.group, link.name)
        if reads != self._reads:
            self._reads = reads
            names = [""] if self._names is None else self._names
            self._sources = [Source(name, encode(name)) for name in dict.fromkeys(map(self._stream, names))]
        return Session(self._setup, link, self._stream(""), self._sources)

    def _stream(self, name: str) -> str:
        """Return the full name of a stream, within the namespace."""
        return ":".join(filter(None, (self._namespace, name))) or "hubsub"

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        writer = self.connected().writer
        if self._route is None and not any(record.is_control for record in records):
            return await writer.append(self._stream(""), records, range(len(records)))
        refused: dict[int, Exception] = {}
        control: list[int] = []
        streams: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            if record.is_control:
                control.append(index)
                continue
            try:
                streams.setdefault(self._stream_of(record.key), []).append(index)
            except Exception as error:  # raised by `route`
                refused[index] = unpackable(record.key, error)
        for stream, indices in streams.items():
            refused |= await writer.append(stream, [records[index] for index in indices], indices)
        # Control messages go after the stored records: if the server accepts no records for now, none is sent.
        return refused | await writer.publish([records[index] for index in control], control)

    def _stream_of(self, key: Key[Any]) -> str:
        if self._route is None:
            return self._stream("")
        name = self._route(key)
        if not isinstance(name, str):
            raise TypeError(f"route= returned {name!r} for it, which is not a name of a stream")
        return self._stream(name)

    async def bury(self, received: Received, why: str) -> Exception | None:
        return await self.connected().writer.bury(received, why)

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        session = self.connected()
        bound = None if before is None else self._letter_at(before)
        found: list[tuple[tuple[int, int], str, Buried]] = []
        for source in self._sources:
            dead = Source(source.stream + DEAD, source.beside(DEAD[1:]))
            newest = "+"
            if bound is not None:
                # Letters of the same moment are in the order of their streams.
                newest = bound[1] if source.stream < bound[0].stream else f"({bound[1]}"
            entries = await session.history(dead, limit, newest, "-", self._history_pace)
            letters = (self._entries.read_letter(dead.stream, entry) for entry in entries)
            found += ((number_of(entry[0]), source.stream, each) for entry, each in zip(entries, letters, strict=True))
        return [letter for _, _, letter in sorted(found, key=itemgetter(0, 1))[-limit:]]

    async def redeliver(self, position: str) -> None:
        source, id = self._letter_at(position)
        if not await self.connected().redeliver(source, id):
            raise NoSuchLetter(position)

    def _letter_at(self, position: str) -> tuple[Source, str]:
        """The stream of whose messages a dead letter is, and its id.

        Raises:
            NoSuchLetter: No letter can have that position.
        """
        stream, _, id = position.rpartition(":")
        for source in self._sources:
            if stream == source.stream + DEAD and _ID.fullmatch(id):
                return source, id
        raise NoSuchLetter(position)

    # Receiving

    async def ack(self, tokens: Sequence[Any]) -> None:
        await self.connected().ack(tokens)

    async def extend(self, tokens: Sequence[Any]) -> None:
        await self.connected().extend(tokens)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        await self.connected().hand_back(tokens)

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        lanes = {bound.rpartition(":")[0] for bound in (before, after) if isinstance(bound, str)}
        newest, oldest = "+", "-"
        if isinstance(before, str):
            newest = "(" + _id_of(before)
        elif before is not None:
            newest = f"({_milliseconds(ceil, before)}-0"
        if isinstance(after, str):
            oldest = "(" + _id_of(after)
        elif after is not None:
            oldest = f"{_milliseconds(floor, after) + 1}-0"
        found: list[Received | Loss] = []
        session = self.connected()
        for source in self._sources:
            if lanes <= {source.stream}:
                entries = await session.history(source, limit, newest, oldest, self._history_pace)
                self._entries.read(source.stream, entries, found)
        return cast("list[Received]", found)


def _id_of(position: str) -> str:
    id = position.rpartition(":")[2]
    if not _POSITION.fullmatch(id):
        raise ValueError(f"{position!r} is not a position in a stream, such as 'orders:1700000000000-0'")
    return id


def _milliseconds(rounded: Callable[[float], int], seconds: float) -> int:
    return min(max(0, rounded(seconds * 1000)), _LAST - 1)
