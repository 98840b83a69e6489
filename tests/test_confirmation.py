"""publish_confirmed: who has finished with a message, and who has not."""

import asyncio
import copy
import gc
import pickle
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import anyio
import pytest
from test_queue import settled

from hubsub import (
    ConfirmationTimeout,
    DeliveryError,
    Event,
    Hub,
    HubClosed,
    InvalidFunction,
    Key,
    Meta,
    Overflow,
    Publisher,
    Retry,
    Snapshot,
    Undelivered,
    WaitingForItself,
)


async def failing(coroutine: Any) -> list[str]:
    """Await a confirmed publish that fails; return why, for each failure."""
    with pytest.raises(DeliveryError) as caught:
        await coroutine
    assert all(isinstance(failure, Undelivered) for failure in caught.value.exceptions)
    return [failure.why for failure in caught.value.exceptions]


async def test_with_nobody_there_none_has_finished(hub: Hub) -> None:
    assert await hub.publish_confirmed("a") == 0


async def test_a_sync_listener_has_finished_when_it_returns(hub: Hub) -> None:
    seen: list[Any] = []
    hub.add_listener("a", lambda key, message: seen.append(message))
    hub.add_listener("a", seen.append, event=True)
    assert await hub.publish_confirmed("a", 1) == 2
    assert seen == [1, (("a",), 1)]


async def test_an_async_listener_has_finished_when_its_call_returns(hub: Hub) -> None:
    gate = asyncio.Event()

    @hub.on("a")
    async def slow(key: Key[Any], message: Any) -> None:
        await gate.wait()

    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    await settled()
    assert not publishing.done()
    gate.set()
    assert await publishing == 1


async def test_what_listeners_raise_is_named_in_the_group(hub: Hub) -> None:
    async def broken(key: Key[Any], message: Any) -> None:
        raise ValueError("async")

    one = hub.add_listener("a", lambda key, message: 1 / 0)
    two = hub.add_listener("a", broken)
    hub.add_listener("a", lambda key, message: None)
    with pytest.raises(DeliveryError) as caught:
        await hub.publish_confirmed("a")
    group = caught.value
    assert group.finished == 1
    assert [failure.registration for failure in group.exceptions] == [one, two]  # type: ignore[union-attr]
    assert [type(failure.__cause__) for failure in group.exceptions] == [ZeroDivisionError, ValueError]
    part, _ = group.split(lambda failure: getattr(failure, "registration", None) is one)
    assert isinstance(part, DeliveryError)


async def test_a_consumer_has_finished_when_it_asks_its_own_iterator_for_the_next(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    iterator = aiter(subscription)
    publishing = asyncio.create_task(hub.publish_confirmed("a", 1))
    assert await anext(iterator) == (("a",), 1)
    await settled()
    assert not publishing.done()
    asking = asyncio.create_task(anext(iterator))  # type: ignore[arg-type]
    assert await publishing == 1
    asking.cancel()


async def test_two_workers_on_one_subscription_do_not_confirm_each_others_messages(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    first, second = aiter(subscription), aiter(subscription)
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(3)]
    await settled()
    assert [(await anext(worker)).message for worker in (first, second, second)] == [0, 1, 2]
    await settled()
    assert [task.done() for task in publishing] == [False, True, False]
    subscription.__exit__(None, None, None)
    assert [await task for task in publishing] == [1, 1, 1]


async def test_two_workers_over_one_snapshot_subscription_do_not_confirm_each_others_messages(hub: Hub) -> None:
    async def load() -> int:
        return 0

    subscription = hub.subscribe("a", snapshot=load)
    first, second = aiter(subscription), aiter(subscription)
    assert await anext(first) == Snapshot(0)
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(3)]
    await settled()
    for worker, expected in ((first, 0), (second, 1), (second, 2)):
        assert await anext(worker) == (("a",), expected)
    await settled()
    assert [task.done() for task in publishing] == [False, True, False]
    with subscription:
        pass
    assert [await task for task in publishing] == [1, 1, 1]


