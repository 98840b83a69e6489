"""One WebSocket that speaks `hubsub.v1`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from .._core.listener import Listener
from ..errors import (
    ConfirmationTimeout,
    DecodeError,
    DeliveryError,
    EncodeError,
    HistoryUnavailable,
    HubClosed,
    HubsubError,
    InvalidKey,
    NoResponders,
    RemoteError,
    RequestTimeout,
)
from ..event import Gap
from ..key import NAMESPACE, PLUS, STAR, Key
from . import protocol
from .access import Answers, Connection, Refused, covered, logger
from .limits import Bucket
from .protocol import ClientFrame, ProtocolError
from .queues import Item, queue_for

if TYPE_CHECKING:
    from .endpoint import Endpoint

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]

# Malformed frames after which a client is disconnected.
MOST_MALFORMED = 3
# The longest that a client may wait for a confirmation or a reply, seconds.
MOST_SECONDS = 60.0
# How often keys that came meanwhile are asked about before a replay begins.
MOST_ROUNDS = 5
# How long the last frames of a connection may take, seconds.
GOODBYE = 1.0


class Subscription:
    """What a client has subscribed to, under its id."""

    __slots__ = ("gaps", "patterns", "snapshot")

    def __init__(self, patterns: list[Key[Any]], gaps: bool, snapshot: bool) -> None:
        self.patterns = patterns
        self.gaps = gaps
        self.snapshot = snapshot


class Session:
    """Follows the frames of one client, and sends it what it is subscribed to.

    Args:
        endpoint: Whose session it is.
        connection: Who is there.
        receive: As of ASGI.
        send: As of ASGI.
    """

    def __init__(self, endpoint: Endpoint, connection: Connection, receive: Receive, send: Send) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self._feed = endpoint.feed
        self._limits = endpoint.limits
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self.queue = queue_for(endpoint.overflow, endpoint.limits, self)
        self.is_busy = False
        self.busy_since = 0.0
        self.heard = time.monotonic()
        self.pinged = False
        self._reading: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._replies: list[bytes] = []
        self.was_admitted = False
        """`on_connect` was called, and let it in."""
        self._over: asyncio.Future[tuple[int, str] | None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._malformed = 0
        self._bucket = Bucket(endpoint.limits.publishes_per_second, endpoint.limits.publish_burst)
        self._outgoing: list[Key[Any]] = []
        self._incoming: list[Key[Any]] = []
        self._subscriptions: dict[int, Subscription] = {}
        self._responders: dict[int, tuple[list[Key[Any]], Listener]] = {}
        self._listener: Listener | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, tuple[Key[Any], asyncio.Future[Any]]] = {}
        self._numbers = count(1)
        self._answers = Answers()
        self._undecided: list[tuple[Key[Any], bytes]] = []
        self._awaited: dict[Key[Any], Awaitable[bool]] = {}
        self._deciding: asyncio.Task[None] | None = None
        connection._close = self.close

    # Its life

    async def run(self, wants_token: bool) -> None:
        """Follow the client until one side ends it; the socket is accepted."""
        reading = self._reading = self._loop.create_task(self._read(wants_token))
        self._feed.streams[self] = None
        try:
            if not wants_token:
                self._welcome()
            await asyncio.wait({reading, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and (error := reading.exception()) is not None:
                logger.error("following a web client failed, and ends", error=error)
                self.end(protocol.GOING_AWAY, "an error of the server")
            if self._over.done() and (goodbye := self._over.result()) is not None:
                await self._say_goodbye(*goodbye)
        finally:
            self._leave()
            reading.cancel()
            await asyncio.gather(reading, *self._tasks.values(), return_exceptions=True)
            self._ended.set()

    def _leave(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
        self._feed.streams.pop(self, None)
        if self._listener is not None:
            self._listener.remove()
            self._listener = None
        for _, responder in self._responders.values():
            responder.remove()
        self._responders.clear()
        for _, future in self._asked.values():
            future.cancel()
        self._asked.clear()
        for task in self._tasks.values():
            task.cancel()
        if self._deciding is not None:
            self._deciding.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self._replies.clear()
        self.queue.clear()
        self._undecided.clear()

    def end(self, code: int, reason: str) -> None:
        """Disconnect the client, saying why; the first reason counts."""
        if not self._over.done():
            self._over.set_result((code, reason))

    async def close(self, code: int, reason: str) -> None:
        """As `end`, and wait until it has."""
        self.end(code, reason)
        if asyncio.current_task() not in (self._reading, self._deciding, *self._tasks.values()):
            await self._ended.wait()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        # Clients come back when they like to; not all at the same time after a restart.
        retry = (
            random.randint(100, 3000) if code in (protocol.RESTART, protocol.GOING_AWAY, protocol.TOO_SLOW) else None
        )
        frames = [*self._replies, protocol.bye(code, reason, retry)]
        if code == protocol.TOO_SLOW:
            frames = [protocol.bye(code, reason, retry)]
        self._replies.clear()
        try:
            async with asyncio.timeout(GOODBYE):
                if self._sending is not None:
                    await asyncio.wait({self._sending})
                await self._send(self.packed(frames))
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})
        except Exception as error:
            logger.debug("a client was gone before it was said goodbye to", error=error)

    async def _read(self, wants_token: bool) -> None:
        if wants_token and not await self._wait_for_token():
            return
        while True:
            text = await self._next_text()
            if text is None:
                return
            await self._follow_all(text)

    async def _next_text(self) -> str | None:
        """The next text frame; None when the client is gone."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            self.heard = time.monotonic()
            self.pinged = False
            text = message.get("text")
            if text is None:
                size = len(message.get("bytes") or b"")
            else:
                size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            if size > self._limits.frame_bytes:
                self.end(protocol.TOO_LARGE, f"a frame may have {self._limits.frame_bytes} bytes")
                await asyncio.Event().wait()
            if text is not None:
                return str(text)
            self._refuse(ProtocolError("malformed", "frames are text"))

    async def _wait_for_token(self) -> bool:
        try:
            async with asyncio.timeout(self._limits.token_seconds):
                while True:
                    text = await self._next_text()
                    if text is None:
                        return False
                    frames = list(protocol.frames_of(text, self._limits.depth))
                    if frames and isinstance(frames[0], protocol.Hello):
                        break
                    self._refuse(ProtocolError("malformed", "say hello first, with a token"))
        except TimeoutError:
            self.end(protocol.IDENTITY, "no token came")
            return False
        hello = frames[0]
        self.connection._token = hello.token
        if not await self.endpoint.admit_late(self.connection):
            self.end(protocol.IDENTITY, "refused")
            return False
        self._welcome()
        for frame in frames:
            await self._follow(frame)
        return True

    def _welcome(self) -> None:
        self.was_admitted = True
        access, identity = self.endpoint.access, self.connection.identity
        self._outgoing = access.of(access.outgoing, identity)
        self._incoming = access.of(access.incoming, identity)
        self._feed.dispatch()
        limits = asdict(self._limits)
        self._reply(
            protocol.welcome(self.connection.id, self._feed.journal.position, self._limits.ping_seconds, limits)
        )

    # Sending

    def has_something(self) -> None:
        """As `Owner`."""
        self._feed.mark(self)

    def too_slow(self) -> None:
        """As `Owner`."""
        self.end(protocol.TOO_SLOW, "it does not read as fast as messages come")

    def _reply(self, frame: bytes) -> None:
        self._replies.append(frame)
        self._feed.mark(self)

    def batch(self) -> Sequence[Item]:
        """As `Stream`."""
        if self._over.done():
            return ()
        taken = self.queue.take(self._limits.batch_messages, self._limits.batch_bytes)
        if self._replies:
            replies, self._replies = self._replies, []
            taken = [*replies, *taken]
        if any(type(item) is Gap for item in taken):
            taken = [frame for item in taken for frame in (self._gap_frames(item) if type(item) is Gap else [item])]
        return taken

    def packed(self, batch: Sequence[Item]) -> Message:
        """As `Stream`."""
        frames: Any = batch
        return {"type": "websocket.send", "text": (b"[" + b",".join(frames) + b"]").decode("utf-8", "replace")}

    def sending(self, packed: Message) -> Coroutine[Any, Any, None]:
        """As `Stream`."""
        return self._send(packed)

    def sent(self, task: asyncio.Task[None] | None) -> None:
        """As `Stream`."""
        if task is not None:
            self.is_busy = True
            self.busy_since = time.monotonic()
            self._sending = task
            task.add_done_callback(self._was_sent)

    def _was_sent(self, task: asyncio.Task[None]) -> None:
        self.is_busy = False
        self._sending = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lost(error)
        elif self.queue.items or self._replies:
            self._feed.mark(self)

    def lost(self, error: BaseException) -> None:
        """As `Stream`."""
        logger.debug("a client cannot be sent to", error=error)
        if not self._over.done():
            self._over.set_result(None)

    # Messages

    def _listen(self) -> None:
        """Listen to all patterns of all subscriptions: each message once."""
        before, self._listener = self._listener, None
        patterns = {pattern for each in self._subscriptions.values() for pattern in each.patterns}
        if patterns:
            put = self._put_allowed if self.endpoint.access.narrows else self.queue.put
            self._listener = self._feed.frames.add_listener(list(patterns), put)
        if before is not None:
            before.remove()

    def _put_allowed(self, key: Key[Any], frame: bytes) -> None:
        """Queue a message if `authorize` allows it; behind those that it has not decided on."""
        if not self._undecided:
            allowed = self._allowed(key)
            if allowed is not None:
                if allowed:
                    self.queue.put(key, frame)
                return
        if len(self._undecided) >= self._limits.queue_messages:
            self.too_slow()
            return
        self._undecided.append((key, frame))
        if self._deciding is None:
            self._deciding = self._loop.create_task(self._decide())

    def _allowed(self, key: Key[Any]) -> bool | None:
        """Whether the client may receive a key; None if that has to be awaited, see `_learn`."""
        known = self._answers.get(key)
        if known is None and key not in self._awaited:
            answer = self.endpoint.access.answer(self.connection, "receive", key)
            if isinstance(answer, bool):
                self._answers.note(key, answer)
                return answer
            self._awaited[key] = answer
        return known

    async def _learn(self, key: Key[Any]) -> bool:
        """Wait for the answer about a key."""
        allowed = self._allowed(key)
        if allowed is None:
            answer = self._awaited.pop(key, None)
            allowed = answer is not None and await self.endpoint.access.judged(answer)
            self._answers.note(key, allowed)
        return allowed

    async def _decide(self) -> None:
        try:
            while self._undecided:
                key, frame = self._undecided[0]
                allowed = await self._learn(key)
                del self._undecided[0]
                if allowed:
                    self.queue.put(key, frame)
        finally:
            self._deciding = None

    def missed(self, gap: Gap) -> None:
        """As `Stream`."""
        if gap.keys is None or any(covered(key, self._patterns()) for key in gap.keys):
            self.queue.miss(gap)

    def _patterns(self) -> list[Key[Any]]:
        return [pattern for each in self._subscriptions.values() for pattern in each.patterns]

    def _gap_frames(self, gap: Gap) -> list[bytes]:
        """A gap as it concerns each subscription; nothing of keys that the client may not receive."""
        frames: list[bytes] = []
        for id, subscription in self._subscriptions.items():
            mine = gap
            if gap.keys is not None:
                keys = tuple(
                    key
                    for key in gap.keys
                    if covered(key, subscription.patterns)
                    and (not self.endpoint.access.narrows or self._answers.get(key))
                )
                if not keys:
                    continue
                mine = gap._replace(keys=keys, count=gap.count if len(keys) == len(gap.keys) else None)
            if subscription.gaps:
                frames.append(protocol.gap_frame(mine, id))
            if subscription.snapshot:
                frames += self._retained(subscription.patterns, 1)
        return frames

    def _retained(self, patterns: list[Key[Any]], history: int) -> list[bytes]:
        """The last messages of each key that the client is known to be allowed."""
        frames = []
        for event in self._feed.hub.history(list(patterns), history):
            if not self._may_have(event[0]):
                continue
            try:
                frames.append(self._feed.replay_frame(event))
            except EncodeError as error:
                logger.debug("a retained message cannot be sent to web clients", error=error)
        return frames

    def _may_have(self, key: Key[Any]) -> bool:
        return not self.endpoint.access.narrows or self._allowed(key) is True

    async def _learn_all(self, keys: Callable[[], Iterable[Key[Any]]]) -> None:
        """Ask about keys until the answers are known to all that `keys` returns, since meanwhile there may be more."""
        if self.endpoint.access.narrows:
            for _ in range(MOST_ROUNDS):
                unknown = [key for key in dict.fromkeys(keys()) if self._allowed(key) is None]
                if not unknown:
                    break
                for key in unknown:
                    await self._learn(key)

    # Following frames

    async def _follow_all(self, text: str) -> None:
        for frame in protocol.frames_of(text, self._limits.depth):
            if self._over.done():
                return
            if isinstance(frame, ProtocolError):
                self._refuse(frame)
            else:
                await self._follow(frame)

    async def _follow(self, frame: ClientFrame | ProtocolError) -> None:
        try:
            if isinstance(frame, ProtocolError):
                raise frame
            await self._FOLLOW[type(frame)](self, frame)
        except ProtocolError as error:
            self._refuse(error, getattr(frame, "id", None))
        except HubClosed:
            self._refuse(ProtocolError("closing", "the hub is closing"), getattr(frame, "id", None))

    def _refuse(self, error: ProtocolError, id: int | None = None) -> None:
        self._reply(protocol.error_frame(error.id if error.id is not None else id, error.code, error.message))
        if error.code == "malformed":
            self._malformed += 1
            if self._malformed >= MOST_MALFORMED:
                self.end(protocol.MALFORMED, "too many malformed frames")

    def _key(self, parts: list[str]) -> Key[Any]:
        limits = self._limits
        if not 0 < len(parts) <= limits.key_parts:
            raise ProtocolError("invalid-key", f"a key has 1 to {limits.key_parts} parts")
        if any(len(part) > limits.part_characters for part in parts):
            raise ProtocolError("invalid-key", f"a part of a key has at most {limits.part_characters} characters")
        return Key.create_from(parts)

    def _exact(self, parts: list[str], of: Sequence[Key[Any]]) -> Key[Any]:
        key = self._key(parts)
        if STAR in key or PLUS in key:
            raise ProtocolError("invalid-key", "a key that is published to has no wildcards")
        if key[0] == NAMESPACE or not covered(key, of):
            raise ProtocolError("forbidden", "this key may not be published to")
        return key

    def _check_id(self, id: int) -> None:
        if id < 1 or id in self._subscriptions or id in self._responders or id in self._tasks:
            raise ProtocolError("malformed", "an id is a number from 1 on, and not in use")

    async def _checked_patterns(self, parts: list[list[str]], action: Any) -> list[Key[Any]]:
        patterns = list(dict.fromkeys(self._key(each) for each in parts))
        if not patterns:
            raise ProtocolError("malformed", "patterns is a list of at least one pattern")
        used = len(self._patterns()) + sum(len(each) for each, _ in self._responders.values())
        if len(self._subscriptions) + len(self._responders) >= self._limits.subscriptions:
            raise ProtocolError("too-many", f"a connection has at most {self._limits.subscriptions} subscriptions")
        if used + len(patterns) > self._limits.patterns:
            raise ProtocolError("too-many", f"a connection has at most {self._limits.patterns} patterns")
        for pattern in patterns:
            if not covered(pattern, self._outgoing) or not await self._may(action, pattern):
                raise ProtocolError("forbidden", "this pattern may not be subscribed to")
        return patterns

    async def _may(self, action: Any, key: Key[Any]) -> bool:
        return await self.endpoint.access.allows(self.connection, action, key)

    async def _hello(self, frame: protocol.Hello) -> None:
        if frame.token is not None and frame.token != self.connection._token:
            self.connection._token = frame.token
            try:
                await self.endpoint.access.identify(self.connection)
            except Refused:
                self.end(protocol.IDENTITY, "refused")
                return
            access, identity = self.endpoint.access, self.connection.identity
            self._outgoing = access.of(access.outgoing, identity)
            self._incoming = access.of(access.incoming, identity)
            self._answers.forget()
        journal = self._feed.journal
        if frame.resume is None:
            self._reply(protocol.ok(0, journal.position))
            return
        wanted: list[tuple[protocol.SubscriptionOf, list[Key[Any]]]] = []
        for each in frame.resume.subscriptions:
            try:
                self._check_id(each.id)
                patterns = await self._checked_patterns(each.patterns, "subscribe")
            except ProtocolError as error:
                self._refuse(error, each.id)
            else:
                wanted.append((each, patterns))
                self._subscriptions[each.id] = Subscription(patterns, each.gaps, False)
        at, named = frame.resume.at, [pattern for _, patterns in wanted for pattern in patterns]
        await self._learn_all(lambda: [entry.key for entry in journal.since(at, named) or () if entry.key is not None])
        # From here to `_listen` nothing is awaited: nothing comes in between, missed or twice.
        self._feed.dispatch()
        missed = journal.since(at, named)
        if missed is None:
            self._reply(protocol.ok(0, journal.position, resumed=False, replayed=0))
            now = time.time()
            gap = Gap("not resumed", None, now, now, None)
            for each, _ in wanted:
                if each.gaps:
                    self._reply(protocol.gap_frame(gap, each.id))
        else:
            frames: list[Item] = []
            for entry in missed:
                if entry.gap is not None:
                    frames += self._gap_frames(entry.gap)
                elif entry.key is not None and self._may_have(entry.key):
                    frames.append(entry.frame)
            self._reply(protocol.ok(0, journal.position, resumed=True, replayed=len(frames)))
            for each_frame in frames:
                self._reply(each_frame)  # type: ignore[arg-type]
        self._listen()

    async def _subscribe(self, frame: protocol.Subscribe) -> None:
        self._check_id(frame.id)
        if not 0 <= frame.history <= self._limits.history_messages:
            raise ProtocolError("too-many", f"history is at most {self._limits.history_messages}")
        patterns = await self._checked_patterns(frame.patterns, "subscribe")
        hub, history = self._feed.hub, max(frame.history, int(frame.snapshot))
        try:
            if history:
                await self._learn_all(lambda: [event[0] for event in hub.history(list(patterns), 1)])
            # From here to `_listen` nothing is awaited: nothing comes in between, missed or twice.
            self._feed.dispatch()
            frames = self._retained(patterns, history) if history else []
        except HistoryUnavailable:
            raise ProtocolError("no-history", "nothing of these patterns is kept") from None
        self._subscriptions[frame.id] = Subscription(patterns, frame.gaps, frame.snapshot)
        more: dict[str, Any] = {"replayed": len(frames)} if history else {}
        self._reply(protocol.ok(frame.id, self._feed.journal.position, **more))
        for each in frames:
            self._reply(each)
        self._listen()

    async def _unsubscribe(self, frame: protocol.Unsubscribe) -> None:
        if frame.of in self._responders:
            self._responders.pop(frame.of)[1].remove()
        elif self._subscriptions.pop(frame.of, None) is not None:
            self._listen()
        else:
            raise ProtocolError("malformed", "there is no subscription of this id")
        self._reply(protocol.ok(frame.id, self._feed.journal.position))

    def _data(self, frame: protocol.Publish | protocol.Request | protocol.Reply, key: Key[Any]) -> Any:
        """Return what a client has sent, as what is declared for the key.

        Raises:
            ProtocolError: It cannot be decoded.
        """
        raw = bytes(frame.data)
        if frame.data_base64 is not None:
            if raw:
                raise ProtocolError("malformed", "data and data_base64 are one or the other")
            try:
                raw = base64.b64decode(frame.data_base64, validate=True)
            except (binascii.Error, ValueError):
                raise ProtocolError("malformed", "data_base64 is base64") from None
            if self._feed.is_json:
                return raw
        elif not self._feed.is_json and raw:
            raise ProtocolError("malformed", f"data_base64 has the data, as {self._feed.codec.content_type}")
        try:
            declared = self._feed.hub.border.type_of(key)
            if not raw:
                raw = b"null"
            return self._feed.codec.decode(raw, declared)
        except (ValueError, TypeError, HubsubError, RecursionError) as error:
            text = str(error.error) if isinstance(error, DecodeError) and hasattr(error, "error") else str(error)
            raise ProtocolError("malformed", f"data cannot be decoded: {text[:200]}") from None

    def _check_rate(self) -> None:
        wait = self._bucket.wait()
        if wait:
            raise ProtocolError("rate", f"too fast: wait {wait:.2f} s")

    def _check_headers(self, headers: dict[str, str] | None) -> None:
        size = sum(len(name) + len(value) for name, value in (headers or {}).items())
        if size > self._limits.headers_bytes:
            raise ProtocolError("too-large", f"headers have at most {self._limits.headers_bytes} bytes")

    async def _publish(self, frame: protocol.Publish) -> None:
        self._check_id(frame.id)
        self._check_rate()
        key = self._exact(frame.key, self._incoming)
        self._check_headers(frame.headers)
        if not await self._may("publish", key):
            raise ProtocolError("forbidden", "this key may not be published to")
        message = self._data(frame, key)
        hub = self._feed.hub
        if frame.confirm is not None:
            seconds = self._seconds(frame.confirm)
            self._start(frame.id, self._publish_confirmed(frame.id, key, message, frame.headers, seconds))
            return
        try:
            if frame.headers:
                reached = hub.publish_with_headers(key, message, frame.headers)
            else:
                reached = hub.publish(key, message)
        except InvalidKey as error:
            raise ProtocolError("invalid-key", str(error)[:200]) from None
        reached += self._feed.dispatch(message)
        self._reply(protocol.ok(frame.id, self._feed.journal.position, count=reached))

    async def _publish_confirmed(
        self, id: int, key: Key[Any], message: Any, headers: dict[str, str] | None, seconds: float
    ) -> None:
        try:
            finished = await self._feed.hub.publish_confirmed(key, message, timeout=seconds, headers=headers)
        except ConfirmationTimeout:
            raise ProtocolError("timeout", "not everybody has finished in time", id) from None
        except DeliveryError as error:
            raise ProtocolError("failed", f"{len(error.exceptions)} did not finish with it", id) from None
        self._reply(protocol.ok(id, self._feed.journal.position, count=finished))

    @staticmethod
    def _seconds(given: float) -> float:
        if not 0 < given <= MOST_SECONDS:
            raise ProtocolError("malformed", f"seconds are more than 0, and at most {MOST_SECONDS:g}")
        return given

    def _start(self, id: int, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something that takes its time, while other frames are followed."""
        if len(self._tasks) >= self._limits.requests:
            coroutine.close()
            raise ProtocolError("too-many", f"at most {self._limits.requests} requests are open at a time")
        self._tasks[id] = self._loop.create_task(self._doing(id, coroutine))

    async def _doing(self, id: int, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except ProtocolError as error:
            self._refuse(error, id)
        except HubClosed:
            self._refuse(ProtocolError("closing", "the hub is closing"), id)
        except (HubsubError, ValueError, TypeError) as error:
            logger.debug("a request of a web client failed", error=error)
            self._refuse(ProtocolError("failed", type(error).__name__), id)
        finally:
            self._tasks.pop(id, None)

    async def _request(self, frame: protocol.Request) -> None:
        self._check_id(frame.id)
        self._check_rate()
        key = self._exact(frame.key, self._incoming)
        self._check_headers(frame.headers)
        if not await self._may("request", key):
            raise ProtocolError("forbidden", "this key may not be asked")
        message = self._data(frame, key)
        seconds = self._seconds(frame.timeout) if frame.timeout is not None else 10.0
        self._start(frame.id, self._ask(frame.id, key, message, frame.headers, seconds))

    async def _ask(self, id: int, key: Key[Any], message: Any, headers: dict[str, str] | None, seconds: float) -> None:
        try:
            reply = await self._feed.hub.request(key, message, timeout=seconds, local=False, headers=headers)
            data = self._feed.codec.encode(reply)
        except NoResponders:
            raise ProtocolError("no-responders", "nobody responds to this key", id) from None
        except RequestTimeout:
            raise ProtocolError("timeout", "no reply came in time", id) from None
        except RemoteError:
            # What it raised is for the log of who responds, not for strangers.
            raise ProtocolError("failed", "the responder failed", id) from None
        except EncodeError:
            raise ProtocolError("failed", "the reply cannot be encoded", id) from None
        self._reply(protocol.ok_with_data(id, data, self._feed.is_json))

    async def _respond(self, frame: protocol.Respond) -> None:
        self._check_id(frame.id)
        patterns = await self._checked_patterns(frame.patterns, "respond")
        listener = self._feed.hub.respond(list(patterns), self._question)
        self._responders[frame.id] = patterns, listener
        self._reply(protocol.ok(frame.id, self._feed.journal.position))

    def _question(self, key: Key[Any], message: Any) -> asyncio.Future[Any]:
        """Pass a request on to the client; the responder of the hub."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        number = next(self._numbers)
        if len(self._asked) >= self._limits.requests:
            # Who asked first has given up most likely.
            first = next(iter(self._asked))
            self._fail(*self._asked.pop(first), "the client does not answer")
        self._asked[number] = key, reply
        self._reply(protocol.request_frame(number, key, self._feed.codec.encode(message), self._feed.is_json))
        return reply

    @staticmethod
    def _fail(key: Key[Any], reply: asyncio.Future[Any], why: str) -> None:
        if not reply.done():
            reply.set_exception(RemoteError(key, why))

    async def _answer(self, frame: protocol.Reply) -> None:
        asked = self._asked.pop(frame.id, None)
        if asked is None:
            return  # it comes too late, or was never asked for: that is no mistake of the client
        key, reply = asked
        if frame.error is not None:
            self._fail(key, reply, frame.error[:200])
            return
        try:
            message = self._data(frame, key)
        except ProtocolError:
            self._fail(key, reply, "the reply cannot be decoded")
            raise
        if not reply.done():
            reply.set_result(message)

    async def _ping(self, frame: protocol.Ping) -> None:
        self._reply(protocol.PONG)

    async def _pong(self, frame: protocol.Pong) -> None:
        pass

    _FOLLOW: ClassVar[dict[type, Callable[[Session, Any], Awaitable[None]]]] = {
        protocol.Hello: _hello,
        protocol.Subscribe: _subscribe,
        protocol.Unsubscribe: _unsubscribe,
        protocol.Publish: _publish,
        protocol.Request: _request,
        protocol.Respond: _respond,
        protocol.Reply: _answer,
        protocol.Ping: _ping,
        protocol.Pong: _pong,
    }

    # What the endpoint's clock asks

    def look(self, now: float) -> None:
        """See whether the client is still there and may stay."""
        limits = self._limits
        expires = self.connection.expires
        if expires is not None and time.time() >= expires:
            self.end(protocol.IDENTITY, "expired")
        elif self.is_busy and now - self.busy_since > limits.not_reading_seconds:
            self.end(protocol.TIMED_OUT, "it does not read")
        elif now - self.heard > limits.silent_seconds:
            self.end(protocol.TIMED_OUT, "it says nothing")
        elif not self.pinged and now - self.heard > limits.ping_seconds and self.was_admitted:
            self.pinged = True
            self._reply(protocol.PING)

    async def recheck(self) -> None:
        """Ask `authorize` again; subscriptions that it refuses now end with an error."""
        self._answers.forget()
        for id, subscription in list(self._subscriptions.items()):
            for pattern in subscription.patterns:
                if not await self._may("subscribe", pattern):
                    self._subscriptions.pop(id, None)
                    self._reply(protocol.error_frame(id, "forbidden", "this pattern may not be subscribed to any more"))
                    break
        for id, (patterns, listener) in list(self._responders.items()):
            if not all([await self._may("respond", pattern) for pattern in patterns]):
                self._responders.pop(id, None)
                listener.remove()
                self._reply(protocol.error_frame(id, "forbidden", "this pattern may not be responded to any more"))
        if not self._over.done():
            self._listen()
