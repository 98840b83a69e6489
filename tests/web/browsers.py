"""A headless Chromium for tests, and the page that it shows them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PAGE = """<!DOCTYPE html>
<title>test</title>
<link rel="icon" href="data:,">
<script type="module">
  import { Hub } from "/hubsub.js";
  window.Hub = Hub;
  window.open_hub = (url, options = {}) => {
    const hub = window.hub = new Hub(url, options);
    window.got = [];
    window.gaps = [];
    window.states = [];
    window.errors = [];
    hub.addEventListener("gap", ({ detail }) => gaps.push(detail.gap.reason));
    hub.addEventListener("state", ({ detail }) => states.push(detail));
    hub.addEventListener("error", ({ detail }) => errors.push(`${detail.code}: ${detail.message}`));
    return hub;
  };
  window.listen = async (patterns, options) => {
    await hub.subscribe(patterns, ({ data }) => got.push(data), options).ready;
  };
  window.is_loaded = true;
</script>"""


def cannot_run(reason: str) -> NoReturn:
    """Skip the test; fail it where nothing may be skipped."""
    if os.environ.get("HUBSUB_REQUIRE_ALL") == "1":
        pytest.fail(f"nothing may be skipped: {reason}", pytrace=False)
    pytest.skip(reason)


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE)


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A browser with a profile of its own, as playwright has it."""
    if CHROMIUM is None:
        cannot_run("Chromium is not installed: apt-get install chromium")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        cannot_run("playwright is not installed: pip install playwright")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


async def opened(context: Any, address: str, script: str = "") -> Any:
    """A tab that shows the page, and has run a script."""
    tab = await context.new_page()
    await tab.goto(f"http://{address}/")
    await tab.wait_for_function("window.is_loaded")
    if script:
        await tab.evaluate(script)
    return tab


async def seen(tab: Any, condition: str, what: str) -> None:
    """Wait until a condition is true in a tab."""
    try:
        await tab.wait_for_function(condition, timeout=20_000, polling=20)
    except Exception as error:
        state = await tab.evaluate("JSON.stringify([hub?.state, got.slice(-3), got.length, gaps, states, errors])")
        raise AssertionError(f"timed out waiting for {what}: {state}") from error


@asynccontextmanager
async def going_on(step: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Do something again and again, beside what the test does."""

    async def repeat() -> None:
        while True:
            await step()

    task = asyncio.ensure_future(repeat())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
