"""The contract of adapters: an adapter is one broker's transport, and the relay needs no more of it than this.

The relay (`Bridge`) owns everything that is the same for all brokers: the outbox, encoding, retry, reconnection, which
patterns are subscribed, echo, duplicates, liveness, gaps, the window of unfinished messages, the order of
acknowledgement, health. An adapter connects, sends, receives, subscribes, acknowledges and closes, and declares in
`Features` what its broker can do. Anything more that an adapter has to do is missing from the relay.

There are four kinds of trouble:

- **One message.** The relay handles whatever happens when a message is decoded, routed or handled. An adapter that
  cannot read a message returns it all the same, as `Received` with `trouble`. If the broker refuses a record for good,
  `send` returns the error, and so does `bury`.
- **The connection.** Any other exception of a method means that the connection is lost, so an adapter raises only the
  errors of its transport. The exception is `BrokerBusy` from `send`, `receive`, `ack`, `extend` or `hand_back`: the
  connection is sound, but the broker accepts nothing for now. The relay makes the same call again a little later.
- **Access.** `AccessRefused` ends the bridge, since a retry would be refused too. A pattern that the broker refuses
  over a sound connection stands in `Adapter.refused_patterns`.
- **The adapter itself.** `NotImplementedError` and `NameError` end the bridge at once; `TypeError`, `AttributeError`
  and `AssertionError` end it when they are raised three times running. They show a bug, which no retry mends.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..key import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a broker can do, as its adapter uses it. The relay, the conformance suite and the docs read this."""

    order: Literal["all", "key", "none"] = "all"
    """What arrives in the order in which one sender sent it: everything, the messages of each key, or nothing."""
    confirms: Literal["none", "received", "stored"] = "none"
    """What the return of `Adapter.send` confirms: nothing; that the broker has the records; that it has stored them."""
    idempotent: bool = False
    """A record sent a second time, with the same sender and sequence, is not stored a second time."""
    durable: bool = False
    """Confirmed messages are delivered even to a bridge that was away, so a lost connection is no gap."""
    resumes: bool = False
    """A lost connection is no gap by itself, although nothing is kept for a bridge that is away: the adapter continues
    where it was, and returns a `Loss` where it cannot. Durable brokers resume anyway."""
    replay: bool = False
    """A reader can begin with older messages: `start="earliest"`, or a time."""
    acks: Literal["none", "each", "prefix"] = "none"
    """How messages are acknowledged: not at all; each by itself; or in order, the last one for all before it."""
    patterns: bool = False
    """The broker matches keys with patterns. Without it the adapter receives everything, and the relay matches."""
    responders: bool = False
    """The broker passes requests on to responders: `Adapter.respond`. Without it a request reaches every subscriber, as
    other messages do."""
    finishes: bool = False
    """The broker knows when all readers have finished with a message; see `ConfirmedRecord`."""
    verbatim: bool = True
    """A payload arrives byte by byte as it was sent, so that it can be signed."""
    groups: bool = False
    """Several processes can share the messages: `group=`. If the broker is not durable, it shares only among those that
    are connected."""
    names: bool = False
    """A reader's position can be kept under a name: `name=`."""
    history: bool = False
    """Older messages can be read."""
    dead_letters: bool = False
    """Messages that `Adapter.bury` has written can be listed, and sent back to the reader that gave them up."""
    delays: bool = False
    """A record with `Record.due` is stored at once, and delivered when it is due."""
    headers: bool = False
    """Metadata travels beside the payload. Without it the relay puts both in an envelope."""
    push: bool = True
    """The broker pushes messages, so silence proves nothing, and the relay sends itself a beat, which returns by
    `Adapter.listen`. Otherwise `Adapter.receive` polls, and returns within two seconds even without messages."""
    lease: float | None = None
    """Seconds after which an unfinished message goes to another process, unless `Adapter.extend` was called."""
    max_payload: int | None = None
    """The most bytes of one record: its payload, and the names and values of its headers."""


class Record(NamedTuple):
    """A message to be sent."""

    key: Key[Any]
    """An exact key. The adapter makes an address of it, and can make the same key of that address."""
    payload: bytes
    headers: Mapping[str, str] = {}
    """Metadata; empty unless `Features.headers`."""
    sequence: int = 0
    """Higher for each record of a `Link.sender`, in the order in which they are sent; a record that is sent again keeps
    its number. 0 for control messages."""
    is_control: bool = False
    """True for a control message: only those receive it that listen to this very key now, by `Adapter.listen`. It is
    not stored."""

    @property
    def due(self) -> float | None:
        """When to deliver it, in seconds since the epoch; None for at once. See `DelayedRecord`."""
        return None


