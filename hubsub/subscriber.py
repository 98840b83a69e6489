"""A subscriber: owns subscriptions and listeners, and ends them together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ._core.async_listener import AsyncListener
from ._core.callables import identity_of
from ._core.checks import named_options
from ._core.life import outlast
from ._core.listener import Listener
from ._core.registration import Batch, ListenerOptions, Registration, Removal, SubscribeOptions, Where
from ._core.registry import decorated
from ._core.subscription import GapSubscription, Queue, SnapshotSubscription, Subscription
from ._face.subscribing import Decorator
from .describe import describe
from .errors import UnknownListener, UnknownSubscription
from .event import Event
from .hub import Hub
from .key import Key, Patterns, PlainPatterns, T, TypedPatterns, V, as_patterns

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Subscriber:
    """Owns subscriptions and listeners; `close()`, or leaving it as a context manager, ends all of them.

    A function added twice to a pattern by the same subscriber stays one listener. Two subscribers are independent of
    each other.

    Args:
        hub: Where to subscribe.
        id_: A name, shown in logs and errors.

    Raises:
        TypeError: `hub` is no Hub.
    """

    DEFAULT_SUBSCRIPTION_ID = "default"

    # Ended subscriptions whose ids are remembered, so that `consume` can say that they have ended.
    MOST_ENDED = 64

    __slots__ = ("_called", "_finishing", "_listeners", "_most", "_options", "_subscriptions", "hub", "id")

    def __init__(self, hub: Hub, id_: str) -> None:
        if not isinstance(hub, Hub):
            raise TypeError(f"a Subscriber needs a Hub, then an id: {describe(hub)} is no Hub")
        self.hub = hub
        self.id = id_
        self._subscriptions: dict[Hashable, Queue[Any]] = {}
        self._most = self.MOST_ENDED
        self._options: dict[Hashable, dict[str, Any]] = {}  # of each subscription, as they were given
        self._called: dict[Hashable, Callable[..., object]] = {}  # functions of `sync_subscribe`, by their id
        self._listeners: dict[Hashable, dict[tuple[str, ...], Listener]] = {}
        self._finishing: asyncio.Task[None] | None = None  # handles what was queued when it was closed

    def __repr__(self) -> str:
        return f"<Subscriber {self.id!r} on {self.hub!r}>"

    # Subscriptions

    @overload
    def subscribe(
        self,
        key: TypedPatterns[T],
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        history: int = 0,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self,
        key: TypedPatterns[T],
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        gaps: Literal[True],
        history: int = 0,
        **options: Unpack[SubscribeOptions],
    ) -> GapSubscription[T]: ...
    @overload
    def subscribe(
        self,
        key: TypedPatterns[T],
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        snapshot: Callable[[], Awaitable[V]],
        **options: Unpack[SubscribeOptions],
    ) -> SnapshotSubscription[T, V]: ...
    @overload
    def subscribe(
        self,
        key: Patterns,
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        history: int = 0,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[Any]: ...
    @overload
    def subscribe(
        self,
        key: Patterns,
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        gaps: Literal[True],
        history: int = 0,
        **options: Unpack[SubscribeOptions],
    ) -> GapSubscription[Any]: ...
    @overload
    def subscribe(
        self,
        key: Patterns,
        subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID,
        *,
        snapshot: Callable[[], Awaitable[V]],
        **options: Unpack[SubscribeOptions],
    ) -> SnapshotSubscription[Any, V]: ...

    def subscribe(
        self, key: Patterns, subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID, *, history: int = 0, **options: Any
    ) -> Any:
        """Add one or more patterns to the subscription of that id, and return it; make it if there is none.

        All patterns of one id share a queue. If the last pattern was unsubscribed and one is subscribed again, the
        queue keeps what was left in it. `history` replays retained messages, as in `Hub.subscribe`, but only of keys
        that the subscription was not subscribed to before. The other options are those of `Hub.subscribe`; they belong
        to the whole subscription, and are given when it is made.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            HubClosed: The hub is closed or closing.
            HistoryUnavailable: `history` is asked for, and nothing retains a new pattern.
            ValueError: An option is invalid, or the subscription exists with other options.
        """
        patterns = as_patterns(key)
        subscription = self._subscriptions.get(subscription_id)
        is_new = subscription is None
        if is_new and len(self._subscriptions) >= self._most:
            self._forget_ended()
        if subscription is None:
            subscription = self.hub._subscription(**options)
        elif options and options != self._options[subscription_id]:
            given = ", ".join(f"{name}=" for name in options)
            raise ValueError(f"{given}: the subscription {describe(subscription_id)} exists, with other options")
        if history and isinstance(subscription, SnapshotSubscription):
            raise ValueError("a snapshot replaces history= and gaps=: choose one of them")
        new = [pattern for pattern in patterns if subscription.closed or pattern not in subscription._patterns]
        self._subscriptions[subscription_id] = subscription
        self._options.setdefault(subscription_id, options)
        try:
            self.hub._add(subscription, new, history)
        except BaseException:
            if is_new and (subscription.closed or not subscription._patterns):
                self._subscriptions.pop(subscription_id, None)
                self._options.pop(subscription_id, None)
            raise
        return subscription

    async_subscribe = subscribe

    def _forget_ended(self) -> None:
        """Forget the oldest ids of ended subscriptions that were read to the end, if there are very many."""
        for subscription_id, subscription in list(self._subscriptions.items()):
            if subscription.closed and not subscription.pending:
                del self._subscriptions[subscription_id]
                self._options.pop(subscription_id, None)
        self._most = 2 * len(self._subscriptions) + self.MOST_ENDED

    def sync_subscribe(
        self, key: Patterns, callback: Callable[..., object], subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID
    ) -> Listener:
        """Call a plain function for every message that matches, until `unsubscribe` with that id: as in aiopubsub.

        All patterns of one id keep the function given with the first of them. New programs use `add_sync_listener`.
        """
        function = self._called.get(subscription_id, callback)
        listener = self.add_sync_listener(key, function)
        self._called[subscription_id] = function
        return listener

    def unsubscribe(self, key: Patterns, subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID) -> None:
        """Remove one or more patterns from the subscription of that id; it ends with its last pattern.

        What is queued can still be read.

        Raises:
            UnknownSubscription: There is none of that id, or it is not on the pattern; then nothing is changed.
        """
        patterns = as_patterns(key)
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None and subscription_id in self._called:
            self._uncall(patterns, subscription_id)
            return
        if subscription is None:
            raise UnknownSubscription(subscription_id, self)
        for pattern in patterns:
            if subscription.closed or pattern not in subscription._patterns:
                raise UnknownSubscription(subscription_id, self, pattern)
        self.hub._remove(subscription, patterns)

    def _uncall(self, patterns: list[tuple[str, ...]], subscription_id: Hashable) -> None:
        """Undo `sync_subscribe` for some patterns."""
        function = self._called[subscription_id]
        held = self._listeners.get(identity_of(function), {})
        for pattern in patterns:
            if pattern not in held:
                raise UnknownSubscription(subscription_id, self, pattern)
        self.remove_listener(list(patterns), function)
        if identity_of(function) not in self._listeners:
            del self._called[subscription_id]

    def consume(self, subscription_id: Hashable = DEFAULT_SUBSCRIPTION_ID) -> Coroutine[Any, Any, tuple[Key[Any], Any]]:
        """Wait for the next message of the subscription of that id: `key, message = await subscriber.consume()`.

        Cancelling it loses nothing.

        Raises:
            UnknownSubscription: Nothing was ever subscribed under that id, or it and dozens of later ones have ended.
            SubscriptionClosed: It has ended and everything queued has been read.
        """
        # Not an async function: that saves a coroutine for each message.
        try:
            pair: Coroutine[Any, Any, tuple[Key[Any], Any]] = self._subscriptions[subscription_id].consume_pair()
        except KeyError:
            raise UnknownSubscription(subscription_id, self) from None
        return pair

    # Listeners

    @named_options("add_sync_listener")
    def add_sync_listener(
        self,
        keys: Patterns,
        callback: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        once: bool = False,
        history: int = 0,
    ) -> Listener:
        """Call a plain function inside the publish of every message that matches; as `Hub.add_listener`.

        Raises:
            InvalidListener: It is an async function, or cannot be called.
        """
        return self._add(keys, callback, False, event=event, where=where, once=once, history=history)

    def add_async_listener(
        self,
        keys: Patterns,
        callback: Callable[..., Any],
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener:
        """Await `callback(key, message)` in a task of its own, one message after the other; as `Hub.add_listener`.

        Any callable that returns an awaitable is accepted.
        """
        return self._add(keys, callback, True, event=event, where=where, batch=batch, **options)

    @overload
    def add_listener(
        self,
        keys: TypedPatterns[T],
        callback: Callable[[Key[T], T], object],
        *,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...
    @overload
    def add_listener(
        self,
        keys: TypedPatterns[T],
        callback: Callable[[Event[T]], object],
        *,
        event: Literal[True],
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...
    @overload
    def add_listener(
        self,
        keys: TypedPatterns[T],
        callback: Callable[[list[Event[T]]], object],
        *,
        batch: Batch,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...
    @overload
    def add_listener(
        self,
        keys: PlainPatterns,
        callback: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener: ...

    def add_listener(
        self,
        keys: Any,
        callback: Callable[..., object],
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener:
        """Add a function, plain or async: hubsub detects which; as `Hub.add_listener`."""
        return self._add(keys, callback, None, event=event, where=where, batch=batch, **options)

    @overload
    def on(
        self, keys: TypedPatterns[T], *, where: Where | None = None, **options: Unpack[ListenerOptions]
    ) -> Decorator[[Key[T], T]]: ...
    @overload
    def on(
        self,
        keys: TypedPatterns[T],
        *,
        event: Literal[True],
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[[Event[T]]]: ...
    @overload
    def on(
        self,
        keys: TypedPatterns[T],
        *,
        batch: Batch,
        where: Where | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[[list[Event[T]]]]: ...
    @overload
    def on(
        self,
        keys: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Decorator[...]: ...

    def on(
        self,
        keys: Patterns,
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Any:
        """Add the decorated function as a listener and return it unchanged."""
        named = decorated(keys, "on")

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self._add(named, function, None, event=event, where=where, batch=batch, **options)
            return function

        return add

    def remove_listener(self, keys: Patterns, callback: Callable[..., object]) -> Removal:
        """Remove a function from one or more patterns at once; after its last pattern, as `Listener.remove` does.

        Returns an awaitable that ends when its task, if it had one, has ended.

        Raises:
            UnknownListener: It was not added to one of them; then nothing is changed.
        """
        patterns = as_patterns(keys)
        held = self._listeners.get(identity_of(callback), {})
        for pattern in patterns:
            if pattern not in held:
                raise UnknownListener(callback, pattern, self)
        affected: dict[Listener, list[tuple[str, ...]]] = {}
        for pattern in patterns:
            affected.setdefault(held[pattern], []).append(pattern)
        removals = []
        for listener, taken in affected.items():
            if len(taken) == len(listener._patterns):
                removals.append(listener.remove())
            else:
                self.hub._remove(listener, taken)
        return Removal.of(removals)

    def remove_all_listeners(self) -> Removal:
        """Remove every listener at once, as `Listener.remove`; subscriptions stay."""
        return Removal.of([listener.remove() for listener in self._all_listeners()])

    def _all_listeners(self) -> dict[Listener, None]:
        listeners = {listener: None for held in self._listeners.values() for listener in held.values()}
        # Listeners that handle their last message are no longer noted.
        for runner in (*self.hub._life.running, *self.hub._life.unstarted):
            if isinstance(runner, AsyncListener) and runner._owner is self:
                listeners[runner] = None
        return listeners

    def close(self) -> Removal:
        """End every subscription at once, and every listener when it has handled its queued messages.

        Nothing more is delivered. Async listeners have `drain` seconds, as when the hub is closed, for their queued
        messages; then the rest is dropped, counted and logged, and calls in progress are cancelled, which counts as a
        failure. What is queued in subscriptions can still be read.

        Returns an awaitable that ends when all of them have ended. If one of the listeners closes its subscriber, that
        call is neither cancelled nor waited for. Closing twice is safe.
        """
        return self._close()[1]

    def _close(self) -> tuple[asyncio.Task[None] | None, Removal]:
        """Close as `close` does; return the task that ends the listeners, or None if it must not be waited for."""
        listeners = self._all_listeners()
        runners = [listener for listener in listeners if isinstance(listener, AsyncListener)]
        for listener in listeners:
            if isinstance(listener, AsyncListener):
                listener.wind_up()
            else:
                listener.remove()
        for subscription in list(self._subscriptions.values()):
            subscription.close()
        if len(self._subscriptions) > self.MOST_ENDED:
            self._forget_ended()
        self._finishing = self.hub._life.finish(runners, self) or self._finishing
        if any(runner.is_caller() for runner in runners):
            return None, Removal(task for runner in runners if not runner.is_caller() for task in runner.tasks)
        return self._finishing, Removal(() if self._finishing is None else (self._finishing,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finishing, removal = self._close()
        if finishing is None or finishing.get_loop().is_closed():
            await removal
        else:
            await outlast(finishing, cancelled=isinstance(error, asyncio.CancelledError))

    def _add(
        self,
        keys: Patterns,
        callback: Callable[..., object],
        asynchronous: bool | None,
        *,
        event: bool = False,
        where: Where | None = None,
        batch: Batch | None = None,
        **options: Unpack[ListenerOptions],
    ) -> Listener:
        held = self._listeners.get(identity_of(callback), {})
        patterns = as_patterns(keys)
        new = [pattern for pattern in patterns if pattern not in held]
        if not new:
            return held[patterns[0]]
        return self.hub._add_listener(
            new, callback, asynchronous, event=event, where=where, batch=batch, owner=self, **options
        )

    def _note(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None:
        """Called by the hub when it has registered one of our listeners on these patterns."""
        assert isinstance(registration, Listener)
        held = self._listeners.setdefault(identity_of(registration.function), {})
        held.update(dict.fromkeys(patterns, registration))

    def _forget(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None:
        """Called by the hub when it has removed one of our listeners from these patterns, for whatever reason."""
        assert isinstance(registration, Listener)
        identity = identity_of(registration.function)
        held = self._listeners.get(identity, {})
        for pattern in patterns:
            if held.get(pattern) is registration:
                del held[pattern]
        if not held:
            self._listeners.pop(identity, None)
