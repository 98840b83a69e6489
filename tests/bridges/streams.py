"""What the tests of the streams' adapter have in common."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis

from brokers.redis_server import Redis
from hubsub import Key
from hubsub.bridges.adapter import Link, Loss, Received, Record
from hubsub.bridges.redis import RedisStreamAdapter
from hubsub.bridges.redis.group import Member
from hubsub.bridges.redis.session import Session


def url_of(server: Redis) -> str:
    return re.sub(r"^rediss?", r"\g<0>-stream", server.url)


def tell(server: Redis, *words: object) -> str:
    """What redis-cli prints."""
    command = ["redis-cli", "-p", str(server.port), *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def client_of(server: Redis) -> redis.Redis:
    return redis.Redis(port=server.port)


def link(**fields: Any) -> Link:
    return Link(**{"sender": uuid4().hex, "namespace": "hubsub", **fields})


def session_of(adapter: RedisStreamAdapter) -> Session:
    assert adapter._line is not None
    return adapter._line


def member_of(adapter: RedisStreamAdapter) -> Member:
    reader = session_of(adapter)._reader
    assert isinstance(reader, Member)
    return reader


def consumer_of(adapter: RedisStreamAdapter) -> str:
    return session_of(adapter)._consumer.decode()


@asynccontextmanager
async def connected(server: Redis | str, options: Any = None, **fields: Any) -> AsyncIterator[RedisStreamAdapter]:
    adapter = RedisStreamAdapter(server if isinstance(server, str) else url_of(server), **(options or {}))
    await adapter.connect(link(**fields))
    try:
        yield adapter
    finally:
        await adapter.close()
        await adapter.close()


def records(first: int, last: int, key: Sequence[str] = ("orders", "new")) -> list[Record]:
    return [Record(Key(*key), b"%d" % number, {"id": str(number)}, number) for number in range(first, last + 1)]


async def received(adapter: RedisStreamAdapter, count: int) -> list[Received | Loss]:
    found: list[Received | Loss] = []
    while len(found) < count:
        found += await adapter.receive()
    return found


# What is waited for below happens in a server.
async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def payloads(found: Sequence[Received | Loss]) -> list[Any]:
    return [(each.reason, each.count) if isinstance(each, Loss) else int(each.payload or b"-1") for each in found]


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


async def until_blocked(server: Redis) -> None:
    while "blocked_clients:0" in tell(server, "INFO", "clients"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
