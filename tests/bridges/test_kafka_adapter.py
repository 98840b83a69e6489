"""The adapter for Kafka, by its contract, against a real broker."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from time import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

import hubsub
from brokers import Kafka, certificates
from hubsub import Key
from hubsub.bridges.adapter import Link, Loss, Record
from hubsub.bridges.kafka import KafkaAdapter
from hubsub.bridges.kafka.exclusive import ExclusiveAssignor

from .kafka_site import (  # fixtures among them
    Open,
    admin,
    connect,
    connected,
    fragile,
    kafka,
    last,
    numbers,
    payloads,
    read,
    receive_for_ever,
    records,
    strict,
    topic,
)
from .sites import until

__all__ = ["admin", "connected", "fragile", "kafka", "strict", "topic"]

# One worker has the brokers.
pytestmark = pytest.mark.xdist_group("kafka")

# Messages


async def test_key_payload_and_headers_arrive(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    before = time()
    sent = Record(Key("orders", "new"), b"\x00payload", {"ce_id": "1", "naïve": "日本 \n"}, 1)
    assert await adapter.send([sent]) == {}
    (received,) = await read(adapter, 1)
    assert received[:3] == sent[:3]
    assert received.position == f"{received.lane.topic}:{received.lane.partition}:0"
    assert before - 1 < received.time < time() + 1
    assert received.attempts == 0


AWKWARD = [
    ("",),
    ("", ""),
    ("a/b", "%2F"),
    ("%", "\\"),
    ("ключ", "🔑", "\ud800"),
    ("\x00", "\n"),
    (".", ".."),
    ("x" * 9999,),
]


async def test_every_key_arrives_as_it_was(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    keys = [Key(*parts) for parts in AWKWARD]
    await adapter.send([Record(key, b"", {}, next(numbers)) for key in keys])
    assert sorted(each.key for each in await read(adapter, len(keys))) == sorted(keys)


@given(st.lists(st.text(st.characters()), min_size=1, max_size=5))
def test_an_address_tells_its_key(parts: list[str]) -> None:
    adapter = KafkaAdapter()
    assert adapter._read_key(adapter._address(Key(*parts))) == tuple(parts)


async def test_messages_of_a_key_stay_in_order_over_partitions(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    keys = [Key("orders", str(number)) for number in range(20)]
    sent = [Record(keys[number % 20], b"%d" % number, {}, number) for number in range(2000)]
    for start in range(0, 2000, 500):
        assert await adapter.send(sent[start : start + 500]) == {}
    received = await read(adapter, 2000)
    assert len({each.lane for each in received}) == 3
    for number, key in enumerate(keys):
        assert payloads([each for each in received if each.key == key]) == list(range(number, 2000, 20))


async def test_a_message_of_a_million_bytes_arrives(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    assert adapter.features.max_payload == 1_000_000
    payload = os.urandom(1_000_000)
    assert await adapter.send([Record(Key("big"), payload, {}, 1)]) == {}
    assert (await read(adapter, 1))[0].payload == payload


async def test_what_a_topic_takes_is_stored_though_its_neighbour_is_too_large(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    small = NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "20000"})
    await admin.create_topics([small])
    adapter = await connected(kafka, start="earliest")
    key = Key("orders", "new")
    sent = [Record(key, b"%d" % number, {}, number) for number in range(5)]
    sent[2] = sent[2]._replace(payload=bytes(100_000))
    refused = await adapter.send(sent)
    assert list(refused) == [2]
    assert await adapter.send([Record(key, b"5", {}, 5)]) == {}
    assert payloads(await read(adapter, 5)) == [0, 1, 3, 4, 5]


async def test_a_tombstone_has_no_payload(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka)
    async with AIOKafkaProducer(bootstrap_servers=kafka.address()) as producer:
        await producer.send_and_wait(topic, None, b"orders/new")
    (received,) = await read(adapter, 1)
    assert received[:2] == (("orders", "new"), None)


async def test_a_foreign_message_is_named_by_header_or_key_or_topic(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka)
    async with AIOKafkaProducer(bootstrap_servers=kafka.address()) as producer:
        await producer.send_and_wait(
            topic, b"1", b"k", headers=[("hubsub-key", b"a/b"), ("odd", b"\xff"), ("none", None)]
        )
        await producer.send_and_wait(topic, b"2", b"k/\xff")
        await producer.send_and_wait(topic, b"3")
    received = {each.payload: each for each in await read(adapter, 3)}
    assert received[b"1"].key == ("a", "b")
    assert received[b"1"].headers == {"odd": "\\xff", "none": ""}
    assert received[b"2"].key == ("k", "\udcff")
    assert received[b"3"].key == (topic,)


async def test_the_key_of_a_foreign_record_is_written_as_it_was(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka)
    names = [b"battery/100%", b"%", b"a%2fb", b"a%zz", b"a%41", b"\xff/b", b"a/\xc3", b"\xed\xa0\x80", b"", b"/"]
    async with AIOKafkaProducer(bootstrap_servers=kafka.address()) as producer:
        for name in names:
            await producer.send_and_wait(topic, b"", name, partition=0)
    keys = [each.key for each in await read(adapter, len(names))]
    assert not await adapter.send([Record(key, b"", {}, next(numbers)) for key in keys])
    options = {"bootstrap_servers": kafka.address(), "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(topic, **options) as consumer:
        written = [(await consumer.getone()).key for _ in range(2 * len(names))]
    assert sorted(written) == sorted(names * 2)


async def test_a_route_chooses_the_topic_and_sources_are_read(kafka: Kafka, connected: Open, topic: str) -> None:
    options = {"route": lambda key: f"{topic}.{key[0]}", "sources": [f"{topic}.a", f"{topic}.b"]}
    adapter = await connected(kafka, options=options)
    refused = await adapter.send([Record(Key(name), b"", {}, next(numbers)) for name in ("a", "b", "ü", "c")])
    assert {index: type(error) for index, error in refused.items()} == {2: ValueError}
    received = await read(adapter, 2)
    assert {(each.key, each.lane.topic) for each in received} == {(("a",), f"{topic}.a"), (("b",), f"{topic}.b")}


async def test_a_route_without_sources_can_only_send(kafka: Kafka, connected: Open) -> None:
    await connected(kafka, options={"route": lambda key: "x"}, reads=False)
    with pytest.raises(ValueError, match="sources="):
        await connected(kafka, options={"route": lambda key: "x"})


async def test_the_namespace_is_the_topic_unless_there_is_one(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka, options={"topic": None}, namespace=topic)
    await adapter.send(records(1))
    assert (await read(adapter, 1))[0].lane.topic == topic


async def test_what_it_can_do_is_the_same_for_every_link(kafka: Kafka) -> None:
    adapter = KafkaAdapter(kafka.url)
    for options in ({}, {"name": "n"}, {"group": "g"}, {"reads": False}):
        features = adapter.features_for(Link(sender="s", namespace="test", **options))
        assert features == adapter.features
        assert features.replay
        assert features.durable


# Where reading begins


async def test_without_a_name_reading_begins_with_what_is_new(kafka: Kafka, connected: Open) -> None:
    sender = await connected(kafka, reads=False)
    await sender.send(records(1))
    adapter = await connected(kafka)
    await sender.send(records(2))
    assert payloads(await read(adapter, 1)) == [2]


async def test_reading_can_begin_with_the_earliest_message(kafka: Kafka, connected: Open) -> None:
    sender = await connected(kafka, reads=False)
    await sender.send(records(1, 2))
    assert payloads(await read(await connected(kafka, start="earliest"), 2)) == [1, 2]


async def test_reading_can_begin_at_a_time(kafka: Kafka, connected: Open) -> None:
    sender = await connected(kafka, reads=False)
    await sender.send(records(1))
    await asyncio.sleep(0.01)
    begin = time()
    await asyncio.sleep(0.01)
    await sender.send(records(2))
    assert payloads(await read(await connected(kafka, start=begin), 1)) == [2]


async def test_reading_from_a_time_to_come_begins_with_what_is_new(kafka: Kafka, connected: Open) -> None:
    sender = await connected(kafka, reads=False)
    await sender.send(records(1))
    adapter = await connected(kafka, start=time() + 3600)
    await sender.send(records(2))
    assert payloads(await read(adapter, 1)) == [2]


@pytest.mark.parametrize("link", [{"name": "dashboard"}, {"group": "workers"}], ids=lambda link: next(iter(link)))
async def test_a_position_is_kept_while_nobody_reads(kafka: Kafka, connected: Open, link: Any, topic: str) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    sender = await connected(kafka, reads=False)
    await sender.send(records(1))
    adapter = await connected(kafka, **link)
    await sender.send(records(2, 3, 4))
    received = await read(adapter, 3, ack=False)
    assert payloads(received) == [2, 3, 4]
    await adapter.ack([received[0].token])
    await adapter.close()
    await sender.send(records(5))
    assert payloads(await read(await connected(kafka, **link), 3)) == [3, 4, 5]


@pytest.mark.parametrize("link", [{"name": "unread"}, {"group": "unread"}], ids=lambda link: next(iter(link)))
async def test_a_start_counts_though_nothing_was_handled(kafka: Kafka, connected: Open, link: Any, topic: str) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    adapter = await connected(kafka, **link)
    await adapter.close()
    await (await connected(kafka, reads=False)).send(records(1))
    assert payloads(await read(await connected(kafka, **link), 1)) == [1]


async def test_a_new_group_begins_with_the_earliest_message_whichever_member_comes_first(
    kafka: Kafka, connected: Open, topic: str
) -> None:
    sender = await connected(kafka, reads=False)
    await sender.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(60)])
    opening = [connected(kafka, group=topic, start="earliest") for _ in range(2)]
    seen: list[int] = []

    async def consume(adapter: KafkaAdapter) -> None:
        while len(set(seen)) < 60:
            batch = await adapter.receive()
            seen.extend(payloads(batch))
            await adapter.ack(last(batch))

    members = await asyncio.gather(*opening)
    await asyncio.gather(*map(consume, members))
    assert set(seen) == set(range(60))


async def test_a_new_group_begins_with_the_earliest_message_of_partitions_that_are_added(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([NewTopic(topic, 1, 1)])
    sender = await connected(kafka, reads=False, options={"metadata_max_age_ms": 300})
    await sender.send(records(0))
    await admin.create_partitions({topic: NewPartitions(4)})
    # Before the group exists, and before its members know the partitions.
    await until(lambda: len(sender._writer._partitions[topic]) == 4)
    await sender.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(1, 41)])
    adapter = await connected(kafka, group=topic, start="earliest", options={"metadata_max_age_ms": 300})
    assert sorted(payloads(await read(adapter, 41))) == list(range(41))
    await admin.create_partitions({topic: NewPartitions(6)})
    await until(lambda: len(sender._writer._partitions[topic]) == 6)
    await sender.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(41, 101)])
    assert sorted(payloads(await read(adapter, 60))) == list(range(41, 101))


async def test_what_was_not_handled_comes_again_with_the_next_connection(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka, sender="same")
    await adapter.send(records(1, 2, 3))
    received = await read(adapter, 3, ack=False)
    await adapter.ack([received[0].token])
    await adapter.lost()
    await adapter.connect(Link(sender="same", namespace="test"))
    assert payloads(await read(adapter, 2)) == [2, 3]


# Names and groups


async def test_a_name_that_lives_is_taken(kafka: Kafka, connected: Open, topic: str) -> None:
    first = await connected(kafka, name=topic)
    reading = asyncio.ensure_future(read(first, 1))
    with pytest.raises(hubsub.NameTaken, match=topic):
        await connected(kafka, name=topic)
    await first.send(records(1))
    assert payloads(await reading) == [1]
    await first.close()
    await connected(kafka, name=topic)


generations = st.dictionaries(st.text(min_size=1), st.integers(0, 5), min_size=1)


@given(generations)
def test_only_one_member_has_a_name_and_the_next_time_it_is_the_same(held: dict[str, int]) -> None:
    class Cluster:
        def partitions_for_topic(self, topic: str) -> set[int]:
            return {1, 0}

    generation = 5
    members = {member: ExclusiveAssignor(lambda: generation) for member in held}
    for member, held_in in held.items():
        members[member]._held = held_in
    holders = []
    for _ in range(2):
        generation += 1
        told = {member: assignor.metadata(["t"]) for member, assignor in members.items()}
        assigned = next(iter(members.values())).assign(Cluster(), told)
        assert assigned.keys() == members.keys()
        for member, assignment in assigned.items():
            members[member].on_assignment(assignment)
        holders += [member for member, assignment in assigned.items() if assignment.partitions()]
        assert [member for member, assignor in members.items() if assignor.is_holder] == holders[-1:]
        assert assigned[holders[-1]].partitions() == [("t", 0), ("t", 1)]
    assert holders[0] == holders[1]
    assert held[holders[0]] == max(held.values())


async def test_members_of_a_group_share_the_messages(kafka: Kafka, connected: Open, topic: str) -> None:
    released: list[Any] = []

    async def release(lanes: Any) -> None:
        released.extend(lanes)

    first = await connected(kafka, group=topic, release=release)
    reading = asyncio.ensure_future(first.receive())
    second = await connected(kafka, group=topic)
    await reading
    assert sorted(lane.partition for lane in released) == [0, 1, 2]
    await first.send([Record(Key("orders", str(number)), b"%d" % number, {}, number) for number in range(100)])
    seen: list[list[int]] = [[], []]

    async def consume(index: int, adapter: KafkaAdapter) -> None:
        while len(seen[0]) + len(seen[1]) < 100:
            batch = await adapter.receive()
            seen[index] += payloads(batch)
            await adapter.ack(last(batch))

    await asyncio.gather(consume(0, first), consume(1, second))
    assert sorted(seen[0] + seen[1]) == list(range(100))
    assert seen[0]
    assert seen[1]


async def test_what_is_in_hand_is_finished_before_it_is_given_away(kafka: Kafka, connected: Open, topic: str) -> None:
    received: list[Any] = []

    async def release(lanes: Any) -> None:
        await asyncio.sleep(0.2)
        await first.ack([each.token for each in received])

    first = await connected(kafka, group=topic, release=release)
    await first.send(records(*range(10)))
    received += await read(first, 10, ack=False)
    reading = asyncio.ensure_future(first.receive())
    second = await connected(kafka, group=topic)
    await reading
    await first.close()
    await second.send(records(10))
    assert payloads(await read(second, 1)) == [10]


async def test_an_acknowledgement_that_comes_late_is_counted(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([NewTopic(topic, 2, 1)])
    first = await connected(kafka, group=topic)
    await first.send([Record(Key(str(number)), b"%d" % number, {}, number) for number in range(60)])
    received = await read(first, 60, ack=False)
    reading = asyncio.ensure_future(first.receive())
    second = await connected(kafka, group=topic)
    await reading
    # What it has kept comes again, because it was not acknowledged.
    kept = {each.lane for each in await read(first, 1, ack=False)}
    lost = [each for each in received if each.lane not in kept]
    await first.ack(last(received))
    assert first.late_acks == len({each.lane for each in lost}) == 1
    assert sorted(payloads(await read(second, len(lost)))) == sorted(payloads(lost))


CONSUMER = """
import asyncio, os, sys
from hubsub.bridges.adapter import Link
from hubsub.bridges.kafka import KafkaAdapter

