"""Subscriber and Publisher: who owns what, and what removing does."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from test_queue import settled, until

from hubsub import (
    Hub,
    InvalidListener,
    Key,
    Publisher,
    Subscriber,
    SubscriptionClosed,
    UnknownListener,
    UnknownSubscription,
    WildcardPublished,
)


async def test_subscribe_and_consume_share_a_queue_per_id(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    assert subscriber.subscribe("a") is subscriber.subscribe(["b", "a"])
    subscriber.subscribe("c", "other")
    for key in "abc":
        hub.publish(key, key.upper())
    assert [await subscriber.consume() for _ in range(2)] == [(("a",), "A"), (("b",), "B")]
    assert await subscriber.consume("other") == (("c",), "C")
    subscriber.close()


async def test_consuming_an_unknown_id_is_an_error_at_once(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    with pytest.raises(UnknownSubscription, match="'nowhere'"):
        subscriber.consume("nowhere")


async def test_unsubscribing_leaves_what_is_queued_and_subscribing_again_reopens(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    subscription = subscriber.subscribe("a")
    hub.publish("a", 1)
    subscriber.unsubscribe("a")
    hub.publish("a", "lost")
    assert subscription.closed
    assert await subscriber.consume() == (("a",), 1)
    with pytest.raises(SubscriptionClosed):
        await subscriber.consume()
    assert subscriber.subscribe("b") is subscription
    hub.publish("a", "lost")
    hub.publish("b", 2)
    assert await subscriber.consume() == (("b",), 2)
    assert subscription.accepted == subscription.delivered == 2
    assert subscription.patterns == (("b",),)
    subscriber.close()


async def test_unsubscribing_one_of_several_keeps_the_others(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    subscription = subscriber.subscribe(["a", "b", ("b", "*")])
    subscriber.unsubscribe(["a", ("b", "*")])
    assert [hub.publish(key) for key in ("a", ("b", "c"), "b")] == [0, 0, 1]
    assert subscription.patterns == (("b",),)
    subscriber.close()


def test_unsubscribing_what_is_not_held_changes_nothing(loopless: Hub) -> None:
    subscriber = Subscriber(loopless, "s")
    with pytest.raises(UnknownSubscription):
        subscriber.unsubscribe("a")
    subscriber.subscribe("a")
    with pytest.raises(UnknownSubscription, match="'b'"):
        subscriber.unsubscribe(["a", "b"])
    assert loopless.publish("a") == 1
    subscriber.unsubscribe("a")
    with pytest.raises(UnknownSubscription):
        subscriber.unsubscribe("a")


def test_the_same_function_added_twice_to_a_pattern_stays_one(loopless: Hub) -> None:
    seen: list[Any] = []
    subscriber = Subscriber(loopless, "s")

    def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    first = subscriber.add_sync_listener("a", listen)
    assert subscriber.add_listener("a", listen) is first
    both = subscriber.add_listener(["a", "b"], listen)
    assert both is not first
    assert both.patterns == (("b",),)
    assert loopless.publish("a", 1) == 1
    assert loopless.publish("b", 2) == 1
    assert seen == [1, 2]


def test_two_subscribers_are_independent(loopless: Hub) -> None:
    seen: list[Any] = []
    one, two = Subscriber(loopless, "one"), Subscriber(loopless, "two")
    one.add_listener("a", seen.append, event=True)
    two.add_listener("a", seen.append, event=True)
    assert loopless.publish("a") == 2
    one.close()
    assert loopless.publish("a") == 1


def test_bound_methods_and_unhashable_callables_are_found_again(loopless: Hub) -> None:
    @dataclass
    class Recorder:
        seen: list[Any]

        def __call__(self, key: Key[Any], message: Any) -> None:
            self.seen.append(message)

        def method(self, key: Key[Any], message: Any) -> None:
            self.seen.append(message)

    recorder = Recorder([])
    subscriber = Subscriber(loopless, "s")
    subscriber.add_listener("a", recorder)
    subscriber.add_listener("a", recorder.method)
    subscriber.add_listener("a", recorder.method)
    assert loopless.publish("a") == 2
    subscriber.remove_listener("a", recorder.method)
    subscriber.remove_listener("a", recorder)
    assert loopless.publish("a") == 0


def test_removing_what_was_never_added_is_an_error_and_changes_nothing(loopless: Hub) -> None:
    subscriber = Subscriber(loopless, "s")
    subscriber.add_listener("a", print)
    for keys, function in (("b", print), (["a", "b"], print), ("a", repr)):
        with pytest.raises(UnknownListener) as caught:
            subscriber.remove_listener(keys, function)
        assert "'s'" in str(caught.value)
    assert loopless.publish("a", "") == 1


def test_a_listener_removed_by_its_handle_is_forgotten_by_its_subscriber(loopless: Hub) -> None:
    subscriber = Subscriber(loopless, "s")
    first = subscriber.add_listener("a", print)
    first.remove()
    assert subscriber._listeners == {}
    assert subscriber.add_listener("a", print) is not first


async def test_remove_all_listeners_works_with_and_without_await(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")

    async def listen(key: Key[Any], message: Any) -> None: ...

    for waiting in (True, False):
        subscriber.add_async_listener({Key("a"), Key("b")}, listen)
        subscriber.add_sync_listener(Key("a"), lambda key, message: None)
        hub.publish("a")
        removal = subscriber.remove_all_listeners()
        assert not hub.has_subscribers()
        if waiting:
            await removal
            assert not hub._life.running


async def test_leaving_the_block_removes_everything_it_owns(hub: Hub) -> None:
    async with Subscriber(hub, "s") as subscriber:

        @subscriber.on(("a", "*"))
        def sync_listener(key: Key[Any], message: Any) -> None: ...

        @subscriber.on("a", maxsize=7)
        async def async_listener(key: Key[Any], message: Any) -> None: ...

        subscriber.subscribe("a")
        assert hub.publish("a") == 2
        await settled()
    assert hub.patterns() == {}
    assert not hub._life.running


async def test_removal_takes_effect_at_once_and_cancels_the_call_in_progress(hub: Hub) -> None:
    seen: list[Any] = []

    async def slow(key: Key[Any], message: Any) -> None:
        seen.append(message)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    listener = hub.add_listener("a", slow)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await settled()
    removal = listener.remove()
    assert hub.publish("a", 3) == 0
    assert (listener.accepted, listener.delivered, listener.pending, listener.dropped) == (2, 1, 0, 1)
    await removal
    assert seen == [1, "cancelled"]


async def test_removing_from_inside_the_own_call_neither_cancels_nor_waits(hub: Hub) -> None:
    seen: list[Any] = []
    finished = asyncio.Event()

    async def once(key: Key[Any], message: Any) -> None:
        await listener.remove()
        await asyncio.sleep(0)
        seen.append(message)
        finished.set()

    listener = hub.add_listener("a", once)
    hub.publish("a", 1)
    hub.publish("a", 2)
    await finished.wait()
    await settled()
    assert seen == [1]
    assert listener.dropped == 1
    assert not hub._life.running


async def test_removing_from_a_task_that_the_call_started_does_not_deadlock(hub: Hub) -> None:
    finished = asyncio.Event()

    async def once(key: Key[Any], message: Any) -> None:
        await asyncio.wait_for(asyncio.create_task(remove()), 5)
        finished.set()

    async def remove() -> None:
        await listener.remove()

    listener = hub.add_listener("a", once)
    hub.publish("a")
    await asyncio.wait_for(finished.wait(), 5)


async def test_cancelling_who_waits_for_a_removal_does_not_cancel_it_twice(hub: Hub) -> None:
    entered = asyncio.Event()
    ended: list[str] = []

    async def stubborn(key: Key[Any], message: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            entered.set()
            await asyncio.sleep(0.01)
            ended.append("cleaned up")

    listener = hub.add_listener("a", stubborn)
    hub.publish("a")
    await settled()

    async def wait() -> None:
        await listener.remove()

    waiting = asyncio.create_task(wait())
    await entered.wait()
    waiting.cancel()
    await listener.remove()
    await until(lambda: bool(ended))
    assert ended == ["cleaned up"]


@pytest.mark.parametrize(
    ("function", "asynchronous"),
    [
        (lambda key, message: None, False),
        (functools.partial(print, sep=""), False),
        (print, False),
        (asyncio.sleep, True),
        (functools.partial(asyncio.sleep), True),
        (functools.partial(functools.partial(asyncio.sleep)), True),
    ],
)
def test_add_listener_tells_async_functions_by_looking(function: Callable[..., Any], asynchronous: bool) -> None:
    hub = Hub()
    assert (hub.add_listener("a", function).mailbox is not None) == asynchronous


def test_an_object_with_an_async_call_is_async() -> None:
    class Listener:
        async def __call__(self, key: Key[Any], message: Any) -> None: ...

    assert Hub().add_listener("a", Listener()).mailbox is not None


def test_listeners_of_the_wrong_kind_are_refused(loopless: Hub) -> None:
    subscriber = Subscriber(loopless, "s")
    with pytest.raises(InvalidListener, match="add_async_listener"):
        subscriber.add_sync_listener("a", asyncio.sleep)
    with pytest.raises(InvalidListener, match="can be called"):
        loopless.add_listener("a", "not a function")  # type: ignore[arg-type]
    with pytest.raises(InvalidListener, match="maxsize"):
        loopless.add_listener("a", print, maxsize=3)
    for nonsense in (0, -1, 1.5, "many"):
        with pytest.raises(ValueError, match="at least 1"):
            loopless.subscribe("a", maxsize=nonsense)  # type: ignore[arg-type]
    assert not loopless.has_subscribers()


async def test_add_async_listener_takes_whatever_returns_an_awaitable(hub: Hub) -> None:
    seen: list[Any] = []

    async def handle(message: Any) -> None:
        seen.append(message)

    subscriber = Subscriber(hub, "s")
    subscriber.add_async_listener("a", lambda key, message: handle(message))
    wrong = subscriber.add_async_listener("a", lambda key, message: None)
    hub.publish("a", 1)
    await settled()
    assert seen == [1]
    assert wrong.failed == 1
    await subscriber.close()


def test_decorators_return_the_function_unchanged(loopless: Hub) -> None:
    def listen(key: Key[Any], message: Any) -> None: ...

    assert loopless.on("a")(listen) is listen
    assert Subscriber(loopless, "s").on(["a", "b"])(listen) is listen


# Publisher


def test_a_publisher_prepends_its_prefix(loopless: Hub) -> None:
    seen: list[Any] = []
    loopless.add_listener(("host", "*"), lambda key, message: seen.append((key, message)))
    publisher = Publisher(loopless, "host")
    for _ in range(2):
        assert publisher.publish(("cpu", "0"), 1) == 1
        assert publisher.publish("load", 2) == 1
        assert publisher.publish(Key("cpu", "1"), 3) == 1
    expected = [(("host", "cpu", "0"), 1), (("host", "load"), 2), (("host", "cpu", "1"), 3)]
    assert seen == expected * 2


def test_a_publisher_asks_for_what_is_under_its_prefix(loopless: Hub) -> None:
    publisher = Publisher(loopless, prefix=Key("host"))
    assert not publisher.has_subscribers()
    loopless.add_listener(("other", "*"), print)
    assert not publisher.has_subscribers()
    loopless.add_listener(("host", "cpu", "+"), print)
    assert publisher.has_subscribers()
    assert publisher.has_subscribers(("cpu", "0"))
    assert publisher.has_subscribers(["nothing", ("cpu", "*")])
    assert not publisher.has_subscribers("load")


def test_a_publisher_without_a_prefix_publishes_as_it_is(loopless: Hub) -> None:
    loopless.add_listener("a", lambda key, message: None)
    assert Publisher(loopless, ()).publish("a") == 1


def test_a_publisher_remembers_a_bounded_number_of_keys(loopless: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "REMEMBERED", 10)
    publisher = Publisher(loopless, "a")
    for number in range(100):
        publisher.publish(str(number))
        assert len(publisher._full) <= 10


@pytest.mark.parametrize("key", [("*",), "+", (), ("a", 1), ("a", ["b"]), ["a"], None])
def test_a_publisher_refuses_what_the_hub_refuses(loopless: Hub, key: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        Publisher(loopless, "a").publish(key)
    with pytest.raises(ValueError, match=r"."):
        Publisher(loopless, key if key != () else ("*",))


async def test_a_publisher_waits_for_room(hub: Hub) -> None:
    subscription = hub.subscribe(("a", "b"), maxsize=1)
    publisher = Publisher(hub, "a")
    assert await publisher.publish_wait("b", 1) == 1
    publishing = asyncio.create_task(publisher.publish_wait("b", 2))
    await settled()
    assert subscription.pending == 1
    await subscription.consume()
    assert await publishing == 1
    with pytest.raises(WildcardPublished):
        await publisher.publish_wait("*")


async def test_a_subscriber_is_a_context_manager_of_either_kind(hub: Hub) -> None:
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    with Subscriber(hub, "s") as subscriber:
        subscription = subscriber.subscribe("a")
        subscriber.add_listener("a", listen)
        hub.publish("a", 1)
    assert not hub.has_subscribers()
    hub.publish("a", 2)
    assert await subscription.consume() == (("a",), 1)
    await subscriber.close()
    assert seen == [1]
