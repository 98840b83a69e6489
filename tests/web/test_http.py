"""Server-sent events and publishing by POST."""

import asyncio
import json
import logging
from typing import Any

import pytest

from hubsub import Gap, Hub
from hubsub.web import Limits, Refused, events, publishing
from hubsub.web.streams import event_of, position_of, text_of

from .sockets import request


@pytest.fixture
def hub() -> Hub:
    return Hub()


async def test_events_begin_with_where_the_client_is(hub: Hub) -> None:
    app = events(hub, [("room", "*")])
    stream = await request(app).begun()
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    [opened] = await stream.events(1)
    assert (opened["event"], opened["data"]) == ("open", "{}")
    assert position_of(opened["id"]) == {hub.border.origin: 0}
    await stream.leave()
    assert not app.feed.streams


async def test_each_event_is_one_message_with_the_position_after_it(hub: Hub) -> None:
    app = events(hub, [("room", "*")])
    stream = await request(app, query="pattern=room/1").begun()
    other = await request(app).begun()
    await stream.events(1)
    await other.events(1)
    hub.publish(("room", "1"), {"text": "two\nlines"})
    hub.publish(("room", "2"), 2)
    [event] = await stream.events(1)
    assert json.loads(event["data"])["data"] == {"text": "two\nlines"}
    assert len(await other.events(2)) == 2
    assert app.feed.encoded == 2
    await stream.leave()
    hub.publish(("room", "1"), 3)
    again = await request(app, query="pattern=room/1", headers={"Last-Event-ID": event["id"]}).begun()
    assert [json.loads(each["data"])["data"] for each in await again.events(1)] == [3]
    await again.leave()
    late = await request(app, query=f"pattern=room/1&last-event-id={event['id']}").begun()
    assert [json.loads(each["data"])["data"] for each in await late.events(1)] == [3]
    await late.leave()
    await other.leave()


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("pattern=room/+", ["room/a b", "room/1"]),
        ("pattern=%2B/1&x=1", ["room/1"]),
        ("pattern=+%2f1", ["room/1"]),
        ("pattern=room/a+b", ["room/a b"]),
    ],
)
async def test_a_plus_is_a_wildcard_where_it_is_a_part_and_else_a_space(hub: Hub, query: str, keys: list[str]) -> None:
    stream = await request(events(hub, ["*"]), query=query).begun()
    await stream.events(1)
    for room in ("a b", "1"):
        hub.publish(("room", room), room)
        hub.publish(("room", room, "deep"), room)
    seen = [json.loads(event["data"])["key"] for event in await stream.events(len(keys))]
    assert ["/".join(key) for key in seen] == keys
    await stream.leave()


@pytest.mark.parametrize("last", ["nonsense", "a:b", "nobody:5", ":", "x" * 5000, "é:1"])
async def test_what_cannot_be_resumed_is_a_gap(hub: Hub, last: str) -> None:
    app = events(hub, [("room", "*")])
    stream = await request(app, headers={"Last-Event-ID": last}).begun()
    [gap] = await stream.events(1)
    assert gap["event"] == "gap"
    assert json.loads(gap["data"])["reason"] == "not resumed"
    hub.border.report_gap([("room", "*")], Gap("an outage", 1, 0.0, 1.0, None))
    [gap] = await stream.events(1)
    assert json.loads(gap["data"])["reason"] == "an outage"
    await stream.leave()


