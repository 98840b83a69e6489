"""With pyee."""

import asyncio

from pyee.asyncio import AsyncIOEventEmitter

events = AsyncIOEventEmitter()


@events.on("order")
async def cook(dish):
    await asyncio.sleep({"soup": 0.02, "tea": 0.01}.get(dish, 0))
    if dish == "cake":
        raise LookupError("no cake")
    print("cooked", dish)


@events.once("order")
def open_kitchen(dish):
    print("the kitchen is open")


@events.on("error")
def note(error):
    print("failed:", error)


async def main():
    print("somebody listens:", events.emit("order", "soup"))
    await events.wait_for_complete()  # or all are cooked at once, and the tea is ready first
    events.emit("order", "tea")
    events.emit("order", "cake")
    await events.wait_for_complete()
    events.remove_listener("order", cook)
    print("somebody listens:", events.emit("order", "tea"))


asyncio.run(main())

# Output:
# the kitchen is open
# somebody listens: True
# cooked soup
# failed: no cake
# cooked tea
# somebody listens: False
