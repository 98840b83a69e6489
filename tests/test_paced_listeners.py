"""Listeners that are called seldom: with many messages at once, or with the last message of a key."""

import asyncio
import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_queue import settled, until
from virtual_time import VirtualLoop, run

from hubsub import (
    Bridge,
    Call,
    DeadLetter,
    DeliveryError,
    Event,
    Gap,
    Hub,
    HubClosed,
    InvalidListener,
    Key,
    ListenerFailure,
    Meta,
    Overflow,
    Retry,
    Subscriber,
)

SOON = Retry(attempts=2, backoff=0.5, jitter=False)
EACH: list[dict[str, Any]] = [{"batch": (10, 5.0)}, {"debounce": 5.0}, {"throttle": 5.0}]


class Calls:
    """An async listener of any pace, which notes when it was called, and with what."""

    def __init__(self, lasting: float = 0.0, failing: int = 0) -> None:
        self.lasting = lasting
        self.failing = failing
        self.began = asyncio.get_running_loop().time()
        self.all: list[tuple[float, Any]] = []
        self.running = 0

    @property
    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self.began, 4)

    async def single(self, key: Key[Any], message: Any) -> None:
        await self._call((key[-1], message))

    async def batch(self, events: list[Event[Any]]) -> None:
        await self._call([event.message for event in events])

    async def _call(self, what: Any) -> None:
        self.all.append((self.now, what))
        if self.lasting:
            self.running += 1
            try:
                await asyncio.sleep(self.lasting)
            finally:
                self.running -= 1
        if self.failing:
            self.failing -= 1
            raise ValueError("no")

    async def until(self, time: float) -> None:
        if self.now < time:
            await asyncio.sleep(time - self.now)

    def listen(self, hub: Hub, pattern: Any = ("a", "*"), **options: Any) -> Any:
        return hub.add_listener(pattern, self.batch if "batch" in options else self.single, **options)


def adds_up(listener: Any) -> bool:
    figures = (listener.delivered, listener.pending, listener.dropped, listener.superseded)
    return bool(listener.accepted == sum(figures) and min(figures) >= 0)


def is_idle(hub: Hub) -> bool:
    return not hub.busy() and not hub._life.running and not hub._life.unstarted


# Against what a few lines say that they should do


def due_in_batches(most: int, wait: float) -> Any:
    """Return what takes the messages of the next call from a queue of (time, key, message), if it is due."""

    def take(queue: list[Any], now: float, last: dict[str, float]) -> Any:
        if queue and (len(queue) >= most or queue[0][0] + wait <= now):
            taken = queue[:most]
            del queue[:most]
            return [message for _, _, message in taken]
        return None

    return take


def due_by_key(wait: float, throttled: bool) -> Any:
    def take(queue: list[Any], now: float, last: dict[str, float]) -> Any:
        due = []
        for key in dict.fromkeys(key for _, key, _ in queue):
            places = [place for place, item in enumerate(queue) if item[1] == key]
            first, newest = places[0], places[-1]
            # Of those that are due at the same time, whichever came, or was called, before the other.
            if not throttled:
                due.append((queue[newest][0] + wait, newest, key))
            elif key in last and last[key] + wait > queue[first][0]:
                due.append((last[key] + wait, list(last).index(key), key))
            else:
                due.append((queue[first][0], first, key))
        if not due or min(due)[0] > now:
            return None
        _, _, key = min(due)
        message = [message for _, other, message in queue if other == key][-1]
        queue[:] = [item for item in queue if item[1] != key]
        last.pop(key, None)
        last[key] = now
        return key, message

    return take