@pytest.mark.parametrize("batches", [False, True])
async def test_two_tasks_that_consume_do_not_confirm_each_others_messages(hub: Hub, batches: bool) -> None:
    subscription = hub.subscribe("a")
    steps = [asyncio.Event() for _ in range(2)]
    handled: list[Any] = []

    async def work(step: asyncio.Event) -> None:
        while True:
            event = (await subscription.get_batch(1))[0] if batches else await subscription.consume()
            await step.wait()
            step.clear()
            handled.append(event.message)

    workers = [asyncio.create_task(work(step)) for step in steps]
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(4)]
    await settled()
    for _ in range(2):  # the second one goes on alone
        steps[1].set()
        await settled()
    assert handled == [1, 2]
    assert [task.done() for task in publishing] == [False, True, True, False]
    steps[0].set()
    steps[1].set()
    assert [await task for task in publishing] == [1, 1, 1, 1]
    for worker in workers:
        worker.cancel()


@pytest.mark.parametrize("snapshot", [False, True])
async def test_leaving_the_loop_by_break_or_return_finishes_what_is_in_hand(hub: Hub, snapshot: bool) -> None:
    async def load() -> int:
        return 0

    subscription: Any = hub.subscribe("a", snapshot=load) if snapshot else hub.subscribe("a")
    if snapshot:
        await subscription.consume()

    async def by_return() -> int:
        async for _, message in subscription:
            return int(message)
        raise AssertionError

    for number in range(50):
        publishing = asyncio.create_task(hub.publish_confirmed("a", number))
        if number % 2:
            assert await by_return() == number
        else:
            async for _, message in subscription:
                with subscription_is_open(subscription):
                    if message == number:
                        break
        assert await asyncio.wait_for(publishing, 5) == 1
    assert len(subscription._unfinished) == 0


@contextmanager
def subscription_is_open(subscription: Any) -> Iterator[None]:
    assert not subscription.closed
    yield


@pytest.mark.parametrize("how", ["raise", "call", "await", "cancel"])
async def test_leaving_the_loop_by_an_exception_fails_what_is_in_hand(hub: Hub, how: str) -> None:
    subscription = hub.subscribe("a")

    def fail() -> None:
        raise ValueError

    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def work() -> None:
        with suppress(ValueError):
            async for _ in subscription:
                match how:
                    case "raise":
                        raise ValueError
                    case "call":
                        fail()
                    case "await":
                        await fail_later()
                    case "cancel":
                        await asyncio.Event().wait()

    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    working = asyncio.create_task(work())
    await settled()
    if how == "cancel":
        working.cancel()
    await asyncio.wait([working])
    assert await failing(asyncio.wait_for(publishing, 5)) == ["its consumer failed"]
    assert subscription._unfinished is not None
    assert len(subscription._unfinished) == 0


