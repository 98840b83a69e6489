"""What an adapter is: one broker's transport, behind the one contract that the relay stands on.

The relay (`Bridge`) owns everything that is the same for all brokers: the outbox, encoding, retry, reconnection, which
patterns are subscribed, echo, duplicates, liveness, gaps, the window of unfinished messages, the order of
acknowledgement, health. An adapter connects, sends, receives, subscribes, acknowledges and closes, and says in
`Features` what its broker can do. What it finds itself doing beyond that, the relay lacks.

Four kinds of trouble, and where each ends:

- **One message.** Whatever a received message does when it is decoded, routed or handled, the relay deals with, and an
  adapter that cannot read one hands it over all the same, as `Received` with `trouble`. A record that the broker
  refuses for good is an error in the result of `send`, `bury` likewise.
- **The connection.** Every other exception of a method means that the connection is lost: only the transport's own
  errors should leave an adapter. `BrokerBusy` from `send`, `receive`, `ack`, `extend` or `hand_back` does not: the
  broker accepts nothing for now over a sound connection, and the relay makes the same call again a little later.
- **Access.** `AccessRefused` ends the bridge, since a retry would be refused too. A pattern that the broker refuses
  over a sound connection stands in `Adapter.refused_patterns`.
- **The adapter itself.** `NotImplementedError` and `NameError` end the bridge at once, and so do `TypeError`,
  `AttributeError` and `AssertionError` when they come three times running: that is a bug, and not the weather.
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
    """What of one sender arrives in order: everything, the messages of each key, or nothing."""
    confirms: Literal["none", "received", "stored"] = "none"
    """What `Adapter.send` knows when it returns: that it was sent, that the broker has it, that it is stored."""
    idempotent: bool = False
    """A record sent a second time, with the same sender and sequence, is not stored a second time."""
    durable: bool = False
    """What was confirmed is delivered also to a bridge that was away: no gap where a connection was lost."""
    resumes: bool = False
    """A lost connection is no gap by itself, though nothing is kept for a bridge that is away: the adapter goes on
    where it was, and says `Loss` where it cannot. What is durable resumes by itself."""
    replay: bool = False
    """A reader can begin with what was sent before: `start="earliest"`, or a time."""
    acks: Literal["none", "each", "prefix"] = "none"
    """How deliveries are acknowledged: not at all, each by itself, or in order, the last one for all before it."""
    patterns: bool = False
    """The broker matches keys with patterns; else everything is received, and the relay matches."""
    responders: bool = False
    """The broker passes requests on to those who respond: `Adapter.respond`. Else a request is a message like others,
    and reaches whoever is subscribed."""
    finishes: bool = False
    """The broker knows when everybody there has finished with a message, see `ConfirmedRecord`."""
    verbatim: bool = True
    """A payload arrives byte by byte as it was sent, so that it can be signed."""
    groups: bool = False
    """Several processes can share the messages: `group=`. Those of a broker that is not durable share what is there."""
    names: bool = False
    """A reader's position can be kept under a name: `name=`."""
    history: bool = False
    """What was sent before can be read."""
    dead_letters: bool = False
    """What `Adapter.bury` has written can be listed, and sent back to whoever gave it up."""
    delays: bool = False
    """A record that has a `Record.due` is stored at once, and delivered when it is due."""
    headers: bool = False
    """Metadata travels beside the payload; else the relay puts both in an envelope."""
    push: bool = True
    """Messages arrive without being asked for, so that silence proves nothing: the relay sends itself a beat, which
    comes back by `Adapter.listen`. If not, `Adapter.receive` asks, and returns within two seconds also when there is
    nothing."""
    lease: float | None = None
    """Seconds after which an unfinished message is given to another process unless `Adapter.extend` was called."""
    max_payload: int | None = None
    """Bytes that one record may have: payload, names and values of headers together."""


