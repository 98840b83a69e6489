"""The log in tables of PostgreSQL against real servers: what is its own, beside what all adapters have to do."""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from brokers.fixtures import Private
from brokers.postgres_server import Postgres
from hubsub import Bridge, BridgeError, BrokerBusy, EncodeError, Hub, InvalidKey, Key
from hubsub.bridges.adapter import DelayedRecord, Link, Record
from hubsub.bridges.memory import MemoryBroker
from hubsub.bridges.postgres import PostgresLogAdapter
from hubsub.bridges.postgres.frames import channel_of
from hubsub.testing.conformance import Site, Sites, sites, until
from hubsub.testing.conformance.bare import Bare, bare

ALL: Key[Any] = Key("*")
ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = """
    select 'relation', c.relname, pg_get_indexdef(c.oid) from pg_class c where c.relnamespace = 'hubsub'::regnamespace
    union all select 'column', table_name || '.' || column_name, data_type || is_nullable
        from information_schema.columns where table_schema = 'hubsub'
    union all select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p
        where p.pronamespace = 'hubsub'::regnamespace
    union all select 'trigger', t.tgname, pg_get_triggerdef(t.oid) from pg_trigger t
        where t.tgrelid = 'hubsub.staged'::regclass
    order by 1, 2, 3"""
"""What there is in the schema."""


def log_url(url: str) -> str:
    return url.replace("postgres:", "postgres-log:")


def make(server: Postgres, **options: Any) -> Callable[[], PostgresLogAdapter]:
    return lambda: PostgresLogAdapter(log_url(server.url), **options)


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """A database of one test's own; its URL for asyncpg."""
    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name} owner hubsub")
    yield postgres.url.removesuffix("hubsub") + name
    await postgres.execute(f"drop database {name} with (force)")


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    client = await asyncpg.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def wait_for_losses(reader: Bare, *reasons: str) -> list[Any]:
    await until(lambda: len(reader.losses) >= len(reasons), lambda: f"{reasons}, not {reader.losses}")
    assert [loss.reason for loss in reader.losses] == list(reasons)
    return reader.losses


# The schema


async def test_the_tables_are_made_once_however_many_come_at_once(database: str) -> None:
    adapters = [PostgresLogAdapter(log_url(database)) for _ in range(12)]

    async def connect(adapter: PostgresLogAdapter) -> None:
        async with bare(lambda: adapter, "n"):
            pass

    await asyncio.gather(*map(connect, adapters))
    async with connection(database) as client:
        assert await client.fetchval("select count(*) from hubsub.version") == 1


async def test_tables_of_another_version_are_told_with_the_remedy(database: str) -> None:
    def adapter() -> PostgresLogAdapter:
        return PostgresLogAdapter(log_url(database))

    async with bare(adapter, "n"), connection(database) as client:
        await client.execute("update hubsub.version set version = 99")
    with pytest.raises(BridgeError, match="tables of version 99, and this hubsub knows version 2: upgrade hubsub"):
        async with bare(adapter, "n"):
            pass


async def test_a_role_that_may_not_make_tables_is_told_and_the_command_line_prints_them(postgres: Postgres) -> None:
    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name}", "create role teller login")  # both are the superuser's
    url = postgres.url.removesuffix("hubsub") + name
    try:
        with pytest.raises(BridgeError, match="permission denied") as told:
            async with bare(lambda: PostgresLogAdapter(log_url(url)), "n"):
                pass
        assert "postgres-schema" in str(told.value)
        command = [sys.executable, "-m", "hubsub", "postgres-schema", "--grant", "hubsub", "--grant-publish", "teller"]
        printed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, cwd=ROOT)
        async with connection(url.replace("hubsub@", "postgres@")) as admin:
            await admin.execute(printed.stdout)
        async with sites(lambda: PostgresLogAdapter(log_url(url))) as those:
            one, two = await those.add(), await those.add(ALL, group="g")
            await one.hub.publish_confirmed("a", 1)
            await two.wait_for(1)
            # Whoever may only publish may do nothing else, with a namespace that nobody has used before too.
            async with connection(url.replace("hubsub@", "teller@")) as teller:
                await teller.execute("select hubsub.publish('b', '2', $1)", those.namespace)
                await teller.execute("select hubsub.publish('b', '2', 'new')")
                for forbidden in (
                    "select * from hubsub.message",
                    "select hubsub.append('n', 's', '{1}', '{k}', '{d}', 1)",
                ):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await teller.execute(forbidden)
            await two.wait_for(2)
    finally:
        await postgres.execute(f"drop database {name} with (force)", "drop role teller")


