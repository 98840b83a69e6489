"""Closing drains alike wherever it begins; what it could not finish is counted, logged and told."""

import asyncio
from typing import Any

import anyio
import pytest
from test_queue import settled, until

from hubsub import Hub, Key, ListenerFailure, Overflow, Retry, Subscriber, Undelivered
from hubsub._core.life import UNTIL_ENDED, UNTIL_LEFT, UNTIL_SENT, Grace
from hubsub.testing import settle

CONCURRENCY = pytest.mark.parametrize("concurrency", [1, 3])


class Work:
    """An async listener whose calls wait until they are let go, and what came of them."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.done: list[Any] = []
        self.go = asyncio.Event()

    async def __call__(self, key: Key[Any], message: Any) -> None:
        self.begun.append(message)
        await self.go.wait()
        await asyncio.sleep(0)
        self.done.append(message)

    def let_go_soon(self) -> None:
        """Let them go when whoever waits now has begun to."""
        asyncio.get_running_loop().call_later(0.01, self.go.set)


def figures(listener: Any) -> tuple[int, ...]:
    assert listener.accepted == listener.delivered + listener.pending + listener.dropped + listener.superseded
    return listener.delivered, listener.pending, listener.dropped, listener.failed


def no_tasks() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# Who still works is seen


async def test_settle_waits_for_a_listener_that_is_used_up(hub: Hub) -> None:
    work = Work()
    listener = hub.add_listener("a", work, once=True)
    hub.publish("a", 1)
    assert hub.busy() == (listener,)
    await settled()
    assert hub.busy() == (listener,)
    work.let_go_soon()
    await settle(hub)
    assert work.done == [1]
    assert hub.busy() == ()


async def test_settle_waits_for_a_listener_that_was_too_slow(hub: Hub) -> None:
    work = Work()
    listener = hub.add_listener("a", work, maxsize=2, overflow=Overflow.CLOSE)
    for number in range(4):
        hub.publish("a", number)
    assert listener.closed
    assert hub.busy() == (listener,)
    work.let_go_soon()
    await settle(hub)
    assert work.done == [0, 1]


@CONCURRENCY
async def test_settle_waits_for_a_listener_that_has_removed_itself(hub: Hub, concurrency: int) -> None:
    work = Work()

    async def listen(key: Key[Any], message: Any) -> None:
        await listener.remove()
        await work(key, message)

    listener = hub.add_listener("a", listen, concurrency=concurrency)
    hub.publish("a", 1)
    await until(lambda: bool(work.begun))
    assert hub.busy() == (listener,)
    work.let_go_soon()
    await settle(hub)
    assert work.done == [1]


def test_settle_waits_for_one_that_was_used_up_before_there_was_a_loop() -> None:
    hub = Hub()
    work = Work()
    listener = hub.add_listener("a", work, once=True)
    hub.publish("a", 1)
    assert hub.busy() == (listener,)

    async def program() -> None:
        work.go.set()
        await settle(hub)

    asyncio.run(program())
    assert work.done == [1]


# What closing could not finish


async def test_what_is_published_while_the_bridges_close_is_handled_within_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    seen: list[Any] = []

    async def work(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0.01)
        seen.append(message)

    class Part:
        """Something attached that takes a while to close, as a bridge does; others publish meanwhile."""

        patterns: tuple[Any, ...] = ()

        def opened(self) -> None: ...
        def changed(self, patterns: Any) -> None: ...
        def closing(self) -> None: ...

        async def close(self) -> None:
            hub.publish("a", 1)
            await asyncio.sleep(0)

    hub.add_listener("a", work)
    await hub.start()
    hub.border.attach(Part())
    await hub.close()
    assert seen == [1]
    assert not caplog.records


@CONCURRENCY
@pytest.mark.parametrize("where", ["hub", "subscriber"])
async def test_a_call_that_the_drain_limit_cuts_off_has_failed(
    where: str, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[ListenerFailure] = []
    hub = Hub(drain=0.05, on_error=failures.append)
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_async_listener("a", Work(), concurrency=concurrency)
    for number in range(5):
        hub.publish("a", number)
    await settled()
    await (hub if where == "hub" else subscriber).close()
    assert figures(listener) == (concurrency, 0, 5 - concurrency, concurrency)
    assert [failure.message for failure in failures] == list(range(concurrency))
    assert isinstance(listener.last_error, TimeoutError)
    assert isinstance(listener.last_error.__cause__, asyncio.CancelledError)
    assert hub.stats().failed == concurrency
    assert caplog.text.count("cut off by closing, which waits 0.05 s at most") == concurrency
    assert f"closed with {5 - concurrency} messages that its async listeners had not handled" in caplog.text
    assert no_tasks()
    await hub.close()


async def test_a_confirmed_message_that_the_drain_limit_cuts_off_is_not_finished() -> None:
    hub = Hub(drain=0.01)
    hub.add_listener("a", Work())
    confirming = [asyncio.create_task(hub.publish_confirmed("a", number)) for number in range(2)]
    await settled()
    await hub.close()
    whys = []
    for task in confirming:
        error = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(error, ExceptionGroup)
        (undelivered,) = error.exceptions
        assert isinstance(undelivered, Undelivered)
        whys.append(undelivered.why)
    assert whys == ["its call was cut short", "dropped, it was removed or closed"]


@pytest.mark.parametrize("reaction", ["raises", "returns"])
async def test_a_call_that_ends_by_itself_when_it_is_cut_off_is_what_it_says(reaction: str) -> None:
    hub = Hub(drain=0.01)

    @hub.on("a")
    async def listen(key: Key[Any], message: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if reaction == "raises":
                raise ZeroDivisionError from None

    hub.publish("a", 1)
    await settled()
    (listener,) = hub.subscriptions()
    await hub.close()
    assert figures(listener) == (1, 0, 0, int(reaction == "raises"))


@CONCURRENCY
async def test_a_call_that_goes_on_in_spite_of_being_cancelled_has_failed(
    concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[ListenerFailure] = []
    hub = Hub(drain=0.01, on_error=failures.append)
    end = asyncio.Event()

    async def stubborn(key: Key[Any], message: Any) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    listener = hub.add_listener("a", stubborn, concurrency=concurrency)
    hub.publish("a", 1)
    await settled()
    await hub.close()
    assert "ignores its cancellation" in caplog.text
    assert [failure.message for failure in failures] == [1]
    assert figures(listener) == (1, 0, 0, 1)
    end.set()
    await until(no_tasks)
    assert figures(listener) == (1, 0, 0, 1)


# A subscriber


@CONCURRENCY
async def test_leaving_a_subscriber_drains_what_its_async_listeners_have_queued(concurrency: int) -> None:
    work = Work()
    async with Hub() as hub:
        async with Subscriber(hub, "s") as subscriber:
            listener = subscriber.add_listener("a", work, concurrency=concurrency)
            idle = subscriber.add_listener("b", Work(), concurrency=concurrency)
            subscription = subscriber.subscribe("a")
            for number in range(5):
                hub.publish("a", number)
            await settled()
            work.let_go_soon()
        assert work.done == [0, 1, 2, 3, 4]
        assert figures(listener) == (5, 0, 0, 0)
        assert no_tasks()
        assert hub.publish("a", "nobody is there") == 0
        assert idle.closed
        assert [event.message async for event in subscription] == [0, 1, 2, 3, 4]


async def test_a_hub_and_a_subscriber_that_are_left_together_drain() -> None:
    work = Work()
    work.go.set()
    async with Hub() as hub, Subscriber(hub, "s") as subscriber:
        listener = subscriber.add_listener("a", work)
        for number in range(100):
            hub.publish("a", number)
    assert work.done == list(range(100))
    assert figures(listener) == (100, 0, 0, 0)


@pytest.mark.parametrize("how", ["exception", "cancellation", "anyio"])
async def test_leaving_a_subscriber_drains_however_it_is_left(hub: Hub, how: str) -> None:
    work = Work()

    async def program() -> None:
        with anyio.CancelScope() as scope:
            async with Subscriber(hub, "s") as subscriber:
                subscriber.add_listener("a", work)
                for number in range(3):
                    hub.publish("a", number)
                work.let_go_soon()
                if how == "exception":
                    raise ZeroDivisionError
                if how == "anyio":
                    scope.cancel()
                await asyncio.Event().wait()

    task = asyncio.create_task(program())
    await settled()
    if how == "cancellation":
        task.cancel()
    await asyncio.wait([task])
    assert work.done == [0, 1, 2]


async def test_a_second_cancellation_ends_the_draining_of_a_subscriber() -> None:
    hub = Hub(drain=60)
    work = Work()

    async def program() -> None:
        async with Subscriber(hub, "s") as subscriber:
            subscriber.add_listener("a", work)
            hub.publish("a", 1)
            hub.publish("a", 2)
            await asyncio.Event().wait()

    task = asyncio.create_task(program())
    for _ in range(2):
        await settled()
        task.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait([task])
    assert task.cancelled()
    assert (work.begun, work.done) == ([1], [])
    assert no_tasks()


async def test_a_subscriber_that_is_closed_without_waiting_drains_all_the_same(hub: Hub) -> None:
    work = Work()
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", work)
    for number in range(3):
        hub.publish("a", number)
    subscriber.close()
    assert hub.busy() == (listener,)
    assert not hub.has_subscribers()
    work.let_go_soon()
    await settle(hub)
    assert work.done == [0, 1, 2]


async def test_closing_a_subscriber_twice_waits_for_the_first_time() -> None:
    hub = Hub(drain=0.2)
    work = Work()
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", work)
    hub.publish("a", 1)
    await settled()
    subscriber.close()
    await asyncio.sleep(0.1)
    work.let_go_soon()
    await subscriber.close()
    assert work.done == [1]
    await subscriber.close()
    assert figures(listener) == (1, 0, 0, 0)
    await hub.close()


async def test_removing_the_listeners_of_a_subscriber_cuts_its_draining_short(hub: Hub) -> None:
    work = Work()
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", work)
    for number in range(3):
        hub.publish("a", number)
    await settled()
    closing = subscriber.close()
    await subscriber.remove_all_listeners()
    await closing
    assert figures(listener) == (1, 0, 2, 0)
    assert no_tasks()


@pytest.mark.parametrize("how", ["call", "task"])
async def test_closing_a_subscriber_from_inside_neither_cancels_nor_waits_for_the_call(how: str) -> None:
    hub = Hub()
    seen: list[Any] = []
    other = Work()

    async def close() -> None:
        await subscriber.close()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "close":
            other.let_go_soon()
            async with asyncio.timeout(20):
                await (close() if how == "call" else asyncio.create_task(close()))
        seen.append(message)

    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", listen)
    subscriber.add_listener("b", other)
    hub.publish("b", 0)
    for message in (1, "close", 2):
        hub.publish("a", message)
    await until(lambda: len(seen) == 3)
    assert seen == [1, "close", 2]
    assert other.done == [0]
    assert figures(listener) == (3, 0, 0, 0)
    await settle(hub)
    await until(no_tasks)
    await hub.close()


async def test_a_hub_that_closes_waits_for_a_subscriber_that_drains() -> None:
    work = Work()
    hub = Hub()
    subscriber = Subscriber(hub, "s")
    subscriber.add_listener("a", work)
    for number in range(3):
        hub.publish("a", number)
    subscriber.close()
    work.let_go_soon()
    await hub.close()
    assert work.done == [0, 1, 2]
    assert no_tasks()


def test_what_a_subscriber_has_queued_before_there_is_a_loop_is_handled_when_one_runs() -> None:
    hub = Hub()
    work = Work()
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", work)
    hub.publish("a", 1)
    subscriber.close()

    async def program() -> None:
        work.go.set()
        await hub.start()
        await settle(hub)
        await hub.close()

    asyncio.run(program())
    assert work.done == [1]
    assert listener.closed


async def test_closing_a_subscriber_leaves_time_for_another_attempt(hub: Hub) -> None:
    calls: list[Any] = []

    async def flaky(key: Key[Any], message: Any) -> None:
        calls.append(message)
        if len(calls) < 3:
            raise ValueError(message)

    async with Subscriber(hub, "s") as subscriber:
        listener = subscriber.add_listener("a", flaky, retry=Retry(attempts=3, backoff=0.01))
        hub.publish("a", 1)
    assert calls == [1, 1, 1]
    assert figures(listener) == (1, 0, 0, 0)


async def test_a_listener_that_rests_is_drained_by_closing_its_subscriber(hub: Hub) -> None:
    work = Work()
    subscriber = Subscriber(hub, "s")
    listener = subscriber.add_listener("a", work)
    for number in range(3):
        hub.publish("a", number)
    await settled()
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    task.cancel()
    await settled()
    work.go.set()
    await subscriber.close()
    assert work.done == [1, 2]
    assert figures(listener) == (3, 0, 0, 1)


# How long it takes


def test_the_limits_of_closing_sum_up_to_less_than_ten_seconds() -> None:
    grace = Grace(0.0, Hub()._life.drain)
    assert grace.drained == 5
    # A bridge that is closed with its hub has the time of the listeners, and some more where they have used it up.
    assert grace.sent(0.0) == 5
    assert grace.sent(4.0) == 6
    assert grace.sent(5.0) == grace.sent(20.0) == 5 + UNTIL_SENT
    assert grace.left + UNTIL_ENDED == 5 + UNTIL_SENT + UNTIL_LEFT + UNTIL_ENDED == 9.0


@pytest.mark.parametrize("bridges", [1, 3, 100])
def test_however_many_brokers_are_away_closing_ends_within_its_limit(bridges: int) -> None:
    grace = Grace(0.0, Hub()._life.drain)
    now = 0.0
    for _ in range(bridges):
        now = max(now, grace.sent(now))  # it cannot send
        now += grace.leave(now)  # nor disconnect
    assert now <= grace.left


async def test_what_is_closed_one_after_the_other_shares_the_time() -> None:
    hub = Hub(drain=0.3)
    stuck = Work()
    subscriber = Subscriber(hub, "s")
    first = subscriber.add_listener("a", stuck)
    second = hub.add_listener("a", stuck)
    hub.publish("a", 1)
    await settled()
    await subscriber.close()
    used_up = hub._life.grace().drained
    await hub.close()
    assert used_up <= asyncio.get_running_loop().time()
    assert figures(first) == figures(second) == (1, 0, 0, 1)


async def test_what_is_closed_later_has_its_own_time(hub: Hub) -> None:
    work = Work()
    subscriber = Subscriber(hub, "s")
    subscriber.add_listener("a", work)
    hub.publish("a", 1)
    await settled()
    work.let_go_soon()
    await subscriber.close()
    last = hub._life._grace
    assert last is not None
    assert last.ended is not None
    assert not last.is_over(last.ended)
    assert last.is_over(last.ended + 1.5)
