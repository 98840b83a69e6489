"""Bad input gets a clear error where it is given."""

import inspect
import math
from fractions import Fraction
from typing import Any

import pytest

from hubsub import Bridge, Hub, Key, Overflow, Publisher, Retry, Subscriber, connect
from hubsub._core.checks import count, seconds
from hubsub.bridges import Backoff

NO_SECONDS: list[Any] = [math.nan, math.inf, -1, "5", "x", True, None, [1], b"1", 1j]
NO_COUNT: list[Any] = [0, -1, 1.5, math.nan, "5", True, None, [1]]


@pytest.mark.parametrize("wrong", NO_SECONDS)
def test_what_is_no_number_of_seconds_is_refused(wrong: Any) -> None:
    for make in (
        lambda: Hub(drain=wrong),
        lambda: Retry(backoff=wrong),
        lambda: Retry(maximum=wrong),
        lambda: seconds(wrong, "pause"),
    ):
        with pytest.raises(ValueError, match="must be a number of seconds, not"):
            make()


def test_seconds_may_be_any_kind_of_number() -> None:
    for good in (0, 5, 0.5, Fraction(1, 2)):
        assert seconds(good, "pause") == good
        assert type(seconds(good, "pause")) is float


@pytest.mark.parametrize("wrong", NO_COUNT)
def test_what_is_no_count_is_refused(wrong: Any) -> None:
    hub = Hub()

    async def listen(key: Any, message: Any) -> None: ...

    calls: list[Any] = [
        lambda: Hub(maxsize=wrong),
        lambda: hub.retain("a", wrong),
        lambda: hub.tap("a", wrong),
        lambda: hub.add_listener("a", listen, concurrency=wrong),
        lambda: Retry(attempts=wrong),
        lambda: count(wrong, "number"),
    ]
    if wrong is not None:  # which is what is said without it
        calls += [
            lambda: hub.subscribe("a", maxsize=wrong),
            lambda: hub.add_listener("a", listen, maxsize=wrong),
            lambda: hub.retain("a", max_keys=wrong),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must be a number of .*, not"):
            call()
    assert hub.patterns() == {}


@pytest.mark.parametrize("wrong", [-1, 1.5, "5", True, None])
def test_a_route_cache_that_is_no_number_of_keys_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="route_cache must be a number of keys, at least 0"):
        Hub(route_cache=wrong)


@pytest.mark.parametrize("wrong", [value for value in NO_SECONDS if value is not None])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused_at_the_call(wrong: Any) -> None:
    async with Hub() as hub:
        hub.respond("a", lambda key, message: message)
        for call in (
            lambda: hub.next("a", wrong),
            lambda: hub.request("a", 1, wrong),
            lambda: hub.request_many("a", 1, wrong),
        ):
            with pytest.raises(ValueError, match="timeout must be a number of seconds, not"):
                call()
        with pytest.raises(ValueError, match="timeout must be a number of seconds, not"):
            await hub.publish_confirmed("a", 1, wrong)


@pytest.mark.parametrize("wrong", [0, 1.5, "5", True])
async def test_a_limit_that_is_no_number_is_refused(wrong: Any) -> None:
    async with Hub() as hub:
        hub.respond("a", lambda key, message: message)
        with pytest.raises(ValueError, match="limit must be a number of replies"):
            hub.request_many("a", limit=wrong)
        hub.retain("a")
        with pytest.raises(ValueError, match="limit must be a number of"):
            hub.history("a", wrong)


@pytest.mark.parametrize("wrong", [(("a",), 5), ("a", 5), ["a", 5], "ab", 5, None, Key("a", "b")])
def test_publish_event_takes_an_event_and_nothing_else(wrong: Any) -> None:
    hub = Hub()
    got: list[Any] = []
    hub.add_listener("*", got.append, event=True)
    got.clear()
    for publish in (hub.publish_event, Publisher(hub, "p").publish_event):
        with pytest.raises(TypeError, match=r"publish_event takes a hubsub\.Event, not"):
            publish(wrong)
    assert got == []


@pytest.mark.parametrize("kind", [Publisher, Subscriber])
@pytest.mark.parametrize("arguments", [("x", Hub()), (None, "x"), (Hub, "x")], ids=["swapped", "None", "its class"])
def test_what_is_no_hub_is_refused_at_once(kind: Any, arguments: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a {kind.__name__} needs a Hub, then an? \w+: .* is no Hub$"):
        kind(*arguments)


def test_an_overflow_that_is_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"overflow must be one of Overflow\.GROW, .*, not 'grwo'"):
        Hub().subscribe("a", overflow="grwo")  # type: ignore[call-overload]
    assert Hub().subscribe("a", overflow="latest").overflow is Overflow.LATEST  # type: ignore[call-overload]


