"""What happens to brokers and lines is survived by each adapter, with a real broker: plain, named and in a group."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from brokers.broker import Broker
from brokers.fixtures import Expendable
from brokers.kafka_server import Kafka
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats, NewestNats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from brokers.redis_cluster import RedisCluster
from brokers.redis_server import Redis
from brokers.web_server import WebServer
from hubsub import Gap, Key
from hubsub.testing import conformance
from hubsub.testing.conformance import sites
from hubsub.testing.conformance.scene import PATIENCE

from .harmed import (
    Harmed,
    HarmedEndpoint,
    HarmedJetStream,
    HarmedKafka,
    HarmedMemory,
    HarmedMosquitto,
    HarmedNats,
    HarmedPostgres,
    HarmedPostgresLog,
    HarmedRedis,
)
from .harmed_cluster import HarmedRedisCluster
from .harmed_file import HarmedSQLite
from .harmed_rabbitmq import HarmedRabbitMQ
from .pending import pending

ALL: Key[Any] = Key("*")


class Kind(NamedTuple):
    """A broker as a bridge uses it."""

    process: type[Broker]
    harmed: type[Harmed]
    scheme: str
    options: dict[str, Any] = {}  # noqa: RUF012 - of a tuple, which is never changed


KINDS = {
    "redis": Kind(Redis, HarmedRedis, "redis"),
    "redis-stream": Kind(Redis, HarmedRedis, "redis-stream"),
    "redis-stream name": Kind(Redis, HarmedRedis, "redis-stream", {"name": "reader"}),
    "redis-stream group": Kind(Redis, HarmedRedis, "redis-stream", {"group": "readers"}),
    "redis-cluster": Kind(RedisCluster, HarmedRedisCluster, "redis+cluster"),
    "postgres": Kind(Postgres, HarmedPostgres, "postgres"),
    "postgres-log": Kind(Postgres, HarmedPostgresLog, "postgres-log"),
    "postgres-log name": Kind(Postgres, HarmedPostgresLog, "postgres-log", {"name": "reader"}),
    "postgres-log group": Kind(Postgres, HarmedPostgresLog, "postgres-log", {"group": "readers"}),
    "amqp": Kind(RabbitMQ, HarmedRabbitMQ, "amqp"),
    "amqp name": Kind(RabbitMQ, HarmedRabbitMQ, "amqp", {"name": "reader"}),
    "amqp group": Kind(RabbitMQ, HarmedRabbitMQ, "amqp", {"group": "readers"}),
    "nats": Kind(Nats, HarmedNats, "nats"),
    "nats group": Kind(NewestNats, HarmedNats, "nats", {"group": "readers"}),
    # Both with the other version.
    "nats newest": Kind(NewestNats, HarmedNats, "nats"),
    "nats oldest group": Kind(Nats, HarmedNats, "nats", {"group": "readers"}),
    "jetstream": Kind(NewestNats, HarmedJetStream, "jetstream"),
    "jetstream name": Kind(Nats, HarmedJetStream, "jetstream", {"name": "reader"}),
    "jetstream group": Kind(NewestNats, HarmedJetStream, "jetstream", {"group": "readers"}),
    # With the other version.
    "jetstream oldest": Kind(Nats, HarmedJetStream, "jetstream"),
    "jetstream newest name": Kind(NewestNats, HarmedJetStream, "jetstream", {"name": "reader"}),
    "jetstream oldest group": Kind(Nats, HarmedJetStream, "jetstream", {"group": "readers"}),
    "ws": Kind(WebServer, HarmedEndpoint, "ws"),
    "mqtt": Kind(Mosquitto, HarmedMosquitto, "mqtt"),
    "mqtt name": Kind(Mosquitto, HarmedMosquitto, "mqtt", {"name": "reader"}),
    "mqtt group": Kind(Mosquitto, HarmedMosquitto, "mqtt", {"group": "readers"}),
    "kafka": Kind(Kafka, HarmedKafka, "kafka"),
    "kafka name": Kind(Kafka, HarmedKafka, "kafka", {"name": "reader"}),
    "kafka group": Kind(Kafka, HarmedKafka, "kafka", {"group": "readers"}),
}

OF_REDIS = [name for name, kind in KINDS.items() if kind.harmed is HarmedRedis]

# Of what takes seconds, and is the same for each way to read, one is enough for `make test`.
ONE_OF_EACH = {
    *("redis", "nats", "jetstream group", "postgres-log group", "redis-stream group"),
    *("kafka name", "mqtt name", "amqp group"),
}
SLOW = {
    "a_narrow_line_is_not_a_dead_one",
    "a_long_line_is_not_a_dead_one",
    "a_broker_that_is_killed_under_load_again_and_again",
    "a_loop_that_is_blocked_is_not_a_dead_broker",
    "closing_while_the_broker_does_not_answer",
}
# A cluster needs two seconds and more until its nodes agree again that it works.
LONG_WITH_CLUSTER = {
    "a_broker_that_is_restarted_between_messages",
    "a_broker_that_is_killed_under_load_again_and_again",
}
# What has a Kafka or a RabbitMQ started again and again, or needs many round trips, or many seconds each way.
LONG_WITH_KAFKA = {
    "a_connection_that_only_the_broker_still_has",
    "a_broker_that_is_restarted_between_messages",
    "a_broker_that_is_killed_under_load_again_and_again",
    "a_narrow_line_is_not_a_dead_one",
    "a_long_line_is_not_a_dead_one",
    "closing_while_the_broker_does_not_answer",
}
# What others show too, and what each time takes RabbitMQ's own tool, which takes seconds to start.
LONG_WITH_RABBITMQ = {"a_loop_that_is_blocked_is_not_a_dead_broker", "a_broker_that_forbids_to_send"}


def trials() -> list[Any]:
    """Each fault with each kind; `long` is what `make soak` runs."""
    found = []
    for name in KINDS:
        for fault in conformance.FAULTS:
            marks = [pytest.mark.xdist_group(f"faults of {name}"), *pending(fault.__name__, name)]
            # These take seconds for what others do in tenths; the log in Postgres is read in three ways by one code.
            is_slow = fault.__name__ in SLOW or name.startswith(("kafka", "amqp", "postgres-log", "jetstream"))
            is_long = (
                fault.is_long
                or (name == "redis-cluster" and fault.__name__ in LONG_WITH_CLUSTER)
                or name in ("nats newest", "nats oldest group")
                or (name.startswith(("kafka", "amqp", "jetstream")) and fault.__name__ in LONG_WITH_KAFKA)
                or (name.startswith("amqp") and fault.__name__ in LONG_WITH_RABBITMQ)
            )
            if is_long or (is_slow and name not in ONE_OF_EACH):
                # Not on the function: its marks come first.
                # A RabbitMQ takes twenty seconds to start while others are at work.
                marks += [pytest.mark.long, pytest.mark.timeout(7200 if "hundred" in fault.__name__ else 1800)]
            else:
                marks.append(pytest.mark.timeout(180))
            found.append(pytest.param(fault, name, id=f"{fault.__name__}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("fault", "name"), trials())
async def test_what_happens_to_it_is_survived(fault: conformance.Fault, name: str, expendable: Expendable) -> None:
    kind = KINDS[name]
    broker = kind.harmed(expendable(kind.process), kind.scheme)
    async with broker.line:
        await fault(broker, **kind.options)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.__name__, marks=pending(fault.__name__, "memory"))
        for fault in conformance.FAULTS
        if not fault.is_long
    ],
)
async def test_what_happens_within_the_process_is_survived(fault: conformance.Fault) -> None:
    await fault(HarmedMemory(os.urandom(4).hex()))


# What waits for a silence of seconds to be noticed.
SLOW_IN_A_FILE = {
    "a_broker_that_freezes",
    "a_broker_that_does_what_it_is_told_and_cannot_answer",
}
IN_A_FILE: dict[str, dict[str, Any]] = {"sqlite": {}, "sqlite name": {"name": "reader"}, "sqlite group": {"group": "g"}}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        pytest.param(
            fault,
            name,
            id=f"{fault.__name__}-{name}",
            marks=[pytest.mark.long]
            if fault.is_long
            or fault.__name__ in ("a_line_that_stalls", "a_long_line_is_not_a_dead_one")
            or (fault.__name__ in SLOW | SLOW_IN_A_FILE and name != "sqlite group")
            else [],
        )
        for name in IN_A_FILE
        for fault in conformance.FAULTS
    ],
)
async def test_what_happens_to_a_file_is_survived(fault: conformance.Fault, name: str, tmp_path: Path) -> None:
    await fault(HarmedSQLite(tmp_path), **IN_A_FILE[name])


# What only some of them tell


@pytest.mark.parametrize("name", ["redis-stream", "kafka", "postgres-log"])
async def test_how_far_a_reader_is_behind_is_told(name: str, expendable: Expendable) -> None:
    kind = KINDS[name]
    broker = kind.harmed(expendable(kind.process), kind.scheme)
    async with broker.line, sites(broker.adapter) as those:
        await broker.start()
        sender, receiver = await those.add(outgoing=ALL), await those.add(incoming=ALL)
        lags: list[int] = []

        async def slow(key: Key[Any], message: Any) -> None:
            await asyncio.sleep(0.001)
            lags.append(receiver.bridge.health().lag or 0)

        receiver.hub.add_listener(("k", "+"), slow)
        await receiver.bridge.ready()
        for number in range(4000):
            await sender.hub.publish_wait(("k", str(number % 3)), number)
        await sender.bridge.flush(30)
        await conformance.until(lambda: len(lags) == 4000, "all to be handled", 120)
        assert 1000 < max(lags) <= 4000
        await conformance.until(lambda: receiver.bridge.health().lag == 0, "the reader to know that it is not behind")


@pytest.mark.parametrize("options", [{}, {"name": "reader"}], ids=["nameless", "name"])
async def test_a_stream_that_is_trimmed_or_flushed_is_a_gap_with_its_count(
    options: dict[str, Any], expendable: Expendable
) -> None:
    process = expendable(Redis)
    broker = HarmedRedis(process, "redis-stream")
    async with broker.line, sites(broker.adapter) as those:
        await broker.start()
        sender, receiver = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL, **options)
        await sender.hub.publish_confirmed("k", 0)
        await receiver.see(0)
        # Of a name that counts as missing which was not acknowledged: that takes a tenth of a second.
        await asyncio.sleep(0.5)
        subscription = receiver.hub.subscribe(ALL, gaps=True)
        broker.line.refuse()
        broker.line.cut()
        with process.client() as client:
            for _ in range(7):
                client.xadd(those.namespace, {"key": "k", "payload": "1"})
            client.xtrim(those.namespace, maxlen=2, approximate=False)
        await broker.line.accept()

        async def next_gap() -> Gap:
            async with asyncio.timeout(20):
                while not isinstance(item := await subscription.consume(), Gap):
                    pass
            return item

        gap = await next_gap()
        assert (gap.reason, gap.count) == ("trimmed", 5)
        with process.client() as client:
            client.delete(*client.keys(f"{those.namespace}*"))
        for number in range(10):
            sender.hub.publish("k", number)
        assert (await next_gap()).reason == "recreated"


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each == "redis-stream group" else pytest.mark.long) for each in OF_REDIS]
)
async def test_a_redis_that_cannot_save_takes_no_writes_and_everything_arrives_later(
    name: str, expendable: Expendable
) -> None:
    kind = KINDS[name]
    process = expendable(Redis)
    broker = HarmedRedis(process, kind.scheme)
    async with broker.line, sites(broker.adapter) as those:
        await broker.start()
        sender, receiver = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL, **kind.options)
        await sender.hub.publish_confirmed(("k", "0"), 0)
        await receiver.see(0)
        # A file that it cannot replace: MISCONF, for each write and even for PING.
        in_the_way = process.folder / "dump.rdb"
        with process.client() as client:
            in_the_way.mkdir()
            client.config_set("save", "3600 1")
            client.bgsave()
            await conformance.until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",  # type: ignore[index]
                "Redis to find out",
            )
            late = await those.add(ALL, incoming=ALL, **kind.options, ready=False)
            for number in range(1, 20):
                sender.hub.publish(("k", str(number % 3)), number)
            await asyncio.sleep(2)
            for site in (sender, receiver):
                assert site.bridge.health().reconnects <= 1, "it is connected to again and again"
            in_the_way.rmdir()
            client.config_set("stop-writes-on-bgsave-error", "no")
        await receiver.until(
            lambda: set(receiver.messages) | set(late.messages) == set(range(20)), "all messages", PATIENCE
        )
        if kind.options.get("group"):
            assert len(receiver.messages) + len(late.messages) == 20
        assert not receiver.gaps
