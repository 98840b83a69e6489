"""The module in a real browser, on a line to which all happens that happens to lines, and in tabs likewise.

Each message carries a number: they come in order and once each, and where some are missing there is a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from brokers.proxy import Proxy
from hubsub import Hub
from hubsub.testing.conformance import until
from hubsub.web import Connection, Limits, Refused, endpoint, events, lifespan, script

from .background import Browser, background
from .browsers import ROOT, chromium, opened, page, seen
from .test_frameworks import served
from .test_module import identify

# One browser after the other: each has several processes, and they would keep the tests of other workers waiting.
pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("chromium"),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
]

ROOM = ("room", "*")
LISTEN = "() => { open_hub('/ws'); return listen([['room', '*']]); }"
SHARED = "() => { open_hub('/ws', { shared: true }); return listen([['room', '*']]); }"


class World:
    """A server behind a line that can be harmed, and a browser."""

    def __init__(self, hub: Hub, app: Any, proxy: Proxy, context: Any, direct: str) -> None:
        self.hub = hub
        self.app = app
        self.proxy = proxy
        self.context = context
        self.direct = direct
        self.numbers = count()
        self.published = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    async def tab(self, script: str = LISTEN) -> Any:
        return await opened(self.context, self.address, script)

    def publish(self, times: int = 1) -> None:
        for _ in range(times):
            self.hub.publish(("room", "1"), next(self.numbers))
        self.published += times

    async def all_came(self, tab: Any) -> None:
        """Everything that was published has come to a tab, in order, once each, without a gap."""
        await seen(tab, f"got.length >= {self.published}", "all messages")
        assert await tab.evaluate("got") == [*range(self.published)]
        assert await tab.evaluate("gaps") == []


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Any]:
    """One browser for all tests; each has a profile of its own."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def tabs() -> AsyncIterator[Browser]:
    """A browser that can freeze its tabs."""
    async with background() as browser:
        yield browser


@asynccontextmanager
async def world(browser: Any, limits: Limits = Limits(), **options: Any) -> AsyncIterator[World]:  # noqa: B008 - immutable
    hub = Hub()
    app = endpoint(hub, outgoing=[ROOM], incoming=[ROOM], limits=limits, **options)
    routes = [
        Route("/", page),
        Route("/hubsub.js", script),
        Route("/events", events(hub, [ROOM])),
        WebSocketRoute("/ws", app),
    ]
    async with (
        served(Starlette(routes=routes, lifespan=lifespan(hub))) as direct,
        Proxy(int(direct.rpartition(":")[2])) as proxy,
    ):
        context = await browser.new_context()
        yield World(hub, app, proxy, context, direct)
        await context.close()


async def test_a_cut_line_costs_nothing(browser: Any) -> None:
    async with world(browser) as each:
        tab = await each.tab()
        for _ in range(3):
            each.publish(20)
            await seen(tab, f"got.length >= {each.published - 10}", "some messages")
            states = await tab.evaluate("states.length")
            each.publish(20)
            each.proxy.cut()
            each.publish(20)
            await seen(tab, f"states.length >= {states} + 2 && hub.state === 'open'", "the connection")
            each.publish(20)
            await each.all_came(tab)


async def test_a_line_that_stalls_is_given_up_and_costs_nothing(browser: Any) -> None:
    async with world(browser, Limits(ping_seconds=0.5)) as each:
        tab = await each.tab()
        each.publish(5)
        await each.all_came(tab)
        each.proxy.stall()
        each.publish(5)
        await seen(tab, "hub.state === 'connecting'", "the client to notice the silence")
        each.publish(5)
        each.proxy.resume()
        await seen(tab, "hub.state === 'open'", "the connection")
        each.publish(5)
        await each.all_came(tab)


SERVER = """
import sys, uvicorn
sys.path.insert(0, sys.argv[1])
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from hubsub import Hub
from hubsub.web import endpoint, lifespan, listen, publishing, script
from web.browsers import page
hub = Hub()
app = Starlette(routes=[
    Route("/", page), Route("/hubsub.js", script),
    WebSocketRoute("/ws", endpoint(hub, outgoing=["*"])), Mount("/publish", publishing(hub, ["*"])),
], lifespan=lifespan(hub))
with listen(port=int(sys.argv[2])) as listening:
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio")).run(sockets=[listening])
"""


