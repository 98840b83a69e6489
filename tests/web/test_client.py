"""The Python client of an endpoint: `hubsub.connect("ws://…")`, against a real server on the same loop."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect as raw

import hubsub
from brokers.certificates import certificates
from hubsub import (
    AccessRefused,
    Bridge,
    BridgeNotReady,
    DeliveryError,
    Gap,
    Hub,
    Key,
    PayloadTooLarge,
    RemoteError,
)
from hubsub.bridges.websocket import WebSocketAdapter
from hubsub.testing.conformance import until
from hubsub.web import Connection, Endpoint, Limits, Refused, endpoint

from .browsers import ROOT
from .serving import served

pytestmark = pytest.mark.once
ROOMS = Key("room", "*")


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[Hub, Endpoint, str]]:
    """A server's hub, its endpoint, and where that is."""
    async with Hub(name="server") as hub:
        app = endpoint(hub, **{"outgoing": ROOMS, "incoming": ROOMS, **options})
        async with served(app) as address:
            yield hub, app, f"ws://{address}/"


@asynccontextmanager
async def client(url: str, keys: Any = ROOMS, **options: Any) -> AsyncIterator[Hub]:
    """A client's hub, connected."""
    async with hubsub.connect(url, keys, **options) as hub:
        await hub.bridges[0].ready()
        yield hub


def heard(hub: Hub, patterns: Any = ROOMS) -> list[Any]:
    """The messages that come from now on."""
    messages: list[Any] = []
    hub.add_listener(patterns, lambda key, message: messages.append(message))
    return messages


async def has(messages: list[Any], *expected: Any) -> None:
    """Wait for these messages, and no others."""
    await until(lambda: len(messages) >= len(expected), lambda: f"{expected}, and there is {messages}")
    assert messages == list(expected)


# Messages


async def test_whatever_is_published_at_one_side_comes_to_the_other_and_does_not_come_back() -> None:
    async with site() as (server, _, url), client(url) as one, client(url) as other:
        came = [heard(hub) for hub in (server, one, other)]
        for hub in (one, other):
            await hub.bridges[0].synced()
        server.publish(("room", "1"), {"from": "server"})
        await has(came[1], {"from": "server"})
        one.publish(("room", "1"), {"from": "one"})
        await has(came[2], {"from": "server"}, {"from": "one"})
        other.publish(("room", "2"), "last")
        for messages in came:
            await has(messages, {"from": "server"}, {"from": "one"}, "last")
        assert one.bridges[0].health().echoes == 1


async def test_headers_time_and_origin_travel_with_a_message() -> None:
    async with site() as (server, _, url), client(url) as one, client(url) as other:
        events: list[Any] = []
        other.add_listener(ROOMS, events.append, event=True)
        at_server: list[Any] = []
        server.add_listener(ROOMS, at_server.append, event=True)
        await other.bridges[0].synced()
        one.publish_with_headers(("room", "1"), 1, {"trace": "x"})
        await until(lambda: len(events) == 1)
        server.publish_with_headers(("room", "1"), 2, {"trace": "y"})
        await until(lambda: len(events) == 2)
        metas = [event.meta for event in events]
        assert [meta.headers for meta in metas] == [{"trace": "x"}, {"trace": "y"}]
        assert [meta.source for meta in metas] == [one.border.origin, server.border.origin]
        assert all(abs(meta.time - time.time()) < 60 for meta in metas)
        assert metas[0].id == json.loads(at_server[0].meta.headers["hubsub"])["id"]
        assert at_server[0].meta.headers["trace"] == "x"


async def test_a_client_may_read_only_and_another_write_only() -> None:
    async with (
        site() as (server, _, url),
        hubsub.connect(url, incoming=ROOMS) as reader,
        hubsub.connect(url, outgoing=ROOMS) as writer,
    ):
        came, at_server = heard(reader), heard(server)
        await reader.bridges[0].ready()
        reader.publish(("room", "1"), "stays here")
        writer.publish(("room", "1"), 1)
        await has(came, "stays here", 1)
        assert at_server == [1]


