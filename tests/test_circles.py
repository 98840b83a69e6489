"""Listeners that publish for one another without end: the cascade ends at once, in one line, and hurts nobody else."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from hubsub import Event, Hub, Key
from hubsub._core.circles import Circles

# In a tree of calls as high as the stack, each with two branches, so many would be nothing.
MOST_CALLS = 20_000

Publish = Callable[[Hub, str], object]

PUBLISHES: dict[str, Publish] = {
    "publish": lambda hub, key: hub.publish(key),
    "publish_event": lambda hub, key: hub.publish_event(Event(Key(key), None)),
    "relay": lambda hub, key: hub.border.relay(Event(Key(key), None), confirmed=lambda *_: None),
}


def lower(levels: int, function: Callable[[], object]) -> object:
    """Call a function so many frames deeper: where the stack is full depends on where it began."""
    return lower(levels - 1, function) if levels else function()


def messages_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


@pytest.mark.parametrize("levels", range(4))
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("keys", ["a", "ab", "abc"])
@pytest.mark.parametrize("way", PUBLISHES)
@pytest.mark.parametrize("swallow", [False, True])
def test_a_circle_of_several_listeners_ends_in_one_line_that_names_its_keys(
    swallow: bool, way: str, keys: str, cached: bool, levels: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(route_cache=100 if cached else 0)
    publish = PUBLISHES[way]
    calls = innocent = 0

    def to(key: str) -> Callable[[Key[Any], Any], None]:
        def listen(_: Key[Any], message: Any) -> None:
            nonlocal calls
            calls += 1
            assert calls < MOST_CALLS
            try:
                publish(hub, key)
            except RecursionError:
                if not swallow:
                    raise

        return listen

    def count(key: Key[Any], message: Any) -> None:
        nonlocal innocent
        innocent += 1

    for key, following in zip(keys, keys[1:] + keys[:1], strict=True):
        for _ in range(2):
            hub.add_listener(key, to(following))
    hub.add_listener("a", count)
    lower(levels, lambda: publish(hub, "a"))
    assert innocent > 10
    # What else was to be delivered at the outer levels is delivered, and afterwards all is as before.
    before, innocent = innocent, 0
    other: list[Any] = []
    hub.add_listener("other", lambda key, message: other.append(message))
    assert hub.publish("other", 1) == 1
    assert other == [1]
    (line,) = messages_of(caplog)
    assert "maximum recursion depth" in line
    assert all(f"('{key}',)" in line for key in keys)
    assert calls > before


@pytest.mark.parametrize("levels", range(2))
@pytest.mark.parametrize("swallow", [False, True])
def test_a_cascade_of_ever_new_keys_ends_in_one_line(
    swallow: bool, levels: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    calls = 0

    def listen(key: Key[Any], message: Any) -> None:
        nonlocal calls
        calls += 1
        assert calls < MOST_CALLS
        try:
            hub.publish(("x", str(calls)))
        except RecursionError:
            if not swallow:
                raise

    hub.add_listener(("x", "*"), listen)
    hub.add_listener(("x", "*"), listen)
    lower(levels, lambda: hub.publish(("x", "0")))
    assert calls > 100
    hub.publish("other")
    (line,) = messages_of(caplog)
    assert "('x', '" in line


def test_a_circle_of_announcements_ends(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    calls = 0

    def listen(key: Key[Any], message: Any) -> None:
        nonlocal calls
        calls += 1
        assert calls < MOST_CALLS
        hub.add_listener(("x", str(calls)), lambda key, message: None)

    for _ in range(2):
        hub.add_listener(("Hub", "addedSubscriber", "*"), listen)
    hub.add_listener("a", lambda key, message: None)
    assert 1 <= len(messages_of(caplog)) < 10


def test_a_circle_over_two_hubs_ends_with_a_line_from_each(caplog: pytest.LogCaptureFixture) -> None:
    hubs = Hub(name="one"), Hub(name="two")
    calls = 0

    def to(hub: Hub) -> Callable[[Key[Any], Any], None]:
        def listen(key: Key[Any], message: Any) -> None:
            nonlocal calls
            calls += 1
            assert calls < MOST_CALLS
            hub.publish("a")

        return listen

    for _ in range(2):
        hubs[0].add_listener("a", to(hubs[1]))
        hubs[1].add_listener("a", to(hubs[0]))
    hubs[0].publish("a")
    for hub in hubs:
        hub.publish("other")
    assert len(messages_of(caplog)) == 2


async def test_a_circle_of_requests_ends_with_an_error_to_who_asks(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    def respond(key: Key[Any], message: Any) -> Any:
        return hub.request("a")

    hub.respond("a", respond)
    hub.respond("a", respond)
    with pytest.raises(Exception, match="recursion"):
        await hub.request("a")
    await asyncio.sleep(0)
    assert sum("recursion" in line for line in messages_of(caplog)) == 1


def test_a_listener_that_recurses_by_itself_hurts_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    seen: list[Any] = []

    def recurse(key: Key[Any], message: Any) -> None:
        recurse(key, message)

    def publish(key: Key[Any], message: Any) -> None:
        for number in range(3 * Circles.MOST_OVERRUNS):
            hub.publish("a", number)

    failing = hub.add_listener("a", recurse)
    hub.add_listener("a", lambda key, message: seen.append(message))
    hub.add_listener("b", publish)
    assert hub.publish("b") == 1
    assert seen == list(range(3 * Circles.MOST_OVERRUNS))
    assert failing.failed == len(seen) == len(messages_of(caplog))


def test_a_recursion_that_ends_in_time_is_nobodys_business(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    calls = 0

    def countdown(key: Key[Any], message: int) -> None:
        nonlocal calls
        calls += 1
        if message:
            hub.publish("a", message - 1)

    hub.add_listener("a", countdown)
    hub.add_listener("a", lambda key, message: None)
    for _ in range(40):
        hub.publish("a", 100)
    assert calls == 40 * 101
    assert hub.stats().published == calls
    assert messages_of(caplog) == []


def test_a_handler_that_publishes_what_it_logs_does_not_keep_a_circle_going() -> None:
    hub = Hub()
    logged: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hub.publish("log", record.getMessage())

    def listen(key: Key[Any], message: Any) -> None:
        hub.publish("a")

    hub.add_listener("a", listen)
    hub.add_listener("a", listen)
    hub.add_listener("log", lambda key, message: logged.append(message))
    handler = Handler()
    logging.getLogger("hubsub").addHandler(handler)
    try:
        hub.publish("a")
    finally:
        logging.getLogger("hubsub").removeHandler(handler)
    assert len(logged) == 1
