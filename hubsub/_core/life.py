"""The life of a hub: the loop and thread that it belongs to, the tasks of its async listeners, its closing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from threading import get_ident
from typing import Any, Literal, Protocol, TypeVar

from ..errors import HubClosed, WrongLoop, WrongThread
from ..log import Logger

V = TypeVar("V")

logger = Logger("hubsub.hub")


class Runner(Protocol):
    """What needs a task: an async listener."""

    @property
    def closed(self) -> bool: ...
    @property
    def pending(self) -> int: ...
    @property
    def is_busy(self) -> bool: ...
    def is_caller(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> list[asyncio.Task[None]]: ...
    def reset(self) -> None: ...
    def hasten(self) -> None: ...
    def quiet(self) -> asyncio.Future[None]: ...


class Life:
    """Binds a hub to a loop when it first needs one, and ends its tasks when it is closed.

    When that loop is closed, or the hub was closed, it binds anew.

    Args:
        hub: Named in logs and errors.
        drain: Seconds that `close` gives the runners to finish what is queued.
        bound: Called with each loop that is bound.
        closing: Called when the hub begins to close.
        drained: Awaited when the runners have finished, or the time is over.
        ended: Awaited when the hub is closed, before the tasks are.
    """

    def __init__(
        self,
        hub: object,
        drain: float,
        bound: Callable[[asyncio.AbstractEventLoop], None],
        closing: Callable[[], None],
        drained: Callable[[], Awaitable[None]],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        self.state: Literal["open", "closing", "closed"] = "open"
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.running: dict[Runner, None] = {}
        self.unstarted: dict[Runner, None] = {}  # with messages, but without a loop
        self._hub = hub
        self._drain_seconds = drain
        self._bound = bound
        self._begin = closing
        self._drained = drained
        self._ended = ended
        self._closing: asyncio.Task[None] | None = None
        self._loop_is_ending = False

    # Binding

    def bind(self) -> asyncio.AbstractEventLoop:
        """Bind to the running loop, unless bound to it already, and start what waited for one.

        Raises:
            WrongLoop: Bound to another loop that is still open.
            WrongThread: That loop is in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return loop
        if self.loop is not None and not self.loop.is_closed():
            raise WrongThread(self._hub) if self.thread != get_ident() else WrongLoop(self._hub)
        self.loop = loop
        self.thread = get_ident()
        self._loop_is_ending = False
        self._closing = None
        self._bound(loop)
        # A loop that was closed without ending its tasks leaves them behind.
        left, self.running = self.running, {}
        for runner in left:
            runner.reset()
        late, self.unstarted = self.unstarted, {}
        for runner in late:
            runner.start()
        return loop

    def bind_for(self, runner: Runner) -> asyncio.AbstractEventLoop | None:
        """The loop to start a task on; while there is none, remember the runner until there is."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.check_thread()
            loop = self.loop
            # A loop that is bound but stands still in this thread will run again.
            if loop is None or loop.is_closed():
                self.unstarted[runner] = None
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

    def task_ended(self, runner: Runner, loop: asyncio.AbstractEventLoop) -> bool:
        """Note that the task of a runner has ended; return whether that is in order."""
        self.running.pop(runner, None)
        if runner.closed or self.state != "open":
            return True
        # asyncio.run cancels every task when it ends: then the listener stays, for the next loop. If only its own
        # task is being cancelled, somebody meant it.
        if not self._loop_is_ending:
            self._loop_is_ending = all(task.cancelling() for task in asyncio.all_tasks(loop))
        if self._loop_is_ending and runner.pending:
            self.unstarted[runner] = None
        return self._loop_is_ending

    # Opening and closing

    def start(self) -> None:
        """Bind to the running loop, and open again if closed.

        Raises:
            HubClosed: It is just being closed.
        """
        if self._closing is not None and not self._closing.done():
            raise HubClosed(self._hub, closing=True)
        self.bind()
        self.state = "open"

    async def close(self, cancelled: bool) -> None:
        """Drain, then end every task; `cancelled` tells that the caller was cancelled already.

        The work is done by a task of its own: a first cancellation of the caller is kept until it is done, a second
        one cuts the drain short.
        """
        if self._closing is None or self._closing.done():
            if self.state == "closed":
                return
            loop = self.bind()
            self.state = "closing"
            self._closing = loop.create_task(self._drain_and_end(), name=f"closing {self._hub!r}")
        elif any(runner.is_caller() for runner in self.running):
            return  # the closing waits for this very call
        await outlast(self._closing, cancelled)

    async def _drain_and_end(self) -> None:
        try:
            self._begin()
            for runner in self.running:
                runner.hasten()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain_seconds):
                    await self._drain()
            await self._drained()
        finally:
            await self._end()

    async def _drain(self) -> None:
        """Wait until no runner has anything to do; one may give the others more by publishing onward."""
        while busy := [runner for runner in self.running if runner.is_busy]:
            await busy[0].quiet()

    async def _end(self) -> None:
        self.state = "closed"
        tasks = [task for runner in list(self.running) for task in runner.stop()]
        await self._ended()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=max(self._drain_seconds, 1.0))
            for task in stuck:
                logger.error("%r closed, but %r goes on in spite of being cancelled", self._hub, task)
        self.loop = None


async def outlast(task: asyncio.Task[V], cancelled: bool = False) -> V:
    """Wait for a task that cleans up, in spite of a first cancellation of the caller.

    It is raised when the task is done. A second one, or one if the caller was `cancelled` already, cancels the task.
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
    """A shield against anyio's cancel scopes, which else cancel every await of a clean-up, where anyio is in use."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)
