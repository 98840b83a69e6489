"""A program for the tests: makes a hub and a bridge, forks, and has both processes talk to each other.

    forking.py URL NAMESPACE WHEN

It forks "before" it has a loop, or while its bridge is "up". Each process prints a line of JSON: its name, its origin,
that of the process before the fork, and what it has heard of each: the number of the first message.
"""

import asyncio
import json
import os
import sys
import traceback
from itertools import count

from hubsub import Bridge, Hub, Key
from hubsub.bridges import adapter_for

_, url, namespace, when = sys.argv
FROM = Key("from", "+")
adapter = adapter_for(url)
hub = Hub()
bridge = Bridge(hub, adapter, both=FROM, namespace=namespace, start="earliest" if adapter.features.durable else "new")
origin = hub.border.origin
heard: dict[str, int] = {}
hub.add_listener(FROM, lambda key, message: heard.setdefault(*message))


async def talk(me: str, other: str) -> None:
    """Publish until the other one is heard, which may not have been there at first; and a while on, for its sake."""
    numbers = count()
    more = 10

    def publish() -> None:
        hub.publish(("from", me), [me, next(numbers)])

    async with asyncio.timeout(30):
        # What is published before there is a connection counts, too.
        publish()
        await bridge.ready(30)
        while more:
            await asyncio.sleep(0.1)
            publish()
            more -= other in heard
    print(json.dumps([me, hub.border.origin, origin, heard]), flush=True)


async def enter_and_talk(me: str, other: str) -> None:
    async with hub, bridge:
        await talk(me, other)


async def start_hub_and_talk(me: str, other: str) -> None:
    async with hub:  # with which the bridge is started again
        await talk(me, other)


async def fork_and_talk() -> int:
    async with hub, bridge:
        await bridge.ready(30)
        hub.publish(("from", "before"), ["before", 0])
        child = os.fork()
        if child:
            await talk("parent", "child")
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            return os.waitstatus_to_exitcode(status)
        heard.clear()
        # The parent's loop is still on the stack.
        status = 1
        try:
            asyncio.run(start_hub_and_talk("child", "parent"))
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)


if when == "up":
    sys.exit(asyncio.run(fork_and_talk()))
child = os.fork()
asyncio.run(enter_and_talk("parent", "child") if child else enter_and_talk("child", "parent"))
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
