"""Listeners that are called with each message inside the publish, and what all listeners have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ..describe import describe_all, name_of_callable
from ..event import Event
from ..key import Deliver, Key
from .callables import is_awaitable, refuse_awaitable
from .notices import Notices, notify
from .registration import Bookkeeper, Core, Registration, Removal, Where
from .wrapping import Wrapped, Wrappings


class Listener(Registration):
    """A callable that is called with each message, inside the publish. `remove()` ends it."""

    __slots__ = ("_call", "_event", "_held", "_watched", "_wrapped", "failed", "function", "last_error")

    def __init__(
        self,
        hub: Core,
        function: Callable[..., object],
        *,
        event: bool = False,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        self.function: Callable[..., object] = function
        """The callable."""
        # What is called, and whether with an event.
        self._call: Callable[..., Any] = function
        self._event = event
        self._wrapped: Wrapped | None = None
        super().__init__(hub, self._plain(), owner=owner, where=where, once=once)
        self._watched = False
        self._held: deque[Event[Any]] | None = None  # published while it is called with a history
        self.failed = 0
        """Calls that raised."""
        self.last_error: BaseException | None = None
        """What the last of them raised."""

    @property
    def may_refuse(self) -> bool:
        """True if it may refuse to be called by another thread than the hub's."""
        return self._once or self.mailbox is not None

    def _take(self, event: Event[Any]) -> None:
        result = self._call(event) if self._event else self._call(*event)
        if result is not None:
            self.returned(event, result)

    def returned(self, event: Event[Any], result: object, /) -> None:
        """Check what the function has returned; not for async listeners.

        Raises:
            InvalidListener: It returned something that has to be awaited, which nobody does.
        """
        if is_awaitable(result):
            self._watch()
            refuse_awaitable(result, self.function)

    # Beginning with a history

    def _put_off(self) -> None:
        if self.mailbox is None:
            self._held = deque()
            self.deliver = self._put_aside

    def _put_aside(self, key: Key[Any], message: Any) -> None:
        assert self._held is not None
        self._held.append(Event(key, message))

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        if self._held is not None:
            self._held.append(event)
            return True
        # As in the base class: calling `super()` would cost a plain listener a third of the delivery.
        if (self._where is not None or self._once) and not self._admits(*event):
            return False
        mailbox = self.mailbox
        if mailbox is None:
            self._take(event)
            return False
        mailbox.put_event(event, bounded)
        return True

    def _replay(self, events: list[Event[Any]]) -> None:
        held = self._held
        if held is None:
            super()._replay(events)
            return
        notices: Notices = []
        if self._once and events:
            self.counted -= len(events) - 1
            del events[1:]
            self._use_up()
            notices.append(partial(self._call_with, events[0], self._take))
        else:
            notices += [partial(self._call_unless_closed, event) for event in events]
        try:
            notify(notices)
            while held and not self.closed:
                self._call_with(held.popleft(), super().deliver_event)
        finally:
            self._held = None
            self._renew()
            self.missed += len(held)
            notify([partial(event.fail, why="dropped, it was removed or closed") for event in held])

    def _call_unless_closed(self, event: Event[Any]) -> None:
        if self.closed:
            self.counted -= 1
        else:
            self._call_with(event, self._take)

    def _call_with(self, event: Event[Any], call: Callable[[Event[Any]], object]) -> None:
        """Call it as a publish does, so that what it raises is its own failure."""
        try:
            call(event)
        except BaseException as error:
            event.fail(error, "it failed")
            interrupt = self._hub._failure(self, event[0], event[1], error)
            if interrupt is not None:
                raise interrupt from None
        else:
            event.done()

    def _plain(self) -> Deliver:
        """What a publish calls if there is no result to check."""
        return partial(_call_with_event, self._call) if self._event else self._call

    def _renew(self) -> None:
        """Have routes call it as it is to be called from now on."""
        self.deliver = self._gate(self._deliver_watched if self._watched else self._plain())
        self._hub._router.renew(self, self._patterns)

    # Wrapping

    def _wrap_in(self, wrappings: Wrappings | None) -> None:
        """Call it inside the wrappers that concern each message from now on; with None, without any."""
        wrapped = self._wrapped
        if (wrapped is None) == (wrappings is None):
            return
        if wrappings is not None:
            self._wrapped = wrapped = Wrapped(self, wrappings, is_async=self.mailbox is not None)
            wrapped.function, wrapped.with_event = self._call_instead(wrapped, True)
        elif wrapped is not None:
            self._wrapped = None
            self._call_instead(wrapped.function, wrapped.with_event)

    def _call_instead(self, function: Callable[..., Any], with_event: bool) -> tuple[Callable[..., Any], bool]:
        """Call another function from now on; return the last one, and whether it was called with an event."""
        before = self._call, self._event
        self._call, self._event = function, with_event
        if self._held is None:
            self._renew()
        return before

    # Checking results

    def _watch(self) -> None:
        """Check from now on what each call returns, which doubles the cost of a call."""
        if not self._watched:
            self._watched = True
            self._renew()

    def _deliver_watched(self, key: Key[Any], message: Any) -> None:
        self._take(Event(key, message))

    def _called_with(self, event: Event[Any]) -> Any:
        """Call the function with an event, inside its wrappers, and return its result."""
        return self._call(event) if self._event else self._call(*event)

    def remove(self) -> Removal:
        """Remove it at once: it is no longer called, its queue is dropped, and a call in progress is cancelled.

        Returns an awaitable that ends when its task has ended. A call that removes its own listener is neither
        cancelled nor waited for. Removing twice is safe.
        """
        if not self.closed:
            self._hub._remove(self)
        return Removal()

    def _end(self) -> Removal:
        return self.remove()

    @property
    def _described(self) -> str:
        return f"{name_of_callable(self.function)} on {describe_all(self._patterns)}"


def _call_with_event(function: Callable[[Event[Any]], object], key: Key[Any], message: Any) -> object:
    return function(Event(key, message))