async def test_an_iterator_that_is_closed_has_finished_with_what_it_had_in_hand(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    async with aclosing(aiter(subscription)) as iterator:  # type: ignore[type-var]
        await anext(iterator)
    assert await publishing == 1


async def test_an_iterator_that_the_garbage_collector_finds_has_failed(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    cycle: list[Any] = [aiter(subscription)]
    cycle.append(cycle)
    await anext(cycle[0])
    del cycle
    await asyncio.to_thread(gc.collect)
    assert await failing(asyncio.wait_for(publishing, 5)) == ["its consumer failed"]


async def test_a_task_that_fails_has_failed_what_it_had_consumed(hub: Hub) -> None:
    subscription = hub.subscribe("a")

    async def work() -> None:
        await subscription.consume()
        raise ValueError("in the task")

    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    working = asyncio.create_task(work())
    with pytest.raises(DeliveryError) as caught:
        await publishing
    assert [repr(failure.__cause__) for failure in caught.value.exceptions] == ["ValueError('in the task')"]
    with pytest.raises(ValueError, match="in the task"):
        await working


async def test_what_a_task_that_has_ended_consumed_is_finished_by_whoever_asks_next(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    for number in range(3):
        publishing = asyncio.create_task(hub.publish_confirmed("a", number))
        assert (await asyncio.create_task(subscription.consume())).message == number
        await settled()
        assert not publishing.done()
        asking = asyncio.create_task(subscription.consume())
        assert await publishing == 1
        asking.cancel()
        await settled()


async def test_messages_that_are_taken_are_finished_when_more_are_asked_for(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(3)]
    await settled()
    assert [message for _, message in subscription.take(2)] == [0, 1]
    await settled()
    assert [task.done() for task in publishing] == [False] * 3
    subscription.take(1)
    await settled()
    assert [task.done() for task in publishing] == [True, True, False]
    assert subscription.take(1) == []
    assert await publishing[2] == 1


async def test_wait_for_around_a_read_changes_nothing(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = asyncio.create_task(hub.publish_confirmed("a", 1))
    assert (await asyncio.wait_for(subscription.consume(), 5)).message == 1
    await settled()
    assert not publishing.done()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.consume(), 0.01)
    assert await publishing == 1


async def test_a_batch_is_finished_when_the_next_is_asked_for(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(3)]
    await settled()
    assert len(await subscription.get_batch(9)) == 3
    await settled()
    assert not any(task.done() for task in publishing)
    with anyio.move_on_after(0.01):
        await subscription.get_batch(9)
    assert [await task for task in publishing] == [1, 1, 1]


async def test_leaving_the_block_finishes_and_leaving_by_an_exception_fails(hub: Hub) -> None:
    for error in (None, ValueError("in the block")):
        publishing: Any = None

        async def consume(error: Exception | None = error) -> None:
            nonlocal publishing
            with hub.subscribe("a") as subscription:
                publishing = asyncio.create_task(hub.publish_confirmed("a"))
                async for _ in subscription:
                    if error is not None:
                        raise error
                    break

        if error is None:
            await consume()
            assert await publishing == 1
        else:
            with pytest.raises(ValueError, match="in the block"):
                await consume()
            assert await failing(publishing) == ["its consumer failed"]


async def test_a_message_that_nobody_reads_before_the_close_has_failed(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = asyncio.create_task(hub.publish_confirmed("a"))
    await settled()
    subscription.close()
    assert await failing(publishing) == ["closed before it was read"]


async def test_under_manual_acks_only_done_and_fail_count(hub: Hub) -> None:
    subscription = hub.subscribe("a", ack="manual")
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(2)]
    await settled()
    first, second = await subscription.get_batch(2)
    with anyio.move_on_after(0.01):
        await subscription.consume()
    assert not any(task.done() for task in publishing)
    first.done()
    first.fail()  # too late: the first word counts
    second.fail(ValueError("no"))
    assert await publishing[0] == 1
    assert await failing(publishing[1]) == ["its consumer failed"]
    hub.publish("a")
    (await subscription.consume()).done()  # of a message that nobody waits for: nothing happens


async def test_a_retried_call_that_succeeds_has_finished_and_one_given_up_has_failed(hub: Hub) -> None:
    attempts: list[Any] = []

    async def flaky(key: Key[Any], message: int) -> None:
        attempts.append(message)
        if attempts.count(message) < message:
            raise ConnectionError

    for concurrency in (1, 3):
        attempts.clear()
        listener = hub.add_listener("a", flaky, retry=Retry(attempts=2, backoff=0), concurrency=concurrency)
        assert await hub.publish_confirmed("a", 2) == 1
        assert await failing(hub.publish_confirmed("a", 3)) == ["it failed, and was given up"]
        await listener.remove()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.CLOSE])
async def test_what_is_dropped_has_failed(hub: Hub, overflow: Overflow) -> None:
    subscription = hub.subscribe("a", maxsize=1, overflow=overflow)
    publishing = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(2)]
    await settled()
    dropped, kept = publishing if overflow is Overflow.DROP_OLDEST else reversed(publishing)
    if overflow is Overflow.CLOSE:
        assert await failing(kept) == ["closed before it was read"]
    else:
        assert not kept.done()
        with subscription:
            await subscription.consume()
        assert await kept == 1
    assert await failing(dropped) == ["dropped, its queue was full"]


async def test_what_a_newer_message_replaces_is_finished_with(hub: Hub) -> None:
    subscription = hub.subscribe("a", overflow=Overflow.LATEST)
    publishing = asyncio.create_task(hub.publish_confirmed("a", 1))
    await settled()
    hub.publish("a", 2)
    assert await publishing == 1
    publishing = asyncio.create_task(hub.publish_confirmed("a", 3))
    await settled()
    hub.publish_event(Event(Key("a"), 4, Meta()))
    assert await publishing == 1
    assert (await subscription.consume()).message == 4


async def test_what_is_filtered_out_is_finished_with(hub: Hub) -> None:
    hub.add_listener("a", lambda key, message: pytest.fail("called"), where=lambda key, message: False)
    hub.subscribe("a", where=lambda key, message: False)
    assert await hub.publish_confirmed("a") == 2


async def test_removing_a_listener_fails_what_it_had_queued_and_in_hand(hub: Hub) -> None:
    async def stuck(key: Key[Any], message: Any) -> None:
        await asyncio.Event().wait()

    listener = hub.add_listener("a", stuck)
    publishing = [asyncio.create_task(hub.publish_confirmed("a")) for _ in range(2)]
    await settled()
    await listener.remove()
    assert await failing(publishing[0]) == ["its call was cut short"]
    assert await failing(publishing[1]) == ["dropped, it was removed or closed"]


