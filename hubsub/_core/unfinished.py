"""The confirmed messages that were read from a subscription and are not finished, by reader."""

from __future__ import annotations

import asyncio
import opcode
import sys
from typing import Any

from ..event import Event
from .notices import notify


class Unfinished:
    """The confirmed messages of one subscription that were read and are not finished, each with its reader.

    A reader is an iterator, a task, or nobody in particular (None).
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[object, list[Event[Any]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def hold(self, reader: object, event: Event[Any]) -> None:
        """Keep a message that was read, until it is finished."""
        events = self._held.get(reader)
        if events is None:
            events = self._held[reader] = []
            if isinstance(reader, asyncio.Future):
                reader.add_done_callback(self._task_ended)
        events.append(event)

    def ask(self, reader: object) -> None:
        """Finish the earlier messages of a reader, since it asks for the next one."""
        held = self._held
        finished = held.pop(None, [])
        if reader is not None:
            events = held.get(reader)
            if events:
                finished += events
                if isinstance(reader, asyncio.Future):
                    events.clear()  # the list stays, for the next message
                else:
                    del held[reader]
        # The callback of a task that has ended may not have run yet.
        for other in [other for other in held if isinstance(other, asyncio.Future) and other.done()]:
            self._task_ended(other)
            finished += held.pop(None, [])
        if finished:
            notify([event.done for event in finished])

    def _task_ended(self, task: asyncio.Future[Any]) -> None:
        """Fail the messages of a task that has failed; if it has just ended, keep them for the next read."""
        events = self._held.pop(task, [])
        if not events:
            return
        # Calling `exception` would mark it as retrieved, and Python would no longer report it.
        error = asyncio.CancelledError() if task.cancelled() else getattr(task, "_exception", None)
        if error is None:
            # The task may have been made for this one read, as `asyncio.wait_for` does.
            self._held.setdefault(None, []).extend(events)
        else:
            _fail(events, error)

    def leave(self, reader: object, loop: asyncio.AbstractEventLoop | None, finished: bool) -> None:
        """Finish or fail the message that an iterator had when it went away.

        The garbage collector may call this, in any thread and in the middle of anything.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is not None and running is loop:
            if finished:
                self.finish(reader)
            else:
                # The block of the subscription may be left next, and knows the error.
                loop.call_soon(self.fail, reader)
        elif loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.finish if finished else self.fail, reader)

    def finish(self, reader: object) -> None:
        """Finish the messages of a reader."""
        notify([event.done for event in self._held.pop(reader, ())])

    def fail(self, reader: object, error: BaseException | None = None) -> None:
        """Fail the messages of a reader."""
        _fail(self._held.pop(reader, []), error)

    def end(self, error: BaseException | None = None) -> None:
        """Finish all messages, or fail them with an error, since the block of the subscription is left."""
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
    """True if the code `depth` calls further up drops an iterator by leaving its loop with `break` or `return`.

    There the compiler pops the iterator off the stack, and that is the instruction that runs. An exception unwinds the
    stack from the middle of what raised; no other way of dropping an iterator is such an instruction.
    """
    try:
        frame = sys._getframe(depth)
    except ValueError:
        return False  # the garbage collector, in a thread of its own
    at = frame.f_lasti
    return at >= 0 and frame.f_code.co_code[at] in _POPPING
