"""What every adapter has to do, as plain async functions: run them against yours, and a real broker.

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    async def test_my_adapter_conforms(check):
        await check(lambda: MyAdapter("mybroker://localhost"))

Each takes a function that makes an adapter; all that it makes are to reach the same broker. What the adapter's
`Features` do not promise is skipped, by `unittest.SkipTest`, which pytest shows with its reason.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import time as now
from typing import Any
from unittest import SkipTest

from .. import DeliveryError, Event, Gap, Hub, Key, Meta, PayloadTooLarge
from ..bridges import Adapter, Bridge, Features

Make = Callable[[], Adapter]
Check = Callable[[Make], Awaitable[None]]

CHECKS: list[Check] = []
"""All of them."""

TIMEOUT = 30.0
"""Seconds that a check waits for a message."""

ALL = Key("*")

# What keys are made of that have been trouble somewhere.
AWKWARD = [
    *(
        "a",
        "",
        " ",
        ".",
        "/",
        ":",
        "%",
        "%2F",
        "#",
        "+x",
        "*x",
        ">",
        "$",
        "\\",
        r"\*",
        r"\+",
        "[a]",
        "?",
        "'",
        '"',
        ",",
    ),
    *("\n", "\0", "ä", "中文", "😀", "é", "a/b", "a.b", "A", "hubsub", "x" * 60),
]


def check(function: Check) -> Check:
    """Add a check."""
    CHECKS.append(function)
    return function


def features_of(make: Make) -> Features:
    """What the adapters promise."""
    return make().features


def need(make: Make, promise: str) -> Features:
    """Skip the check unless something is promised."""
    features = features_of(make)
    if not getattr(features, promise):
        raise SkipTest(f"not promised: Features.{promise}")
    return features


class Site:
    """A hub with a bridge, and what came to it."""

    def __init__(self, hub: Hub, bridge: Bridge) -> None:
        self.hub = hub
        self.bridge = bridge
        self.events: list[Event[Any]] = []
        self.gaps: list[Gap] = []
        self._news = asyncio.Event()

    def listen(self, patterns: Any = ALL) -> Any:
        """Record what comes, and each gap."""

        def record(event: Event[Any]) -> None:
            if event.key[0] != "Hub":
                self.events.append(event)
                self._news.set()

        def record_gap(key: Key[Any], gap: Gap) -> None:
            self.gaps.append(gap)
            self._news.set()

        self.hub.add_listener(Key("Hub", "gap", "*"), record_gap)
        return self.hub.add_listener(patterns, record, event=True)

    @property
    def messages(self) -> list[Any]:
        """What came, without keys."""
        return [event.message for event in self.events]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            came = f"{len(self.events)} messages, the last: {self.events[-3:]}, {len(self.gaps)} gaps"
            raise AssertionError(
                f"it did not come to be within {TIMEOUT:g} s; {came}; {self.bridge.health()}"
            ) from None

    async def wait_for(self, number: int) -> None:
        """Wait until so many messages came."""
        await self.until(lambda: len(self.events) >= number)

    async def quiet(self, seconds: float = 0.3) -> None:
        """Wait a while, for what should not come."""
        await asyncio.sleep(seconds)


class Sites:
    """Makes hubs that reach each other by one namespace of the broker."""

    def __init__(self, make: Make, stack: AsyncExitStack) -> None:
        self._make = make
        self._stack = stack
        self.namespace = f"check{os.urandom(6).hex()}"

    async def add(self, listening: Any = None, **options: Any) -> Site:
        """Another one, ready; it listens to these patterns."""
        if not {"outgoing", "incoming", "both"} & options.keys():
            options["both"] = ALL
        hub = await self._stack.enter_async_context(Hub())
        bridge = Bridge(hub, self._make(), namespace=self.namespace, **options)
        site = Site(hub, bridge)
        if listening is not None:
            site.listen(listening)
        await self._stack.enter_async_context(bridge)
        await bridge.ready(TIMEOUT)
        return site


@asynccontextmanager
async def sites(make: Make) -> AsyncIterator[Sites]:
    """Hubs for a check; afterwards nothing of them is left."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        yield Sites(make, stack)
    with suppress(TimeoutError):
        await _until(lambda: not asyncio.all_tasks() - before, seconds=1)
    left = asyncio.all_tasks() - before
    assert not left, f"tasks are left: {left}"


# Carrying


