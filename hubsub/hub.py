"""The hub: routes each message to whoever subscribed to its key."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import iscoroutinefunction
from itertools import count
from threading import get_ident
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
    overload,
)

from ._core.asking import AsyncResponder, Desk, Replies, Responder
from ._core.concurrency import ConcurrentListener
from ._core.declarations import Declarations, accepts, name_of
from ._core.explain import Explanation, explain
from ._core.history import History, Retention
from ._core.ids import Ids
from ._core.life import Life
from ._core.message_queue import Mailbox, Overflow, as_tuple
from ._core.outbox import Attachment, Outbox, SharedId
from ._core.retry import Retry
from ._core.router import Router
from ._core.routes import Observer, Route
from ._core.subscription import (
    Ack,
    AsyncListener,
    AsyncOptions,
    Bookkeeper,
    GapSubscription,
    Listener,
    ListenerOptions,
    Queue,
    QueueOptions,
    Registration,
    SnapshotSubscription,
    SubscribeOptions,
    Subscription,
    Where,
)
from ._core.tap import Tap
from .confirm import Confirmation, Confirmed
from .errors import (
    ConfirmationTimeout,
    DeliveryError,
    HubClosed,
    HubsubError,
    InvalidListener,
    NoRunningLoop,
    Undelivered,
    WaitingForItself,
    WrongThread,
)
from .event import DeadLetter, Event, Gap, ListenerFailure, Meta
from .key import (
    NAMESPACE,
    PLUS,
    STAR,
    Announced,
    Key,
    KeyLike,
    Patterns,
    T,
    TypedPatterns,
    V,
    as_patterns,
    escaped,
    is_subset,
    overlaps,
    publishable,
)
from .log import Logger

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")

logger = Logger("hubsub.hub")
listener_logger = Logger("hubsub.listener")


class Decorator(Protocol[P]):
    """Takes a function, plain or async, of these parameters and returns it unchanged."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class _Queue(TypedDict):
    maxsize: int
    overflow: Overflow


class _Common(TypedDict):
    event: bool
    where: Where | None
    once: bool
    owner: Bookkeeper | None


class Stats(NamedTuple):
    """Totals of a hub at a moment. Figures of single subscriptions are on them."""

    time: float
    """When it was taken, in seconds since the epoch."""
    published: int
    """Messages published so far."""
    routed: int
    """The sum of what each `publish` returned: messages times subscriptions."""
    failed: int
    """Calls of listeners that raised."""
    subscriptions: int
    """Subscriptions and listeners registered now."""
    patterns: int
    """Different patterns among them."""
    cached_routes: int
    """Keys whose route is remembered."""
    cache_hits: int
    """Messages published along a remembered route."""
    cache_misses: int
    """Routes made."""
    retained_keys: int
    """Keys of which messages are kept."""


