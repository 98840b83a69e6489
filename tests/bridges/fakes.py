"""Brokers in this process that do what no landed one does, to be harmed like real ones.

Durable queues that are bound to patterns, as of RabbitMQ; groups without durability, as of NATS; sessions that outlive
a connection, as of MQTT.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from itertools import count
from typing import Any, TypeVar

from hubsub import BrokerBusy, Key, NameTaken, NoSuchLetter
from hubsub.bridges import Adapter, Buried, Features, Link, Loss, Received, Record, SentBack
from hubsub.testing import conformance

V = TypeVar("V")

HEARTBEAT = 10.0
"""Seconds of silence after which the broker takes a client for dead when another one wants what it has."""


@dataclass(eq=False)
class Entry:
    """A message in a queue."""

    number: int
    record: Record
    attempts: int = 0
    trouble: Exception | None = None
    """Why nobody can read it."""
    sent_back: str | None = None
    """To whom it was sent back, if it was."""


@dataclass(eq=False)
class Connection:
    """A client, as the broker sees it."""

    link: Link
    line: FakeLine
    control: set[Key[Any]] = field(default_factory=set)
    patterns: set[Key[Any]] = field(default_factory=set)
    inbox: deque[tuple[Entry, bool]] = field(default_factory=deque)
    """What is on its way there; True: it is a control message."""
    unacked: dict[int, Entry] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    broken: asyncio.Event = field(default_factory=asyncio.Event)

    heard: float = 0.0
    """When the broker got something from it last."""

    is_leaving: bool = False

    @property
    def has_room(self) -> bool:
        """It may be sent another message."""
        return not self.is_leaving and len(self.unacked) < self.link.window

    def push(self, entry: Entry, is_control: bool) -> None:
        self.inbox.append((entry, is_control))
        self.news.set()


@dataclass(eq=False)
class Queue:
    """Holds what its bindings match, and shares it among its consumers."""

    link: Link
    """That of whoever made it."""
    bindings: set[Key[Any]] = field(default_factory=set)
    ready: deque[Entry] = field(default_factory=deque)
    consumers: deque[Connection] = field(default_factory=deque)

    def pump(self) -> None:
        """Send the next ones to whoever has room."""
        for _ in range(len(self.consumers)):
            while self.ready and self.consumers[0].has_room:
                consumer = self.consumers[0]
                entry = self.ready.popleft()
                consumer.unacked[entry.number] = entry
                consumer.push(entry, False)
                # Turn and turn about.
                self.consumers.rotate(-1)
            self.consumers.rotate(-1)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Have these again, in their order, before those which came later."""
        self.ready = deque(sorted([*entries, *self.ready], key=lambda entry: entry.number))
        self.pump()


