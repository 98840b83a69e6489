"""Loops, closing, threads: what happens around a hub's life."""

import asyncio
import concurrent.futures
import contextvars
import gc
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from test_queue import settled, until

from hubsub import Event, Hub, HubClosed, Key, NoRunningLoop, Subscriber, WrongLoop, WrongThread
from hubsub.testing import settle


class Recorder:
    """An async listener that remembers."""

    def __init__(self, before: Any = None) -> None:
        self.seen: list[Any] = []
        self.before = before

    async def __call__(self, key: Key[Any], message: Any) -> None:
        if self.before is not None:
            await self.before()
        self.seen.append(message)


# Before, between and after loops


def test_a_module_level_hub_works_under_two_runs_without_being_closed() -> None:
    hub = Hub()
    recorder = Recorder()
    listener = hub.add_listener("a", recorder)

    async def program(message: int) -> None:
        hub.publish("a", message)
        await asyncio.sleep(0.001)

    for message in (1, 2):
        asyncio.run(program(message))
        assert hub.has_subscribers("a")
    assert recorder.seen == [1, 2]
    assert listener.delivered == 2
    assert listener.dropped == 0


def test_a_module_level_hub_works_under_two_runs_that_close_it() -> None:
    hub = Hub()
    recorder = Recorder()
    hub.add_listener("a", recorder)

    async def program(message: int) -> None:
        async with hub:
            hub.publish("a", message)

    for message in (1, 2):
        asyncio.run(program(message))
    assert recorder.seen == [1, 2]


def test_a_run_that_ends_in_the_middle_of_a_call_leaves_the_rest_for_the_next() -> None:
    hub = Hub()
    seconds = 60.0
    recorder = Recorder(before=lambda: asyncio.sleep(seconds))
    hub.add_listener("a", recorder)

    async def program() -> None:
        for number in range(3):
            hub.publish("a", number)
        await settled()

    asyncio.run(program())
    assert recorder.seen == []
    seconds = 0

    async def again() -> None:
        await hub.start()
        await hub.close()

    asyncio.run(again())
    assert recorder.seen == [1, 2]  # the call of 0 was cut off with its loop


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_loop_closed_without_ending_its_tasks_leaves_the_listener_usable(concurrency: int) -> None:
    failures: list[Any] = []
    hub = Hub(on_error=failures.append)
    recorder = Recorder()
    hub.add_listener("a", recorder)
    stuck = Recorder(before=lambda: asyncio.Event().wait())
    listener = hub.add_listener("b", stuck, concurrency=concurrency)

    async def program() -> None:
        hub.publish("a", 1)
        hub.publish("b", 1)
        await settled()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(program())
    loop.close()
    hub.publish("a", 2)
    hub.publish("b", 2)
    stuck.before = None
    asyncio.run(program())
    gc.collect()
    assert recorder.seen == [1, 2, 1]
    assert stuck.seen == [2, 1]
    # The call that was cut off with its loop has failed.
    assert (listener.delivered, listener.failed, [failure.message for failure in failures]) == (3, 1, [1])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_a_closed_loop_has_left_behind_does_no_harm_when_it_is_collected(
    concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    recorder = Recorder()
    hub.add_listener("a", recorder, concurrency=concurrency)
    stuck = Recorder(before=lambda: asyncio.Event().wait())
    hub.add_listener("b", stuck, concurrency=concurrency)

    async def program() -> None:
        hub.publish("a", 1)
        confirming = asyncio.ensure_future(hub.publish_confirmed("b", 1))
        confirming._log_destroy_pending = False  # type: ignore[attr-defined]
        await settled()

    gc.disable()
    try:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(program())
        loop.close()
        del loop
        stuck.before = None

        async def again() -> None:
            for key in "ab":
                hub.publish(key, 2)
            await settle(hub)
            gc.collect()  # here the tasks of the other loop are collected, while those of this one sleep
            for key in "ab":
                hub.publish(key, 3)
            await settle(hub)
            await hub.close()

        asyncio.run(again())
    finally:
        gc.enable()
    assert recorder.seen == [1, 2, 3]
    assert stuck.seen == [2, 3]
    assert caplog.text == ""


async def _makes_a_task() -> None:
    try:
        await asyncio.sleep(100)
    finally:
        await asyncio.gather(asyncio.sleep(0))


async def _makes_tasks_without_end() -> None:
    try:
        await asyncio.sleep(100)
    finally:
        for _ in range(20):
            await asyncio.create_task(asyncio.sleep(0.001))


async def _swallows_its_cancellation() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(100)
    await asyncio.sleep(0.01)


async def _publishes_in_the_end() -> None:
    try:
        await asyncio.sleep(100)
    finally:
        _publishing.publish("a", "bye")
        await asyncio.sleep(0)
        _publishing.publish("a", "good bye")


_publishing = Hub()


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    "other", [_makes_a_task, _makes_tasks_without_end, _swallows_its_cancellation, _publishes_in_the_end]
)
def test_a_listener_outlives_a_run_whatever_other_tasks_do_when_it_ends(other: Any, concurrency: int) -> None:
    global _publishing
    hub = _publishing = Hub()
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "stuck":
            await asyncio.Event().wait()
        seen.append(message)

    listener = hub.add_listener("a", listen, concurrency=concurrency)
    idle = hub.add_listener("b", Recorder(), concurrency=concurrency)

    async def program() -> None:
        others = {asyncio.create_task(other()) for _ in range(3)}
        hub.publish("b", 1)
        for message in ("stuck",) * concurrency + (1, 2):
            hub.publish("a", message)
        await settled()
        assert not any(task.done() for task in others)

    async def again() -> None:
        hub.publish("a", 3)
        hub.publish("b", 2)
        await settle(hub)

    asyncio.run(program())
    byes = ["bye"] * 3 + ["good bye"] * 3 if other is _publishes_in_the_end else []
    assert not listener.closed
    asyncio.run(again())
    assert seen == [1, 2, *byes, 3]
    assert (idle.delivered, idle.closed) == (2, False)
    assert (listener.failed, listener.dropped, listener.pending) == (concurrency, 0, 0)


