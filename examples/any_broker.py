"""The same chat over any broker: HUBSUB_BROKER says over which. Without it, nothing leaves this process.

HUBSUB_BROKER=sqlite://chat.db python examples/any_broker.py
"""

import asyncio
import os
from contextlib import AbstractAsyncContextManager

import hubsub

URL = os.environ.get("HUBSUB_BROKER", "memory://chat")
ROOM = hubsub.Key("chat", "tea")
# Else whoever tries this beside you would talk to you.
NAMESPACE = f"chat-{os.urandom(4).hex()}"


def join() -> AbstractAsyncContextManager[hubsub.Hub]:
    """A hub as another process would have it: only the broker joins it to the others."""
    return hubsub.connect(URL, keys=ROOM, namespace=NAMESPACE)


async def main() -> None:
    # Left before the hubs, a subscription has finished with what was read from it.
    async with join() as ann, join() as bob, ann.subscribe(ROOM) as heard_by_ann, bob.subscribe(ROOM) as heard_by_bob:
        for hub in (ann, bob):
            await hub.bridges[0].ready()
        ann.publish(ROOM, "is there any tea?")
        print("bob reads:", (await heard_by_bob.consume()).message)
        bob.publish(ROOM, "just made some")
        print("ann reads:", [event.message for event in [await heard_by_ann.consume() for _ in range(2)]])

        async with join() as cem:
            await cem.bridges[0].ready()
            try:
                missed = await cem.bridges[0].history(ROOM, 10)
            except hubsub.Unsupported:
                print("cem was not there, and nothing is kept")
            else:
                print("cem was not there, and reads:", [event.message for event in missed])


asyncio.run(main())

# Output:
# bob reads: is there any tea?
# ann reads: ['is there any tea?', 'just made some']
# cem was not there, and nothing is kept
