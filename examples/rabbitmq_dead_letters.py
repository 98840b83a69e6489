"""Orders that nobody could pack become dead letters in RabbitMQ; when there is tea again they are sent back, and packed."""

import asyncio
import logging
import os

import hubsub

URL = os.environ.get("RABBITMQ_URL", "amqp://localhost")
ORDERS = hubsub.Key("order", "+")
stock = {"honey": 1, "tea": 0}
# Each failure would be logged, with its traceback.
logging.getLogger("hubsub").setLevel(logging.CRITICAL)


async def pack(key: hubsub.Key, item: str) -> None:
    if not stock[item]:
        raise ValueError(f"out of {item}")
    stock[item] -= 1
    print("packed", key[1], item)


async def main() -> None:
    async with hubsub.Hub() as shop, hubsub.Hub() as store:
        selling = hubsub.Bridge(shop, URL, outgoing=ORDERS, namespace="example")
        packing = hubsub.Bridge(store, URL, incoming=ORDERS, namespace="example", group="packers", attempts=2)
        store.add_listener(ORDERS, pack)
        async with selling, packing:
            await packing.ready(30)
            await shop.publish_confirmed(("order", "1"), "tea", timeout=30)
            await shop.publish_confirmed(("order", "2"), "honey", timeout=30)
            while not (letters := await selling.dead_letters(10)):
                await asyncio.sleep(0.1)
            for letter in letters:
                print("given up", letter.key[1], letter.message, "after", letter.attempts, "attempts:", letter.reason)
            stock["tea"] = 5
            for letter in letters:
                await selling.redeliver(letter.position)
            while stock["tea"] == 5:
                await asyncio.sleep(0.1)
            print("letters left:", len(await selling.dead_letters(10)))


asyncio.run(main())

# Output:
# packed 2 honey
# given up 1 tea after 2 attempts: ValueError: out of tea
# packed 1 tea
# letters left: 0
