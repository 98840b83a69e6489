"""The hub announces who comes and goes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub import Hub, Key, Subscriber
from hubsub.key import is_subset


def announcements(hub: Hub, pattern: Any = ("Hub", "*")) -> list[tuple[Any, Any]]:
    seen: list[tuple[Any, Any]] = []
    hub.add_listener(pattern, lambda key, message: seen.append((key, message)))
    seen.clear()
    return seen


def test_adding_and_removing_are_announced_with_the_count() -> None:
    hub = Hub()
    seen = announcements(hub, ("Hub", "+", "key", "*"))
    one = hub.add_listener(("key", "of", "subscriber"), print)
    two = hub.subscribe(("key", "of", "subscriber"))
    one.remove()
    two.close()
    key = ("key", "of", "subscriber")
    assert seen == [
        (("Hub", "addedSubscriber", *key), {"key": key, "currentSubscriberCount": 1}),
        (("Hub", "addedSubscriber", *key), {"key": key, "currentSubscriberCount": 2}),
        (("Hub", "removedSubscriber", *key), {"key": key, "currentSubscriberCount": 1}),
        (("Hub", "removedSubscriber", *key), {"key": key, "currentSubscriberCount": 0}),
    ]
    assert type(seen[0][1]["key"]) is Key


def test_wildcards_are_escaped_in_the_key_and_whole_in_the_message() -> None:
    hub = Hub()
    seen = announcements(hub)
    hub.subscribe(("a", "*", "+")).close()
    assert [key for key, _ in seen] == [
        ("Hub", "addedSubscriber", "a", r"\*", r"\+"),
        ("Hub", "removedSubscriber", "a", r"\*", r"\+"),
    ]
    assert seen[0][1]["key"] == ("a", "*", "+")


def test_each_pattern_of_several_is_announced() -> None:
    hub = Hub()
    seen = announcements(hub)
    hub.add_listener([("a", "*"), "b"], print).remove()
    assert len(seen) == 4


@given(st.lists(st.sampled_from(["Hub", "addedSubscriber", "a", "*", "+"]), min_size=1, max_size=5))
def test_whoever_has_a_pattern_that_matches_is_told(parts: list[str]) -> None:
    pattern, added, removed = tuple(parts), ("Hub", "addedSubscriber", "a"), ("Hub", "removedSubscriber", "a")
    hub = Hub()
    seen = announcements(hub, pattern)
    hub.subscribe("a").close()
    assert [key for key, _ in seen] == [key for key in (added, removed) if is_subset(key, pattern)]


def test_a_lone_star_sees_the_namespace_too() -> None:
    hub = Hub()
    seen = announcements(hub, "*")
    hub.subscribe("a").close()
    assert len(seen) == 2


def test_an_answer_to_subscribed_arrives() -> None:
    hub = Hub()
    hub.publish(("state", "now"))  # the route of the answer is cached, without subscribers
    hub.add_listener(
        ("Hub", "addedSubscriber", "state", "*"), lambda key, message: hub.publish((message["key"][0], "now"), 42)
    )
    with hub.subscribe(("state", "*")) as subscription:
        assert subscription.pending == 1


def test_a_removed_subscription_gets_nothing_that_its_removal_causes() -> None:
    hub = Hub()
    hub.add_listener(("Hub", "removedSubscriber", "*"), lambda key, message: hub.publish("a", "late"))
    subscription = hub.subscribe("a")
    subscription.close()
    assert subscription.pending == 0


def test_announcements_are_not_cached() -> None:
    hub = Hub()
    announcements(hub)
    for number in range(100):
        hub.subscribe(("a", str(number))).close()
    assert hub.stats().cached_routes == 0


def test_nothing_is_built_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(hub, "_announce", pytest.fail)
    hub.subscribe("a").close()


def test_a_failing_listener_of_announcements_hurts_no_subscriber() -> None:
    hub = Hub()
    hub.add_listener(("Hub", "*"), lambda key, message: 1 / 0)
    with hub.subscribe("a"):
        assert hub.publish("a") == 1


def test_a_listener_that_subscribes_while_being_told_ends() -> None:
    hub = Hub()

    def follow(key: Key[Any], message: Any) -> None:
        if message["key"][0] == "a" and len(message["key"]) < 5:
            hub.add_listener((*message["key"], "x"), print)

    hub.add_listener(("Hub", "addedSubscriber", "*"), follow)
    hub.add_listener("a", print)
    assert len(hub.patterns()) == 1 + 5


def test_a_listener_that_removes_what_it_is_told_of_leaves_nothing() -> None:
    hub = Hub()
    subscriber = Subscriber(hub, "s")
    hub.add_listener(("Hub", "addedSubscriber", "a"), lambda key, message: subscriber.close())
    assert subscriber.add_listener("a", print).closed
    assert subscriber.subscribe(["b", "a"]).closed
    assert len(hub.patterns()) == 1


def test_a_star_gets_the_announcement_of_itself() -> None:
    hub = Hub()
    with hub.subscribe("*") as subscription:
        assert subscription.pending == 1