def calls_of(published: list[tuple[float, str]], take: Any, lasting: float, concurrency: int, wait: float) -> Any:
    """Return what is called when, looking at every moment at which anything could change."""
    calls: list[Any] = []
    queue: list[Any] = []
    last: dict[str, float] = {}
    ends: list[float] = []
    left = [(time, key, number) for number, (time, key) in enumerate(published)]
    moments = {time for time, _, _ in left}
    while moments:
        now = min(moments)
        moments = {moment for moment in moments if moment > now + 1e-6}
        queue += [item for item in left if item[0] <= now]
        left = [item for item in left if item[0] > now]
        ends = [end for end in ends if end > now + 1e-6]
        while len(ends) < concurrency and (taken := take(queue, now + 1e-6, last)) is not None:
            calls.append((round(now, 4), taken))
            if lasting:
                ends.append(now + lasting)
            moments.add(now + lasting)
        moments |= {time + wait for time, _, _ in queue} | {time + wait for time in last.values()}
        moments = {moment for moment in moments if moment > now + 1e-6}
    return calls


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xyz")), max_size=40),
    st.sampled_from([(kind, most) for most in (1, 2, 3, 7) for kind in ("batch", "debounce", "throttle")]),
    st.sampled_from([0.29, 1.29, 2.29, 5.29]),
    st.sampled_from([0.0, 0.0137, 1.0137, 4.0137]),
    st.integers(1, 3),
)
def test_calls_are_those_that_a_naive_model_makes(
    steps: list[tuple[int, str]], kind: tuple[str, int], wait: float, lasting: float, concurrency: int
) -> None:
    published: list[tuple[float, str]] = []
    time = 0.0
    for delay, key in steps:
        time += delay
        published.append((time, key))
    name, most = kind
    take = due_in_batches(most, wait) if name == "batch" else due_by_key(wait, name == "throttle")
    options: dict[str, Any] = {name: (most, wait) if name == "batch" else wait}

    async def main() -> list[Any]:
        async with Hub() as hub:
            calls = Calls(lasting)
            listener = calls.listen(hub, concurrency=concurrency, **options)
            for number, (time, key) in enumerate(published):
                await calls.until(time)
                hub.publish(("a", key), number)
                assert adds_up(listener)
            await calls.until(1e4)
            assert is_idle(hub)
            assert adds_up(listener)
            return calls.all

    assert run(main()) == calls_of(published, take, lasting, concurrency, wait)


@given(
    st.lists(st.one_of(st.sampled_from("wxyz"), st.integers(0, 3)), max_size=60),
    st.sampled_from([{"batch": (3, 2.3)}, {"debounce": 2.3}, {"throttle": 2.3}]),
    st.sampled_from([None, *Overflow]),
    st.booleans(),
)
def test_figures_add_up_whatever_is_dropped_and_nothing_stays_behind(
    steps: list[Any], options: dict[str, Any], overflow: Overflow | None, removed: bool
) -> None:
    if "batch" in options and overflow is not None:
        options = {**options, "overflow": overflow}

    async def main() -> None:
        hub = Hub()
        calls = Calls(1.7)
        listener = calls.listen(hub, maxsize=3, **options)
        for number, step in enumerate(steps):
            if isinstance(step, str):
                hub.publish(("a", step), number)
            else:
                await asyncio.sleep(step)
            assert adds_up(listener)
            assert listener.pending <= 3 or listener.overflow is Overflow.GROW
        if removed:
            await listener.remove()
            assert (listener.pending, calls.running) == (0, 0)
            await settled()  # a call may have ended in this very turn
            assert is_idle(hub)
        await hub.close()
        assert adds_up(listener)
        assert listener.pending == calls.running == 0
        got = [each for _, what in calls.all for each in (what if isinstance(what, list) else [what])]
        assert len(got) == listener.delivered

    run(main())


# batch=


def test_a_batch_is_called_when_it_is_full_or_its_first_message_has_waited_long_enough() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            calls.listen(hub, batch=(3, 5.0))
            for number in range(4):
                hub.publish(("a", "x"), number)
            await settled()
            assert calls.all == [(0.0, [0, 1, 2])]
            await asyncio.sleep(4)
            hub.publish(("a", "y"), 4)
            await asyncio.sleep(4)
            assert calls.all[1:] == [(5.0, [3, 4])]

    run(main())


async def test_a_batch_without_a_wait_has_what_came_during_the_last_call(hub: Hub) -> None:
    calls: list[list[Any]] = []
    gate = asyncio.Event()

    @hub.on("a", batch=(100, 0))
    async def listen(events: list[Event[Any]]) -> None:
        calls.append([message for _, message in events])
        await gate.wait()

    hub.publish("a", 0)
    await settled()
    for number in range(1, 5):
        hub.publish("a", number)
        await settled()
    gate.set()
    await settled(10)
    assert calls == [[0], [1, 2, 3, 4]]


