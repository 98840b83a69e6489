"""Following the frames of one client: what each of them does."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import count
from typing import Any, ClassVar

import msgspec

from .._core.listener import Listener
from ..errors import (
    ConfirmationTimeout,
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
from ..event import Event, Gap
from ..key import NAMESPACE, PLUS, STAR, Key
from . import protocol
from .access import Access, Action, Connection, Refused, covered, logger
from .application import confirmed, dispatched
from .feed import Feed
from .journal import not_resumed
from .limits import Bucket
from .names import NAME, source_of
from .protocol import ClientFrame, ProtocolError
from .stream import Stream
from .subscriptions import Subscription, Subscriptions

# Malformed frames after which a client is disconnected.
MOST_MALFORMED = 3
# The longest that a client may wait for a confirmation or a reply, seconds.
MOST_SECONDS = 60.0
# How long ago a gap that a client reports may have ended, or be still to come, seconds.
MOST_GAP_SECONDS = 86_400.0
NO_LONGER = "this pattern is no longer allowed"
# How long it waits for a reply if it does not say.
REPLY_SECONDS = 10.0


class Commands:
    """Does what the frames of one client say, in order; what takes time goes on in a task.

    Args:
        feed: Where messages come from.
        stream: Where answers go.
        access: Who may do what.
        connection: Who it is.
    """

    def __init__(self, feed: Feed, stream: Stream, access: Access, connection: Connection) -> None:
        self._feed = feed
        self._stream = stream
        self._access = access
        self._connection = connection
        self._limits = limits = stream.limits
        self._loop = asyncio.get_running_loop()
        self._malformed = 0
        self._was_too_fast = False
        self._bucket = Bucket(limits.publishes_per_second, limits.publish_burst)
        self._outgoing: list[Key[Any]] = []
        self._incoming: list[Key[Any]] = []
        self.subscriptions = Subscriptions(feed, stream, access, connection)
        self._responders: dict[int, tuple[list[Key[Any]], Listener]] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, tuple[Key[Any], asyncio.Future[Any]]] = {}
        self._numbers = count(1)

    def admitted(self) -> None:
        """Find out what the client may do, now that its identity is known."""
        identity = self._connection.identity
        self._outgoing = self._access.of(self._access.outgoing, identity)
        self._incoming = self._access.of(self._access.incoming, identity)
        self.subscriptions.forget_answers()

    def leave(self) -> None:
        """End everything that the client has begun: it is gone."""
        self.subscriptions.leave()
        for _, responder in self._responders.values():
            responder.remove()
        self._responders.clear()
        for _, future in self._asked.values():
            future.cancel()
        self._asked.clear()
        for task in self.tasks.values():
            task.cancel()

    async def follow_all(self, text: str) -> None:
        """Follow all that a text frame holds, in order."""
        self._was_too_fast = False
        for frame in protocol.frames_of(text, self._limits.depth):
            if self._stream.over.done():
                return
            await self.follow(frame)

    async def follow(self, frame: ClientFrame | ProtocolError) -> None:
        """Do what a frame says, or answer why not."""
        try:
            if isinstance(frame, ProtocolError):
                raise frame
            await self._FOLLOW[type(frame)](self, frame)
        except ProtocolError as error:
            self.refuse(error, getattr(frame, "id", None))
        except HubClosed:
            self.refuse(ProtocolError("closing", "the hub is closing"), getattr(frame, "id", None))

    def refuse(self, error: ProtocolError, id: int | None = None) -> None:
        """Answer with an error; the third malformed frame ends the connection."""
        self._stream.reply(protocol.error_frame(error.id if error.id is not None else id, error.code, error.message))
        if error.code == "malformed" and not error.is_of_message:
            self._malformed += 1
            if self._malformed >= MOST_MALFORMED:
                self._stream.end(protocol.MALFORMED, "too many malformed frames")

    def _key(self, parts: list[str]) -> Key[Any]:
        if (fault := self._limits.fault_of_key(parts)) is not None:
            raise ProtocolError("invalid-key", fault)
        return Key.create_from(parts)

    def _exact(self, parts: list[str], of: Sequence[Key[Any]]) -> Key[Any]:
        key = self._key(parts)
        if STAR in key or PLUS in key:
            raise ProtocolError("invalid-key", "the key must not have wildcards")
        if key[0] == NAMESPACE or not covered(key, of):
            raise ProtocolError("forbidden", "this key may not be published to")
        return key

    def _check_id(self, id: int) -> None:
        if id in self.subscriptions or id in self._responders or id in self.tasks:
            raise ProtocolError("malformed", "this id is in use")

    async def _checked_patterns(self, parts: list[list[str]], action: Action) -> list[Key[Any]]:
        patterns = list(dict.fromkeys(self._key(each) for each in parts))
        if not patterns:
            raise ProtocolError("malformed", "patterns must hold at least one pattern")
        used = len(self.subscriptions.patterns) + sum(len(each) for each, _ in self._responders.values())
        if len(self.subscriptions) + len(self._responders) >= self._limits.subscriptions:
            raise ProtocolError("too-many", f"a connection has at most {self._limits.subscriptions} subscriptions")
        if used + len(patterns) > self._limits.patterns:
            raise ProtocolError("too-many", f"a connection has at most {self._limits.patterns} patterns")
        for pattern in patterns:
            if not covered(pattern, self._outgoing) or not await self._may(action, pattern):
                raise ProtocolError("forbidden", "this pattern may not be subscribed to")
        return patterns

    async def _may(self, action: Action, key: Key[Any]) -> bool:
        return await self._access.allows(self._connection, action, key)

    async def _hello(self, frame: protocol.Hello) -> None:
        if frame.token is not None and frame.token != self._connection._token:
            self._connection._token = frame.token
            try:
                await self._access.identify(self._connection)
            except Refused:
                self._stream.end(protocol.IDENTITY, "refused")
                return
            self.admitted()
        journal = self._feed.journal
        if frame.resume is None:
            self._stream.reply(protocol.ok(0, journal.position))
            return
        wanted: list[tuple[protocol.SubscriptionOf, list[Key[Any]]]] = []
        for each in frame.resume.subscriptions:
            try:
                self._check_id(each.id)
                patterns = await self._checked_patterns(each.patterns, "subscribe")
            except ProtocolError as error:
                self.refuse(error, each.id)
            else:
                wanted.append((each, patterns))
                self.subscriptions[each.id] = Subscription(patterns, each.gaps, each.snapshot)
        named = [pattern for _, patterns in wanted for pattern in patterns]
        snapshots = [pattern for each, patterns in wanted if each.snapshot for pattern in patterns]
        await self.subscriptions.learn_all(lambda: self.subscriptions.retained_keys(snapshots))
        frames = await self.subscriptions.missed(frame.resume.at, named)
        # From here to `listen` nothing is awaited.
        if frames is None:
            self._stream.reply(protocol.ok(0, journal.position, resumed=False, replayed=0))
            self._stream.replay(self.subscriptions.gap_frames(not_resumed(), [each.id for each, _ in wanted]))
        else:
            self._stream.reply(protocol.ok(0, journal.position, resumed=True, replayed=len(frames)))
            self._stream.replay(frames)
        self.subscriptions.listen()

    async def _subscribe(self, frame: protocol.Subscribe) -> None:
        self._check_id(frame.id)
        if not 0 <= frame.history <= self._limits.history_messages:
            raise ProtocolError("too-many", f"history must be at most {self._limits.history_messages}")
        patterns = await self._checked_patterns(frame.patterns, "subscribe")
        history = max(frame.history, int(frame.snapshot))
        try:
            if history:
                await self.subscriptions.learn_all(lambda: self.subscriptions.retained_keys(patterns))
            # From here to `listen` nothing is awaited: nothing comes in between, missed or twice.
            self._feed.dispatch()
            frames = self.subscriptions.retained(patterns, history) if history else []
        except HistoryUnavailable:
            raise ProtocolError("no-history", "nothing is retained for these patterns") from None
        self.subscriptions[frame.id] = Subscription(patterns, frame.gaps, frame.snapshot)
        more: dict[str, Any] = {"replayed": len(frames)} if history else {}
        self._stream.reply(protocol.ok(frame.id, self._feed.journal.position, **more))
        self._stream.replay(frames)
        self.subscriptions.listen()

    async def _unsubscribe(self, frame: protocol.Unsubscribe) -> None:
        if frame.of in self._responders:
            self._feed.dispatch()
            self._responders.pop(frame.of)[1].remove()
        elif self.subscriptions.pop(frame.of, None) is not None:
            self.subscriptions.listen()
        else:
            raise ProtocolError("malformed", "there is no subscription of this id")
        self._stream.reply(protocol.ok(frame.id, self._feed.journal.position))

    def _data(self, frame: protocol.Publish | protocol.Request | protocol.Reply, key: Key[Any]) -> Any:
        """Return what a client has sent, as what is declared for the key.

        Raises:
            ProtocolError: It cannot be decoded.
        """
        raw = b"" if isinstance(frame.data, msgspec.UnsetType) else bytes(frame.data)
        if frame.data_base64 is not None:
            if raw:
                raise ProtocolError("malformed", "only one of data and data_base64 may be given")
            try:
                raw = base64.b64decode(frame.data_base64, validate=True)
            except (binascii.Error, ValueError):
                raise ProtocolError("malformed", "data_base64 must be base64") from None
            if self._feed.is_json:
                return raw
        elif not self._feed.is_json and raw:
            raise ProtocolError("malformed", f"the data must be in data_base64, as {self._feed.codec.content_type}")
        try:
            declared = self._feed.hub.border.type_of(key)
            if not raw:
                raw = b"null"
            message = self._feed.codec.decode(raw, declared)
            if self._feed.is_json and protocol.may_be_infinite(raw):
                self._feed.codec.encode(message)  # else it could be sent to nobody
            return message
        except (ValueError, TypeError, HubsubError, RecursionError) as error:
            text = f"data cannot be decoded: {str(error)[:200]}"
            raise ProtocolError("malformed", text, is_of_message=True) from None

    def _check_rate(self) -> None:
        # What follows in the same frame is refused with it: a client that sends all of it again keeps its order.
        wait = 0.01 if self._was_too_fast else self._bucket.wait()
        if wait:
            self._was_too_fast = True
            raise ProtocolError("rate", f"too fast: wait {wait:.2f} s")

    def _check_headers(self, headers: dict[str, str] | None) -> None:
        if (fault := self._limits.fault_of_headers(headers or {})) is not None:
            raise ProtocolError("too-large", fault)

    async def _publish(self, frame: protocol.Publish) -> None:
        self._check_id(frame.id)
        self._check_rate()
        key = self._exact(frame.key, self._incoming)
        self._check_headers(frame.headers)
        if not await self._may("publish", key):
            raise ProtocolError("forbidden", "this key may not be published to")
        message = self._data(frame, key)
        hub = self._feed.hub
        name = None if frame.headers is None else frame.headers.get(NAME)
        names = self._feed.names
        if name is not None and (names.is_known(key, name) or source_of(name) == hub.border.origin):
            # It was published before its answer was lost; or it was here first, and comes back by others.
            running = names.confirming(key, name)
            if running is not None and frame.confirm is not None:
                self._start(frame.id, self._confirm(frame.id, *running))
            else:
                self._stream.reply(protocol.ok(frame.id, self._feed.journal.position, count=0))
            return
        if frame.confirm is not None:
            seconds = self._seconds(frame.confirm)
            self._check_open()
            task, more = await confirmed(hub, key, message, frame.headers, seconds)
            if name is not None:
                names.note(key, name)
                names.confirm(key, name, task, more)
            self._start(frame.id, self._confirm(frame.id, task, more))
            return
        if name is not None:
            names.note(key, name)
        try:
            if frame.headers:
                reached = hub.publish_with_headers(key, message, frame.headers)
            else:
                reached = hub.publish(key, message)
        except InvalidKey as error:
            raise ProtocolError("invalid-key", str(error)[:200]) from None
        reached += dispatched(hub, message)
        self._stream.reply(protocol.ok(frame.id, self._feed.journal.position, count=reached))

    async def _confirm(self, id: int, task: asyncio.Task[int], more: int) -> None:
        try:
            # Who has sent it may be gone before that, and ask again over another connection.
            finished = await asyncio.shield(task)
        except ConfirmationTimeout:
            raise ProtocolError("timeout", "not every recipient has finished in time", id) from None
        except DeliveryError as error:
            raise ProtocolError("failed", f"{len(error.exceptions)} recipients failed", id) from None
        self._stream.reply(protocol.ok(id, self._feed.journal.position, count=finished + more))

    @staticmethod
    def _seconds(given: float) -> float:
        if not 0 < given <= MOST_SECONDS:
            raise ProtocolError("malformed", f"a time must be more than 0 and at most {MOST_SECONDS:g} seconds")
        return given

    def _start(self, id: int, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something that takes its time, while other frames are followed."""
        try:
            self._check_open()
        except ProtocolError:
            coroutine.close()
            raise
        self.tasks[id] = self._loop.create_task(self._doing(id, coroutine))

    async def _doing(self, id: int, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except ProtocolError as error:
            self.refuse(error, id)
        except HubClosed:
            self.refuse(ProtocolError("closing", "the hub is closing"), id)
        except (HubsubError, ValueError, TypeError) as error:
            logger.debug("a request of a web client failed", error=error)
            self.refuse(ProtocolError("failed", type(error).__name__), id)
        finally:
            self.tasks.pop(id, None)

    def _check_open(self) -> None:
        if len(self.tasks) >= self._limits.requests:
            self._was_too_fast = True
            raise ProtocolError("too-many", f"at most {self._limits.requests} requests are open at a time")

    async def _request(self, frame: protocol.Request) -> None:
        self._check_id(frame.id)
        self._check_rate()
        key = self._exact(frame.key, self._incoming)
        self._check_headers(frame.headers)
        if not await self._may("request", key):
            raise ProtocolError("forbidden", "this key may not be asked")
        message = self._data(frame, key)
        seconds = self._seconds(frame.timeout) if frame.timeout is not None else REPLY_SECONDS
        self._start(frame.id, self._ask(frame.id, key, message, frame.headers, seconds))

    async def _ask(self, id: int, key: Key[Any], message: Any, headers: dict[str, str] | None, seconds: float) -> None:
        try:
            reply = self._feed.hub.request(key, message, timeout=seconds, local=False, headers=headers)
        except NoResponders:
            raise ProtocolError("no-responders", "nobody responds to this key", id) from None
        try:
            data = self._feed.codec.encode(await reply)
        except RequestTimeout:
            raise ProtocolError("timeout", "no reply came in time", id) from None
        except NoResponders:
            raise ProtocolError("failed", "the responder is gone", id) from None
        except RemoteError:
            # What the responder raised is for its own log, not for strangers.
            raise ProtocolError("failed", "the responder failed", id) from None
        except EncodeError:
            raise ProtocolError("failed", "the reply cannot be encoded", id) from None
        self._stream.reply(protocol.ok_with_data(id, data, self._feed.is_json))

    async def _miss(self, frame: protocol.Missed) -> None:
        self._check_rate()
        now = time.time()
        if not frame.since <= frame.until or abs(frame.until - now) > MOST_GAP_SECONDS:
            raise ProtocolError(
                "malformed", "since and until of a gap must be recent times, in this order", is_of_message=True
            )
        patterns = list(dict.fromkeys(self._key(each) for each in frame.patterns))
        if not 0 < len(patterns) <= self._limits.patterns:
            raise ProtocolError("too-many", f"a gap has 1 to {self._limits.patterns} patterns")
        for pattern in patterns:
            if not covered(pattern, self._incoming) or not await self._may("publish", pattern):
                raise ProtocolError("forbidden", "this key may not be published to")
        keys = tuple(patterns) if not any(pattern.is_wildcard for pattern in patterns) else None
        gap = Gap(frame.reason[:100], frame.count, frame.since, frame.until, keys)
        self._feed.hub.border.report_gap(list(patterns), gap)
        self._feed.dispatch()
        self._stream.reply(protocol.ok(frame.id, self._feed.journal.position))

    async def _respond(self, frame: protocol.Respond) -> None:
        self._check_id(frame.id)
        patterns = await self._checked_patterns(frame.patterns, "respond")
        # Requests until here come as messages only, and those after the answer as requests, too.
        self._feed.dispatch()
        listener = self._feed.hub.respond(list(patterns), self._question, event=True)
        self._responders[frame.id] = patterns, listener
        self._stream.reply(protocol.ok(frame.id, self._feed.journal.position))

    def _question(self, event: Event[Any]) -> asyncio.Future[Any] | None:
        """Pass a request on to the client; the responder of the hub."""
        key, message = event
        meta = event.meta
        if meta is None or meta.reply_to is None:
            return None  # a message like others, for those who are subscribed
        reply: asyncio.Future[Any] = self._loop.create_future()
        number = next(self._numbers)
        if len(self._asked) >= self._limits.requests:
            # The client that asked first has most likely given up.
            first = next(iter(self._asked))
            self._fail(*self._asked.pop(first), "the client does not answer")
        self._asked[number] = key, reply
        data = self._feed.codec.encode(message)
        self._stream.reply(protocol.request_frame(number, key, data, self._feed.is_json, meta.headers))
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
        self._stream.reply(protocol.PONG)

    async def _pong(self, frame: protocol.Pong) -> None:
        pass

    _FOLLOW: ClassVar[dict[type, Callable[[Commands, Any], Awaitable[None]]]] = {
        protocol.Hello: _hello,
        protocol.Subscribe: _subscribe,
        protocol.Unsubscribe: _unsubscribe,
        protocol.Publish: _publish,
        protocol.Request: _request,
        protocol.Missed: _miss,
        protocol.Respond: _respond,
        protocol.Reply: _answer,
        protocol.Ping: _ping,
        protocol.Pong: _pong,
    }

    async def recheck(self) -> None:
        """Ask `authorize` again; subscriptions that it refuses now end with an error."""
        self.subscriptions.forget_answers()
        for id, subscription in list(self.subscriptions.items()):
            for pattern in subscription.patterns:
                if not await self._may("subscribe", pattern):
                    self.subscriptions.pop(id, None)
                    self._stream.reply(protocol.error_frame(id, "forbidden", NO_LONGER))
                    break
        for id, (patterns, listener) in list(self._responders.items()):
            if not all([await self._may("respond", pattern) for pattern in patterns]):
                self._responders.pop(id, None)
                listener.remove()
                self._stream.reply(protocol.error_frame(id, "forbidden", NO_LONGER))
        if not self._stream.over.done():
            self.subscriptions.listen()
