"""The relay: one bridge for all brokers, between a hub and an adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..._core.checks import choice, named_options, seconds
from ...codec import Codec
from ...errors import BridgeClosed, BridgeNotReady, Unsupported
from ...event import Event
from ...hub import Hub
from ...key import Key, KeyLike, Patterns, as_patterns, publishable
from ..adapter import Adapter, Record
from ..schemes import adapter_for
from .health import Health
from .letters import StoredLetter, letter_of
from .life import Life
from .plan import Backoff, Plan, Start, Unclaimed, named
from .signing import Secrets

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

V = TypeVar("V")


class Bridge(Life):
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

    @named_options("Bridge")
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
        adapter = adapter_for(url_or_adapter) if isinstance(url_or_adapter, str) else url_or_adapter
        choice(encode, "encode", ("soon", "now"))
        plan = Plan(
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
        patience = None if silence is None else seconds(silence, "silence", zero=False)
        super().__init__(hub, adapter, plan, codec, patience)

    def __repr__(self) -> str:
        return f"<Bridge {self.hub!r} {self.adapter!r} {self._state}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Waiting

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

    # What the broker has

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

    # Beside it

    def record(self, key: KeyLike[Any], message: Any) -> Record:
        """The record that the bridge would send for a message; it is not sent.

        For adapters that write it themselves, in a transaction of the user's. It has a name of its own each time.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            EncodeError: It cannot be encoded.
            PayloadTooLarge: The broker takes no message of that size.
        """
        return self._parts.sender.record(publishable(key), message)

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
