"""Reading batches with bad records: for one of them, the driver drops the whole batch and all that follows."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint
from aiokafka.structs import TopicPartition

_LENGTH = struct.Struct(">i")
_OFFSET = struct.Struct(">q")
# The offsets, within a batch, of the length of the rest, of the rest itself, and of the version.
_BEFORE_LENGTH, _OVERHEAD, _MAGIC = 8, 12, 16


class Unreadable(NamedTuple):
    """Stands for a record that cannot be read, or for a batch of them."""

    offset: int
    """The offset of the last of them."""
    timestamp: int
    trouble: Exception
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


async def fetch(
    client: Any, partition: TopicPartition, offset: int, isolation: int = 0, size: int = 65_536
) -> tuple[list[Any], int]:
    """Read a partition once, from an offset on.

    Returns the records, with a stand-in for each that cannot be read, and the offset to continue at.

    Args:
        client: The driver's client.
        partition: The partition to read.
        offset: The offset of the first record.
        isolation: 1 to leave out uncommitted records.
        size: The most bytes; the first batch is always complete.

    Raises:
        KafkaError: The broker refuses.
    """
    node = client.cluster.leader_for_partition(partition)
    if node is None or node == -1:
        raise LeaderNotAvailableError(partition)
    wanted = [(partition.topic, [(partition.partition, offset, size)])]
    answer = await client.send(node, FetchRequest(0, 1, size, isolation, wanted))
    ((_, ((_, error, _, *rest),)),) = answer.topics
    if error:
        raise for_code(error)(partition.topic)
    # Versions of the answer differ in where aborted transactions are.
    aborted = None if answer.API_VERSION < 4 else rest[2] if answer.API_VERSION >= 11 else rest[-2]
    records = _Records(partition, _Batches(rest[-1]), aborted, offset, None, None, False, isolation)
    found = list(records)
    return found, records.next_fetch_offset


class _Records(PartitionRecords):  # type: ignore[misc]
    """Return the records of batches, without those of aborted transactions."""

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record


class _Batches:
    """The complete batches of an answer; an incomplete one at its end is left out."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def has_next(self) -> bool:
        """True if there is another batch."""
        data = self._data
        return len(data) > _MAGIC and len(data) >= _OVERHEAD + _LENGTH.unpack_from(data, _BEFORE_LENGTH)[0]

    def next_batch(self) -> Any:
        """Return the next batch."""
        end = _OVERHEAD + _LENGTH.unpack_from(self._data, _BEFORE_LENGTH)[0]
        batch, self._data = self._data[:end], self._data[end:]
        return _Batch(batch) if batch[_MAGIC] >= 2 else _OldBatch(batch)


class _Text(bytearray):
    """Bytes that decode to text in any case, for the names of headers."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return part if isinstance(part, int) else _Text(part)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch that yields the records that can be read, and a stand-in for each other one."""

    _buffer: Any
    _pos: int

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            if not self.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            self._maybe_uncompress()
        except Exception as error:
            # The library for its compression may be missing.
            yield self._unreadable(error, self.last_offset_delta)
            return
        self._buffer = _Text(self._buffer)
        for _ in range(self._num_records):
            end, delta = len(self._buffer), self.last_offset_delta
            try:
                length, start = decode_varint(self._buffer, self._pos)
                _, at = decode_varint(self._buffer, start + 1)
                delta, _ = decode_varint(self._buffer, at)
                end = start + length
                yield self._read_msg()
            except Exception as error:
                if not self._pos < end <= len(self._buffer):
                    # The beginning of the next one is unknown too.
                    yield self._unreadable(error, self.last_offset_delta)
                    return
                yield self._unreadable(error, delta)
                self._pos = end

    def _unreadable(self, error: Exception, delta: int) -> Unreadable:
        return Unreadable(self.base_offset + delta, self.max_timestamp, error)


class _OldBatch:
    """The same in the format before Kafka 0.11, which has no headers."""

    is_control_batch = is_transactional = False
    producer_id = None

    def __init__(self, data: memoryview) -> None:
        self._batch = LegacyRecordBatch(data, data[_MAGIC])
        self.base_offset: int = _OFFSET.unpack_from(data)[0]
        # If it is compressed, its offset is that of its last record.
        self.next_offset = self.base_offset + 1

    def __iter__(self) -> Iterator[Any]:
        try:
            if not self._batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            yield from self._batch
        except Exception as error:
            yield Unreadable(self.base_offset, -1, error)