async def test_what_a_client_could_not_send_is_a_gap_to_everybody() -> None:
    async with site() as (server, _, url), client(url) as other:
        subscriptions = [hub.subscribe(ROOMS, gaps=True) for hub in (server, other)]
        await other.bridges[0].synced()
        async with Hub() as hub, Bridge(hub, url, outgoing=ROOMS, outbox=5, encode="now") as bridge:
            for number in range(8):
                hub.publish(("room", "1"), number)
            await bridge.flush()
            for subscription in subscriptions:
                items = [await asyncio.wait_for(subscription.consume(), 10) for _ in range(6)]
                gap = items[0]
                assert isinstance(gap, Gap)
                assert (gap.count, gap.keys) == (3, (("room", "1"),))
                assert [item.message for item in items[1:]] == [3, 4, 5, 6, 7]


async def test_a_message_that_is_sent_twice_is_published_once() -> None:
    async with site() as (server, _, url):
        came = heard(server)
        frame = {"type": "publish", "key": ["room", "1"], "data": 1, "headers": {"hubsub": '{"id":"7","source":"me"}'}}
        counts = []
        for id in (1, 2):
            # Over two connections, as when the answer to the first is lost.
            async with raw(url) as socket:
                await socket.send(json.dumps({**frame, "id": id}))
                while not (answers := [each for each in json.loads(await socket.recv()) if each.get("type") == "ok"]):
                    pass
                counts.append(answers[0]["count"])
        assert (came, counts) == ([1], [1, 0])


async def test_a_message_that_comes_back_to_its_server_by_others_ends_there() -> None:
    async with (
        site() as (one, _, first),
        site() as (two, _, second),
        Hub() as between,
        Bridge(between, first, both=ROOMS) as a,
        Bridge(between, second, both=ROOMS) as b,
        Hub() as back,
        Bridge(back, second, both=ROOMS) as c,
        Bridge(back, first, both=ROOMS) as d,
    ):
        for bridge in (a, b, c, d):
            await bridge.synced()
        came = [heard(one), heard(two)]
        for number in range(5):
            one.publish(("room", "1"), number)
        await until(lambda: all(len(messages) >= 5 for messages in came))
        for bridge in (a, b, c, d):
            await bridge.flush()
        one.publish(("room", "1"), "last")
        await until(lambda: all("last" in messages for messages in came))
        assert came == [[0, 1, 2, 3, 4, "last"]] * 2


async def test_a_client_keeps_to_the_pace_of_the_endpoint_and_to_the_order() -> None:
    limits = Limits(publishes_per_second=500, publish_burst=20)
    async with site(limits=limits) as (server, _, url), client(url, outgoing=ROOMS, keys=None) as one:
        came = heard(server)
        for number in range(150):
            one.publish(("room", str(number % 3)), number)
        await has(came, *range(150))
        assert not one.bridges[0].health().refused


async def test_what_is_too_large_for_the_endpoint_is_refused_and_what_follows_is_not() -> None:
    limits = Limits(frame_bytes=2000, headers_bytes=500, depth=8)
    async with site(limits=limits) as (server, _, url), client(url) as one:
        came = heard(server)
        deep: Any = []
        for _ in range(9):
            deep = [deep]
        for message, kind in (("x" * 2000, PayloadTooLarge), (deep, hubsub.EncodeError)):
            with pytest.raises(DeliveryError) as error:
                await one.publish_confirmed(("room", "1"), message, timeout=10)
            assert isinstance(error.value.exceptions[0].__cause__, kind)
        for headers in ({"a": "x" * 600}, {"hubsub": "mine"}):
            with pytest.raises(DeliveryError):
                await one.publish_confirmed(("room", "1"), 1, headers=headers, timeout=10)
        with pytest.raises(DeliveryError, match="not finished"):
            await one.publish_confirmed(("room", *map(str, range(20))), 1, timeout=10)
        one.publish(("room", "1"), "fits")
        await has(came, "fits")
        assert one.bridges[0].health().reconnects == 0


