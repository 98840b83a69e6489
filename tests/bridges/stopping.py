"""A program for the tests: a worker that has more to do than it can finish when a signal tells it to end.

    stopping.py URL NAMESPACE HOW ORDER

URL is where the broker is, or should be; empty for none. HOW says what its listener does with each of the messages
that are queued: it "hangs", or "works" a while. ORDER is what closes first, the "bridge" or the "hub". It prints
"ready", and at the end a line of JSON: the seconds that closing took, and the figures of the listener.
"""

import asyncio
import json
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

from hubsub import Bridge, Hub, Key

_, url, namespace, how, order = sys.argv
WORK = Key("work", "*")
MESSAGES = 10_000

hub = Hub()


@hub.on(WORK)
async def work(key: Key[Any], message: Any) -> None:
    await asyncio.sleep(3600 if how == "hangs" else 0.001)


async def main() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hub)
        if url:
            bridge = Bridge(hub, url, outgoing=Key("result", "*"), incoming=WORK, namespace=namespace)
            if order == "bridge":
                await stack.enter_async_context(bridge)
            else:
                await bridge.start()
        for number in range(MESSAGES):
            hub.publish(("work", "local"), number)
            hub.publish(("result", "local"), number)
        await asyncio.sleep(0.1)
        print("ready", flush=True)
        await stop.wait()
        began = loop.time()
    seconds = loop.time() - began
    listener = next(each for each in hub.subscriptions() if WORK in each.patterns)
    print(json.dumps([seconds, listener.delivered, listener.dropped, listener.failed]), flush=True)


logging.basicConfig(format="%(message)s")
asyncio.run(main())
