"""Records on their way in and out: what the driver does for each of them, less what nobody here needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder

Headers: TypeAlias = list[tuple[str, bytes | None]]

# Of the headers of a hub's message, id and time come last; the others are those of the sender's last message.
CHANGING = 2


class Encoder:
    """Writes headers in Kafka's form, and remembers those that do not change."""

    def __init__(self) -> None:
        self._same: list[tuple[str, str]] = []
        self._known: Headers = []

    def __call__(self, headers: Mapping[str, str]) -> Headers:
        *same, (one, first), (two, second) = headers.items() if len(headers) >= CHANGING else _NONE
        if same and same == self._same:
            try:
                return [*self._known, (one, first.encode()), (two, second.encode())]
            except UnicodeEncodeError:
                pass
        self._same, self._known = same, _encoded(same)
        return _encoded(headers.items())


class Decoder:
    """Reads headers, and remembers those that do not change: texts are shared, and not made for each message."""

    def __init__(self) -> None:
        self._same: Sequence[tuple[str, bytes | None]] = []
        self._known: dict[str, str] = {}

    def __call__(self, headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
        same = headers[:-CHANGING]
        if same and same == self._same:
            (one, first), (two, second) = headers[-CHANGING:]
            try:
                return {**self._known, one: first.decode(), two: second.decode()}  # type: ignore[union-attr]
            except (AttributeError, UnicodeDecodeError):
                pass
        self._same, self._known = same, _decoded(same)
        return self._known | _decoded(headers[-CHANGING:])


_NONE = [("", "")] * CHANGING


def _encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    try:
        return [(name, value.encode()) for name, value in headers]
    except UnicodeEncodeError:
        return [(name, value.encode("utf-8", "surrogatepass")) for name, value in headers]


def _decoded(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    try:
        return {name: value.decode() for name, value in headers}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        return {name: _as_text(value or b"") for name, value in headers}


def _as_text(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # Not one of hubsub's.
        return value.decode("utf-8", "backslashreplace")


class Builder(BatchBuilder):  # type: ignore[misc]
    """Builds a batch, and asks for no serializer."""

    def add(self, key: bytes | None, value: bytes | None, headers: Headers) -> int | None:
        """Add a record to the batch; return its bytes, or None if there is no room for it."""
        added = None if self._closed else self._builder.append(self._relative_offset, None, key, value, headers)
        if added is None:
            self.close()
            return None
        self._relative_offset += 1
        size: int = added.size
        return size


Make: TypeAlias = Callable[[Any, Any], Any]
"""Makes what is read, of a partition and of a record as the driver has decoded it."""


def leave_as_read(partition: Any, record: Any) -> Any:
    """A `Make` that leaves a record as it is, without the driver's copy of it."""
    return record


def have_made(fetcher: Any, make: Make) -> None:
    """Have a new fetcher of the driver return what `make` makes of each record.

    It is called while the record is still in the processor's cache, which then holds the next one in the same place: a
    record of six headers is two dozen objects.
    """
    fetcher._records = _Fetched(make)


class _Fetched(OrderedDict[Any, Any]):
    """What a fetcher has, by partition."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self._make = make

    def __setitem__(self, partition: Any, result: Any) -> None:
        if type(result) is FetchResult:
            records: Any = result._partition_records
            records.__class__ = _Records
            records._consumer_record = self._make
        super().__setitem__(partition, result)


class _Records(PartitionRecords):  # type: ignore[misc]
    """The records of an answer."""

    def __iter__(self) -> Any:
        # A generator that has not begun, or stands where reading ended before.
        return self._records_iterator
