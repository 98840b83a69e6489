"""Redis Streams under the contract: control messages, room, what is handed back, bad neighbours, slow lines."""

import asyncio
import contextlib
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from hypothesis import assume, example, given
from hypothesis import strategies as st

import hubsub
from brokers.fixtures import Private
from brokers.redis_server import Redis
from hubsub import Key
from hubsub.bridges.adapter import Loss, Received, Record
from hubsub.bridges.redis import RedisStreamAdapter
from hubsub.bridges.redis.entries import MOST_HEADERS, Entries
from hubsub.bridges.redis.pace import Pace
from hubsub.bridges.redis.scripts import APPEND

from .streams import (
    client_of,
    connected,
    consumer_of,
    link,
    numbers,
    payloads,
    received,
    records,
    session_of,
    tell,
    until,
    until_blocked,
    url_of,
)
from .trips import Trips


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing comes is known earlier."""
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 100)


@pytest.fixture
def server(redis: Redis) -> Redis:
    tell(redis, "FLUSHALL")
    tell(redis, "SCRIPT", "FLUSH")
    return redis


# Dead letters


async def test_a_dead_letter_that_is_put_back_is_the_message_again(server: Redis) -> None:
    async with connected(server, group="g", start="earliest") as adapter:
        sent = Record(Key("a:b", "100%", "*x"), b"\r\n\0", {"id": "1", "ce_id": "x", "reason": "mine"}, 1)
        await adapter.send([sent])
        for number in range(2):
            (message,) = await received(adapter, 1)
            assert isinstance(message, Received)
            assert (message.key, message.payload) == (sent.key, sent.payload)
            assert message.headers["ce_id"] == "x"
            assert message.headers.get("attempts") == (None if number == 0 else "0")
            assert await adapter.bury(message, "no such order") is None
            await adapter.ack([message.token])
            with client_of(server) as client:
                ((_, fields),) = client.xrange("hubsub:dead")
                assert list(fields)[-3:] == [b"reason", b"position", b"attempts"] or number
                client.xadd("hubsub", fields)
                client.delete("hubsub:dead")


async def test_letters_of_several_streams_are_one_list_in_their_order(server: Redis) -> None:
    with client_of(server) as client:
        for number, id in enumerate(("1-1", "1-1", "2-0", "2-0", "3-0")):
            stream = "hubsub:b:dead" if number % 2 else "hubsub:a:dead"
            client.xadd(stream, {"key": "k", "payload": str(number)}, id=id)
    async with connected(server, {"sources": ["b", "a"], "route": lambda key: key[0]}) as adapter:
        letters = await adapter.dead_letters(10)
        assert [each.received.payload for each in letters] == [b"0", b"1", b"2", b"3", b"4"]
        assert [each.position for each in letters[:2]] == ["hubsub:a:dead:1-1", "hubsub:b:dead:1-1"]
        for number, each in enumerate(letters):
            assert await adapter.dead_letters(10, before=each.position) == letters[:number]
            assert await adapter.dead_letters(1, before=each.position) == letters[:number][-1:]
        for gone in ("hubsub:a:dead:1-2", "hubsub:c:dead:1-1", "hubsub:a:1-1", "1-1", "", "hubsub:a:dead:x", "-"):
            with pytest.raises(hubsub.NoSuchLetter):
                await adapter.redeliver(gone)


async def test_a_letter_that_does_not_say_whose_it_is_goes_to_everybody(server: Redis) -> None:
    """As an older version has written it, or another program."""
    with client_of(server) as client:
        about = {"reason": "no such order", "position": "hubsub:1-0", "attempts": "0"}
        client.xadd("hubsub:dead", {"key": "a:b", "payload": "1", "h": "v", **about})
        client.xadd("hubsub:dead", {"key": "a:b", "payload": "2", "attempts": "x"})
        client.xadd("hubsub:dead", {"n": "3"})
    async with connected(server, group="g", start="earliest") as one, connected(server) as two:
        old, odd, foreign = await one.dead_letters(10)
        assert (old.reason, old.reader, old.received.position) == ("no such order", None, "hubsub:1-0")
        assert old.received[:3] == (("a", "b"), b"1", {"h": "v"})
        assert (odd.reason, odd.reader, odd.received.headers) == ("", None, {"attempts": "x"})
        assert (foreign.received.payload, foreign.received.key) == (b'{"n": "3"}', ("hubsub:dead",))
        for each in (old, odd):
            await two.redeliver(each.position)
        for adapter in (one, two):
            first, second = await received(adapter, 2)
            assert type(first) is Received
            assert type(second) is Received
            assert (first[:3], second[:3]) == (old.received[:3], odd.received[:3])


async def test_what_is_sent_back_is_exactly_what_was_given_up(server: Redis) -> None:
    """Headers that are called like those of letters, and as many as there may be, included."""
    many = {str(number): "x" for number in range(3_947)}
    sent = [
        Record(
            Key("a:b", "100%", "*x"), b"\r\n\0", {"reason": "mine", "position": "9", "attempts": "7", "key": "ü"}, 1
        ),
        Record(Key("k"), b"", {"given-up-by": "me", "sent-back-to": "you"}, 2),
        Record(Key("k"), b"1", many, 3),
    ]
    async with connected(server, group="g", start="earliest") as adapter:
        await adapter.send(sent)
        for _ in range(3):
            batch = await received(adapter, 3)
            for message, record in zip(batch, sent, strict=True):
                assert isinstance(message, Received)
                assert message[:3] == record[:3]
                assert await adapter.bury(message._replace(attempts=4), "why") is None
                await adapter.ack([message.token])
            for letter in await adapter.dead_letters(3):
                assert (letter.reader, letter.reason, letter.received.attempts) == ("group:g", "why", 4)
                await adapter.redeliver(letter.position)
            assert await adapter.dead_letters(3) == []


async def test_a_dead_letter_that_is_refused_says_so_and_one_that_may_pass_is_tried_again(private: Private) -> None:
    server = await private(Redis())
    async with connected(server, group="g", start="earliest") as adapter:
        await adapter.send(records(1, 1))
        (bad,) = await received(adapter, 1)
        assert isinstance(bad, Received)
        tell(server, "SET", "hubsub:dead", "a string")
        assert "WRONGTYPE" in str(await adapter.bury(bad, "why"))
        tell(server, "DEL", "hubsub:dead")
        for odd in ({"n": 1}, {"n": [1, 2]}, None):
            assert isinstance(await adapter.bury(bad._replace(headers=odd), "why"), hubsub.EncodeError)  # type: ignore[arg-type]
        tell(server, "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(hubsub.BrokerBusy):
            await adapter.bury(bad, "why")
        tell(server, "CONFIG", "SET", "maxmemory", 0)
        assert await adapter.bury(bad._replace(payload=None), "x" * 60_000) is None


# Control messages


REPLY = Key("Hub", "reply", "one")


async def test_a_control_message_comes_at_once_to_who_listens_and_to_nobody_else(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever waits for the end of a read waits in vain.
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 600_000)
    for fields in ({}, {"name": "n"}, {"group": "g"}, {"reads": False}):
        async with connected(server, **fields) as one, connected(server, group="g") as other:
            await one.listen([REPLY, Key("Hub", "beat", "one")])
            await other.listen([Key("Hub", "reply", "other")])
            waiting = asyncio.create_task(one.receive())
            others = asyncio.create_task(other.receive())
            await asyncio.sleep(0)
            sent = Record(REPLY, b"\n\r\n", {"ce_id": "\r\nü", "n": ""}, is_control=True)
            assert await other.send([sent, Record(Key("Hub", "reply", "nobody"), b"", is_control=True)]) == {}
            assert await waiting == [Received(REPLY, sent.payload, sent.headers, is_control=True)]
            assert not others.done()
            assert tell(server, "EXISTS", "hubsub") == "0" or tell(server, "XLEN", "hubsub") == "0"


async def test_messages_come_beside_control_messages_however_many_there_are(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        await adapter.listen([REPLY])
        control = [Record(REPLY, b"%d" % number, {}, is_control=True) for number in range(1, 2001)]
        mixed = [each for pair in zip(control, records(1, 2000), strict=True) for each in pair]
        for start in range(0, len(mixed), 400):
            assert await adapter.send(mixed[start : start + 400]) == {}
        found = await received(adapter, 4000)
        for is_control in (True, False):
            its = [each for each in found if isinstance(each, Received) and each.is_control == is_control]
            assert payloads(its) == numbers(1, 2000)


async def test_a_notice_in_the_log_is_stored_like_a_message(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        await adapter.listen([Key("Hub", "gap")])
        notice = Record(Key("Hub", "gap"), b"1", {}, 1)
        await adapter.send([notice, notice._replace(sequence=0, is_control=True, payload=b"2")])
        found = await received(adapter, 2)
        assert {(each.payload, each.is_control) for each in found if isinstance(each, Received)} == {
            (b"1", False),
            (b"2", True),
        }
        assert tell(server, "XLEN", "hubsub") == "1"


async def test_control_messages_come_while_there_is_no_room_for_others(server: Redis) -> None:
    room = 0
    async with connected(server, group="g", start="earliest", room=lambda: room) as adapter:
        await adapter.listen([REPLY])
        await adapter.send([*records(1, 3), Record(REPLY, b"7", is_control=True)])
        assert payloads(await received(adapter, 1)) == [7]
        assert await adapter.receive() == []
        assert tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "0"
        waiting = asyncio.create_task(adapter.receive())
        await asyncio.sleep(0)
        room = 2  # is noticed without a word
        assert payloads(await waiting) == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"5\n{}",
        b"-1\n",
        b"9999999999999\n",
        b"2\n[]",
        b'10\n{"a": 1  }',
        b"2\n\xff\xff",
        b"1000\n" + b"[" * 1000,
    ],
)
async def test_what_others_publish_to_a_control_channel_hurts_nobody(server: Redis, data: bytes) -> None:
    async with connected(server) as adapter:
        await adapter.listen([REPLY])
        with client_of(server) as client:
            assert client.publish("hubsub:control:0:Hub:reply:one", data) == 1
        (odd,) = await received(adapter, 1)
        assert isinstance(odd, Received)
        assert (odd.key, odd.is_control) == (REPLY, True)
        assert isinstance(odd.trouble, hubsub.DecodeError)
        await adapter.send([Record(REPLY, b"7", is_control=True)])
        assert payloads(await received(adapter, 1)) == [7]


async def test_databases_and_namespaces_do_not_hear_each_others_control_messages(server: Redis) -> None:
    async with (
        connected(server) as one,
        connected(url_of(server).replace("/0", "/1")) as two,
        connected(server, namespace="other") as three,
    ):
        for adapter in (one, two, three):
            await adapter.listen([REPLY])
        for number, adapter in enumerate((one, two, three)):
            await adapter.send([Record(REPLY, b"%d" % number, is_control=True)])
        for number, adapter in enumerate((one, two, three)):
            assert payloads(await received(adapter, 1)) == [number]
            assert await adapter.receive() == []


# What others write


async def test_whatever_others_write_comes_and_hurts_nobody(server: Redis) -> None:
    entries: list[list[bytes]] = [
        [b"key", b"order:*", b"payload", b"0"],
        [b"key", b"*", b"payload", b"0"],
        [b"key", b"+", b"payload", b"0"],
        [b"key", b"", b"payload", b"0"],
        [b"key", b"\xff:\xc3", b"payload", b"0"],
        [b"key", b"a"],
        [b"payload", b"\xff"],
        [b"\xff", b"\xfe"],
        [b"key", b"a", b"key", b"b", b"payload", b"0"],
        [b"key", b"a", b"payload", b"0", b"", b""],
        [b"key", b"a", b"payload", b"0", b"\xff", b"\xff"],
        [b"key", b"a", b"payload", b"0", b"n", b"1", b"n", b"2"],
        [b"payload", b"0", b"key", b"a", b"n", b"\r\n"],
        [b"key", b"x" * 1_000_000, b"payload", b"0", b"y" * 1_000_000, b"z"],
        [b"KEY", b"a", b"PAYLOAD", b"0"],
    ]
    for group in (None, "g"):
        tell(server, "FLUSHALL")
        with client_of(server) as client:
            for fields in entries:
                client.execute_command("XADD", "hubsub", "*", *fields)
        async with connected(server, group=group, start="earliest") as adapter:
            found = await received(adapter, len(entries))
            assert all(isinstance(each, Received) and each.trouble is None for each in found)
            assert [each.key for each in found if isinstance(each, Received)][:4] == [
                Key("order", "*"),
                Key("*"),
                Key("+"),
                Key(""),
            ]
            if group:
                await adapter.ack([each.token for each in found if isinstance(each, Received)])
                assert tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "0"
            await adapter.send(records(1, 1))
            assert payloads(await received(adapter, 1)) == [1]


def test_an_entry_that_cannot_be_read_is_a_message_that_says_why() -> None:
    found: list[Received | Loss] = []
    odd: list[Any] = [[], [b"key"], [b"key", b"a", b"payload"], [b"key", b"a", b"payload", b"0", b"n"], None]
    Entries().read("s", [[b"%d-0" % number, fields] for number, fields in enumerate(odd)], found, lambda id: id)
    assert [each.token for each in found if isinstance(each, Received)] == [b"0-0", b"1-0", b"2-0", b"3-0"]
    assert all(isinstance(each, Received) and isinstance(each.trouble, hubsub.DecodeError) for each in found)


@given(st.binary(max_size=10) | st.text(st.sampled_from("%25:3A\n\r\xff*"), max_size=8).map(str.encode))
@example(b"battery:100%")
@example(b"\xff\xc3\xa9")
def test_an_address_that_others_write_is_a_key_with_that_address(address: bytes) -> None:
    assume(not re.search(rb"%25|%ED", address))  # what version 0.1.0 escaped is read as it was meant
    entries = Entries()
    assert entries.address(entries.key(address)) == address


def test_names_of_a_million_bytes_are_not_kept() -> None:
    entries = Entries()
    before = tracemalloc_of(lambda: None)
    grown = tracemalloc_of(
        lambda: (
            [
                entries.read("s", [[b"1-0", [b"key", name, b"payload", b"", name, name]]], [])
                for name in (b"%d" % number + bytes(1_000_000) for number in range(30))
            ]
            and None
        )
    )
    assert grown - before < 2_000_000


def tracemalloc_of(call: Callable[[], object]) -> int:
    """Bytes that are left of a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fields", [{}, {"group": "g"}, {"name": "n"}], ids=["plain", "group", "name"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_key_that_holds_no_stream_concerns_that_stream_alone(
    server: Redis, fields: dict[str, Any], when: str
) -> None:
    options = {"route": lambda key: key[0], "sources": ["good", "bad"]}
    if when == "before":
        tell(server, "SET", "hubsub:bad", "a string")
    async with connected(server, options, start="earliest", **fields) as adapter:
        if when == "meanwhile":
            tell(server, "SET", "hubsub:bad", "a string")
        await adapter.send(records(1, 2, ("good",)))
        found = await received(adapter, 3)
        assert sorted(payloads(found), key=str) == [("no longer a stream: WRONGTYPE", None), 1, 2]
        assert [each.lane for each in found if isinstance(each, Loss)] == ["hubsub:bad"]
        for _ in range(3):
            assert await adapter.receive() == []  # told once
        assert list(await adapter.send([Record(Key("bad"), b"0", {}, 3), Record(Key("good"), b"4", {}, 4)])) == [0]
        assert payloads(await received(adapter, 1)) == [4]
        assert await adapter.history(10)
        tell(server, "DEL", "hubsub:bad")
        await adapter.send(records(5, 6, ("bad",)))
        again = [each for each in payloads(await received(adapter, 2)) if isinstance(each, int)]
        while len(again) < 2:
            again += [each for each in payloads(await adapter.receive()) if isinstance(each, int)]
        assert again == [5, 6]


