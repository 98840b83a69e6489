"""What leaves the process: the queue that a bridge reads, and what a bridge is to its hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..event import Event, Gap
from ..key import NAMESPACE, Key, is_subset
from .message_queue import Item, Mailbox, Overflow
from .notices import Notices, notify
from .registration import Owner
from .subscription import Queue

Pattern = tuple[str, ...]


class Attachment(Protocol):
    """What is attached to a hub and lives as long as it: a bridge."""

    def changed(self, patterns: Iterable[Pattern]) -> None:
        """Subscriptions of these came or went."""

    def opened(self) -> None:
        """The hub was started, again perhaps."""

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

    __slots__ = ("_held", "_is_full", "_shed", "limit", "put_item")

    def __init__(self, maxsize: int, owner: Any, shed: Callable[[], bool]) -> None:
        super().__init__(maxsize, Overflow.DROP_OLDEST, owner, gaps=True)
        self.limit = maxsize
        self.has_events = True
        self._held = 0
        self._is_full = False
        self._shed = shed
        items, append = self.items, self.items.append  # type: ignore[union-attr]

        def put(key: Key[Any], message: Any) -> None:
            if self.wake is not None:
                self.wake()
            if len(items) < self.maxsize:
                append((key, message))
            else:
                self._put_full((key, message))

        def put_item(item: Any) -> None:
            if self.wake is not None:
                self.wake()
            if len(items) < self.maxsize:
                append(item)
            else:
                self._put_full(item)

        self.put = put
        self.put_item = put_item

    def take(self) -> Item | Gap | None:
        """As `Mailbox.take`."""
        self._held += 1
        self.maxsize -= 1
        first = super().take()
        if first is None or type(first) is Gap:
            self.hold(self._held - 1, self._is_full)
        return first

    def take_many(self, most: int) -> list[Any]:
        """As `Mailbox.take_many`."""
        taken: list[Any] = []
        while len(taken) < most and (first := self.take()) is not None:
            taken.append(first)
        return taken

    def hold(self, number: int, is_full: bool) -> None:
        """So many that were taken are not gone yet; `is_full` says that for other reasons there is no room."""
        self._held = number
        self._is_full = is_full
        self.maxsize = 0 if is_full else self.limit - number
        self._eased(self.limit)

    def _is_half_empty(self) -> bool:
        return len(self.items) + self._held <= self.limit // 2

    def _changed(self) -> None:
        super()._changed()
        # So that taking always passes by here: what was taken counts from that very moment.
        self.alert = True

    def _put_full(self, item: Item) -> None:
        if self._held and self._shed():  # which holds again
            notices: Notices = []
            self._append(item)
            self._begin_episode(item[0], notices)
            notify(notices)
        elif self.items:
            super()._put_full(item)
        else:
            self._append(item)


class SharedId:
    """Gives a message the same id in every outbox of a hub.

    A publish puts it into one after the other, always in the order of their numbers: the first one names it. So what is
    put under a higher number than before, and is the same key and message, is the same publish. Equal values are often
    the same object, in Python; but the next publish begins with a lower number, or with the same.
    """

    __slots__ = ("_id", "_key", "_last", "_message", "_mint")

    def __init__(self, mint: Callable[[], str]) -> None:
        self._mint = mint
        self._last = 0
        self._id = ""
        self._key: Key[Any] | None = None
        self._message: Any = None

    def of(self, number: int, key: Key[Any], message: Any) -> str:
        """The id of what is just being put into the outbox of that number."""
        if number <= self._last or message is not self._message or key is not self._key:
            self._id = self._mint()
            self._key, self._message = key, message
        self._last = number
        return self._id

    def forget(self) -> None:
        """The outboxes are others now."""
        self._last = 0
        self._id = ""
        self._key = self._message = None


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
        shared_id: Names messages that leave by several outboxes.
        name: Says what carries them away.
        take: Takes each message right in the publish, instead of it being queued.
    """

    _gaps = True
    is_subscription = False
    remote = True

    def __init__(
        self,
        hub: Owner,
        patterns: Sequence[Pattern],
        maxsize: int,
        shed: Callable[[], bool],
        diverts: Sequence[Pattern],
        shared_id: SharedId,
        name: str,
        take: Callable[[Event[Any]], None] | None,
    ) -> None:
        super().__init__(hub, maxsize, Overflow.DROP_OLDEST, ack="manual")
        self._mailbox = self.mailbox = HeldMailbox(maxsize, self, shed)
        self.deliver = self._mailbox.put
        self._patterns = tuple(patterns)
        self._shared_id = shared_id
        self.name = name
        """What carries the messages away."""
        self._number = 0  # among several outboxes; 0 if it is the only one, which leaves naming to whoever sends
        self._take_now_by = take
        self.diverts = tuple(diverts)
        """Patterns of which a plain publish brings everything here, and nowhere else."""

    @property
    def maxsize(self) -> int:
        """The bound of what is queued and what is held, together."""
        return self._mailbox.limit  # type: ignore[attr-defined,no-any-return]

    def observer(self, key: Key[Any], routed: int) -> Outbox | None:
        """Itself, where an exact key leads to it."""
        return self if self.is_on(key) else None

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are for it."""
        internal = key[0] == NAMESPACE
        return not self.closed and any(
            is_subset(key, pattern) for pattern in self._patterns if not internal or pattern[0] == NAMESPACE
        )

    def number(self, number: int) -> None:
        """Be one of several from now on, of that number; or with 0 the only one: then whoever sends names messages."""
        self._number = number
        if self._take_now_by is not None:
            self.deliver = self._put_now
        else:
            self.deliver = self._put_named if number else self._mailbox.put

    def _put_named(self, key: Key[Any], message: Any) -> None:
        # Three in a tuple: key, message, id. An event with metadata would cost more than all the rest.
        item = (key, message, self._shared_id.of(self._number, key, message))
        self._mailbox.put_item(item)  # type: ignore[attr-defined]

    def _put_now(self, key: Key[Any], message: Any) -> None:
        self.deliver_event(Event(key, message))

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        """As `Target.deliver_event`."""
        meta = event.meta
        if self._number and (meta is None or meta.id is None):
            key, message = event[0], event[1]
            meta = self._hub.border.mint(meta)._replace(id=self._shared_id.of(self._number, key, message))  # type: ignore[attr-defined]
            named = Event(key, message, meta)
            named.confirmed, named.registration = event.confirmed, event.registration
            event = named
        if self._take_now_by is None:
            self._mailbox.put_event(event)
        else:
            self._hub._life.check_thread()
            self._take_now_by(event)
        return True

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
            self._hub.border.close_outbox(self)  # type: ignore[attr-defined]
