"""What a full queue does: nothing is lost silently, and the figures tell what became of every message."""

import asyncio
import logging
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_queue import settled

from hubsub import (
    Event,
    Gap,
    Hub,
    InvalidListener,
    Key,
    Listener,
    Meta,
    Overflow,
    SubscriberTooSlow,
    SubscriptionClosed,
)

DROPPING = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST]


async def drained(subscription: Any) -> list[Any]:
    """Everything that can be read now: messages as they are, gaps as ("gap", count)."""
    read = []
    while subscription._mailbox.items or subscription._mailbox._open_gaps:
        event = await subscription.consume()
        read.append(("gap", event.count) if isinstance(event, Gap) else event.message)
    return read


async def test_drop_oldest_keeps_the_newest_with_the_gap_before_them(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=3, overflow=Overflow.DROP_OLDEST, gaps=True)
    for number in range(10):
        assert hub.publish("a", number) == 1
    assert (subscription.pending, subscription.dropped, subscription.peak_pending) == (3, 7, 3)
    assert await drained(subscription) == [("gap", 7), 7, 8, 9]


async def test_drop_newest_keeps_the_oldest_with_the_gap_behind_them(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=3, overflow=Overflow.DROP_NEWEST, gaps=True)
    for number in range(5):
        hub.publish("a", number)
    assert (await subscription.consume()).message == 0
    hub.publish("a", 5)
    hub.publish("a", 6)
    hub.publish("a", 7)
    assert await drained(subscription) == [1, 2, ("gap", 2), 5, ("gap", 2)]
    assert subscription.dropped == 4


async def test_latest_replaces_the_waiting_message_in_its_place(hub: Hub) -> None:
    subscription = hub.subscribe(("a", "*"), overflow="latest", maxsize=10)
    for number in range(12):
        hub.publish(("a", "xyz"[number % 3]), number)
    hub.publish(("a", "x"), "newest")
    assert [event async for event in _until_empty(subscription)] == [
        (("a", "x"), "newest"),
        (("a", "y"), 10),
        (("a", "z"), 11),
    ]
    assert (subscription.superseded, subscription.dropped, subscription.delivered) == (10, 0, 3)


async def _until_empty(subscription: Any) -> Any:
    async for event in subscription:
        yield event
        if not subscription.pending:
            return


async def test_latest_beyond_its_bound_drops_the_key_that_waits_longest_with_a_gap(hub: Hub) -> None:
    subscription = hub.subscribe(("a", "*"), overflow=Overflow.LATEST, maxsize=2, gaps=True)
    for name in "xyxz":
        hub.publish(("a", name), name)
    gap = await subscription.consume()
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.count, gap.keys) == ("latest", 1, (("a", "x"),))
    assert gap.since <= gap.until
    assert await drained(subscription) == ["y", "z"]


async def test_close_lets_the_consumer_read_what_is_queued_and_then_tells_it(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=2, overflow=Overflow.CLOSE)
    for number in range(4):
        hub.publish("a", number)
    assert subscription.closed
    assert not hub.has_subscribers("a")
    assert [(await subscription.consume()).message for _ in range(2)] == [0, 1]
    with pytest.raises(SubscriberTooSlow, match="2 messages") as caught:
        await subscription.consume()
    assert isinstance(caught.value, SubscriptionClosed)
    with pytest.raises(SubscriberTooSlow):
        async for _ in subscription:
            pass
    assert (subscription.accepted, subscription.delivered, subscription.dropped) == (3, 2, 1)


