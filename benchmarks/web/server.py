"""The server, in the environment that has the peers: the same messages to WebSockets and streams in several ways.

`python -m benchmarks.web.server websockets-sansio` prints its port. `POST /run/WAY?n=100` publishes in a way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from broadcaster import Broadcast
from fastapi import FastAPI
from fastapi_websocket_pubsub import PubSubEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from hubsub import Hub
from hubsub.codec import JsonCodec
from hubsub.web import Limits, endpoint, events, lifespan, listen

ROOMS = [("room", "*")]
KEY = ("room", "1")
# All clients have one address, and those of a benchmark say nothing while others are measured.
LIMITS = Limits(connections_per_address=0, silent_seconds=3600, ping_seconds=3600)


class CountingCodec(JsonCodec):
    """JSON, and how often it was made."""

    encoded = 0

    def encode(self, message: Any) -> bytes:
        CountingCodec.encoded += 1
        return super().encode(message)


def message(number: int, size: int) -> dict[str, Any]:
    text = "hello, this is a chat message of some length"
    return {"n": number, "text": text.ljust(size, "."), "user": "alice", "sent": time.monotonic()}


hub, hub_of_streams = Hub(), Hub()
sockets = endpoint(hub, outgoing=ROOMS, codec=CountingCodec(), limits=LIMITS)
streams = events(hub_of_streams, ROOMS, limits=LIMITS)


async def publish_hubsub(content: dict[str, Any]) -> None:
    hub.publish(KEY, content)


async def publish_hubsub_stream(content: dict[str, Any]) -> None:
    hub_of_streams.publish(KEY, content)


# By hand: a loop over sockets, and a queue for each stream. The text is made once for all.

by_hand: dict[WebSocket, None] = {}
queues: dict[asyncio.Queue[str], None] = {}


async def bare(websocket: WebSocket) -> None:
    await websocket.accept()
    by_hand[websocket] = None
    try:
        while True:
            await websocket.receive_text()
            await websocket.send_text('[{"type":"ok"}]')
    except WebSocketDisconnect:
        del by_hand[websocket]


async def publish_bare(content: dict[str, Any]) -> None:
    text = json.dumps(content)
    for websocket in list(by_hand):
        with suppress(WebSocketDisconnect):
            await websocket.send_text(text)


async def bare_stream(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        queues[queue] = None
        try:
            yield "event: open\n\n"
            while True:
                yield f"data: {await queue.get()}\n\n"
        finally:
            del queues[queue]

    return StreamingResponse(lines(), media_type="text/event-stream")


async def publish_bare_stream(content: dict[str, Any]) -> None:
    text = json.dumps(content)
    for queue in list(queues):
        queue.put_nowait(text)


# broadcaster, as its own example with Starlette does it: a task that reads, and one that sends.

broadcast = Broadcast("memory://")


async def with_broadcaster(websocket: WebSocket) -> None:
    await websocket.accept()
    async with broadcast.subscribe(channel="room") as subscriber:

        async def send() -> None:
            async for event in subscriber:
                await websocket.send_text(event.message)

        sending = asyncio.create_task(send())
        try:
            while True:
                await websocket.receive_text()
                await websocket.send_text('[{"type":"ok"}]')
        except WebSocketDisconnect:
            sending.cancel()


async def publish_broadcaster(content: dict[str, Any]) -> None:
    await broadcast.publish("room", json.dumps(content))


pubsub = PubSubEndpoint()


async def publish_fwp(content: dict[str, Any]) -> None:
    await pubsub.publish(["room"], content)


WAYS: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
    "hubsub": publish_hubsub,
    "hubsub_stream": publish_hubsub_stream,
    "bare": publish_bare,
    "bare_stream": publish_bare_stream,
    "broadcaster": publish_broadcaster,
    "fwp": publish_fwp,
}


async def run(request: Request) -> JSONResponse:
    """Publish `n` messages of at least `size` characters, `pause` seconds apart; return when that began."""
    publish = WAYS[request.path_params["way"]]
    query = request.query_params
    number, size, pause = int(query.get("n", 1)), int(query.get("size", 0)), float(query.get("pause", 0))
    encoded = CountingCodec.encoded
    began = time.monotonic()
    for index in range(number):
        await publish(message(index, size))
        if pause:
            await asyncio.sleep(pause)
    return JSONResponse({"began": began, "encoded": CountingCodec.encoded - encoded})


async def longest_pause(request: Request) -> JSONResponse:
    """Publish one message; return the longest processor time of one turn of the loop until it has gone out."""
    publish = WAYS[request.path_params["way"]]
    gc.collect()
    longest, before = 0.0, time.thread_time()
    task: asyncio.Task[None] | None = None
    quiet = 0
    for turn in range(100_000):
        await asyncio.sleep(0)
        now = time.thread_time()
        longest = max(longest, now - before) if turn > 10 else 0.0
        quiet = quiet + 1 if now - before < 0.001 else 0
        before = now
        if turn == 10:
            task = asyncio.ensure_future(publish(message(0, 0)))
            quiet = 0
        if task is not None and task.done() and quiet > 200:
            break
    return JSONResponse(longest)


def resident_memory() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def state(request: Request) -> JSONResponse:
    """Resident memory, and how many are connected."""
    resident = resident_memory()
    connected = {"hubsub": len(sockets.connections), "bare": len(by_hand), "hubsub_stream": len(streams.connections)}
    return JSONResponse({"resident": resident, "connected": connected})


async def ping(request: Request) -> JSONResponse:
    return JSONResponse(None)


@asynccontextmanager
async def life(app: Any) -> AsyncIterator[None]:
    # Whoever has started this is gone, however it ended.
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 0)
    async with broadcast, lifespan(hub, hub_of_streams)(app):
        yield


app = FastAPI(
    lifespan=life,
    routes=[
        WebSocketRoute("/hubsub", sockets),
        WebSocketRoute("/bare", bare),
        WebSocketRoute("/broadcaster", with_broadcaster),
        Route("/hubsub_stream", streams),
        Route("/bare_stream", bare_stream),
        Route("/run/{way}", run, methods=["POST"]),
        Route("/pause/{way}", longest_pause, methods=["POST"]),
        Route("/state", state),
        Route("/ping", ping),
    ],
)
pubsub.register_route(app, path="/fwp")


def main() -> None:
    logging.disable(logging.WARNING)
    with listen(backlog=4096) as listening:
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app, ws=sys.argv[1], log_level="critical", access_log=False, ws_ping_interval=None, loop="asyncio"
        )
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
