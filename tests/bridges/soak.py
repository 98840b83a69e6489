"""The soak: very many messages through a broker that is killed every few seconds; `make soak` prints what came of it.

Nothing that was confirmed may be missing, nothing may reach a listener twice, and memory may not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil

from brokers.broker import Broker
from brokers.kafka_server import Kafka
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from brokers.redis_server import Redis
from hubsub import Bridge, Event, Hub, Key, Undelivered
from hubsub.bridges import Adapter
from hubsub.bridges.kafka import KafkaAdapter
from hubsub.bridges.nats import JetStreamAdapter
from hubsub.bridges.postgres import PostgresLogAdapter
from hubsub.bridges.rabbitmq import RabbitMQAdapter
from hubsub.bridges.redis import RedisStreamAdapter
from hubsub.bridges.sqlite import SQLiteAdapter

SOAK = Key("soak", "+")
KEYS = [Key("soak", str(number)) for number in range(100)]
FILLING = "x" * 180
# Published and not received yet, at most; what is not confirmed is part of it.
AHEAD = 5_000
# Of the messages, before the memory is measured first: until then caches fill.
WARM = 0.2


class Disk:
    """A file of SQLite, whose folder goes away in the middle of everything, as that of a disk that is pulled out."""

    def __init__(self) -> None:
        self._root = TemporaryDirectory()
        self._folder = Path(self._root.name, "there")
        self.url = f"sqlite://{self._folder / 'log.db'}"

    @classmethod
    def missing(cls) -> str | None:
        return None

    async def start_wait(self) -> None:
        self._folder.mkdir()

    async def restart_wait(self) -> None:
        away = self._folder.rename(self._folder.with_name("away"))
        await asyncio.sleep(0.2)
        away.rename(self._folder)

    def close(self) -> None:
        self._root.cleanup()


class Kind(NamedTuple):
    """A broker, and how a bridge gets there."""

    broker: type[Broker | Disk]
    adapter: Callable[[str], Adapter]
    every: float
    """Seconds that the broker is up, unless others are wished."""


KINDS = {
    "redis-stream": Kind(
        Redis,  # with appendfsync always
        # Short, so that the server has little to read when it starts again.
        lambda url: RedisStreamAdapter(url.replace("redis:", "redis-stream:"), maxlen=100_000),
        3.0,
    ),
    "kafka": Kind(Kafka, KafkaAdapter, 5.0),
    "postgres-log": Kind(
        Postgres,
        lambda url: PostgresLogAdapter(url.replace("postgres:", "postgres-log:"), maxlen=100_000),
        5.0,
    ),
    "jetstream": Kind(
        Nats,
        lambda url: JetStreamAdapter(url.replace("nats:", "jetstream:"), maxlen=100_000),
        3.0,
    ),
    "rabbitmq": Kind(RabbitMQ, RabbitMQAdapter, 5.0),
    "sqlite": Kind(Disk, lambda url: SQLiteAdapter(url, maxlen=100_000), 3.0),
}


class Figures(NamedTuple):
    """What came of it."""

    seconds: float
    kills: int
    published: int
    confirmed: int
    lost: int
    """Confirmed, and never received."""
    doubled: int
    """Received by the listener more than once."""
    duplicates: int
    """Came from the broker more than once, and were kept from the listener."""
    unclear: int
    gaps: int
    failed: int
    warm: int
    """Bytes of memory of this process after the warm-up."""
    grown: int
    """Bytes more at the end."""
    tenths: tuple[int, ...]
    """Bytes after each tenth: what fills ends, and what leaks does not."""

    def __str__(self) -> str:
        rows = self._replace(seconds=round(self.seconds, 1), warm=self.warm >> 10, grown=self.grown >> 10)._asdict()
        tenths = ", ".join(f"{size >> 20}" for size in rows.pop("tenths"))
        units = {"warm": " KiB", "grown": " KiB", "seconds": " s"}
        lines = [f"  {name:<12}{value:>12,}{units.get(name, '')}" for name, value in rows.items()]
        return "\n".join([*lines, f"  MiB after each tenth: {tenths}"])


class Ledger:
    """What became of each message, by its number."""

    def __init__(self) -> None:
        self.confirmed = bytearray()
        self.received = bytearray()
        self.failed = 0
        self.finished = 0
        self.came = asyncio.Event()

    def publish(self, hub: Hub, number: int) -> None:
        self.confirmed.append(0)
        self.received.append(0)

        def confirmed(finished: int, failures: list[Undelivered]) -> None:
            if failures:
                self.failed += 1
            else:
                self.confirmed[number] = 1

        hub.border.relay(Event(KEYS[number % len(KEYS)], [number, FILLING]), confirmed=confirmed)

    def receive(self, key: Key[Any], message: Any) -> None:
        number = message[0]
        self.finished += not self.received[number]
        self.received[number] += 1
        self.came.set()


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


async def soak(
    kind: Kind,
    namespace: str,
    messages: float,
    seconds: float = math.inf,
    every: float | None = None,
    least_kills: int = 0,
    reader: Mapping[str, str] = MappingProxyType({"name": "soak"}),
) -> Figures:
    """Send so many messages, or for so long, to a broker that is killed every so many seconds, and started again.

    However slow the machine is, it is killed so many times at least. `reader` has the name of the bridge that receives,
    or its group.
    """
    broker = kind.broker()
    ledger = Ledger()
    kills = 0
    started = time.monotonic()

    ended = asyncio.Event()

    async def kill() -> None:
        nonlocal kills
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), every or kind.every)
                return
            await broker.restart_wait()
            kills += 1

    try:
        await broker.start_wait()
        async with (
            Hub(name="out") as out,
            Hub(name="in") as into,
            Bridge(out, kind.adapter(broker.url), outgoing=SOAK, namespace=namespace) as sending,
            Bridge(into, kind.adapter(broker.url), incoming=SOAK, namespace=namespace, **reader) as receiving,
        ):
            into.add_listener(SOAK, ledger.receive)
            await sending.ready(30)
            await receiving.ready(30)
            killing = asyncio.create_task(kill())
            published, warm = 0, 0
            tenths: list[int] = []
            while kills < least_kills or (published < messages and time.monotonic() - started < seconds):
                while published - ledger.finished >= AHEAD:
                    ledger.came.clear()
                    await ledger.came.wait()
                for _ in range(100):
                    ledger.publish(out, published)
                    published += 1
                await asyncio.sleep(0)
                progress = max(published / messages, (time.monotonic() - started) / seconds)
                warm = warm or (memory() if progress > WARM else 0)
                if progress >= (len(tenths) + 1) / 10:
                    tenths.append(memory())
            ended.set()
            await killing
            await sending.flush(60)
            async with asyncio.timeout(60):
                while any(map(int.__gt__, ledger.confirmed, ledger.received)):
                    ledger.came.clear()
                    await ledger.came.wait()
            grown = memory() - warm
            # What comes once more would come now.
            await asyncio.sleep(2)
            sent, got = sending.health(), receiving.health()
    finally:
        broker.close()
    return Figures(
        seconds=time.monotonic() - started,
        kills=kills,
        published=published,
        confirmed=sum(ledger.confirmed),
        lost=sum(map(int.__gt__, ledger.confirmed, ledger.received)),
        doubled=sum(times > 1 for times in ledger.received),
        duplicates=got.duplicates,
        unclear=sent.unclear,
        gaps=got.gaps,
        failed=ledger.failed,
        warm=warm,
        grown=grown,
        tenths=tuple(tenths),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--every", type=float, help="seconds that the broker is up between two kills")
    parser.add_argument("--group", action="store_true", help="by a member of a group, instead of a reader with a name")
    arguments = parser.parse_args()
    reader = {"group" if arguments.group else "name": "soak"}
    for name in arguments.kinds:
        print(name, flush=True)
        figures = asyncio.run(soak(KINDS[name], "soak", arguments.messages, every=arguments.every, reader=reader))
        print(figures, flush=True)


if __name__ == "__main__":
    main()
