"""Ctrl-C and SIGTERM end a worker within the ten seconds that containers get, whatever it still has to do."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from brokers.fixtures import Private
from brokers.redis_server import Redis

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("stopping.py")
MESSAGES = 10_000
# What the limits of closing sum up to, see docs/life.md, and what a busy machine may add.
SECONDS = 9.0 + 1.0

pytestmark = [pytest.mark.once, pytest.mark.timeout(150)]

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class Stopped:
    """A worker that was told to end, and has."""

    def __init__(self, line: str, log: str) -> None:
        self.seconds, self.delivered, self.dropped, self.failed = json.loads(line)
        self.log = log


async def stop(
    number: signal.Signals,
    url: str,
    how: str,
    *,
    order: str = "bridge",
    namespace: str = "none",
    freeze: Redis | None = None,
) -> Stopped:
    """Start a worker, and end it by a signal."""
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, PROGRAM, url, namespace, how, order],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        first = await asyncio.to_thread(process.stdout.readline)
        if first != "ready\n":
            pytest.fail(f"it did not begin: {process.communicate()[1]}")
        if freeze is not None:
            freeze.freeze()
        process.send_signal(number)
        line, log = await asyncio.to_thread(process.communicate)
    finally:
        process.kill()
        if freeze is not None:
            freeze.thaw()
    assert process.returncode == 0, log
    stopped = Stopped(line, log)
    assert stopped.seconds < SECONDS
    assert stopped.delivered + stopped.dropped == MESSAGES
    return stopped


@SIGNALS
async def test_a_signal_ends_a_worker_with_a_full_queue(number: signal.Signals) -> None:
    stopped = await stop(number, "", "works")
    # As many as there was time for, and the rest is accounted for.
    assert stopped.delivered > 100
    if stopped.dropped:
        assert f"was closed with {stopped.dropped} messages that its async listeners had not handled" in stopped.log
    assert stopped.failed <= 1


@SIGNALS
async def test_a_signal_ends_a_worker_whose_call_hangs(number: signal.Signals) -> None:
    stopped = await stop(number, "", "hangs")
    assert (stopped.delivered, stopped.dropped, stopped.failed) == (1, MESSAGES - 1, 1)
    assert "cut off by closing, which waits 5 s at most" in stopped.log


@SIGNALS
@pytest.mark.parametrize("order", ["bridge", "hub"])
async def test_a_signal_ends_a_worker_whose_broker_is_away(
    number: signal.Signals, order: str, private: Private
) -> None:
    nobody = private.keep(Redis())
    stopped = await stop(number, nobody.url, "hangs", order=order)
    assert (stopped.delivered, stopped.dropped, stopped.failed) == (1, MESSAGES - 1, 1)
    assert f"closed with {MESSAGES} messages unsent" in stopped.log


@pytest.mark.parametrize("order", ["bridge", "hub"])
@pytest.mark.parametrize("scheme", ["redis", "redis-stream"])
async def test_a_signal_ends_a_worker_whose_broker_is_frozen(
    private: Private, namespace: str, scheme: str, order: str
) -> None:
    redis = await private(Redis())
    url = redis.url.replace("redis:", f"{scheme}:")
    stopped = await stop(signal.SIGTERM, url, "hangs", order=order, namespace=namespace, freeze=redis)
    assert (stopped.delivered, stopped.dropped, stopped.failed) == (1, MESSAGES - 1, 1)


async def test_a_signal_lets_a_worker_send_what_is_queued(private: Private, namespace: str) -> None:
    redis = await private(Redis())
    url = redis.url.replace("redis:", "redis-stream:")
    stopped = await stop(signal.SIGTERM, url, "hangs", namespace=namespace)
    assert "unsent" not in stopped.log
