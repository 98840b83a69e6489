"""Reading what the driver cannot read: it gives up a whole batch, and all behind it, for one bad record."""

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
# Where a batch has the length of what follows, where that begins, and where it says of what kind it is.
_BEFORE_LENGTH, _OVERHEAD, _MAGIC = 8, 12, 16


class Unreadable(NamedTuple):
    """What stands in place of a record that cannot be read, or of a batch of them."""

    offset: int
    """Of the last of them."""
    timestamp: int
    trouble: Exception
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


async def fetch(
    client: Any, partition: TopicPartition, offset: int, isolation: int = 0, size: int = 65_536
) -> tuple[list[Any], int]:
    """Read a partition from an offset on, once.

    Returns the records, and what stands for those that cannot be read; and where to read on.

    Args:
        client: Of the driver.
        partition: What is read.
        offset: Of the first record.
        isolation: 1 to leave out what is not committed.
        size: Bytes at most, but for the first batch, which comes whole.

    Raises:
        KafkaError: The broker does not give them.
    """
    node = client.cluster.leader_for_partition(partition)
    if node is None or node == -1:
        raise LeaderNotAvailableError(partition)
    wanted = [(partition.topic, [(partition.partition, offset, size)])]
    answer = await client.send(node, FetchRequest(0, 1, size, isolation, wanted))
    ((_, ((_, error, _, *rest),)),) = answer.topics
    if error:
        raise for_code(error)(partition.topic)
    # What was aborted stands in other places in other versions.
    aborted = None if answer.API_VERSION < 4 else rest[2] if answer.API_VERSION >= 11 else rest[-2]
    records = _Records(partition, _Batches(rest[-1]), aborted, offset, None, None, False, isolation)
    found = list(records)
    return found, records.next_fetch_offset


class _Records(PartitionRecords):  # type: ignore[misc]
    """The records of batches, without what was aborted."""

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record


class _Batches:
    """The batches of an answer; what is not whole at its end is left out."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def has_next(self) -> bool:
        """True if there is another one."""
        data = self._data
        return len(data) > _MAGIC and len(data) >= _OVERHEAD + _LENGTH.unpack_from(data, _BEFORE_LENGTH)[0]

    def next_batch(self) -> Any:
        """Return it."""
        end = _OVERHEAD + _LENGTH.unpack_from(self._data, _BEFORE_LENGTH)[0]
        batch, self._data = self._data[:end], self._data[end:]
        return _Batch(batch) if batch[_MAGIC] >= 2 else _OldBatch(batch)


class _Text(bytearray):
    """Bytes that are always text: names of headers."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return part if isinstance(part, int) else _Text(part)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch that yields what it can, and in place of the rest, what stands for it."""

    _buffer: Any
    _pos: int

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            if not self.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            self._maybe_uncompress()
        except Exception as error:
            # A library for the compression is missing, perhaps.
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
                    # Nor can be said where the next one begins.
                    yield self._unreadable(error, self.last_offset_delta)
                    return
                yield self._unreadable(error, delta)
                self._pos = end

    def _unreadable(self, error: Exception, delta: int) -> Unreadable:
        return Unreadable(self.base_offset + delta, self.max_timestamp, error)


class _OldBatch:
    """The same in a format of before Kafka 0.11, without names that could be wrong."""

    is_control_batch = is_transactional = False
    producer_id = None

    def __init__(self, data: memoryview) -> None:
        self._batch = LegacyRecordBatch(data, data[_MAGIC])
        self.base_offset: int = _OFFSET.unpack_from(data)[0]
        # Compressed, it is said to have the offset of its last record.
        self.next_offset = self.base_offset + 1

    def __iter__(self) -> Iterator[Any]:
        try:
            if not self._batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            yield from self._batch
        except Exception as error:
            yield Unreadable(self.base_offset, -1, error)
