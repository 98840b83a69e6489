"""`hubsub bench URL`: how fast this broker carries messages from hub to hub."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time
from collections.abc import Sequence
from typing import Any

from hubsub import Event, Hub, Key

from . import running
from .arguments import add_broker, number

# Messages that are sent one by one, for the latency.
SINGLE = 200
# Messages that may be on their way at the same time.
WINDOW = 2_000
# Characters of the longest bar, and lines of the chart.
WIDTH, LINES = 40, 10


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast a broker carries messages",
        description="Send messages from one hub to another through a broker, both in this process, and show rate and "
        "latency. What it has sent stays in the log of a durable broker, in a namespace of its own.",
    )
    add_broker(parser)
    parser.add_argument("--messages", type=number, default=10_000, metavar="N", help="messages (default: 10000)")
    parser.add_argument("--size", type=number, default=200, metavar="N", help="characters of each (default: 200)")
    parser.set_defaults(run=running.runs("bench", _bench), namespace="hubsub-bench")


async def _bench(arguments: argparse.Namespace) -> None:
    there, here = running.broker_of(arguments.url), running.broker_of(arguments.url)
    # One of its own, so that nobody else's messages count.
    key: Key[Any] = Key("bench", os.urandom(6).hex())
    text = "x" * arguments.size
    message = text.encode() if arguments.codec == "bytes" else text
    sender, receiver = Hub(), Hub()
    out = running.bridge_of(sender, there, arguments, outgoing=key)
    back = running.bridge_of(receiver, here, arguments, incoming=key)
    async with sender, receiver, out, back, receiver.subscribe(key) as subscription:
        await back.ready(arguments.timeout)
        await out.ready(arguments.timeout)
        latencies = []
        for _ in range(SINGLE):
            began = time.perf_counter()
            sender.publish(key, message)
            async with asyncio.timeout(arguments.timeout):
                await subscription.consume()
            latencies.append(time.perf_counter() - began)
        began = time.perf_counter()
        await _send(sender, key, message, arguments.messages, subscription, arguments.timeout)
        rate = arguments.messages / (time.perf_counter() - began)
    print(f"{arguments.messages} messages of {arguments.size} characters: {rate:,.0f} a second")
    print(f"one at a time: {_text(_percentile(latencies, 50))} median, {_text(_percentile(latencies, 99))} p99")
    for line in _chart(latencies):
        print(line)


async def _send(hub: Hub, key: Key[Any], message: Any, number: int, subscription: Any, timeout: float) -> None:
    """Publish messages, as many at a time as a window has, and return when all have come."""
    sent = come = 0
    while come < number:
        while sent < min(number, come + WINDOW):
            hub.publish(key, message)
            sent += 1
        async with asyncio.timeout(timeout):
            batch: Sequence[Event[Any]] = await subscription.get_batch(WINDOW)
        come += len(batch)


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)]


def _text(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _chart(latencies: Sequence[float]) -> list[str]:
    """A bar for each of some intervals, by how many latencies are in it; those beyond the last are in that."""
    least, most = min(latencies), _percentile(latencies, 98)
    step = (most - least) / LINES or 1e-9
    counts = [0] * LINES
    for latency in latencies:
        counts[min(LINES - 1, int((latency - least) / step))] += 1
    longest = max(counts)
    starts = [_text(least + step * index) for index in range(LINES)]
    width = max(map(len, starts))
    return [
        f"{start:>{width}}  {'█' * math.ceil(count * WIDTH / longest)} {count}"
        for start, count in zip(starts, counts, strict=True)
    ]