async def test_an_async_listener_that_is_too_slow_handles_what_is_queued_and_ends(hub: Hub) -> None:
    seen: list[Any] = []

    async def slow(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        seen.append(message)

    listener = hub.add_listener("a", slow, maxsize=2, overflow=Overflow.CLOSE)
    for number in range(4):
        hub.publish("a", number)
    assert listener.closed
    await settled(10)
    assert seen == [0, 1]
    assert not hub._life.running
    assert (listener.accepted, listener.delivered, listener.dropped) == (3, 2, 1)


@pytest.mark.parametrize("overflow", DROPPING)
async def test_async_listeners_drop_as_subscriptions_do(hub: Hub, overflow: Overflow) -> None:
    seen: list[Any] = []

    @hub.on(("a", "*"), maxsize=2, overflow=overflow)
    async def slow(key: Key[Any], message: Any) -> None:
        seen.append(message)

    for number in range(5):
        hub.publish(("a", str(number)), number)
    await settled()
    assert seen == ([0, 1] if overflow is Overflow.DROP_NEWEST else [3, 4])


async def test_the_hub_sets_the_policy_for_those_who_do_not() -> None:
    async with Hub(maxsize=1, overflow=Overflow.DROP_NEWEST) as hub:
        ours, own = hub.subscribe("a"), hub.subscribe("a", overflow=Overflow.GROW)
        for _ in range(3):
            hub.publish("a")
        assert (ours.pending, own.pending) == (1, 3)
        assert (ours.overflow, own.overflow) == (Overflow.DROP_NEWEST, Overflow.GROW)


async def test_publish_wait_drops_nothing_under_any_policy(hub: Hub) -> None:
    subscriptions = [hub.subscribe("a", maxsize=2, overflow=overflow) for overflow in Overflow]
    received: list[list[Any]] = [[] for _ in subscriptions]

    async def read(place: int) -> None:
        async for event in subscriptions[place]:
            received[place].append(event.message)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read(place)) for place in range(len(subscriptions))]
    for number in range(50):
        await hub.publish_wait("a", number)
    for subscription in subscriptions:
        subscription.close()
    await asyncio.gather(*readers)
    for subscription, messages in zip(subscriptions, received, strict=True):
        assert subscription.dropped == 0
        if subscription.overflow is Overflow.LATEST:
            assert messages[-1] == 49
            assert subscription.superseded + len(messages) == 50
        else:
            assert messages == list(range(50))


async def test_publish_wait_does_not_wait_to_replace_the_latest(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=1, overflow=Overflow.LATEST)
    for number in range(3):
        await asyncio.wait_for(hub.publish_wait("a", number), 5)
    assert (await subscription.consume()).message == 2


# What is told


