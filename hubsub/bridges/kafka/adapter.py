"""The adapter for Apache Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from ...errors import MissingDriver, NoSuchLetter, WildcardPublished
from ...key import NAMESPACE, Key
from ...log import Logger
from ..adapter import Adapter, Buried, Features, Link, Loss, Received, Record, SentBack
from ..address import Addresses, cached
from ..together import together

try:
    from .client import Client
    from .control import SUFFIX, Control, make_topic
    from .history import read_back
    from .letters import MARK, NOBODY, Mark, find_letter, list_letters, mark_of, place_of
    from .logs import Lane, Logs
    from .options import Options, beside, checked
    from .quiet import Quiet, kept
    from .reader import READ_TIMEOUT, Reader
    from .records import Decoder, Make
    from .tolerant import Unreadable
    from .writer import Writer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "aiokafka":
        raise
    raise MissingDriver("KafkaAdapter", "aiokafka", "kafka") from error

KEY = "hubsub-key"
"""The header with the hub's key of a message, where that is not the key of the record."""
REASON, POSITION = "hubsub-reason", "hubsub-position"
"""Headers of a dead letter: why it was given up, and its position."""
DEAD = ".dead"
"""The suffix of a topic of dead letters, after the name of the topic that they were read from."""
# Seconds between two checks for room: at first, and later.
FIRST_LOOK, LAST_LOOK = 0.001, 0.03
MOST_REASON = 4_096
"""Characters of the reason that a dead letter has."""


