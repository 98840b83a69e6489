"""Registrations with a hub: what listeners, which are called, and subscriptions, which queue, have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from ..describe import describe_all
from ..errors import WrongThread
from ..event import DeadLetter, Event, Gap
from ..key import Announced, Deliver, Key, is_subset
from ..log import Logger
from .callables import truth
from .display import figures, table
from .handles import Handle
from .handles import Removal as Removal
from .life import Life
from .message_queue import Mailbox, Overflow
from .notices import Notices
from .retry import Retry
from .router import Router

# Called with a key and a message; returns whether they are wanted.
Where: TypeAlias = Callable[[Key[Any], Any], object]

# How many messages a call gets at most, and how many seconds the first of them waits for others.
Batch: TypeAlias = tuple[int, float]

CallContext: TypeAlias = Literal["listener", "publisher"]
CONTEXTS: tuple[CallContext, ...] = ("listener", "publisher")

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
    """How the queue of a subscription or async listener is bounded; the hub has the defaults."""

    maxsize: int
    """The bound, in messages."""
    overflow: Overflow
    """What happens to a message beyond it."""


class AsyncOptions(QueueOptions, total=False):
    """How an async listener is called."""

    concurrency: int
    """Calls that may run at the same time."""
    retry: Retry | None
    """When and how often a failed call is retried."""
    context: CallContext
    """The context variables that it sees: those of its registration, or those of each publish."""
    debounce: float | None
    """Seconds for which a key must be silent before it is called with the key's last message."""
    throttle: float | None
    """Seconds from one call with a key to the next."""


class ListenerOptions(AsyncOptions, total=False):
    """The options of a listener; all but the last two are for async ones only."""

    once: bool
    """Remove it with its first message."""
    history: int
    """How many of the last retained messages of each key to begin with."""


class SubscribeOptions(QueueOptions, total=False):
    """The options of `Hub.subscribe` for every kind of subscription."""

    where: Where | None
    """Only messages for which it returns true are queued."""
    ack: Ack
    """How a message counts as finished."""
    ready: Callable[[], object] | None
    """Called when the queue was empty and now has something to read."""


