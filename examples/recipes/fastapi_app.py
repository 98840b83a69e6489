"""FastAPI or Starlette: the hub lives with the application, endpoints of both kinds publish, tests use the same loop."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

import hubsub
from hubsub.testing import Recorder, settle
from hubsub.web import lifespan

hub = hubsub.Hub()
app = FastAPI(lifespan=lifespan(hub))  # Starlette(lifespan=lifespan(hub)) is the same
app.state.hub = hub


def get_hub(request: Request) -> hubsub.Hub:
    hub: hubsub.Hub = request.app.state.hub
    return hub


CurrentHub = Annotated[hubsub.Hub, Depends(get_hub)]


@app.post("/orders/{number}")
async def place(number: str, dish: str, hub: CurrentHub) -> dict[str, int]:
    return {"listeners": hub.publish(("order", number, "placed"), dish)}


@app.post("/reports/{number}")
def write_report(number: str, hub: CurrentHub) -> dict[str, int]:
    # A plain `def` runs in a worker thread, and the hub belongs to the thread of its loop.
    return {"listeners": hub.publish_threadsafe(("report", number), "written").result()}


@hub.on(("order", "+", "placed"))
async def send_receipt(key: hubsub.Key, dish: str) -> None:
    hub.publish(("receipt", key[1]), f"one {dish}")  # runs after the response, and delays nobody


@hub.on(("report", "*"))
def note(key: hubsub.Key, state: str) -> None:
    print(f"report {key[1]} is {state}")


def test_an_order_gets_a_receipt() -> None:
    with Recorder(hub, ("receipt", "*")) as receipts, TestClient(app) as client:
        assert client.post("/orders/41?dish=soup").json() == {"listeners": 1}
        assert client.portal
        client.portal.call(settle, hub)  # the portal calls in the loop of the application
        assert receipts.events == [(("receipt", "41"), "one soup")]
        client.portal.call(hub.publish, ("order", "42", "placed"), "tea")
        client.portal.call(settle, hub)
        assert receipts.messages == ["one soup", "one tea"]


def test_a_plain_endpoint_publishes_from_its_thread() -> None:
    with TestClient(app) as client:
        assert client.post("/reports/7").json() == {"listeners": 1}


if __name__ == "__main__":
    test_an_order_gets_a_receipt()
    test_a_plain_endpoint_publishes_from_its_thread()
    print("both tests pass")

# Output:
# report 7 is written
# both tests pass