class DelayedRecord(Record):
    """A message to be sent that nobody receives before it is due; only with `Features.delays`.

    It counts as sent once it is stored. Every reader, the sender included, receives it within a second after it is due,
    even if the sender has died. It is placed among the other messages only then, so that no reader has passed it by. A
    record that is sent again is not stored again, neither before it is due nor after.
    """

    _due: float

    @classmethod
    def at(cls, due: float, record: Record) -> DelayedRecord:
        """Return the same record, due at a time in seconds since the epoch."""
        delayed = tuple.__new__(cls, record)
        delayed._due = due
        return delayed

    @property
    def due(self) -> float:
        """When to deliver it, in seconds since the epoch."""
        return self._due

    def _replace(self, **changes: Any) -> DelayedRecord:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.at(self._due, Record(*self)._replace(**changes))


class ConfirmedRecord(Record):
    """What somebody waits for; only with `Features.finishes`.

    `Adapter.send` returns when everybody at the broker has finished with it, or with a `NotFinished` in its result.
    """


class NotFinished(Exception):
    """The broker has a `ConfirmedRecord`, but not everybody there has finished with it."""


class Received(NamedTuple):
    """A message that was received."""

    key: Key[Any]
    payload: bytes | None
    """None if the broker reports that the key no longer has a value."""
    headers: Mapping[str, str] = {}
    lane: Hashable = None
    """The partition, the stream, or the like; each lane is ordered and acknowledged by itself."""
    position: str | None = None
    """Its position in the broker's log, unique within the broker; None without a log."""
    token: Any = None
    """Passed to `Adapter.ack` and `extend`; None if there is nothing to acknowledge."""
    attempts: int = 0
    """How often it was delivered before, by the broker's count."""
    time: float | None = None
    """When the broker received it, in seconds since the epoch."""
    is_replayed: bool = False
    """True if it was sent before this reader began, as a retained message was."""
    is_control: bool = False
    """True if it came by `Adapter.listen`."""
    trouble: Exception | None = None
    """Why it cannot be read; `key` and `payload` are then as close as possible. The relay counts and logs it, and
    buries it if the broker has dead letters. A control message with trouble stands for a reply that will not come."""


class SentBack(Received):
    """A dead letter that `Adapter.redeliver` has sent back; `Adapter.receive` returns it among the other messages.

    The relay skips it unless `reader` is the link's `Link.reader`. An adapter that delivers it to that reader alone
    marks it all the same: the reader then does not take it for a duplicate, even if burying it has not quite ended.
    """

    reader: str

    @classmethod
    def to(cls, reader: str, received: Received) -> SentBack:
        """Return a received message as one that was sent back to a `Link.reader`."""
        sent = tuple.__new__(cls, received)
        sent.reader = reader
        return sent

    def _replace(self, **changes: Any) -> SentBack:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.to(self.reader, Received(*self)._replace(**changes))


class Buried(NamedTuple):
    """A dead letter, as `Adapter.dead_letters` returns it."""

    received: Received
    """The message passed to `Adapter.bury`: its key, payload, headers, attempts, and its own position in the log."""
    reason: str
    """Why it was given up; empty if that was not written."""
    position: str
    """The position of the letter itself, unique within the broker, and unchanged as long as the letter is there."""
    time: float | None = None
    """When it was written, in seconds since the epoch."""
    reader: str | None = None
    """The `Link.reader` that gave it up; None if that is unknown, as for letters of other programs."""


