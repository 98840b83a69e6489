"""Doing several things of a connection at once, such as opening all that it consists of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

V = TypeVar("V")


async def together(coroutines: Iterable[Coroutine[Any, Any, V]]) -> list[V]:
    """Run coroutines at the same time, and return their results in this order.

    If one fails, or the caller is cancelled, the others are cancelled, and have ended when that error is raised: the
    error itself, where an `asyncio.TaskGroup` would raise a group, which nobody here expects.
    """
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
