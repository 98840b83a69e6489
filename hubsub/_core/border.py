"""What bridges, and whatever else connects a hub to others, need of it: `hub.border`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from ..confirm import Confirmation, Confirmed
from ..errors import Undelivered
from ..event import Event, Gap, ListenerFailure, Meta
from ..key import Key, Patterns, as_patterns, overlaps
from .asking import Requests
from .checks import count as count_of
from .circles import NOWHERE
from .declarations import Declarations
from .ids import Ids
from .life import Grace
from .listener import Listener
from .notices import notify
from .outbox import Attachment, Outbox, SharedId, Shed
from .registry import Registry
from .routes import Route, Target


def _nothing() -> None:
    """Do nothing: the default for users that poll an outbox and keep nothing."""


class Border:
    """What enters a hub from elsewhere, what leaves it, and what lives as long as it does.

    The hub has one, `hub.border`; users of a hub do not need it. It is an object and not another base class of the hub,
    so that its names are not names of the hub.

    - the way in: `relay` delivers a message that came from elsewhere, `report_gap` says that some did not come,
      `report_error` hands a failure to the hub's `on_error`;
    - the way out: `outbox` queues what leaves, `mint` and `mint_id` give it an id, `origin` names this hub, `type_of`
      returns the declared type of a key;
    - living with the hub: `attach`, `detach`, `grace`, and `attached`, which is `hub.bridges` for users.
    """

    # Registrations to which a gap is reported in one turn of the loop.
    MOST_AT_ONCE = 100

    def __init__(self, core: Registry, requests: Requests, declarations: Declarations) -> None:
        self._core = core
        self._tally = core._router.tally
        self._requests = requests
        self._attached: list[Attachment] = []
        self._late_gaps: list[LateGap] = []
        self._outboxes: list[Outbox] = []
        self.type_of: Callable[[tuple[str, ...]], Any] = declarations.type_of
        """Returns the declared type of an exact key's messages; None if there is none."""
        self._ids = Ids()
        self._shared_id = SharedId(self._ids.mint)
        self.mint_id: Callable[[], str] = self._ids.mint
        """Returns an id that no other message has and that nobody can guess."""

    # The way in

    def relay(
        self,
        event: Event[Any],
        *,
        exclude: Target | None = None,
        confirmed: Confirmed | None = None,
        only: Collection[Target] | None = None,
        bounded: bool = False,
    ) -> int:
        """Deliver a message that came from elsewhere, with its metadata; return how many subscriptions get it.

        Args:
            event: What came.
            exclude: The outbox through which it must not leave again. If that diverts its keys, the registrations that
                a plain publish leaves out get the message too.
            confirmed: Called once everybody has finished with it, see `Hub.publish_confirmed`: with how many did, and
                a list of `Undelivered` for the others. That may be before this returns. If it raises, that is logged.
            only: The registrations that get it, for a repeated delivery; by default all that its key leads to.
            bounded: Queues that may grow beyond their bound make room for it instead, as under `DROP_OLDEST`: a remote
                sender does not wait for a slow consumer, and must not fill the memory. Not for confirmed messages:
                their number is bounded already.

        Raises:
            InvalidKey: Nothing can be published to its key.
            HubClosed: The hub is closed.
        """
        core = self._core
        key = event[0]
        try:
            route = core._routes[key]
        except (KeyError, TypeError):
            route = core._route(key)
        if type(key) is not Key or event.registration is not None:
            # It came from a confirmed publish: reports on it belong to that one.
            event = Event(route.key, event[1], event.meta)
        try:
            targets, sole = route.others[exclude]
        except (AttributeError, KeyError):
            targets, sole = _others(route, exclude)
        if self._late_gaps:
            for late in self._late_gaps:
                late.report_to(targets)
        if only is not None:
            targets = [target for target in targets if target in only]
            sole = targets[0] if len(targets) == 1 and targets[0].is_subscription else None
        if sole is None:
            if confirmed is None:
                return core._deliver(targets, event, None, bounded)
            return core._deliver_confirmed(targets, event, Confirmation(confirmed))
        # The route would count a message for every target.
        sole.counted += 1
        tally = self._tally
        tally.published += 1
        tally.routed += 1
        if confirmed is not None:
            return core._deliver_to_one(sole, event, confirmed, bounded)
        try:
            sole.deliver_event(event, bounded)
        except BaseException as error:
            if error.__class__ is RecursionError:
                core._circles.key, core._routes = key, NOWHERE
            interrupt = core._failure(sole, *event, error)
            if interrupt is not None:
                raise interrupt from None
        return 1

    def relay_at_once(
        self, event: Event[Any], exclude: Target | None
    ) -> tuple[()] | tuple[Undelivered, BaseException | None] | None:
        """Deliver as `relay` does if the only target is a sync listener, which has finished by the return of this.

        Returns None if nobody got the message: the listener wants the event, whose outcome it may report, there are
        other targets, or nothing was relayed to the key before. Use `relay` then. Otherwise returns an empty tuple; or
        how the listener has failed, and what must propagate of that, if anything.
        """
        core = self._core
        key, message = event
        try:
            _, sole = core._routes[key].others[exclude]
        except (AttributeError, KeyError):
            return None
        if type(sole) is not Listener or sole._event or sole._held is not None or self._late_gaps:
            return None
        sole.counted += 1
        tally = self._tally
        tally.published += 1
        tally.routed += 1
        try:
            result: object = sole.deliver(key, message)
            if result is not None:
                sole.returned(event, result)
        except BaseException as error:
            if error.__class__ is RecursionError:
                core._circles.key, core._routes = key, NOWHERE
            failure = Undelivered(sole, "it failed")
            failure.__cause__ = error
            return failure, core._failure(sole, key, message, error)
        return ()

    def report_gap(self, patterns: Patterns, gap: Gap) -> None:
        """Notify everyone whose subscription overlaps these patterns that messages are missing here.

        In a queue the gap stands behind what is queued; for a plain listener it is published at once, as
        `("Hub", "gap", *pattern)`. If very many are concerned, some are notified in later turns of the loop, but before
        they get the next relayed message.
        """
        named = as_patterns(patterns)
        matcher = self._core._router.matcher
        found = chain.from_iterable(map(matcher.overlapping, named))
        concerned = dict.fromkeys(islice(found, self.MOST_AT_ONCE))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None  # no other task has to wait meanwhile
            concerned.update(dict.fromkeys(found))
        if loop is not None and next(found, None) is not None:
            late = LateGap(gap, named, list(self._core._registered))
            self._late_gaps.append(late)
            self._report_late(loop)
        else:
            for registration in sorted(concerned, key=_by_order):
                _report_gap(registration, gap)
        for outbox in self._outboxes:
            if outbox.wants_gaps and any(overlaps(own, other) for own in outbox._patterns for other in named):
                outbox.miss(gap)

    def _report_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report the oldest gap to some of those that have not been notified yet."""
        if self._late_gaps and not self._late_gaps[0].report_to_some(self.MOST_AT_ONCE):
            del self._late_gaps[0]
        if self._late_gaps:
            loop.call_soon(self._report_late, loop)

    def report_error(self, failure: ListenerFailure) -> None:
        """Call the hub's `on_error` with a failure, if there is one; if that raises, the error is logged."""
        self._core._report_error(failure)

    # The way out

    @property
    def origin(self) -> str:
        """A random name for this hub in this process, which says where messages come from."""
        return self._requests.name

    def mint(self, meta: Meta | None = None) -> Meta:
        """Return metadata with an id and an origin, for a message of this hub that has neither yet."""
        id = self.mint_id()
        if meta is None:
            return Meta(id, self.origin, time.time())
        return meta._replace(id=id, source=self.origin, time=meta.time or time.time())

    def wanted(self) -> list[Key[Any]]:
        """The patterns that somebody here wants: subscribed, retained or carried on; those of taps do not count."""
        subscribed = [pattern for pattern, _ in self._core._router.matcher.counts()]
        carried = [pattern for outbox in self._outboxes if outbox.is_wanted for pattern in outbox._patterns]
        return [Key.create_from(each) for each in (*subscribed, *self._core._history.patterns, *carried)]

    def responders(self) -> list[Key[Any]]:
        """The patterns that somebody here responds to, each once."""
        registered = (each for each in self._core._registered if each.responds)
        return list(dict.fromkeys(pattern for each in registered for pattern in each.patterns))

    @property
    def outboxes(self) -> tuple[Outbox, ...]:
        """The open outboxes, in the order in which they were made."""
        return tuple(self._outboxes)

    def outbox(
        self,
        patterns: Patterns,
        maxsize: int,
        *,
        ready: Callable[[], object] = _nothing,
        shed: Shed = _nothing,
        diverts: Sequence[tuple[str, ...]] = (),
        name: str = "Outbox",
        named: bool = False,
        wanted: bool = False,
        gaps: bool = False,
    ) -> Outbox:
        """Queue what is published to some patterns, to be carried away; see `Outbox`. `close()` ends it."""
        core = self._core
        core._life.check_thread()
        outbox = Outbox(
            core,
            as_patterns(patterns),
            count_of(maxsize, "maxsize"),
            ready=ready,
            shed=shed,
            diverts=diverts,
            shared_id=self._shared_id,
            name=name,
            is_named=named,
            is_wanted=wanted,
            gaps=gaps,
        )
        self._outboxes.append(outbox)
        if core._hints is not None:
            core._hints.on_patterns(outbox._patterns)
        core._router.observers.append(outbox.observer)
        self._outboxes_changed()
        self._notify_followers(outbox)
        return outbox

    def _notify_followers(self, outbox: Outbox) -> None:
        if outbox.is_wanted:
            for changed in self._core._followers:
                changed(outbox._patterns)

    def close_outbox(self, outbox: Outbox) -> None:
        """Close an outbox: what `Outbox.close` does."""
        core = self._core
        core._life.check_thread()
        core._router.observers.remove(outbox.observer)
        self._outboxes_changed()
        self._outboxes.remove(outbox)
        core._router.withdraw(outbox, ())
        outbox.closed = True
        notify(outbox._removed())
        self._notify_followers(outbox)

    def _outboxes_changed(self) -> None:
        """Number the outboxes: if there are several, a message gets its id when it is put, the same id in all."""
        self._shared_id.forget()
        for number, outbox in enumerate(self._outboxes, 1):
            outbox.number(number if len(self._outboxes) > 1 else 0)
            self._core._observe(tuple(outbox._patterns), 0)

    def leads_out(self, patterns: Iterable[tuple[str, ...]]) -> bool:
        """True if some key that these patterns match leaves by an outbox, to whoever may be there."""
        leaving = [pattern for outbox in self._outboxes if outbox.may_respond for pattern in outbox._patterns]
        return any(overlaps(pattern, other) for pattern in patterns for other in leaving)

    # Living with the hub

    @property
    def attached(self) -> tuple[Any, ...]:
        """The parts that live as long as the hub does: its bridges, in the order in which they were made."""
        return tuple(self._attached)

    def attach(self, part: Attachment) -> None:
        """Notify `part` of changes of subscription, and close it with the hub, until `detach`."""
        self._core._life.check_thread()
        self._attached.append(part)
        if self._core._hints is not None:
            self._core._hints.on_patterns(part.patterns)
        self._core._followers.append(part.changed)

    def grace(self) -> Grace:
        """Return the time that a part has to close if it is closed now; the part sets its `ended` when it is done."""
        return self._core._life.grace()

    def detach(self, part: Attachment) -> None:
        """Undo `attach`."""
        self._attached.remove(part)
        self._core._followers.remove(part.changed)


