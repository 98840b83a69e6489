"""What a hub keeps for late subscribers."""

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_delivery import under_x
from test_key import KEYS, PATTERNS, naive
from test_queue import settled

from hubsub import (
    Event,
    HistoryUnavailable,
    Hub,
    InvalidListener,
    Key,
    Meta,
    Overflow,
    Retention,
    Snapshot,
    SnapshotSubscription,
    Subscriber,
    UnknownSubscription,
)


def messages(events: list[Event[Any]]) -> list[Any]:
    return [event.message for event in events]


async def read(subscription: Any) -> list[Any]:
    """Everything that can be read without waiting."""
    return [event.message for event in await subscription.get_batch(1000)] if subscription.pending else []


async def test_a_late_subscriber_gets_the_last_messages_of_each_key_oldest_first(hub: Hub) -> None:
    hub.retain(("a", "*"), limit=3)
    for number in range(10):
        hub.publish(("a", "xyz"[number % 3]), number)
    for most, expected in ((1, [7, 8, 9]), (2, [4, 5, 6, 7, 8, 9]), (9, [1, 2, 3, 4, 5, 6, 7, 8, 9])):
        subscription = hub.subscribe(("a", "*"), history=most)
        hub.publish(("b",), "not for it")
        assert await read(subscription) == expected
        assert subscription.accepted == subscription.delivered == len(expected)
        subscription.close()
    subscription = hub.subscribe(("a", "y"), history=1)
    hub.publish(("a", "y"), "live")
    assert await read(subscription) == [7, "live"]


async def test_history_is_not_for_others(hub: Hub) -> None:
    hub.retain("a")
    hub.publish("a", 1)
    other = hub.subscribe("a")
    hub.subscribe("a", history=1)
    assert other.pending == 0


async def test_what_is_published_while_it_is_announced_comes_after_the_replay(hub: Hub) -> None:
    hub.retain("a", limit=10)
    hub.publish("a", 1)
    hub.add_listener(("Hub", "addedSubscriber", "a"), lambda key, message: hub.publish("a", 2))
    assert await read(hub.subscribe("a", history=10)) == [1, 2]


async def test_publishing_and_subscribing_from_inside_a_replayed_delivery(hub: Hub) -> None:
    hub.retain("a", limit=10)
    hub.publish("a", 1)
    subscription = hub.subscribe("a", history=10)
    first = await subscription.consume()
    hub.publish("a", first.message + 1)
    second = hub.subscribe("a", history=10)
    hub.publish("a", 3)
    assert await read(subscription) == [2, 3]
    assert await read(second) == [1, 2, 3]


def test_a_message_is_retained_before_it_is_delivered() -> None:
    hub = Hub()
    seen: list[Any] = []
    hub.add_listener("a", lambda key, message: seen.append(hub.last("a")))
    hub.retain("a")
    assert hub.publish("a", 1) == 1
    assert hub.publish_event(Event(Key("a"), 2, Meta(id="2"))) == 1
    assert messages(seen) == [1, 2]
    assert seen[1].meta is not None
    assert (seen[1].meta.id, seen[1].meta.source) == ("2", None)


def test_a_retention_is_no_subscription() -> None:
    hub = Hub()
    hub.publish("a", "before")
    with hub.retain("*") as retention:
        assert hub.publish("a", 1) == 0
        assert not hub.has_subscribers()
        assert hub.patterns() == {}
        stats = hub.stats()
        assert (stats.subscriptions, stats.published, stats.routed, stats.retained_keys) == (0, 2, 0, 1)
        assert repr(retention) == "<Retention ('*',) limit=1>"
    assert hub.stats().retained_keys == 0


async def test_a_replay_larger_than_the_bound_is_outside_of_it(hub: Hub) -> None:
    hub.retain(("a", "*"))
    for number in range(100):
        hub.publish(("a", str(number)), number)
    for overflow in Overflow:
        subscription = hub.subscribe(("a", "*"), history=1, maxsize=2, overflow=overflow)
        assert subscription.pending == 100
        hub.publish(("a", "0"), 0)
        hub.publish(("a", "1"), 1)
        assert subscription.dropped == 0
        assert len(await read(subscription)) == 102
        subscription.close()