# Who may do what


async def test_a_refused_pattern_is_an_error_that_names_it_and_costs_no_other() -> None:
    async with site() as (server, _, url), hubsub.connect(url, incoming=[ROOMS, "secret"]) as one:
        came = heard(one)
        await one.bridges[0].ready()
        refused = one.add_listener("secret", lambda key, message: None)
        with pytest.raises(BridgeNotReady, match=r"refuses \('secret',\).*forbidden") as error:
            await one.bridges[0].synced()
        assert isinstance(error.value.__cause__, AccessRefused)
        server.publish(("room", "1"), 1)
        await has(came, 1)
        refused.remove()
        await until(lambda: not one.bridges[0].adapter.refused_patterns)
        await one.bridges[0].ready()


async def test_a_pattern_that_is_no_longer_allowed_is_a_gap_and_an_error() -> None:
    allowed = {"subscribe"}

    def authorize(connection: Connection, action: str, key: Key[Any]) -> bool:
        return action in allowed or action == "receive"

    async with site(authorize=authorize) as (_, app, url), client(url) as one:
        gaps: list[Gap] = []
        one.add_listener(("Hub", "gap", "*"), lambda key, gap: gaps.append(gap))
        heard(one)
        await one.bridges[0].synced()
        allowed.clear()
        await app.recheck()
        await until(lambda: gaps, "the gap")
        with pytest.raises(BridgeNotReady, match="no longer allowed"):
            await one.bridges[0].ready()


async def test_a_key_that_may_not_be_published_to_is_an_error_to_its_publisher() -> None:
    async with site(incoming=[("room", "1")]) as (_, _, url), client(url) as one:
        with pytest.raises(DeliveryError) as error:
            await one.publish_confirmed(("room", "2"), 1, timeout=10)
        assert isinstance(error.value.exceptions[0].__cause__, AccessRefused)
        assert await one.publish_confirmed(("room", "1"), 1, timeout=10) == 1


def guarded(valid: set[str]) -> Callable[[Connection], str]:
    def identify(connection: Connection) -> str:
        if connection.token not in valid:
            raise Refused(401)
        return str(connection.token)

    return identify


async def test_a_token_is_asked_for_anew_when_it_is_no_longer_valid() -> None:
    valid = {"one"}
    tokens = iter(["one", "stale", "two"])
    given: list[str] = []

    async def token() -> str:
        given.append(next(tokens))
        return given[-1]

    async with site(identify=guarded(valid)) as (server, app, url), client(url, token=token) as one:
        came = heard(one)
        await one.bridges[0].synced()
        valid.add("two")
        valid.discard("one")
        await app.disconnect("one")
        server.publish(("room", "1"), "meanwhile")
        await has(came, "meanwhile")
        assert given == ["one", "stale", "two"]


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_without_a_valid_token_a_client_stays_away(token: str | None, caplog: pytest.LogCaptureFixture) -> None:
    options = {} if token is None else {"token": token}
    async with site(identify=guarded({"right"})) as (_, _, url), hubsub.connect(url, ROOMS, **options) as one:
        with pytest.raises(BridgeNotReady, match="give token="):
            await one.bridges[0].ready()
        assert one.bridges[0].health().state == "failed"
        assert "wrong" not in caplog.text


async def test_a_client_that_is_refused_stays_away() -> None:
    def refuse(connection: Connection) -> None:
        raise Refused(403, "not you")

    async with site(on_connect=refuse) as (_, _, url), hubsub.connect(url, ROOMS) as one:
        with pytest.raises(BridgeNotReady, match="refuses this client: HTTP 403"):
            await one.bridges[0].ready()
        assert isinstance(one.bridges[0].health().last_error, AccessRefused)


async def test_a_token_function_that_fails_is_asked_again() -> None:
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("hush-hush")
        return "right"

    async with site(identify=guarded({"right"})) as (_, _, url), client(url, token=token):
        assert len(calls) == 2


