"""What travels: an `Event`, the `Meta` that may go with it, and the reports of what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from ._core.callables import refuse_awaitable
from .confirm import Confirmed, complain
from .errors import Undelivered
from .key import Key, T, V

if TYPE_CHECKING:
    from typing import Self


class Meta(NamedTuple):
    """What is known of a message beyond key and payload; events from a bridge, for example, have it."""

    id: str | None = None
    """Unique within `source`."""
    source: str | None = None
    """The origin: who published it first."""
    time: float | None = None
    """When it was published, in seconds since the epoch."""
    headers: Mapping[str, str] = {}
    """Whatever the publisher sent along."""
    hops: int = 0
    """How many bridges it has crossed."""
    position: object = None
    """Its position in the broker's log, in the broker's own terms; for a retained message, in the hub's history."""
    redelivered: bool = False
    """True if the broker says that it was delivered before."""
    replayed: bool = False
    """True if it comes from a history, not from the live flow."""
    reply_to: Key[Any] | None = None
    """Where to publish the reply, with the same `correlation`: on requests that came from elsewhere."""
    correlation: str | None = None
    """The id of the request that this is, or that this replies to."""
    due: float | None = None
    """When it may be delivered, and not before, in seconds since the epoch; None on what is delivered."""


class Event(tuple[Key[T], T], Generic[T]):
    """A message and its key: `key, message = event`.

    `event.meta` is None unless something was known beyond the two.
    """

    meta: Meta | None = None
    # Set by a confirmed publish; the event is then for one registration. The first report on it counts and clears this.
    confirmed: Confirmed | None = None
    registration: Any = None
    # Set where a listener is called in the context of the publish.
    context: Context | None = None
    # Set in the queue of a listener with `batch=`: when it came, by the loop's clock; None if there was none.
    came: float | None = None

    def __new__(cls, key: Key[T], message: T, meta: Meta | None = None) -> Self:
        event = tuple.__new__(cls, (key, message))
        if meta is not None:
            event.meta = meta
        return event

    if TYPE_CHECKING:

        @property
        def key(self) -> Key[T]: ...

        @property
        def message(self) -> T: ...
    else:
        key = property(itemgetter(0), doc="What it was published to.")
        message = property(itemgetter(1), doc="What was published.")

    def done(self) -> None:
        """Report that you have finished with it, if its publisher waits for that; else do nothing."""
        confirmed = self.confirmed
        if confirmed is not None:
            self.confirmed = None
            try:
                refuse_awaitable(confirmed(1, []), confirmed, "confirmed")
            except (Exception, asyncio.CancelledError) as error:
                complain(confirmed, error)

    def fail(self, error: BaseException | None = None, why: str = "its consumer failed") -> None:
        """Report that you will not finish with it, if its publisher waits for that; else do nothing."""
        confirmed = self.confirmed
        if confirmed is not None:
            self.confirmed = None
            failure = Undelivered(self.registration, why)
            failure.__cause__ = error
            try:
                refuse_awaitable(confirmed(0, [failure]), confirmed, "confirmed")
            except (Exception, asyncio.CancelledError) as another:
                complain(confirmed, another)

    def __reduce__(self) -> tuple[Any, ...]:
        # The publisher waits for this event, not for a copy.
        return type(self), (self[0], self[1], self.meta)

    def __repr__(self) -> str:
        meta = "" if self.meta is None else f", {self.meta!r}"
        return f"Event({self[0]!r}, {self[1]!r}{meta})"


class Gap(NamedTuple):
    """Stands in a queue exactly where messages are missing."""

    reason: str
    """Why: for example, the overflow policy that dropped them."""
    count: int | None  # type: ignore[assignment]  # hides the method of tuples, which is of no use here
    """How many, or None if that is unknown."""
    since: float
    """When the first loss was noticed, in seconds since the epoch."""
    until: float
    """When the last one was."""
    keys: tuple[Key[Any], ...] | None
    """The keys, in the order of the first loss of each; None if there are more than 64, or they are unknown."""


class Snapshot(NamedTuple, Generic[V]):
    """The result of `load`: what a subscription with `snapshot=load` reads first, and instead of each gap."""

    value: V
    """What `load` returned."""


class ListenerFailure(NamedTuple):
    """What `Hub(on_error=...)` is called with when a listener fails."""

    key: Key[Any]
    message: Any
    listener: Any
    """The `Listener` that failed; `listener.function` is the callable."""
    error: BaseException


class DeadLetter(NamedTuple):
    """A message that a listener with `retry=` has given up on; published as `("Hub", "deadLetter", *key)`."""

    key: Key[Any]
    message: Any
    error: BaseException
    """What the last attempt raised."""
    attempts: int
    """How often the listener was called with it."""