class Version1:
    """Tables as the first version had them: made by what it printed."""

    def __init__(self, database: str) -> None:
        self.database = database

    async def make(self, user: str = "hubsub") -> None:
        script = (ROOT / "tests/bridges/postgres_schema_1.sql").read_text()
        async with connection(self.database.replace("hubsub@", f"{user}@")) as client, client.transaction():
            await client.execute(script)


async def test_older_tables_are_upgraded_once_and_what_they_hold_is_read(database: str) -> None:
    await Version1(database).make()
    async with connection(database) as client:
        await client.execute("select hubsub.start_log('n')")
        append = await client.prepare("select hubsub.append('n', 'old', $1, '{k}', '{old}', null)")
        assert await append.fetchval([1])

        async def read() -> None:
            async with bare(lambda: PostgresLogAdapter(log_url(database)), "n", start="earliest") as reader:
                await reader.see(b"old")
                later = DelayedRecord.at(time.time() + 0.2, Record(Key("k"), b"later"))
                await reader.send(later)
                await reader.see(b"later")

        await asyncio.gather(*(read() for _ in range(5)))
        assert await client.fetchval("select array_agg(version) from hubsub.version") == [2]
        # A bridge of the older hubsub, which is connected still, goes on.
        assert await append.fetchval([2])
        # What the upgrade leaves is what a new schema has.
        upgraded = await client.fetch(EVERYTHING)
        await client.execute("drop schema hubsub cascade")
        async with bare(lambda: PostgresLogAdapter(log_url(database)), "n"):
            assert await client.fetch(EVERYTHING) == upgraded


async def test_a_role_that_may_not_upgrade_older_tables_reads_what_to_run(postgres: Postgres) -> None:
    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name}")
    url = postgres.url.removesuffix("hubsub") + name
    try:
        await Version1(url).make(user="postgres")
        async with connection(url.replace("hubsub@", "postgres@")) as admin:
            await admin.execute(
                "grant usage on schema hubsub to hubsub;"
                "grant select, insert, update, delete on all tables in schema hubsub to hubsub"
            )
            with pytest.raises(BridgeError, match=r"have version 1, and this hubsub needs 2.* postgres-schema"):
                async with bare(lambda: PostgresLogAdapter(log_url(url)), "n"):
                    pass
            command = [sys.executable, "-m", "hubsub", "postgres-schema"]
            printed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=ROOT)
            await admin.execute(printed.stdout)
        async with bare(lambda: PostgresLogAdapter(log_url(url)), "n") as one:
            await one.send(DelayedRecord.at(time.time(), Record(Key("k"), b"1")))
            await one.see(b"1")
    finally:
        await postgres.execute(f"drop database {name} with (force)")


async def test_the_printed_script_leaves_tables_of_a_newer_version_alone(database: str) -> None:
    command = [sys.executable, "-m", "hubsub", "postgres-schema"]
    printed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=ROOT)
    async with connection(database) as client:
        for _ in range(2):
            await client.execute(printed.stdout)
        await client.execute("update hubsub.version set version = 3")
        with pytest.raises(asyncpg.RaiseError, match="of a newer hubsub"):
            await client.execute(printed.stdout)
        await client.execute("rollback")
        assert await client.fetchval("select version from hubsub.version") == 3


# The log


async def test_numbers_have_no_holes_and_are_seen_in_their_order(postgres: Postgres, namespace: str) -> None:
    async with bare(make(postgres), namespace) as reader:

        async def send(which: int) -> None:
            async with bare(make(postgres), namespace, reads=False) as writer:
                for number in range(40):
                    await writer.send(*[Record(Key("k"), b"%d %d" % (which, number))] * 3)

        await asyncio.gather(*map(send, range(5)))
        await until(lambda: len(reader.received) == 600)
        numbers = [int(str(each.position).rpartition("-")[2]) for each in reader.received]
        assert numbers == list(range(1, 601))
        assert not reader.losses