async def test_a_batch_is_a_list_of_events(hub: Hub) -> None:
    got: list[Event[Any]] = []

    @hub.on(("a", "*"), batch=(2, 60))
    async def listen(events: list[Event[Any]]) -> None:
        assert type(events) is list
        got.extend(events)

    event = Event(Key("a", "x"), 1, Meta(id="7"))
    hub.publish_event(event)
    hub.publish(("a", "y"), 2)
    await settled()
    assert got == [(("a", "x"), 1), (("a", "y"), 2)]
    assert [type(each) for each in got] == [Event, Event]
    assert got[0].meta == Meta(id="7")
    assert got[0] is not event  # other queues have it, too


def test_an_error_of_a_batch_counts_for_all_its_messages() -> None:
    async def main() -> None:
        failures: list[ListenerFailure] = []
        async with Hub(on_error=failures.append) as hub:
            calls = Calls(failing=1)
            listener = calls.listen(hub, batch=(2, 60.0))
            publishes = [hub.publish_confirmed(("a", each), each) for each in "xy"]
            results = await asyncio.gather(*publishes, return_exceptions=True)
            for result in results:
                assert isinstance(result, DeliveryError)
                assert isinstance(result.exceptions[0].__cause__, ValueError)
            assert (listener.failed, listener.delivered) == (1, 2)
            [failure] = failures
            assert failure.key == ("a", "x")
            assert failure.message == ((("a", "x"), "x"), (("a", "y"), "y"))
            publishes = [hub.publish_confirmed(("a", each), each) for each in "xy"]
            assert await asyncio.gather(*publishes) == [1, 1]

    run(main())


def test_a_batch_confirms_all_its_messages_when_its_call_returns() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls(lasting=3.0)
            calls.listen(hub, batch=(10, 2.0))
            assert await hub.publish_confirmed(("a", "x"), 1) == 1
            assert calls.now == 5.0

    run(main())


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_durable_bridge_acknowledges_a_batch_when_its_call_returns(tmp_path: Path, ordered: bool) -> None:
    url = f"sqlite://{tmp_path}/messages.db"
    async with Hub() as sender, Bridge(sender, url, outgoing=["a", ("a", "*")]):
        for number in range(6):
            await sender.publish_confirmed(("a", str(number % 3)), number)
    calls: list[list[int]] = []

    async def listen(events: list[Event[int]]) -> None:
        calls.append([event.message for event in events])
        if len(calls) == 1:
            raise ValueError("not stored")

    async with Hub() as hub, Bridge(hub, url, incoming=[("a", "*")], group="g", ordered=ordered) as bridge:
        # In order, a message of a key comes when the one before it is finished: so three at a time.
        hub.add_listener(("a", "*"), listen, batch=(3 if ordered else 6, 3600))
        await until(lambda: len(calls) == (3 if ordered else 2))
        await until(lambda: bridge.health().in_flight == 0)
        assert bridge.health().failures == (3 if ordered else 6)
    expected = [[0, 1, 2], [0, 1, 2], [3, 4, 5]] if ordered else [[0, 1, 2, 3, 4, 5]] * 2
    assert [sorted(call) for call in calls] == expected
    async with Hub() as hub, Bridge(hub, url, incoming=[("a", "*")], group="g") as bridge:
        hub.add_listener(("a", "*"), listen, batch=(6, 0))
        await bridge.synced()
        assert bridge.health().received == 0


def test_one_message_of_a_batch_may_be_reported_as_failed_alone() -> None:
    async def main() -> None:
        async with Hub() as hub:

            @hub.on("a", batch=(2, 60.0))
            async def listen(events: list[Event[Any]]) -> None:
                events[1].fail(KeyError("this one"))
                events.clear()  # it is a list of its own

            results = await asyncio.gather(
                *[hub.publish_confirmed("a", number) for number in range(2)], return_exceptions=True
            )
            assert results[0] == 1
            assert isinstance(results[1], DeliveryError)
            assert isinstance(results[1].exceptions[0].__cause__, KeyError)

    run(main())


