"""The adapter for Redis Pub/Sub against real servers, through the contract of adapters and nothing else."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.redis_server import Redis, Sentinel
from hubsub import BridgeError, BrokerBusy, EncodeError, Key, MissingDriver
from hubsub.bridges.adapter import Link, Received, Record
from hubsub.bridges.redis.pubsub import RedisAdapter, addresses_of
from hubsub.bridges.redis.subscriber import folded
from hubsub.key import is_subset

from .trips import Trips

END = Key("the", "end")
PASSWORD = "s3cret/pa:ss"


@pytest.fixture(scope="session")
def server(redis: Redis) -> Redis:
    return redis


def client_of(server: Redis, **options: Any) -> Any:
    return redis.asyncio.Redis(port=server.port, **options)


def link(namespace: str = "hubsub", **fields: Any) -> Link:
    return Link(sender="s", namespace=namespace, **fields)


class Reader:
    """An adapter with its reader at work, as the relay runs it."""

    def __init__(self, adapter: RedisAdapter) -> None:
        self.adapter = adapter
        self.received: list[Received] = []
        self.arrived = asyncio.Event()
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        while True:
            batch = await self.adapter.receive()
            assert batch
            self.received += batch
            self.arrived.set()

    async def until(self, count: int) -> list[Received]:
        while len(self.received) < count:
            self.arrived.clear()
            waiting = asyncio.create_task(self.arrived.wait())
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self.task.done():
                await self.task
        return self.received

    async def until_end(self) -> list[tuple[Key[Any], bytes | None]]:
        """Send what ends it; return what was received before that."""
        await self.adapter.subscribe([END])
        await self.adapter.send([Record(END, b"")])
        count = 1
        while (await self.until(count))[-1].key != END:
            count = len(self.received) + 1
        return [(each.key, each.payload) for each in self.received[:-1]]


@asynccontextmanager
async def reading(adapter: RedisAdapter, to: Link | None = None) -> AsyncIterator[Reader]:
    await adapter.connect(to or link())
    reader = Reader(adapter)
    try:
        yield reader
    finally:
        await adapter.close()
        with pytest.raises(ConnectionError):
            await reader.task


async def eventually(check: Callable[[], Awaitable[object]]) -> None:
    """Return when it is true, if ever: only the test's own timeout ends it otherwise."""
    while True:
        if await check():
            return
        await asyncio.sleep(0.02)


# Keys and patterns as channels and globs

PARTS = st.text(st.sampled_from("ab*?[]^-\\:%\r\n~\udc80é"), max_size=3) | st.text(st.characters(), max_size=3)
EXACT = st.lists(PARTS.filter(lambda part: part not in ("*", "+")), min_size=1, max_size=4).map(lambda p: Key(*p))
PATTERNS = st.lists(PARTS | st.sampled_from("*+"), min_size=1, max_size=4).map(lambda p: Key(*p))


@given(EXACT, st.sampled_from(["", "hubsub", "a:b", "%", "*"]))
@example(Key(""), "")
@example(Key("%2A", "%", ":"), "n")
def test_every_key_has_a_channel_from_which_it_is_read_again(key: Key[Any], namespace: str) -> None:
    addresses = addresses_of(namespace, 3)
    channel = addresses.to_bytes(addresses.address(key))
    assert addresses.key(addresses.to_text(channel)) == key


FEW = st.lists(st.sampled_from(["a", "b", "a*", "[a]", "\\", "", ":", "?"]), min_size=1, max_size=3)
FEW_KEYS = FEW.map(lambda parts: Key(*parts))
FEW_PATTERNS = st.lists(st.sampled_from(["a", "b", "a*", "[a]", "\\", "", ":", "?", "*", "+"]), min_size=1, max_size=3)


@given(
    st.lists(FEW_PATTERNS.map(lambda p: Key(*p)) | PATTERNS, max_size=8, unique=True),
    st.lists(FEW_KEYS | EXACT, max_size=12, unique=True),
    st.sampled_from(["hubsub", "n[1]*", ""]),
    st.sampled_from([2, 100]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Key("a", "*", "c"), Key("a", "*", "*", "c")], [Key("a", "x", "y", "c"), Key("a", "x", "c")], "hubsub", 100)
@example([Key("a", "+"), Key("*", "b")], [Key("a", "b"), Key("a", "b", "c"), Key("a"), Key("b")], "", 100)
async def test_what_matches_is_received_exactly_once_as_the_server_matches_it(
    server: Redis, patterns: list[Key[Any]], keys: list[Key[Any]], namespace: str, most: int
) -> None:
    patterns = uncovered([pattern for pattern in patterns if not is_subset(END, pattern)])
    assume(END not in keys)
    assume(namespace or Key("") not in keys)  # to Redis no pattern matches the channel with the empty name
    adapter = RedisAdapter(server.url)
    adapter.most_patterns = most
    async with reading(adapter, link(namespace)) as reader:
        await adapter.subscribe(patterns)
        sent = [Record(key, str(number).encode()) for number, key in enumerate(keys)]
        assert not await adapter.send(sent)
        received = await reader.until_end()
    if most >= len(patterns):
        assert received == [record[:2] for record in sent if matches(record.key, patterns)]
    else:  # folded patterns may bring more, which the relay leaves out
        assert len(received) == len(set(received))
        assert [each for each in received if matches(each[0], patterns)] == [
            record[:2] for record in sent if matches(record.key, patterns)
        ]


