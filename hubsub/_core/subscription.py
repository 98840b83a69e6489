"""What is registered with a hub: listeners, called with each message, and subscriptions, which queue them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar, cast

from ..errors import SubscriberTooSlow, SubscriptionClosed, WrongThread
from ..event import DeadLetter, Event, Gap, Snapshot
from ..key import Announced, Deliver, Key, T, V, is_subset
from ..log import Logger
from .life import Life
from .message_queue import Item, Mailbox, Overflow, as_event, as_tuple
from .retry import Retry, Retrying
from .router import Router

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# Tells of a key and a message whether they are wanted.
Where: TypeAlias = Callable[[Key[Any], Any], object]

Ack: TypeAlias = Literal["auto", "manual"]
Read = TypeVar("Read")  # what a consumer reads: events, and gaps if it wants them

logger = Logger("hubsub.listener")

# The async listener whose call, or a task that such a call started, is running.
_inside: ContextVar[AsyncListener | None] = ContextVar("hubsub_inside", default=None)


class Owner(Protocol):
    """What a registration needs of its hub."""

    _life: Life
    _router: Router[Any]

    def _remove(self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None) -> None: ...
    def _report(self, listener: Listener, key: Key[Any], message: Any, error: BaseException) -> None: ...
    def _tell(
        self, what: Announced, registration: Registration, message: Any, keys: Iterable[Key[Any]] | None
    ) -> None: ...
    def _bury(self, letter: DeadLetter) -> None: ...


class QueueOptions(TypedDict, total=False):
    """How the queue of a subscription or async listener is bounded; what is left out, the hub decides."""

    maxsize: int
    """The bound, in messages."""
    overflow: Overflow
    """What becomes of a message beyond it."""


class AsyncOptions(QueueOptions, total=False):
    """How an async listener is called."""

    concurrency: int
    """Calls that may run at the same time."""
    retry: Retry | None
    """When a call that failed is tried again."""


class ListenerOptions(AsyncOptions, total=False):
    """What can be said of a listener; all but the last for async ones only."""

    once: bool
    """Remove it with its first message."""


class SubscribeOptions(QueueOptions, total=False):
    """What `Hub.subscribe` takes for every kind of subscription."""

    where: Where | None
    """Only messages for which it is true are queued."""
    ack: Ack
    """What tells that a message is finished."""


class Bookkeeper(Protocol):
    """Whoever keeps a book of registrations: the hub tells of each change before it announces it."""

    def _note(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...
    def _forget(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...


class Registration:
    """One registration with a hub, on one pattern or several; several that match give a message once."""

    __slots__ = (
        "_hub",
        "_once",
        "_owner",
        "_patterns",
        "_where",
        "closed",
        "counted",
        "deliver",
        "filtered",
        "mailbox",
        "missed",
        "order",
    )

    lasting = True  # it stays when the hub is closed
    responds = False  # requests are for it
    remote = False  # it takes messages out of the process
    diverts: Sequence[tuple[str, ...]] = ()  # patterns of which it takes all that is published, from everybody else

    def __init__(
        self,
        hub: Owner,
        deliver: Deliver,
        *,
        mailbox: Mailbox | None = None,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        self._hub = hub
        self._owner = owner
        self._where = where
        self._once = once
        self.mailbox = mailbox
        # The hub sets these two when it registers it.
        self._patterns: tuple[tuple[str, ...], ...] = ()
        self.order = 0
        self.deliver: Deliver = self._gate(deliver)
        # Messages routed here, as far as routes have told; `Owner._fold` makes them tell.
        self.counted = 0
        # Of these, the ones that never came: it was closed in the middle of their publish.
        self.missed = 0
        self.filtered = 0
        """Messages that its `where=` did not want; none of the other figures counts them."""
        self.closed = False
        """True once it was removed or closed."""

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are for it."""
        patterns = self._patterns
        return not self.closed and (key in patterns or any(is_subset(key, pattern) for pattern in patterns))

    @property
    def patterns(self) -> tuple[Key[Any], ...]:
        """What it is registered on."""
        return tuple(Key.create_from(pattern) for pattern in self._patterns)

    @property
    def pending(self) -> int:
        """Messages queued now."""
        return 0 if self.mailbox is None else self.mailbox.pending

    @property
    def peak_pending(self) -> int:
        """The most messages ever queued."""
        return 0 if self.mailbox is None else self.mailbox.peak

    @property
    def dropped(self) -> int:
        """Messages accepted that nobody will be handed any more."""
        return 0 if self.mailbox is None else self.mailbox.dropped

    @property
    def superseded(self) -> int:
        """Messages replaced by a newer one of their key before anybody took them, under `Overflow.LATEST`."""
        return 0 if self.mailbox is None else self.mailbox.superseded

    @property
    def accepted(self) -> int:
        """Messages routed here and wanted: at any moment delivered + pending + dropped + superseded."""
        self._hub._router.fold(self._patterns)
        return self.counted - self.missed - self.filtered

    @property
    def delivered(self) -> int:
        """Messages handed over: a listener was called, or a consumer took it."""
        return self.accepted - self.pending - self.dropped - self.superseded

    @property
    def is_busy(self) -> bool:
        """True while it has something to do, and somebody to do it."""
        return False

    @property
    def maxsize(self) -> int | None:
        """The bound of the queue; None where there is none."""
        return None if self.mailbox is None else self.mailbox.maxsize

    @property
    def overflow(self) -> Overflow | None:
        """What becomes of messages beyond the bound; None where there is no queue."""
        return None if self.mailbox is None else self.mailbox.overflow

    def _miss(self, key: Key[Any], message: Any) -> None:
        """Stand in its place in a publish that was running when it was closed."""
        self.missed += 1

    def deliver_event(self, event: Event[Any]) -> bool:
        """Deliver a message together with what travels with it; return whether it is queued now."""
        if (self._where is not None or self._once) and not self._admits(*event):
            return False
        mailbox = self.mailbox
        if mailbox is None:
            self._take(event)
            return False
        mailbox.put_event(event)
        return True

    def _take(self, event: Event[Any]) -> None:
        """Take a message, with its metadata, that was found to be for it; it has no queue."""
        raise NotImplementedError

    # What only some messages pass

    def _gate(self, deliver: Deliver) -> Deliver:
        """Put `where` and `once` before `deliver`; without either nothing is."""
        if self._where is None and not self._once:
            return deliver

        def pass_on(key: Key[Any], message: Any) -> None:
            if self._admits(key, message):
                deliver(key, message)

        return pass_on

    def _admits(self, key: Key[Any], message: Any) -> bool:
        """True if a message is for it, which a listener for one message is then no more."""
        if self._where is not None:
            try:
                wanted = bool(self._where(key, message))
            except WrongThread:
                raise  # then the hub counts it as missed
            except BaseException:
                self.filtered += 1
                raise
            if not wanted:
                self.filtered += 1
                return False
            if self.closed:  # by `where`, or by a message published in there
                self.missed += 1
                return False
        if self._once:
            self._use_up()
        return True

    def wants(self, event: Event[Any]) -> bool:
        """What `where` says of an event, if there is one."""
        return self._where is None or bool(self._where(*event))

    def _use_up(self) -> None:
        """Remove it before the message that it was there for is handed over."""
        self._hub._remove(self)

    def _removed(self) -> None:
        """Let go of what was queued or running; the hub has just removed it."""

    # What the mailbox tells

    def _overflowing(self, key: Key[Any]) -> None:
        assert self.mailbox is not None
        what = f"{self.maxsize} messages wait, which is its bound; overflow: {self.mailbox.overflow.value}"
        logger.warning("%r does not keep up: %s", self, what)
        self._hub._tell("slowSubscriber", self, {"pending": self.pending, "maxsize": self.maxsize}, (key,))

    def _gap_passed(self, gap: Gap) -> None:
        self._hub._tell("gap", self, gap, gap.keys)

    def _reopened(self) -> None:
        """Begin anew; the hub is just registering it again."""
        self.closed = False
        self._patterns = ()

    def __repr__(self) -> str:
        patterns = ", ".join(map(repr, self._patterns))
        closed = " closed" if self.closed else ""
        return f"<{type(self).__name__} {patterns}{closed}>"