async def test_closing_the_hub_in_the_middle_ends_every_confirmation() -> None:
    hub = Hub(drain=0.01)

    async def stuck(key: Key[Any], message: Any) -> None:
        await asyncio.Event().wait()

    hub.add_listener("a", stuck)
    hub.subscribe("b")
    publishing = [asyncio.create_task(hub.publish_confirmed(key)) for key in ("a", "a", "b")]
    await settled()
    await hub.close()
    for task in publishing:
        assert len(await failing(task)) == 1
    with pytest.raises(HubClosed):
        await hub.publish_confirmed("a")


async def test_a_timeout_ends_the_waiting_and_not_the_delivery(hub: Hub) -> None:
    gate = asyncio.Event()
    seen: list[Any] = []

    @hub.on("a")
    async def slow(key: Key[Any], message: Any) -> None:
        await gate.wait()
        seen.append(message)

    with pytest.raises(ConfirmationTimeout, match="AsyncListener") as caught:
        await hub.publish_confirmed("a", 1, timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert len(caught.value.waiting_for) == 1
    assert list(caught.value.failures) == []
    gate.set()
    await settled()
    assert seen == [1]


async def test_a_timeout_keeps_the_failures_that_are_known(hub: Hub) -> None:
    broken = hub.add_listener("a", lambda key, message: 1 / 0)
    subscription = hub.subscribe("a")
    with pytest.raises(ConfirmationTimeout) as caught:
        await hub.publish_confirmed("a", 1, timeout=0.01)
    assert caught.value.waiting_for == [subscription]
    [failure] = caught.value.failures
    assert (failure.registration, type(failure.__cause__)) == (broken, ZeroDivisionError)


async def test_waiting_for_oneself_is_told_at_once(hub: Hub) -> None:
    errors: list[Any] = []

    @hub.on(["a", "b"])
    async def recursive(key: Key[Any], message: Any) -> None:
        try:
            await hub.publish_confirmed("b")
        except WaitingForItself as error:
            errors.append(error)

    assert await hub.publish_confirmed("a") == 1
    assert "would wait for itself" in str(errors[0])


async def test_what_is_published_onward_is_not_waited_for(hub: Hub) -> None:
    @hub.on("b")
    async def never(key: Key[Any], message: Any) -> None:
        await asyncio.Event().wait()

    hub.add_listener("a", lambda key, message: hub.publish("b"))
    assert await hub.publish_confirmed("a") == 1
    await next(iter(hub._life.running)).remove()  # type: ignore[attr-defined]


async def test_the_callback_form_tells_without_a_task(hub: Hub) -> None:
    told: list[Any] = []

    async def odd(key: Key[Any], message: int) -> None:
        if message % 2 == 0:
            raise ValueError

    listener = hub.add_listener("a", odd)
    source = hub.subscribe("a")
    tasks = len(asyncio.all_tasks())
    for number in range(4):
        event = Event(Key("a"), number, Meta(id=str(number)))
        hub.border.relay(
            event, exclude=source, confirmed=lambda finished, failures: told.append((finished, len(failures)))
        )
    assert len(asyncio.all_tasks()) == tasks + 1  # the listener's own
    await settled()
    assert told == [(0, 1), (1, 0), (0, 1), (1, 0)]
    assert (source.accepted, listener.accepted, listener.failed) == (0, 4, 2)
    assert hub.stats().routed == 4


async def test_the_callback_of_a_publish_to_sync_listeners_comes_before_it_returns(hub: Hub) -> None:
    told: list[Any] = []
    hub.add_listener("a", lambda key, message: told.append("called"))
    hub.retain("a")
    hub.border.relay(Event(Key("a"), 1), confirmed=lambda finished, failures: told.append(finished))
    assert told == ["called", 1]
    assert await Publisher(hub, "a").publish_confirmed("b", 1) == 0


async def test_a_callback_that_raises_hurts_nobody(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    def broken(finished: int, failures: Any) -> None:
        raise ValueError("the callback")

    async def handle(key: Key[Any], message: Any) -> None:
        if message == 2:
            raise KeyError

    listener = hub.add_listener("a", handle)
    for message in range(4):
        assert hub.border.relay(Event(Key("a"), message), confirmed=broken) == 1
    hub.add_listener("a", lambda key, message: None)
    assert hub.border.relay(Event(Key("a"), 4), confirmed=broken) == 2
    await settled()
    assert caplog.text.count("the confirmation callback ") == 5
    assert (listener.delivered, listener.failed, listener.closed) == (5, 1, False)


@pytest.mark.parametrize("others", [0, 1])
async def test_an_event_that_is_published_again_has_a_fate_of_its_own(hub: Hub, others: int) -> None:
    subscription = hub.subscribe("a", ack="manual")
    for _ in range(others):
        hub.add_listener("a", lambda key, message: None)
    told: list[Any] = []
    event = Event(Key("a"), 1, Meta(id="7"))
    for attempt in "xy":
        hub.border.relay(event, confirmed=lambda finished, failures, attempt=attempt: told.append((attempt, finished)))
    first = await subscription.consume()
    first.fail()
    first.done()  # too late, and no word on the second
    assert told == [("x", others)]
    second = await subscription.consume()
    assert second.meta == Meta(id="7")
    second.done()
    assert told == [("x", others), ("y", others + 1)]


async def test_the_fate_of_an_event_published_onward_is_not_that_of_the_first(hub: Hub) -> None:
    outer = hub.subscribe("a", ack="manual")
    elsewhere = Hub()
    inner = elsewhere.subscribe("a", maxsize=1, overflow=Overflow.DROP_OLDEST)
    publishing = asyncio.create_task(hub.publish_confirmed("a", 1))
    await settled()
    event = await outer.consume()
    with inner:
        elsewhere.publish_event(event)
        elsewhere.publish_event(event)
        assert pickle.loads(pickle.dumps(event)) == copy.copy(event) == event
        copy.copy(event).done()
        await inner.consume()
    await settled()
    assert not publishing.done()
    event.done()
    assert await publishing == 1
    await elsewhere.close()


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("others", [0, 1])
async def test_the_figures_are_those_of_a_plain_publish(hub: Hub, overflow: Overflow, others: int) -> None:
    def figures(deliver: Any) -> Any:
        subscriptions = [hub.subscribe("a", maxsize=2, overflow=overflow) for _ in range(others + 1)]
        before = hub.stats()
        routed = [deliver(number) for number in range(4)]
        after = hub.stats()
        found = [(s.accepted, s.pending, s.dropped, s.superseded, s.delivered, s.closed) for s in subscriptions]
        for subscription in subscriptions:
            subscription.close()
        return routed, found, after.published - before.published, after.routed - before.routed

    told: list[Any] = []
    key: Key[Any] = Key("a")
    plain = figures(lambda number: hub.publish(key, number))
    assert figures(lambda number: hub.publish_event(Event(key, number))) == plain
    assert figures(lambda number: hub.publish_event(Event(key, number, Meta()))) == plain
    assert figures(lambda number: hub.border.relay(Event(key, number), confirmed=lambda *_: told.append(_))) == plain
    assert len(told) == 4


async def test_metadata_comes_with_a_confirmed_message(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    hub.border.relay(Event(Key("a"), 1, Meta(id="7")), confirmed=lambda finished, failures: None)
    assert (await subscription.consume()).meta == Meta(id="7")


async def test_a_cancelled_confirmed_publish_leaves_the_message_delivered(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    publishing = asyncio.create_task(hub.publish_confirmed("a", 1))
    await settled()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert (await subscription.consume()).message == 1
    with anyio.move_on_after(0.01):
        await subscription.consume()


def test_an_unknown_kind_of_ack_is_refused() -> None:
    with pytest.raises(ValueError, match="ack"):
        Hub().subscribe("a", ack="perhaps")  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [1, 2])
def test_what_hears_of_a_confirmation_and_would_have_to_be_awaited_is_logged(
    hub: Hub, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def confirmed(finished: int, failures: Any) -> None: ...

    for _ in range(number):
        hub.add_listener("a", lambda key, message: None)
    hub.border.relay(Event(Key("a"), 1), confirmed=confirmed)
    hub.add_listener("b", lambda key, message: 1 / 0)
    hub.border.relay(Event(Key("b"), 1), confirmed=confirmed)
    told = [record for record in caplog.records if record.exc_info and record.exc_info[0] is InvalidFunction]
    assert len(told) == 2
    assert "returned a coroutine, which nobody awaits" in caplog.text
