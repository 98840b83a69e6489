"""Reading streams from positions of our own: everything, or from the saved position of a name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

from ...errors import BrokerBusy
from ..adapter import Link, Loss, Received
from .answers import is_no_stream, is_unknown, sound
from .connection import Connection
from .entries import Entries
from .pace import Pace
from .position import BEGINNING, Position, State, number_of
from .resp import Command
from .scripts import STATE
from .server import Server
from .source import Shares, Source, new_epoch

STATE_BYTES = 100
"""Approximate bytes of the state of a stream, in a reply with entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings that all sessions share."""

    server: Server
    entries: Entries
    maxlen: bytes
    lease: float
    block: int
    """Milliseconds that the server waits for a message before it replies that there is none."""
    pace: Pace
    """The pace of the line over which streams are read."""


class Reader:
    """Reads streams over a connection of its own, which waits for messages; it is made for that connection."""

    def __init__(self, connection: Connection, sources: Sequence[Source], link: Link, setup: Setup) -> None:
        self._connection = connection
        self._sources = sources
        self._link = link
        self._setup = setup
        self._pace = setup.pace
        self._shares = Shares()

    async def begin(self) -> None:
        """Find out where to begin, or join the group."""
        raise NotImplementedError

    async def read(self, room: int) -> list[Received | Loss]:
        """Return messages and losses; wait a second for them.

        Raises:
            BrokerBusy: The server replies to no reads for now; nothing was skipped.
        """
        raise NotImplementedError

    def _share(self, sources: Sequence[Source], room: int) -> list[tuple[Source, int]]:
        """Return streams, each with a number of entries to request, as the line and the room allow."""
        return self._shares.of(sources, min(room, max(len(sources), self._pace.count(room))))

    async def _pause(self) -> None:
        await asyncio.sleep(self._setup.block / 1000)


class PositionReader(Reader):
    """Reads streams from positions: those that are saved for a name, or those where reading was."""

    # Where to begin

    async def begin(self) -> None:
        """Find out where to begin: at the saved position of the name, or where reading was, or at `start`."""
        for source in self._sources:
            source.position = None if self._link.name or source.known is None else replace(source.known)
        if self._link.name is not None:
            # Also after an interruption: messages that were not acknowledged are delivered again.
            await self._begin_with_saved()
        new = [source for source in self._sources if source.position is None]
        if new:
            await self._begin_anew(new)
        for source in self._sources:
            source.known = source.returned = replace(_position(source))

    def _saved(self, source: Source) -> bytes:
        return source.beside("position", str(self._link.name))

    async def _begin_with_saved(self) -> None:
        """Begin at the saved positions of the name."""
        saved = await self._connection.ask(*(("GET", self._saved(source)) for source in self._sources))
        for source, text in zip(self._sources, saved, strict=True):
            if text is None:
                continue
            try:
                source.position = Position.read(b"" if is_no_stream(text) else sound(text))
            except ValueError:
                # Another program has overwritten it. All entries that are left are read again: none is skipped.
                source.lost.append(Loss("its position was overwritten", None, source.stream))
                source.position = Position()

    async def _begin_anew(self, sources: Sequence[Source]) -> None:
        """Begin with streams that are read for the first time."""
        start = begin(self._link.start)
        saving: list[Command] = []
        for source, stream in zip(sources, await self._states(sources), strict=True):
            if stream is None:
                source.lost += source.broken(True)
                source.position = Position()
            elif start == b"$":
                source.position = Position(stream.last, stream.added, stream.epoch)
            elif start == BEGINNING:
                source.position = Position(BEGINNING, stream.added - stream.length, stream.epoch)
            else:
                source.position = Position(min(start, stream.last, key=number_of), None, stream.epoch)
            if self._link.name is not None:
                # Else a reader of new messages would miss those that come while it is away before its first one.
                saving.append(("SET", self._saved(source), bytes(source.position)))
        for reply in await self._connection.ask(*saving):
            sound(reply)

    async def _states(self, sources: Sequence[Source]) -> list[State | None]:
        """Return the states of streams, None for a key that is not a stream; give each an epoch."""
        replies = await self._connection.ask_scripts((STATE,), *map(_state_of, sources))
        states = [None if is_no_stream(reply) else State(*sound(reply)) for reply in replies]
        new: list[Command] = [
            ("SET", source.beside("epoch"), new_epoch(), "NX")
            for source, state in zip(sources, states, strict=True)
            if state is not None and state.epoch is None
        ]
        if not new:
            return states
        for reply in await self._connection.ask(*new):
            sound(reply)
        return await self._states(sources)

    # Reading

    async def read(self, room: int) -> list[Received | Loss]:
        try:
            return await self._read(room)
        except BrokerBusy:
            for source in self._sources:
                source.position = None if source.returned is None else replace(source.returned)
            raise

    async def _read(self, room: int) -> list[Received | Loss]:
        found = await self._read_on(room, {})
        if found:
            return found
        streams = [source for source in self._sources if not source.is_broken]
        if not streams:
            await self._pause()
            return found
        # It only shows that something came; losses before that have to be reported first.
        (reply,) = await self._connection.ask(
            (
                *("XREAD", "COUNT", 1, "BLOCK", self._setup.block, "STREAMS"),
                *(source.raw for source in streams),
                *(_position(source).id for source in streams),
            )
        )
        if is_no_stream(reply):
            return await self._read_on(room, {})
        came = dict(sound(reply) or ())
        if not came:
            return []
        self._pace.note(len(came), self._connection.size, self._connection.seconds)
        return await self._read_on(room, {source: came[source.raw] for source in streams if source.raw in came})

    async def _read_on(self, room: int, rung: dict[Source, list[Any]]) -> list[Received | Loss]:
        """Read on after our positions, and after the entry of each stream that is known to come next."""
        sources = self._sources
        if len(sources) > room and rung:
            sources = list(rung)
        shares = self._share(sources, room)
        commands: list[Command] = []
        for source, count in shares:
            commands.append(_state_of(source))
            first = rung.get(source, [])
            if count > len(first):
                after = first[-1][0] if first else _position(source).id
                commands.append(("XREAD", "COUNT", count - len(first), "STREAMS", source.raw, after))
        replies = await self._at_once(commands)
        if any(map(is_unknown, replies)):
            await self._connection.load((STATE,))
            replies = await self._at_once(commands)
        size, seconds = self._connection.size - STATE_BYTES * len(shares), self._connection.seconds
        for reply in replies:
            # Before any entry is used.
            if not is_no_stream(reply):
                sound(reply)
        found: list[Received | Loss] = []
        number = 0
        each = iter(replies)
        for source, count in shares:
            first = rung.get(source, [])
            asked = count - len(first)
            state, read = next(each), next(each) if asked else None
            found += source.lost
            source.lost.clear()
            found += source.broken(is_no_stream(state) or is_no_stream(read))
            if not source.is_broken:
                behind = sound(read)[0][1] if sound(read) else []
                number += len(behind)
                await self._find(source, State(*sound(state)), first, behind, asked, found)
        self._pace.note(number, size, seconds)
        return found

    async def _at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that the server has run as one transaction."""
        try:
            return await self._connection.atomically(*commands)
        except BrokerBusy:
            # A server without memory left queues no transaction; but then nobody adds entries either.
            return await self._connection.ask(*commands)

    async def _find(
        self,
        source: Source,
        stream: State,
        first: list[Any],
        behind: list[Any],
        asked: int,
        found: list[Received | Loss],
    ) -> None:
        """Append what was read of a stream, losses first; the first entry was read a moment before the state."""
        position = _position(source)
        if position.is_void(stream):
            # The entries read after our old position are ignored: they are read again, from a valid position.
            if stream.epoch != position.epoch or not stream.added:
                found.append(Loss("recreated", None, source.stream))
                (now,) = await self._states([source])
                source.position = Position(BEGINNING, 0, None if now is None else now.epoch)
            else:
                # The same stream without its end, as after a crash: new entries follow those that are left.
                found.append(Loss("rolled back", None, source.stream))
                source.position = Position(min(position.id, stream.last, key=number_of), None, stream.epoch)
            return
        position.epoch = stream.epoch
        its = first + behind
        is_all = len(behind) < asked
        is_gone = bool(first) and (stream.first is None or number_of(first[-1][0]) < number_of(stream.first))
        missed = position.missed(stream, len(its), is_all, len(first) if is_gone else 0)
        if missed:
            found.append(Loss("trimmed", missed, source.stream))
            position.advance(position.id, missed)
        if its:
            self._setup.entries.read(source.stream, its, found, self._token_of(source))
            position.advance(its[-1][0], len(its))
        if is_all:
            position.ordinal = stream.added
        source.brought(len(behind), asked)
        source.lag = None if position.ordinal is None else stream.added - position.ordinal

    def _token_of(self, source: Source) -> Any:
        """Return a function that makes the token of an entry from its id; for a name, the token is a position."""
        if self._link.name is None:
            return None
        position = _position(source)
        ordinal, epoch = position.ordinal, position.epoch

        def token_of(id: bytes) -> tuple[Source, Position]:
            nonlocal ordinal
            if ordinal is not None:
                ordinal += 1
            return source, Position(id, ordinal, epoch)

        return token_of


def _state_of(source: Source) -> Command:
    return ("EVALSHA", STATE.sha, 2, source.raw, source.beside("epoch"))


def _position(source: Source) -> Position:
    """Return the position of reading, which is set once reading has begun."""
    return cast(Position, source.position)


def begin(start: str | float) -> bytes:
    """Return the id after which to begin; `$` to read new entries only."""
    if isinstance(start, str):
        return b"$" if start == "new" else BEGINNING
    return b"%d-%d" % (max(1, ceil(start * 1000)) - 1, 2**64 - 1)
