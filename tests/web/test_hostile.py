"""Clients that mean harm: what they send is an error, a status or a close code, and nothing is logged."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsub import Hub
from hubsub.testing.conformance import until
from hubsub.web import Limits, endpoint, events, publishing

from .serving import served
from .sockets import connected, request
from .test_frameworks import hear, say


@contextmanager
def nothing_logged() -> Iterator[None]:
    """No warning and no error of ours; what the server logs of its own is not ours."""
    lines: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lines.append  # type: ignore[method-assign]
    logging.getLogger("hubsub").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("hubsub").removeHandler(handler)
    assert [line.getMessage() for line in lines] == []


# On the line: what no WebSocket client sends

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def frame(data: bytes, code: int = TEXT, *, final: bool = True, reserved: int = 0, length: int | None = None) -> bytes:
    """A masked frame; `length` is a lie about its length."""
    size = len(data) if length is None else length
    head = bytes([(0x80 if final else 0) | reserved | code])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 2**16:
        head += b"\xfe" + struct.pack("!H", size)
    else:
        head += b"\xff" + struct.pack("!Q", size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def endless(data: bytes) -> Iterator[bytes]:
    """Fragments of a message that does not end."""
    yield frame(data, final=False)
    while True:
        yield frame(data, 0, final=False)


PUBLISH = json.dumps({"type": "publish", "id": 1, "key": ["a"], "data": 1}).encode()
ON_THE_LINE: dict[str, Any] = {
    "binary": [frame(PUBLISH, BINARY)] * 3,
    "half a frame": [frame(PUBLISH)[:20]],
    "half a head": [b"\x81"],
    "endless fragments": endless(b"x" * 1000),
    "endless empty fragments": endless(b""),
    "a fragment of nothing": [frame(b"x", 0)],
    "a frame within a fragmented one": [frame(b"{", final=False), frame(PUBLISH)],
    "a frame of an exabyte": [frame(b"x", length=2**62)],
    "a frame of a negative size": [frame(b"x", length=2**64 - 1)],
    "no mask": [b"\x81\x02{}"],
    "a code that is reserved": [frame(b"x", 5)],
    "bits that are reserved": [frame(PUBLISH, reserved=0x70)],
    "compressed nonsense": [frame(b"\xff" * 50, reserved=0x40)],
    "no UTF-8": [frame(b'{"type":"\xff\xfe"}')],
    "half a character": [frame(b'"\xc3')],
    "a ping that is too long": [frame(b"x" * 200, PING)],
    "a thousand pings": [frame(b"x", PING)] * 1000,
    "a close of one byte": [frame(b"x", CLOSE)],
    "a close with a code that nobody has": [frame(struct.pack("!H", 1), CLOSE)],
    "a close, and more": [frame(struct.pack("!H", 1000), CLOSE), frame(PUBLISH)],
    "HTTP": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    "noise": [bytes(range(256)) * 40],
}


async def attack(address: str, parts: Any) -> None:
    """Open a WebSocket by hand, send what is no frame, and leave once the server has had enough, or all of it."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    reading = asyncio.ensure_future(_until_the_end(reader))
    try:
        for sent, part in enumerate(parts):
            writer.write(part)
            await writer.drain()
            if reading.done() or sent > 20_000:
                break
            if sent % 50 == 0:
                await asyncio.sleep(0)
    except OSError:
        pass
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        writer.close()


async def _until_the_end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(2**16):
            pass
    except OSError:
        pass


@pytest.mark.once
@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_what_is_no_frame_ends_only_the_connection_it_came_by(ws: str) -> None:
    hub = Hub()
    got: list[Any] = []
    hub.add_listener("a", lambda key, message: got.append(message))
    app = endpoint(hub, outgoing=["*"], incoming=["*"], limits=Limits(connections_per_address=0))
    with nothing_logged():
        async with served(app, ws, ws_max_size=65_536) as address, websockets.connect(f"ws://{address}/") as friend:
            await say(friend, "subscribe", id=1, patterns=[["b"]])
            await hear(friend, "ok")
            for number, (name, parts) in enumerate(ON_THE_LINE.items()):
                await attack(address, parts)
                await until(lambda: len(app.connections) == 1, f"the client that sent {name} to be gone")
                hub.publish("b", number)
                assert (await hear(friend, None))["data"] == number, name
    assert got == []


@pytest.mark.once
async def test_who_sends_half_a_frame_and_waits_is_given_up() -> None:
    app = endpoint(Hub(), limits=Limits(ping_seconds=0.2, silent_seconds=0.5))
    async with served(app) as address:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(PUBLISH)[:20])
        await until(lambda: len(app.connections) == 1, "it to be there")
        await until(lambda: not app.connections, "it to be given up")
        writer.close()


# Frames that are what they should be, and say what nobody means

WORDS = st.sampled_from(["a", "b", "*", "+", "", "Hub", "{identity}", "\x00", "é" * 300, "a" * 257])
KEYS = st.lists(WORDS, max_size=18)
PATTERNS = st.lists(KEYS, max_size=4)
IDS = st.sampled_from([1, 2, 3, 0, -1, 2**53 - 1, 2**53, 2**80])
NUMBERS = st.sampled_from([0, 1, -1, 1000, 1001, 10**30, 0.5, -0.5, 1e-9, 60, 60.1, 1e300, None, "5", True])
ORIGINS = st.dictionaries(
    st.sampled_from(["own", "nobody", "", "x" * 1000]), st.sampled_from([0, 1, -1, 2**53 - 1, 2**60])
)
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(
    st.text(max_size=5) | st.just("x" * 5000), st.text(max_size=5) | st.just("\ud800"), max_size=3
)
BASE64 = st.sampled_from(["", "AAAA", "A", "====", "é", "\x00", "A" * 1000])


