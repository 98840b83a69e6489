"""What a second bridge for the same messages costs, and a fourth, where the broker costs nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any
from uuid import uuid4

import hubsub
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker

from .harness import Side, compare

KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen")
LOT, LOTS = 1_000, 10


def _through(bridges: int) -> Side:
    """Publish to so many bridges that carry all of it away, until it is sent: seconds a message and bridge."""

    async def seconds() -> float:
        urls = [f"memory://{uuid4().hex}" for _ in range(bridges)]
        total = 0.0
        async with AsyncExitStack() as stack:
            hub = await stack.enter_async_context(hubsub.Hub())
            made = []
            for url in urls:
                bridge = hubsub.Bridge(hub, MemoryAdapter(url), outgoing=KEY)
                made.append(await stack.enter_async_context(bridge))
                await bridge.ready()
            for lot in range(LOTS + 1):
                began = perf_counter()
                for message in range(LOT):
                    hub.publish(KEY, message)
                for bridge in made:
                    await bridge.flush()
                # The first lot finds out where to go.
                total += perf_counter() - began if lot else 0.0
        for url in urls:
            MemoryBroker.named.pop(url, None)
        return total / LOTS / LOT / bridges

    return lambda: asyncio.run(seconds())


@compare(at_most=1.2)
def send_through_2_bridges() -> tuple[Side, Side]:
    """`Hub.publish` of 1 000 messages that leave by two bridges, until both have sent them over `memory://`, against
    one bridge; each message by each bridge of either."""
    return _through(2), _through(1)


@compare(at_most=1.2)
def send_through_4_bridges() -> tuple[Side, Side]:
    """The same by four bridges, against one."""
    return _through(4), _through(1)
