"""A shop, and its tests: run by `pytest shop.py`, with `pytest-asyncio` in its mode "auto"."""

import asyncio

from hubsub import Hub, Key, ListenerFailure
from hubsub.testing import Recorder, settle

ORDER: Key[str] = Key("order", "new")


def open_shop(hub: Hub) -> None:
    """Register what the shop does. It gets the hub, so that each test can give it one of its own."""

    async def pack(key: Key[str], dish: str) -> None:
        await asyncio.sleep(0.01)
        if dish == "soup":
            raise LookupError("no soup today")
        hub.publish(("order", "packed"), dish)

    hub.add_listener(ORDER, pack)


# The fixture `hub` comes with hubsub. It reports listeners that are still busy when a test ends.


async def test_an_order_is_packed(hub: Hub) -> None:
    open_shop(hub)
    with Recorder(hub, ("order", "packed")) as packed:
        hub.publish(ORDER, "tea")
        await settle(hub)  # until no listener has anything left to do: no sleep
    assert packed.messages == ["tea"]


async def test_a_dish_that_is_out_delays_no_other(hub: Hub) -> None:
    open_shop(hub)
    failures: list[ListenerFailure] = []
    hub.on_error = failures.append
    with Recorder(hub, ("order", "*")) as orders:
        hub.publish(ORDER, "soup")
        hub.publish(ORDER, "tea")
        await orders.wait_for(3)
    assert orders.events == [(ORDER, "soup"), (ORDER, "tea"), (("order", "packed"), "tea")]
    assert [str(failure.error) for failure in failures] == ["no soup today"]


def test_nobody_listens_in_an_empty_shop(hub: Hub) -> None:
    assert hub.publish(ORDER, "tea") == 0
