"""The drivers that our bridges stand on, used directly, in the fastest way that their documentation suggests.

Each is a way through a broker. Entered with `arrived`, which is called with each message that has come, decoded, it
gives two functions: one sends many messages at once, the other a single one. JSON goes both ways, and sender and reader
have connections of their own, as two hubs have.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

Arrived = Callable[[Any], object]

# Commands in a pipeline, records on their way, and what a reader takes at once: more is not faster.
LOT = 500
# Entries that a stream keeps: it has to be given, or the stream grows for ever.
MAXLEN = 1_000_000
# Lots that Kafka has not confirmed yet, and the key of each record.
UNDER_WAY, RECORD_KEY = 4, b"sensor/kitchen"


class Ends(NamedTuple):
    """Where messages go in."""

    many: Callable[[Sequence[Any]], Awaitable[object]]
    one: Callable[[Any], Awaitable[object]]


Way = Callable[[Arrived], AbstractAsyncContextManager[Ends]]


def messages(number: int) -> list[dict[str, Any]]:
    """So many different messages, each of 200 bytes in JSON."""
    bare = {"sensor": "kitchen", "number": 100_000, "celsius": 21.5, "note": ""}
    note = "x" * (200 - len(json.dumps(bare)))
    return [{**bare, "number": 100_000 + index, "note": note} for index in range(number)]


@asynccontextmanager
async def redis_pubsub(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    from redis.asyncio import Redis

    channel = uuid4().hex
    # Protocol 2 and no deadline on reading: twice as fast as what it does by default.
    publisher, subscriber = (Redis.from_url(url, protocol=2, socket_timeout=None) for _ in range(2))
    pipeline = publisher.pipeline(transaction=False)

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            for message in lot:
                pipeline.publish(channel, json.dumps(message))
            await pipeline.execute()

    async def one(message: Any) -> None:
        await publisher.publish(channel, json.dumps(message))

    async def receive() -> None:
        async for message in pubsub.listen():
            arrived(json.loads(message["data"]))

    async with publisher, subscriber, subscriber.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(channel)
        async with _running(receive()):
            yield Ends(many, one)


@asynccontextmanager
async def redis_stream(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    from redis.asyncio import Redis

    stream, group = uuid4().hex, "group"
    producer, consumer = (Redis.from_url(url, protocol=2, socket_timeout=None) for _ in range(2))
    pipeline = producer.pipeline(transaction=False)

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            for message in lot:
                pipeline.xadd(stream, {"data": json.dumps(message)}, maxlen=MAXLEN)
            await pipeline.execute()

    async def one(message: Any) -> None:
        await producer.xadd(stream, {"data": json.dumps(message)}, maxlen=MAXLEN)

    async def receive() -> None:
        while True:
            for _, entries in await consumer.xreadgroup(group, "me", {stream: ">"}, count=LOT, block=1000):
                for _, fields in entries:
                    arrived(json.loads(fields[b"data"]))
                await consumer.xack(stream, group, *[id for id, _ in entries])

    async with producer, consumer:
        await consumer.xgroup_create(stream, group, mkstream=True)
        async with _running(receive()):
            yield Ends(many, one)
        await consumer.delete(stream)


@asynccontextmanager
async def postgres_notify(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import asyncpg

    channel = uuid4().hex
    notifier, listener = await asyncpg.connect(url), await asyncpg.connect(url)
    # Half as fast again as a call for each row, and ten times as fast as a statement for each message.
    notify = await notifier.prepare("select count(pg_notify($1, text)) from unnest($2::text[]) as t (text)")

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            await notify.fetch(channel, [json.dumps(message) for message in lot])

    async def one(message: Any) -> None:
        await notify.fetch(channel, [json.dumps(message)])

    try:
        await listener.add_listener(channel, lambda connection, pid, channel, text: arrived(json.loads(text)))
        yield Ends(many, one)
    finally:
        await notifier.close()
        await listener.close()


@asynccontextmanager
async def sqlite(path: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import sqlite3

    writer, reader = (sqlite3.connect(path, isolation_level=None, check_same_thread=False) for _ in range(2))
    writer.execute("pragma journal_mode = wal")
    writer.execute("pragma synchronous = normal")
    writer.execute("create table log (number integer primary key, data text)")

    def store(lot: Sequence[Any]) -> None:
        writer.execute("begin immediate")
        writer.executemany("insert into log (data) values (?)", [(json.dumps(message),) for message in lot])
        writer.execute("commit")

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            await asyncio.to_thread(store, lot)

    async def one(message: Any) -> None:
        await asyncio.to_thread(store, [message])

    def read(after: int) -> list[tuple[int, str]]:
        query = "select number, data from log where number > ? order by number limit ?"
        return reader.execute(query, (after, LOT)).fetchall()

    async def receive() -> None:
        last, seen = 0, None
        while True:
            if (version := reader.execute("pragma data_version").fetchone()) == seen:
                await asyncio.sleep(0.004)
                continue
            seen = version
            while rows := await asyncio.to_thread(read, last):
                for number, data in rows:
                    arrived(json.loads(data))
                    last = number

    async with _running(receive()):
        yield Ends(many, one)
    writer.close()
    reader.close()


@asynccontextmanager
async def postgres_table(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import asyncpg

    table = f"job_{uuid4().hex}"
    producer, consumer = await asyncpg.connect(url), await asyncpg.connect(url)
    await producer.execute(
        f"create table {table} (number bigint generated always as identity primary key, data bytea, owner text,"
        f" until timestamptz); create index on {table} (number) where owner is null"
    )
    insert = await producer.prepare(
        f"with stored as (insert into {table} (data) select data from unnest($1::bytea[]) as t (data) returning 1)"
        f" select pg_notify('{table}', count(*)::text) from stored"
    )
    take = await consumer.prepare(
        f"with taken as (select number from {table} where owner is null order by number limit {LOT}"
        f" for update skip locked) update {table} t set owner = 'me', until = now() + interval '30 s'"
        " from taken where t.number = taken.number returning t.number, t.data"
    )
    done = await consumer.prepare(f"delete from {table} where number = any($1)")
    news = asyncio.Event()

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            await insert.fetch([json.dumps(message).encode() for message in lot])

    async def one(message: Any) -> None:
        await insert.fetch([json.dumps(message).encode()])

    async def receive() -> None:
        while True:
            news.clear()
            while rows := await take.fetch():
                for _, data in sorted(rows):
                    arrived(json.loads(data))
                await done.fetch([number for number, _ in rows])
            await news.wait()

    try:
        await consumer.add_listener(table, lambda *_: news.set())
        async with _running(receive()):
            yield Ends(many, one)
    finally:
        consumer.terminate()
        await producer.execute(f"drop table {table}")
        await producer.close()


@asynccontextmanager
async def nats_core(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import nats

    subject = uuid4().hex
    # Without looking at subjects, and with a larger buffer: a quarter faster than by default.
    publisher, subscriber = [
        await nats.connect(url, pending_size=16 << 20, skip_subject_validation=True) for _ in range(2)
    ]

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            for message in lot:
                await publisher.publish(subject, json.dumps(message).encode())
            await publisher.flush()

    async def one(message: Any) -> None:
        await publisher.publish(subject, json.dumps(message).encode())

    async def take(message: Any) -> None:
        arrived(json.loads(message.data))

    try:
        await subscriber.subscribe(subject, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await subscriber.flush()
        yield Ends(many, one)
    finally:
        await publisher.close()
        await subscriber.close()


@asynccontextmanager
async def jetstream(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import nats
    from nats.errors import TimeoutError as NothingCame
    from nats.js.api import AckPolicy, ConsumerConfig

    name = uuid4().hex
    producer, consumer = [await nats.connect(url, pending_size=16 << 20) for _ in range(2)]
    stream = producer.jetstream(publish_async_max_pending=4000)
    await stream.add_stream(name=name, subjects=[name])
    reader = consumer.jetstream()
    group = await reader.pull_subscribe(
        name, "group", name, config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000)
    )

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            stored = [await stream.publish_async(name, json.dumps(message).encode()) for message in lot]
            await asyncio.gather(*stored)

    async def one(message: Any) -> None:
        await stream.publish(name, json.dumps(message).encode())

    async def receive() -> None:
        while True:
            with suppress(NothingCame):
                messages = await group.fetch(LOT, timeout=1)
                for message in messages:
                    arrived(json.loads(message.data))
                for message in messages:
                    await message.ack()

    try:
        async with _running(receive()):
            yield Ends(many, one)
        await stream.delete_stream(name)
    finally:
        await producer.close()
        await consumer.close()


@asynccontextmanager
async def rabbitmq(url: str, arrived: Arrived) -> AsyncIterator[Ends]:
    import aiormq
    from pamqp import commands

    name = uuid4().hex
    writing, reading = [await aiormq.connect(url) for _ in range(2)]
    publisher, subscriber = await writing.channel(publisher_confirms=True), await reading.channel()
    await publisher.exchange_declare(name, exchange_type="topic", auto_delete=True)
    await subscriber.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    await subscriber.queue_bind(name, name, "#")
    await subscriber.basic_qos(prefetch_count=1000)
    properties = commands.Basic.Properties(delivery_mode=2)
    taken = 0

    async def publish(message: Any) -> None:
        body = json.dumps(message).encode()
        await publisher.basic_publish(body, exchange=name, routing_key="sensor.kitchen", properties=properties)

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            await asyncio.gather(*map(publish, lot))

    async def take(message: Any) -> None:
        nonlocal taken
        taken += 1
        if taken % 250 == 0:
            await subscriber.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
        arrived(json.loads(message.body))

    try:
        await subscriber.basic_consume(name, take)
        yield Ends(many, publish)
    finally:
        # aiormq logs a warning if it still reads.
        await reading.close()
        await publisher.queue_delete(name)
        await writing.close()


@asynccontextmanager
async def kafka(servers: str, arrived: Arrived) -> AsyncIterator[Ends]:
    from aiokafka import AIOKafkaProducer

    topic = uuid4().hex
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True)

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            stored = [await producer.send(topic, json.dumps(message).encode(), RECORD_KEY) for message in lot]
            await asyncio.gather(*stored)

    async def one(message: Any) -> None:
        await producer.send_and_wait(topic, json.dumps(message).encode(), RECORD_KEY)

    async with producer, _kafka_reader(servers, topic, producer, arrived):
        yield Ends(many, one)


@asynccontextmanager
async def kafka_batches(servers: str, arrived: Arrived) -> AsyncIterator[Ends]:
    from aiokafka import AIOKafkaProducer

    topic = uuid4().hex
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, max_batch_size=262_144)

    async def many(messages: Sequence[Any]) -> None:
        sent: deque[Any] = deque()
        for lot in _lots(messages):
            batch = producer.create_batch()
            for message in lot:
                batch.append(key=RECORD_KEY, value=json.dumps(message).encode(), timestamp=None)
            sent.append(await producer.send_batch(batch, topic, partition=0))
            while len(sent) > UNDER_WAY:
                await sent.popleft()
        await asyncio.gather(*sent)

    async def one(message: Any) -> None:
        await producer.send_and_wait(topic, json.dumps(message).encode(), RECORD_KEY)

    async with producer, _kafka_reader(servers, topic, producer, arrived):
        yield Ends(many, one)


@asynccontextmanager
async def kafka_librdkafka(servers: str, arrived: Arrived) -> AsyncIterator[Ends]:
    from confluent_kafka import Consumer, Producer

    topic, loop, closing = uuid4().hex, asyncio.get_running_loop(), threading.Event()
    common = {"bootstrap.servers": servers, "log_level": 0}
    producer = Producer({**common, "enable.idempotence": True, "linger.ms": 1})
    consumer = Consumer(
        {**common, "group.id": uuid4().hex, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    )

    def produce(lot: Sequence[Any]) -> asyncio.Future[None]:
        stored, left = loop.create_future(), len(lot)

        def delivered(error: Any, message: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                loop.call_soon_threadsafe(stored.set_result, None)

        for message in lot:
            producer.produce(topic, json.dumps(message).encode(), RECORD_KEY, on_delivery=delivered)
        return stored

    async def many(messages: Sequence[Any]) -> None:
        sent: deque[Any] = deque()
        for lot in _lots(messages):
            sent.append(produce(lot))
            await asyncio.sleep(0)
            while len(sent) > UNDER_WAY:
                await sent.popleft()
        await asyncio.gather(*sent)

    async def one(message: Any) -> None:
        await produce([message])

    def take(records: Sequence[Any]) -> None:
        for record in records:
            # An error of its own comes as a record too.
            if record.error() is None:
                arrived(json.loads(record.value()))

    def confirm() -> None:
        while not closing.is_set():
            producer.poll(0.1)

    def receive() -> None:
        committed = monotonic()
        # `consume` alone would wait until it has as many as it may have.
        while not closing.is_set():
            if (first := consumer.poll(0.1)) is not None:
                loop.call_soon_threadsafe(take, [first, *consumer.consume(LOT, 0)])
                if monotonic() - committed > 0.1:
                    consumer.commit(asynchronous=True)
                    committed = monotonic()

    # Makes the topic.
    await asyncio.to_thread(producer.list_topics, topic, 10)
    consumer.subscribe([topic])
    threads = [asyncio.create_task(asyncio.to_thread(each)) for each in (confirm, receive)]
    try:
        yield Ends(many, one)
    finally:
        closing.set()
        await asyncio.wait(threads)
        await asyncio.to_thread(consumer.close)


@asynccontextmanager
async def _kafka_reader(servers: str, topic: str, producer: Any, arrived: Arrived) -> AsyncIterator[None]:
    from aiokafka import AIOKafkaConsumer

    # Makes the topic; else the consumer would find out about it a while later.
    await producer.partitions_for(topic)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=uuid4().hex,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )

    async def receive() -> None:
        committed = monotonic()
        while True:
            for records in (await consumer.getmany(timeout_ms=100, max_records=LOT)).values():
                for record in records:
                    arrived(json.loads(record.value))
            if monotonic() - committed > 0.1:
                await consumer.commit()
                committed = monotonic()

    async with consumer, _running(receive()):
        yield


class _MQTT(asyncio.Protocol):
    """The codec mqtt5 by hand: it comes without a client."""

    def __init__(self, arrived: Arrived) -> None:
        self.arrived = arrived
        self.rest = b""
        self.left = 0
        self.answer: asyncio.Future[Any]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        import mqtt5

        data = self.rest + data
        view, begin, acks = memoryview(data), 0, []
        while begin < len(data):
            try:
                packet, size = mqtt5.read(view[begin:])
            except IndexError:
                break
            begin += size
            if type(packet) is mqtt5.PublishPacket:
                self.arrived(json.loads(packet.payload))
                acks.append(mqtt5.PubAckPacket(packet.packet_id).write())
            elif type(packet) is not mqtt5.PubAckPacket:
                self.answer.set_result(packet)
            else:
                self.left -= 1
                if not self.left:
                    self.answer.set_result(None)
        self.rest = data[begin:]
        if acks:
            self.transport.write(b"".join(acks))

    async def ask(self, *packets: Any) -> Any:
        self.left, self.answer = len(packets), asyncio.get_running_loop().create_future()
        self.transport.write(b"".join([packet.write() for packet in packets]))
        return await self.answer


@asynccontextmanager
async def mqtt(port: int, arrived: Arrived) -> AsyncIterator[Ends]:
    from mqtt5 import ConnectPacket, PublishPacket, QoS, SubscribePacket, TopicFilter

    topic, once = uuid4().hex, QoS.AT_LEAST_ONCE
    ends = []
    for name in ("sender", "reader"):
        _, end = await asyncio.get_running_loop().create_connection(lambda: _MQTT(arrived), "127.0.0.1", port)
        await end.ask(ConnectPacket(f"{name}-{topic}", clean_start=True))
        ends.append(end)
    sender, reader = ends
    await reader.ask(SubscribePacket(1, [TopicFilter(topic, max_qos=once)]))

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            await sender.ask(
                *[
                    PublishPacket(topic, json.dumps(message).encode(), qos=once, packet_id=number)
                    for number, message in enumerate(lot, 1)
                ]
            )

    async def one(message: Any) -> None:
        await many([message])

    yield Ends(many, one)
    for end in ends:
        end.transport.abort()


@asynccontextmanager
async def mqtt_client(port: int, arrived: Arrived) -> AsyncIterator[Ends]:
    import gmqtt

    topic, is_subscribed = uuid4().hex, asyncio.Event()
    sender, reader = gmqtt.Client(f"sender-{topic}"), gmqtt.Client(f"reader-{topic}", receive_maximum=65535)

    def on_message(client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        arrived(json.loads(payload))
        return 0

    async def many(messages: Sequence[Any]) -> None:
        for lot in _lots(messages):
            for message in lot:
                sender.publish(topic, json.dumps(message), qos=1)
            await asyncio.sleep(0)

    async def one(message: Any) -> None:
        sender.publish(topic, json.dumps(message), qos=1)

    reader.on_message, reader.on_subscribe = on_message, lambda *_: is_subscribed.set()
    for client in (sender, reader):
        await client.connect("127.0.0.1", port)
    reader.subscribe(topic, qos=1)
    await is_subscribed.wait()
    yield Ends(many, one)
    for client in (sender, reader):
        await client.disconnect()


def _lots(messages: Sequence[Any]) -> Iterable[list[Any]]:
    remaining = iter(messages)
    while lot := list(islice(remaining, LOT)):
        yield lot


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
