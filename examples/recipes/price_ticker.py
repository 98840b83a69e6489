"""A price ticker: a slow reader gets the latest price of each share, and a screen begins with a snapshot."""

import asyncio
import itertools
import logging
from typing import NamedTuple

import hubsub
from hubsub import Key, Overflow, Snapshot

logging.getLogger("hubsub").setLevel(logging.ERROR)  # without it, a queue that overflows is a line in the log


class Quote(NamedTuple):
    number: int
    price: float


PRICES: Key[Quote] = Key("price", "+")
hub = hubsub.Hub()
numbers = itertools.count(1)
quotes = {"ACME": Quote(0, 100.0), "GLOB": Quote(0, 40.0)}


def trade(name: str, price: float) -> None:
    """Change the state, then say so: what a snapshot does not have yet comes as a message."""
    quotes[name] = Quote(next(numbers), price)
    hub.publish(("price", name), quotes[name])


async def load() -> dict[str, Quote]:
    """Return what a screen begins with; in earnest, by a query."""
    return dict(quotes)


async def main() -> None:
    # The latest price of each share: it replaces the one that waits, so that nobody reads an old one.
    board = hub.subscribe(PRICES, overflow=Overflow.LATEST)
    # Every price, after a snapshot. Whoever falls behind gets another snapshot where prices are missing.
    screen = hub.subscribe(PRICES, snapshot=load, maxsize=3, overflow=Overflow.DROP_OLDEST)
    shown: dict[str, Quote] = {}

    async def show() -> None:
        event = await screen.consume()
        if isinstance(event, Snapshot):
            shown.update(event.value)
            print("screen: snapshot", {name: quote.price for name, quote in shown.items()})
        elif event.message.number > shown[event.key[1]].number:  # a message may be part of the snapshot before it
            shown[event.key[1]] = event.message
            print("screen:", event.key[1], event.message.price)

    await show()
    trade("ACME", 101.0)
    await show()
    for price in (102.0, 103.0, 104.0):
        trade("ACME", price)
    trade("GLOB", 41.0)
    while screen.pending:
        await show()
    trade("GLOB", 42.0)
    await show()

    for _ in range(2):
        key, quote = await board.consume()
        print("board:", key[1], quote.price)
    print("the board was spared", board.superseded, "prices")
    await hub.close()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# screen: snapshot {'ACME': 100.0, 'GLOB': 40.0}
# screen: ACME 101.0
# screen: snapshot {'ACME': 104.0, 'GLOB': 41.0}
# screen: GLOB 42.0
# board: ACME 104.0
# board: GLOB 42.0
# the board was spared 4 prices
