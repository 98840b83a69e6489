"""Whatever a server sends, a client has an error, comes back after a pause, and works as soon as the server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from hubsub import Bridge, Hub, Key
from hubsub.bridges.websocket import WebSocketAdapter
from hubsub.bridges.websocket.frames import frames_of, received_of
from hubsub.testing.conformance import until

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]
ROOM = Key("room", "1")
WELCOME: dict[str, Any] = {"type": "welcome", "version": 1, "connection": "c", "ping": 25, "at": {"o": 1}, "limits": {}}
Serve = Callable[[ServerConnection], Awaitable[None]]


async def behave(socket: ServerConnection, *, resumed: bool = True) -> None:
    """Speak the protocol as an endpoint does, as far as these tests need it."""
    async for text in socket:
        for frame in json.loads(text):
            kind = frame["type"]
            if kind == "hello":
                answer = {"type": "ok", "id": 0, "at": {"o": 1}, "resumed": resumed, "replayed": 0}
                await socket.send(json.dumps([WELCOME, answer]))
            elif kind == "ping":
                await socket.send('[{"type": "pong"}]')
            elif "id" in frame:
                await socket.send(json.dumps([{"type": "ok", "id": frame["id"], "at": {"o": 1}}]))
                if kind == "publish":
                    await socket.send(json.dumps([{"key": frame["key"], "data": frame["data"], "at": "o:2"}]))


@asynccontextmanager
async def server(hostile: Serve, times: int = 2) -> AsyncIterator[str]:
    """A server that is hostile so many times, and then behaves."""
    left = times

    async def follow(socket: ServerConnection) -> None:
        nonlocal left
        left -= 1
        await (hostile(socket) if left >= 0 else behave(socket))

    async with serve(follow, "127.0.0.1", 0, max_size=None, close_timeout=0.1) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[tuple[Hub, Bridge, list[Any]]]:
    adapter = WebSocketAdapter(url, max_size=1 << 20, **options)
    async with Hub() as hub, Bridge(hub, adapter, both=[("room", "*")], silence=0.5) as bridge:
        messages: list[Any] = []
        hub.add_listener(("room", "*"), lambda key, message: messages.append(message))
        yield hub, bridge, messages


async def works(hub: Hub, bridge: Bridge, messages: list[Any]) -> None:
    """The client is up, and carries messages in both directions."""
    await bridge.ready(60)
    await hub.publish_confirmed(ROOM, "mine", timeout=30)
    await until(lambda: "mine" in messages)


def says(*texts: str | bytes) -> Serve:
    """A server that says these things after a welcome, and stays."""

    async def follow(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps([WELCOME, {"type": "ok", "id": 0, "at": {"o": 1}}]))
        for text in texts:
            await socket.send(text)
        await socket.wait_closed()

    return follow


async def silent(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def endless(socket: ServerConnection) -> None:
    """One message in more fragments than anybody could keep."""

    async def fragments() -> AsyncIterator[str]:
        while True:
            yield "x" * 10_000

    await socket.recv()
    await socket.send(fragments())


async def half(socket: ServerConnection) -> None:
    """The beginning of a frame, and the end of the connection."""
    socket.transport.write(b"\x81\x7e\xff\xff[")
    await asyncio.sleep(0)
    socket.transport.abort()


async def noise(socket: ServerConnection) -> None:
    """What is no frame at all."""
    socket.transport.write(bytes(range(256)) * 16)
    await socket.wait_closed()


HOSTILE: dict[str, Serve] = {
    "no JSON": says("what?"),
    "no array": says('{"type": "ping"}'),
    "no objects": says("[1, null]"),
    "deep": says("[" * 100_000),
    "deep data": says('[{"key": ["room", "1"], "data": ' + "[" * 100_000 + "]" * 100_000 + "}]"),
    "NaN": says('[{"key": ["room", "1"], "data": NaN}]'),
    "other types": says('[{"key": "room", "data": 1}]'),
    "a name twice": says('[{"type": "ok", "type": "ok", "id": {}}]'),
    "binary": says(b"[]"),
    "huge": says('[{"key": ["room", "1"], "data": "' + "x" * (2 << 20) + '"}]'),
    "an answer to nothing": says('[{"type": "ok", "id": 77}]'),
    "a second welcome": says(json.dumps([WELCOME])),
    "a second greeting": says('[{"type": "ok", "id": 0}]'),
    "an error for nobody": says(
        '[{"type": "error", "id": null, "code": "malformed", "message": "%s"}]' % ("x" * 10_000)
    ),
    "silence": silent,
    "endless": endless,
    "half a frame": half,
    "noise": noise,
}


@pytest.mark.parametrize(
    "name",
    # Silence is waited for twice as long as while it is connected.
    [pytest.param(name, marks=[pytest.mark.long] if name == "silence" else []) for name in HOSTILE],
)
async def test_whatever_a_server_sends_costs_a_connection_and_no_more(name: str) -> None:
    async with server(HOSTILE[name]) as url, client(url) as (hub, bridge, messages):
        await works(hub, bridge, messages)
        assert bridge.health().state == "up"
        assert isinstance(bridge.health().last_error, ConnectionError)
        assert len(str(bridge.health().last_error)) < 1000


HARMLESS = {
    "a key without parts": [{"key": [], "data": 1, "at": "o:5"}],
    "a key with wildcards": [{"key": ["room", "*"], "data": 1, "at": "o:5"}],
    "the hub's own": [{"key": ["Hub", "reply", "x"], "data": 1}, {"key": ["Hub", "gap"], "data": {}}],
    "no base64": [{"key": ["room", "1"], "data_base64": "$$$"}],
    "half of a pair": '[{"key": ["room", "1"], "data": "\\ud800"}]',
    "another type": [{"type": "from the future"}],
    "no position": [{"key": ["room", "9"], "data": 1, "at": "o:-1"}, {"key": ["room", "9"], "data": 1, "at": ":"}],
    "a time that cannot be": [{"key": ["room", "9"], "data": 1, "time": 1e300, "at": "p:1"}],
    "a name that cannot be": [{"key": ["room", "9"], "data": 1, "headers": {"hubsub": '{"id": 5}'}}],
    "a name with a reply": [
        {
            "key": ["room", "9"],
            "data": 1,
            "headers": {"hubsub": '{"id":"1","source":"s","replyto":"admin","correlation":"c"}'},
        }
    ],
    "a gap of nothing": [{"type": "gap", "of": 9, "reason": "r" * 10_000, "count": -1, "keys": [[]]}],
    "a request of no key": [{"type": "request", "id": 1, "key": [], "data": 1}],
    "a pong too many": [{"type": "pong"}] * 100,
    "many origins": [{"key": ["room", "9"], "data": 1, "at": f"o{number}:1"} for number in range(5000)],
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_one_message_harms_no_other(name: str) -> None:
    harmless = HARMLESS[name]
    text = harmless if isinstance(harmless, str) else json.dumps(harmless)

    async def follow(socket: ServerConnection) -> None:
        await socket.send(json.dumps([WELCOME]))
        await socket.recv()
        await socket.send(json.dumps([{"type": "ok", "id": 0, "at": {"o": 1}}]))
        await socket.send(text)
        await behave(socket)

    async with server(follow, times=1) as url, client(url) as (hub, bridge, messages):
        await works(hub, bridge, messages)
        assert bridge.health().reconnects == 0
        assert len(bridge.adapter._position.at) <= 1024  # type: ignore[attr-defined]


async def test_what_cannot_be_read_again_and_again_is_given_up_and_is_a_gap() -> None:
    """Else a client would ask for it as long as the server keeps it."""
    resumes: list[bool] = []

    async def follow(socket: ServerConnection) -> None:
        hello = json.loads(await socket.recv())[0]
        resumes.append("resume" in hello)
        await socket.send(
            json.dumps([WELCOME, {"type": "ok", "id": 0, "at": {"o": 1}, "resumed": True, "replayed": 1}])
        )
        if len(resumes) > 1 and resumes[-1]:
            await socket.send('[{"key": ["room", "1"], "data": "' + "x" * (2 << 20) + '"}]')
            await socket.wait_closed()
        elif len(resumes) == 1:
            asyncio.get_running_loop().call_later(0.3, socket.transport.abort)
        await behave(socket)

    async with server(follow, times=100) as url, client(url) as (hub, bridge, messages):
        await until(lambda: len(resumes) >= 2, "coming back")
        await until(lambda: not resumes[-1], "giving up", 60)
        await works(hub, bridge, messages)
        assert resumes == [False, True, True, True, False]
        assert bridge.health().gaps == 1


async def test_a_server_that_is_always_too_fast_for_itself_gets_messages_in_order() -> None:
    """It refuses for its rate what comes within what it allows."""
    came: list[int] = []

    async def follow(socket: ServerConnection) -> None:
        refusals = 0
        async for text in socket:
            answers: list[Any] = []
            is_late = False
            for frame in json.loads(text):
                kind = frame["type"]
                if kind == "hello":
                    limits = {"publishes_per_second": 10_000, "publish_burst": 10_000}
                    answers += [WELCOME | {"limits": limits}, {"type": "ok", "id": 0, "at": {"o": 1}}]
                elif kind == "ping":
                    answers.append({"type": "pong"})
                elif kind == "publish" and (is_late or (refusals < 5 and len(came) % 7 == 3)):
                    refusals += not is_late
                    is_late = True
                    answers.append({"type": "error", "id": frame["id"], "code": "rate", "message": "too fast"})
                else:
                    if kind == "publish":
                        came.append(frame["data"])
                    answers.append({"type": "ok", "id": frame["id"], "at": {"o": 1}})
            await socket.send(json.dumps(answers))

    async with server(follow, times=100) as url, client(url) as (hub, bridge, _):
        await bridge.ready(30)
        for number in range(40):
            hub.publish(ROOM, number)
        await bridge.flush(30)
        assert came == list(range(40))


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
@settings(max_examples=100)
def test_a_text_is_frames_or_a_lost_connection(text: str) -> None:
    try:
        frames = frames_of(text)
    except ConnectionError:
        return
    for frame in frames:
        received_of(frame)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "key": st.lists(st.text(), max_size=3),
        "data": st.none() | st.integers() | st.text(),
        "data_base64": st.text(),
        "at": st.text() | st.dictionaries(st.text(), st.integers(0, 2**53 - 1), max_size=3),
        "headers": st.dictionaries(st.text() | st.just("hubsub"), st.text(), max_size=3),
        "time": st.floats(allow_nan=False, allow_infinity=False),
        "replayed": st.booleans() | st.integers(0, 9),
    },
)


@given(st.lists(FIELDS, max_size=3))
@settings(max_examples=100)
def test_a_frame_becomes_a_message_or_says_what_is_wrong_with_it(frames: list[Any]) -> None:
    for frame in frames_of(json.dumps(frames)):
        received = received_of(frame)
        assert received.trouble is not None or received.payload is not None
        assert not {"ce_replyto", "ce_correlation"} & received.headers.keys() - (frame.headers or {}).keys()
