"""What a hub tells of itself: who a key leads to, and what passes by."""

import asyncio
import re
import subprocess
import sys
import time
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import assert_nothing_left

from hubsub import Bridge, Event, Hub, InvalidKey, Key, Meta, Overflow, Subscriber, Tapped


def fail(key: Key[Any], message: Any) -> None:
    raise ValueError(message)


# explain


def test_an_exact_key_is_explained_by_who_matches_and_by_which_pattern(loopless: Hub) -> None:
    many = Subscriber(loopless, "many").subscribe([("a", "*"), ("a", "b"), ("c",)])
    listener = loopless.add_listener(("+", "b"), fail)
    loopless.subscribe("elsewhere")
    explanation = loopless.explain(("a", "b"))
    assert explanation.key == ("a", "b")
    assert [match.subscription for match in explanation.matches] == [many, listener]
    assert [match.patterns for match in explanation.matches] == [(("a", "*"), ("a", "b")), (("+", "b"),)]
    assert explanation.nearest_patterns == ()


def test_an_explanation_has_the_figures_and_the_last_error(loopless: Hub) -> None:
    listener = loopless.add_listener("a", fail)
    queue = loopless.subscribe("a", maxsize=2, overflow=Overflow.DROP_OLDEST)
    latest = loopless.subscribe("a", overflow=Overflow.LATEST)
    for number in range(3):
        loopless.publish("a", number)
    first, second, third = loopless.explain("a").matches
    assert (first.subscription, first.accepted, first.delivered, first.failed) == (listener, 3, 3, 3)
    assert first.last_error is listener.last_error
    assert repr(first.last_error) == "ValueError(2)"
    assert (second.subscription, second.pending, second.dropped) == (queue, 2, 1)
    assert (third.subscription, third.pending, third.superseded) == (latest, 1, 2)
    for match in (first, second, third):
        assert match.accepted == match.delivered + match.pending + match.dropped + match.superseded


async def test_the_last_error_of_an_async_listener_is_kept(hub: Hub) -> None:
    async def failing(key: Key[Any], message: Any) -> None:
        raise ValueError(message)

    listener = hub.add_listener("a", failing)
    assert listener.last_error is None
    hub.publish("a", 1)
    await hub.close()
    assert repr(listener.last_error) == "ValueError(1)"


def test_an_explanation_reads_as_text(loopless: Hub) -> None:
    loopless.add_listener(("a", "*"), fail)
    loopless.subscribe([("a", "b"), ("a", "c")])
    loopless.publish(("a", "b"), 1)
    assert str(loopless.explain(("a", "b"))).splitlines() == [
        "('a', 'b') leads to 2 subscriptions",
        "  Listener fail on ('a', '*'): delivered 1, failed 1; last error: ValueError(1)",
        "  Subscription on ('a', 'b'): delivered 0, pending 1",
    ]
    assert str(loopless.explain(("+", "b"))).splitlines() == [
        "('+', 'b') leads to 2 subscriptions",
        "  Listener fail on ('a', '*') (overlaps): delivered 1, failed 1; last error: ValueError(1)",
        "  Subscription on ('a', 'b') (covered): delivered 0, pending 1",
    ]
    assert "('a', '*') (covers it)" in str(loopless.explain(("a", "+")))
    assert str(loopless.explain(("a", "b")).matches[1]) == "Subscription on ('a', 'b'): delivered 0, pending 1"


def test_a_pattern_is_explained_by_whom_it_has_keys_in_common_with(loopless: Hub) -> None:
    covered = loopless.subscribe(("a", "b", "c"))
    overlapping = loopless.subscribe(("+", "b", "*"))
    loopless.subscribe("b")
    loopless.publish(("a", "b", "x"))
    explanation = loopless.explain(("a", "*"))
    assert [match.subscription for match in explanation.matches] == [covered, overlapping]
    assert explanation.seen == 1
    assert loopless.explain("*").matches[2:] == loopless.explain("b").matches


