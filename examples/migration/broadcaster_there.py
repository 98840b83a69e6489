"""With broadcaster: a chat room, in which each socket gets what any of them sends."""

from contextlib import asynccontextmanager

import anyio
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

broadcast = Broadcast("memory://")  # "redis://localhost:6379" for several processes


async def chat(websocket):
    await websocket.accept()
    async with anyio.create_task_group() as group:

        async def send():
            async with broadcast.subscribe("chatroom") as subscriber:
                async for event in subscriber:
                    await websocket.send_text(event.message)

        group.start_soon(send)
        async for text in websocket.iter_text():
            await broadcast.publish("chatroom", text)
        group.cancel_scope.cancel()


@asynccontextmanager
async def lifespan(app):
    async with broadcast:
        yield


app = Starlette(routes=[WebSocketRoute("/", chat)], lifespan=lifespan)

with TestClient(app) as client, client.websocket_connect("/") as ann, client.websocket_connect("/") as bob:
    ann.send_text("is there any tea?")
    print("bob reads:", bob.receive_text())
    bob.send_text("just made some")
    print("ann reads:", ann.receive_text(), "|", ann.receive_text())

# Output:
# bob reads: is there any tea?
# ann reads: is there any tea? | just made some
