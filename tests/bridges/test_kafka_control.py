"""Control messages over Kafka: apart from the others, for one connection, and kept by nobody."""

import asyncio
import logging
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from brokers import Kafka
from hubsub import Key
from hubsub.bridges.kafka import reader

from .kafka_site import (  # fixtures among them
    Open,
    admin,
    administering,
    allow,
    connect,
    connected,
    control,
    fragile,
    kafka,
    new_topic,
    payloads,
    read,
    receive_for_ever,
    records,
    strict,
    topic,
)

__all__ = ["admin", "connected", "fragile", "kafka", "strict", "topic"]

# One worker has the brokers.
pytestmark = pytest.mark.xdist_group("kafka")

MINE = Key("Hub", "reply", "mine")
YOURS = Key("Hub", "reply", "yours")


@pytest.mark.parametrize("link", [{}, {"name": "n"}, {"group": "g"}], ids=["unnamed", "name", "group"])
async def test_control_messages_come_to_whoever_listens_beside_the_others(
    kafka: Kafka, connected: Open, topic: str, link: Any
) -> None:
    link = {kind: f"{name}-{topic}" for kind, name in link.items()}
    adapter = await connected(kafka, listen=[MINE], **link)
    sender = await connected(kafka, reads=False)
    assert await sender.send([*records(1), *control(YOURS, 7), *control(MINE, 2, 3), *records(4)]) == {}
    received = await read(adapter, 4)
    mine = [each for each in received if each.is_control]
    assert [each.key for each in mine] == [MINE, MINE]
    assert payloads(mine) == [2, 3]
    assert {(each.lane, each.position, each.token, each.trouble) for each in mine} == {(None,) * 4}
    assert payloads([each for each in received if not each.is_control]) == [1, 4]


async def test_control_messages_are_in_no_log(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka, listen=[MINE])
    await adapter.send([*control(MINE, 1), *records(2)])
    await read(adapter, 2)
    assert payloads(await adapter.history(10)) == [2]
    late = await connected(kafka, start="earliest", listen=[MINE])
    await adapter.send(records(3))
    assert payloads(await read(late, 2)) == [2, 3]


async def test_what_is_no_control_message_is_stored_whatever_its_key(kafka: Kafka, connected: Open) -> None:
    adapter = await connected(kafka, start="earliest", listen=[Key("Hub", "gap")])
    await adapter.send(records(1, key=Key("Hub", "gap")))
    (received,) = await read(adapter, 1)
    assert not received.is_control
    assert received.token is not None


async def test_two_members_of_a_group_get_their_own_control_messages(kafka: Kafka, connected: Open, topic: str) -> None:
    one = await connected(kafka, group=topic, listen=[MINE])
    reading = asyncio.ensure_future(read(one, 5))
    two = await connected(kafka, group=topic, listen=[YOURS])
    await two.send([*control(MINE, *range(5)), *control(YOURS, *range(5, 10))])
    assert payloads(await reading) == list(range(5))
    assert payloads(await read(two, 5)) == list(range(5, 10))


async def test_control_messages_come_where_there_is_no_room_for_others(kafka: Kafka, connected: Open) -> None:
    room = 0
    adapter = await connected(kafka, listen=[MINE], room=lambda: room)
    await adapter.send([*records(1, 2), *control(MINE, 3)])
    (received,) = await read(adapter, 1)
    assert received.is_control
    assert await adapter.receive() == []
    room = 1
    assert payloads(await read(adapter, 2)) == [1, 2]