def test_overlapping_retentions_keep_the_largest_limit() -> None:
    hub = Hub()
    wide, narrow = hub.retain(("a", "*"), limit=2), hub.retain(("a", "x"), limit=4)
    for number in range(6):
        hub.publish(("a", "x"), number)
        hub.publish(("a", "y"), number)
    assert messages(hub.history(("a", "x"))) == [2, 3, 4, 5]
    assert messages(hub.history(("a", "y"))) == [4, 5]
    narrow.close()
    assert messages(hub.history(("a", "x"))) == [4, 5]
    narrow.close()
    wide.close()
    with pytest.raises(HistoryUnavailable):
        hub.history(("a", "x"))


def test_a_larger_limit_keeps_what_a_smaller_one_had() -> None:
    hub = Hub()
    hub.retain("a")
    hub.publish("a", 1)
    hub.retain("a", limit=3)
    hub.publish("a", 2)
    assert messages(hub.history("a")) == [1, 2]
    assert messages(hub.history("a", 1)) == [2]


def test_closing_a_retention_forgets_what_no_other_keeps() -> None:
    hub = Hub()
    with hub.retain(("a", "*")), hub.retain(("b", "*")):
        hub.publish(("a", "x"))
        hub.publish(("b", "x"))
    assert hub.stats().retained_keys == 0
    hub.publish(("a", "x"))
    assert hub.stats().retained_keys == 0


def test_beyond_max_keys_the_key_that_was_silent_longest_goes() -> None:
    hub = Hub()
    hub.retain(("a", "*"), max_keys=2)
    for name in "xyxz":
        hub.publish(("a", name), name)
    assert messages(hub.history(("a", "*"))) == ["x", "z"]
    hub.retain(("a", "y"))
    hub.publish(("a", "y"), "kept by another")
    hub.publish(("a", "v"), "v")
    hub.publish(("a", "w"), "w")
    assert messages(hub.history(("a", "*"))) == ["kept by another", "v", "w"]


def test_what_is_too_old_is_not_replayed_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    from hubsub._core import history as module

    clock = [1000.0]
    monkeypatch.setattr(module, "now", lambda: clock[0])
    hub = Hub()
    hub.retain(("a", "*"), limit=5, max_age=10)
    hub.publish(("a", "x"), 1)
    hub.publish(("a", "y"), 1)
    clock[0] += 6
    hub.publish(("a", "x"), 2)
    clock[0] += 6
    assert messages(hub.history(("a", "*"))) == [2]
    assert hub.last(("a", "y")) is None
    hub.publish(("a", "z"), 3)
    assert hub.stats().retained_keys == 2
    clock[0] += 60
    hub.publish(("a", "z"), 4)
    assert hub.stats().retained_keys == 1


async def test_a_replay_is_filtered_as_live_messages_are(hub: Hub) -> None:
    hub.retain("a", limit=9)
    for number in range(4):
        hub.publish("a", number)
    subscription = hub.subscribe("a", history=9, where=lambda key, message: message % 2)
    hub.publish("a", 4)
    hub.publish("a", 5)
    assert await read(subscription) == [1, 3, 5]
    assert subscription.accepted == 3


async def test_an_added_pattern_replays_only_what_the_others_did_not_match(hub: Hub) -> None:
    hub.retain(("a", "*"), limit=5)
    subscriber = Subscriber(hub, "s")
    hub.publish(("a", "x"), "x")
    hub.publish(("a", "y"), "y")
    subscription = subscriber.subscribe(("a", "x"), history=5)
    assert subscriber.subscribe(("a", "*"), history=5) is subscription
    assert [await subscriber.consume() for _ in range(2)] == [(("a", "x"), "x"), (("a", "y"), "y")]
    assert subscription.pending == 0
    subscriber.close()