def test_no_secret_is_in_a_repr_or_an_error() -> None:
    url = "ws://ann:hush-hush@localhost:1/path?token=hush-hush&room=hush-hush"
    assert "hush" not in repr(WebSocketAdapter(url))
    assert "hush" not in repr(Bridge(Hub(), url, both="a"))
    for wrong in (url + "&max_size=x", url.replace("/path", "/a@b"), url + "&token=hush"):
        with pytest.raises((ValueError, TypeError)) as error:
            WebSocketAdapter(wrong)
        assert "hush" not in str(error.value)
    with pytest.raises(ValueError, match="token must be text") as error:
        WebSocketAdapter("ws://localhost", token=b"hush-hush")  # type: ignore[arg-type]
    assert "hush" not in str(error.value)


async def test_login_query_and_headers_reach_the_endpoint_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[Connection] = []
    async with site(on_connect=seen.append) as (_, _, url):
        where = url.replace("ws://", "ws://ann:hush-hush@") + "?room=a%20b&token=sesame-oil"
        async with client(where, headers={"X-Tenant": "7"}):
            (connection,) = seen
            assert connection.headers["authorization"].startswith("Basic ")
            assert connection.headers["x-tenant"] == "7"
            assert connection.query == {"room": "a b"}
    ours = [record for record in caplog.records if record.name.startswith("hubsub")]
    assert not any(secret in record.getMessage() for record in ours for secret in ("hush", "sesame"))


async def test_tls_is_spoken_by_wss_with_the_authorities_that_are_named() -> None:
    files = certificates()
    async with Hub() as server:
        app = endpoint(server, outgoing=ROOMS, incoming=ROOMS)
        async with served(app, ssl_certfile=str(files.key_and_chain)) as address:
            url = f"wss://{address}/"
            came = heard(server)
            for options in ({"ssl_ca_certs": str(files.authority)}, {"ssl_context": files.context()}):
                async with client(url, **options) as one:
                    await one.publish_confirmed(("room", "1"), 1, timeout=10)
            assert came == [1, 1]
            async with hubsub.connect(url, ROOMS) as stranger:
                with pytest.raises(BridgeNotReady, match="CERTIFICATE_VERIFY_FAILED"):
                    await stranger.bridges[0].ready(1)


