"""The methods of a hub that publish with metadata, publish and wait, or publish from another thread."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, overload

from .._core.checks import headers_of
from .._core.confirming import publish_until_finished
from .._core.message_queue import Mailbox
from .._core.registry import Registry
from .._core.room import publish_with_room
from .._core.routes import Route
from ..errors import HubClosed, NoRunningLoop
from ..event import Event, Meta
from ..key import Key, KeyLike, PlainKey, T


class Publishing(Registry):
    """Every way of publishing except the plain one, which is `Exchange.publish`."""

    def publish_many(self, pairs: Iterable[tuple[KeyLike[T], T]]) -> int:
        """Publish each (key, message) in turn; return the sum of what `publish` returned."""
        return sum(self.publish(key, message) for key, message in pairs)

    def publish_with_headers(
        self, key: KeyLike[T], message: T, headers: Mapping[str, str], *, due: float | None = None
    ) -> int:
        """Publish as `publish` does, with headers, which cross bridges too; with `due`, not before that time.

        Consumers and listeners of events find the headers in `event.meta.headers`. It is a method of its own because
        another argument would cost every plain `publish` up to a tenth of its time.

        Args:
            key: What to publish to.
            message: What to publish.
            headers: Sent with the message.
            due: A time in seconds since the epoch, before which nobody gets it, here or elsewhere. A bridge must carry
                its key to a broker that can delay messages; if the broker cannot, `on_error` is called.

        Raises:
            ValueError: A name or a value of a header is not a string, or `due` is not a time.
            Unsupported: It is due later, and no bridge carries its key.
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
        """
        return self.publish_event(Event(self._route_of(key).key, message, Meta(headers=headers_of(headers), due=due)))

    @overload
    async def publish_confirmed(
        self,
        key: Key[T],
        message: T = ...,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int: ...
    @overload
    async def publish_confirmed(
        self,
        key: PlainKey | str,
        message: Any = ...,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int: ...

    async def publish_confirmed(
        self,
        key: Any,
        message: Any = None,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int:
        """Deliver as `publish` does, and wait until everybody has finished with it; return how many did.

        A listener, sync or async, has finished when its call returns. A consumer has finished when it asks for the next
        message, by its own iterator (`async for`) or by `consume`, or leaves the block of its subscription without an
        exception; under `ack="manual"`, only when it calls `event.done()`. A message that `where` filters out, or that
        a newer one replaces, is finished with. Messages that are published onward are not waited for.

        Args:
            key: What to publish to.
            message: What to publish.
            timeout: Seconds to wait; None for no limit. After a timeout the message stays delivered.
            headers: Sent with the message, see `publish_with_headers`.
            due: A time in seconds since the epoch, see there. If it lies in the future, this returns when the brokers
                have stored the message.

        Raises:
            DeliveryError: A target failed, dropped it, was closed, or cannot delay it; a group that names each.
            ConfirmationTimeout: A target has not finished in time.
            WaitingForItself: Called inside an async listener that would have to handle the message itself.
            Unsupported: It is due later, and no bridge carries its key.
            ValueError: `due` is not a time.
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed.
        """
        meta = None if headers is None and due is None else Meta(headers=headers_of(headers), due=due)
        return await publish_until_finished(self, key, message, meta, timeout)

    @overload
    async def publish_wait(self, key: Key[T], message: T = ...) -> int: ...
    @overload
    async def publish_wait(self, key: PlainKey | str, message: Any = ...) -> int: ...

    async def publish_wait(self, key: Any, message: Any = None) -> int:
        """Wait until each full queue has room, then deliver as `publish` does: to everyone in one step, or to no one.

        First come, first served. If there is room, it does not yield to the loop; if it is cancelled, it has delivered
        nothing. If a listener that is called in that step publishes into a full queue, that queue's policy applies.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            HubClosed: The hub is closed, or is closed while waiting.
        """
        is_first = False
        try:
            route = self._routes[key]
        except (KeyError, TypeError):
            route = self._route(key)
            is_first = True
        try:
            mailboxes = route.mailboxes
        except AttributeError:
            mailboxes = _mailboxes(route)
        for mailbox in mailboxes:
            if len(mailbox.items) >= mailbox.room:
                return await self._publish_with_room(route.key, message)
        return self._publish_first(route, message) if is_first else self.publish(key, message)

    def _publish_with_room(self, key: Key[Any], message: Any) -> Awaitable[int]:
        if self._hints is not None:
            targets: Any = self._router.targets(key)
            self._hints.on_waiting(key, targets)
        return publish_with_room(
            key,
            lambda: _mailboxes(self._route_of(key)),
            self._life.bind,
            lambda: self._publish_first(self._route_of(key), message),  # the route may be new
        )

    @overload
    def publish_threadsafe(self, key: Key[T], message: T = ...) -> concurrent.futures.Future[int]: ...
    @overload
    def publish_threadsafe(self, key: PlainKey | str, message: Any = ...) -> concurrent.futures.Future[int]: ...

    def publish_threadsafe(self, key: Any, message: Any = None) -> concurrent.futures.Future[int]:
        """Publish from any thread, through the hub's loop; messages of one thread stay in order.

        Returns a future of what `publish` returns or raises. If it is cancelled in time, nothing is published.

        Raises:
            HubClosed: The hub is closed.
            NoRunningLoop: The hub is not bound to a loop yet, or its loop is closed.
        """
        if self._life.state == "closed":
            raise HubClosed(self)
        loop = self._life.loop
        future: concurrent.futures.Future[int] = concurrent.futures.Future()

        def publish() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self.publish(key, message))
                except BaseException as error:
                    future.set_exception(error)
                    if not isinstance(error, Exception):
                        raise

        if loop is None or loop.is_closed():
            raise NoRunningLoop(self, "publish_threadsafe")
        loop.call_soon_threadsafe(publish)
        return future


def _mailboxes(route: Route) -> Sequence[Mailbox]:
    """The queues that a route leads to, cached in the route."""
    try:
        return route.mailboxes
    except AttributeError:
        route.mailboxes = tuple(box for target in route.targets if (box := target.mailbox) is not None)
        return route.mailboxes
