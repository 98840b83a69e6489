"""Names that other programs have chosen, at real brokers: what comes in under a key goes out under the same name."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from brokers.redis_server import Redis
from hubsub import Hub, Key
from hubsub.bridges import Bridge

NAMES = [
    b"battery:100%",
    b"%",
    b"%zz",
    b"a%2fb",
    b"a%3Ab:c",
    b"a%41",
    b"\xff\xfe:b",
    b"a:\xc3",
    b"\xed\xa0\x80",
    b"a\rb:c\r\nd\n",
    b"a b\x00",
    "ü:☃".encode(),
    b"a::b:",
]
# So wrote hubsub 0.1.0 a `%`, and half of a surrogate pair. Where it may have, that is read as it was meant.
AS_WRITTEN_EARLIER = [b"battery:100%25", b"%ED%B3%BF"]


def id_of(name: bytes) -> str:
    return ascii(name)[2:-1]


async def heard(pubsub: Any) -> bytes:
    """The channel of the next message that another program hears."""
    async with asyncio.timeout(30):
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=30)
            if message is not None:
                assert isinstance(message["channel"], bytes)
                return message["channel"]


@pytest.mark.parametrize("name", [*NAMES, *AS_WRITTEN_EARLIER], ids=id_of)
async def test_a_foreign_channel_is_subscribed_and_published_by_the_key_that_it_comes_under(
    redis: Redis, name: bytes
) -> None:
    await there_and_back(redis, "", name)


@pytest.mark.parametrize("name", NAMES, ids=id_of)
async def test_so_is_a_foreign_channel_within_a_namespace(redis: Redis, namespace: str, name: bytes) -> None:
    await there_and_back(redis, namespace, b"%b:0:%b" % (namespace.encode(), name))


async def there_and_back(redis: Redis, namespace: str, name: bytes) -> None:
    async with Client(port=redis.port) as client, Hub() as hub, client.pubsub() as pubsub:
        await pubsub.subscribe(name)
        async with Bridge(hub, redis.url, both=[Key("*")], codec="bytes", namespace=namespace) as bridge:
            everything = hub.subscribe(("*",))
            await bridge.synced()
            await client.publish(name, b"1")
            key = await key_of(everything, b"1")
            assert await heard(pubsub) == name
            hub.publish(key, b"2")
            assert await heard(pubsub) == name
            everything.close()
            exact = hub.subscribe(key)
            await bridge.synced()
            await client.publish(name, b"3")
            assert await key_of(exact, b"3") == key


async def key_of(subscription: Any, message: bytes) -> Key[Any]:
    async with asyncio.timeout(30):
        async for key, payload in subscription:
            if payload == message:
                return key
    raise AssertionError(f"{message!r} did not come")


@pytest.mark.parametrize("name", NAMES, ids=id_of)
async def test_an_entry_of_another_program_is_written_as_it_was(redis: Redis, namespace: str, name: bytes) -> None:
    url = redis.url.replace("redis://", "redis-stream://")
    async with Client(port=redis.port) as client, Hub() as hub:
        async with Bridge(hub, url, both=[Key("*")], codec="bytes", namespace=namespace) as bridge:
            await bridge.ready()
            everything = hub.subscribe(("*",))
            await client.xadd(namespace, {"key": name, "payload": b"1"})
            hub.publish(await key_of(everything, b"1"), b"2")
            await bridge.flush()
            entries: Sequence[Any] = await client.xrange(namespace)
            assert [fields[b"key"] for _, fields in entries] == [name, name]
        await client.delete(namespace)
