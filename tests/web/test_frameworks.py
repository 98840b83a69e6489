"""Endpoints in Starlette and under a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import httpx2
import pytest
import websockets
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from hubsub import Hub
from hubsub.testing.conformance import until
from hubsub.web import Connection, Limits, Refused, endpoint, events, lifespan, listen, plain, publishing, serve

from .serving import served


def application(hub: Hub) -> Starlette:
    return Starlette(
        routes=[
            WebSocketRoute("/ws", endpoint(hub, outgoing=["*"], incoming=["*"])),
            Route("/events", events(hub, ["*"])),
            Mount("/publish", publishing(hub, ["*"])),
        ],
        lifespan=lifespan(hub),
    )


async def say(client: Any, type: str, **fields: Any) -> None:
    await client.send(json.dumps({"type": type, **fields}))


async def hear(client: Any, wanted: str | None) -> Any:
    """The next frame of a type; None is a message."""
    async with asyncio.timeout(10):
        while True:
            for frame in json.loads(await client.recv()):
                if frame.get("type") == wanted:
                    return frame


@pytest.mark.once
@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_a_real_server_carries_all_three(ws: str) -> None:
    hub = Hub()
    async with (
        served(application(hub), ws) as address,
        httpx2.AsyncClient() as http,
        websockets.connect(f"ws://{address}/ws") as client,
        http.stream("GET", f"http://{address}/events?pattern=room/*") as stream,
    ):
        await say(client, "subscribe", id=1, patterns=[["room", "*"]])
        await hear(client, "ok")
        lines = stream.aiter_lines()
        await anext(lines)
        answer = await http.post(f"http://{address}/publish/room/1", json={"x": "é"})
        assert (answer.status_code, answer.json()) == (202, {"count": 2})
        assert (await hear(client, None))["data"] == {"x": "é"}
        async with asyncio.timeout(10):
            async for line in lines:
                if line.startswith("data: ") and "room" in line:
                    assert json.loads(line[6:])["data"] == {"x": "é"}
                    break


@pytest.mark.once
async def test_a_refusal_is_an_http_status_where_the_server_can() -> None:
    def identify(connection: Connection) -> str:
        raise Refused(401, "who are you?")

    hub = Hub()
    async with served(endpoint(hub, identify=identify)) as address:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://{address}/")
        assert refused.value.response.status_code == 401


@pytest.mark.once
async def test_a_client_that_stops_reading_slows_nobody_and_is_disconnected() -> None:
    hub = Hub()
    limits = Limits(not_reading_seconds=0.5, queue_messages=50)
    app = endpoint(hub, outgoing=["*"], limits=limits)
    async with served(app) as address, websockets.connect(f"ws://{address}/") as quick:
        host, port = address.split(":")
        await say(quick, "subscribe", id=1, patterns=[["a"]])
        await hear(quick, "ok")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        frame = json.dumps({"type": "subscribe", "id": 1, "patterns": [["a"]]}).encode()
        mask = bytes(4)
        writer.write(bytes([0x81, 0x80 | len(frame)]) + mask + frame)
        await until(lambda: len(app.connections) == 2, "both to be there")
        transport: Any = writer.transport
        transport.pause_reading()
        for number in range(400):
            hub.publish("a", f"{number} " + "x" * 30_000)
            assert (await hear(quick, None))["data"].startswith(f"{number} ")
        await until(lambda: len(app.connections) == 1, "the one that does not read to be disconnected")
        writer.close()


def test_a_listening_socket_gives_up_on_the_dead() -> None:
    with listen(unanswered=3) as listening:
        assert listening.getsockname()[1] > 0
        if sys.platform == "linux":
            assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
        with pytest.raises(OSError):  # noqa: PT011 - the address is in use
            listen(port=listening.getsockname()[1])


# From routes of one's own


def test_dependencies_of_a_framework_may_say_who_it_is() -> None:
    hub = Hub()
    app = endpoint(hub, outgoing=[("user", "{identity}")])

    async def route(websocket: WebSocket) -> None:
        await serve(websocket, app, identity=websocket.path_params["name"])

    async def accepted(websocket: WebSocket) -> None:
        await websocket.accept()
        await serve(websocket, app, identity="bob")

    with TestClient(
        Starlette(routes=[WebSocketRoute("/ws/{name}", route), WebSocketRoute("/open", accepted)])
    ) as client:
        for path, name in (("/ws/ann", "ann"), ("/open", "bob")):
            with client.websocket_connect(path) as socket_:
                assert json.loads(socket_.receive_text())[0]["type"] == "welcome"
                socket_.send_json({"type": "subscribe", "id": 1, "patterns": [["user", name]]})
                assert json.loads(socket_.receive_text())[0]["type"] == "ok"
                socket_.send_json({"type": "subscribe", "id": 2, "patterns": [["user", "eve"]]})
                assert json.loads(socket_.receive_text())[0]["code"] == "forbidden"


def rooms(hub: Hub, **options: Any) -> Starlette:
    async def chat(websocket: WebSocket) -> None:
        await plain(websocket, hub, send=("chat", "{room}"), receive=("chat", "{room}"), **options)

    return Starlette(routes=[WebSocketRoute("/chat/{room}", chat)])


def test_a_plain_socket_is_one_payload_a_frame() -> None:
    hub = Hub()
    with TestClient(rooms(hub)) as client:
        with client.websocket_connect("/chat/a") as one, client.websocket_connect("/chat/b") as other:
            one.send_text("hello")
            assert one.receive_text() == "hello"
            other.send_text("there")
            assert other.receive_text() == "there"
        assert not hub.patterns()


def test_a_plain_socket_works_from_a_class_of_the_framework() -> None:
    hub = Hub()

    class Chat(WebSocketEndpoint):
        async def dispatch(self) -> None:
            websocket = WebSocket(self.scope, self.receive, self.send)
            await plain(websocket, hub, send=("chat", "{room}"), receive=("chat", "{room}"))

    app = Starlette(routes=[WebSocketRoute("/{room}", Chat)], lifespan=lifespan(hub))
    with TestClient(app) as http, http.websocket_connect("/1") as one, http.websocket_connect("/1") as other:
        one.send_text("hello")
        assert [each.receive_text() for each in (one, other)] == ["hello"] * 2


def test_a_plain_socket_may_carry_bytes_json_and_history() -> None:
    hub = Hub()
    hub.retain(("chat", "*"), limit=5)
    with TestClient(rooms(hub, codec=bytes, history=5)) as client:
        with client.websocket_connect("/chat/a") as one:
            one.send_bytes(b"\xff")
            assert one.receive_bytes() == b"\xff"
        with client.websocket_connect("/chat/a") as late:
            assert late.receive_bytes() == b"\xff"
    hub = Hub()
    with TestClient(rooms(hub, codec="json")) as client, client.websocket_connect("/chat/a") as one:
        one.send_text('{"x": [1]}')
        assert json.loads(one.receive_text()) == {"x": [1]}
        one.send_text("{")
        with pytest.raises(WebSocketDisconnect):
            one.receive_text()


def test_a_wildcard_in_a_path_is_no_wildcard() -> None:
    hub = Hub()
    with (
        TestClient(rooms(hub)) as client,
        pytest.raises(ValueError, match="cannot be a part of a key"),
        client.websocket_connect("/chat/*") as one,
    ):
        one.receive_text()
    assert not hub.patterns()
