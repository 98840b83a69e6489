"""No library at all: a dictionary of functions or queues."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from . import lots


def sync(messages: int) -> float:
    def listener(key: str, message: int) -> None:
        pass

    listeners = {"sensor.kitchen": [listener]}

    def publish(key: str, message: int) -> None:
        for listener in listeners.get(key, ()):
            listener(key, message)

    began = perf_counter()
    for message in range(messages):
        publish("sensor.kitchen", message)
    return perf_counter() - began


class _Queues:
    """What everyone would write."""

    def __init__(self) -> None:
        self.queues: dict[str, list[asyncio.Queue[Any]]] = {}

    def subscribe(self, key: str) -> asyncio.Queue[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.setdefault(key, []).append(queue)
        return queue

    def publish(self, key: str, message: Any) -> None:
        for queue in self.queues.get(key, ()):
            queue.put_nowait((key, message))


async def bulk(messages: int) -> float:
    hub = _Queues()
    queue = hub.subscribe("sensor.kitchen")
    handled = asyncio.Event()

    async def listener(key: str, message: int | None) -> None:
        if message is None:
            handled.set()

    async def listen() -> None:
        while True:
            key, message = await queue.get()
            await listener(key, message)

    task = asyncio.create_task(listen())
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        handled.clear()
        for message in lot:
            hub.publish("sensor.kitchen", message)
        await handled.wait()
    seconds = perf_counter() - began
    task.cancel()
    return seconds


async def queue(messages: int) -> float:
    hub = _Queues()
    queue = hub.subscribe("sensor.kitchen")
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        for message in lot:
            hub.publish("sensor.kitchen", message)
        for _ in lot:
            await queue.get()
    return perf_counter() - began
