"""The sending half of a bridge: messages are encoded, kept within bounds, and sent in batches."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count, islice
from time import time as now
from typing import Any, TypeAlias

from ..._core.asking import ReplyAddress
from ..._core.gaps import OpenGap
from ..._core.outbox import Outbox
from ...errors import BridgeError, BrokerBusy, EncodeError, HubsubError, PayloadTooLarge, Unsupported
from ...event import Event, Gap, Meta
from ...hub import Hub
from ...key import NAMESPACE, Key
from ..adapter import Adapter, ConfirmedRecord, DelayedRecord, Features, NotFinished, Record
from .plan import GAPS, Plan
from .replies import OpenRequests
from .wire import BEAT, GAP, MESSAGE, Notice, Wire, time_text

as_tuple = tuple.__new__

FULL = "outbox full"
"""The reason of the gap where an outbox dropped messages."""

Refused: TypeAlias = Callable[[Key[Any], Any, Exception], None]


class Outgoing:
    """An encoded message on its way."""

    # What few messages need is an attribute of the class until it is set: there are tens of thousands a second.
    event: Event[Any] | None = None  # if somebody waits for it to be sent
    blame = 0  # how often the connection was lost while this was the only message being sent

    def __init__(self, key: Key[Any], record: Record, size: int, time: float) -> None:
        self.key = key
        self.record = record
        self.size = size
        self.time = time


class Omission(OpenGap):
    """Stands in the queue where messages were dropped; it is sent as the notice of a gap.

    It has the number of the last one dropped, so that records are numbered in the order in which they are sent. If that
    message was sent before it was dropped, and the broker stored it, the broker also stored all before it. Then nothing
    is missing, and the broker drops the notice as a repeat.
    """

    __slots__ = ("sequence",)

    def __init__(self) -> None:
        super().__init__(FULL, 0)
        self.sequence = 0


class Sender:
    """Encodes the messages of an outbox at once, and sends them while there is a connection.

    A message that cannot be sent affects no other: it is refused, a caller that waits for it gets the error, and the
    next one is sent. Such failures are handled here and nowhere else.

    Args:
        hub: The hub.
        plan: The options.
        wire: Encodes.
        features: What the broker can do.
        requests: The requests that leave here.
        name: Shown in explanations and logs.
        refused: Called with each message that can never be sent: key, message and error.
    """

    # The most records in a call of the adapter, and the most bytes of them.
    BATCH = 500
    BATCH_BYTES = 4 << 20
    # The most seconds that a call should take: on a slow line, batches become smaller.
    CALL_SECONDS = 0.5
    # The most bridges that a message crosses.
    MOST_HOPS = 16
    # The most replies that wait to be sent.
    MOST_REPLIES = 10_000
    # Bytes of headers that are not measured: those of a message without metadata of its own have fewer.
    PLAIN_HEADERS = 4096

    def __init__(
        self,
        hub: Hub,
        plan: Plan,
        wire: Wire,
        features: Features,
        requests: OpenRequests,
        name: str,
        refused: Refused,
    ) -> None:
        self._border = hub.border
        self._plan = plan
        self._wire = wire
        self._features = features
        self._max_payload = features.max_payload
        self._at_broker = plan.at_broker if plan.prefix else None
        self._requests = requests
        self._name = name
        self._refused = refused
        self._sequence = count(1)
        # The highest number that was sent, perhaps in vain: its signature must not be sent again.
        self._signed_to = 0
        self._queue: deque[Outgoing | Omission] = deque()
        self._messages = 0  # of these
        self._in_hand = 0  # how many of them, from the first on, are in a call of the adapter
        self._control: deque[Record] = deque()
        self._beat: Record | None = None
        self._most = self.BATCH
        self._most_bytes = 1 << 20
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Future[None] | None = None
        self._empty: list[asyncio.Future[None]] = []
        self.bytes = 0
        self.sent = 0
        self.unclear = 0
        self.lost_replies = 0
        self.calls = 0
        """Calls of the adapter that have begun."""
        self.bytes_in_hand: int | None = None
        """Bytes that the running call has to send; None if no call is running."""
        self.progress = 0
        """Calls of the adapter that have succeeded."""
        self.beats = 0
        """Beats that were sent."""
        self.is_refused = False
        """True while the broker accepts no messages."""
        self.beats_are_refused = False
        """True if the last beat over this connection was refused: the account may not write, for example."""
        self.outbox: Outbox | None = None
        if plan.outgoing:
            self.outbox = hub.border.outbox(
                list(plan.outgoing),
                plan.outbox,
                ready=self.pack if plan.encode_now else self._pack_soon,
                shed=self._shed_for_room,
                diverts=plan.diverted,
                name=name,
            )

    @property
    def pending(self) -> int:
        """Messages that are not sent yet, including replies."""
        waiting = 0 if self.outbox is None else self.outbox.pending
        return self._messages + waiting + len(self._control)

    @property
    def oldest(self) -> float | None:
        """When the oldest message that waits was encoded, in seconds since the epoch."""
        return next((each.time for each in self._queue if isinstance(each, Outgoing)), None)

    # Encoding

    def start(self) -> None:
        """Encode messages as they are published, whether connected or not."""
        self._loop = asyncio.get_running_loop()
        self._news = None  # of another loop, perhaps of another process
        if self.outbox is not None and self.outbox.pending:
            self._pack_soon()

    def _pack_soon(self) -> None:
        """Encode in the loop's next turn: where the sender waits for something to send, it does that itself then."""
        if self._loop is not None and not self._loop.is_closed() and not self._wake():
            self._loop.call_soon(self.pack)

    def pack(self) -> None:
        """Encode what is in the outbox."""
        outbox = self.outbox
        assert outbox is not None
        time = now()
        text = time_text(time)
        queue, sequence, at_broker, most = self._queue, self._sequence, self._at_broker, self._max_payload
        mint_id, pack_plain = self._border.mint_id, self._wire.pack_plain
        for item in outbox.queue.take(self.BATCH):
            if type(item) is tuple:
                # What is in most messages, without a call for each of these steps.
                plain: Any = item
                key, message = plain[0], plain[1]
                try:
                    # A message for several bridges got its id in the publish: the same for all of them.
                    payload, headers = pack_plain(key, message, plain[2] if len(plain) == 3 else mint_id(), text)
                    if most is not None and len(payload) + self.PLAIN_HEADERS > most:
                        self._check_size(key, payload, headers)
                except Exception as error:
                    self._refuse(key, message, None, error)
                    continue
                address, size = key if at_broker is None else at_broker(key), len(payload)
                record: Record = as_tuple(Record, (address, payload, headers, next(sequence), False))
                queue.append(Outgoing(key, record, size, time))
                self._messages += 1
                self.bytes += size
            elif isinstance(item, Gap):
                omission = self._omit(len(queue))
                omission.merge(OpenGap.of(item._replace(reason=FULL)))
                omission.sequence = next(sequence)
            elif isinstance(item, Event):
                self._pack(item, time, text)
        while self.bytes > self._plan.outbox_bytes and (notice := self._shed()) is not None:
            notice()
        self._hold()
        self._wake()
        if outbox.pending:
            self._pack_soon()

    def _pack(self, event: Event[Any], time: float, text: str) -> None:
        """Encode a message that has metadata, or that somebody waits for."""
        key, message = event
        meta = event.meta
        due: float | None = None
        try:
            if meta is None:
                payload, headers = self._wire.pack_plain(key, message, self._border.mint_id(), text)
                self._check_size(key, payload, headers)
            else:
                due = meta.due
                if due is not None and not self._features.delays:
                    raise Unsupported(self._name, "delays", f"{key!r} is due later, and this broker cannot keep it")
                payload, headers = self._wire.pack(MESSAGE, key, message, self._outward(key, meta))
                self._check_size(key, payload, headers)
        except Exception as error:
            self._refuse(key, message, event, error)
            return
        address = key if self._at_broker is None else self._at_broker(key)
        record: Record = as_tuple(Record, (address, payload, headers, next(self._sequence), False))
        if due is not None:
            record = DelayedRecord.at(due, record)
        outgoing = Outgoing(key, record, len(payload), time)
        if event.confirmed is not None or (meta is not None and meta.reply_to is not None):
            outgoing.event = event
            if event.confirmed is not None and self._features.finishes:
                outgoing.record = as_tuple(ConfirmedRecord, record)
        self._queue.append(outgoing)
        self._messages += 1
        self.bytes += outgoing.size

    def _check_size(self, key: Key[Any], payload: bytes, headers: Mapping[str, str]) -> None:
        most = self._max_payload
        if most is None:
            return
        size = len(payload) + sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
        if size > most:
            raise PayloadTooLarge(key, size, most)

    def _outward(self, key: Key[Any], meta: Meta) -> Meta:
        """Return the metadata to send with a message: its own, completed by where it comes from."""
        if meta.hops >= self.MOST_HOPS:
            raise HubsubError(f"{key!r} has crossed {meta.hops} bridges; is there a ring of them?")
        if meta.id is None or meta.source is None:
            meta = self._border.mint(meta)
        to: Key[Any] | None = None
        correlation = None
        if type(meta.reply_to) is ReplyAddress and not meta.reply_to.is_local:
            request = meta.reply_to.request
            if self._plan.envelope:
                to, correlation = self._requests.address, self._requests.open(request)
            else:
                request.lose(EncodeError(key, "a bridge with envelope=False does not say whom to reply to"))
        return meta._replace(hops=meta.hops + 1, reply_to=to, correlation=correlation)

    def record(self, key: Key[Any], message: Any) -> Record:
        """Return the record of a message, without sending it.

        Raises:
            EncodeError: It cannot be encoded.
            PayloadTooLarge: The broker does not accept a message of that size.
        """
        payload, headers = self._wire.pack_plain(key, message, self._border.mint_id(), time_text(now()))
        self._check_size(key, payload, headers)
        return Record(self._plan.at_broker(key), payload, headers)

    def _refuse(self, key: Key[Any], message: Any, event: Event[Any] | None, error: Exception) -> None:
        """Give up a message that can never be sent."""
        if event is not None:
            _fail(event, error, "it cannot be sent")
        self._refused(key, message, error)

    # Bounds

    def _shed(self) -> Callable[[], object] | None:
        """Drop the oldest message that is not being sent; return a callable that notifies its publisher.

        Returns None if there is no such message.
        """
        queue, at = self._queue, self._in_hand
        while at < len(queue) and isinstance(queue[at], Omission):
            at += 1
        if at == len(queue):
            return None
        dropped = queue[at]
        assert isinstance(dropped, Outgoing)
        omission = self._omit(at)
        del queue[at if queue[at] is dropped else at + 1]
        omission.add(dropped.key)
        omission.sequence = dropped.record.sequence
        self._messages -= 1
        self.bytes -= dropped.size
        return (
            _nothing if dropped.event is None else partial(_fail, dropped.event, None, "dropped, the outbox was full")
        )

    def _shed_for_room(self) -> Callable[[], object] | None:
        notice = self._shed()
        self._hold()
        return notice

    def _omit(self, at: int) -> Omission:
        """Return the omission before an index of the queue; a new one if there is none, or it is being sent."""
        before = self._queue[at - 1] if at > self._in_hand else None
        if isinstance(before, Omission):
            return before
        omission = Omission()
        self._queue.insert(at, omission)
        return omission

    def _hold(self) -> None:
        if self.outbox is not None:
            self.outbox.hold(self._messages, self.bytes >= self._plan.outbox_bytes)

    # Sending

    async def send(self, adapter: Adapter, busy: Callable[[BrokerBusy | None], None]) -> None:
        """Send the encoded messages, in order, until the connection is lost, which raises.

        Args:
            adapter: The connection.
            busy: Called with the error when the broker stops accepting messages, and with None when it accepts them.
        """
        refusals = 0
        self.is_refused = self.beats_are_refused = False
        while True:
            try:
                if self._control or self._beat:
                    await self._send_control(adapter)
                if self._queue:
                    await self._send_batch(adapter)
                elif not self._control and not self._beat:
                    self._wake_flushers()
                    await self._wait_for_news()
                    continue
            except BrokerBusy as error:
                self.is_refused = True
                busy(error)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(5.0, 0.05 * 2 ** min(refusals, 16)))
                refusals += 1
            else:
                if refusals:
                    refusals = 0
                    self.is_refused = False
                    busy(None)

    async def _send_control(self, adapter: Adapter) -> None:
        beat, batch = self._beat, list(islice(self._control, self.BATCH))
        records = batch if beat is None else [beat, *batch]
        refused = await self._hand_over(adapter, records)
        for _ in batch:
            self._control.popleft()
        if beat is not None:
            self._beat = None
            self.beats += 1
            self.beats_are_refused = 0 in refused
        for index, error in refused.items():
            self._refused(records[index].key, None, error)

    async def _send_batch(self, adapter: Adapter) -> None:
        first = self._queue[0]
        if isinstance(first, Omission):
            await self._send_omission(adapter, first)
            return
        batch, size = self._next_batch(first)
        if self._plan.secret is not None:
            self._sign_again(batch)
        if first.blame > 1:
            # The connection was lost twice while this was sent alone. A third time shows whether it is the cause, but
            # only if the connection has just carried something else.
            await self._hand_over(adapter, [self._control_record(Key(NAMESPACE, "beat", "probe"), BEAT, None)])
        self._in_hand = len(batch)
        try:
            began = asyncio.get_running_loop().time()
            refused = await self._hand_over(adapter, [each.record for each in batch], size)
            self._learn_pace(size, asyncio.get_running_loop().time() - began)
        except (BrokerBusy, asyncio.CancelledError) as error:
            if not isinstance(error, BrokerBusy) and not self._features.idempotent:
                self.unclear += len(batch)
            raise
        except Exception as error:
            self._in_hand = 0
            self._suspect(batch, error)
            raise
        finally:
            self._in_hand = 0
        unfinished = [each for each in refused.values() if isinstance(each, NotFinished)]
        if len(refused) - len(unfinished) == len(batch) > 1:
            # The batch was refused because of one of them: only a refusal of a single record counts.
            self._most = 1
            return
        self._have_left(batch, size, refused)
        self._hold()
        self._most = min(2 * self._most, self.BATCH)

    def _have_left(self, batch: list[Outgoing], size: int, refused: Mapping[int, Exception]) -> None:
        """Remove a batch that the adapter has sent, and notify those that wait for its messages."""
        # All at once, before anybody is notified: in most batches nobody waits, and nothing is refused.
        popleft = self._queue.popleft
        waiting = []
        for index, each in enumerate(batch):
            popleft()
            if each.event is not None or index in refused:
                waiting.append((index, each))
        self._messages -= len(batch)
        self.bytes -= size
        self.sent += len(batch)
        for index, each in waiting:
            why = refused.get(index)
            if why is not None and not isinstance(why, NotFinished):
                self.sent -= 1
                self._refuse(each.key, each.record.payload, each.event, why)
            elif each.event is not None and why is None:
                each.event.done()
            elif each.event is not None:
                each.event.fail(why, "not everybody at the broker has finished with it")

    def _next_batch(self, first: Outgoing) -> tuple[list[Outgoing], int]:
        """Return the next batch, and the bytes of its payloads."""
        batch: list[Outgoing] = []
        size, most = 0, self._most_bytes
        for each in islice(self._queue, 1 if first.blame else self._most):
            if type(each) is not Outgoing or (each.blame and each is not first):
                break
            if size + each.size > most and batch:
                break
            size += each.size
            batch.append(each)
        return batch, size

    def _sign_again(self, batch: list[Outgoing]) -> None:
        """Sign again what has waited long or was sent before, which would be refused as too old or as a replay."""
        time, last = now(), batch[-1].record.sequence
        # The first is the oldest, and was sent before if any of them was.
        if batch[0].record.sequence > self._signed_to and time - batch[0].time <= self._plan.signed_for / 10:
            self._signed_to = last
            return
        for each in batch:
            payload, headers = self._wire.renewed(each.key, each.record.payload, each.record.headers)
            each.record = each.record._replace(payload=payload, headers=headers)
        self._signed_to = max(self._signed_to, last)

    def _learn_pace(self, size: int, seconds: float) -> None:
        if seconds > self.CALL_SECONDS:
            self._most_bytes = max(1 << 14, int(size * self.CALL_SECONDS / seconds))
        elif 2 * size >= self._most_bytes:
            self._most_bytes = min(self.BATCH_BYTES, 2 * self._most_bytes)

    def _suspect(self, batch: list[Outgoing], error: Exception) -> None:
        """Note that the connection was lost while these were sent, to find out whether one of them is the cause."""
        if not self._features.idempotent:
            self.unclear += len(batch)
        if len(batch) > 1:
            self._most = max(1, len(batch) // 8)
            return
        (alone,) = batch
        alone.blame += 1
        self._most = 1
        if alone.blame > 2:
            self._queue.popleft()
            self._messages -= 1
            self.bytes -= alone.size
            self._hold()
            why = BridgeError(f"{alone.key!r} costs the connection whenever it is sent: {error}")
            why.__cause__ = error
            self._refuse(alone.key, alone.record.payload, alone.event, why)

    async def _send_omission(self, adapter: Adapter, omission: Omission) -> None:
        """Send the receivers a notice of what was dropped, at its place in the order."""
        assert self.outbox is not None
        gap, at_broker = omission.gap(), self._plan.at_broker
        gap = gap._replace(keys=None if gap.keys is None else tuple(map(at_broker, gap.keys)))
        notice = self._control_record(GAPS, GAP, Notice(gap, tuple(map(at_broker, self.outbox.patterns))))
        records = [notice]
        if self._features.durable and not self._features.patterns:
            # Readers of a whole log find it there at its place; the other copy is for the members of groups.
            records.insert(0, notice._replace(sequence=omission.sequence, is_control=False))
        self._in_hand = 1
        try:
            await self._hand_over(adapter, records)
        finally:
            self._in_hand = 0
        self._queue.popleft()

    async def _hand_over(
        self, adapter: Adapter, records: list[Record], size: int | None = None
    ) -> Mapping[int, Exception]:
        self.calls += 1
        self.bytes_in_hand = sum(len(record.payload) for record in records) if size is None else size
        try:
            refused = await adapter.send(records)
        finally:
            self.bytes_in_hand = None
        self.progress += 1
        return refused

    # Control messages

    def _control_record(self, key: Key[Any], kind: str, data: Any) -> Record:
        payload, headers = self._wire.pack(kind, key, data, self._border.mint())
        return Record(key, payload, headers, is_control=True)

    def beat(self, key: Key[Any]) -> None:
        """Send a beat, which comes back under `key`."""
        if self._beat is None:
            self._beat = self._control_record(key, BEAT, None)
            self._wake()

    @property
    def has_beat(self) -> bool:
        """True while a beat waits to be sent."""
        return self._beat is not None

    def reply(self, to: Key[Any], key: Key[Any], reply: Any, meta: Meta) -> None:
        """Send the reply to a request of `key`; if it cannot be encoded, send an error instead."""
        meta = self._border.mint(meta)._replace(hops=1)
        try:
            payload, headers = self._wire.pack(MESSAGE, to, reply, meta)
            self._check_size(to, payload, headers)
        except Exception as error:
            self._refused(key, reply, error)
            text = f"the reply cannot be sent: {type(error).__name__}: {error}"[:1000]
            payload, headers = self._wire.pack(MESSAGE, to, None, meta._replace(headers={"error": text}))
        if len(self._control) >= self.MOST_REPLIES:
            self.lost_replies += 1
            return
        self._control.append(Record(to, payload, headers, is_control=True))
        self._wake()

    # Waiting

    async def _wait_for_news(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            # Even if the connection is lost right now: nothing else will encode what is there.
            if self.outbox is not None and self.outbox.pending:
                self.pack()

    def _wake(self) -> bool:
        """Wake the sender; return whether it was waiting for something to send."""
        if self._news is None or self._news.done():
            return False
        self._news.set_result(None)
        return True

    def _wake_flushers(self) -> None:
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

    def give_up(self, why: str = "the bridge was closed before it was sent") -> int:
        """Fail the messages that were not sent; return how many there are."""
        left = self.pending
        for each in self._queue:
            if isinstance(each, Outgoing) and each.event is not None:
                _fail(each.event, None, why)
        self._queue.clear()
        self._control.clear()
        self._beat = None
        self._messages = self.bytes = 0
        if self.outbox is not None:
            self.outbox.close()
        return left


def _nothing() -> None:
    """Nobody waits for it."""


def _fail(event: Event[Any], error: Exception | None, why: str) -> None:
    """Fail a message that is not sent, for a caller that waits for it, and fail its request if it is one."""
    event.fail(error, why)
    to = None if event.meta is None else event.meta.reply_to
    if type(to) is ReplyAddress and not to.is_local:
        to.request.lose(error or HubsubError(f"{event[0]!r}: the request was not sent: {why}"))
