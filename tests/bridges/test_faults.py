"""What happens to brokers and lines, and what becomes of messages meanwhile; with real brokers.

Of a durable broker every confirmed message arrives, once, and there is no gap. Of another one only messages are missing
that were published within the interruption that the one gap names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil
import pytest

from brokers.broker import Broker
from brokers.fixtures import Private
from brokers.kafka_server import Kafka
from brokers.proxy import Proxy
from brokers.redis_server import Redis
from hubsub import DeliveryError, Gap, Hub, Key
from hubsub.bridges import Bridge, adapter_for
from hubsub.testing.conformance import Site, Sites, sites

ALL: Key[Any] = Key("*")


class Kind(NamedTuple):
    """A broker as a bridge uses it."""

    broker: Callable[[], Broker]
    scheme: str
    options: Mapping[str, Any] = MappingProxyType({})
    """Of the bridge that receives."""

    @property
    def is_durable(self) -> bool:
        return self.scheme != "redis"


KINDS = {
    "redis": Kind(Redis, "redis"),
    "redis-stream": Kind(Redis, "redis-stream"),
    "redis-stream name": Kind(Redis, "redis-stream", {"name": "reader"}),
    "redis-stream group": Kind(Redis, "redis-stream", {"group": "readers"}),
    "kafka": Kind(Kafka, "kafka"),
    "kafka name": Kind(Kafka, "kafka", {"name": "reader"}),
    "kafka group": Kind(Kafka, "kafka", {"group": "readers"}),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
one_of_each = pytest.mark.parametrize(
    "kind", [KINDS["redis"], KINDS["redis-stream group"], KINDS["kafka"]], ids=["redis", "redis-stream", "kafka"]
)
pytestmark = pytest.mark.timeout(120)


class Scene:
    """A sender, a receiver, and the ledger of what was published, confirmed and received."""

    def __init__(self, kind: Kind, broker: Broker, line: Proxy) -> None:
        self.kind = kind
        self.broker = broker
        self.line = line
        self.namespace = ""
        self.sender: Site
        self.receiver: Site
        self.published: dict[int, float] = {}
        self.confirmed: set[int] = set()
        self._going: set[asyncio.Task[None]] = set()

    async def publish(self, seconds: float) -> None:
        """Publish a message each hundredth of a second, without waiting for confirmations."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number = len(self.published)
            self.published[number] = time.time()
            task = asyncio.ensure_future(self._publish(number))
            self._going.add(task)
            task.add_done_callback(self._going.discard)
            await asyncio.sleep(0.01)

    async def _publish(self, number: int) -> None:
        try:
            await self.sender.hub.publish_confirmed(("k", str(number % 3)), number, timeout=60)
        except DeliveryError:
            return
        self.confirmed.add(number)

    async def settle(self) -> None:
        """Wait until both are connected, everything is confirmed, and what is published now arrives."""
        await self.sender.bridge.ready(30)
        await self.receiver.bridge.ready(30)
        if self._going:
            await asyncio.wait(self._going, timeout=30)
        await self.publish(0.1)
        last = max(self.published)
        await self.receiver.until(lambda: last in self.received)

    @property
    def received(self) -> list[int]:
        return self.receiver.messages

    def check(self, gaps: int = 1) -> None:
        """Compare what was confirmed with what came; `gaps` are those that a broker that is not durable owes."""
        received = self.received
        assert len(received) == len(set(received)), "a listener got a message twice"
        assert len(self.confirmed) > 10
        missing = self.confirmed - set(received)
        if self.kind.is_durable:
            assert not missing
            assert not self.receiver.gaps
            if "group" not in self.kind.options:
                for lane in range(3):
                    numbers = [number for number in received if number % 3 == lane]
                    assert numbers == sorted(numbers)
            return
        assert len(self.receiver.gaps) == gaps
        for number in missing:
            assert any(gap.since - 0.5 <= self.published[number] <= gap.until for gap in self.receiver.gaps), number


@asynccontextmanager
async def scene(kind: Kind, private: Private, *, start: bool = True) -> AsyncIterator[Scene]:
    """A sender and a receiver that are connected by a line which can be cut; afterwards nothing of them is left."""
    broker = private.keep(kind.broker())
    if start:
        await broker.start_wait()
    async with broker.proxy() as line:
        url = line.url.replace("redis:", f"{kind.scheme}:", 1)
        async with sites(lambda: adapter_for(url)) as those:
            scene = Scene(kind, broker, line)
            scene.namespace = those.namespace
            if start:
                scene.sender = await those.add(outgoing=ALL)
                scene.receiver = await those.add(ALL, incoming=ALL, **kind.options)
                await scene.publish(0.2)
                await scene.settle()
            else:
                await _absent(scene, those)
            yield scene
        ports = {connection.raddr.port for connection in psutil.Process().net_connections() if connection.raddr}
        assert line.port not in ports, "a connection is left"


async def _absent(scene: Scene, those: Sites) -> None:
    """Make both while there is no broker."""
    for options in ({"outgoing": ALL}, {"incoming": ALL, **scene.kind.options, "start": "new"}):
        hub = await those._stack.enter_async_context(Hub())
        bridge = Bridge(hub, those._make(), namespace=those.namespace, **options)
        site = Site(hub, bridge)
        await those._stack.enter_async_context(bridge)
        if "incoming" in options:
            site.listen(ALL)
            scene.receiver = site
        else:
            scene.sender = site


