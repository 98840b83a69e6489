"""Calling an async listener in the context of whoever published: `contextvars` of a request, a trace, a log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from ..event import Event
from ..key import Key
from .calls import enter_call
from .message_queue import Mailbox, Overflow, QueueOwner


class CapturingMailbox(Mailbox):
    """A mailbox that notes with each message the context of its publish."""

    __slots__ = ()

    def __init__(self, maxsize: int, overflow: Overflow, owner: QueueOwner) -> None:
        super().__init__(maxsize, overflow, owner)

        def put(key: Key[Any], message: Any) -> None:
            event: Event[Any] = Event(key, message)
            event.context = copy_context()
            super(CapturingMailbox, self).put_event(event)

        self.put = put

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """As `Mailbox.put_event`."""
        if event.confirmed is None:
            # A copy: the event may be published again, in another context. A confirmed one is a copy already.
            event = Event(event[0], event[1], event.meta)
        event.context = copy_context()
        super().put_event(event, bounded)


class InContext:
    """An async function that is called with an event, and runs in the context that the event carries.

    It does not run in a task of its own: each step of the listener's task enters the context, and leaves it again. So
    the order of calls, cancelling and `asyncio.current_task()` are as for any other listener.
    """

    __slots__ = ("function", "with_event")

    def __init__(self, function: Callable[..., Awaitable[Any]], with_event: bool) -> None:
        self.function = function
        self.with_event = with_event

    def call_instead(self, function: Callable[..., Any], with_event: bool) -> tuple[Callable[..., Any], bool]:
        """Call another function from now on; return the last one, and whether it was called with an event."""
        before = self.function, self.with_event
        self.function, self.with_event = function, with_event
        return before

    def __call__(self, event: Event[Any]) -> Awaitable[Any]:
        """Call it with an event."""
        arguments = (event,) if self.with_event else event
        context = event.context
        if context is None:  # it comes from a history
            return self.function(*arguments)
        enter_call(context)
        return _Steps(context, context.run(self.function, *arguments))


class _Steps:
    """An awaitable whose every step runs in a context."""

    __slots__ = ("_awaited", "_context")

    def __init__(self, context: Context, awaited: Awaitable[Any]) -> None:
        self._context = context
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        run = self._context.run
        steps = run(self._awaited.__await__)
        send: Callable[..., Any] = getattr(steps, "send", None) or (lambda value: next(steps))
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                yielded = run(send, value) if error is None else run(steps.throw, error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            try:
                value = yield yielded
            except BaseException as another:
                error = another
