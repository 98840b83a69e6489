"""Hubs that a bridge connects, for tests of the relay."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from hubsub import Hub, Key
from hubsub.bridges import Bridge
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker

ALL: Key[Any] = Key("*")
V = TypeVar("V")


class Sites:
    """Makes hubs with a bridge to one memory broker; a context manager that closes them."""

    def __init__(self) -> None:
        self.url = f"memory://{os.urandom(6).hex()}"
        self.stack = AsyncExitStack()

    @property
    def broker(self) -> MemoryBroker:
        return MemoryBroker.named[self.url]

    async def __aenter__(self) -> Sites:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stack.aclose()
        MemoryBroker.named.pop(self.url, None)

    async def hub(self, **options: Any) -> Hub:
        return await self.stack.enter_async_context(Hub(**options))

    async def bridge(
        self, hub: Hub | None = None, *, url: str | None = None, ready: bool = True, **options: Any
    ) -> Bridge:
        """A bridge of a hub, a new one by default, both ways by default."""
        if not {"outgoing", "incoming", "both"} & options.keys():
            options["both"] = ALL
        adapter = MemoryAdapter(url or self.url)
        bridge = Quick(hub or await self.hub(), adapter, **options)
        await self.stack.enter_async_context(bridge)
        if ready:
            await bridge.ready()
        return bridge


class Quick(Bridge):
    """A bridge that soon loses patience."""

    TICK = 0.02
    SILENT = 0.1
    DEAF = 0.3
    STUCK = 0.3
    CONNECT = 0.3


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.005)


def record(hub: Hub, patterns: Any = ALL) -> list[Any]:
    """The messages of these patterns from now on, but for the hub's own."""
    messages: list[Any] = []
    hub.add_listener(
        patterns, lambda key, message: messages.append(message), where=lambda key, message: key[0] != "Hub"
    )
    return messages
