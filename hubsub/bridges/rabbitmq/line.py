"""The two connections of a bridge, from one `connect` until they are lost or closed: one reads, the other sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pamqp import commands

from ...errors import BrokerBusy, EncodeError, NameTaken
from ...key import Key
from ..adapter import Link, Loss, Received, Record
from ..address import cached
from ..lines import Line
from ..together import together
from . import frames
from .client import Channel, Connection, QueueGone
from .delays import Delays, path, ticks_until
from .errors import NOT_FOUND, explained, is_about_one
from .frames import Message
from .messages import own_headers, read_message
from .names import ANYONE, RECREATED, Names
from .options import Settings
from .topology import (
    ONE_READER,
    QUORUM,
    Lock,
    bind_exactly,
    binds,
    declare_exchanges,
    exchange_exists,
    exists,
    publish,
)

GOODBYE = 1.2
"""Seconds that RabbitMQ has to answer when a connection is closed."""
MOST_PREFETCH = 65535

Joined: TypeAlias = dict[str, list[str] | None]


class AmqpLine(Line):
    """Two connections; if one is lost, both are.

    Args:
        settings: Where they lead.
        link: What they carry.
        names: The names of its queues and exchanges.
        lost: Losses that are to be reported, also by the next connection.
        joined: Queues that were read before, by an earlier connection, and what it has bound them to; None if they were
            deleted since.
    """

    def __init__(self, settings: Settings, link: Link, names: Names, lost: list[Loss], joined: Joined) -> None:
        self._settings = settings
        self._link = link
        self.names = names
        self._losses = lost
        self._joined = joined
        login = settings.login()
        self.reader = Connection(login, self._ended)
        self.writer = Connection(login, self._ended)
        self.aside_lock = asyncio.Lock()
        """Is held by what is done over `aside`, one after the other."""
        self.has_letters = False
        """True if the exchange and the stream of dead letters are there."""
        self._guarding: asyncio.Task[None] | None = None
        self._gaps: list[Loss] = []
        self._control: list[Received] = []
        self._messages: list[Received] = []
        self._news = asyncio.Event()
        self._head = cached(self._publish_head)
        self._unacked: dict[int, None] = {}
        self._acked: set[int] = set()
        self._written: dict[int, int] = {}
        self._has_stored = False  # a message since it was opened, and since it has rejected one
        self.before = 0
        self._prefetch = commands.Basic.Qos(prefetch_count=min(link.window, MOST_PREFETCH))
        self.inward: Channel
        self.outward: Channel
        self.aside: Channel

    # Its life

    async def open(self) -> None:
        """Connect, and declare exchanges and queues."""
        try:
            await self._open()
        except Exception as error:
            raise explained(error) from error.__cause__

    async def _open(self) -> None:
        await together((self.reader.open(), self.writer.open()))
        self.inward, self.outward, self.aside, delaying = await together(
            (
                self.reader.channel(),
                self.writer.channel(confirms=True),
                self.writer.channel(confirms=True),
                self.writer.channel(),
            )
        )
        self.delays = Delays(delaying, self.names.delay, self.names.exchange)
        _, is_there, _ = await together(
            (declare_exchanges(self.reader, self.inward, self.names), self._is_still_there(), self._take_name())
        )
        late = await self._join(bool(is_there)) if self._link.incoming else ()
        self._guarding = self.reader.loop.create_task(self._guard(late), name=f"watching {self.names.exchange}")

    async def _take_name(self) -> None:
        if (name := self._link.name) is not None and not await Lock(self.reader, f"{self.names.queue}:lock").take():
            raise NameTaken(name)

    async def _join(self, is_there: bool) -> Sequence[str]:
        """Declare the queue, bind it to what is incoming and to nothing else, and consume it.

        Args:
            is_there: The queue was read before, and still exists.

        Returns:
            The patterns of a queue that may still be bound to others: `_bind_exactly` is to be called with them.
        """
        names, channel = self.names, self.inward
        is_kept = bool(self._link.reader)
        patterns = [names.pattern(key) for key in self._link.incoming]
        was_bound = is_there and is_kept and self._joined[names.queue] == patterns
        kind = QUORUM if is_kept else {"x-expires": int(self._settings.expires * 1000)}
        arguments = kind | ({} if self._link.group is not None else ONE_READER)
        methods: list[Any] = [commands.Queue.Declare(queue=names.queue, durable=True, arguments=arguments)]
        if is_kept and not was_bound:
            await channel.call(*methods)
            await self._bind_exactly(patterns)
            methods.clear()
        else:
            methods += binds(names.queue, names.exchange, patterns)
            methods += binds(names.queue, names.control, [] if is_kept else [ANYONE])
        # Every later message is received: here the gap ends. Losses of this connection are reported by the next one.
        self._gaps = list(self._losses)
        channel.consumers[b"messages"] = self._came
        # Together: RabbitMQ is slow while it starts, and each round trip may take it half a second.
        await channel.call(*methods, self._prefetch, commands.Basic.Consume(queue=names.queue, consumer_tag="messages"))
        self._joined[names.queue] = patterns
        # What else it is bound to says a stream, and RabbitMQ opens its streams last when it starts. An earlier
        # connection has made sure that it is nothing, so this one need not do so before messages come.
        return patterns if was_bound else ()

    async def _is_still_there(self) -> bool:
        """Return whether the queue was read before and still exists; if it does not, note the loss."""
        if self.names.queue not in self._joined:
            return False
        if self._joined[self.names.queue] is None:
            # RabbitMQ reports the deletion shortly before it deletes: a queue that is found now may be about to go.
            for _ in range(20):
                if not await self._queue_exists():
                    break
                await asyncio.sleep(0.05)
            return False
        if await self._queue_exists():
            return True
        self._losses.append(Loss("the queue was deleted, or has expired"))
        del self._joined[self.names.queue]  # it is noted once, however often this has to be tried
        return False

    async def _bind_exactly(self, patterns: Sequence[str]) -> None:
        """Bind the queue of a group or name to these patterns, and to no others."""
        queue, exchange = self.names.queue, self.names.exchange
        if self._link.group is None:
            await bind_exactly(self.reader, queue, exchange, patterns)
        else:
            async with Lock(self.reader, f"{queue}:lock"):
                await bind_exactly(self.reader, queue, exchange, patterns)

    async def _queue_exists(self) -> bool:
        return await exists(self.reader, commands.Queue.Declare(queue=self.names.queue, passive=True))

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive the control messages of these keys."""
        channel = self.inward
        channel.consumers[b"control"] = self._came_for_us
        addresses = [self.names.address(key) for key in keys]
        # Without a name, a method is about the queue that was declared last on its channel.
        await channel.call(
            commands.Queue.Declare(queue="", exclusive=True, auto_delete=True),
            *binds("", self.names.control, [*addresses, RECREATED]),
            commands.Basic.Consume(queue="", consumer_tag="control", no_ack=True),
        )

    async def _guard(self, late: Sequence[str]) -> None:
        """Check at each heartbeat that exchange and queue still exist: RabbitMQ does not report their deletion.

        At the first one, bind the queue to the patterns in `late`, if there are any, and to no others.
        """
        try:
            while True:
                await asyncio.sleep(self._settings.heartbeat / 2)
                if not await exchange_exists(self.reader, self.names):
                    self._recreated()
                elif self._link.incoming and not await self._queue_exists():
                    self.reader.cancelled()
                elif late:
                    await self._bind_exactly(late)
                    late = ()
        except Exception as error:
            self.reader.fail(explained(error))

    def _recreated(self) -> None:
        """The exchange was deleted, and our bindings with it."""
        if self._link.incoming and self.reader.error is None:
            self._losses.append(Loss("the exchange was deleted"))
        self.reader.fail(ConnectionResetError("the exchange was deleted"))

    def _ended(self) -> None:
        """A connection has ended."""
        if isinstance(self.reader.error, QueueGone) and self._joined.get(self.names.queue):
            self._losses.append(Loss("the queue was deleted"))
            self._joined[self.names.queue] = None
        self._news.set()

    def _check(self) -> None:
        for connection, channel in ((self.reader, self.inward), (self.writer, self.outward)):
            if (error := connection.error or channel.error) is not None:
                raise explained(error)

    async def close(self) -> None:
        if self._guarding is not None:
            self._guarding.cancel()
        self.reader.abort()
        self.writer.abort()

    async def leave(self) -> None:
        """End both after all that was sent is carried out, and delete a queue of this bridge alone."""
        if self.reader.error is None and self._guarding is not None:
            self._guarding.cancel()
            if self._link.incoming and not self._link.reader:
                self.inward.tell(commands.Queue.Delete(queue=self.names.queue, nowait=True))
            await asyncio.gather(self.reader.close(GOODBYE), self.writer.close(GOODBYE))
        await self.close()

    @property
    def activity(self) -> int:
        return sum(self.reader.moved) + sum(self.writer.moved)

    @property
    def receiving(self) -> int | None:
        return self.reader.moved[1]

    @property
    def sending(self) -> int | None:
        return sum(self.writer.moved)

    async def ping(self) -> None:
        await self.inward.call(
            commands.Exchange.Declare(exchange=self.names.control, exchange_type="direct", durable=True)
        )

    # Receiving

    def _came(self, message: Message) -> None:
        self._unacked[message.tag] = None
        self._messages.append(read_message(message, self.names, (self, message.tag)))
        self._news.set()

    def _came_for_us(self, message: Message) -> None:
        address = frames.decoded(message.routing_key)
        if address == RECREATED:
            self._recreated()
        elif (key := self.names.key(address)) is not None:
            self._control.append(Received(key, message.body, own_headers(message), is_control=True))
            self._news.set()

    async def receive(self) -> Sequence[Received | Loss]:
        """Wait for messages, and return those for which there is room."""
        while True:
            found: list[Received | Loss] = [*self._gaps, *self._control]
            del self._losses[: len(self._gaps)]
            self._gaps.clear()
            self._control.clear()
            room = self._link.room() if self._messages else 1
            if room > 0 and self._messages:
                found += self._messages[:room]
                del self._messages[:room]
            if found:
                return found
            self._check()
            self._news.clear()
            if room > 0:
                await self._news.wait()
            else:
                try:
                    await asyncio.wait_for(self._news.wait(), 0.5)
                except TimeoutError:
                    return []

    async def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Acknowledge messages; return when RabbitMQ has read that. Those of an earlier connection come again."""
        tags = {tag for line, tag in tokens if line is self}
        if tags:
            self.reader.write(b"".join(self._acks(tags)))
            # RabbitMQ does not confirm that. But a channel carries out one method after the other.
            await self.inward.call(self._prefetch)

    def _acks(self, tags: set[int]) -> list[bytes]:
        """Return frames that acknowledge these, with one for all up to the first that is not handled.

        Of many single ones, a quorum queue delays some, and forgets these when the channel closes.
        """
        number, last = self.inward.number, 0
        self._acked |= tags
        for tag in self._unacked:
            if tag not in self._acked:
                break
            last = tag
        done = [tag for tag in self._unacked if tag <= last]
        for tag in done:
            del self._unacked[tag]
        self._acked.difference_update(done)
        found = [frames.ack(number, tag) for tag in sorted(tags) if tag > last]
        if newest := max((tag for tag in tags if tag <= last), default=0):
            found.insert(0, frames.ack(number, newest, multiple=True))
        return found

    async def give_back(self, tokens: Sequence[Any]) -> None:
        """Return these to the queue, for other members, and stop reading."""
        self.inward.tell(commands.Basic.Cancel(consumer_tag="messages", nowait=True))
        tags = [tag for line, tag in tokens if line is self]
        self.reader.write(b"".join([frames.nack(self.inward.number, tag) for tag in tags]))
        await self.inward.call(self._prefetch)

    # Sending

    def _publish_head(self, key: Key[Any]) -> bytes:
        return frames.publish_head(self.outward.number, self.names.exchange, self.names.address(key), mandatory=True)

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Publish records, in order, and wait for their confirmation; return the errors of those that are refused."""
        first, refused = 0, dict[int, Exception]()
        if not (self._has_stored or records[0].is_control):
            # RabbitMQ may reject messages for a moment after it has started, and then store those behind them, out of
            # their order. So the first one is sent alone.
            first, refused = 1, await self._publish(records[:1])
            self._has_stored = True
        refused |= {first + index: error for index, error in (await self._publish(records[first:])).items()}
        self._written.clear()
        return refused

    async def _publish(self, records: Sequence[Record]) -> dict[int, Exception]:
        self._check()
        connection, channel, written = self.writer, self.outward, self._written
        refused: dict[int, Exception] = {}
        data: list[bytes] = []
        if connection.blocked is not None:
            raise self._busy()
        for index, record in enumerate(records):
            if record.sequence in written:
                continue  # it was published by an earlier call, which could not wait for its confirmation
            try:
                data.append(await self._packed(record) if record.is_control or record.due else self._plain(record))
            except (ValueError, TypeError) as error:
                refused[index] = EncodeError(record.key, f"it cannot be sent to RabbitMQ: {error}")
                refused[index].__cause__ = error
                continue
            tag = channel.next_tag()
            if record.sequence:
                written[record.sequence] = tag
        connection.write(b"".join(data))
        while channel.unconfirmed:
            if connection.blocked is not None:
                raise self._busy()
            if channel.error is not None:
                return refused | await self._refusals(records, refused)
            await channel.confirmed()
        if channel.rejected:
            for sequence in [each for each, tag in written.items() if tag in channel.rejected]:
                del written[sequence]
            channel.rejected.clear()
            self._has_stored = False
            raise BrokerBusy("RabbitMQ could not store everything; a queue may be full")
        return refused

    def _busy(self) -> BrokerBusy:
        return BrokerBusy(f"RabbitMQ accepts no messages at the moment: {self.writer.blocked}")

    async def _refusals(self, records: Sequence[Record], refused: Mapping[int, Exception]) -> dict[int, Exception]:
        """RabbitMQ has closed the channel: return an error for each record if one of them is why, else raise."""
        error = self.outward.error
        assert error is not None
        self._check_connection()
        if not is_about_one(error):
            if getattr(error, "code", None) == NOT_FOUND:
                raise ConnectionResetError(f"the exchange was deleted: {error}") from error
            raise explained(error)
        self.before += self.outward.returned
        self._written.clear()
        self.outward = await self.writer.channel(confirms=True)
        self._head = cached(self._publish_head)
        return {index: explained(error) for index in range(len(records)) if index not in refused}

    def _check_connection(self) -> None:
        if self.writer.error is not None:
            raise explained(self.writer.error)

    def _plain(self, record: Record) -> bytes:
        head = self._head(record.key)
        return head + frames.content(self.outward.number, record.headers, record.payload, self.writer.frame_max)

    async def _packed(self, record: Record) -> bytes:
        """Return the frames of a control message, or of one that is due later."""
        number, address = self.outward.number, self.names.address(record.key)
        headers = record.headers
        if record.is_control:
            head = frames.publish_head(number, self.names.control, address, mandatory=False)
            return head + frames.content(number, headers, record.payload, self.writer.frame_max, mode=b"\x01")
        assert record.due is not None
        await self.delays.prepare(path(ticks_until(record.due))[0])
        # Declaring the levels took a while.
        top, wait = path(ticks_until(record.due))
        head = frames.publish_head(number, self.delays.entrance(top), address, mandatory=False)
        return head + frames.content(number, headers, record.payload, self.writer.frame_max, wait)

    @property
    def unroutable(self) -> int:
        """Messages that no queue accepted."""
        return self.before + (self.outward.returned if hasattr(self, "outward") else 0)

    async def put(
        self, exchange: str, key: str, headers: Mapping[str, str], body: bytes, own: Mapping[str, Any] = frames.NONE
    ) -> bool:
        """Publish one message beside the others; return whether a queue has it."""
        async with self.aside_lock:
            self._check_connection()
            if self.writer.blocked is not None:
                raise self._busy()
            if self.aside.error is not None:
                self.aside = await self.writer.channel(confirms=True)
            return await publish(self.aside, self.writer, exchange, key, headers, body, own)