async def main(url, kind, name, how):
    adapter = KafkaAdapter(url, session_timeout_ms=2000, heartbeat_interval_ms=300)
    await adapter.connect(Link(sender="other", namespace="test", start="earliest", **{kind: name}))
    print("ready", flush=True)
    while True:
        for received in await adapter.receive():
            print(received.payload.decode(), flush=True)
            if how == "exit":
                os._exit(1)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def other(kafka: Kafka, topic: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Another process that reads, and acknowledges nothing."""
    processes = []

    def start(kind: str, name: str, how: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(CONSUMER), f"{kafka.url}/{topic}", kind, name, how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def test_what_a_dead_member_had_in_hand_goes_to_the_others(
    kafka: Kafka, connected: Open, topic: str, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other("group", topic)
    assert await line(process) == "ready"
    sender = await connected(kafka, reads=False)
    await sender.send(records(1, 2))
    assert await line(process) == "1"
    process.send_signal(signal.SIGKILL)
    quick = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 300}
    adapter = await connected(kafka, group=topic, start="earliest", options=quick)
    assert payloads(await read(adapter, 2)) == [1, 2]


async def test_a_name_is_free_when_its_owner_is_dead(
    kafka: Kafka, connected: Open, topic: str, other: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other("name", topic, "exit")
    assert await line(process) == "ready"
    await (await connected(kafka, reads=False)).send(records(1))
    assert await line(process) == "1"
    await asyncio.to_thread(process.wait)
    assert payloads(await read(await connected(kafka, name=topic), 1)) == [1]


# Losses


async def expire(admin: AIOKafkaAdminClient, topic: str, before: int) -> None:
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})


@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_expired_messages_are_a_loss_of_exactly_so_many(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str, link: Any
) -> None:
    link = {"sender": "same", "namespace": "test", **{kind: f"{name}-{topic}" for kind, name in link.items()}}
    await admin.create_topics([NewTopic(topic, 1, 1)])
    adapter = await connected(kafka, **link)
    sender = await connected(kafka, reads=False)
    await sender.send(records(*range(3)))
    assert payloads(await read(adapter, 3)) == [0, 1, 2]
    await adapter.close()
    await sender.send(records(*range(3, 10)))
    await expire(admin, topic, 8)
    await adapter.connect(Link(**link))
    loss, *received = await read(adapter, 3)
    assert loss == Loss("expired", 5, received[0].lane)
    assert payloads(received) == [8, 9]


async def test_a_topic_made_anew_is_a_loss_and_read_from_its_beginning(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([NewTopic(topic, 1, 1)])
    adapter = await connected(kafka, name=topic, sender="same", options={"metadata_max_age_ms": 300})
    await adapter.send(records(*range(5)))
    old = await read(adapter, 5)
    await admin.delete_topics([topic])
    await until(lambda: not adapter._reader.consumer.assignment())
    await admin.create_topics([NewTopic(topic, 1, 1)])
    sender = await connected(kafka, reads=False)
    await sender.send(records(5, 6))
    loss, *received = await read(adapter, 3, ack=False)
    assert loss[:2] == ("recreated", None)
    assert payloads(received) == [5, 6]
    # An acknowledgement of the old log says nothing about this one.
    await adapter.ack([old[-1].token])
    assert adapter.late_acks == 1
    await adapter.ack([received[0].token])
    await adapter.close()
    await adapter.connect(Link(sender="same", namespace="test", name=topic))
    assert payloads(await read(adapter, 1)) == [6]


@pytest.mark.parametrize("is_away", [False, True], ids=["while it reads", "while it is away"])
@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_a_topic_made_anew_is_noticed_also_when_it_is_longer_than_the_old_one_was(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str, link: Any, is_away: bool
) -> None:
    link = {"sender": "same", **{kind: f"{name}-{topic}" for kind, name in link.items()}}
    await admin.create_topics([NewTopic(topic, 1, 1)])
    adapter = await connected(kafka, options={"metadata_max_age_ms": 300}, **link)
    await adapter.send(records(0, 1))
    await read(adapter, 2)
    if is_away:
        await adapter.lost()
    await admin.delete_topics([topic])
    await admin.create_topics([NewTopic(topic, 2, 1)])
    sender = await connected(kafka, reads=False)
    await sender.send(records(*range(2, 12)))
    if is_away:
        await connect(adapter, **link)
    loss, *received = await read(adapter, 11, ack=False)
    assert loss[:2] == ("recreated", None)
    assert payloads(received) == list(range(2, 12))


@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_new_partitions_are_read_from_their_beginning(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str, link: Any
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    await admin.create_topics([NewTopic(topic, 1, 1)])
    adapter = await connected(kafka, options={"metadata_max_age_ms": 300}, **link)
    await adapter.send(records(0))
    received = await read(adapter, 1)
    await admin.create_partitions({topic: NewPartitions(4)})
    sender = await connected(kafka, reads=False)
    await sender.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(1, 41)])
    received += await read(adapter, 40)
    assert sorted(payloads(received)) == list(range(41))
    assert len({each.lane for each in received}) == 4


# Faults


async def test_what_is_sent_again_is_not_stored_again(fragile: Kafka, connected: Open) -> None:
    adapter = await connected(fragile, sender="same", start="earliest")
    await adapter.send(records("0"))
    assert payloads(await read(adapter, 1)) == [0]
    fragile.freeze()
    sent = records(1, 2, 3)
    sending = asyncio.ensure_future(adapter.send(sent))
    with pytest.raises(ConnectionError):
        await receive_for_ever(adapter)
    await adapter.lost()
    with pytest.raises(ConnectionError):
        await sending
    fragile.thaw()
    await adapter.connect(Link(sender="same", namespace="test", start="earliest"))
    assert await adapter.send(sent + records(4)) == {}
    assert payloads(await read(adapter, 4)) == [1, 2, 3, 4]


async def keep_connected(adapter: KafkaAdapter, link: Link, work: Callable[[], Awaitable[None]]) -> None:
    """What the relay does: after any failure, connect again, and do again what was not done."""
    while True:
        try:
            await work()
            return
        except Exception:
            await adapter.lost()
            while True:
                await asyncio.sleep(0.05)
                try:
                    await adapter.connect(link)
                    break
                except Exception:
                    await adapter.lost()


@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.long
async def test_nothing_confirmed_is_lost_when_the_broker_is_away(
    fragile: Kafka, connected: Open, topic: str, link: Any, fault: str
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    writer = await connected(fragile, reads=False, sender="writer")
    reader = await connected(fragile, sender="reader", **link)
    confirmed: list[int] = []
    received: list[int] = []
    done, written = asyncio.Event(), asyncio.Event()
    batches = (records(*range(start, start + 10)) for start in count(0, 10))
    unsent: list[list[Record]] = []

    async def write() -> None:
        while not done.is_set():
            unsent.append(unsent.pop() if unsent else next(batches))
            assert await writer.send(unsent[0]) == {}
            confirmed.extend(int(each.payload) for each in unsent.pop())
            await asyncio.sleep(0.005)
        written.set()

    async def reading() -> None:
        while not (written.is_set() and set(received) >= set(confirmed)):
            batch = await reader.receive()
            received.extend(payloads(batch))
            await reader.ack(last(batch))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_connected(writer, Link(sender="writer", namespace="test", reads=False), write))
        tasks.create_task(keep_connected(reader, Link(sender="reader", namespace="test", **link), reading))
        for seconds in (1, 8):
            await until(lambda: len(received) > 100)
            if fault == "killed":
                fragile.kill()
                await asyncio.sleep(2)
                await fragile.start_wait()
            else:
                fragile.freeze()
                await asyncio.sleep(seconds)
                fragile.thaw()
            target = len(received) + 50
            await until(lambda target=target: len(received) > target)
        done.set()
    assert set(received) == set(confirmed) == set(range(len(confirmed)))
    firsts = list(dict.fromkeys(received))
    assert firsts == sorted(firsts)


async def test_a_broker_that_is_gone_is_noticed(fragile: Kafka, connected: Open) -> None:
    adapter = await connected(fragile)
    assert await adapter.receive() == []
    fragile.kill()
    with pytest.raises(ConnectionError):
        await receive_for_ever(adapter)


async def test_closing_ends_what_waits_and_leaves_nothing(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka, group=topic)
    receiving = asyncio.ensure_future(adapter.receive())
    await asyncio.sleep(0)
    await adapter.close()
    assert await receiving == []
    with pytest.raises(ConnectionError):
        await adapter.receive()
    await adapter.close()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_closing_needs_no_broker(fragile: Kafka, connected: Open, topic: str, fault: str) -> None:
    adapter = await connected(fragile, group=topic)
    await adapter.send(records(1))
    getattr(fragile, fault)()
    sending = asyncio.ensure_future(adapter.send(records(2)))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        await adapter.close()
    with pytest.raises(ConnectionError):
        await sending


@pytest.mark.long
@pytest.mark.parametrize("seconds", [2.0, 5.5, 8.0])
async def test_closing_needs_no_broker_in_the_middle_of_looking_for_one(
    fragile: Kafka, connected: Open, topic: str, seconds: float
) -> None:
    adapter = await connected(fragile, group=topic)
    await adapter.send(records(1))
    sending = asyncio.ensure_future(adapter.send(records(2)))
    fragile.freeze()
    # By then it has given up some of its connections, and waits for others.
    await asyncio.sleep(seconds)
    async with asyncio.timeout(20):
        await adapter.close()
    # It was confirmed just before, perhaps.
    await asyncio.gather(sending, return_exceptions=True)


async def test_closing_goes_on_when_it_is_cancelled(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    closing = asyncio.ensure_future(adapter.close())
    await asyncio.sleep(0)
    closing.cancel()
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_without_a_broker_connecting_fails(topic: str) -> None:
    adapter = KafkaAdapter("kafka://127.0.0.1:1/t")
    with pytest.raises(Exception, match="bootstrap"):
        await adapter.connect(Link(sender="s", namespace="test"))
    await adapter.lost()
    await adapter.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# History and dead letters


async def test_history_has_the_last_messages_of_each_partition(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka)
    key = Key("orders")
    await adapter.send([Record(key, b"%d" % number, {"n": "1"}, number) for number in range(10)])
    history = await adapter.history(3)
    assert payloads(history) == [7, 8, 9]
    assert history[-1][:3] == (key, b"9", {"n": "1"})
    assert payloads(await adapter.history(3, before=history[0].position)) == [4, 5, 6]
    assert payloads(await adapter.history(100, after=history[1].position)) == [9]
    assert all(each.time < history[0].time for each in await adapter.history(100, before=history[0].time))
    assert all(each.time > history[0].time for each in await adapter.history(100, after=history[0].time))
    assert await adapter.history(100, after=time() + 10) == []
    assert len(await adapter.history(100, before=time() + 10)) == 10
    await adapter.send([Record(Key(str(number)), b"0", {}, next(numbers)) for number in range(60)])
    assert len(await adapter.history(2)) == 6


async def test_a_dead_letter_says_why_and_where_from(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka)
    await adapter.send([Record(Key("a", "b"), b"bad", {"h": "v"}, 1)])
    (received,) = await read(adapter, 1)
    await adapter.bury(received, "ValueError('ü')")
    letters = await connected(kafka, topic=f"{topic}.dead", start="earliest")
    (letter,) = await read(letters, 1)
    assert letter[:2] == (("a", "b"), b"bad")
    assert letter.headers == {"h": "v", "hubsub-reason": "ValueError('ü')", "hubsub-position": received.position}


# Options


async def test_tls_and_a_password_are_passed_on(kafka: Kafka, topic: str) -> None:
    url = (
        f"kafka://{kafka.username}:{kafka.password}@{kafka.address('SASL_SSL')}/{topic}"
        f"?security_protocol=SASL_SSL&ssl_cafile={certificates().authority}"
    )
    tls = KafkaAdapter(
        [kafka.address("SSL")], topic=topic, security_protocol="SSL", ssl_context=certificates().context()
    )
    for adapter in (KafkaAdapter(url), tls):
        await adapter.connect(Link(sender="s", namespace="test"))
        await adapter.send(records(1))
        assert payloads(await read(adapter, 1)) == [1]
        await adapter.history(1)
        await adapter.close()


async def test_a_password_is_shown_nowhere(kafka: Kafka, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    adapter = KafkaAdapter(f"kafka://alice:sesame%40@{kafka.address('SASL_PLAINTEXT')}/{topic}")
    with pytest.raises(Exception, match="bootstrap") as caught:
        await adapter.connect(Link(sender="s", namespace="test"))
    await adapter.close()
    shown = f"{caught.value!r} {adapter!r} {caplog.text}"
    assert "sesame" not in shown
    assert kafka.address("SASL_PLAINTEXT") in repr(adapter)
    for wrong in ("kafka://alice:sesame@", "http://alice:sesame@host", "kafka://alice:sesame@host/a+b"):
        with pytest.raises(ValueError, match="Kafka") as refused:
            KafkaAdapter(wrong)
        assert "sesame" not in str(refused.value)


def test_options_go_to_those_who_know_them() -> None:
    adapter = KafkaAdapter(
        "kafka://one:1,two:2/t?session_timeout_ms=6000&compression_type=gzip&check_crcs=false&client_id=me",
        linger_ms=5,
    )
    consumer, producer = adapter._options.consumer, adapter._options.producer
    assert consumer["bootstrap_servers"] == producer["bootstrap_servers"] == ["one:1", "two:2"]
    assert (consumer["session_timeout_ms"], consumer["check_crcs"]) == (6000, False)
    assert (producer["compression_type"], producer["linger_ms"]) == ("gzip", 5)
    assert consumer["client_id"] == producer["client_id"] == "me"
    assert "linger_ms" not in consumer
    assert "session_timeout_ms" not in producer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enable_idempotence": False}, "decides by itself about enable_idempotence"),
        ({"auto_offset_reset": "latest"}, "decides by itself about auto_offset_reset"),
        ({"sesion_timeout_ms": 1}, "has an option sesion_timeout_ms"),
        ({"ssl_cafile": "x"}, "ssl_cafile needs security_protocol"),
    ],
)
def test_an_option_that_would_be_ignored_is_an_error(options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        KafkaAdapter(**options)


def test_a_number_in_the_url_must_be_one() -> None:
    with pytest.raises(ValueError, match="session_timeout_ms is a whole number, not 'soon'"):
        KafkaAdapter("kafka://host/t?session_timeout_ms=soon")


def test_a_missing_driver_says_what_to_install() -> None:
    program = "import sys; sys.modules['aiokafka'] = None; import hubsub.bridges.kafka"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "hubsub.MissingDriver: KafkaAdapter needs aiokafka: pip install 'hubsub[kafka]'" in done.stderr
