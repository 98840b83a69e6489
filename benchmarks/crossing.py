"""What it takes to go from one hub to another through a broker, beside the broker's driver used directly."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import hubsub

from . import brokers, drivers
from .drivers import Arrived, Ends, Way
from .harness import Missing, Side, compare, measure
from .throughput import ELSEWHERE, SECONDS_AT_MOST

KEY: hubsub.Key[Any] = hubsub.Key("sensor", "kitchen")
PATTERN: hubsub.Key[Any] = hubsub.Key("sensor", "*")


@asynccontextmanager
async def hubs(
    url: str, arrived: Arrived, group: str | None = None, keys: int = 1, secret: str | None = None
) -> AsyncIterator[Ends]:
    """Through a bridge of one hub and that of another, where a sync listener is on each of so many keys."""
    namespace = uuid4().hex
    async with hubsub.Hub() as sending, hubsub.Hub() as receiving:
        receiving.add_listener([KEY, *(hubsub.Key("sensor", str(each)) for each in range(1, keys))], _listener(arrived))
        async with (
            hubsub.Bridge(sending, url, outgoing=PATTERN, namespace=namespace, secret=secret) as outward,
            hubsub.Bridge(receiving, url, incoming=PATTERN, namespace=namespace, group=group, secret=secret) as inward,
        ):
            await outward.ready()
            await inward.ready()

            async def many(messages: Sequence[Any]) -> None:
                for message in messages:
                    await sending.publish_wait(KEY, message)

            yield Ends(many, partial(sending.publish_wait, KEY))


def _listener(arrived: Arrived) -> Any:
    def listener(key: Any, message: Any) -> None:
        arrived(message)

    return listener


def bulk(way: Way, number: int = 20_000) -> Side:
    """Send so many messages as fast as they go, until all have arrived: seconds a message."""

    async def seconds() -> float:
        left = 0
        all_arrived = asyncio.Event()

        def arrived(message: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                all_arrived.set()

        async with way(arrived) as ends:
            # The first ones find out where to go.
            for each in (drivers.messages(500), drivers.messages(number)):
                left = len(each)
                all_arrived.clear()
                began = perf_counter()
                await ends.many(each)
                await all_arrived.wait()
            return (perf_counter() - began) / number

    return lambda: asyncio.run(asyncio.wait_for(seconds(), SECONDS_AT_MOST))


def latency(way: Way, number: int = 100) -> Side:
    """Send a message, wait until it has arrived, rest for a while, and so on: median of the seconds."""

    async def seconds() -> float:
        loop = asyncio.get_running_loop()
        arrival: asyncio.Future[float]

        async with way(lambda message: arrival.set_result(perf_counter())) as ends:
            found = []
            for message in drivers.messages(number):
                arrival = loop.create_future()
                began = perf_counter()
                await ends.one(message)
                found.append(await arrival - began)
                await asyncio.sleep(0.005)
            return median(found)

    return lambda: asyncio.run(asyncio.wait_for(seconds(), SECONDS_AT_MOST))


def pubsub() -> tuple[Way, Way]:
    url = brokers.shared("Redis").url
    return partial(hubs, url), partial(drivers.redis_pubsub, url)


def stream() -> tuple[Way, Way]:
    url = brokers.shared("Redis").url
    ours = url.replace("redis:", "redis-stream:")
    return partial(hubs, ours, group="group"), partial(drivers.redis_stream, url)


def postgres() -> tuple[Way, Way]:
    url = brokers.shared("Postgres").url
    return partial(hubs, url), partial(drivers.postgres_notify, url)


def file() -> tuple[Way, Way]:
    folder = Path(tempfile.mkdtemp())
    # Each round has a file of its own, on both sides.
    numbers = count()
    return (
        lambda arrived: hubs(f"sqlite://{folder / f'ours{next(numbers)}.db'}", arrived),
        lambda arrived: drivers.sqlite(str(folder / f"theirs{next(numbers)}.db"), arrived),
    )


def postgres_log() -> tuple[Way, Way]:
    url = brokers.shared("Postgres").url
    return partial(hubs, url.replace("postgres:", "postgres-log:"), group="group"), partial(drivers.postgres_table, url)


def nats() -> tuple[Way, Way]:
    url = brokers.shared("Nats").url
    return partial(hubs, url), partial(drivers.nats_core, url)


def jetstream() -> tuple[Way, Way]:
    url = brokers.shared("Nats").url
    return partial(hubs, url.replace("nats:", "jetstream:"), group="group"), partial(drivers.jetstream, url)


def kafka() -> tuple[Way, Way]:
    broker = brokers.shared("Kafka")
    return partial(hubs, broker.url, group="group"), partial(drivers.kafka, broker.address())


def kafka_batches() -> tuple[Way, Way]:
    return kafka()[0], partial(drivers.kafka_batches, brokers.shared("Kafka").address())


def kafka_librdkafka() -> tuple[Way, Way]:
    if find_spec("confluent_kafka") is None:
        raise Missing("confluent-kafka is missing: python -m pip install 'hubsub[bench]'")
    return kafka()[0], partial(drivers.kafka_librdkafka, brokers.shared("Kafka").address())


def rabbitmq() -> tuple[Way, Way]:
    url = brokers.shared("RabbitMQ").url
    return partial(hubs, url, group="group"), partial(drivers.rabbitmq, url)


def mqtt() -> tuple[Way, Way]:
    broker = brokers.shared("Mosquitto")
    return partial(hubs, broker.url), partial(drivers.mqtt, broker.port)


def mqtt_client() -> tuple[Way, Way]:
    broker = brokers.shared("Mosquitto")
    return partial(hubs, broker.url), partial(drivers.mqtt_client, broker.port)


@compare(at_least=5)
def bulk_through_redis_pubsub_broadcaster() -> tuple[Side, Side]:
    """`Hub.publish_wait` of 20 000 messages until a sync listener of another hub has had them, by Redis Pub/Sub,
    against 5 000 `publish` and `get` of broadcaster; each message."""
    if "broadcaster" not in ELSEWHERE:
        raise Missing("its environment is missing, `make bench` makes it")
    ours, _ = pubsub()
    url = brokers.shared("Redis").url
    return bulk(ours), lambda: ELSEWHERE["broadcaster"].run("redis", 5_000, url) / 5_000


@compare(at_least=1.3)
def bulk_through_redis_pubsub() -> tuple[Side, Side]:
    """The same against redis-py with hiredis: `PUBLISH` in pipelines of 500, `PubSub.listen`."""
    ours, theirs = pubsub()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.75)
def bulk_through_redis_stream() -> tuple[Side, Side]:
    """The same by Redis Streams and a group, at least once, against redis-py with hiredis: `XADD` in pipelines of 500,
    `XREADGROUP` of 500 at most and one `XACK` for them."""
    ours, theirs = stream()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.25)
def bulk_through_sqlite() -> tuple[Side, Side]:
    """The same by a file of SQLite, against Python's sqlite3: 500 rows in a transaction, read 500 at most behind the
    last number when `pragma data_version` has changed, which is looked at each 4 ms."""
    ours, theirs = file()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.4)
def bulk_through_nats() -> tuple[Side, Side]:
    """The same by core NATS against nats-py: `publish` and one `flush` for 500, `subscribe` with a callback."""
    ours, theirs = nats()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.6)
def bulk_through_jetstream() -> tuple[Side, Side]:
    """The same by JetStream and a group, at least once, against nats-py: `publish_async` awaited by 500, `fetch` of 500
    at most by a durable pull consumer, and an `ack` for each."""
    ours, theirs = jetstream()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.8)
def bulk_through_rabbitmq() -> tuple[Side, Side]:
    """The same by RabbitMQ and a group, at least once, against aiormq and a quorum queue: 500 `basic_publish` at a
    time, each confirmed, and a consumer with a prefetch of 1000, which acknowledges each 250."""
    ours, theirs = rabbitmq()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.5)
def bulk_through_kafka() -> tuple[Side, Side]:
    """The same by Kafka and a group, at least once, against aiokafka: `send` by an idempotent producer, awaited by
    500, `getmany` of 500 at most, `commit` each 100 ms."""
    ours, theirs = kafka()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.25)
def bulk_through_kafka_batches() -> tuple[Side, Side]:
    """The same against aiokafka's batches by hand: `create_batch` of 500 and `send_batch`, four of them under way."""
    ours, theirs = kafka_batches()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.15)
