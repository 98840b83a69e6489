"""Programs that know nothing of hubs ask over NATS, and hubs answer; a hub asks, and such a program answers."""

import asyncio
import json
import os

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

import hubsub

URL = os.environ.get("NATS_URL", "nats://localhost:4222")
PRICES = {"tea": 3, "honey": 8}


async def till() -> None:
    """A program with plain nats-py."""
    client = await nats.connect(URL)
    reply = await client.request("shop.price.tea", b'"EUR"', timeout=5)
    print("the till hears", json.loads(reply.data))
    await client.close()


async def stock() -> Client:
    """Another one, which answers."""

    async def count(message: Msg) -> None:
        await message.respond(b"12" if message.subject.endswith(".tea") else b"0")

    client = await nats.connect(URL)
    await client.subscribe("shop.stock.*", cb=count)
    await client.flush()
    return client


async def main() -> None:
    async with hubsub.Hub() as hub:

        @hub.responds(("price", "+"))
        def look_up(key: hubsub.Key, currency: str) -> str:
            return f"{PRICES[key[1]]} {currency}"

        both = [("price", "*"), ("stock", "*")]
        async with hubsub.Bridge(hub, URL, both=both, namespace="shop") as bridge:
            await bridge.ready()
            await till()
            client = await stock()
            print("the hub hears", await hub.request(("stock", "tea"), None, timeout=5, local=False))
            await client.close()


asyncio.run(main())

# Output:
# the till hears 3 EUR
# the hub hears 12
