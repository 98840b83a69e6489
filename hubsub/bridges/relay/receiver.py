"""The way in: what a broker delivers becomes events of a hub, each of them once, and is acknowledged when handled."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable, Sequence
from functools import partial
from time import time as now
from typing import TYPE_CHECKING, Any, Literal

from ..._core.registration import Registration
from ...errors import DecodeError, HubClosed, Undelivered
from ...event import Event, Gap, Meta
from ...hub import Hub
from ...key import NAMESPACE, Key, is_subset, meet
from ...log import Logger
from ..adapter import Adapter, Features, Loss, Received
from ..address import cached
from .seen import Id, Seen
from .sender import GAPS
from .wire import GAP, MESSAGE, Wire

if TYPE_CHECKING:
    from ..._core.outbox import Outbox

Unclaimed = Literal["hold", "ack", "dead-letter"]


class Delivery:
    """A message of a durable broker that is not finished."""

    __slots__ = ("attempts", "debts", "event", "finished", "id", "inline", "is_suspect", "only", "received", "size")

    def __init__(self, event: Event[Any], id: Id, received: Received) -> None:
        self.event = event
        self.id = id
        self.received = received
        self.size = len(received.payload or b"")
        self.debts: list[Debt] = []
        self.attempts = received.attempts
        self.only: list[Registration] | None = None  # those who have failed
        self.finished = False
        self.inline = False  # it is just being published
        self.is_suspect = False  # perhaps it kills the process


class Debt:
    """An acknowledgement that is owed; in `lane`, those of a lane that are owed in order."""

    __slots__ = ("is_due", "lane", "received")

    def __init__(self, received: Received, lane: deque[Debt] | None) -> None:
        self.received = received
        self.lane = lane
        self.is_due = False
        if lane is not None:
            lane.append(self)


class Receiver:
    """Brings what an adapter receives into a hub.

    Args:
        hub: The hub.
        incoming: Patterns of what may come in.
        wire: Decodes.
        seen: What the hub has seen.
        log: Where to complain.
        broker: Names the broker in the source of foreign messages.
        group: Whether this shares its messages with others; then it also gets its own.
        ordered: Hand over a message only when the one before it of the same key is finished; by default if there is an
            order to keep.
        unclaimed: What becomes of messages that nobody takes.
        attempts: How often a listener may fail with a message before that is buried.
        retry_pause: Seconds before the second attempt; doubles from one to the next, up to a minute.
        window: Unfinished messages at most.
        window_bytes: Bytes of them at most.
        prefix: What every key begins with here, and not at the broker.
    """

    def __init__(
        self,
        hub: Hub,
        incoming: Sequence[Key[Any]],
        wire: Wire,
        seen: Seen,
        log: Logger,
        broker: str,
        *,
        group: bool,
        ordered: bool | None,
        unclaimed: Unclaimed,
        attempts: int,
        retry_pause: float,
        window: int,
        window_bytes: int,
        prefix: Key[Any],
    ) -> None:
        self._hub = hub
        self._incoming = incoming
        self._wire = wire
        self._seen = seen
        self._log = log
        self._broker = broker
        self._group = group
        self._ordered = self._ordered_if = ordered
        self._unclaimed = unclaimed
        self._attempts = attempts
        self._retry_pause = retry_pause
        self._window = window
        self._window_bytes = window_bytes
        self._prefix = prefix
        self._full_key = cached(self._with_prefix) if prefix else None
        self._may_enter = cached(self._enters)
        self.adapter: Adapter | None = None
        self._features = Features()
        self.outbox: Outbox | None = None
        """Where nothing of what comes in goes, except to other bridges."""
        self._asked: dict[Key[Any], None] = {}  # where to send replies
        # Of each key with an unfinished message: those that wait behind it.
        self._chains: dict[Key[Any], deque[Delivery]] = {}
        self._deliveries: dict[Delivery, None] = {}
        self._held: dict[Delivery, None] = {}
        self._suspects: deque[Delivery] = deque()
        self._is_innocent = False  # a suspect has been handled by this process
        self._lanes: dict[Hashable, deque[Debt]] = {}
        self._acks: list[Any] = []
        self._last_acks: dict[Hashable, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self.closing = False
        self.bytes = 0
        self.received = 0
        self.echoes = 0
        self.duplicates = 0
        self.gaps = 0
        self.dead_letters = 0
        self.undecodable = 0
        self.unclaimed_count = 0
        self.failures = 0
        self.last_received: float | None = None

    def connected(self, adapter: Adapter) -> None:
        """There is a new connection. What is to be acknowledged in order is delivered anew."""
        self.adapter = adapter
        self._features = adapter.features
        if self._ordered_if is None:
            self._ordered = not self._group or adapter.features.order != "none"
        self._lanes.clear()
        self._last_acks.clear()

    # What comes

    def take(self, batch: Sequence[Received | Loss]) -> None:
        """Bring a batch into the hub; nothing is awaited."""
        self.last_received = now()
        for received in batch:
            if isinstance(received, Loss):
                self.lost(received)
            else:
                self._take(received)

    def _take(self, received: Received) -> None:
        key, payload, headers = received.key, received.payload, received.headers
        if self._full_key is not None:
            key = self._full_key(key)
        if not self._may_enter(key):
            if key[0] == NAMESPACE:
                self._internal(received)
            self._pass(received)
            return
        if not self._group and self._wire.is_own(payload, headers):
            self.echoes += 1
            self._pass(received)
            return
        try:
            kind, message, meta = self._wire.unpack(key, payload, headers)
        except DecodeError as error:
            self._cannot_decode(received, error)
            return
        if kind != MESSAGE:
            self._pass(received)
            return
        meta = self._inward(received, meta)
        event: Event[Any] = Event(key, message, meta)
        id = (meta.source, meta.id)
        known = None if meta.id is None else self._seen.get(id)
        if known is not None:
            self._again(received, known)
        elif self._features.durable:
            self._begin(Delivery(event, id, received))
        else:
            if meta.id is not None:
                self._seen.note(id)
            self.received += 1
            self._hub.publish_event(event, self.outbox)

    def _inward(self, received: Received, meta: Meta | None) -> Meta:
        """What travels with a message that has come."""
        position = received.position
        if meta is None:
            meta = Meta(time=received.time, hops=1)
        if meta.id is None and position is not None:
            # Of a foreign producer: where it stands in the log names it, for as long as the log exists.
            meta = meta._replace(id=position, source=self._broker, time=meta.time or received.time)
        if meta.reply_to is not None:
            self._expect_reply(meta.reply_to)
        if position is not None or received.attempts:
            meta = meta._replace(position=position, redelivered=received.attempts > 0)
        return meta

    def _with_prefix(self, key: Key[Any]) -> Key[Any]:
        return key if key[0] == NAMESPACE else self._prefix + key

    def _enters(self, key: Key[Any]) -> bool:
        return key[0] != NAMESPACE and any(is_subset(key, pattern) for pattern in self._incoming)

    def _again(self, received: Received, known: Any) -> None:
        """A message that was seen before: it joins the one that is being handled, or is finished."""
        self.duplicates += 1
        if isinstance(known, Delivery) and not known.finished:
            known.debts.append(self._owe(received))
        else:
            self._pass(received)

    def _internal(self, received: Received) -> None:
        """What bridges tell each other."""
        try:
            kind, message, meta = self._wire.unpack(received.key, received.payload, received.headers)
        except DecodeError:
            return
        if received.key == GAPS and kind == GAP and meta is not None and meta.source != self._hub.origin:
            self._sender_lost(message)
        elif received.key == Key(NAMESPACE, "reply", self._hub.origin):
            self._hub.publish_event(Event(received.key, message, meta), self.outbox)

    def _expect_reply(self, reply_to: Key[Any]) -> None:
        """Let replies to whoever asked leave by this bridge."""
        if self.outbox is not None and reply_to[:2] == (NAMESPACE, "reply") and reply_to not in self._asked:
            if len(self._asked) >= 1024:
                oldest = next(iter(self._asked))
                del self._asked[oldest]
                self.outbox.discard(oldest)
            self._asked[reply_to] = None
            self.outbox.add(reply_to)

    def _cannot_decode(self, received: Received, error: DecodeError) -> None:
        self.undecodable += 1
        self._log.error("a message of %r cannot be decoded: %s", received.key, error)
        if self._features.durable:
            debt = self._owe(received)
            self._put_aside(received, str(error), lambda: self._settle(debt))
        else:
            self._pass(received)

    # Gaps

    def lost(self, loss: Loss) -> None:
        """Tell everyone that the broker has lost messages."""
        time = now()
        self.report(Gap(loss.reason, loss.count, loss.since or self.last_received or time, time, None))

    def report(self, gap: Gap) -> None:
        """Tell everyone that messages are missing."""
        self.gaps += 1
        self._hub.report_gap(list(self._incoming), gap)

    def _sender_lost(self, notice: Any) -> None:
        """Tell those whom it concerns that another hub had to drop messages."""
        gap, patterns = notice
        concerned = patterns if gap.keys is None else gap.keys
        named = [both for each in concerned for into in self._incoming if (both := meet(each, into)) is not None]
        if named:
            self.gaps += 1
            self._hub.report_gap(named, gap)

    # History

    def events_of(self, found: Sequence[Received], patterns: Sequence[tuple[str, ...]], limit: int) -> list[Event[Any]]:
        """The last `limit` events of each lane that match, as replayed ones."""
        lanes: dict[Hashable, deque[Event[Any]]] = {}
        for received in found:
            key = received.key if self._full_key is None else self._full_key(received.key)
            if key[0] != NAMESPACE and any(is_subset(key, pattern) for pattern in patterns):
                try:
                    kind, message, meta = self._wire.unpack(key, received.payload, received.headers)
                except DecodeError:
                    continue
                if kind == MESSAGE:
                    meta = self._inward(received, meta)._replace(replayed=True)
                    lanes.setdefault(received.lane, deque(maxlen=limit)).append(Event(key, message, meta))
        return [event for lane in lanes.values() for event in lane]

    def replay(self, found: Sequence[Received], limit: int) -> None:
        """Bring the last `limit` messages of each lane into the hub."""
        for event in self.events_of(found, self._incoming, limit):
            meta = event.meta
            assert meta is not None
            id = (meta.source, meta.id)
            if meta.id is None or self._seen.get(id) is None:
                if meta.id is not None:
                    self._seen.note(id)
                self.received += 1
                self._hub.publish_event(event, self.outbox)

    # Finishing

    def _begin(self, delivery: Delivery) -> None:
        self.received += 1
        if delivery.id[1] is not None:
            self._seen.note(delivery.id, delivery)
        self._deliveries[delivery] = None
        self.bytes += delivery.size
        delivery.debts.append(self._owe(delivery.received))
        if delivery.attempts >= self._attempts:
            self._suspect(delivery)
            return
        key = delivery.event[0]
        if not self._ordered:
            self._publish(delivery)
        elif (chain := self._chains.get(key)) is not None:
            chain.append(delivery)
        else:
            self._chains[key] = deque((delivery,))
            self._go_on(key)

    def _suspect(self, delivery: Delivery) -> None:
        """Keep a message that never was finished, and perhaps killed who tried, until nothing else can be hurt."""
        delivery.is_suspect = True
        self._suspects.append(delivery)
        if len(self._suspects) == 1:
            self._start(self._try_suspects())

    async def _try_suspects(self) -> None:
        """Handle them one by one, each acknowledged before the next: if one kills the process, it is the first left.

        The broker counts the deliveries of all that were in hand, guilty or not.
        """
        while self._suspects:
            delivery = self._suspects[0]
            while len(self._deliveries) > len(self._suspects) or self.to_ack:
                await self.progress()
            if not self._is_innocent and delivery.attempts > self._attempts:
                self.dead_letters += 1
                why = f"it was not finished in {delivery.attempts} attempts"
                self._put_aside(delivery.received, why, partial(self._finish, delivery))
            else:
                self._publish(delivery)
            while not delivery.finished:
                await self.progress()
            self._is_innocent = True
            self._suspects.popleft()
        self._news.set()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_on(self, key: Key[Any]) -> None:
        """Publish the first message of a key that waits, and those after it as far as they are finished at once."""
        chain = self._chains[key]
        while chain:
            self._publish(chain[0])
            if not chain[0].finished:
                return
            chain.popleft()
        del self._chains[key]

    def _publish(self, delivery: Delivery) -> None:
        if self.closing:
            return
        delivery.inline = True
        try:
            self._hub.publish_event(
                delivery.event,
                self.outbox,
                lambda number, failures: self._confirmed(delivery, number, failures),
                delivery.only,
            )
        except HubClosed:
            pass  # it comes again
        finally:
            delivery.inline = False

    def _confirmed(self, delivery: Delivery, number: int, failures: list[Undelivered]) -> None:
        """Everybody has said something of a message."""
        if not failures:
            if number or delivery.only is not None:
                self._finish(delivery)
            else:
                self._nobody(delivery)
            return
        if self.closing or not self._hub.is_open:
            return  # it stays unfinished, and comes again to somebody
        failed = [failure.registration for failure in failures if not failure.registration.closed]
        if not failed:
            # Whoever had it is gone. Those who are here now get it, unless somebody has handled it.
            if number or delivery.only is not None:
                self._finish(delivery)
            else:
                self._later(delivery, self._retry_pause)
            return
        delivery.only = failed
        causes = [failure.__cause__ for failure in failures if failure.__cause__ is not None]
        if causes:
            self.failures += 1
            delivery.attempts += 1
            if delivery.attempts >= self._attempts:
                self.dead_letters += 1
                self._put_aside(delivery.received, repr(causes[0]), lambda: self._finish(delivery))
                return
        self._later(delivery, min(60.0, self._retry_pause * 2 ** min(delivery.attempts, 16)))

    def _later(self, delivery: Delivery, pause: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(pause * random.uniform(0.5, 1.0), self._publish_again, delivery)

    def _publish_again(self, delivery: Delivery) -> None:
        if not delivery.finished:
            self._publish(delivery)
            if delivery.finished and self._ordered and not delivery.is_suspect:
                self._next(delivery.event[0])

    def _nobody(self, delivery: Delivery) -> None:
        """Nobody is subscribed."""
        self.unclaimed_count += 1
        if self._unclaimed == "ack":
            self._finish(delivery)
        elif self._unclaimed == "hold":
            self._held[delivery] = None
        else:
            self.dead_letters += 1
            self._put_aside(delivery.received, "nobody is subscribed to it", lambda: self._finish(delivery))

    def changed(self) -> None:
        """Subscriptions came or went: somebody may take what nobody took."""
        held, self._held = self._held, {}
        for delivery in held:
            self.unclaimed_count -= 1
            self._publish_again(delivery)
        self._news.set()

    @property
    def is_holding(self) -> bool:
        """True while there are messages that nobody takes."""
        return bool(self._held)

    def _finish(self, delivery: Delivery) -> None:
        delivery.finished = True
        del self._deliveries[delivery]
        if delivery.id[1] is not None:
            self._seen.note(delivery.id)
        self.bytes -= delivery.size
        for debt in delivery.debts:
            self._settle(debt)
        self._news.set()
        if self._ordered and not delivery.inline and not delivery.is_suspect:
            self._next(delivery.event[0])

    def _next(self, key: Key[Any]) -> None:
        self._chains[key].popleft()
        self._go_on(key)

    def _put_aside(self, received: Received, why: str, then: Callable[[], None]) -> None:
        """Bury a message; when that is confirmed, go on."""

        async def bury() -> None:
            pause = self._retry_pause
            while not self.closing:
                try:
                    assert self.adapter is not None
                    await self.adapter.bury(received, why)
                except Exception as error:
                    self._log.warning("a dead letter of %r waits: %s", received.key, error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 5.0)
                else:
                    self._log.error("gave up a message of %r, now among the dead letters: %s", received.key, why)
                    then()
                    return

        self._start(bury())

    # The window

    @property
    def unfinished(self) -> int:
        """Messages that are not finished."""
        return len(self._deliveries)

    @property
    def is_full(self) -> bool:
        """True while no more are to be read."""
        return (
            len(self._deliveries) >= self._window
            or self.bytes >= self._window_bytes
            or bool(self._held)
            or bool(self._suspects)
        )

    async def progress(self) -> None:
        """Wait until another message is finished, or subscriptions have changed."""
        self._news.clear()
        await self._news.wait()

    # Acknowledging

    def _owe(self, received: Received) -> Debt:
        """A message has to be finished before it is acknowledged."""
        in_order = self._features.acks == "prefix"
        return Debt(received, self._lanes.setdefault(received.lane, deque()) if in_order else None)

    def _pass(self, received: Received) -> None:
        """A message is none of ours: as good as finished."""
        if received.token is not None:
            if self._lanes.get(received.lane):
                self._settle(self._owe(received))
            else:
                self._due(received)

    def _settle(self, debt: Debt) -> None:
        """A message is finished."""
        lane = debt.lane
        if lane is None:
            if debt.received.token is not None:
                self._due(debt.received)
            return
        debt.is_due = True
        if self._lanes.get(debt.received.lane) is lane:  # else of a connection that is no more
            while lane and lane[0].is_due:
                self._due(lane.popleft().received)

    def _due(self, received: Received) -> None:
        if self._features.acks == "each":
            self._acks.append(received.token)
        else:
            self._last_acks[received.lane] = received.token

    @property
    def to_ack(self) -> int:
        """Acknowledgements that are due."""
        return len(self._acks) + len(self._last_acks)

    async def acknowledge(self, adapter: Adapter) -> None:
        """Acknowledge what is finished."""
        acks, self._acks = self._acks, []
        last, self._last_acks = self._last_acks, {}
        try:
            if acks or last:
                await adapter.ack([*acks, *last.values()])
                self._news.set()
        except BaseException:
            self._acks = acks + self._acks
            self._last_acks = last | self._last_acks
            raise

    def leases(self) -> list[Any]:
        """What is to be kept from being given to others."""
        return [debt.received.token for delivery in self._deliveries for debt in delivery.debts]

    async def release(self, lanes: Collection[Hashable], adapter: Adapter, timeout: float) -> None:
        """Finish what is in hand of some lanes, within so many seconds, and acknowledge it; then forget them."""

        async def finish() -> None:
            while any(delivery.received.lane in lanes for delivery in self._deliveries):
                await self.progress()

        try:
            await asyncio.wait_for(finish(), timeout)
        except TimeoutError:
            self._log.warning("%d messages are unfinished of what was given to others", self.unfinished)
        await self.acknowledge(adapter)
        for lane in lanes:
            self._lanes.pop(lane, None)
            self._last_acks.pop(lane, None)

    async def end(self) -> None:
        """Let nothing go on by itself."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
