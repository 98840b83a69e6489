"""The hub: routes each message to whoever subscribed to its key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ._core.asking import Requests
from ._core.border import Border
from ._core.checks import count, count_or_none, named_options, seconds, seconds_or_none
from ._core.declarations import Declarations
from ._core.direct import DirectSubscribers
from ._core.explain import Explanation, explain
from ._core.hints import Hints
from ._core.history import Retention
from ._core.life import UNTIL_ENDED, Life
from ._core.listener import AsyncListener, Listener
from ._core.message_queue import Overflow
from ._core.notices import Notices, notify
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


class Hub(Publishing, Subscribing, Asking):
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

    # Remembering

    @named_options("retain")
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

    @named_options("history")
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
        """Declare of what type the messages of matching keys are; return the pattern, from which type checkers know it.

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

    # What is there

    @named_options("tap")
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

        To be read: `print(hub.explain(key))`. Where nobody is subscribed, or nothing was published, it says what comes
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

    # What its life says

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
