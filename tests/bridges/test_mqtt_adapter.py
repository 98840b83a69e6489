"""The adapter for MQTT against real brokers, and against devices of other makes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from paho.mqtt import publish, subscribe

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.mosquitto import Mosquitto
from hubsub import Bridge, BridgeError, EncodeError, Hub, Key, MissingDriver, NameTaken
from hubsub.bridges.adapter import Adapter, Link, Loss, Received, Record
from hubsub.bridges.mqtt import MQTTAdapter
from hubsub.bridges.mqtt.copies import Copies
from hubsub.bridges.mqtt.topics import Topics, headers_of, properties_of
from hubsub.key import is_subset
from hubsub.testing.conformance import sites, until

ALL: Key[Any] = Key("*")
END = Key("the", "end")
PASSWORD = "s3cret/pa:ss"


def link(namespace: str = "hubsub", **fields: Any) -> Link:
    return Link(**{"sender": os.urandom(6).hex(), "namespace": namespace, "incoming": (ALL,), **fields})


@asynccontextmanager
async def connected(server: Mosquitto | str, to: Link | None = None, **options: Any) -> AsyncIterator[MQTTAdapter]:
    adapter = MQTTAdapter(server if isinstance(server, str) else server.url, **options)
    await adapter.connect(to or link())
    try:
        yield adapter
    finally:
        await adapter.close()
        await adapter.close()


async def received(adapter: Adapter, last: bytes | None) -> list[Received]:
    """Return what comes until this payload does, without that."""
    found: list[Received] = []
    while True:
        for each in await adapter.receive():
            assert isinstance(each, Received)
            if each.payload == last:
                return found
            found.append(each)


async def device_says(
    server: Mosquitto, *messages: tuple[str, Any], version: int = paho.MQTTv311, **options: Any
) -> None:
    """Publish as a device does, by another client, with QoS 1."""
    sent = [{"topic": topic, "payload": payload, "qos": 1, **options} for topic, payload in messages]
    await asyncio.to_thread(publish.multiple, sent, hostname="127.0.0.1", port=server.port, protocol=version)


async def device_finds(server: Mosquitto, topic: str) -> bytes:
    """Return what a device gets that subscribes to a retained topic."""
    found: Any = await asyncio.to_thread(
        subscribe.simple, topic, qos=1, hostname="127.0.0.1", port=server.port, protocol=paho.MQTTv311
    )
    return bytes(found.payload)


# Keys as topics, patterns as filters

CHARACTERS = st.sampled_from("ab*+#/$%\0\n\x7f\x85\ufdd0\ufffe\ud800é\U0001ffff😀") | st.characters()
PARTS = st.text(CHARACTERS, max_size=3)
EXACT = st.lists(PARTS.filter(lambda part: part not in ("*", "+")), min_size=1, max_size=4).map(lambda p: Key(*p))
PATTERNS = st.lists(PARTS | st.sampled_from("*+"), min_size=1, max_size=4).map(lambda p: Key(*p))
NAMESPACES = st.sampled_from(["hubsub", "a/b", "%", "é"])


@given(EXACT, st.sampled_from(["", "hubsub", "a/b", "%"]))
@example(Key("%2F", "%", "/"), "n")
@example(Key("a", "", "b"), "")
def test_every_key_has_a_topic_from_which_it_is_read_again(key: Key[Any], namespace: str) -> None:
    topics = Topics(namespace)
    if not namespace and (key == ("",) or key[0].startswith("$")):
        with pytest.raises(EncodeError):
            topics.topic(key)
    else:
        topic = topics.topic(key)
        topic.encode()
        assert not set(topic) & set("+#\0\n\x7f")
        assert topics.key(topic) == key


def uncovered(patterns: list[Key[Any]]) -> list[Key[Any]]:
    """As the relay gives them: none covers another."""
    kept: list[Key[Any]] = []
    for pattern in patterns:
        if not any(is_subset(pattern, other) for other in kept):
            kept = [other for other in kept if not is_subset(other, pattern)] + [pattern]
    return kept


FEW = st.sampled_from(["a", "b", "", "/", "+x", "#", "$"])
FEW_KEYS = st.lists(FEW, min_size=1, max_size=3).map(lambda parts: Key(*parts))
FEW_PATTERNS = st.lists(FEW | st.sampled_from("*+"), min_size=1, max_size=3).map(lambda parts: Key(*parts))


@given(
    st.lists(FEW_PATTERNS | PATTERNS, max_size=8, unique=True),
    st.lists(FEW_KEYS | EXACT, max_size=12, unique=True),
    NAMESPACES,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Key("a", "*")], [Key("a"), Key("a", "b"), Key("a", "b", "c"), Key("a", "")], "hubsub")
@example([Key("a", "+"), Key("*", "b")], [Key("a", "b"), Key("a", "b", "c"), Key("a"), Key("b")], "hubsub")
async def test_what_matches_is_received_exactly_once_as_the_broker_matches_it(
    mosquitto: Mosquitto, patterns: list[Key[Any]], keys: list[Key[Any]], namespace: str
) -> None:
    patterns = uncovered([*patterns, END])
    space = f"{namespace}{os.urandom(4).hex()}"
    async with connected(mosquitto, link(space)) as reader, connected(mosquitto, link(space, reads=False)) as writer:
        await reader.subscribe(patterns)
        sent = [Record(key, str(number).encode()) for number, key in enumerate(keys) if key != END]
        assert not await writer.send([*sent, Record(END, b"end")])
        found = await received(reader, b"end")
    matching = [record[:2] for record in sent if any(is_subset(record.key, pattern) for pattern in patterns)]
    assert [(each.key, each.payload) for each in found] == matching


async def test_topics_of_the_broker_are_read_by_their_names_and_by_no_pattern(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto, link("")) as adapter:
        await adapter.subscribe([Key("$SYS", "broker", "version")])
        ((version,),) = [await adapter.receive()]
        assert isinstance(version, Received)
        assert version.key == ("$SYS", "broker", "version")
        assert b"mosquitto" in (version.payload or b"")
        refused = await adapter.send([Record(Key("$SYS", "x"), b""), Record(Key("fine"), b""), Record(Key(""), b"")])
        assert [type(error) for error in refused.values()] == [EncodeError, EncodeError]
        assert refused.keys() == {0, 2}
        # It would share the messages of others.
        space = os.urandom(6).hex()
        await adapter.subscribe([Key("$share", "group", space), Key(f"end{space}")])
        async with connected(mosquitto, link("")) as writer:
            await writer.send([Record(Key(space), b"theirs"), Record(Key(f"end{space}"), b"end")])
        assert b"theirs" not in [each.payload for each in await received(adapter, b"end")]


def test_a_namespace_of_the_broker_is_refused() -> None:
    with pytest.raises(ValueError, match="broker's own"):
        MQTTAdapter("mqtt://localhost").features_for(link("$mine"))


# Copies


def test_of_the_copies_of_a_message_that_of_the_oldest_subscription_counts() -> None:
    copies, key = Copies(), Key("a", "b")
    copies.add(Key("a", "+"), 1)
    copies.add(Key("*", "b"), 2)
    copies.add(key, 3)
    assert [number for number in (1, 2, 3) if copies.counts(key, [number])] == [1]
    assert copies.counts(key, [3, 1])
    assert copies.counts(key, []), "the broker does not say"
    copies.remove(Key("a", "+"), 1)
    assert [number for number in (2, 3) if copies.counts(key, [number])] == [2]
    assert copies.counts(key, [1]), "it was on its way when its subscription ended, and comes by no other"


async def test_a_message_comes_once_whatever_is_subscribed_meanwhile(mosquitto: Mosquitto, namespace: str) -> None:
    key = Key("a", "b")
    changing = [Key("a", "+"), Key("+", "b"), key]
    async with connected(mosquitto, link(namespace)) as reader, connected(mosquitto, link(namespace)) as writer:
        await reader.subscribe([Key("*", "b"), END])
        numbers = iter(range(10**6))
        churning = True

        async def publish() -> None:
            while churning:
                await writer.send([Record(key, b"%d" % next(numbers)) for _ in range(5)])

        publishing = asyncio.create_task(publish())
        for _ in range(60):
            await reader.subscribe(changing)
            await reader.unsubscribe(changing)
        churning = False
        await publishing
        last = next(numbers)
        await writer.send([Record(END, b"end")])
        found = [int(each.payload or b"-1") for each in await received(reader, b"end")]
    assert sorted(set(found)) == list(range(last)), "messages are missing"
    # One whose copies were on their way while the first subscription ended may come twice; the relay knows its id.
    assert len(found) < last + 60


# Headers


@given(
    st.dictionaries(
        st.text(CHARACTERS.filter(lambda c: not "\ud800" <= c <= "\udfff"), max_size=5), st.text(max_size=5)
    )
)
@example({"ce_specversion": "1.0", "ce_id": "1", "trace": "x"})
@example({"ce_specversion": "1.0", "ce_id": "1", "content-type": "application/json"})
@example({"%0A": "%0A", "\n": "\n%", "x": "%250A"})
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    content_type, properties = properties_of(headers)
    for text in (text for pair in properties for text in pair):
        text.encode()
        assert not set(text) & set("\0\n\x7f\x85\ufdd0\ufffe")
    assert headers_of(content_type, properties) == headers


async def test_metadata_is_in_user_properties_as_the_binding_of_cloudevents_says(
    mosquitto: Mosquitto, namespace: str
) -> None:
    found: list[Any] = []
    came = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_message(client: Any, data: Any, message: Any) -> None:
        found.append(message)
        loop.call_soon_threadsafe(came.set)

    device = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    device.on_message = on_message
    device.on_connect = lambda *_: device.subscribe(f"{namespace}/#")
    device.on_subscribe = lambda *_: loop.call_soon_threadsafe(came.set)
    device.connect("127.0.0.1", mosquitto.port)
    device.loop_start()
    try:
        await came.wait()
        came.clear()
        async with Hub() as hub, Bridge(hub, mosquitto.url, outgoing=ALL, namespace=namespace):
            await hub.publish_confirmed(("home", "kitchen"), {"celsius": 21})
            while not any("kitchen" in message.topic for message in found):
                came.clear()
                await came.wait()
    finally:
        device.loop_stop()
        device.disconnect()
    (message,) = [message for message in found if "kitchen" in message.topic]
    assert json.loads(message.payload) == {"celsius": 21}
    assert message.properties.ContentType == "application/json"
    assert dict(message.properties.UserProperty).keys() == {"specversion", "source", "type", "id", "time"}


# Devices


async def test_devices_of_any_make_are_understood_and_understand(mosquitto: Mosquitto, namespace: str) -> None:
    async with sites(lambda: MQTTAdapter(mosquitto.url, retain=["state/*"])) as those:
        site = await those.add(ALL, namespace="", both=[Key(namespace, "*"), Key("state", "*")], envelope=False)
        await device_says(mosquitto, (f"{namespace}/plain", "21.5"), (f"{namespace}/deep/er", '{"a": 1}'))
        await device_says(mosquitto, (f"{namespace}/five", "null"), version=paho.MQTTv5)
        await device_says(mosquitto, (f"{namespace}/empty", None), (f"{namespace}/last", "0"))
        await site.see(0)
        assert site.messages == [21.5, {"a": 1}, None, None, 0]
        assert site.events[1].key == (namespace, "deep", "er")
        await site.hub.publish_confirmed(("state", namespace), {"on": True})
        assert json.loads(await device_finds(mosquitto, f"state/{namespace}")) == {"on": True}
        # Nothing of ours comes back, though nothing in it says that it is ours.
        await device_says(mosquitto, (f"{namespace}/last", "1"))
        await site.see(1)
        assert site.messages.count({"on": True}) == 1


async def test_events_of_others_are_understood_in_either_spelling(mosquitto: Mosquitto, namespace: str) -> None:
    properties = {"specversion": "1.0", "id": "7", "source": "/device", "type": "reading", "subject": "oven"}
    async with sites(lambda: MQTTAdapter(mosquitto.url)) as those:
        site = await those.add(ALL, incoming=ALL, namespace=namespace)
        async with connected(mosquitto, link(namespace)) as writer:
            for each in (properties, {f"ce_{name}": value for name, value in properties.items()}):
                await writer.send([Record(Key("k", str(len(each.get("id", "")))), b"1", each)])
        await site.wait_for(2)
        for event in site.events:
            assert event.meta is not None
            assert event.meta[:2] == ("7", "/device")
            assert event.meta.headers == {"ce_type": "reading", "ce_subject": "oven"}


# What is retained


async def test_the_last_value_of_a_key_is_retained_and_none_ends_that(mosquitto: Mosquitto, namespace: str) -> None:
    async with sites(lambda: MQTTAdapter(mosquitto.url, retain=Key("state", "*"))) as those:
        one = await those.add(outgoing=ALL)
        for key, message in (("state", 1), ("state", 2), ("gone", 3), ("other", 4)):
            await one.hub.publish_confirmed(("state" if key != "other" else "other", key), message)
        await one.hub.publish_confirmed(("state", "gone"), None)
        two = await those.add(ALL, incoming=ALL)
        await one.hub.publish_confirmed(("other", "last"), 5)
        await two.see(5)
        assert two.messages == [2, 5]
        first, last = two.events
        assert first.meta is not None
        assert first.meta.replayed
        assert last.meta is not None
        assert not last.meta.replayed
        await one.hub.publish_confirmed(("state", "state"), None)
        await two.see(None)


async def test_what_a_session_has_had_does_not_come_again_because_it_is_retained(
    mosquitto: Mosquitto, namespace: str
) -> None:
    async with connected(mosquitto, link(namespace), retain=["*"]) as writer:
        await writer.send([Record(Key("k"), b"1")])
        for life in range(2):
            async with connected(mosquitto, link(namespace, name="reader")) as reader:
                await writer.send([Record(Key("end"), b"end%d" % life)])
                found = await received(reader, b"end%d" % life)
                assert [each.payload for each in found] == [b"1"] * (not life)
                assert all(each.is_replayed for each in found)
                await reader.ack([10])


async def test_a_last_will_says_how_the_bridge_is(mosquitto: Mosquitto, namespace: str) -> None:
    states: list[Any] = []
    async with Hub() as watching, Bridge(watching, mosquitto.url, incoming=ALL, namespace=namespace) as bridge:
        watching.add_listener(("status", "gateway"), lambda key, message: states.append(message))
        await bridge.ready()
        url = f"{mosquitto.url}?will=status/gateway"
        async with mosquitto.proxy() as line, Hub() as hub:
            adapter = MQTTAdapter(url.replace(str(mosquitto.port), line.url.rpartition(":")[2]))
            async with Bridge(hub, adapter, outgoing=ALL, namespace=namespace) as gateway:
                await gateway.ready()
                await until(lambda: states == ["up"], "it to be up")
                line.cut()
                await until(lambda: states == ["up", "down", "up"], lambda: f"it to be down, and up again: {states}")
                # It has said "up" before it was connected wholly; closed before that, it would say no goodbye.
                await gateway.ready()
        await until(lambda: states[-1] == "closed", lambda: f"it to be closed: {states}")
    assert json.loads(await device_finds(mosquitto, f"{namespace}/status/gateway")) == "closed"


# QoS


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_everything_arrives_once_and_in_order_with_each_qos(qos: int, mosquitto: Mosquitto) -> None:
    async with sites(lambda: MQTTAdapter(mosquitto.url, qos=qos)) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL)
        named = await those.add(ALL, incoming=ALL, name="reader") if qos else two
        for number in range(1000):
            await one.hub.publish_wait(("k", str(number % 5)), number)
        await one.hub.publish_confirmed(("k", "0"), 1000)
        for site in (two, named):
            await site.see(1000)
            assert site.messages == list(range(1001))


def test_nothing_is_kept_for_a_name_with_qos_0() -> None:
    with pytest.raises(ValueError, match="qos=1 or qos=2"):
        Bridge(Hub(), "mqtt://localhost?qos=0", incoming=ALL, name="reader")


async def test_a_frozen_broker_is_noticed_however_short_the_keep_alive_is(private: Private) -> None:
    broker = await private(Mosquitto())
    async with Hub() as hub, Bridge(hub, f"{broker.url}?keep_alive=1", both=[ALL]) as bridge:
        await bridge.ready(30)
        broker.freeze()
        await until(lambda: bridge.health().state == "down", "noticing it")
        broker.thaw()
        await bridge.ready(30)


async def test_the_window_of_the_broker_is_kept_to(private: Private) -> None:
    server = await private(Mosquitto(max_inflight_messages=3))
    async with connected(server) as adapter:
        sending = asyncio.create_task(adapter.send([Record(Key("k"), b"")] * 100))
        await asyncio.sleep(0)
        assert adapter._line is not None
        (connection,) = adapter._line.connections
        assert len(connection._sent) == 3
        assert not await sending
    async with sites(lambda: MQTTAdapter(server.url)) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL)
        for number in range(500):
            one.hub.publish("k", number)
        await one.bridge.flush()
        await two.see(499)
        assert two.messages == list(range(500))


# Names


async def test_one_of_a_name_has_the_session_and_the_next_one_gets_it(mosquitto: Mosquitto, namespace: str) -> None:
    async with sites(lambda: MQTTAdapter(mosquitto.url)) as those:
        one = await those.add(ALL, incoming=ALL, name="reader")
        two = await those.add(ALL, incoming=ALL, name="reader", ready=False)
        await two.until(lambda: isinstance(two.bridge.health().last_error, NameTaken), "the name to be refused")
        assert one.bridge.health().reconnects == 0
        await one.close()
        await two.bridge.ready(10)


async def test_a_name_whose_owner_vanished_without_a_word_is_free(mosquitto: Mosquitto, namespace: str) -> None:
    # As if the broker had lost the last will, too.
    record = json.dumps({"owner": "nobody-1", "filters": {}})
    await device_says(mosquitto, (f"{namespace}/Hub/session/reader", record), retain=True)
    async with connected(mosquitto, link(namespace, name="reader")) as reader:
        await reader.ping()


async def test_an_owner_whose_line_was_dead_does_not_get_its_session_back(mosquitto: Mosquitto, namespace: str) -> None:
    mine = link(namespace, name="x")
    async with mosquitto.proxy() as line, connected(line.url, mine) as first:
        line.stall()
        async with connected(mosquitto, link(namespace, name="x")):
            line.resume()
            with pytest.raises(ConnectionError):
                await first.receive()
            # What is answered here comes behind the question whether it lives, which was held up until now.
            await first.send([Record(END, b"")])
            await first.lost()
            with pytest.raises(NameTaken):
                await first.connect(mine)


async def test_what_is_for_no_reader_and_comes_with_the_answer_to_connect_is_acknowledged(
    mosquitto: Mosquitto, namespace: str
) -> None:
    mine = link(namespace, name="reader")
    async with connected(mosquitto, mine):
        pass
    await device_says(mosquitto, *[(f"{namespace}/Hub/something", number) for number in range(20)])
    await device_says(mosquitto, (f"{namespace}/the/end", "end"))
    async with connected(mosquitto, mine) as reader:
        assert await received(reader, b"end") == []


@pytest.mark.parametrize("record", ["", "{", "[]", '{"owner": 1, "filters": {"a": "b"}}', "[" * 100_000])
async def test_a_record_that_is_none_is_overwritten(record: str, mosquitto: Mosquitto, namespace: str) -> None:
    await device_says(mosquitto, (f"{namespace}/Hub/session/reader", record), retain=True)
    async with connected(mosquitto, link(namespace, name="reader")) as reader:
        await reader.ping()
    assert json.loads(await device_finds(mosquitto, f"{namespace}/Hub/session/reader"))["owner"] == ""


@pytest.mark.parametrize("same", [True, False], ids=["the same process", "another process"])
async def test_a_session_that_has_expired_is_a_gap(same: bool, mosquitto: Mosquitto, namespace: str) -> None:
    first = MQTTAdapter(mosquitto.url, session=0.5)
    await first.connect(link(namespace, name="reader"))
    await first.lost()
    if not same:
        await first.close()
    # With a session of no seconds it ends with the connection.
    second = first if same else MQTTAdapter(mosquitto.url)
    await second.connect(link(namespace, name="reader"))
    assert await second.receive() == [Loss("session expired")]
    await second.close()


async def test_a_client_id_that_was_taken_over_is_an_error_with_the_remedy(
    mosquitto: Mosquitto, namespace: str
) -> None:
    async with connected(mosquitto, client_id=f"mine-{namespace}") as one:
        waiting = asyncio.create_task(one.receive())
        async with connected(mosquitto, client_id=f"mine-{namespace}"):
            # Older ones close the connection without a word.
            with pytest.raises((BridgeError, ConnectionError), match=r"another client .* of its own"):
                await waiting


async def test_a_dead_letter_goes_to_whoever_is_subscribed_to_those_of_the_reader(
    mosquitto: Mosquitto, namespace: str
) -> None:
    async with (
        connected(mosquitto, link("", name=None)) as watching,
        connected(mosquitto, link(namespace, name="reader")) as reader,
    ):
        await watching.subscribe([Key(namespace, "Hub", "dead", "reader", "*")])
        letter = Received(Key("k", "a/b"), b"1", {"trace": "x"}, attempts=3)
        assert await reader.bury(letter, "never\nagain") is None
        (found,) = await watching.receive()
        assert isinstance(found, Received)
        assert found.key[4:] == ("k", "a/b")
        about = {"dead-reason": "never\nagain", "dead-attempts": "3", "dead-reader": "name:reader"}
        assert found.headers == {"trace": "x", **about}


async def test_a_name_whose_record_the_acl_does_not_allow_is_told_with_the_remedy(private: Private) -> None:
    server = await private(Mosquitto())
    server.deny("hubsub/Hub/session/#")
    with pytest.raises(BridgeError, match=r"\('Hub', 'session', 'reader'\): not authorized; .* in the broker's ACL"):
        await MQTTAdapter(server.url).connect(link(name="reader"))


@pytest.mark.timeout(60)
async def test_what_is_written_down_after_each_change_survives_a_kill(private: Private) -> None:
    server = await private(Mosquitto(autosave_on_changes="true", autosave_interval=1))
    async with sites(lambda: MQTTAdapter(server.url)) as those:
        two = await those.add(ALL, incoming=ALL, name="reader")
        await two.close()
        one = await those.add(outgoing=ALL)
        for number in range(20):
            await one.hub.publish_confirmed("k", number)
        # What it has confirmed just before it may not have written.
        await asyncio.to_thread(server.save)
        server.kill()
        await server.start_wait()
        again = await those.add(ALL, incoming=ALL, name="reader")
        await again.wait_for(20)
        assert again.messages == list(range(20))
        assert not again.gaps


# Refusals


async def test_a_wrong_password_is_told_with_the_remedy_and_no_password(private: Private) -> None:
    server = await private(Mosquitto(logins={"alice": PASSWORD}))
    async with connected(server) as adapter:
        await adapter.ping()
    for url in (f"mqtt://alice:wr0ng@127.0.0.1:{server.port}", f"mqtt://127.0.0.1:{server.port}"):
        with pytest.raises(BridgeError, match="not authorized; correct user and password in the URL") as caught:
            await MQTTAdapter(url).connect(link())
        assert "wr0ng" not in str(caught.value)


async def test_no_password_is_told_to_anybody(private: Private, caplog: pytest.LogCaptureFixture) -> None:
    server = await private(Mosquitto(logins={"alice": "an0ther"}))
    url = f"mqtt://alice:s3cret%2Fpa%3Ass@127.0.0.1:{server.port}"
    shown: list[str] = []
    async with Hub() as hub:
        bridge = Bridge(hub, url, outgoing=ALL)
        await bridge.start()
        await until(lambda: bridge.health().last_error is not None, "the refusal")
        shown += [repr(bridge), repr(bridge.adapter), str(bridge.health())]
    options = [{"pasword": PASSWORD}, {"qos": PASSWORD}, {"password": 5}]
    for arguments in options:
        with pytest.raises((TypeError, ValueError)) as caught:
            MQTTAdapter(url, **arguments)
        shown.append(str(caught.value).replace(f"not {PASSWORD!r}", "") if "qos" in arguments else str(caught.value))
    for wrong in (f"mqtt://alice:{PASSWORD}@host", f"mqtt://alice:x@host/{PASSWORD}", f"mqtt://host?{PASSWORD}=1"):
        with pytest.raises((TypeError, ValueError)) as caught:
            MQTTAdapter(wrong)
        shown.append(str(caught.value))
    for text in (*shown, caplog.text):
        assert "s3cret" not in text


async def test_who_may_not_publish_or_subscribe_is_told_with_the_remedy(private: Private) -> None:
    server = await private(Mosquitto())
    server.deny("hubsub/secret/#")
    async with connected(server) as adapter:
        # This mosquitto ends the connection after such an answer, which is no answer for what follows.
        refused = await adapter.send([Record(Key("fine"), b""), Record(Key("secret", "x"), b"")])
        assert refused.keys() == {1}
        assert "not authorized; correct user and password in the URL, or allow it" in str(refused[1])


async def test_a_broker_of_mqtt_3_is_told_with_the_remedy() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x20\x02\x00\x01")  # as its specification has it: an unacceptable version
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BridgeError, match=r"speaks MQTT 3\.1\.1 only; the bridge needs"):
            await MQTTAdapter(f"mqtt://127.0.0.1:{port}").connect(link())


async def test_of_several_hosts_the_first_that_can_be_reached_is_used(mosquitto: Mosquitto, private: Private) -> None:
    gone = private.keep(Mosquitto())
    async with connected(f"mqtt://127.0.0.1:{gone.port},127.0.0.1:{mosquitto.port}") as adapter:
        await adapter.ping()
    with pytest.raises(OSError, match=str(gone.port)):
        await MQTTAdapter(f"mqtt://127.0.0.1:{gone.port}").connect(link())


async def test_tls_by_url_and_by_a_context(private: Private) -> None:
    server = await private(Mosquitto(tls=True))
    for options in ({"ssl_context": certificates().context()}, {"cafile": str(certificates().authority)}):
        async with connected(server, **options) as adapter:
            assert not await adapter.send([Record(Key("k"), b"1")])
    with pytest.raises(OSError, match="certificate verify failed"):
        await MQTTAdapter(server.url).connect(link())


# Options


@pytest.mark.parametrize(
    ("url", "options", "error", "says"),
    [
        (None, {}, TypeError, "needs a URL, like mqtt://"),
        ("mqtt://host", {"qoss": 1}, TypeError, "has no option qoss: it has qos"),
        ("mqtt://host?qos=1", {"qos": 1}, TypeError, "twice"),
        ("mqtt://me@host", {"user": "me"}, TypeError, "twice"),
        ("mqtt://host?qos=3", {}, ValueError, "qos must be 0, 1 or 2"),
        ("mqtt://host", {"qos": True}, ValueError, "qos must be 0, 1 or 2, not True"),
        ("mqtt://host", {"will": Key("a", "*")}, ValueError, "will must be an exact key"),
        ("mqtt://host", {"retain": 5}, ValueError, "retain must be a pattern"),
        ("mqtt://host", {"session": 0}, ValueError, "session must be a number of seconds"),
        ("mqtt://host?keep_alive=x", {}, ValueError, "keep_alive must be a number of seconds"),
        ("mqtt://host", {"client_id": ""}, ValueError, "client_id must be text"),
        ("mqtt://host", {"cafile": "x"}, TypeError, "cafile is for TLS: begin the URL with mqtts://"),
        (
            "mqtts://host",
            {"cafile": "/nowhere"},
            ValueError,
            "cafile must be files of certificates that can be read: No such file or directory",
        ),
        ("mqtts://host", {"cafile": "x", "ssl_context": 5}, ValueError, "ssl_context must be an ssl.SSLContext"),
        ("mqtt://host/path", {}, ValueError, "has no path"),
        ("mqtt://host:port", {}, ValueError, "the URL is invalid; it must be like mqtt://"),
        ("http://host", {}, ValueError, "must be like mqtt://"),
    ],
)
def test_options_that_make_no_sense_are_told(
    url: str | None, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        MQTTAdapter(url, **options)
    assert says in str(caught.value)


def test_a_missing_driver_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mqtt5", None)
    with pytest.raises(MissingDriver, match=r"MQTTAdapter needs mqtt5: pip install 'hubsub\[mqtt\]'"):
        MQTTAdapter("mqtt://localhost")


def test_the_driver_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, hubsub, hubsub.bridges.mqtt; sys.exit('mqtt5' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 0


# Lines


async def test_a_cancelled_send_costs_no_other(mosquitto: Mosquitto, namespace: str) -> None:
    async with connected(mosquitto, link(namespace)) as writer, connected(mosquitto, link(namespace)) as reader:
        await reader.subscribe([ALL])
        for number in range(20):
            sending = asyncio.create_task(writer.send([Record(Key("k"), b"%d" % number)] * 100))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
        assert not await writer.send([Record(Key("k"), b"end")])
        assert len(await received(reader, b"end")) == 2000


async def test_closing_ends_whoever_waits(mosquitto: Mosquitto, namespace: str) -> None:
    for name in (None, "reader"):
        adapter = MQTTAdapter(mosquitto.url)
        await adapter.connect(link(namespace, name=name))
        waiting = asyncio.create_task(adapter.receive())
        await asyncio.sleep(0)
        await adapter.close()
        with pytest.raises(ConnectionError):
            await waiting
        for call in (adapter.ping(), adapter.send([Record(Key("k"), b"")]), adapter.subscribe([ALL])):
            if name is None or call.__name__ != "subscribe":
                with pytest.raises(ConnectionError):
                    await call
            else:
                await call


async def test_a_silent_bridge_is_kept_by_the_broker(mosquitto: Mosquitto, namespace: str) -> None:
    async with connected(mosquitto, link(namespace), keep_alive=1) as adapter:
        session = adapter._line
        assert session is not None
        (connection,) = session.connections
        before = connection._written
        await until(lambda: connection._written >= before + 4 * 2, "the second ping")
        assert connection.error is None


async def test_a_message_in_many_pieces_is_put_together(mosquitto: Mosquitto, namespace: str) -> None:
    async with mosquitto.proxy() as line, connected(line.url, link(namespace)) as reader:
        await reader.subscribe([ALL])
        async with connected(mosquitto, link(namespace)) as writer:
            line.slow(200_000)
            large = os.urandom(300_000)
            await writer.send([Record(Key("k"), large), Record(Key("k"), b"end")])
            (found,) = await received(reader, b"end")
            assert found.payload == large
        line.slow(None)


async def test_whatever_a_broker_sends_that_is_no_packet_ends_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x20\x03\x00\x00\x00" + b"\xff\xff\xff\xff\xff\xff\xff")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        adapter = MQTTAdapter(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await adapter.connect(link())
        with pytest.raises(ConnectionError):
            await adapter.receive()
        await adapter.close()
