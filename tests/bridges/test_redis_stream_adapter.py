"""Redis Streams: what the adapter promises, against a server of our own that is killed, flushed and trimmed."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import hubsub
from hubsub import Key
from hubsub.bridges.adapter import Link, Loss, Received, Record
from hubsub.bridges.redis_client import _head, parse, without_password
from hubsub.bridges.redis_stream import Place, RedisStreamAdapter, State

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        shutil.which("redis-server") is None and os.environ.get("HUBSUB_REQUIRE_ALL") != "1",
        reason="needs redis-server",
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A private server on a free port, to be killed and started again on the same one."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.port = free_port()
        self.url = f"redis-stream://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *instead: str) -> None:
        address = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory))
        command = ["redis-server", *(instead or (*address, "--save", "", *self.options))]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not self._answers():
            assert self.process.poll() is None

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def tell(self, *words: object) -> str:
        command = ["redis-cli", "-p", str(self.port), *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    shared_server.tell("FLUSHALL")
    shared_server.tell("SCRIPT", "FLUSH")
    return shared_server


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    servers: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        servers.append(RedisServer(directory, *options))
        servers[-1].start()
        return servers[-1]

    yield make
    for each in servers:
        each.kill()


def link(**fields: Any) -> Link:
    return Link(**{"sender": uuid4().hex, "namespace": "hubsub", **fields})


@asynccontextmanager
async def connected(server: RedisServer | str, options: Any = None, **fields: Any) -> AsyncIterator[RedisStreamAdapter]:
    adapter = RedisStreamAdapter(server if isinstance(server, str) else server.url, **(options or {}))
    await adapter.connect(link(**fields))
    try:
        yield adapter
    finally:
        await adapter.close()
        await adapter.close()


def records(first: int, last: int, key: Sequence[str] = ("orders", "new")) -> list[Record]:
    return [Record(Key(*key), b"%d" % number, {"id": str(number)}, number) for number in range(first, last + 1)]


async def received(adapter: RedisStreamAdapter, count: int) -> list[Received | Loss]:
    found: list[Received | Loss] = []
    while len(found) < count:
        found += await adapter.receive()
    return found


# What is waited for below happens in a server.
async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def payloads(found: Sequence[Received | Loss]) -> list[Any]:
    return [(each.reason, each.count) if isinstance(each, Loss) else int(each.payload or b"-1") for each in found]


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# Sending and receiving


async def test_what_is_sent_arrives_with_key_payload_and_headers(server: RedisServer) -> None:
    async with connected(server, start="earliest") as adapter:
        sent = [
            Record(Key("a:b", "", "é%\r\n", "\ud800"), b"\r\n$3\r\n", {"id": "1", "nämé": "\r\nwert"}, 1),
            Record(Key("*"), b"", {}, 2),
        ]
        assert await adapter.send(sent) == {}
        first, second = await received(adapter, 2)
        assert isinstance(first, Received)
        assert first[:4] == (sent[0].key, sent[0].payload, sent[0].headers, "hubsub")
        assert first.token is None
        assert first.attempts == 0
        assert first.time is not None
        assert first.position == f"hubsub:{server.tell('XRANGE', 'hubsub', '-', '+', 'COUNT', 1).splitlines()[0]}"
        assert second[:3] == (Key("*"), b"", {})


async def test_only_what_is_new_comes_unless_asked_otherwise(server: RedisServer) -> None:
    async with connected(server) as sender:
        await sender.send(records(1, 3))
        async with connected(server) as new, connected(server, start="earliest") as all_of_it:
            await sender.send(records(4, 5))
            assert payloads(await received(new, 2)) == [4, 5]
            assert payloads(await received(all_of_it, 5)) == numbers(1, 5)


async def test_reading_begins_at_a_time(server: RedisServer) -> None:
    for milliseconds in (1000, 2000, 3000):
        server.tell("XADD", "hubsub", f"{milliseconds}-5", "key", "a", "payload", milliseconds)
    async with connected(server, start=2.0) as adapter:
        assert payloads(await received(adapter, 2)) == [2000, 3000]
    async with connected(server, start=2.0, group="g") as adapter:
        assert payloads(await received(adapter, 2)) == [2000, 3000]
    async with connected(server, start=1e10) as adapter:
        server.tell("XADD", "hubsub", "4000-0", "key", "a", "payload", 4000)
        assert payloads(await received(adapter, 1)) == [4000]


async def test_nothing_comes_from_a_silent_stream(server: RedisServer) -> None:
    async with connected(server) as adapter, connected(server, group="g") as member:
        assert await adapter.receive() == []
        assert await member.receive() == []


async def test_what_was_stored_is_not_stored_again(server: RedisServer) -> None:
    async with connected(server, start="earliest") as adapter:
        await adapter.send(records(1, 3))
        await adapter.send(records(1, 3))
        await adapter.send(records(2, 5))
        assert payloads(await received(adapter, 5)) == numbers(1, 5)
        assert server.tell("XLEN", "hubsub") == "5"
    assert int(server.tell("TTL", server.tell("KEYS", "hubsub:sender:*"))) > 0


async def test_streams_are_trimmed_to_about_their_length(server: RedisServer) -> None:
    async with connected(server, {"maxlen": 100}) as adapter:
        await adapter.send(records(1, 1000))
    assert 100 <= int(server.tell("XLEN", "hubsub")) < 300
    async with connected(server, {"maxlen": None}, namespace="other") as adapter:
        await adapter.send(records(1, 1000))
    assert server.tell("XLEN", "other") == "1000"


async def test_a_key_chooses_its_stream(server: RedisServer) -> None:
    options = {"route": lambda key: key[0], "sources": ["orders", "prices"]}
    async with connected(server, options, start="earliest") as adapter:
        await adapter.send([Record(Key("orders", "1"), b"1", {}, 1), Record(Key("prices"), b"2", {}, 2)])
        await adapter.send([Record(Key("logs"), b"3", {}, 3), Record(Key("orders", "2"), b"4", {}, 4)])
        found = await received(adapter, 3)
        assert {(each.lane, each.payload) for each in found if isinstance(each, Received)} == {
            ("hubsub:orders", b"1"),
            ("hubsub:prices", b"2"),
            ("hubsub:orders", b"4"),
        }
        assert server.tell("XLEN", "hubsub:logs") == "1"
        assert adapter.features.order == "key"


async def test_what_is_refused_is_told_apart(server: RedisServer) -> None:
    options = {"route": lambda key: key[0], "sources": []}
    server.tell("SET", "hubsub:wrong", "a string")
    async with connected(server, options, reads=False) as adapter:
        refused = await adapter.send([Record(Key("right"), b"", {}, 1), Record(Key("wrong"), b"", {}, 2)])
        assert list(refused) == [1]
        assert "WRONGTYPE" in str(refused[1])


async def test_a_full_server_is_no_reason_to_give_up(make_server: Callable[..., RedisServer]) -> None:
    server = make_server()
    async with connected(server, start="earliest") as adapter:
        server.tell("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await adapter.send(records(1, 2))
        server.tell("CONFIG", "SET", "maxmemory", 0)
        await adapter.send(records(1, 2))
        assert payloads(await received(adapter, 2)) == [1, 2]


async def test_entries_of_other_programs_arrive(server: RedisServer) -> None:
    async with connected(server, start="earliest") as adapter:
        server.tell("XADD", "hubsub", "*", "temperature", "21", "room", "küche")
        server.tell("XADD", "hubsub", "*", "payload", "x", "key", "a:b", "unit", "K")
        plain, other = await received(adapter, 2)
        assert plain[:3] == (Key("hubsub"), b'{"temperature": "21", "room": "k\\u00fcche"}', {})
        assert other[:3] == (Key("a", "b"), b"x", {"unit": "K"})


async def test_large_and_many_messages_arrive_in_order(server: RedisServer) -> None:
    async with connected(server, start="earliest") as adapter:
        sent = [Record(Key("k"), bytes([number]) * 1_000_000, {}, number) for number in range(20)]
        await adapter.send(sent)
        small = records(100, 5000)
        await adapter.send(small)
        found = await received(adapter, len(sent) + len(small))
        assert [each.payload for each in found if isinstance(each, Received)] == [each.payload for each in sent + small]


async def test_closing_ends_a_receive_that_waits(server: RedisServer) -> None:
    for group in (None, "g"):
        async with connected(server, group=group) as adapter:
            waiting = asyncio.create_task(adapter.receive())
            await asyncio.sleep(0)
            await adapter.close()
            with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
                await waiting


async def test_a_frozen_server_does_not_keep_us_from_closing(make_server: Callable[..., RedisServer]) -> None:
    server = make_server()
    async with connected(server, name="n") as adapter:
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        # More than the buffers of the sockets hold.
        sending = asyncio.create_task(adapter.send([Record(Key("k"), bytes(50_000_000), {}, 1)]))
        receiving = asyncio.create_task(adapter.receive())
        await asyncio.sleep(0.05)
        await adapter.close()
        results = await asyncio.gather(sending, receiving, return_exceptions=True)
        assert all(isinstance(each, Exception) for each in results)


# Loss


async def test_what_was_trimmed_unread_is_counted(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        assert payloads(await received(adapter, 10)) == numbers(1, 10)
        await adapter.send(records(11, 20))
        server.tell("XTRIM", "hubsub", "MAXLEN", 3)
        assert payloads(await received(adapter, 4)) == [("trimmed", 7), 18, 19, 20]
        await adapter.send(records(21, 21))
        assert payloads(await received(adapter, 1)) == [21]


async def test_what_was_trimmed_after_reading_is_no_loss(server: RedisServer) -> None:
    async with connected(server, start="earliest") as adapter, connected(server, group="g", start="earliest") as member:
        await adapter.send(records(1, 10))
        assert payloads(await received(adapter, 10)) == numbers(1, 10)
        assert payloads(await received(member, 10)) == numbers(1, 10)
        server.tell("XTRIM", "hubsub", "MAXLEN", 0)
        await adapter.send(records(11, 12))
        assert payloads(await received(adapter, 2)) == [11, 12]
        assert payloads(await received(member, 2)) == [11, 12]


async def test_what_was_deleted_unread_is_counted(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 5))
        ids = [line for line in server.tell("XRANGE", "hubsub", "-", "+").splitlines() if "-" in line]
        server.tell("XDEL", "hubsub", ids[1], ids[3])
        found = payloads(await received(adapter, 4))
        assert found == [("trimmed", 2), 1, 3, 5]


async def test_a_deleted_stream_is_a_loss_and_read_from_its_beginning(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        server.tell("DEL", "hubsub")
        await adapter.send(records(11, 30))
        assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]


async def test_a_deleted_stream_is_told_once_however_it_comes_back(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        server.tell("DEL", "hubsub")
        assert payloads(await received(adapter, 1)) == [("recreated", None)]
        assert await adapter.receive() == []
        await adapter.send(records(11, 12))
        assert payloads(await received(adapter, 2)) == [11, 12]
        server.tell("DEL", "hubsub")
        server.tell("XADD", "hubsub", "*", "key", "a", "payload", "13")
        first, *rest = payloads(await received(adapter, 2))
        assert first[0] in ("recreated", "rolled back")
        assert rest == [13]


async def test_a_flushed_server_is_a_loss(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        server.tell("FLUSHALL")
        server.tell("SCRIPT", "FLUSH")
        await adapter.send(records(11, 30))
        assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]


async def test_a_restart_without_persistence_is_a_loss(make_server: Callable[..., RedisServer]) -> None:
    server = make_server("--appendonly", "no")
    adapter = RedisStreamAdapter(server.url)
    its_link = link()
    await adapter.connect(its_link)
    await adapter.send(records(1, 10))
    await received(adapter, 10)
    server.kill()
    with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
        await received(adapter, 1)
    await adapter.close()
    server.start()
    await adapter.connect(its_link)
    await adapter.send(records(11, 30))
    assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]
    await adapter.close()


async def test_what_was_received_last_comes_again_after_an_outage(server: RedisServer) -> None:
    its_link = link()
    adapter = RedisStreamAdapter(server.url)
    await adapter.connect(its_link)
    await adapter.send(records(1, 2))
    assert payloads(await received(adapter, 2)) == [1, 2]
    await adapter.close()
    await adapter.connect(its_link)
    # Nobody asked for more, so it is not known whether they were taken.
    assert payloads(await received(adapter, 2)) == [1, 2]
    assert await adapter.receive() == []
    await adapter.close()
    await adapter.connect(its_link)
    assert await adapter.receive() == []
    await adapter.close()


async def test_what_comes_during_an_outage_of_the_reader_is_no_loss(server: RedisServer) -> None:
    its_link = link()
    adapter = RedisStreamAdapter(server.url)
    await adapter.connect(its_link)
    await adapter.send(records(1, 2))
    assert payloads(await received(adapter, 2)) == [1, 2]
    assert await adapter.receive() == []
    await adapter.close()
    async with connected(server) as sender:
        await sender.send(records(3, 4))
    await adapter.connect(its_link)
    assert payloads(await received(adapter, 2)) == [3, 4]
    await adapter.close()


async def test_a_lost_end_of_the_stream_is_a_loss_and_nothing_comes_twice(server: RedisServer) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        # As after a crash without fsync: the same stream, without its last entries.
        server.tell("XTRIM", "hubsub", "MAXLEN", 0)
        server.tell("XSETID", "hubsub", "5-0", "ENTRIESADDED", 5)
        server.tell("XADD", "hubsub", "*", "key", "a", "payload", "11")
        assert payloads(await received(adapter, 2)) == [("rolled back", None), 11]
        await adapter.send(records(12, 12))
        assert payloads(await received(adapter, 1)) == [12]


@given(st.data())
@settings(deadline=None)
def test_losses_add_up_to_what_is_gone(data: st.DataObject) -> None:
    """Against a naive log: every entry is read, told as missing, or still to come."""
    log: list[int] = []  # the ordinals of what is there
    added = 0
    place = Place(b"0-0", 0, b"e")
    was_read: set[int] = set()
    told = 0
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(["add", "trim", "delete", "read"]))
        if step == "add":
            for _ in range(data.draw(st.integers(1, 8))):
                added += 1
                log.append(added)
        elif step == "trim":
            log = log[data.draw(st.integers(0, len(log))) :]
        elif step == "delete" and log:
            log.remove(data.draw(st.sampled_from(log)))
        else:
            count = data.draw(st.integers(1, 6))
            behind = int(place.id.partition(b"-")[0])
            its = [each for each in log if each > behind][:count]
            stream = State(b"e", added, len(log), b"%d-0" % added)
            assert not place.is_void(stream)
            is_all = len(its) < count
            missed = place.missed(stream, len(its), is_all)
            told += missed
            place.advance(place.id, missed)
            if its:
                place.advance(b"%d-0" % its[-1], len(its))
            was_read |= set(its)
            lost = added - len(log) - len(was_read - set(log))
            assert told <= lost
            if is_all:
                assert told == lost
                assert place.ordinal == added


# Names


async def test_a_named_reader_goes_on_where_it_acknowledged(server: RedisServer) -> None:
    async with connected(server, name="n") as adapter:
        assert adapter.features.acks == "prefix"
        await adapter.send(records(1, 5))
        found = await received(adapter, 5)
        assert isinstance(found[2], Received)
        await adapter.ack([found[2].token])
    async with connected(server, name="n") as adapter:
        assert payloads(await received(adapter, 2)) == [4, 5]


async def test_a_named_reader_that_comes_back_gets_anew_what_it_did_not_acknowledge(server: RedisServer) -> None:
    its_link = link(name="n")
    adapter = RedisStreamAdapter(server.url)
    await adapter.connect(its_link)
    await adapter.send(records(1, 3))
    found = await received(adapter, 3)
    assert isinstance(found[0], Received)
    await adapter.ack([found[0].token])
    assert await adapter.receive() == []
    await adapter.close()
    await adapter.connect(its_link)
    assert payloads(await received(adapter, 2)) == [2, 3]
    await adapter.close()


async def test_a_named_reader_misses_nothing_before_its_first_acknowledgement(server: RedisServer) -> None:
    async with connected(server) as sender:
        await sender.send(records(1, 2))
        async with connected(server, name="n"):
            pass
        await sender.send(records(3, 4))
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 2)) == [3, 4]


async def test_a_named_reader_is_told_what_went_missing_while_it_was_away(server: RedisServer) -> None:
    async with connected(server) as sender:
        async with connected(server, name="n") as adapter:
            await sender.send(records(1, 5))
            found = await received(adapter, 5)
            assert isinstance(found[4], Received)
            await adapter.ack([found[4].token])
        await sender.send(records(6, 10))
        server.tell("XTRIM", "hubsub", "MAXLEN", 2)
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 3)) == [("trimmed", 3), 9, 10]
        server.tell("DEL", "hubsub")
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 1)) == [("recreated", None)]


async def test_a_name_is_taken_once(server: RedisServer) -> None:
    async with connected(server, name="n"):
        with pytest.raises(hubsub.NameTaken, match="'n'"):
            async with connected(server, name="n"):
                pass
        async with connected(server, name="m"):
            pass
    async with connected(server, name="n"):
        pass
    assert server.tell("EXISTS", "hubsub:name:n") == "0"


async def test_a_bridge_comes_back_under_its_own_name(server: RedisServer) -> None:
    its_link = link(name="n")
    adapter = RedisStreamAdapter(server.url)
    await adapter.connect(its_link)
    server.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
        await received(adapter, 1)
    await adapter.close()
    await adapter.connect(its_link)
    assert await adapter.receive() == []
    await adapter.close()


async def test_a_name_is_free_after_closing_however_the_last_call_ended(server: RedisServer) -> None:
    async with connected(server, name="n") as adapter:
        sending = asyncio.create_task(adapter.send(records(1, 100)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
    async with connected(server, name="n"):
        pass


async def test_whoever_lost_its_name_to_another_stops_reading(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubsub.bridges.redis_stream.NAME_SECONDS", 0.04)
    async with connected(server, name="n") as adapter:
        server.tell("SET", "hubsub:name:n", "another")
        with pytest.raises(hubsub.NameTaken):
            await received(adapter, 1)


# Groups


async def test_members_of_a_group_share_the_messages(server: RedisServer) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        assert one.features.acks == "each"
        assert one.features.lease == 30
        await one.send(records(1, 1))
        first = await received(one, 1)
        await one.send(records(2, 2))
        second = await received(other, 1)
        assert payloads([*first, *second]) == [1, 2]
        await one.ack([each.token for each in first if isinstance(each, Received)])
        await other.ack([each.token for each in second if isinstance(each, Received)])
        assert server.tell("XPENDING", "hubsub", "g").splitlines()[0] == "0"


async def test_a_reply_that_was_lost_is_read_again_and_counts_for_nothing(server: RedisServer) -> None:
    its_link = link(group="g")
    adapter = RedisStreamAdapter(server.url)
    await adapter.connect(its_link)
    await adapter.send(records(1, 3))
    first = await received(adapter, 3)
    for _ in range(2):
        await adapter.close()
        await adapter.connect(its_link)
        again = await received(adapter, 3)
    assert payloads(again) == [1, 2, 3]
    assert [each.attempts for each in again if isinstance(each, Received)] == [0, 0, 0]
    assert [each.position for each in again if isinstance(each, Received)] == [
        each.position for each in first if isinstance(each, Received)
    ]
    await adapter.send(records(4, 4))
    assert payloads(await received(adapter, 1)) == [4]
    await adapter.close()


async def test_what_a_member_left_unfinished_goes_to_another_and_counts(server: RedisServer) -> None:
    options = {"lease": 0.1}
    async with connected(server, options, group="g") as one, connected(server, options, group="g") as other:
        await one.send(records(1, 2))
        held = await received(one, 2)
        taken = await received(other, 2)
        assert payloads(taken) == [1, 2]
        assert [each.attempts for each in taken if isinstance(each, Received)] == [1, 1]
        # Whose lease is over does not get it back by extending.
        await one.extend([each.token for each in held if isinstance(each, Received)])
        owners = server.tell("XPENDING", "hubsub", "g", "-", "+", 10).splitlines()[1::4]
        assert owners == [other._consumer.decode()] * 2


async def test_a_member_is_not_given_what_it_works_on_itself(server: RedisServer) -> None:
    async with connected(server, {"lease": 0.05}, group="g") as adapter:
        await adapter.send(records(1, 1))
        assert payloads(await received(adapter, 1)) == [1]
        # Each waits for a second.
        assert await adapter.receive() == []
        assert await adapter.receive() == []


async def test_an_extended_lease_is_kept(server: RedisServer) -> None:
    async with connected(server, {"lease": 1}, group="g") as one, connected(server, {"lease": 1}, group="g") as other:
        await one.send(records(1, 1))
        (held,) = await received(one, 1)
        assert isinstance(held, Received)
        ending = asyncio.get_running_loop().time() + 2.5
        while asyncio.get_running_loop().time() < ending:
            await one.extend([held.token])
            await asyncio.sleep(0.05)
            if asyncio.get_running_loop().time() > ending - 1.2:
                other._tend_at = 0
                assert await other.receive() == []
        (deliveries,) = server.tell("XPENDING", "hubsub", "g", "-", "+", 10).splitlines()[3::4]
        assert deliveries == "1"


async def test_a_group_survives_a_flush_and_tells_it_once(server: RedisServer) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        await one.send(records(1, 1))
        (first,) = await received(one, 1)
        assert isinstance(first, Received)
        server.tell("FLUSHALL")
        await one.send(records(2, 3))
        await one.extend([first.token])
        await one.ack([first.token])
        both: list[Received | Loss] = []
        while len(both) < 3:
            for adapter in (one, other):
                both += await adapter.receive()
        assert sorted(payloads(both), key=str) == [("recreated", None), 2, 3]
        for adapter in (one, other):
            assert await adapter.receive() == []


async def test_a_group_that_waits_survives_the_deletion_of_its_stream(server: RedisServer) -> None:
    async with connected(server, group="g") as adapter:
        waiting = asyncio.create_task(adapter.receive())
        await until_blocked(server)
        server.tell("DEL", "hubsub")
        found = list(await waiting)
        await adapter.send(records(1, 2))
        found += await received(adapter, 3 - len(found))
        assert payloads(found) == [("recreated", None), 1, 2]


async def until_blocked(server: RedisServer) -> None:
    while "blocked_clients:0" in server.tell("INFO", "clients"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_group_is_told_once_what_was_trimmed_unread(server: RedisServer) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        await one.send(records(1, 2))
        assert payloads(await received(one, 2)) == [1, 2]
        await one.send(records(3, 10))
        server.tell("XTRIM", "hubsub", "MAXLEN", 3)
        assert payloads(await received(other, 4)) == [("trimmed", 5), 8, 9, 10]
        assert await one.receive() == []
        await one.send(records(11, 11))
        assert payloads(await received(one, 1)) == [11]


async def test_a_group_is_told_what_went_missing_while_nobody_was_there(server: RedisServer) -> None:
    async with connected(server, group="g") as adapter:
        await adapter.send(records(1, 10))
        server.tell("XTRIM", "hubsub", "MAXLEN", 4)
    server.tell("SCRIPT", "FLUSH")
    async with connected(server, group="g") as adapter:
        assert payloads(await received(adapter, 5)) == [("trimmed", 6), *numbers(7, 10)]
        server.tell("SCRIPT", "FLUSH")
        await adapter.send(records(11, 11))
        assert payloads(await received(adapter, 1)) == [11]


async def test_what_was_trimmed_unfinished_is_told(server: RedisServer) -> None:
    its_link = link(group="g")
    adapter = RedisStreamAdapter(server.url, lease=0.1)
    await adapter.connect(its_link)
    await adapter.send(records(1, 4))
    await received(adapter, 4)
    await adapter.close()
    server.tell("XTRIM", "hubsub", "MAXLEN", 2)
    await adapter.connect(its_link)
    assert payloads(await received(adapter, 3)) == [("trimmed", 2), 3, 4]
    server.tell("XTRIM", "hubsub", "MAXLEN", 1)
    async with connected(server, {"lease": 0.1}, group="g") as other:
        assert payloads(await received(other, 2)) == [("trimmed", 1), 4]
    await adapter.close()


async def test_consumers_that_are_gone_are_removed_when_nothing_is_pending(server: RedisServer) -> None:
    async with connected(server, {"lease": 0.05}, group="g") as adapter:
        server.tell("XGROUP", "CREATECONSUMER", "hubsub", "g", "gone")
        await adapter.send(records(1, 1))
        (held,) = await received(adapter, 1)
        assert isinstance(held, Received)

        async def is_alone() -> bool:
            await adapter.receive()
            return "gone" not in server.tell("XINFO", "CONSUMERS", "hubsub", "g")

        await until(is_alone)
        assert adapter._consumer.decode() in server.tell("XINFO", "CONSUMERS", "hubsub", "g")
        await adapter.ack([held.token])
    assert server.tell("XINFO", "CONSUMERS", "hubsub", "g") == ""


# Processes that are killed

MEMBER = """
    import asyncio, sys
    from hubsub.bridges.adapter import Link
    from hubsub.bridges.redis_stream import RedisStreamAdapter

    async def main(url, sender):
        adapter = RedisStreamAdapter(url, lease=1)
        await adapter.connect(Link(sender=sender, namespace="hubsub", group="g"))
        print("joined", flush=True)
        while True:
            for received in await adapter.receive():
                print(received.payload.decode(), flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_process_held_is_handled_by_another(server: RedisServer) -> None:
    async with connected(server, {"lease": 1}, group="g") as adapter:
        member = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", textwrap.dedent(MEMBER), server.url, "killed"),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert member.stdout is not None
        assert await member.stdout.readline() == b"joined\n"
        await adapter.send(records(1, 3))
        held = [int(await member.stdout.readline()) for _ in range(3)]
        assert held == [1, 2, 3]
        await adapter.send(records(4, 4))
        # Whoever is asked first gets it: the other may hold it, too.
        member.kill()
        await member.communicate()
        found = await received(adapter, 4)
        assert sorted(payloads(found)) == [1, 2, 3, 4]
        assert all(each.attempts == 1 for each in found if isinstance(each, Received) and each.payload != b"4")
        await adapter.ack([each.token for each in found if isinstance(each, Received)])
        assert server.tell("XPENDING", "hubsub", "g").splitlines()[0] == "0"


async def test_nothing_confirmed_is_lost_and_nothing_doubled_when_the_server_is_killed(
    make_server: Callable[..., RedisServer],
) -> None:
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    its_link = link(reads=False)
    adapter = RedisStreamAdapter(server.url)
    confirmed: list[int] = []
    last = 4000

    async def send_all() -> None:
        while len(confirmed) < last:
            batch = records(len(confirmed) + 1, min(last, len(confirmed) + 50))
            try:
                await adapter.connect(its_link)
                # The same batch again and again until it is confirmed, as the relay does.
                while batch:
                    await adapter.send(batch)
                    confirmed.extend(record.sequence for record in batch)
                    batch = records(len(confirmed) + 1, min(last, len(confirmed) + 50))
            except (OSError, redis.exceptions.RedisError):
                await asyncio.sleep(0.01)
            finally:
                await adapter.close()

    sending = asyncio.create_task(send_all())
    for part in (500, 1500, 2500):
        while len(confirmed) < part:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await sending
    async with connected(server, start="earliest") as reader:
        assert payloads(await received(reader, last)) == numbers(1, last)
        assert await reader.receive() == []


# History and dead letters


async def test_history_is_paged_by_position_and_by_time(server: RedisServer) -> None:
    for milliseconds in (1000, 1500, 2000, 2500, 3000):
        server.tell("XADD", "hubsub", f"{milliseconds}-1", "key", "a", "payload", milliseconds)
    async with connected(server) as adapter:
        last = await adapter.history(2)
        assert payloads(last) == [2500, 3000]
        assert payloads(await adapter.history(2, before=last[0].position)) == [1500, 2000]
        assert payloads(await adapter.history(9, after=last[0].position)) == [3000]
        assert payloads(await adapter.history(9, before=2.0)) == [1000, 1500]
        assert payloads(await adapter.history(9, after=2.0)) == [2500, 3000]
        assert payloads(await adapter.history(9, after=1.4999, before=2.0001)) == [1500, 2000]
        assert await adapter.history(9, after=4) == []
        assert await adapter.history(9, after="other:1-1") == []


async def test_what_cannot_be_handled_is_buried_with_the_reason(server: RedisServer) -> None:
    async with connected(server, group="g", start="earliest") as adapter:
        await adapter.send(records(1, 1))
        (bad,) = await received(adapter, 1)
        assert isinstance(bad, Received)
        await adapter.bury(bad, "no such order")
        async with connected(server, {"sources": ["dead"]}, start="earliest") as dead:
            (buried,) = await received(dead, 1)
            assert isinstance(buried, Received)
            assert buried[:2] == bad[:2]
            reason = {"reason": "no such order", "position": str(bad.position), "attempts": "0"}
            assert buried.headers == {"id": "1", **reason}


# Addresses, clients and passwords


async def test_a_client_of_ones_own_is_used_and_left_alone(server: RedisServer) -> None:
    client = redis.asyncio.Redis(port=server.port, db=3, decode_responses=True)
    adapter = RedisStreamAdapter(client=client)
    await adapter.connect(link(start="earliest"))
    await adapter.send(records(1, 1))
    assert payloads(await received(adapter, 1)) == [1]
    await adapter.close()
    assert await client.xlen("hubsub") == 1
    await client.aclose()


async def test_a_password_is_sent_and_never_told(make_server: Callable[..., RedisServer]) -> None:
    server = make_server("--requirepass", "sec:ret/1")
    right = f"redis-stream://:sec%3Aret%2F1@127.0.0.1:{server.port}"
    async with connected(right) as adapter:
        await adapter.send(records(1, 1))
        assert "sec" not in repr(adapter)
    for url in (f"redis-stream://:sec-wrong@127.0.0.1:{server.port}", "redis-stream://:sec:ret/1@127.0.0.1"):
        with pytest.raises((ValueError, redis.exceptions.AuthenticationError)) as caught:
            await RedisStreamAdapter(url).connect(link())
        shown = f"{caught.value!r} {caught.value.__cause__!r}"
        assert "sec" not in shown
        assert caught.value.__context__ is None or caught.value.__suppress_context__ or "sec" not in shown


async def test_tls_is_spoken_and_certificates_are_checked(make_server: Callable[..., RedisServer]) -> None:
    server = make_server()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {name: str(server.directory / name) for name in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    server.kill()
    port = free_port()
    server.options = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", files["ca"])
    server.options += ("--tls-cert-file", files["certificate"], "--tls-key-file", files["key"])
    server.start()
    url = f"rediss-stream://127.0.0.1:{port}"
    async with connected(f"{url}?ssl_ca_certs={files['ca']}", group="g") as adapter:
        await adapter.send(records(1, 1000))
        assert payloads(await received(adapter, 1000)) == numbers(1, 1000)
    with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)certificate"):
        await RedisStreamAdapter(url).connect(link())


async def test_sentinels_lead_to_the_new_master(make_server: Callable[..., RedisServer]) -> None:
    master, replica, sentinel = make_server(), make_server(), make_server()
    replica.tell("REPLICAOF", "127.0.0.1", master.port)
    await until(lambda: asyncio.sleep(0, "master_link_status:up" in replica.tell("INFO", "replication")))
    sentinel.kill()
    configuration = sentinel.directory / "sentinel.conf"
    lines = [f"port {sentinel.port}", "bind 127.0.0.1", f"dir {sentinel.directory}"]
    lines += [f"sentinel monitor service 127.0.0.1 {master.port} 1", "sentinel down-after-milliseconds service 300"]
    configuration.write_text("\n".join([*lines, ""]))
    sentinel.start(str(configuration), "--sentinel")
    await until(lambda: asyncio.sleep(0, "slaves=1" in sentinel.tell("INFO", "sentinel")))
    nobody = make_server()
    nobody.kill()
    url = f"redis-stream+sentinel://127.0.0.1:{nobody.port},127.0.0.1:{sentinel.port}/service/0"
    adapter, its_link = RedisStreamAdapter(url), link(name="n")
    await adapter.connect(its_link)
    await adapter.send(records(1, 3))
    found = await received(adapter, 3)
    assert isinstance(found[2], Received)
    await adapter.ack([found[2].token])
    position = master.tell("GET", "hubsub:position:n")
    await until(lambda: asyncio.sleep(0, replica.tell("GET", "hubsub:position:n") == position))
    master.kill()
    await adapter.close()

    async def is_back() -> bool:
        with suppress(OSError, redis.exceptions.RedisError):
            await adapter.connect(its_link)
            return True
        return False

    await until(is_back)
    await adapter.send(records(3, 5))
    assert payloads(await received(adapter, 2)) == [4, 5]
    assert replica.tell("XLEN", "hubsub") == "5"
    await adapter.close()
    with pytest.raises(ConnectionError, match=r"no Sentinel of .* names a master"):
        await RedisStreamAdapter(url.replace("/service", "/other")).connect(its_link)


def test_passwords_are_cut_out_of_whatever_is_told() -> None:
    assert without_password("redis://me:a@b/c@host/1?ssl_password=x&db=1") == "redis://…@host/1?ssl_password=…&db=1"


def test_arguments_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {},
        {"url": "redis://localhost", "client": redis.asyncio.Redis()},
        {"client": redis.asyncio.RedisCluster(host="localhost")},
        {"url": "redis://localhost", "protocol": 3},
        {"url": "redis://localhost?socket_timeout=3"},
        {"url": "redis://localhost?speed=11"},
        {"url": "redis+sentinel://localhost/service?speed=11"},
        {"url": "redis://localhost", "route": str},
    ):
        with pytest.raises(TypeError):
            RedisStreamAdapter(**wrong)
    for wrong in ({"url": "http://x"}, {"maxlen": 0}, {"lease": 0}, {"url": "redis+sentinel://localhost"}):
        with pytest.raises(ValueError, match=r"\w"):
            RedisStreamAdapter(**{"url": "redis://localhost", **wrong})


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio.sentinel", None)
    with pytest.raises(hubsub.MissingDriver, match=r"RedisStreamAdapter needs redis: pip install 'hubsub\[redis\]'"):
        RedisStreamAdapter("redis-stream://localhost")


