"""What leaves the process: the queue of outgoing messages, and what a hub requires of a bridge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from ..event import Event, Gap, Meta
from ..key import NAMESPACE, Key, is_subset
from .gaps import OpenGap
from .message_queue import FULL, Overflow
from .notices import Notices
from .registration import Core, Registration
from .room import Line

Pattern = tuple[str, ...]

# What was published: key and message, and its id if it has one already; or an event with metadata.
Item: TypeAlias = tuple[Key[Any], Any] | tuple[Key[Any], Any, str] | Event[Any]
# Drops a message, and returns what to notify once everything is whole; returns None if there is none to drop.
Shed: TypeAlias = Callable[[], Callable[[], object] | None]


class Attachment(Protocol):
    """A part that is attached to a hub and lives as long as it does: a bridge."""

    @property
    def patterns(self) -> Sequence[Key[Any]]:
        """The patterns that it carries, in either direction."""
        ...

    def changed(self, patterns: Iterable[Pattern]) -> None:
        """Called when subscriptions of these patterns came or went."""

    def opened(self) -> None:
        """Called when the hub was started, perhaps again."""

    def forked(self) -> None:
        """Called by `os.fork` in the new process: tasks and connections belong to the parent."""

    def arrival(self, key: Key[Any]) -> str | None:
        """Describe how messages of a key or pattern come by it, and what happened to them; None if none come."""

    def closing(self) -> None:
        """Called when the hub is about to close: relay nothing new to it."""

    async def close(self) -> object:
        """Called when the hub's listeners have finished: finish too."""


class Handover:
    """Messages on their way from a publish to the sender, which takes them in the loop's next turn.

    Messages that were taken but not sent yet count towards the bound: `hold` sets their number. Beyond the bound the
    oldest message is dropped, wherever it is.

    Args:
        limit: The bound of both together.
        shed: Drops the oldest message of those that were taken.
        ready: Called when there is something to take.
        check: Refuses the wrong thread.
        overflowing: Called when an episode of overflow begins, with the key of the message that found no room.
    """

    __slots__ = (
        "_check",
        "_held",
        "_open_gap",
        "_is_overfull",
        "_overflowing",
        "_ready",
        "_shed",
        "_space",
        "closed",
        "dropped",
        "items",
        "line",
        "maxsize",
        "peak",
        "room",
    )

    overflow: ClassVar = Overflow.DROP_OLDEST
    superseded: ClassVar = 0

    def __init__(
        self,
        limit: int,
        shed: Shed,
        ready: Callable[[], object],
        check: Callable[[], None],
        overflowing: Callable[[Key[Any]], None],
    ) -> None:
        self.maxsize = limit
        self.items: deque[Item | Gap] = deque()
        self.line: Line | None = None
        self.room = self._space = limit
        self.dropped = self.peak = 0
        self.closed = False
        self._held = 0
        self._open_gap: OpenGap | None = None  # what was dropped, before the first item
        self._is_overfull = False
        self._shed = shed
        self._ready = ready
        self._check = check
        self._overflowing = overflowing

    @property
    def pending(self) -> int:
        """Messages that have not been taken yet."""
        return len(self.items)

    def put(self, item: Item | Gap) -> None:
        """Add something at the end."""
        items = self.items
        if not items:
            self._check()
        if len(items) >= self._space:
            self._put_full(item)
            return
        items.append(item)
        if len(items) == 1:
            self._ready()

    def _put_full(self, item: Item | Gap) -> None:
        # Whole before notified: whoever is notified of the drop may publish, too.
        dropped: Item | None = None
        notice: Callable[[], object] | None = None
        begins = False
        if type(item) is not Gap:
            notice = self._shed() if self._held else None
            if notice is None:
                dropped = self._drop_oldest()
            begins, self._is_overfull = not self._is_overfull, True
        self.items.append(item)
        if len(self.items) == 1:
            self._ready()
        if notice is not None:
            notice()
        if type(dropped) is Event:
            dropped.fail(why=FULL)
        if begins:
            self._overflowing(item[0])  # type: ignore[arg-type]

    def _drop_oldest(self) -> Item | None:
        while self.items:
            oldest = self.items.popleft()
            if isinstance(oldest, Gap):
                self._miss(OpenGap.of(oldest))
            else:
                self.dropped += 1
                self._miss(OpenGap(Overflow.DROP_OLDEST.value, 0)).add(oldest[0])
                return oldest
        return None

    def _miss(self, open_gap: OpenGap) -> OpenGap:
        if self._open_gap is None:
            self._open_gap = open_gap
        else:
            self._open_gap.merge(open_gap)
        return self._open_gap

    def take(self, most: int) -> list[Item | Gap]:
        """Take up to `most` messages, and the gap before them if there is one."""
        items = self.items
        taken: list[Item | Gap] = []
        if self._open_gap is not None:
            taken.append(self._open_gap.gap())
            self._open_gap = None
        taken += [items.popleft() for _ in range(min(most, len(items)))]
        # They count from this moment on.
        self.hold(self._held + len(taken), is_full=self._space == 0 and self._held < self.maxsize)
        return taken

    def hold(self, number: int, is_full: bool = False) -> None:
        """Set how many taken messages are not sent yet; with `is_full` there is no room, for another reason."""
        self._held = number
        self._space = 0 if is_full else max(0, self.maxsize - number)
        length = len(self.items)
        self.peak = max(self.peak, number + length)
        if length + number <= self.maxsize // 2:
            self._is_overfull = False
        self._offer()

    # Room, for publishers that wait for it

    def has_room(self, key: Key[Any], ahead: int) -> bool:
        """True if a message would drop nothing, once `ahead` others are here."""
        return len(self.items) + ahead < self._space or self.closed

    def line_changed(self) -> None:
        """Called when a publisher has joined or left the line."""
        self._offer()

    def _offer(self) -> None:
        self.room = self._space if self.line is None else 0
        if self.line is not None:
            free = self._space - len(self.items)
            self.line.offer(0, free)

    def close(self) -> None:
        """Wake every publisher that waits for room."""
        self.closed = True
        if self.line is not None:
            self.line.offer(0, len(self.line))

    def forget(self) -> None:
        """Drop everything and wake nobody: in a forked process, messages and waiting publishers are the parent's."""
        self.dropped += len(self.drop_all())
        self._open_gap = self.line = None
        self.hold(0)

    def drop_all(self) -> list[Item]:
        """Drop all messages that have not been taken, and return them."""
        dropped = [item for item in self.items if not isinstance(item, Gap)]
        self.items.clear()
        return dropped