async def test_the_begin_of_an_episode_is_logged_once_and_published(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    slow: list[Any] = []
    hub.add_listener(("Hub", "slowSubscriber", "*"), lambda key, message: slow.append((key, message)))
    subscription = hub.subscribe(("a", "*"), maxsize=4, overflow=Overflow.DROP_OLDEST)
    for _ in range(2):
        for number in range(10_000):
            hub.publish(("a", "x"), number)
        await subscription.consume()
        hub.publish(("a", "x"), "still the same episode")
        hub.publish(("a", "x"), "still the same episode")
        assert len(await subscription.get_batch(9)) == 4
    key = ("Hub", "slowSubscriber", "a", r"\*")
    assert slow == [(key, {"pending": 3, "maxsize": 4})] * 2 or slow == [(key, {"pending": 4, "maxsize": 4})] * 2
    assert len(caplog.records) == 2


async def test_a_gap_that_its_consumer_does_not_want_is_published_when_it_is_reached(hub: Hub) -> None:
    gaps: list[Any] = []
    hub.add_listener(("Hub", "gap", "*"), lambda key, message: gaps.append((key, message)))
    subscription = hub.subscribe("a", maxsize=2, overflow=Overflow.DROP_NEWEST)
    for number in range(5):
        hub.publish("a", number)
    assert gaps == []
    assert [(await subscription.consume()).message for _ in range(2)] == [0, 1]
    waiting = asyncio.create_task(subscription.consume())
    await settled()
    ((key, gap),) = gaps
    assert key == ("Hub", "gap", "a")
    assert (gap.reason, gap.count, gap.keys) == ("drop newest", 3, (("a",),))
    hub.publish("a", "next")
    assert (await waiting).message == "next"


async def test_a_gap_that_its_consumer_gets_is_not_published(hub: Hub) -> None:
    gaps: list[Any] = []
    hub.add_listener(("Hub", "gap", "*"), lambda key, message: gaps.append(message))
    subscription = hub.subscribe("a", maxsize=1, overflow=Overflow.DROP_OLDEST, gaps=True)
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert await drained(subscription) == [("gap", 1), 2]
    assert gaps == []


async def test_nobody_is_told_of_its_own_slowness_nor_of_lost_announcements(hub: Hub) -> None:
    everything = hub.subscribe("*", maxsize=2, overflow=Overflow.DROP_OLDEST)
    watcher = hub.subscribe(("Hub", "*"), maxsize=2, overflow=Overflow.DROP_OLDEST)
    for number in range(5):
        hub.publish(("a", str(number)))
    told = [event.key[:2] for event in await watcher.get_batch(9)]
    assert ("Hub", "slowSubscriber") in told
    assert all(event.key[:2] != ("Hub", "slowSubscriber") for event in await everything.get_batch(9))
    for _ in range(9):
        hub.subscribe("b").close()  # announcements overflow both
    assert watcher.dropped > 0


async def test_a_gap_names_at_most_64_keys(hub: Hub) -> None:
    for number, expected in ((64, 64), (65, None)):
        subscription = hub.subscribe(("a", "*"), maxsize=1, overflow=Overflow.DROP_NEWEST, gaps=True)
        for name in range(number + 1):
            hub.publish(("a", str(name)))
        await subscription.consume()
        gap = await subscription.consume()
        assert isinstance(gap, Gap)
        assert gap.count == number
        assert (None if gap.keys is None else len(gap.keys)) == expected
        subscription.close()


async def test_a_listener_that_closes_a_subscription_that_overflows_does_no_harm(hub: Hub) -> None:
    hub.add_listener(("Hub", "slowSubscriber", "*"), lambda key, message: subscription.close())
    for overflow in Overflow:
        subscription: Any = hub.subscribe("a", maxsize=1, overflow=overflow)
        for number in range(3):
            hub.publish("a", number)
        if overflow is Overflow.LATEST:
            subscription.close()
        assert subscription.closed
        assert subscription.accepted == subscription.delivered + subscription.pending + subscription.dropped + (
            subscription.superseded
        )


# Whole before notified


class Meddler:
    """Does something to a subscription, once, as soon as it is notified of anything."""

    def __init__(self, hub: Hub, action: str) -> None:
        self.hub = hub
        self.action = action
        self.subscription: Any = None
        self.calls = 0
        self.taken: list[Any] = []

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls > 1:
            return
        match self.action:
            case "publish":
                self.hub.publish(("a", "meddler"), "meddler")
            case "publish a lot":
                for number in range(10):
                    self.hub.publish(("a", "meddler"), f"meddler {number}")
            case "take":
                self.taken += self.subscription.take(1)
            case "close" if isinstance(self.subscription, Listener):
                self.subscription.remove()
            case "close":
                self.subscription.close()

    def handler(self) -> logging.Handler:
        """As what handles the lines of a log."""
        handler = logging.Handler()
        handler.emit = self  # type: ignore[method-assign]
        return handler


def whole(registration: Any) -> None:
    """Bounds hold and figures add up."""
    box = registration._mailbox
    assert registration.accepted == (
        registration.delivered + registration.pending + registration.dropped + registration.superseded
    )
    assert registration.overflow is Overflow.GROW or registration.pending <= registration.maxsize
    assert sum(gap.before for gap in box._open_gaps) == box._spanned <= len(box.items)
    assert all(gap.before > 0 for gap in list(box._open_gaps)[1:])


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("told", ["slowSubscriber", "log"])
@pytest.mark.parametrize("action", ["publish", "publish a lot", "take", "close"])
async def test_a_queue_is_whole_before_anyone_is_notified_of_its_overflow(
    hub: Hub, overflow: Overflow, told: str, action: str
) -> None:
    meddler = Meddler(hub, action)
    if told == "slowSubscriber":
        hub.add_listener(("Hub", "slowSubscriber", "*"), meddler)
    subscription = meddler.subscription = hub.subscribe(("a", "*"), maxsize=2, overflow=overflow, gaps=True)
    handler = meddler.handler()
    logger = logging.getLogger("hubsub.listener")
    if told == "log":
        logger.addHandler(handler)
    try:
        for number in range(3):
            hub.publish(("a", str(number)), number)
            whole(subscription)
    finally:
        logger.removeHandler(handler)
    assert meddler.calls >= 1
    read = await drained(subscription)
    messages = [each for each in read if not isinstance(each, tuple)]
    numbers = [each for each in messages if isinstance(each, int)]
    assert numbers == sorted(numbers)
    assert [each for each in messages if isinstance(each, str)] == messages[len(numbers) :]  # it came later
    if action != "close" and overflow is not Overflow.CLOSE:
        gaps = [each[1] for each in read if isinstance(each, tuple)]
        gaps += [each.count for each in meddler.taken if isinstance(each, Gap)]
        assert sum(gaps) == subscription.dropped
    whole(subscription)


@pytest.mark.parametrize("overflow", DROPPING)
@pytest.mark.parametrize("action", ["publish", "publish a lot", "take", "close"])
async def test_a_queue_is_whole_before_a_gap_is_published(hub: Hub, overflow: Overflow, action: str) -> None:
    meddler = Meddler(hub, action)
    gaps: list[int] = []
    hub.add_listener(("Hub", "gap", "*"), lambda key, gap: (gaps.append(gap.count), meddler()))
    subscription = meddler.subscription = hub.subscribe(("a", "*"), maxsize=2, overflow=overflow)
    for number in range(7):
        hub.publish(("a", str(number)), number)
    for _ in range(9):
        subscription.take(2)
        whole(subscription)
    if action != "close":
        assert sum(gaps) == subscription.dropped
    assert meddler.calls
    assert subscription.pending == 0


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST, Overflow.CLOSE])
@pytest.mark.parametrize("action", ["publish", "publish a lot", "take", "close"])
async def test_a_queue_is_whole_before_it_says_that_a_confirmed_message_was_dropped(
    hub: Hub, overflow: Overflow, action: str
) -> None:
    meddler = Meddler(hub, action)
    subscription = meddler.subscription = hub.subscribe(("a", "*"), maxsize=1, overflow=overflow, gaps=True)
    for name in ("x", "y", "x", "y"):
        hub.border.relay(Event(Key("a", name), name, Meta(id=name)), confirmed=meddler)
        whole(subscription)
    subscription.close()
    await drained(subscription)
    whole(subscription)
    assert meddler.calls >= 1


