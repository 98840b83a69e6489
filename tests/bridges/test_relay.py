"""What every bridge promises, whatever the broker: tried with one in memory that can misbehave."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import hubsub
from hubsub import (
    BridgeClosed,
    BridgeNotReady,
    ConfirmationTimeout,
    DeliveryError,
    Event,
    Gap,
    Hub,
    Key,
    Meta,
    NoResponders,
    RequestTimeout,
)
from hubsub.bridges import Adapter, Backoff, Bridge, Features, Link, Received, Record
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker

from .sites import ALL, Quick, Sites, record, until


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    async with Sites() as those:
        yield those


def interrupt(sites: Sites, bridge: Bridge) -> None:
    """Keep one bridge from the broker, until `is_down` is false."""
    adapter: Any = bridge.adapter
    sites.broker.is_down = True
    adapter.break_off()


# Identity, echo, loops


async def test_two_bridges_between_two_hubs_bring_a_message_once(sites: Sites) -> None:
    one, two = await sites.hub(), await sites.hub()
    for hub in (one, two):
        await sites.bridge(hub)
        await sites.bridge(hub, url=sites.url + "-other")
    messages = record(two)
    own = record(one)
    await asyncio.gather(*(bridge.synced() for bridge in two_bridges(two)))
    one.publish("k", 1)
    await until(lambda: messages)
    await asyncio.sleep(0.1)
    assert messages == own == [1]


async def test_a_request_that_leaves_by_two_bridges_is_answered_once(sites: Sites) -> None:
    one, two = await sites.hub(), await sites.hub()
    for hub in (one, two):
        await sites.bridge(hub)
        await sites.bridge(hub, url=sites.url + "-other")
    calls: list[Any] = []
    two.respond("k", lambda key, message: calls.append(message))
    for bridge in two_bridges(two):
        await bridge.synced()
    await one.request("k", 1, timeout=5, local=False)
    assert await one.publish_confirmed("k", 2) == 2
    await until(lambda: 2 in calls)
    await asyncio.sleep(0.1)
    assert calls == [1, 2]


def two_bridges(hub: Hub) -> list[Any]:
    return list(hub.bridges)


async def test_a_message_goes_round_a_ring_of_three_brokers_once(sites: Sites) -> None:
    hubs = [await sites.hub() for _ in range(3)]
    for index, hub in enumerate(hubs):
        await sites.bridge(hub, url=f"{sites.url}-{index}")
        await sites.bridge(hub, url=f"{sites.url}-{(index + 1) % 3}")
    records = [record(hub) for hub in hubs]
    for hub in hubs:
        for bridge in two_bridges(hub):
            await bridge.synced()
    hubs[0].publish("k", 1)
    await until(lambda: all(records))
    await asyncio.sleep(0.1)
    assert records == [[1]] * 3


async def test_a_message_crosses_one_hub_to_reach_another_and_its_metadata_stays(sites: Sites) -> None:
    middle = await sites.hub()
    near, far = await sites.bridge(), await sites.bridge(url=sites.url + "-far")
    await sites.bridge(middle)
    await sites.bridge(middle, url=sites.url + "-far")
    seen: list[Event[Any]] = []
    far.hub.add_listener("k", seen.append, event=True)
    for bridge in two_bridges(middle):
        await bridge.synced()
    await far.synced()
    near.hub.publish("k", 1)
    await until(lambda: seen)
    meta = seen[0].meta
    assert meta is not None
    assert (meta.source, meta.hops) == (near.hub.border.origin, 2)


async def test_a_message_that_crossed_too_many_bridges_goes_no_further(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    one.hub.publish_event(Event(Key("k"), 1, Meta(hops=16)))
    one.hub.publish_event(Event(Key("k"), 2, Meta(hops=15)))
    await until(lambda: messages)
    assert messages == [2]
    assert one.health().refused == 1


async def test_a_message_that_the_broker_doubles_comes_once(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    sites.broker.duplicate = lambda record: True
    for number in range(3):
        one.hub.publish("k", number)
    await until(lambda: two.health().duplicates == 3)
    assert messages == [0, 1, 2]


async def test_with_a_group_what_goes_out_is_delivered_by_the_broker_only(sites: Sites) -> None:
    # The memory broker has no groups: what the hub does with it is asked here.
    hub = await sites.hub()
    outbox = hub.border.outbox(ALL, 10, diverts=[ALL])
    messages = record(hub)
    assert hub.publish("k", 1) == 0
    assert messages == []
    assert [event.message for event in outbox.take(5) if isinstance(event, Event)] == [1]
    assert hub.border.relay(Event(Key("k"), 2), exclude=outbox) == 1
    assert messages == [2]
    outbox.close()
    assert hub.publish("k", 3) == 1


# Sending


async def test_an_outbox_keeps_the_newest_and_tells_of_the_rest(sites: Sites) -> None:
    one, two = await sites.bridge(outbox=100), await sites.bridge()
    subscription = two.hub.subscribe("k", gaps=True)
    await two.synced()
    interrupt(sites, one)
    await until(lambda: one.health().state == "down")
    for number in range(250):
        one.hub.publish("k", number)
        if number % 30 == 0:
            await asyncio.sleep(0)
        assert one.health().outbox_messages <= 100
    sites.broker.is_down = False
    read: list[Any] = []
    async with asyncio.timeout(10):
        while not read or read[-1] != 249:
            item = await subscription.consume()
            read.append(item if isinstance(item, Gap) else item.message)
    gaps = [item for item in read if isinstance(item, Gap)]
    assert [item for item in read if not isinstance(item, Gap)] == list(range(150, 250))
    assert [(gap.reason, gap.count, gap.keys) for gap in gaps] == [("outbox full", 150, (("k",),))]
    assert read[0] == gaps[0]


async def test_who_is_told_of_what_an_outbox_dropped_is_whom_it_may_concern(sites: Sites) -> None:
    one = await sites.bridge(outbox=10, outgoing=ALL)
    two = await sites.bridge(incoming=("a", "+"))
    concerned, other = two.hub.subscribe(("a", "*"), gaps=True), two.hub.subscribe("b", gaps=True)
    await two.synced()
    interrupt(sites, one)
    await until(lambda: one.health().state == "down")
    for number in range(100):
        one.hub.publish(("x", str(number)), number)  # more keys than a gap names
    sites.broker.is_down = False
    gap = await asyncio.wait_for(concerned.consume(), 10)
    assert isinstance(gap, Gap)
    assert (gap.count, gap.keys) == (90, None)
    assert other.pending == 0


async def test_an_outbox_is_bounded_in_bytes_too(sites: Sites) -> None:
    bridge = await sites.bridge(outbox_bytes=10_000)
    sites.broker.thawed.clear()
    for number in range(500):
        bridge.hub.publish("k", "x" * 200)
        if number % 10 == 0:
            await asyncio.sleep(0)
            assert bridge.health().outbox_bytes <= 10_000
    assert 20 < bridge.health().outbox_messages < 60
    sites.broker.thawed.set()


async def test_publish_wait_waits_for_room_in_an_outbox(sites: Sites) -> None:
    bridge = await sites.bridge(outbox=5)
    sites.broker.thawed.clear()
    await until(lambda: bridge.health().state == "down")
    for number in range(5):
        await asyncio.wait_for(bridge.hub.publish_wait("k", number), 1)
        await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(bridge.hub.publish_wait("k", 5))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert bridge.health().outbox_messages == 5
    sites.broker.thawed.set()
    await asyncio.wait_for(waiting, 10)
    await bridge.flush()
    assert bridge.health().sent == 6


async def test_publish_confirmed_waits_for_room_and_then_for_the_broker(sites: Sites) -> None:
    bridge = await sites.bridge(outbox=1)
    sites.broker.thawed.clear()
    await until(lambda: bridge.health().state == "down")
    both = [asyncio.ensure_future(bridge.hub.publish_confirmed("k", number)) for number in range(2)]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in both)
    sites.broker.thawed.set()
    assert await asyncio.wait_for(asyncio.gather(*both), 10) == [1, 1]


async def test_what_cannot_be_encoded_is_refused_and_what_follows_is_sent(sites: Sites) -> None:
    failures: list[Any] = []
    one = await sites.bridge(await sites.hub(on_error=failures.append))
    two = await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    one.hub.publish(("a", "b"), {"at": [object()]})
    one.hub.publish("k", 1)
    await until(lambda: messages)
    (failure,) = failures
    assert failure.key == ("a", "b")
    assert isinstance(failure.error, hubsub.EncodeError)
    assert "at" in str(failure.error)
    with pytest.raises(DeliveryError) as caught:
        await one.hub.publish_confirmed("k", object())
    assert isinstance(caught.value.exceptions[0].__cause__, hubsub.EncodeError)
    assert one.health().refused == 2


async def test_a_message_that_is_encoded_now_may_be_changed_after_publishing(sites: Sites) -> None:
    soon, now = await sites.bridge(), await sites.bridge(encode="now", outbox=5)
    other = await sites.bridge()
    messages = record(other.hub)
    await other.synced()
    for bridge in (soon, now):
        message = [1]
        bridge.hub.publish("k", message)
        message.append(2)
    await until(lambda: len(messages) == 2)
    assert sorted(messages) == [[1], [1, 2]]
    interrupt(sites, now)
    for number in range(9):
        now.hub.publish("k", number)
        assert now.health().outbox_messages <= 5
    waiting = asyncio.ensure_future(now.hub.publish_wait("k", 9))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert now.health().oldest_age is not None
    sites.broker.is_down = False
    await asyncio.wait_for(waiting, 10)
    await until(lambda: 9 in messages)
    assert messages[2:] == [4, 5, 6, 7, 8, 9]
    assert await now.hub.publish_confirmed("k", 10) == 1


async def test_a_prefix_is_of_this_side_only(sites: Sites) -> None:
    far = await sites.bridge()
    near = await sites.bridge(prefix=("far", "away"), both=[("far", "away", "*")])
    keys: list[Any] = []
    near.hub.add_listener(("far", "*"), lambda key, message: keys.append(key))
    far.hub.add_listener(ALL, lambda key, message: keys.append(key))
    far.hub.respond(("a", "ask"), lambda key, message: message + 1)
    await near.synced()
    await far.synced()
    keys.clear()
    far.hub.publish(("a", "b"))
    near.hub.publish(("far", "away", "c"))
    await until(lambda: len(keys) == 4)
    assert sorted(keys) == [("a", "b"), ("c",), ("far", "away", "a", "b"), ("far", "away", "c")]
    assert await near.hub.request(("far", "away", "a", "ask"), 1, timeout=5, local=False) == 2
    with pytest.raises(ValueError, match="must begin with the prefix"):
        Bridge(near.hub, sites.url, prefix="a", both=[("b", "*")])
    with pytest.raises(ValueError, match="must begin with the prefix"):
        Bridge(near.hub, sites.url, prefix="a", both="a")


async def test_whoever_asks_may_count_bridges_as_subscribers(sites: Sites) -> None:
    bridge = await sites.bridge(both=[("a", "*")])
    assert not bridge.hub.has_subscribers(("a", "b"))
    assert bridge.hub.has_subscribers(("a", "b"), local=False)
    assert bridge.hub.has_subscribers(local=False)
    assert not bridge.hub.has_subscribers("b", local=False)


async def test_a_bridge_is_no_subscriber(sites: Sites) -> None:
    bridge = await sites.bridge()
    hub = bridge.hub
    assert hub.publish("k") == 0
    assert not hub.has_subscribers()
    assert hub.patterns() == {}
    assert hub.stats().subscriptions == 0


async def test_an_explanation_says_by_which_bridges_a_key_leaves(sites: Sites) -> None:
    bridge = await sites.bridge(both=("a", "*"))
    bridge.hub.publish(("a", "b"), 1)
    await bridge.flush()
    text = str(bridge.hub.explain(("a", "b")))
    assert f"leaves by a bridge to MemoryAdapter({sites.url!r}) on ('a', '*'): delivered 1" in text
    assert "leaves" not in str(bridge.hub.explain("b"))


async def test_the_namespace_of_a_hub_stays_at_home(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    seen: list[Any] = []
    two.hub.add_listener(ALL, lambda key, message: seen.append(key))
    two.hub.add_listener(("Hub", "*"), lambda key, message: seen.append(key))
    await two.synced()
    seen.clear()
    one.hub.subscribe("x")
    one.hub.publish(("Hub", "mine"))
    one.hub.publish("k")
    await until(lambda: seen)
    assert seen == [("k",)]


# Receiving


async def test_a_queue_that_a_bridge_feeds_is_bounded_and_told_of_its_gap_alone(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    slow = two.hub.subscribe("k", maxsize=10, gaps=True)
    quick = record(two.hub, "k")
    await two.synced()
    for number in range(100):
        one.hub.publish("k", number)
    await until(lambda: len(quick) == 100)
    assert slow.pending == 10
    gap = await slow.consume()
    assert isinstance(gap, Gap)
    assert gap.count == 90
    assert two.health().gaps == 0


async def test_what_cannot_be_decoded_is_counted_and_what_follows_comes(
    sites: Sites, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    await one.adapter.send([Record(Key("k"), b"{not json"), Record(Key("k"), b"[1]")])
    await until(lambda: messages)
    assert messages == [[1]]
    assert two.health().undecodable == 1
    assert "cannot be decoded" in caplog.text


async def test_a_request_without_responders_fails_at_once_unless_it_may_leave(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    with pytest.raises(NoResponders):
        one.hub.request("k")
    with pytest.raises(RequestTimeout):
        await one.hub.request("k", timeout=0.05, local=False)
    two.hub.respond("k", lambda key, message: 1 / message)
    two.hub.respond("who", lambda key, message: "two")
    one.hub.respond("who", lambda key, message: "one")
    await two.synced()
    with pytest.raises(hubsub.RemoteError, match="ZeroDivisionError"):
        await one.hub.request("k", 0, timeout=5, local=False)
    assert await one.hub.request("k", 2, timeout=5, local=False) == 0.5
    replies = one.hub.request_many("who", timeout=5, limit=2, local=False)
    assert sorted([reply async for reply in replies]) == ["one", "two"]
    assert await one.hub.request("who", timeout=5) == "one"


# Subscriptions at the broker


async def test_only_what_somebody_wants_is_subscribed_and_nothing_twice(sites: Sites) -> None:
    bridge = await sites.bridge(incoming=[("a", "*"), ("b", "+")])
    adapter: Any = bridge.adapter

    def subscribed() -> set[Any]:
        return {pattern for pattern in adapter._patterns if pattern[0] != "Hub"}

    assert subscribed() == set()
    hub = bridge.hub
    subscriptions = [hub.subscribe(pattern) for pattern in [("a", "x"), ("a", "+"), ("b", "*"), ("c", "x"), ("*",)]]
    await bridge.synced()
    assert subscribed() == {("a", "*"), ("b", "+")}
    subscriptions.pop().close()
    await bridge.synced()
    assert subscribed() == {("a", "+"), ("b", "+")}
    subscriptions[1].close()
    await bridge.synced()
    assert subscribed() == {("a", "x"), ("b", "+")}
    for subscription in subscriptions:
        subscription.close()
    await bridge.synced()
    assert subscribed() == set()


async def test_what_another_bridge_carries_away_is_wanted(sites: Sites) -> None:
    hub = await sites.hub()
    bridge = await sites.bridge(hub, incoming=[("a", "*")])
    assert bridge._parts.interest.wanted() == []
    other = await sites.bridge(hub, url=sites.url + "-other", outgoing=[("a", "b", "*"), ("c",)])
    assert bridge._parts.interest.wanted() == [("a", "b", "*")]
    await other.close()
    assert bridge._parts.interest.wanted() == []


async def test_one_that_is_not_lazy_subscribes_everything(sites: Sites) -> None:
    bridge = await sites.bridge(incoming=[("a", "*"), ("a", "b")], lazy=False)
    assert bridge._parts.interest.wanted() == [("a", "*")]


# Liveness and gaps


async def test_an_interruption_is_one_gap_to_each_subscriber(sites: Sites) -> None:
    bridge = await sites.bridge(incoming=[("a", "*")])
    hub = bridge.hub
    with_gaps = hub.subscribe(("a", "+"), gaps=True)
    elsewhere = hub.subscribe("b", gaps=True)
    meta: list[Any] = []
    hub.add_listener(("Hub", "gap", "*"), lambda key, gap: meta.append(key))
    hub.add_listener(("a", "x"), lambda key, message: None)
    await bridge.synced()
    for number in range(1, 4):
        sites.broker.cut()
        gap = await asyncio.wait_for(with_gaps.consume(), 10)
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.count) == ("disconnected", None)
        assert gap.since <= gap.until
        await until(lambda number=number: len(meta) == number)  # that of the plain listener
        assert with_gaps.pending == elsewhere.pending == 0
    assert meta == [("Hub", "gap", "a", "x")] * 3
    assert bridge.health().reconnects == bridge.health().gaps == 3


async def test_a_broker_that_says_nothing_is_found_out(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    bridge = await sites.bridge()
    messages = record(bridge.hub)
    await bridge.synced()
    await asyncio.sleep(2 * Quick.DEAF)
    assert bridge.health().reconnects == 0  # silence alone is no death: the beat comes back
    sites.broker.thawed.clear()
    await until(lambda: bridge.health().state == "down")
    assert "3 s" in str(bridge.health().last_error)
    sites.broker.thawed.set()
    await bridge.ready()
    assert bridge.health().gaps == 1
    assert messages == []


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_loop_that_stood_still_is_not_taken_for_a_dead_broker(sites: Sites) -> None:
    bridge = await sites.bridge()
    for _ in range(3):
        stand_still(2 * Quick.DEAF)
        await asyncio.sleep(0.01)
    await asyncio.sleep(Quick.DEAF)
    assert bridge.health().reconnects == 0


async def test_a_broker_that_is_absent_at_the_start_is_waited_for(sites: Sites) -> None:
    MemoryBroker.named[sites.url] = MemoryBroker()
    sites.broker.is_down = True
    bridge = await sites.bridge(ready=False)
    messages = record(bridge.hub)
    await until(lambda: bridge.health().last_error is not None)
    with pytest.raises(BridgeNotReady) as caught:
        await bridge.ready(0.1)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert bridge.health().state == "connecting"
    sites.broker.is_down = False
    await bridge.ready()
    assert bridge.health().gaps == bridge.health().reconnects == 0
    assert messages == []


def test_the_wait_between_attempts_doubles_up_to_a_bound() -> None:
    backoff = Backoff()
    assert [backoff.bound(attempt, 1) for attempt in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.7, 0.7]
    assert backoff.bound(40, 61) == 10.0


async def test_other_keys_are_published_as_if_nothing_had_happened_while_a_bridge_is_down(sites: Sites) -> None:
    MemoryBroker.named[sites.url] = MemoryBroker()
    sites.broker.is_down = True
    bridge = await sites.bridge(both="a", ready=False)
    messages = record(bridge.hub)
    assert bridge.hub.publish("b", 1) == 1
    assert messages == [1]
    assert bridge.health().outbox_messages == 0


class Uploading(MemoryAdapter):
    """Sends over a slow line, where everything waits for what is sent before it."""

    def __init__(self, url: str, stride: int = 1) -> None:
        super().__init__(url)
        self.stride = stride
        self.moved = 0
        self.is_deaf = False

    @property
    def sending(self) -> int:  # type: ignore[override]
        return self.moved

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        for step in range(60 if any(len(each.payload) > 1000 for each in records) else 1):
            await asyncio.sleep(0.01)
            self.moved += step % self.stride == 0
        return await super().send(records)

    def deliver(self, record: Record) -> None:
        if not self.is_deaf:
            super().deliver(record)


@pytest.mark.parametrize("stride", [1, 5])
async def test_a_beat_that_waits_behind_a_large_message_is_no_silence(sites: Sites, stride: int) -> None:
    # In large steps, as a line moves that is buffered.
    async with Hub() as hub, Quick(hub, Uploading(sites.url, stride), both=ALL) as bridge:
        await bridge.ready()
        receiver = await sites.hub()
        await sites.bridge(receiver)
        messages = record(receiver)
        for number in range(3):
            hub.publish("k", [number, "x" * 2000])
            await until(lambda: len(messages) > number)  # noqa: B023
        assert not bridge.health().reconnects


async def test_a_line_that_brings_nothing_is_found_while_much_is_sent(sites: Sites) -> None:
    adapter = Uploading(sites.url)
    async with Hub() as hub, Quick(hub, adapter, both=ALL) as bridge:
        await bridge.ready()
        adapter.is_deaf = True

        sent = 0
        while bridge.health().last_error is None:
            hub.publish("k", "x" * 2000)
            await until(lambda: bridge.health().sent > sent or bridge.health().last_error)  # noqa: B023
            sent = bridge.health().sent
        assert "nothing was heard" in str(bridge.health().last_error)
        # The first beat has waited, and no other one: each upload takes twice as long as silence may.
        assert sent <= 5


# Closing


async def test_a_hub_closes_its_bridges_after_its_listeners_have_finished(sites: Sites) -> None:
    other = await sites.bridge()
    messages = record(other.hub)
    await other.synced()
    hub = Hub()
    bridge = Quick(hub, MemoryAdapter(sites.url), both=ALL)
    await bridge.start()
    await bridge.ready()

    async def pass_on(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0.05)
        hub.publish("out", message)

    hub.add_listener("in", pass_on)
    hub.publish("in", 1)
    await hub.close()
    assert bridge.health().state == "closed"
    await until(lambda: 1 in messages)
    with pytest.raises(BridgeClosed):
        await bridge.ready()


async def test_closing_tells_what_it_could_not_send(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    bridge = await sites.bridge()
    sites.broker.thawed.clear()
    confirmed = asyncio.ensure_future(bridge.hub.publish_confirmed("k", 1))
    await asyncio.sleep(0)
    bridge.hub.publish("k", 2)
    left = await bridge.close(timeout=0.1)
    sites.broker.thawed.set()
    assert left == (2, 0)
    assert "2 messages unsent" in caplog.text
    with pytest.raises(DeliveryError):
        await confirmed


@pytest.mark.parametrize("outer", ["hub", "bridge"])
async def test_whichever_block_is_left_first_everything_is_sent(sites: Sites, outer: str) -> None:
    other = await sites.bridge()
    messages = record(other.hub)
    await other.synced()
    hub = Hub()
    bridge = Quick(hub, MemoryAdapter(sites.url), both=ALL)
    blocks: list[Any] = [hub, bridge] if outer == "hub" else [bridge, hub]
    async with AsyncExitStack() as stack:
        for block in blocks:
            await stack.enter_async_context(block)
        hub.publish("k", 1)
    await until(lambda: messages)


async def test_a_bridge_closes_in_spite_of_being_cancelled(sites: Sites) -> None:
    hub = await sites.hub()
    started = asyncio.Event()

    async def run() -> None:
        async with Quick(hub, MemoryAdapter(sites.url), both=ALL) as bridge:
            await bridge.ready()
            started.set()
            await asyncio.sleep(60)

    task = asyncio.ensure_future(run())
    await started.wait()
    (bridge,) = two_bridges(hub)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bridge.health().state == "closed"
    assert hub.bridges == ()


async def test_others_can_wait_until_a_bridge_is_closed(sites: Sites) -> None:
    bridge = await sites.bridge()
    waiting = asyncio.ensure_future(bridge.closed())
    await asyncio.sleep(0)
    assert not waiting.done()
    await bridge.hub.close()
    await asyncio.wait_for(waiting, 5)


async def test_a_bridge_that_was_never_started_can_be_closed(sites: Sites) -> None:
    hub = await sites.hub()
    bridge = Bridge(hub, sites.url, both=ALL)
    hub.publish("k", 1)
    assert tuple(await bridge.close()) == (1, 0)
    assert tuple(await bridge.close()) == (1, 0)


# Making one


async def test_connect_gives_a_hub_with_a_bridge_both_ways(sites: Sites) -> None:
    async with hubsub.connect(sites.url, keys=["k"]) as one, hubsub.connect(sites.url, keys=["k"]) as two:
        messages = record(two, "k")
        for hub in (one, two):
            await two_bridges(hub)[0].synced()
        one.publish("k", 1)
        await until(lambda: messages)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((Hub(), None), r"a bridge needs a URL or an adapter, not None$"),
        ((Hub(), Path("x.db")), r"a bridge needs a URL or an adapter, not PosixPath\('x.db'\)$"),
        (("memory://x", Hub()), r"a bridge needs a Hub, then a URL or an adapter: 'memory://x' is no Hub$"),
    ],
)
def test_a_bridge_of_something_else_says_what_it_needs(arguments: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Bridge(*arguments, both=ALL)


async def test_a_broker_that_has_not_confirmed_in_time_is_named(hub: Hub) -> None:
    Bridge(hub, "memory://away", outgoing=ALL)
    with pytest.raises(
        ConfirmationTimeout, match=r"by <Outbox of a bridge to MemoryAdapter\('memory://away'\) on \('\*',\)"
    ):
        await hub.publish_confirmed("a", 1, 0.01)


@pytest.mark.parametrize("url", ["nowhere://host", "redis", ""])
async def test_an_unknown_scheme_says_which_are_known(url: str, hub: Hub) -> None:
    with pytest.raises(hubsub.UnknownScheme, match="memory://"):
        Bridge(hub, url, both=ALL)
    with pytest.raises(hubsub.UnknownScheme, match=r"redis://\?path=/run/redis.sock"):
        Bridge(hub, "unix:///run/redis.sock", both=ALL)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "outgoing, incoming or both"),
        ({"both": ("Hub", "*")}, "namespace"),
        ({"both": "a", "group": "g", "name": "n"}, "choose group or name"),
        ({"both": "a", "group": "g"}, "MemoryAdapter has no groups"),
        ({"both": "a", "name": "g"}, "MemoryAdapter has no named positions"),
        ({"both": "a", "history": 1}, "MemoryAdapter has no history"),
        ({"both": "a", "start": "earliest"}, "MemoryAdapter has no messages from before"),
    ],
)
async def test_options_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match=complaint):
        Bridge(hub, "memory://x", **options)
    assert hub.bridges == ()


async def test_logs_name_the_bridge(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bridge = await sites.bridge()
        sites.broker.cut()
        await until(lambda: bridge.health().reconnects == 1)
    assert "hubsub.bridge.MemoryAdapter" in caplog.text


class LastMoment(Adapter):
    """Reads a message, of a durable broker, at the very moment when its connection is lost."""

    features = Features(confirms="stored", durable=True, acks="each", headers=True, push=False)

    def __init__(self) -> None:
        self.connections = 0
        self._lost = asyncio.Event()

    async def connect(self, link: Link) -> None:
        self.connections += 1
        self._lost.clear()

    async def receive(self) -> list[Received]:
        await self._lost.wait()
        return [Received(Key("a"), b"1", token=1)]

    async def ack(self, tokens: Sequence[Any]) -> None:
        pass

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        if self.connections == 1:
            raise ConnectionError("the connection is broken")
        return {}

    async def close(self) -> None:
        self._lost.set()


async def test_a_reader_whose_last_batch_fills_the_window_ends_with_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Hub() as hub:
        never = asyncio.Event()

        async def hold(key: Key[Any], message: Any) -> None:
            await never.wait()

        hub.add_listener("a", hold)
        adapter = LastMoment()
        async with Bridge(hub, adapter, both=[Key("a"), Key("b")], window=1) as bridge:
            await bridge.ready()
            hub.publish("b", 1)
            await until(lambda: adapter.connections == 2)
            assert "does not end" not in caplog.text
            never.set()


class Lingering(LastMoment):
    """Its reader fails when it disconnects, and so does disconnecting, when nobody waits for either any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_leaving = asyncio.Event()
        self.may_leave = asyncio.Event()

    async def receive(self) -> list[Received]:
        await self.may_leave.wait()
        raise ConnectionError("the connection is broken")

    async def close(self) -> None:
        self.is_leaving.set()
        await self.may_leave.wait()
        raise ConnectionError("the connection was broken already")


async def test_what_fails_after_a_bridge_was_cancelled_while_it_leaves_is_no_error_of_the_loop() -> None:
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    async with Hub() as hub:
        adapter = Lingering()
        bridge = Bridge(hub, adapter, incoming=[Key("a")])
        async with bridge:
            await bridge.ready()
            (living,) = [task for task in asyncio.all_tasks() if task.get_name() == "hubsub.bridge.Lingering"]
            living.cancel()
            await adapter.is_leaving.wait()
            living.cancel()
            await asyncio.wait([living])
            adapter.may_leave.set()
            await asyncio.sleep(0)
    del living, bridge, adapter
    gc.collect()
    assert not errors
