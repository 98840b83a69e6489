"""Whoever waits is cancelled at every one of its awaits: nothing is lost, doubled or left behind."""

import asyncio
import gc
import logging
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import pytest
from conftest import assert_nothing_left
from test_queue import settled

from hubsub import Hub, Key, Overflow, Snapshot, SnapshotSubscription, SubscriptionClosed
from hubsub._core.registration import Registration
from hubsub._core.subscription import Queue

CUT: Any = object()  # instead of a result

A: Key[Any] = Key("a")


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    gc.collect()  # what other tests have left is theirs, and is not logged during this one
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


class Cut:
    """Cancels what runs in it at one suspension, and only there: the `at`-th, counted over everything that does.

    Args:
        at: Which suspension.
        late: Not as soon as it is suspended, but when what it waits for has come, before it gets to know.
    """

    def __init__(self, at: int, late: bool) -> None:
        self._left = at
        self._late = late

    @property
    def was_reached(self) -> bool:
        """False if there are not so many suspensions."""
        return self._left <= 0

    async def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await it in a task of its own; return its result, or CUT."""
        try:
            return await asyncio.create_task(self._whole(awaitable))
        except asyncio.CancelledError:
            assert self.was_reached
            return CUT

    async def until(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Await what `make` makes; if it is cut, once more."""
        result = await self.run(make())
        return await self.run(make()) if result is CUT else result

    async def _whole(self, awaitable: Awaitable[Any]) -> Any:
        async def inner() -> Any:
            return await awaitable

        return await self._driven(inner())

    @types.coroutine
    def _driven(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                if self._late and awaited is not None:
                    # Before the task itself asks to be told.
                    awaited.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            try:
                argument = yield awaited
                step = coroutine.send
            except BaseException as error:
                step, argument = coroutine.throw, error


Scenario: TypeAlias = Callable[[Hub, Cut], Awaitable[None]]


async def at_every_await(scenario: Scenario, late: bool) -> None:
    """Run the scenario again and again, cut at its first suspension, at its second, until it has no more of them."""
    for at in count(1):
        cut = Cut(at, late)
        hub = Hub()
        await hub.start()
        await scenario(hub, cut)
        await hub.close()
        assert_nothing_left(hub)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if not cut.was_reached:
            assert at > 1  # else there was nothing to cut
            return


def balanced(*registrations: Registration) -> None:
    """Everything accepted is accounted for, and nobody waits in a queue any more."""
    for each in registrations:
        assert each.accepted == each.delivered + each.pending + each.dropped + each.superseded
        mailbox = each.mailbox
        assert mailbox is not None
        assert (mailbox.line, len(mailbox._waiters)) == (None, 0)
        assert not isinstance(each, Queue) or not each._unfinished


def one_each_turn(actions: list[Callable[[], object]]) -> None:
    """Do one thing in each of the next turns of the loop."""
    if actions:
        actions[0]()
        asyncio.get_running_loop().call_soon(one_each_turn, actions[1:])


def nothing() -> None:
    pass


every_await = pytest.mark.parametrize("late", [False, True], ids=["while it waits", "when it has come"])


def read_by_consume(subscription: Queue[Any]) -> Callable[[], Awaitable[list[Any]]]:
    async def read() -> list[Any]:
        return [await subscription.consume()]

    return read


def read_by_iterating(subscription: Queue[Any]) -> Callable[[], Awaitable[list[Any]]]:
    iterator = aiter(subscription)

    async def read() -> list[Any]:
        return [await anext(iterator)]

    return read


def read_by_batches(subscription: Queue[Any]) -> Callable[[], Awaitable[list[Any]]]:
    return lambda: subscription.get_batch(2)


READERS = [read_by_consume, read_by_iterating, read_by_batches]


@every_await
@pytest.mark.parametrize("reader", READERS)
async def test_a_cut_read_of_history_and_of_what_follows_loses_nothing(reader: Any, late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        hub.retain(A, 3)
        hub.publish_many((A, number) for number in range(3))
        subscription = hub.subscribe(A, history=3, maxsize=2)
        read = reader(subscription)
        later: list[Callable[[], object]] = []
        for number in range(3, 8):
            later += [*[nothing] * 5, partial(hub.publish, A, number)]
        one_each_turn(later)
        messages: list[int] = []
        while len(messages) < 8:
            messages += [event.message for event in await cut.until(read)]
        assert messages == list(range(8))
        balanced(subscription)

    await at_every_await(scenario, late)


@every_await
@pytest.mark.parametrize("reader", READERS)
async def test_a_cut_reader_passes_its_wake_up_on_to_the_next(reader: Any, late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        subscription = hub.subscribe(A)
        read, other = reader(subscription), reader(subscription)
        first = asyncio.create_task(cut.run(read()))
        await settled()
        second = asyncio.create_task(other())
        await settled()
        assert len(subscription._mailbox._waiters) == sum(not task.done() for task in (first, second))
        hub.publish(A, 1)
        if await first is not CUT:
            assert [event.message for event in first.result()] == [1]
            hub.publish(A, 1)
        assert [event.message for event in await second] == [1]
        balanced(subscription)

    await at_every_await(scenario, late)


def is_loading(subscription: Any) -> bool:
    return subscription._loading is not None and subscription._loading[1].locked()


@every_await
@pytest.mark.parametrize("maxsize", [2, 100], ids=["overflowing", "with room"])
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another one"])
async def test_a_cut_load_of_a_snapshot_is_repeated(
    others: int, maxsize: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotSubscription, "PAUSES", (0.0, 0.0))

    async def scenario(hub: Hub, cut: Cut) -> None:
        published: list[int] = []
        seen: list[Any] = []

        def publish(number: int) -> None:
            published.append(number)
            hub.publish(A, number)

        async def load() -> list[int]:
            loaded = list(published)
            await asyncio.sleep(0)
            if len(loaded) < 6:
                for number in range(len(loaded), len(loaded) + 3):
                    publish(number)
            await asyncio.sleep(0)
            return loaded

        subscription = hub.subscribe(A, snapshot=load, maxsize=maxsize, overflow=Overflow.DROP_OLDEST)

        async def consume() -> None:
            while True:
                seen.append(await subscription.consume())

        async def consume_all(run: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:
            result = CUT
            while result is CUT:
                try:
                    result = await run(consume())
                except SubscriptionClosed:
                    return

        async def whole(awaitable: Awaitable[Any]) -> Any:
            return await awaitable

        tasks = [asyncio.create_task(consume_all(run)) for run in (cut.run, *[whole] * others)]
        while len(seen) < 3:  # a snapshot, and what was published meanwhile
            await asyncio.sleep(0)
            if not any(is_loading(subscription) or task.done() for task in tasks) and len(published) < 20:
                publish(len(published))
        subscription.close()
        await asyncio.gather(*tasks)
        assert not is_loading(subscription)
        last = max(place for place, each in enumerate(seen) if type(each) is Snapshot)
        known = set(seen[last].value) | {event.message for event in seen[last + 1 :]}
        assert known == set(published)
        events = Counter(each.message for each in seen if type(each) is not Snapshot)
        assert set(events.values()) <= {1}
        balanced(subscription)

    await at_every_await(scenario, late)


@every_await
async def test_a_cut_publish_confirmed_has_delivered(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        handled: list[int] = []

        async def handle(key: Key[Any], message: int) -> None:
            await asyncio.sleep(0)
            handled.append(message)

        listener = hub.add_listener(A, handle)
        subscription = hub.subscribe(A)
        with subscription:
            confirming = asyncio.create_task(cut.run(hub.publish_confirmed(A, 1)))
            assert (await subscription.consume()).message == 1
        assert await confirming in (2, CUT)
        assert await hub.publish_confirmed(A, 2) == 1
        assert handled == [1, 2]
        balanced(listener, subscription)

    await at_every_await(scenario, late)


@every_await
async def test_a_cut_publish_wait_has_delivered_to_no_one_and_gives_its_places_back(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        first, second = (hub.subscribe(A, maxsize=1) for _ in range(2))
        hub.publish(A, 0)
        waiting = [asyncio.create_task(cut.run(hub.publish_wait(A, 1)))]
        await settled()
        waiting.append(asyncio.create_task(hub.publish_wait(A, 2)))
        await settled()
        assert len(first._mailbox.line or ()) == sum(not task.done() for task in waiting)
        expected = [0, 1, 2]
        messages: list[list[int]] = [[], []]
        for place, subscription in ((0, first), (1, second)) * 2:
            messages[place].append((await subscription.consume()).message)
            await settled()
        if await waiting[0] is CUT:
            expected.remove(1)
        else:
            for place, subscription in ((0, first), (1, second)):
                messages[place].append((await subscription.consume()).message)
        assert await waiting[1] == 2
        assert messages == [expected, expected]
        balanced(first, second)
        assert await hub.publish_wait(A, 3) == 2
        assert hub.publish(A, 4) == 2

    await at_every_await(scenario, late)


@every_await
async def test_a_message_of_a_cut_read_under_manual_ack_is_read_and_confirmed_once(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        subscription = hub.subscribe(A, ack="manual")
        confirming = [asyncio.create_task(hub.publish_confirmed(A, number)) for number in range(3)]
        messages: list[int] = []
        while len(messages) < 3:
            event = await cut.until(subscription.consume)
            messages.append(event.message)
            assert not confirming[event.message].done()
            event.done()
            assert await cut.until(lambda number=event.message: asyncio.shield(confirming[number])) == 1
        assert messages == [0, 1, 2]
        balanced(subscription)

    await at_every_await(scenario, late)


@every_await
async def test_a_cut_wait_for_the_next_stays_subscribed_nowhere(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        waiting = hub.next(A, timeout=60)
        one_each_turn([nothing, nothing, lambda: hub.publish(A, 1)])
        event = await cut.run(waiting)
        assert event is CUT or event.message == 1
        del waiting
        assert not hub.has_subscribers(A)
        assert hub.stats().subscriptions == 0

    await at_every_await(scenario, late)


@every_await
async def test_a_cut_request_is_answered_to_nobody_and_forgotten(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        @hub.responds(A)
        async def double(key: Key[Any], message: int) -> int:
            await asyncio.sleep(0)
            return 2 * message

        assert await cut.run(hub.request(A, 4)) in (8, CUT)
        assert hub._requests.open == {}
        assert await hub.request(A, 5) == 10
        balanced(*hub._registered)

    await at_every_await(scenario, late)


@every_await
async def test_a_cut_step_through_replies_loses_none(late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        for factor in (2, 3):

            @hub.responds(A)
            async def times(key: Key[Any], message: int, factor: int = factor) -> int:
                for _ in range(factor):
                    await asyncio.sleep(0)
                return factor * message

        replies = hub.request_many(A, 4)
        assert [await cut.until(replies.__anext__) for _ in range(2)] == [8, 12]
        with pytest.raises(StopAsyncIteration):
            await anext(replies)
        assert hub._requests.open == {}

    await at_every_await(scenario, late)


@every_await
@pytest.mark.parametrize("block", [False, True], ids=["close", "leaving the block"])
async def test_a_cut_close_drains_all_the_same(block: bool, late: bool) -> None:
    async def scenario(hub: Hub, cut: Cut) -> None:
        handled: list[int] = []

        async def handle(key: Key[Any], message: int) -> None:
            await asyncio.sleep(0)
            handled.append(message)

        listener = hub.add_listener(A, handle)
        subscription = hub.subscribe(A)

        async def leave() -> None:
            async with hub:
                hub.publish_many((A, number) for number in range(3))

        if block:
            await cut.run(leave())
        else:
            hub.publish_many((A, number) for number in range(3))
            await cut.run(hub.close())
        assert not hub.is_open
        assert handled == [0, 1, 2]
        assert [(await subscription.consume()).message for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SubscriptionClosed):
            await cut.run(subscription.consume())
        balanced(listener, subscription)
        await hub.start()
        assert await hub.publish_confirmed(A, 3) == 1

    await at_every_await(scenario, late)
