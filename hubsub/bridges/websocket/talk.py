"""What both directions of a connection have in common: asking the endpoint, and the end of it all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from ..adapter import Link, Received, bytes_each_way
from ..lines import Line
from .flow import Flow, Position
from .frames import Frame, encode
from .options import Endpoint

# What an endpoint allows if it does not say.
LIMITS = {
    "frame_bytes": 65536.0,
    "depth": 32.0,
    "subscriptions": 100.0,
    "patterns": 500.0,
    "publishes_per_second": 100.0,
    "publish_burst": 200.0,
    "requests": 100.0,
}


class Talk(Line):
    """Sends frames to an endpoint, and hands each answer to its caller.

    Args:
        endpoint: Where.
        link: The relay's settings.
        position: Where this client is; it outlives the connection.
        ids: Numbers of requests, of which none is used twice.
    """

    def __init__(self, endpoint: Endpoint, link: Link, position: Position, ids: count[int]) -> None:
        self.endpoint = endpoint
        self.link = link
        self.position = position
        self.ids = ids
        self.loop = asyncio.get_running_loop()
        self.flow = Flow(position)
        self.limits: dict[str, float] = dict(LIMITS)
        self.socket: Any = None
        """That of the driver, as soon as there is one."""
        self.answers: dict[int, Callable[[Frame], object]] = {}
        """What is done with the answer to each request."""
        self.pongs: deque[asyncio.Future[None] | Received] = deque()
        """What is done with the answer to each ping."""
        self.saying: set[asyncio.Task[None]] = set()
        self.waiting: set[asyncio.Future[Any]] = set()

    def reason(self, error: Exception) -> Exception:
        """Return the error to raise for the one that the connection has ended with."""
        return error

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that were sent and have arrived, and bytes that were received."""
        transport = getattr(self.socket, "transport", None)
        return (0, 0) if transport is None else bytes_each_way(transport)

    @property
    def activity(self) -> int:
        return sum(self.moved)

    @property
    def receiving(self) -> int | None:
        return self.moved[1]

    def fail(self, error: Exception) -> None:
        """End it; the first reason is kept."""
        self.flow.fail(error)
        reason = self.flow.error or error
        for future in (*self.waiting, *self.pongs):
            if isinstance(future, asyncio.Future) and not future.done():
                future.set_exception(reason)
                future.exception()  # its caller may be gone
        transport = getattr(self.socket, "transport", None)
        if transport is not None:
            transport.abort()

    async def until(self, future: asyncio.Future[Any]) -> Any:
        """Wait for something that the end of the connection makes fail."""
        if self.flow.error is not None:
            raise self.flow.error
        self.waiting.add(future)
        try:
            return await future
        finally:
            self.waiting.discard(future)

    async def send_text(self, text: str) -> None:
        """Send a text frame; return when there is room for more."""
        if self.flow.error is not None:
            raise self.flow.error
        try:
            await self.socket.send(text)
        except Exception as error:
            self.fail(self.reason(error))
            raise self.flow.error or error from error

    def say(self, frame: dict[str, Any], *, name: str | None = None) -> None:
        """Send a frame without waiting."""

        async def say() -> None:
            with suppress(Exception):
                await self.send_text(encode([frame]).decode())

        if self.flow.error is None:
            task = self.loop.create_task(say(), name=name)
            self.saying.add(task)
            task.add_done_callback(self.saying.discard)

    async def ask_all(self, asked: Sequence[tuple[dict[str, Any], Callable[[Frame], object]]]) -> list[Frame]:
        """Send requests at once, and return the answers.

        Args:
            asked: Each with a function that is called with its answer at once, before what follows is read.
        """
        futures: list[asyncio.Future[Frame]] = []
        texts: list[bytes] = []
        for frame, answered in asked:
            future: asyncio.Future[Frame] = self.loop.create_future()
            futures.append(future)
            self.answers[frame["id"]] = partial(_answer, future, answered)
            texts.append(encode(frame))
        while texts:
            size = 2
            number = 0
            while number < len(texts) and (not number or size + len(texts[number]) < self.limits["frame_bytes"]):
                size += len(texts[number]) + 1
                number += 1
            await self.send_text((b"[" + b",".join(texts[:number]) + b"]").decode())
            del texts[:number]
        return [await self.until(future) for future in futures]

    async def ping(self) -> None:
        """Return when the endpoint has answered."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.pongs.append(future)
        await self.send_text('[{"type":"ping"}]')
        await self.until(future)


def _answer(future: asyncio.Future[Frame], answered: Callable[[Frame], object], frame: Frame) -> None:
    answered(frame)
    if not future.done():
        future.set_result(frame)
