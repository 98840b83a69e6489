"""Waiting for one message, and asking: each awaitable ends in one of its ways, and leaves nothing behind."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from conftest import assert_nothing_left
from test_queue import settled, until

from hubsub import (
    Event,
    Hub,
    HubClosed,
    Key,
    ListenerFailure,
    Meta,
    NoResponders,
    NoRunningLoop,
    Overflow,
    Publisher,
    RemoteError,
    RequestError,
    RequestTimeout,
    WaitingForItself,
    WildcardPublished,
)


def echo(key: Key[Any], message: Any) -> Any:
    return message


async def never(key: Key[Any], message: Any) -> None:
    await asyncio.get_running_loop().create_future()


def assert_nobody_waits(hub: Hub) -> None:
    assert hub.patterns() == {}
    assert hub._requests.open == {}


# Waiting for one


async def test_next_does_not_miss_what_is_published_before_it_is_awaited(hub: Hub) -> None:
    waiting = hub.next(("a", "*"))
    assert hub.publish(("a", "b"), 1) == 1
    assert hub.publish(("a", "c"), 2) == 0
    event = await waiting
    assert type(event) is Event
    assert (event.key, event.message, event.meta) == (("a", "b"), 1, None)
    assert_nobody_waits(hub)


async def test_next_takes_one_pattern_or_several(hub: Hub) -> None:
    for patterns in (["a", "b"], {"a", "b"}, frozenset({"a", "b"})):
        waiting = hub.next(patterns)
        hub.publish("b", 1)
        assert await waiting == (("b",), 1)
    assert_nobody_waits(hub)


async def test_next_gives_the_metadata_too(hub: Hub) -> None:
    waiting = hub.next("a")
    hub.publish_event(Event(Key("a"), 1, Meta(id="7")))
    assert (await waiting).meta == Meta(id="7")


async def test_next_waits_for_a_message_where_something_is_so(hub: Hub) -> None:
    waiting = hub.next("a", where=lambda key, message: message > 2)
    for number in range(5):
        hub.publish("a", number)
    assert (await waiting).message == 3


@pytest.mark.parametrize("raised", [ZeroDivisionError, StopIteration])
async def test_what_where_raises_is_raised_to_who_awaits(hub: Hub, raised: type[Exception]) -> None:
    def where(key: Key[Any], message: Any) -> bool:
        raise raised

    waiting = hub.next("a", where=where)
    assert hub.publish("a") == 1
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        await waiting
    assert_nobody_waits(hub)


async def test_the_time_of_next_runs_from_the_call(hub: Hub) -> None:
    waiting = hub.next("a", timeout=0.01)
    await until(lambda: not hub.patterns())
    hub.publish("a")
    with pytest.raises(TimeoutError, match=r"no message of \('a',\) came within 0.01"):
        await waiting
    assert_nobody_waits(hub)


@pytest.mark.parametrize("ask", [lambda hub: hub.next("a"), lambda hub: hub.request("b")], ids=["next", "request"])
async def test_cancelled_it_leaves_nothing_behind(hub: Hub, ask: Callable[[Hub], Any]) -> None:
    responder = hub.respond("b", never)

    async def program() -> None:
        await ask(hub)

    task = asyncio.create_task(program())
    await settled()
    assert "a" in [key[0] for key in hub.patterns()] or hub._requests.open
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await responder.remove()
    assert_nobody_waits(hub)


async def test_abandoned_it_leaves_nothing_behind_and_warns_of_nothing(hub: Hub) -> None:
    responder = hub.respond("b", never)
    hub.next("a")
    hub.next("a", timeout=0.001)
    hub.request("b", timeout=0.001)
    hub.request_many("b")
    assert hub._requests.open
    await until(lambda: not hub._requests.open and not hub.has_subscribers("a"))
    kept = hub.next("a", timeout=0.001), hub.request("b", timeout=0.001)
    await until(lambda: not hub._requests.open and not hub.has_subscribers("a"))
    del kept
    gc.collect()
    await responder.remove()
    assert_nobody_waits(hub)


def test_abandoned_with_its_loop_it_leaves_nothing_behind() -> None:
    hub = Hub()
    hub.respond("b", lambda key, message: message)
    left: list[Any] = []

    async def program() -> None:
        left.extend([hub.next("a"), hub.next("a"), hub.request_many("b"), hub.request("b")])

    asyncio.run(program())
    hub.publish("a")  # reaches those who wait on a loop that is no more
    left.clear()
    assert not hub.has_subscribers("a")
    assert hub._requests.open == {}
    assert_nothing_left(hub)


async def test_closing_the_hub_wakes_whoever_waits() -> None:
    hub = Hub(drain=0.01)
    await hub.start()
    hub.respond("b", never)
    waiting = [hub.next("a"), hub.request("b", timeout=None), hub.request_many("b").__anext__()]
    tasks = [asyncio.ensure_future(each) for each in waiting]
    await settled()
    await hub.close()
    for task in tasks:
        with pytest.raises(HubClosed):
            await task
    for ask in (hub.next, hub.request, hub.request_many):
        with pytest.raises(HubClosed):
            ask("b")
    assert hub._requests.open == {}
    assert_nothing_left(hub)


def test_without_a_running_loop_it_says_so() -> None:
    hub = Hub()
    seen: list[Any] = []
    hub.respond("a", lambda key, message: seen.append(message))
    for ask in (hub.next, hub.request, hub.request_many):
        with pytest.raises(NoRunningLoop, match="running event loop"):
            ask("a")
    assert seen == []
    assert hub.patterns() == {("a",): 1}


async def test_waiting_for_anything_does_not_find_its_own_announcement(hub: Hub) -> None:
    waiting = hub.next("*")
    hub.publish("a", 1)
    assert await waiting == (("a",), 1)


async def test_an_answer_to_the_announcement_of_waiting_arrives(hub: Hub) -> None:
    hub.add_listener(("Hub", "addedSubscriber", "a"), lambda key, message: hub.publish("a", "welcome"))
    assert (await hub.next("a")).message == "welcome"


async def test_next_in_a_nested_publish_takes_only_the_first(hub: Hub) -> None:
    hub.add_listener("a", lambda key, message: hub.publish("a", message + 1) if message < 3 else None)
    waiting = hub.next("a")
    hub.publish("a", 0)
    assert (await waiting).message == 3  # the innermost is delivered first


# Asking


async def test_a_request_is_published_at_the_call_and_answered(hub: Hub) -> None:
    order = {"tea": 2}
    seen: list[Any] = []

    @hub.responds(("order", "*"))
    def bill(key: Key[Any], message: Any) -> Any:
        seen.append((key, message))
        return "bill"

    waiting = hub.request(("order", "new"), order)
    assert seen[0][1] is order
    assert type(seen[0][0]) is Key
    assert await waiting == "bill"
    assert hub._requests.open == {}


async def test_an_async_responder_answers(hub: Hub) -> None:
    @hub.responds("a")
    async def double(key: Key[Any], message: int) -> int:
        await asyncio.sleep(0)
        return 2 * message

    assert await asyncio.gather(*(hub.request("a", number) for number in range(5))) == [0, 2, 4, 6, 8]


async def test_a_plain_responder_may_return_a_future(hub: Hub) -> None:
    failures: list[ListenerFailure] = []
    hub.on_error = failures.append
    tasks: list[asyncio.Task[Any]] = []

    async def invert(number: int) -> float:
        await asyncio.sleep(0)
        return 1 / number

    def start(key: Key[Any], number: int) -> Any:
        tasks.append(asyncio.create_task(invert(number)))
        return tasks[-1]

    responder = hub.respond("a", start)
    assert await hub.request("a", 4) == 0.25
    with pytest.raises(RemoteError, match="division by zero"):
        await hub.request("a", 0)
    assert [failure.listener for failure in failures] == [responder]
    waiting = hub.request("a", 1)
    tasks[-1].cancel()
    with pytest.raises(RemoteError, match="CancelledError"):
        await waiting


async def test_requests_may_be_nested(hub: Hub) -> None:
    hub.respond("leaf", echo)
    hub.respond("passing", lambda key, message: hub.request("leaf", message + 1))

    @hub.responds("outer")
    async def outer(key: Key[Any], message: int) -> int:
        return 10 * int(await hub.request("passing", message))

    assert await hub.request("outer", 1) == 20
    assert hub._requests.open == {}


async def test_only_responders_answer_and_without_one_nothing_is_published(hub: Hub) -> None:
    seen: list[Any] = []
    hub.add_listener("*", lambda key, message: seen.append(message), event=False)
    seen.clear()
    with hub.subscribe("a") as subscription:
        seen.clear()
        for ask in (hub.request, hub.request_many):
            with pytest.raises(NoResponders, match="nobody responds") as caught:
                ask("a", 1)
            assert caught.value.key == ("a",)
        assert (seen, subscription.pending) == ([], 0)


async def test_a_request_is_seen_like_any_message_in_order_of_subscription(hub: Hub) -> None:
    seen: list[Any] = []
    subscription = hub.subscribe(("a", "*"))
    hub.add_listener("*", lambda key, message: seen.append(("before", message)))
    hub.respond(("a", "b"), lambda key, message: seen.append(("responder", message)))
    hub.add_listener(("a", "b"), lambda event: seen.append(("after", event.message)), event=True)
    seen.clear()
    await hub.request(("a", "b"), 1)
    assert seen == [("before", 1), ("responder", 1), ("after", 1)]
    event = await subscription.consume()
    assert event == (("a", "b"), 1)
    assert event.meta is not None
    assert event.meta.correlation


async def test_an_ordinary_publish_calls_a_responder_too(hub: Hub) -> None:
    seen: list[Any] = []

    async def respond_async(key: Key[Any], message: Any) -> str:
        seen.append(message)
        return "ignored"

    hub.respond("a", lambda key, message: seen.append(message))
    hub.respond("a", respond_async)
    assert hub.publish("a", 1) == 2
    hub.publish_event(Event(Key("a"), 2, Meta(id="7")))
    await settled()
    assert sorted(seen) == [1, 1, 2, 2]


async def test_responders_with_event_get_the_event(hub: Hub) -> None:
    async def respond_async(event: Event[Any]) -> Any:
        return event.message + 1

    hub.respond("plain", lambda event: event.message, event=True)
    hub.respond("async", respond_async, event=True)
    assert await hub.request("plain", 1) == 1
    assert await hub.request("async", 1) == 2
    assert hub.publish("plain", 1) + hub.publish("async", 1) == 2


async def test_the_first_reply_counts(hub: Hub) -> None:
    async def late(key: Key[Any], message: Any) -> str:
        return "late"

    slow = hub.respond("a", late)
    hub.respond("a", lambda key, message: "first")
    hub.respond("a", lambda key, message: "second")
    assert await hub.request("a") == "first"
    await until(lambda: slow.pending == 0)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_in_the_responder_reaches_who_asked_and_is_a_failure(hub: Hub, asynchronous: bool) -> None:
    failures: list[ListenerFailure] = []
    hub.on_error = failures.append

    def invert(key: Key[Any], message: int) -> float:
        return 1 / message

    async def invert_async(key: Key[Any], message: int) -> float:
        return 1 / message

    responder = hub.respond("a", invert_async if asynchronous else invert)
    with pytest.raises(RemoteError, match=r"\('a',\).*division by zero") as caught:
        await hub.request("a", 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert isinstance(caught.value, RequestError)
    assert [failure.error for failure in failures] == [caught.value.__cause__]
    assert responder.failed == 1
    assert await hub.request("a", 2) == 0.5


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_leaked_cancelled_error_is_an_error_of_the_responder(hub: Hub, asynchronous: bool) -> None:
    def leak(key: Key[Any], message: Any) -> None:
        raise asyncio.CancelledError

    async def leak_async(key: Key[Any], message: Any) -> None:
        raise asyncio.CancelledError

    hub.respond("a", leak_async if asynchronous else leak)
    with pytest.raises(RemoteError) as caught:
        await hub.request("a")
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_an_interrupt_in_a_responder_passes_to_who_asked(hub: Hub) -> None:
    def interrupt(key: Key[Any], message: Any) -> None:
        raise KeyboardInterrupt

    hub.respond("a", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.request("a")
    assert hub._requests.open == {}


async def test_a_responder_that_never_returns_lets_the_request_time_out(hub: Hub) -> None:
    responder = hub.respond("a", never)
    waiting = hub.request("a", timeout=0.01)
    await until(lambda: not hub._requests.open)
    await responder.remove()
    with pytest.raises(RequestTimeout, match=r"within 0\.01 seconds") as caught:
        await waiting
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, RequestError)
    assert (caught.value.key, caught.value.timeout) == (("a",), 0.01)


@pytest.mark.parametrize("when", ["queued", "answering"])
async def test_a_responder_that_is_removed_before_it_answers_is_told_at_once(hub: Hub, when: str) -> None:
    responder = hub.respond("a", never)
    first, second = hub.request("a", timeout=None), hub.request("a", timeout=None)
    if when == "answering":
        await settled()
    responder.remove()
    for waiting in (first, second):
        with pytest.raises(NoResponders, match="was removed") as caught:
            await waiting
        assert caught.value.reached == 1
    assert_nobody_waits(hub)


async def test_a_responder_whose_task_is_cancelled_is_told_at_once(hub: Hub) -> None:
    responder = hub.respond("a", never)
    waiting = hub.request("a", timeout=None)
    await settled()
    responder._task.cancel()  # type: ignore[attr-defined]
    with pytest.raises(NoResponders):
        await waiting


async def test_a_responder_that_removes_itself_still_answers(hub: Hub) -> None:
    async def once(key: Key[Any], message: Any) -> str:
        await responder.remove()
        await asyncio.sleep(0)
        return "last"

    responder = hub.respond("a", once)
    assert await hub.request("a") == "last"
    with pytest.raises(NoResponders):
        hub.request("a")


async def test_a_responder_removed_in_the_middle_of_the_request_does_not_count(hub: Hub) -> None:
    hub.add_listener("a", lambda key, message: responder.remove())
    responder = hub.respond("a", echo)
    with pytest.raises(NoResponders):
        await hub.request("a")
    assert hub._requests.open == {}


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEWEST, Overflow.CLOSE])
async def test_a_request_that_a_full_responder_refuses_is_told_at_once(hub: Hub, overflow: Overflow) -> None:
    async def respond(key: Key[Any], message: Any) -> Any:
        await asyncio.sleep(0)
        return message

    hub.respond("a", respond, maxsize=2, overflow=overflow)
    waiting = [hub.request("a", number) for number in range(3)]
    with pytest.raises(NoResponders, match="dropped the request"):
        await waiting[2]
    assert [await waiting[0], await waiting[1]] == [0, 1]


async def test_closing_lets_async_responders_answer_what_is_queued() -> None:
    async def respond(key: Key[Any], message: Any) -> Any:
        await asyncio.sleep(0)
        return message

    async with Hub() as hub:
        hub.respond("a", respond)
        waiting = [hub.request("a", number) for number in range(3)]
    assert [await each for each in waiting] == [0, 1, 2]


async def test_responders_survive_a_closed_hub(hub: Hub) -> None:
    hub.respond("a", echo)
    await hub.close()
    await hub.start()
    assert await hub.request("a", 1) == 1


async def test_what_cannot_be_published_to_cannot_be_asked(hub: Hub) -> None:
    for ask in (hub.request, hub.request_many):
        with pytest.raises(WildcardPublished):
            ask(("a", "*"))


async def test_a_publisher_asks_under_its_prefix(hub: Hub) -> None:
    hub.respond(("shop", "price"), lambda key, message: (key, message))
    assert await Publisher(hub, "shop").request("price", "tea", timeout=1) == (("shop", "price"), "tea")


async def test_a_reply_address_that_somebody_made_up_leads_nowhere(hub: Hub) -> None:
    async def respond_async(key: Key[Any], message: Any) -> float:
        return 1 / message

    replies: list[Any] = []
    for address in (
        ("Hub", "reply", "bridge"),
        ("admin", "shutdown"),
        ("Hub", "addedSubscriber", "x"),
        ("Hub", "reply", "*"),
    ):
        hub.add_listener(address, lambda key, message: replies.append(message))
        hub.respond("plain", lambda key, message: 1 / message)
        hub.respond("async", respond_async)
        replies.clear()  # meta-events
        for name in ("plain", "async"):
            for message in (2, 0):
                meta = Meta(reply_to=Key.create_from(address), correlation="c7")
                hub.publish_event(Event(Key(name), message, meta))
            await settled()
    assert replies == []


async def test_a_local_request_is_answered_by_nobody_who_guesses_its_correlation(hub: Hub) -> None:
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    hub.respond(("auth", "check"), lambda key, message: never)
    request = hub.request(("auth", "check"), timeout=0.2)
    for number in range(10):
        for address in (None, Key("Hub", "reply", hub.border.origin)):
            meta = Meta(correlation=f"{hub.border.origin}-{number}", reply_to=address)
            hub.publish_event(Event(Key("Hub", "reply", hub.border.origin), "granted", meta))
            hub.publish_event(Event(Key("auth", "check"), "granted", meta))
    with pytest.raises(RequestTimeout):
        await request


async def test_a_responder_that_asks_itself_is_told_so_at_once(hub: Hub) -> None:
    async def ask_again(key: Key[Any], message: Any) -> Any:
        if message == "one":
            return await hub.request(key, "two", timeout=30)
        replies = hub.request_many(key, "two", timeout=30)
        return [reply async for reply in replies], [type(error) for error in replies.errors]

    listener = hub.respond("a", ask_again)
    with pytest.raises(RemoteError) as caught:
        await hub.request("a", "one", timeout=30)
    assert isinstance(caught.value.__cause__, WaitingForItself)
    assert listener.failed == 1
    assert await hub.request("a", "many", timeout=30) == ([], [WaitingForItself])


async def test_whoever_asks_is_told_that_a_bridge_leads_further(hub: Hub) -> None:
    with pytest.raises(NoResponders, match="respond"):
        hub.request("a")
    outbox = hub.border.outbox("a", 10)
    with pytest.raises(NoResponders, match="local=False") as caught:
        hub.request("a")
    assert caught.value.leaves
    outbox.close()


async def test_thousands_of_requests_leave_nothing_behind(hub: Hub) -> None:
    hub.respond("a", echo)
    for number in range(2000):
        assert await hub.request("a", number) == number
    assert hub._requests.open == {}
    assert hub.stats().published == 2000


# Asking many


async def test_request_many_gives_the_replies_as_they_come_until_all_have_answered(hub: Hub) -> None:
    gate = asyncio.Event()

    async def late(key: Key[Any], message: Any) -> str:
        await gate.wait()
        return "late"

    hub.respond("a", late)
    hub.respond("a", lambda key, message: "early")
    replies = []
    async for reply in hub.request_many("a", timeout=None):
        replies.append(reply)
        gate.set()
    assert replies == ["early", "late"]
    assert hub._requests.open == {}


async def test_request_many_ends_at_the_limit(hub: Hub) -> None:
    for name in "xyz":
        hub.respond("a", lambda key, message, name=name: name)
    assert [reply async for reply in hub.request_many("a", limit=2)] == ["x", "y"]
    with pytest.raises(ValueError, match="limit"):
        hub.request_many("a", limit=0)


async def test_request_many_ends_quietly_at_the_timeout(hub: Hub) -> None:
    responder = hub.respond("a", never)
    hub.respond("a", lambda key, message: "early")
    assert [reply async for reply in hub.request_many("a", timeout=0.01)] == ["early"]
    await responder.remove()


async def test_request_many_collects_what_failed(hub: Hub) -> None:
    hub.respond("a", lambda key, message: 1 / 0)
    hub.respond("a", lambda key, message: "fine")
    replies = hub.request_many("a", limit=1)
    assert [reply async for reply in replies] == ["fine"]
    assert [type(error.__cause__) for error in replies.errors] == [ZeroDivisionError]


async def test_request_many_does_not_wait_for_who_is_removed(hub: Hub) -> None:
    responder = hub.respond("a", never)
    replies = hub.request_many("a", timeout=None)
    task = asyncio.ensure_future(anext(replies, "end"))  # type: ignore[arg-type]
    await settled()
    responder.remove()
    assert await task == "end"


async def test_a_cancelled_step_of_replies_loses_nothing(hub: Hub) -> None:
    gate = asyncio.Event()

    async def late(key: Key[Any], message: Any) -> str:
        await gate.wait()
        return "late"

    hub.respond("a", late)
    replies = hub.request_many("a")

    async def step() -> Any:
        return await anext(replies)

    task = asyncio.create_task(step())
    await settled()
    task.cancel()
    await settled()
    gate.set()
    assert [reply async for reply in replies] == ["late"]


async def test_closed_replies_can_be_read_to_their_end(hub: Hub) -> None:
    hub.respond("a", lambda key, message: "early")
    responder = hub.respond("a", never)
    replies = hub.request_many("a")
    replies.close()
    assert hub._requests.open == {}
    assert [reply async for reply in replies] == ["early"]
    await responder.remove()


async def test_a_request_of_a_retained_key_is_answered_and_retained(hub: Hub) -> None:
    hub.retain("price")
    hub.respond("price", lambda key, message: message + 1)
    assert await hub.request("price", 1) == 2
    last = hub.last("price")
    assert last is not None
    assert last.message == 1


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_replies_end_with_the_block_that_they_were_asked_in(hub: Hub, kind: str) -> None:
    answered = asyncio.Event()

    async def answer(key: Key[Any], message: Any) -> int:
        await answered.wait()
        return 2

    hub.respond("a", lambda key, message: 1)
    hub.respond("a", answer)
    replies = hub.request_many("a")
    if kind == "with":
        with replies:
            assert await anext(replies) == 1
    else:
        async with replies:
            assert await anext(replies) == 1
    answered.set()
    assert [reply async for reply in replies] == []
