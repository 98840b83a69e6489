"""The registrations of a hub: adding and removing them, their order, and announcing both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, TypedDict, Unpack, get_args

from ..describe import describe
from ..errors import HubClosed, InvalidListener
from ..event import DeadLetter, Event, ListenerFailure
from ..key import NAMESPACE, PLUS, STAR, Announced, Key, Patterns, as_patterns, escaped
from .async_listener import AsyncListener
from .callables import checked_async_function, checked_function, checked_listener, is_async
from .checks import choice, member, options_of
from .checks import count as count_of
from .concurrency import ConcurrentListener
from .exchange import Exchange
from .history import History
from .life import Life
from .listener import Listener
from .message_queue import Overflow
from .notices import Notices, notify
from .paced import PacedListener
from .pacing import pace_of
from .registration import (
    CONTEXTS,
    AsyncOptions,
    Batch,
    Bookkeeper,
    CallContext,
    Held,
    ListenerOptions,
    QueueOptions,
    Registration,
    Where,
    with_patterns,
    without_patterns,
)
from .responding import AsyncResponder, Responder
from .retry import Retry
from .router import Router
from .routes import Target
from .wrapping import Call, Wrapping, Wrappings


class _Queue(TypedDict):
    maxsize: int
    overflow: Overflow


class _Common(TypedDict):
    event: bool
    where: Where | None
    once: bool
    owner: Bookkeeper | None


# The names of the options of a listener.
LISTENER_OPTIONS = ("event", "where", "batch", *ListenerOptions.__annotations__)


class Registry(Exchange):
    """Keeps the registrations of a hub, and makes the listeners among them."""

    def __init__(
        self,
        router: Router[Target],
        life: Life,
        on_error: Callable[[ListenerFailure], object] | None,
        *,
        maxsize: int,
        overflow: Overflow,
        context: CallContext,
    ) -> None:
        super().__init__(router, life, on_error)
        self.maxsize = count_of(maxsize, "maxsize")
        self.overflow = member(overflow, "overflow", Overflow)
        self.context: CallContext = choice(context, "context", CONTEXTS)
        self._history = History(self._retention_changed, self._origin)
        self._registered: dict[Registration, None] = {}
        self._order = count(1)
        self._watchers = 0  # patterns that may match the hub's own namespace
        # Called with the patterns of registrations that were added or removed.
        self._followers: list[Callable[[Iterable[tuple[str, ...]]], None]] = []
        self._wrappings = Wrappings()

    # Making listeners

    def _add_listener(
        self,
        patterns: Patterns,
        function: Callable[..., Any],
        asynchronous: bool | None,
        *,
        event: bool = False,
        where: Where | None = None,
        once: bool = False,
        owner: Bookkeeper | None = None,
        responding: bool = False,
        history: int = 0,
        batch: Batch | None = None,
        **options: Unpack[AsyncOptions],
    ) -> Listener:
        looks_async = checked_listener(function, event=event, batch=batch is not None)
        if asynchronous is None:
            asynchronous = looks_async
        elif looks_async and not asynchronous:
            raise InvalidListener(function, "this is an async function; add it with add_async_listener or add_listener")
        options_of(options, LISTENER_OPTIONS, "a listener")
        if responding and history:
            raise InvalidListener(function, "history: a responder answers requests, and retained ones are over")
        named = as_patterns(patterns)
        common: _Common = {"event": event, "where": predicate(where), "once": once, "owner": owner}
        listener: Listener
        if asynchronous:
            listener = self._async_listener(function, common, responding, batch=batch, **options)
        elif options or batch is not None:
            given = " and ".join([*options, *([] if batch is None else ["batch"])])
            raise InvalidListener(function, f"{given}: only for async listeners; a sync one is called in the publish")
        else:
            listener = (Responder if responding else Listener)(self, function, **common)
        self._add(listener, named, history)
        return listener

    def _async_listener(
        self,
        function: Callable[..., Any],
        common: _Common,
        responding: bool,
        *,
        concurrency: int = 1,
        retry: Retry | None = None,
        context: CallContext | None = None,
        batch: Batch | None = None,
        debounce: float | None = None,
        throttle: float | None = None,
        **options: Unpack[QueueOptions],
    ) -> AsyncListener:
        concurrency = count_of(concurrency, "concurrency", "calls")
        if not isinstance(retry, Retry | None):
            raise ValueError(f"retry must be a hubsub.Retry, not {describe(retry)}")
        whose: CallContext = self.context if context is None else choice(context, "context", CONTEXTS)
        pace = pace_of(batch, debounce, throttle)
        queue = self._queue(**options)
        if responding:
            if concurrency > 1 or retry is not None or pace is not None:
                raise InvalidListener(function, "a responder answers one request after the other, and once")
            return AsyncResponder(self, function, context=whose, **queue, **common)
        if pace is not None:
            pace.check(queue["maxsize"], options.get("overflow"), context=context, once=common["once"])
            if pace.kind != "batch":
                queue["overflow"] = Overflow.LATEST
            return PacedListener(self, function, pace=pace, concurrency=concurrency, retry=retry, **queue, **common)
        if concurrency == 1:
            return AsyncListener(self, function, retry=retry, context=whose, **queue, **common)
        return ConcurrentListener(
            self, function, concurrency=concurrency, retry=retry, context=whose, **queue, **common
        )

    def _queue(self, maxsize: int | None = None, overflow: Overflow | None = None) -> _Queue:
        """Return the options of a queue, with the hub's defaults filled in."""
        return {
            "maxsize": self.maxsize if maxsize is None else count_of(maxsize, "maxsize"),
            "overflow": self.overflow if overflow is None else member(overflow, "overflow", Overflow),
        }

    # Adding and removing

    def _origin(self) -> str:
        """Return the origin of messages that are published here."""
        raise NotImplementedError

    def _retention_changed(self, pattern: tuple[str, ...]) -> None:
        self._router.forget(pattern)
        for changed in self._followers:
            changed((pattern,))

    def _add(self, registration: Registration, patterns: Sequence[tuple[str, ...]], history: int = 0) -> None:
        """Register it on patterns that it is not on yet. Nothing is awaited, and nothing can fail half-way.

        Replays the last `history` messages of each key that it was not subscribed to before.
        """
        self._life.check_thread()
        if self._life.state != "open":
            raise HubClosed(self, closing=self._life.state == "closing")
        replay: list[Event[Any]] = []
        if history or history is False:
            history = count_of(history, "history")
            self._history.check(patterns)
            replay = self._history.select(patterns, history, () if registration.closed else registration._patterns)
        if registration.closed:
            registration._reopened()
            self._router.reordered = True
        if registration not in self._registered:
            self._registered[registration] = None
            registration.order = next(self._order)
        if len(patterns) == 1 and not registration._patterns:
            registration._patterns = (patterns[0],)  # the usual case
        else:
            registration._patterns = with_patterns(registration._patterns, patterns)
            self._router.several = True
        if self._wrappings and isinstance(registration, Listener):
            self._wrap_if_concerned(registration)
        if replay:
            registration._put_off()
        added = [(pattern, self._router.add(pattern, registration)) for pattern in patterns]
        self._watchers += sum(map(_may_be_meta, patterns))
        if registration._owner is not None:
            registration._owner._note(registration, patterns)
        for changed in self._followers:
            changed(patterns)
        if replay:
            try:
                self._replay(registration, replay)
            except BaseException:
                if not registration.closed:
                    self._remove(registration, patterns)
                raise
        if self._watchers:
            try:
                self._announce_changes("addedSubscriber", added)
            except BaseException:
                # The caller gets no handle.
                held = [pattern for pattern in patterns if pattern in registration._patterns]
                if held and not registration.closed:
                    self._remove(registration, held)
                raise

    def _replay(self, registration: Registration, events: Iterable[Event[Any]]) -> None:
        """Replay to a new registration the events that its `where` admits; an error in `where` is its own failure."""
        wanted = []
        for event in events:
            registration.counted += 1
            try:
                if registration.wants(event):
                    wanted.append(event)
                    continue
            except BaseException as error:
                interrupt = self._failure(registration, *event, error)
                if interrupt is not None:
                    raise interrupt from None
            registration.filtered += 1
        registration._replay(wanted)

    def _remove(
        self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None, stays: bool = False
    ) -> None:
        """Remove it from these patterns, or from all; close it after the last one, unless it `stays`."""
        self._life.check_thread()
        left: Held = ()
        if patterns is None:
            patterns = tuple(registration._patterns)
        else:
            patterns = tuple(patterns)
            left = without_patterns(registration._patterns, patterns)
        ends = not (left or stays)
        registration._patterns = left or (patterns if ends else ())
        registration.closed = ends
        removed = [(pattern, self._router.remove(pattern, registration)) for pattern in patterns]
        self._watchers -= sum(map(_may_be_meta, patterns))
        self._router.withdraw(registration, left)
        notices: Notices = []
        if ends:
            del self._registered[registration]
            notices = registration._removed()
        if registration._owner is not None:
            registration._owner._forget(registration, patterns)
        for changed in self._followers:
            changed(patterns)
        if self._watchers and self._life.state != "closed":
            notices.append(partial(self._announce_changes, "removedSubscriber", removed))
        notify(notices)

    def _observe(self, patterns: Sequence[tuple[str, ...]], more: int) -> None:
        """Drop the routes of these patterns, since an observer of them was added or removed."""
        self._watchers += more * sum(map(_may_be_meta, patterns))
        for pattern in patterns:
            self._router.forget(pattern)

    # Wrapping

    def _wrap(self, patterns: Patterns, function: Callable[[Call[Any]], object]) -> Wrapping:
        self._life.check_thread()
        checked_async_function(function, "a wrapper", "call")
        wrapping = Wrapping(self._unwrap, as_patterns(patterns), function, is_async(function))
        self._wrappings.add(wrapping)
        self._rewrap()
        return wrapping

    def _unwrap(self, wrapping: Wrapping) -> None:
        self._life.check_thread()
        self._wrappings.remove(wrapping)
        self._rewrap()

    def _rewrap(self) -> None:
        """Wrap exactly those listeners that a wrapper concerns."""
        # Those that were removed and still handle their queues are no longer registered.
        for each in dict.fromkeys([*self._registered, *self._life.running, *self._life.unstarted]):
            if isinstance(each, Listener):
                self._wrap_if_concerned(each)

    def _wrap_if_concerned(self, listener: Listener) -> None:
        wrappings = self._wrappings
        is_concerned = wrappings.concern(listener._patterns, listener.mailbox is not None)
        listener._wrap_in(wrappings if is_concerned else None)

    # Announcing

    def _announce_changes(self, what: Announced, changes: Iterable[tuple[tuple[str, ...], int]]) -> None:
        """Publish the meta-events of a change that has taken effect."""
        for pattern, number in changes:
            message = {"key": Key.create_from(pattern), "currentSubscriberCount": number}
            self._announce(Key(NAMESPACE, what, *escaped(pattern)), message)

    def _announce_about(
        self, what: Announced, registration: Registration, message: Any, keys: Iterable[Key[Any]] | None
    ) -> None:
        """Publish a meta-event about a registration to everyone else; not if it concerns meta-events only."""
        if not self._watchers or (keys is not None and all(key[0] == NAMESPACE for key in keys)):
            return
        for pattern in tuple(registration._patterns):
            self._announce(Key(NAMESPACE, what, *escaped(pattern)), message, but=registration)

    def _bury(self, letter: DeadLetter) -> None:
        """Publish a message that a listener has given up on; but not a meta-event, which could repeat for ever."""
        if self._watchers and letter.key[0] != NAMESPACE and self._life.state != "closed":
            self._announce(Key(NAMESPACE, "deadLetter", *letter.key), letter)


def decorated(patterns: Patterns, decorator: str) -> list[tuple[str, ...]]:
    """Return the patterns that a decorator was given.

    Raises:
        InvalidListener: It was given the function instead.
        InvalidKey: A pattern cannot be subscribed to.
    """
    if callable(patterns):
        raise InvalidListener(patterns, f"say what to listen to: @hub.{decorator}(pattern)")
    return as_patterns(patterns)


def predicate(where: Where | None) -> Where | None:
    """Return the function given as `where=`, or None.

    Raises:
        InvalidFunction: It is not a plain function of key and message.
    """
    return None if where is None else checked_function(where, "where", "key", "message")


def _may_be_meta(pattern: tuple[str, ...]) -> bool:
    """True if it may match meta-events; while no pattern does, announcing needs no look-up."""
    return pattern[0] in _META[0] and (len(pattern) == 1 or pattern[1] in _META[1])


_META = ((NAMESPACE, STAR, PLUS), (*get_args(Announced), STAR, PLUS))
