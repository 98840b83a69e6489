from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from pymitter import EventEmitter

from . import lots


def sync(messages: int) -> float:
    def listener(message: Any) -> None:
        pass

    emitter = EventEmitter()
    emitter.on("sensor.kitchen", listener)
    began = perf_counter()
    for message in range(messages):
        emitter.emit("sensor.kitchen", message)
    return perf_counter() - began


async def bulk(messages: int) -> float:
    emitter = EventEmitter()
    handled = asyncio.Event()

    async def listener(message: Any) -> None:
        if message is None:
            handled.set()

    emitter.on("sensor.kitchen", listener)
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        handled.clear()
        for message in lot:
            emitter.emit_future("sensor.kitchen", message)
        await handled.wait()
    return perf_counter() - began
