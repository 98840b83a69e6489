"""What is registered with a hub: the part that listeners, which are called, and subscriptions, which queue, share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from ..describe import describe_all
from ..errors import WrongThread
from ..event import DeadLetter, Event, Gap
from ..key import Announced, Deliver, Key, is_subset
from ..log import Logger
from .callables import truth
from .life import Life
from .message_queue import Mailbox, Overflow
from .notices import Notices
from .retry import Retry
from .router import Router

# Tells of a key and a message whether they are wanted.
Where: TypeAlias = Callable[[Key[Any], Any], object]

Ack: TypeAlias = Literal["auto", "manual"]

logger = Logger("hubsub.listener")


class Owner(Protocol):
    """What a registration needs of its hub."""

    _life: Life
    _router: Router[Any]

    def _remove(self, registration: Registration, patterns: Iterable[tuple[str, ...]] | None = None) -> None: ...
    def _report(
        self, listener: Any, key: Key[Any], message: Any, error: BaseException, quietly: bool = False
    ) -> None: ...
    def _tell(
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


class ListenerOptions(AsyncOptions, total=False):
    """What can be said of a listener; all but the last for async ones only."""

    once: bool
    """Remove it with its first message."""


class SubscribeOptions(QueueOptions, total=False):
    """What `Hub.subscribe` takes for every kind of subscription."""

    where: Where | None
    """Only messages for which it is true are queued."""
    ack: Ack
    """What tells that a message is finished."""


class Bookkeeper(Protocol):
    """Whoever keeps a book of registrations: the hub tells of each change before it announces it."""

    def _note(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...
    def _forget(self, registration: Registration, patterns: Iterable[tuple[str, ...]]) -> None: ...


class Registration:
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
        hub: Owner,
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
        self._patterns: tuple[tuple[str, ...], ...] = ()
        self.order = 0
        self.deliver: Deliver = self._gate(deliver)
        # Messages routed here, as far as routes have told; `Owner._fold` makes them tell.
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

    def _use_up(self) -> None:
        """Remove it before the message that it was there for is handed over."""
        self._hub._remove(self)

    def _removed(self) -> Notices:
        """Let go of what was queued or running, being removed; return who is to be notified when that is done."""
        return []

    # What the mailbox tells

    def _overflowing(self, key: Key[Any]) -> None:
        assert self.mailbox is not None
        what = f"{self.maxsize} messages wait, which is its bound; overflow: {self.mailbox.overflow.value}"
        logger.warning("%r does not keep up: %s", self, what)
        self._hub._tell("slowSubscriber", self, {"pending": self.pending, "maxsize": self.maxsize}, (key,))

    def _gap_passed(self, gap: Gap) -> None:
        self._hub._tell("gap", self, gap, gap.keys)

    def _reopened(self) -> None:
        """Begin anew; the hub is just registering it again."""
        self.closed = False
        self._patterns = ()

    def __repr__(self) -> str:
        patterns = describe_all(self._patterns)
        closed = " closed" if self.closed else ""
        return f"<{type(self).__name__} {patterns}{closed}>"


class Removal:
    """What removing returns: awaited, it ends when the tasks that were removed have. Awaiting is optional."""

    __slots__ = ("_tasks",)

    awaiting_is_optional = True  # a listener may return it

    def __init__(self, tasks: Iterable[asyncio.Task[None]] = ()) -> None:
        self._tasks = tuple(tasks)

    @classmethod
    def of(cls, removals: Iterable[Removal]) -> Removal:
        """Several removals as one."""
        return cls(task for removal in removals for task in removal._tasks)

    def __await__(self) -> Generator[Any, None, None]:
        running = [task for task in self._tasks if not task.done() and not task.get_loop().is_closed()]
        if running:
            # Waited for, not awaited: who cancels the waiting does not cancel them a second time.
            yield from asyncio.wait(running).__await__()
