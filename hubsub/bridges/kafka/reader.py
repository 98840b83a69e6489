"""Reading from Kafka: which partitions, from which positions, and what is missing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import time
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalStateError,
    InconsistentGroupProtocolError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from ...errors import NameTaken
from ...log import Episode, Logger
from ..adapter import Link, Loss, Received
from . import tolerant
from .client import CONNECT, Client
from .exclusive import ExclusiveAssignor
from .line import Line
from .logs import Lane, Logs
from .member import Listener, Membership
from .metadata import denied_topic
from .options import Options
from .records import Make, have_made, leave_as_read
from .stopping import stop_consumer
from .topics import Topics

# Seconds that a read waits for messages.
READ_TIMEOUT = 0.8
# Seconds of silence after which the broker is asked for a sign of life.
QUIET = 1.0
# Seconds that connecting may take, which includes waiting for a dead member of the group; that finding the positions
# may take; and that storing a position may take.
CONNECT_TIMEOUT, TAKE_UP_TIMEOUT, COMMIT_TIMEOUT = 120.0, 30.0, 30.0
# The most records in one read: more would block the loop for too long, and leave the processor's cache.
MOST_RECORDS = 250
# The most bytes of the first answer, and of any answer; the seconds that one may take over a slow line.
FIRST_FETCH, LEAST_FETCH, FETCH_SECONDS = 262_144, 65_536, 1.0
# What the driver raises for records that it cannot read.
UNREADABLE = (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError)


class Reader:
    """A consumer that outlives connections, and the positions up to which everything was handled.

    Without a group and a name it has all partitions, and its positions live as long as it does. With either it is a
    member of a consumer group, one of several or the only one, and the broker keeps the positions.

    Args:
        options: Of the consumer.
        topics: The topics to read.
        link: What the relay wants.
        log: For failures of one topic that do not affect the others.
        make: Creates the topics, if that is not left to the broker.
        making: Returns what makes a `Received` of each record, given the lanes; by default records are left as they
            are.
    """

    def __init__(
        self,
        options: Options,
        topics: Sequence[str],
        link: Link,
        log: Logger,
        make: Callable[[Client], Awaitable[None]] | None = None,
        making: Callable[[Mapping[TopicPartition, Lane]], Make] = lambda lanes: leave_as_read,
    ) -> None:
        self._options = options
        self._topics = topics
        self._make = make
        self.link = link
        name = link.group or link.name
        self._group = f"{link.namespace}.{name}" if name and link.namespace else name
        self.consumer: Any = None
        """The driver's consumer, unless it is closed."""
        self._assignor: ExclusiveAssignor | None = None
        # By partition of this reader: the first offset that is not handled, not stored, not read.
        self._next: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        self._read: dict[TopicPartition, int] = {}
        self._logs = Logs()
        self._of_record = making(self._logs.lanes)
        self._ids_seen: dict[str, bytes] = {}
        self._known: set[TopicPartition] = set()  # the broker had a position for them
        self._losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        self._began: int | None = (
            None  # when the group began, or without one this reader; in milliseconds since the epoch
        )
        self._settled = asyncio.Event()  # the partitions and their positions are known
        self._failure: Exception | None = None
        self._deadline: asyncio.Timeout | None = None
        self._probe: asyncio.Task[Any] | None = None
        self._closed = False
        self._membership = Membership(options.session)
        self._fetch_size = FIRST_FETCH
        self._trouble = Episode(log)
        self._readable = Topics(topics, self._trouble)
        self.line = Line(options.fetch_wait, options.rebalance)
        self.line.on_broken = self.nudge
        self.late = 0
        """Acknowledgements that came when another member had the partition already."""

    # Connecting

    async def open(self) -> None:
        """Return when it is known what to read, and from which positions.

        Raises:
            NameTaken: Another live reader has the name.
            LookupError: None of the topics exists.
            PermissionError: There is no right to the group, or to any of the topics.
            ConnectionError: No broker answers.
        """
        self._closed = False
        self.line.broken = None
        if self.consumer is None:
            await self._start()
        else:
            async with self.line.patience():
                await self.consumer._client.ask(list(self._topics), may_create=False)
        consumer = self.consumer
        try:
            await self._until_settled(consumer)
        except (NameTaken, PermissionError):
            # Otherwise keep it: the group may wait for a killed member longer than the relay waits for a connection.
            # Each further attempt would add a member to wait for.
            await self.close()
            raise
        # Go back to the first unhandled record: what was received before the connection was lost may have been dropped.
        self._read.clear()
        assigned: Any = consumer
        await self._take_up(assigned.assignment())
        await self._read_anew(consumer)
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            await self._readable.ask_for_denied(consumer, self._next)
        self.line.silent = 0.0

    async def _start(self) -> None:
        self._settled = asyncio.Event()
        self._failure = None
        settings = dict(self._options.consumer)
        if self.link.name is not None and self.link.group is None:
            # Not `self.consumer`: a consumer that is being closed still gets assignments.
            self._assignor = ExclusiveAssignor(
                lambda: consumer._coordinator.generation  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
            )
            settings["partition_assignment_strategy"] = [self._assignor]
        consumer = AIOKafkaConsumer(group_id=self._group, **settings)
        client = Client.adopt(consumer._client, self.line, self._options.tls)
        try:
            async with self.line.patience(silence=CONNECT, most=CONNECT_TIMEOUT):
                if self._make is None:
                    client._topics |= set(self._topics)
                await consumer.start()
                have_made(consumer._fetcher, self._of_record)
                if self._make is not None:
                    await self._make(client)
                errors = await client.learn(self._topics)
            if len(errors) == len(self._topics):
                raise errors[self._topics[0]]
            for error in errors.values():
                self._trouble.error("%s", error)
        except BaseException:
            await stop_consumer(consumer, client)
            raise
        self.consumer = consumer
        if self._group is not None:
            self._membership.watch(consumer._coordinator)
        # Without a group too, this assigns partitions that are added.
        listener = Listener(self.take_over, self.give_back, lambda: self.consumer is consumer)
        consumer.subscribe(self._topics, listener=listener)
        if self._group is None:
            coordinator: Any = consumer._coordinator
            coordinator.assign_all_partitions()

    async def _until_settled(self, consumer: Any) -> None:
        """Wait until the group has assigned partitions, and check meanwhile that the broker answers."""
        async with self.line.patience(most=CONNECT_TIMEOUT):
            while not self._is_settled(consumer):
                self._check(consumer)
                if self._group is None:
                    waiting = consumer._subscription.wait_for_assignment()
                else:
                    waiting = asyncio.ensure_future(self._settled.wait())
                try:
                    await asyncio.wait([waiting], timeout=READ_TIMEOUT)
                finally:
                    if not waiting.cancel():
                        waiting.exception()
                self._ask_for_life()
        failure, self._failure = self._failure, None
        if failure is not None:
            await self.close()
            raise failure

    def _is_settled(self, consumer: Any) -> bool:
        if self._group is None and consumer.assignment():
            self._settled.set()
        return self._settled.is_set()

    def _check(self, consumer: Any) -> None:
        """Check that the driver's background tasks are running.

        Raises:
            NameTaken: A group and a name have the same spelling.
            PermissionError: There is no right to the group.
            ConnectionError: The driver has given up.
        """
        try:
            consumer._coordinator.check_errors()
        except InconsistentGroupProtocolError as error:
            raise NameTaken(str(self.link.name or self.link.group)) from error
        except GroupAuthorizationFailedError as error:
            raise PermissionError(
                f"Kafka does not give this client the right Read to the group {self._group!r}"
            ) from error
        except TopicAuthorizationFailedError as error:
            raise denied_topic(str(error.args[0] if error.args else self._topics[0]), "Read") from error
        except KafkaError as error:
            self._failure = ConnectionError(f"the group of Kafka has failed: {error}")
            raise self._failure from error
        if consumer._fetcher._fetch_task.done():
            self._failure = ConnectionError("the driver has stopped fetching")
            raise self._failure

    def interrupt(self) -> None:
        """End what waits, and have what continues start with a new connection."""
        self._end_waits()
        self.line.cut()

    def nudge(self) -> None:
        """Make a `read` that waits for messages return."""
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def _end_waits(self) -> None:
        self._closed = True
        self.nudge()
        self.line.interrupt()

    async def close(self) -> None:
        """Leave the group, and disconnect."""
        self._end_waits()
        if self._probe is not None:
            self._probe.cancel()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await stop_consumer(consumer, consumer._client)
        if self._group is not None:
            # The broker knows better.
            self._next.clear()
            self._logs.forget_all_but(())

    # Partitions

    async def take_over(self, partitions: Sequence[TopicPartition]) -> None:
        """Begin to read partitions that were assigned."""
        self._membership.confirm()
        if self._group is not None:
            # The driver begins when this returns: over a line of seconds the group has given up this member by then.
            self.consumer._coordinator._start_heartbeat_task()
        try:
            if self._assignor is not None and not self._assignor.is_holder:
                raise NameTaken(str(self.link.name))
            await self._take_up(partitions)
            self._logs.forget_all_but(self._next)
        except Exception as error:
            self._failure = error
        self._settled.set()

    async def give_back(self, partitions: Sequence[TopicPartition]) -> None:
        """Give partitions back, after what was received from them is finished."""
        self._settled.clear()
        if partitions and self.link.release is not None:
            await self.link.release({self._logs.lanes[partition] for partition in partitions})
        for partition in partitions:
            self._forget(partition)

    async def _take_up(self, partitions: Iterable[TopicPartition]) -> None:
        """Find the positions to read from: of this reader, else of the group, else of `start`."""
        unknown = [partition for partition in partitions if partition not in self._next]
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            if unknown:
                if self._group is not None:
                    await self._fetch_stored()
                ids = self.consumer._client.ids
                # Deleting a topic deletes its positions, unless one was stored right after that.
                anew = {partition for partition in unknown if self._logs.is_another(partition, ids)}
                old = {partition for partition in unknown if partition in self._stored} - anew
                self._next |= {partition: self._stored[partition] for partition in old}
                fresh = [partition for partition in unknown if partition not in old]
                self._losses += [self._logs.recreated(each) for each in fresh if each in self._known or each in anew]
                self._logs.note(unknown, ids)
                starts = await self._starts(fresh)
                self._next |= starts
                # Otherwise, after a crash before the first message was handled, `start` would mean another position.
                await self._store(starts)
        for partition in partitions:
            self.consumer.seek(partition, self._read.get(partition, self._next[partition]))

    async def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where to begin with partitions without a position."""
        consumer = self.consumer
        start = self.link.start
        began, now = self._began, int(time() * 1000)
        self._began = now if began is None else began
        if start == "earliest":
            return dict(await consumer.beginning_offsets(partitions))
        ends = await consumer.end_offsets(partitions)
        if start == "new":
            if began is None:
                return dict(ends)
            # A partition that was added since, or another member that starts with the group.
            moment = began
        else:
            moment = int(start * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, moment))
        return {each: ends[each] if found[each] is None else found[each].offset for each in partitions}

    # Topics that are deleted and created again

    async def _read_anew(self, consumer: Any) -> set[TopicPartition]:
        """Continue at the beginning of logs that have replaced others; return their partitions."""
        client = consumer._client
        if client.is_in_doubt:
            client.is_in_doubt = False
            async with self.line.patience(most=TAKE_UP_TIMEOUT):
                await client.ask(list(self._topics), may_create=False)
        ids = client.ids
        if ids is self._ids_seen:
            return set()
        anew = {partition for partition in self._next if self._logs.is_another(partition, ids)}
        gone = {each for each in anew if each.partition not in (consumer.partitions_for_topic(each.topic) or ())}
        self._losses += [self._logs.recreated(partition) for partition in gone]
        for partition in gone:
            self._forget(partition)
        if left := anew - gone:
            async with self.line.patience(most=TAKE_UP_TIMEOUT):
                firsts = await consumer.beginning_offsets(list(left))
            still = [partition for partition in left if partition in self._next]
            self._losses += [self._logs.recreated(partition) for partition in still]
            await self._go_on(consumer, {partition: firsts[partition] for partition in still})
        # Including partitions that will come back with the next metadata: each is one loss.
        self._logs.note(self._next.keys() | anew, ids)
        self._ids_seen = ids
        return anew

    async def _go_on(self, consumer: Any, positions: Mapping[TopicPartition, int]) -> None:
        """Continue at other positions."""
        self._next |= positions
        self._read |= positions
        for partition, position in positions.items():
            if partition in consumer.assignment():
                consumer.seek(partition, position)
        await self._store(positions)

    def _forget(self, partition: TopicPartition) -> None:
        for known in (self._next, self._stored, self._read):
            known.pop(partition, None)

    # Reading

    async def read(self, most: int, seconds: float = READ_TIMEOUT) -> Sequence[tuple[Lane, Sequence[Any]] | Loss]:
        """Wait a second for records, at most two; return them by lane, and what is missing before them.

        Args:
            most: The most records, of all lanes together.
            seconds: Another time to wait.

        Raises:
            ConnectionError: No broker answers.
            NameTaken: Another reader has the name by now.
            PermissionError: The right to read was withdrawn.
        """
        consumer = self.consumer
        if consumer is None or self._closed:
            raise ConnectionError("the connection to Kafka is closed")
        if self.line.broken is not None:
            raise self.line.broken
        await self._read_anew(consumer)
        most = min(most, MOST_RECORDS)
        batches: Mapping[TopicPartition, Sequence[Any]] = {}
        try:
            self._check(consumer)
        except BaseException:
            await self.close()
            raise
        try:
            # The longer one is for a rebalance, whose end `getmany` waits for.
            async with asyncio.timeout(seconds + 0.2) as self._deadline:
                await self._settled.wait()
                if self._is_in_doubt:
                    await asyncio.sleep(READ_TIMEOUT / 4)
                else:
                    batches = await consumer.getmany(timeout_ms=int(1000 * seconds), max_records=most)
        except TimeoutError:
            pass
        except OffsetOutOfRangeError as error:
            return await self._lost(error.args[0])
        except NoOffsetForPartitionError:
            # The partitions have changed.
            if self._group is None:
                await self._take_up(consumer.assignment())
        except TopicAuthorizationFailedError as error:
            self._readable.deny(consumer, str(error.args[0]))
        except ConsumerStoppedError as error:
            raise ConnectionError("the connection to Kafka is closed") from error
        except Exception as error:
            if self._closed or self.consumer is None:
                raise ConnectionError("the connection to Kafka is closed") from error
            self._check(consumer)
            if isinstance(error, (KafkaError, OSError)) and not isinstance(error, UNREADABLE):
                raise
            batches = await self._read_tolerantly(consumer, most)
        finally:
            self._deadline = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            await self.close()
            raise failure
        if batches and self._is_in_doubt:
            # This process was frozen for so long that other members may have these by now.
            for partition in batches:
                if partition in self._next:
                    consumer.seek(partition, self._read.get(partition, self._next[partition]))
            batches = {}
        if batches and (anew := await self._read_anew(consumer)):
            batches = {each: records for each, records in batches.items() if each not in anew}
        if not batches and not self._closed:
            self._look(consumer)
        self._size_fetches(consumer, bool(batches))
        result, self._losses = self._losses, []
        for partition, records in batches.items():
            last = records[-1]
            self._read[partition] = (last.token[1] if isinstance(last, Received) else last.offset) + 1
            result.append((self._logs.lanes[partition], records))
        return result

    async def _read_tolerantly(self, consumer: Any, most: int) -> dict[TopicPartition, list[Any]]:
        """Read the records that the driver cannot read, and those that it has lost with them."""
        positions = {each: self._read.get(each, self._next[each]) for each in self._next if self._has(consumer, each)}
        for partition, position in positions.items():
            consumer.seek(partition, position)
        result: dict[TopicPartition, list[Any]] = {}
        isolation = int(consumer._isolation_level == "read_committed")
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            for partition in random.sample(list(positions), len(positions)):
                if most <= 0:
                    break
                try:
                    records, after = await tolerant.fetch(consumer._client, partition, positions[partition], isolation)
                except KafkaError:
                    continue  # which the driver finds too
                if not self._has(consumer, partition):
                    continue
                if records:
                    if len(records) > most:
                        records, after = records[:most], records[most - 1].offset + 1
                    most -= len(records)
                    result[partition] = [self._of_record(partition, record) for record in records]
                self._read[partition] = after
                consumer.seek(partition, after)
        return result

    def _has(self, consumer: Any, partition: TopicPartition) -> bool:
        return partition in self._next and partition in consumer.assignment()

    @property
    def _is_in_doubt(self) -> bool:
        return self._group is not None and self._membership.is_in_doubt

    @property
    def lag(self) -> int | None:
        """Records still to be read, in the partitions that something was read from."""
        consumer = self.consumer
        if consumer is None:
            return None
        read = {each: position for each, position in self._read.items() if self._has(consumer, each)}
        ends = {partition: consumer.highwater(partition) for partition in read}
        return sum(max(0, end - read[each]) for each, end in ends.items() if end is not None) if ends else None

    # Liveness

    def check_life(self) -> None:
        """Check that the broker answers while nothing is read.

        Raises:
            ConnectionError: It does not.
        """
        if self.consumer is None or self._closed:
            raise ConnectionError("the connection to Kafka is closed")
        self._look(self.consumer)

    def _look(self, consumer: Any) -> None:
        """Check for traffic when nothing was received, and ask the broker if there was none."""
        client = consumer._client
        if self.line.broken is not None:
            raise self.line.broken
        if client.is_down or self.line.silent > self.line.limit:
            raise ConnectionError(f"Kafka does not answer: {client.why()}") from client.failure
        self._ask_for_life()
        self._readable.look(consumer)

    def _ask_for_life(self) -> None:
        is_due = self.line.silent > QUIET and (self._probe is None or self._probe.done())
        if is_due and self.consumer is not None:
            self._probe = probe = asyncio.ensure_future(self.consumer._client.ask())
            probe.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _size_fetches(self, consumer: Any, has_come: bool) -> None:
        """Request only as much at once as a slow line carries in a moment, since heartbeats wait behind it."""
        options = self._options
        if self.line.rate is not None:
            self._fetch_size = max(LEAST_FETCH, int(self.line.rate * FETCH_SECONDS))
        elif has_come:
            self._fetch_size = min(2 * self._fetch_size, options.fetch_max_bytes)
        consumer._fetcher._fetch_max_bytes = min(options.fetch_max_bytes, self._fetch_size)
        consumer._fetcher._max_partition_fetch_bytes = min(options.max_partition_fetch_bytes, self._fetch_size)

    # Losses

    async def _lost(self, positions: Mapping[TopicPartition, int]) -> list[tuple[Lane, Sequence[Any]] | Loss]:
        """Handle positions out of range: report what is missing, and continue with what there is."""
        consumer = self.consumer
        losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            # A topic that was created again is reported elsewhere.
            await consumer._client.ask(list(self._topics), may_create=False)
            firsts = await consumer.beginning_offsets(list(positions))
        for partition, position in positions.items():
            first = firsts[partition]
            if position < first:
                losses.append(Loss("expired", first - position, self._logs.lanes[partition]))
            else:
                # Beyond the end: another log, or one that has lost its end. Its former length is unknown.
                losses.append(self._logs.recreated(partition))
        self._logs.note(positions, consumer._client.ids)
        await self._go_on(consumer, firsts)
        return losses

    # Positions

    async def advance(self, tokens: Iterable[tuple[Lane, int]]) -> None:
        """Note that everything before these offsets is handled."""
        for lane, offset in tokens:
            partition = TopicPartition(lane.topic, lane.partition)
            if partition not in self._next or lane != self._logs.lanes[partition]:
                self.late += 1
            elif offset >= self._next[partition]:
                self._next[partition] = offset + 1
        await self._store({each: offset for each, offset in self._next.items() if self._stored.get(each) != offset})

    async def _store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Store positions at the broker."""
        if self._group is None or self.consumer is None:
            return
        ours = self.consumer.assignment()
        note = str(self._began or 0)
        offsets = {each: OffsetAndMetadata(offset, note) for each, offset in positions.items() if each in ours}
        if not offsets:
            return
        try:
            async with self.line.patience("Kafka has not stored the position", most=COMMIT_TIMEOUT):
                await self.consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            # Another member has them by now, and gets it all again.
            self.late += len(offsets)
        else:
            self._stored |= positions
            self._known.update(positions)

    async def _fetch_stored(self) -> None:
        """Return the positions of the group, and since when it exists."""
        consumer = self.consumer
        everything = [
            TopicPartition(topic, partition)
            for topic in self._topics
            for partition in consumer.partitions_for_topic(topic) or ()
        ]
        found = await consumer._coordinator.fetch_committed_offsets(everything)
        self._stored = {partition: each.offset for partition, each in found.items()}
        self._known.update(found)
        notes = [int(each.metadata) if each.metadata.isdecimal() else 0 for each in found.values()]
        self._began = min(notes, default=self._began)
