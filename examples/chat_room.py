"""Chat rooms in the browser: what came before, what comes, and the same for any client that speaks `hubsub.v1`.

`python examples/chat_room.py --serve` serves the page at http://127.0.0.1:8000/#lobby; open it twice. Without it two
clients talk to each other. Needs `starlette`, `uvicorn` and `websockets`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import ClientConnection

from hubsub import Hub
from hubsub.web import endpoint, lifespan, listen, script

ROOMS = [("room", "*")]
PAGE = Path(__file__).with_suffix(".html")

hub = Hub()
hub.retain(ROOMS[0], limit=20)


async def page(request: Request) -> FileResponse:
    return FileResponse(PAGE)


app = Starlette(
    routes=[
        Route("/", page),
        Route("/hubsub.js", script),
        WebSocketRoute("/ws", endpoint(hub, outgoing=ROOMS, incoming=ROOMS)),
    ],
    lifespan=lifespan(hub),
)


async def say(client: ClientConnection, **frame: Any) -> None:
    await client.send(json.dumps(frame))


async def hear(client: ClientConnection) -> AsyncIterator[Any]:
    """Yield the messages that a client gets; answers are left out."""
    async for frames in client:
        for frame in json.loads(frames):
            if "type" not in frame:
                yield frame


async def main() -> None:
    with listen() as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}/ws"

        async with websockets.connect(url) as ann:
            await say(ann, type="publish", id=1, key=["room", "lobby"], data={"name": "ann", "text": "anybody there?"})
            await say(ann, type="subscribe", id=2, patterns=[["room", "lobby"]])
            async with websockets.connect(url) as bob:
                await say(bob, type="subscribe", id=1, patterns=[["room", "*"]], history=10)
                async for frame in hear(bob):
                    print("bob reads:", frame["data"]["text"])
                    break
                await say(bob, type="publish", id=2, key=["room", "lobby"], data={"name": "bob", "text": "yes, me"})
                async for frame in hear(ann):
                    print("ann reads:", frame["data"]["text"])
                    break

        server.should_exit = True
        await serving


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        uvicorn.run(app, port=8000)
    else:
        asyncio.run(main())

# Output:
# bob reads: anybody there?
# ann reads: yes, me
