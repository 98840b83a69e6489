"""The relay: one bridge for all brokers, between a hub and an adapter."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..._core.checks import choice, named_options, options_of, seconds
from ..._core.display import figures, table
from ...codec import Codec
from ...describe import describe
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

    It may be made before an event loop runs. It connects when it is entered or started, reconnects by itself after
    every interruption, and is closed with its hub at the latest. If it was closed with its hub, starting the hub starts
    it again; if it was closed by itself, enter or start it again.

    Args:
        hub: The hub.
        url_or_adapter: The broker: a URL, whose scheme names the adapter, or an adapter.
        outgoing: Patterns of the messages to send: one, or a list, set or frozenset of them.
        incoming: Patterns of the messages to receive.
        both: Patterns of the messages to send and to receive.
        codec: How messages become bytes: "json", "msgpack", "bytes", "str", "pickle", or a `Codec`.
        envelope: Send metadata with each message. If False, send the payload alone, for readers that expect just that.
        encode: When a message is encoded: "soon", in the loop's next turn, until when it must not be changed; or "now",
            inside the publish, which takes longer then.
        group: Share the incoming messages with the other members of this group: each message goes to one of them. A
            message that is both outgoing and incoming is then only sent, and delivered to the member that receives it.
        name: Keep the position at the broker under this name, so that nothing is missed while the process is away.
        start: Where a name without a position, or a new group, begins: "new", "earliest", or a time in seconds since
            the epoch. By default a group begins with the earliest message that is kept, so that it gets the jobs that
            were confirmed before its first member came; everything else begins with new messages.
        history: The number of messages of each source to begin with, the last ones; they are marked as replayed.
        history_scan: The number of messages of each source that are searched for them.
        lazy: Subscribe at the broker only to what somebody here wants; if False, to all that is `incoming`. For a
            durable broker it is always all.
        ordered: Deliver a message of a durable broker only when the one before it of the same key is finished, while
            those of other keys overtake it. True by default, except for groups of brokers that keep no order in a
            group. If False, keys do not overtake each other; a message that failed comes again after later ones.
        outbox: The most messages that wait to be sent; beyond it, the oldest is dropped.
        outbox_bytes: The most bytes of them.
        window: The most messages of a durable broker that are unfinished, or finished and not yet acknowledged; at the
            limit, reading pauses.
        window_bytes: The most bytes of them.
        attempts: How often a listener may fail with a message of a durable broker before it becomes a dead letter.
        retry_pause: Seconds before the second attempt; doubled for each further one.
        unclaimed: What happens to a message of a durable broker that nobody is subscribed to: "hold" pauses reading
            until somebody is, "ack" drops it, "dead-letter" makes it a dead letter. By default "hold" for a group or a
            name, otherwise "ack".
        namespace: The first part of every address at the broker; empty to use channels of other programs.
        prefix: A prefix that the keys have here, but not at the broker; all patterns begin with it.
        backoff: How long to wait between attempts to connect.
        secret: Sign every message that is sent, and refuse those that are not signed with it: a str or bytes that all
            participants share, or several, of which the first one signs and all are accepted.
        replay_window: Seconds that a signed live message may be old, or ahead of the clock here; 300 by default. Older
            ones, and those that come twice, are refused. Needs `secret`.
        silence: Seconds without a sign of life after which a connection counts as lost; by default three where
            messages are pushed, and five otherwise. It is twice five while the bridge connects, since the speed of the
            line is unknown then. A line that moves bytes is alive, however slow it is; time in which the event loop was
            blocked does not count.
        keys: Another word for `both`.

    Raises:
        UnknownScheme: No adapter is known for the URL.
        MissingDriver: The package that the adapter needs is not installed.
        TypeError: There is no such option, or it gets something else than a hub, and a URL or an adapter.
        ValueError: Options contradict each other, or the broker does not support one.
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
        keys: Patterns | None = None,
    ) -> None:
        both = _same(both, keys)
        if not isinstance(hub, Hub):
            raise TypeError(f"a bridge needs a Hub, then a URL or an adapter: {describe(hub)} is no Hub")
        adapter = adapter_for(url_or_adapter) if isinstance(url_or_adapter, str) else url_or_adapter
        if not isinstance(adapter, Adapter):
            raise TypeError(f"a bridge needs a URL or an adapter, not {describe(adapter)}")
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

    def _repr_html_(self) -> str:
        health = self.health()
        names = [name for name in health._fields if name not in ("state", "since")]
        return table(repr(self), [("state", health.state), ("sent", health.sent), *figures(health, names)])

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
            BridgeNotReady: `timeout` seconds have passed, or it cannot ever connect; the cause is the last error. Or
                the broker refuses a pattern; the cause is the `AccessRefused`.
            BridgeClosed: It was closed.
        """
        if self._closing is None:
            await self.start()
        await self._until(lambda: self._state == "up" and not self._is_stale, timeout)
        for error in self.adapter.refused_patterns.values():
            raise BridgeNotReady(self, 0, error) from error

    @property
    def _is_stale(self) -> bool:
        return self._connection is None or self._connection.is_stale

    async def synced(self, timeout: float | None = 10.0) -> None:
        """Wait until the broker has confirmed every subscription made so far; as `ready`, but for after subscribing."""
        await self.ready(timeout)

    async def flush(self, timeout: float | None = 10.0) -> None:
        """Wait until everything published so far has been sent, and confirmed if the broker confirms.

        Raises:
            BridgeNotReady: `timeout` seconds have passed.
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
        """Read the last `limit` messages of a pattern from the broker, the oldest first; page back with `before`.

        Args:
            pattern: What to read.
            limit: The most messages of each source; `history_scan` messages are searched for them.
            before: Return only messages before this: a time in seconds since the epoch, or a `meta.position`.
            after: Return only messages after this.

        Raises:
            Unsupported: The broker has no history.
            BridgeNotReady: It is not connected, or lost the connection.
        """
        self._need("history", "history")
        found = await self._call(lambda: self.adapter.history(self._plan.history_scan, before, after))
        return self._parts.receiver.events_of(found, as_patterns(pattern), limit)

    async def dead_letters(self, limit: int, before: str | None = None) -> list[StoredLetter]:
        """Read the last `limit` dead letters of the namespace, the oldest first; page back with `before`.

        These are the letters of all bridges, groups and names. Messages that cannot be decoded are among them, as
        bytes, and so are messages whose keys cannot be published to. Nothing is removed.

        Args:
            limit: The most letters, at least 1.
            before: Return only letters that are older than the one of this `position`, even if that is gone.

        Raises:
            Unsupported: The broker has no dead letters.
            NoSuchLetter: `before` is not the position of a letter.
            BridgeNotReady: It is not connected, or lost the connection.
        """
        self._need("dead_letters", "dead letters")
        if limit < 1:
            raise ValueError(f"limit is a number of letters, at least 1, not {limit!r}")
        found = await self._call(lambda: self.adapter.dead_letters(limit, before))
        receiver = self._parts.receiver
        return [letter_of(each, self._wire, receiver.key_here) for each in found]

    async def redeliver(self, position: str) -> None:
        """Send a dead letter back to the group or name that gave it up, and remove it; return when that is stored.

        It is handled there as a new message, even if no process of that group or name is running now; all others skip
        it. A letter of a bridge without group and name goes to all such bridges that are running, and those that have
        handled it skip it. If the connection is lost during the call, the letter may have been sent or not: a second
        call either sends it, or raises `NoSuchLetter` because the first one did.

        Args:
            position: The `position` of the letter, from `dead_letters`.

        Raises:
            Unsupported: The broker has no dead letters.
            NoSuchLetter: No letter is at that position, or no longer.
            BridgeNotReady: It is not connected, or lost the connection.
        """
        self._need("dead_letters", "dead letters")
        await self._call(lambda: self.adapter.redeliver(position))

    def _need(self, feature: str, what: str) -> None:
        if not getattr(self._features, feature):
            raise Unsupported(type(self.adapter).__name__, what)

    async def _call(self, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Call the adapter over the live connection, concurrently with everything else."""
        await self.ready()
        connection = self._connection
        assert connection is not None
        try:
            return await connection.call(call())
        except (ConnectionError, EOFError) as error:
            raise BridgeNotReady(self, 0, error) from error

    # For adapters and monitoring

    def record(self, key: KeyLike[Any], message: Any) -> Record:
        """Return the record that the bridge would send for a message, without sending it.

        For adapters that write it themselves, in a transaction of the user. It has a new id each time.

        Raises:
            InvalidKey: Nothing can be published to `key`.
            EncodeError: It cannot be encoded.
            PayloadTooLarge: The broker does not accept a message of that size.
        """
        return self._parts.sender.record(publishable(key), message)

    def health(self) -> Health:
        """Return its state and counters."""
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
            unroutable=self.adapter.unroutable,
            last_error=self._last_error,
        )


