"""Sending to one connection: what waits, and what is being sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, MutableMapping, Sequence
from typing import Any, TypeAlias

from .._core.message_queue import Overflow
from ..event import Gap
from .access import logger
from .limits import Limits
from .protocol import TOO_SLOW
from .queues import Item, queue_for

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Coroutine[Any, Any, None]]


class Stream:
    """One connection, as its feed sees it; `over` is set when it must end, with code and reason if we end it.

    Args:
        mark: Has the feed send in its next turn what a stream has.
        overflow: What a full queue does.
        limits: How much may wait.
        send: As of ASGI.
    """

    def __init__(self, mark: Callable[[Stream], None], overflow: Overflow, limits: Limits, send: Send) -> None:
        self._mark = mark
        self.limits = limits
        self.queue = queue_for(overflow, limits, self)
        """Messages that wait."""
        self.is_busy = False
        """A send is waiting."""
        self.busy_since = 0.0
        self.over: asyncio.Future[tuple[int, str] | None] = asyncio.get_running_loop().create_future()
        self.sending_task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = self.over.get_loop().create_future()
        self._send = send

    def reply(self, *frames: bytes) -> None:
        """Send these behind the messages that wait."""
        for frame in frames:
            self.queue.reply(frame)

    def replay(self, frames: Collection[bytes]) -> None:
        """Send what a client missed or asked for of the past, behind the messages that wait."""
        self.queue.replay(frames)

    def has_something(self) -> None:
        """There is a message: the queue calls this."""
        self._mark(self)

    def too_slow(self) -> None:
        """The queue is full under `CLOSE`: the queue calls this."""
        self.end(TOO_SLOW, "it does not read as fast as messages come")

    def end(self, code: int, reason: str) -> None:
        """Disconnect the client, saying why where that can be said; the first reason counts."""
        if not self.over.done():
            self.over.set_result((code, reason))

    def is_left(self, reading: asyncio.Task[None]) -> None:
        """What reads from the client has ended: the client is gone."""
        if not reading.cancelled():
            reading.exception()
        if not self.over.done():
            self.over.set_result(None)

    async def ended(self) -> None:
        """Wait until it is over, and everything that belongs to it."""
        # Whoever is cancelled here has nothing to do with the others.
        await asyncio.wait([self._ended])

    def missed(self, gap: Gap) -> None:
        """Messages are missing here."""
        raise NotImplementedError

    def gap_frames(self, gap: Gap) -> list[bytes]:
        """What a gap looks like to this client."""
        raise NotImplementedError

    def batch(self) -> list[Item]:
        """Take what is to be sent next."""
        taken = self.queue.take(self.limits.batch_messages, self.limits.batch_bytes)
        if Gap in map(type, taken):
            return [each for item in taken for each in (self.gap_frames(item) if isinstance(item, Gap) else [item])]
        return taken

    def packed(self, batch: Sequence[Item]) -> Message:
        """What is sent of a batch; the same for all streams of a kind."""
        raise NotImplementedError

    def sending(self, packed: Message) -> Coroutine[Any, Any, None]:
        """Send it."""
        return self._send(packed)

    def is_sent_by(self, task: asyncio.Task[None]) -> None:
        """Note that a task goes on sending it."""
        self.is_busy = True
        self.busy_since = time.monotonic()
        self.sending_task = task
        task.add_done_callback(self._was_sent)

    def _was_sent(self, task: asyncio.Task[None]) -> None:
        self.is_busy = False
        self.sending_task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lost(error)
        elif self.queue.items:
            self._mark(self)

    def lost(self, error: BaseException) -> None:
        """Note that sending failed: the client is gone."""
        logger.debug("sending to a web client failed: it is gone", error=error)
        if not self.over.done():
            self.over.set_result(None)

    def give_up(self) -> None:
        """Send nothing more."""
        if not self.over.done():
            self.over.set_result(None)
        if self.sending_task is not None:
            self.sending_task.cancel()
        self.queue.clear()


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until cancelled tasks have ended; what they raised is of no interest.

    Not by `gather`: cancelled itself, that raises another `CancelledError`, which anyio's scopes do not know as theirs.
    """
    tasks = list(tasks)
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
