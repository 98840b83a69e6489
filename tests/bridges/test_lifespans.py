"""One bridge, made once, and loops that come and go: with each it carries, closed properly or not."""

import asyncio
from typing import Any

import pytest

from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.redis_server import Redis
from hubsub import Bridge, Hub, HubClosed, Key

ALL = Key("*")


class Pair:
    """Two hubs at module level, so to speak, joined by a broker."""

    def __init__(self, url: str, namespace: str) -> None:
        self.out, self.into = Hub(name="out"), Hub(name="into")
        self.sending = Bridge(self.out, url, outgoing=ALL, namespace=namespace)
        self.receiving = Bridge(self.into, url, incoming=ALL, namespace=namespace)
        self.seen: list[Any] = []
        self.came = asyncio.Event()
        self.into.add_listener("a", self.receive)

    def receive(self, key: Key[Any], message: Any) -> None:
        self.seen.append(message)
        self.came.set()

    async def carry(self, message: Any) -> None:
        self.came = asyncio.Event()
        await self.sending.ready()
        await self.receiving.ready()
        self.out.publish("a", message)
        await asyncio.wait_for(self.came.wait(), 20)

    async def run_and_close(self, message: Any) -> None:
        async with self.out, self.into, self.sending, self.receiving:
            await self.carry(message)

    async def run_with_the_hub(self, message: Any) -> None:
        async with self.out, self.into:
            await self.sending.start()
            await self.receiving.start()
            await self.carry(message)

    async def run_and_leave(self, message: Any) -> None:
        await self.sending.start()
        await self.receiving.start()
        await self.carry(message)


HOW = pytest.mark.parametrize("how", ["run_and_close", "run_with_the_hub", "run_and_leave"])


def check(url: str, namespace: str, how: str) -> None:
    pair = Pair(url, namespace)
    for message in range(3):
        asyncio.run(getattr(pair, how)(message))
    assert pair.seen == [0, 1, 2]


@HOW
def test_a_bridge_carries_in_each_run(how: str, namespace: str) -> None:
    check(f"memory://{namespace}", namespace, how)


@HOW
def test_a_bridge_by_redis_carries_in_each_run(how: str, redis: Redis, namespace: str) -> None:
    check(redis.url, namespace, how)


@HOW
def test_a_bridge_by_nats_carries_in_each_run(how: str, nats: Nats, namespace: str) -> None:
    check(nats.url, namespace, how)


@HOW
def test_a_bridge_by_postgres_carries_in_each_run(how: str, postgres: Postgres, namespace: str) -> None:
    check(postgres.url, namespace, how)


@HOW
def test_a_bridge_by_the_log_in_postgres_carries_in_each_run(how: str, postgres: Postgres, namespace: str) -> None:
    check(postgres.url.replace("postgres:", "postgres-log:"), namespace, how)


@HOW
def test_a_bridge_by_redis_streams_carries_in_each_run(how: str, redis: Redis, namespace: str) -> None:
    check(redis.url.replace("redis:", "redis-stream:"), namespace, how)


def test_a_bridge_whose_loop_was_closed_under_it_carries_on_the_next(namespace: str) -> None:
    pair = Pair(f"memory://{namespace}", namespace)
    for message in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(pair.run_and_leave(message))
        loop.close()
    assert pair.seen == [0, 1]


def test_a_bridge_whose_loop_was_closed_while_it_closed_carries_on_the_next(namespace: str) -> None:
    pair = Pair(f"memory://{namespace}", namespace)

    async def run_and_begin_to_close() -> None:
        await pair.run_and_leave(0)
        closing = [asyncio.ensure_future(bridge.close()) for bridge in (pair.sending, pair.receiving)]
        for task in closing:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(run_and_begin_to_close())
    loop.close()
    asyncio.run(pair.run_and_close(1))
    assert pair.seen == [0, 1]


def test_what_is_not_sent_when_a_loop_ends_is_told(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    bridge = Bridge(hub, "redis://127.0.0.1:1", outgoing=ALL, namespace=namespace)

    async def run() -> None:
        await bridge.start()
        for number in range(3):
            hub.publish("a", number)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    asyncio.run(bridge.start())
    assert "was not closed before its loop, and has lost 3 messages unsent" in caplog.text


async def test_what_a_closed_hub_refuses_opens_neither_it_nor_its_bridge() -> None:
    hub = Hub()
    hub.add_listener("a", print)
    async with hub:
        bridge = Bridge(hub, "memory://refused", both=ALL)
        await bridge.ready()
    with pytest.raises(HubClosed):
        await hub.publish_confirmed("a", 1)
    await asyncio.sleep(0)  # a bridge that is opened with its hub starts in a task
    await asyncio.sleep(0)
    assert not hub.is_open
    assert bridge.health().state == "closed"
    await hub.start()
    await bridge.ready()
    await hub.close()


async def test_what_is_published_right_after_the_hub_was_opened_again_is_carried() -> None:
    here, there = Hub(name="here"), Hub(name="there")
    sending = Bridge(here, "memory://again", outgoing=ALL)
    async with there, Bridge(there, "memory://again", incoming=ALL) as receiving:
        messages = there.subscribe("a")
        await receiving.synced()
        await sending.start()
        await here.close()
        await here.start()
        here.publish("a", 1)
        await sending.ready()
        assert (await asyncio.wait_for(messages.consume(), 20)).message == 1
        await here.close()


async def test_a_bridge_that_is_started_while_its_hub_closes_stays_closed() -> None:
    hub = Hub()
    bridge = Bridge(hub, "memory://late", both=ALL)
    hold = asyncio.Event()

    async def work(key: Key[Any], message: Any) -> None:
        await hold.wait()

    hub.add_listener("a", work)
    await bridge.start()
    hub.publish("a")
    closing = asyncio.ensure_future(hub.close())
    await bridge.close()
    with pytest.raises(HubClosed):
        await bridge.start()
    assert hub.border.outboxes == ()
    hold.set()
    await closing
    assert not hub.is_open


async def test_a_hub_that_is_opened_and_closed_at_once_opens_its_bridge_with_the_next_start() -> None:
    hub = Hub()
    bridge = Bridge(hub, "memory://at-once", both=ALL)
    await bridge.start()
    for _ in range(2):
        await hub.close()
        await hub.start()
    await hub.close()
    await asyncio.sleep(0)
    assert not hub.is_open
    await hub.start()
    await bridge.ready()
    await hub.close()


async def test_a_bridge_that_several_start_while_it_closes_is_opened_once() -> None:
    hub = Hub()
    bridge = Bridge(hub, "memory://several", both=ALL)
    await bridge.start()
    closing = asyncio.ensure_future(bridge.close())
    await asyncio.sleep(0)
    await asyncio.gather(bridge.start(), bridge.start(), closing)
    await bridge.ready()
    assert hub.bridges == (bridge,)
    assert len(hub.border.outboxes) == 1
    await hub.close()
