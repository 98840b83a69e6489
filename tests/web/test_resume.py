"""A client that comes back goes on where it was, on this worker or another, or learns that it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub import Bridge, Event, Gap, Hub, Key, Meta
from hubsub.testing.conformance import until
from hubsub.web import Limits, endpoint
from hubsub.web.journal import Journal, place_of
from hubsub.web.protocol import Position

from .sockets import Frame, Socket, connected

ROOM = [["room", "*"]]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@asynccontextmanager
async def resumed(app: Any, at: Position, patterns: list[list[str]] = ROOM) -> AsyncIterator[tuple[Socket, Frame]]:
    async with connected(app) as client:
        client.say("hello", resume={"at": at, "subscriptions": [{"id": 1, "patterns": patterns}]})
        yield client, await client.hear()


def advance(at: Position, frame: Frame) -> None:
    origin, _, number = frame["at"].rpartition(":")
    at[origin] = max(at.get(origin, 0), int(number))


async def seen(client: Socket, number: int, at: Position) -> list[Any]:
    """The data of so many messages; the position goes along."""
    data = []
    for _ in range(number):
        frame = await client.hear()
        advance(at, frame)
        data.append(frame["data"])
    return data


async def test_a_client_goes_on_where_it_was(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*"), "other"])
    async with connected(app) as client:
        await client.ask("subscribe", patterns=ROOM)
        at: Position = dict(client.welcome["at"])  # type: ignore[attr-defined]
        for number in range(5):
            hub.publish(("room", "1"), number)
        assert await seen(client, 3, at) == [0, 1, 2]
    for number in range(5, 8):
        hub.publish(("room", "1"), number)
        hub.publish("other", number)
    async with resumed(app, at) as (client, answer):
        assert (answer["resumed"], answer["replayed"]) == (True, 5)
        assert await seen(client, 5, at) == [3, 4, 5, 6, 7]
        hub.publish(("room", "2"), 8)
        assert await seen(client, 1, at) == [8]
        assert await client.hear_all() == []


async def test_more_is_replayed_than_may_wait_for_a_client(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")], limits=Limits(queue_messages=10, queue_bytes=500))
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    for number in range(2000):
        hub.publish(("room", "1"), number)
    async with resumed(app, at) as (client, answer):
        assert (answer["resumed"], answer["replayed"]) == (True, 2000)
        assert await client.messages(2000) == [*range(2000)]
        # The room that it had for that is gone.
        client.reads.clear()
        for number in range(20):
            hub.publish(("room", "1"), number)
        client.reads.set()
        assert (await client.closed()).code == 4413


async def test_only_one_replay_at_a_time_may_exceed_the_bounds(hub: Hub) -> None:
    hub.retain(("room", "*"), limit=100)
    for number in range(100):
        hub.publish(("room", "1"), number)
    app = endpoint(hub, outgoing=[("room", "*")], limits=Limits(queue_messages=10))
    async with connected(app) as client:
        client.reads.clear()
        for id in range(1, 20):
            client.say("subscribe", id=id, patterns=ROOM, history=100)
        await until(lambda: not app.connections, "a client that asks and does not read to be disconnected")


async def test_a_snapshot_is_one_still_when_it_was_resumed(hub: Hub) -> None:
    hub.retain(("room", "*"))
    app = endpoint(hub, outgoing=[("room", "*")])
    hub.publish(("room", "1"), 1)
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    for position, begin in ((at, []), ({"nobody": 1}, ["gap", 1])):
        async with connected(app) as client:
            subscriptions = [{"id": 1, "patterns": ROOM, "snapshot": True}]
            client.say("hello", resume={"at": position, "subscriptions": subscriptions})
            assert (await client.hear())["type"] == "ok"
            hub.border.report_gap([("room", "*")], Gap("an outage", None, 0.0, 1.0, None))
            frames = await client.hear_all()
            assert [frame.get("type", frame.get("data")) for frame in frames] == [*begin, "gap", 1]


async def test_who_has_received_nothing_can_come_back_too(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")])
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    hub.publish(("room", "1"), 1)
    async with resumed(app, at) as (client, answer):
        assert (answer["resumed"], answer["replayed"]) == (True, 1)


async def test_what_is_no_longer_kept_is_a_gap_for_each_subscription(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")], limits=Limits(log_messages=3))
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    for number in range(4):
        hub.publish(("room", "1"), number)
        app.feed.dispatch()
    async with connected(app) as client:
        subscriptions = [{"id": 1, "patterns": ROOM}, {"id": 2, "patterns": ROOM}, {"id": 3, "patterns": [["no"]]}]
        client.say("hello", resume={"at": at, "subscriptions": subscriptions})
        frames = await client.hear_all()
        assert [(frame["type"], frame.get("id"), frame.get("of")) for frame in frames] == [
            ("error", 3, None),
            ("ok", 0, None),
            ("gap", None, 1),
            ("gap", None, 2),
        ]
        assert frames[1]["resumed"] is False
        hub.publish(("room", "1"), 9)
        assert await client.messages(1) == [9]


async def test_a_position_of_somewhere_else_is_not_resumed(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")])
    own = hub.border.origin
    for at in ({}, {"nobody": 5}, {own: 5}, {own: 0, "nobody": 5}):
        async with resumed(app, at) as (_, answer):
            assert answer["resumed"] is False, at
    async with resumed(app, {own: 0, "nobody": 0}) as (_, answer):
        assert answer["resumed"] is True


async def test_a_gap_while_a_client_was_away_is_replayed_where_it_was(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")])
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    hub.publish(("room", "1"), 1)
    hub.border.report_gap([("room", "*")], Gap("an outage", None, 0.0, 1.0, None))
    hub.publish(("room", "1"), 2)
    async with resumed(app, at) as (client, answer):
        assert answer["resumed"] is True
        assert [frame.get("type", frame.get("data")) for frame in await client.hear_all()] == [1, "gap", 2]


async def test_a_message_without_a_name_that_counts_cannot_be_resumed_across(hub: Hub) -> None:
    app = endpoint(hub, outgoing=[("room", "*")])
    async with connected(app) as client:
        at = client.welcome["at"]  # type: ignore[attr-defined]
    hub.border.relay(Event(Key("room", "1"), 1, Meta(id="7", source="a stranger")))
    async with resumed(app, at) as (client, answer):
        assert answer["resumed"] is False


async def test_another_worker_goes_on_where_a_bridge_keeps_the_order() -> None:
    name = "memory://web-resume"
    here, there = Hub(name="here"), Hub(name="there")
    bridges = [Bridge(hub, name, both=[("room", "*")]) for hub in (here, there)]
    one, other = endpoint(here, outgoing=[("room", "*")]), endpoint(there, outgoing=[("room", "*")])
    async with here, there, bridges[0], bridges[1]:
        for bridge in bridges:
            await bridge.synced()
        at: Position = {}
        async with connected(one) as client:
            at.update(client.welcome["at"])  # type: ignore[attr-defined]
            await client.ask("subscribe", patterns=ROOM)
            for number in range(3):
                (here if number % 2 else there).publish(("room", "1"), number)
            assert sorted(await seen(client, 3, at)) == [0, 1, 2]
        for number in range(3, 9):
            (here if number % 2 else there).publish(("room", "1"), number)
        async with connected(other) as watching:
            await watching.ask("subscribe", patterns=ROOM)
            there.publish(("room", "1"), 9)
            await until(lambda: len(other.feed.journal) == 10, "everything to have come")
            async with resumed(other, at) as (client, answer):
                assert answer["resumed"] is True
                assert sorted(await seen(client, answer["replayed"], at)) == list(range(3, 10))
                here.publish(("room", "1"), 10)
                assert await seen(client, 1, at) == [10]


async def test_a_worker_that_is_younger_than_a_client_does_not_resume_it() -> None:
    name = "memory://web-young"
    here, there = Hub(name="here"), Hub(name="there")
    bridge = Bridge(here, name, both=[("room", "*")])
    one = endpoint(here, outgoing=[("room", "*")])
    async with here, bridge:
        await bridge.synced()
        at: Position = {}
        async with connected(one) as client:
            at.update(client.welcome["at"])  # type: ignore[attr-defined]
            await client.ask("subscribe", patterns=ROOM)
            here.publish(("room", "1"), 1)
            await seen(client, 1, at)
        here.publish(("room", "1"), "missed by the younger one")
        await until(lambda: bridge.health().sent == 2, "both to be sent")
        async with there, Bridge(there, name, both=[("room", "*")]) as late:
            other = endpoint(there, outgoing=[("room", "*")])
            await late.synced()
            here.publish(("room", "1"), 3)
            async with connected(other) as watching:
                await watching.ask("subscribe", patterns=ROOM)
                here.publish(("room", "1"), 4)
                await watching.messages(1)
                async with resumed(other, at) as (_, answer):
                    assert answer["resumed"] is False


def test_only_names_that_count_are_places() -> None:
    assert place_of(Meta("00000000ff" + "0" * 16, "me")) == ("me", 256)
    for meta in (None, Meta(), Meta("1", "me"), Meta("x" * 26, "me"), Meta("0" * 26)):
        assert place_of(meta) is None


# The journal, against whoever remembers everything


@st.composite
def lives(draw: st.DrawFn) -> Any:
    """Messages of three origins in the order in which one worker had them; and how many of them a client saw there."""
    numbers = {"a": 0, "b": 0, "c": 0}
    arrived = []
    for _ in range(draw(st.integers(0, 25))):
        origin = draw(st.sampled_from("abc"))
        numbers[origin] += draw(st.integers(1, 3))  # not all that it publishes crosses
        arrived.append((origin, numbers[origin], draw(st.sampled_from("xy"))))
    begin = draw(st.integers(0, len(arrived)))
    end = draw(st.integers(begin, len(arrived)))
    return arrived, begin, end, draw(st.integers(1, 30))


@given(lives())
def test_a_journal_returns_exactly_what_was_missed_or_says_that_it_cannot(life: Any) -> None:
    arrived, begin, end, limit = life
    journal = Journal(lambda: "own", limit, 10**6, 1000.0)
    at: Position = {}
    for index, (origin, number, part) in enumerate(arrived):
        if index == begin:
            at.update(journal.position)
        journal.append(Key(part), (origin, number), f"{origin}{number}".encode())
        if begin <= index < end and part == "x":
            at[origin] = number
    if begin == len(arrived):
        at.update(journal.position)
    missed = journal.since(at, [("x",)])
    wanted = [f"{origin}{number}" for origin, number, part in arrived[end:] if part == "x"]
    if missed is None:
        assert limit < len(arrived), "nothing was pushed out, so all is known"
    else:
        assert [entry.frame.decode() for entry in missed] == wanted


@given(lives(), st.randoms(use_true_random=False))
def test_another_order_of_origins_misses_and_doubles_nothing(life: Any, random: Any) -> None:
    arrived, _, end, _ = life
    at: Position = {}
    here = Journal(lambda: "here", 1000, 10**6, 1000.0)
    for origin, number, part in arrived[:end]:
        here.append(Key(part), (origin, number), b"")
    at.update(here.position)
    # Each origin in its own order, but all of them mixed in another way.
    queues = {origin: [each for each in arrived if each[0] == origin] for origin in "abc"}
    other = Journal(lambda: "other", 1000, 10**6, 1000.0)
    while any(queues.values()):
        origin = random.choice([origin for origin, queue in queues.items() if queue])
        _, number, part = queues[origin].pop(0)
        other.append(Key(part), (origin, number), f"{origin}{number}".encode())
    missed = other.since(at, [("x",)])
    wanted = {f"{origin}{number}" for origin, number, part in arrived[end:] if part == "x"}
    if missed is not None:
        assert {entry.frame.decode() for entry in missed} == wanted
        assert len(missed) == len(wanted)


def test_messages_out_of_order_are_not_resumed_across() -> None:
    journal = Journal(lambda: "own", 100, 10**6, 1000.0)
    for number in (1, 2, 4, 3, 5):
        journal.append(Key("x"), ("a", number), b"")
    assert journal.since({"a": 2}, [("x",)]) is None
    entries = journal.since({"a": 4}, [("x",)])
    assert entries is not None
    assert [entry.sequence for entry in entries] == [5]


def test_a_journal_is_bounded_in_messages_bytes_time_and_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(lambda: "own", 10, 10**6, 1000.0)
    for number in range(1, 100):
        journal.append(Key("x"), ("a", number), b"1234")
    assert len(journal) == 10
    journal = Journal(lambda: "own", 1000, 40, 1000.0)
    for number in range(1, 100):
        journal.append(Key("x"), ("a", number), b"1234")
    assert len(journal) == 10
    journal = Journal(lambda: "own", 1000, 10**6, 0.0)
    for number in range(1, 100):
        journal.append(Key("x"), (f"origin {number}", number), b"1234")
    assert len(journal) <= 1
    journal = Journal(lambda: "own", 1000, 10**6, 1000.0)
    for number in range(1, 1000):
        journal.append(Key("x"), (f"origin {number}", 1), b"1234")
    assert len(journal.position) == 256
