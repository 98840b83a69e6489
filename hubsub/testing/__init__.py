"""For tests of what is built on a hub: record what is published, and wait until it has been handled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hubsub import Event, Hub, Key

from .mocks import MockHub

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from typing import Self

__all__ = ["MockHub", "Recorder", "settle"]

# What `assert_received` takes for any message.
_ANY: Any = object()
# Turns of the loop in which nobody may have anything to do; and those after which looking again takes a millisecond.
QUIET, PATIENT = 5, 100
# Of what was received, a failure lists so many.
MOST_LISTED = 50


class Recorder:
    """Records what is published to a hub, and says what that was when it is not what a test expects.

    It is a `Tap`: delivery stays as it is. It begins when it is made; `close()`, or leaving it as a context manager,
    ends it, and what it recorded stays.

    Args:
        hub: The hub.
        patterns: One pattern, or a list, set or frozenset of them.
        limit: Messages recorded; beyond it the oldest goes.
    """

    __slots__ = ("tap",)

    def __init__(
        self,
        hub: Hub,
        patterns: str | tuple[str, ...] | Sequence[tuple[str, ...] | str] | AbstractSet[tuple[str, ...] | str],
        limit: int = 10_000,
    ) -> None:
        self.tap = hub.tap(patterns, limit)
        """What records: `recorder.tap.records` has times, and how many subscriptions each message was routed to."""

    @property
    def messages(self) -> list[Any]:
        """The messages, in the order of publishing."""
        return [record.message for record in self.tap.records]

    @property
    def events(self) -> list[Event[Any]]:
        """The same as events, which equal pairs of key and message."""
        return [Event(record.key, record.message, record.meta) for record in self.tap.records]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.tap.clear()

    async def wait_for(self, count: int, timeout: float = 5) -> list[Event[Any]]:
        """Wait until at least so many messages were recorded; return the events.

        Raises:
            AssertionError: They were not within `timeout` seconds. It lists what was received.
        """
        if not await _until(lambda: len(self.tap) + self.tap.forgotten >= count, timeout):
            raise AssertionError(f"not {count} messages within {timeout} s\n{self}")
        return self.events

    def assert_received(self, pattern: str | tuple[str, ...], message: Any = _ANY) -> None:
        """Assert that a message was recorded of a key that matches `pattern`; of this value, if one is given.

        Raises:
            AssertionError: There is none. It lists what was received.
        """
        for event in self.events:
            if event.key.is_subset_of(pattern) and (message is _ANY or event.message == message):
                return
        what = "a message" if message is _ANY else _text(message)
        raise AssertionError(f"expected {what} of {Key.create_from(pattern)!r}\n{self}")

    def close(self) -> None:
        """Record nothing more. Closing twice is safe."""
        self.tap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        received = self.events
        lines = [f"received of {', '.join(map(repr, self.tap.patterns))}: {len(received) or 'nothing'}"]
        left_out = self.tap.forgotten + max(0, len(received) - MOST_LISTED)
        if left_out:
            lines.append(f"  ({left_out} before)")
        lines += [f"  {event.key!r} {_text(event.message)}" for event in received[-MOST_LISTED:]]
        return "\n".join(lines)


async def settle(hub: Hub, timeout: float = 5) -> None:
    """Wait until async listeners have nothing to do and queues that somebody reads are empty.

    A queue is read once somebody waited for a message of it, or took one. What a consumer does with the last message
    beyond its next `await`, and what has not been published yet, nobody can know.

    Raises:
        AssertionError: It is not so after `timeout` seconds. It names who has something to do, and how much.
    """
    if hub.is_open:
        await hub.start()  # so that listeners which waited for a loop have one
    if not await _until(lambda: not hub.busy(), timeout, QUIET):
        busy = "".join(f"\n  {each!r}: {each.pending} pending" for each in hub.busy())
        raise AssertionError(f"{hub!r} has not settled within {timeout} s; busy:{busy}")


def _text(message: object) -> str:
    """What a message looks like, also where its `repr` fails."""
    try:
        return repr(message)
    except Exception:
        return object.__repr__(message)


async def _until(condition: Callable[[], bool], timeout: float, times: int = 1) -> bool:
    """Wait until something is so, in so many turns of the loop on end; return whether it came to be."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    so = turns = 0
    while True:
        so = so + 1 if condition() else 0
        if so >= times:
            return True
        if not so and loop.time() >= deadline:
            return False
        turns += 1
        await asyncio.sleep(0 if so or turns < PATIENT else 0.001)