class Loss(NamedTuple):
    """Stands among received messages, exactly where the broker's log proves that messages are missing."""

    reason: str
    """A few words: trimmed, expired, recreated."""
    count: int | None = None  # type: ignore[assignment]  # as in `Gap`
    """The number of missing messages; None if it is unknown."""
    lane: Hashable = None
    since: float | None = None
    """When the last message before it was received, in seconds since the epoch, if the relay cannot know."""
    keys: tuple[Key[Any], ...] | None = None
    """The keys of the missing messages; None if they are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the relay passes to an adapter that connects."""

    sender: str
    """A random name of one bridge in one process; together with `Record.sequence` it identifies a record."""
    namespace: str
    """The first part of every address; may be empty."""
    group: str | None = None
    """The group that shares the messages with this reader."""
    name: str | None = None
    """The name under which the reader's position is kept; it continues from there."""
    start: Literal["new", "earliest"] | float = "new"
    """Where a group, a name without a position, or a reader without a name begins; a number is a time, in seconds since
    the epoch."""
    reads: bool = True
    """False if no messages are read: `Adapter.receive` then returns control messages only, or is not called."""
    incoming: tuple[Key[Any], ...] = ()
    """Every pattern that may come in; none covers another. When `connect` returns, a durable broker that matches
    patterns has exactly these bound to the group or name: it unbinds those of an older configuration."""
    control: tuple[Key[Any], ...] = ()
    """Keys of the control messages for this connection, which the relay passes to `Adapter.listen` after `connect`."""
    window: int = 1000
    """The most unfinished messages at a time: what a broker that pushes may send ahead."""
    room: Callable[[], int] = lambda: 1000
    """Returns how many messages there is room for now. A read asks for no more, over all lanes together: the other
    members of a group can then receive the rest. It may return 0 if control messages come another way than the others:
    then `receive` waits for control messages only, and for no longer than a second."""
    wanted: Callable[[], Sequence[Key[Any]]] = lambda: ()
    """Returns the patterns that are wanted now, which the relay is about to pass to `Adapter.subscribe`."""
    encode: Callable[[Any], bytes] | None = None
    """Encodes a message with the codec of the bridge, for adapters that publish themselves. None without a bridge."""
    release: Callable[[Collection[Hashable]], Awaitable[None]] | None = None
    """To be awaited when the broker takes lanes away: within a deadline, the messages of these lanes are finished and
    acknowledged."""

    @property
    def reader(self) -> str:
        """The reader, as dead letters name it: `group:` and the group, `name:` and the name, or an empty text."""
        return f"group:{self.group}" if self.group is not None else "" if self.name is None else f"name:{self.name}"