def test_a_batch_is_retried_as_a_whole_and_each_of_its_messages_becomes_a_dead_letter() -> None:
    async def main() -> None:
        failures: list[ListenerFailure] = []
        async with Hub(on_error=failures.append) as hub:
            letters: list[DeadLetter] = []
            hub.add_listener(("Hub", "deadLetter", "*"), lambda key, letter: letters.append(letter))
            calls: list[Any] = []

            async def listen(events: list[Event[Any]]) -> None:
                calls.append([event.message for event in events])
                events.clear()
                raise ValueError("no")

            listener = hub.add_listener(("a", "*"), listen, batch=(2, 60.0), retry=SOON)
            publishes = [hub.publish_confirmed(("a", each), each) for each in "xy"]
            results = await asyncio.gather(*publishes, return_exceptions=True)
            assert all(isinstance(result, DeliveryError) for result in results)
            assert calls == [["x", "y"]] * 2
            assert [(letter.key, letter.message, letter.attempts) for letter in letters] == [
                (("a", "x"), "x", 2),
                (("a", "y"), "y", 2),
            ]
            assert (len(failures), listener.failed) == (1, 1)

    run(main())


def test_several_batches_may_be_in_work_and_the_rest_waits_no_longer_for_that() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls(lasting=100.0)
            calls.listen(hub, batch=(2, 5.0), concurrency=3)
            for number in range(3):
                hub.publish(("a", "x"), number)
            await asyncio.sleep(6)
            assert calls.all == [(0.0, [0, 1]), (5.0, [2])]
            for number in range(3, 8):
                hub.publish(("a", "x"), number)
            await asyncio.sleep(6)
            assert calls.all[2:] == [(6.0, [3, 4])]
            assert calls.running == 3
            await asyncio.sleep(100)
            assert calls.all[3:] == [(100.0, [5, 6]), (105.0, [7])]

    run(main())


async def test_retained_messages_come_in_the_first_batches(hub: Hub) -> None:
    hub.retain(("a", "*"), 5)
    for number in range(5):
        hub.publish(("a", "x"), number)
    calls = Calls()
    listener = calls.listen(hub, batch=(3, 60), history=5)
    await settled(10)
    assert [what for _, what in calls.all] == [[0, 1, 2], [3, 4]]
    assert adds_up(listener)


async def test_a_batch_has_only_messages_that_where_wants(hub: Hub) -> None:
    calls = Calls()
    listener = calls.listen(hub, batch=(2, 60), where=lambda key, message: message % 2)
    for number in range(4):
        hub.publish(("a", "x"), number)
    await settled()
    assert [what for _, what in calls.all] == [[1, 3]]
    assert listener.filtered == 2


@pytest.mark.parametrize("options", EACH)
async def test_a_gap_is_announced_before_the_call_that_lacks_its_messages(hub: Hub, options: dict[str, Any]) -> None:
    seen: list[Any] = []
    hub.add_listener(("Hub", "gap", "*"), lambda key, gap: seen.append(gap))
    overflow = Overflow.DROP_OLDEST if "batch" in options else Overflow.LATEST
    if "batch" in options:
        options = {"batch": (2, 60.0)}

    async def listen(*arguments: Any) -> None:
        seen.append(arguments)

    listener = hub.add_listener(("a", "*"), listen, maxsize=2, overflow=overflow, **options)
    for number in range(3):
        hub.publish(("a", str(number)), number)
    if "debounce" in options:
        await hub.close()
    await settled(10)
    assert isinstance(seen[0], Gap)
    assert (seen[0].count, seen[0].keys) == (1, (("a", "0"),))
    assert len(seen) == (2 if "batch" in options else 3)
    assert (listener.delivered, listener.dropped) == (2, 1)


def test_under_latest_a_key_keeps_its_place_and_waits_no_longer_for_being_replaced() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            calls.listen(hub, batch=(10, 5.0), overflow=Overflow.LATEST)
            for number in range(12):
                hub.publish(("a", "x"), number)
                await asyncio.sleep(1)
            assert calls.all == [(5.0, [4]), (10.0, [9])]

    run(main())


# debounce=