async def test_a_sleeping_consumer_is_woken_by_the_replay_of_an_added_pattern(hub: Hub) -> None:
    hub.retain("b")
    hub.publish("b", 1)
    subscriber = Subscriber(hub, "s")
    subscriber.subscribe("a")
    waiting = asyncio.create_task(subscriber.consume())
    await settled()
    subscriber.subscribe("b", history=1)
    assert await asyncio.wait_for(waiting, 5) == (("b",), 1)
    subscriber.close()


def test_history_of_what_nothing_retains_is_an_error() -> None:
    hub = Hub()
    hub.retain(("a", "*"))
    with pytest.raises(HistoryUnavailable, match=r"hub\.retain") as caught:
        hub.subscribe([("a", "x"), "b"], history=1)
    assert caught.value.pattern == ("b",)
    with pytest.raises(HistoryUnavailable):
        Subscriber(hub, "s").subscribe("b", history=1)
    with pytest.raises(HistoryUnavailable):
        hub.last("b")
    assert hub.last(("a", "never published")) is None
    assert hub.patterns() == {}


@pytest.mark.parametrize("options", [{"limit": 0}, {"max_keys": 0}, {"max_age": 0}, {"max_age": -1}, {"limit": 1.5}])
def test_nonsense_bounds_are_refused(options: dict[str, Any]) -> None:
    hub = Hub()
    with pytest.raises(ValueError, match=next(iter(options))):
        hub.retain("a", **options)
    hub.retain("a")
    for nonsense in (-1, 1.5):
        with pytest.raises(ValueError, match="history"):
            hub.subscribe("a", history=nonsense)  # type: ignore[call-overload]


def test_what_is_retained_has_a_name_a_position_and_says_that_it_is_replayed() -> None:
    hub = Hub()
    hub.retain(("a", "*"), limit=9)
    hub.publish(("a", "x"), 1)
    hub.publish_event(Event(Key("a", "y"), 2, Meta(headers={"h": "1"})))
    hub.publish_event(Event(Key("a", "x"), 3, Meta(id="7", source="elsewhere", time=5.0, position="0:17", hops=1)))
    events = hub.history(("a", "*"))
    metas = [event.meta for event in events if event.meta is not None]
    assert [meta.replayed for meta in metas] == [True] * 3
    positions: list[Any] = [meta.position for meta in metas]
    assert positions == sorted(set(positions))
    assert [meta.source for meta in metas] == [hub.border.origin] * 2 + ["elsewhere"]
    assert len({(meta.source, meta.id) for meta in metas}) == 3
    assert (metas[1].headers, metas[2].id, metas[2].time, metas[2].hops) == ({"h": "1"}, "7", 5.0, 1)
    assert all(meta.time is not None for meta in metas)
    assert [event.meta for event in hub.history(("a", "*"))] == metas  # the same each time
    last = hub.last(("a", "x"))
    assert last is not None
    assert last.meta == metas[2]


async def test_a_replay_tells_what_it_is_and_live_messages_do_not(hub: Hub) -> None:
    hub.retain("a")
    hub.publish("a", 1)
    subscription = hub.subscribe("a", history=1)
    hub.publish("a", 2)
    replayed, live = await subscription.get_batch(9)
    assert replayed.meta is not None
    assert replayed.meta.replayed
    assert live.meta is None


def test_history_goes_on_after_a_position() -> None:
    hub = Hub()
    hub.retain(("a", "*"), limit=3)
    for number in range(6):
        hub.publish(("a", "xy"[number % 2]), number)
    events = hub.history(("a", "*"))
    for place, event in enumerate(events):
        assert event.meta is not None
        assert messages(hub.history(("a", "*"), after=event.meta.position)) == messages(events[place + 1 :])  # type: ignore[arg-type]
    assert messages(hub.history(("a", "x"), 1, after=events[0].meta.position)) == [4]  # type: ignore[union-attr,arg-type]
    for nonsense in (-1, True, "1", 1.5):
        with pytest.raises(ValueError, match="after"):
            hub.history(("a", "*"), after=nonsense)  # type: ignore[arg-type]


