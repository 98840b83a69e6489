"""The brokers that have landed, as the fault suite wants them: twenty lines each."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any, cast
from unittest import SkipTest

import aiokafka
import aiokafka.errors

from brokers.broker import Broker
from brokers.kafka_server import Kafka
from brokers.redis_server import Redis
from hubsub.bridges import Adapter, Link, adapter_for
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker
from hubsub.bridges.sqlite import SQLiteAdapter
from hubsub.bridges.sqlite.file import File
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


class HarmedSQLite(conformance.Broker):
    """A file, on a disk that can hang, vanish and be slow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "there"
        self.folder.mkdir(exist_ok=True)
        self.line = DiskLine()
        self.disk = DiskLine()
        self._stranger: sqlite3.Connection | None = None

    def adapter(self, *, direct: bool = False) -> Adapter:
        return HarmedAdapter(self.folder / "log.db", [self.disk] if direct else [self.disk, self.line])

    @property
    def _away(self) -> Path:
        return self.folder.with_name("away")

    async def start(self) -> None:
        if self._away.exists():
            self._away.rename(self.folder)

    def kill(self) -> None:
        self.folder.rename(self._away)

    def freeze(self) -> None:
        self.disk.stall()

    def thaw(self) -> None:
        self.disk.resume()

    def open(self) -> sqlite3.Connection:
        """Open the file as another program does."""
        return sqlite3.connect(self.folder / "log.db", isolation_level=None, timeout=30)

    async def refuse_writes(self) -> None:
        self._stranger = self.open()
        self._stranger.execute("begin immediate")

    async def take_writes(self) -> None:
        if self._stranger is not None:
            self._stranger.close()
            self._stranger = None

    async def forbid(self, namespace: str) -> None:
        self._execute(
            f"create trigger forbidden before insert on message when new.space = '{namespace}' begin"
            " select raise(abort, 'forbidden'); end"
        )

    async def allow(self, namespace: str) -> None:
        self._execute("drop trigger forbidden")

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        for parts, payload, _ in messages:
            address: Any = parts if isinstance(parts, bytes) else "/".join(parts).encode("utf-8", "surrogatepass")
            self._execute(
                "insert into message select ?, last + 1, ?, ?, 1 from (select max(last, coalesce("
                "(select max(number) from message where space = log.space), 0)) as last from log where space = ?)",
                namespace,
                address,
                payload,
                namespace,
            )

    def _execute(self, query: str, *values: Any) -> None:
        with closing(self.open()) as db:
            db.execute(query, values)


class DiskLine:
    """What is between an adapter and a file: nothing, unless that is slow, hangs or breaks."""

    def __init__(self) -> None:
        self.files: set[HarmedFile] = set()
        self._may_ask, self._may_answer = Event(), Event()
        self._may_ask.set()
        self._may_answer.set()
        self._seconds = 0.0
        self._is_refusing = False
        self._left: int | None = None  # questions, until it is cut

    @property
    def connections(self) -> int:
        return len(self.files)

    def open(self, file: HarmedFile) -> None:
        self._may_ask.wait()
        if self._is_refusing:
            raise ConnectionRefusedError("refused by the test")
        self.files.add(file)

    def ask(self) -> None:
        """Pass, as soon as that is possible."""
        self._may_ask.wait()
        sleep(self._seconds)

    def answer(self) -> None:
        """Come back likewise."""
        self._may_answer.wait()
        sleep(self._seconds)
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.cut()

    def cut(self) -> None:
        self._left = None
        for file in list(self.files):
            file.is_cut = True

    def cut_after(self, size: int) -> None:
        self._left = size // 50

    def stall(self) -> None:
        self._may_ask.clear()

    def stall_replies(self) -> None:
        self._may_answer.clear()

    def resume(self) -> None:
        self._may_ask.set()
        self._may_answer.set()

    def slow(self, rate: float | None) -> None:
        if rate is not None:
            raise SkipTest("a file has no narrow line, only one that takes long")

    def delay(self, seconds: float) -> None:
        self._seconds = seconds

    def refuse(self) -> None:
        self._is_refusing = True

    async def accept(self) -> None:
        self._is_refusing = False


class HarmedFile(File):
    """One that is opened, asked and answers over such lines."""

    lines: list[DiskLine]
    is_cut = False

    def _connect(self) -> sqlite3.Connection:
        for line in self.lines:
            line.open(self)
        return super()._connect()

    def _main(self) -> None:
        try:
            super()._main()
        finally:
            for line in self.lines:
                line.files.discard(self)

    def _do(self, db: sqlite3.Connection, job: Any) -> None:
        def work(db: sqlite3.Connection) -> Any:
            if self.is_cut:
                raise ConnectionResetError("cut by the test")
            return job.work(db)

        for line in self.lines:
            line.ask()
        super()._do(db, job._replace(work=work))

    def _look(self, db: sqlite3.Connection) -> None:
        if self.is_cut:
            raise ConnectionResetError("cut by the test")
        super()._look(db)

    def post(self, call: Any, *arguments: Any) -> None:
        for line in self.lines:
            line.answer()
        super().post(call, *arguments)


class HarmedAdapter(SQLiteAdapter):
    """Opens such files."""

    def __init__(self, path: Path, lines: list[DiskLine]) -> None:
        super().__init__(path)
        self._lines = lines

    def make_file(self, link: Link) -> File:
        file = super().make_file(link)
        file.__class__ = HarmedFile
        cast(HarmedFile, file).lines = self._lines
        return file


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