def test_a_debounced_listener_gets_the_last_message_of_a_key_that_has_been_silent() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            listener = calls.listen(hub, debounce=5.0)
            for number in range(4):
                hub.publish(("a", "x"), number)
                await asyncio.sleep(2)
            hub.publish(("a", "y"), 4)
            await asyncio.sleep(20)
            assert calls.all == [(11.0, ("x", 3)), (13.0, ("y", 4))]
            assert (listener.accepted, listener.delivered, listener.superseded) == (5, 2, 3)

    run(main())


async def test_a_message_that_another_has_superseded_counts_as_finished(hub: Hub) -> None:
    calls = Calls()
    calls.listen(hub, debounce=60)
    first = asyncio.create_task(hub.publish_confirmed(("a", "x"), 1))
    await settled()
    assert not first.done()
    hub.publish(("a", "x"), 2)
    assert await first == 1
    assert calls.all == []


def test_of_the_retained_messages_of_a_key_the_last_is_debounced() -> None:
    async def main() -> None:
        async with Hub() as hub:
            hub.retain(("a", "*"), 5)
            for number in range(3):
                hub.publish(("a", "x"), number)
            calls = Calls()
            listener = calls.listen(hub, debounce=5.0, history=5)
            assert (listener.accepted, listener.pending, listener.superseded) == (3, 1, 2)
            await asyncio.sleep(6)
            assert calls.all == [(5.0, ("x", 2))]

    run(main())


# throttle=


def test_a_throttled_listener_gets_the_first_message_at_once_and_later_the_last() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            listener = calls.listen(hub, throttle=5.0)
            for number in range(4):
                hub.publish(("a", "x"), number)
                await asyncio.sleep(1)
            hub.publish(("a", "y"), 4)
            await asyncio.sleep(20)
            hub.publish(("a", "x"), 5)
            await settled()
            assert calls.all == [(0.0, ("x", 0)), (4.0, ("y", 4)), (5.0, ("x", 3)), (24.0, ("x", 5))]
            assert listener.superseded == 2

    run(main())


def test_a_throttled_listener_remembers_at_most_maxsize_keys() -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            calls.listen(hub, throttle=5.0, maxsize=10)
            for number in range(100):
                hub.publish(("a", str(number)), number)
                await asyncio.sleep(0.001)
            hub.publish(("a", "99"), "late")
            hub.publish(("a", "0"), "forgotten")
            await settled()
            assert calls.all[100:] == [(0.1, ("0", "forgotten"))]
            await asyncio.sleep(6)
            assert [what for _, what in calls.all[101:]] == [("99", "late")]

    run(main())


# With other options, and with the life of the hub


@pytest.mark.parametrize("options", EACH)
def test_closing_the_hub_delivers_what_waits_and_takes_no_time(options: dict[str, Any]) -> None:
    async def main() -> None:
        hub = Hub()
        calls = Calls()
        listener = calls.listen(hub, **options)
        hub.publish(("a", "x"), 1)
        await settled()
        hub.publish(("a", "x"), 2)
        hub.publish(("a", "y"), 3)
        await hub.close()
        assert calls.now == 0.0
        got = [what for _, what in calls.all]
        assert got == [[1, 2, 3]] if "batch" in options else {("x", 2), ("y", 3)} <= set(got)
        assert (listener.pending, listener.dropped) == (0, 0)
        with pytest.raises(HubClosed):
            hub.publish(("a", "x"), 4)
        assert is_idle(hub)

    run(main())