@pytest.mark.parametrize("fields", [{}, {"group": "g"}, {"name": "n"}], ids=["plain", "group", "name"])
async def test_the_only_stream_may_be_none_for_a_while(server: Redis, fields: dict[str, Any]) -> None:
    tell(server, "SET", "hubsub", "a string")
    async with connected(server, start="earliest", **fields) as adapter:
        assert payloads(await received(adapter, 1)) == [("no longer a stream: WRONGTYPE", None)]
        assert await adapter.receive() == []
        tell(server, "DEL", "hubsub")
        await adapter.send(records(1, 2))
        found = payloads(await received(adapter, 2))
        assert [each for each in found if isinstance(each, int)] == [1, 2]


async def test_a_position_that_others_have_overwritten_is_told_and_nothing_is_skipped(server: Redis) -> None:
    for nonsense in ("nonsense", "1-1", "x 1 e", "1-1 x e", "a b c d"):
        tell(server, "FLUSHALL")
        async with connected(server, name="n") as adapter:
            await adapter.send(records(1, 2))
            found = await received(adapter, 2)
            assert isinstance(found[1], Received)
            await adapter.ack([found[1].token])
        tell(server, "SET", "hubsub:position:n", nonsense)
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 3)) == [("its position was overwritten", None), 1, 2]