async def test_what_a_sender_sends_again_is_stored_once(postgres: Postgres, namespace: str) -> None:
    async with bare(make(postgres), namespace) as reader:
        for sent in ([1, 2, 3], [2, 3, 4], [4], [5], [1, 2, 3, 4, 5, 6]):
            records = [Record(Key("k"), b"%d" % number, sequence=number) for number in sent]
            assert not await reader.adapter.send(records)
        await reader.see(b"6")
        assert reader.payloads == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_what_is_too_much_is_trimmed_and_told_with_its_count(postgres: Postgres, namespace: str) -> None:
    rooms = [0]
    reading, writing = make(postgres), make(postgres, maxlen=10)
    async with bare(reading, namespace, room=lambda: rooms[-1]) as reader, bare(writing, namespace) as writer:
        for number in range(5):
            await writer.send(*(Record(Key("k"), b"%d" % (10 * number + each)) for each in range(10)))
        rooms.append(1000)
        await reader.see(b"49")
        assert reader.payloads == [b"%d" % number for number in range(40, 50)]
        assert (await wait_for_losses(reader, "trimmed"))[0].count == 40


async def test_what_is_too_old_is_trimmed_though_nobody_sends(postgres: Postgres, namespace: str) -> None:
    async with bare(make(postgres, max_age=0.5), namespace) as one:
        await one.send(Record(Key("k"), b"1"), Record(Key("k"), b"2"))
        await one.see(b"2")

        async def is_empty() -> bool:
            return not await one.adapter.history(10)

        while not await is_empty():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)
        assert not one.losses


async def test_a_table_that_is_missing_is_made_again_by_the_bridge_that_needs_it(database: str) -> None:
    async with sites(lambda: PostgresLogAdapter(log_url(database))) as those, connection(database) as client:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL, group="g")
        for number, name in enumerate(("sender", "delayed", "in_hand", "staged", "dead")):
            await client.execute(f"drop table hubsub.{name}")
            due = time.time() + 0.1 if name == "delayed" else None
            if name in ("staged", "dead"):
                async with bare(lambda: PostgresLogAdapter(log_url(database)), "n"):
                    pass  # nobody here needs it: the next bridge that connects makes it
                adapter: Any = one.bridge.adapter
                await adapter.publish_in(client, "k", number)
            else:
                await one.hub.publish_confirmed("k", number, due=due)
            await two.see(number)


@pytest.mark.parametrize("options", [{}, {"name": "reader"}, {"group": "readers"}], ids=["plain", "name", "group"])
async def test_tables_that_are_truncated_or_dropped_while_read_are_never_silence(
    database: str, options: dict[str, Any]
) -> None:
    statements = [
        "truncate hubsub.message",
        "truncate hubsub.log",
        "drop table hubsub.message",
        "drop table hubsub.log, hubsub.version cascade",
        "drop schema hubsub cascade",
    ]
    async with sites(lambda: PostgresLogAdapter(log_url(database))) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL, **options)
        two.hub.add_listener("held", lambda key, message: None)
        for number, statement in enumerate(statements):
            await one.hub.publish_confirmed("k", number)
            await two.see(number)
            gate = await those.add(outgoing=ALL)
            gaps, reconnects = len(two.gaps), two.bridge.health().reconnects
            # In one transaction, so that what is stored before is seen by nobody.
            async with connection(database) as client, client.transaction():
                append = "select hubsub.append($1, gen_random_uuid()::text, '{1}', '{k}', '{1}', null)"
                await client.fetchval(append, those.namespace)
                await client.execute(statement)
            await until(
                lambda gaps=gaps, reconnects=reconnects: (  # type: ignore[misc]
                    len(two.gaps) > gaps or two.bridge.health().reconnects > reconnects
                ),
                f"to be told of {statement}",
            )
            await gate.close()
        await one.hub.publish_confirmed("k", "last")
        await two.see("last")
        assert two.gaps