@check
async def a_message_reaches_every_other_hub(make: Make) -> None:
    """Whoever is subscribed gets it, once; the one who sent it does not get it back."""
    async with sites(make) as those:
        one, two, three = await those.add(ALL), await those.add(ALL), await those.add(ALL)
        one.hub.publish(("a", "b"), {"number": 1})
        two.hub.publish(("c",), None)
        for site in (one, two, three):
            await site.wait_for(2)
            await site.quiet(0.1)
            assert sorted(event.key for event in site.events) == [("a", "b"), ("c",)]


@check
async def metadata_travels_with_a_message(make: Make) -> None:
    """Where it comes from, when it was published, and what the publisher sent along."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        one.hub.publish(("plain",), 1)
        one.hub.publish_event(Event(Key("event"), 2, Meta("id-1", "elsewhere", 1e9, {"trace": "x"})))
        await two.wait_for(2)
        plain, event = (each.meta for each in two.events)
        assert plain is not None
        assert event is not None
        assert plain.source == one.hub.border.origin
        assert plain.id is not None
        assert abs((plain.time or 0) - now()) < 60
        assert plain.hops == 1
        assert event[:5] == ("id-1", "elsewhere", 1e9, {"trace": "x"}, 1)


@check
async def every_key_arrives_as_it_was(make: Make) -> None:
    """Whatever characters it is made of."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        keys = [Key(part) for part in AWKWARD] + [Key("a", part, "z") for part in AWKWARD]
        for key in keys:
            one.hub.publish(key, list(key))
        await two.wait_for(len(keys))
        assert Counter(event.key for event in two.events) == Counter(keys)
        assert all(event.message == list(event.key) for event in two.events)


@check
async def the_messages_of_a_key_arrive_in_order(make: Make) -> None:
    """And everything does, where that is promised."""
    if features_of(make).order == "none":
        raise SkipTest("not promised: Features.order")
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        for number in range(3000):
            one.hub.publish(("k", str(number % 7)), number)
            if not number % 500:
                await asyncio.sleep(0)
        await two.wait_for(3000)
        for lane in range(7):
            assert [number for number in two.messages if number % 7 == lane] == list(range(lane, 3000, 7))
        if features_of(make).order == "all":
            assert two.messages == list(range(3000))


@check
async def a_large_message_arrives(make: Make) -> None:
    """A million bytes, or as many as the broker takes."""
    size = min(1_000_000, (features_of(make).max_payload or 10**9) - 1000)
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        one.hub.publish("large", "x" * size)
        one.hub.publish("after", 1)
        await two.wait_for(2)
        assert two.messages == ["x" * size, 1]


@check
async def a_message_that_is_too_large_is_refused(make: Make) -> None:
    """Who publishes it is told, and what comes after it arrives."""
    most = features_of(make).max_payload
    if most is None or most > 100_000_000:
        raise SkipTest("not promised: Features.max_payload")
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        refused: DeliveryError | None = None
        try:
            await one.hub.publish_confirmed("large", "x" * (most + 1))
        except DeliveryError as error:
            refused = error
        assert refused is not None, "it was confirmed"
        assert any(isinstance(error.__cause__, PayloadTooLarge) for error in refused.exceptions)
        one.hub.publish("after", 1)
        await two.wait_for(1)
        assert two.messages == [1]
        assert one.bridge.health().refused == 1


@check
async def a_confirmed_message_is_confirmed_by_the_broker(make: Make) -> None:
    """`publish_confirmed` returns when the broker has it."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        assert await one.hub.publish_confirmed(("a",), 1, timeout=TIMEOUT) == 1
        assert one.bridge.health().sent == 1
        await two.wait_for(1)


@check
async def what_was_published_before_it_connected_is_sent(make: Make) -> None:
    """The outbox keeps it."""
    async with sites(make) as those:
        two = await those.add(ALL)
        hub = Hub()
        early = Bridge(hub, make(), outgoing=ALL, namespace=those.namespace)
        hub.publish("early", 1)
        async with hub, early:
            await two.wait_for(1)


@check
async def closing_sends_what_is_queued(make: Make) -> None:
    """Within its deadline, and says what could not be sent: nothing."""
    async with sites(make) as those:
        two = await those.add(ALL)
        async with Hub() as hub:
            bridge = Bridge(hub, make(), outgoing=ALL, namespace=those.namespace)
            await bridge.start()
            await bridge.ready(TIMEOUT)
            for number in range(1000):
                hub.publish("k", number)
            assert tuple(await bridge.close(TIMEOUT)) == (0, 0)
        await two.wait_for(1000)
        assert sorted(two.messages) == list(range(1000))


@check
async def requests_are_answered_from_elsewhere(make: Make) -> None:
    """The reply finds its way back; errors do too."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()

        @two.hub.responds(("double",))
        def double(key: Key[Any], number: Any) -> Any:
            return number * 2

        await two.bridge.synced(TIMEOUT)
        assert await one.hub.request("double", 21, timeout=TIMEOUT, local=False) == 42


