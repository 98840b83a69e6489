"""The pages of the demo and of the examples, in a real browser."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
import websockets
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from hubsub import Hub
from hubsub.web import plain

from .browsers import ROOT, chromium
from .test_frameworks import served

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("chromium"), pytest.mark.timeout(120)]


@asynccontextmanager
async def shown(browser: Any, address: str, **options: Any) -> AsyncIterator[Any]:
    """A tab with a page of which nothing fails."""
    tab = await browser.new_page(**options)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on(
        "console", lambda line: errors.append(line.text) if line.type == "error" and "404" not in line.text else None
    )
    await tab.goto(address, wait_until="commit")
    yield tab
    assert errors == []
    await tab.close()


async def text_comes(tab: Any, text: str) -> None:
    # Not by a function to wait for: the page of the demo lets nobody evaluate one.
    await tab.locator("body", has_text=text).wait_for(timeout=20_000)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 390)])
async def test_page_of_the_demo_shows_what_is_published_in_its_panels(scheme: str, width: int) -> None:
    from hubsub.cli.demo_web import Page

    page = Page(0)
    async with chromium() as browser, Hub() as hub, page.served(hub):
        hub.publish(("host", "cpu", "percent"), 12.5)
        hub.publish(("peer", "elsewhere", "42", "host", "cpu", "percent"), 33.3)
        options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
        async with shown(browser, page.address, **options) as tab:
            await text_comes(tab, "live")
            # What was published before it came is shown, too.
            await text_comes(tab, "12.5%")
            await text_comes(tab, "processor 33.3 %")
            hub.publish(("host", "process", "42"), ("a worker", 61.5, 1_500_000))
            hub.publish(("host", "cpu", "0", "percent"), 71.5)
            hub.publish(("rate", "net", "eth0", "bytes_sent"), 2_500.0)
            hub.publish(("alert", "host", "cpu", "percent"), "up from 3 %")
            hub.publish(("host", "hub", "published"), 1234)
            for text in ("a worker", "61.5 %", "1.5 MB", "71.5 %", "2.5 kB/s", "up from 3 %", "1,234"):
                await text_comes(tab, text)
            hub.publish(("host", "process", "42"), None)
            await tab.get_by_text("a worker").wait_for(state="detached", timeout=20_000)
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width


async def test_page_of_the_ticker_shows_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "examples")])
    ticker = import_module("ticker")
    async with chromium() as browser, served(ticker.app) as address, shown(browser, f"http://{address}/") as tab:
        await text_comes(tab, "live")
        ticker.hub.publish(("price", "ACME"), 99.5)
        ticker.hub.publish(("price", "ACME"), 98.25)
        await text_comes(tab, "98.25")
        await text_comes(tab, "-1.3 %")


async def test_page_of_the_chat_room_shows_what_another_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "examples")])
    room = import_module("chat_room")
    async with chromium() as browser, served(room.app) as address:
        url = f"http://{address}/#lobby"
        async with shown(browser, url) as one, shown(browser, url) as other:
            await text_comes(one, "open")
            await one.fill("#name", "ann")
            await one.fill("#text", "anybody there?")
            await one.click("button")
            await text_comes(other, "anybody there?")
            # Whoever comes later reads it, too.
            async with shown(browser, url) as late:
                await text_comes(late, "anybody there?")


CHAT = """<!DOCTYPE html>
<title>chat</title>
<link rel="icon" href="data:,">
<form id="form"><input id="input"></form>
<ul id="messages"></ul>
<script>
  const socket = new WebSocket(`ws://${location.host}/chat/tea`);
  socket.onopen = () => document.title = "open";
  socket.onmessage = ({ data }) => {
    const item = document.createElement("li");
    item.textContent = data;
    document.getElementById("messages").append(item);
  };
  document.getElementById("form").onsubmit = (event) => {
    event.preventDefault();
    socket.send(document.getElementById("input").value);
  };
</script>"""


@pytest.mark.parametrize("by", ["function", "class"])
async def test_a_chat_without_a_protocol_joins_a_page_and_a_bare_client(by: str) -> None:
    hub = Hub()
    keys: dict[str, Any] = {"send": ("chat", "{room}"), "receive": ("chat", "{room}")}

    async def chat(websocket: WebSocket) -> None:
        await plain(websocket, hub, **keys)

    class Chat(WebSocketEndpoint):
        async def dispatch(self) -> None:
            await plain(WebSocket(self.scope, self.receive, self.send), hub, **keys)

    async def home(request: Request) -> HTMLResponse:
        return HTMLResponse(CHAT)

    route: Any = chat if by == "function" else Chat
    app = Starlette(routes=[Route("/", home), WebSocketRoute("/chat/{room}", route)])
    async with (
        served(app) as host,
        websockets.connect(f"ws://{host}/chat/tea") as bare,
        websockets.connect(f"ws://{host}/chat/coffee") as elsewhere,
        chromium() as browser,
        shown(browser, f"http://{host}/") as tab,
    ):
        await tab.wait_for_function("document.title === 'open'")
        await bare.send("from the bare client")
        assert await bare.recv() == "from the bare client"
        await text_comes(tab, "from the bare client")
        await tab.fill("#input", "from the page")
        await tab.press("#input", "Enter")
        assert await bare.recv() == "from the page"
        await text_comes(tab, "from the page")
        await elsewhere.send("other room")
        assert await elsewhere.recv() == "other room"
