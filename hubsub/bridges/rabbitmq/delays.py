"""Messages that are due later: a cascade of queues, in each of which everything waits equally long.

In one queue a message that is due soon would wait behind one that is due late: RabbitMQ looks at the first only. So
there is a queue for each power of two of a tick, and a message passes through those whose sum is its delay, the longest
first. A header for each says whether it has to wait there, and leads it on.
"""

from __future__ import annotations

import math
import time
from typing import Any

from pamqp import commands

from .client import Channel

TICK = 0.1
"""Seconds."""
LEVELS = 31
"""The longest level is 3.4 years, so that a message may be due in 6.8 years."""
HEADER = "hubsub-wait-"
"""The beginning of the headers that lead a message on; bindings ignore headers that begin with x-."""


def ticks_until(due: float) -> int:
    """Return for how many ticks a message has to wait.

    Raises:
        ValueError: It is due too late.
    """
    ticks = max(1, math.ceil((due - time.time()) / TICK))
    if ticks >> LEVELS:
        raise ValueError(f"it is due in {ticks * TICK / 86400:.0f} days, and RabbitMQ keeps it for 2485 at most")
    return ticks


def path(ticks: int) -> tuple[int, dict[str, str]]:
    """Return the level where a message begins to wait, and the headers that lead it on."""
    top = ticks.bit_length() - 1
    return top, {f"{HEADER}{level}": "yes" if ticks >> level & 1 else "no" for level in range(top + 1)}


class Delays:
    """Declares the levels, once for each connection.

    Args:
        channel: Used for that.
        name: How the names of exchanges and queues begin.
        exchange: Where messages go that are due.
    """

    def __init__(self, channel: Channel, name: str, exchange: str) -> None:
        self._channel = channel
        self._name = name
        self._exchange = exchange
        self._levels = -1  # declared up to that

    def entrance(self, level: int) -> str:
        """Return the exchange to which messages are published that begin to wait at a level; below 0 they are due."""
        return f"{self._name}:{level}" if level >= 0 else f"{self._name}:due"

    async def prepare(self, level: int) -> None:
        """Declare all levels up to this one."""
        if level <= self._levels:
            return
        calls = []
        if self._levels < 0 <= level:
            due, sink = self.entrance(-1), f"{self._name}:nobody"
            # A level drops a message only when a queue has accepted it. So one queue accepts every message that is due,
            # and keeps none.
            nothing: dict[str, Any] = {"x-max-length": 0}
            calls += [
                commands.Exchange.Declare(exchange=due, exchange_type="fanout", durable=True),
                commands.Exchange.Bind(destination=self._exchange, source=due),
                commands.Queue.Declare(queue=sink, durable=True, arguments=nothing),
                commands.Queue.Bind(queue=sink, exchange=due),
            ]
        for each in range(self._levels + 1, level + 1):
            name, below = self.entrance(each), self.entrance(each - 1)
            waiting: dict[str, Any] = {
                "x-queue-type": "quorum",
                "x-message-ttl": round(TICK * 1000) << each,
                "x-dead-letter-exchange": below,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            yes: dict[str, Any] = {"x-match": "all", f"{HEADER}{each}": "yes"}
            no: dict[str, Any] = {"x-match": "all", f"{HEADER}{each}": "no"}
            calls += [
                commands.Exchange.Declare(exchange=name, exchange_type="headers", durable=True),
                commands.Queue.Declare(queue=name, durable=True, arguments=waiting),
                commands.Queue.Bind(queue=name, exchange=name, arguments=yes),
                commands.Exchange.Bind(destination=below, source=name, arguments=no),
            ]
        await self._channel.call(*calls)
        self._levels = max(self._levels, level)
