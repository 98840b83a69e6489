"""The queue between a publish and whoever consumes later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .event import Event
from .key import Deliver, Key

as_tuple = tuple.__new__


def as_event(item: tuple[Key[Any], Any]) -> Event[Any]:
    """Return what a mailbox holds as an event."""
    return item if type(item) is Event else as_tuple(Event, item)


class Mailbox:
    """Messages in the order they were published, for one consumer or several that share them.

    The bound `maxsize` is where `publish_wait` waits and `publish` complains; `publish` goes past it.

    Holds plain pairs; an `Event` only where metadata travels with the message.
    """

    __slots__ = (
        "_overfull",
        "_places",
        "_reserved",
        "_waiters",
        "watermark",
        "alert",
        "closed",
        "complain",
        "dropped",
        "items",
        "maxsize",
        "peak",
        "put",
        "room",
        "wake",
    )

    def __init__(self, maxsize: int, complain: Callable[[int], None]) -> None:
        self.items: deque[tuple[Key[Any], Any]] = deque()
        self.maxsize = maxsize
        self.complain = complain
        # Called by whoever puts while somebody sleeps; None while nobody does.
        self.wake: Callable[[], None] | None = None
        self.dropped = 0
        self.peak = 0
        # The first length that nobody has noticed yet: a new peak, or the bound. One comparison for both.
        self.watermark = 0
        self.closed = False
        # Below so many items there is room for publish_wait: none while others wait, so that nobody overtakes.
        self.room = maxsize
        # True while a place is waited for or the queue is overfull: the consumer then calls `eased`.
        self.alert = False
        self._overfull = False
        self._reserved = 0
        self._places: deque[asyncio.Future[None]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.put: Deliver = self._entrance()

    # Putting

    def _entrance(self) -> Deliver:
        # A closure, not a method: a quarter less for every message through a queue.
        items = self.items
        append = items.append

        def put(key: Key[Any], message: Any) -> None:
            """Append a message and wake whoever sleeps."""
            # Waking is first: it refuses the wrong thread, and then nothing is half-done.
            if self.wake is not None:
                self.wake()
            append((key, message))
            if len(items) > self.watermark:
                self._grown()

        return put

    def put_event(self, event: Event[Any]) -> None:
        """Append an event with what travels with it."""
        self.put(*event)
        if event.meta is not None:
            self.items[-1] = event

    def _grown(self) -> None:
        length = len(self.items)
        self.peak = max(self.peak, length)
        if length > self.maxsize and not self._overfull:
            # Once an episode: it ends when the queue is half empty. Ending it at the first free place would log every
            # other message of a consumer that keeps up just not quite.
            self._overfull = self.alert = True
            self.complain(length)
        self.watermark = self.peak if self._overfull else min(self.peak, self.maxsize)

    # Taking

    def eased(self) -> None:
        """Something was taken while `alert`: end the episode, hand out free places."""
        if self._overfull and len(self.items) <= self.maxsize // 2:
            self._overfull = False
            self.watermark = min(self.peak, self.maxsize)
        self._hand_out()

    def drop_all(self) -> int:
        """Drop and count what is queued; return how many."""
        count = len(self.items)
        self.dropped += count
        self.items.clear()
        return count

    async def wait(self, loop: asyncio.AbstractEventLoop, check: Callable[[], None]) -> None:
        """Wait until something may be there to take, or the mailbox is closed.

        Cancelled, it passes a wake-up that it got on to the next who waits.
        """
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
        self.alert = self._overfull or bool(self._places)
