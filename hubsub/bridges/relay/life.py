"""The life of a bridge: opening, connecting and reconnecting, closing, and opening again."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ..._core.life import outlast
from ...codec import Codec, codec_of
from ...errors import AccessRefused, BridgeClosed, BridgeNotReady, BrokerBusy
from ...event import ListenerFailure
from ...hub import Hub
from ...key import NAMESPACE, Key, overlaps
from ...log import Episode, Logger
from ..adapter import Adapter, Features
from .connection import Connection, Parts, Timing
from .durable import patiently
from .health import Leftover, State
from .interest import Interest
from .outage import Outage, Refusal
from .plan import Plan
from .receiver import Receiver
from .replies import OpenRequests
from .seen import HubBridges
from .sender import Sender
from .wire import Wire


class Life:
    """What a bridge does by itself, and what its hub and other bridges call; `Bridge` adds what users call.

    Args:
        hub: The hub.
        adapter: The transport.
        plan: The options.
        codec: How messages become bytes.
        silence: Seconds without a sign of life after which a connection counts as lost.
    """

    # Seconds.
    CONNECT = 5.0
    ACK_EVERY = 0.1
    TICK = 0.25
    SILENT = 1.0
    DEAF = 3.0
    DEAF_PULLING = 5.0
    STUCK = 5.0
    LEAVE = 1.5
    # Seconds for a step of closing, even if earlier steps have used up the time.
    AT_LEAST = 0.02
    # How many errors in a row may come that only a bug explains, with nothing sent or received in between.
    MOST_BUGS = 3

    def __init__(self, hub: Hub, adapter: Adapter, plan: Plan, codec: str | Codec, silence: float | None) -> None:
        self.hub = hub
        self.adapter = adapter
        self._plan = plan
        self._codec = codec_of(codec)
        self._silence = silence
        self._log = Logger(f"hubsub.bridge.{plan.name or plan.group or type(self.adapter).__name__}")
        self._shared = HubBridges.of(hub)
        self._number = next(self._shared.numbers)
        self._features = self._features_now()
        self._plan.check(type(self.adapter).__name__, self._features)
        self._state: State = "new"
        self._since = time.time()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._gone = asyncio.Event()
        self._was_closed_by_hub = False
        self._open()

    # Opening

    def _open(self) -> None:
        """Make the parts that last until it is closed."""
        plan, hub = self._plan, self.hub
        self._features = features = self._features_now()
        self._wire = Wire(
            self._codec,
            hub.border.origin,
            envelope=plan.envelope,
            headers=features.headers,
            type_of=hub.border.type_of,
            secret=plan.secret,
            namespace=plan.namespace,
            prefix=plan.prefix,
            window=plan.signed_for,
        )
        requests = OpenRequests(self._sender_name)
        name = f"a bridge to {self.adapter!r}"
        sender = Sender(hub, plan, self._wire, features, requests, name, self._refused)
        receiver = Receiver(
            hub,
            plan,
            features,
            self._wire,
            self._shared,
            self._number,
            sender,
            requests,
            self._log,
            repr(self.adapter),
            self,
        )
        interest = Interest(hub, plan, features, self._shared, self)
        beat = Key(NAMESPACE, "beat", self._sender_name)
        self._parts = Parts(plan, self.adapter, features, sender, receiver, interest, requests, self._log, beat)
        self._refusals = Episode(self._log)
        self._refusal = Refusal(self._log)
        self._connections = self._refused_count = 0
        self._last_error: BaseException | None = None
        self._living: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[Leftover] | None = None
        self._connection: Connection | None = None
        self._is_stopping = False
        if self not in hub.bridges:
            hub.border.attach(self)
        self._shared.bridges.append(self)
        self._notify_neighbours()

    def _open_again(self) -> None:
        # Under the old name the broker has records of these numbers already, and would drop the new ones as repeats.
        self._number = next(self._shared.numbers)
        self._open()

    def _reopen(self) -> None:
        """Make new parts, if it has finished closing and nobody else has made them meanwhile."""
        if self._closing is not None and self._closing.done():
            self._gone.clear()
            self._open_again()

    @property
    def _sender_name(self) -> str:
        return f"{self.hub.border.origin}-{self._number}"

    def _features_now(self) -> Features:
        link = self._plan.link(self._sender_name, self.adapter.features, encode=self._codec.encode)
        return self.adapter.features_for(link)

    @property
    def _timing(self) -> Timing:
        silence = self._silence
        return Timing(
            connect=self.CONNECT if silence is None else max(silence, self.CONNECT),
            ack_every=self.ACK_EVERY,
            tick=self.TICK,
            silent=self.SILENT if silence is None else min(self.SILENT, silence / 3),
            deaf=self.DEAF if silence is None else silence,
            deaf_pulling=self.DEAF_PULLING if silence is None else max(silence, 2.5),
            stuck=self.STUCK if silence is None else silence,
        )

    # For the hub and other bridges

    @property
    def outgoing(self) -> Sequence[Key[Any]]:
        """Patterns of the messages that it sends."""
        return self._plan.outgoing

    @property
    def incoming(self) -> Sequence[Key[Any]]:
        """Patterns of the messages that it receives."""
        return self._plan.incoming

    @property
    def patterns(self) -> Sequence[Key[Any]]:
        """Patterns of all that it carries."""
        return (*self.outgoing, *self.incoming)

    @property
    def group(self) -> str | None:
        """The group that shares the incoming messages."""
        return self._plan.group

    @property
    def name(self) -> str | None:
        """The name under which the broker keeps the position."""
        return self._plan.name

    def arrival(self, key: Key[Any]) -> str | None:
        """Describe how it receives messages of a key or pattern, with counters of all that it has received."""
        patterns = [pattern for pattern in self.incoming if overlaps(key, pattern)]
        if not patterns or key[0] == NAMESPACE:
            return None
        receiver = self._parts.receiver
        figures = {
            "received": receiver.received,
            "suppressed as duplicates": receiver.duplicates,
            "own echoes": receiver.echoes,
            "refused": receiver.undecodable,
            "dead letters": receiver.durable.dead_letters,
        }
        shown = [f"{name} {figure}" for name, figure in figures.items() if figure or name == "received"]
        place = f"namespace {self._plan.namespace!r}" + (f", prefix {self._plan.prefix!r}" if self._plan.prefix else "")
        where = ", ".join(map(repr, patterns))
        return f"a bridge to {self.adapter!r} ({place}), {self._state}, on {where}: {', '.join(shown)}"

    def changed(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Called when subscriptions, retentions or other bridges of these patterns are added or removed."""
        if self._parts.interest.concerns(patterns):
            if self._connection is not None:
                self._connection.changed()
            self._parts.receiver.durable.changed()

    def _notify_neighbours(self) -> None:
        for bridge in self._shared.bridges:
            if bridge is not self:
                bridge.changed(self.outgoing)

    # Beginning

    async def start(self) -> None:
        """Start to connect, and to reconnect after interruptions. It does not wait for the broker; `ready` does.

        A closed bridge is opened again, and so is a closed hub.

        Raises:
            HubClosed: The hub is being closed at the moment; the bridge stays closed.
        """
        self._let_go_of_closed_loop()
        while self._closing is not None:
            await outlast(self._closing)
            await self.hub.start()  # first: where it raises, there must be no outbox
            self._reopen()
        if self._living is None:
            await self.hub.start()
        self._begin()

    def _begin(self) -> None:
        """Start to connect on the running loop, unless it has begun, perhaps by its hub."""
        if self._living is None:
            self._become("connecting")
            self._wire.source = self.hub.border.origin  # another one in a fork
            self._parts.sender.start()
            self._living = asyncio.get_running_loop().create_task(self._live(), name=self._log.name)

    def forked(self) -> None:
        """In a forked process, start over, since the connection is the parent's; with the hub, if that was started.

        The parent's connection is kept unclosed: closing it here would remove it from the selector of both.
        """
        if not self._gone.is_set():
            was_started = self._living is not None
            _OF_PARENT.append((self._parts, self._connection, dict(vars(self.adapter))))
            self._begin_anew(os.getpid())
            self._was_closed_by_hub = was_started

    def _let_go_of_closed_loop(self) -> bool:
        """Start over if the loop that it was running on was closed; return whether it was."""
        task = self._closing or self._living
        if task is None or self._gone.is_set() or not task.get_loop().is_closed():
            return False
        if unsent := self._parts.sender.pending:
            self._log.warning("%r was not closed before its loop, and has lost %d messages unsent", self, unsent)
        self._begin_anew(asyncio.get_running_loop())
        return True

    def _begin_anew(self, of: object) -> None:
        """Forget all running work; `of` is the same for all bridges of the hub that do so for one reason."""
        connection = self._connection
        tasks: list[Any] = [self._living, self._closing, *(() if connection is None else connection.tasks)]
        for task in tasks:
            if task is not None and not task.done():
                # If it were collected, its clean-up would run in the middle of whatever follows.
                task._log_destroy_pending = False
                _OF_PARENT.append(task)
        if (outbox := self._parts.sender.outbox) is not None:
            outbox.close()
        self.adapter.forget()
        self._shared.begin_anew(of)
        if self in self._shared.bridges:
            self._shared.bridges.remove(self)
        self._waiting.clear()
        self._gone = asyncio.Event()
        self._state = "new"
        self._open_again()

    def opened(self) -> None:
        """Called when the hub is started: start what was closed with the hub, or with its loop."""
        if self._let_go_of_closed_loop() or self._was_closed_by_hub:
            self._was_closed_by_hub = False
            # At once: what is published next is carried, and closing the hub next closes what has begun.
            self._reopen()
            if self._closing is None:
                self._begin()
                return
            # It still closes, for longer than its hub has waited.
            task = asyncio.get_running_loop().create_task(self.start())
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

    # Waiting

    async def _until(self, condition: Callable[[], bool], timeout: float | None) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, future))
        try:
            self._wake_waiters()
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise BridgeNotReady(self, timeout or 0, self._last_error) from self._last_error
        finally:
            self._waiting.remove((condition, future))

    def _wake_waiters(self) -> None:
        """Wake the waiters whose condition holds by now, or never will."""
        for condition, future in self._waiting:
            if future.done():
                continue
            if self._closing is not None:
                future.set_exception(BridgeClosed(self))
            elif self._state == "failed":
                error = BridgeNotReady(self, 0, self._last_error)
                error.__cause__ = self._last_error
                future.set_exception(error)
            elif condition():
                future.set_result(None)

    def _become(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._since = time.time()
        self._wake_waiters()

    # Connecting

    async def _live(self) -> None:
        """Connect and reconnect: the only place that handles the failure of a connection."""
        outage = Outage(self._log)
        down_since: float | None = None
        bugs = 0
        while True:
            connection = self._connection = Connection(self._parts, self._timing, down_since, self._wake_waiters)
            if self._is_stopping:
                connection.is_stopping = True
            try:
                await connection.run(self._sender_name, self._came_up, outage.over, self._busy)
            except asyncio.CancelledError as error:
                # A driver may leak it when it cancels something of its own.
                if _is_being_cancelled():
                    raise
                self._last_error = error
            except Exception as error:
                self._last_error = error
            finally:
                if connection.is_up:
                    down_since = connection.last_heard
                    self._become("down")
            reason = self._last_error
            if isinstance(reason, AccessRefused):
                self._refuse(reason)
                return
            bugs = bugs + 1 if isinstance(reason, _BUGS) and not connection.has_worked else 0
            if isinstance(reason, _CERTAIN_BUGS) or bugs >= self.MOST_BUGS:
                self._fail(reason)
                return
            outage.failed(reason)
            await asyncio.sleep(random.uniform(0, self._plan.backoff.bound(outage.attempts - 1, outage.seconds)))

    def _came_up(self) -> None:
        self._connections += 1
        self._become("up")

    def _busy(self, error: BrokerBusy | None) -> None:
        """Called when the broker stops accepting messages (`error`), or accepts them again (None)."""
        if error is None:
            self._refusal.over()
        else:
            self._last_error = error
            self._refusal.failed(error)

    def _refuse(self, error: AccessRefused) -> None:
        """End for good: a retry would be refused too."""
        self._log.error("the endpoint or broker refuses access, so the bridge has ended: %s", error)
        self._parts.sender.give_up("the bridge has ended, since it was refused access")
        self._become("failed")

    def _fail(self, error: BaseException | None) -> None:
        """End for good: the adapter has a bug that a retry would only repeat."""
        self._log.error(
            "%r has a bug, so the bridge has ended: fix the adapter, then start the bridge again",
            self.adapter,
            error=error,
        )
        self._parts.sender.give_up("the bridge has ended, since its adapter has a bug")
        self._become("failed")

    # Failures

    def _refused(self, key: Key[Any], message: Any, error: Exception) -> None:
        """The only place that handles a message which cannot be sent."""
        self._refused_count += 1
        self._refusals.error("%r cannot be sent; the next ones are", key, error=error)
        self.hub.border.report_error(ListenerFailure(key, message, self, error))

    # Closing

    def closing(self) -> None:
        """Called when the hub is about to close: deliver nothing new to it."""
        self._is_stopping = True
        if self._closing is None:
            self._was_closed_by_hub = self._living is not None
            if self._living is None:
                self._log.warning("%r was never started, and has carried nothing: enter it, or await its start()", self)
        if self._connection is not None:
            self._connection.is_stopping = True

    async def close(self, timeout: float | None = None) -> Leftover:
        """Stop reading, finish what was received, send what is queued, acknowledge, and disconnect.

        That takes at most `timeout` seconds, plus 1.5 s to disconnect. The default is `drain`, the time that the hub
        gives its listeners; if that is used up already, since other parts were closed just before, it is 2 s. What a
        member of a group could not finish goes to the other members at once. Returns what could not be finished, which
        is logged too. Closing twice is safe.
        """
        if self._closing is not None:
            # Perhaps by its hub, which would start it again otherwise.
            self._stay_closed()
        else:
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._close(timeout), name=f"closing {self._log.name}")
        return await outlast(self._closing)

    def _stay_closed(self) -> None:
        self._was_closed_by_hub = False
        if self in self.hub.bridges:
            self.hub.border.detach(self)

    async def closed(self) -> None:
        """Wait until it is closed."""
        await self._gone.wait()

    async def _close(self, timeout: float | None) -> Leftover:
        loop = asyncio.get_running_loop()
        grace = self.hub.border.grace()
        until = grace.sent(loop.time()) if timeout is None else loop.time() + timeout
        await self._leave_group(until)
        self._is_stopping = True
        if self._connection is not None:
            self._connection.is_stopping = True
        self._wake_waiters()
        sender, durable = self._parts.sender, self._parts.receiver.durable
        was_started = self._living is not None
        if self._living is not None and not self._living.done():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    while durable.unfinished and not durable.is_holding:
                        await durable.progress()
                    await sender.flush()
                    while durable.to_ack:
                        await durable.progress()
        await durable.end()
        leave = self.LEAVE if timeout is not None else min(self.LEAVE, grace.leave(loop.time()))
        until = loop.time() + leave
        await self._hand_back(leave / 3)
        left = Leftover(sender.give_up(), durable.unfinished)
        await self._let_go(until)
        if was_started:
            # Between two connections there is none to close, but the adapter may hold something that outlives them.
            with suppress(Exception):
                await asyncio.wait_for(self.adapter.close(), max(self.AT_LEAST, until - loop.time()))
        self._become("closed")
        self._gone.set()
        if not self._was_closed_by_hub:
            self._stay_closed()
        self._shared.bridges.remove(self)
        self._notify_neighbours()
        grace.ended = loop.time()
        if any(left):
            self._log.warning("%r closed with %d messages unsent and %d unfinished", self, *left)
        return left

    async def _let_go(self, until: float) -> None:
        """End the connection and everything that runs beside it, by a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        if self._connection is not None:
            self._connection.is_ending = True
            self._connection.patience = max(self.AT_LEAST, until - loop.time())
        if self._living is not None:
            self._living.cancel()
            left = max(self.AT_LEAST, until - loop.time())
            _, stuck = await asyncio.wait([self._living], timeout=left + min(0.1, left))
            for task in stuck:
                self._log.error("%r ignores its cancellation", task)

    async def _leave_group(self, until: float) -> None:
        """Leave a group of a broker that keeps nothing: what it sends to a member that is gone, nobody gets."""
        plan, features = self._plan, self._parts.features
        if plan.group is None or features.durable or self._connection is None or self._state != "up":
            return
        with suppress(Exception):
            async with asyncio.timeout((until - asyncio.get_running_loop().time()) / 3):
                await self._connection.leave_group()

    async def _hand_back(self, timeout: float) -> None:
        """Acknowledge what is finished, and give the rest to the other members of the group at once."""
        durable = self._parts.receiver.durable
        if self._state != "up" or not (durable.to_ack or durable.tokens):
            return
        try:
            async with asyncio.timeout(timeout):
                # Otherwise it is finished, and delivered again.
                await durable.acknowledge(self.adapter)
                if self.group is not None and (tokens := durable.tokens):
                    await patiently(lambda: self.adapter.hand_back(tokens))
        except Exception as error:
            self._log.warning(
                "%d messages could not be acknowledged or given back; they are delivered again later",
                durable.to_ack + len(durable.tokens),
                error=error,
            )


_OF_PARENT: list[object] = []
"""Connections of a parent process, and tasks of closed loops: kept so that they are never cleaned up."""

# Errors that only a bug explains: the first kind at once, the others when they repeat.
_CERTAIN_BUGS = (NotImplementedError, NameError, SyntaxError)
_BUGS = (*_CERTAIN_BUGS, TypeError, AttributeError, AssertionError)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
