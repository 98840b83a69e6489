"""Three brokers of Kafka, each of which has a copy of everything, and is killed in turn."""

import asyncio
import gc
import logging
from itertools import count

import pytest

from brokers.fixtures import Private
from brokers.kafka_server import Kafka
from hubsub import Key
from hubsub.bridges.kafka import KafkaAdapter
from hubsub.testing.conformance import sites

KEYS = [Key("k", str(number)) for number in range(3)]
WAYS: list[dict[str, str]] = [{}, {"name": "reader"}, {"group": "readers"}]


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_brokers_that_are_killed_in_turn_lose_and_double_nothing(
    private: Private, caplog: pytest.LogCaptureFixture
) -> None:
    brokers = [private.keep(broker) for broker in Kafka.of_cluster(3)]
    await asyncio.gather(*(broker.start_wait(60) for broker in brokers))
    async with sites(lambda: KafkaAdapter([broker.address() for broker in brokers])) as those:
        sender = await those.add(outgoing="*", ready=False)
        readers = [await those.add(("k", "+"), incoming=("k", "+"), ready=False, **way) for way in WAYS]
        for site in (sender, *readers):
            await site.bridge.ready(90)
        numbers, confirmed = count(), set[int]()

        async def publish() -> None:
            while True:
                lot = [next(numbers) for _ in range(30)]
                await asyncio.gather(
                    *(sender.hub.publish_confirmed(KEYS[number % 3], number, timeout=120) for number in lot)
                )
                confirmed.update(lot)

        publishing = asyncio.ensure_future(publish())
        for broker in brokers:
            await asyncio.sleep(1)
            broker.kill()
            before = len(confirmed)
            await sender.until(lambda: len(confirmed) > before + 300, "the others to do its work", 90)  # noqa: B023
            await broker.start_wait(60)
            # Until it has what it has missed, the next one may not die: two of three have each message.
            before = len(confirmed)
            await asyncio.sleep(5)
            await sender.until(lambda: len(confirmed) > before + 300, "all to work", 90)  # noqa: B023
        publishing.cancel()
        await asyncio.wait([publishing])
        for site, way in zip(readers, WAYS, strict=True):
            await site.until(lambda: confirmed.issubset(site.messages), "everything", 90)  # noqa: B023
            assert len(site.messages) == len(set(site.messages))
            assert not site.gaps
            if "group" not in way:
                for key in range(3):
                    of_key = [number for number in site.messages if number % 3 == key]
                    assert of_key == sorted(of_key)
    gc.collect()
    errors = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    assert not errors, "somebody's error was never heard"
