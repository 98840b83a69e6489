"""Every adapter keeps the contract, with its real broker."""

import os

import pytest

from brokers.kafka_server import Kafka
from brokers.redis_server import Redis
from hubsub.bridges import adapter_for
from hubsub.testing import conformance

checks = pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)


@checks
async def test_the_memory_adapter_conforms(check: conformance.Check) -> None:
    url = f"memory://{os.urandom(4).hex()}"
    await check(lambda: adapter_for(url))


@checks
async def test_the_adapter_of_redis_pubsub_conforms(check: conformance.Check, redis: Redis) -> None:
    await check(lambda: adapter_for(redis.url))


@checks
async def test_the_adapter_of_redis_streams_conforms(check: conformance.Check, redis: Redis) -> None:
    await check(lambda: adapter_for(redis.url.replace("redis:", "redis-stream:")))


@checks
async def test_the_adapter_of_kafka_conforms(check: conformance.Check, kafka: Kafka) -> None:
    await check(lambda: adapter_for(kafka.url))
