"""Ask by a key, and whoever responds to it answers."""

import asyncio

import hubsub

hub = hubsub.Hub()
prices = {"tea": 3, "honey": 8}


@hub.responds(("price", "*"))
async def look_up(key: hubsub.Key, currency: str) -> str:
    await asyncio.sleep(0.01)  # the till takes its time
    return f"{prices[key[1]]} {currency}"


async def main() -> None:
    async with hub:
        print(await hub.request(("price", "tea"), "EUR", timeout=5))
        try:
            await hub.request(("stock", "tea"))
        except hubsub.NoResponders as error:
            print(error)


asyncio.run(main())

# Output:
# 3 EUR
# ('stock', 'tea'): nobody responds to this key; add a responder with hub.respond(pattern, function)
