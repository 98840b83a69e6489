"""Test helpers for programs built on a hub: record what is published, and wait until it has been handled."""

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

# Makes `assert_received` accept any message.
_ANY: Any = object()
# Turns of the loop in which nobody may be busy; and turns after which the next look waits a millisecond.
QUIET, PATIENT = 5, 100
# Received messages that a failure lists.
MOST_LISTED = 50


class Recorder:
    """Records what is published to a hub; if a test expects something else, the error lists what was received.

    It uses a `Tap`, so delivery is unchanged. It begins when it is made; `close()`, or leaving it as a context manager,
    ends it, and what it recorded stays.

    Args:
        hub: The hub.
        patterns: One pattern, or a list, set or frozenset of them.
        limit: Messages recorded; beyond it the oldest is dropped.
    """

    __slots__ = ("tap",)

    def __init__(
        self,
        hub: Hub,
        patterns: str | tuple[str, ...] | Sequence[tuple[str, ...] | str] | AbstractSet[tuple[str, ...] | str],
        limit: int = 10_000,
    ) -> None:
        self.tap = hub.tap(patterns, limit)
        """The tap: `recorder.tap.records` has times, and how many subscriptions each message was routed to."""

    @property
    def messages(self) -> list[Any]:
        """The messages, in the order of publishing."""
        return [record.message for record in self.tap.records]

    @property
    def events(self) -> list[Event[Any]]:
        """The messages as events, which equal pairs of key and message."""
        return [Event(record.key, record.message, record.meta) for record in self.tap.records]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.tap.clear()

    async def wait_for(self, count: int, timeout: float = 5) -> list[Event[Any]]:
        """Wait until at least `count` messages are recorded; return the events.

        Raises:
            AssertionError: There were fewer after `timeout` seconds. It lists what was received.
        """
        if not await _until(lambda: len(self.tap) + self.tap.forgotten >= count, timeout):
            raise AssertionError(f"not {count} messages within {timeout} s\n{self}")
        return self.events

    def assert_received(self, pattern: str | tuple[str, ...], message: Any = _ANY) -> None:
        """Assert that a message was recorded whose key matches `pattern`, and that equals `message` if one is given.

        Raises:
            AssertionError: There is no such message. It lists what was received.
        """
        for event in self.events:
            if event.key.is_subset_of(pattern) and (message is _ANY or event.message == message):
                return
        what = "a message" if message is _ANY else _text(message)
        raise AssertionError(f"expected {what} of {Key.create_from(pattern)!r}\n{self}")

    def close(self) -> None:
        """Stop recording. Closing twice is safe."""
        self.tap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        received = self.events
        lines = [f"received on {', '.join(map(repr, self.tap.patterns))}: {len(received) or 'nothing'}"]
        left_out = self.tap.forgotten + max(0, len(received) - MOST_LISTED)
        if left_out:
            lines.append(f"  ({left_out} before)")
        lines += [f"  {event.key!r} {_text(event.message)}" for event in received[-MOST_LISTED:]]
        return "\n".join(lines)


async def settle(hub: Hub, timeout: float = 5) -> None:
    """Wait until async listeners have nothing to do and all queues that somebody reads are empty.

    A queue counts as read once somebody has read or waited for a message of it. `settle` cannot know what a consumer
    does with its last message after the next `await`, nor what will be published later.

    Raises:
        AssertionError: Somebody is still busy after `timeout` seconds. It lists who, and with how many messages.
    """
    if hub.is_open:
        await hub.start()  # so that listeners which waited for a loop have one
    if not await _until(lambda: not hub.busy(), timeout, QUIET):
        busy = "".join(f"\n  {each!r}: {each.pending} pending" for each in hub.busy())
        raise AssertionError(f"{hub!r} has not settled within {timeout} s; busy:{busy}")


def _text(message: object) -> str:
    """Return a message as text, even if its `repr` raises."""
    try:
        return repr(message)
    except Exception:
        return object.__repr__(message)


async def _until(condition: Callable[[], bool], timeout: float, times: int = 1) -> bool:
    """Wait until a condition is true in `times` consecutive turns of the loop; return False if it timed out."""
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
