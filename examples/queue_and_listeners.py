"""Three ways to take messages in: at once, in a task of its own, from a queue. One subscriber owns all three."""

import asyncio

import hubsub


async def main() -> None:
    async with hubsub.Hub() as hub:
        async with hubsub.Subscriber(hub, "kitchen") as kitchen:

            @kitchen.on(("order", "*"))
            def note(key: hubsub.Key, dish: str) -> None:
                print(f"{dish} noted")  # right in the publish, before it returns

            @kitchen.on(("order", "*"))
            async def cook(key: hubsub.Key, dish: str) -> None:
                await asyncio.sleep(0.01)  # one order after the other; whoever publishes does not wait
                hub.publish(("ready", *key[1:]), dish)

            ready = kitchen.subscribe(("ready", "*"))

            for dish in ("soup", "fish", "tea"):
                hub.publish(("order", "table 4"), dish)
            print("all ordered")

            async for key, dish in ready:
                print(f"{dish} for {key[1]}")
                if dish == "tea":
                    break

        # The subscriber has left, and taken all of it along.
        print(hub.publish(("order", "table 5"), "cake"), "listeners for cake")


asyncio.run(main())

# Output:
# soup noted
# fish noted
# tea noted
# all ordered
# soup for table 4
# fish for table 4
# tea for table 4
# 0 listeners for cake
