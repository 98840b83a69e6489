"""The base of adapters whose broker numbers its records 1, 2, 3 …: where a reader begins, and what it has missed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from ..errors import BrokerBusy, NameTaken, NoSuchLetter
from .adapter import Adapter, Features, Link, Loss, Received, SentBack
from .address import Addresses
from .inbox import Inbox

as_tuple = tuple.__new__

Row = tuple[int, str, bytes | None, float | None, str | None, int]
"""A record: its number, the address of its key, its payload, when it was stored (in seconds since the epoch), to which
`Link.reader` it was sent back, if it was, and how often it was delivered before."""


class LogState(NamedTuple):
    """The state of a log."""

    epoch: str
    """A random text, another one when the log was made anew."""
    first: int
    """The number of the oldest record that is kept; `last + 1` if none is."""
    last: int
    """The number of the newest record that was ever added; 0 if none was."""


class LogAdapter(Adapter):
    """An adapter of a durable broker that numbers its records without holes, in the order of its commits.

    A subclass implements the methods from `open` to `shut`, and `send`, `listen` and `bury`. All but `open` may raise
    `BrokerBusy`; any other exception means that the connection is lost. A `Loss` stands where messages are missing:
    trimmed, with their count; rolled back; or in a log that was recreated.
    """

    NAME_SECONDS, PAGE = 10.0, 500
    """How long a name stays taken after its bridge was killed; the most records that are read at once."""
    features = Features(
        confirms="stored", durable=True, idempotent=True, replay=True, acks="each", names=True, groups=True,
        history=True, push=False, lease=30.0,
    )  # fmt: skip
    addresses = Addresses("/", allowed="\x01-.0-\ud7ff\ue000-\U0010ffff")  # what any text may hold
    link: Link
    """What the relay passes to `connect`; set before `open`."""
    inbox: Inbox
    """Takes control messages as they come. `ring` has the log read at once, rather than within a second; `fail` ends
    the connection, which has an inbox of its own."""

    def __init__(self, lease: float = 30.0) -> None:
        self.lease = lease
        """Seconds after which a message that a member of a group has not finished goes to another, unless extended."""
        self.inbox = Inbox()
        self.inbox.fail(ConnectionResetError("there is no connection yet"))
        self._reads: object = None
        self._place: tuple[str, int] | None = None  # epoch and number of the last record that was handed over
        self._used: tuple[str, int] | None = None  # up to here, what was handed over was certainly used

    def features_for(self, link: Link) -> Features:
        return features_of(self.features, link, self.lease)

    # What a subclass implements

    async def open(self) -> None:
        """Connect, and create what is missing at the broker."""
        raise NotImplementedError

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        """Return the state of the log, and at most `limit` records after a number, without waiting for any."""
        raise NotImplementedError

    async def follow(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        """As `read`, for messages that are received: each call continues where the last one has ended, as a rule.

        Override it to read ahead.
        """
        return await self.read(after, limit)

    async def before(self, moment: float) -> int:
        """Return the number of the last record that was stored before a time; if none was, that before the first."""
        raise NotImplementedError

    async def hold(self, seconds: float, position: str | None = None) -> str | None:
        """Hold the link's name for so long; return the position that is kept for it, or an empty text.

        None if another sender holds it, or has held it since, if there is a position to keep. 0 gives it back.
        """
        raise NotImplementedError

    async def join(self, after: int) -> bool:
        """Join the link's group; return whether it was created, to begin after a number."""
        raise NotImplementedError

    async def take(self, limit: int) -> tuple[str, Sequence[Row], int]:
        """Return the epoch, records of the group that no member has in hand, and how many of those are gone.

        What was handed back, or whose lease is over, comes first. This sender has them in hand for `lease` seconds.
        """
        raise NotImplementedError

    async def prolong(self, numbers: Sequence[int] | None, seconds: float) -> None:
        """Extend the lease of those of these records, or of all, that this sender has in hand, to so long from now.

        0 hands them back to the group at once, and that counts as no attempt.
        """
        raise NotImplementedError

    async def done(self, numbers: Sequence[int]) -> None:
        """Count these records as handled by the group."""
        raise NotImplementedError

    async def shut(self) -> None:
        """Disconnect, whatever state the connection is in. Shutting twice is safe."""
        raise NotImplementedError

    # Where to begin

    async def connect(self, link: Link) -> None:
        self.link, self.inbox, self.lag, self._renew_at = link, Inbox(), None, math.inf
        reads = (link.namespace, link.group, link.name)
        if reads != self._reads:
            self._reads, self._used = reads, None
        await self.open()
        if link.reads:
            await self._begin(link)

    async def _begin(self, link: Link) -> None:
        if link.name and (kept := await self._hold()):
            place = place_of(kept) or ("", 0)
            if not place[0]:
                self.inbox.put([Loss("its position was overwritten")])
        else:
            place = self._used or await self._start(link.start)
            if link.name:
                await self._hold("{}-{}".format(*place))
        if link.group:
            await self.prolong(None, 0)  # from the connection before
            # A member of a group that is gone begins at the beginning: it has seen nothing of what is there now.
            if await self.join(0 if self._used else place[1]) and self._used:
                self.inbox.put([Loss("recreated")])
        self._place = self._used = place

    async def _start(self, start: str | float) -> tuple[str, int]:
        state, _ = await self.read(0, 0)
        if isinstance(start, str):
            return state.epoch, state.last if start == "new" else state.first - 1
        return state.epoch, await self.before(start)

    async def _hold(self, position: str | None = None) -> str:
        renew_at = asyncio.get_running_loop().time() + self.NAME_SECONDS / 4
        if (kept := await self.hold(self.NAME_SECONDS, position)) is None:
            raise NameTaken(str(self.link.name))
        self._renew_at = renew_at
        return kept

    # Receiving

    async def receive(self) -> Sequence[Received | Loss]:
        clock = asyncio.get_running_loop().time
        until = clock() + 1
        self._used = self._place  # the caller has used what came before
        while True:
            found = self.inbox.take()
            room = self.link.room() if self.link.reads and not found else 0
            if room > 0:
                found = await (self._take if self.link.group else self._read)(min(room, self.PAGE))
            if clock() > self._renew_at:  # also after the process stood still: then nothing is handed over
                with suppress(BrokerBusy):  # nobody else can write either
                    await self._hold()
            left = until - clock()
            if found or left <= 0:
                return found
            # Nothing says when there is room again.
            await self.inbox.wait(left if room > 0 else max(0.001, min(left, (1 - left) / 5)))

    async def _take(self, limit: int) -> list[Received | Loss]:
        epoch, rows, gone = await self.take(limit)
        lost: list[Received | Loss] = [Loss("trimmed", gone)] if gone else []
        return lost + [self.received(row, f"{epoch}-{row[0]}", row[0]) for row in rows]

    async def _read(self, limit: int) -> list[Received | Loss]:
        assert self._place is not None
        epoch, number = self._place
        state, rows = await self.follow(number, limit)
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
            position = f"{epoch}-{number}"
            found.append(self.received(row, position, position if self.link.name else None))
        if not rows and state.last > number:
            found.append(Loss("trimmed", state.last - number))
            number = state.last
        self._place = epoch, number
        self.lag = max(0, state.last - number)
        return found

    def received(self, row: Row, position: str | None, token: Any = None) -> Received:
        """Return the message of a record."""
        _, address, payload, time, reader, attempts = row
        key = self.addresses.key(address)
        found = as_tuple(Received, (key, payload, {}, None, position, token, attempts, time, False, False, None))
        return found if reader is None else SentBack.to(reader, found)

    async def ack(self, tokens: Sequence[Any]) -> None:
        if self.link.group:
            await self.done(tokens)
        elif self.link.name:
            await self._hold(tokens[-1])

    async def extend(self, tokens: Sequence[Any]) -> None:
        if self.link.group and tokens:
            await self.prolong(tokens, self.lease)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        if self.link.group:
            await self.prolong(tokens, 0)

    # History

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        state, _ = await self.read(0, 0)
        last, first = state.last, state.first
        if isinstance(before, str):
            last = min(last, _number(before, state) - 1)
        elif before is not None:
            last = min(last, await self.before(before))
        if isinstance(after, str):
            first = max(first, _number(after, state) + 1)
        elif after is not None:
            first = max(first, await self.before(math.nextafter(after, math.inf)) + 1)
        first = max(first, last - limit + 1)
        found: list[Received] = []
        while first <= last:
            _, rows = await self.read(first - 1, min(self.PAGE, last - first + 1))
            found += (self.received(row, f"{state.epoch}-{row[0]}") for row in rows if row[0] <= last)
            first = rows[-1][0] + 1 if rows else last + 1
        return found

    # Ending

    async def lost(self) -> None:
        self.inbox.fail(ConnectionResetError("the connection is lost"))
        await self.close()

    async def close(self) -> None:
        is_sound = not self.inbox.is_failed
        self.inbox.fail(ConnectionResetError("the connection is closed"))  # nothing more is read
        if is_sound and self.link.reads:
            with suppress(Exception):
                async with asyncio.timeout(0.5):  # a courtesy to the others
                    if self.link.group:
                        await self.prolong(None, 0)
                    elif self.link.name:
                        await self.hold(0)
        await self.shut()


def features_of(features: Features, link: Link, lease: float, order: Literal["all", "key"] = "all") -> Features:
    """Return what a broker of groups and names can do for a link; readers that share messages have no order."""
    if link.group:
        return replace(features, order="none", acks="each", lease=lease)
    return replace(features, order=order, acks="prefix" if link.name else "none", lease=None)


def place_of(position: str) -> tuple[str, int] | None:
    """Return the epoch and the number of a position; None if it is no position of a log."""
    epoch, _, number = position.rpartition("-")
    return (epoch, int(number)) if number.isascii() and number.isdecimal() and len(number) < 19 else None


def _number(position: str, state: LogState) -> int:
    place = place_of(position)
    if place is None or place[0] != state.epoch:
        raise ValueError(f"{position!r} is no position in this log, or the log was made anew since")
    return place[1]


def letter_number(position: str) -> int:
    """Return the number in the position of a dead letter, which is `dead-` and the number.

    Raises:
        NoSuchLetter: It is no such position.
    """
    place = place_of(position)
    if place is None or place[0] != "dead":
        raise NoSuchLetter(position)
    return place[1]
