from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from bubus import BaseEvent, EventBus

from . import lots

# It refuses more than a hundred events that are not handled yet.
LOT = 50


class Reading(BaseEvent[None]):
    message: int | None


async def _dispatch(listener: Callable[[Reading], Any], messages: int) -> float:
    bus = EventBus(name="bench")
    bus.on(Reading, listener)
    batches = lots(messages, LOT)
    began = perf_counter()
    for lot in batches:
        for message in lot:
            last = bus.dispatch(Reading(message=message))
        await last
    seconds = perf_counter() - began
    await bus.stop(clear=True)
    return seconds


async def sync(messages: int) -> float:
    def listener(event: Reading) -> None:
        pass

    return await _dispatch(listener, messages)


async def bulk(messages: int) -> float:
    async def listener(event: Reading) -> None:
        pass

    return await _dispatch(listener, messages)
