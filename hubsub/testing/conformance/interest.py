"""Subscriptions at the broker: what somebody wants, and no more; with a durable broker, all that may come."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from ... import Key
from .bare import Watched
from .sites import TIMEOUT, sites
from .table import ALL, Make, check, each_way


@check
async def what_nobody_is_subscribed_to_does_not_come(make: Make) -> None:
    """It comes from when the broker has confirmed the subscription until it is unsubscribed."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        listener = two.listen(("a", "+"))
        await two.bridge.ready(TIMEOUT)
        one.hub.publish(("a", "1"), 1)
        one.hub.publish(("b", "1"), 0)
        await two.see(1)
        listener.remove()
        await two.bridge.ready(TIMEOUT)
        one.hub.publish(("a", "1"), 2)
        await one.bridge.flush(TIMEOUT)
        two.listen("b")
        await two.bridge.ready(TIMEOUT)
        one.hub.publish("b", 3)
        # By now the message that nobody wanted would have come.
        await two.see(3)
        two.listen(("a", "+"))
        await two.bridge.ready(TIMEOUT)
        one.hub.publish(("a", "1"), 4)
        await two.see(4)
        assert two.messages == [1, 3, 4]


@check
async def a_message_comes_once_however_many_patterns_match_it(make: Make) -> None:
    """Wherever the patterns overlap."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        patterns = [("a", "+", "c"), ("a", "b", "+"), ("+", "b", "c"), ("a", "*"), ("a", "b", "c")]
        counts: Counter[tuple[str, ...]] = Counter()
        for pattern in patterns:
            two.hub.add_listener(pattern, lambda key, message, pattern=pattern: counts.update([pattern]))
        two.listen(("a", "b", "c"))
        await two.bridge.ready(TIMEOUT)
        for number in range(10):
            one.hub.publish(("a", "b", "c"), number)
        await two.see(9)
        one.hub.publish(("a", "b", "c"), "last")
        await two.see("last")
        assert counts == dict.fromkeys(patterns, 11)
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
            await two.bridge.ready(TIMEOUT)
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
        await two.bridge.ready(TIMEOUT)
        for key in "abcdef":
            one.hub.publish(key, key)
        one.hub.publish("last", "last")
        await two.wait_for(len(listeners) + 1)
        assert sorted(two.messages) == sorted([*listeners, "last"])


@check
async def several_tasks_subscribe_at_once_and_each_gets_its_own(make: Make) -> None:
    """Each waits until the broker has confirmed, and then misses nothing."""
    async with sites(make) as those:
        one, two = await those.add(outgoing=ALL), await those.add(incoming=ALL)

        async def subscribe(number: int) -> None:
            subscription = two.hub.subscribe(("k", str(number)))
            await two.bridge.ready(TIMEOUT)
            await one.hub.publish_confirmed(("k", str(number)), number, timeout=TIMEOUT)
            event = await asyncio.wait_for(subscription.consume(), TIMEOUT)
            assert event.message == number
            subscription.close()

        await asyncio.gather(*map(subscribe, range(20)))


@check
@each_way("durable", "acks")
async def what_comes_while_a_listener_is_away_is_kept_where_it_is_durable(make: Make, **options: Any) -> None:
    """A listener that leaves does not unsubscribe at the broker: messages were confirmed as stored for this reader."""
    async with sites(make) as those:
        watched = Watched(make())
        one = await those.add(outgoing=ALL)
        two = await those.add(adapter=watched, incoming=Key("job", "+"), **options)
        listener = two.listen(("job", "1"))
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed(("job", "1"), 1, timeout=TIMEOUT)
        await two.see(1)
        listener.remove()
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed(("job", "1"), 2, timeout=TIMEOUT)
        two.listen(("job", "1"))
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed(("job", "1"), 3, timeout=TIMEOUT)
        await two.see(3)
        assert not watched.unsubscribed
        if options:
            assert two.messages == [1, 2, 3]
        assert not two.gaps


@check
@each_way("durable", "patterns", of="name group")
async def what_an_older_deployment_carried_is_not_kept_for_a_newer_one(make: Make, **options: Any) -> None:
    """A group or a name gets what its present configuration wants, and nothing that only an earlier one wanted."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        for life, (incoming, expected) in enumerate((("old", 0), ("new", 3), (["new", "old"], 5))):
            site = await those.add(ALL, incoming=incoming, **options)
            number = 2 * life
            for key in ("old", "new"):
                await one.hub.publish_confirmed(key, number, timeout=TIMEOUT)
                number += 1
            if incoming == ["new", "old"]:
                await site.wait_for(2)
                assert sorted(site.messages) == [4, 5], "it got messages that came while it did not want them"
            else:
                await site.see(expected)
                assert site.messages == [expected], f"{incoming!r} got {site.messages}"
            await site.close()
