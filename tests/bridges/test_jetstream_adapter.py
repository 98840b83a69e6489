"""JetStream against real servers of two versions: what is its own, beside what all adapters have to do."""

import asyncio
import base64
import json
import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import nats.errors
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_key import naive

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.nats_server import Nats
from hubsub import BridgeError, BrokerBusy, EncodeError, Key, NameTaken, NoSuchLetter, PayloadTooLarge
from hubsub.bridges.adapter import Link, Received, Record, SentBack
from hubsub.bridges.nats import JetStreamAdapter, jetapi
from hubsub.bridges.nats.jetapi import stream_name
from hubsub.bridges.nats.streams import from_number
from hubsub.testing.conformance import sites, until
from hubsub.testing.conformance.bare import Bare, bare

from .test_nats_adapter import EXACT, NEAR, PATTERNS, TEXTS

ALL: Key[Any] = Key("*")
PASSWORD = "s3cret/pa:ss"
WAYS = pytest.mark.parametrize("way", [{}, {"name": "reader"}, {"group": "readers"}], ids=["plain", "name", "group"])


@pytest.fixture(scope="module")
def server(each_nats: Nats) -> Nats:
    return each_nats


def jet_url(server: Nats) -> str:
    return server.url.replace("nats:", "jetstream:").replace("tls:", "jetstream+tls:")


def make(server: Nats, **options: Any) -> Callable[[], JetStreamAdapter]:
    return lambda: JetStreamAdapter(jet_url(server), **options)


async def api(server: Nats, subject: str, data: Any = None) -> Any:
    """What JetStream replies to a client that is no hub."""
    client = await server.client()
    try:
        request = json.dumps(data).encode() if data else b""
        return json.loads((await client.request(f"$JS.API.{subject}", request, timeout=10)).data)
    finally:
        await client.close()


async def config(server: Nats, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api(server, f"STREAM.INFO.{stream}"))["config"]
    return found


def numbered(*numbers: int) -> list[Record]:
    return [Record(Key("k"), b"%d" % number) for number in numbers]