class Exchange:
    """The broker: it outlives its own death, but its connections do not."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.connections: list[Connection] = []
        self.dead: list[tuple[Received, str]] = []
        self.letters: dict[int, tuple[str, Buried]] = {}
        """Those which are there, with their namespaces."""
        self.numbers = count(1)
        self.is_down = False
        self.is_full = False
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.forbidden: set[str] = set()
        self.duplicate: Callable[[Record], bool] = lambda record: False

    def publish(self, record: Record, trouble: Exception | None = None) -> None:
        """Put a record into each queue that it belongs to, and send it to whoever has none."""
        for _ in range(1 + self.duplicate(record)):
            number = next(self.numbers)
            for queue in self.queues.values():
                if any(record.key.is_subset_of(pattern) for pattern in queue.bindings):
                    queue.ready.append(Entry(number, record, trouble=trouble))
                    queue.pump()
            self._share(Entry(number, record, trouble=trouble))

    def publish_later(self, record: Record) -> None:
        """Publish a record when it is due, whatever has become of its sender."""
        assert record.due is not None
        pause = max(0.0, record.due - time.time())
        asyncio.get_running_loop().call_later(pause, self.publish, Record(*record))

    def _share(self, entry: Entry) -> None:
        groups: set[str] = set()
        for connection in list(self.connections):
            if any(entry.record.key.is_subset_of(pattern) for pattern in connection.patterns):
                group = connection.link.group
                if group is None or group not in groups:
                    connection.push(entry, False)
                    # The next one is another member's.
                    self.connections.remove(connection)
                    self.connections.append(connection)
                if group is not None:
                    groups.add(group)

    def bury(self, link: Link, received: Received, why: str) -> None:
        """Keep a dead letter."""
        self.dead.append((received, why))
        number = next(self.numbers)
        self.letters[number] = link.namespace, Buried(received, why, str(number), time.time(), link.reader)

    def dead_letters(self, namespace: str, limit: int, before: str | None) -> list[Buried]:
        """The last ones of a namespace."""
        try:
            until = next(self.numbers) if before is None else int(before)
        except ValueError:
            raise NoSuchLetter(before) from None
        return [each for number, (space, each) in self.letters.items() if space == namespace and number < until][
            -limit:
        ]

    def redeliver(self, link: Link, position: str) -> None:
        """Put a dead letter into the queues of whoever gave it up."""
        number = int(position) if position.isdecimal() else 0
        space, letter = self.letters.get(number, ("", None))
        if letter is None or space != link.namespace:
            raise NoSuchLetter(position)
        del self.letters[number]
        received = letter.received
        record = Record(Key(space or "hubsub", *received.key), received.payload or b"", received.headers)
        for queue in self.queues.values():
            if queue.link.namespace == space and queue.link.reader == letter.reader:
                queue.ready.append(Entry(next(self.numbers), record, sent_back=letter.reader))
                queue.pump()

    def control(self, record: Record) -> None:
        """Send a control message to whoever listens, if anybody does."""
        entry = Entry(0, record)
        for connection in self.connections:
            if record.key in connection.control:
                connection.push(entry, True)

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection; what it had not acknowledged is delivered again."""
        connection.broken.set()
        connection.news.set()
        if connection in self.connections:
            self.connections.remove(connection)
        for queue in self.queues.values():
            if connection in queue.consumers:
                queue.consumers.remove(connection)
                for entry in connection.unacked.values():
                    entry.attempts += 1
                queue.give_back(list(connection.unacked.values()))
                connection.unacked.clear()


