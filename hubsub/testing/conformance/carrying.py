"""What is published at one hub arrives at the others unchanged."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import time as now
from unittest import SkipTest

from ... import DeliveryError, Event, Hub, Key, Meta, PayloadTooLarge
from ...bridges import Bridge
from .bare import Gated, bare
from .sites import TIMEOUT, sites
from .table import ALL, Make, check, features_of

# Parts of keys that have caused trouble somewhere.
AWKWARD = [
    *("a", "", " ", ".", "/", ":", "%", "%2F", "100%", "#", "+x", "*x", ">", "$", "\\", r"\*", r"\+", "[a]", "?", "'"),
    *('"', ",", "\n", "\r", "\0", "\x7f", "ä", "中文", "😀", "é", "a/b", "a.b", "A", "hubsub", "x" * 60),
]

# Names of headers that mean something to a broker or an adapter, and what looks like an escape.
KNOWN = [
    *("Nats-Msg-Id", "nats-msg-id", "Nats-Rollup", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-TTL"),
    *("Nats-Service-Error", "CC", "BCC", "cc", "x-death", "x-delivery-count", "x-stream-offset", "x-match", "x-delay"),
    *("hubsub-sender", "hubsub-reader", "hubsub-dead-reader", "hubsub-wait-1", "x-hubsub-back", "x-hubsub-dead-reader"),
    *("key", "payload", "epoch", "due", "%43C", "%4Eats-Msg-Id", "%", "%25", "reply-to", "expiration", "Status"),
]


@check
async def a_message_reaches_every_other_hub(make: Make) -> None:
    """Every subscribed hub gets it once; the hub that sent it does not get it back."""
    async with sites(make) as those:
        one, two, three = await those.add(ALL), await those.add(ALL), await those.add(ALL)
        for message in (1, 2):
            one.hub.publish(("a", "b"), {"number": message})
            two.hub.publish(("c",), message)
        for site in (one, two, three):
            # The second message of a key comes after any duplicate of the first.
            await site.see({"number": 2})
            await site.see(2)
            assert Counter(map(str, site.messages)) == Counter(["{'number': 1}", "{'number': 2}", "1", "2"])


@check
async def metadata_travels_with_a_message(make: Make) -> None:
    """Its origin, the time of publishing, and the publisher's headers."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        one.hub.publish(("plain",), 1)
        one.hub.publish_event(Event(Key("event"), 2, Meta("id-1", "elsewhere", 1e9, {"trace": "x"})))
        await two.wait_for(2)
        metas = {event.message: event.meta for event in two.events}
        plain, event = metas[1], metas[2]
        assert plain is not None
        assert event is not None
        assert plain.source == one.hub.border.origin
        assert plain.id is not None
        assert abs((plain.time or 0) - now()) < 60
        assert plain.hops == 1
        assert event[:5] == ("id-1", "elsewhere", 1e9, {"trace": "x"}, 1)


@check
async def no_header_of_a_message_means_anything_to_the_broker(make: Make) -> None:
    """Anybody may publish any: those arrive, and neither broker nor bridge acts upon them."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        headers = dict.fromkeys(KNOWN, "1")
        for message in range(3):
            one.hub.publish_with_headers("k", message, headers)
        await two.wait_for(3)
        assert two.messages == [0, 1, 2]
        assert [dict(event.meta.headers) for event in two.events if event.meta] == [headers] * 3
        assert not one.bridge.health().refused


@check
async def every_key_arrives_as_it_was(make: Make) -> None:
    """Whatever characters it has."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        keys = [Key(part) for part in AWKWARD] + [Key("a", part, "z") for part in AWKWARD]
        for key in keys:
            one.hub.publish(key, list(key))
        await two.wait_for(len(keys))
        assert Counter(event.key for event in two.events) == Counter(keys)
        assert all(event.message == list(event.key) for event in two.events)


@check
async def every_key_can_be_subscribed_to_by_itself(make: Make) -> None:
    """Its address is the same where it is published and where it is subscribed to."""
    async with sites(make) as those:
        one, two = await those.add(), await those.add()
        keys = [Key(part, "k") for part in AWKWARD]
        two.listen(keys)
        await two.bridge.ready(TIMEOUT)
        for key in keys:
            one.hub.publish(key, list(key))
        await two.wait_for(len(keys))
        assert Counter(event.key for event in two.events) == Counter(keys)