class Record(NamedTuple):
    """What is to be sent."""

    key: Key[Any]
    """An exact key; the adapter makes an address of it from which the same key can be made again."""
    payload: bytes
    headers: Mapping[str, str] = {}
    """Metadata; empty unless `Features.headers`."""
    sequence: int = 0
    """Grows with every record of a `Link.sender`, in the order in which they are sent; a record sent again has the
    same. 0 for control messages."""
    is_control: bool = False
    """It is a control message: for whoever listens to this very key just now, by `Adapter.listen`, and for nobody
    else. It is not stored."""

    @property
    def due(self) -> float | None:
        """When it is to be delivered, in seconds since the epoch; None: at once. See `DelayedRecord`."""
        return None


class DelayedRecord(Record):
    """What is to be sent, and delivered to nobody before it is due; only with `Features.delays`.

    It counts as sent when it is stored: whatever becomes of the sender, every reader gets it within a second after it
    is due, the sender included. It takes its place among the others then, so that no reader has passed it by. A
    sequence that is sent again stores nothing a second time, neither before nor after.
    """

    _due: float

    @classmethod
    def at(cls, due: float, record: Record) -> DelayedRecord:
        """The same record, due at a time."""
        delayed = tuple.__new__(cls, record)
        delayed._due = due
        return delayed

    @property
    def due(self) -> float:
        """When it is to be delivered, in seconds since the epoch."""
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
    is_replayed: bool = False
    """It was sent before this reader began: a retained message, say."""
    is_control: bool = False
    """It came by `Adapter.listen`."""
    trouble: Exception | None = None
    """Why it cannot be read; `key` and `payload` are then the best that can be said of it. The relay counts it, logs
    it, and buries it where there are dead letters. Of a control message: it stands for a reply that will not come."""


class SentBack(Received):
    """A dead letter that came back by `Adapter.redeliver`; stands among what was received.

    The relay skips it unless the link's `Link.reader` is its `reader`. An adapter that delivers it to nobody else
    says so all the same: to that reader it is no duplicate, though perhaps it is not buried for all there by then.
    """

    reader: str

    @classmethod
    def to(cls, reader: str, received: Received) -> SentBack:
        """What was received, sent back to that `Link.reader`."""
        sent = tuple.__new__(cls, received)
        sent.reader = reader
        return sent

    def _replace(self, **changes: Any) -> SentBack:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.to(self.reader, Received(*self)._replace(**changes))


class Buried(NamedTuple):
    """A dead letter, as an adapter has it."""

    received: Received
    """What `Adapter.bury` was given: its key, payload, headers, attempts, and its own position in the log."""
    reason: str
    """Why it was given up; empty if nobody has written that."""
    position: str
    """Where the letter itself stands, unique within the broker, and unchanged as long as it is there."""
    time: float | None = None
    """When it was written, in seconds since the epoch."""
    reader: str | None = None
    """The `Link.reader` of whoever gave it up; None if that is not known, as of letters that others have written."""


class Loss(NamedTuple):
    """Stands among what was received, at the very place where the broker's log proves that messages are missing."""

    reason: str
    """In a few words: trimmed, expired, recreated."""
    count: int | None = None  # type: ignore[assignment]  # as in `Gap`
    """How many; None if that is unknown."""
    lane: Hashable = None
    since: float | None = None
    """When the last message before it came, in seconds since the epoch, if the adapter knows better than the relay."""
    keys: tuple[Key[Any], ...] | None = None
    """Of which keys they are; None if that is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What an adapter gets from the relay when it connects."""

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
    """False if no messages are to be read: `Adapter.receive` then returns control messages only, or is not called."""
    incoming: tuple[Key[Any], ...] = ()
    """All that may come in, none covered by another. A durable broker that matches patterns has exactly these bound
    to the group or name when `connect` returns: what an older configuration bound beyond them is unbound there."""
    control: tuple[Key[Any], ...] = ()
    """Keys of the control messages for this connection, which `Adapter.listen` is given after `connect`."""
    window: int = 1000
    """Messages that may be unfinished at a time: what a broker that pushes may send ahead."""
    room: Callable[[], int] = lambda: 1000
    """For how many messages there is room now. A read asks for no more, over all lanes together; what a group's member
    has no room for stays with the others. Where control messages come another way than the others, it may be 0: then
    `receive` waits for control messages only, and for no longer than a second."""
    wanted: Callable[[], Sequence[Key[Any]]] = lambda: ()
    """The patterns that somebody wants now, and that `Adapter.subscribe` is about to be given."""
    encode: Callable[[Any], bytes] | None = None
    """Returns the payload of a message, by the codec of the bridge; for adapters that publish messages themselves.
    None without a bridge."""
    release: Callable[[Collection[Hashable]], Awaitable[None]] | None = None
    """To be awaited when the broker takes lanes away: it finishes what is in hand of them, within a deadline, and has
    it acknowledged."""

    @property
    def reader(self) -> str:
        """Who reads, as dead letters name it: `group:` or `name:` and which, or an empty text for all with neither."""
        return f"group:{self.group}" if self.group is not None else "" if self.name is None else f"name:{self.name}"


