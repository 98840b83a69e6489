"""A fast producer waits for a slow consumer: `publish_wait` never queues more than there is room for."""

import asyncio

import hubsub


async def main() -> None:
    async with hubsub.Hub() as hub, asyncio.TaskGroup() as group:
        lines = hub.subscribe(("log", "*"), maxsize=3)

        async def produce() -> None:
            for number in range(1, 11):
                await hub.publish_wait(("log", "app"), f"line {number}")
            lines.close()  # what is queued can still be read; then the loop below ends

        group.create_task(produce())
        async for _, line in lines:
            await asyncio.sleep(0.001)
            print(line)
    print(f"{lines.delivered} lines, never more than {lines.peak_pending} queued")


asyncio.run(main())

# Output:
# line 1
# line 2
# line 3
# line 4
# line 5
# line 6
# line 7
# line 8
# line 9
# line 10
# 10 lines, never more than 3 queued
