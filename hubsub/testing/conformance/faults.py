"""Faults of brokers and lines, and checks of what became of every message afterwards.

With a durable broker every confirmed message arrives once, and there is no gap. With another one, messages are missing
only where a gap is reported. A fault costs a few lines of the log, and when it is over a bridge closes at once.

    @pytest.mark.parametrize("fault", conformance.FAULTS, ids=lambda fault: fault.__name__)
    async def test_it_survives(fault, my_broker):
        await fault(my_broker, name="reader")
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from unittest import SkipTest

from ... import DeliveryError, Key, NameTaken
from . import durable
from .broker import Broker
from .hostile import SHAPES
from .scene import COUNTED, LINES, PATIENCE, Lines, Scene, heal, scene
from .sites import SOON, sites, until
from .table import ALL, fault, features_of

MOST_NOISE = 1000
"""Messages that wait in an outbox, beyond which no more noise is made."""

# The broker


@fault()
async def a_broker_that_is_killed_and_comes_back(broker: Broker, **options: Any) -> None:
    """After a second."""
    await _kill(broker, 1, **options)


@fault(long=True)
async def a_broker_that_is_killed_and_comes_back_late(broker: Broker, **options: Any) -> None:
    """After fifteen seconds."""
    await _kill(broker, 15, **options)


async def _kill(broker: Broker, seconds: float, **options: Any) -> None:
    async with scene(broker, **options) as it:
        async with it.publishing():
            await asyncio.sleep(0.2)
            it.kill()
            await it.is_down()
            await asyncio.sleep(seconds)
            await broker.start()
            await asyncio.sleep(0.3)
        await it.settle()
        it.check()


@fault()
async def a_broker_that_freezes(broker: Broker, **options: Any) -> None:
    """It thaws when the bridges have noticed."""
    await _freeze(broker, 0.5, **options)


@fault(long=True)
async def a_broker_that_freezes_for_long(broker: Broker, **options: Any) -> None:
    """It thaws fifteen seconds after the bridges noticed: others may have its clients' names and messages by then."""
    await _freeze(broker, 15, **options)


async def _freeze(broker: Broker, seconds: float, **options: Any) -> None:
    async with scene(broker, **options) as it:
        async with it.publishing():
            await asyncio.sleep(0.2)
            broker.freeze()
            await it.is_down()
            await asyncio.sleep(seconds)
            broker.thaw()
            await asyncio.sleep(0.3)
        await it.settle()
        it.check()


@fault()
async def a_broker_that_is_absent_at_the_start(broker: Broker, **options: Any) -> None:
    """Nothing is missed: a reader begins when it has connected."""
    await broker.start()
    broker.kill()
    try:
        await _absent(broker, **options)
    finally:
        await heal(broker)


async def _absent(broker: Broker, **options: Any) -> None:
    async with sites(broker.adapter) as those:
        it = Scene(broker, those, features_of(broker.adapter, **options), options)
        with it.lines:
            await it.join(ready=False)
            await it.receiver.until(lambda: it.receiver.bridge.health().last_error is not None, "the first attempt")
            await asyncio.sleep(1)
            assert it.receiver.bridge.health().state == "connecting"
            await broker.start()
            await it.receiver.bridge.ready(PATIENCE)
            await it.publish(0.3)
            await it.settle()
            it.check(gaps=0)
            await it.end()


@fault()
async def a_broker_that_is_restarted_between_messages(broker: Broker, **options: Any) -> None:
    """No message is on its way, and none is confirmed meanwhile."""
    async with scene(broker, **options) as it:
        for _ in range(2):
            it.kill()
            await it.is_down()
            await broker.start()
            await it.settle()
        it.check(episodes=2)


@fault()
async def a_broker_that_is_killed_under_load_again_and_again(broker: Broker, **options: Any) -> None:
    """Eight times, each as soon as everything is back to normal."""
    await _kill_often(broker, 8, **options)


