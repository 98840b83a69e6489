"""The same with hubsub."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

from hubsub import Hub
from hubsub.web import lifespan, plain

hub = Hub()


async def chat(websocket):
    await plain(websocket, hub, send="chatroom", receive="chatroom")


# For several processes: lifespan(hub, Bridge(hub, "redis://localhost:6379", both=["chatroom"]))
app = Starlette(routes=[WebSocketRoute("/", chat)], lifespan=lifespan(hub))

with TestClient(app) as client, client.websocket_connect("/") as ann, client.websocket_connect("/") as bob:
    ann.send_text("is there any tea?")
    print("bob reads:", bob.receive_text())
    bob.send_text("just made some")
    print("ann reads:", ann.receive_text(), "|", ann.receive_text())

# Output:
# bob reads: is there any tea?
# ann reads: is there any tea? | just made some