# Subscriptions at the broker


@check
async def what_nobody_is_subscribed_to_does_not_come(make: Make) -> None:
    """Subscribing brings it, once the broker has confirmed that; unsubscribing ends it."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        listener = two.listen(("a", "+"))
        await two.bridge.synced(TIMEOUT)
        one.hub.publish(("a", "1"), 1)
        one.hub.publish(("b", "1"), 0)
        await two.wait_for(1)
        listener.remove()
        await two.bridge.synced(TIMEOUT)
        one.hub.publish(("a", "2"), 2)
        await two.quiet()
        two.listen(("a", "+"))
        await two.bridge.synced(TIMEOUT)
        one.hub.publish(("a", "3"), 3)
        await two.wait_for(2)
        assert two.messages == [1, 3]


@check
async def a_message_comes_once_however_many_patterns_match_it(make: Make) -> None:
    """Wherever the patterns overlap."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        patterns = [("a", "+", "c"), ("a", "b", "+"), ("+", "b", "c"), ("a", "*"), ("a", "b", "c")]
        counts: Counter[tuple[str, ...]] = Counter()
        for pattern in patterns:
            two.hub.add_listener(pattern, lambda key, message, pattern=pattern: counts.update([pattern]))
        two.listen(("last",))
        await two.bridge.synced(TIMEOUT)
        for _ in range(10):
            one.hub.publish(("a", "b", "c"))
        one.hub.publish("last")
        await two.wait_for(1)
        assert counts == dict.fromkeys(patterns, 10)
        assert two.bridge.health().received == 11


@check
async def patterns_match_at_the_broker_as_in_the_hub(make: Make) -> None:
    """For random patterns and keys."""
    chance = random.Random(1)
    parts = ["a", "b", "*x", ".", ""]
    patterns = [tuple(chance.choices([*parts, "*", "+", "*"], k=chance.randint(1, 4))) for _ in range(40)]
    keys = [Key.create_from(chance.choices(parts, k=chance.randint(1, 5))) for _ in range(300)]
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        for start in range(0, 40, 8):
            listener = two.listen([*patterns[start : start + 8], ("last",)])
            await two.bridge.synced(TIMEOUT)
            two.events.clear()
            for key in keys:
                one.hub.publish(key, 1)
            one.hub.publish("last", 2)
            some = [Key.create_from(pattern) for pattern in patterns[start : start + 8]]
            expected = [key for key in keys if any(key.is_subset_of(pattern) for pattern in some)]
            await two.wait_for(len(expected) + 1)
            assert Counter(event.key for event in two.events) == Counter([*expected, ("last",)])
            listener.remove()


