"""A Redis Cluster, as the fault suite wants it: all of its nodes, and a line to each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import redis

from brokers.redis_cluster import RedisCluster
from hubsub.bridges import Adapter
from hubsub.bridges.redis import RedisClusterAdapter
from hubsub.testing import conformance

from .harmed import Harmed


class Lines:
    """The lines to all nodes, which fail together."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.proxies = {node.port: node.proxy() for node in cluster.nodes}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in self.proxies.values():
            await self._stack.enter_async_context(proxy)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def through(self, node: tuple[str, int]) -> tuple[str, int]:
        """Where a node is found by way of its line."""
        proxy = self.proxies.get(node[1])
        return node if proxy is None else (node[0], proxy.port)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies.values())

    @property
    def connections(self) -> int:
        return sum(proxy.connections for proxy in self.proxies.values())

    async def accept(self) -> None:
        for proxy in self.proxies.values():
            await proxy.accept()

    def __getattr__(self, name: str) -> Any:
        def each(*arguments: Any) -> None:
            for proxy in self.proxies.values():
                getattr(proxy, name)(*arguments)

        return each


class HarmedRedisCluster(Harmed):
    """Redis Cluster by sharded Pub/Sub."""

    process: RedisCluster
    line: Lines  # type: ignore[assignment]

    def __init__(self, process: RedisCluster, scheme: str) -> None:
        self.process = process
        self.scheme = scheme
        self.line = Lines(process)

    def adapter(self, *, direct: bool = False) -> Adapter:
        if direct:
            return RedisClusterAdapter(self.process.url)
        return RedisClusterAdapter(self.line.url, address_remap=self.line.through)

    async def start(self) -> None:
        if not all(node.is_running for node in self.process.nodes):
            await self.process.start_wait()

    async def forbid(self, namespace: str) -> None:
        self._command("ACL", "SETUSER", "default", "-spublish", "-publish")

    async def allow(self, namespace: str) -> None:
        self._command("ACL", "SETUSER", "default", "+spublish", "+publish")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        clients = [node.client() for node in self.process.nodes]
        for parts, payload, _ in messages:
            address = f"{namespace}:".encode() + (parts if isinstance(parts, bytes) else ":".join(parts).encode())
            clients[0].publish(address, payload or b"")
            for client in clients:
                try:
                    client.execute_command("SPUBLISH", address, payload or b"")
                    break
                except redis.ResponseError:
                    pass  # another node has the slot
        for client in clients:
            client.close()

    def _command(self, *words: object) -> None:
        for node in self.process.nodes:
            with node.client() as client:
                client.execute_command(*words)
