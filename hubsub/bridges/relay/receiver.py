"""The receiving half of a bridge: each message of the broker becomes an event of the hub, once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from time import time as now
from typing import Any

from ..._core.ids import is_unguessable
from ...errors import DecodeError, SignatureError, WildcardPublished
from ...event import Event, Gap, ListenerFailure, Meta
from ...hub import Hub
from ...key import NAMESPACE, PLUS, STAR, Key, is_subset, meet
from ...log import Episode, Logger
from ..adapter import Adapter, Features, Loss, Received, SentBack
from ..address import cached
from .attributes import DUE
from .durable import Durable
from .plan import GAPS, Plan
from .replies import OpenRequests, address_of_request
from .seen import HubBridges, Name, name_of
from .sender import Sender
from .wire import GAP, MESSAGE, Wire, as_tuple

# The fields of a `Meta` that a bridge sets: the position, and whether it was redelivered or replayed.
POSITION = Meta._fields.index("position")
# What happens to the messages of a key.
PASSES_BY, ENTERS, IS_WILD = range(3)


class Receiver:
    """Delivers what an adapter receives to a hub.

    A message that fails to be decoded, routed or handled affects no other: `_receive` is the only place that handles
    such a failure. Messages of a durable broker continue in `Durable`.

    Args:
        hub: The hub.
        plan: The options.
        features: What the broker can do.
        wire: Decodes.
        shared: What the bridges of the hub share.
        number: That of the bridge, among them.
        sender: The sending half, which sends the replies, but none of the messages that come in here.
        requests: The requests that left by it.
        log: For failures.
        broker: Names the broker in the source of foreign messages.
        owner: The bridge, for `on_error`.
    """

    def __init__(
        self,
        hub: Hub,
        plan: Plan,
        features: Features,
        wire: Wire,
        shared: HubBridges,
        number: int,
        sender: Sender,
        requests: OpenRequests,
        log: Logger,
        broker: str,
        owner: object,
    ) -> None:
        self._border = hub.border
        self._plan = plan
        self._features = features
        self._wire = wire
        self._seen = shared.seen
        self._number = number
        self._sender = sender
        self._requests = requests
        self._log = log
        self._trouble = Episode(log)
        self._broker = broker
        self._owner = owner
        self._shares = plan.group is not None
        self._is_durable = features.durable
        # In a log that is read whole, the notices of gaps are at their places.
        self._reads_log = features.durable and not features.patterns and not self._shares
        # If the broker delivers old or repeated messages, a signature cannot reveal a replay.
        self._is_live = not (features.durable or features.resumes) and features.acks == "none"
        self._full_key = cached(self._with_prefix) if plan.prefix else None
        self._entry = cached(self._entry_of)
        border, out = hub.border, sender.outbox
        self.durable = Durable(
            plan,
            features,
            shared.seen,
            border.relay,
            border.relay_at_once,
            out,
            self._report_interrupt,
            lambda: hub.is_open,
            log,
        )
        self._has_replayed = False
        self.received = 0
        self.echoes = 0
        self.duplicates = 0
        self.gaps = 0
        self.undecodable = 0
        self.last_received: float | None = None

    def connected(self, adapter: Adapter) -> None:
        """Called for each new connection."""
        self.durable.connected(adapter)

    # Messages

    def receive(self, batch: Sequence[Received | Loss]) -> None:
        """Deliver a batch to the hub; never waits, never raises."""
        self.last_received = now()
        for received in batch:
            try:
                if type(received) is Received:
                    self._receive(received)
                else:
                    self._receive_other(received)
            except Exception as error:
                self._refuse(received, error)  # type: ignore[arg-type]
            except BaseException as error:
                self._pass_on(received, error)  # type: ignore[arg-type]

    def _receive_other(self, received: Received | Loss) -> None:
        if isinstance(received, Loss):
            self.lost(received)
        elif isinstance(received, SentBack) and received.reader != self._plan.reader:
            self.durable.skip(received)
        else:
            self._receive(received)

    def _receive(self, received: Received) -> None:
        # All at once, in a tenth of the time of one by one.
        key, payload, headers, lane, position, _, attempts, _, is_replayed, _, trouble = received
        if self._full_key is not None:
            key = self._full_key(key)
        if (entry := self._entry(key)) != ENTERS:
            if entry == IS_WILD:
                raise WildcardPublished(key)
            if key[0] == NAMESPACE:
                self._receive_control(received)
            self.durable.skip(received)
            return
        if trouble is not None:
            raise trouble
        if not self._shares and self._wire.is_own(payload, headers) and not self._was_delayed(received):
            self.echoes += 1
            self.durable.skip(received)
            return
        live = self._is_live and not is_replayed
        about = position, attempts > 0, is_replayed
        if headers and (plain := self._wire.unpack_plain(key, payload, headers, live, about)) is not None:
            message, meta = plain
        else:
            kind, message, some_meta = self._wire.unpack_other(key, payload, headers, live)
            if kind != MESSAGE:
                self.durable.skip(received)
                return
            meta = self._inward(received, key, some_meta)
        id, source = meta[0], meta[1]
        name: Name | None = None
        if id is not None:
            # As `name_of`, inlined: a call for each message would show in the throughput.
            name = (source, id, key) if is_unguessable(id) else (source, id, key, self._number, lane)
        # As its constructor.
        event: Event[Any] = as_tuple(Event, (key, message))
        event.meta = meta
        if name is not None and (known := self._seen.see(name)) is not None:
            if isinstance(received, SentBack) and self.durable.is_burying(known):
                self._seen.note(name)
            else:
                self.duplicates += 1
                self._log.debug("%r is a duplicate: its id %r was seen before", key, id)
                self.durable.again(received, known)
                return
        self.received += 1
        if self._is_durable:
            self.durable.begin(received, event, name)
            return
        self._border.relay(event, exclude=self._sender.outbox, bounded=True)

    def _inward(self, received: Received, key: Key[Any], meta: Meta | None) -> Meta:
        """Return the metadata of a received message."""
        position = received.position
        if meta is None:
            meta = Meta(time=received.time, hops=1)
        if meta.id is None and position is not None:
            # From a foreign producer: its position identifies it, for as long as the log exists.
            meta = meta._replace(id=position, source=self._broker, time=meta.time or received.time)
        if meta.reply_to is not None:
            to = address_of_request(self._sender.reply, key, meta)
            meta = meta._replace(reply_to=to, correlation=None if to is None else meta.correlation)
        if meta.due is not None:
            meta = meta._replace(due=None)  # the request is over: other targets of the reply need not wait
        if position is not None or received.attempts or received.is_replayed:
            about = position, received.attempts > 0, meta.replayed or received.is_replayed
            # As `_replace`, inlined: it would show in the throughput.
            meta = as_tuple(Meta, meta[:POSITION] + about + meta[POSITION + len(about) :])
        return meta

    def _was_delayed(self, received: Received) -> bool:
        """True if it is a delayed message of ours: nobody here has received it yet, so it is not an echo."""
        if not self._features.delays:
            return False
        if received.headers:
            return f"ce_{DUE}" in received.headers
        if received.payload is None or DUE.encode() not in received.payload:
            return False
        meta = self._wire.unpack(self.key_here(received.key), received.payload, {}, False).meta
        return meta is not None and meta.due is not None

    def key_here(self, key: Key[Any]) -> Key[Any]:
        """Return the key on this side for one at the broker."""
        return key if self._full_key is None else self._full_key(key)

    def _with_prefix(self, key: Key[Any]) -> Key[Any]:
        return key if key[0] == NAMESPACE else self._plan.prefix + key

    def _entry_of(self, key: Key[Any]) -> int:
        if key[0] == NAMESPACE or not any(is_subset(key, pattern) for pattern in self._plan.incoming):
            return PASSES_BY
        return IS_WILD if STAR in key or PLUS in key else ENTERS

    # Failures

    def _refuse(self, received: Received, error: Exception) -> None:
        """Count and log a message that failed, and make it a dead letter if the broker can."""
        if isinstance(error, SignatureError) and error.is_replay:
            self.duplicates += 1
            self._log.debug("%r is a duplicate: this very signature was seen before", received.key)
            self.durable.skip(received)
            return
        self.undecodable += 1
        if self._trouble.error("a message of %r is refused; the next ones are delivered", received.key, error=error):
            self._border.report_error(ListenerFailure(received.key, received.payload, self._owner, error))
        meta = getattr(error, "meta", None)
        if isinstance(error, DecodeError) and meta is not None and meta.reply_to is not None:
            to = address_of_request(self._sender.reply, received.key, meta)
            if to is not None:
                to.request.fail(error)
        if self._features.durable:
            self.durable.refuse(received, error)
        else:
            self.durable.skip(received)

    def _pass_on(self, received: Received, error: BaseException) -> None:
        """Log what a listener raised that is not an `Exception`; if it ends programs, let the loop raise it."""
        self._report_interrupt(Event(received.key, received.payload), error)
        self.durable.skip(received)

    def _report_interrupt(self, event: Event[Any], error: BaseException) -> None:
        self._log.error(
            "%r: a listener raised an exception that ends programs; the bridge goes on", event[0], error=error
        )
        if isinstance(error, KeyboardInterrupt | SystemExit):
            # These end the loop.
            asyncio.get_running_loop().call_soon(_raise, error)

    # Between bridges

    def _receive_control(self, received: Received) -> None:
        key = received.key
        try:
            live = self._is_live or received.is_control
            kind, message, meta = self._wire.unpack(key, received.payload, received.headers, live)
        except DecodeError as error:
            if key == self._requests.address:
                self._requests.receive_garbled(error)
            return
        if key == self._requests.address:
            if received.trouble is not None:
                self._requests.lose(meta)
            else:
                self._requests.receive(message, meta)
        elif key == GAPS and kind == GAP and meta is not None and meta.source != self._border.origin:
            if received.is_control and self._reads_log:
                return
            name = None if meta.id is None else name_of(meta.source, meta.id, key, self._number, None)
            if name is None or self._seen.see(name) is None:
                self._sender_lost(message)

    # Gaps

    def lost(self, loss: Loss) -> None:
        """Report that the broker has lost messages."""
        time = now()
        gap = Gap(loss.reason, loss.count, loss.since or self.last_received or time, time, loss.keys)
        if loss.keys is None:
            self.report(gap)
        else:
            self._report_of_keys(gap, loss.keys)

    def report(self, gap: Gap) -> None:
        """Report that messages are missing."""
        self.gaps += 1
        self._log.warning("messages may be missing: %s, %s", gap.reason, "some" if gap.count is None else gap.count)
        self._border.report_gap(list(self._plan.incoming), gap)

    def _sender_lost(self, notice: Any) -> None:
        """Report to the subscriptions concerned that another hub had to drop messages."""
        gap, patterns = notice
        self._report_of_keys(gap, patterns if gap.keys is None else gap.keys)

    def _report_of_keys(self, gap: Gap, concerned: Sequence[Key[Any]]) -> None:
        """Tell those who might have got messages of some keys, or patterns, that they are missing."""
        if self._plan.prefix:
            concerned = [self._with_prefix(key) for key in concerned]
        incoming = self._plan.incoming
        named = [both for each in concerned for into in incoming if (both := meet(each, into)) is not None]
        if named:
            self.gaps += 1
            self._border.report_gap(named, gap)

    # History

    def events_of(self, found: Sequence[Received], patterns: Sequence[tuple[str, ...]], limit: int) -> list[Event[Any]]:
        """Return the last `limit` events of each lane that match, marked as replayed."""
        lanes: dict[Hashable, deque[Event[Any]]] = {}
        for received in found:
            key = self.key_here(received.key)
            if isinstance(received, SentBack):
                continue  # the hub retains it already, from its publish
            if key[0] == NAMESPACE or received.trouble is not None or STAR in key or PLUS in key:
                continue
            if any(is_subset(key, pattern) for pattern in patterns):
                try:
                    kind, message, meta = self._wire.unpack(key, received.payload, received.headers, False)
                except DecodeError:
                    continue
                if kind == MESSAGE:
                    # A request from history no longer waits for a reply.
                    meta = self._inward(received, key, meta and meta._replace(reply_to=None, correlation=None))
                    meta = meta._replace(replayed=True)
                    lanes.setdefault(received.lane, deque(maxlen=limit)).append(Event(key, message, meta))
        return [event for lane in lanes.values() for event in lane]

    async def begin_with_history(self, adapter: Adapter) -> None:
        """Deliver the history that was asked for, once."""
        if self._plan.history and not self._has_replayed:
            found = await adapter.history(self._plan.history_scan)
            self.replay(found, self._plan.history)
            self._has_replayed = True

    def replay(self, found: Sequence[Received], limit: int) -> None:
        """Deliver the last `limit` messages of each lane to the hub."""
        lane_of: dict[object, Hashable] = {received.position: received.lane for received in found}
        for event in self.events_of(found, self._plan.incoming, limit):
            meta = event.meta
            assert meta is not None
            if meta.id is not None:
                lane = lane_of.get(meta.position)
                name = name_of(meta.source, meta.id, event[0], self._number, lane)
                if self._seen.see(name) is not None:
                    continue
            self.received += 1
            try:
                self._border.relay(event, exclude=self._sender.outbox, bounded=True)
            except Exception as error:
                self._refuse(Received(event[0], None), error)


def _raise(error: BaseException) -> None:
    raise error
