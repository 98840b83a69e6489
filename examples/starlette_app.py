"""A web application with a hub at module level: handlers publish, async listeners do what no client should wait for.

To serve it: `pip install starlette uvicorn`, then `uvicorn starlette_app:app`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import hubsub

hub = hubsub.Hub()


@hub.on(("order", "+", "placed"))
async def send_receipt(key: hubsub.Key, order: dict[str, str]) -> None:
    await asyncio.sleep(0.01)  # the mail server takes its time
    print(f"receipt for order {key[1]}: {order['dish']}")


async def place(request: Request) -> JSONResponse:
    listeners = hub.publish(("order", request.path_params["number"], "placed"), await request.json())
    return JSONResponse({"listeners": listeners})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await hub.start()
    yield
    await hub.close()  # the receipts that are still to be sent are sent


app = Starlette(routes=[Route("/order/{number}", place, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    # Each client runs the application on a loop of its own; the hub comes along, with its listeners.
    for number in (41, 42):
        with TestClient(app) as client:
            reply = client.post(f"/order/{number}", json={"dish": "soup"})
        print(reply.json())

# Output:
# receipt for order 41: soup
# {'listeners': 1}
# receipt for order 42: soup
# {'listeners': 1}
