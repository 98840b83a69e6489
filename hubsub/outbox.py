"""What leaves the process: the queue that a bridge reads, and what a bridge is to its hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from .event import Event, Gap
from .key import NAMESPACE, Key, is_subset
from .mailbox import Mailbox, Overflow
from .subscription import Owner, Queue

Pattern = tuple[str, ...]


class Attachment(Protocol):
    """What is attached to a hub and lives as long as it: a bridge."""

    def changed(self, patterns: Iterable[Pattern]) -> None:
        """Subscriptions of these came or went."""

    def closing(self) -> None:
        """The hub is about to close: bring it nothing new."""

    async def close(self) -> object:
        """The hub's listeners have finished: finish too."""


class HeldMailbox(Mailbox):
    """A mailbox that drops the oldest, and whose bound counts also what was taken from it but is not gone yet.

    Args:
        maxsize: The bound of both together.
        owner: Is told of overflow.
        shed: Called to drop the oldest message of those that were taken; returns whether there was one.
    """

    __slots__ = ("_held", "_limit", "_shed")

    def __init__(self, maxsize: int, owner: Any, shed: Callable[[], bool]) -> None:
        super().__init__(maxsize, Overflow.DROP_OLDEST, owner, gaps=True)
        self._limit = maxsize
        self._held = 0
        self._shed = shed
        items, append = self.items, self.items.append  # type: ignore[union-attr]

        def put(key: Key[Any], message: Any) -> None:
            if self.wake is not None:
                self.wake()
            if len(items) >= self.maxsize:
                self._make_room(key)
            append((key, message))
            if len(items) > self._watermark:
                self._grown()

        self.put = put

    def hold(self, number: int, is_full: bool) -> None:
        """So many that were taken are not gone yet; `is_full` says that for other reasons there is no room."""
        self._held = number
        self.maxsize = 0 if is_full else self._limit - number
        self._hand_out()

    def _make_room(self, key: Key[Any]) -> bool:
        if self._held and self._shed():  # which holds again
            if not self._overfull:
                self._begin_episode(key)
        elif self.items:
            super()._make_room(key)
        return True


class Outbox(Queue[Event[Any] | Gap]):
    """Queues what is published to some patterns, for a bridge to carry away.

    It is no subscription: what `publish` returns, `has_subscribers` and `patterns` do not count it. The hub's own
    namespace leads to it only by patterns that name it.

    Args:
        hub: The hub.
        patterns: What leaves.
        maxsize: The bound, in messages, of those queued and those held together; beyond it the oldest goes.
        shed: Called to drop the oldest message of those that were taken and are held.
        diverts: What a plain publish brings goes nowhere else; it comes back from the broker, to somebody.
    """

    _gaps = True
    remote = True

    def __init__(
        self,
        hub: Owner,
        patterns: Sequence[Pattern],
        maxsize: int,
        shed: Callable[[], bool],
        diverts: Sequence[Pattern],
    ) -> None:
        super().__init__(hub, maxsize, Overflow.DROP_OLDEST, ack="manual")
        self._mailbox = self.mailbox = HeldMailbox(maxsize, self, shed)
        self.deliver = self._mailbox.put
        self._patterns = tuple(patterns)
        self.diverts = tuple(diverts)
        """Patterns of which a plain publish brings everything here, and nowhere else."""

    def observer(self, key: Key[Any], routed: int) -> Outbox | None:
        """Itself, where an exact key leads to it."""
        return self if self.is_on(key) else None

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are for it."""
        internal = key[0] == NAMESPACE
        return not self.closed and any(
            is_subset(key, pattern) for pattern in self._patterns if not internal or pattern[0] == NAMESPACE
        )

    def hold(self, number: int, is_full: bool = False) -> None:
        """So many messages that were taken are not gone yet, and count in the bound."""
        self._mailbox.hold(number, is_full)  # type: ignore[attr-defined]

    def add(self, pattern: Pattern) -> None:
        """Queue this, too."""
        if pattern not in self._patterns:
            self._patterns += (pattern,)
            self._hub._router.forget(pattern)

    def discard(self, pattern: Pattern) -> None:
        """Queue this no more."""
        if pattern in self._patterns:
            self._patterns = tuple(each for each in self._patterns if each != pattern)
            self._hub._router.forget(pattern)

    def close(self) -> None:
        """Queue nothing more; what is queued can still be read. Closing twice is safe."""
        if not self.closed:
            self._hub._close_outbox(self)  # type: ignore[attr-defined]
