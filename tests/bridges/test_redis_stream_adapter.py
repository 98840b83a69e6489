"""Redis Streams: what the adapter promises, against a server of our own that is killed, flushed and trimmed."""

import asyncio
import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

import hubsub
from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.redis_server import Redis, Sentinel
from hubsub import Key
from hubsub.bridges.adapter import Loss, Received, Record
from hubsub.bridges.redis import RedisStreamAdapter
from hubsub.bridges.redis.position import Position, State

from .streams import (
    connected,
    consumer_of,
    link,
    member_of,
    numbers,
    payloads,
    received,
    records,
    tell,
    until,
    until_blocked,
    url_of,
)

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing comes is known earlier."""
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 100)


@pytest.fixture
def server(redis: Redis) -> Redis:
    tell(redis, "FLUSHALL")
    tell(redis, "SCRIPT", "FLUSH")
    return redis


# Sending and receiving


async def test_what_is_sent_arrives_with_key_payload_and_headers(server: Redis) -> None:
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
        assert first.position == f"hubsub:{tell(server, 'XRANGE', 'hubsub', '-', '+', 'COUNT', 1).splitlines()[0]}"
        assert second[:3] == (Key("*"), b"", {})


async def test_only_what_is_new_comes_unless_asked_otherwise(server: Redis) -> None:
    async with connected(server) as sender:
        await sender.send(records(1, 3))
        async with connected(server) as new, connected(server, start="earliest") as all_of_it:
            await sender.send(records(4, 5))
            assert payloads(await received(new, 2)) == [4, 5]
            assert payloads(await received(all_of_it, 5)) == numbers(1, 5)


async def test_reading_begins_at_a_time(server: Redis) -> None:
    for milliseconds in (1000, 2000, 3000):
        tell(server, "XADD", "hubsub", f"{milliseconds}-5", "key", "a", "payload", milliseconds)
    async with connected(server, start=2.0) as adapter:
        assert payloads(await received(adapter, 2)) == [2000, 3000]
    async with connected(server, start=2.0, group="g") as adapter:
        assert payloads(await received(adapter, 2)) == [2000, 3000]
    async with connected(server, start=1e10) as adapter:
        tell(server, "XADD", "hubsub", "4000-0", "key", "a", "payload", 4000)
        assert payloads(await received(adapter, 1)) == [4000]


async def test_nothing_comes_from_a_silent_stream(server: Redis) -> None:
    async with connected(server) as adapter, connected(server, group="g") as member:
        assert await adapter.receive() == []
        assert await member.receive() == []


async def test_what_was_stored_is_not_stored_again(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        await adapter.send(records(1, 3))
        await adapter.send(records(1, 3))
        await adapter.send(records(2, 5))
        assert payloads(await received(adapter, 5)) == numbers(1, 5)
        assert tell(server, "XLEN", "hubsub") == "5"
    assert int(tell(server, "TTL", tell(server, "KEYS", "hubsub:sender:*"))) > 0


async def test_streams_are_trimmed_to_about_their_length(server: Redis) -> None:
    async with connected(server, {"maxlen": 100}) as adapter:
        await adapter.send(records(1, 1000))
    assert 100 <= int(tell(server, "XLEN", "hubsub")) < 300
    async with connected(server, {"maxlen": None}, namespace="other") as adapter:
        await adapter.send(records(1, 1000))
    assert tell(server, "XLEN", "other") == "1000"


async def test_a_key_chooses_its_stream(server: Redis) -> None:
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
        assert tell(server, "XLEN", "hubsub:logs") == "1"
        assert adapter.features_for(link()).order == "key"


async def test_what_is_refused_is_told_apart(server: Redis) -> None:
    options = {"route": lambda key: key[0], "sources": []}
    tell(server, "SET", "hubsub:wrong", "a string")
    async with connected(server, options, reads=False) as adapter:
        refused = await adapter.send([Record(Key("right"), b"", {}, 1), Record(Key("wrong"), b"", {}, 2)])
        assert list(refused) == [1]
        assert "WRONGTYPE" in str(refused[1])


async def test_a_full_server_is_no_reason_to_give_up(private: Private) -> None:
    server = await private(Redis())
    async with connected(server, start="earliest") as adapter:
        tell(server, "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(hubsub.BrokerBusy, match="OOM"):
            await adapter.send(records(1, 2))
        tell(server, "CONFIG", "SET", "maxmemory", 0)
        await adapter.send(records(1, 2))
        assert payloads(await received(adapter, 2)) == [1, 2]


async def test_entries_of_other_programs_arrive(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        tell(server, "XADD", "hubsub", "*", "temperature", "21", "room", "küche")
        tell(server, "XADD", "hubsub", "*", "payload", "x", "key", "a:b", "unit", "K")
        plain, other = await received(adapter, 2)
        assert plain[:3] == (Key("hubsub"), b'{"temperature": "21", "room": "k\\u00fcche"}', {})
        assert other[:3] == (Key("a", "b"), b"x", {"unit": "K"})


async def test_large_and_many_messages_arrive_in_order(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter:
        sent = [Record(Key("k"), bytes([number]) * 1_000_000, {}, number) for number in range(20)]
        await adapter.send(sent)
        small = records(100, 5000)
        await adapter.send(small)
        found = await received(adapter, len(sent) + len(small))
        assert [each.payload for each in found if isinstance(each, Received)] == [each.payload for each in sent + small]


async def test_closing_ends_a_receive_that_waits(server: Redis) -> None:
    for group in (None, "g"):
        async with connected(server, group=group) as adapter:
            waiting = asyncio.create_task(adapter.receive())
            await asyncio.sleep(0)
            await adapter.close()
            with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
                await waiting


async def test_a_frozen_server_does_not_keep_us_from_closing(private: Private) -> None:
    server = await private(Redis())
    async with connected(server, name="n") as adapter:
        server.freeze()
        # More than the buffers of the sockets hold.
        sending = asyncio.create_task(adapter.send([Record(Key("k"), bytes(50_000_000), {}, 1)]))
        receiving = asyncio.create_task(adapter.receive())
        await asyncio.sleep(0.05)
        await adapter.close()
        results = await asyncio.gather(sending, receiving, return_exceptions=True)
        assert all(isinstance(each, Exception) for each in results)


# Loss


async def test_what_was_trimmed_unread_is_counted(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        assert payloads(await received(adapter, 10)) == numbers(1, 10)
        await adapter.send(records(11, 20))
        tell(server, "XTRIM", "hubsub", "MAXLEN", 3)
        assert payloads(await received(adapter, 4)) == [("trimmed", 7), 18, 19, 20]
        await adapter.send(records(21, 21))
        assert payloads(await received(adapter, 1)) == [21]


async def test_what_was_trimmed_after_reading_is_no_loss(server: Redis) -> None:
    async with connected(server, start="earliest") as adapter, connected(server, group="g", start="earliest") as member:
        await adapter.send(records(1, 10))
        assert payloads(await received(adapter, 10)) == numbers(1, 10)
        assert payloads(await received(member, 10)) == numbers(1, 10)
        tell(server, "XTRIM", "hubsub", "MAXLEN", 0)
        await adapter.send(records(11, 12))
        assert payloads(await received(adapter, 2)) == [11, 12]
        assert payloads(await received(member, 2)) == [11, 12]


async def test_what_was_deleted_unread_is_counted(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 5))
        ids = [line for line in tell(server, "XRANGE", "hubsub", "-", "+").splitlines() if "-" in line]
        tell(server, "XDEL", "hubsub", ids[1], ids[3])
        found = payloads(await received(adapter, 4))
        assert found == [("trimmed", 2), 1, 3, 5]


async def test_a_deleted_stream_is_a_loss_and_read_from_its_beginning(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        tell(server, "DEL", "hubsub")
        await adapter.send(records(11, 30))
        assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]


async def test_a_deleted_stream_is_told_once_however_it_comes_back(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        tell(server, "DEL", "hubsub")
        assert payloads(await received(adapter, 1)) == [("recreated", None)]
        assert await adapter.receive() == []
        await adapter.send(records(11, 12))
        assert payloads(await received(adapter, 2)) == [11, 12]
        tell(server, "DEL", "hubsub")
        tell(server, "XADD", "hubsub", "*", "key", "a", "payload", "13")
        first, *rest = payloads(await received(adapter, 2))
        assert first[0] in ("recreated", "rolled back")
        assert rest == [13]


async def test_a_flushed_server_is_a_loss(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        tell(server, "FLUSHALL")
        tell(server, "SCRIPT", "FLUSH")
        await adapter.send(records(11, 30))
        assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]


async def test_a_restart_without_persistence_is_a_loss(private: Private) -> None:
    server = await private(Redis(appendonly="no"))
    adapter = RedisStreamAdapter(url_of(server))
    its_link = link()
    await adapter.connect(its_link)
    await adapter.send(records(1, 10))
    await received(adapter, 10)
    server.kill()
    with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
        await received(adapter, 1)
    await adapter.close()
    await server.start_wait()
    await adapter.connect(its_link)
    await adapter.send(records(11, 30))
    assert payloads(await received(adapter, 21)) == [("recreated", None), *numbers(11, 30)]
    await adapter.close()


async def test_what_was_received_last_comes_again_after_an_outage(server: Redis) -> None:
    its_link = link()
    adapter = RedisStreamAdapter(url_of(server))
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


async def test_what_comes_during_an_outage_of_the_reader_is_no_loss(server: Redis) -> None:
    its_link = link()
    adapter = RedisStreamAdapter(url_of(server))
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


async def test_a_lost_end_of_the_stream_is_a_loss_and_nothing_comes_twice(server: Redis) -> None:
    async with connected(server) as adapter:
        await adapter.send(records(1, 10))
        await received(adapter, 10)
        # As after a crash without fsync: the same stream, without its last entries.
        tell(server, "XTRIM", "hubsub", "MAXLEN", 0)
        tell(server, "XSETID", "hubsub", "5-0", "ENTRIESADDED", 5)
        tell(server, "XADD", "hubsub", "*", "key", "a", "payload", "11")
        assert payloads(await received(adapter, 2)) == [("rolled back", None), 11]
        await adapter.send(records(12, 12))
        assert payloads(await received(adapter, 1)) == [12]


@given(st.data())
@settings(deadline=None)
def test_losses_add_up_to_what_is_gone(data: st.DataObject) -> None:
    """Against a naive log: every entry is read, told as missing, or still to come."""
    log: list[int] = []  # the ordinals of what is there
    added = 0
    place = Position(b"0-0", 0, b"e")
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


async def test_a_named_reader_goes_on_where_it_acknowledged(server: Redis) -> None:
    async with connected(server, name="n") as adapter:
        assert adapter.features_for(link(name="n")).acks == "prefix"
        await adapter.send(records(1, 5))
        found = await received(adapter, 5)
        assert isinstance(found[2], Received)
        await adapter.ack([found[2].token])
    async with connected(server, name="n") as adapter:
        assert payloads(await received(adapter, 2)) == [4, 5]


async def test_a_named_reader_that_comes_back_gets_anew_what_it_did_not_acknowledge(server: Redis) -> None:
    its_link = link(name="n")
    adapter = RedisStreamAdapter(url_of(server))
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


async def test_a_named_reader_misses_nothing_before_its_first_acknowledgement(server: Redis) -> None:
    async with connected(server) as sender:
        await sender.send(records(1, 2))
        async with connected(server, name="n"):
            pass
        await sender.send(records(3, 4))
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 2)) == [3, 4]


async def test_a_named_reader_is_told_what_went_missing_while_it_was_away(server: Redis) -> None:
    async with connected(server) as sender:
        async with connected(server, name="n") as adapter:
            await sender.send(records(1, 5))
            found = await received(adapter, 5)
            assert isinstance(found[4], Received)
            await adapter.ack([found[4].token])
        await sender.send(records(6, 10))
        tell(server, "XTRIM", "hubsub", "MAXLEN", 2)
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 3)) == [("trimmed", 3), 9, 10]
        tell(server, "DEL", "hubsub")
        async with connected(server, name="n") as adapter:
            assert payloads(await received(adapter, 1)) == [("recreated", None)]


async def test_a_name_is_taken_once(server: Redis) -> None:
    async with connected(server, name="n"):
        with pytest.raises(hubsub.NameTaken, match="'n'"):
            async with connected(server, name="n"):
                pass
        async with connected(server, name="m"):
            pass
    async with connected(server, name="n"):
        pass
    assert tell(server, "EXISTS", "hubsub:name:n") == "0"


async def test_a_bridge_comes_back_under_its_own_name(server: Redis) -> None:
    its_link = link(name="n")
    adapter = RedisStreamAdapter(url_of(server))
    await adapter.connect(its_link)
    tell(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises((ConnectionError, redis.exceptions.ConnectionError)):
        await received(adapter, 1)
    await adapter.close()
    await adapter.connect(its_link)
    assert await adapter.receive() == []
    await adapter.close()


async def test_a_name_is_free_after_closing_however_the_last_call_ended(server: Redis) -> None:
    async with connected(server, name="n") as adapter:
        sending = asyncio.create_task(adapter.send(records(1, 100)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
    async with connected(server, name="n"):
        pass


async def test_whoever_lost_its_name_to_another_stops_reading(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubsub.bridges.redis.session.NAME_SECONDS", 0.04)
    async with connected(server, name="n") as adapter:
        tell(server, "SET", "hubsub:name:n", "another")
        with pytest.raises(hubsub.NameTaken):
            await received(adapter, 1)


# Groups


async def test_members_of_a_group_share_the_messages(server: Redis) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        features = one.features_for(link(group="g"))
        assert (features.acks, features.lease, features.order) == ("each", 30, "none")
        await one.send(records(1, 1))
        first = await received(one, 1)
        await one.send(records(2, 2))
        second = await received(other, 1)
        assert payloads([*first, *second]) == [1, 2]
        await one.ack([each.token for each in first if isinstance(each, Received)])
        await other.ack([each.token for each in second if isinstance(each, Received)])
        assert tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "0"


async def test_a_reply_that_was_lost_is_read_again_and_counts_for_nothing(server: Redis) -> None:
    its_link = link(group="g")
    adapter = RedisStreamAdapter(url_of(server))
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


async def test_what_a_member_left_unfinished_goes_to_another_and_counts(server: Redis) -> None:
    options = {"lease": 0.1}
    async with connected(server, options, group="g") as one, connected(server, options, group="g") as other:
        await one.send(records(1, 2))
        held = await received(one, 2)
        taken = await received(other, 2)
        assert payloads(taken) == [1, 2]
        assert [each.attempts for each in taken if isinstance(each, Received)] == [1, 1]
        # Whose lease is over does not get it back by extending.
        await one.extend([each.token for each in held if isinstance(each, Received)])
        owners = tell(server, "XPENDING", "hubsub", "g", "-", "+", 10).splitlines()[1::4]
        assert owners == [consumer_of(other)] * 2


async def test_a_member_is_not_given_what_it_works_on_itself(server: Redis) -> None:
    async with connected(server, {"lease": 0.05}, group="g") as adapter:
        await adapter.send(records(1, 1))
        assert payloads(await received(adapter, 1)) == [1]
        # Each waits for longer than the lease.
        assert await adapter.receive() == []
        assert await adapter.receive() == []


async def test_an_extended_lease_is_kept(server: Redis) -> None:
    async with connected(server, {"lease": 1}, group="g") as one, connected(server, {"lease": 1}, group="g") as other:
        await one.send(records(1, 1))
        (held,) = await received(one, 1)
        assert isinstance(held, Received)
        ending = asyncio.get_running_loop().time() + 1.3
        while asyncio.get_running_loop().time() < ending:
            await one.extend([held.token])
            await asyncio.sleep(0.05)
            if asyncio.get_running_loop().time() > ending - 0.25:
                member_of(other)._tend_at = 0
                assert await other.receive() == []
        (deliveries,) = tell(server, "XPENDING", "hubsub", "g", "-", "+", 10).splitlines()[3::4]
        assert deliveries == "1"


async def test_a_group_survives_a_flush_and_tells_it_once(server: Redis) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        await one.send(records(1, 1))
        (first,) = await received(one, 1)
        assert isinstance(first, Received)
        tell(server, "FLUSHALL")
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


async def test_a_group_that_waits_survives_the_deletion_of_its_stream(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisStreamAdapter, "BLOCK", 1000)
    async with connected(server, group="g") as adapter:
        waiting = asyncio.create_task(adapter.receive())
        await until_blocked(server)
        tell(server, "DEL", "hubsub")
        found = list(await waiting)
        await adapter.send(records(1, 2))
        found += await received(adapter, 3 - len(found))
        assert payloads(found) == [("recreated", None), 1, 2]


async def test_a_group_is_told_once_what_was_trimmed_unread(server: Redis) -> None:
    async with connected(server, group="g") as one, connected(server, group="g") as other:
        await one.send(records(1, 2))
        assert payloads(await received(one, 2)) == [1, 2]
        await one.send(records(3, 10))
        tell(server, "XTRIM", "hubsub", "MAXLEN", 3)
        assert payloads(await received(other, 4)) == [("trimmed", 5), 8, 9, 10]
        assert await one.receive() == []
        await one.send(records(11, 11))
        assert payloads(await received(one, 1)) == [11]


async def test_a_group_is_told_what_went_missing_while_nobody_was_there(server: Redis) -> None:
    async with connected(server, group="g") as adapter:
        await adapter.send(records(1, 10))
        tell(server, "XTRIM", "hubsub", "MAXLEN", 4)
    tell(server, "SCRIPT", "FLUSH")
    async with connected(server, group="g") as adapter:
        assert payloads(await received(adapter, 5)) == [("trimmed", 6), *numbers(7, 10)]
        tell(server, "SCRIPT", "FLUSH")
        await adapter.send(records(11, 11))
        assert payloads(await received(adapter, 1)) == [11]


async def test_what_was_trimmed_unfinished_is_told(server: Redis) -> None:
    its_link = link(group="g")
    adapter = RedisStreamAdapter(url_of(server), lease=0.1)
    await adapter.connect(its_link)
    await adapter.send(records(1, 4))
    await received(adapter, 4)
    await adapter.close()
    tell(server, "XTRIM", "hubsub", "MAXLEN", 2)
    await adapter.connect(its_link)
    assert payloads(await received(adapter, 3)) == [("trimmed", 2), 3, 4]
    tell(server, "XTRIM", "hubsub", "MAXLEN", 1)
    async with connected(server, {"lease": 0.1}, group="g") as other:
        assert payloads(await received(other, 2)) == [("trimmed", 1), 4]
    await adapter.close()


async def test_consumers_that_are_gone_are_removed_when_nothing_is_pending(server: Redis) -> None:
    async with connected(server, {"lease": 0.05}, group="g") as adapter:
        tell(server, "XGROUP", "CREATECONSUMER", "hubsub", "g", "gone")
        await adapter.send(records(1, 1))
        (held,) = await received(adapter, 1)
        assert isinstance(held, Received)

        async def is_alone() -> bool:
            await adapter.receive()
            return "gone" not in tell(server, "XINFO", "CONSUMERS", "hubsub", "g")

        await until(is_alone)
        assert consumer_of(adapter) in tell(server, "XINFO", "CONSUMERS", "hubsub", "g")
        await adapter.ack([held.token])
    assert tell(server, "XINFO", "CONSUMERS", "hubsub", "g") == ""


# Processes that are killed

MEMBER = """
    import asyncio, sys
    from hubsub.bridges.adapter import Link
    from hubsub.bridges.redis import RedisStreamAdapter

    async def main(url, sender):
        adapter = RedisStreamAdapter(url, lease=1)
        await adapter.connect(Link(sender=sender, namespace="hubsub", group="g"))
        print("joined", flush=True)
        while True:
            for received in await adapter.receive():
                print(received.payload.decode(), flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_process_held_is_handled_by_another(server: Redis) -> None:
    async with connected(server, {"lease": 1}, group="g") as adapter:
        member = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", textwrap.dedent(MEMBER), url_of(server), "killed"),
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
        assert tell(server, "XPENDING", "hubsub", "g").splitlines()[0] == "0"


async def test_nothing_confirmed_is_lost_and_nothing_doubled_when_the_server_is_killed(private: Private) -> None:
    server = await private(Redis())
    its_link = link(reads=False)
    adapter = RedisStreamAdapter(url_of(server))
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
        await server.restart_wait()
    await sending
    async with connected(server, start="earliest") as reader:
        assert payloads(await received(reader, last)) == numbers(1, last)
        assert await reader.receive() == []


# History and dead letters


async def test_history_is_paged_by_position_and_by_time(server: Redis) -> None:
    for milliseconds in (1000, 1500, 2000, 2500, 3000):
        tell(server, "XADD", "hubsub", f"{milliseconds}-1", "key", "a", "payload", milliseconds)
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


async def test_what_cannot_be_handled_is_buried_with_the_reason(server: Redis) -> None:
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


async def test_a_client_of_ones_own_is_used_and_left_alone(server: Redis) -> None:
    client = redis.asyncio.Redis(port=server.port, db=3, decode_responses=True)
    adapter = RedisStreamAdapter(client=client)
    await adapter.connect(link(start="earliest"))
    await adapter.send(records(1, 1))
    assert payloads(await received(adapter, 1)) == [1]
    await adapter.close()
    assert await client.xlen("hubsub") == 1
    await client.aclose()


async def test_a_password_is_sent_and_never_told(private: Private) -> None:
    server = await private(Redis(password="sec:ret/1"))
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


async def test_tls_is_spoken_and_certificates_are_checked(private: Private) -> None:
    server = await private(Redis(tls=True))
    url = url_of(server)
    async with connected(f"{url}?ssl_ca_certs={certificates().authority}", group="g") as adapter:
        await adapter.send(records(1, 1000))
        assert payloads(await received(adapter, 1000)) == numbers(1, 1000)
    with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)certificate"):
        await RedisStreamAdapter(url).connect(link())


