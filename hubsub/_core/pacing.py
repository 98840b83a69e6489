"""Queues of async listeners that are called seldom: by `batch=`, `debounce=` or `throttle=`.

Such a queue knows when the next call is due. What it pops is what one call gets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, NamedTuple, cast

from ..describe import describe
from ..errors import Undelivered
from ..event import Event, Gap
from ..key import Key
from .checks import count, seconds
from .items import Item, Latest, as_tuple
from .message_queue import Mailbox, Overflow, QueueOwner
from .notices import Notices

NOW = -inf
"""Due at once, by any clock."""


class Clock(NamedTuple):
    """What a paced queue asks of its listener."""

    time: Callable[[], float | None]
    """The time by the loop's clock; None while there is no loop."""
    hurries: Callable[[], bool]
    """True while everything is due at once, since the listener or its hub is being closed."""


class Pace(NamedTuple):
    """How seldom an async listener is called: one of `batch`, `debounce` and `throttle`."""

    kind: str
    seconds: float
    most: int = 1
    """The most messages of a call."""

    def check(self, maxsize: int, overflow: Overflow | None, *, context: str | None, once: bool) -> None:
        """Refuse other options that make no sense with it.

        Raises:
            ValueError: There is one.
        """
        option = f"{self.kind}="
        if once:
            raise ValueError(f"once must be False with {option}, since one message comes alone and at once")
        if context == "publisher":
            raise ValueError(f"context must be 'listener' with {option}, since a call stands for several publishes")
        if self.kind == "batch":
            if self.most > maxsize:
                raise ValueError(f"batch must be of at most maxsize={maxsize} messages, not {self.most}")
        elif overflow is not None and Overflow(overflow) is not Overflow.LATEST:
            raise ValueError(f"overflow must be Overflow.LATEST with {option}: it keeps the last message of each key")

    def mailbox(self, maxsize: int, overflow: Overflow, owner: QueueOwner, clock: Clock) -> PacedMailbox:
        """Return a queue of this pace."""
        kind = {"batch": BatchingMailbox, "debounce": DebouncingMailbox, "throttle": ThrottlingMailbox}[self.kind]
        return kind(maxsize, overflow, owner, self, clock)


def pace_of(batch: Any, debounce: Any, throttle: Any) -> Pace | None:
    """Return the pace that the options of a listener ask for, if any.

    Raises:
        ValueError: One of them is invalid, or there is more than one.
    """
    options = {"batch": batch, "debounce": debounce, "throttle": throttle}
    names = [name for name, value in options.items() if value is not None]
    if not names:
        return None
    name, *others = names
    if others:
        raise ValueError(f"{others[0]} must be None with {name}=: only one of batch=, debounce= and throttle=")
    if name != "batch":
        return Pace(name, seconds(options[name], name, zero=False))
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be (messages, seconds), such as (100, 0.05), not {describe(batch)}")
    return Pace(name, seconds(batch[1], "the second part of batch"), count(batch[0], "the first part of batch"))


class PacedMailbox(Mailbox):
    """A mailbox whose items wait until they are due. `alert` is always set: only `take` pops."""

    __slots__ = ("_clock", "_pace")

    def __init__(self, maxsize: int, overflow: Overflow, owner: QueueOwner, pace: Pace, clock: Clock) -> None:
        super().__init__(maxsize, overflow, owner)
        self._pace = pace
        self._clock = clock
        self.put = self._put

    def _put(self, key: Key[Any], message: Any) -> None:
        self.put_event(as_tuple(Event, (key, message)))

    def due(self) -> float | None:
        """Return when the next call is due, by the loop's clock; `NOW` if at once, None if nothing is queued."""
        raise NotImplementedError

    def calls_due(self, most: int) -> int:
        """Return how many calls are due now, counting up to `most`."""
        raise NotImplementedError

    def restart(self) -> None:
        """Have everything that is queued be due: the clock by which it waited is gone."""
        raise NotImplementedError

    @property
    def has_more(self) -> bool:
        """True if a call is due."""
        due = self.due()
        if due is None or due == NOW:
            return due is not None
        now = self._clock.time()
        return now is None or due <= now

    def _changed(self) -> None:
        super()._changed()
        self.alert = True


class BatchingMailbox(PacedMailbox):
    """Pops an event whose message is a tuple of events, and whose key is that of the first.

    It is due when it is full, or its first message has waited long enough.
    """

    __slots__ = ()

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """As `Mailbox.put_event`."""
        if event.confirmed is None:
            # A copy: it may be in other queues, too. A confirmed one is a copy already.
            event = Event(event[0], event[1], event.meta)
        self._put_own(event, bounded)

    def _put(self, key: Key[Any], message: Any) -> None:
        self._put_own(as_tuple(Event, (key, message)))

    def _put_own(self, event: Event[Any], bounded: bool = False) -> None:
        if self.wake is not None:
            self.wake()  # before the clock is read, since it may be another from then on
        came = self._clock.time()
        items = self.items
        if type(items) is Latest and event[0] in items:
            # The key keeps its place in the queue, so it has waited since the first message of that place.
            replaced = items[event[0]]
            assert isinstance(replaced, Event)
            came = replaced.came
        event.came = came
        super().put_event(event, bounded)

    def _first(self) -> Event[Any]:
        items = self.items.values() if isinstance(self.items, Latest) else self.items
        return cast("Event[Any]", next(iter(items)))

    def due(self) -> float | None:
        waiting = len(self.items)
        if self._replay or waiting >= self._pace.most:
            return NOW
        if not waiting:
            return None
        came = self._first().came
        return NOW if came is None or self._clock.hurries() else came + self._pace.seconds

    due.__doc__ = PacedMailbox.due.__doc__

    def calls_due(self, most: int) -> int:
        full, rest = divmod(self.pending, self._pace.most)
        if full >= most:
            return most
        # What is left over is due if its first message is. That one is looked at when it has come to the front.
        return full or (1 if rest and self.has_more else 0)

    calls_due.__doc__ = PacedMailbox.calls_due.__doc__

    def restart(self) -> None:
        for event in self.items.values() if isinstance(self.items, Latest) else self.items:
            assert isinstance(event, Event)
            event.came = None

    restart.__doc__ = PacedMailbox.restart.__doc__

    def take(self) -> Item | Gap | None:
        """Pop the messages of one call, if it is due; notify the owner of the gaps among them."""
        if not self.has_more:
            return None
        events = tuple(self.take_many(self._pace.most))
        if not events:
            return None
        batch: Event[Any] = as_tuple(Event, (events[0][0], events))
        if any(event.confirmed is not None for event in events):
            batch.confirmed = partial(_settle, events)
        return batch