@pytest.mark.parametrize("action", ["publish", "publish a lot", "take", "close"])
async def test_a_queue_is_whole_before_it_says_that_a_message_was_superseded(hub: Hub, action: str) -> None:
    meddler = Meddler(hub, action)
    subscription = meddler.subscription = hub.subscribe(("a", "*"), maxsize=3, overflow=Overflow.LATEST)
    hub.border.relay(Event(Key("a", "meddler"), 1), confirmed=meddler)
    hub.publish(("a", "meddler"), 2)
    whole(subscription)
    expected = {"publish": ["meddler"], "publish a lot": ["meddler 9"], "take": [], "close": [2]}[action]
    assert await drained(subscription) == expected


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("what", ["slowSubscriber", "gap"])
async def test_a_listener_that_is_removed_by_whoever_hears_of_its_overflow_is_not_called(
    hub: Hub, what: str, concurrency: int
) -> None:
    called: list[Any] = []

    async def listen(key: Key[Any], message: Any) -> None:
        called.append(message)

    meddler = Meddler(hub, "close")
    hub.add_listener(("Hub", what, "*"), meddler)
    listener = hub.add_listener(("a", "*"), listen, maxsize=2, overflow=Overflow.DROP_OLDEST, concurrency=concurrency)
    meddler.subscription = listener
    for number in range(5):
        hub.publish(("a", "x"), number)
    await settled()
    assert (called, meddler.calls) == ([], 1)
    assert (listener.closed, listener.pending) == (True, 0)
    whole(listener)


async def test_a_subscription_that_was_too_slow_is_closed_before_anyone_hears_of_it(hub: Hub) -> None:
    heard: list[Any] = []

    def hear(key: Key[Any], message: Any) -> None:
        heard.append((key[1], subscription.closed, hub.has_subscribers("a")))
        hub.publish("a", "once more")

    hub.add_listener(("Hub", "slowSubscriber", "*"), hear)
    hub.add_listener(("Hub", "removedSubscriber", "*"), hear)
    subscription = hub.subscribe("a", maxsize=1, overflow=Overflow.CLOSE)
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert heard == [("removedSubscriber", True, False), ("slowSubscriber", True, False)]
    assert (subscription.pending, subscription.dropped) == (1, 1)


async def test_metadata_is_neither_lost_nor_given_to_another_message(hub: Hub) -> None:
    for overflow in Overflow:
        if overflow is Overflow.CLOSE:
            continue
        subscription = hub.subscribe("a", maxsize=1, overflow=overflow)
        hub.publish("a", "first")
        hub.publish_event(Event(Key("a"), "second", Meta(id="second")))
        for event in await subscription.get_batch(9):
            assert (event.meta is None) == (event.message == "first")
        subscription.close()


async def test_async_listeners_get_metadata_through_latest(hub: Hub) -> None:
    seen: list[Any] = []

    @hub.on("a", event=True, overflow=Overflow.LATEST)
    async def listen(event: Event[Any]) -> None:
        seen.append(event.meta)

    hub.publish_event(Event(Key("a"), 1, Meta(id="1")))
    hub.publish_event(Event(Key("a"), 2, Meta(id="2")))
    await settled()
    assert seen == [Meta(id="2")]


