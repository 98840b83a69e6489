"""Dead letters of Kafka: in a topic to which things can only be appended."""

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from brokers import Kafka
from hubsub import Key, NoSuchLetter
from hubsub.bridges import Received, Record, SentBack
from hubsub.bridges.kafka.letters import Mark

from .kafka_site import (  # fixtures among them
    Open,
    admin,
    connected,
    kafka,
    new_topic,
    numbers,
    read,
    topic,
    write_raw,
)

__all__ = ["admin", "connected", "kafka", "topic"]

KEY = Key("orders", "new")


async def test_what_is_sent_back_is_exactly_what_was_given_up(kafka: Kafka, connected: Open, topic: str) -> None:
    adapter = await connected(kafka, group=topic, start="earliest")
    headers = {"n": "ü", "x": "1"}
    await adapter.send([Record(KEY, b"\r\n\0", headers, next(numbers))])
    for _ in range(2):
        (message,) = await read(adapter, 1)
        assert message[:3] == (KEY, b"\r\n\0", headers)
        await adapter.bury(message._replace(attempts=3), "ü" * 10_000)
        (letter,) = await adapter.dead_letters(10)
        assert (letter.reader, letter.received.attempts, letter.received.position) == (
            f"group:{topic}",
            3,
            message.position,
        )
        assert set(letter.reason) == {"ü"}
        assert letter.received[:3] == message[:3]
        await adapter.redeliver(letter.position)
        assert await adapter.dead_letters(10) == []
        with pytest.raises(NoSuchLetter):
            await adapter.redeliver(letter.position)
    (again,) = await read(adapter, 1)
    assert isinstance(again, SentBack)
    assert again.reader == f"group:{topic}"


async def test_letters_of_several_partitions_are_one_list_in_the_order_of_their_times(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await admin.create_topics([new_topic(topic), new_topic(f"{topic}.dead", 3)])
    adapter = await connected(kafka)
    for number in range(30):
        await adapter.bury(Received(Key("k", str(number)), b"%d" % number), "why")
    letters = await adapter.dead_letters(100)
    assert sorted(int(each.received.payload or b"") for each in letters) == list(range(30))
    assert letters == sorted(letters, key=lambda each: each.time or 0)
    assert len({each.position.split(":")[1] for each in letters}) == 3
    positions = [each.position for each in letters]
    for index in (0, 1, 13, 29):
        before = await adapter.dead_letters(5, before=positions[index])
        assert [each.position for each in before] == positions[max(0, index - 5) : index]
    await adapter.redeliver(positions[13])
    left = await adapter.dead_letters(100)
    assert [each.position for each in left] == [*positions[:13], *positions[14:]]
    before = await adapter.dead_letters(100, before=positions[13])
    assert [each.position for each in before] == positions[:13]


async def test_listing_makes_no_topic(kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str) -> None:
    await admin.create_topics([new_topic(topic)])
    adapter = await connected(kafka)
    assert await adapter.dead_letters(10) == []
    dead = f"{topic}.dead"
    for position in (
        f"{dead}:0:0",
        f"{topic}:0:0",
        f"{dead}:0",
        f"{dead}:x:0",
        f"{dead}:0:-1",
        f"{dead}:0:{'9' * 30}",
        "",
    ):
        with pytest.raises(NoSuchLetter):
            await adapter.redeliver(position)
    assert f"{topic}.dead" not in await admin.list_topics()


async def test_what_was_sent_back_within_one_namespace_is_for_nobody_of_another(
    kafka: Kafka, connected: Open, topic: str
) -> None:
    """They may have one topic, and groups of one name."""
    ours = await connected(kafka, group="g", start="earliest", namespace=topic)
    theirs = await connected(kafka, group="g", start="earliest", namespace=f"{topic}-other")
    await ours.send([Record(KEY, b"1", {}, next(numbers))])
    (message,) = await read(ours, 1)
    await ours.bury(message, "why")
    (letter,) = await theirs.dead_letters(10)
    await theirs.redeliver(letter.position)
    (here,) = await read(ours, 1)
    _, there = await read(theirs, 2)
    assert here.reader == "group:g"
    assert there.reader not in ("", "group:g")


async def test_a_letter_that_does_not_say_whose_it_is_goes_to_everybody(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    """As an older version has written it, or another program."""
    await admin.create_topics([new_topic(topic), new_topic(f"{topic}.dead")])
    await connected(kafka, topic=f"{topic}.dead")  # then it has a leader
    odd: list[tuple[str, Any]] = [
        ("hubsub-letter", each) for each in (None, b"", b"{", b"[1]", b'{"gone": "x"}', b"\xff")
    ]
    await write_raw(kafka, f"{topic}.dead", [(b"a/b", b"%d" % number, [each]) for number, each in enumerate(odd)])
    await write_raw(kafka, f"{topic}.dead", [(b"a/b", b"9", [("h", b"v"), ("hubsub-reason", b"why")])])
    adapter = await connected(kafka, start="earliest")
    letters = await adapter.dead_letters(100)
    assert [each.received.payload for each in letters] == [b"0", b"1", b"2", b"3", b"4", b"5", b"9"]
    assert {each.reader for each in letters} == {None}
    assert (letters[-1].reason, letters[-1].received.headers) == ("why", {"h": "v"})
    for each in letters[-2:]:
        await adapter.redeliver(each.position)
    first, second = await read(adapter, 2)
    assert type(first) is type(second) is Received
    assert second[:3] == (("a", "b"), b"9", {"h": "v"})


@pytest.mark.parametrize(
    "mark",
    [
        Mark(),
        Mark("", 3, namespace="ü"),
        Mark("group:g", 0),
        Mark(sent_back_to="name:\"'", namespace="n"),
        Mark(gone=7),
    ],
)
def test_a_mark_is_read_as_it_was_written(mark: Mark) -> None:
    assert Mark.read(mark.text) == Mark.read(mark.text.encode()) == mark


@pytest.mark.parametrize("text", ["", "x", "[]", "1", '{"a": 1}', '{"gone": "1"}', '{"attempts": null}', "[" * 100_000])
def test_what_is_no_mark_says_nothing(text: str) -> None:
    assert Mark.read(text) == Mark()
