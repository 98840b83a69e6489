"""Redis Streams: messages are kept and counted, so that none goes missing unnoticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from math import ceil, floor
from time import monotonic
from typing import Any, cast
from uuid import uuid4

from ...errors import NameTaken
from ...key import Key
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from ..address import Addresses, cached
from .connection import Connection, is_unknown, refusal, sound
from .place import BEGINNING, Place, State, number_of
from .resp import Command, arguments, decode, encode
from .scripts import (
    APPEND,
    EXTEND,
    GIVE_NAME,
    JOIN,
    LEAVE,
    MISSED,
    RECLAIM,
    TAKE_NAME,
    TIDY,
    Script,
)
from .server import Server

BLOCK = 1000
"""Milliseconds that the server waits for a message before it says that there is none."""
MOST_ENTRIES = 500
"""Entries that are read at once, at most."""
MOST_BYTES = 4 << 20
"""Bytes of payload to read at once, about."""
SENDER_SECONDS = 86400
"""How long the server remembers what a sender has stored last."""
NAME_SECONDS = 10
"""How long a name is taken after its bridge was killed."""

# All but the separator, line ends, which make reading slow, and what UTF-8 does not have.
ALLOWED = r"\0-\x09\x0b\x0c\x0e-9;-\ud7ff\ue000-\U0010ffff"

as_tuple = tuple.__new__
_LIVE = (False, False, None)  # the last fields of what was received


@dataclass(slots=True)
class Source:
    """A stream that is read."""

    stream: str
    raw: bytes
    place: Place | None = None
    """Where reading is."""
    known: Place | None = None
    """What was read up to here has certainly been taken: the next was asked for. Outlives the connection."""
    is_joined: bool = False
    """Our group was there."""
    mine: bytes | None = None
    """From where what is pending of us is still to be read; None if all of it was."""
    others: bytes | None = None
    """From where to look for what others left behind; None if not now."""
    lost: list[Loss] = field(default_factory=list)
    lag: int | None = None
    """Entries that are still to be read."""

    def beside(self, *names: str) -> bytes:
        """A key of the server that belongs to the stream."""
        return encode(":".join((self.stream, *names)))


class RedisStreamAdapter(Adapter):
    """Redis Streams through two connections, one that reads and waits and one for everything else.

    Args:
        url: `redis-stream://user:password@host:6379/0`, `rediss-stream://` with TLS, or
            `redis-stream+sentinel://host:port,host:port/service/0`; options in its query.
        client: Instead of it, a `redis.asyncio.Redis` whose settings are used. The client itself is left alone.
        route: From a key to the name of its stream; else there is one stream, named like the namespace.
        sources: The names of the streams to read; has to be given with `route`.
        maxlen: Entries that a stream keeps, or a few more; None if nothing is ever trimmed.
        lease: Seconds after which what a member of a group has not finished is given to another, unless extended.
        options: Those of redis-py's connections, of those to Sentinels with `sentinel_` before them; `ssl_context`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no one address, an option does not exist or is for the bridge to decide, or arguments do not
            go together.
        ValueError: The URL or a figure makes no sense.
    """

    features = Features(
        confirms="stored",
        idempotent=True,
        durable=True,
        acks="each",
        groups=True,
        names=True,
        replay=True,
        history=True,
        headers=True,
        push=False,
        lease=30.0,
        max_payload=512 << 20,
    )

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
            raise TypeError("route= needs sources=, the streams to read; an empty list if none is")
        if maxlen is not None and maxlen < 1:
            raise ValueError(f"maxlen is a number of entries, at least 1, not {maxlen!r}")
        if not 0 < lease < 1e6:
            raise ValueError(f"lease is a number of seconds, not {lease!r}")
        self._server = Server(type(self).__name__, url, client, options)
        self._route = route
        self._names = None if sources is None else tuple(sources)
        self._maxlen = b"" if maxlen is None else b"%d" % maxlen
        self._lease = lease
        self._addresses = Addresses(":", allowed=ALLOWED, binary=True)
        self._packed_key = cached(self._pack_key)
        self._key_of = cached(self._read_key)
        self._link: Link | None = None
        self._reading: tuple[str, str | None, str | None] | None = None
        self._sources: list[Source] = []
        self._reader: Connection | None = None
        self._writer: Connection | None = None
        self._renewal: asyncio.Task[None] | None = None
        # Entries to ask for: few, until it is known how large they are.
        self._count = 32

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    @property
    def lag(self) -> int | None:  # type: ignore[override]
        """Entries that are still to be read; None for a group, whose members read for each other."""
        lags = [source.lag for source in self._sources]
        return sum(filter(None, lags)) if lags and None not in lags else None

    # Connecting

    async def connect(self, link: Link) -> None:
        reading = (link.namespace, link.group, link.name)
        self._link = link
        self._consumer = encode(link.sender)
        self._heading = cached(self._append_heading)
        self._main = self._name("")
        if reading != self._reading:
            self._reading = reading
            names = [self._main] if self._names is None else [self._name(name) for name in self._names]
            self._sources = [Source(name, encode(name)) for name in dict.fromkeys(names)]
            self.features = replace(
                type(self).features,
                order="none" if link.group else "key" if self._route else "all",
                acks="each" if link.group else "prefix" if link.name else "none",
                lease=self._lease if link.group else None,
            )
        try:
            self._writer = await self._server.open()
            if not link.reads:
                return
            self._reader = await self._server.open()
            if link.group:
                await self._writer.one("SCRIPT", "LOAD", MISSED.text)
                for source in self._sources:
                    await self._join(source)
                    source.mine = b"-"
                self._tend_at = monotonic()
                return
            if link.name:
                await self._take_name(link.name)
                self._renewal = asyncio.create_task(self._keep_name(link.name))
            for source in self._sources:
                await self._find_place(source)
        except BaseException:
            await self.close()
            raise

    def _name(self, name: str) -> str:
        """The name of a stream, within the namespace."""
        assert self._link is not None
        return ":".join(filter(None, (self._link.namespace, name))) or "hubsub"

    async def _state(self, source: Source) -> State:
        """What there is of a stream; it has an epoch from now on."""
        _, epoch, info = await self._ask().atomically(
            ("SET", source.beside("epoch"), new_epoch(), "NX"),
            ("GET", source.beside("epoch")),
            ("XINFO", "STREAM", source.raw),
        )
        return State.of(epoch, info)

    async def _find_place(self, source: Source) -> None:
        """Go on where the name was, or where we were; else begin where it is wished."""
        link = self._link
        assert link is not None
        if link.name is None and source.known is not None:
            source.place = replace(source.known)
            return
        stream = await self._state(source)
        if link.name:
            # Also when we come back: what was not acknowledged is delivered anew.
            saved = await self._ask().one("GET", source.beside("position", link.name))
            if saved is not None:
                source.place = Place.read(saved)
                return
        start = begin(link.start)
        if start == b"$":
            source.place = Place(stream.last, stream.added, stream.epoch)
        elif start == BEGINNING:
            source.place = Place(BEGINNING, stream.added - stream.length, stream.epoch)
        else:
            source.place = Place(min(start, stream.last, key=number_of), None, stream.epoch)
        if link.name:
            # Else one that begins with what is new would miss what comes while it is away before its first message.
            await self._ask().one("SET", source.beside("position", link.name), bytes(source.place))

    def _ask(self) -> Connection:
        if self._writer is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._writer

    async def _run(self, script: Script, keys: Sequence[bytes], *arguments: Any) -> Any:
        """Run a script, which is sent if the server does not have it."""
        connection = self._ask()
        (reply,) = await connection.ask(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if is_unknown(reply):
            (reply,) = await connection.ask(("EVAL", script.text, len(keys), *keys, *arguments))
        return sound(reply)

    # Names

    async def _take_name(self, name: str) -> None:
        key = encode(f"{self._main}:name:{name}")
        if not await self._run(TAKE_NAME, (key,), self._consumer, int(NAME_SECONDS * 1000)):
            raise NameTaken(name)

    async def _keep_name(self, name: str) -> None:
        while True:
            await asyncio.sleep(NAME_SECONDS / 4)
            await self._take_name(name)

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        route = self._route
        if route is None:
            return await self._append(self._main, records, range(len(records)))
        indices: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            indices.setdefault(self._name(route(record.key)), []).append(index)
        refused: dict[int, Exception] = {}
        for stream, its in indices.items():
            refused |= await self._append(stream, [records[index] for index in its], its)
        return refused

    async def _append(self, stream: str, records: Sequence[Record], indices: Sequence[int]) -> dict[int, Exception]:
        connection = self._ask()
        keys, packed_key = self._heading(stream), self._packed_key
        # Written as it is sent: packing each argument by itself would take as long as all else that happens here.
        parts = [arguments(self._maxlen, SENDER_SECONDS, new_epoch())]
        count = 9
        for key, payload, headers, sequence, _ in records:
            number = b"%d" % sequence
            length = b"%d" % (4 + 2 * len(headers))
            parts.append(
                b"$%d\r\n%b\r\n$%d\r\n%b\r\n%b$%d\r\n%b\r\n"
                % (len(number), number, len(length), length, packed_key(key), len(payload), payload)
            )
            if headers:
                parts.append(pack_headers(headers))
            count += 6 + 2 * len(headers)
        body = b"".join(parts)
        (reply,) = await connection.exchange(b"*%d\r\n" % count + arguments("EVALSHA", APPEND.sha) + keys + body, 1)
        if is_unknown(reply):
            (reply,) = await connection.exchange(b"*%d\r\n" % count + arguments("EVAL", APPEND.text) + keys + body, 1)
        if isinstance(reply, Exception):
            return dict.fromkeys(indices, refusal(reply))
        return {indices[index]: refusal(error) for index, error in reply}

    def _append_heading(self, stream: str) -> bytes:
        """The keys of the script that appends to a stream, as they are sent."""
        assert self._link is not None
        return arguments(3, stream, f"{stream}:sender:{self._link.sender}", f"{stream}:epoch")

    def _pack_key(self, key: Key[Any]) -> bytes:
        """The beginning of an entry, as it is sent."""
        return arguments("key", self._address(key), "payload")

    def _address(self, key: Key[Any]) -> bytes:
        return self._addresses.to_bytes(self._addresses.address(key))

    # Receiving

    async def receive(self) -> Sequence[Received | Loss]:
        if self._renewal is not None and self._renewal.done():
            self._renewal.result()
        if self._reader is None or self._link is None:
            raise ConnectionError(f"{self!r} is not connected")
        if not self._sources:
            await asyncio.sleep(BLOCK / 1000)
            return []
        if self._link.group:
            return await self._receive_shared(self._reader, encode(self._link.group))
        for source in self._sources:
            source.known = replace(place_of(source))
        found = await self._read_on(self._reader)
        if not found:
            # Only a bell: what was lost meanwhile has to be told before what rings it.
            ids = [place_of(source).id for source in self._sources]
            streams = [source.raw for source in self._sources]
            await self._reader.one("XREAD", "COUNT", 1, "BLOCK", BLOCK, "STREAMS", *streams, *ids)
            found = await self._read_on(self._reader)
        return found

    async def _read_on(self, reader: Connection) -> list[Received | Loss]:
        """What is there behind our places, and what is not there any more."""
        sources = self._sources
        commands: list[Command] = []
        for source in sources:
            commands += (("GET", source.beside("epoch")), ("XINFO", "STREAM", source.raw))
        ids = [place_of(source).id for source in sources]
        count = self._count
        commands.append(("XREAD", "COUNT", count, "STREAMS", *(source.raw for source in sources), *ids))
        *states, streams = await reader.atomically(*commands)
        entries = dict(sound(streams) or ())
        found: list[Received | Loss] = []
        for source, epoch, info in zip(sources, states[::2], states[1::2], strict=True):
            place = place_of(source)
            stream = State.of(epoch, info)
            its = entries.get(source.raw, [])
            if place.is_void(stream):
                # What was read from behind our place is left: it is read again, from where that makes sense.
                if epoch != place.epoch or not stream.added:
                    found.append(Loss("recreated", None, source.stream))
                    stream = await self._state(source)
                    source.place = Place(BEGINNING, 0, stream.epoch)
                else:
                    # The same stream without its end, as after a crash: what came since is behind what is left.
                    found.append(Loss("rolled back", None, source.stream))
                    source.place = Place(min(place.id, stream.last, key=number_of), None, stream.epoch)
                continue
            place.epoch = epoch
            is_all = len(its) < count
            missed = place.missed(stream, len(its), is_all)
            if missed:
                found.append(Loss("trimmed", missed, source.stream))
                place.advance(place.id, missed)
            if its:
                self._take(source, its, found)
                place.advance(its[-1][0], len(its))
            if is_all:
                place.ordinal = stream.added
            source.lag = None if place.ordinal is None else stream.added - place.ordinal
        return found

    async def _receive_shared(self, reader: Connection, group: bytes) -> list[Received | Loss]:
        """What a member of the group gets: what it lost hold of, what others left behind, and what is new."""
        found: list[Received | Loss] = []
        for source in self._sources:
            found += source.lost
            source.lost.clear()
            while source.mine is not None and not found:
                last = await self._reclaim(source, found, group, self._consumer, source.mine, self._count)
                source.mine = last and b"(" + last
        if monotonic() >= self._tend_at:
            self._tend_at = monotonic() + self._lease / 3
            for source in self._sources:
                source.others = b"-"
                await self._tidy(source, group)
        milliseconds = int(self._lease * 1000)
        for source in self._sources:
            while source.others is not None and not found:
                last = await self._reclaim(
                    source, found, group, self._consumer, source.others, self._count, milliseconds
                )
                source.others = last and b"(" + last
        if found:
            return found
        streams = [source.raw for source in self._sources]
        name = decode(group)
        counting = [(each.raw, each.beside("read", name), each.beside("epoch"), group) for each in self._sources]
        take: Command = ("XREADGROUP", "GROUP", group, self._consumer, "COUNT", self._count, "BLOCK", BLOCK, "STREAMS")
        *missed, reply = await reader.ask(
            *(("EVALSHA", MISSED.sha, 3, *keys) for keys in counting), (*take, *streams, *[">"] * len(streams))
        )
        for source, count in zip(self._sources, missed, strict=True):
            if is_unknown(count):
                await reader.one("SCRIPT", "LOAD", MISSED.text)
            elif sound(count):
                found.append(Loss("trimmed", count, source.stream))
        if isinstance(reply, Exception):
            await self._rejoin(reply)
            return found
        entries = dict(reply or ())
        for source in self._sources:
            self._take(source, entries.get(source.raw, []), found, shared=True)
        return found

    async def _reclaim(self, source: Source, found: list[Received | Loss], *arguments: Any) -> bytes | None:
        """Put a page of what is pending behind what was found; return the last id of it."""
        try:
            last, entries, gone = await self._run(RECLAIM, (source.raw,), *arguments)
        except Exception as error:
            await self._rejoin(error)
            return None
        if gone:
            found.append(Loss("trimmed", gone, source.stream))
        self._take(source, entries, found, shared=True)
        return cast("bytes | None", last)

    async def _tidy(self, source: Source, group: bytes) -> None:
        with suppress_no_group():
            await self._run(TIDY, (source.raw,), group, self._consumer, int(self._lease * 10_000))

    async def _join(self, source: Source) -> None:
        """Make the group if it is not there. If it was, and we do it, all before is lost."""
        link = self._link
        assert link is not None
        assert link.group is not None
        # Whoever was in the group when it went begins at the beginning: nothing that is there now has been seen.
        after = BEGINNING if source.is_joined else begin(link.start)
        is_new = await self._run(JOIN, (source.raw, source.beside("epoch")), encode(link.group), after, new_epoch())
        if is_new and source.is_joined:
            source.lost.append(Loss("recreated", None, source.stream))
        source.is_joined = True

    async def _rejoin(self, error: Exception) -> None:
        """After the stream was deleted, and its groups with it."""
        if not is_without_group(error):
            raise error
        for source in self._sources:
            await self._join(source)

    def _take(
        self, source: Source, entries: Sequence[Any], found: list[Received | Loss], *, shared: bool = False
    ) -> None:
        """Put entries, each of them id, fields and perhaps the number of deliveries, behind what was found."""
        if not entries:
            return
        stream, place = source.stream, source.place
        is_named = place is not None and self._link is not None and self._link.name is not None
        ordinal = place.ordinal if place is not None else None
        epoch = place.epoch if place is not None else None
        key_of, append = self._key_of, found.append
        prefix = stream + ":"
        size = attempts = 0
        token: Any = None
        for entry in entries:
            id, fields = entry[0], entry[1]
            if fields is None:  # pending, but gone
                continue
            if len(entry) == 3:
                attempts = entry[2] - 1
            if fields[0] == b"key" and fields[2:3] == [b"payload"]:
                key, payload = key_of(fields[1]), fields[3]
                headers = as_headers(fields[4:]) if len(fields) > 4 else {}
            else:
                key, payload, headers = self._take_apart(stream, fields)
            if shared:
                token = (source, id)
            elif is_named:
                if ordinal is not None:
                    ordinal += 1
                token = (source, Place(id, ordinal, epoch))
            text = id.decode()
            time = int(text.partition("-")[0]) / 1000
            size += len(payload)
            append(as_tuple(Received, (key, payload, headers, stream, prefix + text, token, attempts, time, *_LIVE)))
        self._count = max(1, min(MOST_ENTRIES, MOST_BYTES * len(entries) // (size or 1)))

    def _take_apart(self, stream: str, fields: list[bytes]) -> tuple[Key[Any], bytes, dict[str, str]]:
        """The key, payload and headers of an entry that another program has written."""
        named = {decode(name): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
        address = named.pop("key", None)
        key = Key(stream) if address is None else self._key_of(address)
        payload = named.pop("payload", None)
        values = {name: decode(value) for name, value in named.items()}
        if payload is None:
            return key, json.dumps(values).encode(), {}
        return key, payload, values

    def _read_key(self, address: bytes) -> Key[Any]:
        return cast(Key[Any], self._addresses.key(self._addresses.to_text(address)))

    # Finished with

    async def ack(self, tokens: Sequence[Any]) -> None:
        link = self._link
        assert link is not None
        commands: list[Command]
        if link.group:
            ids: dict[bytes, list[bytes]] = {}
            for source, id in tokens:
                ids.setdefault(source.raw, []).append(id)
            commands = [("XACK", stream, link.group, *its) for stream, its in ids.items()]
        else:
            last = {source.raw: (source, place) for source, place in tokens}
            commands = [
                ("SET", source.beside("position", str(link.name)), bytes(place)) for source, place in last.values()
            ]
        if commands:
            for reply in await self._ask().ask(*commands):
                sound(reply)

    async def extend(self, tokens: Sequence[Any]) -> None:
        assert self._link is not None
        ids: dict[bytes, list[bytes]] = {}
        for source, id in tokens:
            ids.setdefault(source.raw, []).append(id)
        for stream, its in ids.items():
            # A group that is gone is found by reading.
            with suppress_no_group():
                await self._run(EXTEND, (stream,), self._link.group, self._consumer, *its)

    async def bury(self, received: Received, why: str) -> None:
        fields: list[Any] = ["key", self._address(received.key), "payload", received.payload or b""]
        for name, value in received.headers.items():
            fields += (name, value)
        fields += ("reason", why, "position", received.position or "", "attempts", received.attempts)
        trim = ("MAXLEN", "~", self._maxlen) if self._maxlen else ()
        await self._ask().one("XADD", f"{received.lane}:dead", *trim, "*", *fields)

    # History

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        lanes = {bound.rpartition(":")[0] for bound in (before, after) if isinstance(bound, str)}
        newest, oldest = "+", "-"
        if isinstance(before, str):
            newest = "(" + before.rpartition(":")[2]
        elif before is not None:
            newest = f"({ceil(before * 1000)}-0"
        if isinstance(after, str):
            oldest = "(" + after.rpartition(":")[2]
        elif after is not None:
            oldest = f"{floor(after * 1000) + 1}-0"
        found: list[Received | Loss] = []
        for source in self._sources:
            if lanes <= {source.stream}:
                entries = await self._ask().one("XREVRANGE", source.raw, newest, oldest, "COUNT", limit)
                self._take(Source(source.stream, source.raw), entries[::-1], found)
        return cast("list[Received]", found)

    # Closing

    async def close(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await renewal
        connections = (self._reader, self._writer)
        was_reading = self._reader is not None
        self._reader = self._writer = None
        for connection in connections:
            if connection is not None:
                await connection.close()
        if was_reading:
            # A courtesy, which nothing waits for long.
            with suppress(Exception):
                await asyncio.wait_for(self._leave(), 0.5)

    async def _leave(self) -> None:
        """Give back our name, or our place in the group if nothing of it is left to be done."""
        link = self._link
        if link is None or not (link.group or link.name):
            return
        # Whatever was said last on the other one may not have been answered.
        self._writer = await self._server.open()
        try:
            if link.group:
                for source in self._sources:
                    await self._run(LEAVE, (source.raw,), link.group, self._consumer)
            else:
                await self._run(GIVE_NAME, (encode(f"{self._main}:name:{link.name}"),), self._consumer)
        finally:
            writer, self._writer = self._writer, None
            await writer.close()


def new_epoch() -> str:
    """A random string."""
    return uuid4().hex


def place_of(source: Source) -> Place:
    """Where reading is; there is a place after connecting."""
    assert source.place is not None
    return source.place


def begin(start: str | float) -> bytes:
    """The id behind which to begin; `$` for what is new."""
    if isinstance(start, str):
        return b"$" if start == "new" else BEGINNING
    return b"%d-%d" % (max(1, ceil(start * 1000)) - 1, 2**64 - 1)


def is_without_group(error: Exception) -> bool:
    """True if there is no such group; UNBLOCKED is what a client is told that waited while it went."""
    return any(words in str(error) for words in ("NOGROUP", "UNBLOCKED", "no such key"))


@contextmanager
def suppress_no_group() -> Iterator[None]:
    """Pass over a group that is gone: reading finds that out, and what has to be done about it."""
    try:
        yield
    except Exception as error:
        if not is_without_group(error):
            raise


def pack_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as arguments."""
    text = "".join([f"${len(name)}\r\n{name}\r\n${len(value)}\r\n{value}\r\n" for name, value in headers.items()])
    # Characters were counted, and bytes are wanted.
    return text.encode() if text.isascii() else arguments(*chain.from_iterable(headers.items()))


_name_of = cached(decode)


def as_headers(fields: list[bytes]) -> dict[str, str]:
    """Headers, which are every other field and their names before them."""
    return dict(zip(map(_name_of, fields[::2]), map(decode, fields[1::2]), strict=True))