def bulk_through_kafka_librdkafka() -> tuple[Side, Side]:
    """The same against librdkafka, by confluent-kafka: `produce` with a callback, four lots of 500 under way, `poll`
    and `consume` of 500 at most in threads of their own."""
    ours, theirs = kafka_librdkafka()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.6)
def bulk_through_mqtt() -> tuple[Side, Side]:
    """The same by MQTT with QoS 1, against gmqtt, the fastest of the clients: `publish` of 500 and a turn of the loop,
    which it does not wait for, and `on_message`."""
    ours, theirs = mqtt_client()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.6)
def bulk_through_mqtt_codec() -> tuple[Side, Side]:
    """The same against mqtt5 alone, the codec in Rust that the bridge stands on, with asyncio's sockets by hand: 500
    packets without user properties written at once and awaited, acknowledgements written together."""
    ours, theirs = mqtt()
    return bulk(ours), bulk(theirs)


@compare(at_least=5)
def bulk_through_postgres_notify_broadcaster() -> tuple[Side, Side]:
    """The same by LISTEN and NOTIFY of Postgres, against 5 000 `publish` and `get` of broadcaster; each message."""
    if "broadcaster" not in ELSEWHERE:
        raise Missing("its environment is missing, `make bench` makes it")
    ours, _ = postgres()
    url = brokers.shared("Postgres").url
    return bulk(ours), lambda: ELSEWHERE["broadcaster"].run("postgres", 5_000, url) / 5_000


