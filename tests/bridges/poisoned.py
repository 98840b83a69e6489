"""A worker whose listener ends the process when it gets one of the messages: `python poisoned.py URL NAMESPACE`."""

import asyncio
import os
import sys

from hubsub import Bridge, Hub
from hubsub.bridges.redis import RedisStreamAdapter


async def main(url: str, namespace: str) -> None:
    adapter = RedisStreamAdapter(url, lease=0.5)
    async with Hub() as hub, Bridge(hub, adapter, incoming="*", group="g", namespace=namespace, attempts=2):

        @hub.on("job")
        async def work(key: object, message: object) -> None:
            if message == "poison":
                os._exit(9)
            print(message, flush=True)

        await asyncio.sleep(3)


asyncio.run(main(*sys.argv[1:]))
