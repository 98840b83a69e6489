"""The fixtures by which tests get brokers, and what a test that has one of them is marked with.

`redis`, `valkey`, `kafka`, `postgres`, `rabbitmq`, `mosquitto` and `nats` are instances for everybody: a test keeps to
its own `namespace`, and leaves them as it found them.
Whoever kills, freezes or configures makes an instance of his own with `private`.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import pytest

from .broker import Broker
from .hiredis_wheel import hiredis
from .kafka_server import Kafka
from .mosquitto import Mosquitto
from .nats_server import Nats, NewestNats
from .postgres_server import Postgres
from .rabbitmq_server import RabbitMQ
from .redis_cluster import RedisCluster
from .redis_server import Redis, Valkey
from .web_server import WebServer

B = TypeVar("B", bound=Broker)

SHARED: dict[str, type[Broker]] = {
    "redis": Redis,
    "redis_cluster": RedisCluster,
    "valkey": Valkey,
    "kafka": Kafka,
    "postgres": Postgres,
    "rabbitmq": RabbitMQ,
    "mosquitto": Mosquitto,
    "nats": Nats,
    "web": WebServer,
}

SLOW = {"kafka", "rabbitmq"}


def pytest_itemcollected(item: pytest.Item) -> None:
    names = SHARED.keys() & getattr(item, "fixturenames", ())
    if names or {"private", "expendable"} & set(getattr(item, "fixturenames", ())):
        # What a broker does depends neither on the event loop nor on the version of Python.
        item.add_marker("once")
    if item.get_closest_marker("long") is not None:
        item.add_marker("once")
    # A Kafka or a RabbitMQ takes seconds to start: one worker has it. A Redis takes none, every worker has its own.
    if (slow := SLOW & names) and item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(min(slow)))


def require(kind: type[Broker]) -> None:
    """Skip the test if this machine has no such broker; fail it where nothing may be skipped."""
    reason = kind.missing()
    # What is no broker, such as a file, is there without one; and so is an endpoint of our own.
    if os.environ.get("BROKERS") == "0" and issubclass(kind, Broker) and kind is not WebServer:
        reason = "BROKERS=0"
    if reason is None:
        return
    if os.environ.get("HUBSUB_REQUIRE_ALL") == "1":
        pytest.fail(f"needs {kind.name}, and nothing may be skipped: {reason}", pytrace=False)
    pytest.skip(f"needs {kind.name}: {reason}")


def require_program(name: str, package: str) -> None:
    """Skip the test if this machine has no such program; fail it where nothing may be skipped."""
    if shutil.which(name) is None:
        skip = pytest.fail if os.environ.get("HUBSUB_REQUIRE_ALL") == "1" else pytest.skip
        skip(f"{name} is not installed: apt-get install {package}")


def _shared(kind: type[B]) -> Iterator[B]:
    require(kind)
    broker = kind()
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis for all tests of this worker."""
    yield from _shared(Redis)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis Cluster of three masters for all tests of this worker."""
    yield from _shared(RedisCluster)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A Valkey for all tests of this worker."""
    yield from _shared(Valkey)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A Kafka for all tests of this worker."""
    yield from _shared(Kafka)


@pytest.fixture(scope="session")
def nats() -> Iterator[Nats]:
    """A NATS for all tests of this worker, the newest that is here."""
    yield from _shared(NewestNats)


@pytest.fixture(scope="module", params=[False, True], ids=["oldest", "newest"])
def each_nats(request: pytest.FixtureRequest) -> Iterator[Nats]:
    """The oldest NATS that is here, and the newest."""
    require(Nats)
    started = Nats(newest=request.param)
    try:
        yield started.start()
    finally:
        started.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of this worker."""
    yield from _shared(Postgres)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ for all tests of this worker."""
    yield from _shared(RabbitMQ)


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Mosquitto]:
    """A Mosquitto for all tests of this worker."""
    yield from _shared(Mosquitto)


@pytest.fixture(scope="session")
def web() -> Iterator[WebServer]:
    """An endpoint for all tests of this worker: whatever they publish, they find there."""
    yield from _shared(WebServer)


@pytest.fixture(params=["own", "hiredis"])
def resp_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What parses the replies of Redis: each test with it runs with the parser of our own and with hiredis."""
    module = hiredis() if request.param == "hiredis" else None
    if request.param == "hiredis" and module is None:
        reason = "hiredis is not in .cache/hiredis: make test"
        if os.environ.get("HUBSUB_REQUIRE_ALL") == "1" and os.environ.get("BROKERS") != "0":
            pytest.fail(f"needs hiredis, and nothing may be skipped: {reason}", pytrace=False)
        pytest.skip(f"needs hiredis: {reason}")
    monkeypatch.setitem(sys.modules, "hiredis", module)  # None: as if it were not installed
    return str(request.param)


@pytest.fixture
def namespace() -> str:
    """A prefix, or the name of a topic, that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


class Private:
    """The brokers of one test, which may do to them what it likes."""

    def __init__(self) -> None:
        self._brokers: list[Broker] = []

    def keep(self, broker: B) -> B:
        """Take care of a broker that the test starts itself, later perhaps."""
        self._brokers.append(broker)
        require(type(broker))
        return broker

    async def __call__(self, broker: B) -> B:
        """Start a broker, as in `redis = await private(Redis(maxmemory="10mb"))`."""
        return await self.keep(broker).start_wait()

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()


@pytest.fixture
async def private() -> AsyncIterator[Private]:
    """Starts brokers that are this test's own, and closes them after it."""
    brokers = Private()
    yield brokers
    brokers.close()


class Expendable:
    """Brokers that tests may kill and freeze, one test after the other, as long as each leaves them whole."""

    def __init__(self) -> None:
        self._brokers: dict[type[Broker], Broker] = {}

    def __call__(self, kind: type[B]) -> B:
        """The one of a kind; perhaps it does not run."""
        if kind not in self._brokers:
            require(kind)
            self._brokers[kind] = kind()
        broker: Any = self._brokers[kind]
        assert isinstance(broker, kind)
        return broker

    def close(self) -> None:
        for broker in self._brokers.values():
            broker.close()


@pytest.fixture(scope="session")
def expendable() -> Iterator[Expendable]:
    """Brokers of this worker that may be harmed."""
    brokers = Expendable()
    yield brokers
    brokers.close()
