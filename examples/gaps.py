"""A reader that is too slow for a bounded queue: the oldest messages go, and a `Gap` stands where they are missing."""

import asyncio
import logging
import sys

import hubsub
from hubsub import Gap, Overflow

# A queue that begins to overflow is logged, in one line.
logging.basicConfig(stream=sys.stdout, format="%(levelname)s: %(message)s")


async def main() -> None:
    async with hubsub.Hub() as hub:
        orders = hub.subscribe(("order", "*"), maxsize=3, overflow=Overflow.DROP_OLDEST, gaps=True)
        prices = hub.subscribe(("price", "*"), overflow=Overflow.LATEST)  # of each key the newest is enough
        for number in range(1, 11):
            hub.publish(("order", "new"), number)
            hub.publish(("price", "honey"), 10 * number)

    # The hub is closed; what is queued can still be read.
    async for event in orders:
        if isinstance(event, Gap):
            print(event.count, "orders are missing:", event.reason)
        else:
            print("order", event.message)
    async for key, price in prices:
        print(key[1], price)


asyncio.run(main())

# Output:
# WARNING: <GapSubscription ('order', '*') pending=3 dropped=1> does not keep up: its queue is full, with maxsize=3 and overflow='drop oldest'
# 7 orders are missing: drop oldest
# order 8
# order 9
# order 10
# honey 100
