"""A Redis Cluster: masters that share the slots, and replicas of them if failing over is what is tested."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

import redis

from .broker import Broker
from .redis_server import Redis

SLOTS = 16384


class RedisCluster(Broker):
    """Some masters, each with as many replicas; all start, freeze and die together, and each node by itself, too.

    Args:
        masters: How many.
        replicas: Of each.
        settings: More settings of each node.
    """

    name = "redis-cluster"

    def __init__(self, masters: int = 3, replicas: int = 0, **settings: Any) -> None:
        super().__init__()
        self.masters = [self._node(**settings) for _ in range(masters)]
        self.replicas = [[self._node(**settings) for _ in range(replicas)] for _ in range(masters)]
        self._settings = settings
        self._is_made = False

    def _node(self, **settings: Any) -> Redis:
        bus = self.reserve()
        # A second without a reply is a failure, and coming back takes no longer than it has to.
        if settings.get("tls"):
            settings["tls_cluster"] = "yes"
        if settings.get("password"):
            settings["masterauth"] = settings["password"]
        node = Redis(cluster_enabled="yes", cluster_port=bus, cluster_node_timeout=1000, **settings)
        node.bus = bus  # type: ignore[attr-defined]
        return node

    @classmethod
    def missing(cls) -> str | None:
        return Redis.missing()

    @property
    def nodes(self) -> list[Redis]:
        """The masters as they were at first, then the replicas."""
        return [*self.masters, *(node for some in self.replicas for node in some)]

    @property
    def url(self) -> str:
        first, *others = self.nodes
        places = "".join(f",127.0.0.1:{node.port}" for node in others)
        return first.url.replace("://", "+cluster://").removesuffix("/0") + places

    def start(self, timeout: float = 30) -> Self:
        for node in self.nodes:
            if not node.is_running:
                node.start(timeout)
        if not self._is_made:
            self._make()
            self._is_made = True
        self.until(self.is_ready, timeout)
        return self

    def _make(self) -> None:
        width = -(-SLOTS // len(self.masters))
        ids = {}
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < len(self.masters):
                    last = min(SLOTS, (number + 1) * width) - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * width, last)
                ids[node] = client.execute_command("CLUSTER", "MYID")
                first: Any = self.masters[0]
                if node is not first:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
        self.until(lambda: all(self._knows(node) == len(self.nodes) for node in self.nodes))
        for master, some in zip(self.masters, self.replicas, strict=True):
            for node in some:
                with node.client() as client:
                    client.execute_command("CLUSTER", "REPLICATE", ids[master])
        self.until(lambda: all(self._is_following(node) for some in self.replicas for node in some))

    def _knows(self, node: Redis) -> int:
        return int(self._info(node)["cluster_known_nodes"])

    def _info(self, node: Redis) -> dict[str, str]:
        with node.client() as client:
            text: Any = client.execute_command("CLUSTER", "INFO")
        return dict(line.split(":", 1) for line in text.split())

    def _is_following(self, node: Redis) -> bool:
        with node.client() as client:
            replication: Any = client.info("replication")
        return bool(replication["role"] == "slave" and replication["master_link_status"] == "up")

    def is_ready(self) -> bool:
        try:
            return all(self._info(node)["cluster_state"] == "ok" for node in self.nodes if node.is_running)
        except redis.RedisError:
            return False

    @property
    def is_running(self) -> bool:
        return any(node.is_running for node in self.nodes)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def freeze(self) -> None:
        for node in self.nodes:
            node.freeze()

    def thaw(self) -> None:
        for node in self.nodes:
            node.thaw()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        super().close()

    def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Wait until something is so.

        Raises:
            RuntimeError: It took too long.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self!r} waits in vain: {[self._info(node) for node in self.nodes]}")
            time.sleep(0.01)

    # What happens to a cluster

    def owner(self, slot: int) -> Redis:
        """The master that owns a slot, as it says itself."""
        for node in self.nodes:
            if node.is_running:
                with node.client() as client:
                    role: Any = client.execute_command("ROLE")
                    if role[0] != "master":
                        continue
                    slots: Any = client.execute_command("CLUSTER", "SLOTS")
                    for begin, end, (_, port, *_), *_ in slots:
                        if begin <= slot <= end and port == node.port:
                            return node
        raise RuntimeError(f"nobody owns slot {slot}")

    def move(self, slot: int) -> Redis:
        """Move a slot to another master, as `redis-cli --cluster reshard` does; return that."""
        before = self.owner(slot)
        after = next(node for node in self.masters if node is not before)
        ids = {}
        for node in (before, after):
            with node.client() as client:
                ids[node] = client.execute_command("CLUSTER", "MYID")
        self._setslot(after, slot, "IMPORTING", ids[before])
        self._setslot(before, slot, "MIGRATING", ids[after])
        for node in (after, before, *(each for each in self.masters if each not in (before, after))):
            self._setslot(node, slot, "NODE", ids[after])
        return after

    def take_down(self, slot: int) -> Callable[[], None]:
        """Have nobody own a slot: then no node serves any. Return what gives it back, and waits until they do."""
        owner = self.owner(slot)
        # First the owner: others learn again from it what they forget.
        for node in (owner, *(each for each in self.nodes if each is not owner)):
            with node.client() as client:
                client.execute_command("CLUSTER", "DELSLOTS", slot)
        self.until(lambda: all(self._info(node)["cluster_state"] == "fail" for node in self.nodes))

        def give_back() -> None:
            with owner.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", slot)
            self.until(self.is_ready)

        return give_back

    def _setslot(self, node: Redis, slot: int, *what: str) -> None:
        with node.client() as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, *what)