@asynccontextmanager
async def process(port: int = 0) -> AsyncIterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-W", "ignore", "-c", SERVER, str(Path(__file__).parent.parent), str(port)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: ASYNC220 - there at once
    assert running.stdout is not None
    try:
        port = int(await asyncio.to_thread(running.stdout.readline))
        yield f"127.0.0.1:{port}", running
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


async def test_a_server_that_is_killed_is_a_gap_once(browser: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient())

        async def publish(*numbers: int) -> None:
            for number in numbers:
                answer = await http.post(f"http://{address}/publish/room/1", json=number)
                assert answer.status_code == 202

        async with process() as (address, running):
            proxy = await stack.enter_async_context(Proxy(int(address.rpartition(":")[2])))
            tab = await opened(await browser.new_context(), f"127.0.0.1:{proxy.port}", LISTEN)
            await publish(1, 2)
            await seen(tab, "got.length === 2", "both")
            running.kill()
            await seen(tab, "hub.state === 'connecting'", "the end")
        async with process(proxy.target) as (address, _):
            await publish(3)
            await seen(tab, "hub.state === 'open' && gaps.length === 1", "a gap")
            await publish(4)
            await seen(tab, "got.includes(4)", "what comes after the gap")
            # The next time it is only the line, to a server that knows the client.
            proxy.cut()
            await publish(5)
            await seen(tab, "got.includes(5)", "what was missed")
            got, gaps = await tab.evaluate("[got, gaps]")
        assert [number for number in got if number != 3] == [1, 2, 4, 5]
        assert gaps == ["not resumed"]


async def test_a_hidden_tab_keeps_its_line(tabs: Browser) -> None:
    async with world(tabs, Limits(ping_seconds=0.5, silent_seconds=2)) as each:
        tab = await each.tab()
        [before] = each.app.connections
        await tab.hide()
        await tab.evaluate("() => { window.ticks = 0; setInterval(() => ticks++, 100); }")
        # Once a second, however often it wants to.
        await tab.wait_for_function("ticks >= 4")
        each.publish(5)
        await each.all_came(tab)
        assert [*each.app.connections] == [before]


async def test_a_frozen_tab_resumes(tabs: Browser) -> None:
    # The browser itself cuts the line of a tab that it freezes.
    async with world(tabs) as each:
        tab = await each.tab()
        for _ in range(2):
            each.publish(5)
            await each.all_came(tab)
            await tab.freeze()
            each.publish(300)
            await tab.thaw()
            await each.all_came(tab)


async def test_a_tab_that_was_frozen_until_the_server_gave_it_up_resumes(tabs: Browser) -> None:
    async with world(tabs, Limits(ping_seconds=0.5, silent_seconds=1)) as each:
        tab = await each.tab()
        each.publish(5)
        await each.all_came(tab)
        await tab.freeze()
        await until(lambda: not each.app.connections, "the server to give the tab up")
        each.publish(300)
        await tab.thaw()
        await each.all_came(tab)


async def test_what_is_published_offline_is_sent_in_order_once_each(browser: Any) -> None:
    async with world(browser) as each:
        received: list[Any] = []
        each.hub.add_listener(("room", "up"), lambda key, message: received.append(message))
        tab = await each.tab()
        await each.context.set_offline(True)
        each.proxy.cut()
        await seen(tab, "hub.state === 'connecting'", "the end")
        each.publish(5)
        await tab.evaluate(
            "() => { window.answers = Promise.all([...Array(50).keys()].map((n) => hub.publish(['room', 'up'], n))); }"
        )
        await each.context.set_offline(False)
        counts = await tab.evaluate("answers")
        assert received == [*range(50)]
        assert counts == [2] * 50
        assert await tab.evaluate("got.filter((each, index) => index < 5)") == [*range(5)]
        assert await tab.evaluate("gaps") == []


async def test_an_expired_token_is_replaced_and_costs_nothing(browser: Any) -> None:
    tokens: list[str] = []

    def identify(connection: Connection) -> str:
        if connection.token is None or connection.token in tokens:
            raise Refused(401)
        tokens.append(connection.token)
        connection.expires = time.time() + 0.5
        return "ann"

    async with world(browser, identify=identify) as each:
        tab = await each.tab(
            "() => { let n = 0; open_hub('/ws', { token: () => `token ${++n}` }); return listen([['room', '*']]); }"
        )
        while len(tokens) < 3:
            each.publish()
            await asyncio.sleep(0.05)
        await seen(tab, "hub.state === 'open'", "the connection")
        await each.all_came(tab)
        assert tokens[:3] == ["token 1", "token 2", "token 3"]
        assert await tab.evaluate("errors") == []


