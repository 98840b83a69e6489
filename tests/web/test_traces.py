"""Traces across the web: by WebSocket, by POST and in server-sent events, with the official SDK in memory."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from spans import Recorder, of, parent_of, recording

import hubsub
from hubsub import Hub, Key
from hubsub.testing.conformance import until
from hubsub.web import endpoint, events, publishing

from .serving import served
from .sockets import request

pytestmark = pytest.mark.once
ROOMS = Key("room", "*")
THEIRS = (int("1" * 32, 16), int("2" * 16, 16))
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


async def awaited(key: Key[Any], message: Any) -> None:
    await asyncio.sleep(0)


def listened_to(hub: Hub) -> Hub:
    hub.add_listener(ROOMS, awaited)
    return hub


async def test_across_a_websocket_the_listeners_span_has_the_remote_publisher_as_parent(recorder: Recorder) -> None:
    async with listened_to(Hub()) as server, served(endpoint(server, outgoing=ROOMS, incoming=ROOMS)) as address:
        recorder.instrument(server)
        async with hubsub.connect(f"ws://{address}/", ROOMS) as client:
            recorder.instrument(client)
            listened_to(client)
            await client.bridges[0].ready()
            for publisher in (client, server):
                recorder.clear()
                publisher.publish(("room", "1"), 1)
                await until(lambda: len(recorder.all("process")) == 2, "both listeners")
                [publish] = [span for span in recorder.all("publish") if parent_of(span) is None]
                assert [parent_of(span) for span in recorder.all("process")] == [of(publish)] * 2


async def test_across_a_websocket_a_responders_span_is_a_child_of_the_request(recorder: Recorder) -> None:
    async def answer(key: Key[Any], message: Any) -> Any:
        await asyncio.sleep(0)
        return message

    async with Hub() as server, served(endpoint(server, outgoing=ROOMS, incoming=ROOMS)) as address:
        recorder.instrument(server)
        server.respond(("room", "ask"), answer)
        async with hubsub.connect(f"ws://{address}/", ROOMS) as client:
            recorder.instrument(client)
            await client.bridges[0].ready()
            assert await client.request(("room", "ask"), 7, local=False) == 7
            [asked] = [span for span in recorder.all("request") if parent_of(span) is None]
            assert parent_of(recorder.one("process")) == of(asked)


@pytest.mark.parametrize("kind", ["application/json", "application/cloudevents+json"])
async def test_the_trace_of_a_post_is_that_of_the_message(recorder: Recorder, kind: str) -> None:
    async with listened_to(Hub()) as hub:
        recorder.instrument(hub)
        body: Any = 1
        if "cloudevents" in kind:
            body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1}
        headers = {"traceparent": TRACEPARENT, "tracestate": "theirs=1", "content-type": kind}
        app = publishing(hub, ROOMS)
        client = request(app, "POST", "/room/1", headers=headers, body=json.dumps(body).encode())
        assert (await client.begun()).status == 202
        await until(lambda: bool(recorder.all("process")), "the listener")
        process = recorder.one("process")
        assert parent_of(process) == THEIRS
        assert process.parent is not None
        assert process.parent.trace_state["theirs"] == "1"


async def test_server_sent_events_carry_the_trace_of_their_publish(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        stream = await request(events(hub, [("room", "*")])).begun()
        await stream.events(1)
        hub.publish(("room", "1"), 1)
        [event] = await stream.events(1)
        publish = recorder.one("publish")
        traceparent = json.loads(event["data"])["headers"]["traceparent"]
        assert traceparent.split("-")[1:3] == [f"{of(publish)[0]:032x}", f"{of(publish)[1]:016x}"]
        await stream.leave()