def uncovered(patterns: list[Key[Any]]) -> list[Key[Any]]:
    """As the relay gives them: none covers another."""
    kept: list[Key[Any]] = []
    for pattern in patterns:
        if not any(is_subset(pattern, other) for other in kept):
            kept = [other for other in kept if not is_subset(other, pattern)] + [pattern]
    return kept


def matches(key: Key[Any], patterns: Sequence[Key[Any]]) -> bool:
    return any(is_subset(key, pattern) for pattern in patterns)


async def test_patterns_that_the_server_cannot_tell_apart_do_not_end_each_other(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    async with reading(adapter) as reader:
        await adapter.subscribe([Key("a", "+")])
        await adapter.subscribe([Key("a", "*")])
        await adapter.send([Record(Key("a", "b", "c"), b"1")])
        await adapter.unsubscribe([Key("a", "+")])
        await adapter.send([Record(Key("a", "b"), b"2"), Record(Key("a", "b", "c"), b"3")])
        assert [payload for _, payload in await reader.until_end()] == [b"1", b"2", b"3"]


async def test_subscribing_waits_also_for_what_was_asked_for_just_before(private: Private) -> None:
    server = await private(Redis())
    adapter = RedisAdapter(server.url)
    rooms = [Key("room", str(number), "*") for number in range(200)]
    async with reading(adapter):
        server.freeze()
        first = asyncio.create_task(adapter.subscribe(rooms[:150]))
        second = asyncio.create_task(adapter.subscribe(rooms[150:]))  # is folded into what the first asks for
        try:
            await asyncio.wait([second], timeout=0.05)
            assert not second.done()
        finally:
            server.thaw()
        await first
        await second


async def test_databases_and_namespaces_do_not_hear_each_other(server: Redis) -> None:
    async with reading(RedisAdapter(server.url[:-1] + "1")) as one, reading(RedisAdapter(server.url[:-1] + "2")) as two:
        await one.adapter.subscribe([Key("*")])
        await two.adapter.send([Record(Key("a"), b"two")])
        async with reading(RedisAdapter(server.url[:-1] + "1"), link("other")) as other:
            await other.adapter.send([Record(Key("a"), b"other")])
        await one.adapter.send([Record(Key("a"), b"one")])
        assert await one.until(1) == [Received(Key("a"), b"one")]


async def test_without_a_namespace_channels_of_others_are_joined(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    async with reading(adapter, link("")) as reader, client_of(server) as client, client.pubsub() as others:
        await adapter.subscribe([Key("news", "*"), Key("plain")])
        # The last look like replies of the server.
        channels = ["plain", "news:x[1]", "news:%zz", "news:a\r\n$1\r\nb", "news:\r\n*3\r\n$7\r\nmessage\r\n"]
        for channel in channels:
            await client.publish(channel, "+")
        assert [each.key for each in await reader.until(len(channels))] == [Key(*each.split(":")) for each in channels]
        await others.psubscribe("plain:*")
        assert await others.get_message(timeout=None)
        for part in ("*x", "[\\", "%", "a:b"):
            await adapter.send([Record(Key("plain", part), b"")])
            assert (await others.get_message(timeout=None))["channel"] == f"plain:{part.replace('a:', 'a%3A')}".encode()


# Folding


@given(
    st.lists(PATTERNS | st.tuples(st.sampled_from("abc"), st.sampled_from("xyz*")).map(lambda p: Key(*p)), unique=True)
)
def test_folding_leaves_few_patterns_that_match_all_that_was_matched(patterns: list[Key[Any]]) -> None:
    for most in (1, 3, 100):
        few = folded(patterns, most)
        assert len(few) <= most
        assert all(any(is_subset(pattern, wide) for wide in few) for pattern in patterns)
        assert len(patterns) > most or list(few) == patterns


def test_folding_widens_the_crowded_branch_and_leaves_the_others() -> None:
    rooms = [Key("room", str(number), "+", "said") for number in range(200)]
    others = [Key("sensor", "+"), Key("a", "b", "c", "+", "e")]
    assert set(folded([*others, *rooms], 100)) == {*others, Key("room", "*")}


async def test_many_patterns_are_few_to_the_server_and_come_apart_again(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    rooms = [Key("room", str(number), "*") for number in range(1000)]
    async with reading(adapter) as reader, client_of(server) as client:
        await adapter.subscribe(rooms)
        assert await client.pubsub_numpat() == 1
        await adapter.send([Record(Key("room", "7", "said"), b"hello"), Record(Key("room", "9", "said"), b"you")])
        assert [each.payload for each in await reader.until(2)] == [b"hello", b"you"]
        await adapter.unsubscribe(rooms[3:])
        assert await client.pubsub_numpat() == 3
        await adapter.send([Record(Key("room", "7", "said"), b"gone"), Record(Key("room", "0", "said"), b"bye")])
        assert [payload for _, payload in await reader.until_end()] == [b"hello", b"you", b"bye"]
        await adapter.unsubscribe(rooms[:3])
        assert await client.pubsub_numpat() == 0


async def test_ten_thousand_exact_keys_are_subscribed_and_let_go_of(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    keys = [Key("user", str(number)) for number in range(10_000)]
    async with reading(adapter, link("many")) as reader, client_of(server) as client:
        await adapter.subscribe(keys)
        assert len(await client.pubsub_channels("many:*")) == len(keys)
        assert await client.pubsub_numpat() == 0
        assert not await adapter.send([Record(key, b"") for key in keys])
        assert [each.key for each in await reader.until(len(keys))] == keys
        await adapter.unsubscribe(keys)
        assert await client.pubsub_channels("many:*") == []


# Changes while messages come


@pytest.mark.parametrize("most", [2, 100])
async def test_each_message_is_received_once_whatever_is_subscribed_meanwhile(server: Redis, most: int) -> None:
    random = Random(most)
    keys = [Key("a", part) for part in "bcde"] + [Key("a", "b", part) for part in "bcde"]
    always = [Key("a", "*", "+"), Key("a", "b"), Key("*", "c"), Key("a", "d"), Key("+", "e")]
    sometimes = [*keys, Key("+", "b", "*"), Key("a", "+", "c"), Key("*", "b", "d"), Key("a", "+"), Key("+", "+", "+")]
    adapter, publisher = RedisAdapter(server.url), RedisAdapter(server.url)
    adapter.most_patterns = most
    await publisher.connect(link(reads=False))
    sent: list[Record] = []
    churning = True

    async def publish() -> None:
        while churning:
            records = [Record(random.choice(keys), str(len(sent) + number).encode()) for number in range(20)]
            assert not await publisher.send(records)
            sent.extend(records)

    async with reading(adapter) as reader:
        await adapter.subscribe(always)
        publishing = asyncio.create_task(publish())
        wanted: set[Key[Any]] = set()
        for _ in range(60):
            changed = [each for each in sometimes if each not in always and random.random() < 0.3]
            adding = [each for each in changed if each not in wanted]
            removing = [each for each in changed if each in wanted]
            await asyncio.gather(adapter.subscribe(adding), adapter.unsubscribe(removing))
            wanted.symmetric_difference_update(changed)
        churning = False
        await publishing
        assert await reader.until_end() == [record[:2] for record in sent]
    await publisher.close()
    assert sent


async def test_nothing_is_missed_or_doubled_while_patterns_are_folded_and_come_apart(server: Redis) -> None:
    # More than the server reads at once: it serves the publisher in between.
    rooms = [Key("room", f"{number:04000}", "+") for number in range(101)]
    adapter, publisher = RedisAdapter(server.url), RedisAdapter(server.url)
    await publisher.connect(link(reads=False))
    sent: list[bytes] = []
    folding = True

    async def publish() -> None:
        while folding:
            numbers = [str(len(sent) + number).encode() for number in range(5)]
            await publisher.send([Record(Key(*rooms[7][:2], "said"), number) for number in numbers])
            sent.extend(numbers)

    async with reading(adapter) as reader:
        await adapter.subscribe(rooms[:100])
        publishing = asyncio.create_task(publish())
        for _ in range(20):
            await adapter.subscribe(rooms[100:])
            await adapter.unsubscribe(rooms[100:])
        folding = False
        await publishing
        assert [payload for _, payload in await reader.until_end()] == sent
    await publisher.close()


# Sending


async def test_messages_come_in_the_order_in_which_they_were_sent(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    async with reading(adapter) as reader:
        await adapter.subscribe([Key("a"), Key("b", "*")])
        records = [Record((Key("a"), Key("b", "c"))[number % 2], str(number).encode()) for number in range(20_000)]
        for start in range(0, len(records), 500):
            assert await adapter.send(records[start : start + 500]) == {}
        assert [each[:2] for each in await reader.until(len(records))] == [record[:2] for record in records]


async def test_payloads_of_any_size_and_content_arrive_whole(server: Redis) -> None:
    random = Random(1)
    payloads = [b"", b"\r\n", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", random.randbytes(1_000_000)]
    payloads += [random.randbytes(int(2 ** (20 * random.random()))) for _ in range(200)]
    adapter = RedisAdapter(server.url)
    async with reading(adapter) as reader:
        await adapter.subscribe([Key("a", "*")])
        assert not await adapter.send([Record(Key("a", "b"), payload) for payload in payloads])
        assert [each.payload for each in await reader.until(len(payloads))] == payloads


# All that is needed, and not even PING.
COMMANDS = "-@all +publish +subscribe +psubscribe +unsubscribe +punsubscribe"
LIMITED = f"limited on >pw {COMMANDS} resetchannels &hubsub:0:open:*"


async def test_what_the_server_refuses_is_told_and_the_rest_is_sent(private: Private) -> None:
    server = await private(Redis(user=LIMITED))
    limited = RedisAdapter(f"redis://limited:pw@127.0.0.1:{server.port}")
    async with reading(RedisAdapter(server.url)) as reader, reading(limited):
        await reader.adapter.subscribe([Key("*")])
        keys = [Key("open", "1"), Key("shut", "2"), Key("open", "3")]
        errors = await limited.send([Record(key, b"") for key in keys])
        assert errors.keys() == {1}
        assert isinstance(errors[1], redis.exceptions.NoPermissionError)
        assert [each.key for each in await reader.until(2)] == [keys[0], keys[2]]


async def test_a_subscription_that_the_server_refuses_is_told(private: Private) -> None:
    server = await private(Redis(user=LIMITED))
    adapter = RedisAdapter(f"redis://limited:pw@127.0.0.1:{server.port}")
    await adapter.connect(link())
    reader = Reader(adapter)
    await adapter.subscribe([Key("open", "1")])
    with pytest.raises(BridgeError, match="ACL SETUSER"):
        await adapter.subscribe([Key("open", "2"), Key("shut", "*")])
    with pytest.raises(BridgeError, match="NOPERM"):
        await reader.task
    await adapter.close()


async def test_a_server_that_is_busy_loses_the_connection_and_refuses_nothing(private: Private) -> None:
    server = await private(Redis(busy_reply_threshold=1))
    adapter = RedisAdapter(server.url)
    async with reading(adapter), client_of(server) as client, client_of(server) as other:
        script = asyncio.create_task(client.eval("while true do end", 0))

        async def is_busy() -> bool:
            try:
                await other.ping()
            except redis.ResponseError as error:
                return "BUSY" in str(error)
            return False

        await eventually(is_busy)
        with pytest.raises(BrokerBusy, match="BUSY"):
            await adapter.send([Record(Key("a"), b"")])
        await other.script_kill()
        with pytest.raises(redis.ResponseError, match="script"):
            await script


# Connections that end


async def test_after_a_crash_of_the_server_it_is_connected_again_and_knows_nothing(private: Private) -> None:
    server = await private(Redis())
    adapter = RedisAdapter(server.url)
    await adapter.connect(link())
    reader = Reader(adapter)
    await adapter.subscribe([Key("a", "*"), Key("b")])
    server.kill()
    with pytest.raises(ConnectionError):
        await reader.task
    with pytest.raises(ConnectionError):
        await adapter.send([Record(Key("b"), b"")])
    with pytest.raises(ConnectionError):
        await adapter.subscribe([Key("c")])
    await adapter.close()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            await adapter.connect(link())
        await adapter.close()
    await server.start_wait()
    async with reading(adapter) as reader:
        await adapter.send([Record(Key("b"), b"unheard")])
        await adapter.subscribe([Key("b")])
        await adapter.send([Record(Key("b"), b"heard"), Record(Key("a", "b"), b"unheard")])
        assert await reader.until_end() == [(Key("b"), b"heard")]


async def test_closing_ends_whoever_waits_and_closing_twice_is_safe(private: Private) -> None:
    server = await private(Redis())
    adapter = RedisAdapter(server.url)
    await adapter.close()
    await adapter.connect(link())
    reader = Reader(adapter)
    await adapter.subscribe([Key("a")])
    server.freeze()  # a server that is frozen cannot keep us
    try:
        waiting = [
            asyncio.create_task(adapter.subscribe([Key("b")])),
            asyncio.create_task(adapter.unsubscribe([Key("a")])),
            asyncio.create_task(adapter.send([Record(Key("a"), b"x" * 10_000_000)])),
        ]
        await asyncio.wait(waiting, timeout=0.05)
        await adapter.close()
        await adapter.close()
        for task in (*waiting, reader.task):
            with pytest.raises(ConnectionError):
                await task
    finally:
        server.thaw()


async def test_a_connect_that_is_given_up_leaves_nothing_open(private: Private) -> None:
    server = await private(Redis())
    adapter = RedisAdapter(server.url)
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(adapter.connect(link()), 0.1)
        await adapter.close()
    finally:
        server.thaw()
    async with client_of(server) as client:

        async def is_alone() -> bool:
            return len(await client.client_list()) == 1

        await eventually(is_alone)
    async with reading(adapter) as reader:
        assert await reader.until_end() == []


async def test_a_bridge_that_never_reads_has_one_connection(server: Redis) -> None:
    adapter = RedisAdapter(server.url, client_name="one")
    await adapter.connect(link(reads=False))
    async with client_of(server) as client:
        assert [each["name"] for each in await client.client_list()].count("one") == 1
    await adapter.close()


# Where the server is


async def test_a_client_of_ones_own_lends_its_settings_and_is_left_alone(server: Redis) -> None:
    async with client_of(server, db=4, protocol=3, decode_responses=True, socket_timeout=0.05) as client:
        assert await client.ping()
        adapter = RedisAdapter(client=client)
        async with reading(adapter) as reader:
            await adapter.subscribe([Key("a")])
            await asyncio.sleep(0.1)  # longer than the client's timeout, which is not for us
            await adapter.send([Record(Key("a"), b"1")])
            assert await reader.until(1) == [Received(Key("a"), b"1")]
            assert (await client.pubsub_channels("*")) == ["hubsub:4:a"]
        assert await client.ping()


async def test_nodes_of_a_cluster_pass_messages_on_and_a_cluster_client_is_refused(private: Private) -> None:
    one, two = Redis(cluster_enabled="yes"), Redis(cluster_enabled="yes")
    for node in (one, two):
        node._settings["cluster-port"] = node.reserve()
        await private(node)
    async with client_of(one) as client:
        await client.execute_command("CLUSTER MEET", "127.0.0.1", two.port, two._settings["cluster-port"])
        async with reading(RedisAdapter(one.url)) as reader, reading(RedisAdapter(two.url)) as writer:
            await reader.adapter.subscribe([Key("a")])

            async def is_passed_on() -> bool:
                await writer.adapter.send([Record(Key("a"), b"1")])
                return bool(reader.received)

            await eventually(is_passed_on)  # once the nodes have met
            assert reader.received[0] == Received(Key("a"), b"1")
    with pytest.raises(TypeError, match="the URL of any node"):
        RedisAdapter(client=object())  # type: ignore[arg-type]


async def test_tls_by_url_by_options_and_by_a_context(private: Private) -> None:
    server = await private(Redis(tls=True))
    authority = certificates().authority
    for adapter in (
        RedisAdapter(f"{server.url}?ssl_ca_certs={authority}"),
        RedisAdapter(host="127.0.0.1", port=server.port, ssl=True, ssl_ca_certs=str(authority)),
        RedisAdapter(server.url.replace("rediss", "redis"), ssl_context=certificates().context()),
    ):
        async with reading(adapter) as reader:
            await adapter.subscribe([Key("a")])
            await adapter.send([Record(Key("a"), b"x" * 1_000_000)])
            assert await reader.until(1) == [Received(Key("a"), b"x" * 1_000_000)]
    stranger = RedisAdapter(server.url)
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        await stranger.connect(link())
    await stranger.close()


async def test_a_socket_of_the_file_system_is_a_place_too(private: Private, tmp_path: Path) -> None:
    await private(Redis(unixsocket=tmp_path / "redis"))
    adapter = RedisAdapter(path=str(tmp_path / "redis"))
    assert repr(adapter) == f"<RedisAdapter {tmp_path / 'redis'}/0>"
    async with reading(adapter) as reader:
        assert await reader.until_end() == []


async def test_sentinels_are_asked_for_the_master_at_each_connect(private: Private) -> None:
    sentinel = await private(Sentinel())
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # takes connections and says nothing
        places = f"127.0.0.1:{frozen.getsockname()[1]},127.0.0.1:{sentinel.port}"
        adapter = RedisAdapter(f"redis+sentinel://{places}/{sentinel.service}/3")
        assert repr(adapter) == f"<RedisAdapter {sentinel.service} by Sentinel/3>"
        await adapter.connect(link())
        reader = Reader(adapter)
        await adapter.subscribe([Key("a")])
        async with client_of(sentinel.master) as client:
            assert await client.pubsub_channels("hubsub:*") == [b"hubsub:3:a"]
        assert await asyncio.to_thread(sentinel.fail_over) is sentinel.replica
        with pytest.raises(ConnectionError):
            await reader.task
        await adapter.close()

        async def is_connected() -> bool:
            try:
                await adapter.connect(link())
            except (ConnectionError, redis.ConnectionError, redis.TimeoutError):
                await adapter.close()
                return False
            return True

        await eventually(is_connected)
        reader = Reader(adapter)
        await adapter.subscribe([Key("a")])
        async with client_of(sentinel.replica) as client:
            assert await client.pubsub_channels("hubsub:*") == [b"hubsub:3:a"]
        await adapter.close()
        with pytest.raises(ConnectionError):
            await reader.task
        stranger = RedisAdapter(f"redis+sentinel://{places}/nobody", sentinel_password=PASSWORD)
        with pytest.raises(ConnectionError, match="no Sentinel that replied knows a master for nobody") as told:
            await stranger.connect(link())
        assert PASSWORD not in str(told.value) + repr(told.value.__cause__)
        await stranger.close()


# What is said


async def test_no_password_is_told_to_anybody(private: Private, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = await private(Redis(password="another"))
    secret = "s3cret%2Fpa%3Ass"
    adapter = RedisAdapter(f"redis://user:{secret}@127.0.0.1:{server.port}/1")
    assert repr(adapter) == f"<RedisAdapter 127.0.0.1:{server.port}/1>"
    told = [repr(adapter)]
    for refused in (adapter, RedisAdapter(f"redis://127.0.0.1:{server.port}")):
        with pytest.raises(redis.AuthenticationError) as error:
            await refused.connect(link())
        told += [repr(error.value), repr(error.value.__cause__)]
        await refused.close()
    for wrong in (
        f"redis://user:{PASSWORD}@localhost",
        f"redis://:s3cret#{PASSWORD}@localhost:1",
        f"redis://:1?s3cret{PASSWORD}@localhost:1",
        f"redis://:{secret}@localhost:s3cret",
        f"redis+sentinel://:{PASSWORD}@localhost:1/main",
        f"redis+sentinel://:{secret}@localhost:1",
        f"http://:{secret}@localhost",
        f"redis://:{secret}@localhost/s3cret",
        f"redis://:{secret}@[localhost",
        f"redis://:{secret}@localhost/?socket_timeout=5",
    ):
        with pytest.raises((ValueError, TypeError), match=r"Redis|redis") as nonsense:
            RedisAdapter(wrong)
        told += [repr(nonsense.value), repr(nonsense.value.__cause__)]
    assert not re.search("s3cret|pa:ss|pa%3Ass", "\n".join([*told, caplog.text]))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs a URL"),
        ({"url": "redis://h", "client": "c"}, TypeError, "not both"),
        ({"url": "redis://h", "host": "g"}, TypeError, "says where Redis is"),
        ({"url": "redis://h?nonsense=1"}, TypeError, "nonsense"),
        ({"url": "redis://h", "nonsense": 1}, TypeError, "nonsense"),
        ({"url": "redis://h", "sentinel_password": "p"}, TypeError, "no Sentinels"),
        ({"url": "redis+sentinel://h/s", "sentinel_nonsense": 1}, TypeError, "nonsense"),
        ({"url": "redis+sentinel://h/s?sentinel_protocol=3"}, TypeError, "sets protocol itself"),
        ({"url": "redis://h", "retry_on_timeout": True}, TypeError, "sets retry_on_timeout itself"),
        ({"url": "redis://h?ssl=true"}, TypeError, "rediss"),
        ({"url": "redis+sentinel://h:1,g:2"}, ValueError, "service"),
    ],
)
def test_options_that_make_no_sense_are_told(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RedisAdapter(**arguments)


def test_a_missing_driver_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingDriver, match=r"^RedisAdapter needs redis: pip install 'hubsub\[redis\]'$") as error:
        RedisAdapter("redis://localhost")
    assert isinstance(error.value, ImportError)


def test_the_driver_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, hubsub.bridges.redis.pubsub; sys.exit('redis' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# Control messages


async def test_what_is_listened_to_comes_as_control_messages_and_once(server: Redis) -> None:
    beat, reply, other = Key("Hub", "beat", "one"), Key("Hub", "reply", "one"), Key("Hub", "reply", "two")
    async with reading(RedisAdapter(server.url)) as reader, client_of(server) as client:
        await reader.adapter.listen([beat, reply])
        assert sorted(await client.pubsub_channels("hubsub:0:Hub:*")) == [
            b"hubsub:0:Hub:beat:one",
            b"hubsub:0:Hub:reply:one",
        ]
        await reader.adapter.subscribe([Key("*")])
        await reader.adapter.send([Record(key, b"", is_control=True) for key in (beat, other, reply)])
        await reader.adapter.unsubscribe([Key("*"), beat])
        await reader.adapter.send([Record(beat, b"", is_control=True)])
        assert [(each.key, each.is_control) for each in await reader.until(4)] == [
            (beat, True),
            (other, False),
            (reply, True),
            (beat, True),
        ]


async def test_a_bridge_that_only_sends_gets_its_control_messages(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    for control in ((Key("Hub", "reply", "one"),), ()):
        async with reading(adapter, link(reads=False, control=control)) as reader:
            await adapter.listen([Key("Hub", "reply", "one")])
            await adapter.send([Record(Key("Hub", "reply", "one"), b"1", is_control=True)])
            assert await reader.until(1) == [Received(Key("Hub", "reply", "one"), b"1", is_control=True)]


# What others publish


FOREIGN = ["order:*", "*", "+", "order:+:x", "", ":", "%", "100%", "a%2", "a%25", "a%3Ab", "\\*", "é", "x" * 5000]
BYTES = [b"\xff", b"a\xffb:c", b"\xed\xa0\x80", b"\xc3", b"a\r\nb", b"\r\n*3\r\n", b"%\xff", b"\0", b"\xf0\x9f\x98\x80"]


@pytest.mark.parametrize("namespace", ["", "hubsub"])
async def test_whatever_others_publish_comes_and_hurts_nobody(server: Redis, namespace: str) -> None:
    prefix = f"{namespace}:0:".encode() if namespace else b""
    channels = [prefix + each for each in [*(each.encode() for each in FOREIGN), *BYTES]]
    if not namespace:
        channels.remove(b"")  # to Redis no pattern matches it
    async with reading(RedisAdapter(server.url), link(namespace)) as reader, client_of(server) as client:
        await reader.adapter.subscribe([Key("*")])
        for number, channel in enumerate(channels):
            await client.publish(channel, str(number))
        received = await reader.until(len(channels))
        assert [each.payload for each in received] == [str(number).encode() for number in range(len(channels))]
        assert all(each.trouble is None for each in received)


async def test_notices_of_changes_to_keys_that_look_like_patterns_come(private: Private) -> None:
    server = await private(Redis(notify_keyspace_events="KA"))
    async with reading(RedisAdapter(server.url), link("")) as reader, client_of(server) as client:
        await reader.adapter.subscribe([Key("__keyspace@0__", "*")])
        await client.set("rate:*", "1")
        await client.set("rate", "1")
        assert [each.key[1:] for each in await reader.until(2)] == [("rate", "*"), ("rate",)]


AS_WRITTEN_EARLIER = re.compile(rb"%25|%ED")

CHANNELS = st.binary(max_size=12) | st.lists(
    st.sampled_from(
        [b"%", b"25", b"3A", b":", b"\r", b"\n", b"a", b"*", b"+", b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80"]
    ),
    max_size=8,
).map(b"".join)


@given(st.lists(CHANNELS, min_size=1, max_size=8, unique=True), st.sampled_from(["", "hubsub", "a:b"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([b"battery:100%", b"battery:100%25", b"a\xffb", b"\xc3:\xa9", b"%FF", b"\xff", b"%ED%B2%80"], "")
async def test_what_comes_under_a_key_is_subscribed_and_published_by_that_key(
    server: Redis, channels: list[bytes], namespace: str
) -> None:
    adapter = RedisAdapter(server.url)
    async with reading(adapter, link(namespace)) as reader, client_of(server) as client, client.pubsub() as others:
        prefix = adapter.connected()._addresses.prefix.encode()
        # In a namespace of hubsub's own, what version 0.1.0 escaped is read as it was meant.
        channels = [each for each in channels if not (namespace and AS_WRITTEN_EARLIER.search(each))]
        channels = [each for each in (prefix + channel for channel in channels) if each]
        assume(channels)
        # What comes by a pattern says which key a channel has; the key is subscribed to exactly, then published to.
        await adapter.subscribe([Key("*")])
        for channel in channels:
            await client.publish(channel, b"first")
        keys = [each.key for each in await reader.until(len(channels))]
        assert len(set(keys)) == len(channels)
        exact = {key: channel for key, channel in zip(keys, channels, strict=True) if not key.is_wildcard}
        await adapter.unsubscribe([Key("*")])
        await adapter.subscribe(list(exact))
        for channel in exact.values():
            await client.publish(channel, b"second")
        received = await reader.until(len(channels) + len(exact))
        assert [each.key for each in received[len(channels) :]] == list(exact)
        await others.subscribe(*channels)
        for _ in channels:
            assert await others.get_message(timeout=None)
        await adapter.send([Record(key, b"third") for key in exact])
        for channel in exact.values():
            assert (await others.get_message(timeout=None))["channel"] == channel


async def test_a_record_that_is_none_is_refused_alone(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    async with reading(adapter) as reader:
        await adapter.subscribe([Key("*")])
        odd: list[Any] = [Record(Key("a"), "text"), Record(Key("a", 5), b""), Record(None, b""), Record(Key("a"), None)]  # type: ignore[arg-type]
        refused = await adapter.send([Record(Key("a"), b"1"), *odd, Record(Key("a"), b"2")])
        assert list(refused) == [1, 2, 3, 4]
        assert all(isinstance(error, EncodeError) for error in refused.values())
        assert [each.payload for each in await reader.until(2)] == [b"1", b"2"]
        assert list(await adapter.send(odd)) == [0, 1, 2, 3]
        assert await adapter.send([]) == {}


# What goes on at the same time


async def test_subscriptions_are_confirmed_behind_messages_that_nobody_has_received_yet(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    await adapter.connect(link())
    await adapter.subscribe([Key("flood")])
    for _ in range(20):
        await adapter.send([Record(Key("flood"), bytes(1000)) for _ in range(100)])
    # Nobody has received anything, and the confirmation stands behind it all.
    await adapter.subscribe([Key("other")])
    await adapter.send([Record(Key("other"), b"")])
    received: list[Received] = []
    while len(received) < 2001:
        received += await adapter.receive()
    assert received[-1].key == Key("other")
    await adapter.close()


async def test_what_nobody_receives_is_left_at_the_server_and_comes_later(server: Redis) -> None:
    adapter = RedisAdapter(server.url)
    await adapter.connect(link())
    await adapter.subscribe([Key("flood")])
    for _ in range(10):
        await adapter.send([Record(Key("flood"), bytes(1_000_000))])
    subscriber = adapter.connected().subscriber
    assert subscriber is not None
    assert subscriber.connection.unread < 6_000_000
    count = 0
    while count < 10:
        count += len(await adapter.receive())
    await adapter.close()


async def test_a_cancelled_call_costs_that_call_only(private: Private) -> None:
    server = await private(Redis())
    adapter = RedisAdapter(server.url)
    async with reading(adapter) as reader:
        await adapter.subscribe([Key("a")])
        for number in range(20):
            call = asyncio.ensure_future(
                adapter.send([Record(Key("a"), b"%d" % number)]) if number % 2 else adapter.ping()
            )
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        server.freeze()
        call = asyncio.ensure_future(adapter.subscribe([Key("b")]))
        await asyncio.sleep(0)
        call.cancel()
        server.thaw()
        assert await adapter.send([Record(Key("a"), b"last")]) == {}
        assert [each.payload for each in await reader.until(11)][-1] == b"last"


@pytest.mark.parametrize("which", ["publishes", "subscribes"])
async def test_a_connection_that_breaks_is_noticed_by_the_reader_at_once(server: Redis, which: str) -> None:
    adapter = RedisAdapter(server.url, client_name="broken")
    await adapter.connect(link())
    reader = Reader(adapter)
    await adapter.subscribe([Key("a")])
    async with client_of(server) as client:
        (id,) = [
            each["id"]
            for each in await client.client_list()
            if each["name"] == "broken" and (each["sub"] == "0") == (which == "publishes")
        ]
        await client.client_kill_filter(_id=id)
    with pytest.raises(ConnectionError):
        await reader.task
    await adapter.close()


async def test_coming_up_takes_one_round_trip_over_each_connection(private: Private) -> None:
    server = await private(Redis(password="pw"))
    async with Trips(server.port) as trips:
        adapter = RedisAdapter(trips.url(server).replace("/0", "/3"), client_name="trips")
        await adapter.connect(link())
        assert trips.counts == [1, 1]
        await adapter.close()


async def test_a_line_that_moves_shows_it_while_a_message_is_on_its_way(server: Redis) -> None:
    async with server.proxy() as proxy:
        adapter = RedisAdapter(proxy.url)
        async with reading(adapter) as reader:
            await adapter.subscribe([Key("large")])
            proxy.slow(64 * 1024 / 0.02)
            seen: set[tuple[int | None, ...]] = set()
            sending = asyncio.create_task(adapter.send([Record(Key("large"), bytes(3_000_000))]))
            while not reader.received:
                seen.add((adapter.sending, adapter.receiving))
                await asyncio.sleep(0.01)
            await sending
            assert len({sent for sent, _ in seen}) > 1
            assert len({received for _, received in seen}) > 1
            assert adapter.activity


# URLs


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("unix:///run/redis.sock", ValueError, r"redis:///0\?path=/run/redis.sock"),
        ("http://localhost", ValueError, "redis://user:password@host:6379/0"),
        ("localhost:6379", ValueError, "redis://user:password@host:6379/0"),
        ("redis://h?lease=3", TypeError, "has no option lease: it has client_name"),
        ("redis://h?nonsense", TypeError, "has no option nonsense"),
        ("redis://h?host=g", TypeError, "not in its query"),
        ("redis://h?path=/run/redis.sock", TypeError, "a path and nothing else"),
        ("rediss:///0?path=/run/redis.sock", TypeError, "a path and nothing else"),
        ("redis://h?retry=5", TypeError, "sets retry itself"),
        ("redis://h?redis_connect_func=f", TypeError, "sets redis_connect_func itself"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_with_what_to_write(url: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RedisAdapter(url)


async def test_a_socket_of_the_file_system_stands_in_a_url(private: Private, tmp_path: Path) -> None:
    await private(Redis(unixsocket=tmp_path / "redis"))
    adapter = RedisAdapter(f"redis:///4?path={tmp_path / 'redis'}")
    assert repr(adapter) == f"<RedisAdapter {tmp_path / 'redis'}/4>"
    async with reading(adapter) as reader:
        assert await reader.until_end() == []
        assert adapter.activity
        assert adapter.sending


async def test_the_options_of_a_connection_reach_the_server(private: Private) -> None:
    server = await private(Redis(password="pw", username="me"))
    adapter = RedisAdapter(server.url, client_name="shop")
    await adapter.connect(link())
    async with client_of(server, username="me", password="pw") as client:
        assert [each["user"] for each in await client.client_list() if each["name"] == "shop"] == ["me", "me"]
    await adapter.close()
    wrong = RedisAdapter(server.url.replace("/0", "/99"))
    with pytest.raises(redis.ResponseError, match="out of range"):
        await wrong.connect(link())
    await wrong.close()