def test_what_is_forgotten_is_gone_and_what_comes_is_retained_again() -> None:
    hub = Hub()
    hub.retain(("a", "*"), limit=2)
    hub.retain(("a", "x"), limit=5, max_keys=3)
    for name in "xxyz":
        hub.publish(("a", name), name)
    assert hub.forget(("a", "x")) == 2
    assert hub.forget(("a", "x")) == 0
    assert hub.last(("a", "x")) is None
    assert messages(hub.history(("a", "*"))) == ["y", "z"]
    hub.publish(("a", "x"), "again")
    assert messages(hub.history(("a", "x"))) == ["again"]
    assert hub.forget([("a", "*"), "never retained"]) == 3
    assert hub.stats().retained_keys == 0


async def test_what_is_retained_survives_the_close_of_the_hub() -> None:
    hub = Hub()
    hub.retain("a")
    async with hub:
        hub.publish("a", 1)
    last = hub.last("a")
    assert last is not None
    assert last.message == 1


def test_announcements_are_not_retained() -> None:
    hub = Hub()
    hub.retain("*", limit=9)
    hub.subscribe("a").close()
    hub.publish(("Hub", "anything"))
    assert hub.stats().retained_keys == 0


async def test_a_cancelled_read_of_a_replay_loses_nothing(hub: Hub) -> None:
    hub.retain("a", limit=9)
    for number in range(3):
        hub.publish("a", number)
    subscription = hub.subscribe("a", history=9)
    for expected in range(3):
        task = asyncio.create_task(subscription.consume())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await subscription.consume()).message == expected


