"""Litestar: the hub in the lifespan and as a dependency, sync handlers in threads, and the WebSocket endpoint for pages."""

from typing import Any

from litestar import Litestar, asgi, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery
from litestar.testing import TestClient

import hubsub
from hubsub.testing import settle
from hubsub.web import endpoint, lifespan

hub = hubsub.Hub()
socket = endpoint(hub, outgoing=[("receipt", "+")])
CurrentHub = NamedDependency[hubsub.Hub]


@post("/orders/{number:str}")
async def place(number: FromPath[str], dish: FromQuery[str], hub: CurrentHub) -> dict[str, int]:
    return {"listeners": hub.publish(("order", number, "placed"), dish)}


@post("/reports/{number:str}", sync_to_thread=True)
def write_report(number: FromPath[str], hub: CurrentHub) -> dict[str, int]:
    # In a worker thread, and the hub belongs to the thread of its loop.
    return {"listeners": hub.publish_threadsafe(("report", number), "written").result()}


@asgi("/ws", is_mount=True, copy_scope=True)
async def browsers(scope: Any, receive: Any, send: Any) -> None:
    await socket(scope, receive, send)


@hub.on(("order", "+", "placed"))
async def send_receipt(key: hubsub.Key, dish: str) -> None:
    hub.publish(("receipt", key[1]), f"one {dish}")


@hub.on(("report", "*"))
def note(key: hubsub.Key, state: str) -> None:
    print(f"report {key[1]} is {state}")


app = Litestar(
    route_handlers=[place, write_report, browsers],
    dependencies={"hub": Provide(lambda: hub, sync_to_thread=False)},
    lifespan=[lifespan(hub)],
    logging_config=None,
)


def next_message(socket: Any) -> Any:
    """The next message that the endpoint sends, past its answers."""
    while True:
        for frame in socket.receive_json():
            if "key" in frame:
                return frame["data"]


def main() -> None:
    with TestClient(app) as client:
        with client.websocket_connect("/ws") as socket:
            socket.send_json({"type": "subscribe", "id": 1, "patterns": [["receipt", "+"]]})
            print(client.post("/orders/41?dish=soup").json())
            print("the page gets:", next_message(socket))
        print(client.post("/reports/7").json())
        with client.portal() as portal:  # calls in the loop of the application
            portal.call(hub.publish, ("order", "42", "placed"), "tea")
            portal.call(settle, hub)


if __name__ == "__main__":
    main()

# Output:
# {'listeners': 1}
# the page gets: one soup
# report 7 is written
# {'listeners': 1}
