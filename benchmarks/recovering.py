"""What it costs when the broker is away, and how soon a bridge is back."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import hubsub

from . import brokers, harness
from .crossing import KEY, PATTERN, hubs
from .drivers import messages
from .harness import Side, compare, measure, seconds_per_call


def _recovery(kind: str, scheme: str, away: float, **options: Any) -> Side:
    """Kill a broker, start it again after so many seconds: how many more until a message crosses again."""

    async def seconds(broker: Any) -> float:
        loop = asyncio.get_running_loop()
        arrival: asyncio.Future[float] = loop.create_future()

        def arrived(message: Any) -> None:
            if not arrival.done():
                arrival.set_result(perf_counter())

        url = f"{scheme}{broker.url[broker.url.index('://') :]}"
        async with hubs(url, arrived, **options) as ends:
            await ends.one("before")
            await arrival
            broker.kill()
            arrival = loop.create_future()
            publishing = loop.create_task(_publish_on(ends.one))
            await asyncio.sleep(away)
            await broker.start_wait()
            ready = perf_counter()
            async with asyncio.timeout(30):
                found = await arrival - ready
            publishing.cancel()
            return max(0.0, found)

    def once() -> float:
        broker = brokers.private(kind).start()
        try:
            return asyncio.run(seconds(broker))
        finally:
            broker.close()

    return once


async def _publish_on(publish: Callable[[Any], Any]) -> None:
    while True:
        await publish("again")
        await asyncio.sleep(0.01)


@measure("s", at_most=1, rounds=5)
def recovery_of_redis_pubsub_after_2_s() -> Side:
    """From when Redis, killed and started again 2 s later, answers `PING` until a message crosses by Pub/Sub from hub
    to hub; one is published each 10 ms all the time."""
    return _recovery("Redis", "redis", 2)


@measure("s", at_most=1, rounds=5)
def recovery_of_redis_stream_after_2_s() -> Side:
    """The same by Redis Streams and a group."""
    return _recovery("Redis", "redis-stream", 2, group="group")


@measure("s", at_most=1, rounds=5)
def recovery_of_nats_after_2_s() -> Side:
    """The same by core NATS, from when it accepts connections."""
    return _recovery("Nats", "nats", 2)


@measure("s", at_most=1, rounds=5)
def recovery_of_jetstream_after_2_s() -> Side:
    """The same by JetStream and a group."""
    return _recovery("Nats", "jetstream", 2, group="group")


@measure("s", at_most=1, rounds=5)
def recovery_of_kafka_after_2_s() -> Side:
    """The same by Kafka and a group, from when it accepts connections."""
    return _recovery("Kafka", "kafka", 2, group="group")


@measure("s", at_most=1, rounds=5)
def recovery_of_rabbitmq_after_2_s() -> Side:
    """The same by RabbitMQ and a group, from when it answers to a greeting."""
    return _recovery("RabbitMQ", "amqp", 2, group="group")


@measure("s", at_most=1, rounds=5)
def recovery_of_mqtt_after_2_s() -> Side:
    """The same by MQTT, from when mosquitto accepts connections."""
    return _recovery("Mosquitto", "mqtt", 2)


@measure("s", at_most=1, rounds=5)
def recovery_of_postgres_notify_after_2_s() -> Side:
    """The same by LISTEN and NOTIFY of Postgres, from when `pg_isready` says so."""
    return _recovery("Postgres", "postgres", 2)


@measure("s", at_most=1, rounds=5)
def recovery_of_postgres_log_after_2_s() -> Side:
    """The same by a log in Postgres and a group."""
    return _recovery("Postgres", "postgres-log", 2, group="group")


@measure("s", at_most=1, rounds=3)
def recovery_of_redis_pubsub_after_15_s() -> Side:
    """The same by Redis Pub/Sub, started again 15 s later."""
    return _recovery("Redis", "redis", 15)


@measure("s", at_most=1, rounds=3)
def recovery_of_redis_stream_after_15_s() -> Side:
    """The same by Redis Streams and a group."""
    return _recovery("Redis", "redis-stream", 15, group="group")


@measure("s", at_most=1, rounds=3)
def recovery_of_kafka_after_15_s() -> Side:
    """The same by Kafka and a group."""
    return _recovery("Kafka", "kafka", 15, group="group")


def _publish_elsewhere(broker: Any) -> Side:
    """Publish to a listener of a hub that has a bridge for other keys to a broker that is down, or no bridge at all."""

    async def seconds() -> float:
        async with hubsub.Hub() as hub:
            hub.add_listener(KEY, _ignore)
            if broker is not None:
                bridge = hubsub.Bridge(hub, broker.url, both=("elsewhere", "*"))
                with suppress(hubsub.BridgeNotReady):
                    await bridge.ready(0.5)
                for message in messages(10_100):
                    hub.publish(("elsewhere", "kitchen"), message)
                    await asyncio.sleep(0)
            found = seconds_per_call(hub.publish, KEY, 1, 100_000)
            if broker is not None:
                assert bridge.health().outbox_messages == 10_000
                await bridge.close(0)
            return found

    return lambda: asyncio.run(seconds())


def _ignore(key: Any, message: Any) -> None:
    pass


@compare(at_most=1.05)
def publish_beside_a_bridge_that_is_down() -> tuple[Side, Side]:
    """`Hub.publish` to one sync listener of a hub that has a bridge for other keys, with a full outbox and no broker to
    be found, against a hub without a bridge."""
    return _publish_elsewhere(brokers.private("Redis")), _publish_elsewhere(None)


async def _growth(kind: str, scheme: str, seconds: float) -> float:
    """Bytes that a hub takes in so many seconds in which the broker is away, by the places of the outbox."""
    broker = brokers.private(kind).start()
    places = 10_000
    try:
        async with hubsub.Hub() as hub:
            url = f"{scheme}{broker.url[broker.url.index('://') :]}"
            bridge = hubsub.Bridge(hub, url, outgoing=PATTERN, outbox=places)
            await bridge.ready()
            hub.publish(KEY, "before")
            await bridge.flush()
            broker.kill()
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            began = perf_counter()
            for turn in range(int(seconds * 100)):
                for message in messages(100):
                    hub.publish(KEY, message)
                await asyncio.sleep(max(0.0, began + (turn + 1) / 100 - perf_counter()))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert bridge.health().outbox_messages == places
            await bridge.close(0)
            return grown / places
    finally:
        broker.close()


@measure("bytes", at_most=1_000, rounds=1)
def growth_while_redis_is_away() -> Side:
    """Memory that a hub takes in a minute in which Redis is away and 10 000 messages a second are published for a
    bridge by Pub/Sub, for each of the 10 000 places of the outbox, as counted by tracemalloc."""
    return lambda: asyncio.run(_growth("Redis", "redis", 60 / harness.shorter))
