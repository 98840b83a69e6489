"""Domain events: what happened is published as a typed event, listeners react, retry, and leave dead letters."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import hubsub
from hubsub import DeadLetter, Key, Retry

logging.getLogger("hubsub.listener").setLevel(logging.CRITICAL)  # without it, each failure is logged with its traceback


@dataclass(frozen=True)
class OrderPlaced:
    number: int
    dish: str


PLACED: Key[OrderPlaced] = Key("order", "placed")
hub = hubsub.Hub()
hub.declare(PLACED, OrderPlaced)  # bridges decode to it, and debug mode logs anything else

stock = {"soup": 1, "tea": 9}
trouble = [ConnectionError("the mail server is busy"), ConnectionError("the mail server is busy")]


def place(number: int, dish: str) -> None:
    """Change the state first, then say what happened: whoever listens may read the state."""
    stock[dish] -= 1
    hub.publish(PLACED, OrderPlaced(number, dish))


@hub.on(PLACED)
def restock(key: Key[OrderPlaced], event: OrderPlaced) -> None:
    if stock[event.dish] == 0:
        hub.publish(("stock", "empty"), event.dish)  # an event may lead to another one


async def send_receipt(key: Key[OrderPlaced], event: OrderPlaced) -> None:
    if trouble:
        raise trouble.pop()


async def print_ticket(key: Key[OrderPlaced], event: OrderPlaced) -> None:
    raise OSError("out of paper")


receipts = hub.add_listener(PLACED, send_receipt, retry=Retry(attempts=3, backoff=0.01, on=(ConnectionError,)))
tickets = hub.add_listener(PLACED, print_ticket, retry=Retry(attempts=2, backoff=0.01))


@hub.on(("stock", "empty"))
def reorder(key: Key[Any], dish: str) -> None:
    print("reorder", dish)


@hub.on(("Hub", "deadLetter", "*"))
def bury(key: Key[Any], letter: DeadLetter) -> None:
    # The place to store it, or to page somebody.
    print(f"given up after {letter.attempts} attempts: order {letter.message.number}, {letter.error}")


async def main() -> None:
    async with hub:
        place(41, "soup")
        place(42, "tea")
    # Leaving the block waits for the listeners, with all their attempts.
    print(f"receipts: {receipts.delivered} sent; tickets: {tickets.failed} failed")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# reorder soup
# given up after 2 attempts: order 41, out of paper
# given up after 2 attempts: order 42, out of paper
# receipts: 2 sent; tickets: 2 failed