class LateGap:
    """A gap that concerns so many that some are notified later, but before they get the next relayed message."""

    __slots__ = ("_early", "_gap", "_left", "_patterns", "_reached", "_until")

    def __init__(self, gap: Gap, patterns: Sequence[tuple[str, ...]], registrations: list[Any]) -> None:
        self._gap = gap
        self._patterns = patterns
        # Those whom it may concern, by their order: from the one after that which was looked at last, to this one.
        self._reached = 0
        self._until = registrations[-1].order
        registrations.reverse()
        self._left = registrations
        self._early: set[Any] = set()  # notified before it was their turn

    def report_to_some(self, most: int) -> bool:
        """Go through `most` of the registrations that are left; return whether there are more."""
        some = self._left[-most:]
        del self._left[-most:]
        for registration in reversed(some):
            if registration.order > self._until:
                continue  # it was closed, and subscribed anew
            self._reached = registration.order
            if registration in self._early:
                self._early.remove(registration)
            else:
                self._report_if_concerned(registration)
        return bool(self._left)

    def report_to(self, registrations: Iterable[Any]) -> None:
        """Report it, once, to those of the registrations that it concerns, and whose turn has not come yet."""
        for registration in registrations:
            is_left = registration.is_subscription and self._reached < registration.order <= self._until
            if is_left and registration not in self._early:
                self._early.add(registration)
                self._report_if_concerned(registration)

    def _report_if_concerned(self, registration: Any) -> None:
        if any(overlaps(own, other) for own in tuple(registration._patterns) for other in self._patterns):
            _report_gap(registration, self._gap)


def _report_gap(registration: Any, gap: Gap) -> None:
    """Report a gap to a registration, unless it is closed."""
    if registration.closed:
        return
    if registration.mailbox is None:
        registration._gap_passed(gap)
    else:
        registration.mailbox.miss(gap)


_by_order: Any = attrgetter("order")


def _others(route: Route, exclude: Target | None) -> tuple[Sequence[Target], Target | None]:
    """Return the targets except `exclude`, and the only one if there is just one; keep both in the route."""
    targets = [target for target in route.targets if target is not exclude]
    if exclude is not None and exclude.diverts:
        targets += getattr(route, "diverted", ())
    sole = targets[0] if len(targets) == 1 and targets[0].is_subscription else None
    others: dict[Any, tuple[Sequence[Target], Target | None]] = getattr(route, "others", {})
    others[exclude] = targets, sole
    route.others = others
    return targets, sole
