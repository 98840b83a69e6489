"""What is wrong with one record, one topic or one right concerns these alone, over Kafka."""

import asyncio
import gc
import logging
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, NotEnoughReplicasError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v7

from brokers import Kafka
from hubsub import BrokerBusy, Key, PayloadTooLarge, WildcardPublished
from hubsub.bridges.adapter import Record
from hubsub.bridges.kafka import KafkaAdapter

from .kafka_site import (  # fixtures among them
    DENY,
    READ,
    WRITE,
    NoText,
    Open,
    admin,
    administering,
    allow,
    allow_no_longer,
    connect,
    connected,
    fragile,
    kafka,
    new_topic,
    numbers,
    payloads,
    read,
    receive_for_ever,
    records,
    strict,
    topic,
    write_raw,
)

__all__ = ["admin", "connected", "fragile", "kafka", "strict", "topic"]

# One worker has the brokers.
pytestmark = pytest.mark.xdist_group("kafka")

KEY = Key("orders", "new")

# What stands in the log, and under which key it comes, or with what trouble.
FOREIGN: dict[str, tuple[tuple[Any, Any, Any], Any]] = {
    "wildcard": ((b"order/*", b"0", []), WildcardPublished),
    "wildcard in the middle": ((b"order/+/x", b"0", []), WildcardPublished),
    "wildcard in the header": ((b"k", b"0", [("hubsub-key", b"*")]), WildcardPublished),
    "the hub's own": ((b"Hub/reply/x", b"0", []), ("Hub", "reply", "x")),
    "no key": ((None, b"0", []), None),
    "empty key": ((b"", b"0", []), ("",)),
    "no UTF-8": ((b"a/\xff\xfe", b"0", []), ("a", "\udcff\udcfe")),
    "no UTF-8 in the header": ((b"k", b"0", [("hubsub-key", b"a/\xff")]), ("a", "\udcff")),
    "no value in the header": ((b"k", b"0", [("hubsub-key", None)]), ("",)),
    "a long key": ((b"x" * 500_000, b"0", []), ("x" * 500_000,)),
    "no value": ((b"k", None, []), ("k",)),
    "nothing at all": ((None, None, []), None),
    "a header of nothing": ((b"k", b"0", [("n", None), ("n", b"twice"), ("", b"")]), ("k",)),
    "a header of bytes": ((b"k", b"0", [("n", b"\xff\x00")]), ("k",)),
    "a header that is no text": ((b"k", b"0", [(NoText("nn"), b"1")]), ("k",)),
    "large headers": ((b"k", b"0", [(f"n{number}", b"x" * 100) for number in range(8000)]), ("k",)),
    "no time": ((b"k", b"0", []), ("k",)),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_whatever_stands_in_the_log_comes_and_lets_others_come(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str, case: str
) -> None:
    foreign, expected = FOREIGN[case]
    await admin.create_topics([new_topic(topic)])
    adapter = await connected(kafka, group=topic, start="earliest")
    await write_raw(kafka, topic, [(b"before", b"1", []), foreign, (b"behind", b"2", [])])
    before, received, behind = await read(adapter, 3)
    assert (before.payload, behind.payload) == (b"1", b"2")
    assert received.payload == foreign[1]
    assert received.token is not None
    if isinstance(expected, type):
        assert isinstance(received.trouble, expected)
    else:
        assert received.trouble is None
        assert received.key == ((topic,) if expected is None else expected)
    # It is history as well, and was acknowledged like any other.
    assert [each.payload for each in await adapter.history(10)] == [b"1", foreign[1], b"2"]
    assert await adapter.bury(received, "because") is None
    await adapter.close()
    again = await connected(kafka, group=topic)
    await again.send(records(3))
    assert payloads(await read(again, 1)) == [3]


async def test_a_batch_that_cannot_be_unpacked_is_one_trouble_and_lets_others_come(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.create_topics([new_topic(topic)])
    adapter = await connected(kafka, start="earliest")
    await adapter.send(records(1))
    async with AIOKafkaProducer(bootstrap_servers=kafka.address(), compression_type="gzip", linger_ms=50) as producer:
        sent = [await producer.send(topic, b"%d" % number, b"k") for number in range(2, 5)]
        await asyncio.gather(*sent)
    await adapter.send(records(5))
    # As where the library for a compression is not installed.
    monkeypatch.setattr("aiokafka.codec.has_gzip", lambda: False)
    first, trouble, behind = await read(adapter, 3)
    assert (first.payload, behind.payload) == (b"1", b"5")
    assert "gzip" in str(trouble.trouble)
    assert trouble.payload is None
    assert trouble.position == f"{topic}:0:3"


async def test_a_bad_record_costs_nothing_that_was_read_along_with_it(
    kafka: Kafka, connected: Open, topic: str
) -> None:
    adapter = await connected(kafka, start="earliest", room=lambda: 7)
    await adapter.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(300)])
    await write_raw(kafka, topic, [(b"k", b"1000", [(NoText("n"), b"")])] * 3)
    await adapter.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(300, 600)])
    received = await read(adapter, 603)
    assert sorted(payloads(received)) == [*range(600), 1000, 1000, 1000]
    offsets = {each.position for each in received}
    assert len(offsets) == 603