@pytest.mark.parametrize("options", EACH)
def test_closing_a_subscriber_delivers_what_waits(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            async with Subscriber(hub, "s") as subscriber:
                function = calls.batch if "batch" in options else calls.single
                listener = subscriber.add_async_listener(("a", "*"), function, **options)
                hub.publish(("a", "x"), 1)
                await settled()
                hub.publish(("a", "x"), 2)
            assert calls.now == 0.0
            assert calls.all[-1][1] in ([1, 2], ("x", 2))
            assert listener.pending == 0
            assert is_idle(hub)

    run(main())


def test_what_is_published_while_the_hub_closes_is_delivered_at_once() -> None:
    async def main() -> None:
        hub = Hub()
        calls = Calls()
        calls.listen(hub, "b", batch=(10, 5.0))

        @hub.on("a")
        async def pass_on(key: Key[Any], message: Any) -> None:
            await asyncio.sleep(1)
            hub.publish("b", message)

        hub.publish("a", 1)
        await hub.close()
        assert calls.all == [(1.0, [1])]

    run(main())


@pytest.mark.parametrize("options", EACH)
def test_removal_drops_what_waits_and_leaves_nothing_behind(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls()
            listener = calls.listen(hub, **options)
            hub.publish(("a", "x"), 1)
            await settled()
            hub.publish(("a", "x"), 2)
            await listener.remove()
            assert adds_up(listener)
            assert listener.dropped == listener.accepted - listener.delivered - listener.superseded
            assert is_idle(hub)
            assert len(calls.all) == ("throttle" in options)
            known = weakref.ref(calls)
            del listener, calls
            await settled()
            hub.publish(("a", "z"))
            gc.collect()
            assert known() is None
            await asyncio.sleep(20)

    run(main())


@pytest.mark.parametrize("options", EACH)
def test_a_call_in_progress_is_cancelled_by_removal(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls(lasting=100.0)
            listener = calls.listen(hub, **options)
            hub.publish(("a", "x"), 1)
            await asyncio.sleep(6)
            assert calls.running == 1
            await listener.remove()
            assert (calls.running, calls.now, listener.failed) == (0, 6.0, 0)

    run(main())


@pytest.mark.parametrize("options", EACH)
def test_what_a_listener_publishes_to_itself_waits_its_time(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            times: list[float] = []
            calls = Calls()

            async def listen(*arguments: Any) -> None:
                times.append(calls.now)
                if len(times) < 3:
                    hub.publish(("a", "x"))

            hub.add_listener(("a", "*"), listen, **options)
            hub.publish(("a", "x"))
            await asyncio.sleep(60)
            assert times == ([0.0, 5.0, 10.0] if "throttle" in options else [5.0, 10.0, 15.0])

    run(main())


@pytest.mark.parametrize("options", EACH)
def test_what_was_published_before_a_loop_ran_is_due_when_one_runs(options: dict[str, Any]) -> None:
    hub = Hub()
    got: list[Any] = []

    async def listen(*arguments: Any) -> None:
        got.append(arguments)

    hub.add_listener(("a", "*"), listen, **options)
    hub.publish(("a", "x"), 1)

    async def main() -> None:
        await hub.start()
        await settled()
        assert len(got) == 1
        hub.publish(("a", "x"), 2)
        hub.publish(("a", "y"), 3)

    run(main())

    async def again() -> None:
        # By the clock of this loop it is earlier.
        await hub.start()
        await settled()
        messages = [(("a", "x"), 2), (("a", "y"), 3)]
        assert sorted(got[1:]) == ([(messages,)] if "batch" in options else messages)
        await hub.close()

    with asyncio.Runner(loop_factory=lambda: _loop_at(-1000.0)) as runner:
        runner.run(again())


def _loop_at(now: float) -> VirtualLoop:
    loop = VirtualLoop()
    loop.now = now
    return loop


@pytest.mark.parametrize("options", EACH)
def test_a_listener_whose_task_was_cancelled_from_outside_goes_on(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls = Calls(lasting=10.0)
            listener = calls.listen(hub, **options)
            hub.publish(("a", "x"), 1)
            await asyncio.sleep(6)
            [task] = listener.tasks
            task.cancel()
            await asyncio.sleep(1)
            assert listener.failed == 1
            hub.publish(("a", "x"), 2)
            await asyncio.sleep(6)
            assert len(calls.all) == 2

    run(main())


async def test_publish_wait_waits_for_room_in_a_full_batch(hub: Hub) -> None:
    gate = asyncio.Event()
    calls: list[int] = []

    @hub.on("a", batch=(2, 60), maxsize=2)
    async def listen(events: list[Event[Any]]) -> None:
        calls.append(len(events))
        await gate.wait()

    async with asyncio.timeout(10):
        for number in range(4):
            await hub.publish_wait("a", number)
    waiting = asyncio.create_task(hub.publish_wait("a", 4))
    await settled()
    assert (calls, waiting.done()) == ([2], False)
    gate.set()
    assert await waiting == 1
    await settled()
    assert calls == [2, 2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("options", EACH)
def test_an_eager_task_factory_changes_nothing_for_a_paced_listener(options: dict[str, Any]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        hub = Hub()
        calls = Calls(1.0)
        listener = calls.listen(hub, concurrency=2, **options)
        for number in range(3):
            hub.publish(("a", str(number)), number)
            hub.publish(("a", str(number)), number)
        await asyncio.sleep(8)
        hub.publish(("a", "last"), 3)
        await hub.close()
        got = [each for _, what in calls.all for each in (what if isinstance(what, list) else [what[1]])]
        assert got == ([0, 0, 1, 1, 2, 2, 3] if "batch" in options else [0, 1, 2, 3])
        assert (listener.pending, calls.running, is_idle(hub)) == (0, 0, True)

    run(main())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": (10, 1), "debounce": 1}, "debounce must be None with batch=: only one of batch="),
        ({"debounce": 1, "throttle": 1}, "throttle must be None with debounce="),
        ({"batch": 10}, r"batch must be \(messages, seconds\), such as \(100, 0.05\), not 10"),
        ({"batch": (0, 1)}, "the first part of batch must be a number of messages, at least 1, not 0"),
        ({"batch": (10, -1)}, "the second part of batch must be a number of seconds, not -1"),
        ({"debounce": 0}, "debounce must be a number of seconds, more than 0, not 0"),
        ({"throttle": "1"}, "throttle must be a number of seconds, more than 0, not '1'"),
        ({"batch": (10, 1), "once": True}, "once must be False with batch="),
        ({"throttle": 1, "once": True}, "once must be False with throttle="),
        ({"debounce": 1, "context": "publisher"}, "context must be 'listener' with debounce="),
        ({"batch": (10, 1), "maxsize": 9}, "batch must be of at most maxsize=9 messages, not 10"),
        ({"debounce": 1, "overflow": Overflow.DROP_OLDEST}, "overflow must be Overflow.LATEST with debounce="),
    ],
)
def test_options_that_contradict_each_other_are_refused(hub: Hub, options: dict[str, Any], message: str) -> None:
    async def listen(*arguments: Any) -> None: ...

    with pytest.raises(ValueError, match=message):
        hub.add_listener("a", listen, **options)
    assert hub.stats().subscriptions == 0


def test_only_an_async_function_of_one_argument_gets_batches(hub: Hub) -> None:
    async def listen(key: Key[Any], message: Any) -> None: ...

    def plain(events: list[Event[Any]]) -> None: ...

    with pytest.raises(
        InvalidListener, match="called with a list of events, and needs message as well; without batch="
    ):
        hub.add_listener("a", listen, batch=(10, 1))
    with pytest.raises(InvalidListener, match="batch: only for async listeners"):
        hub.add_listener("a", plain, batch=(10, 1))
    with pytest.raises(InvalidListener, match="debounce: only for async listeners"):
        hub.add_listener("a", print, debounce=1)


def test_a_responder_has_no_pace(hub: Hub) -> None:
    async def answer(key: Key[Any], message: Any) -> None: ...

    respond: Any = hub.respond
    with pytest.raises((InvalidListener, TypeError)):
        respond("a", answer, throttle=1)


@pytest.mark.parametrize("options", EACH)
def test_a_wrapper_is_called_around_each_call_and_gets_a_batch_as_its_message(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with Hub(context="publisher") as hub:
            calls = Calls()
            calls.listen(hub, **options)
            wrapped: list[Any] = []

            async def wrap(call: Call[Any]) -> None:
                wrapped.append((call.key, call.message))
                await call()

            with hub.wrap(("a", "*"), wrap):
                hub.publish(("a", "x"), 1)
                await asyncio.sleep(6)
            hub.publish(("a", "x"), 2)
            await asyncio.sleep(6)
            batched = "batch" in options
            assert wrapped == [(("a", "x"), ((("a", "x"), 1),) if batched else 1)]
            assert [what for _, what in calls.all] == ([[1], [2]] if batched else [("x", 1), ("x", 2)])

    run(main())