def payloads(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def losses(reader: Bare, number: int) -> list[tuple[str, int | None]]:
    await until(lambda: len(reader.losses) >= number, lambda: f"{number} losses, not {reader.losses}")
    return [(loss.reason, loss.count) for loss in reader.losses]


# Keys as subjects, and what a message is to others


@given(st.lists(PATTERNS, min_size=1, max_size=3, unique=True), st.lists(NEAR | EXACT, min_size=1, max_size=6))
@settings(max_examples=20)
async def test_patterns_match_at_jetstream_as_they_do_in_a_hub(
    server: Nats, patterns: list[Key[Any]], keys: list[Key[Any]]
) -> None:
    async with bare(make(server), "patterns", reads=False) as writer:
        await api(server, "STREAM.PURGE.patterns")
        assert not await writer.send(*[Record(key, b"") for key in keys])
        for pattern in patterns:
            subject = writer.adapter._streams._own.pattern(pattern).decode()  # type: ignore[attr-defined]
            only = {"ack_policy": "none", "mem_storage": True, "filter_subject": subject}
            found = await api(server, "CONSUMER.CREATE.patterns", {"stream_name": "patterns", "config": only})
            assert found["num_pending"] == sum(naive(pattern, key) for key in keys), (pattern, keys)
            await api(server, f"CONSUMER.DELETE.patterns.{found['name']}")


@given(st.lists(st.tuples(EXACT, st.binary(max_size=40), st.dictionaries(TEXTS, TEXTS)), min_size=1, max_size=5))
@example([(Key(""), b"", {"": ""}), (Key("%", "%25", "%2E"), b"\r\n", {"%": "%25", "a b": "x\r\ny: z"})])
@settings(max_examples=20)
async def test_every_key_payload_and_header_arrives_as_it_was(server: Nats, messages: list[Any]) -> None:
    messages = [each for each in messages if not {"hubsub-reader", "Nats-Msg-Id"} & each[2].keys()]
    async with bare(make(server), "keys") as reader:
        assert not await reader.send(*[Record(*each) for each in messages])
        await until(lambda: len(reader.received) >= len(messages))
        assert [each[:3] for each in reader.received] == messages


@pytest.mark.parametrize("text", ["a b", "a.b", "*", ">", "é", "%", "a/b", "x" * 100, "_", "\ud800", "-"])
async def test_namespaces_groups_and_names_may_be_any_text(nats: Nats, text: str) -> None:
    async with bare(make(nats), text, reads=False) as writer:
        for way in ({"group": text}, {"name": text}):
            async with bare(make(nats), text, start="earliest", **way) as reader:
                await writer.send(Record(Key("k"), next(iter(way)).encode()))
                await reader.see(next(iter(way)).encode())
                await reader.ack()
    await api(nats, f"STREAM.DELETE.{stream_name(text)}")


async def test_programs_that_are_no_hubs_read_and_write_plain_messages(nats: Nats, namespace: str) -> None:
    async with sites(make(nats)) as those, AsyncExitStack() as stack:
        site = await those.add(ALL, namespace=namespace, both=ALL)
        client = await nats.client()
        stack.push_async_callback(client.close)
        await client.jetstream().publish(f"{namespace}.sensor.kitchen", b"21.5", headers={"Unit": "C"})
        await site.wait_for(1)
        (event,) = site.events
        assert (event.key, event.message) == (("sensor", "kitchen"), 21.5)
        assert event.meta is not None
        assert event.meta.headers == {"Unit": "C"}
        await site.hub.publish_confirmed(("order", "new"), {"tea": 2})
        message = await client.jetstream().get_last_msg(namespace, f"{namespace}.order.new")
        assert json.loads(message.data or b"") == {"tea": 2}
        assert message.headers is not None
        assert message.headers["content-type"] == "application/json"


async def test_a_stream_of_another_program_is_read_and_written(nats: Nats, namespace: str) -> None:
    name = namespace.upper()
    await api(nats, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{namespace}.>"], "storage": "memory"})
    before = await config(nats, name)
    async with bare(make(nats, stream=name, maxlen=7), "", name="reader", start="earliest") as reader:
        assert not await reader.send(Record(Key(namespace, "a", "b"), b"1"))
        assert (await reader.see(b"1")).key == (namespace, "a", "b")
        refused = await reader.send(Record(Key("elsewhere"), b"2"))
        assert "no stream stores this subject" in str(refused[0])
    assert await config(nats, name) == before
    with pytest.raises(BridgeError, match="there is no stream 'nothing'; create it, or give a namespace"):
        async with bare(make(nats, stream="nothing"), ""):
            pass


# What is stored


async def test_a_message_that_is_sent_again_is_stored_once_within_two_minutes(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace) as writer:
        records = [each._replace(sequence=index) for index, each in enumerate(numbered(1, 2, 3), 1)]
        for batch in (records, records[1:], [records[0], *numbered(4)]):
            assert not await writer.adapter.send(batch)
        await writer.see(b"4")
        assert writer.payloads == payloads(1, 2, 3, 4)
        assert (await config(nats, namespace))["duplicate_window"] == 120 * 10**9


async def test_options_say_what_a_stream_is_made_with_and_change_none_that_exists(nats: Nats, namespace: str) -> None:
    for maxlen in (3, 4):
        options = {"maxlen": maxlen, "max_age": 60}
        async with bare(make(nats, **options), namespace, name="reader", start="earliest") as reader:
            await reader.send(*numbered(1, 2, 3, 4, 5))
            await reader.see(b"5")
        found = await config(nats, namespace)
        assert (found["max_msgs"], found["max_age"], found["duplicate_window"]) == (3, 60 * 10**9, 60 * 10**9)
        # A position is kept longer than messages.
        assert (await config(nats, f"KV_{namespace}_readers"))["max_age"] == 0
    await api(nats, f"STREAM.DELETE.{namespace}")
    async with bare(lambda: JetStreamAdapter(f"{jet_url(nats)}?maxlen=none"), namespace):
        assert (await config(nats, namespace))["max_msgs"] == -1


async def test_what_cannot_be_stored_is_refused_and_no_other(nats: Nats, namespace: str) -> None:
    long = Key("a", "é" * 1000, "b" * 1500)
    async with bare(make(nats), namespace) as writer:
        records = [Record(long, b"1"), Record(Key("k"), bytes(1 << 20)), *numbered(3)]
        refused = await writer.send(*records)
        assert [type(refused[index]) for index in sorted(refused)] == [EncodeError, PayloadTooLarge]
        await writer.see(b"3")
        assert writer.payloads == [b"3"]


async def change(server: Nats, stream: str, **changes: Any) -> dict[str, Any]:
    """Change the configuration of a stream that is there; return its state."""
    changed = {**await config(server, stream), **changes}
    found: dict[str, Any] = (await api(server, f"STREAM.UPDATE.{stream}", changed))["state"]
    return found


async def stored(server: Nats, stream: str) -> list[bytes]:
    """The first two bytes of each message of a stream."""
    last = (await api(server, f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    found = [await api(server, f"STREAM.MSG.GET.{stream}", {"seq": number}) for number in range(1, last + 1)]
    # What an account has no room for costs the oldest server a number.
    return [base64.b64decode(each["message"]["data"])[:2] for each in found if "message" in each]


@pytest.mark.parametrize("is_known", [True, False], ids=["before", "since it was full"])
async def test_no_message_passes_one_that_a_full_stream_has_no_room_for(
    server: Nats, namespace: str, is_known: bool
) -> None:
    bounds = {"discard": "new", "max_bytes": 10_000}
    if is_known:
        await api(server, f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [f"{namespace}.>"], **bounds})
    async with bare(make(server), namespace, reads=False) as writer:
        if not is_known:
            await change(server, namespace, **bounds)
            with pytest.raises(BrokerBusy, match="maximum bytes exceeded"):
                await writer.adapter.send([Record(Key("other"), bytes(20_000), {}, 1000)])
        records = [
            Record(Key("k"), b"%02d" % number + bytes(6000 if number in (2, 5) else 10), {}, number)
            for number in range(1, 9)
        ]
        for room, so_many in ((0, 4), (0, 4), (10_000, 8)):
            await change(server, namespace, max_bytes=10_000 + room)
            if so_many < 8:
                with pytest.raises(BrokerBusy, match="maximum bytes exceeded"):
                    await writer.adapter.send(records)
            else:
                assert not await writer.adapter.send(records)
            assert await stored(server, namespace) == [b"%02d" % number for number in range(1, so_many + 1)]


@pytest.mark.parametrize("is_newest", [False, True], ids=["oldest", "newest"])
async def test_no_message_passes_one_that_a_full_account_has_no_room_for(private: Private, is_newest: bool) -> None:
    users = [{"user": "u", "password": "p"}]
    accounts = {"a": {"jetstream": {"max_file": 20_000, "max_mem": 0}, "users": users}}
    server = Nats(newest=is_newest, user="u", password="p", accounts=accounts)
    server.is_open = False
    await private(server)
    await api(server, "STREAM.CREATE.other", {"name": "other", "subjects": ["other"]})
    client = await server.client()
    await client.jetstream().publish("other", bytes(12_000))
    await client.close()
    async with bare(make(server), "hubsub", reads=False) as writer:
        records = [
            Record(Key("k"), b"%02d" % number + bytes(6000 if number in (2, 5) else 10), {}, number)
            for number in range(1, 9)
        ]
        for _ in range(2):
            with pytest.raises(BrokerBusy, match="resource limits exceeded for account"):
                await writer.adapter.send(records)
            assert await stored(server, "hubsub") == [b"%02d" % number for number in range(1, 5)]
        await api(server, "STREAM.PURGE.other")
        assert not await writer.adapter.send(records)
        assert await stored(server, "hubsub") == [b"%02d" % number for number in range(1, 9)]


async def test_what_was_stored_of_a_batch_is_not_stored_again_when_its_ids_are_forgotten(
    server: Nats, namespace: str
) -> None:
    bounds = {"discard": "new", "max_msgs": 3, "duplicate_window": 100_000_000}
    await api(server, f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [f"{namespace}.>"], **bounds})
    async with bare(make(server), namespace, reads=False) as writer, AsyncExitStack() as stack:
        records = [each._replace(sequence=index) for index, each in enumerate(numbered(*range(10, 16)), 1)]
        with pytest.raises(BrokerBusy, match="maximum messages exceeded"):
            await writer.adapter.send(records)
        client = await server.client()
        stack.push_async_callback(client.close)
        id = {"Nats-Msg-Id": f"{writer.adapter.link.sender}-3"}  # type: ignore[attr-defined]

        async def is_known() -> bool:
            reply = await client.request(f"{namespace}.probe", b"", headers=id)
            return "duplicate" in json.loads(reply.data)

        while await is_known():
            pass
        await change(server, namespace, max_msgs=100)
        assert not await writer.adapter.send(records)
        assert await stored(server, namespace) == payloads(*range(10, 16))
        # And what is sent later under other numbers is stored.
        assert not await writer.send(*numbered(16))
        assert (await stored(server, namespace))[-1] == b"16"


async def test_of_a_batch_that_is_stored_as_a_whole_each_message_is_stored_once_or_refused_alone(
    private: Private,
) -> None:
    nats = await private(Nats(newest=True, user="u", password="p", permissions={"publish": {"deny": ["hubsub.x"]}}))
    await api(
        nats, "STREAM.CREATE.hubsub", {"name": "hubsub", "subjects": ["hubsub.k", "hubsub.x"], "allow_atomic": True}
    )
    async with bare(make(nats), "hubsub", start="earliest") as reader:
        adapter: Any = reader.adapter
        adapter._streams.whole.add("hubsub")  # as if it had replicas
        keys = {3: "x", 6: "elsewhere"}
        large = bytes((1 << 20) - 100)  # and what makes it a part of a batch has no room
        records = [
            Record(Key(keys.get(number, "k")), large if number == 9 else b"%d" % number, {"n": f"{number}"}, number)
            for number in range(12)
        ]
        batches: list[tuple[slice, list[int]]] = [
            (slice(1, 3), []),
            (slice(1, 5), [2]),  # a part of it is sent again; one is not permitted
            (slice(5, 8), [1]),  # one has a subject that no stream has
            (slice(8, 12), []),
        ]
        for those, refused in batches:
            assert list(await adapter.send(records[those])) == refused
        for error in (await adapter.send(records[3:4]), await adapter.send(records[6:7])):
            assert re.search("allow it in the permissions|no stream stores this subject", str(error[0]))
        await reader.see(b"11")
        assert [each.headers for each in reader.received] == [
            records[at].headers for at in (1, 2, 4, 5, 7, 8, 9, 10, 11)
        ]
        assert [each.payload for each in reader.received] == [
            records[at].payload for at in (1, 2, 4, 5, 7, 8, 9, 10, 11)
        ]


async def test_a_message_is_never_given_up_because_jetstream_does_not_confirm_it(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetapi, "PATIENCE", 0.05)
    async with sites(make(nats)) as those:
        name = those.namespace
        silent = {"name": name, "subjects": [f"{name}.>"], "no_ack": True, "duplicate_window": 120 * 10**9}
        await api(nats, f"STREAM.CREATE.{name}", silent)
        sender, reader = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL)
        publishing = asyncio.ensure_future(sender.hub.publish_confirmed("k", 1, timeout=60))
        # The bridge looks for a better server again and again.
        await sender.until(lambda: sender.bridge.health().reconnects >= 5, "reconnecting")
        await change(nats, name, no_ack=False)
        await publishing
        await sender.hub.publish_confirmed("k", 2)
        await reader.see(2)
        assert reader.messages == [1, 2]


async def test_large_messages_are_read_a_few_at_a_time(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace, reads=False) as writer:
        for number in range(40):
            await writer.send(Record(Key("k"), b"%02d" % number + bytes(1_000_000)))
        for way in ({}, {"group": "readers"}):
            most = 0

            def room() -> int:
                return int(len(reader.received) < most)  # noqa: B023

            async with bare(make(nats), namespace, start="earliest", room=room, **way) as reader:
                for most in (3, 40):
                    await until(lambda: len(reader.received) == most)  # noqa: B023
                    adapter: Any = reader.adapter
                    pull = adapter._member._pull if way else adapter._pull
                    await until(lambda: not pull.is_asked)  # noqa: B023
                    assert pull.size <= 24 << 20
                assert [int((each.payload or b"")[:2]) for each in reader.received] == list(range(40))
    await api(nats, f"STREAM.DELETE.{namespace}")


# What is missing


@WAYS
async def test_what_was_trimmed_is_a_loss_with_its_count(server: Nats, namespace: str, way: dict[str, Any]) -> None:
    adapter = make(server, maxlen=3)()
    async with bare(make(server, maxlen=3), namespace, reads=False) as writer:
        async with bare(lambda: adapter, namespace, **way) as reader:
            await writer.send(*numbered(1, 2))
            await reader.see(b"2")
            await reader.ack()
        await writer.send(*numbered(3, 4, 5, 6, 7, 8))
        async with bare(lambda: adapter, namespace, **way) as reader:
            await reader.see(b"8")
            assert reader.payloads == payloads(6, 7, 8)
            assert await losses(reader, 1) == [("trimmed", 3)]


@WAYS
async def test_each_hole_is_a_loss_with_its_count(nats: Nats, namespace: str, way: dict[str, Any]) -> None:
    async with bare(make(nats), namespace, reads=False) as writer:
        await writer.send(*numbered(*range(1, 11)))
        for number in (5, 6, 9, 10):
            await api(nats, f"STREAM.MSG.DELETE.{namespace}", {"seq": number})
        async with bare(make(nats), namespace, start="earliest", **way) as reader:
            await reader.see(b"8")
            if not way.get("group"):
                # Without waiting for another message.
                assert await losses(reader, 2) == [("trimmed", 2), ("trimmed", 2)]
            await writer.send(*numbered(11))
            await reader.see(b"11")
            assert reader.payloads == payloads(1, 2, 3, 4, 7, 8, 11)
            assert sum(loss.count for loss in reader.losses) == 4


@WAYS
async def test_a_stream_that_is_purged_is_a_loss_with_its_count(
    server: Nats, namespace: str, way: dict[str, Any]
) -> None:
    room = 0
    async with (
        bare(make(server), namespace, reads=False) as writer,
        bare(make(server), namespace, room=lambda: room, **way) as reader,
    ):
        await writer.send(*numbered(1, 2, 3, 4, 5))
        await api(server, f"STREAM.PURGE.{namespace}")
        room = 100
        await writer.send(*numbered(6))
        await reader.see(b"6")
        assert await losses(reader, 1) == [("trimmed", 5)]
        await api(server, f"STREAM.PURGE.{namespace}")  # nothing is missing: all was received
        await writer.send(*numbered(7))
        await reader.see(b"7")
        assert reader.payloads == payloads(6, 7)
        assert len(reader.losses) == 1


async def test_one_member_of_a_group_reports_what_is_missing(server: Nats, namespace: str) -> None:
    room = 5
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(bare(make(server), namespace, reads=False))
        members = [
            await stack.enter_async_context(bare(make(server), namespace, group="g", room=lambda: room))
            for _ in range(3)
        ]

        def came() -> int:
            return sum(len(member.received) for member in members)

        await writer.send(*numbered(*range(100)))
        await until(lambda: came() == 100)
        assert all(member.received for member in members)
        room = 0
        # Whatever they have asked for before is over.
        await until(lambda: not any(_is_asked(member) for member in members))
        await writer.send(*numbered(*range(100, 150)))
        await api(server, f"STREAM.PURGE.{namespace}")
        room = 5
        await writer.send(*numbered(*range(150, 300)))
        await until(lambda: came() == 250)
        assert all(member.payloads[-1] in payloads(*range(150, 300)) for member in members)
        assert sum(loss.count for member in members for loss in member.losses) == 50


def _is_asked(member: Bare) -> bool:
    is_asked: bool = member.adapter._member._pull.is_asked  # type: ignore[attr-defined]
    return is_asked


@WAYS
async def test_a_stream_that_is_deleted_is_one_gap_and_made_again(server: Nats, way: dict[str, Any]) -> None:
    async with sites(make(server)) as those:
        sender = await those.add(outgoing=ALL)
        reader = await those.add(ALL, incoming=ALL, **way)
        await sender.hub.publish_confirmed("k", 1)
        await reader.see(1)
        await api(server, f"STREAM.DELETE.{those.namespace}")
        await sender.hub.publish_confirmed("k", 2, timeout=20)
        await reader.see(2)
        await reader.wait_for_gaps(1)
        assert reader.messages == [1, 2]
        assert len(reader.gaps) == 1


async def test_a_group_that_is_deleted_is_one_gap_and_made_again(server: Nats) -> None:
    async with sites(make(server)) as those:
        sender = await those.add(outgoing=ALL)
        reader = await those.add(ALL, incoming=ALL, group="g")
        await sender.hub.publish_confirmed("k", 1)
        await reader.see(1)
        await reader.until(lambda: not reader.bridge.health().in_flight, "it to be finished")
        await api(server, f"CONSUMER.DELETE.{those.namespace}.g")
        await reader.wait_for_gaps(1)
        await sender.hub.publish_confirmed("k", 2)
        await reader.see(2)
        assert reader.messages == [1, 2]
        assert len(reader.gaps) == 1


@WAYS
async def test_a_reader_that_had_no_room_for_long_finds_its_consumer_gone_and_reads_on(
    server: Nats, namespace: str, way: dict[str, Any]
) -> None:
    most = 1

    def room() -> int:
        return max(0, most - len(reader.received))

    async with bare(make(server), namespace, room=room, start="earliest", **way) as reader:
        await reader.send(*numbered(1))
        await reader.see(b"1")
        # A removed consumer is like one that nobody has asked for half a minute.
        adapter: Any = reader.adapter
        pull = adapter._member._pull if "group" in way else adapter._pull
        await until(lambda: not pull.is_asked)
        assert (await api(server, f"CONSUMER.DELETE.{namespace}.{pull.consumer}"))["success"]
        await reader.send(*numbered(2, 3))
        most = 3
        if "group" in way:
            # The next connection makes it again, after a gap.
            assert reader.reading is not None
            with pytest.raises(ConnectionResetError, match="ends the reading of a group"):
                await asyncio.wait_for(reader.reading, 20)
        else:
            await reader.see(b"3")
            assert reader.payloads == payloads(1, 2, 3)


async def test_a_consumer_of_a_reader_that_is_gone_costs_nothing(nats: Nats) -> None:
    async with sites(make(nats)) as those:
        sender = await those.add(outgoing=ALL)
        reader = await those.add(ALL, incoming=ALL)
        for number in range(3):
            await sender.hub.publish_confirmed("k", number)
            await reader.see(number)
            (name,) = (await api(nats, f"CONSUMER.NAMES.{those.namespace}"))["consumers"]
            await api(nats, f"CONSUMER.DELETE.{those.namespace}.{name}")
        assert reader.messages == [0, 1, 2]
        assert not reader.gaps
        assert not reader.bridge.health().reconnects


# Names


async def test_whoever_has_lost_a_name_moves_its_position_no_more(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace, name="reader") as reader:
        await reader.send(*numbered(1))
        await reader.see(b"1")
        client = await nats.client()
        entry = json.dumps({"owner": "another", "seconds": 10, "position": "elsewhere"}).encode()
        await client.jetstream().publish(f"$KV.{namespace}_readers.{stream_name('name.reader')}", entry)
        await client.close()
        with pytest.raises(NameTaken):
            await reader.ack()


async def test_a_name_is_taken_while_its_owner_lives_and_free_after_it_was_killed(
    nats: Nats, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JetStreamAdapter, "NAME_SECONDS", 1.0)
    killed = make(nats)()
    async with bare(lambda: killed, namespace, name="reader"):
        with pytest.raises(NameTaken):
            async with bare(make(nats), namespace, name="reader"):
                pass
        await killed.lost()  # nothing is given back
        # By the server's clock: that of this machine may say anything.
        monkeypatch.setattr(time, "time", lambda: 5.0)
        began = asyncio.get_running_loop().time()
        while True:
            try:
                async with bare(make(nats), namespace, name="reader"):
                    break
            except NameTaken:
                assert asyncio.get_running_loop().time() < began + 10
                await asyncio.sleep(0.05)
    async with bare(make(nats), namespace, name="reader"):
        pass  # given back at once


# Groups


async def test_what_a_killed_member_had_comes_to_another_after_its_lease_and_counts_as_an_attempt(
    server: Nats, namespace: str
) -> None:
    room = 0
    async with (
        bare(make(server, lease=0.5), namespace, reads=False) as writer,
        bare(make(server, lease=0.5), namespace, group="g", room=lambda: room) as other,
        bare(make(server, lease=0.5), namespace, group="g") as member,
    ):
        await writer.send(*numbered(1, 2))
        await member.see(b"2")
        assert [each.attempts for each in member.received] == [0, 0]
        await member.adapter.ack([member.received[0].token])
        await member.adapter.lost()
        room = 100
        assert (await other.see(b"2")).attempts == 1
        assert other.payloads == [b"2"]


async def test_a_member_that_is_back_gets_at_once_what_it_had_and_that_is_no_attempt(
    server: Nats, namespace: str
) -> None:
    adapter = make(server, lease=60)()
    for life in range(4):
        async with bare(lambda: adapter, namespace, group="g", sender="same") as member:
            if not life:
                await member.send(*numbered(1))
            assert (await member.see(b"1")).attempts == 0
            await adapter.lost()


async def test_what_a_member_hands_back_is_no_attempt_to_another(server: Nats, namespace: str) -> None:
    async with bare(make(server, lease=60), namespace, reads=False) as writer:
        await writer.send(*numbered(*range(20)))
        for _ in range(3):
            async with bare(make(server, lease=60), namespace, group="g", start="earliest") as member:
                await member.see(b"19")
                assert member.payloads == payloads(*range(20))
                assert {each.attempts for each in member.received} == {0}


async def test_a_lease_is_extended_as_long_as_a_member_has_the_message(server: Nats) -> None:
    async with sites(make(server, lease=0.5)) as those:
        sender = await those.add(outgoing=ALL)
        may_end = asyncio.Event()
        calls: list[Any] = []

        async def work(key: Key[Any], message: Any) -> None:
            calls.append(message)
            await may_end.wait()

        for members in range(2):
            member = await those.add(incoming=ALL, group="g")
            member.hub.add_listener("k", work, concurrency=5)
            await member.bridge.ready()
            if not members:
                for number in range(5):
                    await sender.hub.publish_confirmed("k", number)
                await until(lambda: len(calls) == 5)
        await asyncio.sleep(1.5)  # three leases, in which the other one has room
        assert sorted(calls) == list(range(5))
        may_end.set()


async def test_acknowledgements_are_confirmed_one_by_one_in_their_order(private: Private) -> None:
    server = await private(Nats(newest=True))
    async with bare(make(server, lease=1), "hubsub", reads=False) as writer:
        await writer.send(*numbered(*range(100)))
        async with bare(make(server, lease=1), "hubsub", group="g", start="earliest") as member:
            await member.see(b"99")
            await member.adapter.ack([each.token for each in member.received[::2]])
            found = await api(server, "CONSUMER.INFO.hubsub.g")
            assert found["num_ack_pending"] == 50


async def test_a_group_has_the_lease_of_its_last_member(nats: Nats, namespace: str) -> None:
    for lease in (1, 2):
        async with bare(make(nats, lease=lease), namespace, group="g"):
            found = await api(nats, f"CONSUMER.INFO.{namespace}.g")
            assert found["config"]["ack_wait"] == lease * 10**9


# Times


async def test_a_reader_begins_at_a_time_and_times_are_exact_bounds(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace, start="earliest") as reader:
        await reader.send(*numbered(*range(20)))
        await reader.see(b"19")
        for at in (0, 7, 19):
            moment = reader.received[at].time
            assert moment is not None
            assert abs(moment - time.time()) < 600
            before = await reader.adapter.history(100, before=moment)
            after = await reader.adapter.history(100, after=moment)
            assert [each.payload for each in before] == payloads(*range(at))
            assert [each.payload for each in after] == payloads(*range(at + 1, 20))
            async with bare(make(nats), namespace, start=moment) as late:
                await late.see(b"19")
                assert late.payloads == payloads(*range(at, 20))
        assert not await reader.adapter.history(100, after=time.time() + 1000)
        assert len(await reader.adapter.history(5, after=1.5)) == 5


# Several streams


@WAYS
async def test_a_route_has_a_stream_for_each_kind_of_key(server: Nats, namespace: str, way: dict[str, Any]) -> None:
    def route(key: Key[Any]) -> str:
        return key[0]

    async with bare(make(server, route=route, sources=[]), namespace, reads=False) as writer:
        both = make(server, route=route, sources=["orders", "prices"])
        async with bare(both, namespace, start="earliest", **way) as reader:
            keys = [Key("orders", "1"), Key("prices", "tea"), Key("other"), Key("orders", "a.b")]
            assert not await writer.send(*[Record(key, b"%d" % at) for at, key in enumerate(keys)])
            await until(lambda: len(reader.received) >= 3)
            assert {each.key for each in reader.received} == {*keys} - {Key("other")}
            await reader.ack()
        async with bare(make(server, route=route, sources=["other"]), namespace, start="earliest") as one:
            await one.see(b"2")
            assert len(one.received) == 1
        await writer.send(Record(Key("prices"), b"4"))
        async with bare(both, namespace, **way) as reader:
            await writer.send(Record(Key("orders"), b"5"))
            await reader.see(b"5")
            expected = {b"4", b"5"} if way else {b"5"}
            assert {*reader.payloads} == expected
        names = (await api(server, "STREAM.NAMES"))["streams"]
        assert {stream_name(f"{namespace}/{kind}") for kind in ("orders", "prices", "other")} <= {*names}


async def test_a_route_that_is_deleted_is_made_again_and_nothing_is_lost(nats: Nats) -> None:
    options = {"route": lambda key: key[0], "sources": ["a"]}
    async with sites(make(nats, **options)) as those:
        sender = await those.add(outgoing=ALL)
        reader = await those.add(ALL, incoming=ALL)
        await sender.hub.publish_confirmed("a", 1)
        await reader.see(1)
        await api(nats, f"STREAM.DELETE.{stream_name(f'{those.namespace}/a')}")
        await sender.hub.publish_confirmed("a", 2, timeout=20)
        await reader.see(2)
        assert len(reader.gaps) == 1


async def test_a_route_that_fails_is_the_error_of_that_message(nats: Nats, namespace: str) -> None:
    routes = {"a": "a", "b": 5}
    async with bare(make(nats, route=lambda key: routes[key[0]], sources=["a"]), namespace) as writer:
        refused = await writer.send(*[Record(Key(part), b"1") for part in "bca"])
        assert "which is not a name of a stream" in str(refused[0])
        assert isinstance(refused[1].__cause__, KeyError)
        assert list(refused) == [0, 1]
        await writer.see(b"1")


# Dead letters


async def test_dead_letters_are_a_stream_that_others_can_read(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace, group="g") as reader:
        await reader.send(Record(Key("k", "x"), b"1", {"trace": "t"}))
        received = await reader.see(b"1")
        assert await reader.adapter.bury(received._replace(attempts=3), "out of\ntea") is None
        client = await nats.client()
        message = await client.jetstream().get_last_msg(f"{namespace}_dead", f"{namespace}:dead.k.x")
        assert message.data == b"1"
        assert message.headers is not None
        assert message.headers["trace"] == "t"
        assert message.headers["hubsub-dead-reason"] == "out of%0Atea"
        assert message.headers["hubsub-dead-reader"] == "group:g"
        # One of another program has no reader: everybody gets it.
        await client.jetstream().publish(f"{namespace}:dead.foreign", b"2")
        await client.close()
        ours, foreign = await reader.adapter.dead_letters(10)
        assert (ours.reason, ours.reader, ours.received.attempts) == ("out of\ntea", "group:g", 3)
        assert (ours.received.position, ours.received.time) == (received.position, received.time)
        assert (foreign.received.key, foreign.reader) == (("foreign",), None)
        await asyncio.gather(*[_redeliver(reader, ours.position) for _ in range(5)])
        await reader.adapter.redeliver(foreign.position)
        await reader.see(b"2")
        assert [type(each) for each in reader.received] == [Received, SentBack, Received]
        assert reader.received[1].headers == {"trace": "t"}
        assert not await reader.adapter.dead_letters(10)


async def _redeliver(reader: Bare, position: str) -> None:
    try:
        await reader.adapter.redeliver(position)
    except NoSuchLetter:
        pass  # another one was first


async def test_the_last_letters_are_found_however_many_were_sent_back(nats: Nats, namespace: str) -> None:
    async with bare(make(nats), namespace) as reader:
        await reader.send(*numbered(*range(40)))
        await reader.see(b"39")
        for each in reader.received:
            await reader.adapter.bury(each, "")
        letters = await reader.adapter.dead_letters(100)
        assert [letter.received.payload for letter in letters] == payloads(*range(40))
        for letter in letters[5:37]:
            await reader.adapter.redeliver(letter.position)
        found = await reader.adapter.dead_letters(6)
        assert [letter.received.payload for letter in found] == payloads(2, 3, 4, 37, 38, 39)
        found = await reader.adapter.dead_letters(2, before=letters[20].position)
        assert [letter.received.payload for letter in found] == payloads(3, 4)


# Errors, TLS, secrets


async def test_what_is_not_permitted_is_refused_alone_with_the_remedy(private: Private) -> None:
    permissions = {"publish": {"deny": ["hubsub.secret.>"]}}
    server = await private(Nats(user="u", password="p", permissions=permissions))
    async with bare(make(server), "hubsub") as reader:
        keys = [Key("k", "1"), Key("secret", "x"), Key("k", "2"), Key("secret", "x"), Key("k", "3")]
        refused = await reader.send(*[Record(key, b"%d" % index) for index, key in enumerate(keys)])
        assert list(refused) == [1, 3]
        assert all("allow it in the permissions" in str(error) for error in refused.values())
        await reader.see(b"4")
        assert reader.payloads == payloads(0, 2, 4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"permissions": {"publish": {"deny": ["$JS.API.>"]}}}, "allow it in the permissions"),
        ({"permissions": {"subscribe": {"deny": ["_INBOX.>"]}}}, "allow it in the permissions"),
        ({"jetstream": "disabled"}, "JetStream is off at this server, or for this account: start nats-server with -js"),
    ],
)
async def test_a_server_that_cannot_serve_is_an_error_with_a_remedy(
    private: Private, settings: dict[str, Any], says: str
) -> None:
    server = await private(Nats(user="u", password="p", **settings))
    with pytest.raises(BridgeError, match=says):
        async with bare(make(server), "hubsub"):
            pass


