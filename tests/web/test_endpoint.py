"""What clients of the WebSocket endpoint may do, get, and be told."""

import asyncio
import base64
import json
import logging
from typing import Any

import pytest

from hubsub import Gap, Hub, Overflow, RemoteError, RequestError
from hubsub.testing.conformance import until
from hubsub.web import Connection, Limits, Refused, endpoint

from .sockets import Closed, connected, request, scope_of


@pytest.fixture
def hub() -> Hub:
    return Hub()


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# What crosses


async def test_nothing_crosses_that_is_not_named(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")], incoming=[("say", "*")])
    async with connected(app) as client:
        for patterns in ([["other"]], [["*"]], [["say", "x"]], [["room", "*"], ["other"]], [["Hub", "*"]], [["+"]]):
            assert (await client.ask("subscribe", patterns=patterns))["code"] == "forbidden"
        for key in (["room", "1"], ["other"], ["Hub", "gap", "x"]):
            assert (await client.ask("publish", key=key, data=1))["code"] == "forbidden"
        hub.publish(("room", "1"), "unasked for")
        hub.publish("other", 1)
        assert await client.hear_all() == []


async def test_an_endpoint_without_patterns_lets_nothing_through(hub: Hub) -> None:
    async with connected(endpoint(hub)) as client:
        assert (await client.ask("subscribe", patterns=[["a"]]))["code"] == "forbidden"
        assert (await client.ask("publish", key=["a"], data=1))["code"] == "forbidden"


def test_the_hubs_own_namespace_cannot_be_named(hub: Hub) -> None:
    with pytest.raises(ValueError, match="namespace"):
        endpoint(hub, outgoing=[("Hub", "*")])


async def test_a_message_reaches_whoever_is_subscribed_once(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as one, connected(app) as other:
        await one.ask("subscribe", patterns=[["a", "*"], ["*", "b"]])
        await one.ask("subscribe", patterns=[["a", "b"]])
        await other.ask("subscribe", patterns=[["c"]])
        hub.publish(("a", "b"), {"x": [1, None, "é"]})
        frame = await one.hear()
        assert frame["key"] == ["a", "b"]
        assert frame["data"] == {"x": [1, None, "é"]}
        assert await one.hear_all() == await other.hear_all() == []


async def test_whoever_subscribes_to_everything_gets_no_announcements(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as one, connected(app) as other:
        for pattern in (["*"], ["+"], ["*", "*"], ["+", "+", "*"]):
            await one.ask("subscribe", patterns=[pattern])
            await other.ask("subscribe", patterns=[["a", "b", "c"]])
        hub.add_listener(("a", "b"), print)
        hub.publish("a", 1)
        assert [frame["data"] for frame in await one.hear_all()] == [1]


async def test_a_message_is_encoded_once_for_all(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as one, connected(app) as other, connected(app) as third:
        for client in (one, other, third):
            await client.ask("subscribe", patterns=[["a"]])
        hub.publish("a", "hello")
        assert [(await client.hear())["data"] for client in (one, other, third)] == ["hello"] * 3
        assert app.feed.encoded == 1


async def test_messages_come_in_order_and_many_in_one_frame(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        before = client.sent
        for number in range(500):
            hub.publish("a", number)
        assert await client.messages(500) == list(range(500))
        assert client.sent - before < 20


async def test_sending_has_its_turn_where_handing_over_takes_all_the_time_there_is(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubsub.web import feed

    monkeypatch.setattr(feed, "SLICE", 0.0)
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as one, connected(app) as other:
        for client in (one, other):
            await client.ask("subscribe", patterns=[["a"]])
        before = one.sent
        for number in range(3 * feed.CHUNK):
            hub.publish("a", number)
        for client in (one, other):
            assert await client.messages(3 * feed.CHUNK) == list(range(3 * feed.CHUNK))
        # Not only when everything was handed over.
        assert one.sent - before > 1


async def test_an_unsubscribed_client_gets_nothing_more(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        first = (await client.ask("subscribe", patterns=[["a"]]))["id"]
        await client.ask("subscribe", patterns=[["b"]])
        assert (await client.ask("unsubscribe", of=first))["type"] == "ok"
        hub.publish("a", 1)
        hub.publish("b", 2)
        assert [frame["data"] for frame in await client.hear_all()] == [2]
        assert (await client.ask("unsubscribe", of=first))["code"] == "malformed"


async def test_a_client_that_is_gone_leaves_nothing_behind(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        await client.ask("respond", patterns=[["q"]])
        assert len(app.connections) == 1
    assert len(app.connections) == 0
    assert not app.feed.streams
    assert app.feed.frames.patterns() == hub.patterns() == {}


async def test_what_comes_from_a_bridge_is_subscribed_there_by_an_endpoint(hub: Hub) -> None:
    endpoint(hub, outgoing=[("room", "*")])
    assert ("room", "*") in hub.border.wanted()


# Who it is


async def test_an_identity_stands_for_itself_in_patterns(hub: Hub) -> None:
    app = endpoint(
        hub,
        outgoing=[("user", "{identity}", "*")],
        incoming=[("from", "{identity}")],
        identify=lambda connection: connection.query.get("me"),
    )
    async with connected(app, query="me=ann") as ann, connected(app) as nobody:
        await ann.ask("subscribe", patterns=[["user", "ann", "*"]])
        hub.publish(("user", "ann", "mail"), 1)
        assert await ann.messages(1) == [1]
        assert (await ann.ask("subscribe", patterns=[["user", "bob", "*"]]))["code"] == "forbidden"
        assert (await ann.ask("subscribe", patterns=[["user", "*"]]))["code"] == "forbidden"
        assert (await ann.ask("publish", key=["from", "ann"], data=1))["type"] == "ok"
        assert (await ann.ask("publish", key=["from", "bob"], data=1))["code"] == "forbidden"
        for pattern in (["user", "{identity}", "x"], ["user", "", "x"], ["user", "None", "x"]):
            assert (await nobody.ask("subscribe", patterns=[pattern]))["code"] == "forbidden"


@pytest.mark.parametrize("identity", ["*", "+", ""])
async def test_an_identity_is_never_a_wildcard(hub: Hub, identity: str) -> None:
    app = endpoint(hub, outgoing=[("user", "{identity}", "x")], identify=lambda connection: identity)
    async with connected(app) as client:
        for part in (identity, "*", "+", "bob"):
            assert (await client.ask("subscribe", patterns=[["user", part, "x"]]))["code"] == "forbidden"


async def test_who_is_refused_before_the_upgrade_gets_the_status(hub: Hub) -> None:
    def identify(connection: Connection) -> str:
        raise Refused(401, "who are you?")

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    app = endpoint(hub, identify=identify)
    await app(scope_of(extensions={"websocket.http.response": {}}), receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401
    assert sent[1]["body"] == b"who are you?"
    async with connected(app, welcomed=False) as client:
        assert (await client.closed()).code == 4401


async def test_a_token_may_come_with_hello(hub: Hub) -> None:
    def identify(connection: Connection) -> str:
        if connection.token != "secret":
            raise Refused(401)
        return "ann"

    app = endpoint(hub, outgoing=["a"], identify=identify)
    async with connected(app, query="token=secret") as client:
        assert [each.identity for each in app.connections] == ["ann"]
    async with connected(app, welcomed=False) as client:
        client.say("hello", token="secret")
        assert (await client.hear())["type"] == "welcome"
        assert (await client.hear())["id"] == 0
        assert [each.identity for each in app.connections] == ["ann"]
    async with connected(app, welcomed=False) as client:
        client.say("hello", token="wrong")
        assert (await client.closed()).code == 4401
    async with connected(app, query="token=wrong", welcomed=False) as client:
        assert (await client.closed()).code == 4401


async def test_before_its_hello_a_client_may_do_nothing(hub: Hub) -> None:
    def identify(connection: Connection) -> str:
        if connection.token is None:
            raise Refused(401)
        return "ann"

    app = endpoint(hub, outgoing=["a"], incoming=["a"], identify=identify, limits=Limits(token_seconds=0.1))
    async with connected(app, welcomed=False) as client:
        client.say("subscribe", id=1, patterns=[["a"]])
        assert (await client.hear())["code"] == "malformed"
        hub.publish("a", "secret")
        assert (await client.closed()).code == 4401


async def test_pages_of_other_hosts_are_refused(hub: Hub) -> None:
    own = {"Host": "example.org:8000", "Origin": "https://example.org:8000"}
    other = {"Host": "example.org", "Origin": "https://evil.example"}
    async with connected(endpoint(hub), headers=own), connected(endpoint(hub), headers={"Host": "x"}):
        pass
    for app in (endpoint(hub), endpoint(hub, origins=["https://good.example"])):
        async with connected(app, headers=other, welcomed=False) as client:
            assert (await client.closed()).code == 4403
    for app in (endpoint(hub, origins="*"), endpoint(hub, origins=["https://evil.example"])):
        async with connected(app, headers=other):
            pass
    async with connected(endpoint(hub), headers={"Host": "a", "Origin": "null"}, welcomed=False) as client:
        assert (await client.closed()).code == 4403


async def test_hooks_see_who_comes_and_goes(hub: Hub) -> None:
    seen: list[str] = []

    async def come(connection: Connection) -> None:
        if connection.query.get("me") == "bob":
            raise Refused(403)
        seen.append(f"+{connection.address}")

    app = endpoint(hub, on_connect=come, on_disconnect=lambda connection: seen.append(f"-{connection.address}"))
    async with connected(app, address="9.9.9.9"):
        assert seen == ["+9.9.9.9"]
    async with connected(app, query="me=bob", welcomed=False) as client:
        assert (await client.closed()).code == 4403
    assert seen == ["+9.9.9.9", "-9.9.9.9"]


async def test_a_failing_identify_refuses_and_is_logged_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    def identify(connection: Connection) -> str:
        raise KeyError("bug")

    app = endpoint(hub, identify=identify)
    for _ in range(5):
        async with connected(app, welcomed=False) as client:
            assert (await client.closed()).code == 4403
    assert len(errors_in(caplog)) == 1


# Who may do what


@pytest.mark.parametrize("is_async", [False, True])
async def test_authorize_narrows_each_action(hub: Hub, is_async: bool) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def authorize(connection: Connection, action: str, key: tuple[str, ...]) -> Any:
        asked.append((action, key))
        answer = "no" not in key

        async def later() -> bool:
            await asyncio.sleep(0)
            return answer

        return later() if is_async else answer

    app = endpoint(hub, outgoing=["*"], incoming=["*"], authorize=authorize)
    hub.respond("ask", lambda key, message: message)
    async with connected(app) as client:
        assert (await client.ask("subscribe", patterns=[["no"]]))["code"] == "forbidden"
        assert (await client.ask("publish", key=["no"], data=1))["code"] == "forbidden"
        assert (await client.ask("request", key=["no"], data=1))["code"] == "forbidden"
        assert (await client.ask("respond", patterns=[["no"]]))["code"] == "forbidden"
        assert (await client.ask("request", key=["ask"], data=1))["data"] == 1
        await client.ask("subscribe", patterns=[["a", "*"]])
        for part in ("1", "no", "2", "no", "3"):
            hub.publish(("a", part), part)
        assert await client.messages(3) == ["1", "2", "3"]
        assert await client.hear_all() == []
        assert asked.count(("receive", ("a", "no"))) == 1


async def test_messages_wait_in_order_while_authorize_decides(hub: Hub) -> None:
    decide = asyncio.Event()

    async def authorize(connection: Connection, action: str, key: tuple[str, ...]) -> bool:
        if key == ("a", "slow"):
            await decide.wait()
        return True

    app = endpoint(hub, outgoing=["*"], authorize=authorize)
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a", "*"]])
        for part in ("1", "slow", "2", "1"):
            hub.publish(("a", part), part)
        await client.hear_all()
        decide.set()
        hub.publish(("a", "3"), "3")
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a", "*"]])
        for part in ("1", "slow", "2", "1"):
            hub.publish(("a", part), part)
        assert await client.messages(4) == ["1", "slow", "2", "1"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_replay_leaves_out_what_may_not_be_received(hub: Hub, is_async: bool) -> None:
    def authorize(connection: Connection, action: str, key: tuple[str, ...]) -> Any:
        async def later() -> bool:
            await asyncio.sleep(0)
            return "no" not in key

        return later() if is_async else "no" not in key

    hub.retain(("a", "*"))
    app = endpoint(hub, outgoing=["*"], authorize=authorize)
    for part in ("1", "no", "2"):
        hub.publish(("a", part), part)
    async with connected(app) as client:
        answer = await client.ask("subscribe", patterns=[["a", "*"]], history=1)
        assert answer["replayed"] == 2
        assert await client.messages(2) == ["1", "2"]
        at = client.welcome["at"]  # type: ignore[attr-defined]
    for part in ("3", "no", "4"):
        hub.publish(("a", part), part)
    async with connected(app) as client:
        client.say("hello", resume={"at": at, "subscriptions": [{"id": 1, "patterns": [["a", "*"]]}]})
        answer = await client.hear()
        assert answer["resumed"], answer
        assert answer["replayed"] == 2
        assert await client.messages(2) == ["3", "4"]


async def test_a_failing_authorize_refuses(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    def authorize(connection: Connection, action: str, key: tuple[str, ...]) -> Any:
        if action == "receive":
            raise ValueError
        return "yes" if action == "publish" else True

    app = endpoint(hub, outgoing=["*"], incoming=["*"], authorize=authorize)
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        hub.publish("a", 1)
        assert (await client.ask("publish", key=["a"], data=1))["code"] == "forbidden"
        assert await client.hear_all() == []
    assert len(errors_in(caplog)) == 2


async def test_a_recheck_ends_what_is_no_longer_allowed(hub: Hub) -> None:
    allowed = {"a", "b"}
    app = endpoint(hub, outgoing=["*"], incoming=["*"], authorize=lambda connection, action, key: key[0] in allowed)
    async with connected(app) as client:
        first = (await client.ask("subscribe", patterns=[["a"]]))["id"]
        await client.ask("subscribe", patterns=[["b"]])
        await client.ask("respond", patterns=[["a"]])
        allowed.remove("a")
        await app.recheck()
        hub.publish("a", 1)
        hub.publish("b", 2)
        frames = await client.hear_all()
        assert [frame.get("code") for frame in frames] == ["forbidden", "forbidden", None]
        assert frames[0]["id"] == first
        assert not hub.has_subscribers("a")


# History


async def test_a_subscription_begins_with_history_between_ok_and_what_follows(hub: Hub) -> None:
    hub.retain(("a", "*"), limit=10)
    app = endpoint(hub, outgoing=["*"])
    for number in range(3):
        hub.publish(("a", "x"), number)
    async with connected(app) as client:
        client.say("subscribe", id=1, patterns=[["a", "*"]], history=2)
        hub.publish(("a", "x"), 3)
        frames = [await client.hear() for _ in range(3)]
        assert [frame.get("type") for frame in frames] == ["ok", None, None]
        assert frames[0]["replayed"] == 2
        assert [(frame["data"], frame.get("replayed")) for frame in frames[1:]] == [(2, True), (3, True)]
        hub.publish(("a", "x"), 4)
        assert "replayed" not in await client.hear()
        assert (await client.ask("subscribe", patterns=[["b"]], history=1))["code"] == "no-history"
        for wrong in (-1, 1001):
            assert (await client.ask("subscribe", patterns=[["a", "x"]], history=wrong))["code"] == "too-many"


async def test_a_snapshot_is_the_last_message_of_each_key_again_after_a_gap(hub: Hub) -> None:
    hub.retain(("a", "*"))
    app = endpoint(hub, outgoing=[("a", "*")])
    hub.publish(("a", "x"), 1)
    hub.publish(("a", "y"), 2)
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a", "*"]], snapshot=True)
        assert await client.messages(2) == [1, 2]
        hub.border.report_gap(["a"], Gap("an outage", None, 0, 1, None))
        hub.border.report_gap([("a", "*")], Gap("an outage", 3, 0, 1, None))
        frames = await client.hear_all()
        assert [frame.get("type", frame.get("data")) for frame in frames] == ["gap", 1, 2]


# Publishing and asking


async def test_publish_says_how_many_got_it_and_counts_sockets(hub: Hub) -> None:
    got: list[Any] = []
    hub.add_listener("a", lambda key, message: got.append(message))
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as one, connected(app) as other:
        await other.ask("subscribe", patterns=[["a"]])
        assert (await one.ask("publish", key=["a"], data={"x": 1}))["count"] == 2
        assert got == [{"x": 1}]
        assert (await one.ask("publish", key=["b"], data=1))["count"] == 0
        assert await other.messages(1) == [{"x": 1}]


async def test_bytes_travel_in_base64(hub: Hub) -> None:
    got: list[Any] = []
    hub.add_listener("a", lambda key, message: got.append(message))
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        await client.ask("publish", key=["a"], data_base64=base64.b64encode(b"\xff\x00").decode())
        assert got == [b"\xff\x00"]
        for fields in ({"data_base64": "x"}, {"data_base64": "", "data": 1}):
            assert (await client.ask("publish", key=["a"], **fields))["code"] == "malformed"


async def test_a_codec_that_makes_no_json_travels_in_base64(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"], codec="msgpack")
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        hub.publish("a", {"x": 1})
        frame = await client.hear()
        packed = frame["data_base64"]
        got: list[Any] = []
        hub.add_listener("b", lambda key, message: got.append(message))
        await client.ask("publish", key=["b"], data_base64=packed)
        assert got == [{"x": 1}]
        assert (await client.ask("publish", key=["b"], data=1))["code"] == "malformed"


async def test_headers_travel_both_ways(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        await client.ask("publish", key=["a"], data=1, headers={"trace": "1"})
        assert (await client.hear())["headers"] == {"trace": "1"}
        big = {"x": "y" * 5000}
        assert (await client.ask("publish", key=["a"], data=1, headers=big))["code"] == "too-large"


async def test_what_is_published_is_what_is_declared(hub: Hub) -> None:
    hub.declare("a", int)
    app = endpoint(hub, incoming=["*"])
    async with connected(app) as client:
        assert (await client.ask("publish", key=["a"], data=1))["type"] == "ok"
        assert (await client.ask("publish", key=["a"], data="x"))["code"] == "malformed"


async def test_a_publish_may_be_confirmed(hub: Hub) -> None:
    app = endpoint(hub, incoming=["*"])
    release = asyncio.Event()

    async def listen(key: Any, message: Any) -> None:
        await release.wait()
        if message == "bad":
            raise ValueError

    hub.add_listener("a", listen)
    async with connected(app) as client, hub:
        assert (await client.ask("publish", key=["a"], data=1, confirm=0.01))["code"] == "timeout"
        client.say("publish", id=100, key=["a"], data=1, confirm=5)
        assert (await client.ask("ping_is_unknown"))["code"] == "unknown-type"
        release.set()
        assert (await client.hear())["count"] == 1
        assert (await client.ask("publish", key=["a"], data="bad", confirm=5))["code"] == "failed"
        for wrong in (0, -1, 1e9):
            assert (await client.ask("publish", key=["a"], data=1, confirm=wrong))["code"] == "malformed"


async def test_a_client_asks_and_gets_the_reply_or_the_error() -> None:
    hub = Hub(drain=0)
    hub.respond("double", lambda key, message: 2 * message)
    hub.respond("fails", lambda key, message: 1 / 0)
    hub.respond("object", lambda key, message: object())

    async def sleep(key: Any, message: Any) -> None:
        await asyncio.sleep(10)

    hub.respond("sleeps", sleep)
    app = endpoint(hub, incoming=["*"])
    async with connected(app) as client:
        assert (await client.ask("request", key=["double"], data=21))["data"] == 42
        assert (await client.ask("request", key=["nobody"], data=1))["code"] == "no-responders"
        failed = await client.ask("request", key=["fails"], data=1)
        assert failed["code"] == "failed"
        assert "division" not in failed["message"]
        assert (await client.ask("request", key=["object"], data=1))["code"] == "failed"
        assert (await client.ask("request", key=["sleeps"], data=1, timeout=0.01))["code"] == "timeout"


async def test_a_client_responds(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        await client.ask("respond", patterns=[["q", "*"]])
        asking = asyncio.ensure_future(hub.request(("q", "x"), {"n": 1}))
        question = await client.hear()
        assert (question["type"], question["key"], question["data"]) == ("request", ["q", "x"], {"n": 1})
        client.say("reply", id=question["id"], data=["yes"])
        assert await asking == ["yes"]
        asking = asyncio.ensure_future(hub.request(("q", "x"), 2))
        client.say("reply", id=(await client.hear())["id"], error="I cannot")
        with pytest.raises(RemoteError, match="I cannot"):
            await asking
        client.say("reply", id=12345, data=1)
        asking = asyncio.ensure_future(hub.request(("q", "x"), 3))
        await client.hear()
    with pytest.raises(RequestError):
        await asyncio.wait_for(asking, 5)
    assert errors_in(caplog) == []


# Limits


async def test_ids_are_in_use_once(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        await client.ask("subscribe", id=5, patterns=[["a"]])
        assert (await client.ask("subscribe", id=5, patterns=[["b"]]))["code"] == "malformed"
        assert (await client.ask("publish", id=0, key=["b"], data=1))["code"] == "malformed"


async def test_subscriptions_and_patterns_are_limited(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], limits=Limits(subscriptions=3, patterns=4))
    async with connected(app) as client:
        assert (await client.ask("subscribe", patterns=[["a"], ["b"]]))["type"] == "ok"
        assert (await client.ask("subscribe", patterns=[["a"], ["b"], ["c"]]))["code"] == "too-many"
        assert (await client.ask("respond", patterns=[["a"]]))["type"] == "ok"
        assert (await client.ask("subscribe", patterns=[["a"]]))["type"] == "ok"
        assert (await client.ask("subscribe", patterns=[["a"]]))["code"] == "too-many"


async def test_publishing_is_limited_in_rate(hub: Hub) -> None:
    app = endpoint(hub, incoming=["*"], limits=Limits(publishes_per_second=0.001, publish_burst=3))
    async with connected(app) as client:
        codes = [(await client.ask("publish", key=["a"], data=1)).get("code") for _ in range(5)]
        assert codes == [None, None, None, "rate", "rate"]
        assert (await client.ask("request", key=["a"], data=1))["code"] == "rate"


async def test_keys_are_limited(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        for key in ([], ["x"] * 17, ["x" * 257], ["*"], ["a", "+"]):
            assert (await client.ask("publish", key=key, data=1))["code"] == "invalid-key"
        for pattern in ([], ["x"] * 17, ["x" * 257]):
            assert (await client.ask("subscribe", patterns=[pattern]))["code"] == "invalid-key"
        assert (await client.ask("subscribe", patterns=[]))["code"] == "malformed"


async def test_a_frame_is_limited_in_size_and_depth(hub: Hub) -> None:
    app = endpoint(hub, incoming=["*"], limits=Limits(frame_bytes=1000))
    async with connected(app) as client:
        deep = '{"type":"publish","id":1,"key":["a"],"data":' + "[" * 40 + "]" * 40 + "}"
        client.say_text(deep)
        assert (await client.hear())["code"] == "malformed"
        client.say_text('{"type":"publish","id":1,"key":["a"],"data":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}')
        assert (await client.hear())["type"] == "ok"
        client.say("publish", id=2, key=["a"], data="x" * 1000)
        assert (await client.closed()).code == 1009
    async with connected(app) as client:
        client.say_bytes(b"x" * 1001)
        assert (await client.closed()).code == 1009


async def test_connections_of_an_address_are_limited(hub: Hub) -> None:
    app = endpoint(hub, limits=Limits(connections_per_address=2))
    async with (
        connected(app),
        connected(app),
        connected(app, address="other"),
        connected(app, welcomed=False) as client,
    ):
        assert (await client.closed()).code == 4429
    async with connected(app), connected(app):
        pass
    free = endpoint(hub, limits=Limits(connections_per_address=0))
    async with connected(free), connected(free), connected(free):
        pass


async def test_the_third_malformed_frame_ends_the_connection(hub: Hub) -> None:
    async with connected(endpoint(hub)) as client:
        for text in ("{", "[1]"):
            client.say_text(text)
            assert (await client.hear())["code"] == "malformed"
        client.say_bytes(b"binary")
        assert (await client.closed()).code == 4400


async def test_a_client_that_does_not_read_is_too_slow(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], limits=Limits(queue_messages=10))
    async with connected(app) as slow, connected(app) as quick:
        for client in (slow, quick):
            await client.ask("subscribe", patterns=[["a"]])
        slow.reads.clear()
        for number in range(30):
            hub.publish("a", number)
            assert await quick.messages(1) == [number]
        slow.reads.set()
        assert (await slow.closed()).code == 4413


async def test_bytes_of_a_queue_are_limited_too(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], limits=Limits(queue_bytes=10_000))
    async with connected(app) as slow:
        await slow.ask("subscribe", patterns=[["a"]])
        slow.reads.clear()
        for _ in range(15):
            hub.publish("a", "x" * 1000)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        slow.reads.set()
        assert (await slow.closed()).code == 4413


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_OLDEST, [7, 8, 9]), (Overflow.DROP_NEWEST, [1, 2, 3]), (Overflow.LATEST, [9])]
)
async def test_another_policy_drops_and_says_where(hub: Hub, overflow: Overflow, kept: list[int]) -> None:
    app = endpoint(hub, outgoing=["*"], overflow=overflow, limits=Limits(queue_messages=3))
    async with connected(app) as slow:
        await slow.ask("subscribe", patterns=[["a"]])
        slow.reads.clear()
        hub.publish("a", 0)
        await slow.hear_all()
        for number in range(1, 10):
            hub.publish("a", number)
            await slow.hear_all()
        slow.reads.set()
        frames = [frame for frame in await slow.hear_all() if frame.get("data") != 0]
        assert [frame["data"] for frame in frames if "data" in frame] == kept
        gaps = [(frame["count"], frame["keys"]) for frame in frames if frame.get("type") == "gap"]
        assert gaps == ([] if overflow is Overflow.LATEST else [(6, [["a"]])])


def test_a_queue_that_grows_is_refused(hub: Hub) -> None:
    with pytest.raises(ValueError, match="GROW"):
        endpoint(hub, overflow=Overflow.GROW)


async def test_a_client_that_never_reads_is_disconnected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.web.application.TICK", 0.01)
    app = endpoint(hub, outgoing=["*"], limits=Limits(not_reading_seconds=0.05))
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        client.reads.clear()
        hub.publish("a", 1)
        await until(lambda: not app.connections, "the client to be disconnected")


async def test_a_silent_client_is_pinged_and_then_disconnected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.web.application.TICK", 0.01)
    app = endpoint(hub, limits=Limits(ping_seconds=0.05, silent_seconds=0.3))
    async with connected(app) as client:
        for _ in range(3):
            assert (await client.hear())["type"] == "ping"
            client.say("pong")
        assert (await client.closed()).code == 4408


async def test_a_ping_is_answered(hub: Hub) -> None:
    async with connected(endpoint(hub)) as client:
        client.say("ping")
        assert await client.hear() == {"type": "pong"}


async def test_a_connection_expires(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.web.application.TICK", 0.01)

    def identify(connection: Connection) -> str:
        connection.expires = 1.0
        return "ann"

    async with connected(endpoint(hub, identify=identify)) as client:
        assert (await client.closed()).code == 4401


# Ends


async def test_stopping_says_bye_with_1012(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        app.stop()
        bye = await client.hear()
        assert (bye["type"], bye["code"]) == ("bye", 1012)
        assert 100 <= bye["retry"] <= 3000
        with pytest.raises(Closed) as closed:
            await client.hear()
        assert closed.value.code == 1012
    async with connected(app, welcomed=False) as client:
        assert (await client.closed()).code == 1012


async def test_clients_are_disconnected_by_identity(hub: Hub) -> None:
    app = endpoint(hub, identify=lambda connection: connection.query["me"])
    async with connected(app, query="me=ann") as ann, connected(app, query="me=bob") as bob:
        await app.disconnect("ann")
        assert (await ann.closed()).code == 4401
        bob.say("ping")
        assert (await bob.hear())["type"] == "pong"
        [connection] = app.connections
        closing = asyncio.ensure_future(connection.close(4000, "enough"))
        closed = await bob.closed()
        assert (closed.code, closed.reason) == (4000, "enough")
        await closing


async def test_a_client_may_be_closed_from_inside_a_hook_of_its_own(hub: Hub) -> None:
    async def authorize(connection: Connection, action: str, key: Any) -> bool:
        await connection.close(4403, "never")
        return False

    app = endpoint(hub, incoming=["*"], authorize=authorize)
    async with connected(app) as client:
        client.say("publish", id=1, key=["a"], data=1)
        assert (await client.closed()).code == 4403


async def test_a_closed_hub_is_an_error_of_each_request(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        await hub.close()
        assert (await client.ask("publish", key=["a"], data=1))["code"] == "closing"


# Gaps


async def test_a_gap_of_a_bridge_stands_where_messages_are_missing(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        first = (await client.ask("subscribe", patterns=[["a"]]))["id"]
        await client.ask("subscribe", patterns=[["b"]], gaps=False)
        hub.publish("a", 1)
        hub.border.report_gap(["a"], Gap("an outage", 2, 10.0, 11.0, None))
        hub.publish("a", 2)
        frames = await client.hear_all()
        assert [frame.get("type", frame.get("data")) for frame in frames] == [1, "gap", 2]
        assert frames[1] == {
            "type": "gap", "of": first, "reason": "an outage", "count": 2, "since": 10.0, "until": 11.0, "keys": None
        }  # fmt: skip


async def test_a_gap_names_no_key_that_a_client_may_not_receive(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], authorize=lambda connection, action, key: "secret" not in key)
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a", "*"]])
        keys = (("a", "secret"), ("a", "open"), ("other",))
        hub.border.report_gap([("a", "*")], Gap("x", 3, 0, 1, keys))  # type: ignore[arg-type]
        [gap] = await client.hear_all()
        assert (gap["keys"], gap["count"]) == ([["a", "open"]], None)
        hub.border.report_gap([("a", "*")], Gap("x", 3, 0, 1, keys[:1]))  # type: ignore[arg-type]
        assert await client.hear_all() == []


async def test_what_cannot_be_encoded_is_a_gap_and_one_line_in_the_log(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    app = endpoint(hub, outgoing=["*"])
    async with connected(app) as client:
        await client.ask("subscribe", patterns=[["a"]])
        for message in (1, object(), object(), 2):
            hub.publish("a", message)
        frames = await client.hear_all()
        assert [frame.get("type", frame.get("data")) for frame in frames] == [1, "gap", "gap", 2]
    assert len(errors_in(caplog)) == 1


# Hostile clients

HOSTILE = [
    "",
    " ",
    "null",
    "1",
    '"x"',
    "[",
    "]",
    "{}",
    "[]",
    "[[]]",
    "[{}]",
    '{"type":1}',
    '{"type":null}',
    '{"type":"subscribe"}',
    '{"type":"subscribe","id":"1","patterns":[["a"]]}',
    '{"type":"subscribe","id":1,"patterns":["a"]}',
    '{"type":"subscribe","id":1,"patterns":[[1]]}',
    '{"type":"subscribe","id":1,"patterns":[[]],"id":2}',
    '{"type":"subscribe","type":"publish","id":1,"patterns":[["a"]]}',
    '{"type":"subscribe","id":1e400,"patterns":[["a"]]}',
    '{"type":"subscribe","id":99999999999999999999999999,"patterns":[["a"]]}',
    '{"type":"publish","id":1,"key":["a"],"data":NaN}',
    '{"type":"publish","id":1,"key":["a"],"data":Infinity}',
    '{"type":"publish","id":1,"key":["\\ud800"],"data":1}',
    '{"type":"publish","id":1,"key":["a"],"data":{"x":1,"x":2}}',
    '{"type":"publish","id":1,"key":["a"],"data":1,"\\u0069d":2}',
    '{"type":"publish","id":1,"key":["a"],"data":tru}',
    '{"type":"publish","id":1,"key":["a"],"data":01}',
    '{"type":"publish","id":1,"key":["a"],"data":"\x01"}',
    '{"type":"publish","id":1,"key":["a"],"data":1} {"type":"ping"}',
    '{"type":"publish","id":1,"key":["a"],"confirm":"5"}',
    '{"type":"publish","id":1,"key":["a"],"headers":{"a":1}}',
    '{"type":"hello","resume":{"at":{"x":-1},"subscriptions":"none"}}',
    '{"type":"hello","resume":{"at":[],"subscriptions":[]}}',
    '{"type":"unsubscribe","id":1,"of":{}}',
    '{"type":"reply","id":[]}',
    "\ud800",
    "\x00",
    "[" * 60_000,
    '{"a":' * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_hostile_frame_is_an_error_and_harms_nobody(
    hub: Hub, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Any] = []
    hub.add_listener("a", lambda key, message: got.append(message))
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as enemy, connected(app) as friend:
        enemy.say_text(text)
        frames = await enemy.hear_all()
        assert frames == [] or all(frame["type"] == "error" for frame in frames), frames
        assert bool(frames) == (text.strip() != "[]")
        assert (await friend.ask("publish", key=["b"], data=1))["type"] == "ok"
        assert (await enemy.ask("publish", key=["b"], data=1))["type"] == "ok"
    assert got == []
    assert errors_in(caplog) == []


async def test_unknown_frames_and_fields_are_told_apart(hub: Hub) -> None:
    async with connected(endpoint(hub, outgoing=["*"])) as client:
        client.say("shout", id=7)
        assert await client.hear() == {
            "type": "error", "id": 7, "code": "unknown-type", "message": "unknown frame type"
        }  # fmt: skip
        assert (await client.ask("subscribe", patterns=[["a"]], histroy=1))["code"] == "malformed"


async def test_an_array_of_frames_is_followed_in_order(hub: Hub) -> None:
    app = endpoint(hub, outgoing=["*"], incoming=["*"])
    async with connected(app) as client:
        frames = [
            {"type": "subscribe", "id": 1, "patterns": [["a"]]},
            {"type": "publish", "id": 2, "key": ["a"], "data": 5},
            {"type": "nonsense"},
            {"type": "ping"},
        ]
        client.say_text(json.dumps(frames))
        kinds = [frame.get("type", frame.get("data")) for frame in await client.hear_all()]
        assert kinds == ["ok", 5, "ok", "error", "pong"]


def test_senseless_options_are_refused(hub: Hub) -> None:
    for options in (
        {"origins": "some"},
        {"limits": {}},
        {"authorize": 5},
        {"on_connect": "x"},
        {"codec": "jsom"},
        {"outgoing": [5]},
        {"overflow": "drop"},
    ):
        with pytest.raises((TypeError, ValueError)):
            endpoint(hub, **options)  # type: ignore[arg-type]
    for limits in ({"frame_bytes": 0}, {"silent_seconds": "x"}, {"queue_messages": True}, {"publishes_per_second": 0}):
        with pytest.raises(ValueError, match=next(iter(limits))):
            Limits(**limits)  # type: ignore[arg-type]


async def test_an_ordinary_request_is_told_to_upgrade(hub: Hub) -> None:

    response = request(endpoint(hub))
    assert await response.text()
    assert response.status == 426
    await response.leave()
