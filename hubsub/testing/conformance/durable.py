"""Brokers that store messages: each is handled at least once, in order, in bounded memory, and then acknowledged."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any

from ... import Key, ListenerFailure
from ...bridges import Loss, Received, Record
from .bare import Watched, bare
from .sites import TIMEOUT, Site, sites, until
from .table import ALL, Make, check, each_way, features_of, need

# Bytes that a test of memory allows for each unfinished message, and for everything else.
MOST_EACH, MOST_ELSE = 20_000, 3_000_000


@check
async def a_name_goes_on_where_it_was(make: Make) -> None:
    """Acknowledged messages do not come again; those published meanwhile come."""
    need(make, "names")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        numbers: list[int] = []
        for life in range(3):
            two = await those.add(ALL, incoming=ALL, name="reader")
            for number in range(10):
                await one.hub.publish_confirmed("k", 20 * life + number, timeout=TIMEOUT)
            await two.see(20 * life + 9)
            numbers += two.messages
            await two.close()
            for number in range(10, 20):
                await one.hub.publish_confirmed("k", 20 * life + number, timeout=TIMEOUT)
        assert numbers == list(range(50))


@check
@each_way("replay")
async def whoever_begins_at_the_earliest_gets_what_is_there(make: Make, **options: Any) -> None:
    """With `start="earliest"`, in order; without it, a reader that has no position gets new messages only."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        for number in range(10):
            await one.hub.publish_confirmed("k", number, timeout=TIMEOUT)
        begins = [await those.add(ALL, incoming=ALL, start="earliest", **options)]
        if not options:
            begins.append(await those.add(ALL, incoming=ALL))
        await one.hub.publish_confirmed("k", 10, timeout=TIMEOUT)
        for site, expected in zip(begins, (range(11), range(10, 11)), strict=False):
            await site.see(10)
            assert site.messages == list(expected)


@check
@each_way("durable")
async def a_message_that_fails_comes_again_before_later_ones_of_its_key(make: Make, **options: Any) -> None:
    """It is retried until it succeeds; other keys go on, and other listeners are not called again."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, retry_pause=0.05, **options)
        calls: list[Any] = []
        others: list[Any] = []

        async def work(key: Key[Any], message: Any) -> None:
            calls.append(message)
            if message == 1 and calls.count(1) < 3:
                raise ValueError("not yet")

        two.hub.add_listener("k", work)
        two.hub.add_listener("k", lambda key, message: others.append(message))
        two.listen("last")
        await two.bridge.ready(TIMEOUT)
        for number in (1, 2, 3):
            one.hub.publish("k", number)
        one.hub.publish("last")
        await two.wait_for(1)
        await until(lambda: len(calls) >= 5, "all attempts")
        if features_of(make, **options).order == "none":
            assert sorted(calls) == [1, 1, 1, 2, 3]
        else:
            assert calls == [1, 1, 1, 2, 3]
        await until(lambda: len(others) >= 3, "the other listener")
        assert sorted(others) == [1, 2, 3]


@check
@each_way("durable")
async def a_message_that_always_fails_becomes_a_dead_letter(make: Make, **options: Any) -> None:
    """After `attempts` attempts; then the messages behind it go on."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, retry_pause=0.02, attempts=3, **options)
        calls = _failing_at_one(two)
        await two.bridge.ready(TIMEOUT)
        one.hub.publish("k", 1)
        one.hub.publish("k", 2)
        await until(lambda: 2 in calls and calls.count(1) == 3, "three attempts")
        await two.until(lambda: two.bridge.health().dead_letters == 1, "the dead letter")


def _failing_at_one(site: Site) -> list[Any]:
    """Add a listener that fails at the message 1; return the list of what it is called with."""
    calls: list[Any] = []

    async def work(key: Key[Any], message: Any) -> None:
        calls.append(message)
        if message == 1:
            raise ValueError("never" * 20_000)

    site.hub.add_listener("k", work)
    return calls