def test_what_was_published_before_the_loop_is_handled_when_it_runs() -> None:
    hub = Hub()
    recorder = Recorder()
    hub.add_listener("a", recorder)
    hub.publish("a", 1)

    async def program() -> None:
        await hub.start()
        await settled()

    asyncio.run(program())
    assert recorder.seen == [1]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_was_published_before_and_after_the_loop_began_is_handled_in_order(concurrency: int) -> None:
    hub = Hub()
    running: list[Any] = []
    begun: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        running.append(message)
        begun.append(message)
        assert len(running) <= concurrency
        await asyncio.sleep(0.001)
        running.remove(message)

    listener = hub.add_listener("a", listen, concurrency=concurrency)

    async def program() -> None:
        # The first need of a loop: the hub was not started.
        for number in (4, 5):
            hub.publish("a", number)
        await settle(hub)

    for number in range(4):
        hub.publish("a", number)
    asyncio.run(program())
    assert begun == list(range(6))
    assert listener.failed == 0


def test_a_loop_that_stands_still_goes_on_with_what_was_published_meanwhile() -> None:
    hub = Hub()
    recorder = Recorder()
    hub.add_listener("a", recorder)
    with asyncio.Runner() as runner:
        runner.run(hub.start())
        hub.publish("a", 1)
        runner.run(settled())
        hub.publish("a", 2)
        runner.run(settled())
        assert recorder.seen == [1, 2]
        runner.run(hub.close())


def test_publishing_to_sync_listeners_needs_no_loop_and_binds_to_none() -> None:
    hub = Hub()
    seen: list[Any] = []
    hub.add_listener("a", lambda key, message: seen.append(message))

    async def program() -> None:
        hub.publish("a", 2)

    hub.publish("a", 1)
    asyncio.run(program())
    thread = threading.Thread(target=hub.publish, args=("a", 3))
    thread.start()
    thread.join()
    assert seen == [1, 2, 3]


