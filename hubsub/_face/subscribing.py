"""The methods of a hub that add and remove listeners and subscriptions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, ParamSpec, Protocol, TypeGuard, TypeVar, Unpack, overload

from .._core.callables import checked_async_function, checked_function
from .._core.checks import choice, options_of
from .._core.direct import DirectSubscribers
from .._core.listener import Listener
from .._core.registration import (
    Ack,
    Batch,
    ListenerOptions,
    QueueOptions,
    Registration,
    Removal,
    SubscribeOptions,
    Where,
)
from .._core.registry import Registry, decorated, predicate
from .._core.subscription import GapSubscription, Queue, SnapshotSubscription, Subscription
from .._core.wrapping import Call, Wrapping
from ..errors import UnknownListener
from ..event import Event
from ..key import Key, KeyLike, Patterns, PlainPatterns, T, TypedPatterns, V, as_patterns
from ..log import Logger

P = ParamSpec("P")
R = TypeVar("R")

logger = Logger("hubsub.hub")

# The names of the options of a subscription.
SUBSCRIBE_OPTIONS = ("gaps", "history", "snapshot", *SubscribeOptions.__annotations__)


class Decorator(Protocol[P]):
    """Takes a function, plain or async, of these parameters and returns it unchanged."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class Subscribing(Registry):
    """Adding and removing listeners, and subscribing."""

    _direct: DirectSubscribers

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
        patterns: TypedPatterns[T],
        *,
        batch: Batch,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[[list[Event[T]]]]: ...
    @overload
    def on(
        self,
        patterns: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[...]: ...

    def on(
        self,
        patterns: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Any:
        """Add the decorated function as a listener and return it unchanged. Options as of `add_listener`."""
        named = decorated(patterns, "on")

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self._add_listener(named, function, None, event=event, where=where, batch=batch, **options)
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
        patterns: TypedPatterns[T],
        function: Callable[[list[Event[T]]], object],
        *,
        batch: Batch,
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
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...

    def add_listener(
        self,
        patterns: Any,
        function: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener:
        """Call `function(key, message)` for every message that matches one of `patterns`.

        A plain function is called inside the publish. An async one gets a queue and a task: it is called with one
        message after the other, in order, unless `concurrency` says otherwise, and holds up nobody else.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            function: A function, plain or async, or anything callable.
            event: Call `function(event)` instead, with the `Event`.
            where: Called inside the publish with key and message; the listener gets only messages for which it returns
                something true. An error that it raises is a failure of the listener.
            **options: `once=True` removes the listener with its first message, just before the call. `history` is the
                number of retained messages of each key to begin with, the last ones, the oldest first; a plain function
                is called with them before this returns, and with what is published meanwhile after them. For async
                functions: `maxsize` and `overflow` of the queue, by default the hub's; `concurrency`, the number of
                calls that may run at the same time, by default 1; `retry`, a `Retry`, by which failed calls are retried
                and in the end given up as a `DeadLetter`; `context="publisher"`, to run each call with the context
                variables of its publish instead of those of the registration, by default the hub's. And one
                of: `batch`, a pair of the most messages of a call and the seconds that the first of them waits for
                others, to call `function(events)` with a list of events; `debounce`, the seconds for which a key must
                be silent before its last message is delivered; `throttle`, the seconds from one call with a key to the
                next.

        Returns:
            A handle with counters and `remove()`.

        Raises:
            InvalidListener: It cannot be called, or options for async functions are given for a plain one.
            ValueError: An option is invalid.
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
        """
        return self._add_listener(patterns, function, None, event=event, where=where, batch=batch, **options)

    def remove_listener(self, function: Callable[..., object], patterns: Patterns | None = None) -> Removal:
        """Remove a function that was added by `on`, `add_listener` or `respond` of this hub; as `Listener.remove`.

        Listeners of a `Subscriber` stay. It searches all registrations; `Listener.remove` does not.

        Args:
            function: The function.
            patterns: Remove it from these only; by default from all.

        Returns:
            An awaitable that ends when its tasks, if it had any, have ended.

        Raises:
            UnknownListener: It was not added, or not to one of the patterns; then nothing is changed.
        """
        found = [each for each in self._registered if self._is_own(each, function)]
        if patterns is None:
            if not found:
                raise UnknownListener(function, None, self)
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
    def wrap(self, patterns: TypedPatterns[T], function: Callable[[Call[T]], object]) -> Wrapping: ...
    @overload
    def wrap(self, patterns: PlainPatterns, function: Callable[[Call[Any]], object]) -> Wrapping: ...

    def wrap(self, patterns: Any, function: Callable[[Call[Any]], object]) -> Wrapping:
        """Call `function(call)` around every call of a listener with a message that matches one of `patterns`.

        It calls `call()` to go on, and returns what that returns: the result of a responder is its reply. A plain
        function wraps plain listeners and responders; an async one wraps async ones, and goes on by `await call()`.
        Listeners that are added later are wrapped, too. Of several wrappers, the one that was added first is the
        outermost. Each attempt of a listener with `retry` is wrapped; what `where` refuses is not. An error that the
        wrapper raises, or does not catch, is a failure of the listener. Listeners that it does not concern keep their
        speed.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            function: A function of a `Call`, plain or async.

        Returns:
            A handle; `remove()` ends it.

        Raises:
            InvalidFunction: It is not a function of one argument.
            InvalidKey: A pattern cannot be subscribed to.
        """
        return self._wrap(patterns, function)

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
            history: The number of retained messages of each key to begin with, the last ones, the oldest first; see
                `retain`. They are read before anything else, and do not count towards `maxsize`.
            snapshot: An async function of no arguments; its result is read first, and in place of each gap. See
                `SnapshotSubscription`.
            where: Called inside the publish with key and message; only messages for which it returns something true
                are queued. An error that it raises is logged.
            ack: How a confirmed message counts as finished, see `publish_confirmed`: "auto", by asking for the next
                one; "manual", by `event.done()` or `event.fail()`.
            ready: A plain function of no arguments, called inside the publish when the queue was empty and now has
                something to read: for consumers that use `take` and do not wait. An error that it raises is logged.
            **options: `maxsize` and `overflow` of the queue, by default the hub's.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
            HistoryUnavailable: `history` is asked for, and nothing retains a pattern.
            ValueError: `snapshot` is given together with `history` or `gaps`, or an option is invalid.
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

    # For programs written for aiopubsub

    def add_subscriber(
        self, key: KeyLike[Any], callback: Callable[..., object], unread: Callable[[], int] | None = None
    ) -> Listener:
        """Call a plain function for every message that matches a pattern; adding it again changes nothing.

        As in aiopubsub; new programs use `add_listener`. `get_subscriber_queue_sizes` calls `unread` for the number of
        messages that the function has received and not handled.
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
        """Undo `add_subscriber`; if it was not added, that is logged. As in aiopubsub; new programs use the handle."""
        [pattern] = as_patterns([key])
        listener = self._direct.find(pattern, callback)
        if listener is None:
            logger.warning("%r is not subscribed to %r", callback, pattern)
        else:
            listener.remove()
