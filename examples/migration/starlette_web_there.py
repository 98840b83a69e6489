"""With the channels of starlette_web: rooms by the path."""

import os
from contextlib import asynccontextmanager

os.environ["STARLETTE_SETTINGS_MODULE"] = "starlette_web.common.conf.global_settings"

import anyio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette_web.common.channels.base import Channel
from starlette_web.common.channels.layers.local_memory import InMemoryChannelLayer

channels = Channel(InMemoryChannelLayer())


async def chat(websocket):
    await websocket.accept()
    group = f"chat_{websocket.path_params['room']}"
    async with anyio.create_task_group() as tasks:

        async def send():
            async with channels.subscribe(group) as subscriber:
                async for event in subscriber:
                    await websocket.send_text(event.message)

        tasks.start_soon(send)
        async for text in websocket.iter_text():
            await channels.publish(group, text)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def lifespan(app):
    async with channels:
        yield


app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat)], lifespan=lifespan)

with (
    TestClient(app) as client,
    client.websocket_connect("/chat/lobby") as ann,
    client.websocket_connect("/chat/lobby") as bob,
):
    ann.send_text("is there any tea?")
    print("bob reads:", bob.receive_text())

# Output:
# bob reads: is there any tea?
