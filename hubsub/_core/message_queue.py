"""The queue between a publish and whoever consumes later, and what happens when it is full."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from time import time as now
from typing import Any, Protocol, cast

from ..event import Event, Gap
from ..key import Deliver, Key

Item = tuple[Key[Any], Any]  # a plain pair, or an `Event` where metadata travels with the message

as_tuple = tuple.__new__


def as_event(item: Item) -> Event[Any]:
    """Return what a mailbox holds as an event."""
    return item if type(item) is Event else as_tuple(Event, item)


class Overflow(Enum):
    """What a queue does with a message for which it has no room."""

    GROW = "grow"
    """Take it all the same, and complain: memory is then the consumer's problem."""
    DROP_OLDEST = "drop oldest"
    """Drop the message that waits longest."""
    DROP_NEWEST = "drop newest"
    """Drop this one."""
    LATEST = "latest"
    """Keep the newest of each key only, always: a newer message takes the place of the waiting one. The bound counts
    keys; beyond it the key that waits longest is dropped."""
    CLOSE = "close"
    """Drop it and close the subscription: the consumer reads what is queued, then gets `SubscriberTooSlow`."""


class Owner(Protocol):
    """Whoever has a mailbox: what it is told."""

    def _overflowing(self, key: Key[Any]) -> None:
        """An episode of overflow begins with a message of this key."""

    def _gap_passed(self, gap: Gap) -> None:
        """The consumer has come to a gap that it does not want to see."""

    def _too_slow(self) -> None:
        """It is full, and is to be closed."""