# One bad neighbour


async def test_a_record_that_cannot_be_stored_is_refused_alone_and_the_others_are_stored_once(server: Redis) -> None:
    most = MOST_HEADERS
    headers = {f"h{number}": "v" for number in range(most)}
    for maxlen in (1000, None):
        tell(server, "FLUSHALL")
        async with connected(server, {"maxlen": maxlen}, start="earliest") as adapter:
            odd: list[Any] = [
                Record(Key("a"), b"", {**headers, "one": "more"}, 2),
                Record(Key("a"), b"", {"n": 1}, 4),
                Record(Key("a"), b"", {"n": [1, 2]}, 5),
                Record(Key("a"), b"", {5: "n"}, 6),
                Record(Key("a"), b"", {"n": b"ab"}, 7),
                Record(Key("a"), "text", {}, 8),
                Record(Key("a", 1), b"", {}, 9),
                Record(Key("a"), b"", None, 10),
            ]
            batch = [*records(1, 1), odd[0], Record(Key("a"), b"3", headers, 3), *odd[1:], *records(11, 11)]
            refused = await adapter.send(batch)
            assert list(refused) == [1, 3, 4, 5, 6, 7, 8, 9]
            assert all(isinstance(error, hubsub.EncodeError) for error in refused.values())
            assert list(await adapter.send(batch)) == list(refused)
            found = await received(adapter, 3)
            assert payloads(found) == [1, 3, 11]
            assert isinstance(found[1], Received)
            assert found[1].headers == headers
            assert tell(server, "XLEN", "hubsub") == "3"