@pytest.mark.parametrize("history", [-1, True, 1.5, "all"])
async def test_a_history_that_makes_no_sense_leaves_nothing_half_done(hub: Hub, history: Any) -> None:
    hub.retain("a")
    subscriber = Subscriber(hub, "s")
    for subscribe in (hub.subscribe, subscriber.subscribe):
        with pytest.raises(ValueError, match="history"):
            subscribe("a", history=history)  # type: ignore[operator]
    assert hub.patterns() == {}
    with pytest.raises(UnknownSubscription):
        subscriber.consume()
    subscription = subscriber.subscribe("b")
    with pytest.raises(ValueError, match="history"):
        subscriber.subscribe("a", history=history)
    assert subscription.patterns == (("b",),)


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
async def test_what_where_raises_in_a_replay_is_a_failure_of_that_subscription(
    hub: Hub, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    hub.retain("a", limit=9)
    for number in range(4):
        hub.publish("a", number)

    def where(key: Key[Any], message: int) -> bool:
        if message == 1:
            raise kind("one")
        return message != 2

    subscription = hub.subscribe("a", history=9, where=where)
    assert await read(subscription) == [0, 3]
    assert (subscription.accepted, subscription.filtered, subscription.delivered) == (2, 2, 2)
    assert "one" in caplog.text


async def test_an_interrupt_of_where_in_a_replay_passes_and_leaves_nothing_half_done(hub: Hub) -> None:
    hub.retain("a")
    hub.publish("a", 1)

    def where(key: Key[Any], message: int) -> bool:
        raise KeyboardInterrupt

    subscriber = Subscriber(hub, "s")
    with pytest.raises(KeyboardInterrupt):
        hub.subscribe("a", history=1, where=where)
    assert hub.patterns() == {}
    assert not subscriber._subscriptions


async def test_what_where_publishes_in_a_replay_comes_after_the_replay(hub: Hub) -> None:
    hub.retain("a", limit=9)
    for number in range(3):
        hub.publish("a", number)

    def where(key: Key[Any], message: int) -> bool:
        if message < 10:
            hub.publish("a", message + 10)
        return True

    subscription = hub.subscribe("a", history=9, where=where)
    assert await read(subscription) == [0, 1, 2, 10, 11, 12]


async def test_a_replay_wakes_as_many_consumers_as_there_are_messages(hub: Hub) -> None:
    hub.retain(("b", "*"), limit=9)
    for number in range(3):
        hub.publish(("b", str(number)), number)
    subscriber = Subscriber(hub, "s")
    subscriber.subscribe("a")
    waiting = [asyncio.create_task(subscriber.consume()) for _ in range(4)]
    await settled()
    subscriber.subscribe(("b", "*"), history=1)
    assert [(await asyncio.wait_for(task, 5))[1] for task in waiting[:3]] == [0, 1, 2]
    assert not waiting[3].done()
    await subscriber.close()


async def test_a_consumer_that_is_cut_as_a_replay_wakes_it_passes_its_turn_on(hub: Hub) -> None:
    hub.retain("b")
    hub.publish("b", 1)
    subscriber = Subscriber(hub, "s")
    subscriber.subscribe("a")
    first, second = (asyncio.create_task(subscriber.consume()) for _ in range(2))
    await settled()
    subscriber.subscribe("b", history=1)
    first.cancel()
    assert (await asyncio.wait_for(second, 5))[1] == 1
    await subscriber.close()


# Listeners with a history


@pytest.mark.parametrize("kind", ["plain", "async", "concurrent"])
async def test_a_listener_begins_with_a_history(hub: Hub, kind: str) -> None:
    hub.retain(("a", "*"), limit=3)
    for number in range(8):
        hub.publish(("a", "xy"[number % 2]), number)
    seen: list[Any] = []

    def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    async def listen_async(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        seen.append(message)

    options: Any = {"plain": {}, "async": {"maxsize": 1}, "concurrent": {"concurrency": 2}}[kind]
    function: Any = listen if kind == "plain" else listen_async
    listener = hub.add_listener(("a", "*"), function, history=2, where=lambda key, message: message != 5, **options)
    hub.publish(("a", "x"), "live")
    await settled(20)
    assert seen == [4, 6, 7, "live"]
    assert (listener.accepted, listener.delivered, listener.filtered, listener.pending) == (4, 4, 1, 0)
    hub.publish(("a", "y"), "more")
    await settled(10)
    assert seen[4:] == ["more"]


async def test_what_a_listener_publishes_while_it_gets_its_history_comes_after_that(hub: Hub) -> None:
    hub.retain("a", limit=9)
    for number in range(3):
        hub.publish("a", number)
    seen: list[Any] = []

    def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)
        if message < 20:
            hub.publish("a", message + 10)

    listener = hub.add_listener("a", listen, history=9)
    assert seen == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    hub.publish("a", 30)
    assert seen[9:] == [30]
    assert listener.accepted == listener.delivered == 10


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_listener_for_one_message_gets_the_first_of_its_history(hub: Hub, asynchronous: bool) -> None:
    hub.retain("a", limit=9)
    for number in range(3):
        hub.publish("a", number)
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    function: Any = listen if asynchronous else lambda key, message: seen.append(message)
    listener = hub.add_listener("a", function, history=9, once=True)
    await settled()
    assert hub.publish("a", 3) == 0
    assert (seen, listener.closed, listener.accepted, listener.delivered) == ([0], True, 1, 1)


async def test_a_listener_that_fails_or_is_removed_in_its_history(hub: Hub) -> None:
    hub.retain("a", limit=9)
    for number in range(4):
        hub.publish("a", number)
    seen: list[Any] = []

    def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)
        if message == 0:
            raise ValueError
        if message == 2:
            hub.publish("a", "missed")
            [registration] = hub.subscriptions()
            registration.remove()  # type: ignore[union-attr]

    listener = hub.add_listener("a", listen, history=9)
    assert seen == [0, 1, 2]
    assert (listener.closed, listener.failed, listener.accepted, listener.delivered) == (True, 1, 3, 3)
    with pytest.raises(InvalidListener, match="history"):
        hub.respond("a", listen, history=1)  # type: ignore[call-arg]
    with pytest.raises(HistoryUnavailable):
        hub.add_listener("b", listen, history=1)


