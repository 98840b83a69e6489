"""Server-sent events: the messages of a hub as an HTTP response that does not end."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from .._core.message_queue import Overflow
from ..codec import Codec
from ..event import Gap, Meta
from ..hub import Hub
from ..key import Key, Patterns
from . import protocol
from .access import Access, Authorize, Connection, Identify, Refused, covered, logger
from .application import Application, checked, is_request
from .feed import Feed
from .journal import not_resumed
from .limits import Limits
from .protocol import Position
from .queues import Item
from .session import GOODBYE
from .stream import Message, Receive, Send, Stream, ended
from .subscriptions import Subscription, Subscriptions

# Seconds without a message after which a comment is sent, so that no proxy cuts the line.
COMMENT = 15.0
# Milliseconds that a browser waits before it comes back, at random.
RETRY = (1000, 3000)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventFeed(Feed):
    """A feed of whole events, as they stand in the response: formatted once for all streams."""

    def frame(self, key: Key[Any], data: bytes, meta: Meta | None, place: tuple[str, int] | None) -> bytes:
        message = super().frame(key, data, meta, place)
        position = self.journal.position
        if place is not None:
            position[place[0]] = max(place[1], position.get(place[0], 0))
        return event_of(message, position)


def event_of(data: bytes, position: Position | None = None, event: str = "") -> bytes:
    """Format one event."""
    lines = []
    if position is not None:
        lines.append(b"id: " + text_of(position).encode())
    if event:
        lines.append(b"event: " + event.encode())
    # A codec may make JSON of several lines.
    lines += [b"data: " + line for line in data.splitlines()]
    return b"\n".join(lines) + b"\n\n"


def text_of(position: Position) -> str:
    """A position as text: `origin:number`, with commas between."""
    return ",".join(f"{origin}:{number}" for origin, number in position.items())


def position_of(text: str) -> Position | None:
    """The inverse of `text_of`; None if it is none."""
    position: Position = {}
    for each in text.split(","):
        origin, colon, number = each.strip().rpartition(":")
        if not colon or not origin or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        position[origin] = int(number)
    return position


class EventStream(Stream):
    """One response."""

    def __init__(
        self, app: Events, connection: Connection, patterns: list[Key[Any]], receive: Receive, send: Send
    ) -> None:
        super().__init__(app.feed.mark, app.overflow, app.limits, send)
        self.feed = app.feed
        self.connection = connection
        self._receive = receive
        self._subscriptions = Subscriptions(app.feed, self, app.access, connection)
        self._subscriptions[0] = Subscription(patterns)
        self._sent_last = time.monotonic()
        connection._close = self.close

    async def run(self, last: str | None) -> None:
        """Send messages until either side ends it; `last` is the id of the last event that the client has seen."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        leaving = asyncio.get_running_loop().create_task(self._wait_for_the_end())
        self.feed.streams[self] = None
        try:
            await self._begin(last)
            leaving.add_done_callback(self.is_left)
            if await self.over:
                await self._finish()
        finally:
            self.feed.streams.pop(self, None)
            self._subscriptions.leave()
            self.give_up()
            leaving.cancel()
            await ended([leaving])
            self._ended.set_result(None)

    async def _begin(self, last: str | None) -> None:
        subscriptions = self._subscriptions
        seen = None if last is None else position_of(last)
        missed = await subscriptions.missed(seen, subscriptions.patterns)
        # From here to `listen` nothing is awaited.
        self.reply(b"retry: %d\n\n" % random.randint(*RETRY))
        if last is None:
            # A client that has received nothing can resume, too.
            self.reply(event_of(b"{}", self.feed.journal.position, "open"))
        else:
            self.replay(self.gap_frames(not_resumed()) if missed is None else missed)
        subscriptions.listen()

    async def _wait_for_the_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE):
                if self.sending_task is not None:
                    await asyncio.wait({self.sending_task})
                await self._send({**self.packed(self.batch()), "more_body": False})
        except Exception as error:
            logger.debug("a web client was gone before its stream was ended", error=error)

    async def close(self, code: int, reason: str) -> None:
        """As `Connection.close`; a response has no codes, and a browser comes back after its `retry`."""
        self.end(code, reason)
        if asyncio.current_task() is not self._subscriptions.deciding:
            await self.ended()

    # As `Stream`

    def packed(self, batch: Sequence[Item]) -> Message:
        frames: Any = batch
        return {"type": "http.response.body", "body": b"".join(frames), "more_body": True}

    def sending(self, packed: Message) -> Coroutine[Any, Any, None]:
        self._sent_last = time.monotonic()
        return super().sending(packed)

    def missed(self, gap: Gap) -> None:
        if self._subscriptions.concerns(gap):
            self.queue.miss(gap)

    def gap_frames(self, gap: Gap) -> list[bytes]:
        position = self.feed.journal.position
        return [event_of(frame, position, "gap") for frame in self._subscriptions.gap_frames(gap)]

    def look(self, now: float) -> None:
        """See whether the client reads, may stay, and has heard nothing for long."""
        expires = self.connection.expires
        if expires is not None and time.time() >= expires:
            self.end(protocol.IDENTITY, "expired")
        elif self.is_busy and now - self.busy_since > self.limits.not_reading_seconds:
            self.end(protocol.TIMED_OUT, "it does not read")
        elif now - self._sent_last > COMMENT:
            self._sent_last = now
            self.reply(b":\n\n")


