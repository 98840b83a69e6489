"""Inside a call of an async listener, and in what it has started: as long as that call runs, and no longer."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from test_queue import settled, until

from hubsub import Hub, Key, WaitingForItself
from hubsub.testing import settle

Started = Callable[[Callable[[], Coroutine[Any, Any, Any]]], None]


class Beginner:
    """Makes async listeners whose call of the message "start" starts something that goes on after it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.go = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, how: str, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Have a coroutine run in a task that belongs to the call in which this is called."""

        async def later() -> Any:
            await self.go.wait()
            return await function()

        def make(_: object = None) -> None:
            self.tasks.append(asyncio.create_task(later()))

        loop = asyncio.get_running_loop()
        if how == "task":
            make()
        elif how == "timer":
            loop.call_later(0, make)
        else:
            future = loop.create_future()
            future.add_done_callback(make)
            loop.call_soon(future.set_result, None)

    async def result(self) -> Any:
        self.go.set()
        await until(lambda: bool(self.tasks))
        async with asyncio.timeout(20):
            return await self.tasks[0]


HOW = pytest.mark.parametrize("how", ["task", "timer", "callback"])
CONCURRENCY = pytest.mark.parametrize("concurrency", [1, 3])
# So many messages come before the one that starts something, whose calls do not suspend.
BEFORE = pytest.mark.parametrize("before", [0, 1, 30, 300])


@HOW
@CONCURRENCY
@BEFORE
async def test_a_hub_closed_by_what_a_finished_call_has_started_drains(how: str, concurrency: int, before: int) -> None:
    hub = Hub()
    beginner = Beginner()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "start":
            beginner.start(how, hub.close)
        elif isinstance(message, str):
            await asyncio.sleep(0.001)
        beginner.seen.append(message)

    listener = hub.add_listener("a", listen, concurrency=concurrency)
    messages = [*range(before), *"bc", "start", *"defg"]
    for message in messages:
        hub.publish("a", message)
    await until(lambda: "start" in beginner.seen)
    await beginner.result()
    assert sorted(map(str, beginner.seen)) == sorted(map(str, messages))
    assert (listener.delivered, listener.dropped, listener.failed) == (len(messages), 0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@HOW
@CONCURRENCY
async def test_what_a_finished_call_has_started_may_publish_confirmed_to_its_listener(
    hub: Hub, how: str, concurrency: int
) -> None:
    beginner = Beginner()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "start":
            beginner.start(how, lambda: hub.publish_confirmed("a", "confirmed"))
        beginner.seen.append(message)

    hub.add_listener("a", listen, concurrency=concurrency)
    hub.publish("a", "start")
    await until(lambda: bool(beginner.seen))
    assert await beginner.result() == 1
    assert beginner.seen == ["start", "confirmed"]


async def test_what_a_running_call_has_started_would_wait_for_itself(hub: Hub) -> None:
    errors: list[WaitingForItself] = []

    async def publish() -> None:
        try:
            await hub.publish_confirmed("a", "confirmed")
        except WaitingForItself as error:
            errors.append(error)

    async def listen(key: Key[Any], message: Any) -> None:
        await asyncio.create_task(publish())

    hub.add_listener("a", listen)
    hub.publish("a", 1)
    await until(lambda: bool(errors))


@HOW
@CONCURRENCY
async def test_a_listener_removed_by_what_a_finished_call_has_started_is_cancelled_and_waited_for(
    hub: Hub, how: str, concurrency: int
) -> None:
    beginner = Beginner()
    is_in_call = asyncio.Event()
    cancelled: list[Any] = []

    async def remove() -> bool:
        await is_in_call.wait()
        await listener.remove()
        return bool(cancelled)

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "start":
            beginner.start(how, remove)
        else:
            is_in_call.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cancelled.append(message)

    listener = hub.add_listener("a", listen, concurrency=concurrency)
    for message in ("start", "other"):
        hub.publish("a", message)
    assert await beginner.result()
    assert cancelled == ["other"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@HOW
@CONCURRENCY
async def test_settle_in_what_a_finished_call_has_started_waits_for_its_listener(
    hub: Hub, how: str, concurrency: int
) -> None:
    beginner = Beginner()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "start":
            beginner.start(how, lambda: settle(hub))
        else:
            await asyncio.sleep(0.001)
        beginner.seen.append(message)

    hub.add_listener("a", listen, concurrency=concurrency)
    for message in ("start", 1, 2, 3):
        hub.publish("a", message)
    await until(lambda: bool(beginner.seen))
    await beginner.result()
    assert sorted(map(str, beginner.seen)) == ["1", "2", "3", "start"]


async def test_settle_inside_a_call_waits_for_the_others_only(hub: Hub) -> None:
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        hub.publish("b", message)
        await asyncio.create_task(settle(hub))
        seen.append(message)

    async def other(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0.001)
        seen.append(-message)

    hub.add_listener("a", listen)
    hub.add_listener("b", other)
    hub.publish("a", 1)
    await until(lambda: len(seen) == 2)
    assert seen == [-1, 1]


async def test_a_listener_added_inside_a_call_is_no_part_of_it(hub: Hub) -> None:
    errors: list[BaseException] = []
    hub.on_error = lambda failure: errors.append(failure.error)
    end = asyncio.Event()

    async def inner(key: Key[Any], message: Any) -> None:
        # Waits for the outer one, which goes on meanwhile: no more than any other listener could.
        confirming = asyncio.create_task(hub.publish_confirmed("outer", "again"))
        await settled()
        end.set()
        await confirming

    async def outer(key: Key[Any], message: Any) -> None:
        if message == "start":
            hub.add_listener("inner", inner)
            hub.publish("inner")
            await end.wait()

    hub.add_listener("outer", outer)
    hub.publish("outer", "start")
    await asyncio.wait_for(end.wait(), 20)
    await settle(hub)
    assert errors == []


@HOW
@CONCURRENCY
@pytest.mark.parametrize("context", ["listener", "publisher"])
@pytest.mark.parametrize("before", [0, 7, 8, 30, 300])
async def test_what_one_of_many_short_calls_has_started_is_no_part_of_a_later_one(
    how: str, concurrency: int, context: Any, before: int
) -> None:
    hub = Hub()
    beginner = Beginner()

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "start":
            beginner.start(how, hub.close)
        elif isinstance(message, str):
            await asyncio.sleep(0.001)
        beginner.seen.append(message)

    hub.add_listener("a", listen, concurrency=concurrency, context=context)
    messages = [*range(before), "start", *range(before), *"bcd"]
    for message in messages:
        hub.publish("a", message)
    await until(lambda: "start" in beginner.seen)
    await beginner.result()
    assert sorted(map(str, beginner.seen)) == sorted(map(str, messages))


async def test_calls_that_set_context_variables_are_told_apart_too(hub: Hub) -> None:
    variable: ContextVar[Any] = ContextVar("variable")
    inside: list[Any] = []
    go = asyncio.Event()

    async def ask(message: Any) -> None:
        await go.wait()
        try:
            await hub.publish_confirmed("a", "asked")
        except WaitingForItself:
            inside.append(message)

    async def listen(key: Key[Any], message: Any) -> None:
        if message == "asked":
            return
        variable.set(message)
        tasks.append(asyncio.create_task(ask(message)))
        if message == "last":
            go.set()
            await asyncio.sleep(0.001)

    tasks: list[asyncio.Task[None]] = []
    hub.add_listener("a", listen)
    for message in (1, 2, 3, "last"):
        hub.publish("a", message)
    await until(lambda: len(tasks) == 4)
    await asyncio.wait(tasks)
    assert inside == ["last"]
