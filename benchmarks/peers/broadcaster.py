from __future__ import annotations

from time import perf_counter

from broadcaster import Broadcast

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
