"""The relay: one bridge for all brokers, between a hub and an adapter."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..._core.checks import choice, seconds
from ..._core.life import outlast
from ...codec import Codec
from ...errors import BridgeClosed, BridgeNotReady, BrokerBusy, Unsupported
from ...event import Event, ListenerFailure
from ...hub import Hub
from ...key import NAMESPACE, Key, KeyLike, Patterns, as_patterns, overlaps, publishable
from ...log import Episode, Logger
from ..adapter import Adapter, Features, Record
from ..schemes import adapter_for
from .connection import Connection, Parts, Timing
from .health import Health, Leftover, State
from .interest import Interest
from .letters import StoredLetter, letter_of
from .outage import Outage, Refusal
from .plan import Backoff, Plan, Start, Unclaimed, named
from .receiver import Receiver
from .replies import OpenRequests
from .seen import HubBridges
from .sender import Sender
from .signing import Secrets
from .wire import Wire

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

V = TypeVar("V")


class Bridge:
    """Carries messages between a hub and a broker: `async with Bridge(hub, "redis://localhost", both=[...])`.

    It may be made before an event loop runs. It connects when it is entered or started, goes on by itself through
    every interruption, and is closed with its hub at the latest. Closed with its hub, it is started again with it;
    closed by itself, when it is entered or started again.

    Args:
        hub: The hub.
        url_or_adapter: Where to: a URL, whose scheme names the adapter, or an adapter.
        outgoing: Patterns of what is carried away: one, or a list, set or frozenset of them.
        incoming: Patterns of what is brought.
        both: Patterns of both.
        codec: How messages become bytes: "json", "msgpack", "bytes", "str", "pickle", or a `Codec`.
        envelope: Send the metadata along; else the payload alone, for readers that know no better.
        encode: When a message becomes bytes: "soon", in the loop's next turn, until when it must not be changed; or
            "now", within the publish, which takes the longer for it.
        group: Share what comes in with the other members of this group, each message for one of them. What is both
            outgoing and incoming is then carried away only, not delivered here, unless it comes back.
        name: Keep the position at the broker under this name, so that nothing is missed while the process is away.
        start: Where a name without a position, or a group that is new, begins: "new", "earliest", or a time in seconds
            since the epoch. By default a group begins with the earliest message that is kept, since jobs that were
            confirmed before its first member came are for it; everything else with what is new.
        history: Begin with the last so many messages of each source, marked as replayed.
        history_scan: Messages looked at for that, in each source.
        lazy: Subscribe at the broker only what somebody here wants; else all that is `incoming`. What a durable broker
            keeps for a subscription is always all of it.
        ordered: Hand over a message when the one before it of the same key is finished, for durable brokers. By default
            so, but for groups of brokers that keep no order there.
        outbox: Messages that wait to be sent at most; beyond it the oldest is dropped.
        outbox_bytes: Bytes of them at most.
        window: Messages of a durable broker that are not finished, or wait to be acknowledged behind one that is not,
            at most; then reading pauses.
        window_bytes: Bytes of them at most.
        attempts: How often a listener may fail with a message of a durable broker before that becomes a dead letter.
        retry_pause: Seconds before the second attempt; doubled for each one more.
        unclaimed: What becomes of a message of a durable broker that nobody is subscribed to: "hold" stops reading
            until somebody is, "ack" drops it, "dead-letter" puts it aside. By default "hold" for a group or a name,
            else "ack".
        namespace: The first part of every address at the broker; empty to join channels that exist.
        prefix: What the keys begin with here, and not at the broker; all patterns begin with it.
        backoff: How long to wait between attempts to connect.
        secret: Sign what is sent, and refuse what is not signed with it: a str or bytes that all who take part know, or
            several, of which the first signs and all are accepted.
        replay_window: Seconds that a signed message may be old, or early, when it comes live, 300 by default; beyond
            it, and when it comes again, it is refused. Needs `secret`.
        silence: Seconds without a sign of life after which a connection counts as lost; by default three where
            messages are pushed, and five otherwise. While it connects, twice five: nobody knows the line yet. A line
            that moves bytes is alive, however slow; time in which the event loop stood still does not count.

    Raises:
        UnknownScheme: No adapter is known for the URL.
        MissingDriver: The package that the adapter needs is not installed.
        ValueError: Options contradict each other, or the broker cannot do it.
        InvalidKey: A pattern cannot be used.
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
    # How often an error may come that only a bug explains, with nothing sent or heard in between.
    MOST_BUGS = 3

    def __init__(
        self,
        hub: Hub,
        url_or_adapter: str | Adapter,
        *,
        outgoing: Patterns | None = None,
        incoming: Patterns | None = None,
        both: Patterns | None = None,
        codec: str | Codec = "json",
        envelope: bool = True,
        encode: Literal["soon", "now"] = "soon",
        group: str | None = None,
        name: str | None = None,
        start: Start | None = None,
        history: int = 0,
        history_scan: int = 10_000,
        lazy: bool = True,
        ordered: bool | None = None,
        outbox: int = 10_000,
        outbox_bytes: int = 64 * 1024 * 1024,
        window: int = 1_000,
        window_bytes: int = 16 * 1024 * 1024,
        attempts: int = 5,
        retry_pause: float = 0.1,
        unclaimed: Unclaimed | None = None,
        namespace: str = "hubsub",
        prefix: KeyLike[Any] = (),
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        secret: Secrets | None = None,
        replay_window: float | None = None,
        silence: float | None = None,
    ) -> None:
        self.hub = hub
        self.adapter = adapter_for(url_or_adapter) if isinstance(url_or_adapter, str) else url_or_adapter
        choice(encode, "encode", ("soon", "now"))
        self._plan = Plan(
            outgoing=named(outgoing, both),
            incoming=named(incoming, both),
            group=group,
            name=name,
            start=start,
            history=history,
            history_scan=history_scan,
            lazy=lazy,
            ordered=ordered,
            envelope=envelope,
            encode_now=encode == "now",
            outbox=outbox,
            outbox_bytes=outbox_bytes,
            window=window,
            window_bytes=window_bytes,
            attempts=attempts,
            retry_pause=retry_pause,
            unclaimed=unclaimed,
            namespace=namespace,
            prefix=Key.create_from(prefix),
            backoff=backoff,
            secret=secret,
            replay_window=replay_window,
        )
        self._codec = codec
        self._silence = None if silence is None else seconds(silence, "silence", zero=False)
        self._log = Logger(f"hubsub.bridge.{name or group or type(self.adapter).__name__}")
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

    def _open(self) -> None:
        """Make what lives from here until it is closed."""
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
        # Under the old name the broker has records of these numbers already, and takes the new ones for them.
        self._number = next(self._shared.numbers)
        self._open()

    @property
    def _sender_name(self) -> str:
        return f"{self.hub.border.origin}-{self._number}"

    def _features_now(self) -> Features:
        return self.adapter.features_for(self._plan.link(self._sender_name, self.adapter.features))

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

    def __repr__(self) -> str:
        return f"<Bridge {self.hub!r} {self.adapter!r} {self._state}>"

    @property
    def outgoing(self) -> Sequence[Key[Any]]:
        """Patterns of what is carried away."""
        return self._plan.outgoing

    @property
    def incoming(self) -> Sequence[Key[Any]]:
        """Patterns of what is brought."""
        return self._plan.incoming

    @property
    def patterns(self) -> Sequence[Key[Any]]:
        """Patterns of all that it carries."""
        return (*self.outgoing, *self.incoming)

    @property
    def group(self) -> str | None:
        """The group that shares what comes in."""
        return self._plan.group

    @property
    def name(self) -> str | None:
        """The name under which the broker keeps the position."""
        return self._plan.name

    # Life

    async def start(self) -> None:
        """Begin to connect, and go on by itself. Does not wait for the broker; `ready` does.

        One that was closed begins anew.
        """
        self._let_go_of_closed_loop()
        if self._closing is not None:
            await outlast(self._closing)
            self._gone.clear()
            self._open_again()
        if self._living is None:
            await self.hub.start()
            loop = asyncio.get_running_loop()
            self._become("connecting")
            self._wire.source = self.hub.border.origin  # another one in a fork
            self._parts.sender.start()
            self._living = loop.create_task(self._live(), name=self._log.name)

    def forked(self) -> None:
        """Begin anew in a forked process, since the connection is the parent's; with the hub, if it was started there.

        What the parent has is kept as it is: a driver that closed it here would take it off the selector of both.
        """
        if not self._gone.is_set():
            was_started = self._living is not None
            _OF_PARENT.append((self._parts, self._connection, dict(vars(self.adapter))))
            self._begin_anew(os.getpid())
            self._was_closed_by_hub = was_started

    def _let_go_of_closed_loop(self) -> bool:
        """Begin anew if the loop was closed on which it was running; return whether that is so."""
        task = self._closing or self._living
        if task is None or self._gone.is_set() or not task.get_loop().is_closed():
            return False
        if unsent := self._parts.sender.pending:
            self._log.warning("%r was not closed before its loop, and has lost %d messages unsent", self, unsent)
        self._begin_anew(asyncio.get_running_loop())
        return True

    def _begin_anew(self, of: object) -> None:
        """Forget what was going on; `of` is what all bridges of the hub have in common that do so."""
        connection = self._connection
        tasks: list[Any] = [self._living, self._closing, *(() if connection is None else connection.tasks)]
        for task in tasks:
            if task is not None and not task.done():
                # Were it collected, its clean-up would run, in the middle of whatever follows.
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
        """The hub was started, again perhaps: so is what was closed with it, or with its loop."""
        if self._let_go_of_closed_loop() or self._was_closed_by_hub:
            self._was_closed_by_hub = False
            task = asyncio.get_running_loop().create_task(self.start())
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ready(self, timeout: float | None = 10.0) -> None:
        """Wait until it is connected, and everything wanted is subscribed at the broker.

        Raises:
            BridgeNotReady: It is not so within `timeout` seconds, or never will be; the cause is what keeps it from
                connecting.
            BridgeClosed: It was closed.
        """
        if self._closing is None:
            await self.start()
        await self._until(lambda: self._state == "up" and not self._is_stale, timeout)

    @property
    def _is_stale(self) -> bool:
        return self._connection is None or self._connection.is_stale

    async def synced(self, timeout: float | None = 10.0) -> None:
        """Wait until the broker has confirmed all that is wanted by now; as `ready`, to be called after subscribing."""
        await self.ready(timeout)

    async def flush(self, timeout: float | None = 10.0) -> None:
        """Wait until everything published so far has been sent, and confirmed as far as the broker does.

        Raises:
            BridgeNotReady: It is not so within `timeout` seconds.
            BridgeClosed: It was closed.
        """
        if self._closing is not None:
            raise BridgeClosed(self)
        try:
            async with asyncio.timeout(timeout):
                await self._parts.sender.flush()
        except TimeoutError:
            raise BridgeNotReady(self, timeout or 0, self._last_error) from self._last_error

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
        """Wake those who wait for something that is so by now, or never will be."""
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
        """Connect, again and again: the one place where the trouble of a connection ends."""
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
                # It may leak out of a driver that gave up something of its own.
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
        """The broker takes nothing just now, or does again."""
        if error is None:
            self._refusal.over()
        else:
            self._last_error = error
            self._refusal.failed(error)

    def _fail(self, error: BaseException | None) -> None:
        """End for good: the adapter has a bug, and trying again would only show it again."""
        self._log.error("%r has a bug, and the bridge has ended: mend it, and start anew", self.adapter, error=error)
        self._parts.sender.give_up("the bridge has ended, since its adapter has a bug")
        self._become("failed")

    async def history(
        self,
        pattern: tuple[str, ...] | str,
        limit: int,
        before: str | float | None = None,
        after: str | float | None = None,
    ) -> list[Event[Any]]:
        """Read the last `limit` messages of a pattern that the broker has, the oldest first; page back by `before`.

        Args:
            pattern: What to read.
            limit: Messages, of each source; as many as `history_scan` are looked at.
            before: Only what stands before this: a time in seconds since the epoch, or a `meta.position`.
            after: Only what stands after this.

        Raises:
            Unsupported: The broker has no history.
            BridgeNotReady: It is not connected, or was not any more.
        """
        self._need("history", "history")
        found = await self._call(lambda: self.adapter.history(self._plan.history_scan, before, after))
        return self._parts.receiver.events_of(found, as_patterns(pattern), limit)

    async def dead_letters(self, limit: int, before: str | None = None) -> list[StoredLetter]:
        """Read the last `limit` dead letters of the namespace, the oldest first; page back by `before`.

        Those that any bridge has given up, of whatever group or name. What cannot be decoded is among them, as bytes,
        and so is what has a key that cannot be published to. Nothing is removed.

        Args:
            limit: Letters, at least 1.
            before: Only those that are older than the letter of this `position`, be it gone by now.

        Raises:
            Unsupported: The broker has no dead letters.
            NoSuchLetter: `before` is no position of a letter.
            BridgeNotReady: It is not connected, or was not any more.
        """
        self._need("dead_letters", "dead letters")
        if limit < 1:
            raise ValueError(f"limit is a number of letters, at least 1, not {limit!r}")
        found = await self._call(lambda: self.adapter.dead_letters(limit, before))
        receiver = self._parts.receiver
        return [letter_of(each, self._wire, receiver.key_here) for each in found]

    async def redeliver(self, position: str) -> None:
        """Send a dead letter back to the group or name that gave it up, and remove it; return when that is stored.

        It is handled there as if it had never come before, also if nobody of that group or name is there just now; all
        others skip it. One of a bridge with neither goes to all such bridges that are there: those that have handled it
        skip it. When the connection is lost meanwhile nobody knows whether it was sent: a second call then either
        sends it, or raises `NoSuchLetter` since it was.

        Args:
            position: That of the letter, from `dead_letters`.

        Raises:
            Unsupported: The broker has no dead letters.
            NoSuchLetter: No letter is there, any more or at all.
            BridgeNotReady: It is not connected, or was not any more.
        """
        self._need("dead_letters", "dead letters")
        await self._call(lambda: self.adapter.redeliver(position))

    def _need(self, feature: str, what: str) -> None:
        if not getattr(self._features, feature):
            raise Unsupported(type(self.adapter).__name__, what)

    async def _call(self, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Have the adapter do something beside the rest, over a connection that is up."""
        await self.ready()
        connection = self._connection
        assert connection is not None
        try:
            return await connection.call(call())
        except (ConnectionError, EOFError) as error:
            raise BridgeNotReady(self, 0, error) from error

    def record(self, key: KeyLike[Any], message: Any) -> Record:
        """The record that the bridge would send for a message; it is not sent.

        For adapters that write it themselves, in a transaction of the user's. It has a name of its own each time.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            EncodeError: It cannot be encoded.
            PayloadTooLarge: The broker takes no message of that size.
        """
        return self._parts.sender.record(publishable(key), message)

    # Subscriptions at the broker

    def changed(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Subscriptions, retentions or other bridges of these came or went."""
        if self._parts.interest.concerns(patterns):
            if self._connection is not None:
                self._connection.changed()
            self._parts.receiver.durable.changed()

    def arrival(self, key: Key[Any]) -> str | None:
        """Describe how messages of a key or pattern come by it, and what became of all that came."""
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

    def _notify_neighbours(self) -> None:
        for bridge in self._shared.bridges:
            if bridge is not self:
                bridge.changed(self.outgoing)

    # Trouble

    def _refused(self, key: Key[Any], message: Any, error: Exception) -> None:
        """The one place where the trouble of a message that cannot be sent ends."""
        self._refused_count += 1
        self._refusals.error("%r cannot be sent, and what follows is", key, error=error)
        self.hub.border.report_error(ListenerFailure(key, message, self, error))

    def health(self) -> Health:
        """How it fares now."""
        sender, receiver = self._parts.sender, self._parts.receiver
        durable = receiver.durable
        return Health(
            state=self._state,
            since=self._since,
            last_received=receiver.last_received,
            outbox_messages=sender.pending,
            outbox_bytes=sender.bytes,
            oldest_age=None if sender.oldest is None else time.time() - sender.oldest,
            sent=sender.sent,
            received=receiver.received,
            in_flight=durable.unfinished,
            lag=self.adapter.lag,
            reconnects=max(0, self._connections - 1),
            gaps=receiver.gaps,
            echoes=receiver.echoes,
            duplicates=receiver.duplicates,
            failures=durable.failures,
            dead_letters=durable.dead_letters,
            unclaimed=durable.unclaimed,
            undecodable=receiver.undecodable,
            unclear=sender.unclear,
            refused=self._refused_count,
            last_error=self._last_error,
        )

    # Closing

    def closing(self) -> None:
        """The hub is about to close: bring it nothing new."""
        self._is_stopping = True
        if self._closing is None:
            self._was_closed_by_hub = self._living is not None
            if self._living is None:
                self._log.warning("%r was never started, and has carried nothing: enter it, or await its start()", self)
        if self._connection is not None:
            self._connection.is_stopping = True

    async def close(self, timeout: float | None = None) -> Leftover:
        """Stop reading, finish what is in hand, send what is queued, acknowledge, and let go, within `timeout` seconds.

        By default it has the time that the hub gives its listeners, `drain`, and if that is over already, because other
        things were closed right before it, 2 s. Letting go takes another 1.5 s at most. What a member of a group could
        not finish goes to the others at once. Returns what could not be finished; it is logged too. Closing twice is
        safe.
        """
        if self._closing is not None:
            # By its hub, perhaps, which else would start it again.
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
        """Wait until it is closed, by whomever."""
        await self._gone.wait()

    async def _close(self, timeout: float | None) -> Leftover:
        loop = asyncio.get_running_loop()
        grace = self.hub.border.grace()
        until = grace.sent(loop.time()) if timeout is None else loop.time() + timeout
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
        until = loop.time() + self.LEAVE
        await self._hand_back(self.LEAVE / 3)
        left = Leftover(sender.give_up(), durable.unfinished)
        await self._let_go(until)
        if was_started:
            # Between two connections there is none to be let go of, but perhaps what outlives them.
            with suppress(Exception):
                await asyncio.wait_for(self.adapter.close(), max(0.1, until - loop.time()))
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
        """End the connection and what goes on beside it, by a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        if self._connection is not None:
            self._connection.is_ending = True
            self._connection.patience = max(0.1, until - loop.time())
        if self._living is not None:
            self._living.cancel()
            _, stuck = await asyncio.wait([self._living], timeout=max(0.2, until + 0.1 - loop.time()))
            for task in stuck:
                self._log.error("%r goes on in spite of being cancelled", task)

    async def _hand_back(self, timeout: float) -> None:
        """Give the others of the group at once what this member will not finish."""
        tokens = self._parts.receiver.durable.tokens
        if tokens and self.group is not None and self._state == "up":
            try:
                await asyncio.wait_for(self.adapter.hand_back(tokens), timeout)
            except Exception as error:
                self._log.warning(
                    "%d messages could not be handed back; others get them later", len(tokens), error=error
                )


_OF_PARENT: list[object] = []
"""What a forked process has of its parent's connections, and what loops that were closed have left behind."""

# What only a bug explains: the first at once, the others when they come again and again.
_CERTAIN_BUGS = (NotImplementedError, NameError, SyntaxError)
_BUGS = (*_CERTAIN_BUGS, TypeError, AttributeError, AssertionError)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def connect(url: str | Adapter, keys: Patterns, **options: Any) -> AsyncIterator[Hub]:
    """A hub with one bridge, which carries some patterns both ways; to be entered, like a hub.

    The bridge is `hub.bridges[0]`.

    Args:
        url: Where to, see `Bridge`.
        keys: Patterns: one, or a list, set or frozenset of them.
        **options: As of `Bridge`.
    """
    async with Hub() as hub, Bridge(hub, url, both=keys, **options):
        yield hub
