"""What is most likely a mistake: a line in debug mode, and in explanations."""

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from test_queue import settled

from hubsub import Bridge, Hub, Key, Subscriber
from hubsub._core.hints import meant_by

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
async def debug_hub() -> Any:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05
    async with Hub(drain=0.1) as hub:
        yield hub


# Patterns that can match nothing


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        (("order.*",), ("order", "*")),
        (("sensor/+/x",), ("sensor", "+", "x")),
        (("site", "sensor/+/x"), ("site", "sensor", "+", "x")),
        (("a:*",), ("a", "*")),
        (("a/#",), ("a", "*")),
        (("a.>",), ("a", "*")),
        (("a", "#"), ("a", "*")),
        (("a", "**"), ("a", "*")),
        (("a", ">"), ("a", "*")),
        (("#", "a"), None),
        (("#general",), None),
        (("order", "*"), None),
        (("a.b",), None),
        (("c++",), None),
        (("*",), None),
        (("a+b.c",), None),
        (("https://x/*",), None),
        ((r"a.\*",), None),
    ],
)
def test_a_part_that_reads_like_a_pattern_is_known(pattern: tuple[str, ...], meant: tuple[str, ...] | None) -> None:
    assert meant_by(pattern) == meant


@pytest.mark.parametrize("how", ["on", "subscribe", "subscriber", "respond", "both", "incoming", "outgoing"])
async def test_a_pattern_that_can_match_nothing_is_named_once_in_debug_mode(
    debug_hub: Hub, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = debug_hub
    for _ in range(2):
        if how == "on":
            hub.on("order.*")(lambda key, message: None)
        elif how == "subscribe":
            hub.subscribe(["other", "order.*"])
        elif how == "subscriber":
            Subscriber(hub, "s").subscribe("order.*")
        elif how == "respond":
            hub.respond("order.*", lambda key, message: None)
        else:
            Bridge(hub, "memory://hints", **{how: "order.*"})  # type: ignore[arg-type]
    line = "('order.*',) matches only itself; as a pattern write ('order', '*')"
    assert caplog.text.count(line) == 1


async def test_what_is_there_when_the_hub_is_bound_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().set_debug(True)
    hub = Hub()
    hub.add_listener("sensor/+/x", print)
    bridge = Bridge(hub, "memory://hints", both="order.*")
    assert caplog.text == ""
    async with hub:
        for meant in ("('sensor', '+', 'x')", "('order', '*')"):
            assert caplog.text.count(f"as a pattern write {meant}") == 1
    await bridge.close()


async def test_nothing_is_said_without_debug_mode(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    if asyncio.get_running_loop().get_debug():
        pytest.skip("it is debug mode")
    hub.add_listener("order.*", lambda key, message: time.sleep(0.15))
    hub.publish("order.*")
    assert caplog.text == ""


def test_an_explanation_names_a_pattern_that_can_match_nothing(loopless: Hub) -> None:
    loopless.add_listener("order.*", print)
    text = str(loopless.explain(("order", "created")))
    assert "leads to no subscription" in text
    assert "note: somebody has subscribed, but ('order.*',) matches only itself" in text
    assert "as a pattern write ('order', '*')" in str(loopless.explain("order.*"))
    assert loopless.explain(("invoice", "created")).hints == ()


# Nobody handles it


async def test_a_publisher_that_waits_for_nobody_is_named_in_debug_mode(
    debug_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = debug_hub.subscribe("a", maxsize=1)
    debug_hub.publish("a")
    waiting = [asyncio.create_task(debug_hub.publish_wait("a")) for _ in range(2)]
    await settled()
    assert caplog.text.count("which nobody has read yet") == 1
    assert "publish_wait waits for room in it" in str(debug_hub.explain("a"))
    for _ in range(3):
        await subscription.consume()
    await asyncio.gather(*waiting)
    assert debug_hub.explain("a").hints == ()


async def test_waiting_for_somebody_who_reads_is_no_mistake(debug_hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    subscription = debug_hub.subscribe("a", maxsize=1)
    debug_hub.publish("a")
    await subscription.consume()
    debug_hub.publish("a")
    waiting = asyncio.create_task(debug_hub.publish_wait("a"))
    await settled()
    assert "nobody" not in caplog.text
    await subscription.consume()
    await waiting


def test_an_explanation_says_that_messages_wait_for_a_loop() -> None:
    hub = Hub()

    @hub.on("a")
    async def work(key: Key[Any], message: Any) -> None: ...

    assert hub.explain("a").hints == ()
    hub.publish("a")
    assert "its messages wait for an event loop, and none has run yet" in str(hub.explain("a"))
    asyncio.run(hub.start())


def test_an_async_listener_without_a_loop_is_named_once_where_python_is_in_development_mode() -> None:
    program = """
        from hubsub import Hub

        hub = Hub()

        @hub.on("a")
        async def work(key, message): ...

        @hub.on("order.*")
        async def other(key, message): ...

        for _ in range(3):
            hub.publish("a")
    """
    for arguments, number in ((["-X", "dev"], 1), ([], 0)):
        done = subprocess.run(
            [sys.executable, *arguments, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0
        assert done.stderr.count("has messages for async listeners, but no event loop") == number
        assert done.stderr.count("as a pattern write ('order', '*')") == number


# The loop waits


async def test_a_sync_listener_that_keeps_the_loop_waiting_is_named_in_debug_mode(
    debug_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(key: Key[Any], seconds: float) -> None:
        time.sleep(seconds)

    listener = debug_hub.add_listener("a", slow)
    debug_hub.publish("a", 0)
    assert "blocked the event loop" not in caplog.text
    debug_hub.publish("a", 0.06)
    debug_hub.publish("a", 0.06)
    name = f"{test_a_sync_listener_that_keeps_the_loop_waiting_is_named_in_debug_mode.__name__}.<locals>.slow"
    lines = [line for line in caplog.text.splitlines() if "blocked the event loop" in line]
    assert lines
    assert all(f"listener {name}" in line for line in lines)
    assert "it blocked the event loop for up to" in str(debug_hub.explain("a"))
    assert listener.failed == 0


async def test_a_timed_listener_that_fails_has_failed(debug_hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    def fail(key: Key[Any], message: Any) -> None:
        raise ValueError(message)

    one = debug_hub.add_listener("a", fail)
    two = debug_hub.add_listener("a", fail)
    debug_hub.publish("a", 1)
    assert (one.failed, two.failed) == (1, 1)


async def test_a_timed_listener_that_is_removed_in_the_middle_is_not_called(debug_hub: Hub) -> None:
    seen: list[Any] = []
    debug_hub.add_listener("a", lambda key, message: late.remove() and None)
    late = debug_hub.add_listener("a", lambda key, message: seen.append(message))
    debug_hub.publish("a", 1)
    assert seen == []


async def test_a_list_that_was_meant_as_a_key_is_named_once_in_debug_mode_and_in_an_explanation(
    debug_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub = debug_hub
    subscription = hub.subscribe(["order", "created"])
    hub.subscribe(["one", "two", ("three", "four")])
    for _ in range(2):
        assert hub.publish(("order", "created"), 1) == 0
        assert hub.publish(("created", "order"), 1) == 0
        assert hub.publish(("one", "two"), 1) == 0
        assert hub.publish("order") == 1
    line = "a list names several patterns, ['order', 'created']; one pattern is a tuple, ('order', 'created')"
    assert caplog.text.count("a list names") == caplog.text.count(f"('order', 'created') leads to nobody: {line}") == 1
    assert hub.explain(("order", "created")).hints == (f"somebody has subscribed to its parts: {line}",)
    assert hub.explain(("created", "order")).hints == ()
    subscription.close()
    assert hub.explain(("order", "created")).hints == ()
