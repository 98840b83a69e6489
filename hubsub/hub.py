"""The hub: routes each message to whoever subscribed to its key."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, Protocol, TypeGuard, TypeVar, Unpack, overload

from ._core.asking import Replies, Requests
from ._core.border import Border
from ._core.callables import checked_async_function, checked_function
from ._core.checks import choice, count, count_or_none, headers_of, options_of, seconds, seconds_or_none
from ._core.confirming import publish_until_finished
from ._core.declarations import Declarations
from ._core.direct import DirectSubscribers
from ._core.explain import Explanation, explain
from ._core.hints import Hints
from ._core.history import Retention
from ._core.life import UNTIL_ENDED, Life
from ._core.listener import AsyncListener, Listener
from ._core.message_queue import Mailbox, Overflow
from ._core.notices import Notices, notify
from ._core.registration import Ack, ListenerOptions, QueueOptions, Registration, Removal, SubscribeOptions, Where
from ._core.registry import Registry, decorated, predicate
from ._core.room import publish_with_room
from ._core.router import Router
from ._core.routes import Route, Target
from ._core.subscription import GapSubscription, Queue, SnapshotSubscription, Subscription
from ._core.tap import Tap
from .errors import HubClosed, NoRunningLoop, UnknownListener
from .event import Event, ListenerFailure, Meta
from .key import (
    NAMESPACE,
    STAR,
    Key,
    KeyLike,
    Patterns,
    PlainKey,
    PlainPatterns,
    T,
    TypedPatterns,
    V,
    as_patterns,
    publishable,
)
from .log import Logger

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")

logger = Logger("hubsub.hub")

# What may be said of a subscription, by name.
SUBSCRIBE_OPTIONS = ("gaps", "history", "snapshot", *SubscribeOptions.__annotations__)


class Decorator(Protocol[P]):
    """Takes a function, plain or async, of these parameters and returns it unchanged."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


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


