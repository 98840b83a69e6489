"""An async listener that handles several messages at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from sys import getrefcount
from typing import Any

from ..event import Event
from .async_listener import AsyncListener
from .calls import Calls, current_call
from .message_queue import as_event
from .notices import notify
from .registration import Core


class ConcurrentListener(AsyncListener):
    """An async callable with a queue and up to `concurrency` tasks, each of which calls it until the queue is empty.

    A message that finds fewer tasks running starts one more. They all pop from one queue, so calls start in order.
    """

    __slots__ = ("_concurrency", "_workers")

    def __init__(
        self, hub: Core, function: Callable[..., Awaitable[object]], *, concurrency: int, **options: Any
    ) -> None:
        super().__init__(hub, function, **options)
        self._concurrency = concurrency
        self._workers: dict[asyncio.Task[None], Calls] = {}
        self._mailbox.wake = self._wake

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """The tasks that are running."""
        return tuple(self._workers)

    # The tasks

    def start(self) -> None:
        """Start a task for each queued message, up to `concurrency`."""
        for _ in range(min(self._mailbox.pending, self._concurrency - len(self._workers))):
            self._wake()

    def _wake(self) -> None:
        loop = self._hub._life.bind_for(self)
        if loop is None or len(self._workers) >= self._concurrency:
            return  # the hub starts it as soon as a loop runs, or has just done so
        self._start_call(loop)
        if len(self._workers) >= self._concurrency:
            self._mailbox.wake = None

    def _start_call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start one more task."""
        calls = Calls()
        # A copy of the context: variables that one call sets must not reach the others.
        context = self._context.copy()
        self._workers[self._spawn(loop, self._work(calls, context), context)] = calls

    def _arm(self) -> None:
        self._mailbox.wake = self._wake if len(self._workers) < self._concurrency else None

    async def _work(self, calls: Calls, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        if task not in self._workers:
            # An eager task factory runs this inside the publish, before the message is queued.
            await asyncio.sleep(0)
        mailbox, items = self._mailbox, self._mailbox.items
        popleft = items.popleft
        set_call = current_call.set
        call = variables = None
        alone = -1
        while mailbox.has_more:
            calls.running = call
            for _ in calls.BURST:
                if mailbox.alert:
                    item: Any = mailbox.take()
                    if item is None:
                        break
                elif items:
                    item = popleft()
                else:
                    break
                if getrefcount(variables) != alone:  # the previous call has started something that is still running
                    calls.running = call = object()
                    set_call(call)
                    variables = self._variables_of(context)
                    alone = -1 if variables is None else getrefcount(variables)
                try:
                    if self._event:
                        result = await self._call(as_event(item))
                    else:
                        key, message = item
                        result = await self._call(key, message)
                except BaseException as error:
                    self._failed(item, error, task)
                else:
                    if result is not None:
                        self._handled(item, result)
                    elif mailbox.has_events and type(item) is Event:
                        item.done()
            calls.running = None
            if task.cancelling():
                return  # the call has swallowed the cancellation
            if mailbox.has_more:
                await asyncio.sleep(0)
        if mailbox.alert:
            mailbox.take_gap()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._workers.pop(task, None) is None:
            return  # left behind by a loop that was closed under it
        life = self._hub._life
        was_cut = task.cancelling() > 0 or task.cancelled() or task.exception() is not None
        was_told = self._out_of_time or life.state == "closed" or (self.closed and not self._winding_up)
        if not self._workers:
            life.running.pop(self, None)
            self._out_of_time = False
        self._arm()
        if not was_cut or (life.state == "closing" and not was_told):
            self.start()  # for messages that came after the task found the queue empty
        elif not was_told:
            self._rest()
        if self._workers:
            life.running[self] = None
        elif self.closed and (was_told or not self._mailbox.pending):
            notify(self._let_go())
        self._tell_quiet()

    def reset(self) -> None:
        """Forget the tasks of a loop that was closed under them, and start new ones if messages are queued."""
        life = self._hub._life
        for task in self._workers:
            if task.get_loop() is not life.loop:
                self._left_behind(task)
        # When the hub was opened again during a call, that one goes on.
        self._workers = {task: calls for task, calls in self._workers.items() if task.get_loop() is life.loop}
        if self._workers:
            life.running[self] = None
        else:
            self._out_of_time = False
        self._arm()
        self.start()

    def forked(self) -> None:
        self._workers.clear()  # they go on in the parent
        super().forked()

    forked.__doc__ = AsyncListener.forked.__doc__

    def stop(self) -> list[asyncio.Task[None]]:
        """Cancel the tasks, except the one whose call this is, since time is up; return those to wait for."""
        self._out_of_time = bool(self._workers)
        return self._cancel_others()

    def _calls_of(self, task: asyncio.Task[None]) -> Calls | None:
        return self._workers.get(task)

    def _end_calls(self) -> None:
        self._cancel_others()

    def _cancel_others(self) -> list[asyncio.Task[None]]:
        others = self._others()
        for task in others:
            task.cancel()
        return others

    def _others(self) -> list[asyncio.Task[None]]:
        """The tasks except the one whose call this is."""
        return [task for task, calls in self._workers.items() if not calls.is_caller()]

    def is_caller(self) -> bool:
        """True inside one of its calls that are running, and in the tasks that this call has started."""
        return any(calls.is_caller() for calls in self._workers.values())

    # What the hub asks

    @property
    def is_working(self) -> bool:
        """True while a call runs or messages are queued."""
        return bool(self._mailbox.pending or self._workers)

    @property
    def is_busy(self) -> bool:
        """True while a call runs, other than the one that asks, or messages are queued."""
        return bool(self._mailbox.pending or self._others())

    def quiet(self) -> asyncio.Future[None]:
        """A future that is done when one of its tasks has ended; then look again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet.append(future)
        return future
