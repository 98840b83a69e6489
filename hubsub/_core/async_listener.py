"""Async listeners: a queue, and a task that calls the function with one message after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from sys import getrefcount
from typing import Any, cast

from ..describe import name_of_callable
from ..errors import InvalidListener
from ..event import DeadLetter, Event
from ..key import Key
from .callables import refuse_awaitable
from .calls import Calls, context_outside, current_call, variables_of
from .context import CapturingMailbox, InContext
from .listener import Listener
from .message_queue import Item, Mailbox, Overflow, as_event
from .notices import Notices, notify
from .registration import Bookkeeper, CallContext, Core, Removal, Where
from .retry import GivenUp, Retry, Retrying


class AsyncListener(Listener):
    """An async callable with a queue and a task, which calls it with one message after the other, in order.

    The task starts with the first message and runs in a copy of the context of the registration.
    """

    __slots__ = (
        "_calls",
        "_context",
        "_idle",
        "_mailbox",
        "_name",
        "_out_of_time",
        "_quiet",
        "_stopped",
        "_task",
        "_winding_up",
        "deadline",
    )

    def __init__(
        self,
        hub: Core,
        function: Callable[..., Awaitable[object]],
        *,
        maxsize: int,
        overflow: Overflow,
        retry: Retry | None = None,
        context: CallContext = "listener",
        event: bool = False,
        owner: Bookkeeper | None = None,
        where: Where | None = None,
        once: bool = False,
    ) -> None:
        super().__init__(hub, function, event=event, owner=owner, where=where, once=once)
        follows = context == "publisher"
        self._mailbox = self.mailbox = self._new_mailbox(maxsize, overflow, follows)
        self._mailbox.wake = self.start
        self._call, self._event = self._prepared(function, event, follows)
        self.deliver = self._gate(self._mailbox.put)
        if retry is not None:
            self._call = Retrying(self._call, retry, self._time_left, self._give_up)
        self._context = context_outside()
        self._calls: Calls | None = None  # those of the task
        self._task: asyncio.Task[None] | None = None
        self._name: str | None = None  # of its tasks
        self._idle: asyncio.Future[None] | None = None
        self._quiet: list[asyncio.Future[None]] = []
        self._stopped = False  # the hub is closed: the task ends after the call in progress
        self._winding_up = False  # it is removed, but handles what is queued
        self._out_of_time = False  # the task was cancelled because there was no more time for it
        self.deadline: float | None = None
        """When winding up ends at the latest, by the loop's clock; None for no limit."""

    def _new_mailbox(self, maxsize: int, overflow: Overflow, follows: bool) -> Mailbox:
        return (CapturingMailbox if follows else Mailbox)(maxsize, overflow, self)

    def _prepared(self, function: Callable[..., Any], event: bool, follows: bool) -> tuple[Callable[..., Any], bool]:
        """Return what the task calls, and whether with an event."""
        return (InContext(function, event), True) if follows else (function, event)

    def remove(self) -> Removal:
        tasks = self.tasks
        if self._winding_up:
            self._hub._life.check_thread()
            self._winding_up = False
            notify(self._removed())
        super().remove()
        return Removal() if self.is_caller() else Removal(tasks)

    remove.__doc__ = Listener.remove.__doc__

    @property
    def _state(self) -> str:
        return " winding up" if self._winding_up else super()._state

    def wind_up(self) -> None:
        """Remove it at once, but let it handle what is queued."""
        if not self.closed:
            self._winding_up = True
            self._hub._remove(self)

    def is_caller(self) -> bool:
        """True inside its running call, and in the tasks that this call has started."""
        return self._calls is not None and self._calls.is_caller()

    # The task

    def start(self) -> None:
        """Start the task, if there is a loop to start it on."""
        loop = self._hub._life.bind_for(self)
        if loop is None or self._task is not None:
            return  # the hub starts it as soon as a loop runs, or has just done so
        self._mailbox.wake = None
        self._calls = calls = Calls()
        self._task = self._spawn(loop, self._run(calls), self._context)

    def _spawn(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], context: Context
    ) -> asyncio.Task[None]:
        """Return a task for its calls, with a callback for its end."""
        if self._name is None:
            self._name = f"hubsub listener {name_of_callable(self.function)}"
        task = loop.create_task(coroutine, name=self._name, context=context)
        # The hub knows its tasks: if a loop never runs again and leaves one behind, asyncio need not warn.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        # Not a `finally` in the task: a task that is cancelled before its first step runs none of its function.
        task.add_done_callback(self._ended)
        return task

    def _variables_of(self, context: Context) -> object:
        """As `variables_of`; None if each call runs in the context of its publish, where this one shows nothing."""
        return None if isinstance(self._mailbox, CapturingMailbox) else variables_of(context)

    async def _run(self, calls: Calls) -> None:
        if self._task is None:
            # An eager task factory runs us inside the publish, before the message is queued.
            await asyncio.sleep(0)
        task = self._task
        assert task is not None
        loop = task.get_loop()
        mailbox, items = self._mailbox, self._mailbox.items
        popleft = items.popleft
        context, set_call = self._context, current_call.set
        call = variables = None
        alone = -1
        done = Event.done  # looking this up in each event would cost half as much as the call
        # Its removal has dropped what was queued, unless it is winding up.
        while items or not (self.closed or self._stopped) or mailbox.is_replaying:
            calls.running = call
            function, with_event = self._call, self._event
            for _ in calls.BURST:
                if mailbox.alert:
                    item = cast("Item | None", mailbox.take())
                    if item is None:
                        break
                    function, with_event = self._call, self._event  # it may have changed: see `_call_instead`
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
                    if with_event:
                        result = await function(as_event(item))
                    else:
                        key, message = item
                        result = await function(key, message)
                except BaseException as error:
                    self._failed(item, error, task)
                else:
                    if result is not None:
                        self._handled(item, result)
                    elif mailbox.has_events and type(item) is Event and item.confirmed is not None:
                        done(item)
            calls.running = None
            if task.cancelling():
                return  # the call has swallowed the cancellation
            if mailbox.alert:
                mailbox.take_gap()
            if items or mailbox.is_replaying:
                await asyncio.sleep(0)
            elif not (self.closed or self._stopped):
                # Not in a coroutine of its own: making it, and passing through it, would cost as much as the wait.
                idle = self._idle = loop.create_future()
                mailbox.wake = self._wake
                if self._quiet:
                    self._tell_quiet()
                try:
                    await idle
                finally:
                    # A task that a closed loop has left behind ends when it is collected: by then another task sleeps.
                    if self._idle is idle:
                        self._idle = None

    def _handled(self, item: Item, result: object) -> None:
        """Check the result of a call: if it has to be awaited, the call has not done anything yet."""
        given_up = isinstance(result, BaseException) and isinstance(self._call, Retrying)
        try:
            refuse_awaitable(result, self.function)
        except InvalidListener as error:
            if type(item) is Event:
                item.fail(error, "it failed")
            self._hub._report(self, item[0], item[1], error)
        else:
            if type(item) is not Event:
                pass
            elif given_up:
                item.fail(cast(BaseException, result), "it failed, and was given up")
            else:
                item.done()

    def _failed(self, item: Item, error: BaseException, task: asyncio.Task[None]) -> None:
        """Report what a call has raised; raise it again if the task is being ended."""
        if isinstance(error, GeneratorExit):
            raise error  # its loop was closed long ago, and the task is being collected
        is_cut = isinstance(error, asyncio.CancelledError) and task.cancelling() > 0
        # A cancellation that leaks out of something the listener awaited is a failure like any other.
        is_failure = isinstance(error, Exception | asyncio.CancelledError) and not is_cut
        if type(item) is Event:
            if isinstance(error, GivenUp):
                item.fail(error.__cause__, "it failed, and was given up")
            else:
                item.fail(error, "it failed" if is_failure else "its call was cut short")
        if is_failure:
            self._hub._report(self, item[0], item[1], error)
            return
        if is_cut and not isinstance(error, GivenUp):
            self._cut_short(item, error)
        raise error

    def _cut_short(self, item: Item, error: BaseException | None) -> None:
        """Report a cancelled call as a failure, unless a removal has cancelled it."""
        if self._out_of_time:
            late = TimeoutError(f"cut off by closing, which waits {self._hub._life.drain:g} s at most")
            late.__cause__ = error
            self._hub._report(self, item[0], item[1], late)
        elif error is not None and not (self.closed and not self._winding_up):
            # Cancelled from outside. The loop does so when a program ends: that is no reason for a warning.
            self._hub._report(self, item[0], item[1], error, quietly=True)

    def _call_instead(self, function: Callable[..., Any], with_event: bool) -> tuple[Callable[..., Any], bool]:
        outer = self._call if isinstance(self._call, Retrying) else None
        inner = self._call if outer is None else outer.function
        if isinstance(inner, InContext):
            return inner.call_instead(function, with_event)
        before, self._event = (inner, self._event), with_event
        self._mailbox.alert = True  # so that a task in the middle of a burst looks
        if outer is None:
            self._call = function
        else:
            outer.function = function
        return before

    def _wake(self) -> None:
        self._hub._life.check_thread()
        idle = self._idle
        if idle is None or idle.get_loop().is_closed():
            self.reset()
            self.start()
            return
        self._mailbox.wake = None
        if not idle.done():
            idle.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is not task:
            return  # left behind by a loop that was closed under it
        life = self._hub._life
        life.running.pop(self, None)
        was_told = self._stopped or self._out_of_time or life.state == "closed"
        self._task = self._calls = None
        self._stopped = self._out_of_time = False
        if self.closed and (was_told or not (self._winding_up and self._mailbox.pending)):
            notify(self._let_go())
        elif life.state == "closing" or (was_told and life.state == "open"):
            self.reset()  # in the latter case, the hub was opened again during the last call
        elif was_told:
            self._mailbox.wake = self.start
        else:
            self._rest()
        self._tell_quiet()

    def _rest(self) -> None:
        self._mailbox.wake = self._stir
        self._hub._life.rest(self)

    def _stir(self) -> None:
        """Called for a message while it rests: it rests on, unless its loop is closed."""
        life = self._hub._life
        life.check_thread()
        if life.loop is None or life.loop.is_closed():
            self.start()

    def reset(self) -> None:
        """Forget the task of a closed loop, and start another one if something is queued."""
        self._stopped = self._out_of_time = False
        life = self._hub._life
        if self._task is not None and self._task.get_loop() is life.loop:
            # The hub was opened again during the last call: the task goes on after that call, in order.
            life.running[self] = None
            return
        if self._task is not None:
            self._left_behind(self._task)
        self._task = self._calls = self._idle = None
        self._mailbox.wake = self.start
        if self._mailbox.pending:
            self.start()

    def forked(self) -> None:
        super().forked()
        self._quiet.clear()
        self._task = None  # it goes on in the parent
        self.deadline = None
        self.reset()

    forked.__doc__ = Listener.forked.__doc__

    def stop(self) -> list[asyncio.Task[None]]:
        """Cancel the task since time is up, unless this is its own call; return the tasks to wait for."""
        task = self._task
        if task is None:
            return []
        if self.is_caller():
            self._stopped = True
            return []
        self._out_of_time = True
        task.cancel()
        return [task]

    def drop(self, notices: Notices) -> int:
        """Drop and count what is queued; return how many."""
        return self._mailbox.drop_all(notices)

    def give_up(self, task: asyncio.Task[None]) -> None:
        """Count the call that this task is in as failed, since it does not end."""
        item = self._in_hand(task)
        if item is not None:
            self._cut_short(item, None)

    def _left_behind(self, task: asyncio.Task[None]) -> None:
        """Count the call that this task was in as failed, since the loop was closed during it."""
        item = self._in_hand(task)
        if item is not None:
            error = RuntimeError("its event loop was closed in the middle of the call")
            self._hub._report(self, item[0], item[1], error, quietly=True)

    def _in_hand(self, task: asyncio.Task[None]) -> Item | None:
        """The event of the call that this task is in, if it is in one."""
        calls = self._calls_of(task)
        frame = getattr(task.get_coro(), "cr_frame", None)
        if calls is None or calls.running is None or frame is None:
            return None
        return cast("Item | None", frame.f_locals.get("item"))

    def _calls_of(self, task: asyncio.Task[None]) -> Calls | None:
        return self._calls if task is self._task else None

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """Its tasks."""
        return () if self._task is None else (self._task,)

    def _too_slow(self) -> None:
        self.wind_up()

    def _use_up(self) -> None:
        self._hub._life.check_thread()
        self.wind_up()

    def _removed(self) -> Notices:
        if self._winding_up:
            if self._idle is not None and not self._mailbox.pending:
                self._wake()
            return []
        notices = self._let_go()
        self._hub._life.unstarted.pop(self, None)
        self.hasten()
        self._end_calls()
        return notices

    def _let_go(self) -> Notices:
        notices: Notices = []
        self._mailbox.drop_all(notices)
        self._mailbox.close()
        return notices

    def _end_calls(self) -> None:
        """Cancel the task, unless this is its own call: then the task ends after that."""
        task = self._task
        if task is None:
            return
        if self._idle is not None:
            self._wake()
        elif not self.is_caller():
            task.cancel()

    # Retrying

    def hasten(self) -> None:
        """Let calls that wait for another attempt check how much time is left, since it has become less."""
        if isinstance(self._call, Retrying):
            self._call.hasten()

    def _time_left(self) -> float | None:
        """Seconds until it must have finished; None for no limit."""
        life = self._hub._life
        if (self.closed and not self._winding_up) or life.state == "closed":
            return 0.0
        deadlines = [each for each in (self.deadline, life.deadline) if each is not None]
        return max(0.0, min(deadlines) - asyncio.get_running_loop().time()) if deadlines else None

    def _give_up(self, key: Key[Any], message: Any, error: BaseException, attempts: int) -> None:
        self._hub._report(self, key, message, error)
        self._hub._bury(DeadLetter(key, message, error, attempts))

    # What the hub asks

    @property
    def is_working(self) -> bool:
        """True while a call runs or messages are queued."""
        return self._task is not None and (self._idle is None or bool(self._mailbox.pending))

    @property
    def is_busy(self) -> bool:
        """As `is_busy`, but False inside its own call."""
        return self.is_working and not self.is_caller()

    def quiet(self) -> asyncio.Future[None]:
        """A future that is done when its queue is empty and no call runs, or it has ended."""
        assert self._task is not None
        future = self._task.get_loop().create_future()
        self._quiet.append(future)
        return future

    def _tell_quiet(self) -> None:
        for future in self._quiet:
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(None)
        self._quiet.clear()
