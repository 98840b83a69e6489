"""Subscriptions: queues of messages, for whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..errors import SubscriberTooSlow, SubscriptionClosed
from ..event import Event, Gap, Snapshot
from ..key import T, V
from .callables import awaitable
from .listener import AsyncListener as AsyncListener
from .listener import Listener as Listener
from .message_queue import Item, Mailbox, Overflow, as_event, as_tuple
from .registration import Ack as Ack
from .registration import AsyncOptions as AsyncOptions
from .registration import Bookkeeper as Bookkeeper
from .registration import ListenerOptions as ListenerOptions
from .registration import Owner
from .registration import QueueOptions as QueueOptions
from .registration import Registration as Registration
from .registration import Removal as Removal
from .registration import SubscribeOptions as SubscribeOptions
from .registration import Where as Where

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Read = TypeVar("Read")  # what a consumer reads: events, and gaps if it wants them


class Queue(Registration, Generic[Read]):
    """What a `Subscription` and a `GapSubscription` have in common: the reading."""

    __slots__ = ("_hands", "_mailbox", "_was_too_slow", "ack")

    lasting = False
    _gaps = False

    def __init__(
        self, hub: Owner, maxsize: int, overflow: Overflow, where: Where | None = None, ack: Ack = "auto"
    ) -> None:
        self._mailbox = Mailbox(maxsize, overflow, self, gaps=self._gaps)
        self._was_too_slow = False
        # The confirmed messages in hand, by who has them: each iterator, and `consume` and `get_batch` together.
        self._hands: dict[object, list[Event[Any]]] = {}
        self.ack: Ack = ack
        """How a confirmed publish learns that a message is finished: "auto" or "manual"."""
        super().__init__(hub, self._mailbox.put, mailbox=self._mailbox, where=where)

    async def consume(self) -> Read:
        """Wait for the next message and return it; `key, message = await subscription.consume()`.

        Raises:
            SubscriptionClosed: It is closed and everything queued was read.
        """
        return cast(Read, _presented(await self.consume_pair()))

    async def consume_pair(self) -> Any:
        """As `consume`, but a plain tuple unless metadata travels with the message: the fastest way to wait for one."""
        mailbox = self._mailbox
        items = mailbox.items
        if self._hands:
            self._let_go_of(self)
        while True:
            first: Any = items.popleft() if items and not mailbox.alert else mailbox.take()
            if first is not None:
                if type(first) is Event and first.confirmed is not None:
                    self._hold(self, first)
                return first
            if not items:
                await self._wait()

    async def get_batch(self, maximum: int) -> list[Read]:
        """Wait for a message, then return all that are queued, at least one and at most `maximum`.

        Raises:
            ValueError: `maximum` is less than one.
            SubscriptionClosed: It is closed and everything queued was read.
        """
        if maximum < 1:
            raise ValueError(f"a batch holds at least one message, not {maximum!r}")
        batch: list[Any] = [_presented(await self.consume_pair())]
        while len(batch) < maximum:
            first = self._take_now()
            if first is None:
                break
            batch.append(_presented(first))
        return batch

    def _take_now(self) -> Item | Gap | None:
        """Take what can be read without waiting, if anything."""
        mailbox = self._mailbox
        items = mailbox.items
        first = items.popleft() if items and not mailbox.alert else mailbox.take()
        if type(first) is Event and first.confirmed is not None:
            self._hold(self, first)
        return first

    def _hold(self, hand: object, event: Event[Any]) -> None:
        """Note that a confirmed message is in somebody's hand."""
        if self.ack == "auto":
            self._hands.setdefault(hand, []).append(event)

    def _let_go_of(self, hand: object, error: BaseException | None = None) -> None:
        """Tell that whoever has the messages of a hand has finished with them, or has failed."""
        for event in self._hands.pop(hand, ()):
            if error is None:
                event.done()
            else:
                event.fail(error)

    async def _wait(self) -> None:
        if self._mailbox.closed:
            if self._was_too_slow:
                raise SubscriberTooSlow(self, self._mailbox.maxsize)
            raise SubscriptionClosed(self)
        await self._mailbox.wait(self._hub._life.bind(), self._hub._life.check_thread)

    def __aiter__(self) -> AsyncIterator[Read]:
        return _Reader(self)

    @property
    def is_busy(self) -> bool:
        """True while messages are queued, if somebody reads: waited for one, or took one."""
        return self.pending > 0 and (self._mailbox.awaited or self.delivered > 0)

    def close(self) -> None:
        """End it at once: nothing more is delivered; what is queued can still be read. Closing twice is safe."""
        if not self.closed:
            self._hub._remove(self)

    def _too_slow(self) -> None:
        self._was_too_slow = True
        self._hub._remove(self)

    def _removed(self) -> None:
        self._mailbox.give_up("closed before it was read")
        self._mailbox.close()

    def _reopened(self) -> None:
        super()._reopened()
        self._was_too_slow = False
        self._mailbox.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in list(self._hands):
            self._let_go_of(hand, error)
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Subscription(Queue[Event[T]], Generic[T]):
    """A queue of the messages that match its patterns.

    Iterate it (`async for key, message in subscription`), or `await subscription.consume()`. Several consumers share
    the messages. Cancelling whoever waits loses nothing. It is registered when it is made; `close()`, or leaving it as
    a context manager, ends it.

    Where messages were dropped, a `Gap` is published as `("Hub", "gap", *pattern)` when a consumer comes to it.
    """

    __slots__ = ()