async def test_an_event_source_resumes_by_itself(browser: Any) -> None:
    async with world(browser) as each:
        tab = await each.tab(
            """() => {
              window.hub = window.errors = null;
              window.got = [];
              window.gaps = [];
              window.states = [];
              const source = new EventSource("/events?pattern=room/*");
              source.onmessage = ({ data }) => got.push(JSON.parse(data).data);
              source.addEventListener("gap", ({ data }) => gaps.push(JSON.parse(data).reason));
              source.addEventListener("open", ({ data }) => data && states.push("open"));
            }"""
        )
        await seen(tab, "states.length === 1", "the stream")
        each.proxy.cut()
        each.publish(5)
        await each.all_came(tab)
        each.proxy.cut()
        each.publish(5)
        await each.all_came(tab)


async def test_the_examples_of_the_page_do_what_they_say(browser: Any) -> None:
    text = (ROOT / "docs" / "web" / "browser.md").read_text(encoding="utf-8")
    examples = "\n".join(re.findall(r"^```js\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    expected = re.findall(r"// logs: (.*)$", examples, re.MULTILINE)
    hub = Hub()
    hub.retain(ROOM)
    patterns: list[Any] = [ROOM, ("math", "*")]
    routes = [
        Route("/", page),
        Route("/hubsub.js", script),
        Route("/token", lambda request: PlainTextResponse("right")),
        WebSocketRoute("/ws", endpoint(hub, outgoing=patterns, incoming=patterns)),
        WebSocketRoute("/private", endpoint(hub, outgoing=patterns, identify=identify)),
    ]
    async with served(Starlette(routes=routes, lifespan=lifespan(hub))) as address:
        tab = await opened(await browser.new_context(), address)
        logged: list[str] = []
        tab.on("console", lambda message: logged.append(message.text))
        tab.on("pageerror", lambda error: logged.append(str(error)))
        await tab.add_script_tag(content=f"{examples}\nconsole.log('the end');", type="module")
        await until(lambda: "the end" in logged, lambda: f"the examples to end: {logged}")
    assert logged == [*expected, "the end"]


# Tabs that share a connection


async def crash(tab: Any) -> None:
    """Kill the process of a tab, which may be that of others and of the shared worker, too."""
    session = await tab.context.new_cdp_session(tab)
    crashed = asyncio.Event()
    tab.on("crash", lambda _: crashed.set())
    sending = asyncio.ensure_future(session.send("Page.crash"))
    await asyncio.wait_for(crashed.wait(), 10)
    sending.cancel()
    await asyncio.wait({sending})


def subscriptions(each: World) -> int:
    """Subscriptions and responders of all connections."""
    return sum(
        len(session.commands.subscriptions) + len(session.commands._responders)
        for session in each.app._clients.values()
    )


async def test_ten_tabs_share_one_connection(browser: Any) -> None:
    async with world(browser) as each:
        tabs = [await each.tab(SHARED) for _ in range(10)]
        assert len(each.app.connections) == 1
        each.publish(20)
        for tab in tabs:
            await each.all_came(tab)
        each.proxy.cut()
        each.publish(20)
        for tab in tabs:
            await each.all_came(tab)
            assert await tab.evaluate("hub.state") == "open"
        assert len(each.app.connections) == 1
        assert subscriptions(each) == 10

        first, second, third = tabs[:3]
        # Each for itself: what one publishes, asks, responds to and is refused.
        await first.evaluate("hub.respond([['room', 'double']], async ({ data }) => data * 2).ready")
        assert await second.evaluate("hub.request(['room', 'double'], 21)") == 42
        assert await third.evaluate("hub.subscribe([['secret']]).ready.catch((error) => error.code)") == "forbidden"
        assert [await tab.evaluate("errors.length") for tab in tabs[:3]] == [0, 0, 1]
        assert await third.evaluate("hub.publish(['room', 'x'], 'last')") == 1
        for tab in tabs:
            await seen(tab, "got.at(-1) === 'last'", "what another tab published")

        # One that closes, one that leaves, one that is killed.
        await second.close()
        await third.evaluate("hub.close()")
        await until(lambda: subscriptions(each) == 9, "those of two tabs to be gone")
        await crash(first)
        await until(lambda: subscriptions(each) == 7, "those of the killed tab to be gone, and the others there")
        each.publish()
        for tab in tabs[3:]:
            await seen(tab, f"got.at(-1) === {each.published - 1}", "what comes after that")
            got, gaps = await tab.evaluate("[got, gaps]")
            # The worker may have lived in the process of the tab that was killed; then there was a gap.
            assert got == [*range(40), 21, "last", 40]
            assert gaps in ([], ["not resumed"])
        assert len(each.app.connections) == 1
        for tab in tabs[3:]:
            await tab.evaluate("hub.close()")
        await until(lambda: not each.app.connections, "the connection to be gone with the last tab")


async def test_a_frozen_tab_loses_its_subscriptions_to_a_gap_and_the_others_nothing(tabs: Browser) -> None:
    async with world(tabs) as each:
        awake, frozen = await each.tab(SHARED), await each.tab(SHARED)
        await frozen.evaluate("hub.respond([['room', 'double']], ({ data }) => data * 2).ready")
        await frozen.freeze()
        await until(lambda: subscriptions(each) == 2, "the frozen tab to respond no longer")
        for _ in range(110):
            each.publish(100)
            await seen(awake, f"got.length >= {each.published - 500}", "the one that is awake")
        await each.all_came(awake)
        await until(lambda: subscriptions(each) == 1, "the frozen tab to have no subscription")
        await frozen.thaw()
        await until(lambda: subscriptions(each) == 3, "the tab to be there again")
        each.publish(5)
        await seen(frozen, f"got.at(-1) === {each.published - 1}", "what comes after the gap")
        got, gaps = await frozen.evaluate("[got, gaps]")
        assert gaps == ["not read"]
        assert got == sorted(set(got))
        assert got[:1000] == [*range(1000)]
        await each.all_came(awake)
        assert await awake.evaluate("hub.request(['room', 'double'], 21)") == 42


async def test_a_frozen_tab_that_wakes_in_time_has_missed_nothing(tabs: Browser) -> None:
    async with world(tabs) as each:
        frozen, awake = await each.tab(SHARED), await each.tab(SHARED)
        await frozen.freeze()
        each.publish(500)
        await each.all_came(awake)
        await frozen.thaw()
        await each.all_came(frozen)


async def test_tabs_that_share_ask_one_that_is_awake_for_a_token(tabs: Browser) -> None:
    tokens: list[Any] = []

    def identify(connection: Connection) -> str:
        if connection.token is None:
            raise Refused(401)
        tokens.append(json.loads(connection.token))
        return "ann"

    async with world(tabs, identify=identify) as each:
        shared = "(n) => { open_hub('/ws', { shared: true, token: () => `${n}` }); return listen([['room', '*']]); }"
        three = []
        for number in range(3):
            three.append(await each.tab(""))
            await three[-1].evaluate(shared, number)
        assert tokens == [0]
        await three[2].freeze()
        each.proxy.cut()
        await until(lambda: len(tokens) == 2, "a token")
        assert tokens == [0, 1]
        each.publish(5)
        for tab in three[:2]:
            await each.all_came(tab)


async def test_a_page_that_was_left_and_is_shown_again_is_subscribed_again(browser: Any) -> None:
    async with world(browser) as each:
        other, tab = await each.tab(SHARED), await each.tab(SHARED)
        each.publish(5)
        await each.all_came(tab)
        await tab.goto(f"http://{each.address}/hubsub.js")
        await until(lambda: subscriptions(each) == 1, "the page that was left to have no subscription")
        each.publish(5)
        await tab.go_back()
        await tab.wait_for_function("window.is_loaded")
        if not await tab.evaluate("window.got !== undefined"):
            # The browser did not keep the page: it is a new one.
            await tab.evaluate(SHARED)
            before = []
        else:
            before = [*range(5)]
            await seen(tab, "gaps.length === 1", "the gap")
        await until(lambda: subscriptions(each) == 2, "it to be subscribed again")
        each.publish()
        await seen(tab, "got.at(-1) === 10", "what comes after that")
        assert await tab.evaluate("got") == [*before, 10]
        await each.all_came(other)
