"""Several workers with an endpoint each, joined by Redis, some of them killed: a ledger of what every client gets."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from brokers.fixtures import Private
from brokers.redis_server import Redis
from brokers.web_server import WebServer
from hubsub import Bridge, ConfirmationTimeout, DeliveryError, Event, Gap, Hub
from hubsub.bridges.websocket import WebSocketAdapter
from hubsub.testing.conformance import until

ROOMS = 10
PATIENCE = 120.0
# Seconds that a message may have been on its way before a gap begins, on a busy machine.
ON_THE_WAY = 2.0


class Client:
    """A client of one of the workers, and all that it got."""

    def __init__(self, hub: Hub, bridge: Bridge, room: str) -> None:
        self.hub = hub
        self.bridge = bridge
        self.room = room
        self.came: Counter[Any] = Counter()
        self.gaps: list[Gap] = []
        hub.add_listener(("room", room), self._message, event=True)
        hub.add_listener(("Hub", "gap", "*"), lambda key, gap: self.gaps.append(gap))

    def _message(self, event: Event[Any]) -> None:
        self.came[event.message] += 1

    def misses(self, message: str, at: float) -> bool:
        """True if a message that was published at a time did not come, and no gap says so."""
        return message not in self.came and not any(gap.since - ON_THE_WAY <= at <= gap.until for gap in self.gaps)


class Company:
    """Workers, their clients, and what was confirmed."""

    def __init__(self, workers: list[WebServer]) -> None:
        self.workers = workers
        self.clients: list[Client] = []
        self.confirmed: dict[tuple[str, str], float] = {}
        """When it was published, by room and message."""

    def url(self, first: int) -> str:
        """That of all workers, beginning with one."""
        turned = self.workers[first:] + self.workers[:first]
        return f"ws://{','.join(f'127.0.0.1:{worker.port}' for worker in turned)}/ws"

    async def hire(self, stack: AsyncExitStack, number: int) -> None:
        """Have so many clients, evenly distributed."""
        for each in range(number):
            hub = await stack.enter_async_context(Hub())
            adapter = WebSocketAdapter(self.url(each % len(self.workers)))
            bridge = await stack.enter_async_context(Bridge(hub, adapter, both="*"))
            self.clients.append(Client(hub, bridge, str(each % ROOMS)))
        await self.all_up()

    async def all_up(self) -> None:
        """Wait until everybody is connected, and subscribed."""
        for client in self.clients:
            await client.bridge.ready(PATIENCE)

    async def publish(self, name: str, client: Client, until_set: asyncio.Event) -> None:
        """Publish to one room after the other, and note what is confirmed."""
        number = 0
        while not until_set.is_set():
            room, message, at = str(number % ROOMS), f"{name}-{number}", time.time()
            number += 1
            try:
                await client.hub.publish_confirmed(("room", room), message, timeout=30)
            except (DeliveryError, ConfirmationTimeout):
                continue
            self.confirmed[room, message] = at
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        """Wait until everybody has the last message of his room, published by way of each worker."""
        for number in range(ROOMS):
            for at, publisher in enumerate(self.clients[: len(self.workers)]):
                await publisher.hub.publish_confirmed(("room", str(number)), f"last-{at}", timeout=30)
        last = [f"last-{at}" for at in range(len(self.workers))]
        await until(
            lambda: all(message in client.came for client in self.clients for message in last),
            "the last messages",
            PATIENCE,
        )

    def check(self) -> None:
        """Compare what was confirmed with what came."""
        for at, client in enumerate(self.clients):
            twice = {message: count for message, count in client.came.items() if count > 1}
            assert not twice, f"client {at} got {len(twice)} messages more than once: {list(twice)[:5]}"
            missing = [
                (message, published)
                for (room, message), published in self.confirmed.items()
                if room == client.room and client.misses(message, published)
            ]
            assert not missing, f"client {at} misses {missing[:5]} of {len(missing)} without a gap: {client.gaps}"


async def keep_the_ledger(private: Private, *, workers: int, clients: int, kills: int) -> Company:
    chance = random.Random(workers)
    redis = await private(Redis())
    company = Company([await private(WebServer(redis=redis.url)) for _ in range(workers)])
    enough = asyncio.Event()
    async with AsyncExitStack() as stack:
        await company.hire(stack, clients)
        publishing = [
            asyncio.ensure_future(company.publish(f"p{at}", company.clients[at], enough)) for at in range(workers)
        ]
        for _ in range(kills):
            before = len(company.confirmed)
            await until(lambda: len(company.confirmed) > before + 20, "messages to be confirmed", PATIENCE)  # noqa: B023
            worker = chance.choice(company.workers)
            worker.kill()
            await company.all_up()
            await worker.start_wait()
        enough.set()
        await asyncio.gather(*publishing)
        await company.all_up()
        await company.end()
        company.check()
    return company


@pytest.mark.timeout(300)
async def test_whichever_of_two_workers_a_client_is_on_it_gets_everything_once(private: Private) -> None:
    company = await keep_the_ledger(private, workers=2, clients=12, kills=0)
    assert not any(client.gaps for client in company.clients)
    assert all(set(client.came) >= {"last-0", "last-1"} for client in company.clients)


@pytest.mark.timeout(300)
async def test_a_worker_that_is_killed_costs_its_clients_nothing_but_a_gap_that_says_so(private: Private) -> None:
    company = await keep_the_ledger(private, workers=2, clients=12, kills=2)
    assert sum(client.bridge.health().reconnects for client in company.clients) >= 2


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_the_ledger_of_two_hundred_clients_of_four_workers_balances(private: Private) -> None:
    company = await keep_the_ledger(private, workers=4, clients=200, kills=12)
    moved = sum(client.bridge.health().reconnects for client in company.clients)
    gaps = sum(len(client.gaps) for client in company.clients)
    print(f"{len(company.confirmed)} confirmed, {moved} moved, {gaps} gaps")
    assert moved > 200