# Refused


UNSENDABLE = {
    "large payload": {"payload": bytes(2_000_000)},
    "large header": {"headers": {"n": "x" * 2_000_000}},
    "many headers": {"headers": {f"n{number}": "x" * 100 for number in range(40_000)}},
    "large key": {"key": Key("x" * 2_000_000)},
    "a header named by half a character": {"headers": {"\ud800": ""}},
    "a header that is no text": {"headers": {"n": 1}},
    "a header named by no text": {"headers": {1: "n"}},
}


@pytest.mark.parametrize("case", UNSENDABLE)
@pytest.mark.parametrize("place", [0, 2, 4])
async def test_what_cannot_be_sent_is_refused_alone(kafka: Kafka, connected: Open, case: str, place: int) -> None:
    adapter = await connected(kafka, start="earliest")
    sent = records(*range(5))
    sent[place] = sent[place]._replace(**UNSENDABLE[case])
    assert list(await adapter.send(sent)) == [place]
    assert await adapter.send(records(5)) == {}
    expected = [number for number in range(6) if number != place]
    assert payloads(await read(adapter, 5)) == expected


async def test_a_hundred_megabytes_of_headers_are_refused_at_once(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka, start="earliest")
    headers = {f"n{number}": "x" * 1_000_000 for number in range(110)}
    (refused,) = (await adapter.send([Record(KEY, b"", headers, next(numbers))])).values()
    assert isinstance(refused, PayloadTooLarge)
    await adapter.send(records(1))
    assert payloads(await read(adapter, 1)) == [1]


async def test_what_a_topic_takes_is_sent_in_batches_that_it_takes(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([new_topic(topic, max_message_bytes=20_000)])
    adapter = await connected(kafka, start="earliest")
    number = 0
    for _ in range(3):
        # Some of them alone are more than it takes.
        sent = [Record(KEY, b"%06d" % (number + each) + bytes(900), {}, next(numbers)) for each in range(300)]
        for place in (0, 7, 150, 299):
            sent[place] = sent[place]._replace(payload=bytes(30_000))
        number += 300
        refused = await adapter.send(sent)
        assert list(refused) == [0, 7, 150, 299] == sorted(refused)
        assert "max.message.bytes" in str(refused[0]) or isinstance(refused[0], PayloadTooLarge)
    received = [int(each.payload[:6]) for each in await read(adapter, 3 * 296)]
    assert received == [each for each in range(900) if each % 300 not in (0, 7, 150, 299)]
    # It has one producer all the time, and has learnt what the topic takes.
    assert adapter._writer.sizes.too_large(topic) <= 30_000


async def sent_at_last(adapter: KafkaAdapter, key: Key[Any]) -> None:
    """Send a record until it is not refused any more."""
    while True:
        if not await adapter.send([Record(key, b"1", {}, next(numbers))]):
            return
        await asyncio.sleep(0.1)


async def test_a_topic_that_does_not_exist_is_refused_and_holds_up_no_other(
    strict: Kafka, connected: Open, topic: str
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(f"{topic}.a")])
        route = {"route": lambda key: f"{topic}.{key[0]}", "sources": [f"{topic}.a"]}
        adapter = await connected(strict, options=route, start="earliest")
        mixed = [Record(Key("ab"[number % 2]), b"%d" % number, {}, next(numbers)) for number in range(10)]
        for _ in range(3):
            refused = await adapter.send(mixed)
            assert list(refused) == [1, 3, 5, 7, 9]
            assert {type(error) for error in refused.values()} == {LookupError}
            assert f"{topic}.b" in str(refused[1])
            mixed = [each._replace(sequence=next(numbers)) for each in mixed]
        assert len(await read(adapter, 15)) == 15
        await client.create_topics([new_topic(f"{topic}.b")])
        await sent_at_last(adapter, Key("b"))