@compare(at_least=0.4)
def bulk_through_postgres_notify() -> tuple[Side, Side]:
    """The same by LISTEN and NOTIFY against asyncpg: `pg_notify` of 500 in one prepared statement, `add_listener`."""
    ours, theirs = postgres()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.35)
def bulk_through_postgres_log() -> tuple[Side, Side]:
    """The same by a log in Postgres and a group, at least once, against asyncpg with a table by hand: `insert` of 500,
    NOTIFY, an `update` of 500 `for update skip locked`, and one `delete` for them."""
    ours, theirs = postgres_log()
    return bulk(ours), bulk(theirs)


@compare(at_least=0.9)
def bulk_through_redis_pubsub_10k_keys() -> tuple[Side, Side]:
    """The same by Redis Pub/Sub to one key of 10 000 that are subscribed, lazily, hence at Redis too, against that
    one key alone."""
    ours, _ = pubsub()
    return bulk(partial(ours, keys=10_000)), bulk(ours)


@compare(at_most=1.3)
def bulk_through_redis_pubsub_signed() -> tuple[Side, Side]:
    """The same by Redis Pub/Sub, each message signed with `secret=` and verified, against those that are not."""
    ours, _ = pubsub()
    return bulk(partial(ours, secret="s3cret")), bulk(ours)


@compare(at_most=1.3)
def bulk_through_redis_stream_signed() -> tuple[Side, Side]:
    """The same by Redis Streams and a group."""
    ours, _ = stream()
    return bulk(partial(ours, secret="s3cret")), bulk(ours)


@compare(at_most=1.5)
def latency_through_redis_pubsub() -> tuple[Side, Side]:
    """A single message from hub to hub by Redis Pub/Sub, when nothing else is under way, against redis-py's `publish`
    and `listen`."""
    ours, theirs = pubsub()
    return latency(ours), latency(theirs)


@compare(at_most=1.5)
def latency_through_redis_stream() -> tuple[Side, Side]:
    """The same by Redis Streams and a group, against redis-py's `xadd` and `xreadgroup`."""
    ours, theirs = stream()
    return latency(ours), latency(theirs)


@compare(at_most=1.5)
def latency_through_postgres_notify() -> tuple[Side, Side]:
    """The same by LISTEN and NOTIFY of Postgres, against asyncpg."""
    ours, theirs = postgres()
    return latency(ours), latency(theirs)


@compare(at_most=1.5)
def latency_through_mqtt() -> tuple[Side, Side]:
    """The same by MQTT with QoS 1, against the codec mqtt5 by hand."""
    ours, theirs = mqtt()
    return latency(ours), latency(theirs)


READER = """
import asyncio, sys, time, hubsub

async def main(url, number):
    seconds, done = [], asyncio.Event()

    def arrived(key, message):
        seconds.append(time.perf_counter() - message)
        if len(seconds) == number:
            done.set()

    async with hubsub.Hub() as hub, hubsub.Bridge(hub, url, incoming=["at"], namespace="rest") as bridge:
        hub.add_listener("at", arrived)
        await bridge.ready(30)
        print("ready", flush=True)
        await done.wait()
    print(sorted(seconds)[int(number * 0.99)], flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@measure("ms", at_most=10, rounds=5)
def latency_between_processes_sqlite() -> Side:
    """From `Hub.publish` in one process until a listener of another one is called, by a file of SQLite, of a message
    each 20 ms: of 300, the slowest but two (p99)."""

    async def milliseconds(url: str, number: int) -> float:
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, url, str(number), stdout=asyncio.subprocess.PIPE
        )
        assert reader.stdout is not None
        async with hubsub.Hub() as hub, hubsub.Bridge(hub, url, outgoing=["at"], namespace="rest") as bridge:
            await bridge.ready(30)
            await reader.stdout.readline()
            for _ in range(number):
                # One clock for all processes of the machine.
                hub.publish("at", perf_counter())
                await asyncio.sleep(0.02)
            found = float(await reader.stdout.readline())
        await reader.wait()
        return 1000 * found

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(asyncio.wait_for(milliseconds(f"sqlite://{folder}/log.db", 300), SECONDS_AT_MOST))

    return once


@compare(at_most=1.5)
def latency_through_kafka() -> tuple[Side, Side]:
    """The same by Kafka and a group, against aiokafka's `send_and_wait` and `getmany`."""
    ours, theirs = kafka()
    return latency(ours), latency(theirs)
