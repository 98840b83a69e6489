"""The queue between a publish and whoever consumes later, and what happens when it is full."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, Protocol, cast

from ..event import Event, Gap
from ..key import Deliver, Key
from .entrances import ENTRANCES, ENTRANCES_FOR_PAIRS
from .gaps import OpenGap as OpenGap
from .items import Item as Item
from .items import Latest
from .items import as_event as as_event
from .items import as_tuple as as_tuple
from .notices import Notices, notify
from .room import Line

# Stands for a list or deque that is still empty: most queues never need them.
_NONE: Any = ()


class Overflow(Enum):
    """What a queue does with a message for which it has no room."""

    GROW = "grow"
    """Queue it all the same, and log a warning: nothing bounds the memory."""
    DROP_OLDEST = "drop oldest"
    """Drop the oldest message in the queue."""
    DROP_NEWEST = "drop newest"
    """Drop the new message."""
    LATEST = "latest"
    """Always keep only the newest message of each key: it replaces the one that is queued. The bound counts keys;
    beyond it, the key that has been queued longest is dropped."""
    CLOSE = "close"
    """Drop the new message and close the subscription: its consumer reads on, then gets `SubscriberTooSlow`."""


# Looking them up on the enumeration takes several times as long.
_GROW, _LATEST = Overflow.GROW, Overflow.LATEST


class QueueOwner(Protocol):
    """The owner of a mailbox. It is called only while the mailbox is consistent, so it may do anything to it."""

    def _overflowing(self, key: Key[Any]) -> None:
        """An episode of overflow has begun with a message of this key."""

    def _gap_passed(self, gap: Gap) -> None:
        """The consumer has reached a gap that it does not get."""

    def _too_slow(self) -> None:
        """It is full, and is to be closed."""


class Mailbox:
    """Messages in the order they were published, for one consumer or several that share them.

    Under every policy but `GROW` it never holds more than `maxsize` messages.

    Args:
        maxsize: The bound; `publish_wait` waits for room below it.
        overflow: What happens to a message beyond it.
        owner: Notified of overflow.
        gaps: Give the consumer a `Gap` where messages are missing; otherwise notify the owner.
    """

    __slots__ = (
        "has_events",
        "_open_gaps",
        "_overfull",
        "_owner",
        "_peak",
        "_put_pair",
        "_replay",
        "_spanned",
        "_waiters",
        "_watermark",
        "alert",
        "awaited",
        "closed",
        "dropped",
        "gaps",
        "items",
        "line",
        "maxsize",
        "overflow",
        "put",
        "room",
        "superseded",
        "wake",
    )

    def __init__(self, maxsize: int, overflow: Overflow, owner: QueueOwner, *, gaps: bool = False) -> None:
        self.items: deque[Item] | Latest = Latest() if overflow is Overflow.LATEST else deque()
        self.maxsize = maxsize
        self.overflow = overflow
        self.gaps = gaps
        # Called by a put while a consumer sleeps; None while none does.
        self.wake: Callable[[], None] | None = None
        self.awaited = False  # a consumer has waited for an item
        self.dropped = 0
        self.superseded = 0
        self.closed = False
        self.line: Line | None = None  # of publishers that wait for room
        # The number of items below which publish_wait has room: 0 while others wait, so that nobody overtakes them.
        self.room = maxsize
        # True while popping the first item is not enough: then the consumer calls `take`.
        self.alert = True
        self._owner = owner
        # The length from which a put has more to do: a new peak, or the bound. One comparison serves both.
        self._watermark = maxsize
        self._peak = 0  # as of the last `take`
        self._overfull = False
        self.has_events = False  # there may be events among the items, not only plain pairs
        self._replay: deque[Event[Any]] = _NONE  # of history: read before everything else, and not counted by the bound
        self._open_gaps: deque[OpenGap] = _NONE
        self._spanned = 0  # items before the last of them
        self._waiters: list[asyncio.Future[None]] = _NONE
        self.put: Deliver = ENTRANCES[overflow.name](self, _WHEN_FULL[overflow])
        self._put_pair: Callable[[Item], None] | None = None

    # Putting

    @property
    def takes_pairs(self) -> bool:
        """True if it may hold the same objects as other queues."""
        return self.overflow.name in ENTRANCES_FOR_PAIRS

    @property
    def put_pair(self) -> Callable[[Item], None]:
        """As `put`, for a pair that other queues get as well."""
        if self._put_pair is None:
            self._put_pair = ENTRANCES_FOR_PAIRS[self.overflow.name](self, _WHEN_FULL[self.overflow])
        return self._put_pair

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """Put an event with its metadata; with `bounded`, `GROW` drops the oldest to make room for it."""
        if self.wake is not None:
            self.wake()
        self.has_events = True
        items = self.items
        if type(items) is deque and len(items) < self.maxsize:
            items.append(event)
            if len(items) > self._watermark:
                self._grown()
        else:
            self._put_specially(event, bounded)

    def _put_specially(self, item: Item, bounded: bool = True) -> None:
        """Put an item that may replace another one, or may need room made for it."""
        key, items = item[0], self.items
        if isinstance(items, Latest) and key in items:
            replaced, items[key] = items[key], item
            self.superseded += 1
            if isinstance(replaced, Event):
                replaced.done()  # nobody needs it any more
        elif len(items) < self.maxsize or (self.overflow is _GROW and not bounded):
            self._append(item)
            if len(items) > self._watermark:
                self._grown()
        else:
            self._put_full(item)

    def _put_full(self, item: Item) -> None:
        """The queue is full: apply the policy to an item."""
        _WHEN_FULL[self.overflow](self, item)

    def _drop_oldest(self, item: Item) -> None:
        """Put an item in place of the first one."""
        items = self.items
        dropped = items.popleft()
        open_gaps = self._open_gaps
        open_gap = open_gaps[0] if open_gaps and not open_gaps[0].before else self._gap_in_front()
        open_gap.add(dropped[0])
        self.dropped += 1
        if type(items) is deque:
            items.append(item)
        else:
            self._append(item)
        if not self._overfull or type(dropped) is Event or self.line is not None:
            self._overflow(item[0], dropped)

    def _drop_newest(self, item: Item) -> None:
        """Do not put an item."""
        open_gaps = self._open_gaps
        open_gap = open_gaps[-1] if open_gaps and len(self.items) == self._spanned else self._gap_behind()
        open_gap.add(item[0])
        self.dropped += 1
        if not self._overfull or type(item) is Event:
            self._overflow(item[0], item)

    def _close(self, item: Item) -> None:
        """Drop an item, and have the owner closed."""
        self.dropped += 1
        self._overflow(item[0], item, self._owner._too_slow)

    def _overflow(self, key: Key[Any], dropped: Item, *first: Callable[[], object]) -> None:
        """Count an overflow by a message of this key, and notify the owner if an episode begins with it."""
        notices: Notices = [*first]
        if isinstance(dropped, Event):
            notices.append(partial(dropped.fail, why=FULL))
        self._begin_episode(key, notices)
        if self.line is not None and self.overflow is _LATEST:
            self._offer(len(self.line), len(self.line))  # publishers of the same key need no room now
        notify(notices)

    def _append(self, item: Item) -> None:
        items = self.items
        if isinstance(items, Latest):
            items[item[0]] = item
        else:
            items.append(item)

    def replay(self, events: list[Event[Any]]) -> None:
        """Queue these before everything else."""
        if not events:
            return
        if not self._replay:
            self._replay = deque()
        self._replay.extend(events)
        self.has_events = True
        self.alert = True
        for _ in events:
            if self.wake is None:
                break
            self.wake()

    @property
    def pending(self) -> int:
        """Messages that are queued."""
        return len(self.items) + len(self._replay)

    @property
    def has_more(self) -> bool:
        """True if there is something for another call of a listener."""
        return bool(self.items or self._replay)

    @property
    def is_replaying(self) -> bool:
        """True while replayed messages of a history are queued."""
        return bool(self._replay)

    @property
    def peak(self) -> int:
        """The most items that were ever queued."""
        return max(self._peak, len(self.items))

    @property
    def is_empty(self) -> bool:
        """True if nothing is queued, not even a gap."""
        return not (self.items or self._replay or (self._open_gaps and self.gaps))

    def _grown(self) -> None:
        """Handle a new peak, or a queue beyond its bound."""
        # `take` records how high the peak is, once it is reached.
        self.alert = True
        if len(self.items) <= self.maxsize:
            self._watermark = self.maxsize
            return
        self._watermark = sys.maxsize  # until the episode is over
        notices: Notices = []
        self._begin_episode(cast("deque[Item]", self.items)[-1][0], notices)
        notify(notices)

    def _begin_episode(self, key: Key[Any], notices: Notices) -> None:
        # It ends when the queue is half empty. If it ended at the first free place, a consumer that is just too slow
        # would cause a notice for every other message.
        self.alert = True
        if not self._overfull:
            self._overfull = True
            notices.append(partial(self._owner._overflowing, key))

    def _gap_in_front(self) -> OpenGap:
        """The open gap in front of the first item, where an item was just dropped."""
        open_gaps = self._open_gaps
        if open_gaps:
            first = open_gaps[0]
            if not first.before:
                return first
            self._spanned -= 1
            first.before -= 1
            if not first.before:
                return first
        else:
            open_gaps = self._open_gaps = deque()
        open_gap = OpenGap(self.overflow.value, 0)
        open_gaps.appendleft(open_gap)
        return open_gap

    def _gap_behind(self) -> OpenGap:
        """The open gap behind the last item."""
        open_gaps = self._open_gaps
        between = len(self.items) - self._spanned
        if open_gaps:
            if not between:
                return open_gaps[-1]
        else:
            open_gaps = self._open_gaps = deque()
        open_gap = OpenGap(self.overflow.value, between)
        open_gaps.append(open_gap)
        self._spanned += between
        return open_gap

    # Taking

    def take(self) -> Item | Gap | None:
        """Pop the first item or gap; None if there is none.

        For use while `alert` is set; otherwise popping the first of `items` does the same.
        """
        while True:
            if self._replay:
                event = self._replay.popleft()
                if not self._replay:
                    self._replay = _NONE
                    self._changed()
                return event
            if self._open_gaps and not self._open_gaps[0].before:
                gap = self._take_hole()
                if self.gaps:
                    return gap
                # The owner may have changed anything: look again.
                self._owner._gap_passed(gap)
                continue
            items = self.items
            if not items:
                return None
            if len(items) > self._peak:
                self._peak = len(items)
            item = items.popleft()
            if self._open_gaps:
                self._spanned -= 1
                self._open_gaps[0].before -= 1
            self._eased(1)
            return item

    def take_gap(self) -> None:
        """Notify the owner of the gaps at the front, since the consumer does not get them."""
        while not self._replay and self._open_gaps and not self._open_gaps[0].before:
            self._owner._gap_passed(self._take_hole())

    def _take_hole(self) -> Gap:
        gap = self._open_gaps.popleft().gap()
        if not self._open_gaps:
            self._open_gaps = _NONE
        self._changed()
        return gap

    def take_many(self, most: int) -> list[Any]:
        """Pop at most that many at once, gaps included."""
        taken: list[Any] = []
        while len(taken) < most and self.alert and (self._replay or self._open_gaps):
            first = Mailbox.take(self)  # a paced mailbox pops several by its own
            if first is None:
                break
            taken.append(first)
        items = self.items
        length = len(items)
        number = min(most - len(taken), length)
        if not number:
            return taken
        if self.alert and length > self._peak:
            self._peak = length
        if isinstance(items, Latest) or number < length:
            popleft = items.popleft
            several: list[Any] = [popleft() for _ in range(number)]
        else:
            several = list(items)
            items.clear()
        if self.alert:
            self._eased(number)
        if not taken:
            return several
        taken += several
        return taken

    @property
    def has_gaps(self) -> bool:
        """True if messages are missing somewhere in the queue."""
        return bool(self._open_gaps)

    def miss(self, gap: Gap) -> None:
        """Mark that messages are missing behind the last item; the consumer learns it there."""
        number = len(self._open_gaps)
        open_gap = self._gap_behind()
        if len(self._open_gaps) == number:
            open_gap.merge(OpenGap.of(gap))
        else:
            self._open_gaps[-1] = OpenGap.of(gap, open_gap.before)
        self.alert = True
        if self.wake is not None:
            self.wake()

    def forget_gaps(self) -> None:
        """Forget the gaps so far: the consumer has made up for them."""
        self._open_gaps = _NONE
        self._spanned = 0
        self._changed()

    def _eased(self, number: int) -> None:
        """Account for items that were popped or dropped."""
        if self._overfull and self._is_half_empty():
            self._overfull = False
        self._changed()
        if self.line is not None:
            self._offer(number, self.maxsize - len(self.items))

    def _is_half_empty(self) -> bool:
        return len(self.items) <= self.maxsize // 2

    def _changed(self) -> None:
        """Recompute what the fast paths read."""
        self.room = self.maxsize if self.line is None else 0
        self.alert = self._overfull or bool(self._open_gaps or self._replay or self.line)
        if not self._overfull:
            self._watermark = min(self._peak, self.maxsize)
            if len(self.items) > self._watermark:
                self.alert = True
                self._watermark = self.maxsize

    def queued(self) -> list[Event[Any]]:
        """What is queued now, as events."""
        items = self.items
        return [as_event(item) for item in (items.values() if isinstance(items, Latest) else items)]

    def give_up(self, why: str, notices: Notices) -> None:
        """Report that nobody will finish with what is queued."""
        if self.has_events:
            notices += [partial(event.fail, why=why) for event in self.queued() if event.confirmed is not None]

    def drop_all(self, notices: Notices) -> int:
        """Drop and count what is queued; return how many."""
        self.give_up("dropped, it was removed or closed", notices)
        count = self.pending
        self.dropped += count
        self._peak = self.peak
        self.items.clear()
        self._replay = self._open_gaps = _NONE
        self._spanned = 0
        self._eased(count)
        return count

    def forget(self) -> None:
        """Forget what is queued and who waits, without notifying anyone: in a forked process both are the parent's."""
        self.drop_all([])
        self._waiters = _NONE
        self.wake = self.line = None
        self.awaited = self._overfull = False
        self._changed()

    async def wait(self, loop: asyncio.AbstractEventLoop, check: Callable[[], None]) -> None:
        """Wait until something may be there to take, or the mailbox is closed.

        If cancelled, it passes its wake-up, if it got one, to the next waiting consumer.
        """
        self.awaited = True
        waiter = loop.create_future()
        if not self._waiters:
            self._waiters = []
        self._waiters.append(waiter)

        def wake() -> None:
            check()
            self._wake_one()

        self.wake = wake
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                if self.items or self._replay or self._open_gaps:
                    self._wake_one()
            else:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            raise

    def _wake_one(self) -> None:
        waiters = self._waiters
        while waiters:
            waiter = waiters.pop(0)
            # A loop may have been closed under its sleepers.
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
                break
        if not waiters:
            self.wake = None

    def close(self) -> None:
        """Wake everybody for good; what is queued can still be read."""
        self.closed = True
        while self._waiters:
            self._wake_one()
        if self.line is not None:
            self._offer(len(self.line), len(self.line))

    # Room, for publishers that wait

    def has_room(self, key: Key[Any], ahead: int) -> bool:
        """True if a message of this key would drop nothing, once `ahead` others are in the queue."""
        items = self.items
        return len(items) + ahead < self.maxsize or self.closed or (type(items) is Latest and key in items)

    def line_changed(self) -> None:
        """Called when a publisher has joined or left the line."""
        was_alert = self.alert
        self._changed()
        self.alert |= was_alert  # its consumer has not been there yet
        if self.line is not None:
            self._offer(1, self.maxsize - len(self.items))

    def _offer(self, number: int, free: int) -> None:
        """Grant the places that have just become free to publishers that wait."""
        assert self.line is not None
        self.line.offer(free - number, free)


FULL = "dropped, its queue was full"


_WHEN_FULL: dict[Overflow, Callable[[Mailbox, Item], None]] = {
    Overflow.GROW: Mailbox._drop_oldest,  # the bound for relayed messages under `GROW`
    Overflow.DROP_OLDEST: Mailbox._drop_oldest,
    Overflow.DROP_NEWEST: Mailbox._drop_newest,
    Overflow.LATEST: Mailbox._drop_oldest,
    Overflow.CLOSE: Mailbox._close,
}