def test_two_lifespans_of_a_starlette_test_client_keep_the_listeners() -> None:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    hub = Hub()
    recorder = Recorder()
    hub.on(("order", "*"))(recorder)

    async def order(request: Any) -> JSONResponse:
        return JSONResponse(hub.publish(("order", request.path_params["name"]), 1))

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with hub:
            yield

    app = Starlette(routes=[Route("/{name}", order)], lifespan=lifespan)
    for round_ in (1, 2):
        with TestClient(app) as client:
            assert client.get("/tea").json() == 1
        assert recorder.seen == [1] * round_


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize(
    "ending",
    ["asyncio.run(main())", "loop.run_until_complete(main()); loop.close()", "loop.run_until_complete(main())"],
)
def test_a_program_that_just_ends_prints_nothing(ending: str, removed: bool) -> None:
    program = f"""
        import asyncio, hubsub
        hub = hubsub.Hub()
        async def listen(key, message): await asyncio.sleep(9)
        subscriber = hubsub.Subscriber(hub, "s")
        async def main():
            subscriber.add_async_listener("a", listen)
            hub.add_listener("a", listen)
            hub.publish("a")
            await asyncio.sleep(0)
            hub.publish("a")
            if {removed}:
                subscriber.remove_all_listeners()
        loop = asyncio.new_event_loop()
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore:unclosed event loop", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Async listeners


async def test_an_async_listener_is_called_in_order_one_at_a_time(hub: Hub) -> None:
    running: list[int] = []

    async def listen(key: Key[Any], message: int) -> None:
        running.append(message)
        await asyncio.sleep(0)
        assert running.pop() == message
        seen.append(message)

    seen: list[int] = []
    hub.add_listener("a", listen)
    for number in range(20):
        hub.publish("a", number)
    await hub.close()
    assert seen == list(range(20))


async def test_an_async_listener_that_fails_goes_on(hub: Hub) -> None:
    seen: list[int] = []

    async def fussy(key: Key[Any], message: int) -> None:
        if message % 2:
            raise ValueError(message)
        seen.append(message)

    failures: list[Any] = []
    hub.on_error = failures.append
    listener = hub.add_listener("a", fussy)
    for number in range(6):
        hub.publish("a", number)
    await settled()
    assert seen == [0, 2, 4]
    assert (listener.failed, listener.delivered, listener.accepted) == (3, 6, 6)
    assert [failure.message for failure in failures] == [1, 3, 5]


async def test_a_leaked_cancelled_error_is_a_failure_and_ends_nothing(hub: Hub) -> None:
    async def leaky(key: Key[Any], message: Any) -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    listener = hub.add_listener("a", leaky)
    for _ in range(3):
        hub.publish("a")
    await settled()
    assert (listener.failed, listener.closed) == (3, False)


async def test_a_listener_whose_task_is_cancelled_from_outside_goes_on_with_the_next_message(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Any] = []
    hub.on_error = failures.append
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == 0:
            await asyncio.Event().wait()
        seen.append(message)

    listener = hub.add_listener("a", listen)
    for number in range(3):
        hub.publish("a", number)
    await settled()
    (task,) = (task for task in asyncio.all_tasks() if "listener" in task.get_name())
    task.cancel()
    await settled()
    assert hub.busy() == (listener,)
    hub.publish("a", 3)
    await settle(hub)
    assert seen == [1, 2, 3]
    assert not listener.closed
    assert (listener.accepted, listener.delivered, listener.dropped, listener.failed) == (4, 4, 0, 1)
    assert [failure.message for failure in failures] == [0]
    assert caplog.text == ""  # a program may be about to end


async def test_closing_does_not_wait_for_a_listener_to_have_rested(hub: Hub) -> None:
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == 0:
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)
        seen.append(message)

    listener = hub.add_listener("a", listen)
    for number in range(3):
        hub.publish("a", number)
    await until(lambda: listener.failed == 1)
    await hub.close()
    assert seen == [1, 2]


async def test_a_listener_that_rests_can_be_removed(hub: Hub) -> None:
    listener = hub.add_listener("a", Recorder(before=lambda: asyncio.Event().wait()))
    for number in range(3):
        hub.publish("a", number)
    await settled()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await settled()
    await listener.remove()
    assert (listener.delivered, listener.dropped, hub.busy()) == (1, 2, ())


async def test_a_listener_yields_to_the_loop_now_and_then(hub: Hub) -> None:
    turns = []

    async def listen(key: Key[Any], message: int) -> None:
        turns.append(ticks)

    ticks = 0
    listener = hub.add_listener("a", listen)
    for number in range(2000):
        hub.publish("a", number)
    while listener.pending:
        ticks += 1
        await asyncio.sleep(0)
    assert max(turns.count(tick) for tick in turns) <= 256


async def test_a_listener_runs_in_the_context_of_its_registration(hub: Hub) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(variable.get())

    token = variable.set("registered")
    hub.add_listener("a", listen)
    variable.reset(token)
    hub.publish("a")
    await settled()
    assert seen == ["registered"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_an_eager_task_factory_changes_nothing(hub: Hub) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    hub.add_listener("a", listen)
    hub.publish("a", 1)
    assert seen == []
    hub.publish("a", 2)
    await settled()
    hub.publish("a", 3)
    await settled()
    assert seen == [1, 2, 3]
    asyncio.get_running_loop().set_task_factory(None)


# Closing


async def test_closing_drains_async_listeners_and_what_they_publish_onward() -> None:
    hub = Hub()
    seen: list[Any] = []

    @hub.on("first")
    async def first(key: Key[Any], message: int) -> None:
        await asyncio.sleep(0)
        hub.publish("second", message)

    @hub.on("second")
    async def second(key: Key[Any], message: int) -> None:
        await asyncio.sleep(0)
        seen.append(message)

    async with hub:
        for number in range(5):
            hub.publish("first", number)
    assert seen == list(range(5))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_closed_hub_refuses_and_says_how_to_open_it() -> None:
    hub = Hub()
    hub.add_listener("a", print)
    hub.publish("a", "")
    await hub.close()
    await hub.close()
    with pytest.raises(HubClosed, match=r"hub\.start"):
        hub.publish("a")
    with pytest.raises(HubClosed):
        hub.add_listener("a", print)
    with pytest.raises(HubClosed):
        hub.subscribe("a")
    with pytest.raises(HubClosed):
        Subscriber(hub, "s").subscribe("a")
    with pytest.raises(HubClosed):
        await hub.publish_wait("a")
    with pytest.raises(HubClosed):
        hub.publish_many([("a", 1)])
    assert not hub.is_open
    await hub.start()
    assert hub.is_open
    assert hub.publish("a", "") == 1
    await hub.close()


async def test_new_subscriptions_are_refused_while_closing() -> None:
    hub = Hub()
    errors: list[BaseException] = []

    @hub.on("a")
    async def late(key: Key[Any], message: Any) -> None:
        try:
            hub.subscribe("b")
        except HubClosed as error:
            errors.append(error)

    hub.publish("a")
    await hub.close()
    assert "closing" in str(errors[0])


async def test_consumers_read_what_is_queued_after_the_close() -> None:
    hub = Hub()
    subscription = hub.subscribe("a")
    hub.publish("a", 1)
    hub.publish("a", 2)
    await hub.close()
    assert [event.message async for event in subscription] == [1, 2]


async def test_what_cannot_be_drained_in_time_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(drain=0.01)
    cancelled: list[Any] = []

    @hub.on("a")
    async def stuck(key: Key[Any], message: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(message)

    for number in range(4):
        hub.publish("a", number)
    (listener,) = hub._registered
    await hub.close()
    assert cancelled == [0]
    assert listener.dropped == 3
    assert "3 messages" in caplog.text


async def test_a_listener_that_ignores_its_cancellation_cannot_hold_the_close_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub(drain=0.01)
    end = asyncio.Event()

    @hub.on("a")
    async def stubborn(key: Key[Any], message: Any) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    hub.publish("a")
    await settled()
    async with asyncio.timeout(10):
        await hub.close()
    assert "ignores its cancellation" in caplog.text
    end.set()
    await settled()


async def test_leaving_by_an_exception_drains_too() -> None:
    hub = Hub()
    recorder = Recorder(before=lambda: asyncio.sleep(0.001))
    hub.add_listener("a", recorder)

    async def program() -> None:
        async with hub:
            hub.publish("a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program()
    assert recorder.seen == [1]


async def test_leaving_by_cancellation_drains_too() -> None:
    hub = Hub()
    recorder = Recorder(before=lambda: asyncio.sleep(0.01))
    hub.add_listener("a", recorder)

    async def program() -> None:
        async with hub:
            hub.publish("a", 1)
            await asyncio.Event().wait()

    task = asyncio.create_task(program())
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.seen == [1]
    assert not hub.is_open


async def test_a_first_cancellation_of_the_close_drains_and_is_passed_on() -> None:
    hub = Hub()
    recorder = Recorder(before=lambda: asyncio.sleep(0.01))
    hub.add_listener("a", recorder)
    hub.publish("a", 1)
    closing = asyncio.create_task(hub.close())
    await settled()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert recorder.seen == [1]


async def test_a_second_cancellation_ends_the_drain() -> None:
    hub = Hub(drain=60)
    recorder = Recorder(before=lambda: asyncio.Event().wait())
    hub.add_listener("a", recorder)

    async def program() -> None:
        async with hub:
            hub.publish("a", 1)
            await asyncio.Event().wait()

    task = asyncio.create_task(program())
    for _ in range(2):
        await settled()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert recorder.seen == []
    assert not hub.is_open
    assert not hub._life.running


@pytest.mark.parametrize("leaving", ["scope", "deadline"])
async def test_a_close_inside_a_cancelled_anyio_scope_drains(leaving: str) -> None:
    hub = Hub()
    recorder = Recorder(before=lambda: anyio.sleep(0.01))
    hub.add_listener("a", recorder)
    with anyio.move_on_after(5 if leaving == "scope" else 0.001) as scope:
        async with hub:
            hub.publish("a", 1)
            if leaving == "scope":
                scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert recorder.seen == [1]
    assert not hub.is_open


async def test_closing_from_inside_a_listener_neither_cancels_nor_waits_for_its_call() -> None:
    hub = Hub(drain=60)
    seen: list[Any] = []
    other = Recorder(before=lambda: asyncio.sleep(0.001))

    @hub.on("a")
    async def closes(key: Key[Any], message: Any) -> None:
        await asyncio.wait_for(hub.close(), 30)
        await asyncio.sleep(0)
        seen.append(message)

    hub.add_listener("b", other)
    hub.publish("b", 0)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await until(lambda: bool(seen))
    await settled()
    assert seen == [1]
    assert other.seen == [0]
    assert not hub.is_open
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_two_listeners_that_both_close_the_hub_do_not_wait_for_each_other() -> None:
    hub = Hub(drain=60)
    done: list[int] = []

    async def closes(key: Key[Any], message: int) -> None:
        await hub.close()
        done.append(message)

    hub.add_listener("a", closes)
    hub.add_listener("b", closes)
    hub.publish("a", 1)
    hub.publish("b", 2)
    async with asyncio.timeout(10):
        await until(lambda: len(done) == 2)
        await hub.close()
    assert sorted(done) == [1, 2]


async def test_closing_from_inside_a_sync_listener_goes_by_a_task() -> None:
    hub = Hub()
    tasks: list[asyncio.Task[None]] = []
    hub.add_listener("stop", lambda key, message: tasks.append(asyncio.create_task(hub.close())))
    hub.publish("stop")
    await tasks[0]
    assert not hub.is_open


async def test_two_closes_at_once_both_wait() -> None:
    hub = Hub()
    recorder = Recorder(before=lambda: asyncio.sleep(0.01))
    hub.add_listener("a", recorder)
    hub.publish("a", 1)
    await asyncio.gather(hub.close(), hub.close())
    assert recorder.seen == [1]


async def test_cancelling_a_consumer_by_an_anyio_scope_loses_nothing(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    with anyio.move_on_after(0.001):
        await subscription.consume()
    hub.publish("a", 1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        event = await subscription.consume()  # it need not wait, so there is nothing to cancel
    assert event.message == 1


# Closing, where the loop is closed first


def closed_in_the_middle(hub: Hub) -> None:
    """Begin to close it on a loop that is closed before the hub has drained."""

    async def begin() -> None:
        await hub.start()
        hub.publish("a", "stuck")
        for message in (1, 2):
            hub.publish("a", message)
        closing = asyncio.ensure_future(hub.close())
        closing._log_destroy_pending = False  # type: ignore[attr-defined]
        await settled()
        assert not closing.done()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()


@pytest.fixture(params=[1, 2], ids=["one at a time", "two at a time"])
def stuck(request: pytest.FixtureRequest) -> tuple[Hub, list[Any], Any]:
    """A hub that was closed in the middle, what its listener has seen, and the listener."""
    hub = Hub(drain=60)
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "stuck":
            await asyncio.Event().wait()
        seen.append(message)

    listener = hub.add_listener("a", listen, concurrency=request.param, maxsize=100)
    if request.param == 2:
        hub.publish("a", "stuck")
    closed_in_the_middle(hub)
    return hub, seen, listener


def test_a_hub_whose_loop_is_closed_while_it_drains_is_closed(
    stuck: tuple[Hub, list[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    hub, seen, listener = stuck
    assert not hub.is_open
    with pytest.raises(HubClosed):
        hub.publish("a")
    with pytest.raises(HubClosed):
        hub.subscribe("a")
    assert (seen, listener.pending, listener.dropped) == ([], 0, 2)
    assert "closed with 2 messages" in caplog.text
    gc.collect()


@pytest.mark.parametrize("how", ["close", "wait_for", "cancelled"])
def test_closing_a_hub_whose_loop_was_closed_while_it_drained_returns(
    stuck: tuple[Hub, list[Any], Any], how: str
) -> None:
    hub, _, listener = stuck

    async def close() -> None:
        if how == "close":
            await hub.close()
        elif how == "wait_for":
            await asyncio.wait_for(hub.close(), 2)
        else:
            async with asyncio.timeout(2):
                await hub.close()
                closing = asyncio.create_task(hub.close())
                closing.cancel()
                await asyncio.wait([closing])

    asyncio.run(close())
    assert not hub.is_open
    assert (listener.pending, listener.dropped) == (0, 2)


def test_a_hub_whose_loop_was_closed_while_it_drained_can_be_started_again(
    stuck: tuple[Hub, list[Any], Any],
) -> None:
    hub, seen, _ = stuck

    async def again(message: Any) -> None:
        async with hub:
            assert hub.publish("a", message) == 1

    for message in (3, 4):
        asyncio.run(again(message))
    assert seen == [3, 4]
    gc.collect()


def test_a_closing_that_is_cancelled_before_it_begins_closes_the_hub() -> None:
    hub = Hub()
    listener = hub.add_listener("a", Recorder())
    hub.publish("a", 1)

    async def program() -> None:
        await hub.start()
        closing = asyncio.ensure_future(hub.close())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), closing}:
            task.cancel()
        await asyncio.wait([closing])
        assert not hub.is_open
        await hub.start()
        hub.publish("a", 2)
        await hub.close()

    asyncio.run(program())
    assert listener.pending == 0


def test_a_hub_that_closes_on_one_loop_cannot_be_closed_on_another() -> None:
    hub = Hub(drain=60)
    hub.add_listener("a", Recorder(before=lambda: asyncio.sleep(0.01)))
    with asyncio.Runner() as first:

        async def begin() -> "asyncio.Task[None]":
            hub.publish("a", 1)
            closing = asyncio.create_task(hub.close())
            await settled()
            return closing

        closing = first.run(begin())
        with asyncio.Runner() as second:
            again = hub.close()
            with pytest.raises(WrongLoop):
                second.run(again)

        async def end() -> None:
            await closing

        first.run(end())
    assert not hub.is_open


def test_a_snapshot_that_was_being_loaded_when_its_loop_was_closed_is_loaded_on_the_next() -> None:
    hub = Hub()
    loads: list[int] = []

    async def load() -> int:
        loads.append(len(loads))
        if len(loads) == 1:
            await asyncio.Event().wait()
        return len(loads)

    subscription = hub.subscribe("a", snapshot=load)

    async def begin() -> None:
        reading = asyncio.ensure_future(subscription.consume())
        reading._log_destroy_pending = False  # type: ignore[attr-defined]
        left_behind.append(reading)
        await settled()

    left_behind: list[Any] = []  # as a program would keep it
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()

    async def again() -> Any:
        return await asyncio.wait_for(subscription.consume(), 20)

    assert asyncio.run(again()).value == 2


# Threads and loops


@pytest.fixture
def elsewhere() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool


async def test_the_wrong_thread_is_told_where_telling_costs_nothing(
    hub: Hub, elsewhere: concurrent.futures.ThreadPoolExecutor
) -> None:
    listener = hub.add_listener("a", lambda key, message: None)
    subscription = hub.subscribe("b")
    waiting = asyncio.create_task(subscription.consume())
    hub.publish("b", "cached")
    await waiting
    waiting = asyncio.create_task(subscription.consume())
    await settled()
    calls: list[Any] = [
        lambda: hub.subscribe("a"),
        lambda: hub.add_listener("a", print),
        lambda: hub.publish("new key"),
        lambda: hub.publish("b", "somebody sleeps there"),
        listener.remove,
        subscription.close,
        lambda: Subscriber(hub, "s").subscribe("a"),
    ]
    for call in calls:
        with pytest.raises(WrongThread, match="publish_threadsafe"):
            await asyncio.wrap_future(elsewhere.submit(call))
    assert subscription.pending == 0
    assert subscription.accepted == 1
    hub.publish("b", "still alive")
    assert (await waiting).message == "still alive"


async def test_in_debug_mode_every_publish_from_the_wrong_thread_is_told(
    elsewhere: concurrent.futures.ThreadPoolExecutor,
) -> None:
    asyncio.get_running_loop().set_debug(True)
    hub = Hub()
    hub.add_listener("a", lambda key, message: None)
    async with hub:
        assert hub.publish("a") == 1
        with pytest.raises(WrongThread):
            await asyncio.wrap_future(elsewhere.submit(hub.publish, "a"))
        assert hub.publish("a") == 1
        assert hub.stats().published == 2
        assert hub.stats().cached_routes == 0


def test_a_second_loop_is_told_while_the_first_is_open() -> None:
    hub = Hub()
    with asyncio.Runner() as first:
        first.run(hub.start())
        with asyncio.Runner() as second:
            starting = hub.start()
            with pytest.raises(WrongLoop, match="still open"):
                second.run(starting)
    asyncio.run(hub.start())


async def test_publish_threadsafe_publishes_in_order_for_each_thread(hub: Hub) -> None:
    subscription = hub.subscribe(("thread", "*"))

    def work(name: str) -> list[int]:
        futures = [hub.publish_threadsafe(("thread", name), number) for number in range(100)]
        return [future.result(10) for future in futures]

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        loop = asyncio.get_running_loop()
        results = await asyncio.gather(*(loop.run_in_executor(pool, work, name) for name in "abc"))
    assert results == [[1] * 100] * 3
    for name in "abc":
        assert [m for (_, thread), m in list(subscription._mailbox.items) if thread == name] == list(range(100))


async def test_publish_threadsafe_hands_errors_and_cancellation_through(
    hub: Hub, elsewhere: concurrent.futures.ThreadPoolExecutor
) -> None:
    seen: list[Any] = []
    hub.add_listener("a", lambda key, message: seen.append(message))

    def work() -> type[BaseException]:
        hub.publish_threadsafe("a", 1).cancel()
        return type(hub.publish_threadsafe("*").exception(10))

    future = await asyncio.wrap_future(elsewhere.submit(work))
    assert future.__name__ == "WildcardPublished"
    assert seen in ([], [1])  # cancelled in time or not


def test_publish_threadsafe_needs_a_loop() -> None:
    hub = Hub()
    with pytest.raises(NoRunningLoop, match=r"hub\.start"):
        hub.publish_threadsafe("a")
    asyncio.run(hub.start())
    with pytest.raises(NoRunningLoop):
        hub.publish_threadsafe("a")


@pytest.mark.parametrize("options", [{"drain": -1}, {"maxsize": 0}, {"route_cache": -1}])
def test_nonsense_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Hub(**options)


def test_nothing_warns_when_a_hub_with_pending_work_is_dropped() -> None:
    async def program() -> None:
        hub = Hub()
        hub.add_listener("a", Recorder(before=lambda: asyncio.sleep(9)))
        hub.publish("a")
        await settled()
        consuming = asyncio.ensure_future(hub.subscribe("b").consume())
        await settled()
        assert not consuming.done()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(program())
        gc.collect()


async def test_publish_wait_ends_when_an_async_listener_is_not_drained_in_time() -> None:
    hub = Hub(drain=0.01, maxsize=1)
    hub.add_listener("a", Recorder(before=lambda: asyncio.Event().wait()))
    hub.publish("a")
    await settled()
    hub.publish("a")
    publishing = asyncio.create_task(hub.publish_wait("a"))
    await settled()
    await hub.close()
    with pytest.raises(HubClosed):
        await asyncio.wait_for(publishing, 5)


async def test_publish_threadsafe_to_a_closed_hub_says_so() -> None:
    hub = Hub()
    await hub.close()
    with pytest.raises(HubClosed):
        hub.publish_threadsafe("a")


async def test_closing_the_hub_announces_nothing() -> None:
    hub = Hub()
    seen: list[Any] = []
    hub.add_listener(("Hub", "removedSubscriber", "*"), lambda key, message: seen.append(key))
    hub.subscribe("a")
    await hub.close()
    assert seen == []


async def test_the_inner_of_two_blocks_over_one_hub_closes_it() -> None:
    hub = Hub()
    async with hub:
        async with hub:
            assert hub.is_open
        assert not hub.is_open


async def test_a_hub_opened_again_during_a_call_goes_on_in_order_with_one_task() -> None:
    hub = Hub()
    closed, opened = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "close":
            await hub.close()
            closed.set()
            await opened.wait()
        seen.append(message)

    hub.add_listener("a", listen)
    hub.publish("a", "close")
    await closed.wait()
    await hub.start()
    hub.publish("a", 1)
    await settled()
    assert seen == []
    opened.set()
    await settled()
    hub.publish("a", 2)
    await settled()
    assert seen == ["close", 1, 2]
    await hub.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_closing_from_a_task_that_outlives_its_call_leaves_nothing_behind(concurrency: int) -> None:
    hub = Hub()
    tasks: list[asyncio.Task[None]] = []

    async def listen(key: Key[Any], message: Any) -> None:
        tasks.append(asyncio.create_task(close()))

    async def close() -> None:
        await settled()
        await hub.close()

    hub.add_listener("a", listen, concurrency=concurrency)
    hub.publish("a")
    await until(lambda: bool(tasks))
    await tasks[0]
    await settled()
    assert not hub.is_open
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("kinds", ["pq", "qp", "pqpqq", "pa", "ap", "po", "op", "pqqqqqq", "qqqqqqp"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_publish_from_another_thread_calls_no_listener_before_it_raises(kinds: str, times: int) -> None:
    """Plain, async and once listeners, and queues at which somebody waits, in every order."""
    hub, seen = Hub(), []
    await hub.start()

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    registrations: list[Any] = []
    waiting = []
    for kind in kinds:
        if kind == "q":
            queue = hub.subscribe("a")
            registrations.append(queue)
            waiting.append(asyncio.ensure_future(queue.get_batch(99)))
        else:
            plain = lambda key, message: seen.append(message)  # noqa: E731
            registrations.append(hub.add_listener("a", listen if kind == "a" else plain, once=kind == "o"))
    await settled()
    if "o" not in kinds:
        for _ in range(times):
            hub.publish("a", "here")
    await settled()
    before = [(each.accepted, each.pending) for each in registrations]
    seen.clear()
    for call in (hub.publish, lambda key, message: hub.publish_event(Event(Key(key), message))):
        with pytest.raises(WrongThread):
            await asyncio.to_thread(call, "a", "elsewhere")
    await settled()
    assert seen == []
    assert [(each.accepted, each.pending) for each in registrations] == before
    for task in waiting:
        task.cancel()
    await hub.close()
