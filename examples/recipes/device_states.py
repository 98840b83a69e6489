"""Devices and last values: each reading is retained, a late reader begins with the state, silence is noticed."""

import asyncio
from typing import Any

import hubsub
from hubsub import Key

hub = hubsub.Hub()
# The last reading of each device, for ten minutes; beyond ten thousand devices, the one silent longest is forgotten.
hub.retain(("device", "+", "+"), max_age=600, max_keys=10_000)
SILENT = 0.05  # seconds; a minute in earnest


@hub.on(("device", "+", "state"))
def note_state(key: Key[Any], state: str) -> None:
    print(f"{key[1]} is {state}")


async def watch(device: str) -> None:
    """Publish that a device is offline when it has said nothing for a while, and that it is online when it does."""
    is_online = False
    with hub.subscribe(("device", device, "celsius"), maxsize=1, overflow=hubsub.Overflow.LATEST) as readings:
        while True:
            try:
                async with asyncio.timeout(SILENT):
                    await readings.consume()
            except TimeoutError:
                if is_online:
                    hub.publish(("device", device, "state"), "offline")
                is_online = False
            else:
                if not is_online:
                    hub.publish(("device", device, "state"), "online")
                is_online = True


async def main() -> None:
    watching = asyncio.create_task(watch("kitchen"))
    await asyncio.sleep(0)
    for celsius in (20.5, 21.0, 21.5):
        hub.publish(("device", "kitchen", "celsius"), celsius)
    hub.publish(("device", "cellar", "celsius"), 12.0)
    await hub.next(("device", "kitchen", "state"), where=lambda key, state: state == "offline", timeout=5)

    # A dashboard that opens now begins with the last value of each device, then gets what comes.
    with hub.subscribe(("device", "+", "celsius"), history=1) as readings:
        hub.publish(("device", "cellar", "celsius"), 12.5)
        for _ in range(3):
            key, celsius = await readings.consume()
            print(f"{key[1]}: {celsius}")

    last = hub.last(("device", "kitchen", "celsius"))
    print("kitchen:", last and last.message)
    watching.cancel()
    await hub.close()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# kitchen is online
# kitchen is offline
# kitchen: 21.5
# cellar: 12.0
# cellar: 12.5
# kitchen: 21.5