class Hub:
    """Routes messages from publishers to subscribers by key.

    May be made before an event loop runs, at module level say. Publishing to sync listeners never needs a loop; async
    listeners and consumers bind the hub to the loop they run on. When that loop is closed, or the hub was closed and
    is started again, it binds anew and keeps its listeners. A hub belongs to the thread of its loop; other threads use
    `publish_threadsafe`.

    Args:
        name: Shown in logs and errors.
        drain: Seconds that `close` gives async listeners to finish what is queued.
        maxsize: The bound of each subscription's and async listener's queue, in messages, unless it says otherwise.
        overflow: What becomes of messages beyond it, unless it says otherwise.
        on_error: Called with a `ListenerFailure` when a listener raises.
        route_cache: Keys whose routes are remembered; 0 for none.
    """

    def __init__(
        self,
        *,
        name: str = "hub",
        drain: float = 5.0,
        maxsize: int = 10_000,
        overflow: Overflow = Overflow.GROW,
        on_error: Callable[[ListenerFailure], object] | None = None,
        route_cache: int = 100_000,
    ) -> None:
        if drain < 0:
            raise ValueError(f"drain is a number of seconds, not {drain!r}")
        if route_cache < 0:
            raise ValueError(f"route_cache is a number of keys, not {route_cache!r}")
        self.name = name
        self.maxsize = _bound(maxsize, "maxsize")
        self.overflow = Overflow(overflow)
        self.on_error = on_error
        self._router: Router[Registration] = Router(route_cache)
        self._history = History(self._retention_changed)
        self._desk = Desk(self)
        self.declarations = Declarations()
        """What messages are declared to be, by pattern."""
        self._life = Life(self, drain, self._bound, self._closing, self._drained, self._ended)
        self._registered: dict[Registration, None] = {}
        self._order = count(1)
        self._watchers = 0  # patterns that may match the hub's own namespace
        self._attached: list[Attachment] = []
        self._outboxes: list[Outbox] = []
        self._ids = Ids()
        self._shared_id = SharedId(self._ids.mint)
        self._failed = 0

    def __repr__(self) -> str:
        return f"<Hub {self.name!r}>"

    # Publishing

    def publish(self, key: KeyLike[T], message: T = None) -> int:  # type: ignore[assignment]
        """Deliver to every matching subscription, in order of subscription; return how many there are.

        Never waits. A listener that raises is logged and counted and hurts no one else. What a listener publishes is
        delivered whole before this delivery goes on; what it subscribes does not get this message any more, what it
        removes is called no more.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
            WrongThread: The hub's loop runs in another thread (told where telling costs nothing).
        """
        try:
            route = self._router.routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
        route.published += 1
        key = route.key
        for deliver in route:
            try:
                deliver(key, message)
            except BaseException as error:
                self._deliver_failed(route, deliver, message, error)
        return route.width

    def publish_many(self, pairs: Iterable[tuple[KeyLike[T], T]]) -> int:
        """Publish each (key, message) in turn; return the sum of what `publish` returned."""
        return sum(self.publish(key, message) for key, message in pairs)

    def publish_event(
        self,
        event: Event[T],
        source: Registration | None = None,
        confirmed: Confirmed | None = None,
        only: Collection[Registration] | None = None,
    ) -> int:
        """Deliver an event with its metadata to every matching subscription but `source`; return how many.

        For bridges and the like, which relay what came from elsewhere; otherwise as `publish`. `confirmed` is called
        once everybody has finished with it, see `publish_confirmed`: with how many did, and a list of `Undelivered`
        for the others. That may be before this returns. What it raises is logged. `only` names those who get it,
        another time say.
        """
        key = event[0]
        try:
            route = self._router.routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
        if type(key) is not Key or event.registration is not None:
            # It came from a confirmed publish: what is told of it concerns that one.
            event = Event(route.key, event[1], event.meta)
        try:
            target = route.sole
        except AttributeError:
            target = route.sole = route.targets[0] if route.width == len(route.targets) == 1 else None
        if target is not None and target is not source and only is None:
            route.published += 1
        else:
            targets = route.targets
            if source is not None and source.diverts:
                targets = [*targets, *getattr(route, "diverted", ())]
            if only is not None:
                targets = [target for target in targets if target in only]
            target = _only_other(targets, source)
            if target is None:
                if confirmed is not None:
                    return self._deliver_confirmed(targets, event, source, Confirmation(confirmed))
                return self._deliver(targets, event, source)
            # The route would count the source, too.
            target.counted += 1
            self._router.tally.published += 1
            self._router.tally.routed += 1
        # Only one gets it, as so often: it needs no copy, and nothing can change before it is reached.
        if confirmed is not None:
            event.confirmed = confirmed
            event.registration = target
        interrupt: BaseException | None = None
        try:
            if not target.deliver_event(event):
                event.done()
        except BaseException as error:
            event.fail(error, "it failed")
            interrupt = self._failure(target, *event, error)
        if interrupt is not None:
            raise interrupt
        return 1

    async def publish_confirmed(self, key: KeyLike[T], message: T = None, timeout: float | None = 30.0) -> int:  # type: ignore[assignment]
        """Deliver as `publish` does, and wait until everybody has finished with it; return how many did.

        Finished has: a sync listener that returned; an async one that returned, the call it is for; a consumer that
        asked its own iterator (`async for`), or `consume`, for the next message, or left the block of its
        subscription without an exception; under `ack="manual"` only one that called `event.done()`. What `where`
        filters out or a newer message replaces is finished with. What they publish onward is not waited for.

        Args:
            key: What to publish to.
            message: What to publish.
            timeout: Seconds to wait; None for no limit. Beyond it the message stays delivered.

        Raises:
            DeliveryError: Somebody failed, dropped it, or was closed; a group that names each.
            ConfirmationTimeout: Somebody has not finished in time.
            WaitingForItself: Called inside an async listener that would have to handle the message itself.
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
        """
        loop = self._life.bind()
        finished: asyncio.Future[tuple[int, list[Undelivered]]] = loop.create_future()

        def confirmed(number: int, failures: list[Undelivered]) -> None:
            if not finished.done():
                finished.set_result((number, failures))

        route = self._route_of(key)
        for target in route.targets:
            if isinstance(target, AsyncListener) and target.is_caller():
                raise WaitingForItself(target, route.key)
        confirmation = Confirmation(confirmed)
        outboxes = [target for target in route.targets if target.remote]
        waiting_for: list[Any] = outboxes
        try:
            async with asyncio.timeout(timeout):
                async with self._places(route.key, _mailboxes(outboxes)):
                    route = self._route_of(route.key)
                    self._deliver_confirmed(route.targets, Event(route.key, message), None, confirmation)
                waiting_for = []
                number, failures = await finished
        except TimeoutError:
            waiting_for = waiting_for or confirmation.waiting_for
            raise ConfirmationTimeout(route.key, timeout or 0, waiting_for) from None
        if failures:
            error = DeliveryError(f"{route.key!r} was not finished by everybody", failures)
            error.finished = number
            raise error
        return number

    async def publish_wait(self, key: KeyLike[T], message: T = None) -> int:  # type: ignore[assignment]
        """Deliver as `publish` does, when each full queue has a place: to everyone in one step, or to no one.

        First come, first served. With room it does not yield to the loop; cancelled, it has delivered nothing.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed, or is closed while waiting.
        """
        try:
            route = self._router.routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
        try:
            mailboxes = route.mailboxes
        except AttributeError:
            mailboxes = route.mailboxes = _mailboxes(route.targets)
        for mailbox in mailboxes:
            if len(mailbox.items) >= mailbox.room:
                async with self._places(route.key, mailboxes):
                    return self.publish(route.key, message)
        return self.publish(key, message)

    @asynccontextmanager
    async def _places(self, key: Key[Any], mailboxes: Iterable[Mailbox]) -> AsyncIterator[None]:
        """Hold a place in each of these that is full."""
        # Everyone takes places in order of subscription, so that no two wait for each other.
        held: list[Mailbox] = []
        try:
            for mailbox in mailboxes:
                if not mailbox.has_room(key):
                    await mailbox.place(self._life.bind())
                    held.append(mailbox)
            yield
        finally:
            for mailbox in held:
                mailbox.give_back()

    def publish_threadsafe(self, key: KeyLike[T], message: T = None) -> concurrent.futures.Future[int]:  # type: ignore[assignment]
        """Publish from any thread, through the hub's loop, in order for each thread.

        Returns a future of what `publish` returns or raises; cancelled in time, nothing is published.

        Raises:
            HubClosed: The hub is closed.
            NoRunningLoop: The hub is not bound to a loop yet, or its loop is closed.
        """
        if self._life.state == "closed":
            raise HubClosed(self)
        loop = self._life.loop
        future: concurrent.futures.Future[int] = concurrent.futures.Future()

        def publish() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self.publish(key, message))
                except BaseException as error:
                    future.set_exception(error)
                    if not isinstance(error, Exception):
                        raise

        if loop is None or loop.is_closed():
            raise NoRunningLoop(self, "publish_threadsafe")
        loop.call_soon_threadsafe(publish)
        return future

    # Subscribing

    @overload
    def on(
        self, patterns: TypedPatterns[T], *, where: Where | None = None, **options: Unpack[ListenerOptions]
    ) -> Decorator[[Key[T], T]]: ...
    @overload
    def on(
        self,
        patterns: TypedPatterns[T],
        *,
        event: Literal[True],
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[[Event[T]]]: ...
    @overload
    def on(
        self,
        patterns: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[...]: ...

    def on(
        self,
        patterns: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Any:
        """Add the decorated function as a listener and return it unchanged. Options as of `add_listener`."""

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self._add_listener(patterns, function, is_async(function), event=event, where=where, **options)
            return function

        return add

    def add_listener(
        self,
        patterns: Patterns,
        function: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener:
        """Call `function(key, message)` for every message that matches one of `patterns`.

        A plain function is called right in the publish. An async one gets a queue and one task: it is called in order,
        one message at a time unless `concurrency` says otherwise, and slows nobody down.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            function: A function, plain or async, or anything callable.
            event: Call `function(event)` instead, with the `Event`.
            where: Called in the publish with key and message; only messages for which it is true are for the
                listener. What it raises is a failure of the listener.
            **options: `once=True` removes the listener with its first message, just before the call. For async
                functions: `maxsize` and `overflow` of the queue, by default the hub's; `concurrency`, the number of
                calls that may run at the same time, by default 1; `retry`, a `Retry`, by which failing calls are tried
                again, and given up as a `DeadLetter`.

        Returns:
            A handle with its figures and `remove()`.

        Raises:
            InvalidListener: It cannot be called, or options for async functions are given for a plain one.
            ValueError: An option makes no sense.
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
        """
        return self._add_listener(patterns, function, is_async(function), event=event, where=where, **options)

    @overload
    def subscribe(
        self, patterns: TypedPatterns[T], *, history: int = 0, **options: Unpack[SubscribeOptions]
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self, patterns: TypedPatterns[T], *, gaps: Literal[True], history: int = 0, **options: Unpack[SubscribeOptions]
    ) -> GapSubscription[T]: ...
    @overload
    def subscribe(
        self, patterns: TypedPatterns[T], *, snapshot: Callable[[], Awaitable[V]], **options: Unpack[SubscribeOptions]
    ) -> SnapshotSubscription[T, V]: ...
    @overload
    def subscribe(
        self, patterns: Patterns, *, history: int = 0, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Any]: ...
    @overload
    def subscribe(
        self, patterns: Patterns, *, gaps: Literal[True], history: int = 0, **options: Unpack[SubscribeOptions]
    ) -> GapSubscription[Any]: ...
    @overload
    def subscribe(
        self, patterns: Patterns, *, snapshot: Callable[[], Awaitable[V]], **options: Unpack[SubscribeOptions]
    ) -> SnapshotSubscription[Any, V]: ...

    def subscribe(
        self,
        patterns: Patterns,
        *,
        gaps: bool = False,
        history: int = 0,
        snapshot: Callable[[], Awaitable[Any]] | None = None,
        where: Where | None = None,
        ack: Ack = "auto",
        **options: Unpack[QueueOptions],
    ) -> Queue[Any]:
        """Queue every message that matches one of `patterns`, from now on.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            gaps: Give consumers a `Gap` where messages were dropped.
            history: Begin with the last so many retained messages of each key, the oldest first; see `retain`. They
                are read before anything else, and take no room.
            snapshot: An async function of no arguments; its result is read first, and in place of each gap. See
                `SnapshotSubscription`.
            where: Called in the publish with key and message; only messages for which it is true are queued. What it
                raises is logged.
            ack: What tells who published it that a message is finished, see `publish_confirmed`: "auto", asking for the
                next one; "manual", `event.done()` or `event.fail()`.
            **options: `maxsize` and `overflow` of the queue, by default the hub's.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
            HistoryUnavailable: `history` is asked for, and nothing retains a pattern.
            ValueError: `snapshot` is given together with `history` or `gaps`, or an option makes no sense.
        """
        named = as_patterns(patterns)
        if ack not in ("auto", "manual"):
            raise ValueError(f"ack is 'auto' or 'manual', not {ack!r}")
        queue, where = self._queue(**options), _predicate(where)
        subscription: Queue[Any]
        if snapshot is None:
            subscription = (GapSubscription if gaps else Subscription)(self, **queue, where=where, ack=ack)
        elif gaps or history:
            raise ValueError("a snapshot takes the place of history and of gaps: choose one")
        else:
            subscription = SnapshotSubscription(self, **queue, where=where, ack=ack, load=snapshot)
        self._add(subscription, named, history)
        return subscription

    # Remembering

    def retain(
        self,
        patterns: Patterns,
        limit: int = 1,
        *,
        max_age: float | None = None,
        max_keys: int | None = None,
    ) -> Retention:
        """Keep the last messages of every key that matches one of `patterns`, for whoever subscribes later.

        A message is kept before it is delivered. What several retentions want of a key, the largest `limit` and the
        longest `max_age` give. Messages in the hub's own namespace are not kept.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: Messages kept of each key.
            max_age: Seconds that a message is kept; by default without end.
            max_keys: Keys kept; beyond it the one that was not published for the longest time goes.

        Returns:
            A handle; closing it forgets what nothing else retains.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            ValueError: A bound is less than one, or no time at all.
        """
        self._life.check_thread()
        named = as_patterns(patterns)
        _bound(limit, "limit")
        if max_keys is not None and (not isinstance(max_keys, int) or max_keys < 1):
            raise ValueError(f"max_keys is a number of keys, at least 1, not {max_keys!r}")
        if max_age is not None and not max_age > 0:
            raise ValueError(f"max_age is a number of seconds, not {max_age!r}")
        if self._keeper not in self._router.observers:
            self._router.observers.append(self._keeper)
        return self._history.retain(named, limit, max_age, max_keys)

    def last(self, key: KeyLike[T]) -> Event[T] | None:
        """The last message of a key that is retained; None if there is none yet, or none any more.

        Raises:
            HistoryUnavailable: Nothing retains that key.
        """
        events = self.history(publishable(key), 1)
        return events[-1] if events else None

    def history(self, patterns: Patterns, limit: int | None = None) -> list[Event[Any]]:
        """The retained messages that match, the oldest first; of each key at most the last `limit`.

        Raises:
            HistoryUnavailable: Nothing retains a key that matches.
        """
        named = as_patterns(patterns)
        self._history.check(named)
        return self._history.select(named, _bound(limit, "limit") if limit is not None else None)

    # Declaring

    @overload
    def declare(self, pattern: KeyLike[Any], type: type[T]) -> Key[T]: ...
    @overload
    def declare(self, pattern: KeyLike[Any], type: Any) -> Key[Any]: ...

    def declare(self, pattern: KeyLike[Any], type: Any) -> Key[Any]:
        """Declare of what type the messages of matching keys are; return the pattern, which tells checkers so.

        Bridges decode to it. While the hub's loop is in debug mode, what is published and is not of it is logged, with
        the line that published it. Of several patterns that match a key, the most specific one counts: a literal part
        before a wildcard, from the left.

        Args:
            pattern: A key, exact or with wildcards.
            type: A class, a `TypedDict`, or any other annotation.

        Raises:
            InvalidKey: It is no pattern.
            ValueError: Another type is declared for the very same keys.
        """
        self._life.check_thread()
        return self.declarations.declare(pattern, type)

    def declared(self, key: KeyLike[Any]) -> Any:
        """The type that is declared for an exact key; None if none is.

        Raises:
            InvalidKey: Nothing can be published to `key`.
        """
        return self.declarations.type_of(publishable(key))

    # Waiting for one, asking

    @overload
    def next(
        self,
        patterns: TypedPatterns[T],
        timeout: float | None = None,
        where: Callable[[Key[T], T], object] | None = None,
    ) -> Awaitable[Event[T]]: ...
    @overload
    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Awaitable[Event[Any]]: ...

    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Awaitable[Event[Any]]:
        """Wait for the first message, from now on, that matches one of `patterns`: `event = await hub.next("tick")`.

        It is subscribed when this returns: what is published before the `await` counts. Await it once, or let go of
        it; either way nothing stays subscribed.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            timeout: Seconds from now; None for no limit.
            where: Called with key and message of each that matches, until it returns something true. What it raises
                is raised to who awaits.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            NoRunningLoop: There is none to wait on.
            HubClosed: The hub is closed or closing; awaited: it was closed meanwhile.
            TimeoutError: Awaited: no message came in time.
        """
        return self._desk.next(patterns, timeout, where)

    def request(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        local: bool = True,
    ) -> Awaitable[Any]:
        """Publish a request and return an awaitable of its reply: `price = await hub.request("price", "tea")`.

        It is published when this returns, to everyone as `publish_event` does: a subscriber or listener sees it as
        any message. The first answer of those who `respond` to the key counts, be it a reply or an error. Await it
        once, or let go of it.

        Args:
            key: What to ask.
            message: Goes to the responders as it is.
            timeout: Seconds from now; None for no limit.
            local: Ask within this process only; False also asks where bridges carry `key`, and there nobody knows
                whether somebody responds.

        Raises:
            NoResponders: Nobody responds to `key`; nothing is published. Awaited: who got it was removed.
            InvalidKey: Nothing can be published to `key`.
            NoRunningLoop: There is none to wait on.
            HubClosed: The hub is closed; awaited: it was closed meanwhile.
            RequestTimeout: Awaited: nobody answered in time.
            RemoteError: Awaited: the responder failed, by its `__cause__`.
        """
        return self._desk.request(key, message, timeout, local)

    def request_many(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        limit: int | None = None,
        local: bool = True,
    ) -> Replies:
        """Publish a request and return its replies, to iterate: `async for reply in hub.request_many("who")`.

        They come as they are given, until everyone has answered who got the request, or `limit` have come, or the
        timeout is over, which is no error here; where bridges are asked too, nobody knows who got it. Responders that
        fail end nothing: see `Replies.errors`. Otherwise as `request`.
        """
        return self._desk.request_many(key, message, timeout, limit, local)

    def respond(
        self,
        patterns: Patterns,
        function: Callable[..., object],
        *,
        event: bool = False,
        **options: Unpack[QueueOptions],
    ) -> Listener:
        """Answer every request that matches one of `patterns` with what `function(key, message)` returns.

        It is a listener, and called for other messages too; then its return value is ignored. What it raises reaches
        who asked, and is a listener's failure like any other. An async one answers one request after the other; a
        plain one may return a future or a task, or what `request` returned, whose result is then the reply.

        Args, returns and raises as `add_listener`.
        """
        return self._add_listener(patterns, function, is_async(function), event=event, responding=True, **options)

    @overload
    def responds(self, patterns: TypedPatterns[T], **options: Unpack[QueueOptions]) -> Decorator[[Key[T], T]]: ...
    @overload
    def responds(
        self, patterns: TypedPatterns[T], *, event: Literal[True], **options: Unpack[QueueOptions]
    ) -> Decorator[[Event[T]]]: ...
    @overload
    def responds(
        self, patterns: Patterns, *, event: bool = False, **options: Unpack[QueueOptions]
    ) -> Decorator[...]: ...

    def responds(self, patterns: Patterns, *, event: bool = False, **options: Unpack[QueueOptions]) -> Any:
        """Add the decorated function as a responder and return it unchanged. Options as of `respond`."""

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self.respond(patterns, function, event=event, **options)
            return function

        return add

    # What is there

    def tap(self, patterns: Patterns, limit: int = 10_000) -> Tap:
        """Record every message that matches one of `patterns`, from now on, without being a subscription.

        Delivery stays as it is: what `publish` returns, `has_subscribers` and the figures do not know of it. It costs
        nothing to a publish that it does not match.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: Messages recorded; beyond it the oldest goes.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            ValueError: The limit is less than one.
        """
        self._life.check_thread()
        tap = Tap(self._untap, as_patterns(patterns), _bound(limit, "limit"))
        self._router.observers.append(tap._observer)
        self._watch(tap._patterns, 1)
        return tap

    def has_subscribers(self, patterns: Patterns = STAR, local: bool = True) -> bool:
        """True exactly if some publishable key matches both a pattern and a subscription; by default: any at all.

        For a key without wildcards this costs a look-up; for a pattern it scans the subscribed patterns. With
        `local=False` also if a bridge carries such a key away, to whoever may be there.
        """
        named = as_patterns(patterns)
        if any(self._router.matcher.overlaps(pattern) for pattern in named):
            return True
        leaving = [] if local else [pattern for outbox in self._outboxes for pattern in outbox._patterns]
        return any(overlaps(pattern, other) for pattern in named for other in leaving)

    def patterns(self) -> dict[Key[Any], int]:
        """Every subscribed pattern and how many subscriptions it has."""
        return {Key.create_from(pattern): number for pattern, number in self._router.matcher.counts()}

    def get_subscriber_queue_sizes(self, key: KeyLike[Any]) -> tuple[int, ...]:
        """The messages pending in each queue that `key` is delivered to, in order of subscription."""
        return tuple(target.pending for target in self._router.targets(publishable(key)) if target.mailbox is not None)

    def get_all_subscriber_queue_sizes(self) -> dict[Key[Any], tuple[int, ...]]:
        """For each pattern that has queues, the messages pending in each of them."""
        sizes: dict[tuple[str, ...], list[int]] = {}
        for registration in self._registered:
            if registration.mailbox is not None:
                for pattern in registration._patterns:
                    sizes.setdefault(pattern, []).append(registration.pending)
        return {Key.create_from(pattern): tuple(pending) for pattern, pending in sizes.items()}

    def explain(self, key: KeyLike[Any]) -> Explanation:
        """Tell who a key leads to, by which pattern, and how they fare; for a pattern, whom it has keys in common with.

        To be read: `print(hub.explain(key))`. Where nobody is subscribed, or nothing was published, it tells what comes
        nearest; that, and explaining a pattern, costs a look at all patterns and at all keys that are remembered.

        Raises:
            InvalidKey: It can neither be published nor subscribed to.
        """
        return explain(key, self._router, self._registered, self._outboxes, self._history)

    def busy(self) -> tuple[Listener | Subscription[Any] | GapSubscription[Any], ...]:
        """Who has something to do: async listeners with a call or a message, and subscriptions that are read with one.

        A subscription is read once somebody waited for a message of it, or took one.
        """
        waiting: Any = self._life.unstarted
        busy: Any = (each for each in self._registered if each.is_busy or each in waiting)
        return tuple(busy)

    def stats(self) -> Stats:
        """Totals as of now. Costs an addition a remembered route, whatever the number of subscriptions."""
        self._router.fold_all()
        published, routed = self._router.tally.published, self._router.tally.routed
        return Stats(
            time=time.time(),
            published=published,
            routed=routed,
            failed=self._failed,
            subscriptions=len(self._registered),
            patterns=len(self._router.matcher),
            cached_routes=self._router.cache.size,
            cache_hits=published - self._router.misses,
            cache_misses=self._router.misses,
            retained_keys=len(self._history),
        )

    # For bridges

    @property
    def origin(self) -> str:
        """Random, for this hub in this process: names where messages come from."""
        return self._desk.name

    @property
    def attached(self) -> tuple[Any, ...]:
        """What lives as long as the hub does: its bridges, in the order in which they were made."""
        return tuple(self._attached)

    def attach(self, part: Attachment) -> None:
        """Tell `part` of changes of subscription, and have it closed with the hub, until `detach`."""
        self._life.check_thread()
        self._attached.append(part)

    def detach(self, part: Attachment) -> None:
        """Undo `attach`."""
        self._attached.remove(part)

    def outbox(
        self,
        patterns: Patterns,
        maxsize: int,
        shed: Callable[[], bool] = lambda: False,
        diverts: Sequence[tuple[str, ...]] = (),
        name: str = "Outbox",
        take: Callable[[Event[Any]], None] | None = None,
    ) -> Outbox:
        """Queue what is published to some patterns, to be carried away; see `Outbox`. `close()` ends it."""
        self._life.check_thread()
        outbox = Outbox(
            self, as_patterns(patterns), _bound(maxsize, "maxsize"), shed, diverts, self._shared_id, name, take
        )
        self._outboxes.append(outbox)
        self._router.observers.append(outbox.observer)
        self._outboxes_changed()
        return outbox

    def report_error(self, failure: ListenerFailure) -> None:
        """Tell `on_error` of a failure, if there is one; what it raises is logged."""
        if self.on_error is not None:
            try:
                self.on_error(failure)
            except Exception as another:
                logger.error("on_error %r failed", self.on_error, error=another)

    def report_gap(self, patterns: Patterns, gap: Gap) -> None:
        """Let everyone know who is subscribed to something of these patterns that messages are missing here.

        In a queue the gap stands behind what is queued; a plain listener's is published at once, as
        `("Hub", "gap", *pattern)`.
        """
        named = as_patterns(patterns)
        for registration in list(self._registered):
            if any(overlaps(own, other) for own in registration._patterns for other in named):
                if registration.mailbox is None:
                    registration._gap_passed(gap)
                else:
                    registration.mailbox.miss(gap)

    def mint(self, meta: Meta | None = None) -> Meta:
        """Metadata for a message of this hub that has none, or has no name yet."""
        id = self.mint_id()
        if meta is None:
            return Meta(id, self.origin, time.time())
        return meta._replace(id=id, source=self.origin, time=meta.time or time.time())

    def mint_id(self) -> str:
        """An id that no other message of this origin has."""
        return self._ids.mint()

    def _outboxes_changed(self) -> None:
        """Have a message named as it is put where it leaves by several outboxes, the same in all of them."""
        self._shared_id.forget()
        for number, outbox in enumerate(self._outboxes, 1):
            outbox.number(number if len(self._outboxes) > 1 else 0)
            self._watch(outbox._patterns, 0)

    def _close_outbox(self, outbox: Outbox) -> None:
        self._life.check_thread()
        self._router.observers.remove(outbox.observer)
        self._outboxes_changed()
        self._outboxes.remove(outbox)
        self._silence(outbox, ())
        outbox.closed = True
        outbox._removed()

    # Life

    @property
    def is_open(self) -> bool:
        """False once `close` was called, until the hub is started again."""
        return self._life.state == "open"

    async def start(self) -> None:
        """Bind the hub to the running loop and start what waits for one; opens a closed hub again.

        Raises:
            HubClosed: It is just being closed.
            WrongLoop: It is bound to another loop that is still open.
            WrongThread: That loop is in another thread.
        """
        self._life.start()
        for part in list(self._attached):
            part.opened()

    async def close(self) -> None:
        """Drain the async listeners for at most `drain` seconds, then end every task and every subscription.

        New subscriptions are refused at once. Async listeners finish what is queued and may publish onward. What is
        left then is counted as dropped and logged. Consumers may still read what is queued for them; nobody waits for
        that. Cancelled once, it drains all the same; cancelled again, it stops draining. Closing twice is safe; from
        inside a listener's own call that call is neither cancelled nor waited for.
        """
        await self._life.close(cancelled=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._life.close(cancelled=isinstance(error, asyncio.CancelledError))

    # Delivering, the rare parts

    def _route_of(self, key: KeyLike[Any]) -> Route:
        """The route of a key, for whoever is in no hurry."""
        try:
            return self._router.routes[key]
        except (KeyError, TypeError):
            return self._route(key)

    def _route(self, key: KeyLike[Any]) -> Route:
        """Make the route of a key that is not in the cache."""
        life = self._life
        try:
            if life.thread != get_ident():
                life.check_thread()
            if life.state == "closed":
                raise HubClosed(self)
            exact = publishable(key)
        except HubsubError as error:
            raise error from None  # nobody wants to read of the look-up that failed first
        if exact is not key:
            with suppress(KeyError):
                return self._router.routes[exact]
        return self._router.make(exact)

    def _deliver(
        self,
        targets: Sequence[Registration],
        event: Event[Any],
        source: Registration | None = None,
        confirmation: Confirmation | None = None,
    ) -> int:
        """Deliver an event without a route of its own; for a confirmation, a copy to each."""
        interrupt: BaseException | None = None
        delivered = 0
        newest = targets[-1].order if targets else 0
        changes = self._router.changes
        for target in targets:
            if target is source:
                continue
            # Closed meanwhile, or taken off what matches, or closed and subscribed anew.
            if self._router.changes != changes and (target.order > newest or not target.is_on(event.key)):
                continue
            delivered += target.order > 0
            target.counted += 1
            try:
                # Those who are handed it before everybody, to keep or record it, have nothing to finish.
                if confirmation is None or not (target.order or target.remote):
                    target.deliver_event(event)
                else:
                    _deliver_copy(target, event, confirmation)
            except BaseException as error:
                interrupt = self._failure(target, event.key, event.message, error) or interrupt
        self._router.tally.published += 1
        self._router.tally.routed += delivered
        if interrupt is not None:
            raise interrupt
        return delivered

    def _deliver_confirmed(
        self,
        targets: Sequence[Registration],
        event: Event[Any],
        source: Registration | None,
        confirmation: Confirmation,
    ) -> int:
        """Deliver an event, and have everybody tell when it has finished with it."""
        try:
            return self._deliver(targets, event, source, confirmation)
        finally:
            confirmation.settle(0, [])

    def _deliver_failed(self, route: Route, deliver: Any, message: Any, error: BaseException) -> None:
        """Report the failure of one place of a route; if it must pass, serve the places after it first."""
        place = route.place_of(deliver)
        interrupt = self._failure(route.targets[place], route.key, message, error)
        if interrupt is None:
            return
        for later in range(place + 1, len(route)):
            try:
                route[later](route.key, message)
            except BaseException as another:
                self._failure(route.targets[later], route.key, message, another)
        raise interrupt

    def _failure(self, target: Registration, key: Key[Any], message: Any, error: BaseException) -> BaseException | None:
        """Report what a target raised; return it if it is none of its failures but has to pass."""
        if isinstance(error, WrongThread):
            target.missed += 1  # it refused the message
            return error
        if not isinstance(error, Exception | asyncio.CancelledError):
            return error
        if isinstance(target, Listener):
            try:
                self._report(target, key, message, error)
            except BaseException as another:
                return another
        else:
            logger.error("delivering %r to %r failed", key, target, error=error)
        return None

    def _report(self, listener: Listener, key: Key[Any], message: Any, error: BaseException) -> None:
        """Count, log and pass on a listener's failure."""
        listener.failed += 1
        listener.last_error = error
        self._failed += 1
        if isinstance(error, RecursionError):
            # A traceback of a thousand frames tells less than this line.
            listener_logger.error("listener %r failed on %r: %s", listener.function, key, error)
        else:
            listener_logger.error("listener %r failed on %r", listener.function, key, error=error)
        self.report_error(ListenerFailure(key, message, listener, error))

    # Observing

    def _retention_changed(self, pattern: tuple[str, ...]) -> None:
        self._router.forget(pattern)
        for part in self._attached:
            part.changed((pattern,))

    def _keeper(self, key: Key[Any], routed: int) -> Any:
        return None if key[0] == NAMESPACE else self._history.keeper(key)

    def _type_checker(self, key: Key[Any], routed: int) -> Any:
        """An observer that complains of messages which are not what is declared; asked for in debug mode only."""
        declared = self.declarations.type_of(key)
        if declared is None:
            return None

        def check(key: Key[Any], message: Any) -> None:
            if not accepts(declared, message):
                what, wanted, where = type(message).__qualname__, name_of(declared), _where_published()
                logger.error("%r is declared as %s, and a message of type %s is published%s", key, wanted, what, where)

        return Observer(check, lambda event: check(*event))

    def _untap(self, tap: Tap) -> None:
        self._life.check_thread()
        self._router.observers.remove(tap._observer)
        self._watch(tap._patterns, -1)

    def _watch(self, patterns: Sequence[tuple[str, ...]], more: int) -> None:
        """Make the routes of these patterns anew, since observers of theirs came or went."""
        self._watchers += more * sum(map(_may_be_meta, patterns))
        for pattern in patterns:
            self._router.forget(pattern)

    # Subscribing, the inner parts

    def _add_listener(
        self,
        patterns: Patterns,
        function: Callable[..., Any],
        asynchronous: bool,
        *,
        event: bool = False,
        where: Where | None = None,
        once: bool = False,
        owner: Bookkeeper | None = None,
        responding: bool = False,
        **options: Unpack[AsyncOptions],
    ) -> Listener:
        if not callable(function):
            raise InvalidListener(function, "a listener is a function, or anything that can be called")
        named = as_patterns(patterns)
        common: _Common = {"event": event, "where": _predicate(where), "once": once, "owner": owner}
        listener: Listener
        if asynchronous:
            listener = self._async_listener(function, common, responding, **options)
        elif options:
            given = " and ".join(options)
            raise InvalidListener(function, f"{given}: for async listeners; a sync one is called right in the publish")
        else:
            listener = (Responder if responding else Listener)(self, function, **common)
        self._add(listener, named)
        return listener

    def _async_listener(
        self,
        function: Callable[..., Any],
        common: _Common,
        responding: bool,
        *,
        concurrency: int = 1,
        retry: Retry | None = None,
        **options: Unpack[QueueOptions],
    ) -> AsyncListener:
        if not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"concurrency is a number of calls, at least 1, not {concurrency!r}")
        if not isinstance(retry, Retry | None):
            raise ValueError(f"retry is a hubsub.Retry, not {retry!r}")
        queue = self._queue(**options)
        if responding:
            if concurrency > 1 or retry is not None:
                raise InvalidListener(function, "a responder answers one request after the other, and once")
            return AsyncResponder(self, function, **queue, **common)
        if concurrency == 1:
            return AsyncListener(self, function, retry=retry, **queue, **common)
        return ConcurrentListener(self, function, concurrency=concurrency, retry=retry, **queue, **common)

    def _queue(self, maxsize: int | None = None, overflow: Overflow | None = None) -> _Queue:
        """The options of a queue, complete."""
        return {
            "maxsize": self.maxsize if maxsize is None else _bound(maxsize, "maxsize"),
            "overflow": self.overflow if overflow is None else Overflow(overflow),
        }

    def _add(self, registration: Registration, patterns: Sequence[tuple[str, ...]], history: int = 0) -> None:
        """Register it on these patterns, which it does not hold yet. Nothing is awaited, nothing can fail half-way.

        The last `history` messages of each key that it did not get so far are replayed to it.
        """
        self._life.check_thread()
        if self._life.state != "open":
            raise HubClosed(self, closing=self._life.state == "closing")
        replay: list[Event[Any]] = []
        if history:
            _bound(history, "history")
            self._history.check(patterns)
            replay = self._history.select(patterns, history, () if registration.closed else registration._patterns)
            replay = [event for event in replay if registration.wants(event)]
        if registration.closed:
            registration._reopened()
        if registration not in self._registered:
            self._registered[registration] = None
            registration.order = next(self._order)
        if replay and registration.mailbox is not None:
            registration.mailbox.replay(replay)
            registration.counted += len(replay)
        registration._patterns += tuple(patterns)
        if len(registration._patterns) > 1:
            self._router.several = True
        added = [(pattern, self._router.add(pattern, registration)) for pattern in patterns]
        self._watchers += sum(map(_may_be_meta, patterns))
        if registration._owner is not None:
            registration._owner._note(registration, patterns)
        for part in self._attached:
            part.changed(patterns)
        if self._watchers:
            self._announce("addedSubscriber", added)

    def _remove(self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None) -> None:
        """Take it off these patterns, or off all; off its last one it is closed."""
        self._life.check_thread()
        patterns = registration._patterns if patterns is None else tuple(patterns)
        left = tuple(pattern for pattern in registration._patterns if pattern not in patterns)
        removed = [(pattern, self._router.remove(pattern, registration)) for pattern in patterns]
        self._watchers -= sum(map(_may_be_meta, patterns))
        self._silence(registration, left)
        if not left:
            registration.closed = True
            del self._registered[registration]
            registration._removed()
        else:
            registration._patterns = left
        if registration._owner is not None:
            registration._owner._forget(registration, patterns)
        for part in self._attached:
            part.changed(patterns)
        if self._watchers and self._life.state != "closed":
            self._announce("removedSubscriber", removed)

    def _announce(self, what: Announced, changes: Iterable[tuple[tuple[str, ...], int]]) -> None:
        """Publish the meta-events of a change that has taken effect; build them only for somebody."""
        for pattern, number in changes:
            key: Key[Any] = Key(NAMESPACE, what, *escaped(pattern))
            targets = self._router.observed(key, self._router.targets(key))
            if targets:
                message = {"key": Key.create_from(pattern), "currentSubscriberCount": number}
                self._router.misses += 1
                self._deliver(targets, Event(key, message))

    # What its life tells

    def _bound(self, loop: asyncio.AbstractEventLoop) -> None:
        # In debug mode nothing is cached, so that every publish passes the checks of a new key.
        debug = loop.get_debug()
        self._router.remember(not debug)
        if debug != (self._type_checker in self._router.observers):
            (self._router.observers.append if debug else self._router.observers.remove)(self._type_checker)
        self._router.dismantle_on(loop)

    def _closing(self) -> None:
        for part in self._attached:
            part.closing()

    async def _drained(self) -> None:
        """End what is attached, each by its own deadline."""
        await asyncio.gather(*(part.close() for part in list(self._attached)), return_exceptions=True)

    async def _ended(self) -> None:
        """End every subscription, and drop what the async listeners could not handle in time."""
        self._desk.close()
        abandoned = 0
        for registration in list(self._registered):
            if not registration.lasting:
                self._remove(registration)
        # Those that handle what is queued and then end are registered no more, but still run.
        for listener in dict.fromkeys([*self._registered, *self._life.running]):
            if isinstance(listener, AsyncListener):
                abandoned += listener._mailbox.drop_all()
        if abandoned:
            logger.warning("%r closed with %d messages that its async listeners had not handled", self, abandoned)
        await self._router.clear()

    # What the registrations tell

    def _tell(self, what: Announced, registration: Registration, message: Any, keys: Iterable[Key[Any]] | None) -> None:
        """Publish a meta-event about a registration to everyone else; not about messages that are such themselves."""
        if not self._watchers or (keys is not None and all(key[0] == NAMESPACE for key in keys)):
            return
        for pattern in registration._patterns:
            key: Key[Any] = Key(NAMESPACE, what, *escaped(pattern))
            others = [target for target in self._router.targets(key) if target is not registration]
            targets = self._router.observed(key, others)
            if targets:
                self._router.misses += 1
                self._deliver(targets, Event(key, message))

    def _bury(self, letter: DeadLetter) -> None:
        """Publish what a listener has given up; not messages of the namespace, or it might never end."""
        if not self._watchers or letter.key[0] == NAMESPACE or self._life.state == "closed":
            return
        key: Key[Any] = Key(NAMESPACE, "deadLetter", *letter.key)
        targets = self._router.observed(key, self._router.targets(key))
        if targets:
            self._router.misses += 1
            self._deliver(targets, Event(key, letter))

    def _silence(self, registration: Registration, left: Iterable[tuple[str, ...]]) -> None:
        """Overwrite the place of what was closed in the routes of running publishes.

        A publish runs while one of its listeners closes something: it is a frame on this very stack. Looking for it
        there is what allows the loop in `publish` to read no flag and leave no trace. `left` are the patterns that the
        registration keeps.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is _PUBLISH:
                running = frame.f_locals
                route: Route | None = running.get("route")
                if running["self"] is not self or route is None or registration not in route.targets:
                    pass
                elif not any(is_subset(route.key, pattern) for pattern in left):
                    route[route.targets.index(registration)] = registration._miss
            frame = frame.f_back


_PUBLISH = Hub.publish.__code__


def is_async(function: object) -> bool:
    """True if calling `function` makes a coroutine: a coroutine function, a partial of one, or such a `__call__`."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _bound(number: int, name: str) -> int:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} is a number of messages, at least 1, not {number!r}")
    return number


def _predicate(where: Where | None) -> Where | None:
    if where is not None and not callable(where):
        raise ValueError(f"where is a function of key and message, not {where!r}")
    return where


def _only_other(targets: Sequence[Registration], source: Registration | None) -> Registration | None:
    """The one subscription that a message of `source` goes to, if there are no others."""
    if len(targets) == 2 and source in targets:
        other = targets[targets[0] is source]
    elif len(targets) == 1 and targets[0] is not source:
        other = targets[0]
    else:
        return None
    return other if other.order else None


def _deliver_copy(target: Registration, event: Event[Any], confirmation: Confirmation) -> None:
    copy: Event[Any] = as_tuple(Event, event)
    if event.meta is not None:
        copy.meta = event.meta
    confirmation.hand_out(copy, target)
    try:
        if not target.deliver_event(copy):
            copy.done()
    except BaseException as error:
        copy.fail(error, "it failed")
        raise


def _where_published() -> str:
    """The line outside of this package that is publishing, to be read in a log."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame = frame.f_back
    return "" if frame is None else f" by {frame.f_code.co_filename}:{frame.f_lineno}"


def _may_be_meta(pattern: tuple[str, ...]) -> bool:
    """True if it may match what the hub announces: otherwise nobody has to be looked for at each announcement."""
    return pattern[0] in _META[0] and (len(pattern) == 1 or pattern[1] in _META[1])


_META = ((NAMESPACE, STAR, PLUS), (*get_args(Announced), STAR, PLUS))


def _mailboxes(targets: Iterable[Registration]) -> tuple[Mailbox, ...]:
    return tuple(box for target in targets if (box := target.mailbox) is not None)