@fault(long=True)
async def a_broker_that_is_killed_under_load_a_hundred_times(broker: Broker, **options: Any) -> None:
    """As soon as everything is back to normal, or while it is getting there."""
    await _kill_often(broker, 100, **options)


async def _kill_often(broker: Broker, times: int, **options: Any) -> None:
    """With listeners that come and go, so that bridges are subscribing whenever it happens."""
    chance = random.Random(times)
    async with scene(broker, **options) as it:
        noise = asyncio.ensure_future(_make_noise(it))
        try:
            async with it.publishing():
                for _ in range(times):
                    for site in (it.receiver, it.sender):
                        await it.is_up(site)
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    it.kill()
                    await it.is_down()
                    await broker.start()
        finally:
            noise.cancel()
            await asyncio.wait([noise])
        await it.settle()
        if it.keeps:
            it.check(episodes=times)
        else:
            # A connection that came up and was lost again before this was seen has a gap of its own.
            assert len(it.receiver.gaps) >= times
            it.check(episodes=len(it.receiver.gaps))


async def _make_noise(it: Scene) -> None:
    """Messages of fifty keys, and listeners to them that come and go."""
    chance = random.Random(1)
    keys = [Key("noise", str(number)) for number in range(50)]
    if it.features.durable:
        # Else a group would hold messages that nobody is subscribed to.
        it.receiver.hub.add_listener(("noise", "+"), lambda key, message: None)
    listeners: dict[Any, Any] = {}
    while True:
        # However long it lasts, the outbox is not to overflow: that is another fault, and a gap.
        if it.sender.bridge.health().outbox_messages < MOST_NOISE:
            for _ in range(20):
                it.sender.hub.publish(chance.choice(keys), "noise")
        key = chance.choice(keys)
        if key in listeners:
            listeners.pop(key).remove()
        else:
            listeners[key] = it.receiver.hub.add_listener(key, lambda key, message: None)
        await asyncio.sleep(0.01)


# The line


@fault()
async def a_line_that_is_cut(broker: Broker, **options: Any) -> None:
    """Three times."""
    async with scene(broker, **options) as it:
        async with it.publishing():
            for _ in range(3):
                await asyncio.sleep(0.3)
                it.line.cut()
                await it.is_down()
                await it.is_up()
        await it.settle()
        it.check(episodes=3)


@fault()
async def a_line_that_is_cut_in_the_middle_of_messages(broker: Broker, **options: Any) -> None:
    """At any byte, and in either direction."""
    chance = random.Random(3)
    async with scene(broker, **options) as it:
        async with it.publishing():
            for _ in range(8):
                it.line.cut_after(chance.randint(1, 600))
                reconnects = it.receiver.bridge.health().reconnects, it.sender.bridge.health().reconnects
                await until(
                    lambda reconnects=reconnects: (  # type: ignore[misc]
                        it.receiver.bridge.health().reconnects > reconnects[0]
                        and it.sender.bridge.health().reconnects > reconnects[1]
                    ),
                    "both to connect again",
                    PATIENCE,
                )
        await it.settle()
        if it.keeps:
            it.check(episodes=8)
        else:
            it.check(episodes=len(it.receiver.gaps))


@fault()
async def a_line_that_stalls(broker: Broker, **options: Any) -> None:
    """It swallows everything until the bridges notice."""
    async with scene(broker, **options) as it:
        async with it.publishing():
            await asyncio.sleep(0.2)
            it.line.stall()
            await it.is_down()
            it.line.resume()
        await it.settle()
        it.check()


@fault()
async def a_connection_that_only_the_broker_still_has(broker: Broker, **options: Any) -> None:
    """The bridges connect again, while the broker goes on serving the connections that they have lost."""
    if options.get("group") and not features_of(broker.adapter, **options).durable:
        raise SkipTest("not promised: a member that is not durable loses its share until the broker misses it")
    async with scene(broker, **options) as it:
        async with it.publishing():
            await asyncio.sleep(0.2)
            it.line.abandon()
            await it.is_down()
            await asyncio.sleep(1)
        await it.settle()
        if it.keeps:
            await it.give_time(PATIENCE)  # until the broker has given up the lost connections
        it.check()


