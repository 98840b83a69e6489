"""Each example runs by itself and prints what its last comment says."""

import ast
import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from source import parsed

from brokers.broker import Broker
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from hubsub.bridges import adapter_for

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))
OF_POSTGRES = "fastapi_outbox.py"
OF_NATS = "nats_requests.py"
OF_MQTT = "mqtt_to_postgres.py"
OF_RABBITMQ = "rabbitmq_dead_letters.py"


def promised(source: str) -> list[str]:
    """The lines below `# Output:`, without their comment signs."""
    _, _, block = source.partition("\n# Output:\n")
    return [line.removeprefix("# ") for line in block.splitlines()]


@pytest.mark.parametrize(
    "name", [name for name in EXAMPLES if name not in (OF_POSTGRES, OF_MQTT, OF_NATS, OF_RABBITMQ)]
)
def test_example_prints_what_it_says(name: str) -> None:
    check_output(name)


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """The URL of a database of the example's own."""
    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name} owner hubsub")
    yield postgres.url.removesuffix("hubsub") + name
    await postgres.execute(f"drop database {name} with (force)")


async def test_example_of_postgres_prints_what_it_says(database: str) -> None:
    await asyncio.to_thread(check_output, OF_POSTGRES, DATABASE_URL=database)


async def test_example_of_mqtt_prints_what_it_says(database: str, mosquitto: Mosquitto) -> None:
    await asyncio.to_thread(check_output, OF_MQTT, DATABASE_URL=database, MQTT_URL=mosquitto.url)


async def test_example_of_nats_prints_what_it_says(nats: Nats) -> None:
    await asyncio.to_thread(check_output, OF_NATS, NATS_URL=nats.url)


async def test_example_of_rabbitmq_prints_what_it_says(rabbitmq: RabbitMQ) -> None:
    await asyncio.to_thread(check_output, OF_RABBITMQ, RABBITMQ_URL=rabbitmq.url)


ANYWHERE = "any_broker.py"
KEPT = "cem was not there, and reads: ['is there any tea?', 'just made some']"


@pytest.mark.once
@pytest.mark.parametrize(
    "scheme", ["redis", "redis-stream", "kafka", "postgres", "postgres-log", "amqp", "mqtt", "nats", "ws"]
)
async def test_one_word_moves_a_program_to_another_broker(scheme: str, request: pytest.FixtureRequest) -> None:
    fixture = {"mqtt": "mosquitto", "amqp": "rabbitmq", "ws": "web"}.get(scheme, scheme.partition("-")[0])
    broker: Broker = request.getfixturevalue(fixture)
    url = f"{scheme}{broker.url[broker.url.index('://') :]}"
    keeps = adapter_for(url).features.history
    await asyncio.to_thread(check_output, ANYWHERE, *([KEPT] if keeps else []), HUBSUB_BROKER=url)


async def test_one_word_moves_a_program_to_a_file(tmp_path: Path) -> None:
    await asyncio.to_thread(check_output, ANYWHERE, KEPT, HUBSUB_BROKER=f"sqlite://{tmp_path}/chat.db")


def check_output(name: str, *last: str, **environment: str) -> None:
    """Run an example; `last` are its last lines, where they are others than it says."""
    expected = promised((FOLDER / name).read_text(encoding="utf-8"))
    expected = [*expected[: len(expected) - len(last)], *last]
    assert expected, f"{name} does not end with its output"
    command = [sys.executable, "-X", "utf8", "-W", "error", str(FOLDER / name)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=50, env=os.environ | environment
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected
    assert done.returncode == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_says_what_it_shows(name: str) -> None:
    assert ast.get_docstring(parsed(FOLDER / name))


def test_overview_names_every_example() -> None:
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f"({name})" not in overview] == []
