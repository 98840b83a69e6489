"""Room in full queues, and the lines of publishers that wait for it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from ..key import Key

R = TypeVar("R")


class Bounded(Protocol):
    """A queue that may be full."""

    line: Line | None  # while somebody waits for room

    def has_room(self, key: Key[Any], ahead: int) -> bool:
        """True if a message of this key would drop nothing, once `ahead` others are in the queue."""
        ...

    def line_changed(self) -> None:
        """Called when a publisher has joined or left the line."""


async def publish_with_room(
    key: Key[Any],
    queues: Callable[[], Sequence[Bounded]],
    bind: Callable[[], asyncio.AbstractEventLoop],
    publish: Callable[[], R],
) -> R:
    """Call `publish` in a step in which every queue has room, and return its result.

    First come, first served. If there is room it does not yield to the loop; if cancelled, it has published nothing.

    Args:
        key: The key that is published to.
        queues: Returns the queues that must have room, which may change during a wait.
        bind: Returns the loop to wait on.
        publish: Publishes the message.
    """
    while _are_granted(full := queues()):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)  # publishers that came earlier run in this turn of the loop
    claim = Claim(key)
    try:
        while not claim.fits(full):
            claim.future = bind().create_future()
            try:
                await claim.future
            finally:
                claim.settle()
            full = queues()
        return publish()
    finally:
        # Only now: the next in line must see what was published.
        claim.release()


def _are_granted(queues: Sequence[Bounded]) -> bool:
    """True if a publisher was granted room in one of these, and has not run yet."""
    for queue in queues:  # noqa: SIM110 - `any` takes more than twice as long, for the one or two that there are
        if queue.line is not None and queue.line.granted:
            return True
    return False


class Claim:
    """A position in the line of each queue that was full when this publisher looked.

    Nothing is reserved: a publish that does not wait may fill the room; then the claim waits on, at its old position.

    Args:
        key: The key that will be published to.
    """

    __slots__ = ("_key", "_queues", "future", "number")

    # An earlier claim stands before a later one in every line, so no two wait for each other.
    _numbers = count()

    def __init__(self, key: Key[Any]) -> None:
        self._key = key
        self._queues: list[Bounded] = []
        self.future: asyncio.Future[None] | None = None  # while it waits
        self.number = next(self._numbers)

    def fits(self, queues: Sequence[Bounded]) -> bool:
        """True if all of these have room; else join the line of each that has none."""
        for queue in tuple(self._queues):
            if queue not in queues:
                self._leave(queue)
        fits = True
        for queue in queues:
            line = queue.line
            if not queue.has_room(self._key, 0 if line is None else line.ahead_of(self)):
                fits = False
                if queue not in self._queues:
                    self._queues.append(queue)
                    if line is None:
                        line = queue.line = Line()
                    line.add(self)
                    queue.line_changed()
        return fits

    def offer(self) -> None:
        """Called when a queue has room: grant the claim if all of its queues have."""
        future = self.future
        if future is None or future.done() or future.get_loop().is_closed():
            return
        for queue in self._queues:
            assert queue.line is not None
            if not queue.has_room(self._key, queue.line.ahead_of(self)):
                return
        future.set_result(None)
        self._count(1)

    def settle(self) -> None:
        """Called when the publisher runs again: the grant is used up."""
        future, self.future = self.future, None
        if future is not None and future.done() and not future.cancelled() and not future.get_loop().is_closed():
            self._count(-1)

    def _count(self, more: int) -> None:
        for queue in self._queues:
            assert queue.line is not None
            queue.line.granted += more

    @property
    def is_granted(self) -> bool:
        """True if it was granted, and its publisher has not run yet."""
        return self.future is not None and self.future.done() and not self.future.cancelled()

    @property
    def is_dead(self) -> bool:
        """True if its loop was closed under it."""
        return self.future is not None and self.future.get_loop().is_closed()

    def release(self) -> None:
        """Leave every line."""
        while self._queues:
            self._leave(self._queues[-1])

    def _leave(self, queue: Bounded) -> None:
        self._queues.remove(queue)
        line = queue.line
        if line is None:
            return  # others have found its loop closed, and have left, too
        line.remove(self)
        if not line:
            queue.line = None
        queue.line_changed()


class Line(list[Claim]):
    """The claims that wait for room in one queue, in order of arrival."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted = 0
        """How many were granted and have not run yet."""

    def add(self, claim: Claim) -> None:
        """Add a claim behind those that came earlier."""
        if self and self[0].is_dead:
            self[:] = [each for each in self if not each.is_dead]
            self.granted = sum(each.is_granted for each in self)
        self.insert(self.ahead_of(claim), claim)

    def ahead_of(self, claim: Claim) -> int:
        """Return how many claims stand before it, or would if it joined."""
        if not self or self[0] is claim:
            return 0
        if self[-1].number < claim.number:
            return len(self)
        return bisect_left(self, claim.number, key=_number)

    def remove(self, claim: Claim) -> None:
        """Remove a claim, if it is in the line."""
        index = self.ahead_of(claim)
        if index < len(self) and self[index] is claim:
            del self[index]

    def offer(self, first: int, last: int) -> None:
        """Offer the room to the claims from index `first` to before `last`."""
        if last > 0:
            for claim in self[max(first, 0) : last]:
                claim.offer()


_number: Any = attrgetter("number")
