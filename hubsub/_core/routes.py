"""Routes and their cache, which makes publishing as cheap as a loop over the listeners."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Protocol

from ..event import Event
from ..key import PLUS, STAR, Deliver, Key
from .runs import Run

_by_order: Any = attrgetter("order")


class Target(Protocol):
    """What may stand in a route: a registration, an observer, or an outbox."""

    order: int  # of subscription
    is_subscription: bool  # counted in what `publish` returns
    responds: bool  # it answers requests
    remote: bool  # it takes messages out of the process
    may_respond: bool  # somebody beyond it may answer requests
    diverts: Sequence[tuple[str, ...]]  # patterns whose messages a plain publish delivers to it alone
    deliver: Any  # what a publish calls with key and message; pyright would take a `Deliver` for a method here
    mailbox: Any  # its queue, or None
    counted: int  # messages routed to it, as far as routes have been folded
    missed: int  # of these, the ones that never arrived

    @property
    def may_refuse(self) -> bool:
        """True if it may refuse to be called by another thread than the hub's."""
        ...

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> object:
        """Deliver a message with what travels along; return whether it is queued now.

        `bounded` says that a queue which may grow beyond its bound has to make room for it instead.
        """

    def returned(self, event: Event[Any], result: object, /) -> None:
        """Judge what `deliver` returned to the first publish along a route, unless that was None."""

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are for it."""
        ...

    def _miss(self, key: Key[Any], message: Any) -> None:
        """Replace it in a publish that was running when it was removed."""


class Tick:
    """A step in counting the publishes along a route.

    Following a link is quicker than adding one, since no number is made. The last step of a turn has no link, so the
    publish gets to `Exchange._turn` without having compared a counter each time.
    """

    __slots__ = ("next", "number")

    # Steps in a turn.
    TURN = 1024

    def __init__(self, number: int, next: Tick | None) -> None:
        self.number = number
        self.next = next

    @classmethod
    def make_first(cls) -> Tick:
        """The first step of a turn, which all routes share."""
        tick: Tick | None = None
        for number in reversed(range(cls.TURN)):
            tick = cls(number, tick)
        assert tick is not None
        return tick


FIRST = Tick.make_first()


class Route(list[Deliver]):
    """The callables that a message of one key is delivered to, in order of subscription.

    Once made, it changes in one way only: the callable of a removed target is overwritten. Counting each listener's
    messages would cost every publish a step per listener. So a route counts its own publishes, and `fold` adds them to
    its targets when the counters are read or the route is dropped.
    """

    __slots__ = (
        "__weakref__",
        "_indices",
        "diverted",
        "is_judged",
        "key",
        "mailboxes",
        "only",
        "others",
        "published",
        "sole",
        "steps",
        "targets",
        "tick",
        "width",
    )

    # No __init__: without one, an instance is made in C, in half the time. Its maker sets the first nine attributes.
    key: Key[Any]
    targets: list[Any]  # of `Target`, in order
    steps: list[Any]  # what stands at each index: the very list of targets, unless some share an index (`Run`)
    published: int  # without what `tick` counts
    tick: Tick
    width: int  # how many of the targets are subscriptions
    sole: Target | None  # the only target, if that is a subscription
    only: Deliver | None  # the only callable, if there is one
    is_judged: bool  # what each of them returns was checked once: see `Exchange._publish_first`
    _indices: dict[int, list[int]]  # set by the first failure: where each callable stands, by its id
    mailboxes: Sequence[Any]  # set by the first publish_wait
    diverted: Sequence[Target]  # set where a bridge diverts the key: the registrations that get what it brings back
    others: dict[
        Any, tuple[Sequence[Target], Target | None]
    ]  # set by relayed messages: the targets that get them, by the outbox that is left out

    def indices_of(self, deliver: object) -> Sequence[int]:
        """The indices of a callable, also those where it has been overwritten; all indices if that is unknown."""
        try:
            indices = self._indices
        except AttributeError:
            indices = self._indices = {}
            for index, (step, each) in enumerate(zip(self.steps, self, strict=False)):
                # The target may have another callable by now; the route still holds the one that it had.
                for callable in {id(step.deliver), id(each)}:
                    indices.setdefault(callable, []).append(index)
        return indices.get(id(deliver)) or range(len(self))

    def find(self, target: Target, reordered: bool = False) -> int | None:
        """The index of a target that shares it with no other; `reordered`: the targets may not be in order any more."""
        steps = self.steps
        index = bisect_left(steps, target.order, key=_by_order)
        while index < len(steps) and steps[index].order == target.order:
            if steps[index] is target:
                return index
            index += 1
        return next((index for index, each in enumerate(steps) if each is target), None) if reordered else None

    def withdraw(self, target: Target, reordered: bool = False) -> None:
        """Make the publishes that run along this route skip a target."""
        index = self.find(target, reordered)
        if index is not None:
            self[index] = target._miss
            return
        steps = self.steps
        if steps is self.targets:
            return
        before = steps[bisect_right(steps, target.order, key=_by_order) - 1]
        if not (type(before) is Run and before.withdraw(target)) and reordered:
            any(step.withdraw(target, True) for step in steps if type(step) is Run)

    def update(self, target: Target) -> None:
        """Update a route that no publish runs along, after a target was added to a pattern or removed from it.

        No two of its targets share an index.
        """
        index, wanted = self.find(target), target.is_on(self.key)
        if index is not None and not wanted:
            del self[index], self.targets[index]
        elif index is None and wanted:
            index = bisect_left(self.targets, target.order, key=_by_order)
            self.insert(index, target.deliver)
            self.targets.insert(index, target)
            self.is_judged = False


class Observer:
    """Comes first in routes: it gets each message before the delivery, and is not a subscription."""

    __slots__ = ("_observe", "counted", "deliver", "mailbox", "missed", "order")

    is_subscription = False
    may_refuse = False
    responds = False
    remote = False
    may_respond = False
    diverts: Sequence[tuple[str, ...]] = ()

    def __init__(self, deliver: Deliver, observe: Callable[[Event[Any]], None]) -> None:
        self.deliver = deliver
        self._observe = observe
        self.order = 0  # before everybody
        self.counted = self.missed = 0
        self.mailbox = None

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> None:
        """As `Target.deliver_event`."""
        self._observe(event)

    def returned(self, event: Event[Any], result: object, /) -> None:
        """It is not a user's function: there is nothing to check."""

    def is_on(self, key: tuple[str, ...]) -> bool:
        """It is on every key whose route has it."""
        return True

    def _miss(self, key: Key[Any], message: Any) -> None:
        """As `Target._miss`."""


