"""The hub: routes each message to everyone that has subscribed to its key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ._core.asking import Requests
from ._core.async_listener import AsyncListener
from ._core.border import Border
from ._core.checks import count, count_or_none, named_options, seconds, seconds_or_none
from ._core.declarations import Declarations
from ._core.direct import DirectSubscribers
from ._core.display import bounded, table
from ._core.explain import Explanation, explain
from ._core.hints import Hints
from ._core.history import Retention
from ._core.life import UNTIL_ENDED, Life
from ._core.listener import Listener
from ._core.message_queue import Overflow
from ._core.notices import Notices, notify
from ._core.registration import CallContext
from ._core.router import Router
from ._core.routes import Target
from ._core.subscription import GapSubscription, SnapshotSubscription, Subscription
from ._core.tap import Tap
from ._face.asking import Asking
from ._face.publishing import Publishing
from ._face.subscribing import Subscribing
from .event import Event, ListenerFailure
from .key import NAMESPACE, STAR, Key, KeyLike, Patterns, T, as_patterns, publishable
from .log import Logger

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


logger = Logger("hubsub.hub")


class Stats(NamedTuple):
    """Totals of a hub at a moment. Each subscription and listener has counters of its own."""

    time: float
    """When they were taken, in seconds since the epoch."""
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
    """Keys whose route is cached."""
    cache_hits: int
    """Messages published along a cached route."""
    cache_misses: int
    """Routes made."""
    retained_keys: int
    """Keys of which messages are retained."""


class Hub(Publishing, Subscribing, Asking):
    """Routes messages from publishers to subscribers by key.

    A hub may be made before an event loop runs, such as at module level. Publishing to sync listeners never needs a
    loop; async listeners and consumers bind the hub to the loop that they run on. When that loop is closed, or the hub
    is closed and started again, the hub binds to the next loop and keeps its listeners. A hub belongs to the thread of
    its loop; other threads use `publish_threadsafe`.

    Args:
        name: Shown in logs and errors.
        drain: Seconds that `close` gives async listeners to finish what is queued.
        maxsize: The default bound of the queue of a subscription or async listener, in messages.
        overflow: What happens by default to a message that finds its queue full.
        on_error: Called with a `ListenerFailure` when a listener raises.
        route_cache: Keys whose routes are cached; 0 for none.
        context: The context variables that async listeners see by default: "listener", those of their registration;
            "publisher", those of each publish. The latter keeps a copy of them with each queued message.
    """

    @named_options("Hub")
    def __init__(
        self,
        *,
        name: str = "hub",
        drain: float = 5.0,
        maxsize: int = 10_000,
        overflow: Overflow = Overflow.GROW,
        on_error: Callable[[ListenerFailure], object] | None = None,
        route_cache: int = 100_000,
        context: CallContext = "listener",
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
        super().__init__(Router(cached), life, on_error, maxsize=maxsize, overflow=overflow, context=context)
        self._requests = Requests(self)
        self._direct = DirectSubscribers()
        self._declarations = Declarations()
        self.border = Border(self, self._requests, self._declarations)
        """For bridges and anything else that connects the hub to others; users do not need it."""
        self._hint(life.is_debug)

    def __repr__(self) -> str:
        return f"<Hub {self.name!r}>"

    def _repr_html_(self) -> str:
        stats = self.stats()
        title = f"Hub {self.name!r}, {self._life.state}: published {stats.published}, routed {stats.routed}"
        head = ("", "delivered", "pending", "dropped", "superseded", "failed")
        rows = bounded(
            self._registered,
            lambda each: (f"{type(each).__name__} {each._described}", *(getattr(each, name, "") for name in head[1:])),
        )
        bridges = [(repr(each.adapter), each.health().state) for each in self.bridges if hasattr(each, "health")]
        return table(title, [*bridges, *rows], head)

    # Retaining

    @named_options("retain")
    def retain(
        self,
        patterns: Patterns,
        limit: int = 1,
        *,
        max_age: float | None = None,
        max_keys: int | None = None,
    ) -> Retention:
        """Keep the last messages of every key that matches one of `patterns`, for those who subscribe later.

        A message is kept before it is delivered. If several retentions cover a key, the largest `limit` and the longest
        `max_age` count. Messages in the hub's own namespace are not kept.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: Messages kept of each key.
            max_age: Seconds that a message is kept; None for no limit.
            max_keys: Keys kept; beyond it, the key that has been silent longest is dropped. None for no limit.

        Returns:
            A handle; closing it drops what no other retention keeps.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            ValueError: A bound is less than one, or `max_age` is not positive.
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
        """The last retained message of a key; None if there is none yet, or it has expired.

        Raises:
            HistoryUnavailable: Nothing retains that key.
        """
        events = self.history(publishable(key), 1)
        return events[-1] if events else None

    @named_options("history")
    def history(self, patterns: Patterns, limit: int | None = None, after: int = 0) -> list[Event[Any]]:
        """The retained messages that match, the oldest first.

        The `meta` of each has its `id` and `source`, the time when it was published, and its `position`: a number that
        grows with each message that this hub retains, whatever its key. It replaces the position that a message from a
        broker had there.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: The most messages of each key; the last ones count.
            after: Return only messages after this position. Those that the bounds of `retain` have dropped are missing.

        Raises:
            HistoryUnavailable: Nothing retains a key that matches.
            ValueError: An option is invalid.
        """
        named = as_patterns(patterns)
        self._history.check(named)
        after = count(after, "after", "messages", least=0)
        return self._history.select(named, count_or_none(limit, "limit"), after=after)

    def forget(self, patterns: Patterns) -> int:
        """Forget the retained messages of every key that matches; return how many there were.

        Later messages are retained as before. It is no error if there are none to forget.

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
        """Declare the type of the messages of matching keys; return the pattern, which tells type checkers that type.

        Bridges decode to it. While the hub's loop is in debug mode, a message of another type is logged, with the line
        that published it. If several patterns match a key, the most specific one counts: a literal part precedes a
        wildcard, from the left.

        Args:
            pattern: A key, exact or with wildcards.
            type: A class, a `TypedDict`, or any other annotation.

        Raises:
            InvalidKey: It is not a pattern.
            ValueError: Another type is declared for exactly the same keys.
        """
        self._life.check_thread()
        return self._declarations.declare(pattern, type)

    def declared(self, key: KeyLike[Any]) -> Any:
        """The type that is declared for an exact key; None if there is none.

        Raises:
            InvalidKey: Nothing can be published to `key`.
        """
        return self._declarations.type_of(publishable(key))

    # Looking inside

    @named_options("tap")
    def tap(self, patterns: Patterns, limit: int = 10_000) -> Tap:
        """Record every message that matches one of `patterns`, from now on, without being a subscription.

        It does not affect delivery: neither what `publish` returns, nor `has_subscribers`, nor the counters. It costs
        nothing to publish a message that it does not match.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            limit: Messages kept; beyond it, the oldest is dropped.

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
        """True exactly if some publishable key matches both a pattern and a subscription; by default, if there is any.

        For an exact key this costs a look-up; for a pattern, a look at the subscribed patterns that begin like it or
        share its rarest part. With `local=False` it is also true if a bridge carries such a key, since somebody may be
        subscribed beyond it.
        """
        named = as_patterns(patterns)
        if any(self._router.matcher.overlaps(pattern) for pattern in named):
            return True
        return not local and self.border.leads_out(named)

    def patterns(self) -> dict[Key[Any], int]:
        """Every subscribed pattern and how many subscriptions it has."""
        return {Key.create_from(pattern): number for pattern, number in self._router.matcher.counts()}

    def get_subscriber_queue_sizes(self, key: KeyLike[Any]) -> tuple[int, ...]:
        """The number of messages pending in each queue that `key` is delivered to, in order of subscription."""
        sizes = map(self._queue_size, self._router.targets(publishable(key)))
        return tuple(size for size in sizes if size is not None)

    def _queue_size(self, target: Target) -> int | None:
        """The number of messages that a target has not handled; None if it has no queue."""
        if target.mailbox is not None:
            return int(target.mailbox.pending)
        unread = self._direct.unread(target)
        return None if unread is None else unread()

    def get_all_subscriber_queue_sizes(self) -> dict[Key[Any], tuple[int, ...]]:
        """For each pattern with queues, the number of messages pending in each queue."""
        sizes: dict[tuple[str, ...], list[int]] = {}
        for registration in self._registered:
            size = self._queue_size(registration)
            if size is not None:
                for pattern in registration._patterns:
                    sizes.setdefault(pattern, []).append(size)
        return {Key.create_from(pattern): tuple(pending) for pattern, pending in sizes.items()}

    def subscriptions(
        self,
    ) -> tuple[Listener | Subscription[Any] | GapSubscription[Any] | SnapshotSubscription[Any, Any], ...]:
        """Every listener and subscription that is registered now, in order; each has counters of its own."""
        registered: Any = self._registered
        return tuple(registered)

    @property
    def bridges(self) -> tuple[Any, ...]:
        """The bridges of this hub, in the order in which they were made."""
        return self.border.attached

    def explain(self, key: KeyLike[Any]) -> Explanation:
        """Report where a key leads, by which pattern, with counters; for a pattern, what overlaps it.

        It is text to read: `print(hub.explain(key))`. If nobody is subscribed, or nothing was published, it names the
        nearest patterns and keys. That, and explaining a pattern, costs a look at all patterns and all cached keys.

        Raises:
            InvalidKey: It can be neither published nor subscribed to.
        """
        border, life = self.border, self._life
        is_bound = life.loop is not None and not life.loop.is_closed()
        return explain(
            key,
            self._router,
            self._registered,
            border.outboxes,
            self._history,
            border.attached,
            self._hints,
            is_bound,
            self._wrappings,
        )

    def busy(self) -> tuple[Listener | Subscription[Any] | GapSubscription[Any], ...]:
        """The async listeners with a running call or a queued message, and the subscriptions with an unread message.

        A subscription that nobody has ever read, or waited for, is not busy.
        """
        life = self._life
        # Listeners that were removed and still handle their queues are no longer registered.
        left = [each for each in (*life.running, *life.unstarted) if isinstance(each, AsyncListener)]
        everybody: Any = dict.fromkeys([*self._registered, *left])
        return tuple(each for each in everybody if each.is_busy or (each in life.unstarted and each.pending))

    def stats(self) -> Stats:
        """Totals as of now. The cost grows with the number of cached routes, not of subscriptions."""
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
        """Bind the hub to the running loop and start the listeners that wait for one; open a closed hub again.

        Raises:
            HubClosed: It is being closed at the moment.
            WrongLoop: It is bound to another loop that is still open.
            WrongThread: That loop is in another thread.
        """
        self._life.start()
        for part in self.border.attached:
            part.opened()

    async def close(self) -> None:
        """Drain the async listeners for at most `drain` seconds, then end every task and every subscription.

        New subscriptions are refused at once. Async listeners handle their queues, and may publish onward. After
        `drain` seconds, the rest is counted as dropped and logged; calls in progress are cancelled and count as failed.
        Bridges send what is queued. Consumers may still read their queues; closing does not wait for them. It takes at
        most 4 s more than `drain`. If it is cancelled once, it drains all the same; cancelled again, it stops draining.
        Closing twice is safe. A listener's call that closes its own hub is neither cancelled nor waited for.
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

    # Called by its life

    def _bound(self, loop: asyncio.AbstractEventLoop) -> None:
        # In debug mode nothing is cached, so that every publish passes the checks of a new key.
        debug = loop.get_debug()
        self._router.remember(not debug)
        checker = self._declarations.observer
        if debug != (checker in self._router.observers):
            (self._router.observers.append if debug else self._router.observers.remove)(checker)
        self._router.dismantle_on(loop)
        self._hint(debug)
        # A closed hub binds, too, to whatever is called before it is refused; a bridge would open the hub again.
        if self.is_open:
            for part in self.border.attached:
                part.opened()

    def _hint(self, debug: bool) -> None:
        """In debug mode, log likely mistakes."""
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
        """In a forked process, start over with what is registered."""
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
        """Close everything that is attached, concurrently."""
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
        # Listeners that are winding up are no longer registered, but still run.
        for listener in dict.fromkeys([*self._registered, *self._life.running, *self._life.unstarted]):
            if isinstance(listener, AsyncListener):
                abandoned += listener.drop(notices)
        notify(notices)
        if abandoned:
            logger.warning("%r was closed with %d messages that its async listeners had not handled", self, abandoned)
        self._router.swap()  # a closed hub has no cached routes: so nobody publishes along one

    async def _cleared(self) -> None:
        await self._router.clear()
