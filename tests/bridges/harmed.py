"""The brokers that have landed, as the fault suite wants them: twenty lines each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import SkipTest

import aiokafka
import aiokafka.errors
import mqtt5
from nats.aio.client import Client
from websockets.asyncio.client import connect

from brokers.broker import Broker
from brokers.kafka_server import Kafka
from brokers.mosquitto import Mosquitto
from brokers.nats_server import Nats
from brokers.postgres_server import Postgres
from brokers.redis_server import Redis
from brokers.web_server import WebServer
from hubsub.bridges import Adapter, adapter_for
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker
from hubsub.bridges.nats import JetStreamAdapter
from hubsub.bridges.postgres.frames import Frames, channel_of
from hubsub.testing import conformance


class Harmed(conformance.Broker):
    """A process, and a proxy before it."""

    def __init__(self, process: Broker, scheme: str) -> None:
        self.process = process
        self.scheme = scheme
        self.line = process.proxy()

    def adapter(self, *, direct: bool = False) -> Adapter:
        url = self.process.url if direct else self.line.url
        return adapter_for(self.scheme + url[url.index("://") :])

    async def start(self) -> None:
        if not self.process.is_running:
            await self.process.start_wait()

    def kill(self) -> None:
        self.process.kill()

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()


class HarmedRedis(Harmed):
    """Redis, as Pub/Sub or as Streams."""

    process: Redis

    @property
    def _writing(self) -> str:
        return "publish" if self.scheme == "redis" else "xadd"

    async def refuse_writes(self) -> None:
        if self.scheme == "redis":
            return await super().refuse_writes()  # what is passed on takes no memory
        self._command("CONFIG", "SET", "maxmemory", 1)

    async def take_writes(self) -> None:
        self._command("CONFIG", "SET", "maxmemory", 0)

    async def forbid(self, namespace: str) -> None:
        self._command("ACL", "SETUSER", "default", f"-{self._writing}")

    async def allow(self, namespace: str) -> None:
        self._command("ACL", "SETUSER", "default", f"+{self._writing}")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        with self.process.client() as client:
            for parts, payload, headers in messages:
                address = parts if isinstance(parts, bytes) else ":".join(parts).encode()
                if self.scheme == "redis":
                    client.publish(f"{namespace}:".encode() + address, payload or b"")
                else:
                    fields: dict[Any, Any] = {"key": address} | dict(headers)
                    client.xadd(namespace, fields if payload is None else fields | {"payload": payload})

    def _command(self, *words: object) -> None:
        with self.process.client() as client:
            client.execute_command(*words)


class HarmedKafka(Harmed):
    """Kafka."""

    process: Kafka

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        async with aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.process.address(), max_request_size=1 << 30
        ) as producer:
            for parts, payload, headers in messages:
                address = parts if isinstance(parts, bytes) else "/".join(parts).encode()
                try:
                    await producer.send_and_wait(namespace, payload, key=address, headers=list(headers.items()))
                except aiokafka.errors.MessageSizeTooLargeError:
                    pass  # it takes no such thing from anybody


class HarmedEndpoint(Harmed):
    """An endpoint for WebSockets."""

    process: WebServer
    forgets = True

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        for parts, payload, headers in messages:
            if isinstance(parts, bytes):
                continue  # keys are lists
            texts = {name: value.decode(errors="replace") for name, value in headers.items()}
            frame = {"type": "publish", "id": 1, "key": list(parts), "headers": texts}
            text = json.dumps(frame)[:-1] + f', "data": {(payload or b"null").decode(errors="replace")}}}'
            # What JSON cannot hold would be a gap to whoever is subscribed, and rightly so.
            in_base64 = json.dumps({**frame, "id": 2, "data_base64": base64.b64encode(payload or b"").decode()})
            is_text = (payload or b"").isascii()
            # A connection for each: after three malformed frames one is closed.
            async with connect(self.process.url, max_size=None) as socket:
                await socket.recv()
                for each in (text, in_base64) if is_text else (text,):
                    await socket.send(each)
                    while not {"ok", "error"} & {answer.get("type") for answer in json.loads(await socket.recv())}:
                        pass


class HarmedPostgres(Harmed):
    """PostgreSQL by LISTEN and NOTIFY."""

    process: Postgres

    async def forbid(self, namespace: str) -> None:
        await self.process.execute("revoke execute on function pg_notify(text, text) from public")

    async def allow(self, namespace: str) -> None:
        await self.process.execute("grant execute on function pg_notify(text, text) to public")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        frames = Frames()
        client = await self.process.client()
        async with client.transaction():
            for parts, payload, _ in messages:
                address = parts.decode(errors="replace") if isinstance(parts, bytes) else "/".join(parts)
                if "\0" in address:
                    continue  # Postgres has no such text
                for text in frames.frame(address, payload or b""):
                    for channel in (channel_of(namespace), f"{channel_of(namespace)}:control"):
                        await client.execute("select pg_notify($1, $2)", channel, text)
        await client.close()


class HarmedPostgresLog(Harmed):
    """PostgreSQL as a log in tables."""

    process: Postgres

    async def refuse_writes(self) -> None:
        await self.process.execute(
            "create or replace function full_disk() returns trigger language plpgsql as"
            " 'begin raise exception ''no space left on device'' using errcode = ''disk_full''; end'",
            "create trigger full_disk before insert on hubsub.message execute function full_disk()",
        )

    async def take_writes(self) -> None:
        await self.process.execute("drop trigger if exists full_disk on hubsub.message")

    async def forbid(self, namespace: str) -> None:
        await self.process.execute("revoke insert on hubsub.message from hubsub")

    async def allow(self, namespace: str) -> None:
        await self.process.execute("grant insert on hubsub.message to hubsub")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        client = await self.process.client()
        for parts, payload, _ in messages:
            address = parts.decode(errors="replace") if isinstance(parts, bytes) else "/".join(parts)
            if "\0" not in address:
                append = "select hubsub.append($1, gen_random_uuid()::text, '{1}', array[$2], array[$3::bytea], null)"
                assert await client.fetchval(append, namespace, address, payload)
        await client.close()


class HarmedNats(Harmed):
    """Core NATS."""

    process: Nats
    LONGEST = 4096
    """Bytes of a line of the protocol."""

    async def forbid(self, namespace: str) -> None:
        await asyncio.to_thread(self.process.permit, publish={"deny": [f"{namespace}.k.>"]})

    async def allow(self, namespace: str) -> None:
        await asyncio.to_thread(self.process.permit)

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.process.port)
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        for parts, payload, headers in messages:
            subject = f"{namespace}.".encode() + (parts if isinstance(parts, bytes) else ".".join(parts).encode())
            head = b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % (name.encode(), headers[name]) for name in headers)
            data = head + b"\r\n" + (payload or b"")
            begin = b"HPUB %b reply.to.me %d %d\r\n" % (subject, len(head) + 2, len(data))
            # What a server takes from nobody costs the connection.
            if len(subject.split()) == 1 and len(begin) < self.LONGEST and len(data) <= 1 << 20:
                writer.write(begin + data + b"\r\n")
        writer.write(b"PING\r\n")
        while await reader.readline() != b"PONG\r\n":
            pass
        writer.close()


class HarmedJetStream(HarmedNats):
    """JetStream, whose streams may be full."""

    keeps_leases = True

    def adapter(self, *, direct: bool = False) -> Adapter:
        url = self.process.url if direct else self.line.url
        # Shorter, so that less is waited for; one reader is there, and takes nothing from itself.
        return JetStreamAdapter(f"jetstream{url[url.index('://') :]}", lease=1)

    async def refuse_writes(self) -> None:
        # Nothing that is there may go, so there is room for a few more.
        await self._bound(lambda messages: {"max_msgs": messages + 50, "discard": "new"})

    async def take_writes(self) -> None:
        await self._bound(lambda messages: {"max_msgs": 1_000_000, "discard": "old"})

    async def _bound(self, of: Callable[[int], dict[str, Any]]) -> None:
        client = await self.process.client()
        try:
            for info in await _asked(client, "STREAM.LIST", "streams"):
                config = info["config"]
                if not config["name"].startswith("KV_"):
                    changed = {**config, **of(info["state"]["messages"])}
                    await _asked(client, f"STREAM.UPDATE.{config['name']}", "config", changed)
        finally:
            await client.close()


async def _asked(client: Client, subject: str, wanted: str, data: Any = None) -> Any:
    """What JetStream replies to a request."""
    reply = await client.request(f"$JS.API.{subject}", json.dumps(data).encode() if data else b"", timeout=10)
    return json.loads(reply.data)[wanted]


class HarmedMosquitto(Harmed):
    """Mosquitto."""

    process: Mosquitto

    def kill(self) -> None:
        # What it confirms it writes later, and so may lose: that is another test's. No confirmation that it sends after
        # it has written is heard, since the line is cut before.
        self.line.cut()
        self.process.save()
        super().kill()

    async def forbid(self, namespace: str) -> None:
        await asyncio.to_thread(self.process.deny, f"{namespace}/k/0")

    async def allow(self, namespace: str) -> None:
        await asyncio.to_thread(self.process.deny)

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        for parts, payload, headers in messages:
            address = parts.decode(errors="replace") if isinstance(parts, bytes) else "/".join(parts)
            properties = [(name, value.decode(errors="replace")) for name, value in headers.items()]
            content_type = dict(properties).get("content-type")
            try:
                packet = mqtt5.PublishPacket(
                    f"{namespace}/{address}", payload or b"", content_type=content_type, user_properties=properties
                ).write()
            except ValueError:
                continue  # there is no such packet
            reader, writer = await asyncio.open_connection("127.0.0.1", self.process.port)
            try:
                writer.write(mqtt5.ConnectPacket(f"inject-{os.urandom(6).hex()}", clean_start=True).write() + packet)
                writer.write(b"\xc0\x00\xe0\x00")  # it answers to a ping, or has ended the connection
                await reader.read()
            except ConnectionError:
                pass  # it takes no such thing from anybody
            finally:
                writer.close()


class HarmedMemory(conformance.Broker):
    """`memory://`, which is its own line, as far as it goes."""

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        self.broker = MemoryBroker.named.setdefault(self.url, MemoryBroker())
        self.line = MemoryLine(self.broker)

    def adapter(self, *, direct: bool = False) -> Adapter:
        return MemoryAdapter(self.url)

    async def start(self) -> None:
        self.broker.is_down = False

    def kill(self) -> None:
        self.broker.is_down = True
        self.broker.cut()

    def freeze(self) -> None:
        self.broker.thawed.clear()

    def thaw(self) -> None:
        self.broker.thawed.set()


class MemoryLine:
    """All there is between an adapter and a broker that are in one process."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker

    @property
    def connections(self) -> int:
        return len(self.broker.connections)

    def cut(self) -> None:
        self.broker.cut()

    def cut_after(self, size: int) -> None:
        self.broker.cut()

    def abandon(self) -> None:
        raise SkipTest("neither of two in one process misses the other")

    def forget(self) -> None:
        pass

    def stall(self) -> None:
        self.broker.thawed.clear()

    def stall_replies(self) -> None:
        self.broker.thawed.clear()

    def resume(self) -> None:
        self.broker.thawed.set()

    def slow(self, rate: float | None) -> None:
        self.broker.delay = 0.0 if rate is None else 1e4 / rate

    def delay(self, seconds: float) -> None:
        self.broker.delay = seconds

    def refuse(self) -> None:
        self.broker.is_down = True

    async def accept(self) -> None:
        self.broker.is_down = False
