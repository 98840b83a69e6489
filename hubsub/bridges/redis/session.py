"""A session of the adapter of Streams with a server: its connections, made for it and thrown away with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ...errors import BrokerBusy, NameTaken
from ...key import Key
from ..adapter import Link, Loss, Received
from ..lines import Line
from .answers import is_denied, is_no_stream, is_without_group, sound
from .connection import Connection
from .control import Channels, Control
from .entries import ABOUT, GIVEN_UP_BY, SENT_BACK_TO
from .group import SCRIPTS, Member
from .pace import Pace
from .position import Position
from .reader import PositionReader, Reader, Setup
from .resp import Command, encode
from .scripts import HANDED_BACK, HOLD_NAME, LEAVE, MOVE, REDELIVER, STATE
from .source import Source, ids_by_stream, new_epoch
from .writer import DEAD, Writer

NAME_SECONDS = 10
"""Seconds that a name stays taken after its bridge was killed."""
LEAVE_SECONDS = 0.5
"""The least seconds that closing waits for handing back; on a slow line, a few round trips."""
SILENT_LOOKS = 10
"""How many checks, a second apart, a connection may fail to reply while others do."""
PAUSE_FOR_ROOM = 0.001
"""Seconds between the first checks whether there is room again; later a fifth of the time waited so far."""
MOST_IDS = 1000
"""Ids in one call of a script."""


class Session(Line):
    """The exchange with a server from one `connect` until it is lost or closed.

    There are up to four connections: one reads and waits; one sends; one acknowledges and extends leases, which must
    not wait for the others; and one is for control messages. If one of them is lost, all are.

    Args:
        setup: What is the same for all sessions.
        link: The settings of the relay.
        main: The name of the stream that belongs to the namespace.
        sources: The streams to read.
    """

    def __init__(self, setup: Setup, link: Link, main: str, sources: Sequence[Source]) -> None:
        self._setup = setup
        self._link = link
        self._sources = sources if link.reads else ()
        self._consumer = encode(link.sender)
        self._name_key = encode(f"{main}:name:{link.name}")
        self._channels = Channels(link.namespace, setup.server.database, setup.entries)
        self._waking = self._channels.waking(link.group or "")
        self._connections: list[Connection] = []
        self._news = asyncio.Event()
        self._reader: Reader | None = None
        self._reading: asyncio.Task[list[Received | Loss]] | None = None
        self._renew_at = math.inf  # when to hold the name again
        self._control: Control | None = None
        self._asker: Connection | None = None
        self._listening: Connection | None = None
        self._reader_id: int | None = None
        self._is_inside = False  # is a member of the group, or has the name
        self._is_leaving = False  # no longer reads
        self._is_open = False  # there is a writer
        self._look_at = 0.0
        self._silent: dict[Connection, tuple[int, int]] = {}
        self._is_closed = False

    # Beginning

    async def open(self) -> None:
        """Connect, and find out where to begin, in as few round trips as possible, since the line may be slow."""
        try:
            await self._open()
        except BaseException:
            await self.leave()  # else a name that was taken stays taken
            raise

    async def _open(self) -> None:
        link = self._link
        commands: list[list[Command]] = [[]]
        if link.reads:
            scripts = SCRIPTS if link.group else (STATE,)
            commands += [], [("CLIENT", "ID"), *(("SCRIPT", "LOAD", script.text) for script in scripts)]
        if link.control or (link.reads and link.group):
            commands.append([])
        opened = await self._setup.server.open(self._connections, self._lost, *commands)
        sender = opened.pop(0)[0]
        setup = self._setup
        self.writer = Writer(sender, link.sender, link.reader, setup.entries, self._channels, setup.maxlen)
        self._is_open = True
        self._asker = sender
        if link.reads:
            (self._asker, _), (connection, (id, *replies)) = opened.pop(0), opened.pop(0)
            for reply in replies:
                sound(reply)
            self._reader_id = None if is_denied(id) else sound(id)
            self._listening = connection
        if opened:
            self._control = Control(opened.pop(0)[0], self._news.set)
        if self._listening is not None:
            await self._begin(self._listening)

    async def _begin(self, connection: Connection) -> None:
        link, setup = self._link, self._setup
        reader: Reader
        if link.group:
            reader = Member(connection, self._sources, link, setup)
            assert self._control is not None
            watching = asyncio.ensure_future(self._control.watch(self._waking, self._woken))
            try:
                await reader.begin()
                await watching
            finally:
                watching.cancel()
            self._is_inside = True
        else:
            if link.name:
                await self._hold_name()
                self._is_inside = True
            reader = PositionReader(connection, self._sources, link, setup)
            await reader.begin()
        self._reader = reader

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive the control messages of these keys from now on."""
        if not keys:
            return
        if self._control is None:
            ((connection, _),) = await self._setup.server.open(self._connections, self._lost, [])
            self._control = Control(connection, self._news.set)
        await self._control.listen({self._channels.channel(key): key for key in keys})

    # Signs of life

    @property
    def activity(self) -> int:
        return sum(connection.moved for connection in self._connections)

    @property
    def receiving(self) -> int | None:
        if self._listening is not None and self._reading is not None:
            return self._listening.received
        return None if self._control is None else self._control.connection.received

    @property
    def sending(self) -> int | None:
        return self.writer.connection.moved if self._is_open else None

    async def ping(self) -> None:
        """Return when the server has replied; a refusal is a reply, too."""
        await self._asked().ask(("PING",))

    def _asked(self) -> Connection:
        if self._asker is None:
            raise ConnectionResetError("there is no connection to Redis")
        return self._asker

    def _lost(self) -> None:
        """Called when a connection has failed."""
        if self._control is not None:
            self._control.lost()
        self._news.set()

    def _check(self) -> None:
        """Raise the error that has ended the session, if there is one.

        Raises:
            ConnectionError: A connection is lost.
        """
        if self._is_closed:
            raise ConnectionResetError("the connection to Redis is closed")
        for connection in self._connections:
            if connection.error is not None:
                raise connection.failure()

    def _look(self) -> None:
        """Detect a connection that is dead while the others live; nothing else would detect that.

        Checks are counted, not time: while the loop is blocked nothing can be received.

        Raises:
            ConnectionError: A connection is dead.
        """
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return
        self._look_at = now + 1
        control = None
        if self._control is not None:
            control = self._control.connection
            self._control.ping()
        for connection in self._connections:
            sign = connection.received if connection is control else connection.moved
            before, looks = self._silent.get(connection, (-1, 0))
            if sign != before or not (connection.owes or connection is control) or connection is self._listening:
                looks = 0
            elif looks >= SILENT_LOOKS:
                raise ConnectionError(f"no reply for {looks} s over one connection, while others reply")
            self._silent[connection] = (sign, looks + 1)

    # Receiving

    async def receive(self) -> list[Received | Loss]:
        """Return control messages as soon as they come, and messages from the streams as far as there is room.

        Raises:
            BrokerBusy: The server accepts no writes, or no reads, for now.
            NameTaken: Another bridge has taken over our name.
        """
        self._look()
        loop = asyncio.get_running_loop()
        began = loop.time()
        until = began + self._setup.block / 1000
        while True:
            self._news.clear()
            self._check()
            if loop.time() > self._renew_at:  # also after the process stood still: then nothing is handed over
                with suppress(BrokerBusy):  # nobody else can write either
                    await self._hold_name()
            if self._control is not None and self._control.inbox:
                return list(self._control.receive())
            if self._reading is None:
                self._read()
            if self._reading is None:
                now = loop.time()
                if now >= until:
                    return []
                look = now + max(PAUSE_FOR_ROOM, (now - began) / 5) if self._may_read else until
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(min(look, until)):
                        await self._news.wait()
            elif self._reading.done():
                reading, self._reading = self._reading, None
                found = reading.result()
                for source in self._sources:
                    if source.position is not None:
                        source.returned = replace(source.position)
                return found
            else:
                await self._news.wait()

    @property
    def _may_read(self) -> bool:
        return bool(self._sources) and not self._is_leaving

    def _read(self) -> None:
        """Start reading if there is room."""
        if self._reader is None or not self._may_read or (room := self._link.room()) < 1:
            return
        for source in self._sources:
            # The call for more shows that earlier messages were used.
            source.known = source.returned
        self._reading = asyncio.create_task(self._reader.read(room))
        self._reading.add_done_callback(lambda _: self._news.set())

    def _woken(self) -> None:
        """Called when another member of the group has handed messages back."""
        if isinstance(self._reader, Member) and not self._is_leaving:
            self._reader.look_for_returns()
            self._unblock()

    def _unblock(self) -> None:
        """End the read that waits for new messages; if the server denies that, it ends within a second."""
        if self._asker is not None and self._reader_id is not None:
            self._asker.send(("CLIENT", "UNBLOCK", self._reader_id))

    # Acknowledging

    async def ack(self, tokens: Sequence[Any]) -> None:
        """Acknowledge messages.

        Raises:
            BrokerBusy: The server accepts nothing for now.
            NameTaken: Another bridge has taken over our name, and continues from the last saved position.
        """
        if self._link.group:
            ids = ids_by_stream(tokens)
            acks: list[Command] = [("XACK", stream, self._link.group, *its) for stream, its in ids.items()]
            for reply in await self._asked().ask(*acks):
                if not is_no_stream(reply):
                    sound(reply)
        elif self._link.name:
            await self._hold_name(dict(tokens))

    async def extend(self, tokens: Sequence[Any]) -> None:
        """Extend the leases of messages."""
        await self._move(tokens, self._consumer)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        """Hand messages back to the other members at once, and stop reading."""
        self._is_leaving = True
        self._unblock()
        await self._move(tokens, HANDED_BACK, self._waking)

    async def _move(self, tokens: Sequence[Any], to: bytes, channel: bytes = b"") -> None:
        for stream, ids in ids_by_stream(tokens).items():
            for start in range(0, len(ids), MOST_IDS):
                arguments = (self._link.group, self._consumer, to, channel, *ids[start : start + MOST_IDS])
                reply = await self._asked().run(MOVE, (stream,), *arguments)
                # Reading reports that the group is gone.
                if not (is_without_group(reply) or is_no_stream(reply)):
                    sound(reply)

    async def _hold_name(self, positions: Mapping[Source, Position] | None = None) -> None:
        """Take our name, or keep it, and save our positions with it."""
        name = str(self._link.name)
        where = {source.beside("position", name): bytes(position) for source, position in (positions or {}).items()}
        milliseconds = int(NAME_SECONDS * 1000)
        self._renew_at = asyncio.get_running_loop().time() + NAME_SECONDS / 4
        keys, arguments = (self._name_key, *where), (self._consumer, milliseconds, *where.values())
        if not sound(await self._asked().run(HOLD_NAME, keys, *arguments)):
            raise NameTaken(name)

    # History

    async def history(self, source: Source, limit: int, newest: str, oldest: str, pace: Pace) -> list[Any]:
        """Return the last entries of a stream, at most `limit`, in order; read in parts, so that others get a turn."""
        asker = self._asked()
        found: list[Any] = []
        while len(found) < limit:
            count = pace.count(limit - len(found))
            (reply,) = await asker.ask(("XREVRANGE", source.raw, newest, oldest, "COUNT", count))
            # After the highest possible id, for example, there is nothing.
            is_void = isinstance(reply, Exception) and "for the interval" in str(reply)
            entries = [] if is_void or is_no_stream(reply) else sound(reply)
            pace.note(len(entries), asker.size, asker.seconds)
            found += entries
            if len(entries) < count:
                break
            newest = "(" + entries[-1][0].decode()
        return found[::-1]

    # Dead letters

    async def redeliver(self, source: Source, id: str) -> bool:
        """Append a dead letter to its stream again, for whoever gave it up, and delete it; return if it was there."""
        keys = (source.beside(DEAD[1:]), source.raw, source.beside("epoch"))
        fields = (GIVEN_UP_BY, SENT_BACK_TO, ABOUT[0])
        return bool(sound(await self._asked().run(REDELIVER, keys, id, self._setup.maxlen, new_epoch(), *fields)))

    # Ending

    async def close(self) -> None:
        await self._stop()
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()

    async def leave(self) -> None:
        """Give back the name, or the pending messages of this member of the group, and cut the connections."""
        await self._stop()
        if self._is_inside:
            self._is_inside = False
            # A courtesy, which must not delay closing for long.
            with suppress(Exception):
                async with asyncio.timeout(max(LEAVE_SECONDS, min(5.0, 4 * self._asked().round_trip))):
                    await self._leave()
        await self.close()

    async def _stop(self) -> None:
        self._is_leaving = self._is_closed = True
        self._news.set()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _leave(self) -> None:
        """Give back our name, or all our pending messages, including those that were on their way to us."""
        connection = self._asked()
        if connection.error is not None:
            ((connection, _),) = await self._setup.server.open(self._connections, self._lost, [])
        commands: list[Command] = []
        if self._link.group:
            if self._reader_id is not None:
                # Else messages may still be given to this member after it has left.
                commands.append(("CLIENT", "UNBLOCK", self._reader_id))
            for source in self._sources:
                arguments = (self._link.group, self._consumer, HANDED_BACK, self._waking)
                commands.append(("EVAL", LEAVE.text, 1, source.raw, *arguments))
        else:
            commands.append(("EVAL", HOLD_NAME.text, 1, self._name_key, self._consumer, 0))
        await connection.ask(*commands)