def test_a_key_that_leads_nowhere_is_answered_by_the_nearest_patterns_and_keys(loopless: Hub) -> None:
    loopless.subscribe(("sensor", "*", "temperature"))
    loopless.subscribe(("order", "*"))
    loopless.subscribe("something else")
    loopless.publish(("sensor", "kitchen", "temperature"))
    explanation = loopless.explain(("sensr", "kitchen", "temperature"))
    assert explanation.matches == ()
    assert explanation.seen == 0
    assert explanation.nearest_patterns == (("sensor", "*", "temperature"),)
    assert explanation.nearest_keys[0] == ("sensor", "kitchen", "temperature")
    assert str(explanation).splitlines() == [
        "('sensr', 'kitchen', 'temperature') leads to no subscriptions",
        "  subscribed: ('sensor', '*', 'temperature')",
        "  published: ('sensor', 'kitchen', 'temperature')",
    ]
    assert loopless.explain(("ordr", "new")).nearest_patterns == (("order", "*"),)
    assert loopless.explain(("completely", "different")).nearest_patterns == ()


def test_what_is_retained_counts_as_seen() -> None:
    hub = Hub(route_cache=0)
    hub.retain(("state", "*"))
    hub.publish(("state", "kitchen"))
    hub.publish(("state", "cellar"))
    assert hub.explain(("state", "kitchen")).seen == 1
    assert hub.explain(("+", "kitchen")).seen == 1
    assert hub.explain(("sate", "kitchen")).nearest_keys == (("state", "kitchen"),)


def test_a_subscribed_pattern_that_hears_nothing_is_answered_by_the_nearest_keys(loopless: Hub) -> None:
    loopless.subscribe(("ordr", "*"))
    loopless.publish(("order", "new", "express"))
    explanation = loopless.explain(("ordr", "*"))
    assert (len(explanation.matches), explanation.seen) == (1, 0)
    assert explanation.nearest_patterns == ()
    assert explanation.nearest_keys == (("order", "new", "express"),)


def test_explaining_changes_nothing(loopless: Hub) -> None:
    loopless.subscribe("a")
    loopless.publish("a")
    before = loopless.stats()._replace(time=0)
    loopless.explain("a"), loopless.explain("b"), loopless.explain("*")
    assert loopless.stats()._replace(time=0) == before
    assert not loopless.explain("b").seen


@pytest.mark.parametrize("key", [(), ("a", 1), 7, ["a", "b"]])
def test_what_is_no_key_cannot_be_explained(loopless: Hub, key: Any) -> None:
    with pytest.raises(InvalidKey):
        loopless.explain(key)


def test_the_nearest_of_very_many_keys_are_found_soon(loopless: Hub) -> None:
    for number in range(20_000):
        loopless.publish(("sensor", f"kitchen{number}", "temperature"))
    began = time.perf_counter()
    nearest = loopless.explain(("sensor", "kitchen777", "temperatur")).nearest_keys
    assert time.perf_counter() - began < 5
    assert all(key[::2] == ("sensor", "temperature") for key in nearest)
    assert len(nearest) == 3


# tap


@pytest.fixture(params=[100_000, 0], ids=["cached", "uncached"])
def any_hub(request: pytest.FixtureRequest) -> Hub:
    return Hub(route_cache=request.param)


def test_a_tap_records_what_matches_with_its_time_and_how_many_it_was_routed_to(any_hub: Hub) -> None:
    any_hub.add_listener(("a", "*"), lambda key, message: None)
    any_hub.subscribe(("a", "b"))
    before = time.time()
    with any_hub.tap([("a", "*"), ("+", "b")]) as tap:
        any_hub.publish(("a", "b"), 1)
        any_hub.publish(("a", "c"), 2)
        any_hub.publish(("c", "b"), 3)
        any_hub.publish(("c", "d"), 4)
        any_hub.publish_event(Event(Key("a", "c"), 5, Meta(id="x")))
    any_hub.publish(("a", "b"), "after")
    assert [record[:2] + record[3:] for record in tap.records] == [
        (("a", "b"), 1, 2, None),
        (("a", "c"), 2, 1, None),
        (("c", "b"), 3, 0, None),
        (("a", "c"), 5, 1, Meta(id="x")),
    ]
    assert all(type(record) is Tapped and type(record.key) is Key for record in tap.records)
    assert before <= tap.records[0].time <= tap.records[-1].time <= time.time()
    assert len(tap) == 4


