"""Headers, the publisher's context, taking listeners off by their function, handles as coroutines."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from hubsub import Event, Gap, Hub, Key, Publisher, Retry, Snapshot, Subscriber, UnknownListener

trace: ContextVar[str] = ContextVar("trace", default="nobody's")


def test_headers_travel_with_a_message() -> None:
    hub = Hub()
    got: list[Event[Any]] = []
    hub.add_listener("a", got.append, event=True)
    subscription = hub.subscribe(("p", "*"))
    headers = {"trace": "1"}
    assert hub.publish_with_headers("a", 5, headers) == 1
    headers["trace"] = "changed"
    [event] = got
    assert (event.message, event.meta and event.meta.headers) == (5, {"trace": "1"})
    Publisher(hub, "p").publish_with_headers("a", 6, {"trace": "2"})
    assert subscription.pending == 1


async def test_headers_travel_with_requests_and_confirmed_messages() -> None:
    async with Hub() as hub:
        seen: list[Any] = []

        def answer(event: Event[Any]) -> Any:
            seen.append(dict(event.meta.headers) if event.meta else None)
            return event.message

        hub.respond("a", answer, event=True)
        assert await hub.request("a", 1, headers={"n": "1"}) == 1
        assert [reply async for reply in hub.request_many("a", 2, headers={"n": "2"})] == [2]
        assert await hub.publish_confirmed("a", 3, headers={"n": "3"}) == 1
        assert await hub.publish_confirmed("a", 4) == 1
        assert seen == [{"n": "1"}, {"n": "2"}, {"n": "3"}, None]


async def test_a_publisher_does_everything_under_its_prefix_that_a_hub_does() -> None:
    async with Hub() as hub:
        publisher: Publisher[Any] = Publisher(hub, "p")
        subscription = hub.subscribe(("p", "*"))
        hub.respond(("p", "ask"), lambda key, message: 2 * message)
        assert publisher.publish_many([("a", 1), ("b", 2)]) == 2
        assert publisher.publish_event(Event(Key("c"), 3)) == 1
        assert await publisher.request("ask", 4) == 8
        assert [reply async for reply in publisher.request_many("ask", 5)] == [10]
        assert await asyncio.wrap_future(publisher.publish_threadsafe("d", 6)) == 1
        got = [(key[1], message) for key, message in await subscription.get_batch(100)]
        assert got == [("a", 1), ("b", 2), ("c", 3), ("ask", 4), ("ask", 5), ("d", 6)]


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"retry": Retry(2, 0)}])
@pytest.mark.parametrize("event", [False, True])
async def test_a_listener_sees_the_context_of_each_publish_by_choice(options: Any, event: bool) -> None:
    seen: list[Any] = []

    async def note(*arguments: Any) -> None:
        before = trace.get()
        await asyncio.sleep(0)
        trace.set("changed in a call")
        _, message = arguments if len(arguments) == 2 else arguments[0]
        seen.append((message, before))

    async def pair(key: Any, message: Any) -> None:
        await note(key, message)

    async def single(event: Any) -> None:
        await note(event)

    hub = Hub()
    async with hub:
        hub.add_listener("a", single if event else pair, event=event, context="publisher", **options)
        for number in range(4):
            trace.set(f"publish {number}")
            hub.publish("a", number)
        again: Event[Any] = Event(Key("a"), 4)
        for number in range(2):  # the same event, in two contexts
            trace.set(f"event {number}")
            hub.publish_event(again)
        trace.set("confirmed")
        await hub.publish_confirmed("a", 5)
    numbers = [(number, f"publish {number}") for number in range(4)]
    assert sorted(seen) == sorted([*numbers, (4, "event 0"), (4, "event 1"), (5, "confirmed")])
    assert trace.get() == "confirmed"


async def test_by_default_a_listener_sees_the_context_of_its_registration() -> None:
    seen: list[str] = []

    async def note(key: Any, message: Any) -> None:
        seen.append(trace.get())

    async with Hub() as hub:
        trace.set("registration")
        hub.add_listener("a", note)
        trace.set("publish")
        hub.publish("a")
    assert seen == ["registration"]
    with pytest.raises(ValueError, match="context must be 'listener' or 'publisher'"):
        Hub().add_listener("a", note, context="x")  # type: ignore[call-overload]


async def test_a_listener_in_the_publishers_context_is_cancelled_and_waited_for_like_any_other() -> None:
    ended: list[str] = []
    started = asyncio.Event()

    async def slow(key: Any, message: Any) -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with Hub() as hub:
        listener = hub.add_listener("a", slow, context="publisher")
        hub.publish("a")
        await started.wait()
        await listener.remove()
    assert ended == ["cancelled"]


async def test_a_responder_may_answer_in_the_context_of_who_asks() -> None:
    async def who(key: Any, message: Any) -> str:
        return trace.get()

    async with Hub() as hub:
        hub.respond("who", who, context="publisher")  # type: ignore[call-arg]
        for name in ("one", "two"):
            trace.set(name)
            assert await hub.request("who") == name


async def test_next_and_request_can_be_made_tasks_of_gathered_and_waited_for() -> None:
    async with Hub() as hub:
        hub.respond("double", lambda key, message: 2 * message)
        task = asyncio.create_task(hub.next("a"))
        gathered = asyncio.gather(hub.next("a"), hub.request("double", 4))
        waited = asyncio.wait_for(hub.next("a"), 5)
        hub.publish("a", 1)
        assert [await task, await gathered, await waited] == [(("a",), 1), [(("a",), 1), 8], (("a",), 1)]
        for cancelled in (asyncio.create_task(hub.next("a")), asyncio.ensure_future(hub.next("a"))):
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()
        started = asyncio.create_task(hub.next("a"))
        await asyncio.sleep(0)
        started.cancel()
        await asyncio.wait([started])
        assert not hub.has_subscribers("a")


def test_remove_listener_takes_off_what_a_decorator_has_added() -> None:
    hub = Hub()
    seen: list[Any] = []

    @hub.on(["a", "b"])
    def note(key: Any, message: Any) -> None:
        seen.append(message)

    other = hub.add_listener("c", note)
    kept = Subscriber(hub, "s").add_listener("a", note)
    hub.remove_listener(note, "a")
    hub.publish("a", 1)  # the subscriber's is left
    hub.publish("b", 2)
    hub.remove_listener(note)
    for key in "abc":
        hub.publish(key, 3)
    assert seen == [1, 2, 3]
    assert (other.closed, kept.closed) == (True, False)
    with pytest.raises(UnknownListener):
        hub.remove_listener(note)


def test_what_was_never_added_is_named_without_a_pattern() -> None:
    with pytest.raises(
        UnknownListener, match=r"^<Hub 'hub'> has no listener <built-in function print>; was it removed"
    ):
        Hub().remove_listener(print)


def test_remove_listener_changes_nothing_where_one_pattern_is_unknown() -> None:
    hub = Hub()
    listener = hub.add_listener("a", print)
    with pytest.raises(UnknownListener):
        hub.remove_listener(print, ["a", "b"])
    assert not listener.closed


class Shop:
    def on_sale(self, key: Any, message: Any) -> None: ...


def test_remove_listener_knows_a_bound_method_by_its_object() -> None:
    hub, shop = Hub(), Shop()
    listener = hub.add_listener("a", shop.on_sale)
    other = hub.add_listener("a", Shop().on_sale)
    hub.remove_listener(shop.on_sale)
    assert (listener.closed, other.closed) == (True, False)


async def test_a_subscriber_subscribes_with_every_option_of_a_hub() -> None:
    async def load() -> int:
        return 7

    async with Hub() as hub:
        subscriber = Subscriber(hub, "s")
        filtered = subscriber.subscribe(
            "a", "filtered", where=lambda key, message: message > 1, maxsize=5, ack="manual"
        )
        gaps = subscriber.subscribe("a", "gaps", gaps=True, maxsize=1, overflow="drop oldest")  # type: ignore[call-overload]
        state = subscriber.subscribe("a", "state", snapshot=load)
        for number in range(3):
            hub.publish("a", number)
        assert (filtered.pending, filtered.maxsize, filtered.ack) == (1, 5, "manual")
        first: Any = await gaps.consume()
        assert isinstance(first, Gap)
        assert await state.consume() == Snapshot(7)
        assert subscriber.subscribe("b", "gaps", gaps=True, maxsize=1, overflow="drop oldest") is gaps  # type: ignore[call-overload]
        assert subscriber.subscribe("c", "gaps") is gaps
        with pytest.raises(ValueError, match="gaps=: the subscription 'filtered' exists"):
            subscriber.subscribe("a", "filtered", gaps=True)
        with pytest.raises(ValueError, match="maxsize must be a number"):
            subscriber.subscribe("a", "new", maxsize=0)
        subscriber.subscribe("a", "new", maxsize=3)