def likely(type: str, **fields: Any) -> Any:
    return st.fixed_dictionaries({"type": st.just(type)}, optional=fields)


FRAMES = st.one_of(
    likely(
        "hello",
        token=st.text(max_size=5),
        resume=st.fixed_dictionaries(
            {
                "at": ORIGINS,
                "subscriptions": st.lists(
                    st.fixed_dictionaries({"id": IDS, "patterns": PATTERNS}, optional={"snapshot": st.booleans()}),
                    max_size=4,
                ),
            }
        ),
    ),
    likely("subscribe", id=IDS, patterns=PATTERNS, history=NUMBERS, snapshot=st.booleans(), gaps=st.booleans()),
    likely("unsubscribe", id=IDS, of=IDS),
    likely("publish", id=IDS, key=KEYS, data=DATA, data_base64=BASE64, headers=HEADERS, confirm=NUMBERS),
    likely("request", id=IDS, key=KEYS, data=DATA, headers=HEADERS, timeout=NUMBERS),
    likely("respond", id=IDS, patterns=PATTERNS),
    likely("reply", id=IDS, data=DATA, data_base64=BASE64, error=st.text(max_size=5)),
    likely("ping"),
    likely("pong"),
)


@settings(max_examples=150)
@given(st.lists(FRAMES | st.lists(FRAMES, max_size=5), max_size=12))
async def test_frames_that_nobody_means_harm_nobody(frames: list[Any]) -> None:
    hub = Hub()
    hub.retain("a", limit=3)
    hub.publish("a", 1)
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    with nothing_logged():
        async with connected(app) as enemy, connected(app) as friend:
            await friend.ask("subscribe", patterns=[["ours"]])
            for each in frames:
                enemy.say_text(json.dumps(each))
            hub.publish("ours", 5)
            assert await friend.messages(1) == [5]
        assert not app.connections
        assert not app.feed.streams
        assert not app.feed.frames.has_subscribers()


# By HTTP

PATHS = st.lists(st.sampled_from(["a", "*", "+", "Hub", "%00", "%ff", "%2F", "é", "..", "", "x" * 300]), max_size=18)
TYPES = st.sampled_from(
    [
        "",
        "application/json",
        "text/plain",
        "text/plain; charset=nonsense",
        "text/plain; charset=rot13",
        "text/plain; charset=idna",
        "text/plain; charset=punycode",
        "text/plain; charset=undefined",
        "text/plain; charset=\0",
        "a/b",
        ";;=",
        "é",
        "application/octet-stream",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "x/y+json",
    ]
)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "specversion": st.sampled_from(["1.0", "0.3", 1, None]),
        "data": DATA,
        "data_base64": BASE64 | st.none() | st.integers(),
        "datacontenttype": TYPES | st.none() | st.integers(),
        "x": DATA,
        "id": DATA,
    },
)
BODIES = (
    st.binary(max_size=40)
    | DATA.map(lambda data: json.dumps(data).encode("utf-8", "surrogatepass"))
    | EVENT.map(lambda event: json.dumps(event).encode("utf-8", "surrogatepass"))
    | st.sampled_from([b"[" * 5000, b"\xef\xbb\xbf1", b'{"a":1,"a":2}', b"NaN", b"1e999", b'"\\ud800"', b"9" * 5000])
)
EXTRA = st.dictionaries(
    st.sampled_from(["content-length", "ce-specversion", "ce-x", "ce-id", "ce-data", "origin", "host"]),
    st.sampled_from(["", "-1", "9" * 30, "x", "%ff", "%", "null", "é"]),
)


@settings(max_examples=200)
@given(
    PATHS, TYPES, BODIES, EXTRA, st.sampled_from(["", "confirm=x", "confirm=-1", "confirm=nan", "confirm=1e999", "%ff"])
)
async def test_whatever_is_posted_is_published_or_refused(
    path: list[str], kind: str, body: bytes, extra: dict[str, str], query: str
) -> None:
    app = publishing(Hub(), ["*"])
    headers = {"content-type": kind, **extra}
    with nothing_logged():
        response = request(app, "POST", "/" + "/".join(path), query, body, headers)
        await response.text()
        await response.leave()
    assert response.status in (202, 400, 403, 413, 415, 422), response.status


LAST = st.text(alphabet="a:,0 9-é\x00", max_size=12) | st.sampled_from(
    ["own:1", "x" * 5000, "a:" + "9" * 30, ",".join(["a:1"] * 500)]
)
QUERIES = st.lists(
    st.sampled_from(
        [
            "pattern=a",
            "pattern=*",
            "pattern=",
            "pattern=%ff",
            "pattern=a/*/b",
            "pattern=Hub/*",
            "pattern=%00",
            "last-event-id=a:1",
            "pattern=" + "a/" * 50,
            "%",
            "&&&",
            "=",
            "pattern=a%2Fb",
        ]
    ),
    max_size=4,
).map("&".join)


@settings(max_examples=100)
@given(QUERIES, LAST)
async def test_whatever_a_stream_is_asked_for_it_begins_or_is_refused(query: str, last: str) -> None:
    app = events(Hub(), ["*"])
    with nothing_logged():
        headers = {"last-event-id": last.encode("latin-1", "replace").decode("latin-1")}
        response = await request(app, query=query, headers=headers).begun()
        assert response.status in (200, 400, 403)
        await response.leave()
    assert not app.connections
