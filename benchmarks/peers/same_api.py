"""What can be said to hubsub and to aiopubsub in the same words; `library` is either of them.

With `prefixed` a publisher prepends the first part of the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from types import ModuleType
from typing import Any

from . import lots

KEY = ("sensor", "kitchen", "celsius")


def _publishing(library: ModuleType, hub: Any, prefixed: bool) -> tuple[Callable[[Any, Any], object], Any]:
    """Return the function to publish with, and the key to give it."""
    if prefixed:
        return library.Publisher(hub, library.Key(*KEY[:1])).publish, library.Key(*KEY[1:])
    return hub.publish, library.Key(*KEY)


def sync(library: ModuleType, messages: int, prefixed: bool = False) -> float:
    def listener(key: Any, message: Any) -> None:
        pass

    hub = library.Hub()
    library.Subscriber(hub, "bench").add_sync_listener(library.Key(*KEY), listener)
    publish, key = _publishing(library, hub, prefixed)
    began = perf_counter()
    for message in range(messages):
        publish(key, message)
    return perf_counter() - began


async def bulk(library: ModuleType, messages: int, prefixed: bool = False) -> float:
    hub = library.Hub()
    subscriber = library.Subscriber(hub, "bench")
    handled = asyncio.Event()

    async def listener(key: Any, message: Any) -> None:
        if message is None:
            handled.set()

    subscriber.add_async_listener(library.Key(*KEY), listener)
    publish, key = _publishing(library, hub, prefixed)
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        handled.clear()
        for message in lot:
            publish(key, message)
        await handled.wait()
    seconds = perf_counter() - began
    await subscriber.remove_all_listeners()
    return seconds


async def queue(library: ModuleType, messages: int, prefixed: bool = False) -> float:
    hub = library.Hub()
    subscriber = library.Subscriber(hub, "bench")
    subscriber.subscribe(library.Key(*KEY))
    publish, key = _publishing(library, hub, prefixed)
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        for message in lot:
            publish(key, message)
        for _ in lot:
            await subscriber.consume()
    return perf_counter() - began
