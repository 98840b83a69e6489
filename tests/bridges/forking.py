"""A program for the tests: makes a hub and a bridge, forks, and has both processes talk to each other.

    forking.py URL NAMESPACE

Each process prints a line of JSON: its name, its origin, that of the process before the fork, and what it has heard of
each: the number of the first message.
"""

import asyncio
import json
import os
import sys
from itertools import count

from hubsub import Bridge, Hub, Key
from hubsub.bridges import adapter_for

_, url, namespace = sys.argv
FROM = Key("from", "+")
adapter = adapter_for(url)
hub = Hub()
bridge = Bridge(hub, adapter, both=FROM, namespace=namespace, start="earliest" if adapter.features.durable else "new")
origin = hub.border.origin

child = os.fork()
me, other = ("parent", "child") if child else ("child", "parent")


async def main() -> None:
    heard: dict[str, int] = {}
    numbers = count()
    # Until the other one is heard, which may not have been there at first; and a while longer, for its sake.
    more = 10

    def publish() -> None:
        hub.publish(("from", me), [me, next(numbers)])

    hub.add_listener(FROM, lambda key, message: heard.setdefault(*message))
    async with hub, bridge, asyncio.timeout(30):
        # What is published before there is a connection counts, too.
        publish()
        await bridge.ready(30)
        while more:
            await asyncio.sleep(0.1)
            publish()
            more -= other in heard
    print(json.dumps([me, hub.border.origin, origin, heard]), flush=True)


asyncio.run(main())
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