async def test_subjects_of_another_stream_and_too_many_replicas_are_errors_with_a_remedy(
    nats: Nats, namespace: str
) -> None:
    await api(nats, f"STREAM.CREATE.{namespace}x", {"name": f"{namespace}x", "subjects": [f"{namespace}.a.>"]})
    with pytest.raises(BridgeError, match="name it with stream="):
        async with bare(make(nats), namespace):
            pass
    with pytest.raises(BridgeError, match="replicas > 1"):
        async with bare(make(nats, replicas=3), f"{namespace}y"):
            pass


async def test_it_speaks_tls_by_url(private: Private) -> None:
    server = await private(Nats(tls=True, user="me", password=PASSWORD))
    authority = certificates().authority
    async with bare(make(server, tls_ca=str(authority)), "hubsub") as reader:
        await reader.send(*numbered(1))
        await reader.see(b"1")
    with pytest.raises(BridgeError, match="tls_ca="):
        async with bare(make(server), "hubsub"):
            pass


async def test_no_password_is_in_any_text(private: Private, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = await private(Nats(user="u", password="another"))
    secret = "s3cret%2Fpa%3Ass"
    adapter = JetStreamAdapter(f"jetstream://u:{secret}@127.0.0.1:{server.port}")
    texts = [repr(adapter), repr(JetStreamAdapter("jetstream://h", token=PASSWORD))]
    assert texts[0] == f"<JetStreamAdapter 127.0.0.1:{server.port}>"
    async with sites(lambda: adapter) as those:
        site = await those.add(ready=False)
        await until(lambda: site.bridge.health().last_error is not None)
        error: BaseException | None = site.bridge.health().last_error
        while error is not None:
            texts += [repr(error), str(error)]
            error = error.__cause__ or error.__context__
    assert "correct user and password" in "".join(texts)
    for wrong in (f"jetstream://u:{secret}@h/path", f"jetstream://u:{secret}@h?lease=0", f"http://u:{secret}@h"):
        with pytest.raises(ValueError, match="must be") as nonsense:
            JetStreamAdapter(wrong)
        texts += [repr(nonsense.value), repr(nonsense.value.__context__)]
    assert not re.search("s3cret|pa:ss|pa%3Ass", "\n".join([*texts, caplog.text]))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs a URL, like jetstream://"),
        ({"url": "nats://h"}, ValueError, "jetstream://user:password@host:4222"),
        ({"url": "jetstream://h", "route": str}, TypeError, "route= needs sources="),
        ({"url": "jetstream://h", "sources": "orders"}, TypeError, "several names"),
        ({"url": "jetstream://h?sources=a"}, TypeError, "no option sources"),
        ({"url": "jetstream://h?lease=0"}, ValueError, "lease must be"),
        ({"url": "jetstream://h?lease=5000"}, ValueError, "lease must be"),
        ({"url": "jetstream://h?maxlen=0"}, ValueError, "maxlen must be"),
        ({"url": "jetstream://h", "replicas": 0}, ValueError, "replicas must be"),
        ({"url": "jetstream://h", "stream": ""}, ValueError, "stream must be"),
        ({"url": "jetstream://h", "allow_reconnect": True}, TypeError, "decides by itself about allow_reconnect"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        JetStreamAdapter(**arguments)


def test_without_a_namespace_a_stream_has_to_be_named() -> None:
    assert JetStreamAdapter("jetstream://h?stream=a").features_for(Link(sender="", namespace="")).durable
    with pytest.raises(ValueError, match="give a namespace, or stream="):
        JetStreamAdapter("jetstream://h").features_for(Link(sender="", namespace=""))


# A cluster


async def cluster(private: Private) -> list[Nats]:
    """Three servers that make streams with replicas."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
    routes = [f"nats://127.0.0.1:{port}" for port in ports]
    servers = [
        await private(
            Nats(
                newest=True,
                server_name=f"n{index}",
                cluster={"name": "c", "listen": f"127.0.0.1:{port}", "routes": routes},
            )
        )
        for index, port in enumerate(ports)
    ]
    client = await servers[0].client()
    made = {"name": "first", "subjects": ["first"], "num_replicas": 3}
    async with asyncio.timeout(60):
        while True:  # until the three have met, and agree
            with suppress(nats.errors.Error):
                if "error" not in json.loads(
                    (await client.request("$JS.API.STREAM.CREATE.first", json.dumps(made).encode(), timeout=0.2)).data
                ):
                    break
    await client.close()
    return servers


async def leader_of(servers: list[Nats], stream: str) -> Nats:
    """The server that leads a stream."""
    while True:
        for server in servers:
            with suppress(nats.errors.Error, OSError):
                found = await api(server, f"STREAM.INFO.{stream}")
                if name := found.get("cluster", {}).get("leader"):
                    return servers[int(name[1:])]


async def test_a_batch_is_stored_in_order_while_its_stream_changes_its_leader(private: Private) -> None:
    servers = await cluster(private)
    async with sites(make(servers[0], replicas=3)) as those:
        reader = await those.add(ALL, incoming=ALL)
        leader = await leader_of(servers, those.namespace)
        other = next(server for server in servers if server is not leader)
        client = await other.client()
        passed = await client.subscribe(f"{those.namespace}.>")
        async with other.proxy() as line:
            sender = await those.add(outgoing=ALL, adapter=JetStreamAdapter(f"jetstream://127.0.0.1:{line.port}"))
            line.slow(1_000_000)
            for number in range(400):
                sender.hub.publish("k", f"{number:03} {'x' * 1000}")
            for _ in range(100):
                await passed.next_msg(10)
            await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{those.namespace}", timeout=10)
            await client.close()
            await reader.wait_for(400, 60)
            assert [int(message[:3]) for message in reader.messages] == list(range(400))
            assert not reader.gaps


async def test_a_replica_that_lags_or_is_ahead_is_no_gap(private: Private) -> None:
    servers = await cluster(private)
    async with sites(make(servers[0], replicas=3)) as those:
        sender = await those.add(outgoing=ALL)
        adapter: Any = JetStreamAdapter(jet_url(servers[0]))
        reader = await those.add(ALL, adapter=adapter, incoming=ALL, name="reader")
        await sender.hub.publish_confirmed("k", 1)
        await reader.see(1)

        def is_ahead() -> bool:
            # As if a replica had delivered the next message, which the leader does not have yet.
            adapter._place = adapter._place[0], 2
            return adapter._ahead_since is not None

        await until(is_ahead)
        for number in (2, 3):
            await sender.hub.publish_confirmed("k", number)
        await reader.see(3)
        # A consumer without the next message is like one at a replica that does not have it yet.
        streams, asked = adapter._streams, asyncio.Event()
        has_after = streams.has_after

        async def note(number: int) -> bool:
            asked.set()
            return bool(await has_after(number))

        streams.has_after = note
        adapter._pull, _ = await streams.consumer(those.namespace, lambda row: None, **from_number(100))
        await sender.hub.publish_confirmed("k", 4)
        await asyncio.wait_for(asked.wait(), 20)
        adapter._pull.gone = "it lags"
        await reader.see(4)
        assert reader.messages == [1, 3, 4]
        assert not reader.gaps


async def test_a_group_reads_on_over_the_same_connection_when_its_consumer_changes_its_leader(private: Private) -> None:
    servers = await cluster(private)
    async with sites(make(servers[0], replicas=3)) as those:
        sender = await those.add(outgoing=ALL)
        reader = await those.add(ALL, incoming=ALL, group="g")
        await sender.hub.publish_confirmed("k", 0, timeout=60)
        await reader.see(0)
        before = reader.bridge.health().reconnects
        for number in range(1, 4):
            stepped = await api(servers[0], f"CONSUMER.LEADER.STEPDOWN.{those.namespace}.g")
            assert stepped.get("success") or number > 1, stepped  # it may have none at the moment
            await sender.hub.publish_confirmed("k", number)
            await reader.see(number)
        assert reader.messages == [0, 1, 2, 3]
        assert reader.bridge.health().reconnects == before
        assert not reader.gaps


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("harm", ["step down", "kill"])
async def test_leaders_that_change_again_and_again_lose_and_double_nothing_and_keep_the_order(
    private: Private, harm: str
) -> None:
    servers = await cluster(private)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    chance = random.Random(harm)
    ways: tuple[dict[str, Any], ...] = ({}, {"name": "n"}, {"group": "g"})
    async with sites(lambda: JetStreamAdapter(f"jetstream://{hosts}", replicas=3)) as those:
        sender = await those.add(outgoing=ALL, ready=False)
        readers = [await those.add(ALL, incoming=ALL, ready=False, **way) for way in ways]
        for site in (sender, *readers):
            await site.bridge.ready(60)
        confirmed: set[int] = set()
        published = 0

        async def publish(number: int) -> None:
            await sender.hub.publish_confirmed(("k", str(number % 5)), number, timeout=120)
            confirmed.add(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(30 if harm == "step down" else 10):
                goal = len(confirmed) + 3000
                harmed_at = len(confirmed) + chance.randrange(2000)
                leader: Nats | None = None
                while len(confirmed) < goal:
                    for _ in range(max(0, len(confirmed) + 2000 - published)):
                        group.create_task(publish(published))
                        published += 1
                    await asyncio.sleep(0.005)
                    if leader is None and len(confirmed) > harmed_at:
                        leader = await leader_of(servers, those.namespace)
                        if harm == "kill":
                            leader.kill()
                            await leader.start_wait()
                        else:
                            await api(leader, f"STREAM.LEADER.STEPDOWN.{those.namespace}")
        assert confirmed == set(range(published))
        for site, way in zip(readers, ways, strict=True):
            await site.until(lambda site=site: len(site.messages) >= published, "everything", 60)  # type: ignore[misc]
            assert sorted(site.messages) == list(range(published))
            assert not site.gaps
            for key in range(0 if "group" in way else 5):
                numbers = [number for number in site.messages if number % 5 == key]
                assert numbers == sorted(numbers)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_message_waits_for_a_stream_that_has_no_leader_for_long(private: Private) -> None:
    servers = await cluster(private)
    async with sites(make(servers[0], replicas=3)) as those:
        await those.add(outgoing=ALL)  # makes the stream
        leader = await leader_of(servers, those.namespace)
        site = await those.add(outgoing=ALL, adapter=JetStreamAdapter(jet_url(leader)))
        await site.hub.publish_confirmed("k", 0, timeout=60)
        others = [server for server in servers if server is not leader]
        for server in others:
            server.kill()
        # What is left notices after some seconds that it leads nobody.
        client = await leader.client()
        stored_nowhere = {"Nats-Expected-Stream": "another"}
        with pytest.raises(nats.errors.NoRespondersError):  # noqa: PT012 - the last of many
            while True:
                with suppress(nats.errors.TimeoutError):
                    await client.request(f"{those.namespace}.k", b"", timeout=0.2, headers=stored_nowhere)
        await client.close()
        publishing = [asyncio.ensure_future(site.hub.publish_confirmed("k", at, timeout=120)) for at in range(1, 4)]
        await site.until(lambda: "no leader" in str(site.bridge.health().last_error), "waiting for a leader", 60)
        for server in others:
            await server.start_wait()
        await asyncio.gather(*publishing)
        reader = await those.add(ALL, incoming=ALL, start="earliest", ready=False)
        await reader.wait_for(4, 60)
        assert reader.messages == [0, 1, 2, 3]


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_server_of_a_cluster_that_is_killed_loses_nothing(private: Private) -> None:
    servers = await cluster(private)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    async with sites(lambda: JetStreamAdapter(f"jetstream://{hosts}", replicas=3)) as those:
        sender = await those.add(outgoing=ALL, ready=False)
        readers = [
            await those.add(ALL, incoming=ALL, ready=False, **way) for way in ({}, {"name": "n"}, {"group": "g"})
        ]
        for site in (sender, *readers):
            await site.bridge.ready(60)
        confirmed = 0
        for life in range(2):
            for number in range(100 * life, 100 * life + 100):
                if number % 100 == 20:
                    servers[life].kill()
                await sender.hub.publish_confirmed("k", number, timeout=60)
                confirmed += 1
            await servers[life].start_wait()
        for site in readers:
            await site.see(199, 60)
            await site.until(lambda site=site: len(site.messages) == confirmed, "everything", 60)  # type: ignore[misc]
            assert sorted(site.messages) == list(range(200))
            assert not site.gaps