class GapSubscription(Queue[Event[T] | Gap], Generic[T]):
    """A `Subscription` whose consumers also get a `Gap` in the very place of messages that were dropped."""

    __slots__ = ()

    _gaps = True


class SnapshotSubscription(Queue[Event[T] | Snapshot[V]], Generic[T, V]):
    """A `Subscription` that begins with a snapshot of what the messages are about, and repeats it instead of a gap.

    `load` runs in the consumer's own step: at the first read, and where a gap is reached. Messages that are published
    meanwhile wait in the queue; if that overflows they are dropped, and `load` runs once more, after a pause. A message
    may be part of the snapshot and come after it too, so apply messages idempotently. If `load` raises, or the step
    is cancelled, the next read loads again.
    """

    __slots__ = ("_is_stale", "_load", "_lock")

    _gaps = True
    # Seconds between two loads because of overflow: the first pause, and the longest.
    PAUSES = (0.05, 5.0)

    def __init__(
        self,
        hub: Owner,
        maxsize: int,
        overflow: Overflow,
        where: Where | None = None,
        ack: Ack = "auto",
        *,
        load: Callable[[], Awaitable[V]],
    ) -> None:
        super().__init__(hub, maxsize, overflow, where, ack)
        self._load = load
        self._is_stale = True
        self._lock = asyncio.Lock()

    async def consume_pair(self) -> Any:
        while True:
            if self._is_stale:
                snapshot = await self._refresh()
                if snapshot is not None:
                    return snapshot
            first = await super().consume_pair()
            if type(first) is not Gap:
                return first
            self._is_stale = True

    consume_pair.__doc__ = Queue.consume_pair.__doc__

    def _take_now(self) -> Item | Gap | None:
        first = None if self._is_stale else super()._take_now()
        if type(first) is Gap:
            self._is_stale = True
            return None
        return first

    async def _refresh(self) -> Snapshot[V] | None:
        """Load; None if another consumer has done so meanwhile."""
        mailbox = self._mailbox
        async with self._lock:
            pause, longest = self.PAUSES
            while self._is_stale:
                mailbox.forget_gaps()  # the snapshot replaces them
                value = await awaitable(self._load(), self._load, "snapshot")
                if not mailbox.has_gaps and len(mailbox.items) <= mailbox.maxsize:
                    self._is_stale = False
                    return Snapshot(value)
                mailbox.drop_all()
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        return None

    def __aiter__(self) -> AsyncIterator[Event[T] | Snapshot[V]]:
        return _StepReader(self)


class _Reader(AsyncIterator[Read]):
    """One `async for` over a subscription."""

    __slots__ = ("_mailbox", "_subscription")

    def __init__(self, subscription: Queue[Read]) -> None:
        self._subscription = subscription
        self._mailbox = subscription._mailbox

    async def __anext__(self) -> Read:
        mailbox = self._mailbox
        items = mailbox.items
        subscription = self._subscription
        first: Any
        if subscription._hands:
            subscription._let_go_of(self)
        while True:
            if items and not mailbox.alert:
                first = items.popleft()
                if type(first) is not Event:
                    return as_tuple(Event, first)  # type: ignore[return-value]
            else:
                first = mailbox.take()
            if first is not None:
                if type(first) is Event and first.confirmed is not None:
                    subscription._hold(self, first)
                return cast(Read, _presented(first))
            if not items:
                if mailbox.closed and not subscription._was_too_slow:
                    raise StopAsyncIteration
                await subscription._wait()


class _StepReader(AsyncIterator[Read]):
    """One `async for`, a `consume` a step."""

    __slots__ = ("_subscription",)

    def __init__(self, subscription: Queue[Read]) -> None:
        self._subscription = subscription

    async def __anext__(self) -> Read:
        try:
            return await self._subscription.consume()
        except SubscriberTooSlow:
            raise
        except SubscriptionClosed:
            raise StopAsyncIteration from None


def _presented(first: Item | Gap | Snapshot[Any]) -> Any:
    return first if type(first) in (Gap, Snapshot) else as_event(cast(Item, first))
