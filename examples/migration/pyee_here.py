"""The same with hubsub."""

import asyncio
import logging

from hubsub import Hub
from hubsub.testing import settle

logging.getLogger("hubsub").setLevel(logging.CRITICAL)  # without it, the failure is logged, too
hub = Hub(on_error=lambda failure: print("failed:", failure.error))


async def cook(key, dish):
    await asyncio.sleep({"soup": 0.02, "tea": 0.01}.get(dish, 0))
    if dish == "cake":
        raise LookupError("no cake")
    print("cooked", dish)


@hub.on("order", once=True)
def open_kitchen(key, dish):
    print("the kitchen is open")


async def main():
    cooking = hub.add_listener("order", cook, concurrency=10)  # without it, one after the other, in order
    async with hub:
        print("somebody listens:", hub.publish("order", "soup") > 0)
        await settle(hub)
        hub.publish("order", "tea")
        hub.publish("order", "cake")
        await settle(hub)  # leaving the block waits, too
        await cooking.remove()
        print("somebody listens:", hub.publish("order", "tea") > 0)


asyncio.run(main())

# Output:
# the kitchen is open
# somebody listens: True
# cooked soup
# failed: no cake
# cooked tea
# somebody listens: False
