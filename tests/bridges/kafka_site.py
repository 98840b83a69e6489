"""What the tests of the adapter for Kafka have in common: brokers, adapters that are closed in the end, and readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import LeaderNotAvailableError, NotLeaderForPartitionError, UnknownTopicOrPartitionError
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from brokers import Kafka, Proxy
from brokers.fixtures import Expendable
from hubsub import Key
from hubsub.bridges.adapter import Link, Loss, Received, Record
from hubsub.bridges.kafka import KafkaAdapter

numbers = count(1)
Open = Callable[..., Awaitable[KafkaAdapter]]


class Plain(Kafka):
    """Topics that nobody made have three partitions."""

    def __init__(self) -> None:
        super().__init__(
            num_partitions=3, group_min_session_timeout_ms=1000, secure=("SSL", "SASL_PLAINTEXT", "SASL_SSL")
        )


class Strict(Kafka):
    """It makes no topics by itself, and lets `alice` do only what she is allowed to."""

    def __init__(self) -> None:
        super().__init__(
            num_partitions=2,
            group_min_session_timeout_ms=1000,
            auto_create_topics_enable="false",
            authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            super_users="User:ANONYMOUS",
            secure=("SASL_PLAINTEXT",),
        )


class Fragile(Kafka):
    """It is killed and frozen."""

    def __init__(self) -> None:
        super().__init__(num_partitions=2, group_min_session_timeout_ms=1000)


@pytest.fixture
def kafka(expendable: Expendable) -> Kafka:
    """A broker that stays up, for all tests of this worker."""
    return _running(expendable(Plain))


@pytest.fixture
def strict(expendable: Expendable) -> Kafka:
    """Another one, which is strict."""
    return _running(expendable(Strict))


@pytest.fixture
def fragile(expendable: Expendable) -> Iterator[Kafka]:
    """One that the test may kill and freeze; it is whole again for the next one, which had better use other groups."""
    broker = _running(expendable(Fragile))
    yield broker
    if broker.is_running:
        broker.thaw()


def _running(broker: Kafka) -> Kafka:
    return broker if broker.is_running else broker.start()


@pytest.fixture
def topic() -> str:
    return f"topic-{next(numbers)}"


@pytest.fixture
async def connected(topic: str) -> AsyncIterator[Open]:
    """Makes adapters that are connected, and closes them."""
    adapters = []

    async def open(
        broker: Kafka | str, /, *, topic: str = topic, options: Any = (), listen: Collection[Key[Any]] = (), **link: Any
    ) -> KafkaAdapter:
        url = broker if isinstance(broker, str) else broker.url
        adapter = KafkaAdapter(url, **{"topic": topic, **dict(options)})
        adapters.append(adapter)
        await connect(adapter, listen=listen, **link)
        return adapter

    yield open
    for adapter in adapters:
        await adapter.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def connect(adapter: KafkaAdapter, *, listen: Collection[Key[Any]] = (), **link: Any) -> None:
    """What the relay does."""
    given = {"sender": f"sender-{next(numbers)}", "namespace": "test", "incoming": (Key("*"),), **link}
    await adapter.connect(Link(**given, control=tuple(listen)))
    if listen:
        await adapter.listen(list(listen))


def records(*payloads: object, key: Key[Any] = Key("orders", "new")) -> list[Record]:  # noqa: B008 - immutable
    return [Record(key, str(payload).encode(), {}, next(numbers)) for payload in payloads]


def control(key: Key[Any], *payloads: object) -> list[Record]:
    return [Record(key, str(payload).encode(), is_control=True) for payload in payloads]


async def read(adapter: KafkaAdapter, number: int, *, ack: bool = True) -> list[Any]:
    """Receive so many things, losses included."""
    result: list[Received | Loss] = []
    async with asyncio.timeout(30):
        while len(result) < number:
            batch = await adapter.receive()
            result += batch
            if ack:
                await adapter.ack(last(batch))
    return result


def last(batch: Sequence[Received | Loss]) -> list[Any]:
    """The last token of each lane."""
    tokens = {each.lane: each.token for each in batch if isinstance(each, Received) and each.token is not None}
    return list(tokens.values())


def payloads(received: Sequence[Any]) -> list[Any]:
    return [int(each.payload) for each in received]


async def receive_for_ever(adapter: KafkaAdapter) -> None:
    while True:
        await adapter.receive()


@pytest.fixture
async def admin(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    async with administering(kafka) as client:
        yield client


class administering:
    """A client that administers a broker, in `async with`."""

    def __init__(self, broker: Kafka) -> None:
        self._client = AIOKafkaAdminClient(bootstrap_servers=broker.address())

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


def new_topic(topic: str, partitions: int = 1, **settings: object) -> NewTopic:
    configs = {name.replace("_", "."): str(value) for name, value in settings.items()}
    return NewTopic(topic, partitions, 1, topic_configs=configs)


# As the protocol counts them.
TOPIC, GROUP, LITERAL, ALLOW, DENY = 2, 3, 3, 3, 2
ALL, READ, WRITE = 2, 3, 4


async def allow(broker: Kafka, user: str, topic: str, operation: int = ALL, permission: int = ALLOW) -> None:
    """Let a user do something with a topic, or keep him from it; return when that is so."""
    await _have(broker, CreateAclsRequest, _acl(topic, user, operation, permission), number=1)


async def allow_no_longer(broker: Kafka, user: str, topic: str, operation: int = ALL, permission: int = ALLOW) -> None:
    await _have(broker, DeleteAclsRequest, _acl(topic, user, operation, permission), number=0)


async def _have(broker: Kafka, change: Any, acl: tuple[Any, ...], number: int) -> None:
    client = AIOKafkaClient(bootstrap_servers=broker.address())
    await client.bootstrap()
    try:
        await client.send(client.get_random_node(), change(*acl))
        # What the controller has written, the broker applies a moment later.
        number_now = -1
        while number_now != number:
            answer: Any = await client.send(client.get_random_node(), DescribeAclsRequest(*acl))
            number_now = len(answer.resources)
    finally:
        await client.close()


def _acl(topic: str, user: str, operation: int, permission: int) -> tuple[Any, ...]:
    return (TOPIC, topic, LITERAL, f"User:{user}", "*", operation, permission)


def slow(broker: Kafka, rate: float, late: float) -> Proxy:
    """A line to a broker of so many bytes a second, whose round trip takes twice so many seconds."""
    line = broker.proxy()
    line.slow(rate or None)
    line.delay(late)
    return line


NOT_YET = (LeaderNotAvailableError, NotLeaderForPartitionError, UnknownTopicOrPartitionError)


class NoText(str):
    """A name of a header that is these bytes."""

    def encode(self, *_: Any) -> bytes:
        return self.encoded

    encoded = b"\xff\xfe"


async def write_raw(broker: Kafka, topic: str, batch: Sequence[tuple[Any, Any, Any]]) -> None:
    """Write a batch of keys, values and headers as no client would."""
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 10**8)
    for offset, (key, value, headers) in enumerate(batch):
        builder.append(offset, None, key, value, headers)
    await write_bytes(broker, topic, bytes(builder.build()))


async def write_bytes(broker: Kafka, topic: str, batch: bytes) -> None:
    client = AIOKafkaClient(bootstrap_servers=broker.address())
    await client.bootstrap()
    await client.add_topic(topic)
    topics = [(topic, [(0, batch)])]
    request = ProduceRequest(required_acks=-1, timeout=5000, topics=topics, transactional_id=None)
    # A broker that has just made a topic does not know it everywhere yet.
    not_yet = [each.errno for each in NOT_YET]
    error = not_yet[0]
    while error in not_yet:
        answer: Any = await client.send(client.get_random_node(), request)
        ((_, ((_, error, *_),)),) = answer.topics
    await client.close()
    assert error == 0
