"""A coroutine function called again and again: aiopubsub's `loop.Loop`, for programs that were written for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ._core.checks import seconds_or_none
from .describe import name_of_callable
from .log import Logger

logger = Logger("hubsub.loop")


class Loop:
    """Calls `coro()` in a task, again and again, until `stop()`; it can be started again.

    If `coro` raises, the error is logged and the loop ends.

    Args:
        coro: An async function of no arguments.
        delay: Seconds between two calls; None for none.
        name: Shown in logs, and the name of the task.
    """

    def __init__(self, coro: Callable[[], Awaitable[object]], delay: float | None, name: str | None = None) -> None:
        self.coro = coro
        self.delay = seconds_or_none(delay, "delay")
        self.name = name_of_callable(coro) if name is None else name
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start calling it; if it runs already, do nothing. Needs a running event loop."""
        if not self.is_running:
            self.task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    def stop(self) -> None:
        """End it at once: a call in progress is cancelled."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()

    async def stop_wait(self) -> None:
        """End it as `stop` does, and wait until the call in progress has ended; from inside that call, do not wait."""
        task = self.task
        self.stop()
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task])

    @property
    def is_running(self) -> bool:
        """True from `start` until `stop`, or until `coro` has raised."""
        return self.task is not None and not self.task.done()

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not task.cancelling():
            try:
                await self.coro()
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    raise
                logger.error("the loop %r has ended, because its coroutine failed", self.name, error=error)
                return
            await asyncio.sleep(0 if self.delay is None else self.delay)
