"""The adapter for RabbitMQ against a real one: keys, other programs, refusals, and what is deleted behind its back."""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiormq
import pamqp.frame
import pytest
from pamqp import commands

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.rabbitmq_server import RabbitMQ
from hubsub import Bridge, BridgeError, BrokerBusy, DeliveryError, Gap, Hub, Key, MissingDriver, NameTaken
from hubsub.bridges import DelayedRecord, Link, Loss, Record
from hubsub.bridges.rabbitmq import RabbitMQAdapter, client, topology
from hubsub.bridges.rabbitmq import line as line_module
from hubsub.bridges.rabbitmq.names import Names
from hubsub.bridges.rabbitmq.options import Settings
from hubsub.key import is_subset
from hubsub.testing.conformance import sites, until
from hubsub.testing.conformance.bare import bare

ALL: Key[Any] = Key("*")
PASSWORD = "s3cret/pa:ss"

pytestmark = pytest.mark.timeout(240)


def link(namespace: str, **fields: Any) -> Link:
    return Link(**{"sender": "s", "namespace": namespace, "incoming": (ALL,), **fields})


@asynccontextmanager
async def channel_of(rabbitmq: RabbitMQ) -> AsyncIterator[Any]:
    """A channel of another program."""
    connection = await aiormq.connect(rabbitmq.url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def bridged(stack: AsyncExitStack, url: str, namespace: str, *, ready: bool = True, **options: Any) -> Bridge:
    hub = await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Bridge(hub, url, namespace=namespace, **options))
    if ready:
        await bridge.ready(60)
    return bridge


def record(hub: Hub, pattern: Any = ALL) -> list[Any]:
    messages: list[Any] = []
    hub.add_listener(
        pattern, lambda key, message: messages.append((key, message)), where=lambda key, message: key[0] != "Hub"
    )
    return messages


# Keys

PARTS = ["a", "b", "", "*x", "#", "##", "%", "%23", "a.b", "é", "\x01", "\x7f", "\x85", "\ud800", "\udcff", "a b", "/"]


async def test_keys_and_patterns_match_at_rabbitmq_as_in_the_hub(rabbitmq: RabbitMQ, namespace: str) -> None:
    chance = random.Random(5)
    keys = list({Key.create_from(chance.choices(PARTS, k=chance.randint(1, 4))) for _ in range(250)})
    patterns = [Key.create_from(chance.choices([*PARTS, "*", "+"], k=chance.randint(1, 4))) for _ in range(60)]
    names = Names(link(namespace), None)
    async with channel_of(rabbitmq) as channel:
        await channel.exchange_declare(namespace, exchange_type="topic")
        for pattern in [ALL, *patterns]:
            queue = (await channel.queue_declare(exclusive=True)).queue
            await channel.queue_bind(queue, namespace, names.pattern(pattern))
            for key in keys:
                await channel.basic_publish(b"", exchange=namespace, routing_key=names.address(key), wait=False)
            found = set()
            expected = {key for key in keys if is_subset(key, pattern)}
            while (got := await channel.basic_get(queue, no_ack=True)).delivery.name == "Basic.GetOk":
                found.add(names.key(got.delivery.routing_key))
            assert found == expected, pattern
            await channel.queue_delete(queue)


async def test_odd_keys_come_as_they_were_sent(rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack) -> None:
    one = await bridged(stack, rabbitmq.url, namespace, outgoing=ALL)
    two = await bridged(stack, rabbitmq.url, namespace, incoming=ALL)
    messages = record(two.hub)
    await two.ready(60)
    keys = [Key(part) for part in PARTS] + [Key(part, "x", part) for part in PARTS]
    for key in keys:
        await one.hub.publish_confirmed(key, 1, timeout=60)
    await until(lambda: len(messages) == len(keys), lambda: f"{messages}")
    assert [key for key, _ in messages] == keys


