"""What an adapter is: one broker's transport, behind the one contract that the relay stands on.

The relay (`Bridge`) owns everything that is the same for all brokers: the outbox, encoding, retry, reconnection, which
patterns are subscribed, echo, duplicates, liveness, gaps, the window of unfinished messages, the order of
acknowledgement, health. An adapter connects, sends, receives, subscribes, acknowledges and closes, and says in
`Features` what its broker can do. What it finds itself doing beyond that, the relay lacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..key import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a broker can do, as its adapter uses it. The relay, the conformance suite and the docs read this."""

    order: Literal["all", "key", "none"] = "all"
    """What of one sender arrives in order: everything, the messages of each key, or nothing."""
    confirms: Literal["none", "received", "stored"] = "none"
    """What `Adapter.send` knows when it returns: that it was sent, that the broker has it, that it is stored."""
    idempotent: bool = False
    """A record sent a second time, with the same sender and sequence, is not stored a second time."""
    durable: bool = False
    """What was confirmed is delivered also to who is away for a while: no gap where a connection was lost."""
    acks: Literal["none", "each", "prefix"] = "none"
    """How deliveries are acknowledged: not at all, each by itself, or in order, the last one for all before it."""
    patterns: bool = False
    """The broker matches keys with patterns; else everything is received, and the relay matches."""
    groups: bool = False
    """Several processes can share the messages: `group=`."""
    names: bool = False
    """A reader's position can be kept under a name: `name=`."""
    history: bool = False
    """What was sent before can be read."""
    headers: bool = False
    """Metadata travels beside the payload; else the relay puts both in an envelope."""
    push: bool = True
    """Messages arrive without being asked for, so that silence proves nothing: the relay sends itself a beat. If
    not, `Adapter.receive` asks, and returns within two seconds also when there is nothing."""
    lease: float | None = None
    """Seconds after which an unfinished message is given to another process unless `Adapter.extend` was called."""
    max_payload: int | None = None
    """Bytes that one record may have, payload and headers together."""


class Record(NamedTuple):
    """What is to be sent."""

    key: Key[Any]
    """An exact key; the adapter makes an address of it from which the same key can be made again."""
    payload: bytes
    headers: Mapping[str, str] = {}
    """Metadata; empty unless `Features.headers`."""
    sequence: int = 0
    """Grows with every record of a `Link.sender`; a record sent again has the same."""


class Received(NamedTuple):
    """What has come."""

    key: Key[Any]
    payload: bytes | None
    """None where the broker says that the key has no value any more."""
    headers: Mapping[str, str] = {}
    lane: Hashable = None
    """What is ordered and acknowledged in itself: a partition, a stream."""
    position: str | None = None
    """Where it stands in the broker's log, unique within the broker; None where there is no log."""
    token: Any = None
    """What `Adapter.ack` and `extend` are given; None if there is nothing to acknowledge."""
    attempts: int = 0
    """How often it was delivered before, as the broker counts."""
    time: float | None = None
    """When the broker got it, in seconds since the epoch."""


class Loss(NamedTuple):
    """Stands among what was received, at the very place where the broker's log proves that messages are missing."""

    reason: str
    """In a few words: trimmed, expired, recreated."""
    count: int | None = None  # type: ignore[assignment]  # as in `Gap`
    """How many; None if nobody can tell."""
    lane: Hashable = None
    since: float | None = None
    """When the last message before it came, in seconds since the epoch, if the adapter knows better than the relay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the relay tells an adapter when it connects."""

    sender: str
    """Random, for one bridge in one process; with `Record.sequence` it names a record."""
    namespace: str
    """The first part of every address; may be empty."""
    group: str | None = None
    """Share the messages with the other members of this group."""
    name: str | None = None
    """Keep the position under this name, and go on from there."""
    start: Literal["new", "earliest"] | float = "new"
    """Where a group, a name without a position, or a reader without a name begins; a number is a time, in seconds since
    the epoch."""
    reads: bool = True
    """False if nothing is ever received: `Adapter.receive` is not called."""
    release: Callable[[Collection[Hashable]], Awaitable[None]] | None = None
    """To be awaited when the broker takes lanes away: it finishes what is in hand of them, within a deadline, and has
    it acknowledged."""


class Adapter:
    """One broker's transport. Subclasses override what their `features` promise.

    The relay calls `connect` first, and after any exception `lost` and then, a while later, `connect` again on the
    same object, which therefore keeps what has to outlive a connection: its position in a log, say. Whatever the driver
    does to reconnect or retry by itself is switched off. Every exception but those of `send`'s result means that the
    connection is lost. Passwords appear in no exception, log line or `repr`.

    At any time one call of `receive` is running, and beside it at most one of `send` and a few of the others.
    """

    features = Features()
    """What it can do; once made, of this one."""
    lag: int | None = None
    """Messages at the broker that were not received yet, as of when something was received last; None if unknown."""

    async def connect(self, link: Link) -> None:
        """Return when the broker has answered; also get ready to receive if `link.reads`."""
        raise NotImplementedError

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Send, in order, and return when it is known of all what `features.confirms` says.

        Returns the errors of those which the broker refuses for good, by their index. An exception leaves open which
        of them were sent: the relay sends all of them again.
        """
        raise NotImplementedError

    async def receive(self) -> Sequence[Received | Loss]:
        """Wait for messages and return those that are there, in order.

        Never cancelled while it waits: `close` makes it return or raise. Without `features.push` it returns an empty
        sequence when nothing came for a second or so.
        """
        raise NotImplementedError

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Have what matches these sent, too; return when the broker has confirmed it.

        Only with `features.patterns`. None of them is subscribed already; they may overlap, but none covers another. A
        new connection has no subscriptions.
        """

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""

    async def ack(self, tokens: Sequence[Any]) -> None:
        """Have these count as handled. With `acks="prefix"` it is the last of each lane, and stands for all before."""

    async def extend(self, tokens: Sequence[Any]) -> None:
        """Keep these, which are still being handled, from being given to another process."""

    async def bury(self, received: Received, why: str) -> None:
        """Write a message that cannot be handled where the broker's dead letters are; return when that is confirmed."""
        raise NotImplementedError

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        """Return the last `limit` messages of each lane, in order.

        Only with `features.history`. `before` and `after` bound them, exclusively, by a time in seconds since the
        epoch, or by a position, which also chooses its lane.
        """
        raise NotImplementedError

    async def lost(self) -> None:
        """The connection is lost: let what waits end. `connect` or, at the end, `close` follows.

        For an adapter whose driver keeps more than a connection; the others close.
        """
        await self.close()

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in; a waiting `receive` ends. Closing twice is safe."""
        raise NotImplementedError