@fault()
async def a_broker_that_carries_out_requests_and_cannot_reply(broker: Broker, **options: Any) -> None:
    """The last messages were stored, and the sender does not know."""
    async with scene(broker, **options) as it:
        async with it.publishing():
            await asyncio.sleep(0.2)
            it.line.stall_replies()
            await asyncio.sleep(1)
            it.line.cut()
            it.line.resume()
            await it.is_down()
        await it.settle()
        it.check()


@fault()
async def a_narrow_line_is_not_a_dead_one(broker: Broker, **options: Any) -> None:
    """A backlog, and one large message, take seven seconds each way: longer than any silence may be."""
    most = features_of(broker.adapter, **options).max_payload or 2_000_000
    size = min(2_000_000, most - 1000)
    await _narrow(broker, size / 7, large=size, number=300, each=size // 300, **options)


@fault(long=True)
async def narrow_lines_are_not_dead_ones(broker: Broker, **options: Any) -> None:
    """From 0.1 to 10 MB/s, with 24 MB to carry, or ten, and with messages as large as may be."""
    most = features_of(broker.adapter, **options).max_payload or 10_000_000
    large = min(10_000_000, most - 1000)
    for rate, number in ((700_000, 3000), (1_000_000, 3000), (10_000_000, 3000), (100_000, 300)):
        await _narrow(broker, rate, large=min(large, 20 * rate), number=number, each=8000, **options)


async def _narrow(broker: Broker, rate: float, *, large: int, number: int, each: int, **options: Any) -> None:
    """One site sends by a narrow line to one beside it, and receives by the narrow line, both at the same time."""
    await broker.start()
    patience = PATIENCE + 3 * (large + number * each) / rate
    try:
        async with sites(broker.adapter) as those:
            up, down = Key("up", "+"), Key("down", "+")
            near = await those.add(down, outgoing=up, incoming=down, **options)
            others: dict[str, Any] = dict.fromkeys(options, "past")
            far = await those.add(up, adapter=broker.adapter(direct=True), outgoing=down, incoming=up, **others)
            with Lines() as lines:
                broker.line.slow(rate)
                for site, key in ((near, "up"), (far, "down")):
                    for count in range(number):
                        await site.hub.publish_wait((key, "a"), [count, "x" * each])
                    await site.hub.publish_wait((key, "a"), [number, "x" * large])
                    await site.hub.publish_wait((key, "a"), [number + 1, ""])
                for site in (near, far):
                    await site.wait_for(number + 2, patience)
                    assert [message[0] for message in site.messages] == list(range(number + 2))
                    assert not site.bridge.health().reconnects, "a slow line was taken for a dead one"
                    assert not site.gaps
                assert not lines.total, f"something was logged:\n{lines}"
                broker.line.slow(None)
    finally:
        await heal(broker)


@fault()
async def a_long_line_is_not_a_dead_one(broker: Broker, **options: Any) -> None:
    """A round trip takes a second and a half."""
    await _far(broker, 0.75, **options)


@fault(long=True)
async def very_long_lines_are_not_dead_ones(broker: Broker, **options: Any) -> None:
    """A round trip takes up to three seconds."""
    for seconds in (0.01, 0.25, 1.0, 1.5):
        await _far(broker, seconds, **options)


async def _far(broker: Broker, seconds: float, **options: Any) -> None:
    await broker.start()
    broker.line.delay(seconds)
    async with scene(broker, **options) as it:
        await it.publish(1)
        await it.settle()
        for site in (it.sender, it.receiver):
            assert not site.bridge.health().reconnects, "a long line was taken for a dead one"
        it.check(episodes=1, gaps=0)
        # Closing needs round trips, too, which are slow here.
        broker.line.delay(0)


# Refusals by the broker


@fault()
async def a_broker_that_takes_no_writes(broker: Broker, **options: Any) -> None:
    """The sender retries with growing pauses, over the same connection if that is sound; everything arrives later."""
    async with scene(broker, **options) as it:
        async with it.publishing():
            await broker.refuse_writes()
            await it.sender.until(lambda: it.sender.bridge.health().outbox_messages > 100, "messages to wait")
            await asyncio.sleep(2)
            assert it.sender.bridge.health().reconnects <= 5, "the sender reconnects again and again"
            await broker.take_writes()
        await it.settle()
        it.check(gaps=0)


@fault()
async def a_broker_that_forbids_to_send(broker: Broker, **options: Any) -> None:
    """A publisher that waits for a confirmation gets an error, or the message is sent when that is allowed again."""
    async with scene(broker, **options) as it:
        await broker.forbid(it.those.namespace)
        try:
            forbidden = asyncio.ensure_future(it.sender.hub.publish_confirmed(("k", "0"), -1, timeout=PATIENCE))
            await asyncio.wait([forbidden], timeout=3)
            assert it.receiver.bridge.health().state == "up"
            assert not it.receiver.bridge.health().reconnects
        finally:
            await broker.allow(it.those.namespace)
        await asyncio.wait([forbidden], timeout=PATIENCE)
        assert forbidden.done(), "a publisher waits for its confirmation for ever"
        error = forbidden.exception()
        assert error is None or isinstance(error, DeliveryError)
        await it.settle()
        assert (-1 in it.received) == (error is None)
        it.receiver.events[:] = [event for event in it.receiver.events if event.message != -1]
        it.check(gaps=0)


@fault()
async def hostile_messages_of_all_shapes(broker: Broker, **options: Any) -> None:
    """Each affects itself only: messages before and after it arrive, and nothing gets where it must not."""
    async with scene(broker, **options) as it:
        if it.options.get("group") or it.options.get("name"):
            # Else messages that nobody is subscribed to would be held, and rightly so.
            it.receiver.hub.add_listener(ALL, lambda key, message: None)
        tap = it.receiver.hub.tap("*", 10_000)
        # If replies could leave to any key, they would go where the attacker wants them.
        it.receiver.hub.respond(("enemy", "+"), lambda key, message: message)
        await it.receiver.bridge.ready(PATIENCE)
        number = it.publish_one()
        await it.receiver.see(number)
        for shape in SHAPES:
            await broker.inject(it.those.namespace, [shape])
            number = it.publish_one()
            await it.receiver.see(number, PATIENCE)
        # And all messages in one batch.
        await broker.inject(it.those.namespace, SHAPES)
        await it.settle()
        health = it.receiver.bridge.health()
        assert health.state == "up"
        assert not health.reconnects, f"a message cost the connection: {health}"
        assert not it.receiver.gaps
        for record in tap.records:
            assert record.key[0] != "admin", "a reply went where an attacker wanted it"
            if record.key[0] == "Hub":
                said = record.message if isinstance(record.message, dict) else {}
                is_own = isinstance(said.get("currentSubscriberCount"), int)
                assert is_own, f"a message from outside came as {record.key!r}"
        tap.close()
        # At most one line for each message.
        most = 2 * len(SHAPES) + LINES
        assert it.lines.total <= most, f"{it.lines.total} lines for {len(SHAPES)} messages\n{it.lines}"
        if it.features.order != "none":
            assert it.received == sorted(it.received)
        assert len(it.received) == len(set(it.received))


# Ourselves


@fault()
async def a_loop_that_is_blocked_is_not_a_dead_broker(broker: Broker, **options: Any) -> None:
    """For six seconds, right after a read: nothing could be received meanwhile, and nothing is lost."""
    async with scene(broker, **options) as it:
        block = it.receiver.hub.add_listener("block", lambda key, message: time.sleep(6))
        await it.receiver.bridge.ready(PATIENCE)
        it.sender.hub.publish("block")
        async with it.publishing():
            await asyncio.sleep(0.5)
        block.remove()
        await it.settle()
        for site in (it.sender, it.receiver):
            assert not site.bridge.health().reconnects, "a blocked loop was taken for a dead broker"
        it.check(gaps=0)


@fault()
async def closing_while_the_broker_does_not_answer(broker: Broker, **options: Any) -> None:
    """It takes no longer than it may, and returns how much could not be sent."""
    for harm in ("freeze", "kill", "stall"):
        async with scene(broker, join=False, **options) as it:
            await it.join()
            await it.publish(0.1)
            await it.settle()
            (it.line.stall if harm == "stall" else getattr(broker, harm))()
            for number in range(10):
                it.sender.hub.publish(("k", "0"), -number)
            left = await it.sender.close(1, within=1 + SOON)
            assert left.unsent == 10, f"{left.unsent} of 10 messages are said to be unsent, with {harm}"
            assert tuple(await it.receiver.close(1, within=1 + SOON)) == (0, 0)
            await heal(broker)


@fault()
async def closing_while_messages_are_on_their_way(broker: Broker, **options: Any) -> None:
    """Messages published before closing are sent."""
    async with scene(broker, **options) as it:
        before = len(it.received)
        another = await it.those.add(outgoing=ALL)
        for number in range(3000):
            another.hub.publish(("k", str(number % 3)), -1 - number)
        assert tuple(await another.bridge.close(PATIENCE)) == (0, 0)
        await it.receiver.wait_for(before + 3000, PATIENCE)
        assert len(it.received) == before + 3000


@fault(long=True)
async def a_name_stays_with_whoever_has_taken_it_over(broker: Broker, **options: Any) -> None:
    """Its first owner was cut off for so long that another bridge got the name, and does not get it back."""
    if "name" not in options:
        raise SkipTest("for bridges with a name only")
    async with scene(broker, join=False, **options) as it:
        await it.join()
        await it.publish(0.1)
        await it.settle()
        successor = await it.those.add(
            COUNTED, adapter=broker.adapter(direct=True), incoming=ALL, ready=False, **options
        )
        await successor.until(lambda: successor.bridge.health().last_error is not None, "the name to be refused")
        if not isinstance(successor.bridge.health().last_error, NameTaken):
            raise SkipTest("this broker lets two bridges have one name")
        # The sender goes on by another line.
        sender = await it.those.add(outgoing=ALL, adapter=broker.adapter(direct=True))
        it.line.stall()
        await successor.bridge.ready(PATIENCE)
        before = set(it.received)
        for number in range(1000, 1010):
            await sender.hub.publish_confirmed(("k", "0"), number, timeout=PATIENCE)
        await successor.see(1009, PATIENCE)
        it.line.resume()
        await it.receiver.until(
            lambda: isinstance(it.receiver.bridge.health().last_error, NameTaken), "the name to be refused", PATIENCE
        )
        for number in range(1010, 1020):
            await sender.hub.publish_confirmed(("k", "0"), number, timeout=PATIENCE)
        await successor.see(1019, PATIENCE)
        assert successor.bridge.health().state == "up"
        assert not successor.bridge.health().reconnects
        doubled = set(it.received) & set(successor.messages) - before
        assert not doubled, f"both have handled {sorted(doubled)}"


@fault(long=True)
async def very_many_messages_behind_one_that_takes_long(broker: Broker, **options: Any) -> None:
    """Memory is bounded by the window."""
    await broker.start()
    features = features_of(broker.adapter, **options)
    if not features.durable or features.acks == "none":
        raise SkipTest("not promised: Features.durable and acks")
    await durable.unfinished(broker.adapter, 1000, 20_000, **options)