def test_a_sync_listener_has_no_queue_to_overflow() -> None:
    hub = Hub()
    with pytest.raises(InvalidListener, match="overflow"):
        hub.add_listener("a", print, overflow=Overflow.CLOSE)
    with pytest.raises(ValueError, match="Overflow"):
        hub.subscribe("a", overflow="everywhere")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        hub.subscribe("a", overflows=Overflow.CLOSE)  # type: ignore[call-overload]
    assert hub.add_listener("a", print).overflow is None


# Every interleaving


class OverflowMachine(RuleBasedStateMachine):
    """What is received plus what gaps and counters say is exactly what was published, each gap where the hole is."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = Hub()
        self.number = 0
        self.published = 0
        self.received = 0
        self.gone = 0  # dropped, by the oracle

    @initialize(overflow=st.sampled_from(list(Overflow)), maxsize=st.integers(1, 4), gaps=st.booleans())
    def subscribe(self, overflow: Overflow, maxsize: int, gaps: bool) -> None:
        self.overflow, self.maxsize, self.gaps = overflow, maxsize, gaps
        self.told: list[Gap] = []
        self.hub.add_listener(("Hub", "gap", "*"), lambda key, message: self.told.append(message))
        self.subscription: Any = self.hub.subscribe(("a", "+"), maxsize=maxsize, overflow=overflow, gaps=gaps)
        # The oracle: a list of messages and of holes, the latter as lists of what is missing.
        self.queue: list[Any] = []
        self.superseded = 0

    def messages(self) -> list[Any]:
        return [item for item in self.queue if not isinstance(item, list)]

    def lose(self, place: int, message: Any) -> None:
        self.gone += 1
        if place < len(self.queue) and isinstance(self.queue[place], list):
            self.queue[place].append(message)
        elif place and isinstance(self.queue[place - 1], list):
            self.queue[place - 1].append(message)
        else:
            self.queue.insert(place, [message])

    @rule(name=st.sampled_from("xyz"))
    def publish(self, name: str) -> None:
        self.number += 1
        message = (name, self.number)
        accepted = self.hub.publish(("a", name), message)
        assert accepted == (not self.closed_before())
        if not accepted:
            return
        self.published += 1
        waiting = self.messages()
        if self.overflow is Overflow.LATEST and any(other[0] == name for other in waiting):
            self.queue = [message if not isinstance(i, list) and i[0] == name else i for i in self.queue]
            self.superseded += 1
            return
        if len(waiting) >= self.maxsize and self.overflow is not Overflow.GROW:
            if self.overflow is Overflow.CLOSE:
                self.gone += 1
                self.too_slow = True
                return
            if self.overflow is Overflow.DROP_NEWEST:
                self.lose(len(self.queue), message)
                return
            oldest = waiting[0]
            place = self.queue.index(oldest)
            del self.queue[place]
            self.lose(place, oldest)
        self.queue.append(message)

    too_slow = False
    left = False

    def closed_before(self) -> bool:
        return self.too_slow or self.left

    @precondition(lambda self: self.queue)
    @rule()
    def consume(self) -> None:
        expected = self.queue.pop(0)
        if isinstance(expected, list) and not self.gaps:
            before = len(self.told)
            if self.queue:
                read = self.loop.run_until_complete(self.subscription.consume())
                assert read.message == self.queue.pop(0)
                self.received += 1
            else:
                assert self.subscription._mailbox.take() is None
            assert self.told[before].count == len(expected)
            return
        read = self.loop.run_until_complete(self.subscription.consume())
        if isinstance(expected, list):
            assert isinstance(read, Gap)
            assert read.count == len(expected)
            assert read.keys == tuple(OrderedDict.fromkeys(("a", name) for name, _ in expected))
        else:
            assert read.message == expected
            self.received += 1

    @rule()
    def unsubscribe(self) -> None:
        self.subscription.close()
        self.left = True

    @invariant()
    def figures_add_up(self) -> None:
        if not hasattr(self, "subscription"):
            return
        s = self.subscription
        assert s.pending == len(self.messages())
        assert (s.accepted, s.delivered, s.dropped) == (self.published, self.received, self.gone)
        assert s.superseded == self.superseded
        assert s.accepted == s.delivered + s.pending + s.dropped + s.superseded
        if self.overflow is not Overflow.GROW:
            assert s.peak_pending <= self.maxsize

    def teardown(self) -> None:
        self.loop.close()


TestOverflowMachine = OverflowMachine.TestCase
TestOverflowMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