@check
async def subscribing_and_unsubscribing_in_haste_ends_as_it_should(make: Make) -> None:
    """Whatever was in flight."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        chance = random.Random(2)
        listeners = {key: two.hub.add_listener(key, print) for key in "abcdef"}
        for _ in range(100):
            key = chance.choice("abcdef")
            if key in listeners:
                listeners.pop(key).remove()
            else:
                listeners[key] = two.hub.add_listener(key, print)
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        for listener in listeners.values():
            listener.remove()
        two.listen([*listeners, "last"])
        await two.bridge.synced(TIMEOUT)
        for key in "abcdef":
            one.hub.publish(key, key)
        one.hub.publish("last", "last")
        await two.wait_for(len(listeners) + 1)
        assert sorted(two.messages) == sorted([*listeners, "last"])


# Interruptions


@check
async def an_interruption_is_survived_and_told_of(make: Make) -> None:
    """A durable broker loses nothing; of another one, there is exactly one gap."""
    features = features_of(make)
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        one.hub.publish("k", 1)
        await two.wait_for(1)
        began = now()
        await two.bridge.adapter.close()
        if features.durable:
            one.hub.publish("k", 2)
            await two.wait_for(2)
            one.hub.publish("k", 3)
            await two.wait_for(3)
            assert two.messages == [1, 2, 3]
            assert not two.gaps
            return
        await two.until(lambda: bool(two.gaps))
        await two.bridge.ready(TIMEOUT)
        one.hub.publish("k", 3)
        await two.until(lambda: 3 in two.messages)
        (gap,) = two.gaps
        assert gap.count is None
        assert gap.since <= began + 1
        assert gap.until >= began
        assert one.bridge.health().gaps == 0


# Durable brokers


@check
async def a_group_shares_its_messages(make: Make) -> None:
    """Each goes to one member, and none is left."""
    need(make, "groups")
    async with sites(make) as those:
        workers = [await those.add(ALL, incoming=ALL, group="workers") for _ in range(2)]
        one = await those.add(outgoing=ALL)
        for number in range(200):
            one.hub.publish(("job", str(number)), number)
        for worker in workers:
            worker._news = workers[0]._news
        await workers[0].until(lambda: sum(len(worker.events) for worker in workers) >= 200)
        await workers[0].quiet()
        assert sorted(workers[0].messages + workers[1].messages) == list(range(200))


@check
async def a_group_goes_on_where_it_was(make: Make) -> None:
    """What was acknowledged does not come again; what was published meanwhile comes."""
    need(make, "groups")
    await _goes_on(make, group="workers")


@check
async def a_name_goes_on_where_it_was(make: Make) -> None:
    """What was acknowledged does not come again; what was published meanwhile comes."""
    need(make, "names")
    await _goes_on(make, name="reader")


async def _goes_on(make: Make, **options: Any) -> None:
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        numbers: list[int] = []
        for first in (0, 10):
            async with Hub() as hub:
                site = Site(
                    hub, Bridge(hub, make(), incoming=ALL, namespace=those.namespace, start="earliest", **options)
                )
                site.listen(ALL)
                for number in range(first, first + 10):
                    await one.hub.publish_confirmed("k", number, timeout=TIMEOUT)
                async with site.bridge:
                    await site.wait_for(10)
                    await site.quiet(0.2)
                numbers += site.messages
        assert numbers == list(range(20))


@check
async def a_message_that_fails_comes_again_before_later_ones_of_its_key(make: Make) -> None:
    """In place, until it succeeds; other keys go on."""
    need(make, "durable")
    async with sites(make) as those:
        one, two = await those.add(outgoing=ALL), await those.add(incoming=ALL, retry_pause=0.05)
        calls: list[Any] = []

        async def work(key: Key[Any], message: Any) -> None:
            calls.append(message)
            if message == 1 and calls.count(1) < 3:
                raise ValueError("not yet")

        two.hub.add_listener("k", work)
        two.listen("last")
        await two.bridge.synced(TIMEOUT)
        for number in (1, 2, 3):
            one.hub.publish("k", number)
        one.hub.publish("last")
        await two.wait_for(1)
        await _until(lambda: calls == [1, 1, 1, 2, 3])


@check
async def a_message_that_always_fails_becomes_a_dead_letter(make: Make) -> None:
    """After so many attempts; then what follows it goes on."""
    need(make, "durable")
    async with sites(make) as those:
        one, two = await those.add(outgoing=ALL), await those.add(incoming=ALL, retry_pause=0.02, attempts=3)
        calls: list[Any] = []

        async def work(key: Key[Any], message: Any) -> None:
            calls.append(message)
            if message == 1:
                raise ValueError("never")

        two.hub.add_listener("k", work)
        await two.bridge.synced(TIMEOUT)
        one.hub.publish("k", 1)
        one.hub.publish("k", 2)
        await _until(lambda: calls == [1, 1, 1, 2])
        assert two.bridge.health().dead_letters == 1


@check
async def what_was_sent_before_can_be_read(make: Make) -> None:
    """The last of it on joining, and page by page."""
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
async def what_nobody_takes_is_held(make: Make) -> None:
    """A group that has nobody for a message reads on when it has."""
    need(make, "groups")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add("other", incoming=ALL, group="workers", start="earliest")
        await one.hub.publish_confirmed("k", 1, timeout=TIMEOUT)
        await _until(lambda: two.bridge.health().unclaimed == 1)
        two.listen("k")
        await two.wait_for(1)
        assert two.messages == [1]


async def _until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.01)


async def run(make: Make, checks: Iterable[Check] = ()) -> dict[str, str]:
    """Run all of them, or some; return for each what became of it: "passed", "skipped: ..." or "failed: ..."."""
    results = {}
    for each in checks or CHECKS:
        try:
            await each(make)
        except SkipTest as skip:
            results[each.__name__] = f"skipped: {skip}"
        except Exception as error:
            results[each.__name__] = f"failed: {type(error).__name__}: {error}"
        else:
            results[each.__name__] = "passed"
    return results
