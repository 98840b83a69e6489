"""A program for the tests: publishes and listens over a bridge, and writes down what was confirmed and what came.

    worker.py LEDGER NAME URL OPTIONS

LEDGER gets a line of JSON for each event, written at once, so that a SIGKILL right after it does not undo it. NAME
stands in the lines, and in the keys of what is published. OPTIONS, in JSON, are `publishes`, whether it does, `bridge`,
the options of the `Bridge`, and `adapter`, those of the adapter. A line on the standard input ends publishing, and the
end of it the program.
"""

import asyncio
import json
import os
import sys
from itertools import count
from time import monotonic
from typing import Any

from hubsub import Bridge, Gap, Hub, HubsubError, Key
from hubsub.bridges.kafka import KafkaAdapter
from hubsub.bridges.mqtt import MQTTAdapter
from hubsub.bridges.nats import JetStreamAdapter, NatsAdapter
from hubsub.bridges.postgres import PostgresLogAdapter
from hubsub.bridges.rabbitmq import RabbitMQAdapter
from hubsub.bridges.redis import RedisAdapter, RedisStreamAdapter
from hubsub.bridges.sqlite import SQLiteAdapter

ADAPTERS: dict[str, Any] = {
    "redis": RedisAdapter,
    "redis-stream": RedisStreamAdapter,
    "kafka": KafkaAdapter,
    "amqp": RabbitMQAdapter,
    "nats": NatsAdapter,
    "jetstream": JetStreamAdapter,
    "sqlite": SQLiteAdapter,
    "postgres-log": PostgresLogAdapter,
    "mqtt": MQTTAdapter,
}
WORK = Key("work", "*")
AT_ONCE = 10


class Worker:
    def __init__(self, ledger: str, name: str) -> None:
        self.file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.name = name
        self.stopped = asyncio.Event()

    def note(self, what: str, *figures: Any) -> None:
        # The clock is one for all processes of the machine.
        os.write(self.file, f"{json.dumps([what, self.name, os.getpid(), monotonic(), *figures])}\n".encode())

    async def listen(self, subscription: Any) -> None:
        async for event in subscription:
            if isinstance(event, Gap):
                self.note("gap", event.count)
            else:
                # Takes a while: something is in hand whenever it is killed.
                await asyncio.sleep(0.001)
                self.note("received", *event.message)

    async def publish(self, hub: Hub) -> None:
        numbers = count()
        while not self.stopped.is_set():
            await asyncio.gather(*(self.publish_one(hub, next(numbers)) for _ in range(AT_ONCE)))
            await asyncio.sleep(0.02)
        self.note("stopped")

    async def publish_one(self, hub: Hub, number: int) -> None:
        # Process ids may come again: a pair of name and pid is one life of a worker.
        message = [self.name, os.getpid(), number]
        self.note("publishing", *message)
        try:
            await hub.publish_confirmed(("work", self.name, str(number % 7)), message, timeout=60)
        except HubsubError as error:
            self.note("failed", *message, repr(error))
        else:
            self.note("confirmed", *message)


async def main(ledger: str, name: str, url: str, options: dict[str, Any]) -> None:
    worker = Worker(ledger, name)
    adapter = ADAPTERS[url.partition("://")[0]](url, **options["adapter"])
    async with Hub() as hub, Bridge(hub, adapter, both=WORK, **options["bridge"]) as bridge:
        with hub.subscribe(WORK, gaps=True) as subscription:
            listening = asyncio.create_task(worker.listen(subscription))
            await bridge.ready(60)
            worker.note("ready")
            publishing = asyncio.create_task(worker.publish(hub)) if options["publishes"] else None
            while await asyncio.to_thread(sys.stdin.readline):
                worker.stopped.set()
            if publishing is not None:
                await publishing
            listening.cancel()
            health = bridge.health()
    worker.note("ended", health.duplicates, health.gaps)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], json.loads(sys.argv[4])))