def test_the_module_is_imported_without_the_driver() -> None:
    script = "import sys; sys.modules['redis'] = None; import hubsub.bridges.redis_stream"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# Replies

replies = st.recursive(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\r\n", b"$1\r\na\r\n", b"*1\r\n"]), st.integers(), st.none()),
    lambda inner: st.lists(inner, max_size=6),
)


def serialized(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(serialized, reply))


@given(replies)
def test_every_reply_is_read_as_it_was_written(reply: Any) -> None:
    tokens = serialized(reply).split(b"\r\n")
    assert tokens.pop() == b""
    assert parse(tokens, 0, Exception) == (reply, len(tokens))


@given(replies, st.data())
def test_a_reply_that_is_cut_short_is_never_taken_for_a_whole_one(reply: Any, data: st.DataObject) -> None:
    written = serialized(reply)
    cut = data.draw(st.integers(0, len(written) - 1))
    tokens = written[:cut].split(b"\r\n")
    tokens.pop()
    with pytest.raises(IndexError):
        parse(tokens, 0, Exception)


def test_errors_and_simple_strings_are_replies() -> None:
    assert parse([b"*2", b"+OK", b"-ERR no"], 0, str.upper) == ([b"OK", "ERR NO"], 3)  # type: ignore[arg-type]
    assert parse([b"*-1"], 0, Exception) == (None, 1)
    assert _head(100_000) == b"$100000"