async def test_a_page_is_bounded_in_bytes_and_one_message_may_be_larger(postgres: Postgres, namespace: str) -> None:
    for options in ({}, {"group": "g"}):
        async with bare(make(postgres), namespace, reads=False) as writer:
            for number in range(6):
                await writer.send(Record(Key("k"), bytes([number]) * 700_000))
            await writer.send(Record(Key("k"), b"x" * 5_000_000))
        async with bare(make(postgres), namespace, start="earliest", **options) as reader:
            count = 1 + len(options)
            await until(lambda it=reader, n=count: it.payloads.count(b"x" * 5_000_000) == n)  # type: ignore[misc]
            first = [payload[0] for payload in reader.payloads if payload]
            assert first == [0, 1, 2, 3, 4, 5, ord("x")] * (1 + len(options))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding_carries_everything(postgres: Postgres, encoding: str) -> None:
    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name} owner hubsub encoding '{encoding}' locale 'C' template template0")
    url = log_url(postgres.url.removesuffix("hubsub") + name)
    async with sites(lambda: PostgresLogAdapter(url)) as those:
        one, two = await those.add(), await those.add(incoming=ALL, attempts=1, name="reader")

        @two.hub.on(ALL)
        async def fail(key: Key[Any], message: Any) -> None:
            raise ValueError("中\0")

        await two.bridge.ready()
        await one.hub.publish_confirmed(("größe", "中"), "€\0")
        await until(lambda: two.bridge.health().dead_letters == 1 and not two.bridge.health().in_flight)
        (letter,) = await one.bridge.dead_letters(10)
        assert (letter.key, letter.message) == (Key("größe", "中"), "€\0")
    await postgres.execute(f"drop database {name} with (force)")


async def test_hostile_rows_hurt_nobody(postgres: Postgres, namespace: str) -> None:
    async with sites(make(postgres)) as those:
        one = await those.add(ALL)
        client = await postgres.client("hubsub")
        for key, data in (("", None), ("*", b""), ("Hub/x", b"1"), ("%", b"\xff"), ("k" * 5000, b"1"), ("k", b"1")):
            append = "select hubsub.append($1, gen_random_uuid()::text, '{1}', array[$2], array[$3::bytea], null)"
            await client.fetchval(append, those.namespace, key, data)
        await client.close()
        await one.see(1)
        assert one.bridge.health().state == "up"
        assert not one.bridge.health().reconnects


# Delays


def numbers_of(reader: Bare) -> list[int]:
    return [int(str(each.position).rpartition("-")[2]) for each in reader.received]


async def test_what_is_due_is_numbered_then_once_however_many_release_it(postgres: Postgres, namespace: str) -> None:
    """What was sent twice is there once, and only what is new of a batch is stored."""
    async with (
        bare(make(postgres), namespace) as one,
        bare(make(postgres), namespace) as two,
        bare(make(postgres), namespace, reads=False),
    ):
        due = time.time() + 0.5
        records = [
            DelayedRecord.at(due + 0.1 * (number % 2), Record(Key("k"), b"%d" % number, {}, number + 2))
            for number in range(2200)
        ]
        all_of_them = sorted([b"now", *(b"%d" % number for number in range(2200))])
        now = Record(Key("k"), b"now", {}, 2202)
        for sent in (records[:1000], records, [*records[-3:], now], [now]):
            assert await one.adapter.send(sent) == {}
        for reader in (one, two):
            await until(lambda reader=reader: len(reader.received) >= 2201)  # type: ignore[misc]
            assert sorted(reader.payloads) == all_of_them
            assert numbers_of(reader) == list(range(1, 2202))
            assert not reader.losses


async def test_messages_that_are_due_together_come_in_the_order_of_their_times(
    postgres: Postgres, namespace: str
) -> None:
    async with bare(make(postgres), namespace) as one:
        past = time.time() - 100
        records = [DelayedRecord.at(past - number, Record(Key("k"), b"%d" % number)) for number in range(20)]
        await one.send(*records)
        await one.see(b"0")
        assert one.payloads == [b"%d" % number for number in reversed(range(20))]


async def test_what_became_due_while_no_bridge_was_there_is_in_the_log_when_one_connects(
    postgres: Postgres, namespace: str
) -> None:
    client = await postgres.client("hubsub")
    async with bare(make(postgres), namespace, reads=False) as writer:
        await writer.send(DelayedRecord.at(time.time() + 1.5, Record(Key("k"), b"due")))
        await writer.send(DelayedRecord.at(time.time() + 3600, Record(Key("k"), b"later")))
    assert not await client.fetchval("select count(*) from hubsub.message where namespace = $1", namespace)
    query = "select count(*) from hubsub.delayed where namespace = $1 and due <= clock_timestamp()"
    while not await client.fetchval(query, namespace):  # noqa: ASYNC110 - nobody is there to notify of it
        await asyncio.sleep(0.05)
    async with bare(make(postgres), namespace, reads=False) as other:
        assert [each.payload for each in await other.adapter.history(10)] == [b"due"]
    assert await client.fetchval("select count(*) from hubsub.delayed where namespace = $1", namespace) == 1
    await client.close()