def _settle(events: tuple[Event[Any], ...], finished: int, failures: list[Undelivered]) -> None:
    """Report the outcome of a batch to the publisher of each of its messages."""
    for event in events:
        if failures:
            event.fail(failures[0].__cause__, failures[0].why)
        else:
            event.done()


class KeyedMailbox(PacedMailbox):
    """The newest message of each key, which is due by the key's own time."""

    __slots__ = ("_later", "_ready")

    items: Latest  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, maxsize: int, overflow: Overflow, owner: QueueOwner, pace: Pace, clock: Clock) -> None:
        super().__init__(maxsize, overflow, owner, pace, clock)
        # OrderedDicts for the same reason as `Latest`.
        # Keys with the time at which they are due, in the order of these.
        self._later: OrderedDict[Key[Any], float] = OrderedDict()
        self._ready: OrderedDict[Key[Any], None] = (
            OrderedDict()
        )  # queued keys that are due, in the order they became so

    def _came(self, key: Key[Any], now: float | None) -> None:
        """Note that a message of this key was queued."""
        raise NotImplementedError

    def _taken(self, key: Key[Any], now: float | None) -> None:
        """Note that a call with this key begins."""

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """As `Mailbox.put_event`."""
        key, items = event[0], self.items
        first = next(iter(items)) if len(items) >= self.maxsize and key not in items else None
        super().put_event(event, bounded)
        if first is not None and first not in items:  # dropped for this one
            self._ready.pop(first, None)
            self._dropped(first)
        if key in items:
            self._came(key, self._clock.time())

    def _dropped(self, key: Key[Any]) -> None:
        """Note that the message of this key was dropped."""

    def replay(self, events: list[Event[Any]]) -> None:
        """Queue these as if they had just been published: of each key, the last."""
        for event in events:
            self.put_event(event)

    def _advance(self) -> None:
        """Make ready what has become due."""
        now, later, items = self._clock.time(), self._later, self.items
        hurries = self._clock.hurries()
        while later:
            key = next(iter(later))
            if not hurries and now is not None and later[key] > now:
                break
            del later[key]
            if key in items:
                self._ready[key] = None

    def due(self) -> float | None:
        if not self.items:
            return None
        self._advance()
        return NOW if self._ready else next(iter(self._later.values()), NOW)

    due.__doc__ = PacedMailbox.due.__doc__

    def calls_due(self, most: int) -> int:
        self._advance()
        return min(len(self._ready), most)

    calls_due.__doc__ = PacedMailbox.calls_due.__doc__

    def restart(self) -> None:
        self._later.clear()
        self._ready.update(dict.fromkeys(self.items))

    restart.__doc__ = PacedMailbox.restart.__doc__

    def take(self) -> Item | Gap | None:
        """Pop the message of one call, if it is due; notify the owner of the gaps so far."""
        if self._open_gaps:
            # They are among messages that are popped in another order.
            for gap in self._open_gaps:
                gap.before = 0
            self._spanned = 0
            self.take_gap()
        self._advance()
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._peak = self.peak
        item = self.items.pop(key)
        self._eased(1)
        self._taken(key, self._clock.time())
        return item

    def drop_all(self, notices: Notices) -> int:
        """Drop and count what is queued; return how many."""
        self._later.clear()
        self._ready.clear()
        return super().drop_all(notices)


class DebouncingMailbox(KeyedMailbox):
    """A key is due when it has been silent for long enough."""

    __slots__ = ()

    def _came(self, key: Key[Any], now: float | None) -> None:
        self._ready.pop(key, None)
        self._later.pop(key, None)
        if now is None:
            self._ready[key] = None
        else:
            self._later[key] = now + self._pace.seconds

    def _dropped(self, key: Key[Any]) -> None:
        self._later.pop(key, None)


class ThrottlingMailbox(KeyedMailbox):
    """A key is due at once, but not before the time after its last call is over."""

    __slots__ = ()

    def _came(self, key: Key[Any], now: float | None) -> None:
        self._advance()
        if key not in self._later:
            self._ready[key] = None

    def _taken(self, key: Key[Any], now: float | None) -> None:
        later = self._later
        if now is None:
            return
        later[key] = now + self._pace.seconds
        later.move_to_end(key)
        if len(later) > self.maxsize:
            oldest, _ = later.popitem(last=False)
            if oldest in self.items:
                self._ready[oldest] = None
