"""Headers and records of Kafka, whatever the ones before them were."""

from __future__ import annotations

import random
from typing import Any

from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from hubsub.bridges.kafka.records import Builder, Decoder, Encoder, have_made, leave_as_read

PLACE = TopicPartition("topic", 0)


def some_headers(number: int) -> dict[str, str]:
    """Of two senders, or of nobody's; some cannot be written as UTF-8."""
    constant = {"ce_source": f"hub{number % 2}", "ce_type": "message"}
    changing = {"ce_id": str(number), "ce_time": random.choice(["now", "später", "\ud800"])}
    return random.choice([constant | changing, constant | changing, constant, changing, {"one": "1"}, {}])


def test_headers_come_back_as_they_were_whatever_came_before_them() -> None:
    encode, decode = Encoder(), Decoder()
    for headers in map(some_headers, range(2000)):
        assert decode(encode(headers)) == headers


def test_headers_of_other_programs_are_read_as_well_as_possible_beside_those_of_hubs() -> None:
    encode, decode = Encoder(), Decoder()
    ours = {"ce_source": "hub", "ce_type": "message", "ce_id": "1", "ce_time": "now"}
    for index in range(4):
        foreign: list[tuple[str, bytes | None]] = [*encode(ours)]
        for value, text in ((b"\xff", "\\xff"), (None, "")):
            assert decode(encode(ours)) == ours
            foreign[index] = (foreign[index][0], value)
            assert decode(foreign) == ours | {foreign[index][0]: text}
    assert decode([("same", b"1"), ("same", b"2"), ("same", b"3")]) == {"same": "3"}


def test_texts_that_messages_have_in_common_are_there_once() -> None:
    encode, decode = Encoder(), Decoder()
    first, second = (
        decode(encode({"ce_source": "".join(["a", "hub"]), "ce_id": each, "ce_time": each})) for each in "12"
    )
    assert first["ce_source"] is second["ce_source"]


def test_records_are_read_piece_by_piece_as_they_were_written() -> None:
    builder = Builder(1 << 20, 0)
    for number in range(10):
        assert builder.add(b"key", b"%d" % number, [("number", b"%d" % number)])
    builder._set_producer_state(1, 0, 0)

    class Fetcher:
        _records: Any = None

    class Assignment:
        def state_value(self, partition: Any) -> Any:
            return self

        def consumed_to(self, position: int) -> None:
            self.position = position

    fetcher, assignment = Fetcher(), Assignment()
    have_made(fetcher, leave_as_read)
    records = PartitionRecords(PLACE, MemoryRecords(bytes(builder._build())), [], 2, None, None, True, 0)
    result: Any = FetchResult(PLACE, assignment=assignment, partition_records=records, backoff=0)
    result.check_assignment = lambda partition: True
    fetcher._records[PLACE] = result
    read: list[Any] = []
    while result.has_more():
        piece = result.getall(3)
        assert len(piece) <= 3
        read += piece
        assert assignment.position == read[-1].offset + 1
    assert [(each.offset, each.key, each.value, each.headers) for each in read] == [
        (number, b"key", b"%d" % number, [("number", b"%d" % number)]) for number in range(2, 10)
    ]


def test_a_batch_accepts_what_there_is_room_for() -> None:
    builder = Builder(1000, 0)
    sizes = [builder.add(b"key", bytes(300), []) for _ in range(5)]
    assert all(sizes[:3])
    assert sizes[3:] == [None, None]
    assert builder.record_count() == 3
