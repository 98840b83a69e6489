"""Async listeners that are called seldom: with many messages at once, or with few of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..event import DeadLetter, Event
from ..key import Key
from .concurrency import ConcurrentListener
from .message_queue import Mailbox, Overflow
from .notices import Notices
from .pacing import NOW, Clock, Pace, PacedMailbox
from .registration import Core


class PacedListener(ConcurrentListener):
    """An async callable whose queue says when to call it; between two calls it has a timer, and no task.

    While it or its hub is being closed, everything that is queued is due.
    """

    __slots__ = ("_loop", "_pace", "_timer")

    _mailbox: PacedMailbox

    def __init__(self, hub: Core, function: Callable[..., Awaitable[object]], *, pace: Pace, **options: Any) -> None:
        self._pace = pace
        self._loop: asyncio.AbstractEventLoop | None = None  # by whose clock the queue waits
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(hub, function, **options)

    def _new_mailbox(self, maxsize: int, overflow: Overflow, follows: bool) -> Mailbox:
        return self._pace.mailbox(maxsize, overflow, self, Clock(self._time, self._hurries))

    def _prepared(self, function: Callable[..., Any], event: bool, follows: bool) -> tuple[Callable[..., Any], bool]:
        if self._pace.kind == "batch":
            return self._call_with_list, True
        return super()._prepared(function, event, follows)

    def _call_with_list(self, batch: Event[Any]) -> Any:
        # A list of its own for each attempt: what the function does to it is its own business.
        return self.function(list(batch[1]))

    def _time(self) -> float | None:
        loop = self._hub._life.loop
        return None if loop is None or loop is not self._loop else loop.time()

    def _hurries(self) -> bool:
        return self._winding_up or self._hub._life.state != "open"

    # Starting calls

    def start(self) -> None:
        """Start the calls that are due."""
        if self._mailbox.pending and self._hub._life.bind_for(self) is not None:
            self._look()

    def _wake(self) -> None:
        """Called before a message is queued: look when it is."""
        loop = self._hub._life.bind_for(self)
        if loop is None:
            return  # the hub starts it as soon as a loop runs
        self._mailbox.wake = None
        self._adopt(loop)
        loop.call_soon(self._look, context=self._context)

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._loop, self._timer = loop, None
            self._mailbox.restart()

    def _look(self) -> None:
        """Start the calls that are due; come back when the next one is."""
        life, mailbox = self._hub._life, self._mailbox
        loop = life.loop
        if loop is None or loop.is_closed() or life.state == "closed":
            return
        self._adopt(loop)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        free = self._concurrency - len(self._workers)
        started = mailbox.calls_due(free) if free else 0
        for _ in range(started):
            self._start_call(loop)
        # While every call that may run is running, the first that ends looks again.
        if started < free:
            due = mailbox.due()
            if due is None:
                mailbox.take_gap()
            elif started:
                loop.call_soon(self._look, context=self._context)  # at what they have left
            elif due != NOW:
                self._timer = loop.call_at(due, self._look, context=self._context)
        self._arm()
        self._note_running()

    def _note_running(self) -> None:
        """Have the hub know whether there is anything to wait for."""
        life = self._hub._life
        if self in life.unstarted:
            return
        if self._workers or self._mailbox.pending:
            life.running[self] = None
        else:
            life.running.pop(self, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        self._note_running()

    def hasten(self) -> None:
        """Start everything that is queued if it is being closed, and let calls that wait for another attempt hurry."""
        super().hasten()
        self._look()

    def drop(self, notices: Notices) -> int:
        """Drop and count what is queued; return how many."""
        dropped = super().drop(notices)
        self._note_running()
        return dropped

    def _removed(self) -> Notices:
        notices = super()._removed()
        self._look()
        if not self._mailbox.pending and self._timer is not None:
            self._timer.cancel()
        self._note_running()
        return notices

    # Batches

    def _give_up(self, key: Key[Any], message: Any, error: BaseException, attempts: int) -> None:
        if self._pace.kind != "batch":
            super()._give_up(key, message, error, attempts)
            return
        self._hub._report(self, key, message, error)
        each: Event[Any]
        for each in message:
            self._hub._bury(DeadLetter(each[0], each[1], error, attempts))
