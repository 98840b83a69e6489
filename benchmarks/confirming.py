"""What it costs to know when a message was handled."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import hubsub

from .harness import Side, compare

KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen", "celsius")
LOT = 1_000


async def _listener(key: Any, message: Any) -> None:
    pass


def _handled(confirmed: Any, meta: hubsub.Meta | None = None) -> Side:
    async def seconds() -> float:
        hub = hubsub.Hub()
        listener = hub.add_listener(KEY, _listener)
        total = 0.0
        for _ in range(20):
            # New ones each time, as they come from a broker: one that is published again is copied.
            events = [hubsub.Event(KEY, message, meta) for message in range(LOT)]
            began = perf_counter()
            if confirmed is None:
                for message in range(LOT):
                    hub.publish(KEY, message)
            else:
                for event in events:
                    hub.border.relay(event, confirmed=confirmed)
            while listener.pending:  # noqa: ASYNC110 - there is no event for it, and this is timed
                await asyncio.sleep(0)
            total += perf_counter() - began
        return total / 20 / LOT

    return lambda: asyncio.run(seconds())


def _confirmed(finished: int, failures: Any) -> None:
    pass


@compare(at_most=2)
def publish_event_confirmed_by_callback() -> tuple[Side, Side]:
    """`Hub.border.relay(event, confirmed=callback)` of 1000 events until one async listener has handled them, against
    `Hub.publish` of as many messages to it."""
    return _handled(_confirmed), _handled(None)


@compare(at_most=2)
def publish_event_with_meta_confirmed_by_callback() -> tuple[Side, Side]:
    """The same of events with metadata, as bridges bring them."""
    return _handled(_confirmed, hubsub.Meta(id="7", source="elsewhere")), _handled(None)


def _awaited(function: Any) -> Side:
    async def seconds() -> float:
        hub = hubsub.Hub()
        hub.add_listener(KEY, function)
        began = perf_counter()
        for message in range(LOT):
            await hub.publish_confirmed(KEY, message)
        return (perf_counter() - began) / LOT

    return lambda: asyncio.run(seconds())


def _by_hand() -> Side:
    async def listener(key: Any, future: asyncio.Future[None]) -> None:
        future.set_result(None)

    async def seconds() -> float:
        hub = hubsub.Hub()
        hub.add_listener(KEY, listener)
        loop = asyncio.get_running_loop()
        began = perf_counter()
        for _ in range(LOT):
            future = loop.create_future()
            hub.publish(KEY, future)
            await future
        return (perf_counter() - began) / LOT

    return lambda: asyncio.run(seconds())


@compare(at_most=1.9)
def publish_confirmed_awaited_async_listener() -> tuple[Side, Side]:
    """`await Hub.publish_confirmed` to one async listener, against publishing a future that the listener sets."""
    return _awaited(_listener), _by_hand()


@compare(at_most=0.7)
def publish_confirmed_awaited_sync_listener() -> tuple[Side, Side]:
    """The same of a plain listener, against the same future through an async one."""
    return _awaited(lambda key, message: None), _by_hand()