async def test_a_key_that_is_too_long_is_refused_and_no_other(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    bridge = await bridged(stack, rabbitmq.url, namespace, outgoing=ALL)
    for length in (255, 254):
        await bridge.hub.publish_confirmed(Key("k" * length), 1, timeout=60)
    with pytest.raises(DeliveryError) as error:
        await bridge.hub.publish_confirmed(Key("é" * 128), 1, timeout=60)
    assert "256 bytes, where RabbitMQ accepts 255" in str(error.value.exceptions[0].__cause__)
    await bridge.hub.publish_confirmed("k", 1, timeout=60)
    assert bridge.health().reconnects == 0


async def test_metadata_that_is_too_large_is_refused_and_no_other(rabbitmq: RabbitMQ, namespace: str) -> None:
    async with bare(lambda: RabbitMQAdapter(rabbitmq.url), namespace) as writer:
        records = [Record(Key("k"), b"%d" % size, {"h": "x" * size}) for size in (100_000, 200_000, 1)]
        refused = await writer.send(*records)
        assert list(refused) == [1]
        assert "bytes of headers, where RabbitMQ accepts 131064" in str(refused[1])
        await writer.see(b"1")
        assert writer.payloads == [b"100000", b"1"]


# What is asked of RabbitMQ


async def test_what_nobody_wants_is_confirmed_and_counted(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    one = await bridged(stack, rabbitmq.url, namespace, outgoing=ALL)
    for number in range(3):
        await one.hub.publish_confirmed(("k", "1"), number, timeout=60)
    assert one.health().unroutable == 3
    two = await bridged(stack, rabbitmq.url, namespace, incoming=("k", "+"))
    messages = record(two.hub)
    await one.hub.publish_confirmed(("k", "1"), 3, timeout=60)
    await one.hub.publish_confirmed(("j", "1"), 4, timeout=60)
    await until(lambda: messages, "the message")
    assert one.health().unroutable == 4
    assert one.health().sent == 5


async def test_nothing_of_a_bridge_with_neither_group_nor_name_is_left_when_it_closes(
    rabbitmq: RabbitMQ, namespace: str
) -> None:
    async with Hub() as hub, Bridge(hub, rabbitmq.url, namespace=namespace, incoming=ALL) as bridge:
        await bridge.ready(60)
        assert len(queues(rabbitmq, namespace)) == 1
    assert not queues(rabbitmq, namespace)


def queues(rabbitmq: RabbitMQ, namespace: str) -> list[str]:
    """The queues of a namespace that are kept."""
    rows = rabbitmq.control("list_queues", "name", "durable").splitlines()
    return [row.split("\t")[0] for row in rows if row.startswith(f"{namespace}:") and row.endswith("true")]


async def test_two_live_bridges_cannot_have_one_name(rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack) -> None:
    one = await bridged(stack, rabbitmq.url, namespace, incoming=ALL, name="reader")
    two = await bridged(stack, rabbitmq.url, namespace, incoming=ALL, name="reader", ready=False)
    await until(lambda: isinstance(two.health().last_error, NameTaken), lambda: str(two.health()))
    await one.close()
    await two.ready(60)


async def test_attempts_are_what_rabbitmq_counts(rabbitmq: RabbitMQ, namespace: str) -> None:
    def make() -> RabbitMQAdapter:
        return RabbitMQAdapter(rabbitmq.url)

    async with bare(make, namespace, reads=False) as writer:
        for number in range(3):
            async with bare(make, namespace, group="g") as reader:
                if number == 0:
                    await writer.send(Record(Key("k"), b"1"))
                assert (await reader.see(b"1")).attempts == number


# Other programs


@pytest.mark.parametrize("prefix", ["", "shop"])
async def test_an_exchange_of_other_programs_is_read_and_written_plainly(
    prefix: str, rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    """Without a namespace, routing keys are keys as they stand; with one, those that begin with it."""
    exchange, start = f"theirs-{namespace}", f"{prefix}." if prefix else ""
    # With a namespace it would be ours, and escaped.
    odd = "lang.%" if prefix else "lang.a%23"
    async with channel_of(rabbitmq) as channel:
        await channel.exchange_declare(exchange, exchange_type="topic", durable=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, exchange, "#")
        url = f"{rabbitmq.url}?exchange={exchange}"
        bridge = await bridged(stack, url, prefix, both=[("lang", "*"), ("a", "*")], envelope=False)
        messages = record(bridge.hub, [("lang", "*"), ("a", "*")])
        await bridge.ready(60)
        properties = commands.Basic.Properties(content_type="application/json", headers={"n": 7, "t": "x"})
        for key in ("lang.C#", odd, "other.x", "a..b"):
            await channel.basic_publish(
                b'{"tea": 2}', exchange=exchange, routing_key=start + key, properties=properties
            )
        await until(lambda: len(messages) == 3, lambda: str(messages))
        keys = [key for key, _ in messages]
        assert keys == [("lang", "C#"), tuple(odd.split(".")), ("a", "", "b")]
        assert all(message == {"tea": 2} for _, message in messages)
        for key in keys:
            await bridge.hub.publish_confirmed(key, {"tea": 3}, timeout=60)
        seen = []
        while (got := await channel.basic_get(queue, no_ack=True)).delivery.name == "Basic.GetOk":
            seen.append((got.delivery.routing_key, got.body))
        assert [key for key, body in seen if body == b'{"tea":3}'] == [
            start + "lang.C#",
            start + odd,
            start + "a..b",
        ]


# Errors


@pytest.mark.parametrize(
    "url",
    [
        "amqp:/localhost",
        f"amqp://user:{PASSWORD}@localhost",
        "amqp://localhost:notaport",
        "amqp://localhost?exchange=",
        "amqp://localhost?exchange=amq.fanout",
        f"amqp://localhost?exchange={'x' * 128}",
        "amqp://localhost?expires=never",
        "amqp://localhost?heartbeat=0",
        f"amqp://localhost/{'v' * 256}",
        "amqps://localhost?cafile=/nowhere",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        RabbitMQAdapter(url)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("amqp://localhost?prefetch=5", {}),
        ("amqp://localhost", {"prefetch": 5}),
        ("amqp://localhost?expires=5", {"expires": 5}),
        ("amqp://a:b@localhost", {"user": "c"}),
        ("amqp://localhost", {"cafile": "x"}),
        (None, {}),
    ],
)
def test_an_option_that_does_not_exist_or_is_given_twice_is_a_type_error(url: Any, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        RabbitMQAdapter(url, **options)


def test_without_a_namespace_an_exchange_has_to_be_named() -> None:
    with pytest.raises(ValueError, match=r"name the exchange: amqp://host\?exchange="):
        Bridge(Hub(), "amqp://localhost", namespace="", both=ALL)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="too long for RabbitMQ"):
        Bridge(Hub(), "amqp://localhost", both=ALL, name="n" * 250)


def test_a_missing_driver_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pamqp.commands", None)
    with pytest.raises(MissingDriver, match=r"^RabbitMQAdapter needs pamqp: pip install 'hubsub\[amqp\]'$"):
        RabbitMQAdapter("amqp://localhost")


async def test_what_rabbitmq_refuses_is_an_error_with_a_remedy_and_without_a_secret(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with channel_of(rabbitmq) as channel:
        await channel.exchange_declare(f"{namespace}-fanout", exchange_type="fanout", auto_delete=True)
        await channel.queue_declare(f"{namespace}:group:g", durable=True)
        rabbitmq.control("add_user", namespace, PASSWORD)
        rabbitmq.control("set_permissions", namespace, "^nothing", ".*", ".*")
        for url, space, options, remedy in (
            (rabbitmq.url_for("guest", PASSWORD), namespace, {}, "correct user and password"),
            (rabbitmq.url_for("guest", "guest", "nowhere"), namespace, {}, "name a virtual host that exists"),
            (rabbitmq.url, f"{namespace}-fanout", {}, "it has to be a topic exchange"),
            (rabbitmq.url, namespace, {"group": "g"}, "choose another name or group"),
            (rabbitmq.url_for(namespace, PASSWORD), f"{namespace}-new", {}, "rabbitmqctl set_permissions"),
        ):
            bridge = await bridged(stack, url, space, ready=False, incoming=ALL, **options)
            await until(lambda bridge=bridge: bridge.health().last_error, "the error")  # type: ignore[misc]
            error = bridge.health().last_error
            assert isinstance(error, BridgeError), repr(error)
            assert remedy in str(error)
            assert PASSWORD not in f"{error}{error.__cause__!r}{bridge!r}{bridge.adapter!r}"
            await bridge.close(0)
    rabbitmq.control("delete_user", namespace)
    assert PASSWORD not in caplog.text


async def test_a_server_that_is_no_rabbitmq_is_an_error(stack: AsyncExitStack) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"AMQP\x03\x01\0\0")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bridge = await bridged(stack, f"amqp://127.0.0.1:{port}", "n", ready=False, both=ALL)
        await until(lambda: bridge.health().last_error, "the error")
        assert "AMQP 0-9-1" in str(bridge.health().last_error)
        await bridge.close(0)


async def test_heartbeats_are_no_sign_of_life_while_an_answer_is_owed() -> None:
    heard: list[tuple[int, int]] = []
    answered, ended = asyncio.Event(), asyncio.Event()

    async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(method: Any, channel: int = 0) -> None:
            writer.write(pamqp.frame.marshal(method, channel))

        await reader.readexactly(8)
        say(commands.Connection.Start(0, 9, {}, "PLAIN", "en_US"))
        await reader.read(65536)
        say(commands.Connection.Tune(2047, 131072, 1))
        await reader.read(65536)
        say(commands.Connection.OpenOk())
        rest = b""
        while not rest.endswith(pamqp.frame.marshal(commands.Channel.Open(), 1)):
            rest += await reader.read(65536)
        late = asyncio.ensure_future(reader.read(65536))
        for _ in range(100):
            # Longer than the second in which it would hear two heartbeats of ours.
            writer.write(client.HEARTBEAT)
            await asyncio.sleep(0.015)
            heard.append(connection.moved)
        assert not late.done()
        say(commands.Channel.OpenOk(), 1)
        answered.set()
        with suppress(ConnectionError):
            await late
        writer.close()
        ended.set()

    async with await asyncio.start_server(stand_still, "127.0.0.1", 0) as server:
        url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connection = client.Connection(Settings("RabbitMQAdapter", url, {}).login(), lambda: None)
        await connection.open()
        await connection.channel()
        assert answered.is_set()
        assert len(set(heard[10:])) == 1
        connection.abort()
        await ended.wait()


async def test_heartbeats_go_on_while_an_answer_waits_behind_messages_on_a_narrow_line(rabbitmq: RabbitMQ) -> None:
    # An answer comes six seconds late, and RabbitMQ closes a connection of which it has heard nothing for three.
    async with rabbitmq.proxy() as line, sites(lambda: RabbitMQAdapter(f"{line.url}?heartbeat=1")) as those:
        one = await those.add(outgoing=ALL, adapter=RabbitMQAdapter(rabbitmq.url))
        two = await those.add(ALL, incoming=ALL)
        line.slow(100_000)
        for number in range(60):
            await one.hub.publish_wait("k", [number, "x" * 10_000])
        await two.wait_for(60)
        assert [message[0] for message in two.messages] == list(range(60))
        assert not two.bridge.health().reconnects
        line.slow(None)


async def test_it_speaks_tls_and_says_who_does_not(private: Private, stack: AsyncExitStack) -> None:
    rabbitmq = await private(RabbitMQ(tls=True))
    authority = certificates().authority
    bridge = await bridged(stack, f"{rabbitmq.url}?cafile={authority}", "tls", both=ALL)
    messages = record(bridge.hub, "k")
    await bridge.hub.publish_confirmed("k", 1, timeout=60)
    assert messages == [(("k",), 1)]
    for url, said in (
        (rabbitmq.url, "no TLS connection to RabbitMQ"),
        (rabbitmq.url.replace("amqps", "amqp"), "closed the connection"),
    ):
        other = await bridged(stack, url, "tls", ready=False, both=ALL)
        await until(lambda other=other: other.health().last_error, "the error")  # type: ignore[misc]
        assert said in str(other.health().last_error)
        await other.close(0)


async def test_of_several_hosts_one_that_answers_is_found(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    url = f"amqp://127.0.0.1:1,127.0.0.1:{rabbitmq.port}"
    await bridged(stack, url, namespace, both=ALL)


# What is deleted behind its back


@pytest.mark.parametrize("options", [{}, {"name": "reader"}, {"group": "readers"}], ids=["plain", "name", "group"])
@pytest.mark.parametrize("what", ["queue", "exchange"])
async def test_what_is_deleted_is_one_gap_and_made_again(
    what: str, options: dict[str, Any], rabbitmq: RabbitMQ, namespace: str
) -> None:
    async with sites(lambda: RabbitMQAdapter(f"{rabbitmq.url}?heartbeat=1")) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL, incoming=ALL, **options)
        await one.hub.publish_confirmed("k", 1, timeout=60)
        await two.see(1)
        async with channel_of(rabbitmq) as channel:
            if what == "queue":
                names = Names(link(those.namespace, sender=two.bridge._sender_name, **options), None)
                await channel.queue_delete(names.queue)
            else:
                await channel.exchange_delete(those.namespace)
        await two.wait_for_gaps(1)
        await two.bridge.ready(60)
        await one.hub.publish_confirmed("k", 2, timeout=60)
        await until(lambda: 2 in two.messages, lambda: f"{two.messages} {two.bridge.health()} {one.bridge.health()}")
        assert two.messages == [1, 2]
        assert [type(gap) for gap in two.gaps] == [Gap], two.gaps
        assert "deleted" in two.gaps[0].reason


@pytest.mark.parametrize("options", [{"group": "readers"}, {"name": "reader"}], ids=["group", "name"])
async def test_who_is_back_reads_while_the_streams_are_not_open_and_then_unbinds_what_others_have_bound(
    options: dict[str, Any], rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_open = asyncio.Event()
    bind_exactly = topology.bind_exactly

    async def later(*arguments: Any) -> None:
        await are_open.wait()
        await bind_exactly(*arguments)

    async with rabbitmq.proxy() as line, sites(lambda: RabbitMQAdapter(f"{line.url}?heartbeat=1")) as those:
        one = await those.add(outgoing=ALL, adapter=RabbitMQAdapter(rabbitmq.url))
        two = await those.add(("k", "+"), incoming=("k", "+"), **options)
        names = Names(link(those.namespace, **options), None)
        async with channel_of(rabbitmq) as channel:
            await channel.queue_bind(names.queue, those.namespace, "other.#")
            bound = json.dumps([*map(names.pattern, [Key("k", "+")]), "other.#"]).encode()
            await channel.basic_publish(bound, routing_key=f"{names.queue}:bound")
        monkeypatch.setattr(line_module, "bind_exactly", later)
        line.cut()
        await one.hub.publish_confirmed(("k", "1"), 1, timeout=60)
        await two.see(1)
        assert two.bridge.health().reconnects == 1
        are_open.set()
        async with asyncio.timeout(30):
            while not one.bridge.health().unroutable:
                await one.hub.publish_confirmed(("other", "1"), 2)
        await one.hub.publish_confirmed(("k", "2"), 3, timeout=60)
        await two.see(3)
        assert not two.gaps


async def test_a_queue_that_is_gone_is_one_loss_however_often_connecting_fails(
    rabbitmq: RabbitMQ, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = RabbitMQAdapter(rabbitmq.url)
    await adapter.connect(link(namespace))
    await adapter.lost()
    async with channel_of(rabbitmq) as channel:
        await channel.queue_delete(Names(link(namespace), None).queue)

    def fail(*arguments: Any) -> None:
        raise ConnectionResetError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(line_module, "binds", fail)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await adapter.connect(link(namespace))
    await adapter.connect(link(namespace))
    assert await adapter.receive() == [Loss("the queue was deleted, or has expired")]
    await adapter.close()


async def test_what_a_lost_connection_has_in_hand_comes_before_what_is_newer(
    rabbitmq: RabbitMQ, namespace: str
) -> None:
    """RabbitMQ may learn of the loss long after the bridge is connected again."""
    before, after = RabbitMQAdapter(rabbitmq.url), RabbitMQAdapter(rabbitmq.url)
    await before.connect(link(namespace, window=2))
    await before.send([Record(Key("k"), b"%d" % number) for number in range(2)])
    found: list[Any] = []
    while len(found) < 2:
        found += await before.receive()
    await after.connect(link(namespace))
    await after.send([Record(Key("k"), b"%d" % number) for number in range(2, 4)])
    await before.lost()
    again: list[Any] = []
    while len(again) < 4:
        again += await after.receive()
    assert [received.payload for received in again] == [b"0", b"1", b"2", b"3"]
    await after.close()


async def test_looking_for_an_exchange_that_is_deleted_meanwhile_does_not_make_it(
    rabbitmq: RabbitMQ, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = RabbitMQAdapter(rabbitmq.url)
    await adapter.connect(link(namespace))
    try:
        async with channel_of(rabbitmq) as channel:
            line: Any = adapter.connected()
            assert await topology.exchange_exists(line.reader, line.names)
            await channel.exchange_delete(namespace)
            channel_with = line.reader.channel
            with monkeypatch.context() as patch:
                # Without the declaration that found it a moment ago.
                patch.setattr(line.reader, "channel", lambda *methods: channel_with(*methods[1:]))
                assert not await topology.exchange_exists(line.reader, line.names)
            assert not await topology.exchange_exists(line.reader, line.names)
    finally:
        await adapter.close()


async def test_numbers_of_channels_are_used_again_and_those_in_use_are_not(rabbitmq: RabbitMQ) -> None:
    connection = client.Connection(Settings("RabbitMQAdapter", rabbitmq.url, {}).login(), lambda: None)
    await connection.open()
    kept, numbers = await connection.channel(), []
    # RabbitMQ grants 2047, and a connection that lives for days opens more.
    for _ in range(25):
        channels = await asyncio.gather(*(connection.channel() for _ in range(100)))
        numbers += [channel.number for channel in channels]
        for channel in channels:
            channel.close()
    assert max(numbers) == 2047
    assert kept.number not in numbers
    await kept.call(commands.Basic.Qos(prefetch_count=1))
    await connection.close(5)


async def test_a_stream_that_is_not_there_yet_after_a_start_costs_no_connection() -> None:
    refusals = [
        client.Refused(404, "NOT_FOUND - home node 'r@n' of durable queue 's' in vhost '/' is down or inaccessible"),
        client.Refused(406, "PRECONDITION_FAILED - queue 's' in vhost '/' does not have a replica on the local node"),
    ]

    async def call() -> str:
        if refusals:
            raise refusals.pop()
        return "done"

    assert await topology.when_started(call) == "done"
    refusals.append(client.Refused(406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 's'"))
    with pytest.raises(client.Refused):
        await topology.when_started(call)


async def test_an_exchange_that_is_made_again_in_another_way_is_an_error_with_a_remedy(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    url = f"{rabbitmq.url}?heartbeat=1"
    bridge = await bridged(stack, url, namespace, incoming=ALL)
    async with channel_of(rabbitmq) as channel:
        await channel.exchange_delete(namespace)
        await channel.exchange_declare(namespace, exchange_type="fanout", durable=True)
        await until(lambda: bridge.health().last_error, "the error")
        assert "it has to be a topic exchange" in str(bridge.health().last_error)
        await channel.exchange_delete(namespace)
    await until(lambda: bridge.health().state == "up", lambda: str(bridge.health()))


async def test_a_queue_that_expires_while_its_bridge_is_away_is_a_gap(rabbitmq: RabbitMQ, namespace: str) -> None:
    async with rabbitmq.proxy() as line, sites(lambda: RabbitMQAdapter(f"{line.url}?expires=1.5")) as those:
        two = await those.add(ALL, incoming=ALL)
        line.refuse()
        line.cut()
        await until(lambda: not queues(rabbitmq, those.namespace), "the queue to expire", 60)
        await line.accept()
        await two.wait_for_gaps(1)
        assert [gap.reason for gap in two.gaps] == ["the queue was deleted, or has expired"]


# Dead letters and delays


async def test_dead_letters_go_to_an_exchange_where_others_can_have_them_too(
    rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack
) -> None:
    bridge = await bridged(stack, rabbitmq.url, namespace, incoming=ALL, group="g", attempts=1)
    async with channel_of(rabbitmq) as channel:
        await channel.exchange_declare(f"{namespace}:dead", exchange_type="topic", durable=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, f"{namespace}:dead", "order.*")

        def refuse(key: Key[Any], message: Any) -> None:
            raise ValueError("out of tea")

        bridge.hub.add_listener(("order", "+"), refuse)
        await bridge.ready(60)
        properties = commands.Basic.Properties(headers={"trace": "x"})
        await channel.basic_publish(b"1", exchange=namespace, routing_key="order.new", properties=properties)
        await until(lambda: bridge.health().dead_letters and not bridge.health().in_flight, "the letter")
        letter = await channel.basic_get(queue, no_ack=True)
        assert (letter.delivery.routing_key, letter.body) == ("order.new", b"1")
        headers = letter.header.properties.headers
        assert headers["trace"] == "x"
        assert "out of tea" in headers["x-hubsub-dead-reason"]
        assert headers["x-hubsub-dead-reader"] == "group:g"


async def test_a_rejected_message_is_stored_before_those_behind_it(rabbitmq: RabbitMQ, namespace: str) -> None:
    adapter = RabbitMQAdapter(rabbitmq.url)
    await adapter.connect(link(namespace, incoming=(), reads=False))
    records = [Record(Key(name), name.encode(), {}, number) for number, name in enumerate(("a", "b", "c"), 1)]
    full = f"{namespace}.full"
    try:
        async with channel_of(rabbitmq) as channel:
            # As RabbitMQ does while it starts: it rejects the first ones, and would store those behind them.
            nothing: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
            await channel.queue_declare(full, arguments=nothing, auto_delete=False)
            await channel.queue_bind(full, namespace, "a")
            reading = (await channel.queue_declare("", exclusive=True)).queue
            await channel.queue_bind(reading, namespace, "#")
            for _ in range(2):
                with pytest.raises(BrokerBusy):
                    await adapter.send(records)
            await channel.queue_delete(full)
            assert not await adapter.send(records)
            bodies = [(await channel.basic_get(reading, no_ack=True)).body for _ in range(5)]
        assert bodies == [b"a", b"a", b"a", b"b", b"c"]
    finally:
        await adapter.close()


async def test_what_is_due_soon_does_not_wait_behind_what_is_due_late(rabbitmq: RabbitMQ, namespace: str) -> None:
    def make() -> RabbitMQAdapter:
        return RabbitMQAdapter(rabbitmq.url)

    async with bare(make, namespace) as reader, bare(make, namespace, reads=False) as writer:
        # These are there first, and have made all that waits.
        late = [DelayedRecord.at(time.time() + each, Record(Key("k"), b"late")) for each in (3e7, 3600, 2**20 / 10)]
        assert not await writer.send(*late)
        now = time.time()
        dues = {b"%d" % number: now + each for number, each in enumerate((1.5, 0.9, 0.3, 0.6, 1.2), 1)}
        assert not await writer.send(*(DelayedRecord.at(due, Record(Key("k"), each)) for each, due in dues.items()))
        await until(lambda: len(reader.received) == 5, lambda: str(reader.payloads))
        assert reader.payloads == [b"3", b"4", b"2", b"5", b"1"]
        assert time.time() > now + 1.5 - 0.05
        assert all(not each.headers for each in reader.received)


async def test_what_is_due_too_late_is_refused(rabbitmq: RabbitMQ, namespace: str, stack: AsyncExitStack) -> None:
    bridge = await bridged(stack, rabbitmq.url, namespace, outgoing=ALL)
    with pytest.raises(DeliveryError) as error:
        await bridge.hub.publish_confirmed("k", 1, due=time.time() + 86400 * 3000, timeout=60)
    assert "RabbitMQ keeps it for 2485 at most" in str(error.value.exceptions[0].__cause__)