@check
@each_way("durable")
async def a_dead_letter_that_is_put_back_is_handled(make: Make, **options: Any) -> None:
    """It was given up, not handled: it is not a duplicate of itself."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        watched = Watched(make())
        two = await those.add(adapter=watched, incoming=ALL, retry_pause=0.02, attempts=2, **options)
        calls: list[Any] = []

        async def work(key: Key[Any], message: Any) -> None:
            calls.append(message)
            if calls.count(1) <= 2:
                raise ValueError("not today")

        two.hub.add_listener("k", work)
        await two.bridge.ready(TIMEOUT)
        one.hub.publish("k", 1)
        await until(lambda: watched.buried, "the dead letter")
        # If it were put back before it is written, it would still be the same message.
        await two.until(lambda: not two.bridge.health().in_flight, "the dead letter to be written")
        received = watched.buried[0]
        async with bare(make, those.namespace, reads=False) as writer:
            await writer.send(Record(received.key, received.payload or b"", received.headers))
        await until(lambda: calls.count(1) == 3, lambda: f"it to be handled: {calls}")


class _Refusing(Watched):
    """A broker that accepts no dead letters."""

    async def bury(self, received: Received, why: str) -> Exception | None:
        self.buried.append(received)
        return ValueError("too large for a dead letter")


@check
@each_way("durable")
async def a_dead_letter_that_is_refused_is_reported_and_does_not_stay_in_the_way(make: Make, **options: Any) -> None:
    """It is tried once more without the payload; then the messages behind it go on, also after a restart."""
    async with sites(make) as those:
        failures: list[ListenerFailure] = []
        one = await those.add(outgoing=ALL)
        refusing = _Refusing(make())
        two = await those.add(
            adapter=refusing, on_error=failures.append, incoming=ALL, retry_pause=0.02, attempts=2, **options
        )
        calls = _failing_at_one(two)
        await two.bridge.ready(TIMEOUT)
        one.hub.publish("k", 1)
        one.hub.publish("k", 2)
        await until(lambda: 2 in calls, "the message behind it")
        await until(lambda: len(refusing.buried) >= 2, "the attempt without the payload")
        assert refusing.buried[0].payload
        assert not refusing.buried[1].payload
        await until(lambda: any(each.key == ("k",) for each in failures), "on_error")
        assert tuple(await two.close()) == (0, 0)
        if options:
            again = await those.add(ALL, incoming=ALL, **options)
            await one.hub.publish_confirmed("k", 3, timeout=TIMEOUT)
            await again.see(3)
            assert again.messages == [3], f"what was finished with came again: {again.messages}"


class _Troubled(Watched):
    """A broker one of whose messages cannot be read."""

    marked = 0

    async def receive(self) -> Sequence[Received | Loss]:
        batch = list(await super().receive())
        for index, each in enumerate(batch):
            if isinstance(each, Received) and b"unreadable" in (each.payload or b""):
                self.marked += 1
                batch[index] = each._replace(trouble=ValueError("its key is no key"), payload=b"")
        return batch


@check
@each_way()
async def a_message_that_cannot_be_read_concerns_no_other(make: Make, **options: Any) -> None:
    """It is counted, and becomes a dead letter where there are any; the messages around it arrive."""
    features = features_of(make, **options)
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        troubled = _Troubled(make())
        two = await those.add(ALL, adapter=troubled, incoming=ALL, **options)
        for message in (1, "unreadable", 2, "unreadable", "unreadable", 3):
            one.hub.publish("k", message)
        await two.see(3)
        assert two.messages == [1, 2, 3]
        if features.durable:
            await until(lambda: len(troubled.buried) == 3, "three dead letters")
        assert troubled.marked == 3
        assert troubled.connections == 1
        assert not two.gaps
        assert tuple(await two.close()) == (0, 0)
        if options and features.durable:
            again = await those.add(ALL, incoming=ALL, **options)
            await one.hub.publish_confirmed("k", 4, timeout=TIMEOUT)
            await again.see(4)
            assert again.messages == [4], f"what was finished with came again: {again.messages}"


class _Replaying(Watched):
    """A broker that marks every message as replayed."""

    async def receive(self) -> Sequence[Received | Loss]:
        return [
            each._replace(is_replayed=True) if isinstance(each, Received) else each for each in await super().receive()
        ]


@check
async def what_the_broker_replays_is_marked(make: Make) -> None:
    """The metadata of a retained message says that it is not new."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL, adapter=_Replaying(make()), incoming=ALL)
        one.hub.publish("k", 1)
        await two.see(1)
        (event,) = two.events
        assert event.meta is not None
        assert event.meta.replayed


# The window


@check
@each_way("durable")
async def no_more_than_the_window_is_in_hand(make: Make, **options: Any) -> None:
    """However small it is, however many keys there are, and however many messages there are to read."""
    for window in (1, 3):
        await _fill(make, window, **options)