# Snapshots


class Loader:
    """Loads numbers in turn; `gate` holds it up."""

    def __init__(self) -> None:
        self.loads = 0
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.loads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return f"load {self.loads}"


async def test_a_snapshot_is_read_first(hub: Hub) -> None:
    subscription = hub.subscribe("a", snapshot=Loader())
    hub.publish("a", 1)
    hub.publish("a", 2)
    subscription.close()
    read = [event async for event in subscription]
    assert read == [Snapshot("load 1"), (("a",), 1), (("a",), 2)]
    assert isinstance(read[0], Snapshot)
    assert subscription.delivered == 2


async def test_a_snapshot_takes_the_place_of_a_gap(hub: Hub) -> None:
    load = Loader()
    for overflow, expected in (
        (Overflow.DROP_OLDEST, ["load 1", "load 2", 4, 5]),
        (Overflow.DROP_NEWEST, ["load 1", 0, 1, "load 2"]),
    ):
        load.loads = 0
        subscription = hub.subscribe("a", snapshot=load, maxsize=2, overflow=overflow)
        read: list[Any] = [await subscription.consume()]
        for number in range(6):
            hub.publish("a", number)
        batch = await subscription.get_batch(9)
        read += batch
        if len(read) < len(expected):
            read += await subscription.get_batch(9)
        assert [event.value if isinstance(event, Snapshot) else event.message for event in read] == expected
        subscription.close()


async def test_gaps_from_before_the_first_read_are_replaced_too(hub: Hub) -> None:
    load = Loader()
    subscription = hub.subscribe("a", snapshot=load, maxsize=1, overflow=Overflow.DROP_OLDEST)
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert await subscription.get_batch(9) == [Snapshot("load 1"), (("a",), 2)]
    assert load.loads == 1


@pytest.mark.parametrize("overflow", [Overflow.GROW, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST])
async def test_what_overflows_while_loading_is_discarded_and_loaded_again(
    hub: Hub, overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotSubscription, "PAUSES", (0, 0))
    load = Loader()
    load.gate = asyncio.Event()
    subscription = hub.subscribe(("a", "*"), snapshot=load, maxsize=2, overflow=overflow)
    reading = asyncio.create_task(subscription.consume())
    await settled()
    for number in range(3):
        hub.publish(("a", str(number)), number)
    load.gate.set()
    assert await reading == Snapshot("load 2")
    assert subscription.pending == 0
    assert subscription.dropped == 3
    hub.publish(("a", "x"), "x")
    assert (await subscription.get_batch(9)) == [(("a", "x"), "x")]


@pytest.mark.parametrize("overflow", [Overflow.GROW, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST])
async def test_a_load_that_is_slower_than_the_queue_fills_is_read_all_the_same(
    hub: Hub, overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotSubscription, "PAUSES", (0, 0))
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        for number in range(5):  # more than there is room for
            hub.publish(("a", str(number)), (loads, number))
            await asyncio.sleep(0)
        return loads

    subscription = hub.subscribe(("a", "*"), snapshot=load, maxsize=2, overflow=overflow)
    read: list[Any] = [await asyncio.wait_for(subscription.consume(), 5) for _ in range(4)]
    assert read[0] == Snapshot(2)
    snapshots = [each.value for each in read if isinstance(each, Snapshot)]
    match overflow:
        case Overflow.GROW:  # nothing is missing
            assert [each.message for each in read[1:]] == [(2, number) for number in range(3)]
        case Overflow.DROP_NEWEST:  # what is missing comes after what is there
            assert [each.message for each in read[1:3]] == [(2, 0), (2, 1)]
            assert snapshots == [2, 4]
        case _:
            assert snapshots == [2, 4, 6, 8]
    assert subscription.accepted == (
        subscription.delivered + subscription.pending + subscription.dropped + subscription.superseded
    )