class Tally:
    """Totals of dropped routes."""

    __slots__ = ("published", "routed")

    def __init__(self) -> None:
        self.published = 0
        self.routed = 0

    def fold(self, route: Route) -> None:
        """Add what `route` counted to its targets and to the totals, and reset its count to zero."""
        published = route.published + route.tick.number
        if published:
            route.published = 0
            route.tick = FIRST
            self.published += published
            self.routed += published * route.width
            for target in route.targets:
                target.counted += published


_NONE: list[Key[Any]] = []


class RouteCache:
    """Routes by key; finds those that a pattern matches without looking at the others.

    When `size` has reached `limit` its owner must start another one: it is full, or most of its index is stale.

    Args:
        limit: Routes kept.
        tally: Counts for dropped routes.
        indexed: Keep the index from the start; otherwise it is made when it is first needed. Most programs subscribe
            first and publish afterwards, and never need it.
    """

    __slots__ = ("_index", "_limit", "_stale", "_tally", "indexed", "is_searched", "limit", "routes", "size")

    # With more candidates than this, finding the affected routes costs more than making all routes again over time.
    MOST_SEARCHED = 5000

    def __init__(self, limit: int, tally: Tally, *, indexed: bool = False) -> None:
        # A key of one part is also found under its bare string: hub.publish("tick").
        self.routes: dict[tuple[str, ...] | str, Route] = {}
        self.size = 0
        # By length of key, then position, then part: the keys that have this part at this position.
        self._index: dict[int, list[dict[str, list[Key[Any]]]]] = {}
        self.indexed = indexed
        self.is_searched = False  # holds the routes that publishes are running along
        # Keys that are in the index but have no route now. Removing them would cost more than skipping them.
        self._stale: dict[Key[Any], None] = {}
        self.limit = self._limit = limit
        self._tally = tally

    def add(self, route: Route) -> None:
        """Cache a route."""
        key = route.key
        self.size += 1
        self.routes[key] = route
        if len(key) == 1:
            self.routes[key[0]] = route
        if self.indexed:
            self._add_to_index(key)

    def _add_to_index(self, key: Key[Any]) -> None:
        if self._stale and key in self._stale:
            del self._stale[key]
            return
        positions = self._index.get(len(key))
        if positions is None:
            positions = self._index[len(key)] = [defaultdict(list) for _ in key]
        for keys, part in zip(positions, key):  # noqa: B905 - equally long, and strict= is slow here
            keys[part].append(key)

    def drop(self, route: Route) -> None:
        """Drop a route and fold its counts; a publish that is running along it goes on."""
        key = route.key
        del self.routes[key]
        if len(key) == 1:
            del self.routes[key[0]]
        self.size -= 1
        self._tally.fold(route)
        if not self.indexed:
            return
        if self.routes:
            self._stale[key] = None
            if len(self._stale) > self.size + self.MOST_SEARCHED:
                self.limit = 0
        else:
            self._index.clear()
            self._stale.clear()
            self.limit = self._limit

    def touched(self, pattern: tuple[str, ...], most: int = sys.maxsize) -> list[Route] | None:
        """Return the routes whose key matches `pattern`.

        None if they are more than `most`, or if finding them would cost more than making them all again.
        """
        routes = self.routes
        if STAR not in pattern and PLUS not in pattern:
            route = routes.get(pattern)
            return [] if route is None else [route]
        if not routes:
            return []
        if not self.indexed:
            if self.size > max(most, self.MOST_SEARCHED):
                return None
            self.indexed = True
            for key in dict.fromkeys(route.key for route in routes.values()):
                self._add_to_index(key)
        search = min(max(most, self.MOST_SEARCHED), sys.maxsize - 1)
        literal = [(position, part) for position, part in enumerate(pattern) if part != STAR and part != PLUS]
        found: list[Route] = []
        for length, positions in self._index.items():
            if length < len(pattern) or (length > len(pattern) and pattern[-1] != STAR):
                continue
            if literal:
                keys = min([positions[position].get(part, _NONE) for position, part in literal], key=len)
            else:
                keys = list(islice(chain.from_iterable(positions[0].values()), search + 1))
            if len(keys) > search:
                return None
            if len(literal) > 1:
                for position, part in literal:
                    keys = [key for key in keys if key[position] == part]
            found += [routes[key] for key in keys if key in routes]
            if len(found) > most:
                return None
        return found

    def fold(self) -> None:
        """Bring every counter up to date."""
        for route in self.routes.values():
            self._tally.fold(route)

    def dismantle(self, most: int) -> list[Route]:
        """Drop up to `most` routes and as many entries of the index; return these routes."""
        routes = self.routes
        given_up = [routes.popitem()[1] for _ in range(min(most, len(routes)))]
        for route in given_up:
            self._tally.fold(route)
        self._stale.clear()
        left = most
        for length, positions in list(self._index.items()):
            for position in positions:
                while position and left > 0:
                    part, keys = position.popitem()
                    if len(keys) > left:
                        # Freeing a long list at once would stall the loop.
                        del keys[-left:]
                        position[part] = keys
                    left -= len(keys) + 1
            if not any(positions):
                del self._index[length]
        return given_up

    def is_empty(self) -> bool:
        """True if neither a route nor an entry of the index is left."""
        return not (self.routes or self._index)