async def test_a_topic_that_is_deleted_meanwhile_is_refused_and_comes_back(
    strict: Kafka, connected: Open, topic: str
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(f"{topic}.a"), new_topic(f"{topic}.b")])
        adapter = await connected(strict, options={"route": lambda key: f"{topic}.{key[0]}"}, reads=False)
        both = [Record(Key(name), b"1", {}, next(numbers)) for name in "ab"]
        assert await adapter.send(both) == {}
        await client.delete_topics([f"{topic}.b"])
        refused: Any = {}
        while not refused:
            both = [each._replace(sequence=next(numbers)) for each in both]
            refused = await adapter.send(both)
        assert list(refused) == [1]
        assert isinstance(refused[1], LookupError)
        await client.create_topics([new_topic(f"{topic}.b")])
        while refused:
            both = [each._replace(sequence=next(numbers)) for each in both]
            refused = await adapter.send(both)
        reader = await connected(strict, topic=f"{topic}.b", start="earliest")
        assert (await read(reader, 1))[0].payload == b"1"


async def test_a_reader_of_a_topic_that_does_not_exist_says_so_and_reads_it_when_it_does(
    strict: Kafka, connected: Open, topic: str
) -> None:
    with pytest.raises(LookupError, match=f"{topic}.*create it"):
        await connected(strict)
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
    adapter = await connected(strict, start="earliest")
    await adapter.send(records(1))
    assert payloads(await read(adapter, 1)) == [1]


