"""A message that kills whoever handles it ends among the dead letters, and takes no other message with it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from brokers.redis_server import Redis
from hubsub import Bridge, Hub


@pytest.mark.timeout(180)
async def test_a_message_that_kills_the_process_becomes_a_dead_letter(redis: Redis, namespace: str) -> None:
    url = redis.url.replace("redis:", "redis-stream:")
    good = [f"good {number}" for number in range(20)]
    worker = [sys.executable, str(Path(__file__).with_name("poisoned.py")), url, namespace]

    async def run() -> list[str]:
        """Run a worker until it dies, or its time is over; return what it handled."""
        process = await asyncio.create_subprocess_exec(*worker, stdout=asyncio.subprocess.PIPE)
        handled, _ = await asyncio.wait_for(process.communicate(), 30)
        return handled.decode().splitlines()

    async with Hub() as hub, Bridge(hub, url, outgoing="*", namespace=namespace) as bridge:
        starting = asyncio.ensure_future(run())
        await bridge.ready()
        await asyncio.sleep(1)
        for message in [*good[:10], "poison", *good[10:]]:
            await hub.publish_confirmed("job", message)
        handled = await starting
        dead: list[Any] = []
        for _ in range(10):
            handled += await run()
            with redis.client() as client:
                dead = client.xrange(f"{namespace}:dead")
            if dead and len(set(handled)) == len(good):
                break
    assert [entry["payload"] for _, entry in dead] == ['"poison"']
    assert set(handled) == set(good)
