"""Responders: listeners whose return value is the reply to a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from ..describe import name_of_callable
from ..errors import NoRunningLoop, RemoteError, WaitingForItself
from ..event import Event
from .asking import Question, question_of
from .async_listener import AsyncListener
from .callables import awaitable, discard, is_awaitable, refuse_awaitable
from .context import InContext
from .listener import Listener
from .message_queue import Overflow
from .notices import Notices
from .registration import Core, Removal
from .waiting import Waiting

V = TypeVar("V")


class Responder(Listener):
    """A plain function whose return value is the reply; an awaitable is awaited in a task of its own."""

    __slots__ = ("_awaited",)

    responds = True

    def __init__(self, hub: Core, function: Callable[..., object], **options: Any) -> None:
        super().__init__(hub, function, **options)
        self._awaited = Awaited(hub, self)

    def remove(self) -> Removal:
        tasks = self._awaited.others()
        super().remove()
        return Removal(tasks)

    remove.__doc__ = Listener.remove.__doc__

    def _removed(self) -> Notices:
        self._awaited.stop()
        return []

    @property
    def is_busy(self) -> bool:
        """True while a result is being awaited, other than by the caller of this."""
        return self._awaited.is_busy

    def forked(self) -> None:
        super().forked()
        self._awaited.forked()

    forked.__doc__ = Listener.forked.__doc__

    def returned(self, event: Event[Any], result: object, /) -> None:
        """Run what it returned for a message that is not a request, if that is a coroutine."""
        if is_awaitable(result) and not isinstance(result, Waiting | asyncio.Future):
            self._watch()
            self._awaited.start_task(result).add_done_callback(partial(self._ended, event))

    def _ended(self, event: Event[Any], task: asyncio.Task[Any]) -> None:
        if not (task.cancelled() and self.closed):
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                self._hub._report(self, *event, error)

    def _take(self, event: Event[Any]) -> None:
        question = question_of(event)
        if question is None:
            super()._take(event)
            return
        question.expect()
        try:
            reply = self._called_with(event)
        except (Exception, asyncio.CancelledError) as error:
            question.fail(error)
            raise
        except BaseException:
            question.lose()
            raise
        if isinstance(reply, Waiting | asyncio.Future):
            self._reply_later(question, reply, event)
        elif is_awaitable(reply):
            try:
                task = self._awaited.start_task(reply)
            except Exception as error:
                question.fail(error)
                raise
            self._reply_later(question, task, event)
        else:
            question.reply(reply)

    def _reply_later(self, question: Question, reply: Waiting[Any] | asyncio.Future[Any], event: Event[Any]) -> None:
        def done(future: asyncio.Future[Any]) -> None:
            nonlocal reply
            reply = future  # the awaited result is dropped
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if error is None:
                question.reply(future.result())
            elif future.cancelled() and self.closed:
                question.lose()
            else:
                question.fail(error)
                # Another responder failed, which reports it: this one only passes the answer on.
                if not isinstance(error, RemoteError):
                    self._hub._report(self, *event, error)

        (reply._future if isinstance(reply, Waiting) else reply).add_done_callback(done)


class Awaited:
    """The tasks that await what a plain responder has returned.

    When the hub is closed it waits for them, as for those of async listeners, and then cancels them.
    """

    __slots__ = ("_hub", "_quiet", "_responder", "_tasks", "deadline")

    def __init__(self, hub: Core, responder: Responder) -> None:
        self._hub = hub
        self._responder = responder
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._quiet: list[asyncio.Future[None]] = []
        self.deadline: float | None = None

    def start_task(self, result: Any) -> asyncio.Task[Any]:
        """Await a result in a task.

        Raises:
            InvalidListener: It is a generator, which cannot be awaited.
            NoRunningLoop: There is no loop for the task.
        """
        if not isinstance(result, Awaitable):
            refuse_awaitable(result, self._responder.function)
        life = self._hub._life
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            discard(result)
            raise NoRunningLoop(self._hub, "to await what a responder returned") from None
        life.bind()
        name = f"hubsub responder {name_of_callable(self._responder.function)}"
        task = loop.create_task(_await(result), name=name)
        self._tasks[task] = None
        life.running[self] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._hub._life.running.pop(self, None)
        for future in self._quiet:
            if not future.done():
                future.set_result(None)
        self._quiet.clear()

    def others(self) -> list[asyncio.Task[Any]]:
        """The tasks, without the one that calls this."""
        try:
            own = asyncio.current_task()
        except RuntimeError:
            own = None
        return [task for task in self._tasks if task is not own and not task.get_loop().is_closed()]

    # As a runner of the hub

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """The running tasks."""
        return tuple(self._tasks)

    @property
    def is_working(self) -> bool:
        """True while a result is being awaited."""
        return bool(self._tasks)

    @property
    def is_busy(self) -> bool:
        """True while a result is being awaited, other than by the caller of this."""
        return bool(self.others())

    def is_caller(self) -> bool:
        """True inside one of the tasks."""
        return len(self.others()) < len(self._tasks)

    def start(self) -> None:
        """Do nothing: each task is started when it is made."""

    def hasten(self) -> None:
        """Do nothing: there are no retries."""

    def stop(self) -> list[asyncio.Task[Any]]:
        """Cancel the tasks, without the one that calls this; return them."""
        others = self.others()
        for task in others:
            task.cancel()
        return others

    def forked(self) -> None:
        """In a forked process, forget the tasks of the parent."""
        self._tasks.clear()
        self._quiet.clear()

    def drop(self, notices: Notices) -> int:
        """Return 0: nothing is queued."""
        return 0

    def give_up(self, task: asyncio.Task[Any]) -> None:
        """Do nothing: if the task fails after all, that is reported."""

    def reset(self) -> None:
        """Forget the tasks of a closed loop."""
        self._tasks = {task: None for task in self._tasks if not task.get_loop().is_closed()}
        if self._tasks:
            self._hub._life.running[self] = None

    def quiet(self) -> asyncio.Future[None]:
        """A future that is done when one of the tasks has ended; then look again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet.append(future)
        return future


