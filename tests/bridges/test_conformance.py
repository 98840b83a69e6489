"""Every adapter keeps the contract, with its real broker."""

import os
from pathlib import Path
from typing import Any

import pytest

from brokers.fixtures import Expendable
from brokers.kafka_server import Kafka
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from brokers.redis_cluster import RedisCluster
from brokers.redis_server import Redis, Valkey
from brokers.web_server import WebServer
from hubsub.bridges import adapter_for
from hubsub.bridges.sqlite import SQLiteAdapter
from hubsub.testing import conformance

from .pending import pending


def checks(kind: str) -> Any:
    """All of them, for an adapter."""
    return pytest.mark.parametrize(
        "check",
        [pytest.param(check, id=check.__name__, marks=pending(check.__name__, kind)) for check in conformance.CHECKS],
    )


pytestmark = pytest.mark.timeout(180)


@checks("memory")
async def test_the_memory_adapter_conforms(check: conformance.Check) -> None:
    url = f"memory://{os.urandom(4).hex()}"
    await check(lambda: adapter_for(url))


@checks("redis")
async def test_the_adapter_of_redis_pubsub_conforms(check: conformance.Check, redis: Redis, resp_parser: str) -> None:
    await check(lambda: adapter_for(redis.url))


@checks("redis-stream")
async def test_the_adapter_of_redis_streams_conforms(check: conformance.Check, redis: Redis, resp_parser: str) -> None:
    await check(lambda: adapter_for(redis.url.replace("redis:", "redis-stream:")))


@checks("redis-cluster")
async def test_the_adapter_of_redis_cluster_conforms(check: conformance.Check, redis_cluster: RedisCluster) -> None:
    await check(lambda: adapter_for(redis_cluster.url))


@checks("redis")
async def test_the_adapter_of_redis_pubsub_conforms_with_valkey(check: conformance.Check, valkey: Valkey) -> None:
    await check(lambda: adapter_for(valkey.url))


@checks("redis-stream")
async def test_the_adapter_of_redis_streams_conforms_with_valkey(check: conformance.Check, valkey: Valkey) -> None:
    await check(lambda: adapter_for(valkey.url.replace("redis:", "redis-stream:")))


@checks("kafka")
async def test_the_adapter_of_kafka_conforms(check: conformance.Check, kafka: Kafka) -> None:
    await check(lambda: adapter_for(kafka.url))


@checks("postgres")
async def test_the_adapter_of_postgres_conforms(check: conformance.Check, postgres: Postgres) -> None:
    await check(lambda: adapter_for(postgres.url))


@checks("sqlite")
async def test_the_adapter_of_sqlite_conforms(check: conformance.Check, tmp_path: Path) -> None:
    await check(lambda: SQLiteAdapter(tmp_path / "log.db"))


@checks("postgres-log")
async def test_the_adapter_of_the_log_in_postgres_conforms(check: conformance.Check, postgres: Postgres) -> None:
    await check(lambda: adapter_for(postgres.url.replace("postgres:", "postgres-log:")))


@checks("rabbitmq")
async def test_the_adapter_of_rabbitmq_conforms(check: conformance.Check, rabbitmq: RabbitMQ) -> None:
    await check(lambda: adapter_for(rabbitmq.url))


@checks("nats")
async def test_the_adapter_of_core_nats_conforms(check: conformance.Check, nats: Nats) -> None:
    await check(lambda: adapter_for(nats.url))


@checks("mqtt")
async def test_the_adapter_of_mqtt_conforms(check: conformance.Check, mosquitto: Mosquitto) -> None:
    await check(lambda: adapter_for(mosquitto.url))


@checks("ws")
async def test_the_client_of_an_endpoint_conforms(check: conformance.Check, web: WebServer) -> None:
    await check(lambda: adapter_for(web.url))


@checks("jetstream")
async def test_the_adapter_of_jetstream_conforms(check: conformance.Check, nats: Nats) -> None:
    await check(lambda: adapter_for(nats.url.replace("nats:", "jetstream:")))


@pytest.mark.long
@checks("jetstream")
async def test_the_adapter_of_jetstream_conforms_with_the_oldest_server(
    check: conformance.Check, expendable: Expendable
) -> None:
    server = expendable(Nats)
    await server.start_wait()
    await check(lambda: adapter_for(server.url.replace("nats:", "jetstream:")))
