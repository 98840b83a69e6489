"""What test_servers.py has every server serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from hubsub import Hub
from hubsub.web import Connection, Refused, endpoint, events, lifespan, publishing, script

hub = Hub()


def identify(connection: Connection) -> str:
    raise Refused(401, "who are you?")


def identify_late(connection: Connection) -> str:
    if connection.token != "right":
        raise Refused(401, "who are you?")
    return "ann"


@asynccontextmanager
async def announced() -> AsyncIterator[None]:
    print("lifespan begins", flush=True)
    yield
    print("lifespan ends", flush=True)


app = Starlette(
    routes=[
        WebSocketRoute("/ws", endpoint(hub, outgoing=["*"], incoming=["*"])),
        WebSocketRoute("/private", endpoint(hub, identify=identify)),
        WebSocketRoute("/token", endpoint(hub, identify=identify_late)),
        Route("/events", events(hub, ["*"])),
        Route("/hubsub.js", script),
        Mount("/publish", publishing(hub, ["*"])),
    ],
    lifespan=lifespan(hub, announced()),
)
