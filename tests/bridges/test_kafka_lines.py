"""Lines to Kafka that are slow, long or dead, loops that stand still, and what all of that is worth in the log."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

import hubsub
from brokers import Kafka
from brokers.fixtures import Private
from hubsub import Key
from hubsub.bridges.adapter import Record
from hubsub.bridges.kafka import KafkaAdapter
from hubsub.bridges.kafka.client import Client
from hubsub.bridges.kafka.line import Line
from hubsub.bridges.kafka.quiet import Quiet, kept
from hubsub.bridges.kafka.stopping import stop_consumer

from .kafka_site import (  # fixtures among them
    Open,
    admin,
    administering,
    connect,
    connected,
    control,
    fragile,
    kafka,
    last,
    new_topic,
    numbers,
    payloads,
    read,
    receive_for_ever,
    records,
    slow,
    strict,
    topic,
)
from .sites import until

__all__ = ["admin", "connected", "fragile", "kafka", "strict", "topic"]

# One worker has the brokers.
pytestmark = pytest.mark.xdist_group("kafka")

MINE = Key("Hub", "reply", "mine")


# Signs of life


async def test_what_moves_is_counted_by_direction(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka, listen=[MINE])
    before = adapter.activity, adapter.receiving, adapter.sending
    await adapter.send([Record(Key("k"), os.urandom(100_000), {}, next(numbers)) for _ in range(3)])
    assert adapter.sending > before[2]
    await read(adapter, 3)
    assert adapter.receiving > before[1] + 300_000
    assert adapter.activity > before[0] + 300_000


async def test_a_question_does_not_wait_behind_a_fetch(kafka: Kafka, topic: str) -> None:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.address(), fetch_max_wait_ms=60_000)
    client: Any = Client.adopt(consumer._client, Line())
    await consumer.start()
    try:
        await until(lambda: any(each.is_polling() for each in client.connections))
        answer = await client.ask([topic])
        assert [name for _, name, *_ in answer.topics] == [topic]
        assert any(each.is_polling() for each in client.connections)
    finally:
        await stop_consumer(consumer, client)


@pytest.mark.long
async def test_a_frozen_broker_moves_nothing_however_often_it_is_asked(
    fragile: Kafka, connected: Open, topic: str
) -> None:
    adapter = await connected(fragile, listen=[MINE], group=topic)
    await read_nothing(adapter)
    fragile.freeze()
    before = adapter.receiving
    with pytest.raises(ConnectionError):
        await receive_for_ever(adapter)
    with pytest.raises(ConnectionError):
        await adapter.ping()
    for _ in range(2):
        await adapter.lost()
        with pytest.raises(ConnectionError):
            await connect(adapter, sender=adapter._link.sender, listen=[MINE], group=topic)
    assert adapter.receiving == before
    fragile.thaw()
    await adapter.lost()
    await connect(adapter, sender=adapter._link.sender, listen=[MINE], group=topic)
    await adapter.send([*records(1), *control(MINE, 2)])
    assert sorted(payloads(await read(adapter, 2))) == [1, 2]


async def test_a_line_that_is_cut_is_a_lost_connection_though_the_driver_has_another(
    kafka: Kafka, connected: Open, topic: str
) -> None:
    async with kafka.proxy() as proxy:
        adapter = await connected(proxy.url, sender="same", group=topic, listen=[MINE])
        await adapter.send([*records(1), *control(MINE, 2)])
        await read(adapter, 2)
        for number in range(3, 6):
            proxy.cut()
            with pytest.raises(ConnectionError):
                await receive_for_ever(adapter)
            with pytest.raises(ConnectionError):
                await adapter.send(records(0))
            await adapter.lost()
            await connect(adapter, sender="same", group=topic, listen=[MINE])
            assert await adapter.send([*records(number), *control(MINE, number)]) == {}
            assert payloads(await read(adapter, 2)) == [number, number]


@pytest.mark.parametrize("way", ["name", "group"])
async def test_a_member_stays_one_while_it_finds_its_positions_over_a_long_line(
    kafka: Kafka, topic: str, way: str
) -> None:
    # Three round trips take longer than a session.
    options = {"session_timeout_ms": 1200, "heartbeat_interval_ms": 200}
    async with slow(kafka, 0, 0.3) as line, hubsub.Hub() as hub:
        adapter = KafkaAdapter(line.url, topic=topic, **options)
        async with hubsub.Bridge(hub, adapter, incoming="*", **{way: topic}) as bridge:  # type: ignore[arg-type]
            await bridge.ready(60)
            line.delay(0)


async def read_nothing(adapter: KafkaAdapter) -> None:
    """Have it read where nothing is."""
    assert await adapter.receive() == []


# Slow lines


LINES = {
    "0.1 MB/s": (100_000, 0.0, 300_000),
    "0.7 MB/s": (700_000, 0.0, 4_000_000),
    "a round trip of 1.5 s": (0, 0.75, 100_000),
    "a round trip of 3 s": (0, 1.5, 20_000),
    "narrow and long": (300_000, 0.3, 500_000),
}


@pytest.mark.parametrize(
    ("rate", "late", "size"),
    [
        pytest.param(*line, id=name, marks=[] if name == "0.1 MB/s" else pytest.mark.long)
        for name, line in LINES.items()
    ],
)
@pytest.mark.timeout(150)
async def test_over_a_slow_line_everything_comes_without_an_interruption(
    kafka: Kafka, connected: Open, topic: str, rate: float, late: float, size: int
) -> None:
    async with slow(kafka, rate, late) as line:
        adapter = await connected(line.url, group=topic, start="earliest", listen=[MINE])
        number, payload = size // 8_000 or 1, os.urandom(7_900)
        sent = [Record(Key(str(each)), payload, {}, next(numbers)) for each in range(number)]
        receiving = asyncio.ensure_future(receive_all(adapter, number + 1))
        assert await adapter.send([*sent, *control(MINE, 1)]) == {}
        received = await receiving
        assert sum(each.is_control for each in received) == 1
        assert {each.key for each in received if not each.is_control} == {each.key for each in sent}


async def receive_all(adapter: KafkaAdapter, number: int) -> list[Any]:
    received: list[Any] = []
    while len(received) < number:
        batch = await adapter.receive()
        received += batch
        await adapter.ack(last(batch))
    return received


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_one_message_takes_as_long_as_the_line_needs(private: Private, connected: Open) -> None:
    broker = await private(Kafka(message_max_bytes=12_000_000))
    async with slow(broker, 300_000, 0.0) as line:
        adapter = await connected(line.url, options={"max_request_size": 6_000_000})
        payload = os.urandom(5_000_000)
        assert await adapter.send([Record(Key("big"), payload, {}, 1), Record(Key("big"), b"2", {}, 2)]) == {}
        received = await receive_all(adapter, 2)
        assert [each.payload for each in received] == [payload, b"2"]


# The loop


def stand_still() -> None:
    time.sleep(6)


@pytest.mark.long
@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_a_loop_that_stands_still_is_nobody_s_silence(
    kafka: Kafka, connected: Open, topic: str, link: Any
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    adapter = await connected(kafka, listen=[MINE], **link)

    received: list[Any] = []

    async def reading() -> None:
        while len(received) < 8:
            batch = await adapter.receive()
            received.extend(batch)
            await adapter.ack(last(batch))

    reader = asyncio.ensure_future(reading())
    await asyncio.sleep(0.5)
    # While it waits for messages, while it sends, right behind, and while it commits.
    stand_still()
    sending = asyncio.ensure_future(adapter.send([*records(1), *control(MINE, 2)]))
    await asyncio.sleep(0)
    stand_still()
    assert await sending == {}
    stand_still()
    await adapter.send(records(3))
    acking = asyncio.ensure_future(adapter.ack([]))
    pinging = asyncio.ensure_future(adapter.ping())
    await asyncio.sleep(0)
    stand_still()
    await acking
    await pinging
    await adapter.send(records(*range(4, 9)))
    await reader
    assert sorted(payloads(received)) == list(range(1, 9))
    assert adapter.late_acks == 0


async def test_a_loop_that_stands_still_while_it_connects_connects(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = KafkaAdapter(kafka.url, topic=topic)
    connecting = asyncio.ensure_future(connect(adapter, group=topic, listen=[MINE]))
    for _ in range(5):
        await asyncio.sleep(0.02)
    stand_still()
    await connecting
    await adapter.send(records(1))
    assert payloads(await read(adapter, 1)) == [1]
    await adapter.close()


# Names


OWNER = """
import asyncio, sys
from hubsub import Key
from hubsub.bridges.adapter import Link
from hubsub.bridges.kafka import KafkaAdapter