@pytest.mark.parametrize(
    ("url", "options", "kind", "says"),
    [
        ("ws://localhost", {"ssl_ca_certs": "x"}, TypeError, "is for TLS: begin the URL with wss://"),
        (
            "ws://localhost",
            {"ssl_context": ssl.create_default_context()},
            TypeError,
            "is for TLS: begin the URL with wss://",
        ),
        ("wss://localhost", {"ssl_keyfile": "x"}, TypeError, "ssl_keyfile needs ssl_certfile"),
        ("ws://localhost", {"compression": "zip"}, ValueError, "compression must be one of deflate, none"),
        ("ws://localhost", {"headers": {"a": "b\r\nc"}}, ValueError, "headers must be a dict"),
        ("ws://localhost", {"snapshot": "perhaps"}, ValueError, "snapshot must be True or False"),
        ("ws://localhost", {"nonsense": 1}, TypeError, "has no option nonsense"),
        ("http://localhost", {}, ValueError, "the URL must be like"),
    ],
)
def test_an_option_that_cannot_be_is_refused(url: str, options: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        WebSocketAdapter(url, **options)


async def test_what_an_endpoint_cannot_do_is_refused_at_once() -> None:
    for options in ({"secret": "s"}, {"group": "g"}, {"name": "n"}):
        with pytest.raises(ValueError, match="WebSocketAdapter"):
            Bridge(Hub(), "ws://localhost", both="a", **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean group="):
        async with hubsub.connect("ws://localhost", "a", gruop="g"):
            pass
    with pytest.raises(TypeError, match="WebSocketAdapter has no option pomade"):
        async with hubsub.connect("ws://localhost", "a", pomade=1):
            pass


async def test_a_client_with_more_patterns_than_the_endpoint_allows_subscribes_to_all_of_it() -> None:
    limits = Limits(subscriptions=10)
    async with site(limits=limits) as (server, _, url), client(url) as one:
        listeners = [one.add_listener(("room", str(number)), lambda key, message: None) for number in range(30)]
        came = heard(one, ("room", "29"))
        await one.bridges[0].synced()
        server.publish(("room", "29"), 1)
        await has(came, 1)
        for listener in listeners:
            listener.remove()
        await one.bridges[0].synced()
        server.publish(("room", "29"), 2)
        await has(came, 1, 2)


async def test_a_client_begins_with_what_is_retained_if_it_wants_to() -> None:
    async with site() as (server, _, url):
        server.retain(ROOMS, 5)
        for number in range(3):
            server.publish(("room", "1"), number)
        async with hubsub.connect(url, ROOMS, snapshot=True) as one:
            events: list[Any] = []
            one.add_listener(ROOMS, events.append, event=True)
            await one.bridges[0].synced()
            server.publish(("room", "1"), 3)
            await until(lambda: len(events) == 2)
            assert [(event.message, event.meta.replayed) for event in events] == [(2, True), (3, False)]


# Requests


async def test_requests_go_both_ways() -> None:
    async with site() as (server, _, url), client(url) as one, client(url) as other:
        server.respond(("room", "double"), lambda key, number: 2 * number)
        assert await one.request(("room", "double"), 21, timeout=10, local=False) == 42

        @other.responds(("room", "triple"))
        async def triple(key: Key[Any], number: int) -> int:
            return 3 * number

        await other.bridges[0].synced()
        assert await server.request(("room", "triple"), 7, timeout=10) == 21
        assert await one.request(("room", "triple"), 5, timeout=10, local=False) == 15


async def test_whoever_asks_learns_at_once_why_there_is_no_reply() -> None:
    def fail(key: Key[Any], message: Any) -> None:
        raise ValueError("of no concern to strangers")

    async with site() as (server, _, url), client(url) as one:
        with pytest.raises(RemoteError, match="no-responders"):
            await one.request(("room", "nobody"), 1, timeout=10, local=False)
        server.respond(("room", "fails"), fail)
        with pytest.raises(RemoteError, match="failed") as error:
            await one.request(("room", "fails"), 1, timeout=10, local=False)
        assert "strangers" not in str(error.value)
        one.respond(("room", "too"), fail)
        await one.bridges[0].synced()
        with pytest.raises(RemoteError, match="of no concern"):
            await server.request(("room", "too"), 1, timeout=10)
        one.respond(("room", "odd"), lambda key, message: object())
        await one.bridges[0].synced()
        with pytest.raises(RemoteError, match="cannot be sent"):
            await server.request(("room", "odd"), 1, timeout=10)


async def test_a_responder_that_leaves_responds_no_longer() -> None:
    async with site() as (server, _, url), client(url) as one:
        responder = one.respond(("room", "1"), lambda key, message: message)
        await one.bridges[0].synced()
        assert await server.request(("room", "1"), 1, timeout=10) == 1
        responder.remove()
        await one.bridges[0].synced()
        with pytest.raises(hubsub.NoResponders):
            await server.request(("room", "1"), 1, timeout=10)


async def test_a_request_comes_once_to_a_client_that_listens_and_responds() -> None:
    async with site() as (server, _, url), client(url) as one:
        came = heard(one)
        asked: list[Any] = []

        def respond(key: Key[Any], message: Any) -> Any:
            asked.append(message)
            return message

        one.respond(("room", "1"), respond)
        await one.bridges[0].synced()
        assert await server.request(("room", "1"), 1, timeout=10) == 1
        server.publish(("room", "1"), 2)
        await has(came, 1, 2)
        assert asked == [1, 2]


async def test_a_client_that_asks_and_responds_answers_itself() -> None:
    async with site() as (server, _, url), client(url) as one:
        one.respond(("room", "1"), lambda key, message: "one")
        await one.bridges[0].synced()
        assert await one.request(("room", "1"), 1, timeout=10, local=False) == "one"
        assert await server.request(("room", "1"), 1, timeout=10) == "one"


async def test_a_request_is_answered_after_the_client_has_come_back() -> None:
    async with site() as (server, app, url), client(url) as one:
        one.respond(("room", "1"), lambda key, message: message)
        await one.bridges[0].synced()
        for connection in app.connections:
            await connection.close(4408)
        await until(lambda: one.bridges[0].health().reconnects == 1)
        await one.bridges[0].ready()
        assert await server.request(("room", "1"), 1, timeout=10) == 1


# Coming back


async def test_a_client_that_was_disconnected_misses_and_doubles_nothing() -> None:
    async with site() as (server, app, url), client(url) as one:
        came = heard(one)
        await one.bridges[0].synced()
        for life in range(3):
            for number in range(5):
                server.publish(("room", "1"), [life, number])
            for connection in app.connections:
                await connection.close(4408)
            server.publish(("room", "1"), [life, "away"])
            await until(lambda: one.bridges[0].health().reconnects == life + 1)  # noqa: B023
            await one.bridges[0].ready()
        server.publish(("room", "1"), "last")
        await has(came, *[[life, what] for life in range(3) for what in (0, 1, 2, 3, 4, "away")], "last")
        assert not one.bridges[0].health().gaps


async def test_who_came_to_listen_while_the_client_was_away_gets_nothing_of_before() -> None:
    async with site() as (server, app, url), client(url) as one:
        came = heard(one, ("room", "1"))
        await one.bridges[0].synced()
        for connection in app.connections:
            await connection.close(4408)
        server.publish(("room", "1"), 1)
        server.publish(("room", "2"), 1)
        late = heard(one, ("room", "+"))
        await one.bridges[0].synced()
        server.publish(("room", "2"), 2)
        await has(came, 1)
        await until(lambda: 2 in late)
        assert late == [1, 2]


async def test_what_the_endpoint_no_longer_keeps_is_one_gap() -> None:
    async with site(limits=Limits(log_messages=3)) as (server, app, url), client(url) as one:
        heard(one), heard(one, ("room", "1")), heard(one, ("room", "2"))
        gaps = one.subscribe(ROOMS, gaps=True)
        await one.bridges[0].synced()
        for connection in app.connections:
            await connection.close(4408)
        for number in range(10):
            server.publish(("room", "1"), number)
            app.feed.dispatch()
        gap = await asyncio.wait_for(gaps.consume(), 10)
        assert isinstance(gap, Gap)
        assert gap.reason == "not resumed"
        server.publish(("room", "1"), "last")
        event = await asyncio.wait_for(gaps.consume(), 10)
        assert event.message == "last"  # type: ignore[union-attr]


# What users of fastapi_websocket_pubsub do


async def test_a_subscriber_gets_what_the_server_publishes() -> None:
    """Basic: a callback at the client, a trigger at the server."""
    topics = ["guns", "germs"]
    async with site(outgoing=topics, incoming=topics) as (server, _, url), client(url, topics) as one:
        guns, germs = heard(one, "guns"), heard(one, "germs")
        await one.bridges[0].synced()
        server.publish("guns", {"hello": "world"})
        await has(guns, {"hello": "world"})
        assert germs == []


async def test_a_client_that_has_unsubscribed_gets_nothing_more() -> None:
    """Unsubscribe: from one topic of two, and back again."""
    async with (
        site(outgoing=["guns", "germs"]) as (server, _, url),
        client(url, None, incoming=["guns", "germs"]) as one,
    ):
        guns: list[int] = []
        germs = heard(one, "germs")
        listener = one.add_listener("guns", lambda key, message: guns.append(message))
        await one.bridges[0].synced()
        server.publish("guns", 1)
        await has(guns, 1)
        listener.remove()
        await one.bridges[0].synced()
        server.publish("guns", 2)
        server.publish("germs", 2)
        await has(germs, 2)
        again = heard(one, "guns")
        await one.bridges[0].synced()
        server.publish("guns", 3)
        await has(again, 3)
        assert guns == [1]


async def test_a_client_of_a_server_that_restarts_goes_on_with_its_subscriptions() -> None:
    """Reconnect: the server ends, another one begins on the same port, and the callback is called."""
    async with Hub() as first, hubsub.connect("ws://localhost:1", incoming=["guns"]) as one:
        port = 0
        guns = heard(one, "guns")
        async with served(endpoint(first, outgoing="guns")) as address:
            port = int(address.rpartition(":")[2])
            bridge = Bridge(one, f"ws://{address}/", incoming=["guns"])
            await bridge.start()
            await bridge.synced()
            first.publish("guns", 1)
            await has(guns, 1)
        async with Hub() as second, served(endpoint(second, outgoing="guns"), port=port):
            await bridge.ready()
            second.publish("guns", 2)
            await has(guns, 1, 2)
            assert bridge.health().reconnects == 1
            # Another server does not know what was missed, and says so.
            assert bridge.health().gaps == 1


async def test_a_confirmed_message_is_finished_by_everybody_at_the_endpoint() -> None:
    async with site() as (server, _, url), client(url) as one:
        begun, may_end = asyncio.Event(), asyncio.Event()

        @server.on(ROOMS)
        async def listener(key: Key[Any], message: Any) -> None:
            begun.set()
            if message == "bad":
                raise ValueError
            await may_end.wait()

        confirming = asyncio.ensure_future(one.publish_confirmed(("room", "1"), "good", timeout=20))
        await begun.wait()
        await one.bridges[0].ready()
        assert not confirming.done()
        may_end.set()
        assert await confirming == 1
        with pytest.raises(DeliveryError, match="not finished") as error:
            await one.publish_confirmed(("room", "1"), "bad", timeout=20)
        assert "failed" in str(error.value.exceptions[0].__cause__)
        assert (one.bridges[0].health().sent, one.bridges[0].health().refused) == (2, 0)


async def test_who_comes_back_before_his_message_was_confirmed_learns_of_it_and_it_is_published_once() -> None:
    async with site() as (server, app, url), client(url) as one:
        came: list[Any] = []
        may_end = asyncio.Event()

        @server.on(ROOMS)
        async def listener(key: Key[Any], message: Any) -> None:
            came.append(message)
            await may_end.wait()

        confirming = asyncio.ensure_future(one.publish_confirmed(("room", "1"), 1, timeout=20))
        await until(lambda: came)
        for connection in app.connections:
            await connection.close(4408)
        await until(lambda: one.bridges[0].health().reconnects == 1)
        await one.bridges[0].ready()
        assert not confirming.done()
        may_end.set()
        assert await confirming == 1
        assert came == [1]


async def test_a_count_is_of_subscriptions_and_connections_whoever_publishes_and_confirms() -> None:
    async with site() as (server, _, url), client(url, None, incoming=ROOMS) as one, raw(url) as socket:
        other = endpoint(server, outgoing=ROOMS)  # carries the same, to nobody
        heard(server), heard(one)
        await one.bridges[0].synced()
        counts = []
        for id, more in ((1, {}), (2, {"confirm": 5})):
            await socket.send(json.dumps({"type": "publish", "id": id, "key": ["room", "1"], "data": 1, **more}))
            while not (found := [each for each in json.loads(await socket.recv()) if each.get("id") == id]):
                pass
            counts.append(found[0]["count"])
        # A listener of the hub, and a connection.
        assert counts == [2, 2]
        await other.close()


async def test_the_program_of_the_page_works_with_a_real_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "web" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    async with site() as (server, _, url):
        messages = heard(server)
        await names["main"](url)
        await until(lambda: messages == [{"text": "hello"}])
    assert capsys.readouterr().out == "1 {'text': 'hello'}\n"
