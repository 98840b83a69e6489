"""Reading from Kafka: which partitions, from where on, and what is missing there."""

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
from ..adapter import Link, Loss
from . import tolerant
from .client import CONNECT, Client, Line
from .exclusive import ExclusiveAssignor
from .logs import Lane, Logs
from .member import Listener, Membership
from .metadata import denied_topic
from .options import Options
from .stopping import stop_consumer
from .topics import Topics

# Seconds that a read waits for messages.
READ_TIMEOUT = 0.8
# Seconds of silence after which a sign of life is asked for.
QUIET = 1.0
# Seconds that connecting may take, in which a dead member of the group is waited for; that finding out where to read
# may take; and that a position may take to be stored.
CONNECT_TIMEOUT, TAKE_UP_TIMEOUT, COMMIT_TIMEOUT = 120.0, 30.0, 30.0
# Records in one read: more would keep the loop from other work for too long.
MOST_RECORDS = 1_000
# Bytes that the first answer, and that any answer may have; seconds that one takes over a slow line.
FIRST_FETCH, LEAST_FETCH, FETCH_SECONDS = 262_144, 65_536, 1.0
# What the driver cannot read, besides what is no error of its own.
UNREADABLE = (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError)


class Reader:
    """A consumer that outlives connections, and the positions up to which all was handled.

    Without a group and without a name it has all partitions, and its positions live as long as itself. With either it
    is a member of a consumer group, one of several or the only one, and the broker keeps the positions.

    Args:
        options: Of the consumer.
        topics: What is read.
        link: What the relay said.
        log: Where trouble with a topic goes that is not the end of the others.
        make: Makes the topics, where that is not left to the broker.
    """

    def __init__(
        self,
        options: Options,
        topics: Sequence[str],
        link: Link,
        log: Logger,
        make: Callable[[Client], Awaitable[None]] | None = None,
    ) -> None:
        self._options = options
        self._topics = topics
        self._make = make
        self.link = link
        name = link.group or link.name
        self._group = f"{link.namespace}.{name}" if name and link.namespace else name
        self.consumer: Any = None
        """That of the driver, unless it is closed."""
        self._assignor: ExclusiveAssignor | None = None
        # Of each partition that this reader has: the first offset that is not handled, not stored, not read.
        self._next: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        self._read: dict[TopicPartition, int] = {}
        self._logs = Logs()
        self._ids_seen: dict[str, bytes] = {}
        self._known: set[TopicPartition] = set()  # the broker had a position for them
        self._losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        self._began: int | None = None  # the group, or without one this reader; in milliseconds since the epoch
        self._settled = asyncio.Event()  # the partitions are known, and where to read them
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
        """Acknowledgements that came when somebody else had the partition already."""

    # Connecting

    async def open(self) -> None:
        """Return when it is known what to read, and from where on.

        Raises:
            NameTaken: Another one that lives has the name.
            LookupError: None of the topics exists.
            PermissionError: None of the topics is for us, or the group is not.
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
            # Else it is not closed: a member that was killed is waited for longer than the relay waits, perhaps, and
            # another attempt would be another member to wait for.
            await self.close()
            raise
        # From what was not handled on: whoever had it in hand when the connection was lost may have let go of it.
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
            # Not `self.consumer`: one that is being closed still assigns.
            self._assignor = ExclusiveAssignor(
                lambda: consumer._coordinator.generation  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
            )
            settings["partition_assignment_strategy"] = [self._assignor]
        consumer = AIOKafkaConsumer(group_id=self._group, **settings)
        client = Client.adopt(consumer._client, self.line)
        try:
            async with self.line.patience(silence=CONNECT, most=CONNECT_TIMEOUT):
                if self._make is None:
                    client._topics |= set(self._topics)
                await consumer.start()
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
        # Without a group, too, this has partitions that are added assigned.
        listener = Listener(self.take_over, self.give_back, lambda: self.consumer is consumer)
        consumer.subscribe(self._topics, listener=listener)
        if self._group is None:
            coordinator: Any = consumer._coordinator
            coordinator.assign_all_partitions()

    async def _until_settled(self, consumer: Any) -> None:
        """Wait for the group to come together, and see meanwhile that the broker answers."""
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
        """See that what goes on in the background does.

        Raises:
            NameTaken: A group and a name are spelled alike.
            PermissionError: The group is not for us.
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
            self._failure = ConnectionError("the driver does not fetch any more")
            raise self._failure

    def interrupt(self) -> None:
        """Let what waits end, and what goes on begin with a new connection."""
        self._end_waits()
        self.line.cut()

    def nudge(self) -> None:
        """Let a `read` that waits for messages return."""
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def _end_waits(self) -> None:
        self._closed = True
        self.nudge()
        self.line.interrupt()

    async def close(self) -> None:
        """Leave the group, and let go of the connection."""
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
        """These are this reader's now."""
        self._membership.confirm()
        try:
            if self._assignor is not None and not self._assignor.is_holder:
                raise NameTaken(str(self.link.name))
            await self._take_up(partitions)
            self._logs.forget_all_but(self._next)
        except Exception as error:
            self._failure = error
        self._settled.set()

    async def give_back(self, partitions: Sequence[TopicPartition]) -> None:
        """These are somebody else's in a moment; first what is in hand of them is finished."""
        self._settled.clear()
        if partitions and self.link.release is not None:
            await self.link.release({self._logs.lane(partition) for partition in partitions})
        for partition in partitions:
            self._forget(partition)

    async def _take_up(self, partitions: Iterable[TopicPartition]) -> None:
        """Read on where this reader was, or else where the group was, or else where it is to start."""
        unknown = [partition for partition in partitions if partition not in self._next]
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            if unknown:
                if self._group is not None:
                    await self._fetch_stored()
                ids = self.consumer._client.ids
                # With a topic the positions in it are deleted, unless one was stored right after that.
                anew = {partition for partition in unknown if self._logs.is_another(partition, ids)}
                old = {partition for partition in unknown if partition in self._stored} - anew
                self._next |= {partition: self._stored[partition] for partition in old}
                fresh = [partition for partition in unknown if partition not in old]
                self._losses += [self._logs.recreated(each) for each in fresh if each in self._known or each in anew]
                self._logs.note(unknown, ids)
                starts = await self._starts(fresh)
                self._next |= starts
                # Else, after a crash before the first message was handled, another start would be found.
                await self._store(starts)
        for partition in partitions:
            self.consumer.seek(partition, self._read.get(partition, self._next[partition]))

    async def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to begin with partitions without a position."""
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
            # Added since then, or another member is just beginning with the group.
            moment = began
        else:
            moment = int(start * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, moment))
        return {each: ends[each] if found[each] is None else found[each].offset for each in partitions}

    # Topics that are deleted and made anew

    async def _read_anew(self, consumer: Any) -> set[TopicPartition]:
        """Go on from the beginning of logs that took the place of others, if there are any; return which."""
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
        # Also what is to come again with the next metadata, and is a loss once.
        self._logs.note(self._next.keys() | anew, ids)
        self._ids_seen = ids
        return anew

    async def _go_on(self, consumer: Any, positions: Mapping[TopicPartition, int]) -> None:
        """Read on from elsewhere."""
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
            most: Records, over all lanes together.
            seconds: Instead, to wait for them.

        Raises:
            ConnectionError: No broker answers.
            NameTaken: Another one has the name by now.
            PermissionError: What is read is not for us any more.
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
            # The longer one is for a rebalance, in which `getmany` waits for its end.
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
            # There are other partitions than before.
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
            # It stood still for so long that others may have these by now.
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
            self._read[partition] = records[-1].offset + 1
            result.append((self._logs.lane(partition), records))
        return result

    async def _read_tolerantly(self, consumer: Any, most: int) -> dict[TopicPartition, list[Any]]:
        """Read what the driver cannot, and what was read with it, which the driver has lost."""
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
                    continue  # which the driver finds as well
                if not self._has(consumer, partition):
                    continue
                if records:
                    result[partition] = records[:most]
                    most -= len(result[partition])
                    after = after if len(records) == len(result[partition]) else result[partition][-1].offset + 1
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
        """Records that are still to be read, of the partitions of which something was read."""
        consumer = self.consumer
        if consumer is None:
            return None
        read = {each: position for each, position in self._read.items() if self._has(consumer, each)}
        ends = {partition: consumer.highwater(partition) for partition in read}
        return sum(max(0, end - read[each]) for each, end in ends.items() if end is not None) if ends else None

    # Liveness

    def check_life(self) -> None:
        """See that the broker answers, where nothing is read.

        Raises:
            ConnectionError: It does not.
        """
        if self.consumer is None or self._closed:
            raise ConnectionError("the connection to Kafka is closed")
        self._look(self.consumer)

    def _look(self, consumer: Any) -> None:
        """Nothing came: see that something moves, or ask."""
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
        """Ask for no more at once than comes over a slow line in a moment: the group waits for a sign meanwhile."""
        options = self._options
        if self.line.rate is not None:
            self._fetch_size = max(LEAST_FETCH, int(self.line.rate * FETCH_SECONDS))
        elif has_come:
            self._fetch_size = min(2 * self._fetch_size, options.fetch_max_bytes)
        consumer._fetcher._fetch_max_bytes = min(options.fetch_max_bytes, self._fetch_size)
        consumer._fetcher._max_partition_fetch_bytes = min(options.max_partition_fetch_bytes, self._fetch_size)

    # Losses

    async def _lost(self, positions: Mapping[TopicPartition, int]) -> list[tuple[Lane, Sequence[Any]] | Loss]:
        """Nothing is where this reader would read on: say what is missing, and go on with what there is."""
        consumer = self.consumer
        losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        async with self.line.patience(most=TAKE_UP_TIMEOUT):
            # Of topics that were made anew it would be heard once more.
            await consumer._client.ask(list(self._topics), may_create=False)
            firsts = await consumer.beginning_offsets(list(positions))
        for partition, position in positions.items():
            first = firsts[partition]
            if position < first:
                losses.append(Loss("expired", first - position, self._logs.lane(partition)))
            else:
                # Beyond the end: a log that is another, or has lost its end. Nobody knows how long it was.
                losses.append(self._logs.recreated(partition))
        self._logs.note(positions, consumer._client.ids)
        await self._go_on(consumer, firsts)
        return losses

    # Positions

    async def advance(self, tokens: Iterable[tuple[Lane, int]]) -> None:
        """Everything up to these offsets is handled."""
        for lane, offset in tokens:
            partition = TopicPartition(lane.topic, lane.partition)
            if partition not in self._next or lane != self._logs.lane(partition):
                self.late += 1
            elif offset >= self._next[partition]:
                self._next[partition] = offset + 1
        await self._store({each: offset for each, offset in self._next.items() if self._stored.get(each) != offset})

    async def _store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Have the broker keep positions."""
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
            # They were given to somebody else meanwhile, who gets it all again.
            self.late += len(offsets)
        else:
            self._stored |= positions
            self._known.update(positions)

    async def _fetch_stored(self) -> None:
        """Ask for the positions of the group, and since when it exists."""
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
