"""Queues next to each other in a route: they share an index and what a message is queued as, and nothing else."""

import asyncio
from typing import Any

import pytest
from test_delivery import assert_nothing_left

from hubsub import Event, Hub, Key, Overflow, Subscriber, WrongThread
from hubsub._core.runs import Run

KEPT_BY_ALL = [Overflow.GROW, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.CLOSE]


@pytest.mark.parametrize("overflow", KEPT_BY_ALL)
def test_queues_next_to_each_other_share_one_pair(hub: Hub, overflow: Overflow) -> None:
    queues = [hub.subscribe("a", maxsize=3, overflow=overflow) for _ in range(Run.LEAST)]
    assert hub.publish("a", 1) == Run.LEAST
    pairs = [queue.take(1)[0] for queue in queues]
    assert all(pair is pairs[0] for pair in pairs)


def test_whoever_stands_between_queues_gets_its_message_in_its_turn(hub: Hub) -> None:
    pending: list[list[int]] = []
    before = [hub.subscribe("a") for _ in range(Run.LEAST)]
    hub.add_listener("a", lambda key, message: pending.append([each.pending for each in (*before, *after)]))
    after = [hub.subscribe(["a", ("a", "*")]) for _ in range(Run.LEAST)]
    assert hub.publish("a", 1) == 2 * Run.LEAST + 1
    assert pending == [[1] * Run.LEAST + [0] * Run.LEAST]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("times", [1, 2])
def test_a_queue_closed_in_the_middle_of_a_publish_gets_nothing(which: int, times: int) -> None:
    hub = Hub()
    hub.add_listener("a", lambda key, message: queues[which].close() if message == times else None)
    queues = [hub.subscribe("a") for _ in range(5)]
    for message in range(1, times + 2):
        hub.publish("a", message)
    for number, queue in enumerate(queues):
        expected = times - 1 if number == which else times + 1
        assert (queue.accepted, queue.pending) == (expected, expected)


def test_a_queue_closed_and_subscribed_anew_in_the_middle_gets_only_what_comes_later(hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")

    def anew(key: Key[Any], message: Any) -> None:
        if message == 1:
            subscriber.unsubscribe("a", 2)
            subscriber.subscribe("a", 2)

    hub.add_listener("a", anew)
    queues = [subscriber.subscribe("a", number) for number in range(5)]
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert [queue.pending for queue in queues] == [2, 2, 1, 2, 2]


@pytest.mark.parametrize("overflow", KEPT_BY_ALL)
def test_what_a_full_queue_does_concerns_it_alone(hub: Hub, overflow: Overflow) -> None:
    queues = [hub.subscribe("a", maxsize=2, overflow=overflow) for _ in range(2 * Run.LEAST)]
    hub.publish("a", 1)
    for queue in queues[::2]:
        queue.take(1)
    hub.publish("a", 2)
    hub.publish("a", 3)
    left = {Overflow.GROW: [1, 2, 3], Overflow.DROP_OLDEST: [2, 3]}.get(overflow, [1, 2])
    assert [[message for _, message in queue.take(9)] for queue in queues] == [[2, 3], left] * Run.LEAST


def test_an_interrupt_out_of_one_queue_passes_when_all_have_the_message(hub: Hub) -> None:
    def interrupt(key: Key[Any], message: Any) -> None:
        raise KeyboardInterrupt

    seen: list[Any] = []
    queues = [hub.subscribe("a", maxsize=1 if number == 1 else 9) for number in range(Run.LEAST)]
    hub.add_listener("a", lambda key, message: seen.append(message))
    hub.publish("a", 1)
    interrupter = hub.add_listener(("Hub", "slowSubscriber", "*"), interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.publish("a", 2)
    assert [queue.pending for queue in queues] == [2] * Run.LEAST
    assert seen == [1, 2]
    assert interrupter.failed == 0


async def test_another_thread_reaches_none_of_them(hub: Hub) -> None:
    queues = [hub.subscribe("a") for _ in range(Run.LEAST)]
    hub.publish("a", 1)
    waiting = [asyncio.ensure_future(queue.consume()) for queue in queues for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(WrongThread):
        await asyncio.to_thread(hub.publish, "a", 2)
    assert [queue.accepted for queue in queues] == [1] * Run.LEAST
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


async def test_consumers_listeners_and_events_fare_as_with_an_index_of_their_own(hub: Hub) -> None:
    seen: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        seen.append(message)

    queues = [hub.subscribe("a") for _ in range(Run.LEAST)]
    listeners = [hub.add_listener("a", listen) for _ in range(3)]
    hub.publish("a", 1)
    hub.publish_event(Event(Key("a"), 2))
    assert await hub.publish_wait("a", 3) == Run.LEAST + 3
    for queue in queues:
        assert [await queue.consume() for _ in range(3)] == [(("a",), message) for message in (1, 2, 3)]
    while any(listener.pending for listener in listeners):  # noqa: ASYNC110 - giving the loop its turns
        await asyncio.sleep(0)
    assert sorted(seen) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {queue.accepted for queue in queues} == {listener.accepted for listener in listeners} == {3}


def test_nothing_is_left_of_them() -> None:
    hub = Hub()
    queues = [hub.subscribe(("a", "*")) for _ in range(Run.LEAST)]
    hub.publish(("a", "b"))
    for queue in queues:
        queue.close()
    assert_nothing_left(hub)
