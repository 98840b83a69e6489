"""Hubs with a bridge each, which reach each other through a broker; and waiting for conditions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from ... import Event, Gap, Hub, Key, ListenerFailure
from ...bridges import Adapter, Bridge, Leftover
from .table import ALL, Make

TIMEOUT = 30.0
"""Seconds that a check waits for a condition."""
SOON = 4.0
"""Seconds within which a bridge that has nothing left to do must close, on a busy machine."""


async def until(condition: Callable[[], object], what: object = "", seconds: float = TIMEOUT) -> None:
    """Wait until something is true.

    Args:
        condition: Checked again and again.
        what: Named in the error; a callable is called to describe it.
        seconds: How long to wait.

    Raises:
        AssertionError: The condition did not become true in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"timed out after {seconds:g} s waiting for {text or condition}")
        await asyncio.sleep(0.005)


class Site:
    """A hub with a bridge, and the messages that came to it."""

    def __init__(self, hub: Hub, bridge: Bridge) -> None:
        self.hub = hub
        self.bridge = bridge
        self.events: list[Event[Any]] = []
        self.gaps: list[Gap] = []
        self.gap_places: list[int] = []
        """For each gap, how many messages had come before it."""

    def listen(self, patterns: Any = ALL) -> Any:
        """Record all messages and gaps that come; return the listener."""

        def record(event: Event[Any]) -> None:
            if event.key[0] != "Hub":
                self.events.append(event)

        def note(key: Key[Any], gap: Gap) -> None:
            self.gaps.append(gap)
            self.gap_places.append(len(self.events))

        self.hub.add_listener(Key("Hub", "gap", "*"), note)
        return self.hub.add_listener(patterns, record, event=True)

    @property
    def messages(self) -> list[Any]:
        """The messages that came, without keys."""
        return [event.message for event in self.events]

    async def until(self, condition: Callable[[], object], what: str, seconds: float = TIMEOUT) -> None:
        """Wait until something is true of this site.

        Raises:
            AssertionError: It did not become true in time. The error says what had come by then.
        """

        def state() -> str:
            came = f"{len(self.events)} messages, the last {self.messages[-3:]}; {len(self.gaps)} gaps"
            return f"{what}; received {came}; {self.bridge.health()}"

        await until(condition, state, seconds)

    async def wait_for(self, number: int, seconds: float = TIMEOUT) -> None:
        """Wait until `number` messages have come."""
        await self.until(lambda: len(self.events) >= number, f"{number} messages", seconds)

    async def see(self, message: Any, seconds: float = TIMEOUT) -> None:
        """Wait until this message has come: then all messages sent before it with its key have come, too."""
        await self.until(lambda: message in self.messages, f"the message {message!r}", seconds)

    async def wait_for_gaps(self, number: int, seconds: float = TIMEOUT) -> None:
        """Wait until `number` gaps were announced."""
        await self.until(lambda: len(self.gaps) >= number, f"{number} gaps", seconds)

    async def close(self, timeout: float = 20.0, within: float = SOON) -> Leftover:
        """Close the bridge; return what it could not finish.

        Args:
            timeout: Seconds that the bridge may take.
            within: Seconds that it should take.

        Raises:
            AssertionError: It took longer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        left = await self.bridge.close(timeout)
        took = loop.time() - began
        assert took <= within, f"closing took {took:.1f} s, where it should take {within:g}; {self.bridge.health()}"
        return left


class Sites:
    """Makes hubs that reach each other through one namespace of the broker."""

    def __init__(self, make: Make, stack: AsyncExitStack) -> None:
        self.make = make
        self.stack = stack
        self.namespace = f"check{os.urandom(6).hex()}"

    async def add(
        self,
        listening: Any = None,
        *,
        adapter: Adapter | None = None,
        on_error: Callable[[ListenerFailure], object] | None = None,
        ready: bool = True,
        **options: Any,
    ) -> Site:
        """Add a site and return it, connected.

        Args:
            listening: Patterns to listen to from the start.
            adapter: The adapter; None to make one here.
            on_error: The `on_error` of the hub.
            ready: Wait until the bridge is connected.
            options: Options of the bridge, which by default carries everything both ways.
        """
        if not {"outgoing", "incoming", "both"} & options.keys():
            options["both"] = ALL
        options.setdefault("namespace", self.namespace)
        hub = await self.stack.enter_async_context(Hub(on_error=on_error))
        site = Site(hub, Bridge(hub, adapter or self.make(), **options))
        if listening is not None:
            site.listen(listening)
        await self.stack.enter_async_context(site.bridge)
        if ready:
            await site.bridge.ready(TIMEOUT)
        return site


@asynccontextmanager
async def sites(make: Make) -> AsyncIterator[Sites]:
    """Yield sites for a check; afterwards check that they have left no tasks behind."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        yield Sites(make, stack)
    with suppress(AssertionError):
        await until(lambda: not asyncio.all_tasks() - before, seconds=2)
    left = asyncio.all_tasks() - before
    assert not left, f"tasks are left: {left}"