async def main(url, name):
    adapter = KafkaAdapter(url, session_timeout_ms=2000, heartbeat_interval_ms=300)
    await adapter.connect(Link(sender="other", namespace="test", name=name, incoming=(Key("*"),)))
    print("ready", flush=True)
    try:
        while True:
            for received in await adapter.receive():
                await adapter.ack([received.token])
                print(int(received.payload), flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
QUICK = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 300}


@pytest.fixture
def owner(kafka: Kafka, topic: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has the name."""
    command = [sys.executable, "-c", textwrap.dedent(OWNER), f"{kafka.url}/{topic}", topic]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def test_an_owner_that_was_frozen_has_lost_its_name_and_reads_nothing_more(
    kafka: Kafka, connected: Open, topic: str, owner: subprocess.Popen[str]
) -> None:
    assert await line(owner) == "ready"
    sender = await connected(kafka, reads=False)
    await sender.send(records(1))
    assert await line(owner) == "1"
    owner.send_signal(signal.SIGSTOP)
    adapter = await take_over(connected, kafka, topic)
    await sender.send(records(2))
    assert payloads(await read(adapter, 1)) == [2]
    await sender.send(records(3))
    owner.send_signal(signal.SIGCONT)
    assert payloads(await read(adapter, 1)) == [3]
    reading = asyncio.ensure_future(read(adapter, 20))
    for number in range(4, 24):
        await sender.send(records(number))
        await asyncio.sleep(0.1)
    assert payloads(await reading) == list(range(4, 24))
    # Not one of them came there as well.
    assert await line(owner) == "NameTaken"


async def take_over(connected: Open, kafka: Kafka, name: str) -> KafkaAdapter:
    """What the relay does: until the broker has given the owner up, the name is taken."""
    while True:
        try:
            return await connected(kafka, name=name, options=QUICK)
        except hubsub.NameTaken:
            await asyncio.sleep(0.1)


async def test_an_owner_whose_line_stalled_has_lost_its_name(kafka: Kafka, connected: Open, topic: str) -> None:
    async with kafka.proxy() as proxy:
        first = await connected(proxy.url, name=topic, sender="first", options=QUICK)
        sender = await connected(kafka, reads=False)
        await sender.send(records(1))
        received = await read(first, 1, ack=False)
        proxy.stall()
        second = await take_over(connected, kafka, topic)
        # What the first one had in hand comes again, since it was not acknowledged.
        assert payloads(await read(second, 1)) == [1]
        proxy.resume()
        outcomes = []
        for _ in range(3):
            try:
                await first.ack([received[0].token])
                await receive_for_ever(first)
            except (hubsub.NameTaken, ConnectionError) as error:
                outcomes.append(type(error))
                await first.lost()
            try:
                await connect(first, name=topic, sender="first")
            except (hubsub.NameTaken, ConnectionError) as error:
                outcomes.append(type(error))
                await first.lost()
        assert outcomes[-1] is hubsub.NameTaken
        await sender.send(records(2))
        assert payloads(await read(second, 1)) == [2]


# Room, and closing


async def test_a_read_brings_no_more_than_there_is_room_for(kafka: Kafka, connected: Open) -> None:
    room = 1
    adapter = await connected(kafka, start="earliest", room=lambda: room)
    sent = [Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(100)]
    await adapter.send(sent)
    seen: list[int] = []
    while len(seen) < 100:
        batch = await adapter.receive()
        assert len(batch) <= room
        seen += payloads(batch)
        room = room % 7 + 1
    assert sorted(seen) == list(range(100))


async def test_a_member_that_closes_leaves_what_it_had_to_the_others_at_once(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([new_topic(topic)])
    # By itself it would be waited for, for longer than the test may take.
    patient = {"session_timeout_ms": 300_000 - 1, "rebalance_timeout_ms": 20_000}
    first = await connected(kafka, group=topic, options=patient)
    sender = await connected(kafka, reads=False)
    await sender.send([Record(Key(str(number)), b"%d" % number, {}, next(numbers)) for number in range(60)])
    received = await read(first, 60, ack=False)
    await first.ack([received[9].token])
    # It joins, and waits for the first one, which is to say that it gives its partitions back.
    opening = asyncio.ensure_future(connected(kafka, group=topic, start="earliest", options=patient))
    await asyncio.sleep(0.1)
    await first.close()
    second = await opening
    assert payloads(await read(second, 50)) == list(range(10, 60))


async def receive_until(adapter: KafkaAdapter, condition: Callable[[], bool]) -> list[Any]:
    result: list[Any] = []
    while not condition():
        result += await adapter.receive()
    return result


@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_with_nothing_left_to_do_closing_waits_for_nothing(
    kafka: Kafka, connected: Open, topic: str, link: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    adapter = await connected(kafka, listen=[MINE], **link)
    await adapter.send(records(1))
    await read(adapter, 1)
    reading = asyncio.ensure_future(adapter.receive())
    await asyncio.sleep(0.1)
    # Nothing is given up, which would be after a second.
    waits: list[Any] = []
    wait = asyncio.wait

    async def watched(*arguments: Any, **options: Any) -> Any:
        done, pending = await wait(*arguments, **options)
        if options.get("timeout") == 1 and not done:
            waits.append(pending)
        return done, pending

    monkeypatch.setattr(asyncio, "wait", watched)
    await adapter.close()
    assert waits == []
    await reading


# Cancelled calls


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.005, 0.02, 0.05])
async def test_a_call_that_is_cancelled_costs_that_call_alone(
    kafka: Kafka, connected: Open, topic: str, seconds: float
) -> None:
    adapter = await connected(kafka, group=topic, listen=[MINE])
    await adapter.send(records(*range(10)))
    received = await read(adapter, 10, ack=False)
    for call in (
        lambda: adapter.history(5),
        lambda: adapter.ack([received[4].token]),
        lambda: adapter.ping(),
        lambda: adapter.bury(received[0], "why"),
        lambda: adapter.history(5),
        lambda: adapter.ack([received[5].token]),
    ):
        with pytest.raises((TimeoutError, AssertionError)):  # noqa: PT012 - some are quicker
            await asyncio.wait_for(call(), seconds)
            raise AssertionError
    assert len(await adapter.history(5)) == 5
    await adapter.ack([received[6].token])
    assert await adapter.bury(received[0], "why") is None
    await adapter.send([*records(10), *control(MINE, 11)])
    assert payloads(sorted(await read(adapter, 2, ack=False), key=lambda each: int(each.payload))) == [10, 11]
    await adapter.close()
    again = await connected(kafka, group=topic)
    assert payloads(await read(again, 4)) == [7, 8, 9, 10]


# The log


def drivers(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What came from the driver, or from asyncio about it."""
    return [
        f"{line.name}: {line.getMessage()}" for line in caplog.records if line.name.startswith(("aiokafka", "asyncio"))
    ]


def all_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{line.name}: {line.getMessage()}" for line in caplog.records if line.levelno >= logging.WARNING]


async def keep_connected(adapter: KafkaAdapter, work: Callable[[], Any], **link: Any) -> None:
    """What the relay does."""
    while True:
        try:
            await work()
        except Exception:
            await adapter.lost()
            await asyncio.sleep(0.2)
            try:
                await connect(adapter, **link)
            except Exception:
                await adapter.lost()


@pytest.mark.long
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_broker_that_is_away_is_worth_one_line_of_the_driver(
    fragile: Kafka, connected: Open, topic: str, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    reading, writing = {"group": topic, "listen": [MINE], "sender": "r"}, {"reads": False, "sender": "w"}
    reader, writer = await connected(fragile, **reading), await connected(fragile, **writing)
    received: list[Any] = []

    async def read_on() -> None:
        while True:
            batch = await reader.receive()
            received.extend(batch)
            await reader.ack(last(batch))

    async def write_on() -> None:
        while True:
            await writer.send(records(1))
            await asyncio.sleep(0.01)

    tasks = [
        asyncio.ensure_future(keep_connected(reader, read_on, **reading)),
        asyncio.ensure_future(keep_connected(writer, write_on, **writing)),
    ]
    await until(lambda: len(received) > 10)
    caplog.clear()
    if fault == "killed":
        fragile.kill()
    else:
        fragile.freeze()
    await asyncio.sleep(10)
    if fault == "killed":
        await fragile.start_wait()
    else:
        fragile.thaw()
    number = len(received)
    await until(lambda: len(received) > number + 10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    # One of each adapter.
    assert len(drivers(caplog)) <= 2, "\n".join(drivers(caplog))
    await reader.close()
    await writer.close()
    assert len(all_lines(caplog)) <= 2, "\n".join(all_lines(caplog))


@pytest.mark.long
async def test_a_topic_that_is_deleted_is_worth_one_line_of_the_driver(
    strict: Kafka, connected: Open, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
        adapter = await connected(strict, group=topic, options={"metadata_max_age_ms": 300})
        await adapter.send(records(1))
        await read(adapter, 1)
        caplog.clear()
        await client.delete_topics([topic])
        end = time.monotonic() + 10
        reading = asyncio.ensure_future(receive_until(adapter, lambda: time.monotonic() > end))
        while time.monotonic() < end:
            await adapter.send(records(2))
        await reading
    await adapter.close()
    assert len(drivers(caplog)) <= 1, "\n".join(drivers(caplog))
    # And one that says it in our own words.
    assert len(all_lines(caplog)) <= 2, "\n".join(all_lines(caplog))


def test_lines_of_others_pass_and_those_of_an_episode_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    logger, quiet = logging.getLogger("aiokafka.consumer.fetcher"), Quiet()
    for _ in range(3):
        logger.error("of somebody else")
    assert len(caplog.records) == 3
    caplog.clear()
    with kept(quiet):
        for number in range(100):
            logger.error("failed %d", number)
            logging.getLogger("aiokafka").warning("another voice of the same")
            logger.info("something")
    assert [line.getMessage() for line in caplog.records] == [
        "failed 0",
        "something (1 lines before it were left out)",
    ]
    assert quiet.left_out == 297


def test_whoever_wants_all_that_the_driver_says_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "aiokafka"), kept(Quiet()):
        for _ in range(10):
            logging.getLogger("aiokafka.conn").error("failed")
    assert len(caplog.records) == 10


# Passwords


WRONG = [
    "alice:ses/ame",
    "alice:/sesame",
    "alice:sesame/",
    "alice:se/sa:me",
    "alice:ses?ame",
    "alice:ses#ame",
    "alice:ses?session_timeout_ms=ame",
    "al/ice:sesame",
    "alice:[sesame",
    "alice:ses℀ame",
    "alice:ses ame/x",
    "alice:sesame//x",
]
RESTS = ["@host:9092/topic", "@host", "@host:9092,other:9092/topic?client_id=x"]


@pytest.mark.parametrize(
    "url",
    # Without what follows it, `alice:1234/sesame` is a host, a port and a topic, as far as anybody can tell.
    [*(login + rest for login in WRONG for rest in (*RESTS, "")), *("alice:1234/sesame" + rest for rest in RESTS)],
)
def test_a_password_that_is_written_wrong_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its text is what matters
        KafkaAdapter(f"kafka://{url}")
    shown = f"{refused.value} {refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
    for part in ("ses", "ame", "1234", "alice"):
        assert part not in shown, shown
