"""The demo's page: the figures in the browser, by the WebSocket endpoint of `hubsub.web`.

It is a plain ASGI application of three addresses: the page, its module `hubsub.js`, and the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import websockets as _websockets  # noqa: F401 - uvicorn has no WebSockets of its own

from hubsub import Hub
from hubsub.web import Limits, endpoint, listen, script

PAGE = Path(__file__).with_name("demo.html")
SHOWN = [("host", "*"), ("rate", "*"), ("alert", "*"), ("peer", "*"), ("bridge", "*")]
# What the page draws begins with the last minute, everything else with its latest figure.
DRAWN = [("host", "cpu", "percent"), ("host", "memory", "percent"), ("rate", "*")]
DRAWN_MESSAGES, ALERTS = 300, 20
# A page that begins gets the whole of that at once.
LIMITS = Limits(queue_messages=50_000, queue_bytes=16 * 1024 * 1024)
# The figures are those of this machine: a page of another host that has its name resolved to this one gets nothing.
HOSTS = {"127.0.0.1", "localhost", "[::1]"}
# Seconds in which browsers may say goodbye.
LEAVE_WITHIN = 2


class Server(uvicorn.Server):
    """A server in a program that handles signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Site:
    """The page of a hub, as an ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self.endpoint = endpoint(hub, outgoing=SHOWN, limits=LIMITS)
        hub.retain(SHOWN, max_keys=1000)
        hub.retain(DRAWN, DRAWN_MESSAGES, max_age=70.0)
        hub.retain(("alert", "*"), ALERTS)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or WebSocket, as ASGI says."""
        if scope["type"] == "http":
            if not _is_local(scope):
                await _answer(send, 403, b"text/plain", b"this page is for this machine only")
            elif scope["path"] == "/":
                await _answer(send, 200, b"text/html; charset=utf-8", PAGE.read_bytes())
            elif scope["path"] == "/hubsub.js":
                await script(scope, receive, send)
            else:
                await _answer(send, 404, b"text/plain", b"there is only one page: /")
        elif scope["path"] == "/ws" and _is_local(scope):
            await self.endpoint(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 4403})


def _is_local(scope: Mapping[str, Any]) -> bool:
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host) in HOSTS


async def _answer(send: Any, status: int, kind: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-cache"),
        (
            b"content-security-policy",
            b"default-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'",
        ),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Page:
    """Where browsers find the figures.

    Args:
        port: A port of this machine, 0 for a free one.

    Raises:
        OSError: The port is in use, or may not be had.
    """

    def __init__(self, port: int) -> None:
        self._listening = listen("127.0.0.1", port)
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    @asynccontextmanager
    async def served(self, hub: Hub) -> AsyncIterator[None]:
        """Serve it while the block runs; browsers that are connected are disconnected when it ends."""
        site = Site(hub)
        config = uvicorn.Config(site, lifespan="off", log_config=None, timeout_graceful_shutdown=LEAVE_WITHIN)
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[self._listening]), name="the demo's page")
        try:
            yield
        finally:
            await site.endpoint.close()
            server.should_exit = True
            await serving
