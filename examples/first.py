"""A hub, a listener on a pattern, and a message that matches it."""

import hubsub

hub = hubsub.Hub()


@hub.on(("sensor", "*", "temperature"))
def show(key: hubsub.Key, celsius: float) -> None:
    print(key[1], celsius)


hub.publish(("sensor", "kitchen", "temperature"), 21.5)

# Output:
# kitchen 21.5
