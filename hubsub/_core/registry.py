"""Who is registered with a hub: adding, removing, their order, and announcing both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import iscoroutinefunction
from itertools import count
from typing import Any, TypedDict, Unpack, get_args

from ..errors import HubClosed, InvalidListener
from ..event import DeadLetter, Event, ListenerFailure
from ..key import NAMESPACE, PLUS, STAR, Announced, Key, Patterns, as_patterns, escaped
from .asking import AsyncResponder, Responder
from .concurrency import ConcurrentListener
from .exchange import Exchange
from .history import History
from .life import Life
from .listener import AsyncListener, Listener
from .message_queue import Overflow
from .notices import Notices, notify
from .registration import AsyncOptions, Bookkeeper, QueueOptions, Registration, Where
from .retry import Retry
from .router import Router
from .routes import Target


class _Queue(TypedDict):
    maxsize: int
    overflow: Overflow


class _Common(TypedDict):
    event: bool
    where: Where | None
    once: bool
    owner: Bookkeeper | None


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
    ) -> None:
        super().__init__(router, life, on_error)
        self.maxsize = at_least_one(maxsize, "maxsize")
        self.overflow = Overflow(overflow)
        self._history = History(router.forget)
        self._registered: dict[Registration, None] = {}
        self._order = count(1)
        self._watchers = 0  # patterns that may match the hub's own namespace
        # Called with the patterns of which registrations came or went.
        self._followers: list[Callable[[Iterable[tuple[str, ...]]], None]] = []

    # Making listeners

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
        common: _Common = {"event": event, "where": predicate(where), "once": once, "owner": owner}
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
            "maxsize": self.maxsize if maxsize is None else at_least_one(maxsize, "maxsize"),
            "overflow": self.overflow if overflow is None else Overflow(overflow),
        }

    # Adding and removing

    def _add(self, registration: Registration, patterns: Sequence[tuple[str, ...]], history: int = 0) -> None:
        """Register it on these patterns, which it does not hold yet. Nothing is awaited, nothing can fail half-way.

        The last `history` messages of each key that it did not get so far are replayed to it.
        """
        self._life.check_thread()
        if self._life.state != "open":
            raise HubClosed(self, closing=self._life.state == "closing")
        replay: list[Event[Any]] = []
        if history:
            at_least_one(history, "history")
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
        for changed in self._followers:
            changed(patterns)
        if self._watchers:
            self._announce_changes("addedSubscriber", added)

    def _remove(self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None) -> None:
        """Take it off these patterns, or off all; off its last one it is closed."""
        self._life.check_thread()
        patterns = registration._patterns if patterns is None else tuple(patterns)
        left = tuple(pattern for pattern in registration._patterns if pattern not in patterns)
        removed = [(pattern, self._router.remove(pattern, registration)) for pattern in patterns]
        self._watchers -= sum(map(_may_be_meta, patterns))
        self._silence(registration, left)
        notices: Notices = []
        if not left:
            registration.closed = True
            del self._registered[registration]
            notices = registration._removed()
        else:
            registration._patterns = left
        if registration._owner is not None:
            registration._owner._forget(registration, patterns)
        for changed in self._followers:
            changed(patterns)
        if self._watchers and self._life.state != "closed":
            notices.append(partial(self._announce_changes, "removedSubscriber", removed))
        notify(notices)

    def _observe(self, patterns: Sequence[tuple[str, ...]], more: int) -> None:
        """Make the routes of these patterns anew, since observers of theirs came or went."""
        self._watchers += more * sum(map(_may_be_meta, patterns))
        for pattern in patterns:
            self._router.forget(pattern)

    # Announcing

    def _announce_changes(self, what: Announced, changes: Iterable[tuple[tuple[str, ...], int]]) -> None:
        """Publish the meta-events of a change that has taken effect."""
        for pattern, number in changes:
            message = {"key": Key.create_from(pattern), "currentSubscriberCount": number}
            self._announce(Key(NAMESPACE, what, *escaped(pattern)), message)

    def _tell(self, what: Announced, registration: Registration, message: Any, keys: Iterable[Key[Any]] | None) -> None:
        """Publish a meta-event about a registration to everyone else; not about messages that are such themselves."""
        if not self._watchers or (keys is not None and all(key[0] == NAMESPACE for key in keys)):
            return
        for pattern in registration._patterns:
            self._announce(Key(NAMESPACE, what, *escaped(pattern)), message, but=registration)

    def _bury(self, letter: DeadLetter) -> None:
        """Publish what a listener has given up; not messages of the namespace, or it might never end."""
        if self._watchers and letter.key[0] != NAMESPACE and self._life.state != "closed":
            self._announce(Key(NAMESPACE, "deadLetter", *letter.key), letter)


def is_async(function: object) -> bool:
    """True if calling `function` makes a coroutine: a coroutine function, a partial of one, or such a `__call__`."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def at_least_one(number: int, name: str) -> int:
    """Return a number of messages that is given as the option `name`.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} is a number of messages, at least 1, not {number!r}")
    return number


def predicate(where: Where | None) -> Where | None:
    """Return what is given as `where=`.

    Raises:
        ValueError: It cannot be called.
    """
    if where is not None and not callable(where):
        raise ValueError(f"where is a function of key and message, not {where!r}")
    return where


def _may_be_meta(pattern: tuple[str, ...]) -> bool:
    """True if it may match what the hub announces: otherwise nobody has to be looked for at each announcement."""
    return pattern[0] in _META[0] and (len(pattern) == 1 or pattern[1] in _META[1])


_META = ((NAMESPACE, STAR, PLUS), (*get_args(Announced), STAR, PLUS))