async def test_a_bridge_learns_of_what_another_delays_until_before_its_own(postgres: Postgres, namespace: str) -> None:
    """The sender dies, and who is left knows when the message is due."""
    async with bare(make(postgres), namespace) as reader:
        await reader.send(DelayedRecord.at(time.time() + 3600, Record(Key("k"), b"much later")))
        async with bare(make(postgres), namespace, reads=False) as writer:
            due = time.time() + 0.4
            await writer.send(DelayedRecord.at(due, Record(Key("k"), b"soon")))
        await reader.see(b"soon")
        assert reader.payloads == [b"soon"]
        assert (reader.received[0].time or 0.0) >= due


async def test_delayed_messages_that_are_released_trim_the_log_and_bound_each_batch(
    postgres: Postgres, namespace: str
) -> None:
    async with bare(make(postgres, maxlen=4), namespace, room=lambda: 0) as writer:
        due = time.time() + 0.3
        for number in range(6):
            await writer.send(DelayedRecord.at(due, Record(Key("k"), b"%d" % number * 700_000)))
        client = await postgres.client("hubsub")
        query = "select array_agg(number order by number) from hubsub.message where namespace = $1"
        while await client.fetchval(query, namespace) != [3, 4, 5, 6]:  # noqa: ASYNC110 - it notifies nobody here
            await asyncio.sleep(0.05)
        # One batch has one time.
        query = "select count(distinct time) from hubsub.message where namespace = $1"
        assert await client.fetchval(query, namespace) > 1
        await client.close()


# Failover


async def pair(private: Private, port: int, primary: Postgres) -> tuple[Postgres, Callable[[], PostgresLogAdapter]]:
    """A replica that follows its primary by a port, and what makes adapters that know both."""
    replica = await private(Postgres(replica_of=port))
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in (primary, replica))
    return replica, lambda: PostgresLogAdapter(f"postgres-log://hubsub@{hosts}/hubsub")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain", marks=pytest.mark.long),
        pytest.param({"name": "reader"}, id="name", marks=pytest.mark.long),
        # Two servers, and a switch between them, take seconds; one way to read is enough for `make test`.
        pytest.param({"group": "readers"}, id="group"),
    ],
)
async def test_a_replica_that_has_all_takes_over_and_nothing_confirmed_is_lost(
    private: Private, options: dict[str, Any]
) -> None:
    primary = await private(Postgres())
    replica, adapter = await pair(private, primary.port, primary)
    async with sites(adapter) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL, **options)
        await one.hub.publish_confirmed("k", -1)
        await primary.execute("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        confirmed: list[int] = []

        async def publish() -> None:
            for number in range(10_000):
                await one.hub.publish_confirmed("k", number, timeout=60)
                confirmed.append(number)

        publishing = asyncio.create_task(publish())
        await until(lambda: len(confirmed) > 20)
        primary.kill()
        await replica.promote()
        there = len(confirmed)
        await until(lambda: len(confirmed) > there + 20, seconds=60)
        publishing.cancel()
        await asyncio.wait([publishing])
        await two.see(confirmed[-1])
        assert two.messages[: len(confirmed) + 1] == [-1, *confirmed]
        assert not two.gaps


async def test_a_replica_that_lacks_the_end_is_a_gap_to_who_was_ahead(private: Private) -> None:
    primary = await private(Postgres())
    async with primary.proxy() as line:
        replica, adapter = await pair(private, int(line.url.rpartition(":")[2].partition("/")[0]), primary)
        async with sites(adapter) as those:
            one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL)
            await one.hub.publish_confirmed("k", 1)
            client = await replica.client()
            while await client.fetchval("select last from hubsub.log where namespace = $1", those.namespace) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await client.close()
            line.stall()
            await one.hub.publish_confirmed("k", 2)
            await two.see(2)
            primary.kill()
            line.cut()
            await replica.promote()
            await two.until(lambda: [gap.reason for gap in two.gaps] == ["rolled back"], "the gap", 60)
            await one.hub.publish_confirmed("k", 3, timeout=60)
            await two.see(3)


