"""What all handles share: each is a context manager, and ending it can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Removal:
    """The result of a removal. Awaited, it waits until the removed tasks have ended; awaiting it is optional."""

    __slots__ = ("_tasks",)

    awaiting_is_optional = True  # a listener may return it

    def __init__(self, tasks: Iterable[asyncio.Task[None]] = ()) -> None:
        self._tasks = tuple(tasks)

    @classmethod
    def of(cls, removals: Iterable[Removal]) -> Removal:
        """Return several removals as one."""
        return cls(task for removal in removals for task in removal._tasks)

    def __await__(self) -> Generator[Any, None, None]:
        running = [task for task in self._tasks if not task.done() and not task.get_loop().is_closed()]
        if running:
            # Waited for, not awaited: cancelling the wait must not cancel the tasks a second time.
            yield from asyncio.wait(running).__await__()


class Handle:
    """Something that lasts until it is ended, or left as a context manager, `async` or not."""

    __slots__ = ()

    def _end(self) -> Removal:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
