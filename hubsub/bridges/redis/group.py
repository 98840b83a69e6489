"""Reading streams as a member of a group: each message goes to one of the members."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from ...errors import BrokerBusy
from ..adapter import Link, Loss, Received
from .answers import is_no_stream, is_unknown, is_without_group, sound
from .connection import Connection
from .position import BEGINNING
from .reader import STATE_BYTES, Reader, Setup, begin
from .resp import Command, encode
from .scripts import HANDED_BACK, JOIN, LOOK, RECLAIM, TIDY
from .source import Source, new_epoch

SCRIPTS = (JOIN, LOOK, RECLAIM, TIDY)
"""The scripts that run over the connection that reads."""


class Member(Reader):
    """Reads streams as a member of a group, and takes over what other members have handed back or left behind."""

    def __init__(self, connection: Connection, sources: Sequence[Source], link: Link, setup: Setup) -> None:
        super().__init__(connection, sources, link, setup)
        self._group = encode(str(link.group))
        self._consumer = encode(link.sender)
        self._tend_at = 0.0
        self._looked_at: set[bytes] = set()

    async def begin(self) -> None:
        """Join the group; make it if it does not exist."""
        await self._join(self._sources)
        for source in self._sources:
            # Messages that were on their way to us when a connection was lost, or handed back while nobody was there.
            source.mine = source.returns = b"-"
        self._tend_at = monotonic()

    async def _join(self, sources: Sequence[Source]) -> None:
        """Make the group where it does not exist. If it existed when we read last, everything before is lost."""
        replies = await self._connection.ask_scripts(SCRIPTS, *(self._joining(source) for source in sources))
        for source, is_new in zip(sources, replies, strict=True):
            source.lost += source.broken(is_no_stream(is_new))
            if not source.is_broken:
                if sound(is_new) and source.is_joined:
                    source.lost.append(Loss("recreated", None, source.stream))
                source.is_joined = True

    def _joining(self, source: Source) -> Command:
        # A member that was in the group when it was deleted begins at the start: it has seen nothing of what is there.
        after = BEGINNING if source.is_joined else begin(self._link.start)
        return ("EVALSHA", JOIN.sha, 2, source.raw, source.beside("epoch"), self._group, after, new_epoch())

    def look_for_returns(self) -> None:
        """Look first for messages that were handed back."""
        for source in self._sources:
            source.returns = b"-"

    # Reading

    async def read(self, room: int) -> list[Received | Loss]:
        """Return messages for this member: its own pending ones, those others handed back or left behind, and new ones.

        Waits a second for them.

        Raises:
            BrokerBusy: The server accepts no writes for now, so it cannot note who has what.
        """
        found: list[Received | Loss] = []
        for source in self._sources:
            found += source.lost
            source.lost.clear()
        try:
            if not found:
                found += await self._take_over(room)
            return found or await self._read_new(room)
        except BrokerBusy:
            for source in self._sources:
                source.mine = b"-"  # some messages may have been on their way to us
            if not found:
                raise
            return found

    async def _take_over(self, room: int) -> list[Received | Loss]:
        """Return a page of pending messages: our own, those handed back, and those others have left behind."""
        found: list[Received | Loss] = []
        if monotonic() >= self._tend_at:
            self._tend_at = monotonic() + self._setup.lease / 3
            for source in self._sources:
                source.others = b"-"
                await self._tidy(source)
        lease = b"%d" % int(self._setup.lease * 1000)
        for source in self._sources:
            while source.mine is not None and not found:
                source.mine = await self._reclaim(source, found, room, source.mine, self._consumer)
            while source.returns is not None and not found:
                source.returns = await self._reclaim(source, found, room, source.returns, HANDED_BACK)
            while source.others is not None and not found:
                source.others = await self._reclaim(source, found, room, source.others, b"", lease)
        return found

    async def _reclaim(
        self, source: Source, found: list[Received | Loss], room: int, after: bytes, whose: bytes, *lease: bytes
    ) -> bytes | None:
        """Append a page of pending messages; return where the next page begins, None if this was the last."""
        count = self._pace.count(room)
        arguments = (self._group, self._consumer, after, count, whose, HANDED_BACK, *lease)
        reply = await self._connection.run(RECLAIM, (source.raw,), *arguments)
        if is_no_stream(reply) or is_without_group(reply):
            return None  # reading reports it
        last, entries, gone = sound(reply)
        self._pace.note(len(entries), self._connection.size, self._connection.seconds)
        if gone:
            found.append(Loss("trimmed", gone, source.stream))
        self._read(source, entries, found)
        return None if last is None else b"(" + last

    async def _tidy(self, source: Source) -> None:
        silence = int(self._setup.lease * 10_000)
        reply = await self._connection.run(TIDY, (source.raw,), self._group, self._consumer, silence)
        if not (is_no_stream(reply) or is_without_group(reply)):
            sound(reply)

    async def _read_new(self, room: int) -> list[Received | Loss]:
        """Return messages that no member has received yet."""
        sources = self._sources
        if len(sources) == 1:
            return await self._read_each([(sources[0], self._pace.count(room))], "BLOCK", self._setup.block)
        found = await self._read_each(self._share(sources, room))
        return found or await self._wait(room)

    async def _read_each(self, shares: Sequence[tuple[Source, int]], *block: Any) -> list[Received | Loss]:
        """Return the given number of entries of each stream, and the losses before them."""
        commands: list[Command] = []
        for source, count in shares:
            commands += (self._looking(source), self._reading([source], count, *block))
        replies = await self._connection.ask(*commands)
        size, seconds = self._connection.size - STATE_BYTES * len(shares), self._connection.seconds
        found: list[Received | Loss] = []
        number = 0
        gone: list[Source] = []
        for (source, count), seen, reply in zip(shares, replies[::2], replies[1::2], strict=True):
            if is_no_stream(seen) or is_no_stream(reply):
                found += source.broken(True)
                continue
            if is_without_group(seen) or is_without_group(reply):
                gone.append(source)
                continue
            source.broken(False)
            missed, _, returned = (0, b"", 0) if is_unknown(seen) else sound(seen)
            if missed:
                found.append(Loss("trimmed", missed, source.stream))
            if returned and source.returns is None:
                source.returns = b"-"
            entries = sound(reply)[0][1] if sound(reply) else []
            number += len(entries)
            source.brought(len(entries), count)
            self._read(source, entries, found)
        self._pace.note(number, size, seconds)
        if any(map(is_unknown, replies)):
            await self._connection.load(SCRIPTS)
        if gone:
            await self._join(gone)
        elif not found and all(source.is_broken for source, _ in shares):
            await self._pause()
        return found

    async def _wait(self, room: int) -> list[Received | Loss]:
        """Wait until a message comes in one of several streams that are empty now."""
        sources = [source for source in self._sources if not source.is_broken]
        if not sources:
            return []
        if len(sources) <= room:
            (reply,) = await self._connection.ask(self._reading(sources, 1, "BLOCK", self._setup.block))
        else:
            # Room for less than one entry of each: only see whether something comes, and leave it there.
            seen = await self._connection.ask(*map(self._looking, sources))
            last = [each[1] if isinstance(each, list) else b"$" for each in seen]
            streams = (source.raw for source in sources)
            (reply,) = await self._connection.ask(
                ("XREAD", "COUNT", 1, "BLOCK", self._setup.block, "STREAMS", *streams, *last)
            )
            if isinstance(reply, list):
                return []
        found: list[Received | Loss] = []
        if is_no_stream(reply) or is_without_group(reply):
            return found  # reading reports it
        entries = dict(sound(reply) or ())
        for source in sources:
            self._read(source, entries.get(source.raw, []), found)
        return found

    def _looking(self, source: Source) -> Command:
        keys = (source.raw, source.beside("read", self._group.decode("utf-8", "surrogatepass")), source.beside("epoch"))
        is_new = source.raw not in self._looked_at
        self._looked_at.add(source.raw)
        return ("EVALSHA", LOOK.sha, 3, *keys, self._group, HANDED_BACK, int(is_new))

    def _reading(self, sources: Sequence[Source], count: int, *block: Any) -> Command:
        head: Command = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count, *block, "STREAMS")
        return (*head, *(source.raw for source in sources), *[">"] * len(sources))

    def _read(self, source: Source, entries: Sequence[Any], found: list[Received | Loss]) -> None:
        if entries:
            self._setup.entries.read(source.stream, entries, found, lambda id: (source, id))