# The transactional outbox


@asynccontextmanager
async def outbox(postgres: Postgres) -> AsyncIterator[tuple[Sites, Site, PostgresLogAdapter]]:
    async with sites(make(postgres)) as those:
        site = await those.add(ALL)
        adapter = site.bridge.adapter
        assert isinstance(adapter, PostgresLogAdapter)
        yield those, site, adapter


async def test_what_is_published_in_a_transaction_comes_when_it_is_committed(postgres: Postgres) -> None:
    async with outbox(postgres) as (_, site, adapter), connection(postgres.url) as client:
        async with client.transaction():
            await adapter.publish_in(client, ("orders", "new"), {"tea": 2})
            await adapter.publish_in(client, ("orders", "new"), b'"plain"')
            with pytest.raises(InvalidKey):
                await adapter.publish_in(client, ("orders", "*"), 1)
            await site.hub.publish_confirmed("other", 1)
            await site.see(1)
        await site.see("plain")
        assert site.messages.count({"tea": 2}) == 1
        events = [event for event in site.events if event.key == Key("orders", "new")]
        assert [event.message for event in events] == [{"tea": 2}, "plain"]
        assert all(event.meta is not None and event.meta.position for event in events)


async def test_what_is_rolled_back_never_was_savepoints_too(postgres: Postgres) -> None:
    async with outbox(postgres) as (_, site, adapter), connection(postgres.url) as client:
        transaction = client.transaction()
        await transaction.start()
        await adapter.publish_in(client, "a", "rolled back")
        await transaction.rollback()
        async with client.transaction():
            await adapter.publish_in(client, "a", 1)
            savepoint = client.transaction()
            await savepoint.start()
            await adapter.publish_in(client, "a", "rolled back to a savepoint")
            await savepoint.rollback()
            await adapter.publish_in(client, "a", 2)
        await site.see(2)
        assert [each for each in site.messages if each != "other"] == [1, 2]


async def test_a_long_transaction_holds_up_nobody(postgres: Postgres) -> None:
    async with outbox(postgres) as (_, site, adapter), connection(postgres.url) as client:
        async with client.transaction():
            for number in range(1000):
                await adapter.publish_in(client, "late", number)
            for number in range(20):
                await site.hub.publish_confirmed("early", number, timeout=10)
        await site.see(999)
        late = [event.message for event in site.events if event.key == Key("late")]
        assert late == list(range(1000))
        assert not site.gaps


async def test_a_message_may_be_published_in_a_transaction_for_later(postgres: Postgres) -> None:
    """From SQL too; what is rolled back is not delivered, and what is due already comes at once."""
    async with outbox(postgres) as (those, site, adapter), connection(postgres.url) as client:
        due = time.time() + 0.5
        async with client.transaction():
            await adapter.publish_in(client, "a", "soon", due=due)
            await adapter.publish_in(client, "a", "late already", due=1)
            sql = "select hubsub.publish('a', '\"from SQL\"', namespace => $1, due => now() + interval '0.5 s')"
            await client.execute(sql, those.namespace)
            savepoint = client.transaction()
            await savepoint.start()
            await adapter.publish_in(client, "a", "rolled back", due=due)
            await savepoint.rollback()
            await adapter.publish_in(client, "a", "now")
            await site.hub.publish_confirmed("other", "first")
        await site.wait_for(5)
        assert site.messages[:3] == ["first", "late already", "now"]
        assert set(site.messages[3:]) == {"soon", "from SQL"}
        (soon,) = (event.meta for event in site.events if event.message == "soon")
        assert soon is not None
        assert (soon.time or 0.0) >= due
        for nonsense in ("tomorrow", True, float("nan"), 1e12):
            with pytest.raises(ValueError, match="due is a time in seconds"):
                await adapter.publish_in(client, "a", 1, due=nonsense)  # type: ignore[arg-type]
        with pytest.raises(asyncpg.DatetimeFieldOverflowError, match="year 9999"):
            await client.execute("select hubsub.publish('a', '1', due => 'infinity')")


