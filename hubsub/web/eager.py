"""Running a coroutine at once, as far as it goes without waiting."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any

if sys.version_info >= (3, 12):

    def run(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        """Run a coroutine now; return a task that goes on with it, or None if it has finished.

        A task for each of a thousand sends that do not wait would cost more than the sends.

        Raises:
            Exception: The coroutine did, before it waited.
        """
        task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        if not task.done():
            return task
        task.result()
        return None

else:

    def run(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        """As above."""
        try:
            future = coroutine.send(None)
        except StopIteration:
            return None
        return loop.create_task(_rest(coroutine, future))


class _Rest:
    """Awaits the rest of a coroutine that was begun, which waits for `future` now."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], future: Any) -> None:
        self._coroutine = coroutine
        self._future = future

    def __await__(self) -> Generator[Any, Any, None]:
        future = self._future
        while True:
            # A task checks that what it is handed was just yielded by a future.
            if asyncio.isfuture(future):
                future._asyncio_future_blocking = True
            try:
                value = yield future
            except BaseException as error:
                step: Callable[[Any], Any] = self._coroutine.throw
                argument: Any = error
            else:
                step = self._coroutine.send
                argument = value
            try:
                future = step(argument)
            except StopIteration:
                return


async def _rest(coroutine: Coroutine[Any, Any, None], future: Any) -> None:
    await _Rest(coroutine, future)
