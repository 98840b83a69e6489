"""The life of a hub: the loop and thread that it belongs to, the tasks of its async listeners, its closing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import nullcontext, suppress
from threading import get_ident
from typing import Any, ClassVar, Literal, Protocol, TypeVar
from weakref import WeakSet

from ..describe import describe
from ..errors import HubClosed, WrongLoop, WrongThread
from ..log import Logger
from .notices import Notices, notify

V = TypeVar("V")

logger = Logger("hubsub.hub")

# Seconds. With the 5 of `Hub(drain=)` they stay below the ten that containers get between SIGTERM and SIGKILL.
UNTIL_SENT = 2.0
"""How much longer than the draining of listeners a bridge may take to send and acknowledge."""
UNTIL_LEFT = 1.5
"""How long a bridge may take after that to disconnect from its broker."""
UNTIL_ENDED = 0.5
"""How long a call that was cancelled because time was up may take to end."""

REST = 0.1
"""How long a listener rests after somebody else has cancelled its task. If its loop was ending, the queued messages
wait for the next loop: calls started meanwhile would be cut off, too."""


class Grace:
    """The time that closing gives; parts that are closed in quick succession share it.

    Times are those of the loop's clock.
    """

    __slots__ = ("began", "drain", "ended")

    # Seconds after which it counts as another closing.
    APART = 1.0

    def __init__(self, began: float, drain: float) -> None:
        self.began = began
        self.drain = drain
        self.ended: float | None = None

    def is_over(self, now: float) -> bool:
        """True if a part that is closed now does not belong to this closing."""
        return now > (self.left if self.ended is None else self.ended) + self.APART

    @property
    def drained(self) -> float:
        """When listeners must have finished what is queued."""
        return self.began + self.drain

    def sent(self, now: float) -> float:
        """When a bridge that is closed now must have sent and acknowledged."""
        return max(self.drained, min(now, self.drained) + UNTIL_SENT)

    def leave(self, now: float) -> float:
        """Seconds that a bridge has which begins to disconnect now: of what is left, half is for those after it."""
        return min(UNTIL_LEFT, max(0.0, self.left - now) / 2)

    @property
    def left(self) -> float:
        """When every bridge must have disconnected from its broker."""
        return self.drained + UNTIL_SENT + UNTIL_LEFT


class Runner(Protocol):
    """Something that runs in tasks: an async listener."""

    deadline: float | None

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]: ...
    @property
    def is_working(self) -> bool: ...
    @property
    def is_busy(self) -> bool: ...
    def is_caller(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> list[asyncio.Task[None]]: ...
    def drop(self, notices: Notices) -> int: ...
    def give_up(self, task: asyncio.Task[None]) -> None: ...
    def reset(self) -> None: ...
    def hasten(self) -> None: ...
    def quiet(self) -> asyncio.Future[None]: ...


class Life:
    """Binds a hub to a loop when it first needs one, and ends its tasks when it is closed.

    When that loop is closed, or the hub was closed, it binds again. What belonged to the loop ends with it, also the
    closing of the hub if that was in progress: then the hub is closed.

    Args:
        hub: Named in logs and errors.
        drain: Seconds that `close` gives the runners to finish what is queued.
        bound: Called with each loop that is bound.
        closing: Called when the hub begins to close.
        drained: Awaited when the runners have finished, or time is up.
        ended: Called when the hub is closed, before the tasks are.
        cleared: Awaited last.
        forked: Called in a forked process if the hub was bound to a loop when it was forked.
    """

    _all: ClassVar[WeakSet[Life]] = WeakSet()

    def __init__(
        self,
        hub: object,
        drain: float,
        *,
        bound: Callable[[asyncio.AbstractEventLoop], None],
        closing: Callable[[], None],
        drained: Callable[[], Awaitable[None]],
        ended: Callable[[], None],
        cleared: Callable[[], Awaitable[None]],
        forked: Callable[[], None],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.running: dict[Runner, None] = {}
        self.unstarted: dict[Runner, None] = {}  # with messages, but without a loop; or resting
        self.drain = drain
        self.is_debug = _is_debug()
        """True in asyncio's debug mode: that of the loop, or before there is one, that of the process."""
        self._has_warned = False  # that there is no loop
        self.deadline: float | None = None
        """While the hub closes, the time by the loop's clock at which draining ends."""
        self._grace: Grace | None = None  # of the last closing
        self._hub = hub
        self._state: Literal["open", "closing", "closed"] = "open"
        self._bound = bound
        self._begin = closing
        self._drained = drained
        self._ended = ended
        self._cleared = cleared
        self._begin_anew = forked
        self._closing: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()
        Life._all.add(self)

    @property
    def state(self) -> Literal["open", "closing", "closed"]:
        """Whether the hub is open, closing or closed."""
        if self._closing is not None and self.loop is not None and self.loop.is_closed():
            self._let_go_of_loop()
        return self._state

    # Binding

    def bind(self) -> asyncio.AbstractEventLoop:
        """Bind to the running loop, unless bound to it already, and start the runners that waited for one.

        Raises:
            WrongLoop: Bound to another loop that is still open.
            WrongThread: That loop is in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return loop
        if self.loop is not None:
            if not self.loop.is_closed():
                raise WrongThread(self._hub) if self.thread != get_ident() else WrongLoop(self._hub)
            self._let_go_of_loop()
        self.loop = loop
        self.thread = get_ident()
        self.is_debug = loop.get_debug()
        self._bound(loop)
        left = [*self.running, *self.unstarted]
        self.running, self.unstarted = {}, {}
        for runner in left:
            runner.reset()
        return loop

    def bind_for(self, runner: Runner) -> asyncio.AbstractEventLoop | None:
        """Return the loop to start a task on; if there is none, keep the runner until there is one."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.check_thread()
            loop = self.loop
            # A bound loop of this thread that is not running now will run again.
            if loop is None or loop.is_closed():
                self.unstarted[runner] = None
                if self.is_debug and not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "%r has messages for async listeners, but no event loop: await hub.start()", self._hub
                    )
                return None
        else:
            loop = self.bind()
        self.running[runner] = None
        return loop

    def check_thread(self) -> None:
        """Refuse any thread but that of the loop, while there is one.

        Raises:
            WrongThread: This is another.
        """
        if self.thread != get_ident() and self.loop is not None and not self.loop.is_closed():
            raise WrongThread(self._hub)

    def _let_go_of_loop(self, first: Callable[[], None] = lambda: None) -> None:
        """Unbind from a closed loop; what belonged to it is over. Runners drop their tasks when they get a new loop."""
        self.loop = self._closing = self.deadline = self._grace = None
        self._finishing.clear()
        first()
        if self._state == "closing":
            self._state = "closed"
            self._ended()

    @classmethod
    def forked(cls) -> None:
        """In a forked process, drop the loops of the parent and what belongs to them."""
        for life in list(cls._all):
            if life.loop is not None and not life.loop.is_closed():
                life.running, life.unstarted = {}, {}
                life._let_go_of_loop(life._begin_anew)

    def rest(self, runner: Runner) -> None:
        """Start a runner again after a while: its task was cancelled, though it was not removed and the hub is open.

        `asyncio.run` cancels every task when it ends; there is no way to know here whether that is the reason.
        """
        loop = self.loop
        self.running.pop(runner, None)
        self.unstarted[runner] = None
        if loop is not None and not loop.is_closed():
            loop.call_later(REST, self._wake, runner, loop)

    def _wake(self, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self.loop and runner in self.unstarted:
            del self.unstarted[runner]
            runner.reset()

    # Opening and closing

    def start(self) -> None:
        """Bind to the running loop, and open again if closed.

        Raises:
            HubClosed: It is just being closed.
        """
        self.bind()
        if self._closing is not None:
            raise HubClosed(self._hub, closing=True)
        self._state = "open"

    async def close(self, cancelled: bool) -> None:
        """Drain, then end every task; `cancelled` is true if the caller was cancelled already.

        A task of its own does the work: a first cancellation of the caller is raised when that is done, a second one
        cuts the drain short.
        """
        if self.state == "closed" and self._closing is None:
            return
        loop = self.bind()
        if self._closing is None:
            self._state = "closing"
            self._closing = _own_task(loop, self._drain_and_end(), f"closing {describe(self._hub)}")
            # A task that is cancelled before its first step runs none of its function.
            self._closing.add_done_callback(self._closed)
        elif any(runner.is_caller() for runner in self.running):
            return  # the closing waits for this very call
        await outlast(self._closing, cancelled)

    def grace(self) -> Grace:
        """Return the time for a closing that begins now: what is left of the last one, if that was just before."""
        now = self.bind().time()
        last = self._grace
        if last is None or last.is_over(now):
            last = Grace(now, self.drain)
        self._grace = grace = Grace(last.began, self.drain)
        return grace

    def finish(self, runners: Iterable[Runner], who: object) -> asyncio.Task[None] | None:
        """Give runners that accept nothing new the time that closing the hub would give them; then end their tasks.

        Returns the task that does so, if there is anything to wait for. `who` is named in logs.
        """
        if self.loop is None or self.loop.is_closed():
            return None
        runners = list(runners)
        for runner in runners:
            if self.unstarted.pop(runner, self) is None:
                runner.reset()  # it has rested long enough
        working = [runner for runner in runners if runner.tasks and runner.deadline is None]
        if not working:
            return None
        # A grace of its own: subscribers that come and go are not parts of one closing.
        grace = self._grace = Grace(self.loop.time(), self.drain)
        for runner in working:
            runner.deadline = grace.drained
            runner.hasten()
        task = _own_task(self.loop, self._finish(working, grace, who), f"closing {describe(who)}")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        return task

    async def _finish(self, runners: Collection[Runner], grace: Grace, who: object) -> None:
        async def drain() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(grace.drained):
                    for runner in runners:
                        while runner.is_working:
                            await runner.quiet()

        async def end() -> None:
            tasks = self._stop(runners)
            notices: Notices = []
            dropped = sum(runner.drop(notices) for runner in runners)
            notify(notices)
            if dropped:
                logger.warning("%r was closed with %d messages that its async listeners had not handled", who, dropped)
            await self._until_ended(tasks, who)
            grace.ended = asyncio.get_running_loop().time()

        await _whatever_happens(drain, end)

    async def _drain_and_end(self) -> None:
        await _whatever_happens(self._drain, self._drained, self._until_quiet, self._end)

    async def _drain(self) -> None:
        """Begin to close, and wait until no runner has anything to do."""
        self.deadline = self.grace().drained
        self._begin()
        resting, self.unstarted = self.unstarted, {}
        for runner in resting:
            runner.reset()
        for runner in self.running:
            runner.hasten()
        try:
            await self._until_quiet()
        except asyncio.CancelledError:
            self.deadline = asyncio.get_running_loop().time()  # the time is over for what is still published, too
            raise

    async def _until_quiet(self) -> None:
        """Wait until no runner has anything to do; a runner may give the others more by publishing.

        Also after the bridges were closed: that takes a while, in which others may publish.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self.deadline):
                while busy := [runner for runner in self.running if runner.is_busy]:
                    for runner in busy:
                        if runner.is_busy:
                            await runner.quiet()

    async def _end(self) -> None:
        self._state = "closed"
        tasks = self._stop(self.running)
        self._ended()
        await self._until_ended(tasks, self._hub, self._finishing)
        await self._cleared()

    def _closed(self, closing: asyncio.Task[None]) -> None:
        if closing is not self._closing:
            return  # its loop was closed under it
        if self._state == "closing":
            self._state = "closed"
            self._stop(self.running)
            self._ended()
        self.loop = self._closing = self.deadline = self._grace = None

    @staticmethod
    def _stop(runners: Iterable[Runner]) -> dict[asyncio.Task[None], Runner]:
        return {task: runner for runner in list(runners) for task in runner.stop()}

    @staticmethod
    async def _until_ended(
        tasks: dict[asyncio.Task[None], Runner], who: object, others: Iterable[asyncio.Task[None]] = ()
    ) -> None:
        """Wait until the cancelled tasks and some others have ended, but not for ever."""
        waited_for = {*tasks, *others}
        if waited_for:
            _, stuck = await asyncio.wait(waited_for, timeout=UNTIL_ENDED)
            for task in stuck & tasks.keys():
                logger.error("%r was closed, but %r ignores its cancellation", who, task)
                tasks[task].give_up(task)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Life.forked)


def _is_debug() -> bool:
    """Return whether asyncio would make a loop in debug mode."""
    flags = sys.flags
    return flags.dev_mode or (not flags.ignore_environment and bool(os.environ.get("PYTHONASYNCIODEBUG")))


def _own_task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    task = loop.create_task(coroutine, name=name)
    # If its loop is closed under it, it has nothing left to do, so asyncio need not warn.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


async def _whatever_happens(*steps: Callable[[], Awaitable[None]]) -> None:
    """Await each step, even if the one before it raises or is cancelled, but not after the loop is closed under it."""
    step, *later = steps
    try:
        await step()
    except GeneratorExit:
        raise
    except BaseException:
        if later:
            await _whatever_happens(*later)
        raise
    if later:
        await _whatever_happens(*later)


async def outlast(task: asyncio.Task[V], cancelled: bool = False) -> V:
    """Wait for a task that cleans up, in spite of a first cancellation of the caller.

    That cancellation is raised when the task is done. A second one, or any if the caller was `cancelled` already,
    cancels the task.
    """
    interrupt: asyncio.CancelledError | None = None
    with _shield():
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                if cancelled:
                    task.cancel()
                cancelled, interrupt = True, error
    if interrupt is not None:
        raise interrupt
    return None if task.cancelled() else task.result()  # type: ignore[return-value]


def _shield() -> Any:
    """Return a shield against anyio's cancel scopes, which would cancel every await of a clean-up, if it is in use."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)
