"""The same with hubsub."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

from hubsub import Hub
from hubsub.web import lifespan, plain

hub = Hub()


async def chat(websocket):
    await plain(websocket, hub, send=("chat", "{room}"), receive=("chat", "{room}"), codec="json")


app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat)], lifespan=lifespan(hub))


def announce(room, text):
    """Called by a sync view."""
    hub.publish_threadsafe(("chat", room), {"text": text})


with (
    TestClient(app) as client,
    client.websocket_connect("/chat/lobby") as ann,
    client.websocket_connect("/chat/lobby") as bob,
    client.websocket_connect("/chat/attic") as eve,
):
    ann.send_json({"text": "hello"})
    print("bob reads:", bob.receive_json())
    announce("attic", "tea is ready")  # from any thread
    print("eve reads:", eve.receive_json())

# Output:
# bob reads: {'text': 'hello'}
# eve reads: {'text': 'tea is ready'}