def test_an_unknown_option_is_refused_and_the_nearest_named() -> None:
    hub, subscriber = Hub(), Subscriber(Hub(), "s")

    def plain(key: Any, message: Any) -> None: ...

    async def listen(key: Any, message: Any) -> None: ...

    for add in (hub.add_listener, subscriber.add_listener, lambda key, f, **o: hub.on(key, **o)(f)):
        for function in (plain, listen):
            with pytest.raises(TypeError, match="no option onec=; did you mean once="):
                add("a", function, onec=True)  # type: ignore[operator]
            with pytest.raises(TypeError, match="no option zzz=; it has batch=, concurrency=, "):
                add("a", function, zzz=True)  # type: ignore[operator]
    with pytest.raises(TypeError, match="no option maxsiez=; did you mean maxsize="):
        hub.respond("a", plain, maxsiez=5)  # type: ignore[call-arg]
    for subscribe in (hub.subscribe, subscriber.subscribe):
        with pytest.raises(TypeError, match="gasp"):
            subscribe("a", gasp=True)  # type: ignore[operator]
    assert hub.patterns() == {}


UNKNOWN: list[tuple[Any, str, str]] = [
    (lambda: Hub(drian=1), "Hub", "drain"),  # type: ignore[call-arg]
    (lambda: Hub(max_size=1), "Hub", "maxsize"),  # type: ignore[call-arg]
    (lambda: Bridge(Hub(), "memory://x", outgoin=["a"]), "Bridge", "outgoing"),  # type: ignore[call-arg]
    (lambda: Retry(atempts=1), "Retry", "attempts"),  # type: ignore[call-arg]
    (lambda: Hub().retain("a", max_keyz=1), "retain", "max_keys"),  # type: ignore[call-arg]
    (lambda: Hub().history("a", afer=1), "history", "after"),  # type: ignore[call-arg]
    (lambda: Hub().tap("a", limt=1), "tap", "limit"),  # type: ignore[call-arg]
    (lambda: Hub().request("a", timout=1), "request", "timeout"),  # type: ignore[call-arg]
    (lambda: Hub().request_many("a", limits=1), "request_many", "limit"),  # type: ignore[call-arg]
    (lambda: Hub().next("a", were=print), "next", "where"),  # type: ignore[call-overload]
    (lambda: Subscriber(Hub(), "s").add_sync_listener("a", print, onec=True), "add_sync_listener", "once"),  # type: ignore[call-arg]
]


@pytest.mark.parametrize(("call", "what", "near"), UNKNOWN)
def test_an_option_that_is_not_known_names_the_nearest_wherever_it_is_given(call: Any, what: str, near: str) -> None:
    with pytest.raises(TypeError, match=rf"{what} has no option \w+=; did you mean {near}="):
        call()


async def test_connect_names_the_nearest_option_too() -> None:
    with pytest.raises(TypeError, match="no option gruop=; did you mean group="):
        async with connect("memory://x", "a", gruop="g"):
            pass


def test_what_names_options_takes_none_itself_and_hides_nothing() -> None:
    assert Hub(name="h").name == "h"
    assert list(inspect.signature(Hub).parameters)[:2] == ["name", "drain"]
    with pytest.raises(TypeError):
        Hub("h")  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [5, "ab", {"a": 1}, {1: "a"}, [("a",)], {"a": None}])
def test_headers_that_are_no_strings_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="headers must be a mapping of str to str"):
        Hub().publish_with_headers("a", 1, wrong)


WRONG_FOR_A_BRIDGE: list[tuple[str, list[Any]]] = [
    *((name, NO_COUNT) for name in ("outbox", "outbox_bytes", "window", "window_bytes", "attempts", "history_scan")),
    ("history", [-1, 1.5, "5", True, None]),
    ("retry_pause", NO_SECONDS),
    ("silence", [0, *(each for each in NO_SECONDS if each is not None)]),
    ("backoff", [1, "x", None, (1, 2), Backoff(-1), Backoff(most="x")]),  # type: ignore[arg-type]
    ("unclaimed", ["drop", 5, True]),
    ("start", ["old", -1, math.nan, True]),
    ("group", [5, ""]),
    ("name", [5, ""]),
    ("namespace", [5, None]),
    ("encode", ["later", None]),
    ("secret", [5, "", [], ["a", ""]]),
    ("codec", ["jsom", 5]),
]


@pytest.mark.parametrize(("option", "wrong"), [(name, each) for name, all_ in WRONG_FOR_A_BRIDGE for each in all_])
def test_a_bridge_refuses_senseless_options_and_leaves_nothing_behind(option: str, wrong: Any) -> None:
    hub = Hub()
    with pytest.raises((ValueError, TypeError), match=option):
        Bridge(hub, "memory://bad-input", both="a", **{option: wrong})
    assert hub.bridges == ()


async def test_connect_and_a_bridge_have_the_same_words_for_what_goes_both_ways() -> None:
    for words in ({"both": ["a"]}, {"keys": ["a"]}):
        async with connect("memory://words", **words) as hub, Bridge(Hub(), "memory://words", **words) as bridge:
            assert set(hub.bridges[0].patterns) == set(bridge.patterns) == {Key("a")}
    for make in (lambda **words: Bridge(Hub(), "memory://x", **words), lambda **words: connect("memory://x", **words)):
        with pytest.raises(ValueError, match="keys must be None with both=, which is the same"):
            async with make(both=["a"], keys=["b"]):
                pass