async def test_sentinels_lead_to_the_new_master(private: Private) -> None:
    sentinel = await private(Sentinel())
    nobody = private.keep(Redis())
    url = f"redis-stream+sentinel://127.0.0.1:{nobody.port},127.0.0.1:{sentinel.port}/{sentinel.service}/0"
    adapter, its_link = RedisStreamAdapter(url), link(name="n")
    await adapter.connect(its_link)
    await adapter.send(records(1, 3))
    found = await received(adapter, 3)
    assert isinstance(found[2], Received)
    await adapter.ack([found[2].token])
    position = tell(sentinel.master, "GET", "hubsub:position:n")
    await until(lambda: asyncio.sleep(0, tell(sentinel.replica, "GET", "hubsub:position:n") == position))
    assert await asyncio.to_thread(sentinel.fail_over) is sentinel.replica
    await adapter.close()

    async def is_back() -> bool:
        with suppress(OSError, redis.exceptions.RedisError):
            await adapter.connect(its_link)
            return True
        return False

    await until(is_back)
    await adapter.send(records(3, 5))
    assert payloads(await received(adapter, 2)) == [4, 5]
    assert tell(sentinel.replica, "XLEN", "hubsub") == "5"
    await adapter.close()
    with pytest.raises(ConnectionError, match="no Sentinel that replied knows a master for other"):
        await RedisStreamAdapter(url.replace(f"/{sentinel.service}", "/other")).connect(its_link)


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
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(hubsub.MissingDriver, match=r"RedisStreamAdapter needs redis: pip install 'hubsub\[redis\]'"):
        RedisStreamAdapter("redis-stream://localhost")


def test_the_module_is_imported_without_the_driver() -> None:
    script = "import sys; sys.modules['redis'] = None; import hubsub.bridges.redis.stream"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
