"""The same with hubsub."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

from hubsub import Hub
from hubsub.web import lifespan, plain

hub = Hub()


async def chat(websocket):
    await plain(websocket, hub, send=("chat", "{room}"), receive=("chat", "{room}"))


app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat)], lifespan=lifespan(hub))

with (
    TestClient(app) as client,
    client.websocket_connect("/chat/lobby") as ann,
    client.websocket_connect("/chat/lobby") as bob,
):
    ann.send_text("is there any tea?")
    print("bob reads:", bob.receive_text())

# Output:
# bob reads: is there any tea?