class KafkaAdapter(Adapter):
    """Apache Kafka 2.1 or later, by aiokafka.

    A hub's key is the key of the record, its parts joined with `/`. So messages of one key stay in order, and a
    compacted topic keeps the last one of each key.

    Args:
        servers: `kafka://user:password@host:9092,host:9092/topic?option=value`, or bootstrap servers.
        topic: The topic that is written and read; by default the namespace, or `hubsub`.
        route: Returns the topic that a key is written to, instead.
        sources: The topics that are read, instead.
        options: Of aiokafka's producer and consumer; each goes to those that know it.

    Raises:
        MissingDriver: aiokafka is not installed.
        TypeError: An option that aiokafka does not have, or that the adapter decides.
        ValueError: The URL or a topic is invalid.
    """

    def __init__(
        self,
        servers: str | Sequence[str] = "localhost:9092",
        *,
        topic: str | None = None,
        route: Callable[[Key[Any]], str] | None = None,
        sources: Iterable[str] = (),
        **options: Any,
    ) -> None:
        self._options = Options(servers, topic, options)
        self.features = Features(
            order="key",
            confirms="stored",
            idempotent=True,
            durable=True,
            acks="prefix",
            groups=True,
            names=True,
            replay=True,
            history=True,
            dead_letters=True,
            headers=True,
            push=False,
            # The rest is for key, headers and framing.
            max_payload=self._options.max_request_size - 48_576,
        )
        self._topic = self._options.topic
        self._route = route
        self._sources = [checked(source) for source in sources]
        self._addresses = Addresses("/", binary=True)
        self._key_of = cached(self._judge_key)
        self._key_of_topic: Callable[[str], Key[Any]] = cached(Key)
        self._decode = Decoder()
        self._quiet = Quiet()
        self._writer = Writer(self._options, self._topic_of, self._address)
        self._reader: Reader | None = None
        self._control: Control | None = None
        self._link: Link | None = None
        self._redelivering = asyncio.Lock()

    def __repr__(self) -> str:
        return f"KafkaAdapter({','.join(self._options.servers)!r})"

    @property
    def late_acks(self) -> int:
        """Acknowledgements that came when another member had the partition, and got the messages again."""
        return 0 if self._reader is None else self._reader.late

    @property
    def lag(self) -> int | None:  # type: ignore[override]
        """Records that are still to be read."""
        return None if self._reader is None else self._reader.lag

    @property
    def activity(self) -> int:  # type: ignore[override]
        """The traffic of all connections."""
        lines = [part.line for part in (self._writer, self._reader, self._control) if part is not None]
        return sum(line.moved + line.connected for line in lines)

    @property
    def receiving(self) -> int:  # type: ignore[override]
        """A sign of the traffic of the consumer."""
        lines = [part.line for part in (self._reader, self._control) if part is not None]
        return sum(line.moved for line in lines)

    @property
    def sending(self) -> int:  # type: ignore[override]
        """A sign of the traffic of the producer."""
        return self._writer.line.moved

    # Keys

    def _topic_of(self, key: Key[Any]) -> str:
        return self._default_topic if self._route is None else checked(self._route(key))

    @property
    def _default_topic(self) -> str:
        return self._topic or (self._link and self._link.namespace) or "hubsub"

    @property
    def _topics(self) -> list[str]:
        """The topics that are read."""
        if self._sources:
            return self._sources
        if self._route is not None:
            raise ValueError("a KafkaAdapter with route= needs sources=, the topics to read, unless it only sends")
        return [checked(self._default_topic)]

    def _address(self, key: Key[Any]) -> bytes:
        return self._addresses.to_bytes(self._addresses.address(key))

    def _read_key(self, address: bytes) -> Key[Any]:
        key = self._addresses.key(self._addresses.to_text(address))
        assert key is not None  # there is no prefix
        return key

    def _judge_key(self, address: bytes) -> tuple[Key[Any], Exception | None]:
        key = self._read_key(address)
        return key, WildcardPublished(key) if key.is_wildcard else None

    # Connection

    async def connect(self, link: Link) -> None:
        with kept(self._quiet):
            if self._link is None or link.sender != self._link.sender:
                await self.close()
                self._begin(link)
            self._link = link
            self._quiet.is_closing = False
            opening: list[Coroutine[Any, Any, None]] = [self._writer.open()]
            if self._reader is not None:
                self._reader.link = link
                opening.append(self._reader.open())
            assert self._control is not None
            if link.control:
                opening.append(self._control.open())
            await together(opening)

    def _begin(self, link: Link) -> None:
        """Make the reader and the writer, which outlast connections."""
        self._link = link
        self._redelivering = asyncio.Lock()
        log = Logger(f"hubsub.bridge.{link.name or link.group or type(self).__name__}")
        topic = checked(self._default_topic)
        control = beside(topic, SUFFIX)
        largest = self._options.max_request_size
        self._writer.control_topic = control
        # A bridge that only sends reads the replies to its requests, and nothing else.
        reads = link.reads and (bool(link.incoming) or not link.control)
        self._reader = Reader(self._options, self._topics, link, log, making=self._making) if reads else None
        self._control = Control(self._options, control, topic, link, log)

        async def make_control_topic(client: Client) -> None:
            if self._control is None or not self._control.is_open:
                await make_topic(client, control, topic, largest)

        self._writer.make_control_topic = make_control_topic
        if self._reader is not None:
            self._control.on_news = self._reader.nudge

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        with kept(self._quiet):
            if keys and self._control is not None:
                if self._link is not None and not self._link.control:
                    await self._control.open()
                await self._control.listen([self._address(key) for key in keys])

    async def ping(self) -> None:
        with kept(self._quiet):
            await self._writer.ping()

    async def lost(self) -> None:
        with kept(self._quiet):
            self._writer.interrupt()
            if self._reader is not None:
                self._reader.interrupt()
            if self._control is not None:
                self._control.interrupt()

    async def close(self) -> None:
        self._quiet.is_closing = True
        with kept(self._quiet):
            parts = (self._reader, self._control, self._writer)
            closing = asyncio.gather(*(part.close() for part in parts if part is not None), return_exceptions=True)
            for result in await asyncio.shield(closing):
                if result is not None:
                    raise result

    def forget(self) -> None:
        self._quiet = Quiet()
        self._writer = Writer(self._options, self._topic_of, self._address)
        self._reader = self._control = self._link = None

    # Messages

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        with kept(self._quiet):
            return await self._writer.send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        link, reader, control = self._link, self._reader, self._control
        assert link is not None
        assert control is not None
        result: list[Received | Loss] = []
        with kept(self._quiet):
            room = link.room()
            if reader is None:
                await control.wait(READ_TIMEOUT)
            elif room <= 0:
                await self._wait_for_room(link, control)
                reader.check_life()
            else:
                # Control messages neither wait for other messages nor delay them.
                for each in await reader.read(room, 0.0 if control.has_news else READ_TIMEOUT):
                    if isinstance(each, Loss):
                        result.append(each)
                    else:
                        result += each[1]
            if control.has_news:
                self._add_control(result, control)
        return result

    async def _wait_for_room(self, link: Link, control: Control) -> None:
        """Wait for control messages or for room; room is polled for, since nothing announces it."""
        waited, step = 0.0, FIRST_LOOK
        while waited < READ_TIMEOUT and link.room() <= 0:
            if await control.wait(step):
                return
            waited += step
            step = min(2 * step, LAST_LOOK)

    def _received(self, lane: Lane, record: Any) -> Received:
        received: Received = self._making({lane: lane})(lane, record)
        return received

    def _making(self, lanes: Mapping[Any, Lane]) -> Make:
        """Return what makes a message of each record, given the lanes of partitions."""
        key_of, decode, of_topic, marked = self._key_of, self._decode, self._key_of_topic, self._marked

        def received_of(partition: Any, record: Any) -> Received:
            lane, offset, timestamp, address, header = (
                lanes[partition],
                record.offset,
                record.timestamp,
                record.key,
                record.headers,
            )
            headers = decode(header) if header else {}
            if KEY in headers:
                del headers[KEY]
                key, trouble = key_of(next(value for name, value in header if name == KEY) or b"")
            elif address is None:
                key, trouble = of_topic(lane.topic), None
            else:
                key, trouble = key_of(address)
            if type(record) is Unreadable:
                trouble = record.trouble
            mark = headers.pop(MARK) if MARK in headers else None
            time = timestamp / 1000 if timestamp >= 0 else None
            position = f"{lane[0]}:{lane[1]}:{offset}"
            fields = (key, record.value, headers, lane, position, (lane, offset), 0, time, False, False, trouble)
            # At tens of thousands a second, checking arguments would show in the throughput.
            received: Received = tuple.__new__(Received, fields)
            return received if mark is None else marked(Mark.read(mark), received)

        return received_of

    def _marked(self, mark: Mark, received: Received) -> Received:
        """Return a received record as for its recipients, if it is not for everybody."""
        if mark.gone is not None:
            return SentBack.to(NOBODY, received)
        if mark.sent_back_to is None:
            return received
        is_ours = self._link is not None and mark.namespace == self._link.namespace
        return SentBack.to(mark.sent_back_to if is_ours else NOBODY, received)

    def _add_control(self, result: list[Received | Loss], control: Control) -> None:
        for lane, record in control.receive():
            found = self._received(lane, record)
            result.append(found._replace(lane=None, position=None, token=None, is_control=True))

    async def ack(self, tokens: Sequence[Any]) -> None:
        if self._reader is not None:
            with kept(self._quiet):
                await self._reader.advance(tokens)

    async def bury(self, received: Received, why: str) -> Exception | None:
        lane = received.lane
        topic = beside(lane.topic if isinstance(lane, Lane) else self._default_topic, DEAD)
        about = {REASON: why[:MOST_REASON], POSITION: str(received.position)}
        if self._link is not None:
            mark = Mark(self._link.reader, received.attempts, namespace=self._link.namespace)
            about[MARK] = mark.text
        with kept(self._quiet):
            return await self._writer.put(topic, received.key, received.payload, {**received.headers, **about})

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        topics = list(self._topics_of_letters())
        bound = None if before is None else place_of(before, topics)
        with kept(self._quiet):
            found = await list_letters(self._options, topics, limit, bound)
        return [self._letter(partition, record) for partition, record in found]

    async def redeliver(self, position: str) -> None:
        topics = self._topics_of_letters()
        partition, offset = place_of(position, list(topics))
        # One call after the other: none of these is atomic.
        async with self._redelivering:
            with kept(self._quiet):
                record = await find_letter(self._options, partition, offset)
                if record is None:
                    raise NoSuchLetter(position)
                received, *_ = self._letter(partition, record)
                headers = dict(received.headers)
                mark = mark_of(record)
                if mark.given_up_by is not None:
                    headers[MARK] = Mark(sent_back_to=mark.given_up_by, namespace=mark.namespace).text
                topic = topics[partition.topic]
                refusal = await self._writer.put(topic, received.key, received.payload, headers)
                if refusal is None:
                    # Not under the key of the letter: in a compacted topic it would delete other letters.
                    gone = {MARK: Mark(gone=offset).text}
                    refusal = await self._writer.put(
                        partition.topic, Key(NAMESPACE, "gone"), b"", gone, partition.partition
                    )
                if refusal is not None:
                    raise refusal

    def _topics_of_letters(self) -> dict[str, str]:
        """The topics of dead letters, each with the topic of its messages."""
        return {beside(topic, DEAD): topic for topic in self._topics}

    def _letter(self, partition: Any, record: Any) -> Buried:
        received = self._received(Lane(partition.topic, partition.partition, 0), record)
        mark, headers = mark_of(record), dict(received.headers)
        reason, origin = headers.pop(REASON, ""), headers.pop(POSITION, None)
        message = Received(
            received.key, received.payload, headers, position=origin, attempts=mark.attempts, trouble=received.trouble
        )
        return Buried(message, reason, str(received.position), received.time, mark.given_up_by)

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        with kept(self._quiet):
            found = await read_back(self._options, self._topics, limit, before, after)
        make = self._making(Logs().lanes)
        return [make(partition, record) for partition, records in found for record in records]
