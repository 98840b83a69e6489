"""The adapter for Apache Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...errors import MissingDriver
from ...key import Key
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from ..address import Addresses, cached

try:
    from .history import read_back
    from .options import Options, checked
    from .reader import Lane, Reader
    from .writer import Writer, encode_headers
except ModuleNotFoundError as error:
    if error.name != "aiokafka":
        raise
    raise MissingDriver("KafkaAdapter", "aiokafka", "kafka") from error

KEY = "hubsub-key"
"""The header by which a producer says what key a message has for a hub, if not that of the record."""


class KafkaAdapter(Adapter):
    """Apache Kafka 2.1 or later, by aiokafka.

    A hub's key is the key of the record, its parts joined with `/`: so messages of one key stay in order, and a
    compacted topic keeps the last of each.

    Args:
        servers: `kafka://user:password@host:9092,host:9092/topic?option=value`, or bootstrap servers.
        topic: Where messages go and come from; by default the namespace, or `hubsub`.
        route: Says to which topic a key goes, instead.
        sources: The topics that are read, instead.
        options: Of aiokafka's producer and consumer, each given to those that know it.

    Raises:
        MissingDriver: aiokafka is not installed.
        TypeError: An option that aiokafka has not, or that the adapter decides.
        ValueError: The URL or a topic makes no sense.
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
            headers=True,
            push=False,
            # The rest is for key, headers and frame.
            max_payload=self._options.max_request_size - 48_576,
        )
        self._topic = self._options.topic
        self._route = route
        self._sources = [checked(source) for source in sources]
        self._addresses = Addresses("/", binary=True)
        self._key_of = cached(self._read_key)
        self._key_of_topic: Callable[[str], Key[Any]] = cached(Key)
        self._writer = Writer(self._options, self._topic_of, self._address)
        self._reader: Reader | None = None
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"KafkaAdapter({','.join(self._options.servers)!r})"

    @property
    def late_acks(self) -> int:
        """Acknowledgements that came when the partition was somebody else's already, who got the message again."""
        return 0 if self._reader is None else self._reader.late

    @property
    def lag(self) -> int | None:  # type: ignore[override]
        """Records that are still to be read."""
        return None if self._reader is None else self._reader.lag

    # Keys

    def _topic_of(self, key: Key[Any]) -> str:
        return self._default_topic if self._route is None else checked(self._route(key))

    @property
    def _default_topic(self) -> str:
        return self._topic or (self._link and self._link.namespace) or "hubsub"

    @property
    def _topics(self) -> list[str]:
        """What is read."""
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

    # Connection

    async def connect(self, link: Link) -> None:
        if self._link is None or link.sender != self._link.sender:
            await self.close()
            self._link = link
            self._reader = Reader(self._options, self._topics, link) if link.reads else None
        await self._writer.open()
        if self._reader is not None:
            await self._reader.open()
        else:
            await self._writer.ping()

    async def lost(self) -> None:
        self._writer.interrupt()
        if self._reader is not None:
            self._reader.interrupt()

    async def close(self) -> None:
        try:
            if self._reader is not None:
                await self._reader.close()
        finally:
            await self._writer.close()

    # Messages

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self._writer.send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        assert self._reader is not None
        result: list[Received | Loss] = []
        for each in await self._reader.read():
            if isinstance(each, Loss):
                result.append(each)
            else:
                self._add(result, *each)
        return result

    def _add(self, result: list[Received | Loss], lane: Lane, records: Iterable[Any]) -> None:
        """Add the records of a lane to a result."""
        place = f"{lane.topic}:{lane.partition}:"
        key_of = self._key_of
        for record in records:
            offset, address = record.offset, record.key
            headers = _decode(record.headers) if record.headers else {}
            if KEY in headers:
                key = key_of(headers.pop(KEY).encode("utf-8", "surrogatepass"))
            else:
                key = self._key_of_topic(lane.topic) if address is None else key_of(address)
            result.append(
                Received(
                    key, record.value, headers, lane, f"{place}{offset}", (lane, offset), 0, record.timestamp / 1000
                )
            )

    async def ack(self, tokens: Sequence[Any]) -> None:
        if self._reader is not None:
            await self._reader.advance(tokens)

    async def bury(self, received: Received, why: str) -> None:
        lane: Lane = received.lane  # type: ignore[assignment]
        headers = {**received.headers, "hubsub-reason": why, "hubsub-position": str(received.position)}
        topic = f"{lane.topic}.dead"
        await self._writer.put(topic, self._address(received.key), received.payload, encode_headers(headers))

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        result: list[Received | Loss] = []
        for record in await read_back(self._options, self._topics, limit, before, after):
            self._add(result, Lane(record.topic, record.partition, 0), [record])
        return result  # type: ignore[return-value]


def _decode(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    try:
        return {name: value.decode() for name, value in headers}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        # Not one of ours.
        return {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in headers}