async def test_a_cancelled_or_failed_load_is_repeated_by_the_next_read(hub: Hub) -> None:
    load = Loader()
    load.gate = asyncio.Event()
    subscription = hub.subscribe("a", snapshot=load)
    iterator = aiter(subscription)
    for before in range(3):
        reading = asyncio.ensure_future(anext(iterator))
        await settled(before)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    load.gate.set()
    load.error = ConnectionError("no database")
    with pytest.raises(ConnectionError):
        await anext(iterator)
    load.error = None
    hub.publish("a", 1)
    assert isinstance(await anext(iterator), Snapshot)
    assert await anext(iterator) == (("a",), 1)


async def test_several_consumers_load_once(hub: Hub) -> None:
    load = Loader()
    load.gate = asyncio.Event()
    subscription = hub.subscribe("a", snapshot=load)
    readers = [asyncio.create_task(subscription.consume()) for _ in range(3)]
    await settled()
    hub.publish("a", 1)
    hub.publish("a", 2)
    load.gate.set()
    assert await asyncio.gather(*readers) == [Snapshot("load 1"), (("a",), 1), (("a",), 2)]
    assert load.loads == 1


async def test_a_snapshot_excludes_history_and_gaps(hub: Hub) -> None:
    hub.retain("a")
    for options in ({"history": 1}, {"gaps": True}):
        with pytest.raises(ValueError, match="choose one"):
            hub.subscribe("a", snapshot=Loader(), **options)  # type: ignore[call-overload]
    assert not hub.has_subscribers()


class HistoryMachine(RuleBasedStateMachine):
    """Retentions come and go; a list of everything published is the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(route_cache=3)
        self.retentions: dict[Retention, list[tuple[str, ...]]] = {}
        self.log: dict[tuple[str, ...], list[int]] = {}
        self.number = 0

    def limit(self, key: tuple[str, ...]) -> int:
        limits = (r.limit for r, patterns in self.retentions.items() if any(naive(p, key) for p in patterns))
        return max(limits, default=0)

    @rule(patterns=st.lists(under_x(PATTERNS), min_size=1, max_size=2), limit=st.integers(1, 3))
    def retain(self, patterns: list[tuple[str, ...]], limit: int) -> None:
        self.retentions[self.hub.retain(list(patterns), limit)] = patterns

    @precondition(lambda self: self.retentions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        retention = data.draw(st.sampled_from(sorted(self.retentions, key=id)))
        retention.close()
        del self.retentions[retention]
        self.forget()

    @rule(key=under_x(KEYS))
    def publish(self, key: tuple[str, ...]) -> None:
        self.number += 1
        self.hub.publish(key, self.number)
        self.log.setdefault(key, []).append(self.number)
        self.forget()

    def forget(self) -> None:
        for key, numbers in self.log.items():
            limit = self.limit(key)
            self.log[key] = numbers[-limit:] if limit else []

    @invariant()
    def what_is_kept_is_what_should_be(self) -> None:
        expected = {key: numbers for key, numbers in self.log.items() if numbers}
        assert self.hub.stats().retained_keys == len(expected)
        for key, numbers in expected.items():
            assert messages(self.hub.history(key)) == numbers

    @rule(pattern=under_x(PATTERNS), most=st.integers(1, 4))
    def replay(self, pattern: tuple[str, ...], most: int) -> None:
        expected = sorted(n for key, numbers in self.log.items() if naive(pattern, key) for n in numbers[-most:])
        try:
            subscription = self.hub.subscribe(pattern, history=most)
        except HistoryUnavailable:
            assert expected == []
        else:
            assert messages(list(subscription._mailbox._replay)) == expected
            subscription.close()


TestHistoryMachine = HistoryMachine.TestCase
TestHistoryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
