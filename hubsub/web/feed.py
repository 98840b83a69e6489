"""From the hub to the connections: each message is encoded once, kept, queued for its subscribers, and sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..codec import Codec, codec_of
from ..event import Event, Gap, Meta
from ..hub import Hub
from ..key import Key
from ..log import Episode
from . import eager
from .access import logger
from .journal import Journal, place_of
from .limits import Limits
from .names import NAME, Names
from .protocol import message_frame
from .queues import Item

if TYPE_CHECKING:
    from .stream import Stream

# Seconds that one turn of the loop may take: publishing and reading go on between two.
SLICE = 0.005
# Messages between two looks at the clock.
CHUNK = 64


class Feed:
    """What leaves a hub by an endpoint.

    The hub's messages come by an outbox, named, with gaps in their places. One turn of the loop after they were
    published they are encoded, noted in the journal, and published to an inner hub, `frames`: there each connection
    listens to what it may have. So a message is encoded once, whoever wants it.

    Connections that have something to send are stepped in the same turn, at most 5 ms at a time. Only a send that waits
    gets a task.

    Args:
        hub: Where messages come from.
        patterns: What leaves.
        codec: Of the messages.
        limits: How much is kept.
    """

    def __init__(self, hub: Hub, patterns: Sequence[Key[Any]], codec: str | Codec, limits: Limits) -> None:
        self.hub = hub
        self.codec = codec_of(codec)
        self.is_json = self.codec.content_type == "application/json"
        self.journal = Journal(self._origin, limits.log_messages, limits.log_bytes, limits.log_seconds)
        self.frames = Hub(name=f"frames of {hub.name}")
        self.streams: dict[Stream, None] = {}
        self.names = Names(limits.log_messages)
        self.encoded = 0
        """Messages that were encoded."""
        self._trouble = Episode(logger)
        self._marked: deque[Stream] = deque()
        self._turning: asyncio.AbstractEventLoop | None = None
        self._is_carrying = False  # in a turn, which sees to what is marked
        self._is_late = False  # handing over has taken a whole slice: sending has the next one
        self._outbox = (
            hub.border.outbox(
                patterns,
                limits.log_messages,
                ready=self._schedule,
                name="a web endpoint",
                named=True,
                wanted=True,
                gaps=True,
            )
            if patterns
            else None
        )

    def _origin(self) -> str:
        return self.hub.border.origin

    def carries(self, key: Key[Any]) -> bool:
        """True if messages of a key leave by it."""
        return self._outbox is not None and self._outbox.is_on(key)

    def close(self) -> None:
        """Receive nothing more from the hub."""
        if self._outbox is not None:
            self._outbox.close()

    # From the hub

    def dispatch(self, watched: object = None) -> int:
        """Hand over everything that was published; return how many connections got the message `watched`."""
        count = 0
        while self._outbox is not None and (taken := self._outbox.take(CHUNK)):
            count += self._carry(taken, watched)
        return count

    def _carry(self, events: Sequence[Event[Any] | Gap], watched: object = None) -> int:
        assert self._outbox is not None
        count = 0
        for event in events:
            if isinstance(event, Gap):
                self._missed(event)
                continue
            try:
                reached = self._publish(event)
            except Exception as error:
                self._trouble.error(
                    "a message of %r cannot be encoded for web clients; they get a gap instead", event[0], error=error
                )
                now = time.time()
                self._missed(Gap("cannot be encoded", 1, now, now, (event[0],)))
                event.fail(error)
            else:
                event.done()
                if event[1] is watched:
                    count += reached
        self._outbox.hold(0)
        return count

    def _publish(self, event: Event[Any]) -> int:
        key, message = event
        place = place_of(event.meta)
        frame = self.frame(key, self.codec.encode(message), event.meta, place)
        self.encoded += 1
        if event.meta is not None and (name := event.meta.headers.get(NAME)) is not None:
            self.names.note(key, name)
        self.journal.append(key, place, frame)
        return self.frames.publish(key, frame)

    def frame(self, key: Key[Any], data: bytes, meta: Meta | None, place: tuple[str, int] | None) -> bytes:
        """The bytes that stand for a message, for all connections alike."""
        at = None if place is None else f"{place[0]}:{place[1]}"
        if meta is None:
            return message_frame(key, data, at, is_json=self.is_json)
        asks = meta.reply_to is not None
        return message_frame(key, data, at, is_json=self.is_json, headers=meta.headers, time=meta.time, asks=asks)

    def replay_frame(self, event: Event[Any]) -> bytes:
        """The bytes that stand for a message of the hub's history."""
        key, message = event
        meta = event.meta
        return message_frame(
            key,
            self.codec.encode(message),
            None,
            is_json=self.is_json,
            headers=None if meta is None else meta.headers,
            time=None if meta is None else meta.time,
            replayed=True,
        )

    def _missed(self, gap: Gap) -> None:
        self.journal.miss(gap)
        for stream in list(self.streams):
            stream.missed(gap)

    # To the connections

    def mark(self, stream: Stream) -> None:
        """Send in the loop's next turn what a connection has."""
        if not stream.queue.is_marked:
            stream.queue.is_marked = True
            self._marked.append(stream)
            if not self._is_carrying:
                self._schedule()

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # there are no connections: what is here is handed over when one comes
        if self._turning is not loop:
            self._turning = loop
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        loop = self._turning
        self._turning = None
        if loop is None:
            return
        until = time.perf_counter() + SLICE
        more = True
        if not self._is_late:
            self._is_carrying = True
            try:
                while more:
                    taken = self._outbox.take(CHUNK) if self._outbox is not None else []
                    more = bool(taken)
                    if more:
                        self._carry(taken)
                        if time.perf_counter() >= until:
                            break
            finally:
                self._is_carrying = False
        # One message to thousands takes a slice to hand over, and many to send.
        self._is_late = not self._is_late and time.perf_counter() >= until
        if not self._is_late:
            self._flush(loop, time.perf_counter() + SLICE)
        if more or self._marked:
            self._schedule()

    def _flush(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        marked = self._marked
        last: Sequence[Item] = ()
        packed: Any = None
        kind: type | None = None
        while marked:
            stream = marked.popleft()
            queue = stream.queue
            queue.is_marked = False
            if stream.is_busy or stream.over.done():
                continue
            batch = stream.batch()
            if batch:
                if batch != last or type(stream) is not kind:
                    last, packed, kind = batch, stream.packed(batch), type(stream)
                try:
                    task = eager.run(stream.sending(packed), loop)
                except Exception as error:
                    stream.lost(error)
                    continue
                if task is not None:
                    stream.is_sent_by(task)
            if queue.items and not stream.is_busy:
                self.mark(stream)
            if time.perf_counter() > until:
                break
