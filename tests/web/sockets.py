"""Clients that speak ASGI themselves: no server, no network, and all that can happen to a line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

Frame = dict[str, Any]


class Closed(Exception):
    """The server has closed the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Socket:
    """A WebSocket client."""

    def __init__(self) -> None:
        self._up: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._down: asyncio.Queue[Any] = asyncio.Queue()
        self._frames: list[Frame] = []
        self.reads = asyncio.Event()
        """While it is not set the client reads nothing, and what is sent waits."""
        self.reads.set()
        self.accepted: str | None = None
        self.sent = 0
        """Frames that the server has sent."""
        self.ids = iter(range(1001, 1_000_000))

    # As ASGI

    async def receive(self) -> dict[str, Any]:
        return await self._up.get()

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.sent += 1
            if not self.reads.is_set():
                await self.reads.wait()
        self._down.put_nowait(message)

    # As a client

    def say(self, type: str, **fields: Any) -> None:
        self.say_text(json.dumps({"type": type, **fields}))

    def say_text(self, text: str) -> None:
        self._up.put_nowait({"type": "websocket.receive", "text": text})

    def say_bytes(self, data: bytes) -> None:
        self._up.put_nowait({"type": "websocket.receive", "bytes": data})

    def leave(self, code: int = 1006) -> None:
        self._up.put_nowait({"type": "websocket.disconnect", "code": code})

    async def hear(self) -> Frame:
        """The next frame that the server sends."""
        while not self._frames:
            message = await asyncio.wait_for(self._down.get(), 5)
            if message["type"] == "websocket.accept":
                self.accepted = message.get("subprotocol")
            elif message["type"] == "websocket.close":
                raise Closed(message["code"], message.get("reason", ""))
            elif message["type"] == "websocket.send":
                self._frames += json.loads(message["text"])
            else:
                raise AssertionError(message)
        return self._frames.pop(0)

    async def hear_all(self) -> list[Frame]:
        """What the server has sent by now, and sends in the next turns."""
        frames = []
        for _ in range(10):
            await asyncio.sleep(0)
        while self._frames or not self._down.empty():
            frames.append(await self.hear())
            for _ in range(3):
                await asyncio.sleep(0)
        return frames

    async def ask(self, type: str, **fields: Any) -> Frame:
        """Send a request, and return what answers it; what comes before waits."""
        id = fields.setdefault("id", next(self.ids))
        self.say(type, **fields)
        before = []
        while True:
            frame = await self.hear()
            if frame.get("type") in ("ok", "error") and frame["id"] == id:
                self._frames[:0] = before
                return frame
            before.append(frame)

    async def messages(self, number: int) -> list[Any]:
        """The data of so many messages."""
        data = []
        while len(data) < number:
            frame = await self.hear()
            if "type" not in frame:
                data.append(frame["data"])
        return data

    async def closed(self) -> Closed:
        """How the server closes the socket; what it sends before is left out."""
        try:
            while True:
                await self.hear()
        except Closed as closed:
            return closed


def scope_of(
    path: str = "/", query: str = "", headers: dict[str, str] | None = None, address: str = "1.2.3.4", **more: Any
) -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": (address, 1234),
        "subprotocols": ["hubsub.v1"],
        "path_params": {},
        "scheme": "ws",
        **more,
    }


@asynccontextmanager
async def connected(app: Any, *, welcomed: bool = True, **scope: Any) -> AsyncIterator[Socket]:
    """A client of an endpoint, which has read its welcome."""
    socket = Socket()
    socket._up.put_nowait({"type": "websocket.connect"})
    task = asyncio.ensure_future(app(scope_of(**scope), socket.receive, socket.send))
    try:
        if welcomed:
            frame = await socket.hear()
            assert frame["type"] == "welcome", frame
            socket.welcome = frame  # type: ignore[attr-defined]
        yield socket
    finally:
        socket.reads.set()
        socket.leave()
        await asyncio.wait_for(task, 5)


class Response:
    """An HTTP request, and what is answered."""

    def __init__(self, app: Callable[..., Awaitable[None]], body: Iterable[bytes], scope: dict[str, Any]) -> None:
        self._chunks = list(body)
        self._gone = asyncio.Event()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        if self._chunks:
            return {"type": "http.request", "body": self._chunks.pop(0), "more_body": bool(self._chunks)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self._begun.set_result(None)
            return
        if not self.reads.is_set():
            await self.reads.wait()
        self._parts.put_nowait(message["body"])
        if not message.get("more_body"):
            self._parts.put_nowait(None)

    async def begun(self) -> Response:
        await asyncio.wait_for(self._begun, 5)
        return self

    async def text(self) -> str:
        """All of it, to the end."""
        parts = []
        while (part := await asyncio.wait_for(self._parts.get(), 5)) is not None:
            parts.append(part)
        return b"".join(parts).decode()

    async def events(self, number: int) -> list[dict[str, str]]:
        """So many server-sent events, as fields."""
        text = ""
        found: list[dict[str, str]] = []
        while len(found) < number:
            part = await asyncio.wait_for(self._parts.get(), 5)
            assert part is not None, "the stream has ended"
            text += part.decode()
            *blocks, text = text.split("\n\n")
            for block in blocks:
                fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
                if "data" in fields:
                    found.append(fields)
        return found

    async def leave(self) -> None:
        self._gone.set()
        self.reads.set()
        await asyncio.wait_for(self.task, 5)


def request(
    app: Any,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    body: bytes | list[bytes] = b"",
    headers: dict[str, str] | None = None,
    address: str = "1.2.3.4",
    **more: Any,
) -> Response:
    scope = {
        **scope_of(path, query, headers, address),
        "type": "http",
        "method": method,
        "raw_path": path.encode(),
        "scheme": "http",
        **more,
    }
    return Response(app, [body] if isinstance(body, bytes) else body, scope)