def test_a_tap_changes_nothing_of_the_delivery(any_hub: Hub) -> None:
    seen: list[Any] = []
    any_hub.publish("a", 0)
    with any_hub.tap("a") as tap:
        assert any_hub.publish("a", 1) == 0
        assert not any_hub.has_subscribers()
        assert any_hub.patterns() == {}
        assert any_hub.explain("a").matches == ()
        any_hub.add_listener("a", lambda key, message: seen.append(message))
        assert any_hub.publish("a", 2) == any_hub.publish_event(Event(Key("a"), 3)) == 1
        stats = any_hub.stats()
        assert (stats.subscriptions, stats.published, stats.routed) == (1, 4, 2)
    assert seen == [2, 3]
    assert [record.message for record in tap.records] == [1, 2, 3]


def test_a_message_is_recorded_before_it_is_delivered(any_hub: Hub) -> None:
    with any_hub.tap("*") as tap:
        any_hub.add_listener("outer", lambda key, message: any_hub.publish("inner"))
        tap.clear()
        any_hub.publish("outer")
    assert [record.key for record in tap.records] == [("outer",), ("inner",)]


def test_a_publish_that_no_tap_matches_has_the_same_route_as_without(loopless: Hub) -> None:
    loopless.add_listener("a", fail)
    loopless.publish("a")
    route = loopless._router.routes["a"]
    with loopless.tap("b"), loopless.tap(("a", "*")):
        assert loopless._router.routes["a"] is route
        loopless.publish("b")
        assert len(loopless._router.routes["b"]) == 1
    loopless.publish("b")
    assert len(loopless._router.routes["b"]) == 0


def test_taps_and_history_stand_beside_each_other(any_hub: Hub) -> None:
    any_hub.retain("a", limit=2)
    with any_hub.tap("a") as one, any_hub.tap("*") as other:
        any_hub.add_listener("a", lambda key, message: None)
        other.clear()
        assert any_hub.publish("a", 1) == 1
        one.close()
        assert any_hub.publish("a", 2) == 1
        assert any_hub.publish("b", 3) == 0
    assert [event.message for event in any_hub.history("a")] == [1, 2]
    assert [record.message for record in one.records] == [1]
    assert [record.message for record in other.records] == [1, 2, 3]


def test_beyond_its_limit_a_tap_forgets_the_oldest_and_counts_it(any_hub: Hub) -> None:
    with any_hub.tap("a", limit=2) as tap:
        for number in range(5):
            any_hub.publish("a", number)
    assert [record.message for record in tap.records] == [3, 4]
    assert (tap.forgotten, tap.limit) == (3, 2)
    tap.clear()
    assert (tap.records, tap.forgotten) == ([], 0)
    with pytest.raises(ValueError, match="limit"):
        any_hub.tap("a", limit=0)


def test_a_tap_sees_announcements_where_its_pattern_matches_them(any_hub: Hub) -> None:
    with any_hub.tap("*") as all_of_it, any_hub.tap(("a", "*")) as other:
        listener = any_hub.add_listener(("a", "*"), fail)
        listener.remove()
    any_hub.subscribe("a").close()
    assert [(record.key, record.routed) for record in all_of_it.records] == [
        (("Hub", "addedSubscriber", "a", r"\*"), 0),
        (("Hub", "removedSubscriber", "a", r"\*"), 0),
    ]
    assert other.records == []
    assert_nothing_left(any_hub)


def test_a_tap_counts_the_source_of_an_event_but_not_whom_an_announcement_is_about(any_hub: Hub) -> None:
    source = any_hub.subscribe(("a", "*"))
    any_hub.subscribe("*", maxsize=1)
    with any_hub.tap([("a", "x"), ("Hub", "slowSubscriber", "*")]) as tap:
        assert any_hub.border.relay(Event(Key("a", "x"), 1), exclude=source) == 1
        any_hub.publish(("a", "y"), 2)
    assert [(record.key, record.routed) for record in tap.records] == [
        (("a", "x"), 2),
        (("Hub", "slowSubscriber", r"\*"), 0),
    ]


def test_closing_a_tap_leaves_nothing_behind(loopless: Hub) -> None:
    tap = loopless.tap(["*", ("a", "b")])
    loopless.publish(("a", "b"))
    assert repr(tap) == "<Tap ('*',), ('a', 'b') recorded=1>"
    tap.close()
    tap.close()
    assert tap.closed
    assert repr(tap) == "<Tap ('*',), ('a', 'b') recorded=1 closed>"
    assert loopless._router.observers == []
    assert not any(route.targets for route in loopless._router.routes.values())