class FakeLine:
    """A line within the process."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.is_refusing = False
        self.rate: float | None = None
        self.seconds = 0.0
        self.left: int | None = None
        self.ways = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.resume()

    @property
    def connections(self) -> int:
        return sum(connection.line is self for connection in self.exchange.connections)

    def cut(self) -> None:
        self.left = None
        for connection in list(self.exchange.connections):
            if connection.line is self:
                self.exchange.disconnect(connection)

    def cut_after(self, size: int) -> None:
        self.left = size

    def abandon(self) -> None:
        for connection in self.exchange.connections:
            if connection.line is self:
                connection.broken.set()
                connection.news.set()
        asyncio.get_running_loop().call_later(2 * HEARTBEAT, self.forget)

    def forget(self) -> None:
        for connection in list(self.exchange.connections):
            if connection.line is self and connection.broken.is_set():
                self.exchange.disconnect(connection)

    def stall(self) -> None:
        for way in self.ways.values():
            way.clear()

    def stall_replies(self) -> None:
        self.ways["down"].clear()

    def resume(self) -> None:
        for way in self.ways.values():
            way.set()

    def slow(self, rate: float | None) -> None:
        self.rate = rate

    def delay(self, seconds: float) -> None:
        self.seconds = seconds

    def refuse(self) -> None:
        self.is_refusing = True

    async def accept(self) -> None:
        self.is_refusing = False

    async def carry(self, way: str, size: int, moved: Callable[[str, int], None]) -> None:
        """Return when so many bytes have got through."""
        await asyncio.sleep(self.seconds)
        await self.ways[way].wait()
        while self.rate is not None and size > 0:
            piece = min(size, max(1, int(self.rate / 20)))
            await asyncio.sleep(piece / self.rate)
            await self.ways[way].wait()
            size -= piece
            moved(way, piece)
        moved(way, max(0, size))
        if self.left is not None:
            self.left -= size
            if self.left <= 0:
                self.cut()


class Fake(Adapter):
    """Reaches an exchange by a line. What its subclasses promise decides what it does."""

    def __init__(self, exchange: Exchange, line: FakeLine | None = None) -> None:
        self.exchange = exchange
        self.line = line or FakeLine(exchange)
        self.activity = self.receiving = self.sending = 0
        self.is_dead = False
        """The process that this belongs to has died: nothing of it reaches the broker any more."""
        self._connection: Connection | None = None
        self._missing: Loss | None = None
        self._was_there = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def features_for(self, link: Link) -> Features:
        # Nobody can say in which order several members get them.
        return changed(self.features, order="none") if link.group is not None else self.features

    # What goes over the line

    async def _ask(self, size: int, act: Callable[[], V]) -> V:
        """Have the broker do something, and answer."""
        connection = self._connection
        if connection is None or connection.broken.is_set() or self.is_dead:
            raise ConnectionError("not connected")

        async def exchange() -> V:
            await self.line.carry("up", size, self._moved)
            await self.exchange.thawed.wait()
            if self.is_dead or connection.broken.is_set():
                raise ConnectionError("the connection is lost")
            connection.heard = asyncio.get_running_loop().time()
            result = act()
            await self.line.carry("down", 20, self._moved)
            return result

        return await self._unless_broken(connection, exchange())

    async def _unless_broken(self, connection: Connection, action: Awaitable[V]) -> V:
        """Await something as long as there is a connection."""
        acting = asyncio.ensure_future(action)
        breaking = asyncio.ensure_future(connection.broken.wait())
        try:
            await asyncio.wait([acting, breaking], return_when=asyncio.FIRST_COMPLETED)
            if connection.broken.is_set() or self.is_dead:
                raise ConnectionError("the connection is lost")
            return acting.result()
        finally:
            for task in (acting, breaking):
                task.cancel()
            await asyncio.gather(acting, breaking, return_exceptions=True)

    def _moved(self, way: str, size: int) -> None:
        self.activity += size
        if way == "up":
            self.sending += size
        else:
            self.receiving += size

    # The contract

    async def connect(self, link: Link) -> None:
        await self.lost()
        if self.exchange.is_down or self.line.is_refusing or self.is_dead:
            raise ConnectionRefusedError("nobody answers")
        connection = self._connection = Connection(link, self.line)
        await self._ask(50, lambda: self._join(connection))

    def _queue_name(self, link: Link) -> str:
        return f"{link.namespace}/{link.group or link.name or link.sender}"

    def _join(self, connection: Connection) -> None:
        """What the broker does with a new client."""
        link = connection.link
        now = asyncio.get_running_loop().time()
        for other in list(self.exchange.connections):
            is_ours = (other.link.sender, other.link.namespace) == (link.sender, link.namespace)
            if is_ours or now - other.heard > HEARTBEAT:
                self.exchange.disconnect(other)
        name = self._queue_name(link)
        if link.reads and (self.features.durable or self.features.resumes):
            if self._was_there and name not in self.exchange.queues:
                self._missing = Loss("expired")
            queue = self.exchange.queues.setdefault(name, Queue(link))
            if link.name is not None and queue.consumers:
                raise NameTaken(link.name)
            if self.features.durable:
                queue.bindings = {self._address(link, key) for key in link.incoming}
            queue.consumers.append(connection)
            self._was_there = True
            queue.pump()
        self.exchange.connections.append(connection)

    def _address(self, link: Link, key: Key[Any]) -> Key[Any]:
        return Key(link.namespace or "hubsub", *key)

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        connection = self._connected()
        await self._ask(50, lambda: connection.control.update(self._address(connection.link, key) for key in keys))

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ConnectionError("not connected")
        return self._connection

    async def ping(self) -> None:
        await self._ask(10, lambda: None)

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        link = self._connected().link
        most = self.features.max_payload

        def store() -> dict[int, Exception]:
            if self.exchange.is_full:
                raise BrokerBusy("it takes no writes")
            refused: dict[int, Exception] = {}
            for index, record in enumerate(records):
                addressed = record._replace(key=self._address(link, record.key))
                if record.is_control:
                    self.exchange.control(addressed)
                elif link.namespace in self.exchange.forbidden:
                    refused[index] = PermissionError("you may not")
                elif most is not None and size_of(record) > most:
                    refused[index] = ValueError("too large")
                elif record.due is not None:
                    assert self.features.delays
                    self.exchange.publish_later(addressed)
                else:
                    self.exchange.publish(addressed)
            return refused

        return await self._ask(sum(len(record.payload) for record in records) + 20, store)

    async def receive(self) -> Sequence[Received | Loss]:
        connection = self._connected()
        if self._missing is not None:
            missing, self._missing = self._missing, None
            return [missing]
        while not self._arrived(connection):
            connection.news.clear()
            try:
                async with asyncio.timeout(None if connection.link.room() else 1):
                    await connection.news.wait()
            except TimeoutError:
                return []  # to be asked again, when there is room perhaps
        batch: list[Received | Loss] = []
        room = connection.link.room()
        size = 0
        taken: list[int] = []
        later: list[tuple[Entry, bool]] = []
        while connection.inbox:
            entry, is_control = connection.inbox.popleft()
            if not is_control and room <= 0:
                later.append((entry, is_control))
                continue
            room -= not is_control
            size += len(entry.record.payload)
            taken.append(entry.number)
            batch.append(self._received(entry, is_control))
        connection.inbox.extend(later)

        async def carry() -> None:
            await self.line.carry("down", size + 20, self._moved)
            await self.exchange.thawed.wait()

        await self._unless_broken(connection, carry())
        if self.features.acks == "none" and self.features.resumes:
            # It has arrived, and that is all that is promised.
            queue = self.exchange.queues[self._queue_name(connection.link)]
            for number in taken:
                connection.unacked.pop(number, None)
            queue.pump()
        return batch

    def _arrived(self, connection: Connection) -> bool:
        """True if something is there that there is room for."""
        if connection.broken.is_set() or self.is_dead:
            raise ConnectionError("the connection is lost")
        has_room = connection.link.room() > 0
        return any(is_control or has_room for _, is_control in connection.inbox)

    def _received(self, entry: Entry, is_control: bool) -> Received:
        record = entry.record
        received = Received(
            Key.create_from(record.key[1:]),
            record.payload,
            record.headers,
            token=None if is_control or self.features.acks == "none" else (self._connection, entry.number),
            attempts=entry.attempts,
            is_control=is_control,
            trouble=entry.trouble,
        )
        return received if entry.sent_back is None else SentBack.to(entry.sent_back, received)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        connection = self._connected()
        link = connection.link
        keys = {self._address(link, pattern) for pattern in patterns}
        if self.features.durable:
            bound = self.exchange.queues[self._queue_name(link)].bindings
            assert keys <= bound, f"{keys - bound} is not what `Link.incoming` says"
            await self._ask(50, lambda: None)
        elif self.features.resumes:
            queue = self.exchange.queues[self._queue_name(link)]
            await self._ask(50, lambda: queue.bindings.update(keys))
        else:
            await self._ask(50, lambda: connection.patterns.update(keys))

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        assert not self.features.durable, "what nobody listens to now is to be kept"
        connection = self._connected()
        keys = {self._address(connection.link, pattern) for pattern in patterns}
        if self.features.resumes:
            queue = self.exchange.queues[self._queue_name(connection.link)]
            await self._ask(50, lambda: queue.bindings.difference_update(keys))
        else:
            await self._ask(50, lambda: connection.patterns.difference_update(keys))

    async def ack(self, tokens: Sequence[Any]) -> None:
        await self._settle(tokens, give_back=False)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        await self._settle(tokens, give_back=True)

    async def _settle(self, tokens: Sequence[Any], give_back: bool) -> None:
        connection = self._connected()

        def settle() -> None:
            # Those of an earlier connection are delivered again anyway.
            found = [connection.unacked.pop(number, None) for its, number in tokens if its is connection]
            queue = self.exchange.queues[self._queue_name(connection.link)]
            connection.is_leaving |= give_back
            queue.give_back([entry for entry in found if entry is not None] if give_back else [])

        await self._ask(20, settle)

    async def bury(self, received: Received, why: str) -> Exception | None:
        link = self._connected().link
        await self._ask(20 + len(received.payload or b""), lambda: self.exchange.bury(link, received, why))
        return None

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        space = self._connected().link.namespace
        return await self._ask(20, lambda: self.exchange.dead_letters(space, limit, before))

    async def redeliver(self, position: str) -> None:
        link = self._connected().link
        await self._ask(20, lambda: self.exchange.redeliver(link, position))

    async def lost(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if not self.is_dead:
                self.exchange.disconnect(connection)
            connection.broken.set()
            connection.news.set()

    async def close(self) -> None:
        connection = self._connection
        await self.lost()
        if connection is not None and not self.is_dead and not (connection.link.name or connection.link.group):
            # It was for this reader alone, and there is none any more.
            self.exchange.queues.pop(self._queue_name(connection.link), None)


class Rabbit(Fake):
    """Durable queues bound to patterns; one for a group or a name, and one of its own for each other reader."""

    features = Features(
        order="all",
        confirms="stored",
        durable=True,
        dead_letters=True,
        acks="each",
        patterns=True,
        groups=True,
        names=True,
        headers=True,
        max_payload=16 << 20,
    )


class Delaying(Rabbit):
    """Keeps what is due later until then."""

    features = changed(Rabbit.features, delays=True)


class Nats(Fake):
    """Nothing is kept; the members of a group share what comes while they are there."""

    features = Features(order="all", confirms="received", patterns=True, groups=True, headers=True)


class Mqtt(Fake):
    """A session is kept for a client that has lost its connection, and nothing for one that was closed."""

    features = Features(order="all", confirms="received", resumes=True, patterns=True, headers=True)

    async def ack(self, tokens: Sequence[Any]) -> None:
        raise AssertionError("it has no acknowledgements")


def size_of(record: Record) -> int:
    """Bytes of payload and headers."""
    return len(record.payload) + sum(len(name) + len(value) for name, value in record.headers.items())


class FakeBroker(conformance.Broker):
    """An exchange to be harmed."""

    def __init__(self, kind: type[Fake]) -> None:
        self.kind = kind
        self.exchange = Exchange()
        self.line = FakeLine(self.exchange)

    def adapter(self, *, direct: bool = False) -> Fake:
        return self.kind(self.exchange, None if direct else self.line)

    async def start(self) -> None:
        self.exchange.is_down = False

    def kill(self) -> None:
        self.exchange.is_down = True
        for connection in list(self.exchange.connections):
            self.exchange.disconnect(connection)

    def freeze(self) -> None:
        self.exchange.thawed.clear()

    def thaw(self) -> None:
        self.exchange.thawed.set()

    async def refuse_writes(self) -> None:
        self.exchange.is_full = True

    async def take_writes(self) -> None:
        self.exchange.is_full = False

    async def forbid(self, namespace: str) -> None:
        self.exchange.forbidden.add(namespace)

    async def allow(self, namespace: str) -> None:
        self.exchange.forbidden.discard(namespace)

    async def inject(self, namespace: str, messages: Sequence[conformance.Raw]) -> None:
        for parts, payload, headers in messages:
            trouble = ValueError("no key can be made of its address") if isinstance(parts, bytes) else None
            key = (repr(parts),) if isinstance(parts, bytes) else parts
            texts = {name: value.decode(errors="backslashreplace") for name, value in headers.items()}
            self.exchange.publish(Record(Key(namespace, *key), payload or b"", texts), trouble)