async def test_what_the_script_refuses_in_the_middle_doubles_nothing(server: Redis) -> None:
    with client_of(server) as client:
        many = [str(number) for number in range(8100)]
        arguments: list[Any] = ["", 100, "epoch"]
        for sequence, fields in ((1, ["key", "a"]), (2, many), (3, ["key", "b"])):
            arguments += [sequence, len(fields), *fields]
        for _ in range(2):
            errors: Any = client.eval(APPEND.text, 3, "hubsub", "hubsub:sender:s", "hubsub:epoch", *arguments)
            assert len(errors) <= 1
        assert client.xlen("hubsub") == 2
        assert client.get("hubsub:sender:s") == b"3"


async def test_a_batch_of_any_size_is_stored(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        headers = {f"h{number}": "v" for number in range(2000)}
        batch = [Record(Key("a"), b"%d" % number, headers, number) for number in range(1, 301)]
        batch += [Record(Key("a"), b"%d" % number + b" " * 2_000_000, {}, number) for number in range(301, 311)]
        assert await adapter.send(batch) == {}
        assert payloads(await received(adapter, 310)) == numbers(1, 310)


async def test_what_a_function_that_routes_does_concerns_that_record(server: Redis) -> None:
    def route(key: Key[Any]) -> Any:
        return {"raises": lambda: 1 / 0, "number": lambda: 5, "none": lambda: None}.get(key[0], lambda: "good")()

    async with connected(server, {"route": route, "sources": ["good"]}, start="earliest") as adapter:
        keys = [Key(part) for part in ("raises", "a", "number", "none", "b")]
        refused = await adapter.send([Record(key, b"1", {}, number) for number, key in enumerate(keys, 1)])
        assert list(refused) == [0, 2, 3]
        assert payloads(await received(adapter, 2)) == [1, 1]


# A server that takes nothing just now, or is the wrong one


async def test_a_server_that_takes_no_writes_is_busy_and_reading_goes_on_later(private: Private) -> None:
    server = await private(Redis())
    async with connected(server, group="g") as member, connected(server, name="n") as named, connected(server) as plain:
        await plain.send(records(1, 3))
        mine, its = await received(member, 1), await received(named, 1)
        for setting, off in (("min-replicas-to-write", 0), ("maxmemory", 0)):
            tell(server, "CONFIG", "SET", setting, 1)
            with pytest.raises(hubsub.BrokerBusy):
                await plain.send(records(4, 4))
            assert isinstance(mine[0], Received)
            assert isinstance(its[0], Received)
            for call in (
                member.ack([mine[0].token]),
                named.ack([its[0].token]),
                member.extend([mine[0].token]),
                member.receive(),
            ):
                # A server without memory acknowledges all the same: that takes none.
                with contextlib.nullcontext() if setting == "maxmemory" else pytest.raises(hubsub.BrokerBusy):
                    await call
            for adapter in (member, named, plain):
                await adapter.ping()
            tell(server, "CONFIG", "SET", setting, off)
            await member.ack([mine[0].token])
            await named.ack([its[0].token])
        await plain.send(records(4, 4))
        assert payloads(await received(plain, 4)) == [1, 2, 3, 4]
        assert tell(server, "GET", "hubsub:position:n").split()[1] == "1"


async def test_a_name_is_kept_and_a_group_is_joined_while_there_is_no_memory(
    private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubsub.bridges.redis.session.NAME_SECONDS", 0.4)
    server = await private(Redis())
    async with connected(server, name="n", start="earliest") as named:
        async with connected(server, group="g", start="earliest"):
            await named.send(records(1, 2))
        tell(server, "CONFIG", "SET", "maxmemory", 1)
        assert payloads(await received(named, 2)) == [1, 2]
        await named.receive()  # for a second, longer than the name would last
        assert tell(server, "EXISTS", "hubsub:name:n") == "1"
        async with connected(server, group="g") as member:
            assert payloads(await received(member, 2)) == [1, 2]


async def test_a_server_that_became_a_replica_loses_the_connection(private: Private) -> None:
    server, master = await private(Redis()), await private(Redis())
    async with connected(server) as adapter:
        tell(server, "REPLICAOF", "127.0.0.1", master.port)
        with pytest.raises(ConnectionError, match="READONLY"):
            await adapter.send(records(1, 1))


async def test_a_script_that_keeps_the_server_busy_costs_no_connection(private: Private) -> None:
    server = await private(Redis(busy_reply_threshold=1))
    async with connected(server, group="g") as adapter:
        client = redis.asyncio.Redis(port=server.port)
        script = asyncio.create_task(client.eval("while true do end", 0))  # type: ignore[arg-type]

        async def is_busy() -> bool:
            try:
                await adapter.send(records(1, 1))
            except hubsub.BrokerBusy as error:
                return "BUSY" in str(error)
            return False

        await until(is_busy)
        with pytest.raises(hubsub.BrokerBusy):
            await adapter.receive()
        tell(server, "SCRIPT", "KILL")
        await asyncio.wait([script])
        script.exception()
        await client.aclose()
        await adapter.send(records(2, 2))
        found = payloads(await received(adapter, 1))
        assert found[-1] == 2 or payloads(await received(adapter, 1)) == [2]


async def test_what_a_user_may_not_do_is_refused_or_says_what_to_grant(private: Private) -> None:
    rights = "~hubsub* +@stream +@scripting +@transaction +@string +@keyspace +@connection"
    users = {
        "all": f"on >pw {rights} +@pubsub &hubsub:control:*",
        "mute": f"on >pw {rights} -@pubsub",
        "reader": "on >pw ~hubsub* +@read +@connection",
    }
    server = await private(Redis())
    for name, its in users.items():
        tell(server, "ACL", "SETUSER", name, *its.split())
    url = f"redis-stream://{{}}:pw@127.0.0.1:{server.port}".format
    async with connected(url("all"), group="g") as adapter, connected(url("mute"), group="g") as mute:
        await adapter.listen([REPLY])
        await adapter.send([*records(1, 1), Record(REPLY, b"2", is_control=True)])
        found: list[Any] = []
        while len(found) < 2:
            found += payloads([*await adapter.receive(), *await mute.receive()])
        assert sorted(found) == [1, 2]
        refused = await mute.send([*records(3, 3), Record(REPLY, b"4", is_control=True)])
        assert "NOPERM" in str(refused.pop(1))
        assert not refused
        with pytest.raises(hubsub.BridgeError, match="ACL SETUSER"):
            await mute.listen([REPLY])
    for fields in ({}, {"group": "g"}, {"name": "n"}):
        with pytest.raises(hubsub.BridgeError, match=r"NOPERM.*ACL SETUSER"):
            async with connected(url("reader"), **fields):
                pass
    async with connected(url("reader"), reads=False) as reader:
        assert "NOPERM" in str((await reader.send(records(1, 1)))[0])


# What goes on at the same time


async def test_a_cancelled_call_costs_that_call_only(server: Redis) -> None:
    async with connected(server, group="g") as adapter:
        await adapter.send(records(1, 500))
        (first, *_) = await received(adapter, 1)
        assert isinstance(first, Received)
        calls: list[Callable[[], Any]] = [
            lambda: adapter.history(1000),
            lambda: adapter.ack([first.token]),
            lambda: adapter.extend([first.token]),
            lambda: adapter.ping(),
            lambda: adapter.bury(first, "why"),
            lambda: adapter.send(records(501, 501)),
        ]
        for call in calls * 3:
            cancelled = asyncio.ensure_future(call())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()
        await adapter.send(records(501, 501))
        assert len(await adapter.history(1000)) == 501
        assert payloads((await adapter.history(1000))[-2:]) == [500, 501]
        await adapter.send(records(502, 502))


@pytest.mark.parametrize("which", range(4))
async def test_a_connection_that_breaks_is_noticed_by_the_reader_at_once(
    server: Redis, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 600_000)
    async with connected(server, group="g") as adapter:
        waiting = asyncio.create_task(adapter.receive())
        await until_blocked(server)
        session_of(adapter)._connections[which]._transport.abort()
        with pytest.raises(ConnectionError):
            await waiting
        with pytest.raises(ConnectionError):
            await adapter.receive()


async def test_a_connection_that_alone_is_dead_is_noticed(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.listen([REPLY])
        session = session_of(adapter)
        assert session._control is not None
        session._control.connection._transport.pause_reading()  # it hears nothing any more

        async def receive_on() -> None:
            while True:
                session._look_at = 0
                await adapter.receive()

        with pytest.raises(ConnectionError, match="while others reply"):
            await receive_on()


# Room


@pytest.mark.parametrize("fields", [{}, {"group": "g"}, {"name": "n"}], ids=["plain", "group", "name"])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("window", [1, 2, 7])
async def test_a_read_asks_for_no_more_than_there_is_room_for(
    server: Redis, fields: dict[str, Any], streams: int, window: int
) -> None:
    names = [f"s{number}" for number in range(streams)]
    options = {"route": lambda key: key[0], "sources": names}
    client = client_of(server)
    async with connected(server, options, start="earliest", room=lambda: window, **fields) as adapter:
        for number, name in enumerate(names):
            await adapter.send(records(100 * number + 1, 100 * number + 50, (name,)))
        found: list[Any] = []
        while len(found) < 50 * streams:
            batch = await adapter.receive()
            assert len(batch) <= window
            if fields.get("group"):
                # What there was no room for is left to others.
                assert sum(client.xpending(f"hubsub:{name}", "g")["pending"] for name in names) <= len(batch)
                await adapter.ack([each.token for each in batch if isinstance(each, Received)])
            found += payloads(batch)
        for number in range(streams):
            its = [each for each in found if each // 100 == number]
            assert its == numbers(100 * number + 1, 100 * number + 50)
    client.close()


async def test_a_stream_that_is_busy_gets_the_room_of_those_that_are_not(server: Redis) -> None:
    names = [f"s{number}" for number in range(20)]
    async with connected(
        server, {"route": lambda key: key[0], "sources": names}, start="earliest", room=lambda: 200
    ) as adapter:
        await adapter.send(records(1, 2000, ("s7",)))
        sizes: list[int] = []
        while sum(sizes) < 2000:
            sizes.append(len(await adapter.receive()))
        assert max(sizes) > 150


# Handing back


async def test_what_is_handed_back_comes_to_another_at_once_in_order_and_counts_for_nothing(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 600_000)  # whoever is not woken waits for ever
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        await one.send(records(1, 9))
        held = await received(one, 9)
        waiting = asyncio.create_task(received(other, 8))
        await until_blocked(server)
        tokens = [each.token for each in held if isinstance(each, Received)]
        await one.ack(tokens[4:5])
        await one.hand_back(tokens[:4] + tokens[5:])
        found = await waiting
        assert payloads(found) == [1, 2, 3, 4, 6, 7, 8, 9]
        assert all(each.attempts == 0 for each in found if isinstance(each, Received))
        await other.ack([each.token for each in found if isinstance(each, Received)])
        assert tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "0"


async def test_what_is_handed_back_comes_before_what_is_new_and_as_there_is_room(server: Redis) -> None:
    async with connected(server, group="g") as one:
        await one.send(records(1, 6))
        await one.hand_back([each.token for each in await received(one, 6) if isinstance(each, Received)])
        await one.send(records(7, 9))
        async with connected(server, group="g", room=lambda: 2) as other:
            found: list[Any] = []
            while len(found) < 9:
                batch = await other.receive()
                assert len(batch) <= 2
                found += payloads(batch)
            assert found == numbers(1, 9)
        assert await one.receive() == []


async def test_a_member_that_is_not_woken_finds_what_was_handed_back_all_the_same(private: Private) -> None:
    server = await private(Redis())
    rights = "~hubsub* +@stream +@scripting +@transaction +@string +@keyspace +@connection -client -@pubsub"
    tell(server, "ACL", "SETUSER", "mute", *f"on >pw {rights}".split())
    url = f"redis-stream://mute:pw@127.0.0.1:{server.port}"
    async with connected(url, group="g") as one, connected(url, group="g") as other:
        await one.send(records(1, 3))
        held = await received(one, 3)
        waiting = asyncio.create_task(received(other, 3))
        await asyncio.sleep(0)
        await one.hand_back([each.token for each in held if isinstance(each, Received)])
        assert payloads(await waiting) == [1, 2, 3]


async def test_what_was_on_its_way_to_a_member_that_closes_goes_to_another(private: Private) -> None:
    server = await private(Redis())
    async with server.proxy() as proxy, connected(server, group="g") as other:
        one = RedisStreamAdapter(url_of(server).replace(str(server.port), str(proxy.port)))
        await one.connect(link(group="g"))
        assert await one.receive() == []
        proxy.stall_replies()
        waiting = asyncio.create_task(one.receive())

        async def is_waiting() -> bool:
            return "xreadgroup" in tell(server, "CLIENT", "LIST")

        await until(is_waiting)
        await other.send(records(1, 3))

        async def is_on_its_way() -> bool:
            return tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "3"

        await until(is_on_its_way)
        await one.close()
        with pytest.raises(ConnectionError):
            await waiting
        found = await received(other, 3)
        assert payloads(found) == [1, 2, 3]
        assert all(each.attempts == 0 for each in found if isinstance(each, Received))


async def test_closing_hands_back_what_was_read_and_not_received(server: Redis) -> None:
    async with connected(server, group="g") as other:
        async with connected(server, group="g") as one:
            session = session_of(one)
            session._read()
            reading = session._reading
            assert reading is not None
            await other.send(records(1, 3))
            await asyncio.wait([reading])
            assert payloads(reading.result()) == [1, 2, 3]
        assert payloads(await received(other, 3)) == [1, 2, 3]
        assert consumer_of(one) not in tell(server, "XINFO", "CONSUMERS", "hubsub", "g")


async def test_nothing_is_lost_or_doubled_while_members_come_and_go(server: Redis) -> None:
    last = 3000
    handled: list[int] = []
    rest = 0

    async def member() -> None:
        nonlocal rest
        adapter = RedisStreamAdapter(url_of(server))
        await adapter.connect(link(group="g", start="earliest", room=lambda: 40))
        for _ in range(8):
            batch = [each for each in await adapter.receive() if isinstance(each, Received)]
            half = (len(batch) + 1) // 2
            done, back = batch[:half], batch[half:]
            handled.extend(payloads(done))
            await adapter.ack([each.token for each in done])
        await adapter.hand_back([each.token for each in back])
        await adapter.close()

    async with connected(server, reads=False) as sender:
        await sender.send(records(1, last))
        while len(handled) < last:
            await asyncio.gather(*(member() for _ in range(3)))
    assert sorted(handled) == numbers(1, last)


async def test_a_lost_connection_hands_back_nothing_and_keeps_the_name(server: Redis) -> None:
    async with connected(server, group="g") as one:
        await one.send(records(1, 2))
        await received(one, 2)
        await one.lost()
        assert tell(server, "XPENDING", "hubsub", "g", "-", "+", 10).splitlines()[1::4] == [consumer_of(one)] * 2
    async with connected(server, name="n") as named:
        await named.lost()
        assert tell(server, "EXISTS", "hubsub:name:n") == "1"
    assert tell(server, "EXISTS", "hubsub:name:n") == "0"
    assert consumer_of(one) not in tell(server, "XINFO", "CONSUMERS", "hubsub", "g")


async def test_whoever_has_lost_its_name_moves_no_position(server: Redis) -> None:
    async with connected(server, name="n") as adapter:
        await adapter.send(records(1, 2))
        found = await received(adapter, 2)
        assert isinstance(found[1], Received)
        before = tell(server, "GET", "hubsub:position:n")
        tell(server, "SET", "hubsub:name:n", "another")
        with pytest.raises(hubsub.NameTaken):
            await adapter.ack([found[1].token])
        assert tell(server, "GET", "hubsub:position:n") == before


# Slow lines


def test_what_is_asked_for_is_what_the_line_brings_in_half_a_second() -> None:
    def settled(rate: float, size: int, pace: Pace | None = None) -> int:
        pace = pace or Pace()
        for _ in range(40):
            count = pace.count(10_000)
            pace.note(count, count * size, count * size / rate)
        return pace.count(10_000)

    assert Pace().count(10_000) <= 4
    assert settled(1e9, 200) == 500
    assert 30 < settled(0.7e6, 8000) < 60
    assert settled(1e6, 10_000_000) == 1
    assert settled(1e9, 10_000_000) == 1
    assert settled(1e9, 20_000) == 209
    pace = Pace()
    settled(1e5, 1000, pace)
    assert settled(1e9, 1000, pace) == 500  # the line is better now
    assert pace.count(3) == 3
    assert pace.count(0) == 1


@pytest.mark.parametrize("fields", [{}, {"group": "g"}], ids=["plain", "group"])
async def test_a_narrow_line_is_asked_for_little_at_a_time(server: Redis, fields: dict[str, Any]) -> None:
    async with connected(server, reads=False) as sender, server.proxy() as proxy:
        for start in range(1, 300, 50):
            await sender.send(
                [record._replace(payload=record.payload + b" " * 8000) for record in records(start, start + 49)]
            )
        proxy.slow(64 * 1024 / 0.05)
        url = url_of(server).replace(str(server.port), str(proxy.port))
        async with connected(url, start="earliest", **fields) as adapter:
            seen: set[int | None] = set()
            sizes: list[int] = []
            while sum(sizes) < 300:
                reading = asyncio.ensure_future(adapter.receive())
                while not reading.done():
                    await asyncio.wait([reading], timeout=0.02)
                    seen.add(adapter.receiving)
                sizes.append(len(await reading))
            assert len(seen) > 1
            assert max(sizes) < 150


async def test_coming_up_takes_few_round_trips(private: Private) -> None:
    server = await private(Redis())
    async with Trips(server.port) as trips:
        for fields, most in (({"reads": False}, 1), ({"group": "g"}, 2), ({}, 4), ({"name": "n"}, 4)):
            for _ in range(2):
                trips.counts.clear()
                adapter = RedisStreamAdapter(trips.url(server).replace("redis:", "redis-stream:"))
                await adapter.connect(link(control=(REPLY,), **fields))
                assert max(trips.counts) <= most
                await adapter.close()


# URLs


async def test_options_of_streams_stand_in_a_url(server: Redis) -> None:
    async with connected(f"{url_of(server)}?lease=3.5&maxlen=100&client_name=shop", group="g") as adapter:
        assert adapter.features_for(link(group="g")).lease == 3.5
        await adapter.send(records(1, 1000))
        assert 100 <= int(tell(server, "XLEN", "hubsub")) < 300
        assert "name=shop" in tell(server, "CLIENT", "LIST")
    async with connected(f"{url_of(server)}?maxlen=none", namespace="other") as adapter:
        await adapter.send(records(1, 1000))
    assert tell(server, "XLEN", "other") == "1000"


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("redis-stream://h?lease=soon", ValueError, "a number of seconds"),
        ("redis-stream://h?lease=", ValueError, "a number of seconds"),
        ("redis-stream://h?lease=-1", ValueError, "a number of seconds"),
        ("redis-stream://h?lease=nan", ValueError, "a number of seconds"),
        ("redis-stream://h?maxlen=0", ValueError, "at least 1"),
        ("redis-stream://h?maxlen=1e6", ValueError, "or none"),
        ("redis-stream://h?leese=3", TypeError, "has no option leese: it has maxlen, lease, client_name"),
        ("unix:///run/redis.sock", ValueError, r"redis-stream:///0\?path=/run/redis.sock"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_with_what_to_write(url: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RedisStreamAdapter(url)


@pytest.mark.parametrize("bound", ["nonsense", "hubsub:", "hubsub:x-1", "hubsub:1-1-1", float("nan")])
async def test_a_bound_of_the_history_that_is_none_is_refused(server: Redis, bound: Any) -> None:
    async with connected(server) as adapter:
        for bounds in ({"before": bound}, {"after": bound}):
            with pytest.raises(ValueError, match=r"\w"):
                await adapter.history(1, **bounds)
        assert await adapter.history(1, before=-1.0) == []
        assert await adapter.history(1, after=1e30) == []