class SharedId:
    """Gives a message the same id in every outbox of a hub.

    A publish puts a message into the outboxes in the order of their numbers; the first one mints its id. So the same
    key and message, put under a higher number than before, is the same publish. In Python equal values are often the
    same object, but the next publish starts again with a lower number, or with the same.
    """

    __slots__ = ("_id", "_key", "_last", "_message", "_mint")

    def __init__(self, mint: Callable[[], str]) -> None:
        self._mint = mint
        self._last = 0
        self._id = ""
        self._key: Key[Any] | None = None
        self._message: Any = None

    def of(self, number: int, key: Key[Any], message: Any) -> str:
        """Return the id of a message that is being put into the outbox of that number."""
        if number <= self._last or message is not self._message or key is not self._key:
            self._id = self._mint()
            self._key, self._message = key, message
        self._last = number
        return self._id

    def forget(self) -> None:
        """Forget the last message: the outboxes, and their numbers, have changed."""
        self._last = 0
        self._id = ""
        self._key = self._message = None


class Outbox(Registration):
    """Queues messages that leave the process, by a bridge or by anything else that leads out.

    It stands in routes but is not a subscription: the result of `publish`, `has_subscribers` and `patterns` leave it
    out. Only patterns that name the hub's own namespace lead its messages here.

    Args:
        hub: The hub.
        patterns: The keys whose messages leave.
        maxsize: The bound, in messages, of those here and those held together; beyond it the oldest is dropped.
        ready: Called within the publish when there is something to take.
        shed: Drops the oldest message of those that were taken and are held.
        diverts: A plain publish delivers to this outbox only; the message comes back from the broker, to somebody.
        shared_id: Gives ids to messages that leave by several outboxes.
        name: What carries the messages away, for logs and explanations.
        is_named: Give each message an id, even if this is the only outbox.
        is_wanted: What it carries counts as subscribed, so that lazy bridges bring it.
        gaps: A gap that is reported for its patterns is queued among the messages.
    """

    __slots__ = (
        "_is_named",
        "_number",
        "_patterns",
        "_shared_id",
        "diverts",
        "is_wanted",
        "may_respond",
        "name",
        "queue",
        "wants_gaps",
    )

    is_subscription = False
    remote = True

    def __init__(
        self,
        hub: Core,
        patterns: Sequence[Pattern],
        maxsize: int,
        *,
        ready: Callable[[], object],
        shed: Shed,
        diverts: Sequence[Pattern],
        shared_id: SharedId,
        name: str,
        is_named: bool,
        is_wanted: bool,
        gaps: bool,
    ) -> None:
        check = hub._life.check_thread
        self.queue = Handover(maxsize, shed, ready, check, self._overflowing)
        """The messages that have not been taken yet."""
        super().__init__(hub, self.queue.put, mailbox=self.queue)  # type: ignore[arg-type]
        self._patterns = tuple(patterns)
        self._shared_id = shared_id
        self.name = name
        """What carries the messages away."""
        self._is_named = is_named
        self._number = 0  # among several outboxes; 0 if it is the only one, whose ids the sender mints
        self.diverts: Sequence[Pattern] = tuple(diverts)
        """Patterns whose messages a plain publish delivers here, and nowhere else."""
        self.is_wanted = is_wanted
        # Clients of an endpoint that respond are responders here.
        self.may_respond = not is_wanted
        self.wants_gaps = gaps
        self.number(0)

    def observer(self, key: Key[Any], routed: int) -> Outbox | None:
        """Return itself if an exact key leads to it."""
        return self if self.is_on(key) else None

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are delivered to it."""
        internal = key[0] == NAMESPACE
        return not self.closed and any(
            is_subset(key, pattern) for pattern in self._patterns if not internal or pattern[0] == NAMESPACE
        )

    def number(self, number: int) -> None:
        """Set its number among several outboxes, or 0 if it is the only one: then the sender mints the ids."""
        self._number = number
        self.deliver = self._put_named if number or self._is_named else self._put

    def _put(self, key: Key[Any], message: Any) -> None:
        self.queue.put((key, message))

    def _put_named(self, key: Key[Any], message: Any) -> None:
        # Three in a tuple: key, message, id. An event with metadata would cost more than all the rest.
        self.queue.put((key, message, self._shared_id.of(self._number, key, message)))

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        """As `Target.deliver_event`."""
        meta = event.meta
        if (self._number or self._is_named) and (meta is None or meta.id is None):
            key, message = event[0], event[1]
            named = Event(key, message, self._named(meta, self._shared_id.of(self._number, key, message)))
            named.confirmed, named.registration = event.confirmed, event.registration
            event = named
        self.queue.put(event)
        return True

    def _named(self, meta: Meta | None, id: str) -> Meta:
        minted: Meta = self._hub.border.mint(meta)  # type: ignore[attr-defined]
        return minted._replace(id=id)

    def take(self, maximum: int) -> list[Event[Any] | Gap]:
        """Take up to `maximum` messages as events, with the gaps among them; they count as held until `hold`."""
        return [item if isinstance(item, Event | Gap) else self._event(item) for item in self.queue.take(maximum)]

    def _event(self, item: Any) -> Event[Any]:
        key, message, *id = item
        return Event(key, message, self._named(None, id[0]) if id else None)

    def hold(self, number: int, is_full: bool = False) -> None:
        """Set how many taken messages are not sent yet; they count towards the bound."""
        self.queue.hold(number, is_full)

    def miss(self, gap: Gap) -> None:
        """Note a gap after the last message."""
        self.queue.put(gap)

    def close(self) -> None:
        """Queue nothing more; what is queued can still be taken. Closing twice is safe."""
        if not self.closed:
            self._hub.border.close_outbox(self)  # type: ignore[attr-defined]

    def _removed(self) -> Notices:
        self.queue.close()
        return []

    @property
    def _described(self) -> str:
        return f"of {self.name} on {super()._described}"