class Adapter:
    """One broker's transport. Subclasses override what their `features` promise.

    The relay calls `connect` first, and after any exception `lost` and then, a while later, `connect` again on the
    same object, which therefore keeps what has to outlive a connection: its position in a log, say. Whatever the driver
    does to reconnect or retry by itself is switched off. Every exception but those of `send`'s result means that the
    connection is lost. Passwords appear in no exception, log line or `repr`.

    At any time one call of `receive` is running, and beside it at most one of `send` and a few of the others.
    """

    features = Features()
    """What it can do at best; see `features_for`."""
    lag: int | None = None
    """Messages at the broker that were not received yet, as of when something was received last; None if unknown."""
    unroutable: int = 0
    """Messages that were sent, and confirmed, though the broker had nobody to give them to; 0 if it does not say."""
    refused_patterns: Mapping[Key[Any], Exception] = {}
    """What of the patterns that it was asked to subscribe to, or to respond to, the broker refuses, and why; the others
    work. `Bridge.ready` raises it."""
    activity: int = 0
    """Changes whenever bytes have moved over any of its connections, in either direction; see `bytes_moved`. While it
    connects, or subscribes, the relay takes a line that moves for alive, however slow it is."""
    receiving: int | None = None
    """The same, of what arrives where `receive` reads; None if nobody counts it: then only what `receive` returns is a
    sign of life."""
    sending: int | None = None
    """The same, of what moves where `send` writes; None if nobody counts it: then a call may take as long as its bytes
    would over a slow line."""

    def features_for(self, link: Link) -> Features:
        """Return what it can do for such a link: with a group, say. Asked before anything else, connected or not."""
        return self.features

    async def connect(self, link: Link) -> None:
        """Return when the broker has answered; also get ready to receive if `link.reads`."""
        raise NotImplementedError

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Have the control messages of these exact keys sent to this connection; return when that is confirmed.

        Called once after each `connect`. What is listened to goes to this connection alone: it is never stored, never
        shared with a group, and gone with the connection. By default it is subscribed like anything else, which is
        right only where nothing is stored or shared: what is durable or has groups overrides this. Otherwise such a
        link has no control messages: no beats, no replies, no notice of what a sender dropped.
        """
        await self.subscribe(keys)

    async def ping(self) -> None:
        """Return when the broker has answered. Called while nothing is read for lack of room."""

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Send, in order, and return when it is known of all what `features.confirms` says.

        Returns the errors of those which the broker refuses for good, by their index. A broker that refuses a batch as
        a whole has an error for each: the relay then sends them one by one, and only what is refused alone counts. An
        exception leaves open which of them were sent: the relay sends all of them again, and a record that costs the
        connection whenever it is sent alone is refused.

        Raises:
            BrokerBusy: The broker takes nothing just now: it is out of memory, or lacks replicas. Nothing was sent.
        """
        raise NotImplementedError

    async def receive(self) -> Sequence[Received | Loss]:
        """Wait for messages and return those that are there, in order; no more than `link.room()` where it can choose.

        Never cancelled while it waits: `close` makes it return or raise. Without `features.push` it returns an empty
        sequence when nothing came for a second or so.

        Raises:
            BrokerBusy: Nothing can be received for now, since the broker cannot note who has it. After ten seconds of
                that the connection counts as lost.
        """
        raise NotImplementedError

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Have what matches these sent, too; return when the broker has confirmed it.

        Only with `features.patterns`. They may overlap, but none covers another. A new connection has no subscriptions,
        unless they are durable: then these are all of `link.incoming`, they may be bound already, and they stay.
        """

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`. Never called where subscriptions are durable: what nobody listens to now is kept."""

    async def respond(self, patterns: Sequence[Key[Any]]) -> None:
        """Have requests of these keys passed on to this connection; return when the broker has confirmed it.

        Only with `features.responders`. Each request is received once, whether its key is subscribed to or not. A new
        connection responds to nothing.
        """

    async def unrespond(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `respond`."""

    async def ack(self, tokens: Sequence[Any]) -> None:
        """Have these count as handled. With `acks="prefix"` it is the last of each lane, and stands for all before."""

    async def extend(self, tokens: Sequence[Any]) -> None:
        """Keep these, which are still being handled, from being given to another process."""

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        """Let other members of the group have these at once, in their order; nothing counts as an attempt by that.

        Called when a member of a group closes with messages in hand, before `close`. By default nothing is done: for
        brokers that give back by themselves what a closed connection had not acknowledged.
        """

    async def bury(self, received: Received, why: str) -> Exception | None:
        """Write a message that cannot be handled where the broker's dead letters are; return when that is confirmed.

        `received.attempts` is how often listeners were called with it. With `features.dead_letters` the reason, that
        number, `received.position` and `Link.reader` are written along, apart from the message's own headers.

        Returns the error if the broker refuses it for good: the relay then tries once more without the payload. An
        exception is passing, and it is tried again.
        """
        raise NotImplementedError

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        """Return the last `limit` dead letters of the namespace, whoever gave them up, the oldest first.

        Only with `features.dead_letters`. With `before` the last ones that are older than the letter of that position,
        which may be gone by now. Nothing is changed by it, and links that read nothing have them too.
        """
        raise NotImplementedError

    async def redeliver(self, position: str) -> None:
        """Deliver a dead letter again, to whom `Buried.reader` says alone, and remove it; return when that is stored.

        Only with `features.dead_letters`. What is delivered is what `bury` was given, with nothing that it has added.
        A group or a name gets it, also if nobody of it is there now; those with neither get it, who are there; and
        everybody if it does not say for whom it is. Removed and delivered in one step, or else delivered first: no
        letter is lost, whatever happens in between.

        Raises:
            NoSuchLetter: There is none at that position, any more or at all.
        """
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

    def forget(self) -> None:
        """Forget the connection without touching it: its loop is closed, or is that of the parent of a forked process.

        `connect` follows, perhaps. By default nothing is done, for adapters whose `connect` replaces all there is.
        """


def bytes_moved(transport: Any) -> int:
    """How many bytes have moved over a transport's connection, in both directions, as the kernel counts them.

    Of those which were sent, only what the other side's kernel has acknowledged counts: a line that is slow moves, and
    one that is dead does not. 0 where the system does not say: beyond Linux, and for other sockets than TCP.
    """
    return sum(bytes_each_way(transport))


def bytes_each_way(transport: Any) -> tuple[int, int]:
    """The same by direction: what was sent and acknowledged, and what was received."""
    sock = transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        acknowledged, received = struct.unpack_from("=QQ", info, _BYTES_ACKNOWLEDGED)
    except (AttributeError, OSError, struct.error):
        return 0, 0
    return int(acknowledged), int(received)


# Where `struct tcp_info` of Linux has tcpi_bytes_acked, and behind it tcpi_bytes_received.
_BYTES_ACKNOWLEDGED = 120
_TCP_INFO_BYTES = 136
