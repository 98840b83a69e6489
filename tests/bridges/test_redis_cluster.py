"""Redis Cluster: what is peculiar to it. Slots move, and masters die."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from brokers.certificates import certificates
from brokers.fixtures import Private
from brokers.redis_cluster import RedisCluster
from brokers.redis_server import Redis
from hubsub import BridgeError, Gap, Hub, Key
from hubsub.bridges import Bridge, adapter_for
from hubsub.bridges.redis import RedisAdapter, RedisClusterAdapter, RedisStreamAdapter
from hubsub.bridges.redis.shard import slot_of
from hubsub.testing.conformance import until
from hubsub.testing.conformance.scene import LINES, Lines

pytestmark = pytest.mark.timeout(120)
ALL: Key[Any] = Key("*")
SAYS_DOWN = re.compile("CLUSTERDOWN|the cluster is down|no node of .* owns slot")
KEYS: list[Key[Any]] = [Key("k", str(number)) for number in range(8)]


class Pair(NamedTuple):
    """Two hubs, and what the subscription of the second one has had."""

    sending: Hub
    receiving: Hub
    outward: Bridge
    inward: Bridge
    items: list[Any]

    async def cross(self, *keys: Key[Any]) -> None:
        """Publish to each key until a message of it has come."""
        for key in keys:
            before = len(self.items)
            async with asyncio.timeout(60):
                while not any(isinstance(item, tuple) and item[0] == key for item in self.items[before:]):
                    self.sending.publish(key, "again")
                    await asyncio.sleep(0.05)

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]


@asynccontextmanager
async def pair(url: str, namespace: str, *patterns: Any) -> AsyncIterator[Pair]:
    """Two hubs and their bridges; the second one subscribes to patterns."""
    items: list[Any] = []
    async with (
        Hub() as sending,
        Hub() as receiving,
        Bridge(sending, url, outgoing=ALL, namespace=namespace) as outward,
        Bridge(receiving, url, incoming=ALL, namespace=namespace) as inward,
    ):
        subscription = receiving.subscribe(list(patterns), gaps=True)

        async def read() -> None:
            async for item in subscription:
                items.append(item)  # noqa: PERF401 - as they come

        reading = asyncio.create_task(read())
        await outward.ready(30)
        await inward.ready(30)
        yield Pair(sending, receiving, outward, inward, items)
        reading.cancel()


def channel(namespace: str, key: Key[Any]) -> bytes:
    return ":".join((namespace, "0", *key)).encode()


async def test_slots_are_those_of_the_server(redis_cluster: RedisCluster) -> None:
    with redis_cluster.masters[0].client() as client:
        for name in (b"", b"a", b"n:0:k:1", b"{a}b", b"x{ab}y", b"{}a", b"a{", b"}{", b"{{a}}", b"{a}{b}", b"\xff\x00"):
            assert slot_of(name) == client.execute_command("CLUSTER", "KEYSLOT", name)


async def test_exact_keys_are_subscribed_to_at_the_masters_of_their_slots(
    redis_cluster: RedisCluster, namespace: str
) -> None:
    async with pair(redis_cluster.url, namespace, *KEYS) as it:
        channels = [channel(namespace, key).decode() for key in KEYS]
        for node in redis_cluster.masters:
            with node.client() as client:
                found: Any = client.execute_command("PUBSUB", "SHARDCHANNELS", f"{namespace}:0:k:*")
                assert not client.pubsub_channels(f"{namespace}:*")
            assert set(found) == {each for each in channels if redis_cluster.owner(slot_of(each.encode())) is node}
        for key in KEYS:
            await it.sending.publish_confirmed(key, 1)
        await until(lambda: len(it.items) == len(KEYS), "all messages")
        assert not it.gaps


async def test_a_pattern_receives_what_is_published_at_any_node(redis_cluster: RedisCluster, namespace: str) -> None:
    async with pair(redis_cluster.url, namespace, ("k", "+")) as it:
        for key in KEYS:
            await it.sending.publish_confirmed(key, 1)
        for node in redis_cluster.masters:
            with node.client() as client:
                client.publish(channel(namespace, KEYS[0]), "2")
        await until(lambda: len(it.items) == len(KEYS) + 3, "all messages")


async def test_without_broadcast_only_exact_keys_are_reached(redis_cluster: RedisCluster, namespace: str) -> None:
    for url in (f"{redis_cluster.url}?broadcast=no", redis_cluster.url):
        async with pair(url, namespace, KEYS[0]) as it:
            wide: list[Any] = []
            it.receiving.add_listener(("k", "1", "+"), lambda key, message: wide.append(message))  # noqa: B023
            await it.inward.ready(30)
            await it.sending.publish_confirmed(("k", "1", "x"), 1)
            await it.sending.publish_confirmed(KEYS[0], 1)
            await until(lambda: it.items, "the exact key")
            if url == redis_cluster.url:
                await until(lambda: wide, "the pattern")  # noqa: B023
            assert bool(wide) == (url == redis_cluster.url)


async def test_a_slot_that_moves_is_a_gap_of_its_keys_and_no_reconnect(private: Private, namespace: str) -> None:
    cluster = await private(RedisCluster())
    async with pair(cluster.url, namespace, *KEYS) as it:
        await it.cross(*KEYS)
        slot = slot_of(channel(namespace, KEYS[0]))
        after = await asyncio.to_thread(cluster.move, slot)
        await until(lambda: it.gaps, "the gap")
        (gap,) = it.gaps
        assert (gap.reason, gap.keys) == ("a slot has moved", (KEYS[0],))
        await it.cross(*KEYS)
        with after.client() as client:
            there: Any = client.execute_command("PUBSUB", "SHARDCHANNELS")
        assert channel(namespace, KEYS[0]).decode() in there
        assert len(it.gaps) == 1
        assert it.inward.health().reconnects == 0
        assert it.outward.health().reconnects == 0


async def test_a_master_that_dies_is_one_gap_until_its_replica_is_the_master(private: Private, namespace: str) -> None:
    cluster = await private(RedisCluster(replicas=1))
    async with pair(cluster.url, namespace, *KEYS) as it:
        await it.cross(*KEYS)
        slot = slot_of(channel(namespace, KEYS[0]))
        dead = cluster.owner(slot)
        dead.kill()
        await it.cross(*KEYS)
        assert cluster.owner(slot) is not dead
        assert len(it.gaps) == 1


async def test_a_master_that_freezes_while_the_others_reply_is_a_gap(private: Private, namespace: str) -> None:
    cluster = await private(RedisCluster(replicas=1))
    async with pair(cluster.url, namespace, *KEYS) as it:
        await it.cross(*KEYS)
        frozen = cluster.owner(slot_of(channel(namespace, KEYS[0])))
        frozen.freeze()
        try:
            await it.cross(*KEYS)
            assert it.gaps
        finally:
            frozen.thaw()


@pytest.mark.parametrize("is_own", [False, True], ids=["for another slot", "for the slot of a key"])
async def test_a_cluster_that_is_down_is_one_gap_and_gets_what_waits_when_it_is_up_again(
    private: Private, namespace: str, is_own: bool
) -> None:
    cluster = await private(RedisCluster())
    used = {slot_of(channel(namespace, key)) for key in KEYS}
    slot = slot_of(channel(namespace, KEYS[0])) if is_own else min(set(range(100)) - used)
    async with pair(cluster.url, namespace, *KEYS, ("wild", "+")) as it:
        await it.cross(*KEYS, Key("wild", "1"))
        with Lines() as lines:
            give_back = await asyncio.to_thread(cluster.take_down, slot)
            waiting = [asyncio.create_task(it.sending.publish_confirmed(key, "late", timeout=60)) for key in KEYS]
            for bridge in (it.inward, it.outward):
                await until(lambda: SAYS_DOWN.search(str(bridge.health().last_error)), "the reason", 60)  # noqa: B023
                await until(lambda: bridge.health().state != "up", "the bridge to be down", 60)  # noqa: B023
            # Nodes pass on what is published to the slots that they still own.
            assert not (is_own and waiting[0].done())
            await asyncio.to_thread(give_back)
            await asyncio.gather(*waiting)
            await it.cross(*KEYS, Key("wild", "1"))
        assert len(it.gaps) == 1
        assert lines.total <= 2 * LINES, f"\n{lines}"


async def test_a_server_that_is_no_cluster_says_so(redis: Redis) -> None:
    async with Hub() as hub, Bridge(hub, redis.url.replace("redis:", "redis+cluster:"), both=ALL) as bridge:
        await until(lambda: bridge.health().last_error is not None, "the error")
        error = bridge.health().last_error
        assert isinstance(error, BridgeError)
        assert "is no Redis Cluster; without one, the URL begins with redis://" in str(error)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"url": "redis://localhost"}, ValueError, r"redis\+cluster://host:port,host:port"),
        ({"url": "redis+cluster://localhost/3"}, TypeError, "only the database 0"),
        ({"url": "redis+cluster://localhost?path=/s"}, TypeError, "no Unix socket"),
        ({"url": "redis+cluster://localhost?broadcast=maybe"}, ValueError, "broadcast must be yes or no"),
        ({"url": "redis+cluster://localhost", "broadcast": 7}, ValueError, "broadcast must be yes or no"),
        ({"url": "redis+cluster://localhost", "nonsense": 7}, TypeError, "no option nonsense: it has broadcast"),
        ({"url": "redis+cluster://localhost", "protocol": 3}, TypeError, "sets protocol itself"),
        ({}, TypeError, "needs a URL"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RedisClusterAdapter(**options)


def test_other_adapters_name_the_one_for_a_cluster() -> None:
    for other in (RedisAdapter, RedisStreamAdapter):
        with pytest.raises(ValueError, match=r"redis\+cluster://host:port,host:port, for RedisClusterAdapter"):
            other("redis+cluster://localhost")


def test_an_address_shows_its_nodes_and_no_password() -> None:
    adapter = adapter_for("rediss+cluster://me:s3cret@one:1,two:2?client_name=shop")
    assert repr(adapter) == "<RedisClusterAdapter one:1,two:2>"
    assert repr(adapter_for("redis+cluster://")) == "<RedisClusterAdapter localhost:6379>"
    assert repr(RedisClusterAdapter(host="three", port=3)) == "<RedisClusterAdapter three:3>"


def asked(cluster: RedisCluster) -> int:
    """How often the nodes were asked for the state of the cluster."""
    number = 0
    for node in cluster.masters:
        with node.client() as client:
            statistics: Any = client.info("commandstats")
        number += statistics.get("cmdstat_cluster|info", {"calls": 0})["calls"]
    return number


async def test_a_user_needs_no_more_than_the_page_says(redis_cluster: RedisCluster, namespace: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bridges" / "redis-cluster.md").read_text()
    needed = re.findall(r"`(\+ping[^`]*)`", page)[0].split()
    for node in redis_cluster.masters:
        with node.client() as client:
            channels = f"&{namespace}:0:*", f"&{namespace}:0:wild:*"
            client.execute_command("ACL", "SETUSER", namespace, "on", ">word", "resetchannels", *channels, *needed)
    url = redis_cluster.url.replace("://", f"://{namespace}:word@")
    async with pair(url, namespace, *KEYS, ("wild", "+")) as it:
        await it.cross(*KEYS, Key("wild", "1"))
        # Until both have looked at their connections.
        before = asked(redis_cluster)
        await until(lambda: asked(redis_cluster) > before + 3, "the looks")
        await it.cross(*KEYS, Key("wild", "2"))
        assert it.inward.health().reconnects == it.outward.health().reconnects == 0


async def test_a_cluster_that_wants_tls_and_a_password_gets_them(private: Private, namespace: str) -> None:
    cluster = await private(RedisCluster(masters=1, tls=True, password="s3:cret/"))
    url = f"{cluster.url}?ssl_ca_certs={certificates().authority}"
    async with pair(url, namespace, KEYS[0]) as it:
        await it.cross(KEYS[0])
    wrong = url.replace("s3%3Acret%2F", "wr0ng")
    async with Hub() as hub, Bridge(hub, wrong, both=ALL) as bridge:
        await until(lambda: bridge.health().last_error is not None, "the error")
        assert "WRONGPASS" in str(bridge.health().last_error)
        assert "wr0ng" not in str(bridge.health()) + repr(bridge)
