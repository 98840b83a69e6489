"""A log in a file of SQLite: what others do to the file, what a disk does, and what is told of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import time as now
from typing import Any

import pytest

from hubsub import Bridge, BridgeError, BrokerBusy, Hub, Key, NameTaken, NoSuchLetter
from hubsub.bridges import Received, Record, SentBack
from hubsub.bridges.adapter import DelayedRecord
from hubsub.bridges.relay.connection import Connection
from hubsub.bridges.sqlite import SQLiteAdapter, file, sql
from hubsub.testing.conformance.bare import Bare, bare

from .sites import ALL, record, until

K: Key[Any] = Key("k")
SPACE = "shop"


class Place:
    """A file, adapters of it, and another program that opens it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.db"

    def make(self, **options: Any) -> SQLiteAdapter:
        return SQLiteAdapter(self.path, **options)

    def bare(self, *, adapter: SQLiteAdapter | None = None, options: dict[str, Any] | None = None, **link: Any) -> Any:
        return bare(lambda: adapter or self.make(**options or {}), SPACE, **link)

    @asynccontextmanager
    async def bridge(self, **options: Any) -> AsyncIterator[Bridge]:
        async with Hub() as hub, Bridge(hub, self.make(), namespace=SPACE, **{"both": ALL, **options}) as bridge:
            await bridge.ready()
            yield bridge

    def delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def open(self) -> Any:
        return closing(sqlite3.connect(self.path, isolation_level=None, timeout=20))

    def do(self, query: str, *values: Any) -> list[Any]:
        with self.open() as db:
            return list(db.execute(query, values).fetchall())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def store(writer: Bare, *payloads: bytes) -> None:
    await writer.send(*(Record(K, payload) for payload in payloads))