class Events(Application[EventStream]):
    """What `events` returns: an ASGI application for server-sent events."""

    def __init__(
        self,
        hub: Hub,
        outgoing: Patterns,
        authorize: Authorize | None,
        identify: Identify | None,
        origins: str | Collection[str],
        codec: str | Codec,
        overflow: Overflow,
        limits: Limits,
    ) -> None:
        policy = checked(overflow, limits)
        access = Access(outgoing, [], authorize, identify, origins)
        super().__init__(hub, access, EventFeed(hub, access.everything, codec, limits), policy, limits)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI says."""
        if not await is_request(scope, receive, send, "this address takes GET"):
            return
        connection = Connection(secrets.token_hex(8), scope)
        try:
            patterns = await self._admit(scope, connection)
        except Refused as refused:
            await answer(send, refused.status, refused.reason)
            return
        stream = EventStream(self, connection, patterns, receive, send)
        with self._connected(stream):
            await stream.run(connection.headers.get("last-event-id") or connection.query.get("last-event-id"))

    async def _admit(self, scope: Mapping[str, Any], connection: Connection) -> list[Key[Any]]:
        """Return the patterns that a client gets.

        Raises:
            Refused: It gets nothing.
        """
        if scope["method"] != "GET":
            raise Refused(405, "GET only")
        self._check(connection)
        await self.access.identify(connection)
        outgoing = self.access.of(self.access.outgoing, connection.identity)
        patterns = list(dict.fromkeys(_patterns_of(scope, self.limits))) or outgoing
        if not patterns:
            raise Refused(403, "no pattern of this endpoint is open to this client")
        for pattern in patterns:
            if not covered(pattern, outgoing) or not await self.access.allows(connection, "subscribe", pattern):
                raise Refused(403, "this pattern may not be subscribed to")
        return patterns


_PLUS_PART = re.compile(r"(?:(?<=[=/])|(?<=%2f))\+(?=[&/]|%2f|$)", re.IGNORECASE)


def _patterns_of(scope: Mapping[str, Any], limits: Limits) -> Iterator[Key[Any]]:
    # In a query a plus is a space. As a whole part it is meant as the wildcard: hardly any key has a part " ".
    query = _PLUS_PART.sub("%2B", scope.get("query_string", b"").decode("latin-1"))
    texts = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "pattern"]
    if len(texts) > limits.patterns:
        raise Refused(400, f"at most {limits.patterns} patterns")
    for text in texts:
        try:
            pattern: Key[Any] = Key.parse(text)
        except ValueError:
            raise Refused(400, "a pattern is invalid") from None
        if (fault := limits.fault_of_key(pattern)) is not None:
            raise Refused(400, fault)
        yield pattern


def events(
    hub: Hub,
    outgoing: Patterns,
    *,
    authorize: Authorize | None = None,
    identify: Identify | None = None,
    origins: str | Collection[str] = "same",
    codec: str | Codec = "json",
    overflow: Overflow = Overflow.CLOSE,
    limits: Limits = Limits(),  # noqa: B008 - immutable
) -> Events:
    """Make an ASGI application that streams the messages of a hub to browsers as server-sent events.

    `GET /events?pattern=room/*` (repeatable; without it everything of `outgoing`). Each event's `data` is one message,
    as in `hubsub.v1`, and its `id` is the client's position: a browser that comes back sends it as `Last-Event-ID`, and
    gets what it missed, or `event: gap`. `event: open` comes first and holds the position at the beginning.

    Args:
        hub: The hub.
        outgoing: Patterns of what clients may get; `{identity}` as in `endpoint`.
        authorize: As in `endpoint`, for "subscribe" and "receive"; plain for the latter.
        identify: As in `endpoint`; the token is that of the query.
        origins: As in `endpoint`.
        codec: As in `endpoint`.
        overflow: As in `endpoint`; a client that is disconnected comes back by itself, where it was.
        limits: As in `endpoint`.

    Raises:
        ValueError: An option has an invalid value.
        InvalidKey: A pattern is invalid.
    """
    return Events(hub, outgoing, authorize, identify, origins, codec, overflow, limits)


async def answer(
    send: Send, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = (), kind: bytes = b"text/plain"
) -> None:
    """Answer a request with a short text."""
    body = text.encode("utf-8", "replace")
    head = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
