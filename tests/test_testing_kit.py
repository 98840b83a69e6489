"""What `hubsub.testing` promises to the tests of others."""

import asyncio
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hubsub
from hubsub import Event, Hub, Key, Meta
from hubsub.testing import Recorder, settle

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ["pytester"]


async def do_nothing(key: Key[Any], message: Any) -> None: ...


# Recorder


def test_a_recorder_has_the_messages_and_events_in_order(loopless: Hub) -> None:
    with Recorder(loopless, ("a", "*")) as recorder:
        loopless.publish(("a", "x"), 1)
        loopless.publish("b", 2)
        loopless.publish_event(Event(Key("a", "y"), 3, Meta(id="3")))
    loopless.publish(("a", "x"), "after")
    assert recorder.messages == [1, 3]
    assert recorder.events == [(("a", "x"), 1), (("a", "y"), 3)]
    assert recorder.events[1].meta == Meta(id="3")
    recorder.clear()
    assert recorder.messages == []


async def test_wait_for_returns_when_so_many_were_received(hub: Hub) -> None:
    with Recorder(hub, "a") as recorder:
        asyncio.get_running_loop().call_later(0.01, hub.publish_many, [("a", 1), ("a", 2)])
        assert await recorder.wait_for(2) == [(("a",), 1), (("a",), 2)]
        assert await recorder.wait_for(1) == recorder.events


async def test_wait_for_counts_what_its_limit_let_go(hub: Hub) -> None:
    with Recorder(hub, "a", limit=1) as recorder:
        hub.publish_many([("a", 1), ("a", 2), ("a", 3)])
        assert await recorder.wait_for(3) == [(("a",), 3)]


async def test_waiting_in_vain_lists_what_was_received(hub: Hub) -> None:
    with Recorder(hub, [("a", "*"), "b"]) as recorder:
        hub.publish(("a", "x"), "one")
        with pytest.raises(AssertionError) as failure:
            await recorder.wait_for(2, timeout=0.01)
    assert str(failure.value).splitlines() == [
        "not 2 messages within 0.01 s",
        "received on ('a', '*'), ('b',): 1",
        "  ('a', 'x') 'one'",
    ]


def test_assert_received_asks_for_a_key_or_pattern_and_a_message(loopless: Hub) -> None:
    with Recorder(loopless, "*") as recorder:
        loopless.publish(("a", "x"), None)
        loopless.publish(("a", "y"), 2)
    recorder.assert_received(("a", "x"))
    recorder.assert_received(("a", "x"), None)
    recorder.assert_received(("a", "*"), 2)
    for expected in [(("a", "x"), 2), ("b",), (("a", "*"), 3)]:
        with pytest.raises(AssertionError, match=re.escape("('a', 'x') None")):
            recorder.assert_received(*expected)


def test_a_failed_assertion_says_what_was_expected_and_lists_the_last_that_came(loopless: Hub) -> None:
    with Recorder(loopless, "a") as recorder:
        with pytest.raises(AssertionError) as nothing:
            recorder.assert_received("a")
        for number in range(100):
            loopless.publish("a", number)
        with pytest.raises(AssertionError) as failure:
            recorder.assert_received("a", 100)
    assert str(nothing.value).splitlines() == ["expected a message of ('a',)", "received on ('a',): nothing"]
    lines = str(failure.value).splitlines()
    assert lines[:4] == ["expected 100 of ('a',)", "received on ('a',): 100", "  (50 before)", "  ('a',) 50"]
    assert lines[-1] == "  ('a',) 99"


def test_a_recorder_knows_how_many_each_message_was_routed_to(loopless: Hub) -> None:
    loopless.subscribe("a")
    with Recorder(loopless, "*") as recorder:
        loopless.publish("a")
        loopless.publish("b")
    assert [record.routed for record in recorder.tap.records] == [1, 0]


# settle


async def test_settle_waits_for_async_listeners_and_for_what_they_publish_onward(hub: Hub) -> None:
    seen: list[Any] = []

    async def onward(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0.01)
        hub.publish("b", message)

    async def last(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0.01)
        seen.append(message)

    hub.add_listener("b", last)
    hub.add_listener("a", onward)
    hub.publish_many([("a", 1), ("a", 2)])
    await settle(hub)
    assert seen == [1, 2]


async def test_settle_waits_for_queues_that_are_read(hub: Hub) -> None:
    seen: list[Any] = []

    async def read() -> None:
        async for event in hub.subscribe("a"):
            await asyncio.sleep(0.001)
            seen.append(event.message)

    reading = asyncio.create_task(read())
    await settle(hub)
    hub.publish_many(("a", number) for number in range(5))
    await settle(hub)
    assert len(seen) >= 4  # the last one was taken
    reading.cancel()
    await asyncio.wait([reading])


async def test_settle_does_not_wait_for_a_queue_that_nobody_reads(hub: Hub) -> None:
    subscription = hub.subscribe("a")
    hub.publish("a")
    await settle(hub, timeout=0)
    assert subscription.pending == 1


def test_settle_starts_what_waited_for_a_loop() -> None:
    hub = Hub()
    seen: list[Any] = []

    async def handle(key: Key[Any], message: Any) -> None:
        seen.append(message)

    hub.add_listener("a", handle)
    hub.publish("a", 1)

    async def main() -> None:
        await settle(hub)
        assert seen == [1]
        await hub.close()

    asyncio.run(main())