def numbered(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def losses(reader: Bare, number: int) -> list[tuple[str, int | None]]:
    await until(lambda: len(reader.losses) >= number or (reader.reading is not None and reader.reading.done()))
    return [(loss.reason, loss.count) for loss in reader.losses]


# What is missing


async def test_what_was_trimmed_is_told_with_its_count_where_it_is_missing(place: Place) -> None:
    async with place.bare(reads=False, options={"maxlen": 3}) as writer:
        async with place.bare(name="reader") as reader:
            await store(writer, *numbered(1, 2))
            await reader.see(b"2")
            await reader.ack()
        await store(writer, *numbered(3, 4, 5, 6, 7, 8))
        async with place.bare(name="reader") as reader:
            await reader.see(b"8")
            assert reader.payloads == numbered(6, 7, 8)
            assert await losses(reader, 1) == [("trimmed", 3)]


@pytest.mark.parametrize("options", [{}, {"group": "workers"}], ids=["plain", "group"])
async def test_each_hole_is_told_with_its_count(place: Place, options: dict[str, Any]) -> None:
    async with place.bare(reads=False) as writer:
        await store(writer, *numbered(*range(1, 11)))
        place.do("delete from message where number in (1, 2, 5, 9, 10)")
        async with place.bare(start="earliest", **options) as reader:
            await store(writer, b"11")
            await reader.see(b"11")
            assert reader.payloads == numbered(3, 4, 6, 7, 8, 11)
            assert sum(loss.count for loss in reader.losses) == 3


async def test_what_was_deleted_up_to_the_end_is_told_before_anything_else_comes(place: Place) -> None:
    async with place.bare(reads=False) as writer, place.bare() as reader:
        await store(writer, b"1")
        await reader.see(b"1")
        place.do("update log set last = 5")
        assert await losses(reader, 1) == [("trimmed", 4)]
        await store(writer, b"2")
        assert (await reader.see(b"2")).position.endswith("-6")


async def test_a_log_that_lost_its_end_is_told_of_and_read_on(place: Place) -> None:
    async with place.bare(reads=False) as writer, place.bare() as reader:
        await store(writer, *numbered(1, 2, 3))
        await reader.see(b"3")
        place.do("delete from message where number > 1")
        place.do("update log set last = 1")
        assert await losses(reader, 1) == [("rolled back", None)]
        await store(writer, b"4")
        await reader.see(b"4")


async def test_a_log_that_was_made_anew_is_told_of_and_read_from_its_beginning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.bridge(outgoing=ALL, both=None) as sender, place.bridge(incoming=ALL, both=None) as receiver:
        messages = record(receiver.hub)
        await sender.hub.publish_confirmed("k", 1)
        await until(lambda: messages == [1])
        with place.open() as db:
            db.executescript("begin; delete from log; delete from message; commit")
        await sender.hub.publish_confirmed("k", 2)
        await until(lambda: messages == [1, 2])
        assert receiver.health().gaps == 1
        assert "messages may be missing: recreated" in caplog.text


@pytest.mark.parametrize("options", [{}, {"name": "reader"}, {"group": "workers"}], ids=["plain", "name", "group"])
@pytest.mark.parametrize(
    "table", ["message", "log", "control", "sender", "name", "shared", "in_hand", "dead", "delayed"]
)
async def test_a_table_that_is_dropped_while_it_is_read_is_made_again_and_silent_about_nothing(
    place: Place, table: str, options: dict[str, Any]
) -> None:
    async with (
        place.bridge(outgoing=ALL, both=None) as sender,
        place.bridge(incoming=ALL, both=None, window=1, **options) as receiver,
    ):
        first, may_end = asyncio.Event(), asyncio.Event()
        messages: list[Any] = []

        async def hang(key: Key[Any], message: Any) -> None:
            first.set()
            await may_end.wait()
            messages.append(message)

        receiver.hub.add_listener("k", hang)
        for number in range(5):
            await sender.hub.publish_confirmed("k", number)
        await first.wait()
        place.do(f"drop table {table}")
        may_end.set()
        for number in range(5, 20):
            await sender.hub.publish_confirmed("k", number)
        await until(lambda: 19 in messages)
        missing = set(range(20)) - set(messages)
        assert not missing or receiver.health().gaps, f"{missing} went missing in silence"
        if table not in ("message", "log"):
            assert not missing


@pytest.mark.parametrize("options", [{}, {"name": "reader"}, {"group": "workers"}], ids=["plain", "name", "group"])
async def test_nothing_confirmed_goes_into_a_file_that_was_deleted(place: Place, options: dict[str, Any]) -> None:
    async with place.bridge() as sender, place.bridge(incoming=ALL, both=None, **options) as receiver:
        messages = record(receiver.hub)
        await sender.hub.publish_confirmed("k", 1)
        await until(lambda: messages == [1])
        place.delete()
        for number in (2, 3):
            await sender.hub.publish_confirmed("k", number)
        await until(lambda: messages == [1, 2, 3])
        assert len(place.do("select * from message")) == 2


async def test_a_position_that_somebody_has_overwritten_is_told_of_and_nothing_is_skipped(place: Place) -> None:
    async with place.bare(reads=False) as writer:
        async with place.bare(name="reader", start="earliest") as reader:
            await store(writer, b"1")
            await reader.see(b"1")
            await reader.ack()
        place.do("update name set place = 'nowhere'")
        async with place.bare(name="reader") as reader:
            await reader.see(b"1")
            assert ("its position was overwritten", None) in await losses(reader, 1)


# Names


async def test_whoever_has_lost_a_name_moves_its_position_no_more_and_gets_nothing(place: Place) -> None:
    async with place.bare(reads=False) as writer, place.bare(name="reader") as reader:
        await store(writer, b"1")
        await reader.see(b"1")
        place.do("update name set owner = 'another'")
        with pytest.raises(NameTaken):
            await reader.ack()
        reader.adapter._renew_at = 0.0  # as when the process stood still
        await store(writer, b"2")
        await until(lambda: reader.reading.done())
        assert isinstance(reader.reading.exception(), NameTaken)
        assert reader.payloads == [b"1"]


async def test_a_name_is_renewed_while_nothing_happens_and_free_after_a_kill(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 5.0
    monkeypatch.setattr(SQLiteAdapter, "NAME_SECONDS", seconds)
    async with place.bare(name="reader"):
        ((first,),) = place.do("select until from name")
        await until(lambda: place.do("select until from name")[0][0] > first + seconds / 4)
        with pytest.raises(NameTaken):
            async with place.bare(name="reader"):
                pass
    async with place.bare(name="reader"):
        pass  # given back at once
    place.do("update name set owner = 'killed', until = ?", now() + 0.3)
    with pytest.raises(NameTaken):
        async with place.bare(name="reader"):
            pass
    await asyncio.sleep(0.4)
    async with place.bare(name="reader"):
        pass


# Groups


async def test_what_a_killed_member_had_comes_to_another_after_its_lease_and_counts_as_an_attempt(place: Place) -> None:
    room, options = 0, {"lease": 0.5}
    async with (
        place.bare(reads=False) as writer,
        place.bare(group="g", options=options, room=lambda: room) as other,
        place.bare(group="g", options=options) as member,
    ):
        await store(writer, b"1")
        await member.see(b"1")
        await member.adapter.lost()  # killed: nothing is given back
        room = 100
        received = await other.see(b"1")
        assert received.attempts == 1


async def test_a_member_that_is_back_gets_at_once_what_it_had_and_that_is_no_attempt(place: Place) -> None:
    async with place.bare(reads=False) as writer:
        for _ in range(3):
            adapter = place.make()
            async with place.bare(adapter=adapter, group="g", sender="same") as member:
                if _ == 0:
                    await store(writer, b"1")
                received: Received = await member.see(b"1")
                assert received.attempts == 0
                await adapter.lost()


async def test_a_lease_is_renewed_only_for_whoever_has_it(place: Place) -> None:
    async with place.bare(reads=False) as writer, place.bare(group="g") as member:
        await store(writer, b"1")
        await member.see(b"1")
        place.do("update in_hand set until = 5")
        await member.adapter.extend([1])
        ((until_,),) = place.do("select until from in_hand")
        assert until_ > 5
        place.do("update in_hand set owner = 'another', until = 5e12")
        await member.adapter.extend([1])
        assert place.do("select owner, until from in_hand") == [("another", 5e12)]
        await member.adapter.ack([1])
        assert not place.do("select * from in_hand")


async def test_what_was_trimmed_while_it_was_in_hand_of_nobody_is_told(place: Place) -> None:
    async with place.bare(reads=False) as writer:
        async with place.bare(group="g", start="earliest") as member:
            await store(writer, *numbered(1, 2, 3))
            await member.see(b"3")
        assert len(place.do("select * from in_hand where until = 0")) == 3
        place.do("delete from message where number < 3")
        async with place.bare(group="g") as member:
            assert (await member.see(b"3")).attempts == 0
            assert await losses(member, 1) == [("trimmed", 2)]


# What is kept


async def test_a_record_that_is_sent_again_is_stored_once(place: Place) -> None:
    async with place.bare(reads=False) as writer:
        for sequence in (1, 2, 2, 1, 3):
            await writer.adapter.send([Record(K, b"%d" % sequence, sequence=sequence)])
        assert place.do("select number, data from message") == [(1, b"1"), (2, b"2"), (3, b"3")]


async def test_no_more_than_maxlen_are_kept_of_each_namespace(place: Place) -> None:
    async with place.bare(reads=False, options={"maxlen": 5}) as writer:
        async with bare(place.make, "other", reads=False) as other:
            await store(other, *numbered(1, 2, 3, 4, 5, 6))
        await store(writer, *numbered(*range(1, 101)))
        assert place.do("select min(number), count(*) from message where space = ?", SPACE) == [(96, 5)]
        assert place.do("select count(*) from message where space = 'other'") == [(6,)]


async def test_what_is_older_than_max_age_goes_also_when_nobody_sends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "UPKEEP_SECONDS", 0.05)
    async with place.bare(reads=False) as writer:
        await store(writer, *numbered(1, 2, 3))
        place.do("update message set time = time - 1000 where number < 3")
        place.do("insert into sender values (?, 'old', 1, 0)", SPACE)
        place.do("insert into control (space, key, data, time) values (?, 'x', x'', 0)", SPACE)
        async with place.bare(options={"max_age": 500}):
            await until(lambda: place.do("select number from message") == [(3,)])
        await until(lambda: not place.do("select * from control"))
        assert not place.do("select * from sender where sender = 'old'")


async def test_times_never_fall_though_the_clock_is_set_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(sql, "now", lambda: clock[0])
    async with place.bare(reads=False) as writer:
        await store(writer, b"1")
        clock[0] = 500.0
        await store(writer, b"2")
        clock[0] = 2000.0
        await store(writer, *numbered(3, 4))
        assert place.do("select time from message") == [(1000,), (1000,), (2000,), (2000,)]
        numbers = [await writer.adapter.before(moment) for moment in (999, 1000, 1000.5, 2000, 2000.5)]
        assert numbers == [0, 0, 2, 2, 4]


async def test_a_reader_begins_at_a_time(place: Place) -> None:
    async with place.bare(reads=False) as writer:
        await store(writer, *numbered(1, 2, 3))
        place.do("update message set time = number")
        ways: list[dict[str, Any]] = [{}, {"name": "n"}, {"group": "g"}]
        for link in ways:
            async with bare(place.make, SPACE, start=2.0, **link) as reader:
                await reader.see(b"3")
                assert reader.payloads == numbered(2, 3)


# Dead letters


async def test_dead_letters_are_those_of_the_namespace_and_no_more_than_maxlen(place: Place) -> None:
    received = Received(K, b"1", attempts=3, position="somewhere")
    async with (
        place.bare(group="g", options={"maxlen": 3}) as member,
        bare(place.make, "other", name="n") as other,
    ):
        for _ in range(5):
            assert await member.adapter.bury(received, "it failed") is None
        await other.adapter.bury(received, "it failed elsewhere")
        letters = await member.adapter.dead_letters(10)
        assert [letter.position for letter in letters] == ["dead-3", "dead-4", "dead-5"]
        assert {letter.reader for letter in letters} == {"group:g"}
        (theirs,) = await other.adapter.dead_letters(10)
        for position in (theirs.position, "dead-1", "dead-9", "dead-x", "3", "", "dead-" + "9" * 30):
            with pytest.raises(NoSuchLetter):
                await member.adapter.redeliver(position)
        with pytest.raises(NoSuchLetter):
            await member.adapter.dead_letters(10, before="nonsense")
        await member.adapter.redeliver("dead-4")
        sent_back = await member.see(b"1")
        assert isinstance(sent_back, SentBack)
        assert (sent_back.reader, sent_back.attempts) == ("group:g", 0)


# Delays


async def test_a_delayed_message_is_stored_once_and_outlives_whoever_sent_it(place: Place) -> None:
    due = now() + 0.3
    async with place.bare(reads=False) as writer:
        later = DelayedRecord.at(due, Record(K, b"later", sequence=1))
        for _ in range(2):
            await writer.adapter.send([later, Record(K, b"at once", sequence=2)])
        last = DelayedRecord.at(due + 3600, Record(K, b"much later", sequence=3))
        await writer.adapter.send([last])
        assert place.do("select data from message") == [(b"at once",)]
    await asyncio.sleep(0.5)
    assert place.do("select count(*) from delayed") == [(2,)]
    async with place.bare(start="earliest") as reader:
        await reader.see(b"later")
        assert reader.payloads == [b"at once", b"later"]
    assert place.do("select data from delayed") == [(b"much later",)]


async def test_what_is_due_at_different_times_comes_in_that_order(place: Place) -> None:
    async with place.bare(reads=False) as writer, place.bare() as reader:
        start = now()
        for index, offset in enumerate((0.6, 0.2, 0.4, 0.2), 1):
            delayed = DelayedRecord.at(start + offset, Record(K, b"%d" % index, sequence=index))
            await writer.adapter.send([delayed])
        await reader.see(b"1")
        assert reader.payloads == numbered(2, 4, 3, 1)
        assert now() >= start + 0.6


# What others write


async def test_what_another_program_writes_is_read_or_its_own_trouble(place: Place) -> None:
    rows: list[tuple[Any, Any]] = [
        ("a/b", b"1"),
        ("a/b", "text"),
        (b"a/\xff", b"2"),
        ("", b"3"),
        (None, b"4"),
        (5, b"5"),
        ("a", None),
        ("a", 6),
        ("a", 7.5),
    ]
    async with place.bare(start="earliest") as reader, place.bare(reads=False) as writer:
        for number, (key, data) in enumerate(rows, 1):
            place.do("insert into message values (?, ?, ?, ?, ?, null)", SPACE, number, key, data, None)
        await store(writer, b"last")
        await reader.see(b"last")
    keys = [(tuple(each.key), each.payload, each.trouble is not None) for each in reader.received[:-1]]
    assert keys == [
        (("a", "b"), b"1", False),
        (("a", "b"), b"text", False),
        (("a", "\udcff"), b"2", False),
        (("",), b"3", False),
        (("?",), b"4", True),
        (("5",), b"5", False),
        (("a",), None, False),
        (("a",), b"6", True),
        (("a",), b"7.5", True),
    ]
    assert not reader.losses


@pytest.mark.parametrize("part", ["", "/", "%", "%2F", "a b", "\0", "\ud800", "ä", "'; drop table log; --", "*", "\n"])
async def test_every_key_arrives_as_it_was(place: Place, part: str) -> None:
    async with place.bare() as reader, place.bare(reads=False) as writer:
        keys = [Key.create_from((part,)), Key.create_from((part, "x", part))]
        await writer.send(*(Record(key, b"%d" % index) for index, key in enumerate(keys)))
        await reader.see(b"1")
        assert [each.key for each in reader.received] == keys


async def test_large_messages_are_read_a_few_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MOST_BYTES", 2500)
    async with place.bare(reads=False) as writer:
        await store(writer, *[b"x" * 1000] * 10)
        for number in (0, 3, 6, 9):
            _, rows = await writer.adapter.read(number, 100)
            assert [row[0] for row in rows] == list(range(number + 1, min(number + 4, 11)))
        assert len(await writer.adapter.history(100)) == 10


# A file that takes nothing


async def test_a_lock_that_a_stranger_holds_loses_nothing_and_stops_neither_the_loop_nor_readers(place: Place) -> None:
    async with place.bridge(outgoing=ALL, both=None) as sender, place.bridge(incoming=ALL, both=None) as receiver:
        messages = record(receiver.hub)
        await sender.hub.publish_confirmed("k", 0)
        with place.open() as stranger:
            stranger.execute("begin immediate")
            for number in range(1, 50):
                sender.hub.publish("k", number)
            turns = 0

            def is_busy() -> bool:
                nonlocal turns
                turns += 1
                return isinstance(sender.health().last_error, BrokerBusy)

            await until(is_busy)
            assert turns > 50
            assert "log.db is locked by another program" in str(sender.health().last_error)
            assert sender.health().state == receiver.health().state == "up"
            assert [event.message for event in await receiver.history(ALL, 5)] == [0]
        await until(lambda: messages == list(range(50)))
        assert not sender.health().reconnects
        assert not receiver.health().gaps


async def test_a_group_reads_nothing_that_it_cannot_note_and_says_why_in_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "REFUSED", 0.5)
    async with place.bridge(outgoing=ALL, both=None) as sender, place.bridge(incoming=ALL, both=None, group="g") as one:
        messages = record(one.hub)
        with place.open() as stranger:
            await sender.hub.publish_confirmed("k", -1)
            await until(lambda: messages == [-1])
            stranger.execute("begin immediate")
            stranger.execute("insert into message select ?, 2, 'k', data, 0, null from message", (SPACE,))
            stranger.execute("commit")
            stranger.execute("begin immediate")
            await until(lambda: isinstance(one.health().last_error, BrokerBusy))
            assert messages == [-1]
        await until(lambda: one.health().state == "up")