async def test_bridges_are_notified_when_a_message_is_due_however_long_its_transaction_takes(
    postgres: Postgres, namespace: str
) -> None:
    times: asyncio.Queue[float] = asyncio.Queue()
    async with (
        bare(make(postgres), namespace) as reader,
        connection(postgres.url) as client,
        connection(postgres.url) as listener,
    ):
        channel = f"{channel_of(namespace)}:log:due"
        await listener.add_listener(channel, lambda _1, _2, _3, text: times.put_nowait(float(text)))
        adapter: Any = reader.adapter
        adapter.features_for(Link(sender="s", namespace=namespace))
        due = time.time() + 0.5
        async with client.transaction():
            await adapter.publish_in(client, "k", 1, due=due)
            while time.time() < due:  # noqa: ASYNC110 - nobody sees it yet
                await asyncio.sleep(0.05)
        assert abs(await times.get() - due) < 1e-3
        await reader.see(b"1")
        # Nonsense there hurts nobody.
        await client.execute("select pg_notify($1, 'tomorrow')", channel)
        await reader.send(DelayedRecord.at(time.time() + 0.1, Record(Key("k"), b"2")))
        await reader.see(b"2")


async def test_the_outbox_encodes_as_the_bridge_does_and_as_json_without_one(postgres: Postgres) -> None:
    pytest.importorskip("msgspec")
    moment = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    async with sites(make(postgres)) as those, connection(postgres.url) as client:
        for codec, sent, came in (
            ("msgpack", {1: b"\xff\0"}, {1: b"\xff\0"}),
            ("json", {"at": moment}, {"at": "2024-02-29T12:30:00Z"}),
        ):
            site = await those.add(ALL, codec=codec, namespace=f"{those.namespace}{codec}")
            adapter: Any = site.bridge.adapter
            await adapter.publish_in(client, "a", sent)
            await site.see(came)
            with pytest.raises(EncodeError, match="cannot be encoded"):
                await adapter.publish_in(client, "a", object())
        site = await those.add(ALL, namespace="hubsub")
        await make(postgres)().publish_in(client, ("json", those.namespace), {"at": moment})
        await site.see({"at": "2024-02-29T12:30:00Z"})


async def test_other_drivers_publish_in_their_transactions_too(postgres: Postgres) -> None:
    psycopg: Any = pytest.importorskip("psycopg")
    sqlalchemy: Any = pytest.importorskip("sqlalchemy")
    extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")
    async with outbox(postgres) as (_, site, adapter):
        async with await psycopg.AsyncConnection.connect(postgres.url) as client:
            await adapter.publish_in(client, "a", 1)
            async with client.cursor() as cursor:
                await adapter.publish_in(cursor, "a", 2)
        engine = extension.create_async_engine(postgres.url.replace("postgres:", "postgresql+asyncpg:"))
        async with engine.begin() as both, extension.AsyncSession(engine) as session:
            await adapter.publish_in(both, "a", 3)
            await adapter.publish_in(session, "a", 4)
            await session.commit()
        await engine.dispose()
        plain = sqlalchemy.create_engine(postgres.url.replace("postgres:", "postgresql+psycopg:"))
        with plain.begin() as sync:
            await adapter.publish_in(sync, "a", 5)
            await adapter.publish_in(sync, "a", 6, due=time.time() + 0.1)
        plain.dispose()
        await site.wait_for(6)
        assert sorted(site.messages) == [1, 2, 3, 4, 5, 6]
        with pytest.raises(TypeError, match="a connection of asyncpg, psycopg or SQLAlchemy"):
            await adapter.publish_in(object(), "a", 7)


async def test_the_outbox_works_without_a_bridge(postgres: Postgres, namespace: str) -> None:
    async with sites(make(postgres)) as those:
        site = await those.add(ALL, namespace="hubsub")
        adapter = make(postgres)()
        async with connection(postgres.url) as client:
            await adapter.publish_in(client, ("no", "bridge"), namespace)
        await site.see(namespace)


async def test_what_a_hub_carries_on_to_another_broker_is_finished_when_that_has_confirmed_it(
    postgres: Postgres, namespace: str
) -> None:
    url = f"memory://{namespace}"
    async with sites(make(postgres)) as those:
        relay = await those.add(incoming=ALL, name="relay")
        adapter: Any = relay.bridge.adapter
        async with (
            Hub() as far,
            Bridge(relay.hub, url, outgoing=ALL) as there,
            Bridge(far, url, incoming=ALL) as back,
            connection(postgres.url) as client,
        ):
            messages = far.subscribe("a")
            await there.ready()
            await back.synced()
            broker = MemoryBroker.named[url]
            broker.thawed.clear()
            await adapter.publish_in(client, "a", 1)
            await until(lambda: relay.bridge.health().in_flight == 1)
            await until(lambda: there.health().outbox_messages == 1)
            broker.thawed.set()
            event = await messages.consume()
            assert event.message == 1
            assert str(event.meta.id).endswith("-1")
            await until(lambda: relay.bridge.health().in_flight == 0)