@check
async def the_messages_of_a_key_arrive_in_order(make: Make) -> None:
    """And all messages do, where that is promised."""
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
async def many_senders_and_many_keys_at_once_lose_and_double_nothing(make: Make) -> None:
    """And they keep each sender's order of each key, where an order is promised."""
    async with sites(make) as those:
        senders = [await those.add(outgoing=ALL) for _ in range(4)]
        readers = [await those.add(ALL, incoming=ALL) for _ in range(2)]

        async def send(which: int) -> None:
            for number in range(1000):
                key = Key("k", str(number % 20))
                await senders[which].hub.publish_wait(key, [which, number])
                if number % 97 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*map(send, range(4)))
        for reader in readers:
            await reader.wait_for(4000)
            assert len({tuple(message) for message in reader.messages}) == len(reader.messages) == 4000
            if features_of(make).order != "none":
                last: dict[tuple[int, int], int] = {}
                for which, number in reader.messages:
                    assert last.get((which, number % 20), -1) < number
                    last[which, number % 20] = number


@check
async def a_large_message_arrives(make: Make) -> None:
    """A million bytes, or as many as the broker accepts."""
    size = min(1_000_000, (features_of(make).max_payload or 10**9) - 1000)
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        one.hub.publish("large", "x" * size)
        one.hub.publish("large", 1)
        await two.wait_for(2)
        assert two.messages == ["x" * size, 1]


@check
async def a_message_that_is_too_large_is_refused_and_no_other(make: Make) -> None:
    """Its publisher gets an error; messages sent before and after it arrive. Headers count towards the size."""
    most = features_of(make).max_payload
    if most is None or most > 100_000_000:
        raise SkipTest("not promised: Features.max_payload")
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        for number in range(50):
            one.hub.publish("k", number)
        large = asyncio.ensure_future(one.hub.publish_confirmed("k", "x" * (most + 1)))
        await asyncio.sleep(0)
        one.hub.publish_event(Event(Key("k"), "x" * (most // 2), Meta(headers={"name": "x" * (most // 2 + 1)})))
        for number in range(50, 100):
            one.hub.publish("k", number)
        await asyncio.wait([large], timeout=TIMEOUT)
        assert large.done(), "its publisher got no error"
        refused = large.exception()
        assert isinstance(refused, DeliveryError), "it was confirmed"
        assert any(isinstance(error.__cause__, PayloadTooLarge) for error in refused.exceptions)
        await two.see(99)
        assert two.messages == list(range(100))
        assert one.bridge.health().refused == 2


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
async def records_are_numbered_in_the_order_in_which_they_are_sent(make: Make) -> None:
    """So that a broker that compares numbers never regards a record as stored that is not.

    Control messages have no number, and a record that is sent again keeps its number.
    """
    async with sites(make) as those:
        gate = Gated(make())
        two = await those.add(ALL, incoming=ALL)
        one = await those.add(adapter=gate, outgoing=ALL, outbox=100)
        await one.hub.publish_confirmed("k", -1, timeout=TIMEOUT)
        await two.see(-1)
        await gate.shut()
        for number in range(300):
            one.hub.publish("k", number)
            if number % 30 == 0:
                await asyncio.sleep(0)
        gate.is_shut = False
        await one.hub.publish_confirmed("k", 300, timeout=TIMEOUT)
        await two.see(300)
        first: dict[int, bytes] = {}
        for record in gate.sent:
            assert not (record.is_control and record.sequence), "a control message has a number"
            if record.is_control or record.key[0] == "Hub":
                # The notice of dropped messages has the number of the last of them.
                continue
            if record.sequence not in first:
                assert record.sequence > max(first, default=0), "it is sent after one with a higher number"
                first[record.sequence] = record.payload
            assert first[record.sequence] == record.payload, "two records have one number"
        assert two.messages == sorted(set(two.messages))
        missing = set(range(201, 300)) - set(two.messages)
        assert not missing, f"{len(missing)} of the newest messages, which were kept, did not come"


@check
async def what_a_bridge_would_send_can_be_sent_by_hand(make: Make) -> None:
    """`Bridge.record` returns it; it arrives as if it had been published."""
    async with sites(make) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL, incoming=ALL)
        record = one.bridge.record(("by", "hand"), {"a": 1})
        async with bare(make, those.namespace, reads=False) as writer:
            assert not await writer.send(record)
        await two.see({"a": 1})
        (event,) = two.events
        assert event.key == ("by", "hand")
        assert event.meta is not None
        assert event.meta.source == one.hub.border.origin
        assert one.bridge.health().sent == 0
