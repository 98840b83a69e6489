"""Delayed messages over a bridge: what is sent of them, and what comes back."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from hubsub import DeliveryError, Event, Hub, Key, Meta, Unsupported
from hubsub.bridges import Bridge, DelayedRecord, Record
from hubsub.bridges.sqlite import SQLiteAdapter
from hubsub.testing.conformance.bare import bare

from .scripted import Scripted
from .sites import ALL, Quick, record, until

DUE = time.time() + 3600
FORMS: list[dict[str, Any]] = [{}, {"secret": "s"}]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def bridged(stack: AsyncExitStack, adapter: Scripted, **options: Any) -> Bridge:
    hub = await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Quick(hub, adapter, **{"both": ALL} | options))
    await bridge.ready()
    return bridge


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("options", FORMS)
async def test_what_was_delayed_comes_back_as_no_echo_and_only_then(
    stack: AsyncExitStack, headers: bool, options: dict[str, Any]
) -> None:
    adapter = Scripted(delays=True, headers=headers)
    bridge = await bridged(stack, adapter, **options)
    messages = record(bridge.hub)
    await bridge.hub.publish_confirmed("k", "delayed", due=DUE)
    bridge.hub.publish("k", "hubsubdue")  # as a message may be, and may have it for a header
    bridge.hub.publish_with_headers("k", "plain", {"hubsubdue": "x"})
    await bridge.flush()
    assert messages == ["hubsubdue", "plain"]
    delayed, *others = (each for each in adapter.sent if not each.is_control)
    assert isinstance(delayed, DelayedRecord)
    assert delayed.due == DUE
    assert [each.due for each in others] == [None, None]
    for each in (*others, delayed):
        adapter.put(each.key, each.payload, each.headers)
    await until(lambda: "delayed" in messages)
    assert messages == ["hubsubdue", "plain", "delayed"]
    assert bridge.health().echoes == 2
    adapter.put(delayed.key, delayed.payload, delayed.headers)
    await until(lambda: bridge.health().duplicates == 1)
    assert messages == ["hubsubdue", "plain", "delayed"]


async def test_a_delayed_message_that_is_sent_again_is_still_due_then(stack: AsyncExitStack) -> None:
    adapter = Scripted(delays=True)
    failures = iter([ConnectionError("cut")])

    def fail(records: Any) -> None:
        if any(not each.is_control for each in records):
            for error in failures:
                raise error

    adapter.on_send = fail  # type: ignore[assignment]
    bridge = await bridged(stack, adapter, secret="s")
    bridge._parts.sender.SIGNED_FOR = -1.0  # type: ignore[misc]
    await bridge.hub.publish_confirmed("k", 1, due=DUE)
    await bridge.hub.publish_confirmed("k", 2)
    one, two = (each for each in adapter.sent if not each.is_control)
    assert (one.due, two.due) == (DUE, None)
    assert one.sequence < two.sequence


async def test_a_broker_that_cannot_delay_refuses_and_nobody_gets_it(stack: AsyncExitStack) -> None:
    failures: list[Any] = []
    adapter = Scripted()
    hub = await stack.enter_async_context(Hub(on_error=failures.append))
    await stack.enter_async_context(Quick(hub, adapter, both=ALL))
    messages = record(hub)
    with pytest.raises(DeliveryError) as told:
        await hub.publish_confirmed("k", 1, due=DUE)
    (undelivered,) = told.value.exceptions
    assert isinstance(undelivered.__cause__, Unsupported)
    assert "Scripted" in undelivered.__cause__.adapter
    hub.publish_event(Event(Key("k"), 2, Meta(due=DUE)))
    hub.publish("k", 3)
    await until(lambda: adapter.sent)
    assert [json.loads(each.payload) for each in adapter.sent] == [3]
    assert messages == [3]
    assert [(each.key, each.message, type(each.error)) for each in failures] == [
        (("k",), 1, Unsupported),
        (("k",), 2, Unsupported),
    ]


async def test_what_came_late_goes_on_to_another_broker_as_any_other(stack: AsyncExitStack) -> None:
    """That one cannot delay, and need not."""
    there, here = Scripted(delays=True), Scripted()
    bridge = await bridged(stack, there, incoming=ALL, both=[])
    await stack.enter_async_context(Quick(bridge.hub, here, outgoing=ALL))
    headers = {"ce_specversion": "1.0", "ce_id": "7", "ce_source": "shop", "ce_type": "hubsub.message"}
    there.put("k", b"1", {**headers, "ce_hubsubdue": "2024-02-29T12:30:00Z", "n": "v"})
    await until(lambda: here.sent)
    assert here.sent[0].due is None
    assert "ce_hubsubdue" not in here.sent[0].headers
    assert here.sent[0].headers["n"] == "v"


def test_a_delayed_record_is_a_record_that_keeps_its_time() -> None:
    plain = Record(Key("k"), b"1", {}, 7)
    delayed = DelayedRecord.at(DUE, plain)
    assert delayed == plain
    assert delayed._replace(sequence=8).due == DUE
    assert delayed._replace(sequence=8).sequence == 8
    assert plain.due is None


# In a file of SQLite


async def test_what_is_due_takes_its_place_once_however_many_look(tmp_path: Path) -> None:
    """And in the order of its times; what was sent twice is there once."""
    path = tmp_path / "log.db"
    async with bare(lambda: SQLiteAdapter(path), "shop") as one, bare(lambda: SQLiteAdapter(path), "shop") as two:
        await one.adapter.send([Record(Key("k"), b"now", {}, 1)])
        due = time.time() + 0.3
        records = [
            DelayedRecord.at(due + 0.1 * (number % 2), Record(Key("k"), b"%d" % number, {}, number + 2))
            for number in range(1200)
        ]
        for _ in range(2):
            assert await one.adapter.send(records) == {}
        for reader in (one, two):
            await until(lambda reader=reader: len(reader.received) >= 1201)  # type: ignore[misc]
            assert reader.payloads[0] == b"now"
            assert reader.payloads[1:] == [b"%d" % number for odd in (0, 1) for number in range(odd, 1200, 2)]
            assert not reader.losses
            positions = [str(each.position) for each in reader.received]
            assert [int(each.rpartition("-")[2]) for each in positions] == list(range(1, 1202))


async def test_what_became_due_while_nobody_was_there_is_delivered_to_who_comes(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with bare(lambda: SQLiteAdapter(path), "shop", reads=False) as one:
        await one.send(DelayedRecord.at(time.time() + 0.2, Record(Key("k"), b"due")))
        await one.send(DelayedRecord.at(DUE, Record(Key("k"), b"later")))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select count(*) from message").fetchone() == (0,)
        assert db.execute("select count(*) from delayed").fetchone() == (2,)
    await asyncio.sleep(0.3)
    async with bare(lambda: SQLiteAdapter(path), "other") as other:
        async with bare(lambda: SQLiteAdapter(path), "shop", start="earliest") as two:
            await two.see(b"due")
            assert two.payloads == [b"due"]
        assert other.payloads == []
