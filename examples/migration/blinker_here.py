"""The same with hubsub."""

import asyncio

from hubsub import Hub, Subscriber

hub = Hub()


@hub.on(("order", "placed", "+"))
def bill(key, dish):
    print(f"bill: {dish} of {key[2]}")


def pack(key, dish):
    print(f"pack: {dish}")


def price(key, dish):
    return {"soup": 4.5, "tea": 2.0}[dish]


hub.publish(("order", "placed", "bar"), "tea")
hub.remove_listener(bill)

packing = hub.add_listener(("order", "placed", "kitchen"), pack)
hub.publish(("order", "placed", "bar"), "tea")
hub.publish(("order", "placed", "kitchen"), "soup")
packing.remove()

with Subscriber(hub, "till") as till:
    till.add_listener(("order", "placed", "+"), bill)
    hub.publish(("order", "placed", "bar"), "cake")


async def ask():
    async with hub:
        hub.respond(("price", "+"), price)
        print(await hub.request(("price", "bar"), "soup"), "euros")
        print("somebody listens:", hub.has_subscribers(("price", "+")))


asyncio.run(ask())

# Output:
# bill: tea of bar
# pack: soup
# bill: cake of bar
# 4.5 euros
# somebody listens: True