async def during(seconds: float, scene: Scene, fault: Callable[[], Awaitable[Any]]) -> None:
    """Publish for some seconds while something happens."""
    publishing = asyncio.ensure_future(scene.publish(seconds))
    await fault()
    await publishing


@every_kind
async def test_a_broker_that_is_killed_and_comes_back_after_2_s(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            await asyncio.sleep(0.3)
            those.broker.kill()
            await asyncio.sleep(2)
            await those.broker.start_wait()

        await during(3.5, those, fault)
        await those.settle()
        those.check()


@one_of_each
async def test_a_broker_that_is_killed_and_comes_back_after_15_s(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            await asyncio.sleep(0.3)
            those.broker.kill()
            await asyncio.sleep(15)
            await those.broker.start_wait()

        await during(16, those, fault)
        await those.settle()
        those.check()


@every_kind
async def test_a_broker_that_freezes_for_8_s(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            await asyncio.sleep(0.3)
            those.broker.freeze()
            await asyncio.sleep(8)
            those.broker.thaw()

        await during(9, those, fault)
        await those.settle()
        those.check()


@every_kind
async def test_a_line_that_is_cut(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            for _ in range(3):
                await asyncio.sleep(0.4)
                those.line.cut()
                if not kind.is_durable:
                    await asyncio.sleep(0.2)
                    await those.receiver.bridge.ready()

        await during(2.5, those, fault)
        await those.settle()
        those.check(gaps=3)


@one_of_each
async def test_a_line_that_stalls_for_6_s(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            await asyncio.sleep(0.3)
            those.line.stall()
            await asyncio.sleep(6)
            those.line.resume()

        await during(7, those, fault)
        await those.settle()
        those.check()


@one_of_each
async def test_a_broker_that_does_what_it_is_told_and_cannot_answer(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:

        async def fault() -> None:
            await asyncio.sleep(0.3)
            those.line.stall_replies()
            await asyncio.sleep(1)
            those.line.cut()
            those.line.resume()

        await during(2, those, fault)
        await those.settle()
        those.check()


@one_of_each
async def test_a_broker_that_is_absent_at_the_start(kind: Kind, private: Private) -> None:
    async with scene(kind, private, start=False) as those:

        async def fault() -> None:
            await asyncio.sleep(1)
            assert those.receiver.bridge.health().state == "connecting"
            await those.broker.start_wait()
            await those.receiver.bridge.ready(30)

        await fault()
        await those.publish(0.5)
        await those.settle()
        those.check(gaps=0)


@one_of_each
async def test_a_broker_that_is_restarted_between_batches(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:
        for _ in range(2):
            await those.publish(0.2)
            await those.settle()
            await those.broker.restart_wait()
            await those.settle()
        those.check(gaps=2)


@one_of_each
async def test_a_hub_that_is_closed_while_it_sends(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:
        before = len(those.received)
        adapter = adapter_for(those.line.url.replace("redis:", f"{kind.scheme}:", 1))
        async with Hub() as hub, Bridge(hub, adapter, outgoing=ALL, namespace=those.namespace) as bridge:
            await bridge.ready(30)
            for number in range(5000):
                hub.publish(("k", str(number % 3)), number)
            left = await bridge.close(20)
        assert left == (0, 0)
        await those.receiver.wait_for(before + 5000)
        assert len(those.received) == before + 5000


@pytest.mark.parametrize("kind", [KINDS["redis-stream"], KINDS["kafka"]], ids=["redis-stream", "kafka"])
async def test_how_far_a_reader_is_behind_is_told(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:
        assert those.receiver.bridge.health().lag == 0

        lags: list[int] = []

        async def slow(key: Key[Any], message: Any) -> None:
            await asyncio.sleep(0.001)
            lags.append(those.receiver.bridge.health().lag or 0)

        those.receiver.hub.add_listener(ALL, slow)
        for number in range(4000):
            await those.sender.hub.publish_wait(("k", str(number % 3)), number)
        await those.sender.bridge.flush(30)
        async with asyncio.timeout(30):
            while len(lags) < 4000:  # noqa: ASYNC110 - a listener tells nobody
                await asyncio.sleep(0.01)
        assert 1000 < max(lags) <= 4000
        assert those.receiver.bridge.health().lag == 0


@pytest.mark.parametrize("kind", [KINDS["redis-stream"], KINDS["redis-stream name"]], ids=["nameless", "name"])
async def test_a_stream_that_is_trimmed_or_flushed_is_a_gap_with_its_count(kind: Kind, private: Private) -> None:
    async with scene(kind, private) as those:
        assert isinstance(those.broker, Redis)
        subscription = those.receiver.hub.subscribe(ALL, gaps=True)
        # Of a name that counts as missing which was not acknowledged: that takes a tenth of a second.
        await asyncio.sleep(0.5)
        those.line.refuse()
        those.line.cut()
        with those.broker.client() as client:
            for _ in range(7):
                client.xadd(those.namespace, {"key": "k", "payload": "1"})
            client.xtrim(those.namespace, maxlen=2, approximate=False)
        await those.line.accept()
        gap: Any = None
        async with asyncio.timeout(20):
            while not isinstance(gap, Gap):
                gap = await subscription.consume()
        assert (gap.reason, gap.count) == ("trimmed", 5)
        with those.broker.client() as client:
            client.flushall()
        await those.publish(0.2)
        gap = None
        async with asyncio.timeout(20):
            while not isinstance(gap, Gap):
                gap = await subscription.consume()
        assert gap.reason == "recreated"
