"""Messages that are due later, as the hub sees them: nobody here gets them, and bridges do."""

import asyncio
import datetime
import time
from typing import Any

import pytest

from hubsub import Event, Hub, Key, Meta, Publisher, Unsupported

LATER = time.time() + 3600


def recorded(hub: Hub) -> list[Any]:
    messages: list[Any] = []
    hub.add_listener(
        "*", lambda key, message: messages.append((key, message)), where=lambda key, message: key[0] != "Hub"
    )
    return messages


async def test_what_is_due_later_is_for_bridges_alone() -> None:
    async with Hub() as hub:
        messages = recorded(hub)
        hub.retain("k", limit=10)
        waiting = hub.subscribe("k")
        outbox = hub.border.outbox("k", 10)
        with hub.tap("k") as tap:
            hub.publish_event(Event(Key("k"), 1, Meta(due=LATER)))
            hub.publish_with_headers("k", 2, {"n": "v"}, due=LATER)
            Publisher(hub, Key()).publish_with_headers("k", 3, {}, due=LATER)
            assert messages == []
            assert hub.history("k") == []
            assert list(tap.records) == []
        assert waiting.pending == 0
        left = outbox.take(10)
        assert [(each.message, each.meta.due, dict(each.meta.headers)) for each in left] == [  # type: ignore[union-attr]
            (1, LATER, {}),
            (2, LATER, {"n": "v"}),
            (3, LATER, {}),
        ]


async def test_a_confirmed_one_is_confirmed_by_the_bridges() -> None:
    async with Hub() as hub:
        messages = recorded(hub)
        outbox = hub.border.outbox(("k", "+"), 10)

        async def publish() -> int:
            return await Publisher(hub, "k").publish_confirmed("a", 1, due=LATER)

        publishing = asyncio.ensure_future(publish())
        await asyncio.sleep(0)
        (left,) = outbox.take(1)
        assert not publishing.done()
        left.done()  # type: ignore[union-attr]
        await publishing
        assert messages == []


@pytest.mark.parametrize("due", [0, -1.0, 1e9])
async def test_what_is_due_already_is_published_at_once(due: float) -> None:
    async with Hub() as hub:
        events: list[Event[Any]] = []
        hub.add_listener("k", events.append, event=True)
        outbox = hub.border.outbox("k", 10)
        hub.publish_event(Event(Key("k"), 1, Meta("id", due=due)))
        hub.publish_with_headers("k", 2, {}, due=due)
        assert [each.message for each in events] == [1, 2]
        assert events[0].meta == Meta("id")
        assert {each.meta.due for each in outbox.take(9) if each.meta is not None} == {None}  # type: ignore[union-attr]
    async with Hub() as hub:
        messages = recorded(hub)
        await hub.publish_confirmed("k", 3, due=due)
        assert messages == [(("k",), 3)]


async def test_without_a_bridge_it_is_an_error_and_nobody_gets_it() -> None:
    async with Hub() as hub:
        messages = recorded(hub)
        for _ in range(2):
            with pytest.raises(Unsupported, match="no bridge carries"):
                hub.publish_with_headers("k", 1, {}, due=LATER)
            with pytest.raises(Unsupported, match="this hub has no delays") as told:
                hub.publish_event(Event(Key("k"), 1, Meta(due=LATER)))
            assert told.value.feature == "delays"
            with pytest.raises(Unsupported):
                await hub.publish_confirmed("k", 1, due=LATER)
            hub.border.outbox("other", 10)
        assert messages == []


@pytest.mark.parametrize(
    "due",
    ["tomorrow", float("nan"), float("inf"), 1e300, True, datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC), b"1"],
)
async def test_what_is_no_time_is_refused(due: Any) -> None:
    async with Hub() as hub:
        messages = recorded(hub)
        hub.border.outbox("k", 10)
        with pytest.raises(ValueError, match="due is a time"):
            hub.publish_with_headers("k", 1, {}, due=due)
        with pytest.raises(ValueError, match="due is a time"):
            hub.publish_event(Event(Key("k"), 1, Meta(due=due)))
        with pytest.raises(ValueError, match="due is a time"):
            await hub.publish_confirmed("k", 1, due=due)
        assert messages == []