async def test_a_full_disk_keeps_everything_in_the_outbox_and_says_what_to_do(place: Place) -> None:
    async with place.bridge(outgoing=ALL, both=None) as sender, place.bridge(incoming=ALL, both=None) as receiver:
        messages, adapter = record(receiver.hub), sender.adapter
        assert isinstance(adapter, SQLiteAdapter)
        await sender.hub.publish_confirmed("k", "first")

        def limit(pages: int) -> Callable[[sqlite3.Connection, str], Any]:
            return lambda db, space: db.execute(f"pragma max_page_count = {pages}").fetchone()

        await adapter._ask(limit(1))  # as many as there are
        for number in range(20):
            sender.hub.publish("k", [number, "x" * 10_000])
        await until(lambda: isinstance(sender.health().last_error, BrokerBusy))
        assert "make room on its disk" in str(sender.health().last_error)
        await until(lambda: messages == ["first"])
        await adapter._ask(limit(100_000))
        await until(lambda: len(messages) == 21)
        assert [message[0] for message in messages[1:]] == list(range(20))
        assert not sender.health().refused


PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from hubsub import Bridge, BrokerBusy, Hub, Key
from hubsub.bridges.sqlite import SQLiteAdapter

async def main():
    adapter = SQLiteAdapter(Path(sys.argv[1]))
    async with Hub() as hub, Bridge(hub, adapter, outgoing=Key("*"), namespace="shop") as bridge:
        await bridge.ready()
        await hub.publish_confirmed("k", "first")
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        for number in range(20):
            hub.publish("k", [number, "x" * 10_000])
        while not isinstance(bridge.health().last_error, BrokerBusy):
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        print(bridge.health().last_error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await bridge.flush(30)
        assert not bridge.health().refused, bridge.health()

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_loses_nothing_when_it_may_again(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the limit of its size" in done.stdout
    assert place.do("select count(*), max(number) from message") == [(21, 21)]
    assert place.do("pragma integrity_check") == [("ok",)]


# A file that is of no use


async def _why(adapter: SQLiteAdapter) -> str:
    with pytest.raises((BridgeError, OSError)) as caught:
        async with bare(lambda: adapter, SPACE):
            pass
    return str(caught.value)


async def test_a_file_that_is_none_of_ours_is_refused_with_the_remedy_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("create table message (x)")
    before = other.read_bytes()
    assert "give the log a file of its own" in await _why(SQLiteAdapter(other))
    assert other.read_bytes() == before
    text = tmp_path / "text.db"
    text.write_text("this is no database, but a text that somebody needs\n" * 100)
    assert "is damaged, or no database of SQLite" in await _why(SQLiteAdapter(text))
    assert text.read_text().startswith("this is no database")
    assert "cannot be opened: its folder must exist" in await _why(SQLiteAdapter(tmp_path / "none" / "log.db"))
    assert "cannot be opened" in await _why(SQLiteAdapter(tmp_path))


async def test_a_database_that_somebody_else_made_is_refused_whatever_version_it_has(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.executescript("create table log (x); create table message (x); pragma user_version = 1")
    assert "give the log a file of its own" in await _why(SQLiteAdapter(tmp_path / "other.db"))


async def test_another_version_of_the_tables_is_refused_with_the_remedy(place: Place) -> None:
    async with place.bare():
        pass
    place.do("pragma user_version = 7")
    assert "has tables of version 7, and this hubsub knows version 1: use another file" in await _why(place.make())


async def test_a_damaged_file_is_told_of_takes_nothing_and_loses_nothing_that_was_not_stored(place: Place) -> None:
    async with place.bridge(outgoing=ALL, both=None) as sender:
        for number in range(200):
            await sender.hub.publish_confirmed("k", [number, "x" * 500])
    place.do("pragma wal_checkpoint(truncate)")
    whole = place.path.read_bytes()
    place.path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    async with (
        Hub() as hub,
        Bridge(hub, place.make(), outgoing=ALL, namespace=SPACE) as sender,
        Bridge(Hub(), place.make(), incoming=ALL, start="earliest", namespace=SPACE) as receiver,
    ):
        hub.publish("k", "after")
        for bridge in (sender, receiver):
            await until(lambda: bridge.health().last_error is not None)  # noqa: B023
            assert "is damaged" in str(bridge.health().last_error)
        assert sender.health().outbox_messages == 1
        place.delete()
        place.path.write_bytes(whole)
        await sender.flush()
    assert place.do("select count(*) from message") == [(201,)]
    assert place.do("pragma integrity_check") == [("ok",)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_that_is_read_only_is_told_of(place: Place) -> None:
    async with place.bare():
        pass
    place.path.chmod(0o400)
    place.path.parent.chmod(0o500)
    try:
        async with place.bare(reads=False) as writer:
            with pytest.raises(BrokerBusy, match="is read only: give this user the right to write it"):
                await store(writer, b"1")
    finally:
        place.path.parent.chmod(0o700)


# Threads, loops, processes


def _threads() -> int:
    return sum(thread.name.startswith("hubsub log.db") for thread in threading.enumerate())


async def test_there_is_one_thread_for_each_bridge_and_none_when_it_is_closed(place: Place) -> None:
    await until(lambda: not _threads())
    before = _threads()
    async with place.bridge(), place.bridge():
        assert _threads() == before + 2
    await until(lambda: _threads() == before)


async def test_a_disk_that_does_not_answer_costs_one_thread_however_often_it_is_tried(place: Place) -> None:
    before = _threads()
    adapter = place.make()
    may_end = threading.Event()
    async with place.bare(reads=False, adapter=adapter) as it:
        stuck = asyncio.ensure_future(adapter._ask(lambda db, space: may_end.wait()))
        await asyncio.sleep(0.05)
        await adapter.lost()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(adapter.connect(it.link), 0.2)
        assert _threads() == before + 1
        may_end.set()
        await asyncio.gather(stuck, return_exceptions=True)
        await adapter.connect(it.link)
    await until(lambda: _threads() == before)


FORKING = """
import asyncio, os, sys
from hubsub import Bridge, Hub

hub = Hub()
bridge = Bridge(hub, f"sqlite://{sys.argv[1]}", both=["k"], namespace="shop")
(child_is_up, is_up), (parent_is_gone, is_gone) = os.pipe(), os.pipe()

async def parent():
    async with hub, bridge:
        await bridge.ready()
        await hub.publish_confirmed("k", "before")
        child = os.fork()
        if not child:
            try:
                asyncio.run(live_on())
            finally:
                os._exit(1)
        await asyncio.to_thread(os.read, child_is_up, 1)
        await hub.publish_confirmed("k", "beside")
    os.write(is_gone, b"x")
    os.waitpid(child, 0)

async def live_on():
    async with hub:
        await bridge.ready()
        os.write(is_up, b"x")
        await asyncio.to_thread(os.read, parent_is_gone, 1)
        for number in range(20):
            await hub.publish_confirmed("k", number)
        os._exit(0)  # as if killed: nothing is closed

asyncio.run(parent())
"""


def test_what_a_forked_process_has_confirmed_is_there_though_its_parent_has_closed_the_file(place: Place) -> None:
    command = [sys.executable, "-c", FORKING, str(place.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert place.do("select count(*), max(number) from message") == [(22, 22)]
    assert place.do("pragma integrity_check") == [("ok",)]


def test_a_bridge_goes_on_in_another_loop_though_it_was_not_closed(place: Place) -> None:
    hub = Hub()
    bridge = Bridge(hub, place.make(), both=ALL, namespace=SPACE)

    async def run() -> None:
        await hub.start()
        await bridge.start()
        await bridge.ready()
        await hub.publish_confirmed("k", 1)

    before = _threads()
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(run())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
    assert place.do("select count(*) from message") == [(3,)]
    assert _threads() <= before + 1


# URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///tmp/a.db", "/tmp/a.db"),
        ("sqlite://a.db", os.path.abspath("a.db")),
        ("sqlite://some/where/a.db?lease=5", os.path.abspath("some/where/a.db")),
        ("sqlite:///tmp/a%20b%3F%23.db?maxlen=none", "/tmp/a b?#.db"),
        ("sqlite:////tmp/a.db", "/tmp/a.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    adapter = SQLiteAdapter(url)
    assert adapter.path == path
    assert repr(adapter) == f"<SQLiteAdapter {path}>"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "sqlite://",
            "sqlite:///",
            "sqlite://:memory:",
            "sqlite:///:memory:",
            "sqlite:a.db",
            "a.db",
            "sqlite3://a.db",
        ),
        *("sqlite://a%00.db", "sqlite://a#b.db", "sqlite://folder/", "sqlite://a.db?lease", "sqlite://a.db?lease=0"),
        *("sqlite://a.db?maxlen=0", "sqlite://a.db?max_age=-1", "sqlite://a.db?synchronous=off", "sqlite://a b.db"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite|lease|maxlen|max_age|synchronous|memory"):
        SQLiteAdapter(url)


def test_an_option_that_does_not_exist_is_refused_with_those_that_do() -> None:
    for make in (lambda: SQLiteAdapter("sqlite://a.db?mode=ro"), lambda: SQLiteAdapter("sqlite://a.db", mode="ro")):
        with pytest.raises(TypeError, match="no option mode: it has maxlen, max_age, lease, synchronous"):
            make()
    with pytest.raises(TypeError, match="lease twice"):
        SQLiteAdapter("sqlite://a.db?lease=5", lease=5)


async def test_synchronous_full_is_what_the_connection_has(place: Place) -> None:
    for synchronous, number in (("normal", 1), ("full", 2)):
        async with place.bare(reads=False, options={"synchronous": synchronous}) as it:
            assert await it.adapter._ask(lambda db, space: db.execute("pragma synchronous").fetchone()) == (number,)
