"""The end of a producer or a consumer of the driver, also when no broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def stop_consumer(consumer: Any, client: Any) -> None:
    """Stop a consumer, also when no broker answers; goes on when it is cancelled.

    Args:
        consumer: Of the driver, started or not.
        client: Its client.
    """
    await stopped(_stop(consumer), client)


async def _stop(consumer: Any) -> None:
    try:
        await consumer.stop()
    finally:
        # When the group's part of the end fails, the driver leaves out the rest.
        if (fetcher := consumer._fetcher) is not None:
            tasks = [fetcher._fetch_task, *fetcher._pending_tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def stopped(stop: Coroutine[Any, Any, None], connections: Any, give_up: Callable[[], None] | None = None) -> None:
    """Finish `stop`, the end of a producer or consumer, also when no broker answers; goes on when it is cancelled.

    Args:
        stop: What it does to end.
        connections: Its client, whose connections are cut when that takes longer than a second.
        give_up: Then makes it wait for nothing else.
    """
    await asyncio.shield(asyncio.ensure_future(_stopped(asyncio.ensure_future(stop), connections, give_up)))


async def _stopped(stopping: asyncio.Task[None], connections: Any, give_up: Callable[[], None] | None) -> None:
    while not (await asyncio.wait([stopping], timeout=1))[0]:
        if give_up is not None:
            give_up()
        await connections.close()
    # What fails while everything is given up needs nobody's attention. Nor does it end in an orderly way.
    if not stopping.cancelled():
        stopping.exception()
    await connections.close()
