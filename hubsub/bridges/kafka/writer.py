"""Sending to Kafka: in batches, each record stored once, even if the connection is lost in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import TopicPartition

from ...errors import BrokerBusy, PayloadTooLarge
from ...key import Key
from ..adapter import Record
from ..address import cached
from .client import CONNECT, Client
from .line import Line
from .metadata import denied_topic, missing_topic
from .options import Options
from .records import Builder, Encoder
from .sizes import Sizes
from .stopping import abandon, stop_producer

Errors: TypeAlias = dict[int, Exception]

# Errors by which the broker refuses a batch for good and stores nothing of it: a record is invalid, or the topic is
# missing or denied.
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
ONE_OF_THEM = (*TOO_LARGE, InvalidTimestampError, PolicyViolationError)
ALL_OF_THEM = (InvalidTopicError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError)

# Seconds between two checks of what is not confirmed yet.
LOOK = 0.5
# Checks of a missing topic before its records are refused.
GONE = 6
# Checks of a batch that the broker keeps rejecting, and rejections, before the broker counts as busy.
BUSY, BUSY_TIMES = 10, 10
# Milliseconds that the broker may wait for its replicas.
REPLICAS_MS = 5_000
# Seconds for which missing topics are remembered, and how many of them.
MISSING_FOR, MOST_MISSING = 5.0, 1_000
# Records of unknown outcome that are remembered in case they are sent again.
MOST_UNCLEAR = 10_000


class _Behind(Exception):
    """A batch was not sent because the one before it was refused."""


class _UnknownTopic(Exception):
    """The partitions of this topic are not loaded yet."""


class _Batch:
    """The records of one call for one partition."""

    __slots__ = ("builder", "indexes", "partition")

    def __init__(self, partition: TopicPartition | None, builder: Any) -> None:
        self.partition = partition  # None for records that were sent by an earlier call
        self.builder = builder
        self.indexes: list[int] = []


Waiting: TypeAlias = dict["asyncio.Future[Any]", _Batch]


class Writer:
    """A producer that outlives connections.

    It numbers its batches and keeps sending them, even while there is no broker, until each is stored once. So a record
    that was being sent when the connection was lost must not be given to a producer a second time: when the relay sends
    it again, it waits for the first attempt instead.

    Args:
        options: Of the producer.
        topic: Returns the topic of a key.
        address: Returns the record's key of a key.
    """

    def __init__(
        self, options: Options, topic: Callable[[Key[Any]], str], address: Callable[[Key[Any]], bytes]
    ) -> None:
        self._options = options
        self._partitioner = options.producer.get("partitioner") or DefaultPartitioner()
        self._topic = topic
        self._address = address
        self._encode = Encoder()
        self._producer: Any = None
        self._partitions: dict[str, list[int]] = {}
        self._forget_partitions()
        self._missing: dict[str, tuple[Exception, float]] = {}
        self._unclear: dict[int, asyncio.Future[Any]] = {}
        self.sizes = Sizes(options.producer["max_batch_size"], options.max_request_size)
        """How large batches and records may be."""
        self.line = Line()
        self.line.on_broken = self.line.interrupt
        self.control_topic = ""
        """The topic of control messages."""
        self.make_control_topic: Callable[[Client], Coroutine[Any, Any, object]] | None = None
        """Creates that topic, unless it is known to exist."""

    # Connection

    async def open(self) -> None:
        """Start the producer, unless it is running; return when a broker has answered."""
        self.line.broken = None
        producer = self._producer
        if producer is not None and (
            producer._message_accumulator._exception is not None or producer._sender.sender_task.done()
        ):
            # An answer that the driver did not expect has stopped it from sending.
            await self._stop()
        if self._producer is not None:
            await self.ping()
            return
        producer = AIOKafkaProducer(**self._options.producer)
        client = Client.adopt(producer.client, self.line, self._options.tls)
        client.cluster.add_listener(self._look_at_partitions)
        producer._sender._request_timeout_ms = REPLICAS_MS
        producer._message_accumulator._pending_batches = _Batches()
        try:
            async with self.line.patience(silence=CONNECT, most=60.0):
                await producer.start()
        except ClusterAuthorizationFailedError as error:
            await stop_producer(producer)
            raise PermissionError("Kafka wants this client to have the right IdempotentWrite to the cluster") from error
        except BaseException:
            await stop_producer(producer)
            raise
        self._producer = producer

    async def ping(self) -> None:
        """Return when a broker has answered."""
        async with self.line.patience():
            await self.client.ask()

    @property
    def client(self) -> Client:
        """The client of the producer."""
        client: Client = self._running().client
        return client

    def interrupt(self) -> None:
        """End a call that waits, and have what continues start with a new connection."""
        self.line.interrupt()
        self.line.cut()

    async def close(self) -> None:
        """Stop the producer."""
        self.line.interrupt()
        await self._stop()

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)
        self._unclear = {each: future for each, future in self._unclear.items() if _is_stored(future)}

    def _running(self) -> Any:
        if self._producer is None:
            raise ConnectionError("the connection to Kafka is closed")
        return self._producer

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """Send records; return the errors of those that are refused for good, by their index.

        Raises:
            ConnectionError: Nothing moves any more, or the connection was given up.
            BrokerBusy: The broker does not accept records at present.
        """
        if self.line.broken is not None:
            raise self.line.broken
        async with self.line.patience("Kafka has not confirmed what was sent"):
            refused: Errors = {}
            waiting: Waiting = {}
            unknown = await self._pack(range(len(records)), records, refused, waiting)
            while unknown:
                # Meanwhile, records of known topics are being sent.
                errors = await self._learn(unknown)
                refused |= {index: error for topic, error in errors.items() for index in unknown.pop(topic)}
                known = sorted(index for indexes in unknown.values() for index in indexes)
                unknown = await self._pack(known, records, refused, waiting)
            await self._confirm(waiting)
            if any(future.exception() is not None for future in waiting):
                await self._send_apart(waiting, records, refused)
            for record in records:
                self._unclear.pop(record.sequence, None)
            return refused

    async def _pack(
        self, indexes: Iterable[int], records: Sequence[Record], refused: Errors, waiting: Waiting
    ) -> dict[str, list[int]]:
        """Give records to the producer; return those of unknown topics, by topic."""
        unknown: dict[str, list[int]] = {}
        batches: dict[TopicPartition, _Batch] = {}
        unclear, encode = self._unclear, self._encode
        for index in indexes:
            key, payload, headers, sequence, is_control = records[index]
            if sequence and sequence in unclear:
                waiting.setdefault(unclear[sequence], _Batch(None, None)).indexes.append(index)
                continue
            try:
                partition, address = self._control_partition_of(key) if is_control else self._partition_of(key)
                batch = batches.get(partition) or self._begin(partition, batches)
                encoded = encode(headers)
                size = batch.builder.add(address, payload, encoded)
            except _UnknownTopic as error:
                unknown.setdefault(str(error), []).append(index)
                continue
            except Exception as error:
                # A `route` that raises, or an invalid header, concerns this record only.
                refused[index] = error
                continue
            if size is None:
                await self._hand_over(batches.pop(partition), records, waiting)
                batch = self._begin(partition, batches)
                size = batch.builder.add(address, payload, encoded)
            # The first record of a batch is accepted whatever its size.
            if not batch.indexes and size is not None and size > (limit := self.sizes.record(partition.topic)):
                del batches[partition]
                refused[index] = PayloadTooLarge(key, size, limit)
                continue
            batch.indexes.append(index)
        for batch in batches.values():
            if batch.indexes:
                await self._hand_over(batch, records, waiting)
        return unknown

    def _begin(self, partition: TopicPartition, batches: dict[TopicPartition, _Batch]) -> _Batch:
        batch = batches[partition] = _Batch(partition, self._builder(partition.topic))
        return batch

    def _builder(self, topic: str) -> Builder:
        """Return a builder of a batch."""
        return Builder(self.sizes.batch(topic), self._running()._message_accumulator._compression_type)

    async def _hand_over(self, batch: _Batch, records: Sequence[Record], waiting: Waiting) -> None:
        """Give a batch to the producer once the one before it is being sent."""
        assert batch.partition is not None
        future = await self._enqueue(batch.partition, batch.builder, waiting)
        waiting[future] = batch
        unclear = self._unclear
        for index in batch.indexes:
            if sequence := records[index].sequence:
                unclear[sequence] = future
        while len(unclear) > MOST_UNCLEAR:
            del unclear[next(iter(unclear))]

    async def _enqueue(
        self, partition: TopicPartition, builder: Any, before: Mapping[asyncio.Future[Any], _Batch]
    ) -> asyncio.Future[Any]:
        """Give a batch to the producer; return a future of its outcome.

        Args:
            partition: Its partition.
            builder: Its builder.
            before: Batches that it must not overtake: if one of its partition was refused, it is not sent.
        """
        accumulator = self._running()._message_accumulator
        looks = _Looks(self)
        while queue := accumulator._batches.get(partition):
            await queue[-1].wait_drain(timeout=LOOK)
            if accumulator._batches.get(partition):
                looks.look()
        producer = self._running()
        if accumulator._exception is not None:
            raise ConnectionError("the producer of Kafka has failed") from accumulator._exception
        if any(each.partition in (None, partition) and _has_failed(future) for future, each in before.items()):
            behind: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            behind.set_exception(_Behind())
            behind.add_done_callback(_is_stored)
            return behind
        batch = accumulator._append_batch(builder, partition)
        began = asyncio.get_running_loop().time()
        size = builder.size()
        self.line.owed += size
        future: asyncio.Future[Any] = batch.future
        future.add_done_callback(partial(self._answered, producer, batch, size, began))
        return future

    def _answered(self, producer: Any, batch: Any, size: int, began: float, future: asyncio.Future[Any]) -> None:
        """Handle the outcome of a batch before the producer sends the next one to its partition."""
        partition = batch.tp
        self.line.owed -= size
        if _is_stored(future):
            if batch.retry_count == 1:
                self.sizes.stored(partition, size, began, self.line.round_trip)
            return
        error = future.exception()
        if isinstance(error, (*ONE_OF_THEM, *ALL_OF_THEM)):
            # The broker has stored nothing of it, so the next batch gets its number. Batches behind it would be out of
            # order: they are sent when this one has been split.
            numbers = producer._txn_manager._sequence_numbers
            if batch.retry_count:
                number = numbers[partition] - batch.record_count
                numbers[partition] = number if number >= -(2**31) else number + 2**32
            abandon(producer._message_accumulator, partition, _Behind())
        if isinstance(error, TOO_LARGE) and not self._options.producer.get("compression_type"):
            self.sizes.refused(partition.topic, size)

    async def _confirm(self, waiting: Iterable[asyncio.Future[Any]]) -> None:
        """Wait for the outcome of batches."""
        pending = {future for future in waiting if not future.done()}
        looks = _Looks(self)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK)
            if pending:
                looks.look()

    async def _send_apart(self, waiting: Waiting, records: Sequence[Record], refused: Errors) -> None:
        """Find the records that made batches fail, and send the others, in order.

        A broker refuses a batch as a whole.
        """
        apart: dict[TopicPartition, list[tuple[list[int], BaseException]]] = {}
        for future, batch in waiting.items():
            if (error := future.exception()) is None:
                continue
            for index in batch.indexes:
                self._unclear.pop(records[index].sequence, None)
            if batch.partition is not None:
                apart.setdefault(batch.partition, []).append((batch.indexes, error))
                continue
            for index in batch.indexes:
                key, is_control = records[index].key, records[index].is_control
                partition, _ = self._control_partition_of(key) if is_control else self._partition_of(key)
                apart.setdefault(partition, []).append(([index], _Behind()))
        for partition, groups in apart.items():
            todo = deque(sorted(groups, key=lambda group: group[0][0]))
            while todo:
                indexes, error = todo.popleft()
                if isinstance(error, _Behind):
                    todo.extendleft(reversed(await self._send_group(partition, indexes, records, refused)))
                elif isinstance(error, ONE_OF_THEM) and len(indexes) > 1:
                    half = len(indexes) // 2
                    todo.extendleft(((indexes[half:], _Behind()), (indexes[:half], _Behind())))
                elif isinstance(error, (*ONE_OF_THEM, *ALL_OF_THEM)):
                    if isinstance(error, ALL_OF_THEM):
                        indexes = [*indexes, *(index for behind, _ in todo for index in behind)]
                        todo.clear()
                    for index in indexes:
                        refused[index] = self._reason(error, partition.topic, records[index].key)
                else:
                    # The broker would refuse what comes next too.
                    await self._stop()
                    raise ConnectionError("Kafka has not stored what was sent") from error

    async def _send_group(
        self, partition: TopicPartition, indexes: list[int], records: Sequence[Record], refused: Errors
    ) -> list[tuple[list[int], BaseException]]:
        """Send as many of these records as fit into a batch, from the first on; return what is left."""
        batch = _Batch(partition, self._builder(partition.topic))
        limit = self.sizes.record(partition.topic)
        rest = list(indexes)
        while rest:
            record = records[rest[0]]
            size = batch.builder.add(self._address(record.key), record.payload, self._encode(record.headers))
            if size is None:
                break
            index = rest.pop(0)
            if size > limit:
                refused[index] = PayloadTooLarge(record.key, size, limit)
                return [(batch.indexes + rest, _Behind())] if batch.indexes or rest else []
            batch.indexes.append(index)
        waiting: Waiting = {}
        await self._hand_over(batch, records, waiting)
        await self._confirm(waiting)
        error = next(iter(waiting)).exception()
        done = [] if error is None else [(batch.indexes, error)]
        return [*done, (rest, _Behind())] if rest else done

    def _reason(self, error: BaseException, topic: str, key: Any) -> Exception:
        """Return the error of a refused record, with the remedy."""
        reason: Exception
        if isinstance(error, TOO_LARGE):
            size = self.sizes.too_large(topic) or 0
            reason = PayloadTooLarge(key, size, size)
            reason.args = (
                f"{key!r}: its record is larger than max.message.bytes of the topic {topic!r} allows, or "
                "message.max.bytes of the broker",
            )
        elif isinstance(error, TopicAuthorizationFailedError):
            reason = denied_topic(topic, "Write")
        elif isinstance(error, UnknownTopicOrPartitionError):
            reason = missing_topic(topic)
        else:
            reason = ValueError(f"{key!r}: Kafka refuses its record in the topic {topic!r}: {error}")
        reason.__cause__ = error
        return reason

    async def put(
        self,
        topic: str,
        key: Key[Any],
        payload: bytes | None,
        headers: Mapping[str, str],
        number: int | None = None,
    ) -> Exception | None:
        """Send one record to a topic; return None when it is stored, or the error if it never will be.

        Args:
            topic: The topic.
            key: Its key.
            payload: None for a tombstone.
            headers: Its headers.
            number: The partition, if the key does not decide it.

        Raises:
            ConnectionError, BrokerBusy: As `send`.
        """
        async with self.line.patience("Kafka has not confirmed what was sent"):
            if topic not in self._partitions:
                for error in (await self._learn([topic])).values():
                    return error
            address = self._address(key)
            partitions = self._partitions[topic]
            chosen: int = self._partitioner(address, partitions, partitions) if number is None else number
            partition = TopicPartition(topic, chosen)
            while True:
                builder = self._builder(topic)
                try:
                    size = builder.add(address, payload, self._encode(headers)) or 0
                except Exception as error:
                    return error
                if size > (limit := self.sizes.record(topic)):
                    return PayloadTooLarge(key, size, limit)
                future = await self._enqueue(partition, builder, {})
                await self._confirm([future])
                failure = future.exception()
                if failure is None:
                    return None
                if isinstance(failure, (*ONE_OF_THEM, *ALL_OF_THEM)):
                    return self._reason(failure, topic, key)
                if not isinstance(failure, _Behind):
                    await self._stop()
                    raise ConnectionError("Kafka has not stored what was sent") from failure

    # Partitions

    async def _learn(self, topics: Iterable[str]) -> dict[str, Exception]:
        """Load the partitions of these topics as they are now; return the errors of the others."""
        now = monotonic()
        errors = {topic: self._missing[topic][0] for topic in topics if self._missing.get(topic, (0, 0.0))[1] > now}
        wanted = [topic for topic in topics if topic not in errors]
        client = self.client
        if self.control_topic in wanted and self.make_control_topic is not None:
            try:
                await self.make_control_topic(client)
            except KafkaError:
                pass  # it may exist, or the broker may create it automatically
        if wanted:
            found = await client.learn(wanted)
            for topic, error in found.items():
                if len(self._missing) >= MOST_MISSING:
                    self._missing.clear()
                self._missing[topic] = (error, now + MISSING_FOR)
            errors |= found
            for topic in wanted:
                if partitions := client.cluster.partitions_for_topic(topic):
                    self._partitions[topic] = sorted(partitions)
        return errors

    def _look_at_partitions(self, cluster: Any) -> None:
        """Called with new metadata."""
        for topic, known in list(self._partitions.items()):
            partitions: list[int] = sorted(cluster.partitions_for_topic(topic) or ())
            if partitions != known:
                if partitions:
                    self._partitions[topic] = partitions
                else:
                    del self._partitions[topic]
                self._forget_partitions()

    def _forget_partitions(self) -> None:
        self._partition_of = cached(self._find_partition)
        self._control_partition_of = cached(self._find_control_partition)

    def _find_partition(self, key: Key[Any]) -> tuple[TopicPartition, bytes]:
        """Return the partition of a key, and the key of its records."""
        return self._find_in(self._topic(key), key)

    def _find_control_partition(self, key: Key[Any]) -> tuple[TopicPartition, bytes]:
        return self._find_in(self.control_topic, key)

    def _find_in(self, topic: str, key: Key[Any]) -> tuple[TopicPartition, bytes]:
        address = self._address(key)
        partitions = self._partitions.get(topic)
        if partitions is None:
            raise _UnknownTopic(topic)
        return TopicPartition(topic, self._partitioner(address, partitions, partitions)), address


class _Looks:
    """Checks now and then whether unconfirmed batches can still be confirmed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._number = 0
        self._gone: dict[str, int] = {}
        self._tried: dict[Any, int] = {}

    def look(self) -> None:
        """Check.

        Raises:
            ConnectionError: There is no broker.
            BrokerBusy: It rejects everything.
        """
        self._number += 1
        client = self._writer.client
        if client.is_down:
            raise ConnectionError(f"no broker of Kafka answers: {client.why()}") from client.failure
        producer = self._writer._running()
        if producer._sender.sender_task.done():
            raise ConnectionError("the producer of Kafka has failed")
        accumulator = producer._message_accumulator
        for topic in {partition.topic for partition in accumulator._batches}:
            self._gone[topic] = 0 if client.cluster.partitions_for_topic(topic) else self._gone.get(topic, 0) + 1
        for partition in list(accumulator._batches):
            if self._gone[partition.topic] >= GONE:
                abandon(accumulator, partition, UnknownTopicOrPartitionError(partition.topic))
        for batch in [*accumulator._pending_batches, *(each[0] for each in accumulator._batches.values())]:
            self._look_at(batch, client.cluster.leader_for_partition(batch.tp))

    def _look_at(self, batch: Any, leader: int | None) -> None:
        tried = batch.retry_count - self._tried.setdefault(batch, batch.retry_count)
        if self._number >= BUSY and (leader == -1 or (leader is not None and tried >= BUSY_TIMES)):
            why = "it has no leader" if leader == -1 else "it lacks replicas, or room to store anything"
            raise BrokerBusy(
                f"Kafka does not accept records for {batch.tp.topic}:{batch.tp.partition} at present: {why}"
            )


class _Batches(set[Any]):
    """Works around the driver, which removes a batch twice if it is given up while it waits for a retry."""

    remove = set.discard


def _is_stored(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _has_failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and not _is_stored(future)
