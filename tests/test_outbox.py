"""What stands in routes for whatever leads out of the process."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub import DeliveryError, Event, Gap, Hub, Key
from hubsub._core.outbox import Handover


def test_an_outbox_is_no_subscription_and_calls_when_there_is_something(loopless: Hub) -> None:
    calls: list[int] = []
    outbox = loopless.border.outbox("k", 10, ready=lambda: calls.append(outbox.pending))
    for number in range(3):
        assert loopless.publish("k", number) == 0
    assert calls == [1]
    assert [each.message for each in outbox.take(10) if isinstance(each, Event)] == [0, 1, 2]
    loopless.publish("k", 3)
    assert calls == [1, 1]
    outbox.close()
    loopless.publish("k", 4)
    assert outbox.pending == 1


def test_messages_come_named_also_from_the_only_outbox(loopless: Hub) -> None:
    outbox = loopless.border.outbox("k", 10, named=True)
    loopless.publish("k", 1)
    loopless.publish("k", 1)
    metas = [each.meta for each in outbox.take(10) if isinstance(each, Event)]
    assert all(meta is not None and meta.source == loopless.border.origin for meta in metas)
    assert len({meta.id for meta in metas if meta is not None}) == 2
    outbox.close()


def test_a_message_has_one_id_in_every_outbox_and_equal_ones_have_several(loopless: Hub) -> None:
    outboxes = [loopless.border.outbox(["k", name], 1000) for name in "ab"]
    for _ in range(100):
        loopless.publish("k", None)
        loopless.publish("a", None)
        loopless.publish_event(Event(Key("k"), None))
    ids = [[each.meta.id for each in outbox.take(1000) if each.key == ("k",)] for outbox in outboxes]  # type: ignore[union-attr]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 200
    for outbox in outboxes:
        outbox.close()


def test_gaps_stand_in_their_place_for_whoever_wants_them(loopless: Hub) -> None:
    wants = loopless.border.outbox(("a", "*"), 10, gaps=True)
    other = loopless.border.outbox(("b", "*"), 10, gaps=True)
    loopless.publish(("a", "x"), 1)
    loopless.border.report_gap([("a", "+")], Gap("disconnected", None, 1.0, 2.0, None))
    loopless.publish(("a", "x"), 2)
    kinds = [each.reason if isinstance(each, Gap) else each.message for each in wants.take(10)]
    assert kinds == [1, "disconnected", 2]
    assert other.take(10) == []
    wants.close()
    other.close()


async def test_what_is_carried_on_counts_as_wanted_if_it_says_so(hub: Hub) -> None:
    outbox = hub.border.outbox(("a", "*"), 10)
    assert hub.border.wanted() == []
    wanted = hub.border.outbox(("b", "*"), 10, wanted=True)
    assert hub.border.wanted() == [("b", "*")]
    for each in (outbox, wanted):
        each.close()
    assert hub.border.wanted() == []


async def test_what_an_outbox_drops_is_told_when_all_is_whole(hub: Hub) -> None:
    outbox = hub.border.outbox("k", 2)
    order: list[Any] = []

    def drop(key: Key[Any], message: Any) -> None:
        order.append(outbox.pending)
        if len(order) < 3:
            hub.publish("k", "nested")

    hub.add_listener(("Hub", "slowSubscriber", "*"), drop)
    hub.publish("k", 1)
    hub.publish("k", 2)
    hub.publish("k", 3)
    assert order == [2]
    taken = outbox.take(10)
    assert isinstance(taken[0], Gap)
    assert [each.message for each in taken[1:] if isinstance(each, Event)] == [3, "nested"]
    outbox.close()


@given(st.integers(1, 5), st.lists(st.sampled_from(["put", "take", "gone"]), max_size=60))
def test_the_bound_holds_wherever_messages_are_and_none_is_lost_unheard(limit: int, steps: list[str]) -> None:
    held: list[int] = []
    shed: list[int] = []

    def drop() -> Any:
        if not held:
            return None
        shed.append(held.pop(0))
        queue.hold(len(held))
        return lambda: None

    queue = Handover(limit, drop, lambda: None, lambda: None, lambda key: None)
    missing = gone = number = 0
    for step in steps:
        if step == "put":
            queue.put((Key("k"), number))
            number += 1
        elif step == "take":
            for each in queue.take(3):
                if isinstance(each, Gap):
                    missing += each.count or 0
                else:
                    held.append(each[1])
            queue.hold(len(held))
        else:
            gone += len(held)
            held.clear()
            queue.hold(0)
        assert queue.pending + len(held) <= limit
        assert queue.has_room(Key("k"), 0) == (queue.pending + len(held) < limit)
        assert gone + len(held) + queue.pending + len(shed) + queue.dropped == number
    missing += sum(each.count or 0 for each in queue.take(100) if isinstance(each, Gap))
    assert missing == queue.dropped


async def test_a_confirmed_message_that_an_outbox_drops_has_failed(hub: Hub) -> None:
    import asyncio

    outbox = hub.border.outbox("k", 1)
    confirmed = asyncio.ensure_future(hub.publish_confirmed("k", 1))
    await asyncio.sleep(0)
    hub.publish("k", 2)
    with pytest.raises(DeliveryError):
        await confirmed
    outbox.close()
