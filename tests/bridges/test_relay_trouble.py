"""What goes wrong concerns what it goes wrong with: a message, a record, a connection, an adapter."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import hubsub
from hubsub import BridgeClosed, BridgeNotReady, BrokerBusy, DeliveryError, Event, Gap, Hub, Key, Meta, RequestTimeout
from hubsub.bridges import Adapter, Bridge, Features, Received
from hubsub.bridges.memory import MemoryAdapter
from hubsub.bridges.relay.connection import Connection
from hubsub.bridges.relay.plan import GAPS

from .scripted import Scripted
from .sites import ALL, Quick, Sites, record, until


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    async with Sites() as those:
        yield those


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def bridged(stack: AsyncExitStack, adapter: Adapter, hub: Hub | None = None, **options: Any) -> Bridge:
    """A bridge over an adapter, both ways by default, ready."""
    if not {"outgoing", "incoming", "both"} & options.keys():
        options["both"] = ALL
    hub = hub or await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Quick(hub, adapter, **options))
    await bridge.ready()
    return bridge


def numbers(adapter: Scripted) -> list[int]:
    return [record.sequence for record in adapter.sent if record.sequence]


# One message that came


async def test_whatever_one_message_does_concerns_that_message_alone(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Any] = []
    hub = await stack.enter_async_context(Hub(on_error=failures.append))
    adapter = Scripted()
    bridge = await bridged(stack, adapter, hub, incoming=[("order", "*"), "plain"])
    messages = record(hub)
    adapter.put(("order", "*"), b"0")
    adapter.put(("order", "+"), b"0")
    adapter.put(("order", "broken"), b"{not json")
    adapter.put(("order", "deep"), b"[" * 100_000)
    adapter.put(("order", "cut"), trouble=ValueError("a header that is no text"))
    adapter.put(("order", "good"), b"1")
    await until(lambda: messages == [1])
    await until(lambda: sorted(adapter.acked) == [1, 2, 3, 4, 5, 6])
    assert bridge.health().undecodable == 5
    assert bridge.health().reconnects == 0
    assert [received.token for received, _ in adapter.buried] == [1, 2, 3, 4, 5]
    assert all(len(why) < 2000 for _, why in adapter.buried)
    assert failures
    assert len(caplog.records) < 10


@pytest.mark.parametrize("acks", ["each", "prefix"])
async def test_what_a_plain_listener_fails_on_comes_again_before_the_next_of_its_key_and_holds_no_other(
    stack: AsyncExitStack, acks: str
) -> None:
    hub = await stack.enter_async_context(Hub())
    adapter = Scripted(acks=acks)
    bridge = await bridged(stack, adapter, hub, incoming=[("order", "*")], retry_pause=0.01)
    calls: list[tuple[str, int]] = []

    def listener(key: Key[Any], message: int) -> None:
        calls.append((key[1], message))
        if message == 2 and calls.count((key[1], 2)) < 3:
            raise ValueError

    hub.add_listener(("order", "*"), listener)
    for number in (1, 2, 3):
        for name in "ab":
            adapter.put(("order", name), b"%d" % number, lane="lane")
    await until(lambda: len(calls) == 10)
    for name in "ab":
        assert [message for each, message in calls if each == name] == [1, 2, 2, 2, 3]
    assert bridge.health().failures == 4
    assert not adapter.buried
    if acks == "each":
        await until(lambda: sorted(adapter.acked) == [1, 2, 3, 4, 5, 6])
    else:
        await until(lambda: adapter.acked and adapter.acked[-1] == 6)
        assert adapter.acked == sorted(adapter.acked)


async def test_a_listener_that_takes_the_event_may_say_that_it_has_failed(stack: AsyncExitStack) -> None:
    hub = await stack.enter_async_context(Hub())
    adapter = Scripted()
    await bridged(stack, adapter, hub, incoming="order", retry_pause=0.01)
    seen: list[Any] = []

    def listener(event: Event[Any]) -> None:
        seen.append(event.message)
        if len(seen) == 3:
            event.fail(ValueError())

    hub.add_listener("order", listener, event=True)
    for number in range(4):
        adapter.put("order", b"%d" % number)
    await until(lambda: sorted(adapter.acked) == [1, 2, 3, 4])
    assert seen == [0, 1, 2, 2, 3]


async def test_a_hostile_flood_is_a_few_lines_and_hurts_nobody(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    bad = [hubsub.bridges.Record(Key("k"), b"{") for _ in range(2000)]
    await one.adapter.send([*bad, hubsub.bridges.Record(Key("a", "*"), b"1"), hubsub.bridges.Record(Key("k"), b"2")])
    await until(lambda: messages == [2])
    assert two.health().undecodable == 2001
    assert len(caplog.records) < 5
    assert two.health().reconnects == 0


class Outcome(BaseException):
    """As `pytest.fail` raises one."""


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_durable", [False, True])
async def test_a_listener_that_raises_what_ends_programs_does_not_end_the_bridge(
    stack: AsyncExitStack, is_async: bool, is_durable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Scripted() if is_durable else Scripted(durable=False, acks="none", groups=False, names=False)
    bridge = await bridged(stack, adapter, incoming=ALL, attempts=1)
    messages: list[Any] = []

    def fail(key: Key[Any], message: Any) -> None:
        messages.append(message)
        if message == 1:
            raise Outcome("fail")

    async def fail_later(key: Key[Any], message: Any) -> None:
        fail(key, message)

    if is_async:
        messages.append(1)
        bridge.hub.add_listener("k", lambda key, message: None)
    bridge.hub.add_listener("k", fail)
    adapter.put("k", b"1")
    adapter.put("k", b"2")
    await until(lambda: messages[-1:] == [2])
    assert "Outcome" in caplog.text
    assert bridge.health().state == "up"


async def test_only_what_a_listener_handled_is_remembered_as_done(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, attempts=1)
    headers = {"ce_specversion": "1.0", "ce_id": "7", "ce_source": "shop", "ce_type": "order"}
    fails = True
    handled: list[Any] = []

    def work(key: Key[Any], message: Any) -> None:
        if fails:
            raise ValueError("not now")
        handled.append(message)

    bridge.hub.add_listener("k", work)
    adapter.put("k", b"1", headers)
    await until(lambda: len(adapter.buried) == 1)
    fails = False
    adapter.put("k", b"1", headers)  # put back
    await until(lambda: handled == [1])
    adapter.put("k", b"1", headers)  # a duplicate
    await until(lambda: bridge.health().duplicates == 1)
    assert handled == [1]
    assert "suppressed as duplicates 1" in str(bridge.hub.explain("k"))
    assert "comes by" not in str(bridge.hub.explain(("Hub", "x")))


@pytest.mark.parametrize("unclaimed", ["ack", "dead-letter"])
async def test_what_nobody_took_is_no_duplicate_when_it_comes_again(stack: AsyncExitStack, unclaimed: Any) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, unclaimed=unclaimed)
    headers = {"ce_specversion": "1.0", "ce_id": "7", "ce_source": "shop", "ce_type": "order"}
    adapter.put("k", b"1", headers)
    await until(lambda: adapter.acked == [1])
    messages = record(bridge.hub)
    adapter.put("k", b"1", headers)
    await until(lambda: messages == [1])


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_failed_with_a_listener_that_is_gone_is_for_those_who_are_there(
    stack: AsyncExitStack, is_async: bool
) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, unclaimed="hold", retry_pause=0.01)
    failed = asyncio.Event()

    def fail(key: Key[Any], message: Any) -> None:
        failed.set()
        raise ValueError("not now")

    async def fail_later(key: Key[Any], message: Any) -> None:
        fail(key, message)

    listener = bridge.hub.add_listener("k", fail_later if is_async else fail)
    adapter.put("k", b"1")
    await failed.wait()
    listener.remove()
    await until(lambda: bridge.health().unclaimed == 1)
    assert not adapter.acked
    messages = record(bridge.hub)
    await until(lambda: messages == [1])
    await until(lambda: adapter.acked == [1])


def test_what_failed_is_tried_again_though_its_listener_left_while_no_loop_ran() -> None:
    adapter = Scripted()
    messages: list[Any] = []
    with asyncio.Runner() as runner:

        async def begin() -> Bridge:
            hub = Hub()
            await hub.start()
            bridge = Bridge(hub, adapter, incoming=ALL, unclaimed="hold", retry_pause=0.01)
            await bridge.start()
            adapter.put("k", b"1")
            await until(lambda: bridge.health().unclaimed == 1)
            return bridge

        async def end(bridge: Bridge) -> None:
            bridge.hub.add_listener("k", lambda key, message: messages.append(message))
            await until(lambda: adapter.acked == [1])
            await bridge.hub.close()

        bridge = runner.run(begin())

        async def never(key: Key[Any], message: Any) -> None:
            messages.append("never")

        # What is held is published to it, and its queue is dropped with it.
        bridge.hub.add_listener("k", never).remove()
        runner.run(end(bridge))
    assert messages == [1]


async def test_what_one_listener_has_handled_is_done_when_the_one_that_failed_is_gone(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, unclaimed="hold", retry_pause=0.01)
    messages = record(bridge.hub)
    failed = asyncio.Event()

    def fail(key: Key[Any], message: Any) -> None:
        failed.set()
        raise ValueError("not now")

    listener = bridge.hub.add_listener("k", fail)
    adapter.put("k", b"1")
    await failed.wait()
    listener.remove()
    await until(lambda: adapter.acked == [1])
    assert messages == [1]


async def test_a_dead_letter_that_is_refused_is_written_without_its_payload_and_blocks_nothing(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, attempts=1)
    adapter.on_bury = lambda received, why: ValueError("too large") if len(received.payload or b"") > 10 else None
    messages: list[Any] = []

    def work(key: Key[Any], message: Any) -> None:
        messages.append(message)
        if isinstance(message, str):
            raise ValueError("x" * 60_000)

    bridge.hub.add_listener("k", work)
    adapter.put("k", json.dumps("y" * 100).encode())
    adapter.put("k", b"2")
    await until(lambda: messages[-1:] == [2])
    ((received, why),) = adapter.buried
    assert received.payload == b""
    assert "without its" in why
    assert len(why) <= 2000
    adapter.on_bury = lambda received, why: ValueError("never")
    adapter.put("k", b'"again"')
    adapter.put("k", b"3")
    await until(lambda: messages[-1:] == [3])
    await until(lambda: len(adapter.acked) == 4)
    assert "refuses it" in caplog.text or "refuses among" in caplog.text


# Ids


def forged(source: str, id: str) -> dict[str, str]:
    return {"ce_specversion": "1.0", "ce_id": id, "ce_source": source, "ce_type": "hubsub.message"}


async def test_a_guessed_id_suppresses_nothing_of_another_broker(stack: AsyncExitStack) -> None:
    hub = await stack.enter_async_context(Hub())
    chat, orders = Scripted(durable=False, acks="none", groups=False, names=False), Scripted()
    await bridged(stack, chat, hub, incoming=("chat", "*"))
    bridge = await bridged(stack, orders, hub, incoming=("order", "*"))
    messages = record(hub, ("order", "*"))
    for number in range(200):
        chat.put(("chat", "x"), b"0", forged("shop", str(number)))
    for number in range(100):
        orders.put(("order", "x"), b"%d" % number, forged("shop", str(number)))
    await until(lambda: len(messages) == 100)
    assert bridge.health().duplicates == 0


async def test_a_guessed_id_suppresses_nothing_of_another_key(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL)
    messages = record(bridge.hub)
    for key in ("a", "b"):
        for _ in range(2):
            adapter.put(key, b"1", forged("shop", "7"))
    await until(lambda: bridge.health().duplicates == 2)
    assert messages == [1, 1]


async def test_ids_are_random_and_of_any_length_that_fits(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter)
    for number in range(1000):
        bridge.hub.publish("k", number)
    await bridge.flush()
    ids = [record.headers["ce_id"] for record in adapter.sent]
    assert len({id[-16:] for id in ids}) == 1000


# Requests and replies


async def test_a_worker_that_only_takes_requests_in_answers_them(sites: Sites) -> None:
    one = await sites.bridge(outgoing=["double", "broken", "odd"])
    two = await sites.bridge(incoming=["double", "broken", "odd"])
    two.hub.respond("double", lambda key, number: 2 * number)
    two.hub.respond("broken", lambda key, number: 1 / 0)
    two.hub.respond("odd", lambda key, number: object())
    await two.synced()
    assert await one.hub.request("double", 21, timeout=10, local=False) == 42
    with pytest.raises(hubsub.RemoteError, match="ZeroDivisionError"):
        await one.hub.request("broken", 21, timeout=10, local=False)
    with pytest.raises(hubsub.RemoteError, match="EncodeError"):
        await one.hub.request("odd", 21, timeout=10, local=False)
    replies = one.hub.request_many("odd", 1, timeout=10, limit=1, local=False)
    await until(lambda: replies.errors)
    replies.close()


async def test_a_request_that_cannot_be_encoded_fails_at_once(sites: Sites) -> None:
    one, two = await sites.bridge(outgoing=["k"]), await sites.bridge(incoming=["k"])
    two.hub.respond("k", lambda key, message: message)
    await two.synced()
    with pytest.raises(hubsub.EncodeError):
        await one.hub.request("k", object(), timeout=10, local=False)
    replies = one.hub.request_many("k", object(), timeout=10, local=False)
    assert [reply async for reply in replies] == []
    assert [type(error) for error in replies.errors] == [hubsub.EncodeError]


async def test_a_request_that_cannot_be_decoded_there_fails_at_once(sites: Sites) -> None:
    one, two = await sites.bridge(outgoing=["k"]), await sites.bridge(incoming=["k"])
    two.hub.declare("k", int)
    two.hub.respond("k", lambda key, message: message)
    await two.synced()
    with pytest.raises(hubsub.RemoteError, match="DecodeError"):
        await one.hub.request("k", "no number", timeout=10, local=False)


async def test_replies_go_only_where_the_request_came_from(sites: Sites) -> None:
    victim = await sites.bridge(both=("ask", "*"))
    seen: list[Any] = []
    for pattern in ("admin", ("admin", "*"), ("Hub", "*")):
        victim.hub.add_listener(pattern, lambda key, message: seen.append(message))
    victim.hub.respond(("ask", "*"), lambda key, message: message)
    await victim.synced()
    attacker = MemoryAdapter(sites.url)
    await attacker.connect(victim._plan.link("attacker", attacker.features))
    await attacker.subscribe([ALL])
    meta = forged("attacker", "1") | {"ce_correlation": "c"}
    addresses = ["admin/shutdown", "Hub/addedSubscriber/x", "Hub/reply/*", "Hub/reply/a/b", "Hub/reply/" + "x" * 1000]
    seen.clear()
    for number, address in enumerate(addresses):
        headers = meta | {"ce_replyto": address, "ce_id": str(number)}
        await attacker.send([hubsub.bridges.Record(Key("ask", "x"), b'"mine"', headers)])
    headers = meta | {"ce_replyto": "Hub/reply/attacker", "ce_id": "last"}
    await attacker.send([hubsub.bridges.Record(Key("ask", "x"), b'"mine"', headers)])
    answers: list[Any] = []
    while not answers:
        answers += [each.key for each in await attacker.receive() if each.key[:2] == ("Hub", "reply")]
    assert answers == [("Hub", "reply", "attacker")]
    assert seen == []
    await attacker.close()


async def test_a_reply_is_believed_only_by_the_correlation_of_its_bridge(sites: Sites) -> None:
    one = await sites.bridge(outgoing=["k"])
    attacker = MemoryAdapter(sites.url)
    await attacker.connect(one._plan.link("attacker", attacker.features))
    await attacker.subscribe([ALL])
    request = one.hub.request("k", 1, timeout=1.0, local=False)
    (asked,) = [each for each in await attacker.receive() if each.key == ("k",)]
    to = Key.parse(asked.headers["ce_replyto"])
    for number in range(50):
        headers = forged("x", f"f{number}") | {"ce_correlation": f"{one.hub.border.origin}-{number}"}
        await attacker.send([hubsub.bridges.Record(to, b'"granted"', headers)])
    with pytest.raises(RequestTimeout):
        await request
    await attacker.close()


# Records on their way out


async def test_records_are_numbered_in_the_order_in_which_they_are_sent(stack: AsyncExitStack) -> None:
    adapter = Scripted(idempotent=True)
    adapter.on_connect = lambda: (_ for _ in ()).throw(ConnectionError("away"))
    hub = await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Quick(hub, adapter, outgoing=ALL, outbox=100))
    for number in range(300):
        hub.publish("k", number)
        if not number % 50:
            await asyncio.sleep(0)
    await until(lambda: bridge.health().outbox_messages == 100)
    adapter.on_connect = lambda: None
    await bridge.flush()
    assert numbers(adapter) == sorted(set(numbers(adapter)))
    assert [json.loads(each.payload) for each in adapter.sent if each.key == ("k",)] == list(range(200, 300))
    log = [each for each in adapter.sent if not each.is_control]
    assert log[0].key == ("Hub", "gap")  # in its place
    assert [each.key for each in adapter.sent if each.is_control] == [("Hub", "gap")]


async def test_a_notice_stands_behind_what_may_have_been_stored_already(stack: AsyncExitStack) -> None:
    """What is dropped after it was sent, and perhaps stored, is told of under its own number."""
    adapter = Scripted(idempotent=True)
    stored: dict[int, Any] = {}

    def lose(records: Any) -> None:
        for each in records:
            if not each.is_control:
                stored.setdefault(each.sequence, each)
        raise ConnectionError("lost after it was stored")

    hub = await stack.enter_async_context(Hub())
    adapter.on_send = lose
    bridge = await stack.enter_async_context(Quick(hub, adapter, outgoing=ALL, outbox=10))
    for number in range(10):
        hub.publish("k", number)
    await until(lambda: len(stored) == 10)
    for number in range(10, 15):
        hub.publish("k", number)
        await asyncio.sleep(0)
    adapter.on_send = lambda records: None
    await bridge.flush()
    for each in adapter.sent:
        if each.sequence:
            stored.setdefault(each.sequence, each)
    received = [json.loads(each.payload) for _, each in sorted(stored.items()) if each.key == ("k",)]
    assert received == list(range(15))


async def test_a_record_that_costs_the_connection_is_refused_and_blocks_none(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Scripted()

    def cut(records: Any) -> None:
        if any(each.payload == b'"poison"' for each in records):
            raise ConnectionError("cut")

    adapter.on_send = cut
    bridge = await bridged(stack, adapter, outgoing=ALL)
    for number in range(300):
        bridge.hub.publish("k", number)
    poison = asyncio.ensure_future(bridge.hub.publish_confirmed("k", "poison"))
    for number in range(300, 600):
        bridge.hub.publish("k", number)
    with pytest.raises(DeliveryError) as caught:
        await poison
    assert "costs the connection" in str(caught.value.exceptions[0].__cause__)
    await bridge.flush()
    arrived = [json.loads(each.payload) for each in adapter.sent if each.key == ("k",)]
    assert arrived == list(range(600))
    assert bridge.health().refused == 1


async def test_a_broker_that_is_killed_while_it_sends_refuses_nothing(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    kills = 0

    def kill(records: Any) -> None:
        nonlocal kills
        if kills < 30 and any(not each.is_control for each in records):
            kills += 1
            if kills % 2:
                raise ConnectionError("killed")

    adapter.on_send = kill
    bridge = await bridged(stack, adapter, outgoing=ALL)
    for number in range(1000):
        bridge.hub.publish("k", number)
    await bridge.flush(30)
    assert [json.loads(each.payload) for each in adapter.sent if each.key == ("k",)] == list(range(1000))
    assert bridge.health().refused == 0


async def test_a_batch_that_is_refused_as_a_whole_is_tried_one_by_one(stack: AsyncExitStack) -> None:
    adapter = Scripted()

    def refuse(records: Any) -> Any:
        if any(each.payload == b'"bad"' for each in records):
            return dict.fromkeys(range(len(records)), ValueError("one of them"))
        return None

    adapter.on_send = refuse
    bridge = await bridged(stack, adapter, outgoing=ALL)
    for number in range(100):
        bridge.hub.publish("k", "bad" if number == 50 else number)
    await bridge.flush()
    assert len(adapter.sent) == 99
    assert bridge.health().refused == 1


async def test_limits_count_headers(stack: AsyncExitStack) -> None:
    adapter = Scripted(max_payload=10_000)
    bridge = await bridged(stack, adapter, outgoing=ALL)
    bridge.hub.publish_event(Event(Key("k"), 1, Meta(headers={"x": "y" * 10_000})))
    bridge.hub.publish_event(Event(Key("k"), 2, Meta(headers={"x": "y" * 5_000})))
    bridge.hub.publish("k", "z" * 9_990)
    bridge.hub.publish("k", 3)
    await bridge.flush()
    assert bridge.health().refused == 2
    assert [each.payload for each in adapter.sent] == [b"2", b"3"]


async def test_a_broker_that_takes_nothing_is_asked_with_growing_waits_over_the_same_connection(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    adapter = Scripted()
    calls = 0

    def busy(records: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < 6:
            raise BrokerBusy("out of memory")

    adapter.on_send = busy
    bridge = await bridged(stack, adapter)
    messages = record(bridge.hub, "in")
    bridge.hub.publish("out", 1)
    adapter.put("in", b"2")
    await until(lambda: messages == [2])  # reading goes on
    await bridge.flush()
    assert len(adapter.links) == 1
    lines = [each.getMessage() for each in caplog.records if "messages" in each.getMessage()]
    assert ["no messages" in line for line in lines] == [True, False]


class Mute(Scripted):
    """A broker that pushes, and refuses all control messages."""

    def __init__(self) -> None:
        super().__init__(push=True)
        self.on_send = lambda records: {
            index: PermissionError("you may not") for index, record in enumerate(records) if record.is_control
        }
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1

    async def receive(self) -> Any:
        while not (found := await super().receive()):
            pass
        return found


async def test_a_bridge_that_may_send_no_beats_asks_the_broker_instead_and_stays_connected(
    stack: AsyncExitStack,
) -> None:
    adapter = Mute()
    await bridged(stack, adapter)
    await until(lambda: adapter.pings > 8)
    assert len(adapter.links) == 1


class Refusing(Scripted):
    """A broker that refuses these calls for now, and counts how often."""

    def __init__(self, *names: str) -> None:
        super().__init__(lease=0.15)
        self.refuses = set(names)
        self.refused: list[str] = []

    def _check(self, name: str) -> None:
        if name in self.refuses:
            self.refused.append(name)
            raise BrokerBusy("read only for now")

    async def receive(self) -> Any:
        if self.links[-1].room():
            self._check("receive")
        return await super().receive()

    async def ack(self, tokens: Any) -> None:
        self._check("ack")
        await super().ack(tokens)

    async def extend(self, tokens: Any) -> None:
        self._check("extend")

    async def hand_back(self, tokens: Any) -> None:
        self._check("hand_back")
        await super().hand_back(tokens)


async def test_what_cannot_be_acknowledged_or_extended_for_now_costs_no_connection(stack: AsyncExitStack) -> None:
    adapter = Refusing("ack", "extend")
    bridge = await bridged(stack, adapter, group="g")
    messages = record(bridge.hub, "in")
    first = adapter.put("in")
    await until(lambda: len(adapter.refused) > 3)
    second = adapter.put("in")
    await until(lambda: len(messages) == 2)
    adapter.refuses.clear()
    await until(lambda: sorted(adapter.acked) == [first.token, second.token])
    assert len(adapter.links) == 1


async def test_what_cannot_be_read_for_now_comes_later_and_control_messages_come_meanwhile(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "REST", 0.05)
    adapter = Refusing("receive")
    bridge = await bridged(stack, adapter, group="g")
    messages = record(bridge.hub, "in")
    message, control = adapter.put("in"), adapter.put(GAPS, token=None, is_control=True)
    await until(lambda: len(adapter.refused) > 3 and list(adapter.inbox) == [message])
    assert control not in adapter.inbox
    assert not messages
    adapter.refuses.clear()
    await until(lambda: messages == [1])
    assert len(adapter.links) == 1


async def test_a_broker_that_cannot_be_read_for_long_is_a_lost_connection(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "REST", 0.05)
    monkeypatch.setattr(Connection, "REFUSED", 0.1)
    adapter = Refusing("receive")
    bridge = await bridged(stack, adapter, group="g")
    messages = record(bridge.hub, "in")
    await until(lambda: isinstance(bridge.health().last_error, BrokerBusy))
    adapter.refuses.clear()
    adapter.put("in")
    await until(lambda: messages == [1])
    assert len(adapter.links) > 1


async def test_what_cannot_be_handed_back_for_now_is_handed_back_before_the_bridge_has_closed(
    stack: AsyncExitStack,
) -> None:
    adapter = Refusing("hand_back")
    bridge = await bridged(stack, adapter, group="g")

    async def never(key: Key[Any], message: Any) -> None:
        await asyncio.Event().wait()

    bridge.hub.add_listener("in", never)
    received = adapter.put("in")
    await until(lambda: bridge.health().in_flight)
    closing = asyncio.ensure_future(bridge.close(timeout=0.1))
    await until(lambda: len(adapter.refused) > 1)
    adapter.refuses.clear()
    await closing
    assert adapter.handed_back == [received.token]


# Connections


async def test_coming_up_is_not_yet_working(stack: AsyncExitStack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    adapter = Scripted()
    refuses = True

    def refuse(records: Any) -> None:
        if refuses:
            raise ConnectionError("read only")

    adapter.on_send = refuse
    backoff = hubsub.bridges.Backoff(0.05, 10, 10)
    bridge = await stack.enter_async_context(
        Quick(await stack.enter_async_context(Hub()), adapter, outgoing=ALL, backoff=backoff)
    )
    bridge.hub.publish("k", 1)
    await asyncio.sleep(1.5)
    assert len(adapter.links) < 15
    refuses = False
    await bridge.flush(30)
    await until(lambda: "connected again" in caplog.text)
    mine = [each.getMessage() for each in caplog.records if each.name.startswith("hubsub.bridge")]
    assert len([line for line in mine if "not connected" in line]) == 1


async def test_a_loop_that_stood_still_is_nobodys_silence(sites: Sites) -> None:
    import time

    one, two = await sites.bridge(), await sites.bridge()
    messages = record(two.hub)
    await two.synced()
    for number in range(5):
        one.hub.publish("k", number)
        await until(lambda number=number: number in messages)
        time.sleep(3 * Quick.DEAF)  # noqa: ASYNC251 - the fault itself
        await asyncio.sleep(0.01 * number)
    await asyncio.sleep(2 * Quick.DEAF)
    assert (one.health().reconnects, two.health().reconnects, two.health().gaps) == (0, 0, 0)


async def test_a_cancelled_call_costs_that_call(stack: AsyncExitStack) -> None:
    class Slow(Scripted):
        async def history(self, limit: int, before: Any = None, after: Any = None) -> list[Received]:
            await asyncio.sleep(0.05)
            return []

    adapter = Slow(history=True)
    bridge = await bridged(stack, adapter)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bridge.history("k", 1), 0.001)
    assert await bridge.history("k", 1) == []
    assert bridge.health().reconnects == 0


async def test_a_connection_that_a_call_finds_broken_is_made_anew(stack: AsyncExitStack) -> None:
    class Broken(Scripted):
        async def history(self, limit: int, before: Any = None, after: Any = None) -> list[Received]:
            raise ConnectionResetError

    bridge = await bridged(stack, Broken(history=True))
    with pytest.raises(BridgeNotReady):
        await bridge.history("k", 1)
    await until(lambda: bridge.health().reconnects == 1)


@pytest.mark.parametrize("error", [NotImplementedError, TypeError, AttributeError])
async def test_a_broken_adapter_is_told_as_one_and_ends_the_bridge(
    stack: AsyncExitStack, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Scripted()

    def fail() -> None:
        raise error("no such thing")

    adapter.on_connect = fail
    hub = await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Quick(hub, adapter, both=ALL))
    confirmed = asyncio.ensure_future(hub.publish_confirmed("k"))
    with pytest.raises(BridgeNotReady, match=f"{error.__name__}: no such thing"):
        await bridge.ready(30)
    assert bridge.health().state == "failed"
    with pytest.raises(DeliveryError):
        await confirmed
    assert sum("has a bug" in each.getMessage() for each in caplog.records) == 1
    assert any(each.exc_info for each in caplog.records)


async def test_every_method_left_out_ends_the_bridge_at_once(stack: AsyncExitStack) -> None:
    class Empty(Adapter):
        features = Features()

    hub = await stack.enter_async_context(Hub())
    bridge = await stack.enter_async_context(Quick(hub, Empty(), both=ALL))
    with pytest.raises(BridgeNotReady, match="NotImplementedError"):
        await bridge.ready(30)


# The window


async def test_what_waits_behind_an_unfinished_message_counts_against_the_window(stack: AsyncExitStack) -> None:
    adapter = Scripted(acks="prefix")
    bridge = await bridged(stack, adapter, incoming=ALL, name="n", window=100, ordered=False)
    release = asyncio.Event()
    seen: list[Any] = []

    async def hold(key: Key[Any], message: Any) -> None:
        await release.wait()

    bridge.hub.add_listener("slow", hold)
    bridge.hub.add_listener("quick", lambda key, message: seen.append(message))
    adapter.put("slow")
    tracemalloc.start()
    payload = json.dumps("x" * 1000).encode()
    waiting = [Received(Key("quick"), payload, {}, token=number) for number in range(2, 20_000)]
    adapter.inbox.extend(waiting)
    await until(lambda: len(seen) >= 99)
    before, _ = tracemalloc.get_traced_memory()
    await asyncio.sleep(0.3)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 99
    assert len(adapter.inbox) > 19_000
    assert after - before < 100_000
    release.set()
    await until(lambda: len(seen) == len(waiting))
    await until(lambda: adapter.acked[-1:] == [waiting[-1].token])


@pytest.mark.parametrize("window", [1, 7])
async def test_no_more_are_in_flight_than_the_window(stack: AsyncExitStack, window: int) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, group="g", window=window)
    most = 0
    done: list[Any] = []

    async def work(key: Key[Any], message: Any) -> None:
        nonlocal most
        most = max(most, bridge.health().in_flight)
        await asyncio.sleep(0.001)
        done.append(message)

    for name in "abcdefgh":
        bridge.hub.add_listener(name, work)
    for number in range(64):
        adapter.put("abcdefgh"[number % 8], b"%d" % number)
    await until(lambda: len(done) == 64)
    assert most == window


async def test_dead_letters_that_cannot_be_written_count_against_the_window(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Scripted()

    def away(received: Received, why: str) -> None:
        raise LookupError("no such topic")

    adapter.on_bury = away
    bridge = await bridged(stack, adapter, incoming=ALL, name="n", window=10)
    bridge.hub.add_listener("k", lambda key, message: None)
    for _ in range(100):
        adapter.put("k", b"{")
    await until(lambda: bridge.health().in_flight == 10)
    await asyncio.sleep(0.2)
    assert len(adapter.inbox) == 90
    left = await bridge.close(0.1)
    assert left.unfinished == 10
    assert len(caplog.records) < 20


# Closing


@pytest.mark.parametrize("acks", ["none", "each", "prefix"])
async def test_with_nothing_left_to_do_a_close_is_quick(stack: AsyncExitStack, acks: Any) -> None:
    adapter = Scripted(acks=acks)
    bridge = await bridged(stack, adapter, incoming=ALL)
    messages = record(bridge.hub)
    for _ in range(10):
        adapter.put("k")
        adapter.put(("Hub", "other"))
    await until(lambda: len(messages) == 10)
    async with asyncio.timeout(3):
        assert await bridge.close(60) == (0, 0)


@pytest.mark.parametrize(("ordered", "order"), [(None, [1, 3, 2]), (False, [1, 2, 3])])
async def test_keys_overtake_each_other_unless_the_order_is_that_of_the_broker(
    stack: AsyncExitStack, ordered: bool | None, order: list[int]
) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, name="n", ordered=ordered)
    seen: list[Any] = []

    async def slow(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        seen.append(event.message)

    bridge.hub.add_listener(["a", "b"], slow, event=True)
    adapter.put("a", b"1")
    adapter.put("a", b"2")
    adapter.put("b", b"3")
    await until(lambda: len(seen) == 3)
    assert seen == order


async def test_a_member_that_closes_hands_back_what_it_has_in_hand(stack: AsyncExitStack) -> None:
    adapter = Scripted()
    bridge = await bridged(stack, adapter, incoming=ALL, group="g", ordered=True)
    began = asyncio.Event()

    async def hold(key: Key[Any], message: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    bridge.hub.add_listener("k", hold)
    for _ in range(5):
        adapter.put("k")
    await began.wait()
    await until(lambda: bridge.health().in_flight == 5)
    assert await bridge.close(0.1) == (0, 5)
    assert adapter.handed_back == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("options", [{"group": "g"}, {"name": "n"}, {}], ids=["group", "name", "plain"])
@pytest.mark.parametrize("acks", ["each", "prefix"])
async def test_what_is_finished_is_acknowledged_also_when_closing_runs_out_of_time(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, acks: Any, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(Bridge, "ACK_EVERY", 1000)
    adapter = Scripted(acks=acks)
    bridge = await bridged(stack, adapter, incoming=ALL, **options)
    seen: list[Any] = []

    async def work(key: Key[Any], message: Any) -> None:
        seen.append(message)
        if message == 3:
            await asyncio.sleep(1000)

    bridge.hub.add_listener("k", work)
    for number in range(1, 6):
        adapter.put("k", b"%d" % number)
    await until(lambda: 3 in seen)
    left = await bridge.close(0)
    assert left.unfinished == 3
    assert adapter.acked[-1] == 2
    assert adapter.handed_back == ([3, 4, 5] if "group" in options else [])


async def test_what_is_read_while_closing_is_handed_back_too(stack: AsyncExitStack) -> None:
    class LastMoment(Scripted):
        async def receive(self) -> Any:
            if bridge is not None and bridge._is_stopping and not self.handed_back:
                return [self.put("k", token=7)]
            return await super().receive()

    bridge: Bridge | None = None
    adapter = LastMoment()
    bridge = await bridged(stack, adapter, incoming=ALL, group="g")
    began = asyncio.Event()

    async def hold(key: Key[Any], message: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    bridge.hub.add_listener("k", hold)
    adapter.put("k")
    await began.wait()
    await bridge.close(0.2)
    assert 7 in adapter.handed_back


async def test_a_bridge_that_was_closed_comes_back_with_its_hub() -> None:
    hub = Hub()
    adapter = MemoryAdapter("memory://lifespans")
    bridge = Quick(hub, adapter, both=ALL)
    for _ in range(3):
        async with hub, bridge, Hub() as other, Quick(other, MemoryAdapter("memory://lifespans"), both=ALL) as far:
            messages = record(other)
            await bridge.ready()
            await far.ready()
            hub.publish("k", 1)
            await until(lambda messages=messages: messages == [1])
        assert bridge.health().state == "closed"
        with pytest.raises(BridgeClosed):
            await bridge.ready()


async def test_a_bridge_that_was_closed_by_its_hub_is_started_by_it() -> None:
    hub = Hub()
    bridge = Quick(hub, MemoryAdapter("memory://again"), both=ALL)
    await hub.start()
    await bridge.start()
    await bridge.ready()
    await hub.close()
    assert bridge.health().state == "closed"
    async with hub:
        await until(lambda: bridge.health().state == "up")
    assert bridge.health().state == "closed"


async def test_a_bridge_that_nobody_entered_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Hub() as hub:
        Bridge(hub, MemoryAdapter("memory://never"), both=ALL)
        hub.publish("k")
    assert "never started" in caplog.text


# Who wants something


async def test_what_is_retained_counts_as_wanted_and_a_tap_is_a_bystander(sites: Sites) -> None:
    one, two = await sites.bridge(), await sites.bridge()
    adapter: Any = two.adapter
    two.hub.tap(("tapped", "*"))
    retention = two.hub.retain(("state", "*"))
    await two.synced()
    assert {key for key in adapter._patterns if key[0] != "Hub"} == {("state", "*")}
    one.hub.publish(("state", "x"), 1)
    await until(lambda: two.hub.history(("state", "*")))
    retention.close()
    await two.synced()
    await until(lambda: {key for key in adapter._patterns if key[0] != "Hub"} == set())


async def test_a_queue_is_bounded_by_what_the_relay_says_and_not_by_a_guess(sites: Sites) -> None:
    bridge = await sites.bridge()
    subscription = bridge.hub.subscribe("k", maxsize=3)
    for number in range(10):
        bridge.hub.publish_event(Event(Key("k"), number, Meta(id=str(number), source="x", hops=1)))
    assert (subscription.pending, subscription.dropped) == (10, 0)


async def test_a_durable_broker_with_patterns_keeps_what_nobody_listens_to_now(stack: AsyncExitStack) -> None:
    adapter = Scripted(patterns=True)
    bridge = await bridged(stack, adapter, incoming=[("job", "*"), ("invoice", "*")], name="billing")
    assert set(adapter.links[-1].incoming) == {("job", "*"), ("invoice", "*")}
    assert set(adapter.subscribed) == {("job", "*"), ("invoice", "*")}
    listener = bridge.hub.add_listener(("job", "x"), print)
    listener.remove()
    await bridge.synced()
    await asyncio.sleep(0.05)
    assert adapter.unsubscribed == []
    assert all(key[0] == "Hub" for key in adapter.listening)
    assert not any(key[0] == "Hub" for key in adapter.subscribed)


async def test_a_new_group_begins_with_the_earliest_that_is_kept(stack: AsyncExitStack) -> None:
    for options, start in (
        ({"group": "g"}, "earliest"),
        ({"group": "g", "start": "new"}, "new"),
        ({"name": "n"}, "new"),
        ({}, "new"),
    ):
        adapter = Scripted()
        await bridged(stack, adapter, incoming=ALL, **options)
        assert adapter.links[-1].start == start
    without = Scripted(replay=False)
    await bridged(stack, without, incoming=ALL, group="g")
    assert without.links[-1].start == "new"


async def test_what_comes_while_it_subscribes_is_held_behind_its_gap(stack: AsyncExitStack) -> None:
    """The reader reads on: the confirmation of a subscription may stand behind what comes."""

    class Behind(Scripted):
        async def subscribe(self, patterns: Any) -> None:
            self.put("k", b"7", token=None)
            await until(lambda: not self.inbox)  # only a reader that reads on gets there
            await super().subscribe(patterns)

    adapter = Behind(durable=False, acks="none", groups=False, names=False, patterns=True)
    hub = await stack.enter_async_context(Hub())
    subscription = hub.subscribe("k", gaps=True)
    bridge = await bridged(stack, adapter, hub, incoming=ALL)
    assert (await subscription.consume()).message == 7  # type: ignore[union-attr]
    adapter.cut()
    first, second = [await subscription.consume() for _ in range(2)]
    assert isinstance(first, Gap)
    assert isinstance(second, Event)
    assert bridge.health().gaps == 1


async def test_the_record_of_a_message_can_be_had(stack: AsyncExitStack) -> None:
    adapter = Scripted(max_payload=1000)
    bridge = await bridged(stack, adapter, prefix="shop", both=("shop", "*"))
    made = bridge.record(("shop", "order"), {"tea": 2})
    bridge.hub.publish(("shop", "order"), {"tea": 2})
    await bridge.flush()
    (sent,) = adapter.sent
    assert (made.key, made.payload) == (sent.key, sent.payload)
    assert made.headers.keys() == sent.headers.keys()
    assert made.headers["ce_id"] != sent.headers["ce_id"]
    with pytest.raises(hubsub.EncodeError):
        bridge.record(("shop", "order"), object())
    with pytest.raises(hubsub.PayloadTooLarge):
        bridge.record(("shop", "order"), "x" * 2000)
    with pytest.raises(hubsub.InvalidKey):
        bridge.record(("shop", "*"), 1)
