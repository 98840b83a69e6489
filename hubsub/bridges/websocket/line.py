"""One connection to an endpoint: made for it, and thrown away with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any, ClassVar

from ...describe import describe_error
from ...errors import AccessRefused
from ...key import NAMESPACE, Key, is_subset, overlaps
from ..adapter import Link, Loss, Received
from . import frames
from .flow import Mark, Position
from .frames import Frame, said
from .options import Endpoint
from .pace import Pace
from .sending import Sending

# The driver would log addresses and headers, and what we say ourselves.
_SILENT = logging.Logger("hubsub.websockets", logging.CRITICAL + 1)

# Seconds in which the last frames have to be sent; the most seconds for which a `bye` keeps a client away.
GOODBYE = 1.0
MOST_AWAY = 5.0
# Seconds before the last frame came, in which messages may have been on their way, and were lost.
ON_THE_WAY = 1.0
# How long a message may take from its publisher to here, seconds; then it was the line that was silent.
MOST_LATE = 30.0
# How often in succession what follows a position may be unreadable, before it is given up.
MOST_FAILURES = 3
NOT_RESUMED = "not resumed"
OTHERWISE = "an endpoint answered what it was not asked"


class SocketLine(Sending):
    """Speaks `hubsub.v1` with an endpoint, from `open` until it fails or is closed.

    Args:
        endpoint: Where.
        link: The relay's settings.
        position: Where this client is; it outlives the line.
        ids: Numbers of requests, of which none is used twice.
    """

    def __init__(self, endpoint: Endpoint, link: Link, position: Position, ids: count[int]) -> None:
        super().__init__(endpoint, link, position, ids)
        self._reading: asyncio.Task[None] | None = None
        self._greeting: asyncio.Future[None] = self.loop.create_future()
        self._has_said_hello = False
        self._welcomed = False
        self._farewell: Frame | None = None
        self._heard = time.time()
        self._last: Received | None = None
        self._resumed: dict[int, Key[Any]] = {}  # asked for with hello
        self._subscribed: dict[Key[Any], int] = {}
        self._responding: dict[Key[Any], int] = {}
        self._is_wide = False
        self._asked: set[Key[Any]] = set()  # by the relay
        self._pruned = False
        self._replaying = 0
        self._then: Mark | None = None
        self._last_gap: tuple[Any, ...] | None = None
        self.refused: dict[Key[Any], Exception] = {}

    # Beginning and ending

    async def open(self) -> None:
        """Connect, and send token and position; return when the endpoint has accepted them.

        Raises:
            AccessRefused: It does not, and will not.
            ConnectionError: Anything else.
        """
        endpoint = self.endpoint
        token = await endpoint.token()
        client = endpoint.driver

        def made(*arguments: Any, **options: Any) -> Any:
            self.socket = client.ClientConnection(*arguments, **options)
            return self.socket

        class Connect(client.connect):  # type: ignore[misc,name-defined]
            def process_redirect(self, exc: Exception) -> Exception:
                # What is sent here is not for others.
                return exc

        try:
            await Connect(
                endpoint.url,
                subprotocols=[frames.SUBPROTOCOL],
                create_connection=made,
                open_timeout=None,
                ping_interval=None,
                close_timeout=GOODBYE,
                logger=_SILENT,
                **endpoint.settings,
            )
        except Exception as error:
            endpoint.next()
            raise self._not_open(error) from error
        self._reading = self.loop.create_task(self._read(), name=f"reading of {endpoint!r}")
        self.say(self._hello(token))
        await self.until(self._greeting)

    def _not_open(self, error: Exception) -> Exception:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            return self._unidentified()
        if status == 403:
            return AccessRefused(f"{self.endpoint!r} refuses this client: HTTP 403; ask its operator")
        if status is not None:
            return ConnectionError(f"{self.endpoint!r} is no endpoint now: HTTP {status}; is its path right?")
        return ConnectionError(f"{self.endpoint!r}: {describe_error(error)}")

    def _unidentified(self) -> Exception:
        if self.endpoint.renews_token:
            return ConnectionError(f"{self.endpoint!r} does not accept this token; the next attempt has a new one")
        return AccessRefused(
            f"{self.endpoint!r} does not know this client: give token=, a valid one, or a function that returns one"
        )

    def _hello(self, token: str | None) -> dict[str, Any]:
        hello: dict[str, Any] = {"type": "hello"}
        if token is not None:
            hello["token"] = token
        position = self.position
        if position.failures >= MOST_FAILURES:
            # What follows it cannot be read, however often it is sent.
            position.forget()
            self.flow.put(Loss("what follows cannot be read"))
        known, position.patterns = position.patterns, []
        self._has_said_hello = True
        wanted = self.link.wanted()
        kept = [pattern for pattern in known if any(overlaps(pattern, other) for other in wanted)]
        if kept and position.at:
            self._resumed = {next(self.ids): pattern for pattern in kept}
            subscriptions = [
                {"id": id, "patterns": [pattern], "snapshot": self.endpoint.snapshot}
                for id, pattern in self._resumed.items()
            ]
            hello["resume"] = {"at": position.at, "subscriptions": subscriptions}
        return hello

    def fail(self, error: Exception) -> None:
        if self.flow.error is None and self._has_said_hello:
            # What was subscribed to, and not only asked for: the rest is new next time.
            self.position.patterns = [*self._subscribed, *self._resumed.values()]
            self.position.left = min(self._heard - ON_THE_WAY, self._published)
        super().fail(error)

    @property
    def _published(self) -> float:
        """When the last message that came was published, unless that is long ago: the next ones came no sooner."""
        text = "" if self._last is None else self._last.headers.get("ce_time", "")
        try:
            published = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            return self._heard
        return published if self._heard - MOST_LATE < published else self._heard

    async def leave(self) -> None:
        """Close the connection when everything is sent."""
        if self.socket is not None and self.flow.error is None:
            with suppress(Exception):
                async with asyncio.timeout(GOODBYE):
                    if self.saying:
                        await asyncio.wait(self.saying)
                    await self.socket.close()
        await self.close()

    async def close(self) -> None:
        self.fail(ConnectionResetError(f"the connection to {self.endpoint!r} is closed"))
        tasks = [task for task in (self._reading, *self.saying) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def away(self) -> float:
        """Seconds for which the endpoint has asked this client to stay away."""
        retry = None if self._farewell is None else self._farewell.retry
        return 0.0 if retry is None else min(max(retry / 1000, 0.0), MOST_AWAY)

    # Reading

    async def _read(self) -> None:
        try:
            while True:
                text = await self.socket.recv()
                self._heard = time.time()
                if not isinstance(text, str):
                    raise ConnectionError("the endpoint sent a binary frame")
                for frame in frames.frames_of(text):
                    self._follow(frame)
                await self.flow.has_room()
        except Exception as error:
            reason = self.reason(error)
            if not isinstance(reason, AccessRefused) and (isinstance(error, ConnectionError) or self._is_unreadable()):
                self.position.failures += 1
            self.fail(reason)

    def _is_unreadable(self) -> bool:
        """True if we have ended the connection, since what came was too large or malformed."""
        sent = getattr(self.socket.protocol, "close_sent", None)
        received = getattr(self.socket.protocol, "close_rcvd", None)
        return sent is not None and sent.code in (1002, 1007, 1009) and received is None

    def reason(self, error: Exception) -> Exception:
        """What the end of the connection means."""
        farewell = self._farewell
        code = getattr(self.socket, "close_code", None)
        reason = getattr(self.socket, "close_reason", None) or ""
        if farewell is not None and isinstance(farewell.code, int):
            code, reason = farewell.code, farewell.reason or reason
        reason = reason[: frames.MOST_TEXT]
        if code == frames.IDENTITY:
            return self._unidentified()
        if code in (frames.MALFORMED, frames.FORBIDDEN):
            remedy = "is it an endpoint of this version?" if code == frames.MALFORMED else "ask its operator"
            return AccessRefused(f"{self.endpoint!r} refuses this client: {code} {reason}; {remedy}")
        if isinstance(error, ConnectionError):
            return error
        said = f"{code} {reason}".strip() if code not in (None, 1006) else describe_error(error)
        return ConnectionError(f"the connection to {self.endpoint!r} has ended: {said}")

    def _follow(self, frame: Frame) -> None:
        follow = self._FOLLOW.get(frame.type)
        if follow is not None:
            follow(self, frame)

    def _welcome(self, frame: Frame) -> None:
        if self._welcomed:
            raise ConnectionError(OTHERWISE)
        self._welcomed = True
        self.limits.update(frame.limits or {})
        self.pace = Pace(self.limits["publishes_per_second"], self.limits["publish_burst"])
        if not self._resumed and isinstance(frame.at, dict):
            self.flow.put(None, Mark(frame.at, replaces=True))

    def _greeted(self, frame: Frame) -> None:
        """The answer to our hello."""
        if not self._welcomed or self._greeting.done():
            raise ConnectionError(OTHERWISE)
        at = frame.at if isinstance(frame.at, dict) else {}
        if self._resumed:
            self._subscribed = {pattern: id for id, pattern in self._resumed.items() if pattern not in self.refused}
            self._resumed = {}
            self._expect(frame, Mark(at, replaces=not frame.resumed))
        self._greeting.set_result(None)

    def _expect(self, frame: Frame, mark: Mark) -> None:
        """So many messages and gaps of before follow; then we are where the answer says."""
        number = frame.replayed
        if not mark.replaces and type(number) is int and number > 0:
            self._replaying, self._then = number, mark
        else:
            self.flow.put(None, mark)

    def _replayed_one(self) -> None:
        if self._replaying:
            self._replaying -= 1
            if not self._replaying and self._then is not None:
                self.flow.put(None, self._then)

    def _message(self, frame: Frame) -> None:
        place = frames.place_of(frame.at)
        mark = None if place is None else Mark({place[0]: place[1]})
        # A client that responds gets a request once more, as a request.
        if frame.request and self._responding and self._responds_to(frame.key or ()):
            self.flow.put(None, mark)
        else:
            self._last = frames.received_of(frame)
            self.flow.put(self._last, mark)
        self._replayed_one()

    def _responds_to(self, key: Sequence[str]) -> bool:
        return any(is_subset(tuple(key), pattern) for pattern in self._responding)

    def _gap(self, frame: Frame) -> None:
        keys = None
        if frame.keys is not None:
            keys = tuple(Key.create_from(key) for key in frame.keys if key)
        gap = (frame.reason, frame.count, frame.since, frame.until, keys)
        # One comes for each subscription that it concerns.
        if gap != self._last_gap:
            self._last_gap = gap
            lasted = frame.since is not None and frame.reason != NOT_RESUMED
            reason = (frame.reason or "unknown")[: frames.MOST_TEXT]
            since = frame.since if lasted else self.position.left
            self.flow.put(Loss(reason, frame.count, None, since, keys))
        self._replayed_one()

    def _ok(self, frame: Frame) -> None:
        if frame.id == 0:
            self._greeted(frame)
            return
        answer = self.answers.pop(frame.id or -1, None)
        if answer is None:
            raise ConnectionError(OTHERWISE)
        answer(frame)
        if isinstance(frame.at, dict):
            self._expect(frame, Mark(frame.at))

    def _error(self, frame: Frame) -> None:
        id = frame.id
        if id is not None and (answer := self.answers.pop(id, None)) is not None:
            answer(frame)
            return
        patterns = [pattern for known, pattern in self._resumed.items() if known == id]
        patterns += [pattern for pattern, known in self._subscribed.items() if known == id]
        patterns += [pattern for pattern, known in self._responding.items() if known == id]
        if not patterns:
            raise ConnectionError(f"the endpoint refused a frame: {said(frame)}")
        for pattern in patterns:
            # It ends a subscription that it had granted.
            if self._subscribed.pop(pattern, None) is not None:
                self.flow.put(Loss("no longer allowed", None, None, None, None))
            self._responding.pop(pattern, None)
            self._refuse(pattern, frame)

    def _refuse(self, pattern: Key[Any], frame: Frame) -> None:
        remedy = "allow it in the endpoint's outgoing=, or name less here"
        if frame.code == "too-many":
            remedy = "subscribe to fewer patterns, or raise the endpoint's limits"
        self.refused[pattern] = AccessRefused(f"{self.endpoint!r} refuses {pattern!r}: {said(frame)}; {remedy}")

    def _request(self, frame: Frame) -> None:
        """A request has come."""
        source, id = frames.source_of(frame)
        if source == self.origin:
            # This hub was asked before the request left, and others may still answer.
            self.echoed.add(id)
            self.say({"type": "reply", "id": frame.id, "error": "the request comes from the hub that responds"})
            return
        received = frames.received_of(frame)
        headers = {
            **received.headers,
            "ce_replyto": Key(NAMESPACE, "reply", self.name).text,
            "ce_correlation": f"{self.name}-{frame.id}",
        }
        headers.setdefault("ce_id", f"{self.name}-{frame.id}")
        headers.setdefault("ce_source", self.name)
        self.flow.put(received._replace(headers=headers))

    def _ping(self, frame: Frame) -> None:
        if not any(task.get_name() == "pong" for task in self.saying):
            self.say({"type": "pong"}, name="pong")

    def _pong(self, frame: Frame) -> None:
        if self.pongs:
            waiting = self.pongs.popleft()
            if isinstance(waiting, Received):
                self.flow.put(waiting)
            elif not waiting.done():
                waiting.set_result(None)

    def _bye(self, frame: Frame) -> None:
        self._farewell = frame

    _FOLLOW: ClassVar[Mapping[str, Callable[[Any, Frame], None]]] = {
        "": _message,
        "welcome": _welcome,
        "ok": _ok,
        "error": _error,
        "gap": _gap,
        "request": _request,
        "ping": _ping,
        "pong": _pong,
        "bye": _bye,
    }

    async def receive(self) -> list[Received | Loss]:
        """Wait for something, and return all that has come."""
        return await self.flow.receive()

    # Subscribing

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Have what matches these sent, too; what is refused stands in `refused`."""
        self._asked.update(patterns)
        if not self._is_wide:
            new = [pattern for pattern in patterns if pattern not in self._subscribed and pattern not in self.refused]
            most = min(self.limits["subscriptions"] - len(self._responding), self.limits["patterns"])
            if len(self._subscribed) + len(new) > most:
                await self._widen()
            else:
                await self._subscribe(new, self.endpoint.snapshot)
        if not self._pruned and not self._is_wide:
            # Resumed, and wanted no longer.
            self._pruned = True
            await self._unsubscribe([each for each in self._subscribed if each not in self._asked])

    async def _subscribe(self, patterns: Sequence[Key[Any]], snapshot: bool) -> None:
        unkept: list[Key[Any]] = []

        def answered(pattern: Key[Any], id: int, answer: Frame) -> None:
            if answer.type == "ok":
                self._subscribed[pattern] = id
            elif answer.code == "no-history":
                unkept.append(pattern)
            elif answer.code != "closing":
                self._refuse(pattern, answer)

        await self._ask_for("subscribe", patterns, answered, snapshot=snapshot)
        if unkept:
            await self._subscribe(unkept, False)

    async def _ask_for(
        self, kind: str, patterns: Sequence[Key[Any]], answered: Callable[[Key[Any], int, Frame], None], **more: Any
    ) -> None:
        asked = []
        for pattern in patterns:
            id = next(self.ids)
            asked.append(({"type": kind, "id": id, "patterns": [pattern], **more}, partial(answered, pattern, id)))
        for answer in await self.ask_all(asked):
            if answer.code == "closing":
                raise ConnectionError(f"{self.endpoint!r} is closing")

    async def _widen(self) -> None:
        """Subscribe to all that may come in, instead of more patterns than the endpoint allows."""
        before = list(self._subscribed)
        self._is_wide = True
        new = [each for each in self.link.incoming if each not in self._subscribed and each not in self.refused]
        await self._subscribe(new, self.endpoint.snapshot)
        await self._unsubscribe([each for each in before if each not in self.link.incoming])

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        self._asked.difference_update(patterns)
        for pattern in patterns:
            self.refused.pop(pattern, None)
        if not self._is_wide:
            await self._unsubscribe([pattern for pattern in patterns if pattern in self._subscribed])

    async def _unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        held = [self._subscribed.pop(pattern, None) for pattern in patterns]
        await self._end([(of, _nothing) for of in held if of is not None])

    async def _end(self, ended: Sequence[tuple[int, Callable[[Frame], object]]]) -> None:
        await self.ask_all([({"type": "unsubscribe", "id": next(self.ids), "of": of}, then) for of, then in ended])

    async def respond(self, patterns: Sequence[Key[Any]]) -> None:
        """Have requests of these passed on; what is refused stands in `refused`."""

        def answered(pattern: Key[Any], id: int, answer: Frame) -> None:
            if answer.type == "ok":
                self._responding[pattern] = id
            elif answer.code != "closing":
                self._refuse(pattern, answer)

        await self._ask_for("respond", patterns, answered)

    async def unrespond(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `respond`."""
        ended: list[tuple[int, Callable[[Frame], object]]] = []
        for pattern in patterns:
            if pattern not in self._asked:
                self.refused.pop(pattern, None)
            if (of := self._responding.get(pattern)) is not None:
                ended.append((of, partial(self._no_longer, pattern)))
        await self._end(ended)

    def _no_longer(self, pattern: Key[Any], answer: Frame) -> None:
        self._responding.pop(pattern, None)


def _nothing(answer: Frame) -> None:
    """Called with answers that nothing depends on."""
