"""One WebSocket that speaks `hubsub.v1`: its life."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from .._core.message_queue import Overflow
from ..event import Gap
from . import protocol
from .access import Access, Connection, logger
from .commands import Commands
from .feed import Feed
from .limits import Limits
from .protocol import ProtocolError
from .queues import Item
from .stream import Message, Receive, Send, Stream, ended

# How long the last frames of a connection may take, seconds.
GOODBYE = 1.0


class Session(Stream):
    """Reads what one client sends, and ends when either side wants that.

    Args:
        feed: Where messages come from.
        access: Who may do what.
        overflow: What a full queue does.
        limits: What the client may ask.
        connection: Who is there.
        admit: Finds out again who it is, once it has a token; returns whether it may stay.
        receive: As of ASGI.
        send: As of ASGI.
    """

    def __init__(
        self,
        feed: Feed,
        access: Access,
        overflow: Overflow,
        limits: Limits,
        connection: Connection,
        admit: Callable[[Connection], Awaitable[bool]],
        receive: Receive,
        send: Send,
    ) -> None:
        super().__init__(feed.mark, overflow, limits, send)
        self.feed = feed
        self.connection = connection
        self._admit = admit
        self._receive = receive
        self.commands = Commands(feed, self, access, connection)
        self.was_admitted = False
        """`on_connect` was called, and let it in."""
        self._heard = time.monotonic()
        self._was_pinged = False
        self._reading: asyncio.Task[None] | None = None
        connection._close = self.close

    async def run(self, wants_token: bool) -> None:
        """Follow the client until one side ends it; the socket is accepted."""
        reading = self._reading = asyncio.get_running_loop().create_task(self._read(wants_token))
        self.feed.streams[self] = None
        try:
            if not wants_token:
                self._welcome()
            reading.add_done_callback(self.is_left)
            if (goodbye := await self.over) is not None:
                await self._say_goodbye(*goodbye)
        finally:
            self.feed.streams.pop(self, None)
            tasks = list(self.commands.tasks.values())
            self.commands.leave()
            self.give_up()
            reading.cancel()
            await ended([reading, *tasks])
            self._ended.set_result(None)

    async def close(self, code: int, reason: str) -> None:
        """As `end`, and wait until it has ended, unless the caller is a task of this session."""
        self.end(code, reason)
        own = (self._reading, self.commands.subscriptions.deciding, *self.commands.tasks.values())
        if asyncio.current_task() not in own:
            await self.ended()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        # After a restart, clients must not come back all at the same time.
        comes_back = code in (protocol.RESTART, protocol.GOING_AWAY, protocol.TOO_SLOW)
        bye = protocol.bye(code, reason, random.randint(100, 3000) if comes_back else None)
        rest = [] if code == protocol.TOO_SLOW else self.batch()
        try:
            async with asyncio.timeout(GOODBYE):
                if self.sending_task is not None:
                    await asyncio.wait({self.sending_task})
                await self._send(self.packed([*rest, bye]))
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})
        except Exception as error:
            logger.debug("a web client was gone before its bye was sent", error=error)

    # Reading

    async def _read(self, wants_token: bool) -> None:
        if wants_token and not await self._wait_for_token():
            return
        while (text := await self._next_text()) is not None:
            await self.commands.follow_all(text)

    async def _next_text(self) -> str | None:
        """The next text frame; None when the client is gone."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            self._heard = time.monotonic()
            self._was_pinged = False
            text = message.get("text")
            data = (message.get("bytes") or b"") if text is None else text
            if len(data) > self.limits.frame_bytes or (
                text is not None and len(text.encode("utf-8", "surrogatepass")) > self.limits.frame_bytes
            ):
                self.end(protocol.TOO_LARGE, f"a frame may have {self.limits.frame_bytes} bytes")
            elif text is not None:
                return str(text)
            else:
                self.commands.refuse(ProtocolError("malformed", "frames must be text"))

    async def _wait_for_token(self) -> bool:
        try:
            async with asyncio.timeout(self.limits.token_seconds):
                while True:
                    text = await self._next_text()
                    if text is None:
                        return False
                    frames = list(protocol.frames_of(text, self.limits.depth))
                    if frames and isinstance(frames[0], protocol.Hello):
                        break
                    self.commands.refuse(ProtocolError("malformed", "the first frame must be hello, with a token"))
                self.connection._token = frames[0].token
                is_admitted = await self._admit(self.connection)
        except TimeoutError:
            self.end(protocol.IDENTITY, "no token came in time")
            return False
        if not is_admitted:
            self.end(protocol.IDENTITY, "refused")
            return False
        self._welcome()
        for frame in frames:
            await self.commands.follow(frame)
        return True

    def _welcome(self) -> None:
        self.was_admitted = True
        self.commands.admitted()
        self.feed.dispatch()
        at, limits = self.feed.journal.position, asdict(self.limits)
        self.reply(protocol.welcome(self.connection.id, at, self.limits.ping_seconds, limits))

    # As `Stream`

    def is_left(self, reading: asyncio.Task[None]) -> None:
        if not self.over.done() and not reading.cancelled() and (error := reading.exception()) is not None:
            logger.error("handling the frames of a web client failed; it was disconnected", error=error)
            self.end(protocol.GOING_AWAY, "an error of the server")
        super().is_left(reading)

    def packed(self, batch: Sequence[Item]) -> Message:
        frames: Any = batch
        return {"type": "websocket.send", "text": (b"[" + b",".join(frames) + b"]").decode("utf-8", "replace")}

    def reply(self, *frames: bytes) -> None:
        if not self.commands.subscriptions.put_behind(frames):
            super().reply(*frames)

    def replay(self, frames: Collection[bytes]) -> None:
        if not self.commands.subscriptions.put_behind(frames):
            super().replay(frames)

    def missed(self, gap: Gap) -> None:
        if self.commands.subscriptions.concerns(gap):
            self.queue.miss(gap)

    def gap_frames(self, gap: Gap) -> list[bytes]:
        return self.commands.subscriptions.gap_frames(gap)

    # What the endpoint's clock asks

    def look(self, now: float) -> None:
        """See whether the client is still there and may stay."""
        limits = self.limits
        expires = self.connection.expires
        if expires is not None and time.time() >= expires:
            self.end(protocol.IDENTITY, "expired")
        elif self.is_busy and now - self.busy_since > limits.not_reading_seconds:
            self.end(protocol.TIMED_OUT, "it does not read")
        elif now - self._heard > limits.silent_seconds:
            self.end(protocol.TIMED_OUT, "it says nothing")
        elif not self._was_pinged and now - self._heard > limits.ping_seconds and self.was_admitted:
            self._was_pinged = True
            self.reply(protocol.PING)
