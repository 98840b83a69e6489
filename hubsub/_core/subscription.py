"""Subscriptions: queues of messages for consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..describe import describe
from ..errors import SubscriberTooSlow, SubscriptionClosed
from ..event import Event, Gap, Snapshot
from ..key import Patterns, T, V, as_patterns
from .callables import awaitable, refuse_awaitable
from .message_queue import Item, Mailbox, Overflow, as_event, as_tuple
from .notices import Notices, notify
from .ready import ReadyMailbox
from .registration import Ack, Core, Registration, Removal, Where, logger
from .unfinished import Unfinished, left_by_choice

if TYPE_CHECKING:
    from types import TracebackType

Read = TypeVar("Read")  # what a consumer reads: events, and gaps if it wants them


class Queue(Registration, Generic[Read]):
    """Reading messages, which all kinds of subscription have in common."""

    __slots__ = ("_unfinished", "_mailbox", "_was_too_slow", "ack")

    lasting = False
    _gaps = False

    def __init__(
        self,
        hub: Core,
        maxsize: int,
        overflow: Overflow,
        where: Where | None = None,
        ack: Ack = "auto",
        ready: Callable[[], object] | None = None,
    ) -> None:
        if ready is None:
            self._mailbox = Mailbox(maxsize, overflow, self, gaps=self._gaps)
        else:
            notify_ready = partial(self._call_ready, ready)
            self._mailbox = ReadyMailbox(hub._life.check_thread, notify_ready, maxsize, overflow, self, gaps=self._gaps)
        self._was_too_slow = False
        self._unfinished: Unfinished | None = None  # until there is a confirmed message
        self.ack: Ack = ack
        """How a confirmed message counts as finished: "auto" or "manual"."""
        super().__init__(hub, self._mailbox.put, mailbox=self._mailbox, where=where)

    async def consume(self) -> Read:
        """Wait for the next message and return it; `key, message = await subscription.consume()`.

        Raises:
            SubscriptionClosed: It is closed and everything queued has been read.
        """
        return cast(Read, _presented(await self.consume_pair()))

    async def consume_pair(self) -> Any:
        """As `consume`, but return a plain tuple if the message has no metadata: the fastest way to wait for one."""
        mailbox = self._mailbox
        items = mailbox.items
        if self._unfinished is not None:
            self._unfinished.ask(_current_task())
        while True:
            first: Any = items.popleft() if items and not mailbox.alert else mailbox.take()
            if first is not None:
                if type(first) is Event and first.confirmed is not None:
                    self._hold(_current_task(), first)
                return first
            await self._wait()

    async def get_batch(self, maximum: int) -> list[Read]:
        """Wait for a message, then return all that are queued: at least one and at most `maximum`.

        Raises:
            ValueError: `maximum` is less than one.
            SubscriptionClosed: It is closed and everything queued has been read.
        """
        _check_batch(maximum)
        if self._unfinished is not None:
            self._unfinished.ask(_current_task())
        while not (batch := self._take_many(maximum, _current_task)):
            await self._wait()
        return self._as_read(batch)

    def take(self, maximum: int) -> list[Any]:
        """Return queued messages at once, at most `maximum`; an empty list if there are none.

        Each is a plain tuple of key and message, or an `Event` if it has metadata, or a `Gap`: the fastest way to read.
        Each call finishes the messages of the last one. A closed subscription returns what is left.

        Raises:
            ValueError: `maximum` is less than one.
        """
        _check_batch(maximum)
        if self._unfinished is not None:
            self._unfinished.ask(None)
        return self._take_many(maximum, _nobody)

    def _take_many(self, maximum: int, reader: Callable[[], object]) -> list[Any]:
        mailbox = self._mailbox
        taken = mailbox.take_many(maximum)
        if mailbox.has_events:
            for each in taken:
                if type(each) is Event and each.confirmed is not None:
                    self._hold(reader(), each)
        return taken

    def _as_read(self, taken: list[Any]) -> list[Read]:
        if self._mailbox.has_events or self._gaps:
            return list(map(_presented, taken))
        return list(map(as_tuple, repeat(Event), taken))  # type: ignore[arg-type]

    def _hold(self, reader: object, event: Event[Any]) -> None:
        """Note that a reader has a confirmed message."""
        if self.ack == "auto":
            if self._unfinished is None:
                self._unfinished = Unfinished()
            self._unfinished.hold(reader, event)

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
        """True while messages are queued and a consumer has ever read or waited for one."""
        return self.pending > 0 and (self._mailbox.awaited or self.delivered > 0)

    def add(self, patterns: Patterns, history: int = 0) -> None:
        """Queue the messages of these patterns, too, from now on; patterns that it has already stay as they are.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            history: How many of the last retained messages to replay, of each key that its other patterns do not match.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            SubscriptionClosed: It is closed.
            HubClosed: The hub is closing.
            HistoryUnavailable: `history` is asked for, and nothing retains a new pattern.
            ValueError: `history` makes no sense, or there is a snapshot instead.
        """
        named = as_patterns(patterns)
        if self.closed:
            raise SubscriptionClosed(self)
        if history and isinstance(self, SnapshotSubscription):
            raise ValueError("a snapshot replaces history= and gaps=: choose one of them")
        self._hub._add(self, [pattern for pattern in named if pattern not in self._patterns], history)

    def discard(self, patterns: Patterns) -> None:
        """Stop queuing the messages of these patterns, ignoring those that it does not have; what is queued stays.

        Without any pattern it stays open, until `close`.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
        """
        held = [pattern for pattern in as_patterns(patterns) if pattern in self._patterns]
        if held and not self.closed:
            self._hub._remove(self, held, stays=True)

    def close(self) -> Removal:
        """End it at once: nothing more is delivered; what is queued can still be read.

        Closing twice is safe. Awaiting the result is optional.
        """
        if not self.closed:
            self._hub._remove(self)
        return Removal()

    def _end(self) -> Removal:
        return self.close()

    def _call_ready(self, ready: Callable[[], object]) -> None:
        try:
            refuse_awaitable(ready(), ready, "ready")
        except (Exception, asyncio.CancelledError) as error:
            logger.error("ready= of %r failed", self, error=error)

    def _too_slow(self) -> None:
        if not self.closed:
            self._was_too_slow = True
            self._hub._remove(self)

    def _removed(self) -> Notices:
        notices: Notices = []
        self._mailbox.give_up("closed before it was read", notices)
        self._mailbox.close()
        return notices

    def forked(self) -> None:
        super().forked()
        self._unfinished = None

    forked.__doc__ = Registration.forked.__doc__

    def _reopened(self) -> None:
        super()._reopened()
        self._was_too_slow = False
        self._mailbox.closed = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._unfinished is not None:
                self._unfinished.end(error)
        finally:
            self.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Subscription(Queue[Event[T]], Generic[T]):
    """A queue of the messages that match its patterns.

    Iterate it (`async for key, message in subscription`), or `await subscription.consume()`. Several consumers share
    the messages. Cancelling a consumer that waits loses nothing. It is registered when it is made; `close()`, or
    leaving it as a context manager, ends it.

    Where messages were dropped, a `Gap` is published as `("Hub", "gap", *pattern)` when a consumer reaches it.
    """

    __slots__ = ()


class GapSubscription(Queue[Event[T] | Gap], Generic[T]):
    """A `Subscription` whose consumers also get a `Gap` exactly where messages were dropped."""

    __slots__ = ()

    _gaps = True


class SnapshotSubscription(Queue[Event[T] | Snapshot[V]], Generic[T, V]):
    """A `Subscription` that begins with a snapshot of the state that its messages change, and loads it again at a gap.

    `load` runs inside the consumer's read: at the first read, and where a gap is reached. Messages that are published
    meanwhile wait in the queue; if that overflows they are dropped, and `load` runs once more, after a pause. If the
    queue overflows again, the consumer gets the snapshot all the same, and `load` runs again where messages are
    missing. A message may be part of the snapshot and come after it too, so apply messages idempotently. If `load`
    raises, or the read is cancelled, the next read loads again. `take` never loads: until a snapshot is read it returns
    nothing.
    """

    __slots__ = ("_is_stale", "_load", "_loading", "_pause")

    _gaps = True
    # Seconds between two loads because of overflow: the first pause, and the longest.
    PAUSES = (0.05, 5.0)

    def __init__(
        self,
        hub: Core,
        maxsize: int,
        overflow: Overflow,
        where: Where | None = None,
        ack: Ack = "auto",
        ready: Callable[[], object] | None = None,
        *,
        load: Callable[[], Awaitable[V]],
    ) -> None:
        super().__init__(hub, maxsize, overflow, where, ack, ready)
        self._load = load
        self._is_stale = True
        self._loading: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._pause: float | None = None  # before the next load, after one that the queue overflowed in

    async def consume_pair(self) -> Any:
        return await self._step(_current_task())

    consume_pair.__doc__ = Queue.consume_pair.__doc__

    async def get_batch(self, maximum: int) -> list[Event[T] | Snapshot[V]]:
        _check_batch(maximum)
        batch = [await self._step(_current_task())]
        if maximum > 1:
            batch += self._take_many(maximum - 1, _current_task)
        return self._as_read(batch)

    get_batch.__doc__ = Queue.get_batch.__doc__

    async def _step(self, reader: object) -> Any:
        """Read the next item, which may be the snapshot."""
        if self._unfinished is not None:
            self._unfinished.ask(reader)
        while True:
            if self._is_stale:
                snapshot = await self._refresh()
                if snapshot is not None:
                    return snapshot
            first = self._mailbox.take()
            if type(first) is Gap:
                self._is_stale = True
            elif first is None:
                await self._wait()
            else:
                if type(first) is Event and first.confirmed is not None:
                    self._hold(reader, first)
                return first

    def _take_many(self, maximum: int, reader: Callable[[], object]) -> list[Any]:
        if not self._mailbox.has_gaps:
            return [] if self._is_stale else super()._take_many(maximum, reader)
        taken: list[Any] = []
        while len(taken) < maximum and not self._is_stale:
            first = super()._take_many(1, reader)
            if not first:
                break
            if type(first[0]) is Gap:
                self._is_stale = True
            else:
                taken += first
        return taken

    async def _refresh(self) -> Snapshot[V] | None:
        """Load and return the snapshot; None if another consumer has done so meanwhile."""
        mailbox = self._mailbox
        loop = asyncio.get_running_loop()
        # A lock of a loop that was closed may be held for ever.
        if self._loading is None or self._loading[0] is not loop:
            self._loading = loop, asyncio.Lock()
        async with self._loading[1]:
            first, longest = self.PAUSES
            for is_last in (False, True):
                if not self._is_stale:
                    return None
                if self._pause is not None:
                    await asyncio.sleep(self._pause)
                mailbox.forget_gaps()  # the snapshot replaces them
                value = await awaitable(self._load(), self._load, "snapshot")
                if not mailbox.has_gaps and len(mailbox.items) <= mailbox.maxsize:
                    self._pause = None
                    break
                self._pause = first if self._pause is None else min(2 * self._pause, longest)
                if is_last:
                    break  # loading now would never end; what is missing later is loaded when the consumer gets there
                notices: Notices = []
                mailbox.drop_all(notices)
                notify(notices)
            self._is_stale = False
            return Snapshot(value)

    def __aiter__(self) -> AsyncIterator[Event[T] | Snapshot[V]]:
        return _StepReader(self)


class _Iterator(AsyncIterator[Read]):
    """An `async for` over a subscription. When it ends, so does its message, see `docs/confirmation.md`."""

    __slots__ = ("_reader", "_subscription")

    def __init__(self, subscription: Queue[Read]) -> None:
        self._subscription = subscription
        self._reader: object = None  # stands for the iterator, which must not be kept alive; made when needed

    def _hold(self, event: Event[Any]) -> None:
        if self._reader is None:
            self._reader = object()
        self._subscription._hold(self._reader, event)

    async def aclose(self) -> None:
        """Finish its last message, as asking for the next one does."""
        unfinished = self._subscription._unfinished
        if unfinished is not None and self._reader is not None:
            unfinished.finish(self._reader)

    def __del__(self) -> None:
        if self._reader is not None and self._subscription._unfinished is not None:
            loop = self._subscription._hub._life.loop
            self._subscription._unfinished.leave(self._reader, loop, left_by_choice(2))


class _Reader(_Iterator[Read]):
    """The fast iterator."""

    __slots__ = ("_mailbox",)

    def __init__(self, subscription: Queue[Read]) -> None:
        super().__init__(subscription)
        self._mailbox = subscription._mailbox

    async def __anext__(self) -> Read:
        mailbox = self._mailbox
        items = mailbox.items
        subscription = self._subscription
        first: Any
        if self._reader is not None and subscription._unfinished is not None:
            subscription._unfinished.finish(self._reader)
        while True:
            if items and not mailbox.alert:
                first = items.popleft()
                if type(first) is not Event:
                    return as_tuple(Event, first)  # type: ignore[return-value]
            else:
                first = mailbox.take()
            if first is not None:
                if type(first) is Event and first.confirmed is not None:
                    self._hold(first)
                return cast(Read, _presented(first))
            if mailbox.closed and not subscription._was_too_slow:
                raise StopAsyncIteration
            await subscription._wait()


class _StepReader(_Iterator[Event[T] | Snapshot[V]], Generic[T, V]):
    """The iterator that loads snapshots."""

    __slots__ = ()

    _subscription: SnapshotSubscription[T, V]

    async def __anext__(self) -> Event[T] | Snapshot[V]:
        if self._reader is None:
            self._reader = object()
        try:
            return _presented(await self._subscription._step(self._reader))  # type: ignore[no-any-return]
        except SubscriberTooSlow:
            raise
        except SubscriptionClosed:
            raise StopAsyncIteration from None


def _presented(first: Item | Gap | Snapshot[Any]) -> Any:
    return first if type(first) in (Gap, Snapshot) else as_event(cast(Item, first))


def _check_batch(maximum: int) -> None:
    if type(maximum) is not int or maximum < 1:
        raise ValueError(f"maximum must be a number of messages, at least 1, not {describe(maximum)}")


def _current_task() -> object:
    """Return the task that is reading, if there is one."""
    return asyncio.current_task()


def _nobody() -> None:
    """Return None: a reader that does not wait may be in no task, or in the task of a publisher."""
