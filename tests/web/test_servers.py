"""The same application under every server: what holds everywhere, and what docs/web/servers.md says of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
import websockets

from hubsub import Hub
from hubsub.testing.conformance import until
from hubsub.web import Limits, endpoint, listen

from .browsers import ROOT
from .test_frameworks import hear, say

pytestmark = pytest.mark.once

APP = "web.served_app:app"
UVICORN = ["uvicorn", APP, "--log-level", "warning", "--port", "{port}", "--ws"]
HYPERCORN = ["hypercorn", APP, "--bind", "127.0.0.1:{port}", "--workers"]
COMMANDS = {
    "uvicorn-websockets-sansio": [*UVICORN, "websockets-sansio"],
    "uvicorn-websockets": [*UVICORN, "websockets"],
    "uvicorn-wsproto": [*UVICORN, "wsproto"],
    "hypercorn": [*HYPERCORN, "0"],
    "hypercorn-worker": [*HYPERCORN, "1"],
    "granian": ["granian", "--interface", "asgi", APP, "--port", "{port}"],
}


class Server:
    """A server in a process of its own."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.address = address
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)


@asynccontextmanager
async def running(name: str, folder: Path) -> AsyncIterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    command = [sys.executable, "-W", "ignore", "-m", *(part.format(port=port) for part in COMMANDS[name])]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is there at once
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
        )
    server = Server(f"127.0.0.1:{port}", process, log)
    try:
        async with httpx2.AsyncClient() as http:
            while True:
                assert process.poll() is None, server.log
                with contextlib.suppress(httpx2.HTTPError):
                    assert (await http.get(f"http://{server.address}/hubsub.js")).status_code == 200
                    break
                await asyncio.sleep(0.05)
        yield server
    finally:
        # Those of its workers, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def rest_of(stream: Any) -> str:
    """What a stream brings until it ends; "cut" if it does not end as it should."""
    text = ""
    try:
        async with asyncio.timeout(30):
            async for part in stream.aiter_text():
                text += part
    except httpx2.HTTPError:
        return "cut"
    return text


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_server_carries_all_of_it_and_says_that_it_ends(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path) as server, contextlib.AsyncExitStack() as stack:
        ws, http = f"ws://{server.address}", await stack.enter_async_context(httpx2.AsyncClient(timeout=30))

        # Refused before the upgrade: a status. After `hello`: a close code.
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{ws}/private")
        assert refused.value.response.status_code == 401
        assert bytes(refused.value.response.body) == b"who are you?"
        async with websockets.connect(f"{ws}/token") as client:
            await say(client, "hello", token="wrong")
            await asyncio.wait_for(client.wait_closed(), 10)
            assert client.close_code == 4401
        async with websockets.connect(f"{ws}/token") as client:
            await say(client, "hello", token="right")
            assert (await hear(client, "welcome"))["version"] == 1

        # A socket, a stream, a post.
        clients = [
            await stack.enter_async_context(websockets.connect(f"{ws}/ws", subprotocols=["hubsub.v1"]))  # type: ignore[list-item]
            for _ in range(5)
        ]
        streams = [
            await stack.enter_async_context(http.stream("GET", f"http://{server.address}/events")) for _ in range(5)
        ]
        for client in clients:
            assert client.subprotocol == "hubsub.v1"
            await say(client, "subscribe", id=1, patterns=[["room", "*"]])
            await hear(client, "ok")
        answer = await http.post(f"http://{server.address}/publish/room/1", json={"x": "é"})
        assert (answer.status_code, answer.json()) == (202, {"count": 10})
        for client in clients:
            assert (await hear(client, None))["data"] == {"x": "é"}
        large = await http.post(f"http://{server.address}/publish/room/1", json="x" * 100_000)
        assert large.status_code == 413

        # A frame that is too large ends the connection, fragments that never end do.
        async with websockets.connect(f"{ws}/ws", max_size=None) as client:
            await client.send("x" * 100_000)
            await asyncio.wait_for(client.wait_closed(), 10)
            assert client.close_code == 1009

        server.terminate()
        for client in clients:
            await asyncio.wait_for(client.wait_closed(), 30)
        texts = [await rest_of(stream) for stream in streams]
        codes = {client.close_code for client in clients}
        if name == "hypercorn-worker":
            # The signal does not reach the worker: it cuts everybody after its graceful timeout.
            assert (codes, set(texts)) == ({1011}, {"cut"})
        elif name == "granian":
            # On a busy machine its process may end before all is sent, and before the lifespan has ended.
            assert codes <= {1012, 1006}
        else:
            assert codes == {1012}
            assert all("event: open" in text and '"key":["room","1"]' in text for text in texts)
        status = await server.ended()
        if name != "granian":
            assert status == (-signal.SIGTERM if name.startswith("uvicorn") else 0)
            assert "lifespan ends" in server.log


async def test_a_hundred_sockets_and_a_hundred_streams_end_with_the_server(tmp_path: Path) -> None:
    async with running("uvicorn-websockets-sansio", tmp_path) as server, contextlib.AsyncExitStack() as stack:
        connections = httpx2.Limits(max_connections=200)
        http = await stack.enter_async_context(httpx2.AsyncClient(limits=connections, timeout=30))
        clients = [await stack.enter_async_context(websockets.connect(f"ws://{server.address}/ws")) for _ in range(100)]
        streams = [
            await stack.enter_async_context(http.stream("GET", f"http://{server.address}/events")) for _ in range(100)
        ]
        server.terminate()
        for client in clients:
            await asyncio.wait_for(client.wait_closed(), 30)
            assert client.close_code == 1012
        for stream in streams:
            assert "event: open" in await rest_of(stream)
        assert await server.ended() == -signal.SIGTERM
        assert "lifespan ends" in server.log


class Deaf:
    """A WebSocket client that subscribes, and then reads nothing."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while b"\r\n\r\n" not in self.socket.recv(4096, socket.MSG_PEEK):
            pass
        frame = json.dumps({"type": "subscribe", "id": 1, "patterns": [["a"]]}).encode()
        self.socket.sendall(bytes([0x81, 0x80 | len(frame)]) + bytes(4) + frame)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_a_client_that_stops_reading_is_gone_only_where_the_socket_is_ours() -> None:
    """The server keeps a connection of which the application has long since returned, unless the kernel ends it."""
    with contextlib.ExitStack() as stack:
        ordinary = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(listen(unanswered=1))
        servers, tasks = [], []
        for listening in (ordinary, ours):
            hub = Hub()
            app = endpoint(hub, outgoing=["a"], limits=Limits(not_reading_seconds=0.5, queue_messages=10))
            config = uvicorn.Config(app, ws="websockets-sansio", log_level="critical", timeout_graceful_shutdown=1)
            servers.append(uvicorn.Server(config))
            tasks.append(asyncio.ensure_future(servers[-1].serve(sockets=[listening])))
            await until(lambda: servers[-1].started, "the server to start")
            client = await asyncio.to_thread(Deaf, listening.getsockname())
            stack.callback(client.socket.close)
            await until(app.feed.frames.has_subscribers, "it to subscribe")
            while len(app.connections):
                hub.publish("a", "x" * 60_000)
                await asyncio.sleep(0.001)
        await until(lambda: not servers[1].server_state.connections, "the kernel to end the connection")
        assert len(servers[0].server_state.connections) == 1
        for server, task in zip(servers, tasks, strict=True):
            server.should_exit = True
            await asyncio.wait_for(task, 30)