class Removal:
    """What removing returns: awaited, it ends when the tasks that were removed have. Awaiting is optional."""

    __slots__ = ("_tasks",)

    def __init__(self, tasks: Iterable[asyncio.Task[None]] = ()) -> None:
        self._tasks = tuple(tasks)

    @classmethod
    def of(cls, removals: Iterable[Removal]) -> Removal:
        """Several removals as one."""
        return cls(task for removal in removals for task in removal._tasks)

    def __await__(self) -> Generator[Any, None, None]:
        running = [task for task in self._tasks if not task.done() and not task.get_loop().is_closed()]
        if running:
            # Waited for, not awaited: who cancels the waiting does not cancel them a second time.
            yield from asyncio.wait(running).__await__()


class Listener(Registration):
    """A callable that is called with each message, right in the publish. `remove()` ends it."""

    __slots__ = ("_event", "failed", "function", "last_error")

    def __init__(
        self,
        hub: Owner,
        function: Callable[..., object],
        *,
        event: bool = False,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        deliver = partial(_call_with_event, function) if event else function
        super().__init__(hub, deliver, owner=owner, where=where, once=once)
        self._event = event
        self.function = function
        """The callable."""
        self.failed = 0
        """Calls that raised."""
        self.last_error: BaseException | None = None
        """What the last of them raised."""

    def _take(self, event: Event[Any]) -> None:
        self._called_with(event)

    def _called_with(self, event: Event[Any]) -> Any:
        """What calling the function with an event returns."""
        return self.function(event) if self._event else self.function(*event)

    def remove(self) -> Removal:
        """Remove it at once: it is called no more, what it had queued is dropped, a call in progress is cancelled.

        Returns an awaitable that ends when its task has. From inside its own call neither is that call cancelled nor
        waited for. Removing twice is safe.
        """
        if not self.closed:
            self._hub._remove(self)
        return Removal()


def _call_with_event(function: Callable[[Event[Any]], object], key: Key[Any], message: Any) -> None:
    function(Event(key, message))


class AsyncListener(Listener):
    """An async callable with a queue and one task, which calls it in order, one message at a time.

    The task starts with the first message and runs in a copy of the context of the registration.
    """

    __slots__ = ("_call", "_context", "_idle", "_mailbox", "_quiet", "_stopped", "_task", "_winding_up")

    # Messages handled before the loop gets a turn, if handling them does not suspend.
    BURST = range(256)

    def __init__(
        self,
        hub: Owner,
        function: Callable[..., Awaitable[object]],
        *,
        maxsize: int,
        overflow: Overflow,
        retry: Retry | None = None,
        event: bool = False,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        super().__init__(hub, function, event=event, owner=owner, where=where, once=once)
        self._mailbox = self.mailbox = Mailbox(maxsize, overflow, self)
        self._mailbox.wake = self.start
        self.deliver = self._gate(self._mailbox.put)
        # What the task calls.
        self._call: Callable[..., Any] = function
        if retry is not None:
            self._call = Retrying(function, retry, self._in_haste, self._give_up)
        self._context = copy_context()
        self._context.run(_inside.set, self)
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._quiet: list[asyncio.Future[None]] = []
        self._stopped = False  # the hub is closed: the task ends after the call in progress
        self._winding_up = False  # it was too slow, or used up: it handles what is queued, and nothing after that

    def remove(self) -> Removal:
        tasks = self._tasks()
        if self._winding_up:
            self._hub._life.check_thread()
            self._winding_up = False
            self._removed()
        super().remove()
        return Removal() if self.is_caller() else Removal(tasks)

    remove.__doc__ = Listener.remove.__doc__

    def is_caller(self) -> bool:
        """True inside its own call, and in the tasks that such a call started."""
        return _inside.get() is self

    # The task

    def start(self) -> None:
        """Start the task, if there is a loop to start it on."""
        loop = self._hub._life.bind_for(self)
        if loop is None:
            return  # the hub starts it once a loop runs
        self._mailbox.wake = None
        self._task = self._spawn(loop, self._run(), self._context)

    def _spawn(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], context: Context
    ) -> asyncio.Task[None]:
        """A task for its calls, whose end it is told of."""
        task = loop.create_task(coroutine, name=f"hubsub listener {self.function!r}", context=context)
        # The hub knows its tasks: one that is left behind, by a loop that never runs again, needs no complaint.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        # Not a clause in the task itself: cancelled before its first step, a task runs nothing of it.
        task.add_done_callback(self._ended)
        return task

    async def _run(self) -> None:
        if self._task is None:
            # An eager task factory runs us inside the publish, before the message is queued.
            await asyncio.sleep(0)
        task = self._task
        assert task is not None
        function, with_event = self._callee()
        mailbox, items = self._mailbox, self._mailbox.items
        popleft = items.popleft
        done = Event.done  # looking it up in each event costs as much as half of it
        # What is queued was dropped when it was removed, unless it is winding up.
        while items or not (self.closed or self._stopped):
            for _ in self.BURST:
                if not items:
                    break
                item = popleft() if not mailbox.alert else cast("Item | None", mailbox.take())
                if item is None:
                    break
                try:
                    if with_event:
                        result = await function(as_event(item))
                    else:
                        key, message = item
                        result = await function(key, message)
                except BaseException as error:
                    self._failed(item, error, task)
                else:
                    if type(item) is Event and item.confirmed is not None:
                        if result is None:
                            done(item)
                        else:
                            self._handled(item, result)
            if mailbox.alert:
                mailbox.take_gap()
            if items:
                await asyncio.sleep(0)
            elif not (self.closed or self._stopped):
                await self._sleep(task.get_loop())

    def _handled(self, event: Event[Any], result: object) -> None:
        """A call has returned."""
        if isinstance(result, BaseException) and isinstance(self._call, Retrying):
            event.fail(result, "it failed, and was given up")
        else:
            event.done()

    def _failed(self, item: Item, error: BaseException, task: asyncio.Task[None]) -> None:
        """A call has raised: report it, unless the task is being ended."""
        leaked = isinstance(error, asyncio.CancelledError) and not task.cancelling()
        if type(item) is Event:
            failed = leaked or isinstance(error, Exception)
            item.fail(error, "it failed" if failed else "its call was cut short")
        # A cancellation may leak out of something that the listener awaited: that is a failure like any other.
        if not leaked and not isinstance(error, Exception):
            raise error
        self._hub._report(self, item[0], item[1], error)

    def _callee(self) -> tuple[Callable[..., Any], bool]:
        """What the task calls, and whether with an event."""
        return self._call, self._event

    def _called_with(self, event: Event[Any]) -> Any:
        return self._call(event) if self._event else self._call(*event)

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._idle = loop.create_future()
        self._mailbox.wake = self._wake
        self._tell_quiet()
        try:
            await self._idle
        finally:
            self._idle = None

    def _wake(self) -> None:
        self._hub._life.check_thread()
        idle = self._idle
        if idle is None or idle.get_loop().is_closed():
            self.reset()
            self.start()
            return
        self._mailbox.wake = None
        if not idle.done():
            idle.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is not task:
            return  # left behind by a loop that was closed under it
        self._task = None
        self._mailbox.wake = self.start
        self._tell_quiet()
        if self.closed:
            self._let_go()
        if not self._hub._life.task_ended(self, task.get_loop()):
            logger.warning("the task of %r was ended from outside; the listener is removed", self)
            self.remove()
        elif self._stopped:
            self._stopped = False
            if self._mailbox.items and self._hub._life.state == "open":
                self.start()  # the hub was opened again during the last call

    def reset(self) -> None:
        """Forget the task of a loop that was closed under it; start anew if something is queued."""
        self._stopped = False
        life = self._hub._life
        if self._task is not None and self._task.get_loop() is life.loop:
            # The hub was opened again during the last call: after that it goes on, in order.
            life.running[self] = None
            return
        self._task = self._idle = None
        self._mailbox.wake = self.start
        if self._mailbox.items:
            self.start()

    def stop(self) -> list[asyncio.Task[None]]:
        """End the task, but not from inside its own call; return it if it is to be waited for."""
        task = self._task
        if task is None:
            return []
        if self.is_caller():
            self._stopped = True
            if self._idle is not None:
                self._wake()  # the call is over, but not a task that it started
            return []
        task.cancel()
        return [task]

    def _tasks(self) -> tuple[asyncio.Task[None], ...]:
        return () if self._task is None else (self._task,)

    def _too_slow(self) -> None:
        self._winding_up = True
        self._hub._remove(self)

    def _use_up(self) -> None:
        self._hub._life.check_thread()
        self._too_slow()

    def _removed(self) -> None:
        if self._winding_up:
            return
        self._let_go()
        self._hub._life.unstarted.pop(self, None)
        self.hasten()
        self._end_calls()

    def _let_go(self) -> None:
        self._mailbox.drop_all()
        self._mailbox.close()

    def _end_calls(self) -> None:
        """End the task, at once unless this is its own call."""
        task = self._task
        if task is None:
            return
        if self._idle is not None:
            self._wake()
        elif not self.is_caller():
            task.cancel()

    # Trying again

    def hasten(self) -> None:
        """Let no failed call wait for another attempt."""
        if isinstance(self._call, Retrying):
            self._call.hasten()

    def _in_haste(self) -> bool:
        return (self.closed and not self._winding_up) or self._hub._life.state != "open"

    def _give_up(self, key: Key[Any], message: Any, error: BaseException, attempts: int) -> None:
        self._hub._report(self, key, message, error)
        self._hub._bury(DeadLetter(key, message, error, attempts))

    # What the hub asks

    @property
    def is_busy(self) -> bool:
        """True while a call runs or messages are queued for it, but inside of its own call."""
        return self._task is not None and (self._idle is None or bool(self._mailbox.items)) and not self.is_caller()

    def quiet(self) -> asyncio.Future[None]:
        """A future that is done when it has handled everything for now, or has ended."""
        assert self._task is not None
        future = self._task.get_loop().create_future()
        self._quiet.append(future)
        return future

    def _tell_quiet(self) -> None:
        for future in self._quiet:
            if not future.done():
                future.set_result(None)
        self._quiet.clear()


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
                value = await self._load()
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
