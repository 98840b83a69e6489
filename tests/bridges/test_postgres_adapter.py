"""The adapter for LISTEN and NOTIFY against real servers, through the contract of adapters and nothing else."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.postgres_server import Postgres
from hubsub import BridgeError, BrokerBusy, DecodeError, DeliveryError, EncodeError, Key, MissingDriver, PayloadTooLarge
from hubsub.bridges.adapter import Link, Received, Record
from hubsub.bridges.postgres import PostgresAdapter
from hubsub.bridges.postgres.frames import LONGEST, Frames, channel_of
from hubsub.testing.conformance import sites, until

ALL: Key[Any] = Key("*")
END = Key("the", "end")
PASSWORD = "s3cret/pa:ss"
# About as long as a notification, and longer.
LONG = [b"y" * number for number in (3900, 7960, 7970, 7980, 7990, 8000, 20_000)]


def link(namespace: str = "hubsub", **fields: Any) -> Link:
    return Link(**{"sender": "s", "namespace": namespace, "incoming": (ALL,), **fields})


class Reader:
    """An adapter whose messages are received as they come."""

    def __init__(self, adapter: PostgresAdapter) -> None:
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
async def reading(adapter: PostgresAdapter, to: Link | None = None) -> AsyncIterator[Reader]:
    await adapter.connect(to or link())
    reader = Reader(adapter)
    try:
        yield reader
    finally:
        await adapter.close()
        with pytest.raises(ConnectionError):
            await reader.task


@asynccontextmanager
async def connected(
    server: Postgres | str, namespace: str = "hubsub", **options: Any
) -> AsyncIterator[PostgresAdapter]:
    """One that only sends."""
    adapter = PostgresAdapter(server if isinstance(server, str) else server.url, **options)
    await adapter.connect(link(namespace, incoming=()))
    try:
        yield adapter
    finally:
        await adapter.close()


@asynccontextmanager
async def listening(server: Postgres, *channels: str) -> AsyncIterator[list[tuple[str, str]]]:
    """What another program hears on these channels."""
    client, heard = await server.client("hubsub"), []  # type: ignore[var-annotated]
    for channel in channels:
        await client.add_listener(channel, lambda _, pid, channel, text: heard.append((channel, text)))
    try:
        yield heard
    finally:
        await client.close()


# Keys and payloads as notifications


PARTS = st.text(st.sampled_from('ab*/%"\\ \0\n=é\udc80'), max_size=4) | st.text(st.characters(), max_size=4)
EXACT = st.lists(PARTS.filter(lambda part: part not in ("*", "+")), min_size=1, max_size=4).map(lambda p: Key(*p))


@given(EXACT, st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
@example(Key(""), b"")
@example(Key("", ""), b" ")
@example(Key("%2F", "%", "/"), b"=")
def test_every_message_is_a_text_of_ascii_from_which_it_is_read_again(key: Key[Any], payload: bytes) -> None:
    (text,) = Frames().pack(Record(key, payload))
    assert text.isascii()
    assert "\0" not in text
    assert Frames().unpack(1, text) == Received(key, payload)


@given(
    st.lists(
        st.tuples(EXACT, st.binary(max_size=40) | st.sampled_from([b"", b"same", b"\0", "é".encode(), b"x" * 20_000])),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_what_is_sent_arrives_as_it_was_and_each_once_whatever_it_is(
    postgres: Postgres, messages: list[tuple[Key[Any], bytes]]
) -> None:
    async with reading(PostgresAdapter(postgres.url)) as reader, connected(postgres) as writer:
        # Twice in one call: what is equal is not one.
        records = [Record(*each) for each in messages * 2]
        assert await writer.send(records) == {}
        received = await reader.until(len(records))
        assert [each[:2] for each in received] == messages * 2


async def test_payloads_of_any_size_arrive_whole_and_in_order(postgres: Postgres) -> None:
    chance = Random(1)
    sizes = [*range(LONGEST - 60, LONGEST + 20), 3 * LONGEST, 100_000, 3_000_000]
    payloads = [b"x" * size for size in sizes] + [chance.randbytes(size) for size in sizes]
    async with reading(PostgresAdapter(postgres.url)) as reader, connected(postgres) as writer:
        for start in range(0, len(payloads), 40):
            assert not await writer.send([Record(Key("a", "b"), each) for each in payloads[start : start + 40]])
        await reader.until(len(payloads))
        assert reader.payloads == payloads


async def test_the_pieces_of_several_senders_are_not_mixed_up(postgres: Postgres) -> None:
    async with (
        reading(PostgresAdapter(postgres.url)) as reader,
        connected(postgres) as one,
        connected(postgres) as two,
        connected(postgres) as three,
    ):
        payloads = [bytes([which]) * 50_000 for which in b"abc"]

        async def send(writer: PostgresAdapter, payload: bytes) -> None:
            for _ in range(20):
                assert not await writer.send([Record(Key("k"), payload)] * 3)

        await asyncio.gather(*map(send, (one, two, three), payloads))
        await reader.until(180)
        assert sorted(payload or b"" for payload in reader.payloads) == sorted(payloads * 60)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding_carries_everything(postgres: Postgres, encoding: str) -> None:
    name = f"other_{encoding.lower()}"
    await postgres.execute(
        f"drop database if exists {name}", f"create database {name} encoding '{encoding}' locale 'C' template template0"
    )
    url = postgres.url.removesuffix("hubsub") + name
    async with reading(PostgresAdapter(url)) as reader, connected(url) as writer:
        records = [Record(Key("中", "é"), "中é€".encode()), Record(Key("\udc80"), b"\xff\0"), Record(Key("a"), b"a")]
        assert not await writer.send(records)
        assert [each[:2] for each in await reader.until(3)] == [record[:2] for record in records]


async def test_namespaces_do_not_hear_each_other_whatever_they_are_called(postgres: Postgres) -> None:
    names = [
        "hubsub",
        "Hubsub",
        'a"b',
        "a:control",
        "a",
        "é",
        "n" * 63,
        "n" * 64,
        "n" * 200 + "1",
        "n" * 200 + "2",
        " ",
    ]
    channels = [channel_of(name) + more for name in names for more in ("", ":control", ":log:control")]
    assert len(set(channels)) == 3 * len(names)
    assert all(len(channel.encode()) < 64 for channel in channels)
    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(reading(PostgresAdapter(postgres.url), link(name))) for name in names
        ]
        for name in names:
            async with connected(postgres, name) as writer:
                await writer.send([Record(END, b"", is_control=True), Record(Key("k"), name.encode())])
        for reader, name in zip(readers, names, strict=True):
            await reader.until(1)
            assert reader.payloads == [name.encode()]


def test_there_is_no_channel_without_a_name() -> None:
    adapter = PostgresAdapter("postgres://localhost")
    with pytest.raises(ValueError, match="channel=chat"):
        adapter.features_for(link(""))


# Control messages


async def test_what_is_listened_to_comes_as_control_messages_and_nothing_else_does(postgres: Postgres) -> None:
    mine, other = Key("Hub", "beat", "one"), Key("Hub", "beat", "two")
    async with reading(PostgresAdapter(postgres.url), link(incoming=())) as reader, connected(postgres) as writer:
        await reader.adapter.listen([mine])
        records = [Record(other, b"", is_control=True), Record(Key("a"), b"no"), Record(mine, b"1", is_control=True)]
        large = Record(mine, b"x" * 30_000, is_control=True)
        await writer.send([*records, large])
        assert await reader.until(2) == [Received(mine, each.payload, is_control=True) for each in (records[2], large)]


# Channels of other programs


async def test_other_programs_are_read_and_written_to_plainly(postgres: Postgres) -> None:
    async with (
        listening(postgres, "chat", "news") as heard,
        reading(PostgresAdapter(f"{postgres.url}?channel=chat&channel=news")) as reader,
    ):
        await postgres.execute("notify chat, 'hello'", "notify news", "notify other, 'no'", "notify chat, 'hello'")
        await reader.until(3)
        assert reader.received == [
            Received(Key("chat"), b"hello"),
            Received(Key("news"), b""),
            Received(Key("chat"), b"hello"),
        ]
        # What is equal goes in several transactions; what is ours does not come back.
        same = Record(Key("chat"), "grüß".encode())
        heard.clear()
        assert not await reader.adapter.send([same, same, Record(Key("news"), b"1"), same, Record(Key("news"), b"2")])
        await postgres.execute("notify chat, 'end'")
        await until(lambda: ("chat", "end") in heard)
        assert heard == [
            ("chat", "grüß"),
            ("chat", "grüß"),
            ("news", "1"),
            ("chat", "grüß"),
            ("news", "2"),
            ("chat", "end"),
        ]
        await reader.until(4)
        assert reader.payloads[3:] == [b"end"]


async def test_only_channels_that_may_come_in_are_listened_to(postgres: Postgres) -> None:
    url = f"{postgres.url}?channel=chat&channel=news"
    async with reading(PostgresAdapter(url), link(incoming=(Key("news"),))) as reader:
        await postgres.execute("notify chat, 'no'", "notify news, 'yes'")
        assert (await reader.until(1))[0].key == Key("news")


async def test_what_a_channel_cannot_carry_is_refused_alone(postgres: Postgres) -> None:
    async with listening(postgres, "chat") as heard, connected(f"{postgres.url}?channel=chat") as writer:
        assert writer.features.max_payload == LONGEST
        chat = Key("chat")
        refused = await writer.send(
            [
                Record(chat, b"1"),
                Record(chat, b"x" * (LONGEST + 1)),
                Record(chat, b"\xff"),
                Record(chat, b"a\0b"),
                Record(Key("news"), b"other"),
                Record(Key("chat", "room"), b"other"),
                Record(chat, b"x" * LONGEST),
            ]
        )
        assert list(refused) == [1, 2, 3, 4, 5]
        assert isinstance(refused[1], PayloadTooLarge)
        assert all(isinstance(refused[index], EncodeError) for index in (2, 3, 4, 5))
        assert "?channel=" in str(refused[4])
        await until(lambda: len(heard) == 2)
        assert [len(text) for _, text in heard] == [1, LONGEST]


async def test_what_the_encoding_of_a_database_does_not_have_is_refused_alone(postgres: Postgres) -> None:
    await postgres.execute(
        "drop database if exists latin", "create database latin encoding 'LATIN1' locale 'C' template template0"
    )
    url = postgres.url.removesuffix("hubsub") + "latin?channel=chat"
    async with reading(PostgresAdapter(url)) as reader, connected(url) as writer:
        chat = Key("chat")
        texts = ["1", "é", "中", "2", "2", "中", "3"]
        refused = await writer.send([Record(chat, text.encode()) for text in texts])
        assert list(refused) == [2, 5]
        assert isinstance(refused[2], asyncpg.PostgresError)
        await reader.until(5)
        assert reader.payloads == [b"1", "é".encode(), b"2", b"2", b"3"]


async def test_a_channel_may_be_called_anything_that_a_key_may_be(postgres: Postgres) -> None:
    names = ['say "hi"; drop', "grüß/dich.x", "*x", "a b", "Chat", "%2F"]
    async with reading(PostgresAdapter(postgres.url, channel=names)) as reader, listening(postgres, *names) as heard:
        assert not await reader.adapter.send([Record(Key(name), name.encode()) for name in names])
        await until(lambda: len(heard) == len(names))
        assert heard == [(name, name) for name in names]
        client = await postgres.client()
        for name in names:
            await client.execute("select pg_notify($1, 'x')", name)
        await client.close()
        assert [each.key for each in await reader.until(len(names))] == [Key(name) for name in names]


async def test_a_bridge_talks_with_other_programs_and_its_own_words_do_not_come_back(postgres: Postgres) -> None:
    url = f"{postgres.url}?channel=chat"
    options: dict[str, Any] = {"both": Key("chat"), "envelope": False, "codec": "str"}
    async with sites(lambda: PostgresAdapter(url)) as those, listening(postgres, "chat") as heard:
        one, two = await those.add(ALL, **options), await those.add(ALL, **options)
        one.hub.publish("chat", "hello")
        one.hub.publish("chat", "hello")
        await two.wait_for(2)
        await postgres.execute("notify chat, 'from psql'")
        for site in (one, two):
            await site.see("from psql")
        # The first two are its own, as they were published: they came from nowhere else.
        assert one.messages == ["hello", "hello", "from psql"]
        assert two.messages == ["hello", "hello", "from psql"]
        with pytest.raises(DeliveryError) as told:
            await one.hub.publish_confirmed("chat", "x" * 8000)
        assert isinstance(told.value.exceptions[0].__cause__, PayloadTooLarge)
        # Longer than a bridge hears nothing before it gives a sign of life: that goes elsewhere.
        await asyncio.sleep(2.5)
        assert one.bridge.health().reconnects == 0
        assert [text for _, text in heard] == ["hello", "hello", "from psql"]


# What others write, where bridges talk


async def test_what_nobody_can_read_is_told_and_what_follows_is_read(postgres: Postgres) -> None:
    whole = Frames().frame("k", b"x" * 20_000)
    first, middle, last = whole
    odd = ["", " ", "hello", "hello dear world", ":1", ":1 ", ":1= k ***", ":1.0", ":1.9+ x", "1 k 1", last]
    odd += [f":1.{'9' * 5000}+ x", ":² k"]
    async with reading(PostgresAdapter(postgres.url)) as reader:
        client = await postgres.client()
        # The first is of somebody who did not come to the end, and the last of one without a beginning.
        for text in [first, *odd, first, middle, first, middle, last, ":2 k 1"]:
            await client.execute("select pg_notify('hubsub', $1)", text)
        await client.close()
        received = await reader.until(len(odd) + 2)
        good = [each for each in received if each.trouble is None]
        assert good == [Received(Key("k"), b"x" * 20_000), Received(Key("k"), b"1")]
        assert all(isinstance(each.trouble, DecodeError) for each in received if each not in good)
        assert len(received) == len(odd) + 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Key("k"), Key("größe", "a b"), Key("x" * 900)]),
            st.binary(max_size=30) | st.text("a ,*:\0", max_size=20).map(str.encode) | st.sampled_from(LONG),
        ),
        max_size=40,
    )
)
def test_messages_of_a_batch_share_notifications_and_keep_their_order(messages: list[tuple[Key[Any], bytes]]) -> None:
    sender, receiver = Frames(), Frames()
    texts = sender.pack_all([Record(key, payload) for key, payload in messages])
    assert all(text.isascii() and len(text) <= LONGEST for text in texts)
    assert len(set(texts)) == len(texts)
    found = [each for text in texts for each in receiver.unpack_all(1, text)]
    assert [(each.key, each.payload) for each in found] == messages
    assert all(each.trouble is None for each in found)


def test_a_hundred_short_messages_are_few_notifications() -> None:
    assert len(Frames().pack_all([Record(Key("k"), b"x" * 150)] * 100)) == 2


@pytest.mark.parametrize(
    "text",
    ["*", "*1", "*1 ", "*1 x k 1", "*1 3,0 k 1", "*1 -3 k 1", "*1 3 k 1k", "*1 9 k 1", "*1 3 kkk", "*1 3,,3 k 1k 2"],
)
def test_a_notification_of_several_messages_that_cannot_be_read_is_one_trouble(text: str) -> None:
    (one,) = Frames().unpack_all(1, text)
    assert isinstance(one.trouble, DecodeError)


async def test_pieces_without_end_take_no_memory(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.bridges.postgres.frames.MOST_BYTES", 100_000)
    frames = Frames()
    said = [frames.unpack(1, f":1.{number}+ {'x' * 7900}") for number in range(100)]
    assert any(each is not None and "too long" in str(each.trouble) for each in said)
    assert sum(map(len, frames._pieces)) < 200_000


async def test_a_record_that_is_none_is_refused_alone(postgres: Postgres) -> None:
    async with reading(PostgresAdapter(postgres.url)) as reader, connected(postgres) as writer:
        odd: list[Any] = [Record(Key("a"), "text"), Record(Key("a", 5), b""), Record(None, b""), Record(Key("a"), None)]  # type: ignore[arg-type]
        refused = await writer.send([Record(Key("a"), b"1"), *odd, Record(Key("a"), b"2")])
        assert list(refused) == [1, 2, 3, 4]
        assert all(isinstance(error, EncodeError) for error in refused.values())
        await reader.until(2)
        assert reader.payloads == [b"1", b"2"]
        assert list(await writer.send(odd)) == [0, 1, 2, 3]
        assert await writer.send([]) == {}


# What the database forbids


async def refused(url: str, **options: Any) -> str:
    adapter = PostgresAdapter(url, **options)
    with pytest.raises(BridgeError) as told:
        await adapter.connect(link())
    await adapter.close()
    return str(told.value)


async def test_what_is_forbidden_for_good_is_told_with_the_remedy(private: Private) -> None:
    server = await private(Postgres(password="sesame", max_connections=8))
    await server.execute(
        "create role outsider login password 'sesame'", "revoke connect on database hubsub from public"
    )
    await server.execute("grant connect on database hubsub to hubsub")
    assert "correct the user and password" in await refused(server.url.replace("sesame", "barley"))
    # Only where no password is asked for does the server distinguish a missing role from a wrong password.
    assert "correct the user and password" in await refused(server.url_of("nobody"))
    assert "CREATE DATABASE" in await refused(server.url.removesuffix("hubsub") + "nowhere")
    assert "GRANT" in await refused(server.url_of("outsider"))
    assert "server_settings" in await refused(server.url, server_settings={"nonsense": "1"})
    assert "server_settings" in await refused(server.url, server_settings={"work_mem": "much"})
    async with connected(server), connected(server):
        assert "max_connections" in await refused(server.url)


async def test_a_role_that_is_not_there_is_told_with_the_remedy(postgres: Postgres) -> None:
    assert "CREATE ROLE" in await refused(postgres.url_of("nobody"))


async def test_a_standby_is_told_with_the_remedy_and_of_several_hosts_the_primary_is_used(private: Private) -> None:
    standby, primary = Postgres(), await private(Postgres())
    standby.prepare()
    standby._prepared = True
    (standby._data / "standby.signal").touch()
    await private(standby)
    assert "name the primary" in await refused(standby.url)
    assert "name the primary" in await refused(standby.url, target_session_attrs="any")
    url = f"postgres://hubsub@127.0.0.1:1,127.0.0.1:{standby.port},127.0.0.1:{primary.port}/hubsub"
    async with reading(PostgresAdapter(url)) as reader, connected(primary) as writer:
        await writer.send([Record(Key("a"), b"1")])
        await reader.until(1)


async def test_reading_only_transactions_are_no_obstacle(postgres: Postgres) -> None:
    options = {"server_settings": {"default_transaction_read_only": "on"}}
    async with reading(PostgresAdapter(postgres.url, **options)) as reader:
        async with connected(postgres, **options) as writer:
            assert not await writer.send([Record(Key("a"), b"1")])
        await reader.until(1)


async def test_a_role_that_may_not_notify_is_told_with_the_remedy(private: Private) -> None:
    server = await private(Postgres())
    await server.execute("create database strict", "grant connect on database strict to public")
    client = await asyncpg.connect(server.url_of("postgres").removesuffix("hubsub") + "strict")
    await client.execute("revoke execute on function pg_notify(text, text) from public")
    async with connected(server.url.removesuffix("hubsub") + "strict") as writer:
        errors = await writer.send([Record(Key("a"), b"1"), Record(Key("b"), b"2")])
        assert list(errors) == [0, 1]
        assert all(isinstance(error, BridgeError) and "GRANT" in str(error) for error in errors.values())
        await client.execute("grant execute on function pg_notify(text, text) to public")
        assert not await writer.send([Record(Key("a"), b"1")])
    await client.close()


async def test_a_database_that_takes_nothing_just_now_keeps_the_connection(postgres: Postgres) -> None:
    async with connected(postgres) as writer:
        # Only for this statement: on a busy machine any other may take as long.
        asker = writer.connected().asker
        await asker.execute("set statement_timeout = 30")
        with pytest.raises(BrokerBusy, match="does not accept statements at present"):
            await writer.send([Record(Key("a"), b"x" * 20_000_000)])
        await asker.execute("reset statement_timeout")
        assert not await writer.send([Record(Key("a"), b"1")])
        await writer.ping()


# Connections that end


async def test_after_a_crash_of_the_server_it_is_connected_again(private: Private) -> None:
    server = await private(Postgres())
    adapter = PostgresAdapter(server.url)
    await adapter.connect(link())
    reader = Reader(adapter)
    server.kill()
    with pytest.raises(ConnectionError):
        await reader.task
    with pytest.raises(ConnectionError):
        await adapter.send([Record(Key("b"), b"")])
    await adapter.close()
    for _ in range(2):
        with pytest.raises(OSError, match="Connect call failed"):
            await adapter.connect(link())
        await adapter.close()
    await server.start_wait()
    async with reading(adapter) as reader, connected(server) as writer:
        await writer.send([Record(Key("b"), b"heard")])
        await reader.until(1)


@pytest.mark.parametrize("which", ["listens", "notifies"])
async def test_a_connection_that_breaks_is_noticed_by_the_reader_at_once(postgres: Postgres, which: str) -> None:
    adapter = PostgresAdapter(postgres.url, application_name=f"broken {which}")
    await adapter.connect(link())
    reader = Reader(adapter)
    words = "listen" if which == "listens" else "select pg_backend_pid"
    await postgres.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        f" where application_name = 'broken {which}' and query ilike '{words}%'"
    )
    with pytest.raises(ConnectionError):
        await reader.task
    await adapter.close()


async def test_closing_ends_whoever_waits_and_closing_twice_is_safe(private: Private) -> None:
    server = await private(Postgres())
    adapter = PostgresAdapter(server.url)
    await adapter.close()
    await adapter.connect(link())
    reader = Reader(adapter)
    server.freeze()
    try:
        waiting = [
            asyncio.create_task(adapter.listen([END])),
            asyncio.create_task(adapter.ping()),
            asyncio.create_task(adapter.send([Record(Key("a"), b"x" * 10_000_000)])),
        ]
        await asyncio.wait(waiting, timeout=0.05)
        async with asyncio.timeout(1):
            await adapter.close()
            await adapter.close()
        for task in (*waiting, reader.task):
            with pytest.raises((ConnectionError, asyncpg.InterfaceError, asyncpg.PostgresError)):
                await task
    finally:
        server.thaw()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_connect_that_is_given_up_leaves_nothing_open(private: Private) -> None:
    server = await private(Postgres())
    adapter = PostgresAdapter(server.url, application_name="given up")
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(adapter.connect(link()), 0.2)
        await adapter.close()
    finally:
        server.thaw()
    client = await server.client()
    count = "select count(*) from pg_stat_activity where application_name = 'given up'"
    while await client.fetchval(count):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    await client.close()
    async with reading(adapter) as reader, connected(server) as writer:
        await writer.send([Record(Key("b"), b"heard")])
        await reader.until(1)


async def test_a_cancelled_call_costs_that_call_only(postgres: Postgres) -> None:
    async with reading(PostgresAdapter(postgres.url)) as reader, connected(postgres) as writer:
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


async def test_what_a_lost_connection_still_sends_is_known_to_be_our_own(postgres: Postgres) -> None:
    async with postgres.proxy() as line:
        adapter = PostgresAdapter(f"{line.url}?channel=chat")
        await adapter.connect(link())
        line.stall_replies()
        sending = asyncio.create_task(adapter.send([Record(Key("chat"), b"ours")]))
        line.stall()
        await asyncio.sleep(0.05)
        # The server gets it only when we are connected anew, and listen.
        await adapter.close()
        await asyncio.wait([sending])
        direct = PostgresAdapter(f"{postgres.url}?channel=chat")
        direct._pids = adapter._pids
        async with reading(direct) as reader, listening(postgres, "chat") as heard:
            line.resume()
            await postgres.execute("notify chat, 'theirs'")
            await until(lambda: ("chat", "theirs") in heard)
            await reader.until(1)
            assert reader.payloads == [b"theirs"]


async def test_a_line_that_moves_shows_it_while_a_message_is_on_its_way(postgres: Postgres) -> None:
    async with postgres.proxy() as line:
        writer = PostgresAdapter(line.url)
        async with reading(PostgresAdapter(line.url)) as reader, reading(writer, link(incoming=())):
            line.slow(5_000_000)
            seen: set[tuple[Any, ...]] = set()
            sending = asyncio.create_task(writer.send([Record(Key("large"), b"x" * 3_000_000)]))
            while not reader.received:
                seen.add((writer.sending, reader.adapter.receiving, reader.adapter.activity))
                await asyncio.sleep(0.01)
            await sending
            assert all(len(set(signs)) > 2 for signs in zip(*seen, strict=True))


# URLs and options


async def test_tls_by_url_and_by_a_context(private: Private) -> None:
    server = await private(Postgres(tls=True, password="pw"))
    plain, authority = server.url.partition("?")[0], certificates().authority
    for adapter in (
        PostgresAdapter(f"{plain}?sslmode=verify-full&sslrootcert={authority}"),
        PostgresAdapter(plain, ssl=certificates().context()),
        PostgresAdapter(plain, sslmode="verify-ca", sslrootcert=str(authority)),
    ):
        async with reading(adapter) as reader, connected(server) as writer:
            await writer.send([Record(Key("a"), b"x" * 1_000_000)])
            await reader.until(1)
            assert adapter.activity
    for stranger in (PostgresAdapter(plain, ssl=True), PostgresAdapter(f"{plain}?sslmode=disable")):
        with pytest.raises((OSError, BridgeError), match=r"certificate verify failed|pg_hba"):
            await stranger.connect(link())
        await stranger.close()


async def test_a_socket_of_the_file_system_and_options_in_place_of_a_url(postgres: Postgres) -> None:
    where = {"host": str(postgres.folder), "port": postgres.port, "user": "hubsub", "database": "hubsub"}
    for adapter in (
        PostgresAdapter(f"postgresql://hubsub@/hubsub?host={postgres.folder}&port={postgres.port}"),
        PostgresAdapter(f"postgresql://hubsub@{str(postgres.folder).replace('/', '%2F')}:{postgres.port}/hubsub"),
        PostgresAdapter(**where),
    ):
        assert repr(adapter) == f"<PostgresAdapter {postgres.folder}:{postgres.port}/hubsub>"
        async with reading(adapter) as reader, connected(postgres) as writer:
            await writer.send([Record(Key("a"), b"1")])
            await reader.until(1)


async def test_a_password_may_be_anything_and_come_from_a_function(private: Private) -> None:
    server = await private(Postgres(password="a b/c?d#e@f:g%h+'\"é"))
    plain = f"postgres://hubsub@127.0.0.1:{server.port}/hubsub"
    for adapter in (
        PostgresAdapter(server.url),
        PostgresAdapter(plain, password=server.password),
        PostgresAdapter(plain, password=lambda: server.password),
    ):
        async with reading(adapter):
            pass


async def test_no_password_is_told_to_anybody(private: Private, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = await private(Postgres(password="another"))
    secret = "s3cret%2Fpa%3Ass"
    adapter = PostgresAdapter(f"postgres://hubsub:{secret}@127.0.0.1:{server.port}/hubsub?channel=chat")
    told = [repr(adapter), repr(adapter._database), repr(PostgresAdapter("postgres://h", password=PASSWORD))]
    assert told[0] == f"<PostgresAdapter 127.0.0.1:{server.port}/hubsub channel=chat>"
    async with sites(lambda: adapter) as those:
        site = await those.add(ready=False)
        await until(lambda: site.bridge.health().last_error is not None)
        error: BaseException | None = site.bridge.health().last_error
        while error is not None:
            told += [repr(error), str(error)]
            error = error.__cause__ or error.__context__
    for wrong in (
        f"postgres://user:{PASSWORD}@localhost",
        f"postgres://:s3cret#{PASSWORD}@localhost:1",
        f"postgres://:1?s3cret{PASSWORD}@localhost:1",
        f"postgres://:{secret}@localhost:s3cret",
        f"postgres://:{secret}@[localhost",
        f"postgres://:{secret}@localhost/?timeout=5",
        f"postgres://:{secret}@localhost/?sslmode=s3cret",
        f"http://:{secret}@localhost",
        f"postgres://h?password={secret}&sslpassword=s3cret&nonsense=1",
    ):
        with pytest.raises((ValueError, TypeError)) as nonsense:
            PostgresAdapter(wrong)
        told += [repr(nonsense.value), repr(nonsense.value.__cause__), repr(nonsense.value.__context__)]
    with pytest.raises(ValueError, match="password must be text") as nonsense:
        PostgresAdapter("postgres://h", password=b"s3cret")
    told.append(str(nonsense.value))
    assert not re.search("s3cret|pa:ss|pa%3Ass", "\n".join([*told, caplog.text]))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs a URL"),
        ({"url": "postgres://h", "host": "g"}, TypeError, "host"),
        ({"url": "postgres://h?host=g"}, TypeError, "host"),
        ({"url": "postgres://h/a?database=b"}, TypeError, "database"),
        ({"url": "postgres://u@h", "user": "v"}, TypeError, "user"),
        ({"url": "postgres://h?sslmode=require", "ssl": True}, TypeError, "ssl"),
        ({"url": "postgres://h?nonsense=1"}, TypeError, "no option nonsense"),
        ({"url": "postgres://h", "nonsense": 1}, TypeError, "no option nonsense"),
        ({"url": "postgres://h", "namespace": "n"}, TypeError, "no option namespace"),
        ({"url": "postgres://h", "command_timeout": 1}, TypeError, "sets command_timeout itself"),
        ({"url": "postgres://h?connect_timeout=1"}, TypeError, "sets connect_timeout itself"),
        ({"url": "postgres://h?channel=a", "channel": "b"}, TypeError, "channel twice"),
        ({"url": "postgres://h?channel="}, ValueError, "channel must be a name"),
        ({"url": "postgres://h?channel=*"}, ValueError, "channel must be a name"),
        ({"url": "postgres://h", "channel": "x" * 64}, ValueError, "channel must be a name"),
        ({"url": "postgres://h", "channel": ["a", 5]}, ValueError, "channel must be a name"),
        ({"url": "postgres://h:0"}, ValueError, "with numbers as ports"),
        ({"url": "postgres://h:99999"}, ValueError, "with numbers as ports"),
        ({"url": "postgres://h?sslmode=maybe"}, ValueError, "sslmode must be one of"),
        ({"url": "postgres://h", "target_session_attrs": "first"}, ValueError, "target_session_attrs must be one of"),
        ({"url": "postgres://h", "server_settings": {"a": 1}}, ValueError, "server_settings must be a dict"),
        ({"url": "postgres://h", "ssl": "yes"}, ValueError, "ssl must be an ssl.SSLContext"),
        ({"host": "h", "port": 0}, ValueError, "port must be a number"),
        ({"url": "mysql://h"}, ValueError, "postgres://user:password@host:5432/database"),
        ({"url": "h:5432"}, ValueError, "postgres://user:password@host:5432/database"),
        ({"url": "postgres://h/a#b"}, ValueError, "is invalid"),
    ],
)
def test_options_that_make_no_sense_are_told(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        PostgresAdapter(**arguments)


def test_a_missing_driver_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingDriver, match=r"^PostgresAdapter needs asyncpg: pip install 'hubsub\[postgres\]'$"):
        PostgresAdapter("postgres://localhost")


def test_the_driver_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, hubsub.bridges.postgres; sys.exit('asyncpg' in sys.modules)"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
