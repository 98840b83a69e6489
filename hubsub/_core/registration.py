"""What is registered with a hub: the part that listeners, which are called, and subscriptions, which queue, share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from ..describe import describe_all
from ..errors import WrongThread
from ..event import DeadLetter, Event, Gap
from ..key import Announced, Deliver, Key, is_subset
from ..log import Logger
from .callables import truth
from .handles import Handle
from .handles import Removal as Removal
from .life import Life
from .message_queue import Mailbox, Overflow
from .notices import Notices
from .retry import Retry
from .router import Router

# Tells of a key and a message whether they are wanted.
Where: TypeAlias = Callable[[Key[Any], Any], object]

CallContext: TypeAlias = Literal["listener", "publisher"]

Ack: TypeAlias = Literal["auto", "manual"]

logger = Logger("hubsub.listener")


class Core(Protocol):
    """What a registration needs of its hub."""

    _life: Life
    _router: Router[Any]

    def _add(self, registration: Registration, patterns: Sequence[tuple[str, ...]], history: int = 0) -> None: ...
    def _remove(
        self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None, stays: bool = False
    ) -> None: ...
    def _failure(self, target: Any, key: Key[Any], message: Any, error: BaseException) -> BaseException | None: ...
    def _report(
        self, listener: Any, key: Key[Any], message: Any, error: BaseException, quietly: bool = False
    ) -> None: ...
    def _announce_about(
        self, what: Announced, registration: Registration, message: Any, keys: Iterable[Key[Any]] | None
    ) -> None: ...
    def _bury(self, letter: DeadLetter) -> None: ...


class QueueOptions(TypedDict, total=False):
    """How the queue of a subscription or async listener is bounded; what is left out, the hub decides."""

    maxsize: int
    """The bound, in messages."""
    overflow: Overflow
    """What becomes of a message beyond it."""


class AsyncOptions(QueueOptions, total=False):
    """How an async listener is called."""

    concurrency: int
    """Calls that may run at the same time."""
    retry: Retry | None
    """When a call that failed is tried again."""
    context: CallContext
    """Whose context variables it sees: those of its registration, or those of each publish."""


class ListenerOptions(AsyncOptions, total=False):
    """What can be said of a listener; all but the last two for async ones only."""

    once: bool
    """Remove it with its first message."""
    history: int
    """Begin with the last so many retained messages of each key."""


class SubscribeOptions(QueueOptions, total=False):
    """What `Hub.subscribe` takes for every kind of subscription."""

    where: Where | None
    """Only messages for which it is true are queued."""
    ack: Ack
    """What tells that a message is finished."""
    ready: Callable[[], object] | None
    """Called when there is something to read where there was nothing."""


class Bookkeeper(Protocol):
    """Whoever keeps a book of registrations: the hub tells of each change before it announces it."""

    def _note(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...
    def _forget(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...


# The patterns that something is registered on: a dict if they are many, which takes more room and no time to search.
Held: TypeAlias = tuple[tuple[str, ...], ...] | dict[tuple[str, ...], None]
FEW = 8


def with_patterns(held: Held, more: Sequence[tuple[str, ...]]) -> Held:
    """Return patterns with others added that are not among them. Those held are not to be used any more."""
    if isinstance(held, dict):
        held.update(dict.fromkeys(more))
        return held
    held = (*held, *more)
    return held if len(held) <= FEW else dict.fromkeys(held)


def without_patterns(held: Held, fewer: Sequence[tuple[str, ...]]) -> Held:
    """Return patterns without some of them. Those held are not to be used any more."""
    if isinstance(held, dict):
        for pattern in fewer:
            held.pop(pattern, None)
        return held
    return tuple(pattern for pattern in held if pattern not in fewer)


class Registration(Handle):
    """One registration with a hub, on one pattern or several; several that match give a message once."""

    __slots__ = (
        "_hub",
        "_once",
        "_owner",
        "_patterns",
        "_where",
        "closed",
        "counted",
        "deliver",
        "filtered",
        "mailbox",
        "missed",
        "order",
    )

    lasting = True  # it stays when the hub is closed
    is_subscription = True
    responds = False  # requests are for it
    remote = False  # it takes messages out of the process
    diverts: Sequence[tuple[str, ...]] = ()  # patterns of which it takes all that is published, from everybody else

    def __init__(
        self,
        hub: Core,
        deliver: Deliver,
        *,
        mailbox: Mailbox | None = None,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        self._hub = hub
        self._owner = owner
        self._where = where
        self._once = once
        self.mailbox = mailbox
        # The hub sets these two when it registers it.
        self._patterns: Held = ()
        self.order = 0
        self.deliver: Deliver = self._gate(deliver)
        # Messages routed here, as far as routes have told; `Core._fold` makes them tell.
        self.counted = 0
        # Of these, the ones that never came: it was closed in the middle of their publish.
        self.missed = 0
        self.filtered = 0
        """Messages that its `where=` did not want; none of the other figures counts them."""
        self.closed = False
        """True once it was removed or closed."""

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are for it."""
        patterns = self._patterns
        return not self.closed and (key in patterns or any(is_subset(key, pattern) for pattern in patterns))

    @property
    def patterns(self) -> tuple[Key[Any], ...]:
        """What it is registered on."""
        return tuple(Key.create_from(pattern) for pattern in self._patterns)

    @property
    def pending(self) -> int:
        """Messages queued now."""
        return 0 if self.mailbox is None else self.mailbox.pending

    @property
    def peak_pending(self) -> int:
        """The most messages ever queued."""
        return 0 if self.mailbox is None else self.mailbox.peak

    @property
    def dropped(self) -> int:
        """Messages accepted that nobody will be handed any more."""
        return 0 if self.mailbox is None else self.mailbox.dropped

    @property
    def superseded(self) -> int:
        """Messages replaced by a newer one of their key before anybody took them, under `Overflow.LATEST`."""
        return 0 if self.mailbox is None else self.mailbox.superseded

    @property
    def accepted(self) -> int:
        """Messages routed here and wanted: at any moment delivered + pending + dropped + superseded."""
        self._hub._router.fold(self._patterns)
        return self.counted - self.missed - self.filtered

    @property
    def delivered(self) -> int:
        """Messages handed over: a listener was called, or a consumer took it."""
        return self.accepted - self.pending - self.dropped - self.superseded

    @property
    def is_busy(self) -> bool:
        """True while it has something to do, and somebody to do it."""
        return False

    @property
    def maxsize(self) -> int | None:
        """The bound of the queue; None where there is none."""
        return None if self.mailbox is None else self.mailbox.maxsize

    @property
    def overflow(self) -> Overflow | None:
        """What becomes of messages beyond the bound; None where there is no queue."""
        return None if self.mailbox is None else self.mailbox.overflow

    def _miss(self, key: Key[Any], message: Any) -> None:
        """Stand in its place in a publish that was running when it was closed."""
        self.missed += 1

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        """As `Target.deliver_event`."""
        if (self._where is not None or self._once) and not self._admits(*event):
            return False
        mailbox = self.mailbox
        if mailbox is None:
            self._take(event)
            return False
        mailbox.put_event(event, bounded)
        return True

    def returned(self, event: Event[Any], result: object, /) -> None:
        """Judge what a user's function returned; here there is none."""

    def _take(self, event: Event[Any]) -> None:
        """Take a message, with its metadata, that was found to be for it; it has no queue."""
        raise NotImplementedError

    # What only some messages pass

    def _gate(self, deliver: Deliver) -> Deliver:
        """Put `where` and `once` before `deliver`; without either nothing is."""
        if self._where is None and not self._once:
            return deliver

        def pass_on(key: Key[Any], message: Any) -> object:
            return deliver(key, message) if self._admits(key, message) else None

        return pass_on

    def _admits(self, key: Key[Any], message: Any) -> bool:
        """True if a message is for it, which a listener for one message is then no more."""
        if self._where is not None:
            try:
                wanted = truth(self._where(key, message), self._where, "where")
            except WrongThread:
                raise  # then the hub counts it as missed
            except BaseException:
                self.filtered += 1
                raise
            if not wanted:
                self.filtered += 1
                return False
            if self.closed:  # by `where`, or by a message published in there
                self.missed += 1
                return False
        if self._once:
            self._use_up()
        return True

    def wants(self, event: Event[Any]) -> bool:
        """What `where` says of an event, if there is one."""
        return self._where is None or truth(self._where(*event), self._where, "where")

    def _put_off(self) -> None:
        """Keep what is delivered back until `_replay` has called it with what came before."""

    def _replay(self, events: list[Event[Any]]) -> None:
        """Deliver these before everything else; they were counted, and are wanted."""
        if self._once and events:
            self.counted -= len(events) - 1
            del events[1:]
            self._use_up()
        if self.mailbox is not None:
            self.mailbox.replay(events)

    def _use_up(self) -> None:
        """Remove it before the message that it was there for is handed over."""
        self._hub._remove(self)

    def _removed(self) -> Notices:
        """Let go of what was queued or running, being removed; return who is to be notified when that is done."""
        return []

    def forked(self) -> None:
        """Let go of what belongs to the parent of this process: what is queued, and whoever waits or works there."""
        if self.mailbox is not None:
            self.mailbox.forget()

    # What the mailbox tells

    def _overflowing(self, key: Key[Any]) -> None:
        assert self.mailbox is not None
        what = f"{self.maxsize} messages wait, which is its bound; overflow: {self.mailbox.overflow.value}"
        logger.warning("%r does not keep up: %s", self, what)
        self._hub._announce_about("slowSubscriber", self, {"pending": self.pending, "maxsize": self.maxsize}, (key,))

    def _gap_passed(self, gap: Gap) -> None:
        self._hub._announce_about("gap", self, gap, gap.keys)

    def _reopened(self) -> None:
        """Begin anew; the hub is just registering it again."""
        self.closed = False
        self._patterns = ()

    def __repr__(self) -> str:
        troubles = ("pending", "dropped", "superseded", "filtered", "failed")
        figures = "".join(f" {name}={number}" for name in troubles if (number := getattr(self, name, 0)))
        return f"<{type(self).__name__} {self._described}{figures}{self._state}>"

    @property
    def _described(self) -> str:
        return describe_all(self._patterns) or "on nothing"

    @property
    def _state(self) -> str:
        return " closed" if self.closed else ""
