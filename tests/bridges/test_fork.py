"""A process may fork after it has imported hubsub and made its hub and bridge: there are two of them then."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from brokers.kafka_server import Kafka
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.redis_server import Redis

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("forking.py")


async def fork_and_talk(url: str, namespace: str, when: str) -> dict[str, dict[str, int]]:
    """Return what each of the two processes heard first of each."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", PROGRAM, url, namespace, when],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "destroyed" not in done.stderr
    lines = {name: figures for name, *figures in map(json.loads, done.stdout.splitlines())}
    (origin_of_parent, origin, of_parent), (origin_of_child, _, of_child) = lines["parent"], lines["child"]
    assert origin_of_parent == origin != origin_of_child
    return {"parent": of_parent, "child": of_child}


# Nobody's message is taken for an echo of the other's, not even what was published before there was a connection.
WHEN = pytest.mark.parametrize("when", ["before", "up"])


@WHEN
async def test_forked_processes_hear_each_other_over_redis(redis: Redis, namespace: str, when: str) -> None:
    heard = await fork_and_talk(redis.url, namespace, when)
    assert heard["parent"].keys() - {"before"} == heard["child"].keys() == {"parent", "child"}


@WHEN
async def test_forked_processes_hear_each_other_over_postgres(postgres: Postgres, namespace: str, when: str) -> None:
    heard = await fork_and_talk(postgres.url, namespace, when)
    assert heard["parent"].keys() - {"before"} == heard["child"].keys() == {"parent", "child"}


@WHEN
async def test_forked_processes_hear_each_other_over_nats(nats: Nats, namespace: str, when: str) -> None:
    heard = await fork_and_talk(nats.url, namespace, when)
    assert heard["parent"].keys() - {"before"} == heard["child"].keys() == {"parent", "child"}


def assert_all_was_heard(heard: dict[str, dict[str, int]], when: str) -> None:
    """A message is heard where it is published, and once by the other process: also that of before the fork."""
    before = {"before": 0} if when == "up" else {}
    assert heard == {"parent": {"parent": 0, "child": 0} | before, "child": {"parent": 0, "child": 0} | before}


@WHEN
async def test_forked_processes_hear_everything_over_redis_streams(redis: Redis, namespace: str, when: str) -> None:
    url = redis.url.replace("redis:", "redis-stream:")
    assert_all_was_heard(await fork_and_talk(url, namespace, when), when)


@WHEN
async def test_forked_processes_hear_everything_over_the_log_in_postgres(
    postgres: Postgres, namespace: str, when: str
) -> None:
    url = postgres.url.replace("postgres:", "postgres-log:")
    assert_all_was_heard(await fork_and_talk(url, namespace, when), when)


@WHEN
async def test_forked_processes_hear_everything_over_kafka(kafka: Kafka, namespace: str, when: str) -> None:
    assert_all_was_heard(await fork_and_talk(kafka.url, namespace, when), when)


@WHEN
async def test_forked_processes_hear_everything_over_a_file_of_sqlite(tmp_path: Path, when: str) -> None:
    assert_all_was_heard(await fork_and_talk(f"sqlite://{tmp_path / 'log.db'}", "forked", when), when)
