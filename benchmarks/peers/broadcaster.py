from __future__ import annotations

import json
from time import perf_counter
from typing import Any

from broadcaster import Broadcast

from .. import drivers
from . import lots


async def queue(messages: int) -> float:
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("sensor.kitchen") as subscriber:
        batches = lots(messages)
        began = perf_counter()
        for lot in batches:
            for message in lot:
                await broadcast.publish("sensor.kitchen", message)
            for _ in lot:
                await subscriber.get()
        return perf_counter() - began


async def redis(messages: int, url: str) -> float:
    """Send messages to Redis and take them out of a queue, in JSON both ways."""
    return await _through(messages, url)


async def postgres(messages: int, url: str) -> float:
    """The same by Postgres."""
    return await _through(messages, url)


async def _through(messages: int, url: str) -> float:
    async with Broadcast(url) as broadcast, broadcast.subscribe("sensor.kitchen") as subscriber:

        async def carry(all: list[Any]) -> None:
            for message in all:
                await broadcast.publish("sensor.kitchen", json.dumps(message))
            for _ in all:
                json.loads((await subscriber.get()).message)

        await carry(drivers.messages(100))
        prepared = drivers.messages(messages)
        began = perf_counter()
        await carry(prepared)
        return perf_counter() - began
