"""The relay: one bridge for all brokers, between a hub and an adapter."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..._core.life import outlast
from ...codec import Codec
from ...errors import BridgeClosed, BridgeNotReady, UnknownScheme
from ...event import Event, Gap, ListenerFailure
from ...hub import Hub
from ...key import NAMESPACE, Key, KeyLike, Patterns, as_patterns, is_subset, meet, overlaps
from ...log import Logger
from ..adapter import Adapter, Features, Link
from .receiver import Receiver, Unclaimed
from .seen import Shared
from .sender import GAPS, Sender
from .wire import Wire

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

State = Literal["new", "connecting", "up", "down", "closed"]


class Backoff(NamedTuple):
    """How long a bridge waits between attempts to connect: a random time up to a bound that doubles."""

    first: float = 0.05
    """Seconds, the first bound."""
    most: float = 0.7
    """Seconds, the largest bound in the first minute of an interruption."""
    later: float = 10.0
    """Seconds, the largest bound after that."""

    def bound(self, attempt: int, elapsed: float) -> float:
        """The longest wait before the attempt of this number, from 0, so many seconds after the first."""
        most = self.most if elapsed < 60 else self.later
        return min(most, self.first * 2.0 ** min(attempt, 32))


class Health(NamedTuple):
    """How a bridge fares, at a moment."""

    state: State
    since: float
    """When it came to that state, in seconds since the epoch."""
    last_received: float | None
    """When something came last, in seconds since the epoch."""
    outbox_messages: int
    """Messages that wait to be sent."""
    outbox_bytes: int
    """Bytes of those which are encoded."""
    oldest_age: float | None
    """Seconds since the one that waits longest was encoded; None if there is none."""
    sent: int
    """Messages that the broker has taken."""
    received: int
    """Messages that came into the hub."""
    in_flight: int
    """Messages that came and are not finished."""
    lag: int | None
    """Messages at the broker that had not come when something came last; None if the adapter does not know."""
    reconnects: int
    """Connections but for the first."""
    gaps: int
    """Gaps that were told to subscribers."""
    echoes: int
    """Own messages that came back, and went no further."""
    duplicates: int
    """Messages that came again, and went no further."""
    failures: int
    """Attempts that ended with a listener's failure."""
    dead_letters: int
    """Messages that were given up."""
    unclaimed: int
    """Messages that nobody was subscribed to."""
    undecodable: int
    """Messages that could not be decoded."""
    unclear: int
    """Messages that were sent again because nobody knew whether they had been; they may have come twice."""
    refused: int
    """Messages that could not be sent at all."""
    last_error: BaseException | None
    """Why it is not connected, or was not."""


class Leftover(NamedTuple):
    """What a bridge could not finish before it was closed."""

    unsent: int
    """Messages that the broker did not get."""
    unfinished: int
    """Messages that came and were not handled; a durable broker delivers them again."""


