"""A hub belongs to the thread of its loop; other threads publish through `publish_threadsafe`."""

import asyncio

import hubsub


def copy_files(hub: hubsub.Hub) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        hub.publish_threadsafe(("copied", "file"), name)
    # In order, for each thread. The future tells what became of it: here, how many subscriptions got it.
    print(hub.publish_threadsafe(("copied", "all")).result(), "subscription knows")


async def main() -> None:
    async with hubsub.Hub() as hub:
        copied = hub.subscribe(("copied", "*"))
        await asyncio.to_thread(copy_files, hub)
        async for key, name in copied:
            if key[1] == "all":
                break
            print("copied", name)


asyncio.run(main())

# Output:
# 1 subscription knows
# copied a.txt
# copied b.txt
# copied c.txt
