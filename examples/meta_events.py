"""The hub says who comes and goes: here a feed runs only while somebody is subscribed to its prices."""

from typing import Any

import hubsub

hub = hubsub.Hub()


@hub.on([("Hub", "addedSubscriber", "price", "*"), ("Hub", "removedSubscriber", "price", "*")])
def switch_feed(key: hubsub.Key, change: dict[str, Any]) -> None:
    print(key[1], change["key"], change["currentSubscriberCount"])
    if not hub.has_subscribers(("price", "*")):
        print("feed off")
    elif key[1] == "addedSubscriber" and change["currentSubscriberCount"] == 1:
        print("feed on")
        hub.publish(("price", "tea"), 2.5)  # whoever has just subscribed gets it


with hub.subscribe(("price", "*")) as first:
    with hub.subscribe(("price", "*")):
        pass
    print(first.pending, "price to read")

# Output:
# addedSubscriber ('price', '*') 1
# feed on
# addedSubscriber ('price', '*') 2
# removedSubscriber ('price', '*') 1
# 1 price to read
# removedSubscriber ('price', '*') 0
# feed off
