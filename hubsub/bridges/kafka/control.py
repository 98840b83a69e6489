"""Control messages: a separate topic, kept for a minute, which listeners read from its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from ...log import Episode, Logger
from ..adapter import Link, Loss
from .client import Client
from .logs import Lane
from .options import Options
from .reader import Reader

SUFFIX = ".control"
# Milliseconds for which they are kept, and bytes of a segment of the log, which is deleted as a whole.
KEPT_MS = 60_000
SEGMENT_BYTES = 16 * 1024 * 1024
# Milliseconds that a broker waits for the next message; it answers as soon as there is one.
FETCH_WAIT_MS = 1_000
# The most messages that wait to be received; beyond it, reading pauses.
MOST_WAITING = 10_000
# Seconds between attempts while there is no such topic, or no right to it.
TRY_AGAIN = 30.0


async def make_topic(client: Client, topic: str, like: str, largest: int) -> None:
    """Create the topic, unless it exists.

    Args:
        client: The client to use.
        topic: Its name.
        like: The topic whose replication it copies.
        largest: Bytes of the largest message.
    """
    settings = {
        "cleanup_policy": "delete",
        "retention_ms": KEPT_MS,
        "segment_ms": KEPT_MS,
        "segment_bytes": max(SEGMENT_BYTES, 2 * largest),
    }
    if not await client.exists(topic) and not await client.create(topic, like, **settings):
        await client.create(topic, like)


class Control:
    """Reads the control messages of some keys, without a group, over connections of its own.

    Args:
        options: Of the consumer.
        topic: The topic of control messages.
        like: The topic of messages that it belongs to.
        link: What the relay wants.
        log: For the error that there is no such topic.
    """

    def __init__(self, options: Options, topic: str, like: str, link: Link, log: Logger) -> None:
        link = Link(sender=link.sender, namespace=link.namespace)
        largest = options.max_request_size
        self._reader = Reader(
            options.with_fetch_wait(FETCH_WAIT_MS),
            [topic],
            link,
            log,
            lambda client: _make(client, topic, like, largest),
        )
        self._trouble = Episode(log)
        self._keys: Collection[bytes] = ()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._waiting: deque[tuple[Lane, Any]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.on_news: Callable[[], object] = _nothing
        """Called when there is something to receive."""
        self.line = self._reader.line
        self.is_open = False
        """True if the topic can be read."""

    async def open(self) -> None:
        """Prepare reading the topic, if that is possible.

        Raises:
            ConnectionError: No broker answers.
        """
        await self._end()
        self._failure = None
        self._news, self._room = asyncio.Event(), asyncio.Event()
        await self._open()

    async def listen(self, keys: Collection[bytes]) -> None:
        """Receive the messages of these keys from now on.

        Args:
            keys: The keys as in records.
        """
        await self._end()
        self._keys = frozenset(keys)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _open(self) -> None:
        self.is_open = False
        try:
            await self._reader.open()
        except (LookupError, PermissionError) as error:
            self._trouble.error("%s: without it there are no replies to requests over this bridge", error)
        else:
            self.is_open = True
            self._trouble.end()

    async def _run(self) -> None:
        while not self.is_open:
            await asyncio.sleep(TRY_AGAIN)
            await self._open()
        while True:
            for each in await self._reader.read(MOST_WAITING):
                if not isinstance(each, Loss):
                    await self._receive(*each)

    async def _receive(self, lane: Lane, records: Sequence[Any]) -> None:
        await self._reader.advance([(lane, records[-1].offset)])
        for record in records:
            if record.key in self._keys:
                self._waiting.append((lane, record))
        if self._waiting:
            self._tell()
        while len(self._waiting) > MOST_WAITING:
            self._room.clear()
            await self._room.wait()

    def _tell(self) -> None:
        self._news.set()
        self.on_news()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = task.exception()
            self._tell()

    @property
    def has_news(self) -> bool:
        """True if there is a message to receive, or an error to raise."""
        return bool(self._waiting) or self._failure is not None

    async def wait(self, seconds: float) -> bool:
        """Wait for something to receive, an interruption, or the timeout; return whether it was interrupted."""
        self._news.clear()
        if not self.has_news:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True

    def receive(self) -> list[tuple[Lane, Any]]:
        """Return the received messages.

        Raises:
            ConnectionError: No broker answers.
        """
        if self._waiting:
            received = list(self._waiting)
            self._waiting.clear()
            self._room.set()
            return received
        if self._failure is not None:
            raise ConnectionError(f"control messages of Kafka: {self._failure}") from self._failure
        return []

    def interrupt(self) -> None:
        """End what waits."""
        self._reader.interrupt()
        self._tell()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Disconnect."""
        self._waiting.clear()
        await self._end()
        await self._reader.close()


async def _make(client: Client, topic: str, like: str, largest: int) -> None:
    try:
        await make_topic(client, topic, like, largest)
    except KafkaError:
        pass  # a broker that refuses to create it may still create it automatically


def _nothing() -> None:
    pass
