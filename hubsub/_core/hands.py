"""Which confirmed messages were read from a subscription, and who has them in hand until they are finished."""

from __future__ import annotations

import asyncio
import opcode
import sys
from typing import Any

from ..event import Event
from .notices import notify


class Hands:
    """The confirmed messages of one subscription that were read and are not finished, each with whoever read it.

    That is an iterator, a task, or nobody in particular (None).
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[object, list[Event[Any]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def hold(self, reader: object, event: Event[Any]) -> None:
        """A message was read."""
        events = self._held.get(reader)
        if events is None:
            events = self._held[reader] = []
            if isinstance(reader, asyncio.Future):
                reader.add_done_callback(self._task_ended)
        events.append(event)

    def ask(self, reader: object) -> None:
        """Whoever asks for the next message has finished with the last ones."""
        held = self._held
        finished = held.pop(None, [])
        if reader is not None:
            events = held.get(reader)
            if events:
                finished += events
                if isinstance(reader, asyncio.Future):
                    events.clear()  # it stays, for the next one
                else:
                    del held[reader]
        # Its end may not be known here yet: nobody asks for it any more.
        for other in [other for other in held if isinstance(other, asyncio.Future) and other.done()]:
            self._task_ended(other)
            finished += held.pop(None, [])
        if finished:
            notify([event.done for event in finished])

    def _task_ended(self, task: asyncio.Future[Any]) -> None:
        """A task that has read is over: whatever ended it early, failed what it had in hand."""
        events = self._held.pop(task, [])
        if not events:
            return
        # Asking for it by `exception` would count as having looked at it, and Python would not complain any more.
        error = asyncio.CancelledError() if task.cancelled() else getattr(task, "_exception", None)
        if error is None:
            # It may have been made just for this one read, as `asyncio.wait_for` does.
            self._held.setdefault(None, []).extend(events)
        else:
            _fail(events, error)

    def leave(self, reader: object, loop: asyncio.AbstractEventLoop | None, finished: bool) -> None:
        """An iterator is gone, with a message in its hand that it has finished with, or has not.

        It may have been the garbage collector that has let it go, in any thread and in the middle of anything.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is not None and running is loop:
            if finished:
                self.finish(reader)
            else:
                # The block of the subscription may be left next: it knows the error.
                loop.call_soon(self.fail, reader)
        elif loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.finish if finished else self.fail, reader)

    def finish(self, reader: object) -> None:
        """It has finished with what it has in hand."""
        notify([event.done for event in self._held.pop(reader, ())])

    def fail(self, reader: object, error: BaseException | None = None) -> None:
        """It will not finish with what it has in hand."""
        _fail(self._held.pop(reader, []), error)

    def let_go(self, error: BaseException | None = None) -> None:
        """The block of the subscription is left: all is finished, or has failed by an error."""
        held = [event for events in self._held.values() for event in events]
        self._held.clear()
        if error is None:
            notify([event.done for event in held])
        else:
            _fail(held, error)


def _fail(events: list[Event[Any]], error: BaseException | None) -> None:
    def failing(event: Event[Any]) -> Any:
        return lambda: event.fail(error)

    notify([failing(event) for event in events])


_POPPING = {opcode.opmap[name] for name in ("POP_TOP", "POP_ITER") if name in opcode.opmap}


def left_by_choice(depth: int) -> bool:
    """True if the code so many calls further up lets go of an iterator by leaving its loop: by `break` or `return`.

    There the compiler has the iterator popped off the stack, and that is what runs just then. An exception unwinds the
    stack from the middle of what raised; nothing else that lets go of an iterator is such a step.
    """
    try:
        frame = sys._getframe(depth)
    except ValueError:
        return False  # the garbage collector, in a thread of its own
    at = frame.f_lasti
    return at >= 0 and frame.f_code.co_code[at] in _POPPING