class Adapter:
    """One broker's transport. Subclasses override what their `features` promise.

    The relay calls `connect` first. After any exception it calls `lost`, and a while later `connect` again on the same
    object, which therefore keeps what outlives a connection, such as its position in a log. The driver's own
    reconnection and retries are switched off. Passwords appear in no exception, log line or `repr`.

    At any time one call of `receive` is running; beside it, at most one of `send`, and a few of the others.
    """

    features = Features()
    """What it can do at best; see `features_for`."""
    lag: int | None = None
    """Messages at the broker that were not received yet, when something was received last; None if unknown."""
    unroutable: int = 0
    """Messages that were sent, and confirmed, though the broker had nobody to give them to; 0 if it does not say."""
    refused_patterns: Mapping[Key[Any], Exception] = {}
    """The patterns that the broker refuses to subscribe or to respond to, and why; the others work. `Bridge.ready`
    raises the reason."""
    activity: int = 0
    """Changes whenever bytes have moved over any of its connections, in either direction; see `bytes_moved`. While the
    adapter connects or subscribes, the relay treats a moving line as alive, however slow it is."""
    receiving: int | None = None
    """Changes whenever bytes have arrived where `receive` reads. None if that is not counted: then only a return of
    `receive` is a sign of life."""
    sending: int | None = None
    """Changes whenever bytes have moved where `send` writes. None if that is not counted: then a call may take as long
    as its bytes would take over a slow line."""

    def features_for(self, link: Link) -> Features:
        """Return what it can do for such a link, with a group for example. Called first, connected or not."""
        return self.features

    async def connect(self, link: Link) -> None:
        """Connect; return when the broker has answered. If `link.reads`, also get ready to receive."""
        raise NotImplementedError

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive the control messages of these exact keys from now on; return when the broker has confirmed that.

        Called once after each `connect`. Control messages go to this connection alone: they are neither stored nor
        shared with a group, and the connection's end ends it. The default subscribes to the keys like any others, which
        is right only where nothing is stored or shared. Adapters that are durable or have groups override it; otherwise
        such a link has no control messages: no beats, no replies, no notices of what a sender dropped.
        """
        await self.subscribe(keys)

    async def ping(self) -> None:
        """Return when the broker has answered. Called while nothing is read because there is no room."""

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Send records, in order; return when all are confirmed as `features.confirms` promises.

        Returns the errors of the records that the broker refuses for good, by their index. If the broker refuses a
        whole batch, that is an error for each: the relay then sends them one by one, and only a record that is refused
        alone is given up. After an exception nobody knows which records were sent: the relay sends all of them again,
        and gives up a record that costs the connection each time it is sent alone.

        Raises:
            BrokerBusy: The broker accepts nothing for now: it is out of memory, or lacks replicas. Nothing was sent.
        """
        raise NotImplementedError

    async def receive(self) -> Sequence[Received | Loss]:
        """Wait for messages; return those that have come, in order, and no more than `link.room()` where it can choose.

        Never cancelled while it waits: `close` makes it return or raise. Without `features.push` it returns an empty
        sequence when nothing has come for a second or so.

        Raises:
            BrokerBusy: Nothing can be received for now, since the broker cannot note who has it. After ten seconds of
                that the connection counts as lost.
        """
        raise NotImplementedError

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive also what matches these patterns; return when the broker has confirmed that.

        Only with `features.patterns`. Patterns may overlap, but none covers another. A new connection has no
        subscriptions, unless they are durable: then these are all of `link.incoming`, perhaps bound already, and they
        stay.
        """

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`. Never called where subscriptions are durable: messages without a listener are kept."""

    async def respond(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive requests of these keys from now on; return when the broker has confirmed that.

        Only with `features.responders`. Each request is received once, whether its key is subscribed to or not. A new
        connection responds to nothing.
        """

    async def unrespond(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `respond`."""

    async def ack(self, tokens: Sequence[Any]) -> None:
        """Acknowledge messages. With `acks="prefix"` these are the last ones of each lane, and stand for all before."""

    async def extend(self, tokens: Sequence[Any]) -> None:
        """Extend the leases of these messages, which are still being handled."""

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        """Hand messages back to the other members of the group at once, in order; it counts as no attempt.

        Called before `close` when a member of a group closes with messages in hand. The default does nothing: it is for
        brokers that hand back by themselves what a closed connection has not acknowledged.
        """

    async def bury(self, received: Received, why: str) -> Exception | None:
        """Write a message that cannot be handled to the dead letters; return when the broker has confirmed that.

        `received.attempts` is how often listeners were called with it. With `features.dead_letters`, the reason, that
        number, `received.position` and `Link.reader` are written too, apart from the message's own headers.

        Returns the error if the broker refuses it for good: the relay then tries once more without the payload. After
        an exception the relay tries again.
        """
        raise NotImplementedError

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        """Return the last `limit` dead letters of the namespace, of all readers, the oldest first.

        Only with `features.dead_letters`. With `before`, return the last ones that are older than the letter of that
        position, which may be gone by now. It changes nothing, and works for links that do not read.
        """
        raise NotImplementedError

    async def redeliver(self, position: str) -> None:
        """Deliver a dead letter again, to `Buried.reader` alone, and remove it; return when that is stored.

        Only with `features.dead_letters`. The message is the one that was passed to `bury`, without what `bury` has
        added. A group or a name receives it even if no process of it is connected now; readers with neither receive it
        if they are connected; without a reader in the letter, everybody does. Removing and delivering is one step, or
        delivering comes first: no letter is lost, whatever happens in between.

        Raises:
            NoSuchLetter: There is no letter at that position, or no longer one.
        """
        raise NotImplementedError

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        """Return the last `limit` messages of each lane, in order.

        Only with `features.history`. `before` and `after` are exclusive bounds: times in seconds since the epoch, or
        positions, which also choose a lane.
        """
        raise NotImplementedError

    async def lost(self) -> None:
        """Called when the connection is lost: end the calls that wait. `connect` follows, or at the end `close`.

        The default closes; an adapter whose driver keeps more than a connection overrides it.
        """
        await self.close()

    async def close(self) -> None:
        """Close the connection, whatever state it is in; a waiting `receive` ends. Closing twice is safe."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget the connection without touching it: its loop is closed, or belongs to a forked process's parent.

        `connect` may follow. The default does nothing: it is for adapters whose `connect` replaces everything.
        """


def bytes_moved(transport: Any) -> int:
    """Return how many bytes have moved over a transport's connection, in both directions, by the kernel's count.

    Sent bytes count when the other side's kernel has acknowledged them: they move over a slow line, and not over a dead
    one. 0 where the system does not count: outside Linux, and for sockets other than TCP.
    """
    return sum(bytes_each_way(transport))


def bytes_each_way(transport: Any) -> tuple[int, int]:
    """Return the same for each direction: the bytes sent and acknowledged, and the bytes received."""
    sock = transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        acknowledged, received = struct.unpack_from("=QQ", info, _BYTES_ACKNOWLEDGED)
    except (AttributeError, OSError, struct.error):
        return 0, 0
    return int(acknowledged), int(received)


# Offset of tcpi_bytes_acked in Linux's `struct tcp_info`; tcpi_bytes_received follows it.
_BYTES_ACKNOWLEDGED = 120
_TCP_INFO_BYTES = 136