async def _fill(make: Make, window: int, **options: Any) -> None:
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, window=window, **options)
        busy = most = handled = 0
        may_end = asyncio.Event()

        async def work(key: Key[Any], message: Any) -> None:
            nonlocal busy, most, handled
            busy += 1
            most = max(most, busy, two.bridge.health().in_flight)
            await may_end.wait()
            busy -= 1
            handled += 1

        two.hub.add_listener(("k", "+"), work, concurrency=100)
        await two.bridge.ready(TIMEOUT)
        for number in range(60):
            await one.hub.publish_confirmed(("k", str(number)), number, timeout=TIMEOUT)
        await until(lambda: busy, "the first call")
        await asyncio.sleep(0.3)
        most = max(most, two.bridge.health().in_flight)
        may_end.set()
        await until(lambda: handled == 60, lambda: f"60 messages, of which {handled} were handled")
        assert most <= window, f"{most} messages were in hand, with window={window}"


@check
@each_way("durable", "acks", of="name group")
async def what_is_never_finished_keeps_the_rest_back_and_is_not_lost(make: Make, **options: Any) -> None:
    """A listener that hangs has one window and no more; all of that, and the rest, goes to the next bridge."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, window=10, **options)
        started: list[int] = []
        may_end = asyncio.Event()

        async def hang(key: Key[Any], message: Any) -> None:
            started.append(message)
            await may_end.wait()

        two.hub.add_listener(("k", "+"), hang, concurrency=100)
        await two.bridge.ready(TIMEOUT)
        for number in range(40):
            await one.hub.publish_confirmed(("k", str(number)), number, timeout=TIMEOUT)
        await until(lambda: started, "the first call")
        await asyncio.sleep(0.2)
        assert len(started) <= 10
        left = await two.close(0.2)
        assert left.unfinished
        again = await those.add(ALL, incoming=ALL, **options)
        await again.wait_for(40)
        assert sorted(again.messages) == list(range(40))
        may_end.set()


@check
@each_way("durable", "acks")
async def one_message_that_takes_long_does_not_cost_memory_for_all_others(make: Make, **options: Any) -> None:
    """The record of unacknowledged messages is bounded by the window, and small."""
    await unfinished(make, 200, 4000, **options)


async def unfinished(make: Make, window: int, number: int, **options: Any) -> None:
    """Leave one message unfinished while up to `number` others are handled; then finish all of them."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, window=window, **options)
        handled: list[int] = []
        may_end = asyncio.Event()
        is_busy = asyncio.Event()

        async def work(key: Key[Any], message: Any) -> None:
            is_busy.set()
            await may_end.wait()

        two.hub.add_listener("busy", work)
        two.hub.add_listener(("k", "+"), lambda key, message: handled.append(message[0]))
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed("busy", 1, timeout=TIMEOUT)
        await asyncio.wait_for(is_busy.wait(), TIMEOUT)
        gc.collect()
        tracemalloc.start()
        try:
            for each in range(number):
                await one.hub.publish_wait(("k", str(each % 50)), [each, "x" * 500])
            # Most of them may still be in the outbox, and a busy machine carries a few hundred a second.
            await one.bridge.flush(TIMEOUT + number / 100)
            before = -1
            while len(handled) > before:
                before = len(handled)
                await asyncio.sleep(0.5)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        most = MOST_ELSE + window * MOST_EACH
        assert grown < most, f"{grown} bytes more for {before} messages behind one that is not finished"
        assert two.bridge.health().in_flight <= window
        may_end.set()
        await until(lambda: len(handled) == number, lambda: f"{number} messages, of which {len(handled)} came")
        assert len(set(handled)) == number
        assert tuple(await two.close()) == (0, 0)


# History


@check
async def what_was_sent_before_can_be_read(make: Make) -> None:
    """The last messages on joining, and all of them page by page."""
    need(make, "history")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        for number in range(10):
            await one.hub.publish_confirmed(("k", "even" if number % 2 == 0 else "odd"), number, timeout=TIMEOUT)
        two = await those.add(("k", "even"), incoming=ALL, history=3)
        replayed = [event for event in two.events if event.meta is not None and event.meta.replayed]
        assert {event.message for event in replayed} <= {4, 6, 8, 2, 0}
        assert 8 in two.messages
        page = await two.bridge.history(("k", "+"), 4)
        assert [event.message for event in page][-4:] == [6, 7, 8, 9]
        assert page[0].meta is not None
        before = await two.bridge.history(("k", "+"), 4, before=str(page[0].meta.position))
        assert [event.message for event in before] == [2, 3, 4, 5]


@check
@each_way("durable", "acks", of="name group")
async def what_nobody_takes_is_held(make: Make, **options: Any) -> None:
    """A name or a group without a subscriber for a message reads on when it has one."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add("other", incoming=ALL, **options)
        await one.hub.publish_confirmed("k", 1, timeout=TIMEOUT)
        await two.until(lambda: two.bridge.health().unclaimed == 1, "holding it")
        two.listen("k")
        await two.see(1)
        assert two.messages == [1]
