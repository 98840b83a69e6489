"""`python -m hubsub dead-letters`: what is shown, what is sent back, and one line of error for whatever goes wrong."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brokers import Redis
from hubsub import Bridge, Hub
from hubsub.__main__ import main
from hubsub.testing.conformance import until

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60

pytestmark = pytest.mark.once


@pytest.fixture
def url(redis: Redis) -> str:
    return redis.url.replace("redis:", "redis-stream:")


@pytest.fixture
def namespace() -> str:
    return f"letters{os.urandom(4).hex()}"


async def give_up(url: str, namespace: str, messages: list[Any], work: Callable[..., object], attempts: int) -> None:
    """Have these messages handled by a worker until they are handled, or dead letters."""
    async with (
        Hub() as hub,
        Bridge(hub, url, both="*", group="workers", namespace=namespace, attempts=attempts) as bridge,
    ):
        hub.add_listener(("job", "+"), work)
        for number, message in enumerate(messages):
            await hub.publish_confirmed(("job", str(number)), message)
        await until(lambda: bridge.health().received >= max(1, len(messages)) and not bridge.health().in_flight)


def fail(key: object, message: object) -> None:
    raise ValueError(f"not today\nand not \x1b[31mtomorrow {message}")


def test_letters_are_listed_and_sent_back(url: str, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(give_up(url, namespace, [{"tea": 2}, "x" * 5_000], fail, 1))
    there = ["dead-letters", url, "--namespace", namespace]
    assert main(there) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) == 6, "a letter is three lines, whatever is in it"
    first = re.fullmatch(
        rf"({namespace}:dead:\d+-\d+)  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ  job/0  1 attempt  group workers", lines[0]
    )
    assert first is not None
    assert lines[1] == "    message: {'tea': 2}"
    assert lines[2] == "    reason: ValueError: not today?and not ?[31mtomorrow {'tea': 2}"
    assert max(map(len, lines)) < 600
    assert main([*there, "--limit", "1"]) == 0
    last, *_, more = capsys.readouterr().out.splitlines()
    position = last.split("  ")[0]
    assert more == f"these are the last 1; for older ones, add --before {position}"
    assert main([*there, "--before", position]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:3]
    assert main([*there, "--redeliver", first[1]]) == 0
    assert capsys.readouterr().out == f"sent back: {first[1]}\n"
    handled: list[Any] = []
    asyncio.run(give_up(url, namespace, [], lambda key, message: handled.append(message), 1))
    assert handled == [{"tea": 2}]
    assert main([*there, "--redeliver", position, "--redeliver", first[1]]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"sent back: {position}\n"
    assert captured.err.startswith(f"dead-letters: no dead letter is at '{first[1]}'")
    assert captured.err.count("\n") == 1
    assert main(there) == 0
    assert capsys.readouterr().out == f"no dead letters in namespace '{namespace}'\n"


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        ("memory://x", 2, "MemoryAdapter has no dead letters"),
        ("redis://localhost:1", 2, "RedisAdapter has no dead letters"),
        ("pigeon://loft", 2, "no adapter for pigeon://"),
        ("localhost", 2, "a bridge needs a URL with a scheme"),
        ("redis-stream://localhost?speed=11", 2, "speed"),
    ],
)
def test_what_cannot_be_is_one_line_of_error(
    wrong: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead-letters", wrong]) == code
    _is_one_line(capsys, says)


def _is_one_line(capsys: pytest.CaptureFixture[str], says: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dead-letters: ")
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("scheme", ["redis-stream", "kafka"])
def test_a_broker_that_does_not_answer_is_one_line_of_error(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main(["dead-letters", f"{scheme}://u:secret@127.0.0.1:{port}", "--timeout", "0.5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"dead-letters: .*was not ready within 0\.5 seconds: .*\n", captured.err)
    assert "secret" not in captured.err


@pytest.mark.parametrize("option", [["--limit", "0"], ["--limit", "x"], ["--timeout", "0"], ["--speed", "1"], []])
def test_options_that_make_no_sense_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["dead-letters", *option, *(["redis-stream://x"] if option else [])])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith("; see hubsub dead-letters --help\n")


def test_a_missing_driver_is_named_with_the_command() -> None:
    program = (
        "import sys; sys.modules['redis'] = None; from hubsub.__main__ import main; "
        "sys.exit(main(['dead-letters', 'redis-stream://x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 2
    assert re.fullmatch(r"dead-letters: \w+ needs redis: pip install 'hubsub\[redis\]'\n", done.stderr)


def test_whoever_reads_along_may_go(url: str, namespace: str) -> None:
    command = [sys.executable, "-m", "hubsub", "dead-letters", url, "--namespace", namespace]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == ""
    assert running.wait(PATIENCE) == 0
    running.stderr.close()