def _same(both: Patterns | None, keys: Patterns | None) -> Patterns | None:
    """Return the patterns that were given by either word.

    Raises:
        ValueError: Both are given.
    """
    if both is not None and keys is not None:
        raise ValueError("keys must be None with both=, which is the same: give all patterns by both=")
    return keys if both is None else both


_OPTIONS = frozenset(inspect.signature(Bridge).parameters) - {"hub", "url_or_adapter"}


def _adapter_with(url: str, options: dict[str, Any]) -> Adapter:
    """Return the adapter of a URL, with options that no bridge has.

    Raises:
        TypeError: The adapter does not have them either; the error names the nearest one of a bridge, if one is near.
    """
    try:
        return adapter_for(url, **options)
    except TypeError:
        from difflib import get_close_matches  # seldom needed, and not light

        if any(get_close_matches(name, _OPTIONS, 1, 0.6) for name in options):
            options_of(options, sorted(_OPTIONS), "Bridge")
        raise


@asynccontextmanager
async def connect(
    url: str | Adapter, both: Patterns | None = None, *, keys: Patterns | None = None, **options: Any
) -> AsyncIterator[Hub]:
    """Return a hub with a bridge; enter it like any hub.

    The bridge is `hub.bridges[0]`.

    Args:
        url: The broker, see `Bridge`.
        both: Patterns of what is carried both ways: one, or a list, set or frozenset of them. Give `incoming` or
            `outgoing` instead, or too, for what goes one way.
        keys: Another word for `both`.
        **options: As of `Bridge`; and with a URL, those of its adapter, such as `token` of `wss://`.
    """
    beyond = {name: options.pop(name) for name in options.keys() - _OPTIONS}
    if beyond and isinstance(url, str):
        url = _adapter_with(url, beyond)
    elif beyond:
        options_of(beyond, _OPTIONS, "Bridge")
    async with Hub() as hub, Bridge(hub, url, both=_same(both, keys), **options):
        yield hub
