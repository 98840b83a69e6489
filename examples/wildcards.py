"""What patterns match: `*` and `+` stand for one part; `*` as the last part stands for one or more."""

import hubsub

hub = hubsub.Hub()
PATTERNS = [
    ("sensor", "kitchen", "temperature"),
    ("sensor", "*", "temperature"),
    ("sensor", "*"),
    ("sensor", "+"),
    ("+", "garden", "*"),
]


def listen(pattern: tuple[str, ...]) -> None:
    hub.add_listener(pattern, lambda key, message: print("   ", "/".join(pattern)))


for pattern in PATTERNS:
    listen(pattern)

for text in ("sensor/kitchen/temperature", "sensor/garden/temperature", "sensor/garden"):
    print(text, "matches")
    hub.publish(hubsub.Key.parse(text))

# A listener on several patterns gets a message once, however many of them match.
hub.add_listener([("lamp", "*"), ("lamp", "hall")], lambda key, message: print(key, "is", message))
hub.publish(("lamp", "hall"), "on")

# Worth asking before a message is made at some cost: a pattern will do too.
print(hub.has_subscribers(("lamp", "*", "hue")))

# Output:
# sensor/kitchen/temperature matches
#     sensor/kitchen/temperature
#     sensor/*/temperature
#     sensor/*
# sensor/garden/temperature matches
#     sensor/*/temperature
#     sensor/*
#     +/garden/*
# sensor/garden matches
#     sensor/*
#     sensor/+
# ('lamp', 'hall') is on
# True