async def test_triggers_publish_rows_by_whatever_type_they_have(postgres: Postgres) -> None:
    async with outbox(postgres) as (those, site, _), connection(postgres.url) as client:
        await client.execute("drop table if exists item; create table item (id integer, name text)")
        await client.execute(
            "create or replace function tell() returns trigger language plpgsql as $$ begin"
            f" perform hubsub.publish('items/' || new.id, row_to_json(new), '{those.namespace}');"
            f" perform hubsub.publish('items/' || new.id, to_jsonb(new), '{those.namespace}');"
            f" perform hubsub.publish('items/' || new.id, '\"text\"', '{those.namespace}');"
            " return null; end $$;"
            "create trigger tell after insert on item for each row execute function tell()"
        )
        await client.execute("insert into item values (1, 'tea'), (2, 'grün')")
        await site.wait_for(6)
        assert [event.key for event in site.events] == [Key("items", "1")] * 3 + [Key("items", "2")] * 3
        assert site.messages == [{"id": 1, "name": "tea"}] * 2 + ["text"] + [{"id": 2, "name": "grün"}] * 2 + ["text"]
        await client.execute("drop table item")


async def test_a_serializable_transaction_may_have_to_be_tried_again(postgres: Postgres) -> None:
    async with outbox(postgres) as (_, site, adapter), connection(postgres.url) as client:
        for attempt in (1, 2):
            transaction = client.transaction(isolation="repeatable_read")
            await transaction.start()
            await adapter.publish_in(client, "a", attempt)
            if attempt == 1:
                await site.hub.publish_confirmed("other", 0)
                with pytest.raises(asyncpg.SerializationError):
                    await transaction.commit()
            else:
                await transaction.commit()
        await site.see(2)
        assert 1 not in site.messages


async def test_a_message_without_a_key_is_refused(postgres: Postgres) -> None:
    async with outbox(postgres), connection(postgres.url) as client:
        with pytest.raises(asyncpg.NullValueNotAllowedError):
            await client.execute("select hubsub.publish(null, 'x')")


# Options


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"url": "postgres://h"}, ValueError, "postgres-log://"),
        ({"url": "postgres-log://h?lease=0"}, ValueError, "lease must be a number of seconds"),
        ({"url": "postgres-log://h?maxlen=-1"}, ValueError, "maxlen must be a number of messages"),
        ({"url": "postgres-log://h", "max_age": "old"}, ValueError, "max_age must be a number of seconds"),
        ({"url": "postgres-log://h?channel=chat"}, TypeError, "no option channel"),
        ({"url": "postgres-log://h?timeout=3"}, TypeError, "sets timeout itself"),
        ({}, TypeError, "needs a URL"),
    ],
)
def test_options_that_make_no_sense_are_told(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        PostgresLogAdapter(**arguments)


def test_options_stand_in_the_url() -> None:
    adapter = PostgresLogAdapter("postgresql-log://me:secret@h/db?lease=5&maxlen=none&max_age=60")
    assert (adapter.lease, adapter._maxlen, adapter._max_age) == (5.0, None, 60.0)
    assert repr(adapter) == "<PostgresLogAdapter h:5432/db>"


async def test_a_disk_that_is_full_is_no_lost_connection(private: Private) -> None:
    server = await private(Postgres())
    async with bare(make(server), "n") as writer:
        await server.execute(
            "create function full_disk() returns trigger language plpgsql as"
            " 'begin raise exception ''no space left on device'' using errcode = ''disk_full''; end'",
            "create trigger full_disk before insert on hubsub.message execute function full_disk()",
        )
        with pytest.raises(BrokerBusy, match="no space left"):
            await writer.send(Record(Key("k"), b"1"))
        await server.execute("drop trigger full_disk on hubsub.message")
        assert not await writer.send(Record(Key("k"), b"1"))
        await writer.see(b"1")
        assert json.dumps(writer.payloads, default=str)
