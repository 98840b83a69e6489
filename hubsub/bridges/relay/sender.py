"""The way out: what a hub publishes to a bridge's patterns is encoded, kept within bounds, and sent in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from time import time as now
from typing import Any

from ..._core.message_queue import Hole
from ..._core.outbox import Outbox
from ...errors import HubsubError, PayloadTooLarge, SubscriptionClosed
from ...event import Event, Gap, Meta
from ...hub import Hub
from ...key import NAMESPACE, Key
from ..adapter import Adapter, Record
from .wire import BEAT, GAP, MESSAGE, Notice, Wire, time_text

GAPS: Key[Any] = Key(NAMESPACE, "gap")
"""Where bridges tell each other what their outboxes had to drop."""

FULL = "outbox full"
"""The reason of such a gap."""


class Parcel:
    """An encoded message on its way."""

    __slots__ = ("key", "record", "size", "ticket", "time")

    def __init__(self, key: Key[Any], record: Record, ticket: Any, time: float) -> None:
        self.key = key
        self.record = record
        self.time = time
        self.ticket = ticket  # the event, if somebody waits to be told of it
        self.size = len(record.payload)


class Sender:
    """Takes messages from an outbox, encodes them at once, and sends them as long as there is a connection.

    Args:
        hub: The hub.
        outgoing: Patterns of what leaves.
        diverts: Those of them that go to the broker only.
        wire: Encodes.
        most: Messages kept, encoded or not.
        most_bytes: Bytes kept, encoded.
        max_payload: Bytes that the broker takes in one message.
        encode_now: Encode in the publish, not in the loop's next turn.
        prefix: What every key begins with here, and not at the broker.
        name: Shown in explanations and logs.
        refused: Told of each message that can never be sent: its key, itself, and why.
    """

    # Messages in one call of the adapter.
    BATCH = 500
    # Bridges that a message crosses at most.
    MOST_HOPS = 16

    def __init__(
        self,
        hub: Hub,
        outgoing: list[Key[Any]],
        diverts: list[Key[Any]],
        wire: Wire,
        *,
        most: int,
        most_bytes: int,
        max_payload: int | None,
        encode_now: bool,
        prefix: Key[Any],
        name: str,
        refused: Callable[[Key[Any], Any, Exception], None],
    ) -> None:
        self._hub = hub
        self._wire = wire
        self._most = most
        self._most_bytes = most_bytes
        self._max_payload = max_payload
        self._prefix = len(prefix)
        self._refused = refused
        self._sequence = count(1)
        self._parcels: deque[Parcel] = deque()
        self._sending = 0  # of these, the first so many are in the adapter's hands
        self._urgent: list[Record] = []  # beats
        self._news: asyncio.Future[None] | None = None
        self._empty: list[asyncio.Future[None]] = []
        self._lost: Hole | None = None
        self.bytes = 0
        self.sent = 0
        self.unclear = 0
        self.busy_since: float | None = None
        """When, by the loop's clock, the send began that is going on."""
        self.outbox: Outbox | None = None
        if outgoing:
            self.outbox = hub.outbox(outgoing, most, self._shed, diverts, name, self._take if encode_now else None)

    @property
    def pending(self) -> int:
        """Messages that are not sent yet."""
        return len(self._parcels) + (0 if self.outbox is None else self.outbox.pending)

    @property
    def oldest(self) -> float | None:
        """When the message was encoded that waits longest, in seconds since the epoch."""
        return self._parcels[0].time if self._parcels else None

    # Packing

    async def pack(self) -> None:
        """Encode what is published, as it comes, connected or not. Ends when the outbox is closed."""
        assert self.outbox is not None
        while True:
            try:
                batch = await self.outbox.get_batch(self.BATCH)
            except SubscriptionClosed:
                return
            time = now()
            text = time_text(time)
            for event in batch:
                if isinstance(event, Gap):
                    self._lose(Hole.of(event._replace(reason=FULL)))
                else:
                    self._pack(event, time, text)
            self._packed()

    def _take(self, event: Event[Any]) -> None:
        """Encode a message in its publish."""
        if len(self._parcels) >= self._most:
            self._shed()
        time = now()
        self._pack(event, time, time_text(time))
        self._packed()

    def _packed(self) -> None:
        while self.bytes > self._most_bytes and self._shed():
            pass
        self._hold()
        self._tell()

    def _pack(self, event: Event[Any], time: float, text: str) -> None:
        key, message = event
        meta = event.meta
        ticket = None if event.confirmed is None else event
        try:
            if meta is None:
                payload, headers = self._wire.pack_plain(key, message, self._hub.mint_id(), text)
            elif meta.hops >= self.MOST_HOPS:
                raise HubsubError(f"{key!r} has crossed {meta.hops} bridges; is there a ring of them?")
            else:
                payload, headers = self._wire.pack(MESSAGE, key, message, self._outward(meta))
            size = len(payload)
            if self._max_payload is not None and size > self._max_payload:
                raise PayloadTooLarge(key, size, self._max_payload)
        except Exception as error:
            self._refuse(key, message, ticket, error)
            return
        address = Key.create_from(key[self._prefix :]) if self._prefix and key[0] != NAMESPACE else key
        self._parcels.append(Parcel(key, Record(address, payload, headers, next(self._sequence)), ticket, time))
        self.bytes += size

    def _outward(self, meta: Meta) -> Meta:
        """What travels with a message that leaves: what came with it, and where it comes from."""
        if meta.id is None or meta.source is None:
            meta = self._hub.mint(meta)
        return meta._replace(hops=meta.hops + 1)

    def _refuse(self, key: Key[Any], message: Any, ticket: Any, error: Exception) -> None:
        if ticket is not None:
            ticket.fail(error, "it cannot be sent")
        self._refused(key, message, error)

    # Bounds

    def _shed(self) -> bool:
        """Drop the oldest message that is not just being sent."""
        if len(self._parcels) <= self._sending:
            return False
        parcel = self._parcels[self._sending]
        del self._parcels[self._sending]
        self.bytes -= parcel.size
        if parcel.ticket is not None:
            parcel.ticket.fail(why="dropped, the outbox was full")
        if self._lost is None:
            self._lost = Hole(FULL, 0)
        self._lost.add(parcel.key)
        self._hold()
        return True

    def _hold(self) -> None:
        if self.outbox is not None:
            self.outbox.hold(len(self._parcels), self.bytes >= self._most_bytes)

    def _lose(self, hole: Hole) -> None:
        """Have the receivers told, with the next message, of what was dropped."""
        if self._lost is None:
            self._lost = hole
        else:
            self._lost.merge(hole)

    # Sending

    async def send(self, adapter: Adapter) -> None:
        """Send what is packed, in order, until the connection is lost, which raises."""
        loop = asyncio.get_running_loop()
        parcels = self._parcels
        while True:
            if self._lost is not None and parcels:
                lost, self._lost = self._lost, None
                try:
                    await self._hand_over(adapter, [self._notice(lost.gap())], loop)
                except BaseException:
                    later, self._lost = self._lost, lost
                    if later is not None:
                        self._lose(later)
                    raise
            elif self._urgent:
                urgent, self._urgent = self._urgent, []
                await self._hand_over(adapter, urgent, loop)
            elif parcels:
                await self._send_batch(adapter, loop)
            else:
                self._tell_empty()
                self._news = loop.create_future()
                await self._news

    async def _send_batch(self, adapter: Adapter, loop: asyncio.AbstractEventLoop) -> None:
        parcels = self._parcels
        batch = list(islice(parcels, self.BATCH))
        self._sending = len(batch)
        try:
            refused = await self._hand_over(adapter, [parcel.record for parcel in batch], loop)
        except BaseException:
            if not adapter.features.idempotent:
                self.unclear += len(batch)
            raise
        finally:
            self._sending = 0
        for index, parcel in enumerate(batch):
            parcels.popleft()
            self.bytes -= parcel.size
            if refused and index in refused:
                self._refuse(parcel.key, parcel.record.payload, parcel.ticket, refused[index])
            else:
                self.sent += 1
                if parcel.ticket is not None:
                    parcel.ticket.done()
        self._hold()

    async def _hand_over(self, adapter: Adapter, records: list[Record], loop: asyncio.AbstractEventLoop) -> Any:
        self.busy_since = loop.time()
        try:
            return await adapter.send(records)
        finally:
            self.busy_since = None

    def _notice(self, gap: Gap) -> Record:
        assert self.outbox is not None
        return self._record(GAPS, GAP, Notice(gap, self.outbox.patterns))

    def _record(self, key: Key[Any], kind: str, data: Any) -> Record:
        payload, headers = self._wire.pack(kind, key, data, self._hub.mint())
        return Record(key, payload, headers, next(self._sequence))

    def beat(self, key: Key[Any]) -> None:
        """Send a sign of life, to come back by `key`."""
        if not self._urgent:
            self._urgent.append(self._record(key, BEAT, None))
            self._tell()

    # Waiting

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _tell_empty(self) -> None:
        if not self.pending:
            for future in self._empty:
                if not future.done():
                    future.set_result(None)
            self._empty.clear()

    async def flush(self) -> None:
        """Wait until everything that was published has been sent."""
        if self.pending:
            future = asyncio.get_running_loop().create_future()
            self._empty.append(future)
            await future

    def give_up(self) -> int:
        """Fail what was not sent; return how much that is."""
        left = len(self._parcels) + (0 if self.outbox is None else self.outbox.pending)
        for parcel in self._parcels:
            if parcel.ticket is not None:
                parcel.ticket.fail(why="the bridge was closed before it was sent")
        self._parcels.clear()
        self.bytes = 0
        if self.outbox is not None:
            self.outbox.close()
        return left
