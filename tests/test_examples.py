"""Each example runs by itself and prints what its last comment says."""

import ast
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from source import parsed

from brokers.broker import Broker
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.rabbitmq_server import RabbitMQ
from hubsub.bridges import adapter_for

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(path.relative_to(FOLDER).as_posix() for path in [*FOLDER.glob("*.py"), *FOLDER.glob("recipes/*.py")])
OF_POSTGRES = "fastapi_outbox.py"
OF_NATS = "nats_requests.py"
OF_MQTT = "mqtt_to_postgres.py"
OF_RABBITMQ = "rabbitmq_dead_letters.py"
OF_TESTS = "recipes/shop.py"
NOTEBOOK = FOLDER / "recipes" / "live_plot.ipynb"


def promised(source: str) -> list[str]:
    """The lines below `# Output:`, without their comment signs."""
    _, _, block = source.partition("\n# Output:\n")
    return [line.removeprefix("# ") for line in block.splitlines()]


@pytest.mark.parametrize(
    "name", [name for name in EXAMPLES if name not in (OF_POSTGRES, OF_MQTT, OF_NATS, OF_RABBITMQ, OF_TESTS)]
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


def test_example_of_tests_passes(tmp_path: Path) -> None:
    options = f"-c {os.devnull} -o asyncio_mode=auto -W error -p pytest_asyncio.plugin -p hubsub.testing.plugin"
    command = [sys.executable, "-m", "pytest", *options.split(), "--rootdir", str(tmp_path), str(FOLDER / OF_TESTS)]
    # Only what it needs, for there are many plugins here.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=environment)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.once
async def test_notebook_runs_in_a_kernel_and_its_plot_moves() -> None:
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory() as folder:
        messages = await executed(folder)
    assert [content for kind, content in messages if kind == "error"] == []
    assert "".join(content["text"] for kind, content in messages if kind == "stream") == "100 values are kept\n"
    [shown] = [content for kind, content in messages if kind == "display_data"]
    updates = [content for kind, content in messages if kind == "update_display_data"]
    assert {each["transient"]["display_id"] for each in updates} == {shown["transient"]["display_id"]}
    points = [each["data"]["image/svg+xml"].count(",") for each in [shown, *updates]]
    assert points == sorted(points)
    assert (points[0], points[-1]) == (1, 100)


async def executed(folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Execute the notebook in a kernel; return what the kernel sends."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=100)
        messages: list[tuple[str, dict[str, Any]]] = []
        for cell in cells:
            if cell["cell_type"] == "code":
                messages += await outputs(client, client.execute("".join(cell["source"])))
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    return messages


async def outputs(client: AsyncKernelClient, request: str) -> list[tuple[str, dict[str, Any]]]:
    """Return everything that a kernel sends until it has executed a cell, whichever cell it comes from."""
    messages: list[tuple[str, dict[str, Any]]] = []
    while messages[-1:] != [("status", {"execution_state": "idle"})]:
        message = await client.get_iopub_msg(timeout=100)
        if message["msg_type"] != "status" or message["parent_header"].get("msg_id") == request:
            messages.append((message["msg_type"], message["content"]))
    return messages


ANYWHERE = "any_broker.py"
KEPT = "cem was not there, and reads: ['is there any tea?', 'just made some']"


@pytest.mark.once
@pytest.mark.parametrize(
    "scheme",
    [
        *("redis", "redis+cluster", "redis-stream", "kafka", "postgres", "postgres-log", "amqp", "mqtt", "nats"),
        *("jetstream", "ws"),
    ],
)
async def test_one_word_moves_a_program_to_another_broker(scheme: str, request: pytest.FixtureRequest) -> None:
    others = {
        "mqtt": "mosquitto",
        "amqp": "rabbitmq",
        "jetstream": "nats",
        "redis+cluster": "redis_cluster",
        "ws": "web",
    }
    fixture = others.get(scheme, scheme.partition("-")[0])
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
    names = [*EXAMPLES, NOTEBOOK.relative_to(FOLDER).as_posix()]
    assert [name for name in names if f"({name})" not in overview] == []