async def test_a_quiet_stream_has_comments(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.web.application.TICK", 0.01)
    monkeypatch.setattr("hubsub.web.streams.COMMENT", 0.02)
    stream = await request(events(hub, ["a"])).begun()
    await stream.events(1)
    assert await asyncio.wait_for(stream._parts.get(), 5) == b":\n\n"
    await stream.leave()


async def test_streams_are_refused_as_sockets_are(hub: Hub) -> None:
    def identify(connection: Any) -> str:
        if connection.token != "secret":
            raise Refused(401, "who?")
        return "ann"

    app = events(hub, [("user", "{identity}")], identify=identify, limits=Limits(connections_per_address=1))
    for status, fields in (
        (401, {}),
        (405, {"method": "POST"}),
        (403, {"query": "token=secret&pattern=user/bob"}),
        (403, {"query": "token=secret&pattern=*"}),
        (400, {"query": "token=secret&pattern=a%5Cb"}),
        (400, {"query": "token=secret&pattern=" + "/".join("x" * 20)}),
        (403, {"query": "token=secret", "headers": {"Origin": "https://evil", "Host": "good"}}),
    ):
        response = request(app, **fields)  # type: ignore[arg-type]
        await response.text()
        assert response.status == status, fields
        await response.leave()
    stream = await request(app, query="token=secret").begun()
    response = request(app, query="token=secret")
    await response.text()
    assert response.status == 429
    hub.publish(("user", "ann"), 1)
    assert len(await stream.events(2)) == 2
    app.stop()
    assert await stream.text() == ""
    response = request(app, query="token=secret")
    await response.text()
    assert response.status == 503


async def test_a_stream_that_is_not_read_ends(hub: Hub) -> None:
    app = events(hub, ["a"], limits=Limits(queue_messages=5))
    stream = await request(app).begun()
    await stream.events(1)
    stream.reads.clear()
    for _ in range(10):
        hub.publish("a", 1)
        for _ in range(3):
            await asyncio.sleep(0)
    stream.reads.set()
    await asyncio.wait_for(stream.task, 5)
    assert not app.connections


def test_an_event_has_a_line_of_data_for_each_line() -> None:
    assert event_of(b"{\n}", {"a": 1, "b": 2}, "x") == b"id: a:1,b:2\nevent: x\ndata: {\ndata: }\n\n"
    assert position_of(text_of({"a": 1, "b:c": 2})) == {"a": 1, "b:c": 2}


# POST


async def post(app: Any, path: str, body: bytes | list[bytes] = b"1", **fields: Any) -> tuple[int, str]:
    response = request(app, "POST", path, body=body, **fields)
    text = await response.text()
    await response.leave()
    return response.status, text


@pytest.fixture
def got(hub: Hub) -> list[Any]:
    got: list[Any] = []
    hub.add_listener("*", lambda event: got.append((tuple(event[0]), event[1], event.meta)), event=True)
    got.clear()  # of its own coming
    return got


JSON = {"Content-Type": "application/json"}


async def test_what_is_posted_is_published(hub: Hub, got: list[Any]) -> None:
    app = publishing(hub, [("room", "*")])
    assert await post(app, "/room/1", b'{"x": [1]}', headers=JSON) == (202, '{"count":1}')
    assert await post(app, "/room/a%2Fb%C3%A9", b'"hello"') == (202, '{"count":1}')
    assert await post(app, "/room/1", "é".encode(), headers={"Content-Type": "text/plain"}) == (202, '{"count":1}')
    latin = {"Content-Type": "text/plain; charset=latin-1"}
    assert (await post(app, "/room/1", "é".encode("latin-1"), headers=latin))[0] == 202
    assert (await post(app, "/room/1", b"\xff", headers={"Content-Type": "application/octet-stream"}))[0] == 202
    assert (await post(app, "/mounted/room/1", b"[1,", headers=JSON, root_path="/mounted"))[0] == 400
    assert (await post(app, "/mounted/room/1", b"5", headers=JSON, root_path="/mounted"))[0] == 202
    assert [message for _, message, _ in got] == [{"x": [1]}, "hello", "é", "é", b"\xff", 5]
    assert got[1][0] == ("room", "a/bé")
    assert got[5][0] == ("room", "1")


@pytest.mark.parametrize(
    ("status", "path", "body", "fields"),
    [
        (403, "/other", b"1", {}),
        (403, "/Hub/gap/x", b"1", {}),
        (400, "/", b"1", {}),
        (400, "/room//1", b"1", {}),
        (400, "/room/*", b"1", {}),
        (400, "/room/%FF", b"1", {}),
        (400, "/" + "x/" * 20, b"1", {}),
        (400, "/room/" + "x" * 300, b"1", {}),
        (400, "/room/1", b"{", {}),
        (400, "/room/1", b"NaN", {}),
        (400, "/room/1", b"", {}),
        (400, "/room/1", b"\xff", {}),
        (400, "/room/1", b"[" * 40 + b"]" * 40, {}),
        (400, "/room/1", b"[" * 60_000, {}),
        (400, "/room/1", b"1", {"query": "confirm=x"}),
        (400, "/room/1", b"1", {"query": "confirm=nan"}),
        (400, "/room/1", b"1", {"query": "confirm=-1"}),
        (400, "/room/1", b"\xff", {"headers": {"Content-Type": "text/plain"}}),
        (400, "/room/1", b"x", {"headers": {"Content-Type": "text/plain; charset=nonsense"}}),
        (400, "/room/1", b"{}", {"headers": {"Content-Type": "application/cloudevents+json"}}),
        (400, "/room/1", b"[]", {"headers": {"Content-Type": "application/cloudevents+json"}}),
        (415, "/room/1", b"[]", {"headers": {"Content-Type": "application/cloudevents-batch+json"}}),
        (415, "/room/1", b"a=1", {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        (413, "/room/1", b"1" * 70_000, {}),
        (413, "/room/1", [b"1" * 40_000, b"1" * 40_000], {}),
        (413, "/room/1", b"1", {"headers": {"Content-Length": "99999999999999999999999"}}),
        (413, "/room/1", b"1", {"headers": {"ce-trace": "x" * 5000}}),
        (422, "/room/number", b'"x"', {}),
        (403, "/room/1", b"1", {"headers": {"Origin": "https://evil", "Host": "good"}}),
    ],
)
async def test_what_cannot_be_published_is_refused(
    hub: Hub, got: list[Any], status: int, path: str, body: Any, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub.declare(("room", "number"), int)
    answered, text = await post(publishing(hub, [("room", "*")]), path, body, **fields)
    assert answered == status, text
    assert text
    assert got == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_confirmed_post_waits_for_everybody(hub: Hub) -> None:
    async def listen(key: Any, message: Any) -> None:
        if message == "slow":
            await asyncio.sleep(10)
        if message == "bad":
            raise ValueError

    listener = hub.add_listener("a", listen)
    app = publishing(hub, ["a"])
    assert await post(app, "/a", b"1", query="confirm=5") == (202, '{"count":1}')
    assert (await post(app, "/a", b'"bad"', query="confirm=5"))[0] == 502
    assert (await post(app, "/a", b'"slow"', query="confirm=0.01"))[0] == 504
    await listener.remove()
    await hub.close()
    assert (await post(app, "/a", b"1"))[0] == 503


async def test_posting_is_limited_in_rate(hub: Hub) -> None:
    app = publishing(hub, ["a"], limits=Limits(publishes_per_second=0.5, publish_burst=2))
    assert [(await post(app, "/a"))[0] for _ in range(3)] == [202, 202, 429]
    response = request(app, "POST", "/a", body=b"1")
    await response.text()
    assert response.headers["retry-after"] in ("1", "2")
    assert (await post(app, "/a", address="other"))[0] == 202


async def test_only_post_publishes(hub: Hub) -> None:
    response = request(publishing(hub, ["a"]), "GET", "/a")
    await response.text()
    assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_cloud_events_are_understood(hub: Hub, got: list[Any]) -> None:
    app = publishing(hub, ["a"])
    binary = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-source": "/x",
        "ce-type": "t",
    }
    assert (await post(app, "/a", b'{"n": 1}', headers=binary))[0] == 202
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    event = {"specversion": "1.0", "id": "8", "source": "/x", "type": "t", "data": {"n": 2}, "number": 5}
    assert (await post(app, "/a", json.dumps(event).encode(), headers=structured))[0] == 202
    event = {"specversion": "1.0", "id": "9", "source": "/x", "type": "t", "data_base64": "/w=="}
    assert (await post(app, "/a", json.dumps(event).encode(), headers=structured))[0] == 202
    event = {"specversion": "1.0", "id": "9", "source": "/x", "type": "t", "datacontenttype": "text/plain", "data": "é"}
    assert (await post(app, "/a", json.dumps(event).encode(), headers=structured))[0] == 202
    assert [message for _, message, _ in got] == [{"n": 1}, {"n": 2}, b"\xff", "é"]
    assert got[0][2].headers == {"id": "7", "source": "/x", "type": "t"}
    assert got[1][2].headers == {"id": "8", "source": "/x", "type": "t", "number": "5"}
    for wrong in ({"specversion": "0.3"}, {"specversion": 1}, {"specversion": "1.0", "data_base64": 5}):
        assert (await post(app, "/a", json.dumps(wrong).encode(), headers=structured))[0] == 400


async def test_authorize_and_identify_hold_for_posts(hub: Hub, got: list[Any]) -> None:
    def identify(connection: Any) -> str | None:
        who: str | None = connection.headers.get("x-user")
        if who is None:
            raise Refused(401)
        return who

    async def authorize(connection: Any, action: str, key: Any) -> bool:
        return action == "publish" and connection.identity != "eve"

    app = publishing(hub, [("from", "{identity}")], authorize=authorize, identify=identify)
    assert (await post(app, "/from/ann"))[0] == 401
    assert (await post(app, "/from/ann", headers={"X-User": "bob"}))[0] == 403
    assert (await post(app, "/from/eve", headers={"X-User": "eve"}))[0] == 403
    assert (await post(app, "/from/ann", headers={"X-User": "ann"}))[0] == 202
    assert len(got) == 1
