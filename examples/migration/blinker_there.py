"""With blinker."""

from blinker import signal

placed = signal("order-placed")


@placed.connect
def bill(sender, dish):
    print(f"bill: {dish} of {sender}")


def pack(sender, dish):
    print(f"pack: {dish}")


def price(sender, dish):
    return {"soup": 4.5, "tea": 2.0}[dish]


placed.send("bar", dish="tea")
placed.disconnect(bill)

placed.connect(pack, sender="kitchen")
placed.send("bar", dish="tea")
placed.send("kitchen", dish="soup")
placed.disconnect(pack)

with placed.connected_to(bill):
    placed.send("bar", dish="cake")

placed.connect(price)
[(receiver, euros)] = placed.send("bar", dish="soup")
print(euros, "euros")
print("somebody listens:", bool(placed.receivers))

# Output:
# bill: tea of bar
# pack: soup
# bill: cake of bar
# 4.5 euros
# somebody listens: True
