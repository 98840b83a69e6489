"""Sending to Kafka: in batches, each record stored once, also when the connection is lost in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner

from ...key import Key
from ..adapter import Record
from ..address import cached
from .options import Options

# Topic and partition.
Place: TypeAlias = tuple[str, int]
Headers: TypeAlias = list[tuple[str, bytes]]

# What the broker refuses however often it is sent.
REFUSED = (InvalidTopicError, MessageSizeTooLargeError, RecordListTooLargeError, TopicAuthorizationFailedError)
# Seconds in which all of a call is confirmed; then the connection counts as lost.
PATIENCE = 10.0
# Records of unknown fate that are remembered, should they be sent again.
MOST_UNCLEAR = 10_000


class Writer:
    """A producer that outlives connections.

    It numbers its batches and goes on sending them, also while there is no broker, until that has stored each of them
    once. So what was on its way when the connection was lost must not be handed to it, or to another, a second time:
    sent again, a record waits for its first self.

    Args:
        options: Of the producer.
        topic: Says to which topic a key belongs.
        address: Says what key a record has.
    """

    def __init__(
        self, options: Options, topic: Callable[[Key[Any]], str], address: Callable[[Key[Any]], bytes]
    ) -> None:
        self._options = options
        self._partitioner = options.producer.get("partitioner") or DefaultPartitioner()
        self._topic = topic
        self._address = address
        self._producer: Any = None
        self._partitions: dict[str, list[int]] = {}
        self._place = cached(self._find_place)
        self._unclear: dict[int, asyncio.Future[Any]] = {}
        self._deadline: asyncio.Timeout | None = None

    async def open(self) -> None:
        """Start the producer, unless there is one that goes on."""
        if self._producer is None:
            producer = AIOKafkaProducer(**self._options.producer)
            try:
                await producer.start()
            except BaseException:
                await stop(producer)
                raise
            self._producer = producer

    async def ping(self) -> None:
        """Return when a broker has answered."""
        await self._producer.client.fetch_all_metadata()

    def interrupt(self) -> None:
        """Let a `send` that waits end."""
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Stop the producer."""
        self.interrupt()
        await self._stop()

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop(producer)
        self._unclear = {each: future for each, future in self._unclear.items() if _is_stored(future)}

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Send records; return the errors of those that are refused for good, by their index.

        Raises:
            ConnectionError: They were not confirmed in time, or the connection was given up.
        """
        try:
            async with asyncio.timeout(PATIENCE) as self._deadline:
                return await self._send(records)
        except TimeoutError:
            raise ConnectionError("Kafka has not confirmed what was sent") from None
        finally:
            self._deadline = None

    async def _send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        refused: dict[int, Exception] = {}
        await self._learn_partitions(records, refused)
        # By the future of a batch: the records in it.
        waiting: dict[asyncio.Future[Any], list[int]] = {}
        batches: dict[Place, tuple[Any, list[int]]] = {}
        for index, record in enumerate(records):
            if index in refused:
                continue
            if (future := self._unclear.get(record.sequence)) is not None:
                waiting.setdefault(future, []).append(index)
                continue
            key, payload, headers, *_ = record
            place, address = self._place(key)
            batch, indexes = batches.get(place) or self._begin(place, batches)
            encoded = encode_headers(headers)
            while batch.append(timestamp=None, key=address, value=payload, headers=encoded) is None:
                await self._hand_over(place, batches.pop(place), records, waiting)
                batch, indexes = self._begin(place, batches)
            indexes.append(index)
        for place, begun in batches.items():
            await self._hand_over(place, begun, records, waiting)
        if waiting:
            await asyncio.wait(waiting)
        failed = {index: error for future, group in waiting.items() if (error := future.exception()) for index in group}
        if failed:
            await self._send_apart(failed, records, refused)
        for record in records:
            self._unclear.pop(record.sequence, None)
        return refused

    def _begin(self, place: Place, batches: dict[Place, tuple[Any, list[int]]]) -> tuple[Any, list[int]]:
        begun = batches[place] = (self._running().create_batch(), [])
        return begun

    async def _hand_over(
        self,
        place: Place,
        begun: tuple[Any, list[int]],
        records: Sequence[Record],
        waiting: dict[asyncio.Future[Any], list[int]],
    ) -> None:
        """Give a batch to the producer, which may wait until the one before it was answered."""
        batch, indexes = begun
        topic, partition = place
        future = await self._running().send_batch(batch, topic, partition=partition)
        # Nobody may ask for it any more when it fails.
        future.add_done_callback(_is_stored)
        waiting[future] = indexes
        for index in indexes:
            self._unclear[records[index].sequence] = future
        while len(self._unclear) > MOST_UNCLEAR:
            del self._unclear[next(iter(self._unclear))]

    async def _send_apart(
        self, failed: Mapping[int, BaseException], records: Sequence[Record], refused: dict[int, Exception]
    ) -> None:
        """Find out which records of batches that failed were the reason, and send the others.

        A broker refuses a batch as a whole. The producer has counted it all the same, and whatever it would send to
        that partition later, the broker would take for a batch too many: it is replaced.
        """
        for index in failed:
            self._unclear.pop(records[index].sequence, None)
        await self._stop()
        if not any(isinstance(error, REFUSED) for error in failed.values()):
            raise ConnectionError("Kafka has not stored what was sent") from next(iter(failed.values()))
        for index in sorted(failed):
            await self.open()
            record = records[index]
            place, address = self._place(record.key)
            begun = (self._running().create_batch(), [index])
            headers = encode_headers(record.headers)
            begun[0].append(timestamp=None, key=address, value=record.payload, headers=headers)
            waiting: dict[asyncio.Future[Any], list[int]] = {}
            await self._hand_over(place, begun, records, waiting)
            await asyncio.wait(waiting)
            if (refusal := next(iter(waiting)).exception()) is not None:
                del self._unclear[record.sequence]
                await self._stop()
                if not isinstance(refusal, REFUSED):
                    raise ConnectionError("Kafka has not stored what was sent") from refusal
                refused[index] = cast(Exception, refusal)
        await self.open()

    async def put(self, topic: str, key: bytes, payload: bytes | None, headers: Headers) -> None:
        """Send one record to a topic; return when it is stored."""
        async with asyncio.timeout(PATIENCE):
            await self._running().send_and_wait(topic, payload, key, headers=headers)

    def _running(self) -> Any:
        if self._producer is None:
            raise ConnectionError("the connection to Kafka is closed")
        return self._producer

    # Places

    async def _learn_partitions(self, records: Sequence[Record], refused: dict[int, Exception]) -> None:
        """See to it that the partitions of all topics are known, as they are now."""
        topics: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            try:
                topics.setdefault(self._topic(record.key), []).append(index)
            except Exception as error:
                refused[index] = error
        for topic, indexes in topics.items():
            producer = self._running()
            try:
                partitions = sorted(await producer.partitions_for(topic))
            except UnknownTopicOrPartitionError:
                # Also what it says when no broker answers, which `ping` tells.
                await self.ping()
                unknown: Exception = LookupError(f"Kafka has no topic {topic!r}, and does not make one")
                refused |= dict.fromkeys(indexes, unknown)
            except TopicAuthorizationFailedError as error:
                refused |= dict.fromkeys(indexes, error)
            else:
                if partitions != self._partitions.get(topic):
                    self._partitions[topic] = partitions
                    self._place = cached(self._find_place)

    def _find_place(self, key: Key[Any]) -> tuple[Place, bytes]:
        """Where a key belongs, and how it is called there."""
        topic, address = self._topic(key), self._address(key)
        partitions = self._partitions[topic]
        return (topic, self._partitioner(address, partitions, partitions)), address


def encode_headers(headers: Mapping[str, str]) -> Headers:
    """Headers as Kafka has them."""
    return [(name, value.encode("utf-8", "surrogatepass")) for name, value in headers.items()]


def _is_stored(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


async def stop(producer: Any) -> None:
    """Stop a producer, also when no broker answers; goes on when it is cancelled."""
    # By itself it would wait, without a broker for ever, until everything is sent.
    give_up = producer._message_accumulator.fail_all
    await stopped(producer.stop(), producer.client, lambda: give_up(ConnectionError("the producer was stopped")))


async def stopped(stop: Coroutine[Any, Any, None], connections: Any, give_up: Callable[[], None] | None = None) -> None:
    """Finish `stop`, the end of a producer or consumer, also when no broker answers; goes on when it is cancelled.

    Args:
        stop: What it does to end.
        connections: Its client, whose connections are cut when that takes longer than a second.
        give_up: Then makes it wait for nothing else.
    """
    await asyncio.shield(asyncio.ensure_future(_stopped(asyncio.ensure_future(stop), connections, give_up)))


async def _stopped(stopping: asyncio.Task[None], connections: Any, give_up: Callable[[], None] | None) -> None:
    while not (await asyncio.wait([stopping], timeout=1))[0]:
        if give_up is not None:
            give_up()
        await connections.close()
    # What fails while everything is given up needs nobody's attention. Nor does it end in an orderly way.
    if not stopping.cancelled():
        stopping.exception()
    await connections.close()
