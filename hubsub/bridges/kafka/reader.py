"""Reading from Kafka: which partitions, from where on, and what is missing there."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from ...errors import NameTaken
from ..adapter import Link, Loss
from .options import Options
from .writer import stopped

# Seconds that a read waits for messages, and then for any sign of life.
READ_TIMEOUT = 0.8
SIGN_TIMEOUT = 0.9
# Seconds that connecting may take, in which a dead member of the group is waited for.
CONNECT_TIMEOUT = 30.0
# Seconds in which a position is stored; then the connection counts as lost.
COMMIT_TIMEOUT = 5.0
# Records in one read: more would keep the loop from other work for too long.
MOST_RECORDS = 1_000


_TURN = struct.Struct(">q")


class Lane(NamedTuple):
    """A partition, for as long as its log goes on."""

    topic: str
    partition: int
    era: int
    """How many logs there were before it, as far as this reader knows: it grows when a topic is made anew."""


class Sole:
    """Assigns everything to one member of a group: to the one that has it already, else to any.

    So a name is a group whose members exclude each other, and the broker itself tells which of them is alive.
    """

    name = "hubsub-sole"

    def __init__(self) -> None:
        self._turn = 0  # the last one of this member to have everything
        self.is_holder = False
        """Whether this member has everything, if there is anything."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member tells the one that assigns."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), _TURN.pack(self._turn))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Say who gets what."""
        turns = {member: _TURN.unpack(metadata.user_data)[0] for member, metadata in members.items()}
        # Who had it before this one, and was away for so long that it was taken from him, has an older turn.
        holder = max(members, key=lambda member: (turns[member], member))
        topics = members[holder].subscription
        everything = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
        nothing = ConsumerProtocolMemberAssignment(0, [], b"")
        turn = _TURN.pack(turns[holder] + 1)
        return dict.fromkeys(members, nothing) | {holder: ConsumerProtocolMemberAssignment(0, everything, turn)}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Hear what this member got."""
        self.is_holder = bool(assignment.user_data)
        if self.is_holder:
            (self._turn,) = _TURN.unpack(assignment.user_data)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what happens to the partitions of a group."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Any:
        return self._reader.give_back(list(revoked))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> Any:
        return self._reader.take_over(list(assigned))


