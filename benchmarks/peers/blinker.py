from __future__ import annotations

from time import perf_counter
from typing import Any

from blinker import Signal

from . import lots


def sync(messages: int) -> float:
    def listener(sender: Any, message: Any) -> None:
        pass

    signal = Signal()
    signal.connect(listener)
    began = perf_counter()
    for message in range(messages):
        signal.send(None, message=message)
    return perf_counter() - began


async def bulk(messages: int) -> float:
    async def listener(sender: Any, message: Any) -> None:
        pass

    signal = Signal()
    signal.connect(listener)
    batches = lots(messages)
    began = perf_counter()
    for lot in batches:
        for message in lot:
            # Returns when it is handled.
            await signal.send_async(None, message=message)
    return perf_counter() - began