class Bookkeeper(Protocol):
    """An owner of registrations: the hub calls it with each change before it announces the change."""

    def _note(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...
    def _forget(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...


# What notebooks show, where it says something.
_SHOWN = ("pending", "maxsize", "overflow", "dropped", "superseded", "filtered", "failed", "last_error")

# The patterns of a registration: a dict if they are many, which takes more memory but no time to search.
Held: TypeAlias = tuple[tuple[str, ...], ...] | dict[tuple[str, ...], None]
FEW = 8


def with_patterns(held: Held, more: Sequence[tuple[str, ...]]) -> Held:
    """Return patterns with others added that are not among them. Do not use `held` afterwards."""
    if isinstance(held, dict):
        held.update(dict.fromkeys(more))
        return held
    held = (*held, *more)
    return held if len(held) <= FEW else dict.fromkeys(held)


def without_patterns(held: Held, fewer: Sequence[tuple[str, ...]]) -> Held:
    """Return patterns without some of them. Do not use `held` afterwards."""
    if isinstance(held, dict):
        for pattern in fewer:
            held.pop(pattern, None)
        return held
    return tuple(pattern for pattern in held if pattern not in fewer)


class Registration(Handle):
    """A registration with a hub on one or more patterns; it gets a message once, however many of them match."""

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
    responds = False  # it answers requests
    remote = False  # it carries messages out of the process
    may_respond = False  # somebody beyond it may answer requests
    diverts: Sequence[tuple[str, ...]] = ()  # patterns whose messages a plain publish delivers to it alone

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
        # Messages routed here, as far as routes have added their counts: `Router.fold` makes them do so.
        self.counted = 0
        # Those of them that never arrived, since it was closed in the middle of their publish.
        self.missed = 0
        self.filtered = 0
        """Messages that its `where=` did not want; no other counter counts them."""
        self.closed = False
        """True once it was removed or closed."""

    @property
    def may_refuse(self) -> bool:
        """True if it may refuse to be called by another thread than the hub's."""
        return True

    def is_on(self, key: tuple[str, ...]) -> bool:
        """True while messages of an exact key are delivered to it."""
        patterns = self._patterns
        return not self.closed and (key in patterns or any(is_subset(key, pattern) for pattern in patterns))

    @property
    def patterns(self) -> tuple[Key[Any], ...]:
        """The patterns that it is registered on."""
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
        """Messages that were accepted, but will not be delivered to anybody."""
        return 0 if self.mailbox is None else self.mailbox.dropped

    @property
    def superseded(self) -> int:
        """Messages replaced by a newer one of their key before they were read, under `Overflow.LATEST`."""
        return 0 if self.mailbox is None else self.mailbox.superseded

    @property
    def accepted(self) -> int:
        """Messages routed here and wanted: at any moment delivered + pending + dropped + superseded."""
        self._hub._router.fold(self._patterns)
        return self.counted - self.missed - self.filtered

    @property
    def delivered(self) -> int:
        """Messages that a listener was called with, or that a consumer has read."""
        return self.accepted - self.pending - self.dropped - self.superseded

    @property
    def is_busy(self) -> bool:
        """True while it has messages to handle and somebody who handles them."""
        return False

    @property
    def maxsize(self) -> int | None:
        """The bound of the queue; None where there is none."""
        return None if self.mailbox is None else self.mailbox.maxsize

    @property
    def overflow(self) -> Overflow | None:
        """What happens to messages beyond the bound; None where there is no queue."""
        return None if self.mailbox is None else self.mailbox.overflow

    def _miss(self, key: Key[Any], message: Any) -> None:
        """Replaces `deliver` in a publish that was running when it was closed."""
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
        """Judge what a user's function returned; a registration without one does nothing."""

    def _take(self, event: Event[Any]) -> None:
        """Handle an event that `where` has admitted; only for a registration without a queue."""
        raise NotImplementedError

    # Filtering

    def _gate(self, deliver: Deliver) -> Deliver:
        """Return `deliver` behind `where` and `once`; without either, `deliver` itself."""
        if self._where is None and not self._once:
            return deliver

        def pass_on(key: Key[Any], message: Any) -> object:
            return deliver(key, message) if self._admits(key, message) else None

        return pass_on

    def _admits(self, key: Key[Any], message: Any) -> bool:
        """True if a message is for it; a listener with `once` is removed by that."""
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
        """True if there is no `where`, or it admits an event."""
        return self._where is None or truth(self._where(*event), self._where, "where")

    def _put_off(self) -> None:
        """Hold back what is delivered until `_replay` has called it with the retained messages."""

    def _replay(self, events: list[Event[Any]]) -> None:
        """Deliver these retained events before everything else; they are counted already, and `where` admits them."""
        if self._once and events:
            self.counted -= len(events) - 1
            del events[1:]
            self._use_up()
        if self.mailbox is not None:
            self.mailbox.replay(events)

    def _use_up(self) -> None:
        """Remove it before its one message is delivered."""
        self._hub._remove(self)

    def _removed(self) -> Notices:
        """Drop what was queued or running, since it is being removed; return what to notify when that is done."""
        return []

    def forked(self) -> None:
        """Drop what belongs to the parent of a forked process: queued messages, waiting consumers, running tasks."""
        if self.mailbox is not None:
            self.mailbox.forget()

    # Called by the mailbox

    def _overflowing(self, key: Key[Any]) -> None:
        assert self.mailbox is not None
        what = f"its queue is full, with maxsize={self.maxsize} and overflow={self.mailbox.overflow.value!r}"
        logger.warning("%r does not keep up: %s", self, what)
        self._hub._announce_about("slowSubscriber", self, {"pending": self.pending, "maxsize": self.maxsize}, (key,))

    def _gap_passed(self, gap: Gap) -> None:
        self._hub._announce_about("gap", self, gap, gap.keys)

    def _reopened(self) -> None:
        """Start over, as the hub is about to register it again."""
        self.closed = False
        self._patterns = ()

    def __repr__(self) -> str:
        troubles = ("pending", "dropped", "superseded", "filtered", "failed")
        counters = "".join(f" {name}={number}" for name in troubles if (number := getattr(self, name, 0)))
        return f"<{type(self).__name__} {self._described}{counters}{self._state}>"

    def _repr_html_(self) -> str:
        rows = [("patterns", describe_all(self._patterns)), ("delivered", self.delivered), *figures(self, _SHOWN)]
        return table(f"{type(self).__name__} {self._described}{self._state}", rows)

    @property
    def _described(self) -> str:
        return describe_all(self._patterns) or "on nothing"

    @property
    def _state(self) -> str:
        return " closed" if self.closed else ""
