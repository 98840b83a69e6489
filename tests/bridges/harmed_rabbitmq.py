"""RabbitMQ, as the fault suite wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiormq
from pamqp import commands

from brokers.rabbitmq_server import RabbitMQ
from hubsub.testing import conformance

from .harmed import Harmed

ALARM = "{resource_limit, memory, node()}"


class HarmedRabbitMQ(Harmed):
    """RabbitMQ, whose memory may run out."""

    process: RabbitMQ
    _is_full = False

    async def _run(self, *words: object) -> None:
        await asyncio.to_thread(self.process.control, *words)

    async def refuse_writes(self) -> None:
        self._is_full = True
        await self._run("eval", f"rabbit_alarm:set_alarm({{{ALARM}, []}}).")

    async def take_writes(self) -> None:
        if self._is_full:
            self._is_full = False
            await self._run("eval", f"rabbit_alarm:clear_alarm({ALARM}).")

    async def forbid(self, namespace: str) -> None:
        await self._run("set_permissions", "guest", ".*", "^amq", ".*")

    async def allow(self, namespace: str) -> None:
        await self._run("set_permissions", "guest", ".*", ".*", ".*")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        connection = await aiormq.connect(self.process.url)
        channel = await connection.channel()
        for parts, payload, headers in messages:
            address = parts.decode("latin-1") if isinstance(parts, bytes) else ".".join(parts)
            table = {name: value.decode(errors="replace") for name, value in headers.items()}
            fits = max(map(len, [address, *table])) <= 255 and sum(map(len, table.values())) < 100_000
            if fits:
                properties = commands.Basic.Properties(headers=dict(table), delivery_mode=2)
                await channel.basic_publish(
                    payload or b"", exchange=namespace, routing_key=address, properties=properties
                )
        await connection.close()
