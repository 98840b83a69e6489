"""What all logs have in common whose records are numbered: where a reader begins, and what it has missed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import BrokerBusy, NameTaken
from .adapter import Features, Link, Loss, Received
from .inbox import Inbox
from .numbered import LogState, NumberedLog

V = TypeVar("V")


class LogAdapter(NumberedLog):
    """A durable broker's adapter, of a log that is read by numbers; a subclass says what `NumberedLog` lists.

    Readers without a name keep their place in memory, names have it kept at the broker, and groups share what comes.
    A `Loss` stands where messages are missing: trimmed, with its count; rolled back; or the log was made again.
    """

    NAME_SECONDS = 10.0
    """How long a name is taken after its bridge was killed."""
    PAGE = 500
    """Records read at once, at most."""
    BUSY_SECONDS = 10.0
    """How long it may be that nothing can be read, since nothing can be written, before that is a lost connection."""
    features = Features(
        confirms="stored", durable=True, idempotent=True, replay=True, acks="each", names=True, groups=True,
        history=True, push=False, lease=30.0,
    )  # fmt: skip

    def __init__(self, lease: float = 30.0) -> None:
        self.lease = lease
        """Seconds after which what a member of a group has not finished is given to another, unless extended."""
        self.inbox = Inbox()
        self._reads: object = None
        self._place: tuple[str, int] | None = None  # epoch and number of the last record that was handed over
        self._known: tuple[str, int] | None = None  # up to here, what was handed over was certainly used
        self._has_joined = self._is_inside = self._is_leaving = False
        self._holds_until = 0.0
        self._busy_since: float | None = None
        self._renewal: asyncio.Task[None] | None = None

    def features_for(self, link: Link) -> Features:
        acks = "each" if link.group else "prefix" if link.name else "none"
        order, lease = ("none", self.lease) if link.group else ("all", None)
        return replace(self.features, order=order, acks=acks, lease=lease)  # type: ignore[arg-type]

    # Where to begin

    async def connect(self, link: Link) -> None:
        self.link = link
        self.inbox = Inbox()
        self.lag = None
        self._is_inside = self._is_leaving = False
        self._busy_since = None
        reads = (link.namespace, link.group, link.name)
        if reads != self._reads:
            self._reads, self._known, self._has_joined = reads, None, False
        try:
            await self.open()
            if link.reads:
                await self._begin(link)
        except BaseException:
            await self.close()
            raise

    async def _begin(self, link: Link) -> None:
        # A name whose position went with the log, and whoever has none, goes on behind what was used.
        place = None if link.group else self._known
        is_kept = not link.name
        if link.name:
            await self._hold()
            self._is_inside = True
            self._renewal = asyncio.create_task(self._keep_holding())
            if (kept := await self.kept(link.name)) is not None:
                place, is_kept = self._read_place(kept), True
        if place is None:
            state = await self.state()
            place = state.epoch, await self._number_of_start(link.start, state)
        if not is_kept:
            await self._keep(*place)
        if link.group:
            # Whoever was in the group when it went begins at the beginning: nothing that is there now has been seen.
            if await self.join(link.group, 0 if self._has_joined else place[1]) and self._has_joined:
                self.inbox.put([Loss("recreated")])
            self._has_joined = self._is_inside = True
        self._place = self._known = place

    async def _number_of_start(self, start: str | float, state: LogState) -> int:
        """The number behind which to begin."""
        if isinstance(start, str):
            return state.last if start == "new" else state.first - 1
        return await self.before(start)

    def _read_place(self, text: str) -> tuple[str, int]:
        epoch, _, number = text.rpartition(" ")
        if number.isdecimal():
            return epoch, int(number)
        # Somebody else has written there. What is left is read again: nothing is skipped.
        self.inbox.put([Loss("its position was overwritten")])
        return "", 0

    # Receiving

    async def receive(self) -> Sequence[Received | Loss]:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._known = self._place  # whoever asks for more has used what came before
        while True:
            found = self.inbox.take()
            room = 0 if self._is_leaving or not self.link.reads else self.link.room()
            if room > 0:
                try:
                    found += await self._read(min(room, self.PAGE))
                    self._busy_since = None
                except BrokerBusy:
                    # What cannot be noted is not handed over.
                    self._busy_since = self._busy_since or clock()
                    if clock() - self._busy_since > self.BUSY_SECONDS:
                        raise
            waited = clock() - began
            if found or waited >= 1:
                return found
            # Nobody says when there is room again.
            await self.inbox.wait(1 - waited if room > 0 else max(0.001, min(waited / 5, 1 - waited)))

    async def _read(self, limit: int) -> list[Received | Loss]:
        if self.link.group:
            return list(await self.take(self.link.group, limit))
        assert self._place is not None
        epoch, number = self._place
        state, rows = await self.read(number, limit)
        if self.link.name and asyncio.get_running_loop().time() > self._holds_until:
            await self._hold()  # whoever stood still asks whether the name is still its own
        if state.epoch != epoch:
            self._place = state.epoch, state.first - 1
            return [Loss("recreated")]
        if state.last < number:
            self._place = epoch, state.last
            return [Loss("rolled back")]
        found: list[Received | Loss] = []
        for row in rows:
            if row[0] > number + 1:
                found.append(Loss("trimmed", row[0] - number - 1))
            number = row[0]
            found.append(self.received(row, (epoch, number) if self.link.name else None, epoch))
        if not rows and state.last > number:
            found.append(Loss("trimmed", state.last - number))
            number = state.last
        self._place = epoch, number
        self.lag = max(0, state.last - number)
        return found

    # Finished with

    async def ack(self, tokens: Sequence[Any]) -> None:
        if group := self.link.group:
            await self._patiently(lambda: self.done(group, tokens))
        elif self.link.name:
            await self._patiently(lambda: self._keep(*tokens[-1]))

    async def _keep(self, epoch: str, number: int) -> None:
        name = str(self.link.name)
        if not await self.keep(name, f"{epoch} {number}"):
            raise NameTaken(name)

    async def extend(self, tokens: Sequence[Any]) -> None:
        if (group := self.link.group) and tokens:
            with suppress(BrokerBusy):  # while nothing is written, nobody else can take them
                await self.prolong(group, tokens)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        self._is_leaving = True
        if group := self.link.group:
            await self._patiently(lambda: self.give_back(group, tokens))

    async def _patiently(self, call: Callable[[], Awaitable[V]]) -> V:
        """Try until the broker takes it."""
        pause = 0.05
        while True:
            try:
                return await call()
            except BrokerBusy:
                if self.inbox.is_failed:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _hold(self) -> None:
        name = str(self.link.name)
        until = asyncio.get_running_loop().time() + self.NAME_SECONDS
        if not await self.hold(name, self.NAME_SECONDS):
            raise NameTaken(name)
        self._holds_until = until

    async def _keep_holding(self) -> None:
        while True:
            await asyncio.sleep(self.NAME_SECONDS / 4)
            try:
                await self._patiently(self._hold)
            except Exception as error:
                return self.inbox.fail(error)

    # History

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        state = await self.state()
        last, first = state.last, state.first
        if before is not None:
            last = self.number(before, state) - 1 if isinstance(before, str) else await self.before(before)
        if isinstance(after, str):
            first = self.number(after, state) + 1
        elif after is not None:
            first = 1 + await self.before(math.nextafter(after, math.inf))
        last = min(last, state.last)
        first = max(first, state.first, last - limit + 1)
        found: list[Received] = []
        while first <= last:
            _, rows = await self.read(first - 1, min(self.PAGE, last - first + 1))
            found += (self.received(row, None, state.epoch) for row in rows if row[0] <= last)
            first = rows[-1][0] + 1 if rows else last + 1
        return found

    def number(self, position: str, state: LogState) -> int:
        """The number of a position.

        Raises:
            ValueError: It is none of this log, or of one that was made anew since.
        """
        epoch, _, number = position.rpartition("-")
        if epoch != state.epoch or not number.isdecimal():
            raise ValueError(f"{position!r} is no position in this log, or it was made anew since")
        return int(number)

    # Ending

    async def lost(self) -> None:
        await self._end(leave=False)

    async def close(self) -> None:
        await self._end(leave=True)

    async def _end(self, *, leave: bool) -> None:
        """End the connection, and leave it for good: give back the name, or what is in hand."""
        self._is_leaving = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
        if leave and self._is_inside and not self.inbox.is_failed:
            # A courtesy, for which nothing waits long.
            with suppress(Exception):
                async with asyncio.timeout(0.5):
                    if self.link.group:
                        await self.give_back(self.link.group, None)
                    else:
                        await self.hold(str(self.link.name), 0)
        self._is_inside = False
        self.inbox.fail(ConnectionResetError("the connection is closed"))
        await self.shut()
