"""The adapter for core NATS against real servers of two versions, through the contract of adapters and nothing else."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nkeys
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from test_key import naive

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.nats_server import Nats
from hubsub import (
    BridgeError,
    DecodeError,
    EncodeError,
    Key,
    MissingDriver,
    NoResponders,
    PayloadTooLarge,
    RemoteError,
)
from hubsub.bridges.adapter import Link, Received, Record
from hubsub.bridges.nats import NatsAdapter
from hubsub.bridges.nats.connection import MOST_UNREAD
from hubsub.bridges.nats.headers import pack, unpack
from hubsub.bridges.nats.subjects import LONGEST
from hubsub.testing.conformance import sites, until

ALL: Key[Any] = Key("*")
END: Key[Any] = Key("the", "end")
PASSWORD = "s3cret/pa:ss"

VERSIONS = pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])


@pytest.fixture(scope="module")
def server(each_nats: Nats) -> Nats:
    return each_nats


def link(namespace: str = "hubsub", **fields: Any) -> Link:
    return Link(**{"sender": "s", "namespace": namespace, "incoming": (ALL,), **fields})


class Reader:
    """An adapter whose messages are received as they come."""

    def __init__(self, adapter: NatsAdapter) -> None:
        self.adapter = adapter
        self.received: list[Received] = []
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        while True:
            self.received += await self.adapter.receive()  # type: ignore[arg-type]

    async def until(self, count: int) -> list[Received]:
        await until(lambda: len(self.received) >= count or self.task.done(), lambda: f"{count} of {self.received[-9:]}")
        if self.task.done():
            await self.task
        return self.received

    @property
    def payloads(self) -> list[bytes | None]:
        return [each.payload for each in self.received]


@asynccontextmanager
async def reading(server: Nats | NatsAdapter, *patterns: Key[Any], to: Link | None = None) -> AsyncIterator[Reader]:
    adapter = NatsAdapter(server.url) if isinstance(server, Nats) else server
    await adapter.connect(to or link())
    await adapter.subscribe(patterns or [ALL])
    reader = Reader(adapter)
    try:
        yield reader
    finally:
        await adapter.close()
        with pytest.raises(ConnectionError):
            await reader.task


@asynccontextmanager
async def connected(server: Nats | str, namespace: str = "hubsub", **options: Any) -> AsyncIterator[NatsAdapter]:
    """One that only sends."""
    adapter = NatsAdapter(server if isinstance(server, str) else server.url, **options)
    await adapter.connect(link(namespace, incoming=(), sender="writer"))
    try:
        yield adapter
    finally:
        await adapter.close()


@asynccontextmanager
async def stranger(server: Nats) -> AsyncIterator[Client]:
    """A client that knows nothing of hubs."""
    client = await server.client()
    try:
        yield client
    finally:
        await client.close()


# Keys as subjects, headers as lines


PARTS = st.text(st.sampled_from("ab*>+.%\\ \t\0\n=é\x7f\ud800\udc80$"), max_size=4) | st.text(max_size=4)
EXACT = st.lists(PARTS.filter(lambda part: part not in ("*", "+")), min_size=1, max_size=4).map(lambda p: Key(*p))
PATTERNS = st.lists(st.sampled_from(["*", "+", "a", "b", "", ">", "a.b"]), min_size=1, max_size=4).map(
    lambda p: Key(*p)
)
NEAR = st.lists(st.sampled_from(["a", "b", "", ">", "a.b", "c"]), min_size=1, max_size=4).map(lambda p: Key(*p))
TEXTS = st.text() | st.lists(st.sampled_from([*"%250A \n\r:é\t", "\ud800", "\udcc3", "%41"]), max_size=6).map("".join)


@example([Key("*")], [Key("|")])
@given(st.lists(PATTERNS, min_size=1, max_size=5, unique=True), st.lists(NEAR | EXACT, min_size=1, max_size=6))
@settings(max_examples=60)
async def test_patterns_match_at_the_server_as_they_do_in_a_hub(
    server: Nats, patterns: list[Key[Any]], keys: list[Key[Any]]
) -> None:
    async with reading(server, *patterns) as reader, connected(server) as writer:
        assert not await writer.send([Record(key, str(index).encode()) for index, key in enumerate(keys)])
        await reader.adapter.ping()
        expected = [key for key in keys if any(naive(pattern, key) for pattern in patterns)]
        await reader.until(len(expected))
        assert [each.key for each in reader.received] == expected  # each once, and in order


@given(st.lists(st.tuples(EXACT, st.binary(max_size=40), st.dictionaries(TEXTS, TEXTS)), min_size=1, max_size=5))
@example([(Key("a"), b"", {"hubsub-sender": "writer", "%68ubsub-sender": "", "Nats-Msg-Id": "1", "%4Eats-Msg": ""})])
@example([(Key(""), b"", {"": ""}), (Key("%", "%25", "%2E"), b"\r\n", {"%": "%25", "a b": "x\r\ny: z"})])
@settings(max_examples=60)
async def test_every_key_payload_and_header_arrives_as_it_was(server: Nats, messages: list[Any]) -> None:
    messages = [each for each in messages if "ce_replyto" not in each[2]]
    async with reading(server) as reader, connected(server) as writer:
        assert not await writer.send([Record(*each) for each in messages])
        await reader.until(len(messages))
        assert [each[:3] for each in reader.received] == messages


@given(st.dictionaries(TEXTS, TEXTS, min_size=1))
def test_headers_are_lines_that_every_client_reads(headers: dict[str, str]) -> None:
    block = pack(headers)
    assert unpack(block) == ("", headers, {})
    lines = block.split(b"\r\n")
    assert lines[0] == b"NATS/1.0"
    assert lines[-2:] == [b"", b""]
    assert len(Client._parse_header_lines(block.partition(b"\r\n")[2])) == len(headers)


@pytest.mark.parametrize(
    ("block", "status", "headers"),
    [
        (b"NATS/1.0\r\n\r\n", "", {}),
        (b"NATS/1.0 503\r\n\r\n", "503", {}),
        (b"NATS/1.0 100 Idle\r\nA:b\r\nC:  d \r\n\r\n", "100 Idle", {"A": "b", "C": "d"}),
        (
            b"NATS/1.0\r\nA: %41\r\nB: %zz\r\nC: %0A\r\nA%20: 100%\r\n\r\n",
            "",
            {"A": "%41", "B": "%zz", "C": "\n", "A ": "100%"},
        ),
        (b"NATS/1.0\r\nno colon\r\nA: \xff\r\n\r\n", "", {"A": "\ufffd"}),
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", "", {"A": "2"}),
    ],
)
def test_headers_of_others_are_read_as_they_stand(block: bytes, status: str, headers: dict[str, str]) -> None:
    assert unpack(block) == (status, headers, {})


async def test_a_subject_that_is_too_long_is_refused_alone_and_a_pattern_is_widened(nats: Nats) -> None:
    long, pattern = Key("a", "é" * 1000, "b" * 1500), Key("a", *["x" * 500] * 10)
    assert len("".join(pattern)) > LONGEST
    async with reading(nats, pattern, Key("b")) as reader, connected(nats) as writer:
        refused = await writer.send([Record(long, b"1"), Record(Key("b"), b"2"), Record(pattern, b"3")])
        assert list(refused) == [0, 2]
        assert all(isinstance(error, EncodeError) for error in refused.values())
        await writer.send([Record(Key(*pattern[:7], "y"), b"4")])
        await reader.until(2)
        assert reader.payloads == [b"2", b"4"]


async def test_namespaces_do_not_hear_each_other_whatever_they_are_called(nats: Nats) -> None:
    names = ["hubsub", "a b", "a.b", "a", "*", ">", "é", "$x", "%", "a%20b"]
    for name in names:
        async with reading(nats, to=link(name)) as reader:
            for other in names:
                async with connected(nats, other) as writer:
                    await writer.send([Record(Key("k"), other.encode())])
            await reader.adapter.ping()
            await reader.until(1)
            assert reader.payloads == [name.encode()]


# What comes


async def test_what_is_sent_after_a_subscription_is_confirmed_comes(nats: Nats) -> None:
    async with reading(nats, Key("nothing")) as reader, connected(nats) as writer:
        for number in range(150):
            key = Key("k", str(number))
            # Something is on its way while it subscribes.
            busy = asyncio.ensure_future(reader.adapter.send([Record(Key("x"), b"x" * 1000)] * 50))
            await reader.adapter.subscribe([key])
            await writer.send([Record(key, b"%d" % number)])
            await busy
        await reader.until(150)
        assert reader.payloads == [b"%d" % number for number in range(150)]


async def test_what_comes_by_many_patterns_comes_once_and_in_order(nats: Nats) -> None:
    patterns = [Key("a", "+"), Key("+", "b"), Key("a", "b"), Key("c"), Key("+", "+", "*")]
    async with reading(nats, *patterns) as reader, connected(nats) as writer:
        keys = [Key("a", "b"), Key("c"), Key("a", "x"), Key("a", "b", "c")] * 250
        await writer.send([Record(key, b"%d" % index) for index, key in enumerate(keys)])
        await reader.adapter.unsubscribe([Key("a", "b"), Key("a", "+")])
        await writer.send([Record(Key("a", "b"), b"last"), Record(Key("a", "x"), b"no"), Record(Key("c"), b"end")])
        await reader.until(1002)
        assert reader.payloads == [*(b"%d" % index for index in range(1000)), b"last", b"end"]


async def test_a_connection_of_which_only_the_server_thinks_that_it_lives_takes_nothing_away(nats: Nats) -> None:
    # Both are of one bridge: so it is after a line was cut without a word.
    async with reading(nats), reading(nats) as reader, connected(nats) as writer:
        await writer.send([Record(Key("k"), b"%d" % number) for number in range(50)])
        await reader.until(50)
        assert reader.payloads == [b"%d" % number for number in range(50)]


async def test_a_message_that_comes_in_pieces_is_put_together(nats: Nats) -> None:
    sizes = [0, 1, 32_767, 32_768, 100_000, 1_000_000, 2, 900_000]
    async with reading(nats) as reader, connected(nats) as writer:
        assert not await writer.send([Record(Key("k"), os.urandom(size)) for size in sizes])
        await reader.until(len(sizes))
        assert [len(payload or b"") for payload in reader.payloads] == sizes


async def test_a_group_is_a_queue_group_also_of_clients_that_are_no_hubs(nats: Nats, namespace: str) -> None:
    to = link(namespace, group="work ers.x")
    async with (
        reading(nats, to=to) as one,
        reading(nats, Key("+"), to=to) as two,
        stranger(nats) as client,
        connected(nats, namespace) as writer,
    ):
        theirs: list[bytes] = []

        async def take(message: Msg) -> None:
            theirs.append(message.data)

        await client.subscribe(f"{namespace}.*", queue="work%20ers.x", cb=take)
        await client.flush()
        await writer.send([Record(Key("k"), b"%d" % number) for number in range(300)])
        await until(lambda: len(one.received) + len(two.received) + len(theirs) >= 300)
        everything = [*one.payloads, *two.payloads, *theirs]
        assert sorted(everything, key=lambda each: int(each or b"")) == [b"%d" % number for number in range(300)]
        assert all((one.received, two.received, theirs))


async def test_a_member_that_leaves_a_group_loses_nothing_that_was_sent_to_it(nats: Nats) -> None:
    async with sites(lambda: NatsAdapter(nats.url)) as those:
        sender = await those.add(outgoing=ALL)
        stays = await those.add(ALL, incoming=ALL, group="g")
        came: list[Any] = []
        sending = asyncio.create_task(_send_on(sender.hub))
        for _ in range(5):
            leaves = await those.add(ALL, incoming=ALL, group="g")
            await leaves.wait_for(20)
            await leaves.close()
            came += leaves.messages
        sending.cancel()
        await asyncio.wait([sending])
        last = await sender.hub.publish_confirmed("k", "last")
        assert last
        await stays.see("last")
        numbers = sorted(each for each in came + stays.messages if each != "last")
        assert numbers == list(range(len(numbers)))


async def _send_on(hub: Any) -> None:
    number = 0
    while True:
        hub.publish("k", number)
        number += 1
        await asyncio.sleep(0.001)


# Clients that are no hubs


async def test_clients_that_are_no_hubs_are_understood_and_understand(nats: Nats) -> None:
    pattern = Key("sensor", "*")
    async with sites(lambda: NatsAdapter(nats.url)) as those, stranger(nats) as client:
        subscription = await client.subscribe("sensor.>")
        await client.flush()
        hub = (await those.add(namespace="", both=pattern)).hub
        other = await those.add(pattern, namespace="", both=pattern)
        await client.publish("sensor.kitchen.temperature", b"21.5", headers={"Unit": "C"})
        await other.wait_for(1)
        (event,) = other.events
        assert (event.key, event.message) == (("sensor", "kitchen", "temperature"), 21.5)
        assert event.meta is not None
        assert event.meta.headers == {"Unit": "C"}
        hub.publish_with_headers(("sensor", "küche"), {"celsius": 3}, headers={"Unit": "C"})
        theirs = [await subscription.next_msg(5) for _ in range(2)]
        assert theirs[1].subject == "sensor.küche"
        assert json.loads(theirs[1].data) == {"celsius": 3}
        assert theirs[1].headers is not None
        assert theirs[1].headers["Unit"] == "C"
        assert theirs[1].headers["content-type"] == "application/json"


async def test_a_request_of_a_client_that_is_no_hub_is_answered(nats: Nats, namespace: str) -> None:
    def double(key: Key[Any], message: Any) -> Any:
        return 2 * message

    def fail(key: Key[Any], message: Any) -> Any:
        raise ValueError("not today")

    async with sites(lambda: NatsAdapter(nats.url)) as those, stranger(nats) as client:
        site = await those.add(namespace=namespace, both=ALL)
        site.hub.respond(("double", "+"), double)
        site.hub.respond(("fail",), fail)
        await site.bridge.ready()
        for number in range(20):
            reply = await client.request(f"{namespace}.double.it", b"%d" % number, timeout=5)
            assert json.loads(reply.data) == 2 * number
        reply = await client.request(f"{namespace}.double.it", b"4", timeout=5, headers={"A": "b"}, old_style=False)
        assert json.loads(reply.data) == 8
        reply = await client.request(f"{namespace}.fail", b"1", timeout=5)
        assert reply.headers is not None
        assert "not today" in reply.headers["Nats-Service-Error"]
        assert reply.headers["Nats-Service-Error-Code"] == "500"


async def test_a_client_that_is_no_hub_answers_requests(nats: Nats, namespace: str) -> None:
    async def answer(message: Msg) -> None:
        await client.publish(message.reply, b"%d" % (2 * json.loads(message.data)))

    async def refuse(message: Msg) -> None:
        await client.publish(
            message.reply, b"", headers={"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404"}
        )

    async with sites(lambda: NatsAdapter(nats.url)) as those, stranger(nats) as client:
        await client.subscribe(f"{namespace}.double.*", cb=answer)
        await client.subscribe(f"{namespace}.refuse", cb=refuse)
        await client.flush()
        hub = (await those.add(namespace=namespace, outgoing=ALL)).hub
        asked = [hub.request(("double", "it"), number, timeout=10, local=False) for number in range(20)]
        assert await asyncio.gather(*asked) == [2 * number for number in range(20)]
        with pytest.raises(RemoteError, match="no such thing"):
            await hub.request("refuse", 1, timeout=10, local=False)


async def test_a_request_that_nobody_is_subscribed_to_fails_at_once_unless_somebody_here_answers(
    nats: Nats, namespace: str
) -> None:
    async with sites(lambda: NatsAdapter(nats.url)) as those:
        hub = (await those.add(namespace=namespace, outgoing=ALL)).hub
        with pytest.raises(NoResponders):
            await hub.request("nobody", 1, timeout=3600, local=False)
        begun = asyncio.Event()
        may_end = asyncio.Event()

        async def slow(key: Key[Any], message: Any) -> Any:
            begun.set()
            await may_end.wait()
            return "here"

        hub.respond("slow", slow)
        asked = asyncio.ensure_future(hub.request("slow", 1, timeout=30, local=False))
        await begun.wait()
        # Longer than the server takes to say that nobody is there.
        with pytest.raises(NoResponders):
            await hub.request("nobody", 1, timeout=3600, local=False)
        assert not asked.done()
        may_end.set()
        assert await asked == "here"


async def test_no_reply_goes_where_somebody_likes(nats: Nats, namespace: str) -> None:
    async with reading(nats, to=link(namespace)) as reader, stranger(nats) as client:
        headers = {"ce_specversion": "1.0", "ce_replyto": "Hub/reply/nats", "ce_correlation": "orders.new"}
        await client.publish(f"{namespace}.k", b"1", headers=headers)
        await client.publish(f"{namespace}.k", b"2", reply="$X.y")
        await client.publish(f"{namespace}.k", b"3", reply="i" * 200)
        await client.publish(f"{namespace}.k", b"4", reply="_INBOX.x.y")
        await reader.until(4)
        replies = [each.headers.get("ce_replyto") for each in reader.received]
        assert replies == [None, None, None, "Hub/reply/nats"]
        for to in ("a b", "a 0\r\n\r\nPUB b", "$SYS.x", "a.*", "a.>", ""):
            record = Record(Key("Hub", "reply", "nats"), b"1", {"ce_correlation": to}, is_control=True)
            refused = await reader.adapter.send([record])
            assert isinstance(refused[0], EncodeError), to


async def test_what_others_say_to_each_other_is_not_for_whoever_wants_everything(nats: Nats) -> None:
    async with reading(nats, to=link("")) as reader, stranger(nats) as client:
        for subject in ("_INBOX.a.b", "$KV.bucket.key", "Hub.addedSubscriber.x", "k"):
            await client.publish(subject, subject.encode())
        await reader.until(1)
        assert reader.payloads == [b"k"]
    async with reading(nats, Key("$KV", "bucket", "+"), to=link("")) as reader, stranger(nats) as client:
        await client.publish("$KV.bucket.key", b"asked for")
        await reader.until(1)
        assert reader.payloads == [b"asked for"]


async def test_what_goes_without_an_envelope_does_not_come_back(nats: Nats, namespace: str) -> None:
    async with sites(lambda: NatsAdapter(nats.url)) as those, stranger(nats) as client:
        options: dict[str, Any] = {"namespace": namespace, "both": ALL, "envelope": False, "codec": "str"}
        one, two = await those.add(ALL, **options), await those.add(ALL, **options)
        one.hub.publish("chat", "hello")
        one.hub.publish("chat", "hello")
        await two.wait_for(2)
        await client.publish(f"{namespace}.chat", b"from another")
        for site in (one, two):
            await site.see("from another")
            assert site.messages == ["hello", "hello", "from another"]


async def test_what_nobody_can_read_is_said_and_what_follows_is_read(nats: Nats, namespace: str) -> None:
    async with sites(lambda: NatsAdapter(nats.url)) as those, stranger(nats) as client:
        site = await those.add(ALL, namespace=namespace)
        await client.publish(f"{namespace}.k", b"{")
        await client.publish(f"{namespace}.k", b"1")
        await site.see(1)
        assert site.bridge.health().undecodable == 1
        assert site.messages == [1]
        assert isinstance(site.bridge.health().last_error, DecodeError | None)


# What the server does not like


async def test_what_is_not_permitted_is_refused_alone_with_the_remedy(private: Private) -> None:
    permissions = {"publish": {"deny": ["hubsub.Secret.>"]}, "subscribe": {"deny": ["hubsub.secret.>"]}}
    server = await private(Nats(user="u", password="p", permissions=permissions))
    async with reading(server, Key("k", "*")) as reader, connected(server) as writer:
        keys = [Key("k", "1"), Key("Secret", "x"), Key("k", "2"), Key("Secret", "y.z")]
        refused = await writer.send([Record(key, b"") for key in keys])
        assert list(refused) == [1, 3]
        for error in refused.values():
            assert isinstance(error, BridgeError)
            assert "allow it in the permissions" in str(error)
        assert not await writer.send([Record(Key("k", "3"), b"")])
        await reader.until(3)
        assert [each.key[1] for each in reader.received] == ["1", "2", "3"]
        with pytest.raises(BridgeError, match="allow it in the permissions"):
            await reader.adapter.subscribe([Key("secret", "x")])
        assert not reader.task.done()


async def test_a_server_that_takes_less_than_was_said_refuses_what_is_too_large_and_nothing_else(
    private: Private,
) -> None:
    server = await private(Nats(max_payload=5000))
    async with reading(server) as reader, connected(server) as writer:
        refused = await writer.send([Record(Key("k"), b"x" * size) for size in (10, 6000, 4900)])
        assert list(refused) == [1]
        assert isinstance(refused[1], PayloadTooLarge)
        await reader.until(2)
    assert NatsAdapter(server.url, max_payload=5000).features.max_payload == 5000 - 1024
    assert NatsAdapter(f"{server.url}?max_payload=8000000").features.max_payload == 8_000_000 - 1024


@VERSIONS
async def test_a_server_in_lame_duck_mode_is_left_for_another_with_one_gap(private: Private, newest: bool) -> None:
    leaving, staying = await private(Nats(newest=newest)), await private(Nats(newest=newest))
    both = f"{leaving.url},127.0.0.1:{staying.port}"

    def adapter() -> NatsAdapter:
        made = NatsAdapter(both)
        made._server._hosts.sort(key=lambda host: host.endswith(str(leaving.port)))  # it turns before it connects
        return made

    async with sites(adapter) as those:
        site = await those.add(ALL)
        os.kill(leaving.pid, signal.SIGUSR2)
        # Ten seconds before the server would close the connection.
        async with asyncio.timeout(8):
            await until(lambda: site.bridge.health().reconnects == 1 and site.bridge.health().state == "up")
        sender = await those.add(outgoing=ALL, adapter=NatsAdapter(staying.url))
        await sender.hub.publish_confirmed("k", 1)
        await site.see(1)
        assert len(site.gaps) == 1


async def test_a_server_in_lame_duck_mode_that_is_the_only_one_serves_on(private: Private) -> None:
    server = await private(Nats())
    async with reading(server) as reader, connected(server) as writer:
        os.kill(server.pid, signal.SIGUSR2)
        await until(lambda: b"lame duck" in server.log.read_bytes().lower())
        await writer.send([Record(Key("k"), b"1")])
        await reader.until(1)


async def test_a_reader_that_is_too_slow_for_the_server_is_told_so_and_keeps_no_more_than_it_may(
    private: Private,
) -> None:
    server = await private(Nats(max_pending=4 << 20, write_deadline="500ms"))
    adapter = NatsAdapter(server.url)
    await adapter.connect(link())
    await adapter.subscribe([ALL])
    async with connected(server) as writer:
        for _ in range(80):
            await writer.send([Record(Key("k"), b"x" * 1_000_000)])
            line = adapter._line
            assert line is not None
            assert line._reader._unread < MOST_UNREAD + (2 << 20)
        reader = Reader(adapter)
        with pytest.raises(ConnectionError):
            await reader.task
    await adapter.close()


# Connections


async def test_of_several_servers_one_that_answers_is_found(private: Private) -> None:
    server, frozen, dead = await private(Nats()), await private(Nats()), await private(Nats())
    dead.kill()
    frozen.freeze()
    try:
        url = f"nats://127.0.0.1:{dead.port},127.0.0.1:{frozen.port},127.0.0.1:{server.port}"

        def adapter() -> NatsAdapter:
            made = NatsAdapter(url)
            # It turns before it connects: then the dead one is the first, and the frozen one the next.
            made._server._hosts.sort(key=lambda host: ("", server.port, dead.port, frozen.port).index(int(host[10:])))
            return made

        async with sites(adapter) as those:
            one, two = await those.add(ready=False), await those.add(ALL, ready=False)
            for site in (one, two):
                await site.bridge.ready(60)
            await one.hub.publish_confirmed("k", 1)
            await two.see(1)
    finally:
        frozen.thaw()


@pytest.mark.parametrize("which", ["_reader", "_writer"])
async def test_a_connection_that_breaks_is_noticed_by_the_reader_at_once(nats: Nats, which: str) -> None:
    adapter = NatsAdapter(nats.url)
    await adapter.connect(link())
    reader = Reader(adapter)
    getattr(adapter._line, which)._transports()[0].abort()
    with pytest.raises(ConnectionError):
        await reader.task
    await adapter.close()


async def test_closing_ends_whoever_waits_and_closing_twice_is_safe(private: Private) -> None:
    server = await private(Nats())
    adapter = NatsAdapter(server.url)
    await adapter.close()
    await adapter.connect(link())
    reader = Reader(adapter)
    server.freeze()
    try:
        waiting = [
            asyncio.create_task(adapter.listen([END])),
            asyncio.create_task(adapter.ping()),
            asyncio.create_task(adapter.send([Record(Key("a"), b"x" * 1_000_000)] * 10)),
        ]
        await asyncio.wait(waiting, timeout=0.05)
        async with asyncio.timeout(1):
            await adapter.close()
            await adapter.close()
        for task in (*waiting, reader.task):
            with pytest.raises(ConnectionError):
                await task
    finally:
        server.thaw()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_connect_that_is_given_up_leaves_nothing_open(private: Private) -> None:
    server = await private(Nats())
    adapter = NatsAdapter(server.url)
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(adapter.connect(link()), 0.2)
        await adapter.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        server.thaw()
    async with reading(adapter) as reader, connected(server) as writer:
        await writer.send([Record(Key("b"), b"heard")])
        await reader.until(1)


async def test_a_cancelled_call_costs_that_call_only(nats: Nats) -> None:
    async with reading(nats) as reader, connected(nats) as writer:
        for number in range(20):
            call = asyncio.ensure_future(
                writer.send([Record(Key("a"), b"%d" % number)]) if number % 2 else writer.ping()
            )
            await asyncio.sleep(0.001 * (number % 3))
            call.cancel()
            await asyncio.wait([call])
        assert await writer.send([Record(Key("a"), b"last")]) == {}
        await until(lambda: b"last" in reader.payloads)
        assert not reader.task.done()


async def test_a_send_over_a_connection_that_is_closed_does_not_count(nats: Nats) -> None:
    adapter = NatsAdapter(nats.url)
    with pytest.raises(ConnectionError, match="not connected"):
        await adapter.send([Record(Key("a"), b"1")])
    await adapter.connect(link())
    await adapter.close()
    with pytest.raises(ConnectionError):
        await adapter.send([Record(Key("a"), b"1")])


async def test_a_line_that_moves_shows_it_while_a_message_is_on_its_way(nats: Nats) -> None:
    async with nats.proxy() as line:
        writer = NatsAdapter(line.url)
        async with reading(NatsAdapter(line.url)) as reader, reading(writer, to=link(incoming=(), sender="w")):
            line.slow(3_000_000)
            seen: set[tuple[Any, ...]] = set()
            sending = asyncio.create_task(writer.send([Record(Key("large"), b"x" * 1_000_000)]))
            while not reader.received:
                seen.add((writer.sending, reader.adapter.receiving, reader.adapter.activity))
                await asyncio.sleep(0.01)
            await sending
            assert all(len(set(signs)) > 2 for signs in zip(*seen, strict=True))


# URLs and options


async def test_tls_by_url_and_by_a_context(private: Private) -> None:
    server = await private(Nats(tls=True, password="pw"))
    authority = certificates().authority
    for adapter in (
        NatsAdapter(f"{server.url}?tls_ca={authority}"),
        NatsAdapter(server.url, tls=certificates().context()),
        NatsAdapter(server.url.replace("tls:", "nats:"), tls_ca=authority),
    ):
        async with reading(adapter) as reader, connected(server, tls_ca=str(authority)) as writer:
            await writer.send([Record(Key("a"), b"x" * 900_000)])
            await reader.until(1)
            assert adapter.activity
    with pytest.raises(BridgeError, match="tls_ca="):
        await NatsAdapter(server.url).connect(link())


async def test_a_password_never_goes_over_a_line_in_plain_text_where_tls_is_demanded() -> None:
    heard = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b'INFO {"server_id":"x","version":"2.9.0","max_payload":1048576,"tls_required":false}\r\n')
        heard += await reader.read(65536)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((OSError, BridgeError)):
            await NatsAdapter(f"tls://user:s3cret@127.0.0.1:{port}").connect(link())
    assert heard  # a handshake of TLS
    assert b"s3cret" not in heard
    assert b"CONNECT" not in heard


async def test_a_password_may_be_anything_and_come_from_a_function(private: Private) -> None:
    secret = "a b/c?d#e@f:g%h+'\"é"
    server = await private(Nats(user="me", password=secret))
    plain = f"nats://127.0.0.1:{server.port}"
    for adapter in (
        NatsAdapter(server.url),
        NatsAdapter(plain, user="me", password=secret),
        NatsAdapter(plain, user="me", password=lambda: secret),
    ):
        async with reading(adapter):
            pass
    server = await private(Nats(password="token"))
    for adapter in (NatsAdapter(server.url), NatsAdapter(f"nats://127.0.0.1:{server.port}", token=lambda: "token")):
        async with reading(adapter):
            pass
    with pytest.raises(BridgeError, match=r"Authorization Violation; correct user and password, token="):
        await NatsAdapter(f"nats://wrong@127.0.0.1:{server.port}").connect(link())


def seed(kind: bytes) -> tuple[bytes, str]:
    """A new seed, and its public key."""
    made = nkeys.encode_seed(os.urandom(32), kind)
    return made, nkeys.from_seed(bytearray(made)).public_key.decode()


async def test_an_nkey_by_file_and_by_text(private: Private, tmp_path: Any) -> None:
    secret, public = seed(nkeys.PREFIX_BYTE_USER)
    server = Nats(authorization={"users": [{"nkey": public}]})
    server.is_open = False
    await private(server)
    (tmp_path / "user.nk").write_bytes(secret + b"\n")
    for adapter in (
        NatsAdapter(f"{server.url}?nkeys_seed={tmp_path / 'user.nk'}"),
        NatsAdapter(server.url, nkeys_seed_str=secret.decode()),
    ):
        async with reading(adapter):
            pass
    for wrong in (seed(nkeys.PREFIX_BYTE_USER)[0].decode(), "SUs3cret"):
        with pytest.raises(BridgeError) as told:
            await NatsAdapter(server.url, nkeys_seed_str=wrong).connect(link())
        assert wrong not in str(told.value)


def token(secret: bytes, claims: dict[str, Any]) -> str:
    """A JWT as NATS has them."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    keys = nkeys.from_seed(bytearray(secret))
    claims = {"jti": os.urandom(8).hex(), "iat": 1_700_000_000, "iss": keys.public_key.decode(), **claims}
    text = ".".join(encoded(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
    return f"{text}.{encoded(keys.sign(text.encode()))}"


async def test_a_credentials_file(private: Private, tmp_path: Any) -> None:
    operator, operator_key = seed(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_key = seed(nkeys.PREFIX_BYTE_ACCOUNT)
    user, user_key = seed(nkeys.PREFIX_BYTE_USER)
    no_limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits = {"limits": {**no_limits, "wildcards": True}}
    server = Nats(
        jetstream=False,
        operator=token(operator, {"sub": operator_key, "name": "o", "nats": {"type": "operator", "version": 2}}),
        resolver="MEMORY",
        resolver_preload={
            account_key: token(
                operator, {"sub": account_key, "name": "a", "nats": {"type": "account", "version": 2, **limits}}
            )
        },
    )
    server.is_open = False
    await private(server)
    free = {"subs": -1, "data": -1, "payload": -1}
    jwt = token(account, {"sub": user_key, "name": "u", "nats": {"type": "user", "version": 2, **free}})
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
    )
    async with reading(NatsAdapter(f"{server.url}?user_credentials={file}")) as reader:
        await reader.adapter.send([Record(Key("a"), b"1")])
    # The driver would look for what is not in it for ever.
    file.write_text("s3cret")
    for path in (file, tmp_path / "missing"):
        with pytest.raises(BridgeError, match=path.name) as told:
            await NatsAdapter(server.url, user_credentials=str(path)).connect(link())
        assert "s3cret" not in str(told.value)


async def test_no_password_is_told_to_anybody(private: Private, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = await private(Nats(user="u", password="another"))
    secret = "s3cret%2Fpa%3Ass"
    adapter = NatsAdapter(f"nats://u:{secret}@127.0.0.1:{server.port}")
    told = [repr(adapter), repr(adapter._server), repr(NatsAdapter("nats://h", token=PASSWORD))]
    assert told[0] == f"<NatsAdapter 127.0.0.1:{server.port}>"
    async with sites(lambda: adapter) as those:
        site = await those.add(ready=False)
        await until(lambda: site.bridge.health().last_error is not None)
        error: BaseException | None = site.bridge.health().last_error
        while error is not None:
            told += [repr(error), str(error)]
            error = error.__cause__ or error.__context__
    for wrong in (
        f"nats://user:{PASSWORD}@localhost",
        f"nats://:s3cret#{PASSWORD}@localhost:1",
        f"nats://:1?s3cret{PASSWORD}@localhost:1",
        f"nats://:{secret}@localhost:s3cret",
        f"nats://:{secret}@[localhost",
        f"nats://:{secret}@localhost/?connect_timeout=5",
        f"nats://{secret}@localhost/path",
        f"http://:{secret}@localhost",
        f"nats://h?token={secret}&nkeys_seed_str=s3cret&nonsense=1",
    ):
        with pytest.raises((ValueError, TypeError)) as nonsense:
            NatsAdapter(wrong)
        told += [repr(nonsense.value), repr(nonsense.value.__cause__), repr(nonsense.value.__context__)]
    with pytest.raises(ValueError, match="token must be text") as nonsense:
        NatsAdapter("nats://h", token=b"s3cret")
    told.append(str(nonsense.value))
    assert not re.search("s3cret|pa:ss|pa%3Ass", "\n".join([*told, caplog.text]))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs a URL"),
        ({"url": "nats://u:p@h", "user": "v", "password": "w"}, TypeError, "user already"),
        ({"url": "nats://t@h", "token": "v"}, TypeError, "token already"),
        ({"url": "nats://h", "token": "v", "nkeys_seed": "f"}, TypeError, "token and nkeys_seed are several ways"),
        ({"url": "nats://h", "user": "v"}, TypeError, "user and password together"),
        ({"url": "nats://h?nonsense=1"}, TypeError, "no option nonsense"),
        ({"url": "nats://h", "nonsense": 1}, TypeError, "no option nonsense"),
        ({"url": "nats://h", "namespace": "n"}, TypeError, "no option namespace"),
        ({"url": "nats://h", "allow_reconnect": True}, TypeError, "decides by itself about allow_reconnect"),
        ({"url": "nats://h?ping_interval=1"}, TypeError, "decides by itself about ping_interval"),
        ({"url": "nats://h?token=a", "token": "b"}, TypeError, "token twice"),
        ({"url": "nats://h?token="}, ValueError, "token must be text"),
        ({"url": "nats://h", "max_payload": 0}, ValueError, "max_payload must be a number of bytes"),
        ({"url": "nats://h", "tls": True}, ValueError, "tls must be an ssl.SSLContext"),
        ({"url": "nats://h", "tls_key": "f"}, TypeError, "tls_key belongs to tls_cert"),
        ({"url": "nats://h", "client_name": "a\nb"}, ValueError, "client_name must be text"),
        ({"url": "nats://h:0"}, ValueError, "with numbers as ports"),
        ({"url": "nats://h:99999"}, ValueError, "with numbers as ports"),
        ({"url": "nats://h/stream"}, ValueError, "names no path"),
        ({"url": "mysql://h"}, ValueError, "nats://user:password@host:4222"),
        ({"url": "h:4222"}, ValueError, "nats://user:password@host:4222"),
        ({"url": "nats://h#b"}, ValueError, "is invalid"),
    ],
)
def test_options_that_make_no_sense_are_told(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        NatsAdapter(**arguments)


def test_a_missing_driver_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(MissingDriver, match=r"^NatsAdapter needs nats-py: pip install 'hubsub\[nats\]'$"):
        NatsAdapter("nats://localhost")


def test_the_driver_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, hubsub.bridges.nats; sys.exit('nats' in sys.modules)"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