class Reader:
    """A consumer that outlives connections, and the positions up to which all was handled.

    Without a group and without a name it has all partitions, and its positions live as long as itself. With either it
    is a member of a consumer group, one of several or the only one, and the broker keeps the positions.

    Args:
        options: Of the consumer.
        topics: What is read.
        link: What the relay said.
    """

    def __init__(self, options: Options, topics: Sequence[str], link: Link) -> None:
        self._options = options
        self._topics = topics
        self._link = link
        name = link.group or link.name
        self._group = f"{link.namespace}.{name}" if name and link.namespace else name
        self._consumer: Any = None
        self._starting: asyncio.Task[Any] | None = None
        self._sole: Sole | None = None
        # Of each partition that this reader has: the first offset that is not handled, not stored, not read.
        self._next: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        self._read: dict[TopicPartition, int] = {}
        self._eras: dict[TopicPartition, int] = {}
        self._known: set[TopicPartition] = set()  # the broker had a position for them
        self._losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        self._began: int | None = None  # the group, or without one this reader; in milliseconds since the epoch
        self._settled = asyncio.Event()  # the partitions are known, and where to read them
        self._failure: Exception | None = None
        self._deadline: asyncio.Timeout | None = None
        self._closed = False
        self._last_sign = 0
        self.late = 0
        """Acknowledgements that came when somebody else had the partition already."""

    # Connecting

    async def open(self) -> None:
        """Return when it is known what to read, and from where on.

        Raises:
            NameTaken: Another one that lives has the name.
        """
        self._closed = False
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            # If nobody waits for it any more, nobody minds why it failed.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Not cancelled with us: a member that was killed is waited for longer than the relay waits, and another attempt
        # would be another member to wait for.
        await asyncio.wait([self._starting])
        try:
            consumer = self._starting.result()
        except BaseException:
            await self.close()
            raise
        await consumer.topics()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await self._settled.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            await self.close()
            raise failure
        # From what was not handled on: whoever had it in hand when the connection was lost may have let go of it.
        self._read.clear()
        await self._take_up(consumer.assignment())

    async def _start(self) -> Any:
        self._settled.clear()
        settings = dict(self._options.consumer)
        if self._link.name is not None and self._link.group is None:
            self._sole = Sole()
            settings["partition_assignment_strategy"] = [self._sole]
        self._consumer = consumer = AIOKafkaConsumer(group_id=self._group, **settings)
        # Without a group, too, this has partitions that are added assigned.
        consumer.subscribe(self._topics, listener=_Listener(self))
        await consumer.start()
        if self._group is None:
            self._settled.set()
        return consumer

    def interrupt(self) -> None:
        """Let a `read` that waits end."""
        self._closed = True
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Leave the group, and let go of the connection."""
        self.interrupt()
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer.stop(), consumer._client)
        if self._group is not None:
            # The broker knows better.
            self._next.clear()

    # Partitions

    async def take_over(self, partitions: Sequence[TopicPartition]) -> None:
        """These are this reader's now."""
        try:
            if self._sole is not None and not self._sole.is_holder:
                raise NameTaken(str(self._link.name))
            await self._take_up(partitions)
        except Exception as error:
            self._failure = error
        self._settled.set()

    async def give_back(self, partitions: Sequence[TopicPartition]) -> None:
        """These are somebody else's in a moment; first what is in hand of them is finished."""
        self._settled.clear()
        if partitions and self._link.release is not None:
            await self._link.release({self._lane(partition) for partition in partitions})
        for partition in partitions:
            for known in (self._next, self._stored, self._read):
                known.pop(partition, None)

    async def _take_up(self, partitions: Iterable[TopicPartition]) -> None:
        """Read on where this reader was, or else where the group was, or else where it is to start."""
        unknown = [partition for partition in partitions if partition not in self._next]
        if unknown:
            if self._group is not None:
                await self._fetch_stored()
            self._next |= {partition: self._stored[partition] for partition in unknown if partition in self._stored}
            fresh = [partition for partition in unknown if partition not in self._stored]
            # With a topic the positions in it are deleted.
            self._losses += [self._recreated(partition) for partition in fresh if partition in self._known]
            starts = await self._starts(fresh)
            self._next |= starts
            # Else, after a crash before the first message was handled, another start would be found.
            await self._store(starts)
        for partition in partitions:
            self._consumer.seek(partition, self._read.get(partition, self._next[partition]))

    async def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to begin with partitions without a position."""
        consumer = self._consumer
        start = self._link.start
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

    def _lane(self, partition: TopicPartition) -> Lane:
        return Lane(partition.topic, partition.partition, self._eras.get(partition, 0))

    # Reading

    async def read(self) -> Sequence[tuple[Lane, Sequence[Any]] | Loss]:
        """Wait a second for records, at most two; return them by lane, and what is missing before them.

        Raises:
            ConnectionError: No broker answers.
        """
        consumer = self._consumer
        if consumer is None or self._closed:
            raise ConnectionError("the connection to Kafka is closed")
        batches: Mapping[TopicPartition, Sequence[Any]] = {}
        try:
            # The longer one is for a rebalance, in which `getmany` waits for its end.
            async with asyncio.timeout(READ_TIMEOUT + 0.2) as self._deadline:
                await self._settled.wait()
                batches = await consumer.getmany(timeout_ms=int(1000 * READ_TIMEOUT), max_records=MOST_RECORDS)
        except TimeoutError:
            pass
        except OffsetOutOfRangeError as error:
            return await self._lost(error.args[0])
        except NoOffsetForPartitionError:
            # There are other partitions than before.
            if self._group is None:
                await self._take_up(consumer.assignment())
        finally:
            self._deadline = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            await self.close()
            raise failure
        if not batches and not self._closed:
            await self._look_for_life()
        result, self._losses = self._losses, []
        for partition, records in batches.items():
            self._read[partition] = records[-1].offset + 1
            result.append((self._lane(partition), records))
        return result

    @property
    def lag(self) -> int | None:
        """Records that are still to be read, of the partitions of which something was read."""
        ends = {partition: self._consumer.highwater(partition) for partition in self._read} if self._consumer else {}
        return sum(end - self._read[each] for each, end in ends.items() if end is not None) if ends else None

    async def _look_for_life(self) -> None:
        """Nothing came: see that a fetch was answered, or ask."""
        consumer = self._consumer
        signs = [consumer.last_poll_timestamp(partition) or 0 for partition in consumer.assignment()]
        latest = max(signs, default=0)
        if latest <= self._last_sign:
            try:
                async with asyncio.timeout(SIGN_TIMEOUT):
                    await consumer.topics()
            except (TimeoutError, KafkaError) as error:
                raise ConnectionError("Kafka does not answer") from error
        self._last_sign = latest

    async def _lost(self, positions: Mapping[TopicPartition, int]) -> list[tuple[Lane, Sequence[Any]] | Loss]:
        """Nothing is where this reader would read on: say what is missing, and go on with what there is."""
        losses: list[tuple[Lane, Sequence[Any]] | Loss] = []
        firsts = await self._consumer.beginning_offsets(list(positions))
        for partition, position in positions.items():
            first = firsts[partition]
            if position < first:
                losses.append(Loss("expired", first - position, self._lane(partition)))
            else:
                # Beyond the end: a log that is another, or has lost its end. Nobody knows how long it was.
                losses.append(self._recreated(partition))
            self._next[partition] = self._read[partition] = first
            self._consumer.seek(partition, first)
        await self._store(firsts)
        return losses

    def _recreated(self, partition: TopicPartition) -> Loss:
        self._eras[partition] = self._eras.get(partition, 0) + 1
        return Loss("recreated", None, self._lane(partition))

    # Positions

    async def advance(self, tokens: Iterable[tuple[Lane, int]]) -> None:
        """Everything up to these offsets is handled."""
        for lane, offset in tokens:
            partition = TopicPartition(lane.topic, lane.partition)
            if partition not in self._next or lane != self._lane(partition):
                self.late += 1
            elif offset >= self._next[partition]:
                self._next[partition] = offset + 1
        await self._store({each: offset for each, offset in self._next.items() if self._stored.get(each) != offset})

    async def _store(self, positions: Mapping[TopicPartition, int]) -> None:
        """Have the broker keep positions."""
        if self._group is None or self._consumer is None:
            return
        ours = self._consumer.assignment()
        note = str(self._began or 0)
        offsets = {each: OffsetAndMetadata(offset, note) for each, offset in positions.items() if each in ours}
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT):
                await self._consumer.commit(offsets)
        except TimeoutError:
            raise ConnectionError("Kafka has not stored the position") from None
        except (CommitFailedError, IllegalStateError):
            # They were given to somebody else meanwhile, who gets it all again.
            self.late += len(offsets)
        else:
            self._stored |= positions
            self._known.update(positions)

    async def _fetch_stored(self) -> None:
        """Ask for the positions of the group, and since when it exists."""
        consumer = self._consumer
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
