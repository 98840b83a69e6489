"""Subscriptions: queues, bounds, waiting, cancelling."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsub import Event, Gap, Hub, HubClosed, Key, Meta, Overflow, SubscriptionClosed


async def settled(turns: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so; the test's own timeout is the deadline."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event to tell of it
        await asyncio.sleep(0.001)


async def test_a_subscription_is_registered_when_it_is_made(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    hub.publish("a", 1)
    assert await subscription.consume() == (("a",), 1)


async def test_iterating_gives_events_in_order_and_ends_when_closed(hub: Hub) -> None:
    subscription = hub.subscribe(("a", "*"))
    for number in range(3):
        hub.publish(("a", str(number)), number)
    subscription.close()
    events = [event async for event in subscription]
    assert events == [(("a", str(number)), number) for number in range(3)]
    assert all(type(event) is Event and type(event.key) is Key for event in events)
    with pytest.raises(SubscriptionClosed):
        await subscription.consume()


async def test_closing_wakes_whoever_waits(hub: Hub) -> None:
    subscription = hub.subscribe("a")

    async def iterate() -> list[Any]:
        return [event async for event in subscription]

    iterating, consuming = asyncio.create_task(iterate()), asyncio.create_task(subscription.consume())
    await settled()
    subscription.close()
    assert await iterating == []
    with pytest.raises(SubscriptionClosed):
        await consuming


async def test_leaving_the_block_ends_the_subscription(hub: Hub) -> None:
    with hub.subscribe("a") as one:
        async with hub.subscribe("a") as other:
            assert hub.publish("a") == 2
        assert hub.publish("a") == 1
    assert hub.publish("a") == 0
    assert one.closed
    assert other.closed


async def test_several_consumers_share_the_messages(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    tasks = [asyncio.create_task(subscription.consume()) for _ in range(3)]
    await settled()
    for number in range(3):
        hub.publish("a", number)
    assert [(await task).message for task in tasks] == [0, 1, 2]


async def test_a_cancelled_consume_loses_nothing(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    for before in range(4):
        task = asyncio.create_task(subscription.consume())
        for _ in range(before):
            await asyncio.sleep(0)
        hub.publish("a", before)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        if isinstance(done[0], asyncio.CancelledError):
            assert (await subscription.consume()).message == before
        else:
            assert done[0] == (("a",), before)
    assert subscription.pending == 0
    assert subscription.delivered == 4


async def test_a_wake_up_of_a_cancelled_consumer_goes_to_the_next(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    first, second = (asyncio.create_task(subscription.consume()) for _ in range(2))
    await settled()
    hub.publish("a", 1)
    first.cancel()
    assert (await second).message == 1


async def test_a_cancelled_step_of_an_iterator_ends_nothing(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    iterator = aiter(subscription)
    with anyio.move_on_after(0.001) as scope:
        await anext(iterator)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(iterator), 0.001)
    hub.publish("a", 1)
    assert await anext(iterator) == (("a",), 1)


async def test_a_batch_is_what_is_queued_up_to_the_maximum(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    waiting = asyncio.create_task(subscription.get_batch(10))
    await settled()
    assert not waiting.done()
    hub.publish("a", 0)
    assert await waiting == [(("a",), 0)]
    for number in range(5):
        hub.publish("a", number)
    assert [event.message for event in await subscription.get_batch(3)] == [0, 1, 2]
    assert [event.message for event in await subscription.get_batch(3)] == [3, 4]
    assert subscription.delivered == 6
    with pytest.raises(ValueError, match="at least 1"):
        await subscription.get_batch(0)
    subscription.close()
    with pytest.raises(SubscriptionClosed):
        await subscription.get_batch(1)


async def test_a_batch_keeps_metadata(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    hub.publish("a", 1)
    hub.publish_event(Event(Key("a"), 2, Meta(id="x")))
    plain, rich = await subscription.get_batch(9)
    assert plain.meta is None
    assert rich.meta == Meta(id="x")


async def test_figures_add_up_at_any_moment(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    for number in range(4):
        hub.publish("a", number)
    await subscription.consume()
    assert (subscription.accepted, subscription.delivered, subscription.pending, subscription.dropped) == (4, 1, 3, 0)
    assert subscription.peak_pending == 4
    assert subscription.maxsize == hub.maxsize == 10_000


async def test_publish_goes_past_the_bound_and_complains_once_an_episode(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = hub.subscribe("a", maxsize=10)
    for _ in range(2):
        for _ in range(50):
            hub.publish("a")
        while subscription.pending > 6:
            await subscription.consume()
        for _ in range(10):
            hub.publish("a")  # full again, but the episode goes on
        while subscription.pending:
            await subscription.consume()
    assert len(caplog.records) == 2
    assert "maxsize=10" in caplog.text
    assert subscription.peak_pending == 50


# publish_wait


async def test_publish_wait_with_room_delivers_without_yielding(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=2)
    coroutine = hub.publish_wait("a", 1)
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    assert done.value.value == 1
    assert subscription.pending == 1


async def test_publish_wait_waits_for_a_place_and_keeps_the_bound(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=2)
    publishing = [asyncio.create_task(hub.publish_wait("a", number)) for number in range(6)]
    await settled()
    received = []
    while len(received) < 6:
        assert subscription.pending <= 2
        received.append((await subscription.consume()).message)
        await settled(2)
    assert received == list(range(6))
    assert [await task for task in publishing] == [1] * 6
    assert subscription.peak_pending == 2


async def test_publish_wait_delivers_to_everyone_in_one_step_or_to_no_one(hub: Hub) -> None:
    full, roomy = hub.subscribe("a", maxsize=1), hub.subscribe("a")
    seen: list[Any] = []
    hub.add_listener("a", lambda key, message: seen.append(message))
    hub.publish("a", 0)
    publishing = asyncio.create_task(hub.publish_wait("a", 1))
    await settled()
    assert (full.pending, roomy.pending, seen) == (1, 1, [0])
    publishing.cancel()
    await settled()
    await full.consume()
    assert (full.pending, roomy.pending, seen) == (0, 1, [0])
    assert await hub.publish_wait("a", 2) == 3
    assert (full.pending, roomy.pending, seen) == (1, 2, [0, 2])


async def test_first_come_is_first_served_and_nobody_overtakes(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=1)
    hub.publish("a", "full")
    first = asyncio.create_task(hub.publish_wait("a", "first"))
    await settled()
    await subscription.consume()  # the place is the first one's now, though it has not run yet
    second = asyncio.create_task(hub.publish_wait("a", "second"))
    await settled()
    assert not second.done()
    assert [(await subscription.consume()).message for _ in range(2)] == ["first", "second"]
    await asyncio.gather(first, second)


async def test_two_publishers_over_the_same_queues_never_deadlock(hub: Hub) -> None:
    one, two = hub.subscribe(["a", "both"], maxsize=1), hub.subscribe(["both", "a"], maxsize=1)
    received: list[Any] = []

    async def read(subscription: Any, count: int) -> None:
        for _ in range(count):
            received.append((await subscription.consume()).message)
            await asyncio.sleep(0)

    async def write(key: str) -> None:
        for number in range(50):
            await hub.publish_wait(key, number)

    async with asyncio.timeout(10):
        await asyncio.gather(write("a"), write("both"), read(one, 100), read(two, 100))
    assert len(received) == 200


async def test_a_cancelled_publish_wait_gives_its_places_back(hub: Hub) -> None:
    one, two = hub.subscribe("a", maxsize=1), hub.subscribe("a", maxsize=1)
    hub.publish("a", 0)
    for turns in range(4):
        publishing = asyncio.create_task(hub.publish_wait("a", 1))
        await settled()
        await one.consume()  # its place is held, the other one is still waited for
        for _ in range(turns):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        one._mailbox.put(Key("a"), 0)
    assert one.pending == two.pending == 1
    await two.consume()
    await one.consume()
    assert await asyncio.wait_for(hub.publish_wait("a", 2), 5) == 2


async def test_publish_wait_goes_on_when_the_full_subscription_is_closed(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=1)
    hub.publish("a")
    publishing = asyncio.create_task(hub.publish_wait("a"))
    await settled()
    subscription.close()
    assert await publishing == 0


async def test_publish_wait_raises_when_the_hub_is_closed_while_it_waits() -> None:
    hub = Hub(maxsize=1)
    hub.subscribe("a")
    hub.publish("a")
    publishing = asyncio.create_task(hub.publish_wait("a"))
    await settled()
    await hub.close()
    with pytest.raises(HubClosed):
        await publishing


async def test_publish_wait_is_the_answer_to_a_slow_async_listener(hub: Hub) -> None:
    pending = []

    async def slow(key: Key[Any], message: Any) -> None:
        pending.append(listener.pending)
        await asyncio.sleep(0)

    listener = hub.add_listener("a", slow, maxsize=3)
    for number in range(50):
        await hub.publish_wait("a", number)
    await hub.close()
    assert len(pending) == 50
    assert listener.peak_pending == 3


@pytest.mark.parametrize("overflow", Overflow)
async def test_publish_wait_looks_again_when_the_last_place_is_free(hub: Hub, overflow: Overflow) -> None:
    """A plain publish may take a place meanwhile: then it is waited for again, under every policy."""
    first = hub.subscribe(["k", "first"], maxsize=1, overflow=overflow)
    last = hub.subscribe("k", maxsize=1)
    seen: list[Any] = []
    hub.add_listener("k", lambda key, message: seen.append(message))
    hub.publish("k", 0)
    await first.consume()
    publishing = asyncio.create_task(hub.publish_wait("k", 1))
    await settled()
    hub.publish("first", "in between")
    await last.consume()
    await settled()
    assert not publishing.done()
    assert (seen, first.pending, last.pending) == ([0], 1, 0)
    assert (await first.consume()).message == "in between"
    assert await publishing == 3
    assert (first.dropped, first.superseded, first.closed, first.peak_pending) == (0, 0, False, 1)
    assert [(await each.consume()).message for each in (first, last)] == [1, 1]


async def test_a_queue_that_fills_up_between_the_grant_and_the_publish_is_waited_for_again(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=1, overflow=Overflow.DROP_NEWEST)
    hub.publish("a", 0)
    publishing = asyncio.create_task(hub.publish_wait("a", 2))
    await settled()
    assert (await subscription.consume()).message == 0
    hub.publish("a", 1)  # before the one that waits gets to run
    await settled()
    assert not publishing.done()
    assert [(await subscription.consume()).message for _ in range(2)] == [1, 2]
    assert await publishing == 1
    assert subscription.dropped == 0


async def test_who_subscribes_while_it_waits_is_waited_for_too(hub: Hub) -> None:
    first = hub.subscribe("a", maxsize=1)
    hub.publish("a", 0)
    publishing = asyncio.create_task(hub.publish_wait("a", 1))
    await settled()
    second = hub.subscribe(["a", "b"], maxsize=1, overflow=Overflow.DROP_OLDEST)
    hub.publish("b", "b")
    await first.consume()
    await settled()
    assert not publishing.done()
    assert [(await second.consume()).message for _ in range(2)] == ["b", 1]
    assert await publishing == 2


async def test_nobody_overtakes_those_who_are_about_to_publish(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=3)
    for _ in range(3):
        hub.publish("a", "full")
    publishing = [asyncio.create_task(hub.publish_wait("a", number)) for number in range(2)]
    await settled()
    await subscription.get_batch(3)
    # There is room for a third one, but the first two have not run yet.
    assert await hub.publish_wait("a", 2) == 1
    assert [event.message for event in await subscription.get_batch(3)] == [0, 1, 2]
    await asyncio.gather(*publishing)


async def test_whoever_waits_for_another_queue_holds_nobody_up_where_there_is_room(hub: Hub) -> None:
    stuck, shared = hub.subscribe("a", maxsize=1), hub.subscribe(["a", "b"], maxsize=2)
    hub.publish("a", 0)
    waiting = asyncio.create_task(hub.publish_wait("a", 1))
    await settled()
    await shared.consume()
    for number in range(5):
        await asyncio.wait_for(hub.publish_wait("b", number), 5)
        assert (await shared.consume()).message == number
    assert stuck.pending == 1
    await stuck.consume()
    assert await waiting == 2


async def test_whoever_came_first_stands_first_in_every_line(hub: Hub) -> None:
    """Else each of two would have the place that the other one lacks, and both would wait for ever."""
    one, two = (hub.subscribe(["both", name], maxsize=1) for name in ("one", "two"))
    hub.publish("one", "full")
    first = asyncio.create_task(hub.publish_wait("both", 1))
    await settled()
    hub.publish("two", "full")
    second = asyncio.create_task(hub.publish_wait("both", 2))
    await settled()
    await one.consume()
    await settled()  # now the first one comes to wait for the second queue
    for expected in ("full", 1, 2):
        assert (await asyncio.wait_for(two.consume(), 5)).message == expected
        await settled()
        one.take(1)
    assert await asyncio.gather(first, second) == [2, 2]


async def test_a_confirmed_publish_waits_for_room_in_every_outbox_in_one_step(hub: Hub) -> None:
    outboxes = [hub.border.outbox(patterns, 1, name=name) for patterns, name in ((["k", "a"], "A"), (["k"], "B"))]
    hub.publish("k", 0)
    outboxes[0].take(1)
    outboxes[0].hold(0)
    publishing = asyncio.create_task(hub.publish_confirmed("k", 1))
    await settled()
    hub.publish("a", "in between")
    outboxes[1].take(1)
    outboxes[1].hold(0)
    await settled()
    assert [outbox.pending for outbox in outboxes] == [1, 0]
    assert outboxes[0].take(1)[0][1] == "in between"
    outboxes[0].hold(0)
    await settled()
    assert [outbox.pending for outbox in outboxes] == [1, 1]
    for outbox in outboxes:
        [event] = outbox.take(1)
        assert not isinstance(event, Gap)
        event.done()
    assert await publishing == 2
    assert [outbox.dropped for outbox in outboxes] == [0, 0]
    for outbox in outboxes:
        outbox.close()


async def test_a_line_of_a_loop_that_was_closed_holds_nobody_up() -> None:
    hub = Hub(maxsize=1)
    subscription = hub.subscribe("a")
    hub.publish("a", 0)

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(hub.publish_wait("a", "never"))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    await asyncio.to_thread(abandon)
    second = asyncio.create_task(hub.publish_wait("a", 1))
    await settled()
    assert [(await asyncio.wait_for(subscription.consume(), 5)).message for _ in range(2)] == [0, 1]
    assert await second == 1
    await hub.close()


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["wait", "wait", "publish", "consume", "consume", "cancel", "turn", "take", "close"]),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    st.lists(st.tuples(st.sampled_from(Overflow), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_whatever_competes_publish_wait_goes_to_everyone_in_one_step_or_to_no_one(
    script: list[tuple[str, int]], queues: list[tuple[Overflow, int]]
) -> None:
    async def run() -> None:
        hub = Hub()
        keys = [("k", str(number)) for number in range(3)]
        before: dict[Any, Any] = {}
        delivered: list[Any] = []
        waiting: dict[Any, asyncio.Task[int]] = {}

        def figures(key: Any) -> list[Any]:
            concerned = [each for each in subscriptions if each.is_on(key)]
            return [(each.dropped, each.closed) for each in concerned]

        def first(key: Key[Any], message: Any) -> None:
            before[message] = figures(key)

        def last(key: Key[Any], message: Any) -> None:
            delivered.append(message)
            if message in waiting:
                assert figures(key) == before[message]  # nothing was dropped or closed for it

        hub.add_listener(("k", "*"), first)
        subscriptions = [
            # Each queue has some of the keys.
            hub.subscribe([key for place, key in enumerate(keys) if place != number % 3], maxsize=maxsize, overflow=how)
            for number, (how, maxsize) in enumerate(queues)
        ]
        hub.add_listener(("k", "*"), last)
        for number, (step, choice) in enumerate(script):
            subscription = subscriptions[choice % len(subscriptions)]
            match step:
                case "wait":
                    waiting[number] = asyncio.create_task(hub.publish_wait(keys[choice % 3], number))
                case "publish":
                    hub.publish(keys[choice % 3], number)
                case "consume" if subscription.pending:
                    await subscription.consume()
                case "take":
                    subscription.take(choice + 1)
                case "cancel" if waiting:
                    waiting[sorted(waiting)[choice % len(waiting)]].cancel()
                case "close" if choice == 0:
                    subscription.close()
                case _:
                    await asyncio.sleep(0)
        for _ in range(len(waiting) + 1):  # whoever reads on lets everybody through
            for subscription in subscriptions:
                subscription.take(100)
            await settled(3)
        assert all(task.done() for task in waiting.values())
        done = [number for number, task in waiting.items() if not task.cancelled()]
        assert sorted(number for number in delivered if number in waiting) == sorted(done)
        for subscription in subscriptions:
            assert subscription._mailbox.line is None
            assert subscription._mailbox.room == subscription.maxsize
            assert subscription.accepted == (
                subscription.delivered + subscription.pending + subscription.dropped + subscription.superseded
            )
        await hub.close()

    asyncio.run(run())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["publish", "wait", "consume", "cancel", "turn"]), max_size=60),
    st.integers(1, 3),
)
def test_no_interleaving_of_waiting_cancelling_and_consuming_loses_or_doubles(script: list[str], maxsize: int) -> None:
    async def run() -> None:
        hub = Hub(maxsize=maxsize)
        subscription = hub.subscribe("a")
        sent: list[int] = []
        got: list[int] = []
        publishing: dict[int, asyncio.Task[int]] = {}
        consuming: list[asyncio.Task[Event[Any]]] = []
        for number, step in enumerate(script):
            match step:
                case "publish":
                    hub.publish("a", number)
                    sent.append(number)
                case "wait":
                    publishing[number] = asyncio.create_task(hub.publish_wait("a", number))
                case "consume":
                    consuming.append(asyncio.create_task(subscription.consume()))
                case "cancel" if number % 2 and consuming:
                    consuming[number % len(consuming)].cancel()
                case "cancel" if publishing:
                    publishing[sorted(publishing)[number % len(publishing)]].cancel()
                case _:
                    await asyncio.sleep(0)
        consuming += [asyncio.create_task(subscription.consume()) for _ in script]
        await settled(len(script) * 6 + 10)
        assert all(task.done() for task in publishing.values())
        sent += [number for number, task in publishing.items() if not task.cancelled()]
        got += [task.result().message for task in consuming if task.done() and not task.cancelled()]
        assert sorted(got) == sorted(sent)
        assert subscription.delivered == len(got)
        assert subscription.pending == 0
        assert subscription._mailbox.room == maxsize
        assert subscription._mailbox.line is None
        for task in consuming:
            task.cancel()
        await hub.close()

    asyncio.run(run())


# Reading at once


async def test_take_returns_what_is_queued_at_once(hub: Hub) -> None:
    subscription = hub.subscribe("a", gaps=True, maxsize=3, overflow=Overflow.DROP_NEWEST)
    assert subscription.take(5) == []
    for number in range(5):
        hub.publish("a", number)
    assert subscription.take(2) == [(("a",), 0), (("a",), 1)]
    last, gap = subscription.take(9)
    assert (last, type(gap), gap.count) == ((("a",), 2), Gap, 2)
    hub.publish_event(Event(Key("a"), 5, Meta(id="5")))
    subscription.close()
    [event] = subscription.take(1)
    assert event.meta == Meta(id="5")
    assert subscription.take(1) == []
    for nonsense in (0, -1, True, 1.5, "all"):
        with pytest.raises(ValueError, match="at least 1"):
            subscription.take(nonsense)  # type: ignore[arg-type]
    assert (subscription.accepted, subscription.delivered, subscription.dropped) == (6, 4, 2)


async def test_take_of_a_snapshot_subscription_waits_for_the_snapshot(hub: Hub) -> None:
    async def load() -> str:
        return "loaded"

    subscription = hub.subscribe("a", snapshot=load, maxsize=1, overflow=Overflow.DROP_OLDEST)
    hub.publish("a", 1)
    assert subscription.take(9) == []
    assert await subscription.consume() == ("loaded",)
    assert subscription.take(9) == [(("a",), 1)]
    hub.publish("a", 2)
    hub.publish("a", 3)
    assert subscription.take(9) == []  # it has to be loaded again
    assert await subscription.get_batch(9) == [("loaded",), (("a",), 3)]


async def test_ready_is_called_when_an_empty_queue_gets_something(hub: Hub) -> None:
    calls: list[list[Any]] = []
    subscription: Any = hub.subscribe("a", ready=lambda: calls.append([subscription.pending]))
    for number in range(3):
        hub.publish("a", number)
    hub.publish_event(Event(Key("a"), 3, Meta()))
    assert calls == [[1]]
    subscription.take(3)
    hub.publish("a", 4)
    assert calls == [[1]]
    subscription.take(9)
    hub.publish_event(Event(Key("a"), 5, Meta()))
    assert calls == [[1], [1]]
    subscription.close()
    assert len(calls) == 2


@pytest.mark.parametrize("overflow", Overflow)
async def test_whoever_is_called_as_ready_may_do_anything_to_the_queue(hub: Hub, overflow: Overflow) -> None:
    read: list[Any] = []
    subscription: Any = None

    def ready() -> None:
        if subscription is not None:
            taken = subscription.take(9)
            read.extend(message for _, message in taken)
            if read[-1] == 1:
                hub.publish("a", 2)  # which calls it once more
            elif read[-1] == 3:
                subscription.close()

    subscription = hub.subscribe("a", ready=ready, maxsize=1, overflow=overflow)
    hub.publish("a", 1)
    hub.publish("a", 3)
    hub.publish("a", 4)
    assert read == [1, 2, 3]
    assert (subscription.accepted, subscription.delivered, subscription.pending) == (3, 3, 0)


async def test_ready_is_called_for_a_replay_and_for_a_gap(hub: Hub) -> None:
    hub.retain("a")
    hub.publish("a", 1)
    calls: list[int] = []
    with hub.subscribe("a", history=1, ready=lambda: calls.append(1)) as subscription:
        assert calls == [1]
        assert len(subscription.take(9)) == 1
    with hub.subscribe("a", gaps=True, ready=lambda: calls.append(2)) as with_gaps:
        hub.border.report_gap("a", Gap("lost", 1, 0.0, 0.0, None))
        assert calls == [1, 2]
        assert with_gaps.take(9) == [Gap("lost", 1, 0.0, 0.0, None)]


async def test_what_ready_raises_concerns_it_alone(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    async def forgotten() -> None: ...

    for ready in (lambda: 1 / 0, lambda: forgotten()):
        caplog.clear()
        with hub.subscribe("a", ready=ready) as subscription:
            assert hub.publish("a", 1) == 1
            assert subscription.pending == 1
        assert "ready= of" in caplog.text
    for nonsense in (forgotten, 5, lambda key, message: None):
        with pytest.raises((TypeError, ValueError), match="ready"):
            hub.subscribe("a", ready=nonsense)  # type: ignore[arg-type]


# Live patterns


async def test_patterns_come_and_go_while_the_queue_stays(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    hub.publish("a", 1)
    subscription.add(["b", ("c", "*")])
    subscription.add("b")  # it has that one
    for key in ("a", "b", ("c", "x")):
        assert hub.publish(key, key) == 1
    subscription.discard(["a", "never had"])
    assert hub.publish("a") == 0
    assert subscription.patterns == (("b",), ("c", "*"))
    assert [message for _, message in subscription.take(9)] == [1, "a", "b", ("c", "x")]
    assert (subscription.accepted, subscription.delivered, subscription.closed) == (4, 4, False)


async def test_a_subscription_without_patterns_stays_open(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    waiting = asyncio.create_task(subscription.consume())
    await settled()
    subscription.discard("a")
    assert not subscription.closed
    assert not hub.has_subscribers()
    assert subscription in hub.subscriptions()
    subscription.add("b")
    hub.publish("b", 1)
    assert (await waiting).message == 1
    subscription.discard("b")
    subscription.close()
    assert subscription.closed
    assert subscription not in hub.subscriptions()
    subscription.discard("b")
    with pytest.raises(SubscriptionClosed):
        subscription.add("a")
    with pytest.raises(SubscriptionClosed):
        await subscription.consume()


async def test_an_added_pattern_replays_what_the_others_do_not_match(hub: Hub) -> None:
    hub.retain(("a", "*"), limit=3)
    for name in "xy":
        hub.publish(("a", name), name)
    subscription = hub.subscribe(("a", "x"), history=3)
    subscription.add(("a", "*"), history=3)
    assert [message for _, message in subscription.take(9)] == ["x", "y"]
    with pytest.raises(ValueError, match="history"):
        subscription.add("b", history=-1)
    assert subscription.patterns == (("a", "x"), ("a", "*"))


async def test_what_is_discarded_during_a_publish_gets_nothing_more_of_it(hub: Hub) -> None:
    hub.add_listener("a", lambda key, message: subscription.discard("a"))
    subscription = hub.subscribe(["a", "b"])
    hub.publish("a", 1)
    hub.publish("b", 2)
    assert [message for _, message in subscription.take(9)] == [2]
    assert (subscription.accepted, subscription.delivered) == (1, 1)


async def test_every_handle_is_a_context_manager_and_can_be_awaited(hub: Hub) -> None:
    async def listen(key: Key[Any], message: Any) -> None: ...

    def handles() -> list[Any]:
        return [
            hub.subscribe("a"),
            hub.add_listener("a", lambda key, message: None),
            hub.add_listener("a", listen),
            hub.retain("a"),
            hub.tap("a"),
        ]

    for handle in handles():
        with handle as entered:
            assert entered is handle
        assert handle.closed
    for handle in handles():
        async with handle:
            assert not handle.closed
        assert handle.closed
        await (handle.remove() if hasattr(handle, "remove") else handle.close())


async def test_what_is_shown_of_a_registration_names_its_function_its_state_and_its_figures(hub: Hub) -> None:
    def listen(key: Key[Any], message: Any) -> None:
        raise ValueError

    listener = hub.add_listener(("a", "*"), listen)
    subscription = hub.subscribe(["b", "c"], maxsize=1, overflow=Overflow.DROP_NEWEST)
    hub.publish(("a", "x"))
    for _ in range(3):
        hub.publish("b")
    assert repr(listener) == f"<Listener {listen.__qualname__} on ('a', '*') failed=1>"
    assert repr(subscription) == "<Subscription ('b',), ('c',) pending=1 dropped=2>"
    subscription.discard(["b", "c"])
    subscription.take(1)
    subscription.close()
    assert repr(subscription) == "<Subscription on nothing dropped=2 closed>"


async def test_what_a_listener_publishes_inside_publish_wait_may_take_its_room(hub: Hub) -> None:
    hub.add_listener("a", lambda key, message: hub.publish("b", "inner"))
    queue = hub.subscribe(["a", "b"], maxsize=1, overflow=Overflow.DROP_NEWEST)
    assert await hub.publish_wait("a", "outer") == 2
    assert [message for _, message in queue.take(9)] == ["inner"]
    assert queue.dropped == 1