async def _await(result: Awaitable[V]) -> V:
    return await result


class AsyncResponder(AsyncListener):
    """An async function whose result is the reply."""

    __slots__ = ("_asked", "_asked_with_event")

    _hub: Core
    responds = True

    def __init__(self, hub: Core, function: Callable[..., Awaitable[object]], **options: Any) -> None:
        super().__init__(hub, function, **options)
        # The task calls `_answer`, which calls this.
        self._asked, self._asked_with_event = self._call, self._event
        self._call, self._event = self._answer, True

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        question = question_of(event)
        if question is None:
            return super().deliver_event(event, bounded)
        question.expect()
        if self.is_caller():
            # The caller waits inside the call that the request would be queued behind.
            question.lose(WaitingForItself(self, event.key))
            meta = event.meta and event.meta._replace(reply_to=None)
            return super().deliver_event(Event(event[0], event[1], meta), bounded)
        dropped = self._mailbox.dropped
        is_queued = super().deliver_event(event, bounded)
        if self._mailbox.dropped > dropped and self.overflow in REFUSING:
            question.lose()
        return is_queued

    def _called_with(self, event: Event[Any]) -> Any:
        return self._asked(event) if self._asked_with_event else self._asked(*event)

    def _call_instead(self, function: Callable[..., Any], with_event: bool) -> tuple[Callable[..., Any], bool]:
        if isinstance(self._asked, InContext):
            return self._asked.call_instead(function, with_event)
        before = self._asked, self._asked_with_event
        self._asked, self._asked_with_event = function, with_event
        return before

    async def _answer(self, event: Event[Any]) -> None:
        question = question_of(event)
        if question is None:
            await self._called_with(event)
            return
        try:
            reply = await self._called_with(event)
            while is_awaitable(reply):
                reply = await awaitable(reply, self.function, "a responder")
        except BaseException as error:
            task = self._task
            leaked = isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()
            if isinstance(error, Exception) or leaked:
                question.fail(error)
            else:
                question.lose()
            raise
        question.reply(reply)

    def _removed(self) -> Notices:
        queued = [] if self._winding_up else self._mailbox.queued()
        notices = super()._removed()
        questions = map(question_of, queued)
        return notices + [question.lose for question in questions if question is not None]


# Under these policies the request itself may be dropped: then it is known at once that nobody answers.
REFUSING = (Overflow.DROP_NEWEST, Overflow.CLOSE)