@pytest.mark.parametrize("link", [{}, {"group": "g"}], ids=["unnamed", "group"])
async def test_of_several_topics_those_are_read_that_exist(
    strict: Kafka, connected: Open, topic: str, caplog: pytest.LogCaptureFixture, link: Any
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    sources = {"sources": [f"{topic}.a", f"{topic}.b"], "metadata_max_age_ms": 300}
    async with administering(strict) as client:
        await client.create_topics([new_topic(f"{topic}.a")])
        adapter = await connected(strict, options=sources, **link)
        await (await connected(strict, topic=f"{topic}.a", reads=False)).send(records(1))
        assert payloads(await read(adapter, 1)) == [1]
        await client.create_topics([new_topic(f"{topic}.b")])
        await (await connected(strict, topic=f"{topic}.b", reads=False)).send(records(2))
        assert payloads(await read(adapter, 1)) == [2]
    assert any(f"{topic}.b" in line.getMessage() for line in caplog.records)


@pytest.mark.parametrize("link", [{}, {"group": "g"}], ids=["unnamed", "group"])
async def test_a_topic_that_is_deleted_while_it_is_read_is_told_of_once(
    strict: Kafka, connected: Open, topic: str, caplog: pytest.LogCaptureFixture, link: Any
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
        adapter = await connected(strict, options={"metadata_max_age_ms": 300}, **link)
        await adapter.send(records(1, 2))
        assert payloads(await read(adapter, 2)) == [1, 2]
        await client.delete_topics([topic])

        def told() -> list[logging.LogRecord]:
            return [line for line in caplog.records if "is gone" in line.getMessage()]

        while not told():
            assert await adapter.receive() == []
        for _ in range(2):
            assert await adapter.receive() == []
        await client.create_topics([new_topic(topic)])
        sender = await connected(strict, reads=False)
        await sender.send(records(3))
        loss, received = await read(adapter, 2)
        assert loss.reason == "recreated"
        assert received.payload == b"3"
        assert len(told()) == 1


# Rights


@pytest.fixture
def alice(strict: Kafka) -> str:
    return f"kafka://{strict.username}:{strict.password}@{strict.address('SASL_PLAINTEXT')}"


async def test_without_the_right_to_write_a_record_is_refused_with_what_is_missing(
    strict: Kafka, connected: Open, topic: str, alice: str
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(f"{topic}.a"), new_topic(f"{topic}.b", 2)])
    await allow(strict, "alice", f"{topic}.a")
    await allow(strict, "alice", f"{topic}.b", READ)
    adapter = await connected(alice, options={"route": lambda key: f"{topic}.{key[0]}"}, reads=False)
    for _ in range(2):
        sent = [Record(Key("ab"[number % 2], str(number)), b"%d" % number, {}, next(numbers)) for number in range(400)]
        refused = await adapter.send(sent)
        assert sorted(refused) == list(range(1, 400, 2))
        assert all(isinstance(error, PermissionError) for error in refused.values())
        assert f"the right Write to the topic '{topic}.b'" in str(refused[1])
    # Nor is there anything to be known of one that is hidden.
    (error,) = (await adapter.send([Record(Key("c"), b"", {}, next(numbers))])).values()
    assert isinstance(error, PermissionError)
    await allow(strict, "alice", f"{topic}.b", WRITE)
    await sent_at_last(adapter, Key("b"))


async def test_without_the_right_to_read_connecting_fails_and_says_what_is_missing(
    strict: Kafka, connected: Open, topic: str, alice: str
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
    await allow(strict, "alice", f"{topic}.other")  # whoever may write nowhere at all may not have a producer
    with pytest.raises(PermissionError, match=f"the topic '{topic}'"):
        await connected(alice)
    await allow(strict, "alice", topic)
    with pytest.raises(PermissionError, match=f"Read to the group 'test.{topic}'"):
        await connected(alice, group=topic)
    adapter = await connected(alice, sender="same", start="earliest")
    await adapter.send(records(1))
    assert payloads(await read(adapter, 1)) == [1]
    await allow(strict, "alice", topic, READ, DENY)
    with pytest.raises(PermissionError, match=f"Read to the topic '{topic}'"):
        await receive_for_ever(adapter)
    await adapter.lost()
    with pytest.raises(PermissionError, match=f"Read to the topic '{topic}'"):
        await connect(adapter, sender="same", start="earliest")
    await allow_no_longer(strict, "alice", topic, READ, DENY)
    while True:
        try:
            await connect(adapter, sender="same", start="earliest")
            break
        except PermissionError:
            await adapter.lost()
    await adapter.send(records(2))
    assert payloads(await read(adapter, 1)) == [2]


async def test_a_topic_that_is_not_for_us_any_more_is_left_out(
    strict: Kafka, connected: Open, topic: str, alice: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr("hubsub.bridges.kafka.topics.DENIED_FOR", 0.5)
    sources = [f"{topic}.a", f"{topic}.b"]
    async with administering(strict) as client:
        await client.create_topics([new_topic(each) for each in sources])
    for each in sources:
        await allow(strict, "alice", each)
    adapter = await connected(alice, options={"sources": sources}, start="earliest")
    senders = [await connected(strict, topic=each, reads=False) for each in sources]
    await allow(strict, "alice", sources[1], READ, DENY)
    while not any("is left out" in line.getMessage() for line in caplog.records):
        await adapter.receive()
    for number, sender in enumerate(senders, 1):
        await sender.send(records(number))
    assert payloads(await read(adapter, 1)) == [1]
    await allow_no_longer(strict, "alice", sources[1], READ, DENY)
    assert payloads(await read(adapter, 1)) == [2]
    assert len([line for line in caplog.records if "is left out" in line.getMessage()]) == 1


# Dead letters


async def test_a_dead_letter_that_is_refused_is_returned_as_an_error(
    strict: Kafka, connected: Open, topic: str, alice: str
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
        adapter = await connected(strict, start="earliest")
        await adapter.send(records(1))
        (received,) = await read(adapter, 1)
        assert isinstance(await adapter.bury(received, "why"), LookupError)
        await client.create_topics([new_topic(f"{topic}.dead", max_message_bytes=5_000)])
        too_large = received._replace(payload=bytes(10_000))
        error: Exception | None = LookupError()
        while isinstance(error, LookupError):
            error = await adapter.bury(too_large, "x" * 100_000)
        assert isinstance(error, PayloadTooLarge)
        # As the relay does then: the reason is cut, and the writer has not lost its place.
        assert await adapter.bury(too_large._replace(payload=None), "x" * 100_000) is None
        assert isinstance(await adapter.bury(received._replace(headers={"n": "x" * 9_000_000}), "why"), PayloadTooLarge)
        assert await adapter.bury(received, "why") is None
        letters = await connected(strict, topic=f"{topic}.dead", start="earliest")
        assert [each.payload for each in await read(letters, 2)] == [None, b"1"]
    await allow(strict, "alice", topic)
    denied = await connected(alice, start="earliest")
    (received,) = await read(denied, 1)
    assert isinstance(await denied.bury(received, "why"), PermissionError)


async def test_a_dead_letter_that_cannot_be_written_now_is_tried_again(fragile: Kafka, connected: Open) -> None:
    adapter = await connected(fragile, start="earliest", sender="same")
    await adapter.send(records(1))
    (received,) = await read(adapter, 1)
    fragile.kill()
    with pytest.raises(ConnectionError):
        await adapter.bury(received, "why")
    await fragile.start_wait()
    await adapter.lost()
    await connect(adapter, sender="same")
    assert await adapter.bury(received, "why") is None


async def test_a_position_that_is_not_stored_when_nobody_waits_any_more_is_nobody_s_error(
    kafka: Kafka, connected: Open
) -> None:
    adapter = await connected(kafka, name="reader", start="earliest")
    await adapter.send(records(1))
    (received,) = await read(adapter, 1, ack=False)
    reader: Any = adapter._reader
    client, begun, may_fail = reader.consumer._client, asyncio.Event(), asyncio.Event()
    send = client.send
    committing: list[Any] = []

    async def fail(node: Any, request: Any, **options: Any) -> Any:
        if not isinstance(request, OffsetCommitRequest):
            return await send(node, request, **options)
        committing.append(asyncio.current_task())
        begun.set()
        await may_fail.wait()
        raise KafkaConnectionError("the connection is lost")

    client.send = fail
    unheard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: unheard.append(context))
    storing = asyncio.ensure_future(adapter.ack([received.token]))
    await begun.wait()
    storing.cancel()
    await asyncio.wait([storing])
    may_fail.set()
    await asyncio.wait(committing)
    committing.clear()
    client.send = send
    gc.collect()
    assert not unheard


# Busy


async def test_a_broker_that_lacks_replicas_is_busy_and_then_stores_once(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([new_topic(topic)])
    adapter = await connected(kafka, start="earliest")
    client = adapter._writer.client
    answer = client.send
    is_busy = True

    async def turn_away(node: Any, request: Any, **options: Any) -> Any:
        """A single broker lacks no replicas: this is what several say."""
        if is_busy and isinstance(request, ProduceRequest):
            await client.ask()
            return ProduceResponse_v7([(topic, [(0, NotEnoughReplicasError.errno, -1, -1, -1)])], 0)
        return await answer(node, request, **options)

    client.send = turn_away
    sent = records(1, 2, 3)
    for _ in range(2):
        with pytest.raises(BrokerBusy, match=f"{topic}:0"):
            await adapter.send(sent)
    is_busy = False
    assert await adapter.send(sent) == {}
    await adapter.send(records(4))
    assert payloads(await read(adapter, 4)) == [1, 2, 3, 4]