async def test_messages_come_as_soon_as_there_is_room(
    kafka: Kafka, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test may take.
    monkeypatch.setattr("hubsub.bridges.kafka.adapter.READ_TIMEOUT", 50.0)
    room = 0
    adapter = await connected(kafka, room=lambda: room)
    await adapter.send(records(1))
    receiving = asyncio.ensure_future(adapter.receive())
    await asyncio.sleep(0.1)
    room = 1
    assert await receiving == []
    assert payloads(await read(adapter, 1)) == [1]


async def test_control_messages_do_not_wait_for_others(
    kafka: Kafka, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = await connected(kafka, listen=[MINE])
    # Longer than the test may take.
    monkeypatch.setattr(reader.Reader.read, "__defaults__", (50.0,))
    monkeypatch.setattr("hubsub.bridges.kafka.adapter.READ_TIMEOUT", 50.0)
    receiving = asyncio.ensure_future(read(adapter, 1))
    await asyncio.sleep(0)
    await adapter.send(control(MINE, 1))
    assert (await receiving)[0].is_control


async def test_whoever_only_asks_reads_replies_and_nothing_else(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    for options in ({"incoming": ()}, {"incoming": (), "reads": False}):
        adapter = await connected(kafka, listen=[MINE], **options)
        await adapter.send([*records(1), *control(MINE, 2)])
        (received,) = await read(adapter, 1)
        assert received.is_control
        assert adapter._reader is None


async def test_the_topic_of_control_messages_keeps_them_for_a_minute(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    await connected(kafka, listen=[MINE])
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"{topic}.control")])
    settings = {name: value for _, _, _, _, entries in answer.resources for name, value, *_ in entries}
    assert settings["retention.ms"] == settings["segment.ms"] == "60000"
    assert settings["cleanup.policy"] == "delete"


async def test_whoever_sends_the_first_control_message_makes_the_topic_as_well(
    kafka: Kafka, connected: Open, admin: AIOKafkaAdminClient, topic: str
) -> None:
    sender = await connected(kafka, reads=False)
    assert await sender.send(control(MINE, 1)) == {}
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"{topic}.control")])
    settings = {name: value for _, _, _, _, entries in answer.resources for name, value, *_ in entries}
    assert settings["retention.ms"] == "60000"


async def test_a_topic_with_a_name_of_any_length_has_one_of_control_messages(kafka: Kafka, connected: Open) -> None:
    adapters = [await connected(kafka, topic="x" * 249, listen=[MINE]) for _ in range(2)]
    await adapters[0].send(control(MINE, 1))
    for adapter in adapters:
        assert payloads(await read(adapter, 1)) == [1]


async def test_after_an_interruption_control_messages_come_as_before(kafka: Kafka, connected: Open) -> None:
    async with kafka.proxy() as proxy:
        adapter = await connected(proxy.url, sender="same", listen=[MINE])
        sender = await connected(kafka, reads=False)
        await sender.send(control(MINE, 1))
        assert payloads(await read(adapter, 1)) == [1]
        proxy.refuse()
        proxy.cut()
        with pytest.raises(ConnectionError):
            await receive_for_ever(adapter)
        await adapter.lost()
        await proxy.accept()
        await connect(adapter, sender="same", listen=[MINE])
        await sender.send(control(MINE, 2))
        assert payloads(await read(adapter, 1))[-1:] == [2]


async def test_a_dead_line_to_the_control_messages_is_noticed_also_without_room_for_others(
    fragile: Kafka, connected: Open
) -> None:
    adapter = await connected(fragile, listen=[MINE], room=lambda: 0)
    assert await adapter.receive() == []
    fragile.freeze()
    with pytest.raises(ConnectionError):
        await receive_for_ever(adapter)


async def test_without_a_topic_for_control_messages_the_others_come(
    strict: Kafka, connected: Open, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with administering(strict) as client:
        await client.create_topics([new_topic(topic)])
    await allow(strict, "alice", topic)
    url = f"kafka://{strict.username}:{strict.password}@{strict.address('SASL_PLAINTEXT')}"
    adapter = await connected(url, listen=[MINE])
    refused = await adapter.send([*records(1), *control(MINE, 2), *records(3)])
    assert list(refused) == [1]
    assert topic + ".control" in str(refused[1])
    assert payloads(await read(adapter, 2)) == [1, 3]
    told = [line for line in caplog.records if "no replies" in line.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.ERROR