class Bridge:
    """Carries messages between a hub and a broker: `async with Bridge(hub, "redis://localhost", both=[...])`.

    It may be made before an event loop runs. It connects when it is entered or started, goes on by itself through
    every interruption, and is closed with its hub at the latest.

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
        start: Where a name without a position, or a group, begins: "new", "earliest", or a time in seconds since the
            epoch.
        history: Begin with the last so many messages of each source, marked as replayed.
        history_scan: Messages looked at for that, in each source.
        lazy: Subscribe at the broker only what somebody here is subscribed to; else all that is `incoming`.
        ordered: Hand over a message when the one before it of the same key is finished, for durable brokers. By default
            so, but for groups of brokers that keep no order there.
        outbox: Messages that wait to be sent at most; beyond it the oldest is dropped.
        outbox_bytes: Bytes of them at most.
        window: Messages of a durable broker that are not finished at most; then reading pauses.
        window_bytes: Bytes of them at most.
        attempts: How often a listener may fail with a message of a durable broker before that becomes a dead letter.
        retry_pause: Seconds before the second attempt; doubled for each one more.
        unclaimed: What becomes of a message of a durable broker that nobody is subscribed to: "hold" stops reading
            until somebody is, "ack" drops it, "dead-letter" puts it aside. By default "hold" for a group or a name,
            else "ack".
        namespace: The first part of every address at the broker; empty to join channels that exist.
        prefix: What the keys begin with here, and not at the broker; all patterns begin with it.
        backoff: How long to wait between attempts to connect.

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
        start: Literal["new", "earliest"] | float = "new",
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
    ) -> None:
        self.hub = hub
        self.adapter = adapter_for(url_or_adapter) if isinstance(url_or_adapter, str) else url_or_adapter
        features = self.adapter.features
        self.outgoing = _named(outgoing, both)
        self.incoming = _named(incoming, both)
        self.group = group
        self.name = name
        self._prefix: Key[Any] = Key.create_from(prefix)
        if encode not in ("soon", "now"):
            raise ValueError(f"encode is 'soon' or 'now', not {encode!r}")
        self._refuse_nonsense(features, history, start)
        self._start_at: Literal["new", "earliest"] | float = start
        self._history = history
        self._history_scan = history_scan
        self._lazy = lazy
        self._namespace = namespace
        self._backoff = backoff
        self._log = Logger(f"hubsub.bridge.{name or group or type(self.adapter).__name__}")
        self._shared = Shared.of(hub)
        self._wire = Wire(
            codec, hub.origin, envelope=envelope, headers=features.headers, type_of=hub.declarations.type_of
        )
        diverted = [key for key in self.outgoing if any(is_subset(key, other) for other in self.incoming)]
        self._sender = Sender(
            hub,
            self.outgoing,
            diverted if group is not None else [],
            self._wire,
            most=outbox,
            most_bytes=outbox_bytes,
            max_payload=features.max_payload,
            encode_now=encode == "now",
            prefix=self._prefix,
            name=f"a bridge to {self.adapter!r}",
            refused=self._refused,
        )
        self._receiver = Receiver(
            hub,
            self.incoming,
            self._wire,
            self._shared.seen,
            self._log,
            repr(self.adapter),
            group=group is not None,
            ordered=ordered,
            unclaimed=unclaimed or ("ack" if group is None and name is None else "hold"),
            attempts=attempts,
            retry_pause=retry_pause,
            window=window,
            window_bytes=window_bytes,
            prefix=self._prefix,
        )
        self._receiver.outbox = self._sender.outbox
        self._state: State = "new"
        self._since = time.time()
        self._connections = self._refusals = 0
        self._last_error: BaseException | None = None
        self._down_since: float | None = None
        self._living: asyncio.Task[None] | None = None
        self._packing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[Leftover] | None = None
        self._subscribed: dict[Key[Any], None] = {}
        self._private: list[Key[Any]] = []
        self._is_stale = True  # what is subscribed at the broker is not what is wanted
        self._stale: asyncio.Event | None = None
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._reading_since: float | None = None
        self._replayed = False
        self._stopped = False  # nothing is read any more
        self._letting_go = False  # of the connection: the reader is to end
        self._ends = False  # there will be no other one
        self._gone = asyncio.Event()
        self._number = next(self._shared.numbers)
        self._heard = 0.0
        hub.attach(self)
        self._shared.bridges.append(self)
        self._tell_neighbours()

    def _refuse_nonsense(self, features: Features, history: int, start: object) -> None:
        adapter = type(self.adapter).__name__
        if not self.outgoing and not self.incoming:
            raise ValueError("a bridge carries something: name outgoing, incoming or both")
        for pattern in (*self.outgoing, *self.incoming):
            if pattern[0] == NAMESPACE:
                raise ValueError(f"{pattern!r}: the hub's own namespace does not cross bridges")
            if self._prefix and (pattern[: len(self._prefix)] != self._prefix or len(pattern) == len(self._prefix)):
                raise ValueError(f"{pattern!r} does not begin with the prefix {self._prefix!r}, and go on after it")
        if self.group is not None and self.name is not None:
            raise ValueError("a group keeps its own position: choose group or name")
        for wanted, can, what in (
            (self.group, features.groups, "groups"),
            (self.name, features.names, "named positions"),
            (history, features.history, "history"),
            (start != "new", features.durable, "messages from before"),
        ):
            if wanted and not can:
                raise ValueError(f"{adapter} has no {what}")
        if self.group is not None:
            for out in self.outgoing:
                if not any(is_subset(out, each) for each in self.incoming):
                    for into in self.incoming:
                        if overlaps(out, into):
                            raise ValueError(
                                f"with a group, what goes out comes back to one of its members: {out!r} overlaps "
                                f"{into!r} only in part; make one cover the other"
                            )

    def __repr__(self) -> str:
        return f"<Bridge {self.hub!r} {self.adapter!r} {self._state}>"

    # Life

    async def start(self) -> None:
        """Begin to connect, and go on by itself. Does not wait for the broker; `ready` does.

        Raises:
            BridgeClosed: It was closed.
        """
        if self._closing is not None:
            raise BridgeClosed(self)
        if self._living is None:
            await self.hub.start()
            loop = asyncio.get_running_loop()
            self._stale = asyncio.Event()
            self._state = "connecting"
            self._wire.source = self.hub.origin  # another one in a fork
            if self._sender.outbox is not None:
                self._packing = loop.create_task(self._sender.pack(), name=f"packing of {self!r}")
            self._living = loop.create_task(self._live(), name=f"{self!r}")

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
            BridgeNotReady: It is not so within `timeout` seconds; the cause is what keeps it from connecting.
            BridgeClosed: It was closed.
        """
        await self._until(lambda: self._state == "up" and not self._is_stale, timeout)

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
                await self._sender.flush()
        except TimeoutError:
            raise BridgeNotReady(self, timeout or 0) from self._last_error

    async def _until(self, condition: Callable[[], bool], timeout: float | None) -> None:
        await self.start()
        if condition():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, future))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise BridgeNotReady(self, timeout or 0) from self._last_error
        finally:
            self._waiting.remove((condition, future))

    def _tell(self) -> None:
        """Look whether something has come to be that somebody waits for."""
        for condition, future in self._waiting:
            if not future.done():
                if self._closing is not None:
                    future.set_exception(BridgeClosed(self))
                elif condition():
                    future.set_result(None)

    def _become(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._since = time.time()
        self._tell()

    # Connecting

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        attempt, first = 0, loop.time()
        while True:
            connections = self._connections
            try:
                await self._connection()
            except asyncio.CancelledError as error:
                # It may leak out of a driver that gave up something of its own.
                if _is_being_cancelled():
                    raise
                self._last_error = error
            except Exception as error:
                self._last_error = error
            if self._connections != connections:
                attempt, first = 0, loop.time()
            if attempt == 0:
                self._log.warning("%r is not connected: %s", self, _told(self._last_error))
            await asyncio.sleep(random.uniform(0, self._backoff.bound(attempt, loop.time() - first)))
            attempt += 1

    async def _connection(self) -> None:
        """Connect, and go on until the connection is lost, which raises."""
        adapter, receiver = self.adapter, self._receiver
        link = Link(
            sender=f"{self.hub.origin}-{self._number}",
            namespace=self._namespace,
            group=self.group,
            name=self.name,
            start=self._start_at,
            reads=bool(self.incoming) or self.adapter.features.push,
            release=self._release,
        )
        tasks: list[asyncio.Task[None]] = []
        reader: asyncio.Task[None] | None = None
        self._subscribed.clear()
        up = asyncio.Event()
        try:
            async with asyncio.timeout(self.CONNECT):
                await adapter.connect(link)
            receiver.connected(adapter)
            loop = asyncio.get_running_loop()
            self._heard = loop.time()
            self._reading_since = None
            self._letting_go = False
            if adapter.features.push or self.incoming:
                reader = self._task(self._read(up), "reading")
                tasks.append(reader)
            tasks.append(self._task(self._watch(), "watching"))
            joining = self._task(self._join(), "joining")
            done, _ = await asyncio.wait([*tasks, joining], return_when=asyncio.FIRST_COMPLETED)
            if joining not in done:
                tasks.append(joining)
                _raise_of(done)
            joining.result()
            self._came_up()
            up.set()
            tasks.append(self._task(self._sender.send(adapter), "sending"))
            tasks.append(self._task(self._reconcile(), "subscribing"))
            if adapter.features.acks != "none":
                tasks.append(self._task(self._acknowledge(), "acknowledging"))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            _raise_of(done)
        finally:
            if self._state == "up":
                self._down_since = time.time() - (asyncio.get_running_loop().time() - self._heard)
                self._become("down")
            await self._disconnect(tasks, reader)

    def _task(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine, name=f"{what} of {self.adapter!r}")

    def _came_up(self) -> None:
        self._connections += 1
        if self._down_since is not None and self.incoming and not self.adapter.features.durable:
            self._receiver.report(Gap("disconnected", None, self._down_since, time.time(), None))
        self._down_since = None
        self._become("up")

    async def _disconnect(self, tasks: list[asyncio.Task[None]], reader: asyncio.Task[None] | None) -> None:
        """Let go of the connection; the reader ends with it."""
        self._letting_go = True
        for task in tasks:
            if task is not reader or self._reading_since is None:
                task.cancel()
        closing = self._task(self.adapter.close() if self._ends else self.adapter.lost(), "closing")
        tasks = [closing, *tasks]
        _, stuck = await asyncio.wait(tasks, timeout=self.CONNECT)
        for task in stuck:
            self._log.error("%r does not end, and is cancelled", task)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not closing.cancelled() and closing.exception() is not None:
            self._log.warning("closing %r: %s", self.adapter, _told(closing.exception()))

    # Receiving

    async def _read(self, up: asyncio.Event) -> None:
        """The one reader: it is never cancelled while it waits, but ends with the connection."""
        adapter, receiver = self.adapter, self._receiver
        loop = asyncio.get_running_loop()
        # What it still returns when the connection is lost may fill the window, which nothing would empty.
        while not self._letting_go:
            while receiver.is_full or self._pauses():
                await receiver.progress()
            self._reading_since = loop.time()
            batch = await adapter.receive()
            self._heard = loop.time()
            self._reading_since = None
            if batch:
                if not up.is_set():
                    if self._letting_go:
                        return
                    await up.wait()
                if not self._stopped:
                    receiver.take(batch)

    def _pauses(self) -> bool:
        """True while nobody is there for what shall not be missed."""
        if self._stopped:
            return True
        if not (self.group or self.name) or not self._lazy or not self.adapter.features.durable:
            return False
        return not any(overlaps(own, into) for own in self.hub.patterns() for into in self.incoming)

    async def _watch(self) -> None:
        """See to it that the connection is alive: while the reader waits, something has to come."""
        loop = asyncio.get_running_loop()
        features = self.adapter.features
        deaf = self.DEAF if features.push else self.DEAF_PULLING
        last = loop.time()
        lag = 0.0
        heard = self._heard
        while True:
            await asyncio.sleep(self.TICK)
            now = loop.time()
            # While the loop itself stood still, nobody could hear anything.
            lag = lag + max(0.0, now - last - 2 * self.TICK) if heard == self._heard else 0.0
            heard, last = self._heard, now
            busy = self._sender.busy_since
            if busy is not None and now - busy - lag > self.STUCK:
                raise ConnectionError(f"no answer for {self.STUCK:g} s to what was sent")
            if self._reading_since is None:
                continue
            silent = now - max(self._heard, self._reading_since) - lag
            if silent > deaf:
                raise ConnectionError(f"nothing was heard for {deaf:g} s")
            if features.push and silent > self.SILENT:
                self._sender.beat(self._private[0])

    async def _acknowledge(self) -> None:
        receiver, adapter = self._receiver, self.adapter
        lease = adapter.features.lease
        extended = time.monotonic()
        while True:
            await asyncio.sleep(self.ACK_EVERY)
            await receiver.acknowledge(adapter)
            if lease is not None and time.monotonic() - extended > lease / 3:
                extended = time.monotonic()
                await adapter.extend(receiver.leases())

    async def _release(self, lanes: Collection[Hashable]) -> None:
        await self._receiver.release(lanes, self.adapter, self.CONNECT)

    async def _replay_history(self) -> None:
        """Bring the last messages that were sent before, once."""
        if self._history and not self._replayed:
            found = await self.adapter.history(self._history_scan)
            self._receiver.replay(found, self._history)
            self._replayed = True

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
            ValueError: The broker has no history.
            BridgeNotReady: It is not connected.
        """
        if not self.adapter.features.history:
            raise ValueError(f"{type(self.adapter).__name__} has no history")
        await self.ready()
        found = await self.adapter.history(self._history_scan, before, after)
        return self._receiver.events_of(found, as_patterns(pattern), limit)

    # Subscriptions at the broker

    def changed(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Subscriptions of these came or went."""
        if not any(overlaps(pattern, into) for pattern in patterns for into in self.incoming):
            return
        if self.adapter.features.patterns:
            self._is_stale = True
            if self._stale is not None:
                self._stale.set()
        self._receiver.changed()

    @property
    def leads_out(self) -> Sequence[Key[Any]]:
        """Patterns of what it carries away."""
        return self.outgoing

    def _tell_neighbours(self) -> None:
        for bridge in self._shared.bridges:
            if bridge is not self:
                bridge.changed(self.outgoing)

    def wanted(self) -> list[Key[Any]]:
        """What is to be subscribed at the broker: what somebody wants and may come in, none covered by another."""
        if not self.incoming:
            return []
        if not self._lazy:
            return _uncovered(self.incoming)
        others = [key for bridge in self._shared.bridges if bridge is not self for key in bridge.leads_out]
        patterns = [*self.hub.patterns(), *others]
        return _uncovered([both for own in patterns for into in self.incoming if (both := meet(own, into)) is not None])

    async def _join(self) -> None:
        """Have everything that is wanted sent from now on, and before that, what was asked for of earlier."""
        self._private = [Key(NAMESPACE, "beat", self.hub.origin)] if self.adapter.features.push else []
        if self.adapter.features.patterns:
            gaps = [GAPS] if self.incoming else []
            replies = [Key(NAMESPACE, "reply", self.hub.origin)] if self.outgoing else []
            await self.adapter.subscribe(self._private + gaps + replies)
        await self._sync()
        await self._replay_history()

    async def _sync(self) -> None:
        """Have the broker send what is wanted, and no more."""
        while True:
            self._is_stale = False
            if not self.adapter.features.patterns:
                return
            wanted = dict.fromkeys(self.wanted())
            added = [key for key in wanted if key not in self._subscribed]
            removed = [key for key in self._subscribed if key not in wanted]
            # First what is new, then what is old: what moves from one to the other is not missed meanwhile.
            try:
                if added:
                    await self.adapter.subscribe(self._at_broker(added))
                    self._subscribed.update(dict.fromkeys(added))
                if removed:
                    await self.adapter.unsubscribe(self._at_broker(removed))
                    for key in removed:
                        del self._subscribed[key]
            except BaseException:
                self._is_stale = True
                raise
            if not self._is_stale:
                return

    def _at_broker(self, patterns: list[Key[Any]]) -> list[Key[Any]]:
        return [Key.create_from(pattern[len(self._prefix) :]) for pattern in patterns] if self._prefix else patterns

    async def _reconcile(self) -> None:
        assert self._stale is not None
        while True:
            await self._stale.wait()
            self._stale.clear()
            begun = time.thread_time()
            await self._sync()
            self._tell()
            # Looking at many patterns takes time: most of it is left to others.
            await asyncio.sleep(2 * (time.thread_time() - begun))

    # Trouble

    def _refused(self, key: Key[Any], message: Any, error: Exception) -> None:
        self._refusals += 1
        self._log.error("%r cannot be sent: %s", key, _told(error))
        self.hub.report_error(ListenerFailure(key, message, self, error))

    def health(self) -> Health:
        """How it fares now."""
        sender, receiver = self._sender, self._receiver
        return Health(
            state=self._state,
            since=self._since,
            last_received=receiver.last_received,
            outbox_messages=sender.pending,
            outbox_bytes=sender.bytes,
            oldest_age=None if sender.oldest is None else time.time() - sender.oldest,
            sent=sender.sent,
            received=receiver.received,
            in_flight=receiver.unfinished,
            lag=self.adapter.lag,
            reconnects=max(0, self._connections - 1),
            gaps=receiver.gaps,
            echoes=receiver.echoes,
            duplicates=receiver.duplicates,
            failures=receiver.failures,
            dead_letters=receiver.dead_letters,
            unclaimed=receiver.unclaimed_count,
            undecodable=receiver.undecodable,
            unclear=sender.unclear,
            refused=self._refusals,
            last_error=self._last_error,
        )

    # Closing

    def closing(self) -> None:
        """The hub is about to close: bring it nothing new."""
        self._stopped = True

    async def close(self, timeout: float = 5.0) -> Leftover:
        """Stop reading, finish what is in hand, send what is queued, acknowledge, and let go, within `timeout` seconds.

        Returns what could not be finished; it is logged too. Closing twice is safe.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(timeout), name=f"closing {self!r}")
        return await outlast(self._closing)

    async def closed(self) -> None:
        """Wait until it is closed, by whomever."""
        await self._gone.wait()

    async def _close(self, timeout: float) -> Leftover:
        self._stopped = True
        self._tell()
        sender, receiver = self._sender, self._receiver
        if self._living is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while receiver.unfinished and not receiver.is_holding:
                        await receiver.progress()
                    await sender.flush()
                    while receiver.to_ack:
                        await receiver.progress()
        receiver.closing = self._ends = True
        await receiver.end()
        left = Leftover(sender.give_up(), receiver.unfinished)
        for task in (self._living, self._packing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._become("closed")
        self._gone.set()
        self.hub.detach(self)
        self._shared.bridges.remove(self)
        self._tell_neighbours()
        if any(left):
            self._log.warning("%r closed with %d messages unsent and %d unfinished", self, *left)
        return left


def adapter_for(url: str) -> Adapter:
    """Return the adapter that a URL names by its scheme, among those which are installed.

    Raises:
        UnknownScheme: There is none.
        MissingDriver: The package that it needs is not installed.
    """
    scheme, colon, _ = url.partition("://")
    known = {point.name: point for point in entry_points(group="hubsub.adapters")}
    if not colon or scheme not in known:
        raise UnknownScheme(scheme if colon else "", sorted(known))
    make: Callable[[str], Adapter] = known[scheme].load()
    return make(url)


def _named(*several: Patterns | None) -> list[Key[Any]]:
    """The patterns of several arguments, each once."""
    named = [
        pattern for patterns in several if patterns is not None and patterns != [] for pattern in as_patterns(patterns)
    ]
    return list(dict.fromkeys(map(Key.create_from, named)))


def _uncovered(patterns: Sequence[Key[Any]]) -> list[Key[Any]]:
    """Those of the patterns that none of the others covers."""
    unique = list(dict.fromkeys(pattern for pattern in patterns if pattern[0] != NAMESPACE))
    wide = [pattern for pattern in unique if pattern.is_wildcard]
    kept: list[Key[Any]] = []
    for pattern in wide:
        if not any(is_subset(pattern, other) for other in kept):
            kept = [other for other in kept if not is_subset(other, pattern)] + [pattern]
    exact = [pattern for pattern in unique if not pattern.is_wildcard]
    return kept + [key for key in exact if not any(is_subset(key, other) for other in kept)]


def _raise_of(done: Collection[asyncio.Task[None]]) -> None:
    for task in done:
        task.result()
    raise ConnectionError("the connection has ended")


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _told(error: BaseException | None) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
