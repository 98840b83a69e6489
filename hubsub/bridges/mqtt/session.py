"""The connections of an adapter to its broker, from one `connect` until they are lost or closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ...key import NAMESPACE, Key
from ..adapter import Link, Loss, Received, Record
from ..inbox import Inbox
from ..lines import Line
from .connection import PUBACK, PUBREC, Connection, Question, short
from .copies import Copies
from .errors import refusal
from .options import Server
from .owner import Owner
from .packing import GAPS, Packing
from .topics import Topics, headers_of, quoted

POLL = 0.02
"""Seconds between two looks at whether there is room."""
NO_FILTERS = ("$share/", "$queue/")
"""How a filter begins that is not one of topics."""


class Session(Line):
    """The connections: one, or two where a name has a session of its own at the broker.

    The session of a name is there while nobody is connected, and keeps what it is subscribed to. So control messages,
    which are for one connection, and what is sent have another one.

    Args:
        server: Where the broker is.
        link: The link that is connected.
        is_durable: The link has a session that outlives its connections.
        was_there: It was there before.
    """

    def __init__(self, server: Server, link: Link, *, is_durable: bool, was_there: bool) -> None:
        self._server = server
        self._driver = server.driver
        self._link = link
        self._is_durable = is_durable
        self._was_there = was_there
        self._topics = Topics(link.namespace)
        self._packing = Packing(server, self._topics)
        self._copies = Copies()
        self._last = len(link.incoming)  # identifier of a subscription; lower ones are those of groups
        self._filters: dict[str, tuple[int, set[Key[Any]]]] = {}  # the identifier of each, and its patterns
        self._listens: dict[str, int] = {}  # of each topic of control messages
        self._owner = Owner(link, self._topics, self._driver) if is_durable else None
        self._closing: asyncio.Future[None] | None = None
        self._inbox = Inbox()
        self._came: list[Received] = []  # together, and not handed over yet
        self._waiting: deque[Received] = deque()  # for room
        self._unacknowledged: deque[tuple[int | None, int, int]] = deque()  # token, id and QoS, as they came
        self._tokens = 0
        self._has_identifiers = True
        self.connections: list[Connection] = []
        self.reader: Connection | None = None
        self.sender: Connection | None = None

    # Opening and closing

    async def open(self) -> None:
        """Connect; with a session, also subscribe to all that is incoming, and to nothing else.

        Raises:
            NameTaken: Another bridge has the session, and lives.
        """
        link, own = self._link, self._server.client_id
        client_id = own or f"hubsub-{link.sender}"
        if self._owner is None:
            self.sender = self.reader = await self._connect(self._take, client_id, will=self._will())
        else:
            await self._open_session(self._owner, own or quoted(f"hubsub-{link.namespace}-{link.name}"), client_id)
        if (will := self._server.will) is not None:
            await self._say(will, "up")

    async def _connect(
        self, take: Any, client_id: str, *, clean_start: bool = True, expiry: int = 0, will: Any = None
    ) -> Connection:
        connection, answer = await self._server.connect(
            take,
            self._taken,
            self._lost,
            self.connections,
            client_id=client_id,
            clean_start=clean_start,
            session_expiry_interval=expiry,
            receive_max=max(1, min(65535, self._link.window)),
            will=will,
        )
        self._has_identifiers = answer.subscription_id_available
        self._has_session = answer.session_present
        return connection

    async def _open_session(self, owner: Owner, client_id: str, other_id: str) -> None:
        loop, link = asyncio.get_running_loop(), self._link
        other_id = other_id if other_id != client_id else f"{client_id}-control"
        self.sender = await self._connect(self._take_control, other_id, will=self._will())
        began = loop.time()
        # With QoS 0 it comes before the answer to whatever is asked next.
        await self._subscribe_over(self.sender, [(topic, 0, {}) for topic in (owner.record, owner.call)], qos=0)
        await owner.learn(self.sender, loop.time() - began)
        known = owner.filters or {}
        self._last = max(known.values(), default=self._last)
        wanted: dict[str, int] = {}
        for pattern in link.incoming:
            if filter := self._filter(pattern):
                wanted[filter] = known.get(filter) or self._next_number()
                self._copies.add(pattern, wanted[filter])
        both = {**known, **wanted}
        expiry = self._server.session
        self.reader = await self._connect(
            self._take, client_id, clean_start=False, expiry=expiry, will=owner.will(both)
        )
        if not self._has_session and (self._was_there or owner.filters is not None):
            self._inbox.put([Loss("session expired")])
        await owner.write(self.reader, both)
        if old := [filter for filter in known if filter not in wanted]:
            unsubscribe = self._driver.UnsubscribePacket
            await self.reader.ask([(lambda id: unsubscribe(id, old), None)])
            await owner.write(self.reader, wanted)
        # What was subscribed to before stays as it is, and what is retained there does not come again.
        only_new = self._driver.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        settings = {"retain_handling": only_new}
        asked = [(filter, number, settings) for filter, number in wanted.items()]
        await self._subscribe_over(self.reader, asked, qos=self._server.qos)

    def _will(self) -> Any:
        key = self._server.will
        if key is None:
            return None
        once, topic = self._driver.QoS.AT_LEAST_ONCE, self._topics.topic(key)
        return self._driver.Will(topic, payload=b'"down"', qos=once, retain=True, content_type="application/json")

    async def _say(self, key: Key[Any], state: str) -> None:
        """Publish the state of the bridge, retained."""
        packet, once, topic = self._driver.PublishPacket, self._server.levels[1], self._topics.topic(key)

        def pack(record: Record, id: int | None) -> bytes:
            about = {"content_type": "application/json", "qos": once, "packet_id": id, "retain": True}
            data: bytes = packet(topic, record.payload, **about).write()
            return data

        refused = await self._sending().publish([Record(key, f'"{state}"'.encode())], pack, lambda record: 1)
        for error in refused.values():
            raise error

    def _lost(self) -> None:
        """Called when a connection has failed: then all have."""
        error = next((each.failure() for each in self.connections if each.error is not None), None)
        self._inbox.fail(error or ConnectionResetError("the connection to the MQTT broker is closed"))

    async def close(self) -> None:
        await self._close(goodbye=False)

    async def leave(self) -> None:
        """End the connections with a goodbye, so that no last will is published."""
        await self._close(goodbye=True)

    async def _close(self, *, goodbye: bool) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end(goodbye))
        await asyncio.shield(self._closing)

    async def _end(self, goodbye: bool) -> None:
        sender = self.sender
        if goodbye and sender is not None and sender.error is None:
            if self._owner is not None:
                self._owner.leave()
            if (will := self._server.will) is not None:
                topic = self._topics.topic(will)
                packet = self._driver.PublishPacket(topic, b'"closed"', retain=True, content_type="application/json")
                sender.write(packet.write())
        await asyncio.gather(*(connection.close(goodbye) for connection in self.connections))
        self._lost()

    @property
    def activity(self) -> int:
        return sum(connection.moved for connection in self.connections)

    @property
    def receiving(self) -> int | None:
        return None if self.reader is None else self.reader.received

    @property
    def sending(self) -> int | None:
        return None if self.sender is None else self.sender.moved

    # Subscribing

    def _next_number(self) -> int:
        self._last += 1
        return self._last

    def _filter(self, pattern: Key[Any]) -> str:
        """Return the filter of a pattern; an empty text if no message can match it."""
        filter = self._topics.filter(pattern)
        return "" if filter.startswith(NO_FILTERS) else filter

    def _shared(self, filter: str) -> str:
        group = self._link.group
        return filter if group is None else f"$share/{quoted(group)}/{filter}"

    async def _subscribe_over(
        self, connection: Connection, asked: Sequence[tuple[str, int, Mapping[str, Any]]], qos: int
    ) -> None:
        driver, levels, packets = self._driver, self._server.levels, []
        for filter, number, settings in asked:
            options = driver.TopicFilter(filter, max_qos=levels[qos], retain_as_published=False, **settings)
            identifier = number if number and self._has_identifiers else None

            def subscribe(id: int, options: Any = options, identifier: int | None = identifier) -> Any:
                return driver.SubscribePacket(id, [options], subscription_id=identifier)

            packets.append((subscribe, None))
        for (filter, *_), answer in zip(asked, await connection.ask(packets), strict=True):
            code = answer.reason_codes[0]
            if int(code) >= 0x80:
                raise refusal(f"refuses a subscription to {filter!r}", answer, code)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Subscribe, unless that is done already."""
        if self._owner is not None:
            return
        asked = []
        # A broker refuses it with a group: there any member may get what another one sends.
        settings = {"no_local": self._link.group is None}
        for pattern in patterns:
            filter = self._filter(pattern)
            if filter in self._filters:
                self._filters[filter][1].add(pattern)
            elif filter:
                number = self._number_of(pattern)
                self._filters[filter] = number, {pattern}
                self._copies.add(pattern, number)
                asked.append((self._shared(filter), number, settings))
        await self._subscribe_over(self._reading(), asked, qos=self._server.qos)

    def _number_of(self, pattern: Key[Any]) -> int:
        """Return the identifier of a pattern: in a group the same for all members, as any of them may get a copy."""
        incoming = sorted(self._link.incoming)
        if self._link.group is None or pattern not in incoming:
            return self._next_number()
        return 1 + incoming.index(pattern)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        asked = []
        for pattern in patterns:
            filter = self._filter(pattern)
            number, patterns_of = self._filters.get(filter, (0, set()))
            patterns_of.discard(pattern)
            if number and not patterns_of:
                del self._filters[filter]
                asked.append(self._unsubscribing(pattern, self._shared(filter), number))
        await self._reading().ask(asked)

    def _unsubscribing(self, pattern: Key[Any], filter: str, number: int) -> Question:
        packet, copies = self._driver.UnsubscribePacket, self._copies
        return lambda id: packet(id, [filter]), lambda: copies.remove(pattern, number)

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Subscribe to control messages, by the connection that sends."""
        asked: list[Any] = []
        for key in keys:
            topic = self._topics.topic(key)
            self._listens[topic] = self._next_number()
            asked.append((topic, self._listens[topic], {}))
        # Of QoS 1 are the notices of gaps.
        await self._subscribe_over(self._sending(), asked, qos=1)

    def _sending(self) -> Connection:
        if self.sender is None:
            raise ConnectionResetError("the connection to the MQTT broker is closed")
        return self.sender

    def _reading(self) -> Connection:
        if self.reader is None:
            raise ConnectionResetError("the connection to the MQTT broker is closed")
        return self.reader

    # Carrying

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Publish; return the errors of those that are refused."""
        return await self._sending().publish(records, self._packing.pack, self._packing.qos)

    async def ping(self) -> None:
        """Return when the broker has answered."""
        await self._reading().ping()

    def _take_control(self, packet: Any) -> None:
        """A message came by the connection that only sends and listens."""
        topic, owner = packet.topic, self._owner
        if packet.packet_id is not None:
            self.connections[0].answer(short(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id))
        if owner is not None and topic in (owner.record, owner.call):
            owner.hear(topic, packet.payload, is_retained=packet.retain)
        elif topic in self._listens:
            self._came.append(self._received(self._topics.key(topic), packet)._replace(is_control=True))

    def _taken(self) -> None:
        """Hand over what came together."""
        if self._came:
            came, self._came = self._came, []
            self._inbox.put(came)

    def _take(self, packet: Any) -> None:
        """A message came."""
        topic, id, numbers = packet.topic, packet.packet_id, packet.subscription_ids
        key = self._topics.key(topic)
        if self._owner is not None:
            if key is None or (key[0] == NAMESPACE and key != GAPS) or not self._copies.counts(key, numbers):
                self._note(None, packet)
            else:
                self._tokens += 1
                token = self._tokens if self._note(self._tokens, packet) else None
                self._waiting.append(self._received(key, packet)._replace(token=token))
                self._inbox.ring()
            return
        if id is not None:
            self.connections[0].answer(short(PUBACK if packet.qos == 1 else PUBREC, id))
        if topic in self._listens:
            if not numbers or self._listens[topic] in numbers:
                self._came.append(self._received(key, packet)._replace(is_control=True))
        elif key is not None and key[0] != NAMESPACE and self._copies.counts(key, numbers):
            self._came.append(self._received(key, packet))

    def _received(self, key: Any, packet: Any) -> Received:
        content_type, payload, duplicate, retain = packet.content_type, packet.payload, packet.duplicate, packet.retain
        if not payload and content_type is None:
            payload = None  # with a content type it may be a text that is empty
        headers = headers_of(content_type, packet.user_properties)
        if duplicate or retain:
            return Received(key, payload, headers, attempts=int(duplicate), is_replayed=retain)
        return Received(key, payload, headers)

    async def receive(self) -> Sequence[Received | Loss]:
        """Wait for messages, and return those for which there is room."""
        inbox, waiting = self._inbox, self._waiting
        while True:
            items = inbox.take()
            if waiting:
                items += [waiting.popleft() for _ in range(min(len(waiting), self._link.room()))]
            if items:
                return items
            await inbox.wait(POLL if waiting else None)

    # Acknowledging: brokers are answered in the order in which they have asked

    def _note(self, token: int | None, packet: Any) -> bool:
        """Note what has to be acknowledged; without a token it may be, as soon as everything before it is."""
        if packet.packet_id is None:
            return False
        self._unacknowledged.append((token, packet.packet_id, packet.qos))
        if token is None:
            self.ack(0)
        return True

    def ack(self, token: int) -> None:
        """Acknowledge everything up to a token."""
        queue, out = self._unacknowledged, []
        while queue and (queue[0][0] is None or queue[0][0] <= token):
            _, id, qos = queue.popleft()
            out.append(short(PUBACK if qos == 1 else PUBREC, id))
        if out:
            # The connection that reads was opened last; messages may come together with the answer to its CONNECT.
            self.connections[-1].write(b"".join(out))

    async def bury(self, received: Received, why: str) -> Exception | None:
        """Publish a dead letter to the subscribers of this reader's; return the error if it is refused."""
        key = Key(NAMESPACE, "dead", str(self._link.name), *received.key)
        about = {"dead-reason": why, "dead-attempts": str(received.attempts), "dead-reader": self._link.reader}
        refused = await self.send([Record(key, received.payload or b"", {**received.headers, **about})])
        return refused.get(0)