async def test_a_tap_outlives_the_closing_of_its_hub(hub: Hub) -> None:
    with hub.tap("a") as tap:
        hub.publish("a", 1)
        await hub.close()
        await hub.start()
        hub.publish("a", 2)
    assert [record.message for record in tap.records] == [1, 2]


async def test_publish_wait_is_recorded_when_it_delivers(hub: Hub) -> None:
    subscription = hub.subscribe("a", maxsize=1)
    with hub.tap("a") as tap:
        hub.publish("a", 1)
        waiting = asyncio.create_task(hub.publish_wait("a", 2))
        await asyncio.sleep(0)
        assert len(tap) == 1
        await subscription.consume()
        await waiting
        assert [record.message for record in tap.records] == [1, 2]


# busy


async def test_busy_are_listeners_with_something_to_do_and_queues_that_are_read(hub: Hub) -> None:
    release = asyncio.Event()

    async def slow(key: Key[Any], message: Any) -> None:
        await release.wait()

    listener, unread, read = hub.add_listener("a", slow), hub.subscribe("a"), hub.subscribe("a")
    hub.add_listener("a", lambda key, message: None)
    assert hub.busy() == ()
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert hub.busy() == (listener,)
    await read.consume()
    assert hub.busy() == (listener, read)
    await read.consume()
    release.set()
    await hub.close()
    assert hub.busy() == ()
    assert unread.pending == 2


def test_a_listener_that_waits_for_a_loop_is_busy(loopless: Hub) -> None:
    async def handle(key: Key[Any], message: Any) -> None: ...

    listener = loopless.add_listener("a", handle)
    loopless.publish("a")
    assert loopless.busy() == (listener,)


def test_every_subscription_and_listener_is_listed_in_order() -> None:
    hub = Hub()
    subscriber = Subscriber(hub, "s")
    first = hub.add_listener("a", print)
    second = subscriber.subscribe("a")
    third = subscriber.add_sync_listener("b", print)
    assert hub.subscriptions() == (first, second, third)
    second.close()
    assert hub.subscriptions() == (first, third)


def test_importing_hubsub_imports_neither_its_testing_kit_nor_what_explaining_needs() -> None:
    code = "import sys, hubsub; print([m for m in ('hubsub.testing', 'difflib', 'pytest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_explaining_beside_very_long_parts_takes_no_longer_than_beside_short_ones() -> None:
    hub = Hub()
    for number in range(500):
        hub.add_listener(("sensor", f"{number:06}" * 1000), print)
    (nearest, *_) = hub.explain(("sensor", "000000" * 999)).nearest_patterns
    assert nearest == ("sensor", "000000" * 1000)


async def test_a_notebook_shows_tables_and_escapes_what_comes_from_outside() -> None:
    async with Hub(name="<shop>") as hub, Bridge(hub, "memory://shown", both=["<b>"]) as bridge:
        await bridge.ready()
        subscription = hub.subscribe(("<i>", "x"))
        listener = hub.add_listener(("<i>", "*"), fail)
        hub.publish(("<i>", "x"), "<script>")
        shown: list[Any] = [hub, subscription, listener, bridge, hub.explain(("<i>", "x")), hub.explain(("<i>", "y"))]
        for each in shown:
            text = each._repr_html_()
            assert text.startswith("<table>")
            assert ElementTree.fromstring(text).tag == "table"
            assert not set(re.findall(r"</?(\w+)", text)) - {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        texts = [" ".join(ElementTree.fromstring(each._repr_html_()).itertext()) for each in shown]
        assert "published 1" in texts[0]
        assert "Subscription ('<i>', 'x')" in texts[0]
        assert "pending 1" in " ".join(ElementTree.fromstring(subscription._repr_html_()).itertext())
        assert "ValueError('<script>')" in texts[2]
        assert "state up" in texts[3]
        assert "leads to 2 subscriptions" in texts[4]
        for number in range(100):
            hub.add_listener(str(number), fail)
        assert "and 52 more" in hub._repr_html_()
