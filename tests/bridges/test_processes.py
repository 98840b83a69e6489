"""Three processes over one broker, one of them killed and started again: what was confirmed and what came balance."""

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from brokers.fixtures import Private
from brokers.kafka_server import Kafka
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from brokers.redis_server import Redis
from hubsub import Bridge, Hub

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("worker.py")
PUBLISHERS = ("a", "b")
PATIENCE = 60.0
# Seconds after which a member counts as dead: more than a busy machine keeps one that lives from its loop.
LEASE = 8.0

pytestmark = pytest.mark.timeout(150)

Message = tuple[str, int, int]
"""Who published it: a name and the process that had it; and its number there."""


class Line(NamedTuple):
    """Of the ledger, see worker.py."""

    what: str
    name: str
    pid: int
    time: float
    figures: list[Any]

    @property
    def message(self) -> Message:
        name, pid, number = self.figures[:3]
        return name, pid, number


class Company:
    """Workers, and the ledger that all of them write."""

    def __init__(self, folder: Path, url: str, **adapter: Any) -> None:
        self.folder = folder
        self.url = url
        self.adapter = adapter
        self.working: dict[str, subprocess.Popen[bytes]] = {}
        self.lines: list[Line] = []
        self._read = 0

    def hire(self, name: str, bridge: dict[str, Any]) -> int:
        """Start a worker with some options of its bridge; return its process id."""
        options = {"publishes": name in PUBLISHERS, "bridge": bridge, "adapter": self.adapter}
        with (self.folder / f"{name}.txt").open("ab") as complaints:
            process = subprocess.Popen(
                [sys.executable, PROGRAM, self.folder / "ledger", name, self.url, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=complaints,
                stderr=complaints,
                cwd=ROOT,
                bufsize=0,
                env={"PYTHONPATH": str(ROOT)},
            )
        self.working[name] = process
        return process.pid

    def kill(self, name: str) -> int:
        """Kill a worker without warning; return what was its process id."""
        process = self.working.pop(name)
        process.kill()
        process.communicate()
        return process.pid

    def look(self) -> list[Line]:
        """All lines that are written by now."""
        with (self.folder / "ledger").open("a+b") as ledger:
            ledger.seek(self._read)
            new, end, _ = ledger.read().rpartition(b"\n")
        self._read += len(new + end)
        for line in new.splitlines():
            what, name, pid, at, *figures = json.loads(line)
            self.lines.append(Line(what, name, pid, at, figures))
        return self.lines

    def of(self, what: str, name: str | None = None, pid: int | None = None) -> list[Line]:
        """Lines of a kind, of one worker or one process."""
        return [
            line for line in self.look() if line.what == what and name in (None, line.name) and pid in (None, line.pid)
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for name, process in self.working.items():
                assert process.poll() is None, f"{name} has ended:\n{self.complaints(name)}"
            assert time.monotonic() < deadline, "\n".join(
                [str(Counter(line[:3] for line in self.lines)), *map(self.complaints, self.working)]
            )
            await asyncio.sleep(0.05)

    def complaints(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    async def work(self, *names: str, count: int = 200) -> None:
        """Let each of these have so many more messages confirmed."""
        before = {name: len(self.of("confirmed", name)) for name in names}
        await self.until(lambda: all(len(self.of("confirmed", name)) >= before[name] + count for name in names))

    async def finish(self, balances: Callable[[], bool]) -> None:
        """Have everybody stop publishing, wait until the ledger balances, and have them end."""
        for process in self.working.values():
            assert process.stdin is not None
            process.stdin.write(b"\n")
        await self.until(lambda: len(self.of("stopped")) == len(PUBLISHERS))
        await self.until(balances)
        working, self.working = self.working, {}
        for process in working.values():
            process.stdin.close()  # type: ignore[union-attr]
        for name, process in working.items():
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0, self.complaints(name)
        assert not self.of("failed")

    def close(self) -> None:
        for name in list(self.working):
            self.kill(name)

    # Accounts

    def confirmed(self) -> set[Message]:
        return {line.message for line in self.of("confirmed")}

    def received(self, name: str | None = None, pid: int | None = None) -> Counter[Message]:
        return Counter(line.message for line in self.of("received", name, pid))


@pytest.fixture
async def new_company(tmp_path: Path) -> AsyncIterator[Callable[..., Company]]:
    made: list[Company] = []

    def make(url: str, **options: Any) -> Company:
        made.append(Company(tmp_path, url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def kill_and_restart(company: Company, hire: Callable[[str], int]) -> tuple[int, int]:
    """Work with three, the second of which is killed in the middle and started again; return its process ids."""
    for name in "abc":
        hire(name)
    await company.until(lambda: len(company.of("ready")) == 3)
    await company.work("a", "b")
    before = company.kill("b")
    await company.work("a")
    after = hire("b")
    await company.until(lambda: bool(company.of("ready", pid=after)))
    await company.work("a", "b")
    return before, after


# Durable, by name: everybody gets everything


async def names_balance(company: Company, **bridge: Any) -> None:
    await kill_and_restart(company, lambda name: company.hire(name, {"name": name, "start": "earliest", **bridge}))
    await company.finish(lambda: all(company.confirmed() <= company.received(name).keys() for name in "abc"))
    # Who was never interrupted got nothing twice. The killed one may get again what it had not acknowledged yet,
    # its own messages among that.
    for name in "ac":
        assert set(company.received(name).values()) == {1}, name
    assert set(company.received("b").values()) <= {1, 2}
    assert not company.of("gap")


async def test_names_on_redis_streams_get_every_confirmed_message(
    new_company: Callable[..., Company], redis: Redis, namespace: str
) -> None:
    await names_balance(new_company(redis.url.replace("redis:", "redis-stream:")), namespace=namespace)


async def test_names_on_kafka_get_every_confirmed_message(
    new_company: Callable[..., Company], kafka: Kafka, namespace: str
) -> None:
    await names_balance(new_company(kafka.url), namespace=namespace)


async def test_names_on_rabbitmq_get_every_confirmed_message(
    new_company: Callable[..., Company], rabbitmq: RabbitMQ, namespace: str
) -> None:
    # A queue gets what is published from when it is there.
    for name in "abc":
        async with (
            Hub() as hub,
            Bridge(hub, rabbitmq.url, incoming=("work", "*"), name=name, namespace=namespace) as one,
        ):
            await one.ready(PATIENCE)
    await names_balance(new_company(rabbitmq.url), namespace=namespace, start="new")


@pytest.mark.long  # a group does the same over the same connections, and takes less
async def test_names_on_jetstream_get_every_confirmed_message(
    new_company: Callable[..., Company], nats: Nats, namespace: str
) -> None:
    await names_balance(new_company(nats.url.replace("nats:", "jetstream:")), namespace=namespace)


@pytest.mark.long  # a group does the same over the same connections, and takes less
async def test_names_on_the_log_in_postgres_get_every_confirmed_message(
    new_company: Callable[..., Company], postgres: Postgres, namespace: str
) -> None:
    await names_balance(new_company(postgres.url.replace("postgres:", "postgres-log:")), namespace=namespace)


async def test_names_on_mqtt_get_every_confirmed_message(
    new_company: Callable[..., Company], mosquitto: Mosquitto, namespace: str
) -> None:
    company = new_company(mosquitto.url)
    begun: set[Message] = set()

    def hire(name: str) -> int:
        # Nothing is kept for a name that was never there: what counts begins when all have been.
        return company.hire(name, {"name": name, "namespace": namespace})

    before, _ = await kill_and_restart(company, hire)
    ready = max(line.time for line in company.of("ready")[:3])
    begun |= {line.message for line in company.of("publishing") if line.time > ready}
    await company.finish(lambda: all(company.confirmed() & begun <= company.received(name).keys() for name in "abc"))
    for name in "ac":
        assert set(company.received(name).values()) == {1}, name
    again = {message for message, times in company.received("b").items() if times > 1}
    assert again <= company.received(pid=before).keys()
    assert not company.of("gap")


async def test_names_in_a_file_of_sqlite_get_every_confirmed_message(
    new_company: Callable[..., Company], tmp_path: Path
) -> None:
    await names_balance(new_company(f"sqlite://{tmp_path / 'log.db'}"))


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(True, id="group"),
        # After each kill its name is taken for ten seconds.
        pytest.param(False, id="names", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_writers_and_readers_of_one_file_may_be_killed_at_any_moment(
    group: bool, new_company: Callable[..., Company], tmp_path: Path
) -> None:
    chance = random.Random(7)
    file = tmp_path / "log.db"
    company = new_company(f"sqlite://{file}", lease=2)

    def hire(name: str) -> int:
        return company.hire(name, {"group": "g"} if group else {"name": name, "start": "earliest"})

    for name in "abc":
        hire(name)
    await company.until(lambda: len(company.of("ready")) == 3)
    for _ in range(8):
        await company.work("a", "b", count=20)
        await asyncio.sleep(chance.uniform(0, 0.1))
        name = chance.choice("abc")
        company.kill(name)
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        pid = hire(name)
        await company.until(lambda: bool(company.of("ready", pid=pid)))  # noqa: B023
    if group:
        await company.finish(lambda: company.confirmed() <= company.received().keys())
    else:
        await company.finish(lambda: all(company.confirmed() <= company.received(name).keys() for name in "abc"))
    assert not company.of("gap")


# Durable, by group: one of them gets it


async def group_balances(company: Company, **bridge: Any) -> None:
    before, after = await kill_and_restart(company, lambda name: company.hire(name, {"group": "g", **bridge}))
    await company.finish(lambda: company.confirmed() <= company.received().keys())
    # Twice came only what the killed one had received, and not acknowledged yet.
    again = {message for message, times in company.received().items() if times > 1}
    assert again <= company.received(pid=before).keys()
    assert max(company.received().values()) <= 2
    assert not company.of("gap")
    for pid in (before, after):
        assert company.received(pid=pid), "it had no share"


async def test_a_group_on_redis_streams_shares_every_confirmed_message(
    new_company: Callable[..., Company], redis: Redis, namespace: str
) -> None:
    url = redis.url.replace("redis:", "redis-stream:")
    await group_balances(new_company(url, lease=LEASE), namespace=namespace)


async def test_a_group_on_the_log_in_postgres_shares_every_confirmed_message(
    new_company: Callable[..., Company], postgres: Postgres, namespace: str
) -> None:
    url = postgres.url.replace("postgres:", "postgres-log:")
    await group_balances(new_company(url, lease=LEASE), namespace=namespace)


async def test_a_group_on_jetstream_shares_every_confirmed_message(
    new_company: Callable[..., Company], nats: Nats, namespace: str
) -> None:
    url = nats.url.replace("nats:", "jetstream:")
    await group_balances(new_company(url, lease=LEASE), namespace=namespace)


async def test_a_group_on_rabbitmq_shares_every_confirmed_message(
    new_company: Callable[..., Company], rabbitmq: RabbitMQ, namespace: str
) -> None:
    await group_balances(new_company(rabbitmq.url), namespace=namespace)


async def test_a_group_on_a_file_of_sqlite_shares_every_confirmed_message(
    new_company: Callable[..., Company], tmp_path: Path
) -> None:
    await group_balances(new_company(f"sqlite://{tmp_path / 'log.db'}", lease=LEASE))


async def test_a_group_on_kafka_shares_every_confirmed_message(
    new_company: Callable[..., Company], private: Private, namespace: str
) -> None:
    kafka = await private(Kafka(num_partitions=6, group_min_session_timeout_ms=1000))
    await group_balances(new_company(kafka.url, session_timeout_ms=int(LEASE * 1000)), namespace=namespace)


# At most once: nothing is missed but in the interruption


async def test_subscribers_of_redis_pubsub_miss_nothing_but_while_they_are_away(
    new_company: Callable[..., Company], redis: Redis, namespace: str
) -> None:
    await subscribers_balance(new_company(redis.url), namespace)


async def test_subscribers_of_nats_miss_nothing_but_while_they_are_away(
    new_company: Callable[..., Company], nats: Nats, namespace: str
) -> None:
    await subscribers_balance(new_company(nats.url), namespace)


async def test_a_group_on_nats_shares_what_is_there(
    new_company: Callable[..., Company], nats: Nats, namespace: str
) -> None:
    await fleeting_group_balances(new_company(nats.url), namespace)


async def test_subscribers_of_mqtt_miss_nothing_but_while_they_are_away(
    new_company: Callable[..., Company], mosquitto: Mosquitto, namespace: str
) -> None:
    await subscribers_balance(new_company(mosquitto.url), namespace)


async def test_a_group_on_mqtt_shares_what_is_there(
    new_company: Callable[..., Company], mosquitto: Mosquitto, namespace: str
) -> None:
    await fleeting_group_balances(new_company(mosquitto.url), namespace)


async def fleeting_group_balances(company: Company, namespace: str) -> None:
    before, after = await kill_and_restart(
        company, lambda name: company.hire(name, {"group": "g", "namespace": namespace})
    )
    await company.work("a", "b")
    # What was on its way to the killed one is lost: no more than was published before the broker knew.
    killed = company.of("received", pid=before)[-1].time
    late = {line.message for line in company.of("publishing") if line.time > killed + 2}
    await company.finish(lambda: company.confirmed() & late <= company.received().keys())
    assert set(company.received().values()) == {1}
    for pid in (before, after):
        assert company.received(pid=pid), "it had no share"
    assert not company.of("gap")


async def subscribers_balance(company: Company, namespace: str) -> None:
    before, after = await kill_and_restart(company, lambda name: company.hire(name, {"namespace": namespace}))
    ready = {line.pid: line.time for line in company.of("ready")}
    started = max(ready[line.pid] for line in company.of("ready") if line.pid != after)

    def due(pid: int) -> set[Message]:
        """What was published when this process was there, as were all the others, and was confirmed."""
        since = max(ready[pid], started)
        return company.confirmed() & {line.message for line in company.of("publishing") if line.time > since}

    stayed = [line.pid for line in company.of("ready") if line.pid not in (before, after)]
    await company.finish(lambda: all(due(pid) <= company.received(pid=pid).keys() for pid in (*stayed, after)))
    assert set(company.received("a").values()) == set(company.received("c").values()) == {1}
    assert set(company.received(pid=before).values()) == set(company.received(pid=after).values()) == {1}
    # Of each publisher the killed one got everything up to one message, and again everything from another one on.
    for pid in (before, after):
        numbers = [line.figures[2] for line in company.of("received", pid=pid) if line.figures[0] == "a"]
        assert all(second == first + 1 for first, second in pairwise(numbers))
    assert not company.of("gap")