class Hub(Registry):
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
        self.name = name
        life = Life(
            self,
            seconds(drain, "drain"),
            bound=self._bound,
            closing=self._closing,
            drained=self._drained,
            ended=self._ended,
            cleared=self._cleared,
            forked=self._forked,
        )
        cached = count(route_cache, "route_cache", "keys", least=0)
        super().__init__(Router(cached), life, on_error, maxsize=maxsize, overflow=overflow)
        self._requests = Requests(self)
        self._direct = DirectSubscribers()
        self._declarations = Declarations()
        self.border = Border(self, self._requests, self._declarations)
        """For bridges, and whatever else connects the hub to others; users need none of it."""
        self._hint(life.is_debug)

    def __repr__(self) -> str:
        return f"<Hub {self.name!r}>"

    # Publishing

    def publish_many(self, pairs: Iterable[tuple[KeyLike[T], T]]) -> int:
        """Publish each (key, message) in turn; return the sum of what `publish` returned."""
        return sum(self.publish(key, message) for key, message in pairs)

    def publish_with_headers(
        self, key: KeyLike[T], message: T, headers: Mapping[str, str], *, due: float | None = None
    ) -> int:
        """Publish as `publish` does, with headers that travel along, also across bridges; if it is due later, then.

        Consumers and listeners of events find them in `event.meta.headers`. A method of its own, since another argument
        would cost every plain `publish` up to a tenth.

        Args:
            key: What to publish to.
            message: What to publish.
            headers: Travel along.
            due: A time in seconds since the epoch: nobody gets it before, here or elsewhere. Its bridge needs a broker
                that can delay messages; otherwise `on_error` is told.

        Raises:
            ValueError: A name or a value of a header is no string, or `due` is no time.
            Unsupported: It is due later, and no bridge carries its key.
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
        """
        return self.publish_event(Event(self._route_of(key).key, message, Meta(headers=headers_of(headers), due=due)))

    @overload
    async def publish_confirmed(
        self,
        key: Key[T],
        message: T = ...,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int: ...
    @overload
    async def publish_confirmed(
        self,
        key: PlainKey | str,
        message: Any = ...,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int: ...

    async def publish_confirmed(
        self,
        key: Any,
        message: Any = None,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int:
        """Deliver as `publish` does, and wait until everybody has finished with it; return how many did.

        Finished has: a sync listener that returned; an async one that returned, the call it is for; a consumer that
        asked its own iterator (`async for`), or `consume`, for the next message, or left the block of its
        subscription without an exception; under `ack="manual"` only one that called `event.done()`. What `where`
        filters out or a newer message replaces is finished with. What they publish onward is not waited for.

        Args:
            key: What to publish to.
            message: What to publish.
            timeout: Seconds to wait; None for no limit. Beyond it the message stays delivered.
            headers: Travel along, see `publish_with_headers`.
            due: A time in seconds since the epoch, see there. If it is still to come, only the brokers have finished
                when this returns: they have stored the message.

        Raises:
            DeliveryError: Somebody failed, dropped it, was closed, or cannot delay it; a group that names each.
            ConfirmationTimeout: Somebody has not finished in time.
            WaitingForItself: Called inside an async listener that would have to handle the message itself.
            Unsupported: It is due later, and no bridge carries its key.
            ValueError: `due` is no time.
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
        """
        meta = None if headers is None and due is None else Meta(headers=headers_of(headers), due=due)
        return await publish_until_finished(self, key, message, meta, timeout)

    @overload
    async def publish_wait(self, key: Key[T], message: T = ...) -> int: ...
    @overload
    async def publish_wait(self, key: PlainKey | str, message: Any = ...) -> int: ...

    async def publish_wait(self, key: Any, message: Any = None) -> int:
        """Deliver as `publish` does, when each full queue has a place: to everyone in one step, or to no one.

        First come, first served. With room it does not yield to the loop; cancelled, it has delivered nothing.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed, or is closed while waiting.
        """
        is_first = False
        try:
            route = self._routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
            is_first = True
        try:
            mailboxes = route.mailboxes
        except AttributeError:
            mailboxes = _mailboxes(route)
        for mailbox in mailboxes:
            if len(mailbox.items) >= mailbox.room:
                return await self._publish_with_room(route.key, message)
        return self._publish_first(route, message) if is_first else self.publish(key, message)

    def _publish_with_room(self, key: Key[Any], message: Any) -> Awaitable[int]:
        if self._hints is not None:
            targets: Any = self._router.targets(key)
            self._hints.on_waiting(key, targets)
        return publish_with_room(
            key,
            lambda: _mailboxes(self._route_of(key)),
            self._life.bind,
            lambda: self._publish_first(self._route_of(key), message),  # the route may be new
        )

    @overload
    def publish_threadsafe(self, key: Key[T], message: T = ...) -> concurrent.futures.Future[int]: ...
    @overload
    def publish_threadsafe(self, key: PlainKey | str, message: Any = ...) -> concurrent.futures.Future[int]: ...

    def publish_threadsafe(self, key: Any, message: Any = None) -> concurrent.futures.Future[int]:
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
        named = decorated(patterns, "on")

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self._add_listener(named, function, None, event=event, where=where, **options)
            return function

        return add

    @overload
    def add_listener(
        self,
        patterns: TypedPatterns[T],
        function: Callable[[Key[T], T], object],
        *,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...
    @overload
    def add_listener(
        self,
        patterns: TypedPatterns[T],
        function: Callable[[Event[T]], object],
        *,
        event: Literal[True],
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...
    @overload
    def add_listener(
        self,
        patterns: PlainPatterns,
        function: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...

    def add_listener(
        self,
        patterns: Any,
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
            **options: `once=True` removes the listener with its first message, just before the call. `history`
                begins with the last so many retained messages of each key, the oldest first; a plain function is called
                with them before this returns, and what is published meanwhile comes after them. For async
                functions: `maxsize` and `overflow` of the queue, by default the hub's; `concurrency`, the number of
                calls that may run at the same time, by default 1; `retry`, a `Retry`, by which failing calls are tried
                again, and given up as a `DeadLetter`; `context="publisher"`, to see the context variables of each
                publish, and not those of the registration.

        Returns:
            A handle with its figures and `remove()`.

        Raises:
            InvalidListener: It cannot be called, or options for async functions are given for a plain one.
            ValueError: An option makes no sense.
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
        """
        return self._add_listener(patterns, function, None, event=event, where=where, **options)

    def remove_listener(self, function: Callable[..., object], patterns: Patterns | None = None) -> Removal:
        """Remove what a function was added for, by `on`, `add_listener` or `respond` of this hub; as `Listener.remove`.

        What a `Subscriber` has added is not touched. It looks through all registrations; a handle needs not.

        Args:
            function: The function.
            patterns: Take it off these only; by default off all.

        Returns:
            An awaitable that ends when its tasks, if there were any, have.

        Raises:
            UnknownListener: It was not added, or not to one of the patterns; then nothing is changed.
        """
        found = [each for each in self._registered if self._is_own(each, function)]
        if patterns is None:
            if not found:
                raise UnknownListener(function, "any pattern", self)
            return Removal.of([each.remove() for each in found])
        named = as_patterns(patterns)
        for pattern in named:
            if not any(pattern in each._patterns for each in found):
                raise UnknownListener(function, pattern, self)
        removals = []
        for each in found:
            held = [pattern for pattern in named if pattern in each._patterns]
            if len(held) == len(each._patterns):
                removals.append(each.remove())
            elif held:
                self._remove(each, held)
        return Removal.of(removals)

    @staticmethod
    def _is_own(registration: Registration, function: Callable[..., object]) -> TypeGuard[Listener]:
        if not isinstance(registration, Listener) or registration._owner is not None:
            return False
        return registration.function is function or bool(registration.function == function)

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
        ready: Callable[[], object] | None = None,
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
            ready: A plain function of no arguments, called in the publish when the empty queue has got something: for
                whoever reads with `take` and waits for nothing. What it raises is logged.
            **options: `maxsize` and `overflow` of the queue, by default the hub's.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
            HistoryUnavailable: `history` is asked for, and nothing retains a pattern.
            ValueError: `snapshot` is given together with `history` or `gaps`, or an option makes no sense.
        """
        named = as_patterns(patterns)
        if snapshot is not None and history:
            raise ValueError("a snapshot replaces history= and gaps=: choose one of them")
        subscription = self._subscription(gaps=gaps, snapshot=snapshot, where=where, ack=ack, ready=ready, **options)
        self._add(subscription, named, history)
        return subscription

    def _subscription(
        self,
        *,
        gaps: bool = False,
        snapshot: Callable[[], Awaitable[Any]] | None = None,
        where: Where | None = None,
        ack: Ack = "auto",
        ready: Callable[[], object] | None = None,
        **options: Unpack[QueueOptions],
    ) -> Queue[Any]:
        """A subscription with these options, not registered yet."""
        choice(ack, "ack", ("auto", "manual"))
        options_of(options, SUBSCRIBE_OPTIONS, "subscribe")
        queue, where = self._queue(**options), predicate(where)
        if ready is not None:
            checked_function(ready, "ready")
        if snapshot is None:
            return (GapSubscription if gaps else Subscription)(self, **queue, where=where, ack=ack, ready=ready)
        if gaps:
            raise ValueError("a snapshot replaces history= and gaps=: choose one of them")
        checked_async_function(snapshot, "snapshot")
        return SnapshotSubscription(self, **queue, where=where, ack=ack, ready=ready, load=snapshot)

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
        limit = count(limit, "limit")
        max_keys = count_or_none(max_keys, "max_keys", "keys")
        max_age = seconds_or_none(max_age, "max_age", zero=False)
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

    def history(self, patterns: Patterns, limit: int | None = None, after: int = 0) -> list[Event[Any]]:
        """The retained messages that match, the oldest first.

        The `meta` of each names it (`id` and `source`), says when it was published, and has its `position`, a number
        that grows with each message that this hub retains, whatever its key. That of a message which a broker brought
        gives way to it.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: Of each key at most the last so many.
            after: Only messages behind this position. What the bounds of `retain` have pushed out since is missing.

        Raises:
            HistoryUnavailable: Nothing retains a key that matches.
            ValueError: An option makes no sense.
        """
        named = as_patterns(patterns)
        self._history.check(named)
        after = count(after, "after", "messages", least=0)
        return self._history.select(named, count_or_none(limit, "limit"), after=after)

    def forget(self, patterns: Patterns) -> int:
        """Forget the retained messages of every key that matches; return how many these were.

        What is published from then on is retained as before. Forgetting what is not there is no error.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
        """
        self._life.check_thread()
        return self._history.forget(as_patterns(patterns))

    def _origin(self) -> str:
        return self._requests.name

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
        return self._declarations.declare(pattern, type)

    def declared(self, key: KeyLike[Any]) -> Any:
        """The type that is declared for an exact key; None if none is.

        Raises:
            InvalidKey: Nothing can be published to `key`.
        """
        return self._declarations.type_of(publishable(key))

    # Waiting for one, asking

    @overload
    def next(
        self,
        patterns: TypedPatterns[T],
        timeout: float | None = None,
        where: Callable[[Key[T], T], object] | None = None,
    ) -> Coroutine[Any, Any, Event[T]]: ...
    @overload
    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Coroutine[Any, Any, Event[Any]]: ...

    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Coroutine[Any, Any, Event[Any]]:
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
        return self._requests.next(patterns, timeout, where)

    def request(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
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
            headers: Travel along, see `publish_with_headers`.

        Raises:
            NoResponders: Nobody responds to `key`; nothing is published. Awaited: who got it was removed.
            InvalidKey: Nothing can be published to `key`.
            NoRunningLoop: There is none to wait on.
            HubClosed: The hub is closed; awaited: it was closed meanwhile.
            RequestTimeout: Awaited: nobody answered in time.
            RemoteError: Awaited: the responder failed, by its `__cause__`.
        """
        return self._requests.request(key, message, timeout, local, headers_of(headers))

    def request_many(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        limit: int | None = None,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Replies:
        """Publish a request and return its replies, to iterate: `async for reply in hub.request_many("who")`.

        They come as they are given, until everyone has answered who got the request, or `limit` have come, or the
        timeout is over, which is no error here; where bridges are asked too, nobody knows who got it. Responders that
        fail end nothing: see `Replies.errors`. Otherwise as `request`.
        """
        return self._requests.request_many(key, message, timeout, limit, local, headers_of(headers))

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
        return self._add_listener(patterns, function, None, event=event, responding=True, **options)

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
        named = decorated(patterns, "responds")

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self.respond(named, function, event=event, **options)
            return function

        return add

    # For programs written for aiopubsub

    def add_subscriber(
        self, key: KeyLike[Any], callback: Callable[..., object], unread: Callable[[], int] | None = None
    ) -> Listener:
        """Call a plain function for every message that matches a pattern; added again, it stays one.

        As aiopubsub's; new programs use `add_listener`. `unread` is asked by `get_subscriber_queue_sizes` how many
        messages the function has taken and not handled.
        """
        [pattern] = as_patterns([key])
        if unread is not None:
            checked_function(unread, "unread")
        listener = self._direct.find(pattern, callback)
        if listener is not None:
            logger.warning("%r is subscribed to %r already", callback, pattern)
            return listener
        listener = self._add_listener([pattern], callback, False, owner=self._direct)
        if unread is not None:
            self._direct.counts(listener, unread)
        return listener

    def remove_subscriber(
        self, key: KeyLike[Any], callback: Callable[..., object], unread: Callable[[], int] | None = None
    ) -> None:
        """Undo `add_subscriber`; what was not added is logged. As aiopubsub's; new programs use the handle."""
        [pattern] = as_patterns([key])
        listener = self._direct.find(pattern, callback)
        if listener is None:
            logger.warning("%r is not subscribed to %r", callback, pattern)
        else:
            listener.remove()

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
        tap = Tap(self._untap, as_patterns(patterns), count(limit, "limit"))
        self._router.observers.append(tap._observer)
        self._observe(tap._patterns, 1)
        return tap

    def has_subscribers(self, patterns: Patterns = STAR, local: bool = True) -> bool:
        """True exactly if some publishable key matches both a pattern and a subscription; by default: any at all.

        For a key without wildcards this costs a look-up; for a pattern, a look at those subscribed that begin like it
        or share its rarest part. With `local=False` also if a bridge carries such a key away, to whoever may be there.
        """
        named = as_patterns(patterns)
        if any(self._router.matcher.overlaps(pattern) for pattern in named):
            return True
        return not local and self.border.leads_out(named)

    def patterns(self) -> dict[Key[Any], int]:
        """Every subscribed pattern and how many subscriptions it has."""
        return {Key.create_from(pattern): number for pattern, number in self._router.matcher.counts()}

    def get_subscriber_queue_sizes(self, key: KeyLike[Any]) -> tuple[int, ...]:
        """The messages pending in each queue that `key` is delivered to, in order of subscription."""
        sizes = map(self._queue_size, self._router.targets(publishable(key)))
        return tuple(size for size in sizes if size is not None)

    def _queue_size(self, target: Target) -> int | None:
        """The messages that a target has not handled; None if it keeps none."""
        if target.mailbox is not None:
            return int(target.mailbox.pending)
        unread = self._direct.unread(target)
        return None if unread is None else unread()

    def get_all_subscriber_queue_sizes(self) -> dict[Key[Any], tuple[int, ...]]:
        """For each pattern that has queues, the messages pending in each of them."""
        sizes: dict[tuple[str, ...], list[int]] = {}
        for registration in self._registered:
            size = self._queue_size(registration)
            if size is not None:
                for pattern in registration._patterns:
                    sizes.setdefault(pattern, []).append(size)
        return {Key.create_from(pattern): tuple(pending) for pattern, pending in sizes.items()}

    def registrations(
        self,
    ) -> tuple[Listener | Subscription[Any] | GapSubscription[Any] | SnapshotSubscription[Any, Any], ...]:
        """Every listener and subscription that is registered, in order of subscription."""
        registered: Any = self._registered
        return tuple(registered)

    @property
    def bridges(self) -> tuple[Any, ...]:
        """The bridges of this hub, in the order in which they were made."""
        return self.border.attached

    def explain(self, key: KeyLike[Any]) -> Explanation:
        """Tell who a key leads to, by which pattern, and how they fare; for a pattern, whom it has keys in common with.

        To be read: `print(hub.explain(key))`. Where nobody is subscribed, or nothing was published, it tells what comes
        nearest; that, and explaining a pattern, costs a look at all patterns and at all keys that are remembered.

        Raises:
            InvalidKey: It can neither be published nor subscribed to.
        """
        border, life = self.border, self._life
        is_bound = life.loop is not None and not life.loop.is_closed()
        return explain(
            key, self._router, self._registered, border.outboxes, self._history, border.attached, self._hints, is_bound
        )

    def busy(self) -> tuple[Listener | Subscription[Any] | GapSubscription[Any], ...]:
        """Who has something to do: async listeners with a call or a message, and subscriptions that are read with one.

        A subscription is read once somebody waited for a message of it, or took one.
        """
        life = self._life
        # Those that were removed, and finish what they have, are registered no more.
        left = [each for each in (*life.running, *life.unstarted) if isinstance(each, AsyncListener)]
        everybody: Any = dict.fromkeys([*self._registered, *left])
        return tuple(each for each in everybody if each.is_busy or (each in life.unstarted and each.pending))

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
        for part in self.border.attached:
            part.opened()

    async def close(self) -> None:
        """Drain the async listeners for at most `drain` seconds, then end every task and every subscription.

        New subscriptions are refused at once. Async listeners finish what is queued and may publish onward. What is
        left then is counted as dropped and logged; calls in progress are cancelled, and have failed. Bridges send what
        waits. Consumers may still read what is queued for them; nobody waits for that. All of it takes 4 s more than
        `drain` at most. Cancelled once, it drains all the same; cancelled again, it stops draining. Closing twice is
        safe; from inside a listener's own call that call is neither cancelled nor waited for.
        """
        await self._life.close(cancelled=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._life.close(cancelled=isinstance(error, asyncio.CancelledError))

    def _keeper(self, key: Key[Any], routed: int) -> Any:
        return None if key[0] == NAMESPACE else self._history.keeper(key)

    def _untap(self, tap: Tap) -> None:
        self._life.check_thread()
        self._router.observers.remove(tap._observer)
        self._observe(tap._patterns, -1)

    # What its life tells

    def _bound(self, loop: asyncio.AbstractEventLoop) -> None:
        # In debug mode nothing is cached, so that every publish passes the checks of a new key.
        debug = loop.get_debug()
        self._router.remember(not debug)
        checker = self._declarations.observer
        if debug != (checker in self._router.observers):
            (self._router.observers.append if debug else self._router.observers.remove)(checker)
        self._router.dismantle_on(loop)
        self._hint(debug)
        for part in self.border.attached:
            part.opened()

    def _hint(self, debug: bool) -> None:
        """In debug mode, log what is most likely a mistake."""
        if not debug:
            if self._hints is not None:
                self._followers.remove(self._hints.on_patterns)
                self._hints = None
            return
        if self._hints is None:
            self._hints = Hints(self, self._slow)
            self._followers.append(self._hints.on_patterns)
        self._hints.on_patterns(pattern for pattern, _ in self._router.matcher.counts())
        for part in (*self.border.outboxes, *self.border.attached):
            self._hints.on_patterns(part.patterns)

    def _slow(self) -> float:
        loop = self._life.loop
        return 0.1 if loop is None else loop.slow_callback_duration

    def _forked(self) -> None:
        """Begin anew in a forked process, with what is registered."""
        self._router.forked()
        self._requests.forked()
        for registration in dict.fromkeys([*self._registered, *self.border.outboxes]):
            registration.forked()
        for part in self.border.attached:
            part.forked()

    def _closing(self) -> None:
        for part in self.border.attached:
            part.closing()

    async def _drained(self) -> None:
        """End what is attached, all of it at once."""
        closing = {asyncio.ensure_future(part.close()): part for part in self.border.attached}
        if closing:
            loop = asyncio.get_running_loop()
            left = self._life.grace().left - loop.time()
            done, late = await asyncio.wait(closing, timeout=max(left, UNTIL_ENDED))
            for task in late:
                logger.error("%r was closed, but %r does not end in time", self, closing[task])
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    logger.error("%r was closed, but closing %r failed", self, closing[task], error=error)

    def _ended(self) -> None:
        """End every subscription, and drop what the async listeners could not handle in time."""
        self._requests.close()
        abandoned = 0
        notices: Notices = []
        for registration in list(self._registered):
            if not registration.lasting:
                self._remove(registration)
        # Those that handle what is queued and then end are registered no more, but still run.
        for listener in dict.fromkeys([*self._registered, *self._life.running, *self._life.unstarted]):
            if isinstance(listener, AsyncListener):
                abandoned += listener.drop(notices)
        notify(notices)
        if abandoned:
            logger.warning("%r was closed with %d messages that its async listeners had not handled", self, abandoned)
        self._router.swap()  # a closed hub remembers no route: so nobody publishes along one

    async def _cleared(self) -> None:
        await self._router.clear()


def _mailboxes(route: Route) -> Sequence[Mailbox]:
    """The queues that a route leads to, remembered."""
    try:
        return route.mailboxes
    except AttributeError:
        route.mailboxes = tuple(box for target in route.targets if (box := target.mailbox) is not None)
        return route.mailboxes
