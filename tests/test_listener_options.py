"""What can be said of a listener: how many calls at once, trying again, only once, only some messages."""

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_queue import settled, until

from hubsub import (
    DeadLetter,
    Event,
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

SOON = Retry(attempts=3, backoff=0.001, jitter=False)
NEVER = Retry(attempts=2, backoff=3600, maximum=3600, jitter=False)  # waits longer than any test
ASYNC_ONLY: list[dict[str, Any]] = [{}, {"concurrency": 3}, {"retry": SOON}, {"concurrency": 3, "retry": SOON}]


class Calls:
    """An async listener whose calls wait until they are let go."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.running: set[Any] = set()
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []
        self.most = 0
        self.gate = asyncio.Semaphore(0)

    async def __call__(self, key: Key[Any], message: Any) -> None:
        self.started.append(message)
        self.running.add(message)
        self.most = max(self.most, len(self.running))
        try:
            await self.gate.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        finally:
            self.running.discard(message)
        self.ended.append(message)

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()


def adds_up(listener: Any) -> bool:
    figures = (listener.delivered, listener.pending, listener.dropped, listener.superseded)
    return bool(listener.accepted == sum(figures) and min(figures) >= 0)


def no_tasks() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# concurrency=


async def test_up_to_so_many_calls_run_at_the_same_time_and_start_in_order(hub: Hub) -> None:
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=3)
    for number in range(7):
        hub.publish("a", number)
    await settled()
    assert calls.started == [0, 1, 2]
    assert (listener.delivered, listener.pending) == (3, 4)
    calls.let_go()
    await settled()
    assert calls.started == [0, 1, 2, 3]
    calls.let_go(100)
    await settled(20)
    assert calls.started == list(range(7))
    assert sorted(calls.ended) == list(range(7))
    assert calls.most == 3
    assert adds_up(listener)
    assert no_tasks()


async def test_a_message_that_comes_while_few_calls_run_starts_one_more(hub: Hub) -> None:
    calls = Calls()
    hub.add_listener("a", calls, concurrency=2)
    for number in range(3):
        hub.publish("a", number)
        await settled()
    assert calls.started == [0, 1]
    calls.let_go(3)
    await settled(10)
    hub.publish("a", 3)
    hub.publish("a", 4)
    await settled()
    assert calls.running == {3, 4}
    calls.let_go(2)


async def test_closing_drains_every_call() -> None:
    hub = Hub()
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=3)
    for number in range(8):
        hub.publish("a", number)
    closing = asyncio.create_task(hub.close())
    await settled(10)
    assert calls.started == [0, 1, 2]
    calls.let_go(8)
    await closing
    assert sorted(calls.ended) == list(range(8))
    assert (listener.delivered, listener.dropped) == (8, 0)
    assert no_tasks()


async def test_what_is_not_drained_in_time_is_cancelled_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(drain=0.01)
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=2)
    for number in range(5):
        hub.publish("a", number)
    await hub.close()
    assert sorted(calls.cancelled) == [0, 1]
    assert (listener.accepted, listener.delivered, listener.dropped, listener.failed) == (5, 2, 3, 2)
    assert "closed with 3 messages" in caplog.text
    assert caplog.text.count("cut off by closing") == 2
    assert no_tasks()


async def test_removal_cancels_every_call_in_progress(hub: Hub) -> None:
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=3)
    for number in range(5):
        hub.publish("a", number)
    await settled()
    removal = listener.remove()
    assert (listener.pending, listener.dropped) == (0, 2)
    await removal
    assert sorted(calls.cancelled) == [0, 1, 2]
    assert adds_up(listener)
    assert no_tasks()


@pytest.mark.parametrize("how", ["call", "task"])
async def test_removing_from_inside_cancels_the_other_calls_but_not_the_own(hub: Hub, how: str) -> None:
    calls = Calls()
    finished: list[Any] = []

    async def remove() -> None:
        await listener.remove()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "remove":
            await (remove() if how == "call" else asyncio.create_task(remove()))
            await asyncio.sleep(0)
            finished.append(message)
        else:
            await calls(key, message)

    listener = hub.add_listener("a", listen, concurrency=3)
    for message in (1, 2, "remove", 3):
        hub.publish("a", message)
    await settled(10)
    assert finished == ["remove"]
    assert calls.cancelled == [1, 2]
    assert (listener.closed, listener.dropped, listener.failed) == (True, 1, 0)
    assert no_tasks()


async def test_closing_the_hub_from_inside_drains_the_other_calls() -> None:
    hub = Hub()
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message in ("close", "close too"):
            await hub.close()
        else:
            await asyncio.sleep(0.005)
        seen.append(message)

    listener = hub.add_listener("a", listen, concurrency=3)
    for message in (1, "close", 2, "close too", 3):
        hub.publish("a", message)
    await until(lambda: len(seen) == 5)
    await settled()
    assert (listener.delivered, listener.dropped) == (5, 0)
    assert not hub.is_open
    assert no_tasks()


@pytest.mark.parametrize("options", ASYNC_ONLY)
async def test_a_failing_call_hurts_no_other(options: dict[str, Any]) -> None:
    failures: list[ListenerFailure] = []
    hub = Hub(on_error=failures.append)
    seen: list[int] = []

    async def fussy(key: Key[Any], message: int) -> None:
        await asyncio.sleep(0)
        if message % 2:
            raise ValueError(message)
        seen.append(message)

    listener = hub.add_listener("a", fussy, **options)
    for number in range(6):
        hub.publish("a", number)
    await until(lambda: listener.failed == 3 and len(seen) == 3)
    assert sorted(seen) == [0, 2, 4]
    assert sorted(failure.message for failure in failures) == [1, 3, 5]
    assert (listener.accepted, listener.delivered, listener.closed) == (6, 6, False)
    assert hub.stats().failed == 3
    await hub.close()


@pytest.mark.parametrize("options", ASYNC_ONLY)
async def test_a_leaked_cancelled_error_is_a_failure_of_its_call_only(hub: Hub, options: dict[str, Any]) -> None:
    async def leaky(key: Key[Any], message: Any) -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    listener = hub.add_listener("a", leaky, **options)
    for _ in range(5):
        hub.publish("a")
    await settled(20)
    assert (listener.failed, listener.delivered, listener.closed) == (5, 5, False)


async def test_a_call_whose_task_is_cancelled_from_outside_has_failed_and_the_listener_goes_on(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Any] = []
    hub.on_error = failures.append
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=2)
    for number in range(4):
        hub.publish("a", number)
    await settled()
    next(task for task in asyncio.all_tasks() if "listener" in task.get_name()).cancel()
    await until(lambda: len(calls.started) == 3)
    assert len(calls.cancelled) == 1
    assert (listener.closed, listener.delivered, listener.dropped, listener.failed) == (False, 3, 0, 1)
    assert [failure.message for failure in failures] == calls.cancelled
    assert caplog.text == ""  # a program may be about to end
    await listener.remove()
    assert no_tasks()


async def test_calls_do_not_share_their_context_but_that_of_the_registration(hub: Hub) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="unset")
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(variable.get())
        variable.set(message)
        await asyncio.sleep(0)
        assert variable.get() == message

    token = variable.set("registered")
    listener = hub.add_listener("a", listen, concurrency=2)
    variable.reset(token)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await settled()
    assert seen == ["registered", "registered"]
    assert listener.failed == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_an_eager_task_factory_changes_nothing_for_concurrent_calls(hub: Hub) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    hub.add_listener("a", listen, concurrency=2)
    for number in range(4):
        hub.publish("a", number)
    assert seen == []
    await settled()
    assert seen == [0, 1, 2, 3]
    asyncio.get_running_loop().set_task_factory(None)


async def test_concurrent_calls_yield_to_the_loop_now_and_then(hub: Hub) -> None:
    turns: list[int] = []
    ticks = 0

    async def listen(key: Key[Any], message: int) -> None:
        turns.append(ticks)

    listener = hub.add_listener("a", listen, concurrency=2)
    for number in range(2000):
        hub.publish("a", number)
    while listener.pending:
        ticks += 1
        await asyncio.sleep(0)
    assert max(turns.count(tick) for tick in turns) <= 2 * 256


def test_what_was_published_before_the_loop_is_handled_by_several_when_it_runs() -> None:
    hub = Hub()
    most: list[int] = []

    async def main() -> None:
        calls = Calls()
        async with hub:
            hub.add_listener("b", calls, concurrency=3)
            for number in range(5):
                hub.publish("b", number)
            await settled()
            most.append(calls.most)
            calls.let_go(5)

    running = 0

    @hub.on("a", concurrency=3)
    async def listen(key: Key[Any], message: Any) -> None:
        nonlocal running
        running += 1
        most.append(running)
        await asyncio.sleep(0)
        running -= 1

    for number in range(5):
        hub.publish("a", number)
    asyncio.run(main())
    assert len(most) == 6
    assert max(most) == 3
    most.clear()
    asyncio.run(main())
    assert most == [3]


def test_a_run_that_ends_in_the_middle_of_calls_leaves_the_rest_for_the_next() -> None:
    hub = Hub()
    seen: list[Any] = []
    blocking = True

    @hub.on("a", concurrency=2)
    async def listen(key: Key[Any], message: Any) -> None:
        if blocking:
            await asyncio.Event().wait()
        seen.append(message)

    async def first() -> None:
        for number in range(5):
            hub.publish("a", number)
        await settled()

    async def second() -> None:
        hub.publish("a", 5)
        await settled(10)
        await hub.close()

    asyncio.run(first())
    blocking = False
    asyncio.run(second())
    assert seen == [2, 3, 4, 5]


def test_a_loop_closed_without_ending_its_calls_leaves_the_listener_usable() -> None:
    hub = Hub()
    seen: list[Any] = []

    @hub.on("a", concurrency=2)
    async def listen(key: Key[Any], message: Any) -> None:
        if message < 2:
            await asyncio.Event().wait()
        seen.append(message)

    loop = asyncio.new_event_loop()

    async def first() -> None:
        for number in range(3):
            hub.publish("a", number)
        await settled()

    loop.run_until_complete(first())
    loop.close()

    async def second() -> None:
        await hub.start()
        hub.publish("a", 3)
        await hub.close()

    asyncio.run(second())
    assert seen == [2, 3]


async def test_a_hub_opened_again_during_a_call_goes_on_with_all_of_them() -> None:
    hub = Hub()
    closed, opened = asyncio.Event(), asyncio.Event()
    calls = Calls()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "close":
            await hub.close()
            closed.set()
            await opened.wait()
        else:
            await calls(key, message)

    listener = hub.add_listener("a", listen, concurrency=2)
    hub.publish("a", "close")
    await closed.wait()
    await hub.start()
    for number in range(3):
        hub.publish("a", number)
    await settled()
    assert calls.started == [0]
    opened.set()
    await settled()
    assert calls.started == [0, 1]
    calls.let_go(3)
    await settled()
    assert sorted(calls.ended) == [0, 1, 2]
    assert adds_up(listener)
    await hub.close()
    assert no_tasks()


async def test_a_concurrent_listener_that_is_too_slow_handles_what_is_queued_and_ends(hub: Hub) -> None:
    calls = Calls()
    listener = hub.add_listener("a", calls, concurrency=2, maxsize=3, overflow=Overflow.CLOSE)
    for number in range(2):
        hub.publish("a", number)
    await settled()
    for number in range(2, 7):
        hub.publish("a", number)
    assert listener.closed
    calls.let_go(10)
    await settled(10)
    assert sorted(calls.ended) == [0, 1, 2, 3, 4]
    assert (listener.accepted, listener.delivered, listener.dropped) == (6, 5, 1)
    assert no_tasks()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["publish", "let go", "turn", "fail"]), max_size=60),
    concurrency=st.integers(1, 4),
    overflow=st.sampled_from([Overflow.GROW, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST]),
    ending=st.sampled_from(["remove", "close"]),
)
def test_figures_add_up_whatever_runs_at_the_same_time(
    steps: list[str], concurrency: int, overflow: Overflow, ending: str
) -> None:
    async def program() -> None:
        hub = Hub()
        calls = Calls()

        async def listen(key: Key[Any], message: Any) -> None:
            await calls(key, message)
            if message % 3 == 0:
                raise ValueError(message)

        listener = hub.add_listener("a", listen, concurrency=concurrency, maxsize=5, overflow=overflow)
        published = 0
        for step in steps:
            if step == "publish":
                hub.publish("a", published)
                published += 1
            elif step == "let go":
                calls.let_go()
            else:
                await settled(3)
            assert adds_up(listener)
            assert listener.accepted == published
            assert len(calls.started) <= listener.delivered
            assert calls.most <= concurrency
        assert calls.started == sorted(calls.started)
        if ending == "remove":
            await listener.remove()
        else:
            calls.let_go(published)
        await hub.close()
        assert adds_up(listener)
        assert listener.pending == 0
        assert len(calls.started) == listener.delivered
        assert no_tasks()

    asyncio.run(program())


# retry=


class Flaky:
    """An async listener that fails so many times with each message."""

    def __init__(self, failures: int, error: type[BaseException] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.calls: list[Any] = []

    async def __call__(self, key: Key[Any], message: Any) -> None:
        self.calls.append(message)
        if self.calls.count(message) <= self.failures:
            raise self.error(message)


def letters_of(hub: Hub) -> list[tuple[Key[Any], DeadLetter]]:
    letters: list[tuple[Key[Any], DeadLetter]] = []
    hub.add_listener(("Hub", "deadLetter", "*"), lambda key, letter: letters.append((key, letter)))
    return letters


async def test_a_failing_call_is_tried_again_in_place(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    letters = letters_of(hub)
    flaky = Flaky(2)
    listener = hub.add_listener("a", flaky, retry=SOON)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await until(lambda: len(flaky.calls) == 6)
    assert flaky.calls == [1, 1, 1, 2, 2, 2]
    assert (listener.failed, listener.delivered, letters) == (0, 2, [])
    assert not caplog.records


async def test_later_messages_overtake_only_where_calls_may_run_at_the_same_time(hub: Hub) -> None:
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == 1 and "again" not in seen:
            seen.append("again")
            raise ValueError
        seen.append(message)

    hub.add_listener("a", listen, concurrency=2, retry=SOON)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await until(lambda: len(seen) == 3)
    assert seen == ["again", 2, 1]


async def test_what_is_given_up_is_reported_once_and_published_as_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[ListenerFailure] = []
    hub = Hub(on_error=failures.append)
    letters = letters_of(hub)
    flaky = Flaky(10)
    listener = hub.add_listener(("a", "*"), flaky, retry=SOON)
    hub.publish(("a", "b"), "message")
    await until(lambda: bool(letters))
    assert len(flaky.calls) == 3
    ((key, letter),) = letters
    assert key == ("Hub", "deadLetter", "a", "b")
    assert (letter.key, letter.message, letter.attempts) == (("a", "b"), "message", 3)
    assert isinstance(letter.error, ValueError)
    assert [failure.error for failure in failures] == [letter.error]
    assert (listener.failed, listener.delivered, hub.stats().failed) == (1, 1, 1)
    (record,) = caplog.records
    assert "failed on ('a', 'b')" in record.getMessage()
    await hub.close()


async def test_only_the_named_exceptions_are_tried_again(hub: Hub) -> None:
    letters = letters_of(hub)
    flaky = Flaky(1, KeyError)
    hub.add_listener("a", flaky, retry=Retry(attempts=5, backoff=0, on=(ConnectionError, TimeoutError)))
    hub.publish("a", 1)
    await settled(10)
    assert flaky.calls == [1]
    assert [letter.attempts for _, letter in letters] == [1]
    lost = Flaky(1, ConnectionResetError)
    hub.add_listener("b", lost, retry=Retry(backoff=0, on=ConnectionError))
    hub.publish("b", 2)
    await until(lambda: lost.calls == [2, 2])


async def test_an_event_listener_is_tried_again_with_the_event(hub: Hub) -> None:
    letters = letters_of(hub)
    seen: list[Event[Any]] = []

    async def listen(event: Event[Any]) -> None:
        seen.append(event)
        raise ValueError

    hub.add_listener("a", listen, event=True, retry=SOON)
    hub.publish_event(Event(Key("a"), 1, Meta(source="x")))
    await until(lambda: bool(letters))
    assert [event.meta.source for event in seen if event.meta] == ["x"] * 3
    assert letters[0][1].message == 1


async def test_a_failure_with_a_dead_letter_makes_no_other(hub: Hub) -> None:
    handled: list[Any] = []

    async def bury(key: Key[Any], letter: Any) -> None:
        handled.append(key)
        raise RuntimeError("worse")

    gravedigger = hub.add_listener(("Hub", "deadLetter", "*"), bury, retry=SOON)
    everything = hub.subscribe(("Hub", "deadLetter", "*"))
    hub.add_listener("a", Flaky(10), retry=SOON)
    hub.publish("a", 1)
    await until(lambda: gravedigger.failed == 1)
    await settled(10)
    assert handled == [("Hub", "deadLetter", "a")] * 3
    assert everything.accepted == 1
    everything.close()


async def test_a_listener_without_retry_makes_no_dead_letters(hub: Hub) -> None:
    letters = letters_of(hub)
    listener = hub.add_listener("a", Flaky(1))
    hub.publish("a", 1)
    await settled()
    assert (listener.failed, letters) == (1, [])


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_removal_cuts_the_wait_short_and_the_message_is_given_up(hub: Hub, concurrency: int) -> None:
    letters = letters_of(hub)
    flaky = Flaky(10)
    listener = hub.add_listener("a", flaky, retry=NEVER, concurrency=concurrency)
    hub.publish("a", 1)
    await settled()
    await listener.remove()
    assert flaky.calls == [1]
    assert [(letter.message, letter.attempts) for _, letter in letters] == [(1, 1)]
    assert (listener.failed, listener.delivered) == (1, 1)
    assert no_tasks()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_closing_leaves_time_for_every_attempt(concurrency: int) -> None:
    hub = Hub(drain=3.0)
    letters: list[Any] = []

    @hub.on(("Hub", "deadLetter", "*"))
    async def bury(key: Key[Any], letter: DeadLetter) -> None:
        letters.append((letter.message, letter.attempts))

    # These two find what they miss when they are called the third time, the other one never does.
    flaky = Flaky(2)
    hub.add_listener("a", flaky, retry=NEVER._replace(attempts=3), concurrency=concurrency)
    hopeless = hub.add_listener("b", Flaky(100), retry=NEVER._replace(attempts=4), concurrency=concurrency)
    for key in "ab":
        hub.publish(key, key)
    await settled()
    assert flaky.calls == ["a"]
    await hub.close()
    assert flaky.calls == ["a"] * 3
    assert letters == [("b", 4)]
    assert (hopeless.failed, hopeless.delivered, hopeless.dropped) == (1, 1, 0)
    assert no_tasks()


async def test_what_still_fails_at_the_end_of_the_drain_is_given_up_while_that_can_be_heard_of() -> None:
    failures: list[Any] = []
    hub = Hub(drain=1.0, on_error=failures.append)
    letters = letters_of(hub)
    flaky = Flaky(1000)
    listener = hub.add_listener("a", flaky, retry=NEVER._replace(attempts=1000))
    for number in range(3):
        hub.publish("a", number)
    await settled()
    await hub.close()
    assert (listener.failed, listener.delivered, listener.dropped) == (3, 3, 0)
    assert [letter.message for _, letter in letters] == [failure.message for failure in failures] == [0, 1, 2]
    assert 1 < letters[0][1].attempts < 10
    assert flaky.calls.count(2) == 1


async def test_a_message_whose_wait_is_cancelled_has_failed_once() -> None:
    failures: list[Any] = []
    hub = Hub(drain=60, on_error=failures.append)
    letters = letters_of(hub)
    listener = hub.add_listener("a", Flaky(10), retry=NEVER)
    hub.publish("a", 1)
    await settled()
    closing = asyncio.create_task(hub.close())
    for _ in range(2):
        await settled()
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (listener.failed, listener.delivered) == (1, 1)
    assert [(failure.message, type(failure.error)) for failure in failures] == [(1, ValueError)]
    assert letters == []  # a closed hub publishes nothing


async def test_a_message_given_up_after_the_drain_is_counted_though_nothing_can_be_published() -> None:
    failures: list[Any] = []
    hub = Hub(drain=0, on_error=failures.append)
    hub.add_listener(("Hub", "deadLetter", "*"), Flaky(0))
    listener = hub.add_listener("a", Flaky(10), retry=NEVER)
    hub.publish("a", 1)
    await settled()
    await hub.close()
    assert (listener.failed, len(failures)) == (1, 1)
    with pytest.raises(HubClosed):
        hub.publish("a")
    assert no_tasks()


async def test_removing_from_a_task_that_the_call_started_cuts_the_wait_short(hub: Hub) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def remove() -> None:
        await asyncio.sleep(0.005)
        await listener.remove()

    async def listen(key: Key[Any], message: Any) -> None:
        tasks.append(asyncio.create_task(remove()))
        raise ValueError

    listener = hub.add_listener("a", listen, retry=NEVER)
    hub.publish("a", 1)
    await until(lambda: listener.failed == 1)
    await asyncio.gather(*tasks)
    assert listener.closed


async def test_a_call_that_removal_cancels_is_no_failure(hub: Hub) -> None:
    letters = letters_of(hub)
    calls = Calls()
    listener = hub.add_listener("a", calls, retry=SOON)
    hub.publish("a", 1)
    await settled()
    await listener.remove()
    assert (calls.cancelled, listener.failed, letters) == ([1], 0, [])


@given(
    attempts=st.integers(1, 3000),
    backoff=st.floats(0, 100),
    factor=st.floats(1, 1e300),
    maximum=st.floats(0, 100),
    jitter=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_waits_grow_by_the_factor_up_to_the_maximum(
    attempts: int, backoff: float, factor: float, maximum: float, jitter: bool
) -> None:
    delays = list(Retry(attempts, backoff, factor, maximum, jitter).delays())
    longest = list(Retry(attempts, backoff, factor, maximum, jitter=False).delays())
    assert len(delays) == len(longest) == attempts - 1
    assert longest == sorted(longest)
    assert all(0 <= delay <= bound <= maximum for delay, bound in zip(delays, longest, strict=True))
    for before, after in pairwise(longest):
        assert after == min(before * factor, maximum)
    assert longest[:1] == [min(backoff, maximum)][: attempts - 1]


def test_a_retry_is_a_value() -> None:
    assert Retry() == Retry(attempts=3, backoff=0.1, factor=2.0, maximum=10.0, jitter=True, on=(Exception,))
    assert len({Retry(), Retry()}) == 1
    with pytest.raises(AttributeError):
        Retry().attempts = 4  # type: ignore[misc]


# once=


def test_a_sync_listener_with_once_gets_exactly_one_message(loopless: Hub) -> None:
    seen: list[Any] = []
    listener = loopless.add_listener(("a", "*"), lambda key, message: seen.append(message), once=True)
    assert [loopless.publish(("a", "b"), number) for number in range(3)] == [1, 0, 0]
    assert seen == [0]
    assert (listener.closed, listener.accepted, listener.delivered) == (True, 1, 1)


@pytest.mark.parametrize("options", ASYNC_ONLY)
async def test_an_async_listener_with_once_handles_one_message_and_ends(hub: Hub, options: dict[str, Any]) -> None:
    calls = Calls()
    listener = hub.add_listener("a", calls, once=True, **options)
    assert [hub.publish("a", number) for number in range(3)] == [1, 0, 0]
    await settled()
    assert (calls.started, listener.closed, listener.accepted) == ([0], True, 1)
    calls.let_go()
    await settled()
    assert calls.ended == [0]
    assert adds_up(listener)
    assert not hub._life.running
    assert no_tasks()


@pytest.mark.parametrize("cached", [True, False])
def test_a_publish_from_inside_does_not_reach_it_again(cached: bool) -> None:
    hub = Hub(route_cache=100 if cached else 0)
    seen: list[Any] = []

    def listen(key: Key[Any], message: int) -> None:
        assert listener.closed
        seen.append(message)
        hub.publish("a", message + 1)

    listener = hub.add_listener("a", listen, once=True)
    hub.publish("a", 0)
    assert seen == [0]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nested_publishes_give_it_one_message(hub: Hub, asynchronous: bool) -> None:
    seen: list[Any] = []

    def nest(key: Key[Any], message: int) -> None:
        if message < 5:
            hub.publish("a", message + 1)

    async def listen_async(key: Key[Any], message: int) -> None:
        seen.append(message)

    hub.add_listener("a", nest)
    if asynchronous:
        listener = hub.add_listener("a", listen_async, once=True)
    else:
        listener = hub.add_listener("a", lambda key, message: seen.append(message), once=True)
    hub.publish("a", 0)
    await settled()
    assert seen == [5]
    assert (listener.accepted, listener.delivered) == (1, 1)


def test_an_event_published_with_metadata_uses_it_up_too(loopless: Hub) -> None:
    seen: list[Event[Any]] = []
    loopless.add_listener("a", seen.append, event=True, once=True)
    for number in range(3):
        loopless.publish_event(Event(Key("a"), number, Meta(source="x")))
    assert seen == [(("a",), 0)]
    assert seen[0].meta == Meta(source="x")


def test_a_listener_with_once_that_fails_is_gone_all_the_same(loopless: Hub) -> None:
    def broken(key: Key[Any], message: Any) -> None:
        raise ValueError

    listener = loopless.add_listener("a", broken, once=True)
    assert [loopless.publish("a"), loopless.publish("a")] == [1, 0]
    assert (listener.failed, listener.delivered) == (1, 1)


def test_the_others_are_served_when_it_is_used_up() -> None:
    hub = Hub()
    seen: list[Any] = []
    for number in range(4):
        hub.add_listener("a", lambda key, message, number=number: seen.append(number), once=number % 2 == 0)
    assert [hub.publish("a"), hub.publish("a")] == [4, 2]
    assert seen == [0, 1, 2, 3, 1, 3]


def test_a_message_from_before_the_loop_uses_it_up() -> None:
    hub = Hub()
    seen: list[Any] = []

    @hub.on("a", once=True)
    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    assert [hub.publish("a", 1), hub.publish("a", 2)] == [1, 0]

    async def main() -> None:
        async with hub:
            pass

    asyncio.run(main())
    asyncio.run(main())
    assert seen == [1]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("who", ["listener", "subscriber"])
async def test_its_one_call_is_cancelled_by_removal(hub: Hub, who: str, concurrency: int) -> None:
    subscriber = Subscriber(hub, "s")
    calls = Calls()
    listener = subscriber.add_listener("a", calls, once=True, concurrency=concurrency)
    hub.publish("a", 1)
    await settled()
    await (listener.remove() if who == "listener" else subscriber.remove_all_listeners())
    assert calls.cancelled == [1]
    assert no_tasks()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_its_message_is_dropped_and_counted_when_removal_comes_first(hub: Hub, concurrency: int) -> None:
    calls = Calls()
    listener = hub.add_listener("a", calls, once=True, concurrency=concurrency)
    hub.publish("a", 1)
    await listener.remove()
    assert (calls.started, listener.pending, listener.dropped, listener.delivered) == ([], 0, 1, 0)
    assert no_tasks()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_its_one_call_is_drained(concurrency: int) -> None:
    hub = Hub()
    calls = Calls()
    hub.add_listener("a", calls, once=True, concurrency=concurrency)
    hub.publish("a", 1)
    calls.let_go()
    await hub.close()
    assert calls.ended == [1]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_subscriber_may_add_it_again(hub: Hub, concurrency: int) -> None:
    subscriber = Subscriber(hub, "s")
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    for number in range(3):
        subscriber.add_listener("a", listen, once=True, concurrency=concurrency)
        hub.publish("a", number)
    hub.publish("a", "nobody")
    await settled()
    assert seen == [0, 1, 2]
    assert not subscriber._listeners


# where=


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_only_messages_for_which_it_is_true_are_for_the_listener(hub: Hub, asynchronous: bool) -> None:
    seen: list[int] = []

    def listen(key: Key[Any], message: int) -> None:
        seen.append(message)

    async def listen_async(key: Key[Any], message: int) -> None:
        seen.append(message)

    chosen: Callable[..., object] = listen_async if asynchronous else listen
    listener = hub.add_listener("a", chosen, where=lambda key, message: key == ("a",) and message % 2)
    assert [hub.publish("a", number) for number in range(5)] == [1] * 5
    hub.publish_event(Event(Key("a"), 6))
    hub.publish_event(Event(Key("a"), 7, Meta(source="x")))
    assert adds_up(listener)
    await settled()
    assert seen == [1, 3, 7]
    assert (listener.accepted, listener.delivered, listener.filtered) == (3, 3, 4)


async def test_a_subscription_queues_only_what_where_wants(hub: Hub) -> None:
    def above_two(key: Key[Any], message: int) -> bool:
        return message > 2

    with hub.subscribe("a", where=above_two, maxsize=2, overflow=Overflow.DROP_NEWEST) as subscription:
        for number in range(6):
            hub.publish("a", number)
        assert (subscription.accepted, subscription.filtered, subscription.dropped) == (3, 3, 1)
        assert adds_up(subscription)
        assert (await subscription.consume()).message == 3
    with hub.subscribe("a", where=lambda key, message: message, gaps=True) as with_gaps:
        hub.publish_event(Event(Key("a"), 0, Meta()))
        hub.publish_event(Event(Key("a"), 1, Meta()))
        assert (with_gaps.pending, with_gaps.filtered) == (1, 1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_where_raises_is_a_failure_of_the_listener(asynchronous: bool) -> None:
    failures: list[ListenerFailure] = []
    hub = Hub(on_error=failures.append)
    seen: list[Any] = []

    async def listen_async(key: Key[Any], message: int) -> None:
        seen.append(message)

    listen: Callable[..., object] = listen_async if asynchronous else lambda key, message: seen.append(message)
    listener = hub.add_listener("a", listen, where=lambda key, message: 1 / message)
    hub.add_listener("a", lambda key, message: seen.append("other"))
    hub.publish("a", 0)
    hub.publish_event(Event(Key("a"), 0))
    await settled()
    assert seen == ["other"] * 2
    assert (listener.failed, listener.accepted, listener.filtered) == (2, 0, 2)
    assert [(failure.listener, failure.message) for failure in failures] == [(listener, 0)] * 2
    await hub.close()


def test_what_where_of_a_subscription_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    subscription = hub.subscribe("a", where=lambda key, message: 1 / message)
    hub.publish("a", 0)
    hub.publish("a", 1)
    assert "ZeroDivisionError" in caplog.text
    assert (subscription.pending, subscription.accepted, subscription.filtered) == (1, 1, 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_where_passes_after_the_others_were_served(kind: type[BaseException]) -> None:
    hub = Hub()
    seen: list[Any] = []

    def interrupt(key: Key[Any], message: Any) -> bool:
        raise kind

    listener = hub.add_listener("a", seen.append, event=True, where=interrupt)
    hub.add_listener("a", lambda key, message: seen.append(message))
    with pytest.raises(kind):
        hub.publish("a", 1)
    assert seen == [1]
    assert (listener.accepted, listener.filtered, listener.failed) == (0, 1, 0)


def test_a_filtered_message_does_not_use_up_a_listener_with_once(loopless: Hub) -> None:
    seen: list[Any] = []
    loopless.add_listener(
        "a", lambda key, message: seen.append(message), once=True, where=lambda key, message: message > 1
    )
    for number in range(4):
        loopless.publish("a", number)
    assert seen == [2]


def test_a_listener_removed_by_its_own_where_is_not_called(loopless: Hub) -> None:
    seen: list[Any] = []

    def where(key: Key[Any], message: Any) -> bool:
        listener.remove()
        return True

    listener = loopless.add_listener("a", lambda key, message: seen.append(message), where=where)
    loopless.publish("a", 1)
    assert (seen, listener.accepted, listener.delivered) == ([], 0, 0)


def test_a_publish_inside_where_uses_up_a_listener_with_once_first(loopless: Hub) -> None:
    seen: list[Any] = []

    def where(key: Key[Any], message: int) -> bool:
        if message < 3:
            loopless.publish("a", message + 1)
        return True

    listener = loopless.add_listener("a", lambda key, message: seen.append(message), where=where, once=True)
    loopless.publish("a", 0)
    assert seen == [3]
    assert (listener.accepted, listener.delivered) == (1, 1)


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 20)), maxsize=st.integers(1, 4), overflow=st.sampled_from(Overflow))
def test_filtered_and_accepted_add_up_under_every_policy(numbers: list[int], maxsize: int, overflow: Overflow) -> None:
    hub = Hub()
    listener = hub.subscribe("a", maxsize=maxsize, overflow=overflow, where=lambda key, message: 10 // message)
    logging.disable()
    try:
        for number in numbers:
            hub.publish("a", number)
            assert adds_up(listener)
    finally:
        logging.disable(logging.NOTSET)
    if overflow is not Overflow.CLOSE:
        wanted = [number for number in numbers if 0 < number <= 10]
        assert (listener.accepted, listener.filtered) == (len(wanted), len(numbers) - len(wanted))


# All of them


@pytest.mark.parametrize("name", ["concurrency", "retry", "maxsize", "overflow"])
def test_options_for_async_listeners_are_refused_for_sync_ones(loopless: Hub, name: str) -> None:
    options: dict[str, Any] = {"concurrency": 2, "retry": SOON, "maxsize": 5, "overflow": Overflow.GROW}
    for add in (loopless.add_listener, Subscriber(loopless, "s").add_listener):
        with pytest.raises(InvalidListener, match=name):
            add("a", print, **{name: options[name]})
    assert not loopless.patterns()


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"concurrency": 1.5}, {"concurrency": None}, {"retry": 3}, {"where": True}],
)
def test_nonsense_options_of_listeners_are_refused(loopless: Hub, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        loopless.add_listener("a", Flaky(0), **options)
    assert not loopless.patterns()


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"backoff": -1},
        {"backoff": float("nan")},
        {"maximum": float("inf")},
        {"factor": 0.5},
        {"on": (ValueError, 7)},
        {"on": KeyboardInterrupt},
    ],
)
def test_nonsense_of_a_retry_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Retry(**options)


async def test_a_subscriber_takes_the_same_options(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    seen: list[Any] = []

    @subscriber.on("a", once=True, where=lambda key, message: message > 1)
    def sync_listener(key: Key[Any], message: int) -> None:
        seen.append(("sync", message))

    subscriber.add_sync_listener("a", lambda key, message: seen.append(("once", message)), once=True)
    flaky = Flaky(1)
    subscriber.add_async_listener("a", flaky, concurrency=2, retry=SOON, where=lambda key, message: message == 3)
    for number in range(4):
        hub.publish("a", number)
    await until(lambda: len(flaky.calls) == 2)
    assert seen == [("once", 0), ("sync", 2)]
    assert flaky.calls == [3, 3]
    await subscriber.close()


def test_who_uses_none_of_them_pays_for_none(loopless: Hub) -> None:
    def listen(key: Key[Any], message: Any) -> None: ...

    async def listen_async(key: Key[Any], message: Any) -> None: ...

    plain = loopless.add_listener("a", listen)
    queued = loopless.add_listener("a", listen_async, concurrency=1)
    subscription = loopless.subscribe("a")
    assert plain.deliver is listen
    assert queued.mailbox is not None
    assert queued.deliver is queued.mailbox.put
    assert queued._call is listen_async  # type: ignore[attr-defined]
    assert subscription.deliver is subscription._mailbox.put