class Mailbox:
    """Messages in the order they were published, for one consumer or several that share them.

    Under every policy but `GROW` it never holds more than `maxsize` messages.

    Args:
        maxsize: The bound; `publish_wait` waits for room below it.
        overflow: What becomes of a message beyond it.
        owner: Is told of overflow.
        gaps: Give the consumer a `Gap` where messages are missing; else the owner is told.
    """

    __slots__ = (
        "_holes",
        "_overfull",
        "_owner",
        "_places",
        "_replay",
        "_reserved",
        "_spanned",
        "_waiters",
        "_watermark",
        "alert",
        "awaited",
        "closed",
        "dropped",
        "gaps",
        "items",
        "maxsize",
        "overflow",
        "peak",
        "put",
        "room",
        "superseded",
        "wake",
    )

    def __init__(self, maxsize: int, overflow: Overflow, owner: Owner, *, gaps: bool = False) -> None:
        self.items: deque[Item] | Latest = Latest() if overflow is Overflow.LATEST else deque()
        self.maxsize = maxsize
        self.overflow = overflow
        self.gaps = gaps
        # Called by whoever puts while somebody sleeps; None while nobody does.
        self.wake: Callable[[], None] | None = None
        self.awaited = False  # somebody has waited for an item
        self.dropped = 0
        self.superseded = 0
        self.peak = 0
        self.closed = False
        # Below so many items there is room for publish_wait: none while others wait, so that nobody overtakes.
        self.room = maxsize
        # True while there is more to taking than popping the first item: then the consumer calls `take`.
        self.alert = False
        self._owner = owner
        # The first length that nobody has noticed yet: a new peak, or the bound. One comparison for both.
        self._watermark = 0
        self._overfull = False
        self._replay: deque[Event[Any]] = deque()  # of history: read before everything else, outside of the bound
        self._holes: deque[Hole] = deque()
        self._spanned = 0  # items before the last hole
        self._reserved = 0
        self._places: deque[asyncio.Future[None]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        # Closures, not methods: a quarter less for every message through a queue.
        self.put: Deliver = _ENTRANCES[overflow](self)

    # Putting

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """Put an event with what travels with it; `bounded` says that there must be room for it under `GROW`, too."""
        if self.wake is not None:
            self.wake()
        items = self.items
        if type(items) is deque and len(items) < self.maxsize:
            items.append(event)
        elif not self._put_specially(event, bounded):
            return
        if len(items) > self._watermark:
            self._grown()

    def _put_specially(self, event: Event[Any], bounded: bool) -> bool:
        """Put an event that another one may have to give way to, or that is dropped; return whether it was not."""
        key, items = event[0], self.items
        if isinstance(items, Latest) and key in items:
            self._supersede(items[key])
        elif (
            len(items) >= self.maxsize and (bounded or self.overflow is not Overflow.GROW) and not self._make_room(key)
        ):
            event.fail(why="dropped, its queue was full")
            return False
        if isinstance(items, Latest):
            items[key] = event
        else:
            items.append(event)
        return True

    def replay(self, events: list[Event[Any]]) -> None:
        """Have these read before everything else."""
        self._replay.extend(events)
        self._hand_out()
        if events and self.wake is not None:
            self.wake()

    @property
    def pending(self) -> int:
        """Messages that wait to be taken."""
        return len(self.items) + len(self._replay)

    def _supersede(self, item: Item) -> None:
        self.superseded += 1
        if type(item) is Event:
            item.done()  # nobody needs it any more

    def _grown(self) -> None:
        length = len(self.items)
        self.peak = max(self.peak, length)
        self._watermark = min(self.peak, self.maxsize)
        if length > self.maxsize:
            self._watermark = self.peak
            self._begin_episode(cast("deque[Item]", self.items)[-1][0])

    def _begin_episode(self, key: Key[Any]) -> None:
        # It ends when the queue is half empty. Ending it at the first free place would tell the owner of every other
        # message of a consumer that keeps up just not quite.
        self.alert = True
        if not self._overfull:
            self._overfull = True
            self._owner._overflowing(key)

    def _make_room(self, key: Key[Any]) -> bool:
        """The queue is full: do what the policy says; return whether a message of this key may be put now."""
        return _ROOM_MAKERS[self.overflow](self, key)

    def _drop_oldest(self, newest: Key[Any]) -> bool:
        """Drop the first item for one of the key `newest`; the hole is where it was, at the front."""
        item = self.items.popleft()
        key = item[0]
        self.dropped += 1
        if type(item) is Event:
            item.fail(why="dropped, its queue was full")
        holes = self._holes
        if not holes or holes[0].before:
            if holes:
                self._spanned -= 1
                holes[0].before -= 1
            if not holes or holes[0].before:
                holes.appendleft(Hole(self.overflow.value, 0))
        hole = holes[0]
        hole.add(key)
        if not self._overfull:
            self._begin_episode(newest)
        return True

    def _drop_newest(self, key: Key[Any]) -> bool:
        """Drop what is being put; the hole is behind the last item."""
        self.dropped += 1
        holes = self._holes
        between = len(self.items) - self._spanned
        if between or not holes:
            holes.append(Hole(self.overflow.value, between))
            self._spanned += between
        hole = holes[-1]
        hole.add(key)
        if not self._overfull:
            self._begin_episode(key)
        return False

    def _give_up(self, key: Key[Any]) -> bool:
        self.dropped += 1
        self._begin_episode(key)
        self._owner._too_slow()
        return False

    # Taking

    def take(self) -> Item | Gap | None:
        """Take what is first, a gap included; None if there is nothing after all.

        For when `alert` is set; else popping the first of `items` will do.
        """
        if self._replay:
            event = self._replay.popleft()
            self._hand_out()
            return event
        gap = self.take_gap()
        if gap is not None:
            return gap
        if not self.items:
            return None
        item = self.items.popleft()
        if self._holes:
            self._spanned -= 1
            self._holes[0].before -= 1
        self._eased()
        return item

    def take_gap(self) -> Gap | None:
        """If a gap is first, take it: return it if it is wanted, else tell the owner."""
        if self._replay or not self._holes or self._holes[0].before:
            return None
        gap = self._holes.popleft().gap()
        self._eased()
        if self.gaps:
            return gap
        self._owner._gap_passed(gap)
        return None

    @property
    def has_gaps(self) -> bool:
        """True if messages are missing somewhere in the queue."""
        return bool(self._holes)

    def miss(self, gap: Gap) -> None:
        """Let the consumer know, once it comes there, that messages are missing behind the last one."""
        holes = self._holes
        between = len(self.items) - self._spanned
        hole = Hole.of(gap, between)
        if between or not holes:
            holes.append(hole)
            self._spanned += between
        else:
            holes[-1].merge(hole)
        self.alert = True
        if self.wake is not None:
            self.wake()

    def forget_gaps(self) -> None:
        """Tell nobody of the gaps so far: whoever consumes makes up for them."""
        self._holes.clear()
        self._spanned = 0
        self._hand_out()

    def _eased(self) -> None:
        if self._overfull and len(self.items) <= self.maxsize // 2:
            self._overfull = False
            self._watermark = min(self.peak, self.maxsize)
        self._hand_out()

    def queued(self) -> list[Event[Any]]:
        """What is queued now, as events."""
        items = self.items
        return [as_event(item) for item in (items.values() if isinstance(items, Latest) else items)]

    def give_up(self, why: str) -> None:
        """Tell whoever waits for what is queued that nobody will finish with it."""
        for event in self.queued() if self.items else ():
            event.fail(why=why)

    def drop_all(self) -> int:
        """Drop and count what is queued; return how many."""
        self.give_up("dropped, it was removed or closed")
        count = self.pending
        self.dropped += count
        self.items.clear()
        self._replay.clear()
        self._holes.clear()
        self._spanned = 0
        self._eased()
        return count

    async def wait(self, loop: asyncio.AbstractEventLoop, check: Callable[[], None]) -> None:
        """Wait until something may be there to take, or the mailbox is closed.

        Cancelled, it passes a wake-up that it got on to the next who waits.
        """
        self.awaited = True
        waiter = loop.create_future()
        self._waiters.append(waiter)

        def wake() -> None:
            check()
            self._wake_one()

        self.wake = wake
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                if self.items:
                    self._wake_one()
            else:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            raise

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            # A loop may have been closed under its sleepers.
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
                break
        if not self._waiters:
            self.wake = None

    def close(self) -> None:
        """Let nobody wait any more; what is queued can still be taken."""
        self.closed = True
        while self._waiters:
            self._wake_one()
        self._hand_out()

    # Places, for publish_wait

    def has_room(self, key: Key[Any]) -> bool:
        """True if a message of this key would drop nothing and overtake nobody."""
        return len(self.items) < self.room or self.closed or (type(self.items) is Latest and key in self.items)

    async def place(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a place and hold it until `give_back`. First come, first served; a closed mailbox has places."""
        waiter = loop.create_future()
        self._places.append(waiter)
        self._hand_out()
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.give_back()
            else:
                with suppress(ValueError):
                    self._places.remove(waiter)
                self._hand_out()
            raise

    def give_back(self) -> None:
        """Release a place."""
        self._reserved -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._places and (self.closed or len(self.items) + self._reserved < self.maxsize):
            waiter = self._places.popleft()
            if not waiter.done() and not waiter.get_loop().is_closed():
                self._reserved += 1
                waiter.set_result(None)
        self.room = 0 if self._places else self.maxsize - self._reserved
        self.alert = self._overfull or bool(self._places or self._holes or self._replay)


class Latest(OrderedDict[Key[Any], Item]):
    """The newest item of each key, taken in the order in which the keys began to wait.

    Ordered, because taking the first of a plain dict passes over the places of all that were taken before.
    """

    def popleft(self) -> Item:
        """Remove and return the first item."""
        return self.popitem(last=False)[1]


class Hole:
    """A gap in the making."""

    __slots__ = ("before", "count", "keys", "reason", "since", "until")

    MOST_KEYS = 64

    def __init__(self, reason: str, before: int) -> None:
        self.reason = reason
        self.before = before  # items between it and the hole before it, or the front
        self.count: int | None = 0
        self.since = self.until = now()
        self.keys: dict[Key[Any], None] | None = {}

    @classmethod
    def of(cls, gap: Gap, before: int = 0) -> Hole:
        """The hole that `gap` tells of."""
        hole = cls(gap.reason, before)
        hole.count, hole.since, hole.until = gap.count, gap.since, gap.until
        hole.keys = None if gap.keys is None else dict.fromkeys(gap.keys)
        return hole

    def add(self, key: Key[Any]) -> None:
        """A message of this key is missing, too."""
        if self.count is not None:
            self.count += 1
        self.until = now()
        if self.keys is not None and key not in self.keys:
            self.keys[key] = None
            if len(self.keys) > self.MOST_KEYS:
                self.keys = None

    def merge(self, other: Hole) -> None:
        """All that is missing in `other` is missing here."""
        if other.reason not in self.reason.split(", "):
            self.reason += f", {other.reason}"
        self.count = None if self.count is None or other.count is None else self.count + other.count
        self.since = min(self.since, other.since)
        self.until = max(self.until, other.until)
        keys = None if self.keys is None or other.keys is None else self.keys | other.keys
        self.keys = None if keys is None or len(keys) > self.MOST_KEYS else keys

    def gap(self) -> Gap:
        keys = None if self.keys is None else tuple(self.keys)
        return Gap(self.reason, self.count, self.since, self.until, keys)


# The entrances, one made for each mailbox. In each, waking is first: it refuses the wrong thread, and then nothing is
# half-done.


def _growing(box: Mailbox) -> Deliver:
    items = cast("deque[Item]", box.items)
    append = items.append

    def put(key: Key[Any], message: Any) -> None:
        if box.wake is not None:
            box.wake()
        append((key, message))
        if len(items) > box._watermark:
            box._grown()

    return put


def _bounded(box: Mailbox) -> Deliver:
    items = cast("deque[Item]", box.items)
    append = items.append
    maxsize = box.maxsize
    make_room = _ROOM_MAKERS[box.overflow].__get__(box)

    def put(key: Key[Any], message: Any) -> None:
        if box.wake is not None:
            box.wake()
        if len(items) >= maxsize and not make_room(key):
            return
        append((key, message))
        if len(items) > box._watermark:
            box._grown()

    return put


def _latest(box: Mailbox) -> Deliver:
    items = cast(Latest, box.items)
    maxsize = box.maxsize

    def put(key: Key[Any], message: Any) -> None:
        if box.wake is not None:
            box.wake()
        if key in items:
            box._supersede(items[key])
        elif len(items) >= maxsize:
            box._drop_oldest(key)
        items[key] = (key, message)
        if len(items) > box._watermark:
            box._grown()

    return put


_ROOM_MAKERS: dict[Overflow, Callable[[Mailbox, Key[Any]], bool]] = {
    Overflow.GROW: Mailbox._drop_oldest,  # what a bridge brings
    Overflow.DROP_OLDEST: Mailbox._drop_oldest,
    Overflow.DROP_NEWEST: Mailbox._drop_newest,
    Overflow.LATEST: Mailbox._drop_oldest,
    Overflow.CLOSE: Mailbox._give_up,
}

_ENTRANCES: dict[Overflow, Callable[[Mailbox], Deliver]] = {
    Overflow.GROW: _growing,
    Overflow.DROP_OLDEST: _bounded,
    Overflow.DROP_NEWEST: _bounded,
    Overflow.LATEST: _latest,
    Overflow.CLOSE: _bounded,
}
