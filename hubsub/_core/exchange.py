"""The whole path of a message: publish, route, deliver, handle failures; and removals during a delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, overload

from ..confirm import Confirmation, Confirmed
from ..describe import describe
from ..errors import HubClosed, HubsubError, WrongThread
from ..event import Event, ListenerFailure
from ..key import Key, KeyLike, PlainKey, T, publishable
from ..log import Logger
from .callables import checked_function, refuse_awaitable
from .circles import NOWHERE, Circles, Overrun, caused_by_circle
from .delays import carriers_of, is_delayed
from .guard import ThreadGuard
from .hints import Hints
from .life import Life
from .listener import Listener
from .message_queue import as_tuple
from .probe import Probe
from .router import Router
from .routes import FIRST, Route, Target, Tick

logger = Logger("hubsub.hub")
listener_logger = Logger("hubsub.listener")


class Exchange:
    """Delivers what is published along the routes of its router.

    The lowest of the classes that a hub is built on. They are base classes and not members of it, because delegating
    a call would cost each publish a quarter of its time.
    """

    def __init__(
        self, router: Router[Target], life: Life, on_error: Callable[[ListenerFailure], object] | None
    ) -> None:
        self._on_error: Callable[[ListenerFailure], object] | None = None
        self.on_error = on_error
        self._router = router
        # The dictionary of the router's cache itself, which saves a publish one attribute.
        self._routes: Mapping[Any, Route] = router.routes
        router.swapped = self._swapped
        self._life = life
        self._guard = router.guard = ThreadGuard(life)
        self._circles = Circles(_DELIVERING)
        self._failed = 0
        self._hints: Hints | None = None  # in debug mode

    @property
    def on_error(self) -> Callable[[ListenerFailure], object] | None:
        """Called with a `ListenerFailure` when a listener raises; a plain function, or None."""
        return self._on_error

    @on_error.setter
    def on_error(self, function: Callable[[ListenerFailure], object] | None) -> None:
        self._on_error = None if function is None else checked_function(function, "on_error", "failure")

    # Publishing

    @overload
    def publish(self, key: Key[T], message: T = ...) -> int: ...
    @overload
    def publish(self, key: PlainKey | str, message: Any = ...) -> int: ...

    def publish(self, key: Any, message: Any = None) -> int:
        """Deliver to every matching subscription, in order of subscription; return how many there are.

        Never waits. If a listener raises, the error is logged and counted, and the others get the message all the
        same. What a listener publishes is delivered completely before this delivery goes on. What a listener adds does
        not get this message; what it removes is no longer called.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
            WrongThread: The hub's loop runs in another thread; no listener was called. If all subscriptions are plain
                listeners, they are called instead.
        """
        try:
            route = self._routes[key]
        except (KeyError, TypeError):
            pass
        else:
            deliver = route.only
            tick = route.tick.next
            if tick is None:
                tick = self._turn(route)
            route.tick = tick
            key = route.key
            if deliver is not None:  # the usual case; without a loop it takes a sixth less
                try:
                    deliver(key, message)
                except BaseException as error:
                    if error.__class__ is RecursionError:  # the stack is full: nothing can be called here
                        self._circles.key, self._routes = key, NOWHERE
                    self._deliver_failed(route, deliver, message, error)
                return route.width
            for deliver in route:
                try:
                    deliver(key, message)
                except BaseException as error:
                    if error.__class__ is RecursionError:
                        self._circles.key, self._routes = key, NOWHERE
                    self._deliver_failed(route, deliver, message, error)
            return route.width
        try:
            return self._publish_first(self._route(key), message)
        except RecursionError as error:
            if error.__class__ is RecursionError:
                self._circles.key, self._routes = key, NOWHERE
            raise

    def _turn(self, route: Route) -> Tick:
        """Count a full turn of publishes along a route, check for a circle, and begin the next turn."""
        if self._circles.look(self, route.key):
            self._routes = {}
        route.published += Tick.TURN
        return FIRST

    def _publish_first(self, route: Route, message: Any) -> int:
        """Publish for the first time along a route, and check what plain listeners return.

        Checking it every time would slow down every publish: see `callables`.
        """
        key = route.key
        if route.is_judged and key in self._routes:
            return self.publish(key, message)  # all but one or two of its callables were called before
        route.published += 1
        for index, deliver in enumerate(route):
            try:
                returned = deliver(key, message)
                if returned is not None:
                    route.steps[index].returned(Event(key, message), returned)
            except BaseException as error:
                if error.__class__ is RecursionError:
                    self._circles.key, self._routes = key, NOWHERE
                self._failed_at(route, index, message, error)
        route.is_judged = True
        return route.width

    def publish_event(self, event: Event[T]) -> int:
        """Deliver an event with its metadata to every matching subscription; return how many there are.

        For messages with metadata, such as one received from elsewhere; otherwise as `publish`. If `meta.due` lies in
        the future, only the bridges that carry its key get it, and nobody else before it is due. If the broker of a
        bridge cannot delay messages, the hub's `on_error` is called.

        Raises:
            Unsupported: It is due later, and no bridge carries its key.
            ValueError: `meta.due` is no time.
        """
        try:
            key, registration = event[0], event.registration
        except (AttributeError, TypeError, LookupError):
            raise TypeError(f"publish_event takes a hubsub.Event, not {describe(event)}") from None
        try:
            route = self._routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
        if type(key) is not Key or registration is not None:
            # It came from a confirmed publish: reports on it belong to that one.
            event = Event(route.key, event[1], event.meta)
        if event.meta is not None and event.meta.due is not None:
            if is_delayed(event.meta):
                return self._deliver(carriers_of(route), event)
            event = Event(route.key, event[1], event.meta._replace(due=None))
        target = route.sole
        if target is None:
            if self._life.thread != get_ident():
                self._life.check_thread()
            return self._deliver(route.targets, event)
        route.published += 1
        return self._deliver_to_one(target, event)

    def _announce(self, key: Key[Any], message: Any, but: Target | None = None) -> None:
        """Publish a meta-event to everybody but one; not where listeners publish them in a circle."""
        if self._routes is not self._router.routes:
            try:
                self._check_circle(key)
            except Overrun:
                return
        targets = [target for target in self._router.targets(key) if target is not but]
        targets = self._router.observed(key, targets)
        if targets:
            self._router.misses += 1
            self._deliver(targets, Event(key, message))

    # Routes that are not cached

    def _swapped(self, routes: Mapping[Any, Route]) -> None:
        """Use the router's new cache from now on."""
        self._routes = routes

    def _route_of(self, key: KeyLike[Any]) -> Route:
        """The route of a key, for callers off the hot path."""
        try:
            return self._routes[key]
        except (KeyError, TypeError):
            return self._route(key)

    def _route(self, key: KeyLike[Any]) -> Route:
        """Make the route of a key that is not in the cache."""
        life = self._life
        try:
            if life.thread != get_ident():
                life.check_thread()
            if life.state == "closed":
                raise HubClosed(self)
            exact = publishable(key)
            if self._routes is not self._router.routes:
                self._check_circle(exact)
        except (HubsubError, Overrun) as error:
            raise error from None  # the failed look-up would only clutter the traceback
        route = self._router.routes.get(exact)
        if route is not None:
            return route
        route = self._router.make(exact)
        return route if self._hints is None else self._hints.on_route(route)

    def _check_circle(self, key: Key[Any]) -> None:
        """Refuse a publish of `key` in a circle after the stack was full; otherwise return to normal."""
        circles = self._circles
        if self._routes is NOWHERE:
            circles.overruns += 1
            self._routes = {}
        if circles.check(self, key):
            self._routes = self._router.routes

    # Delivering with metadata: to a single target, and to any number of them

    def _deliver_to_one(
        self, target: Target, event: Event[Any], confirmed: Confirmed | None = None, bounded: bool = False
    ) -> int:
        """Deliver an event to the only target: it needs no copy, and nothing can change before that."""
        if confirmed is not None:
            event.confirmed = confirmed
            event.registration = target
        interrupt: BaseException | None = None
        try:
            if not target.deliver_event(event, bounded):
                event.done()
        except BaseException as error:
            if error.__class__ is RecursionError:
                self._circles.key, self._routes = event[0], NOWHERE
            event.fail(error, "it failed")
            interrupt = self._failure(target, *event, error)
        if interrupt is not None:
            raise interrupt
        return 1

    def _deliver(
        self,
        targets: Sequence[Target],
        event: Event[Any],
        confirmation: Confirmation | None = None,
        bounded: bool = False,
    ) -> int:
        """Deliver an event to any number of targets, to each a copy if it is confirmed."""
        interrupt: BaseException | None = None
        delivered = 0
        newest = targets[-1].order if targets else 0
        changes = self._router.changes
        for target in targets:
            # Closed meanwhile, removed from the patterns that match, or closed and registered again.
            if self._router.changes != changes and (target.order > newest or not target.is_on(event.key)):
                continue
            delivered += target.is_subscription
            target.counted += 1
            try:
                # Observers only keep or record it: they have nothing to finish.
                if confirmation is not None and (target.is_subscription or target.remote):
                    _deliver_copy(target, event, confirmation)
                else:
                    target.deliver_event(event, bounded)
            except BaseException as error:
                if error.__class__ is RecursionError:
                    self._circles.key, self._routes = event[0], NOWHERE
                interrupt = self._failure(target, event.key, event.message, error) or interrupt
        tally = self._router.tally
        tally.published += 1
        tally.routed += delivered
        if not tally.published % Tick.TURN and self._circles.look(self, event[0]):
            self._routes = {}
        if interrupt is not None:
            raise interrupt
        return delivered

    def _deliver_confirmed(self, targets: Sequence[Target], event: Event[Any], confirmation: Confirmation) -> int:
        """Deliver an event, and have each target report when it has finished with it."""
        try:
            return self._deliver(targets, event, confirmation)
        finally:
            confirmation.settle(0, [])

    # Failures

    def _deliver_failed(self, route: Route, deliver: Any, message: Any, error: BaseException) -> None:
        """Find out which callable of a route has failed, and handle that as `_failed_at` does."""
        if type(deliver) is Probe:
            raise error  # that has finished the delivery
        if deliver is self._guard.deliver:
            route.published -= 1  # nobody was called
            raise error
        indices = route.indices_of(deliver)
        if len(indices) == 1:
            self._failed_at(route, indices[0], message, error)
        else:
            Probe.set(route, indices, error, self._failed_at)

    def _failed_at(self, route: Route, index: int, message: Any, error: BaseException) -> None:
        """Report the failure at one index of a route; if it must propagate, deliver to the rest of the route first."""
        interrupt = self._failure(route.steps[index], route.key, message, error)
        if interrupt is None:
            return
        for later in range(index + 1, len(route)):
            try:
                route[later](route.key, message)
            except BaseException as another:
                self._failure(route.steps[later], route.key, message, another)
        raise interrupt

    def _failure(self, target: Target, key: Key[Any], message: Any, error: BaseException) -> BaseException | None:
        """Report what a target raised; return it if it is not a failure of the target and must propagate."""
        if isinstance(error, WrongThread):
            target.missed += 1  # it refused the message
            return error
        if not isinstance(error, Exception | asyncio.CancelledError):
            return error
        if isinstance(target, Listener):
            try:
                self._report(target, key, message, error)
            except BaseException as another:
                return another
        else:
            logger.error("delivering %r to %r failed", key, target, error=error)
        return None

    def _report(
        self, listener: Listener, key: Key[Any], message: Any, error: BaseException, quietly: bool = False
    ) -> None:
        """Count, log and pass on a listener's failure."""
        listener.failed += 1
        listener.last_error = error
        self._failed += 1
        if quietly:
            listener_logger.info("a call of listener %r on %r was cut short: %s", listener.function, key, error)
        elif caused_by_circle(error) or (isinstance(error, RecursionError) and self._circles.report(self, key)):
            pass  # logged once for all
        elif isinstance(error, RecursionError):
            # A traceback of a thousand frames says less than this line.
            listener_logger.error("listener %r failed on %r: %s", listener.function, key, error)
        else:
            listener_logger.error("listener %r failed on %r", listener.function, key, error=error)
        self._report_error(ListenerFailure(key, message, listener, error))

    def _report_error(self, failure: ListenerFailure) -> None:
        """Call `on_error` with a failure, if it is set; an error that it raises is logged."""
        on_error = self._on_error
        if on_error is not None:
            try:
                refuse_awaitable(on_error(failure), on_error, "on_error")
            except (Exception, asyncio.CancelledError) as another:
                logger.error("on_error %r failed", on_error, error=another)


def _deliver_copy(target: Target, event: Event[Any], confirmation: Confirmation) -> None:
    copy: Event[Any] = as_tuple(Event, event)
    if event.meta is not None:
        copy.meta = event.meta
    confirmation.hand_out(copy, target)
    try:
        if not target.deliver_event(copy):
            copy.done()
    except BaseException as error:
        copy.fail(error, "it failed")
        raise


_DELIVERING = frozenset(
    function.__code__
    for function in (Exchange.publish, Exchange._publish_first, Exchange._deliver_to_one, Exchange._deliver)
)