async def test_settle_leaves_a_closed_hub_closed(hub: Hub) -> None:
    await hub.close()
    await settle(hub)
    assert not hub.is_open


async def test_what_does_not_settle_in_time_is_named(hub: Hub) -> None:
    never = asyncio.Event()

    async def stuck(key: Key[Any], message: Any) -> None:
        await never.wait()

    hub.add_listener(("a", "*"), stuck)
    queue = hub.subscribe("b")
    hub.publish("b", 1)
    await queue.consume()
    hub.publish_many([("b", 2), (("a", "x"), 3), (("a", "x"), 4)])
    with pytest.raises(AssertionError) as failure:
        await settle(hub, timeout=0.01)
    assert str(failure.value).splitlines() == [
        "<Hub 'hub'> has not settled within 0.01 s; busy:",
        f"  <AsyncListener {stuck.__qualname__} on ('a', '*') pending=1>: 1 pending",
        "  <Subscription ('b',) pending=1>: 1 pending",
    ]
    never.set()
    await queue.consume()


# The plugin

LOOPS = {
    "asyncio": (
        "import pytest\npytestmark = pytest.mark.asyncio\n",
        ["-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function"],
    ),
    "anyio": (
        "import pytest\npytestmark = pytest.mark.anyio\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n",
        ["-p", "no:asyncio"],
    ),
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a test module of this text under an async plugin; return the result."""
    head, options = LOOPS[request.param]
    return lambda text: run_pytest(pytester, monkeypatch, head + text, *options)


def run_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, text: str, *options: str
) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest('pytest_plugins = ["hubsub.testing.plugin"]')
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess("-p", "no:logwood", "-W", "error", *options)


def test_the_plugin_gives_every_test_a_hub_of_its_own_under_either_async_plugin(run: Any) -> None:
    result = run("""
import asyncio
import hubsub
from hubsub.testing import Recorder, settle

seen = []

async def handle(key, message):
    await asyncio.sleep(0)
    seen.append(message)

@pytest.mark.parametrize("number", [1, 2])
async def test_async(hub, number):
    assert hub.stats().subscriptions == 0
    hub.add_listener("a", handle)  # left for the hub to end
    hub.subscribe("b")
    with Recorder(hub, "a") as recorder:
        hub.publish("a", number)
        await settle(hub)
    assert recorder.messages == [number]
    assert seen[-1] == number

async def test_closing(hub):
    async with hub:
        hub.add_listener("a", handle)
        hub.publish("a", 3)
    assert seen[-1] == 3
""")
    result.assert_outcomes(passed=3)


def test_a_hub_whose_test_ends_too_early_says_who_was_busy(run: Any) -> None:
    result = run("""
import asyncio

async def stuck(key, message):
    await asyncio.Event().wait()

async def test_too_early(hub):
    hub.add_listener(("a", "*"), stuck)
    hub.publish(("a", "x"))
    hub.publish(("a", "x"))
    await asyncio.sleep(0)
""")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*<AsyncListener stuck on ('a', '[*]') pending=1*>: 1 pending*"])


def test_a_test_that_failed_is_not_complained_of_twice(run: Any) -> None:
    result = run("""
import asyncio

async def stuck(key, message):
    await asyncio.Event().wait()

async def test_failing(hub):
    hub.add_listener("a", stuck)
    hub.publish("a")
    hub.publish("a")
    assert False, "this is what is to be read"
""")
    result.assert_outcomes(failed=1)


def test_the_plugin_needs_no_async_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
def test_sync(hub):
    seen = []
    hub.add_listener("a", lambda key, message: seen.append(message))
    assert hub.publish("a", 1) == 1
    assert seen == [1]

def test_what_subscribes_while_everything_is_removed(hub):
    hub.subscribe("a")
    hub.add_listener(("Hub", "removedSubscriber", "a"), lambda key, message: hub.subscribe("b"))
"""
    result = run_pytest(pytester, monkeypatch, text, "-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*registered while the hub was being cleared: ?('b',)?*"])


def test_the_example_of_the_page_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    *_, example = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    conftest, module = example.split("# test_shop.py\n")
    assert 'pytest_plugins = ["hubsub.testing.plugin"]' in conftest
    result = run_pytest(pytester, monkeypatch, module, "-o", "asyncio_mode=auto", *LOOPS["asyncio"][1])
    result.assert_outcomes(passed=2)


def test_pytest_is_needed_by_the_plugin_alone() -> None:
    code = "import sys; sys.modules['pytest'] = None; import hubsub.testing"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.once
def test_pytest_finds_the_plugin_by_itself_also_where_it_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parent.parent / "setup.cfg")
    site = pytester.mkdir("site")
    info = site / "found-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: found\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[pytest11]{settings['options.entry_points']['pytest11']}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(hubsub.__file__).parent.parent)]))
    pytester.makepyfile("def test_it(hub): assert hub.is_open")
    for conftest in ("", 'pytest_plugins = ["hubsub.testing.plugin"]'):
        pytester.makeconftest(conftest)
        pytester.runpytest_subprocess().assert_outcomes(passed=1)
