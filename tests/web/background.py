"""Tabs in the background, by the browser's own protocol.

playwright keeps every page visible, and a browser freezes only what is hidden.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from .browsers import CHROMIUM, FLAGS, cannot_run


class Tab:
    """As much of a page as `browsers` uses, with the same names."""

    def __init__(self, context: Context, target: str, session: str) -> None:
        self._context = context
        self._target = target
        self._session = session

    async def _call(self, method: str, **parameters: Any) -> Any:
        return await self._context.browser.call(method, self._session, **parameters)

    async def goto(self, address: str) -> None:
        await self._call("Page.navigate", url=address)

    async def evaluate(self, script: str, argument: Any = None) -> Any:
        """Evaluate an expression; if it is a function, call it."""
        call = f"(value => typeof value === 'function' ? value({json.dumps(argument)}) : value)({script})"
        answer = await self._call("Runtime.evaluate", expression=call, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_for_function(self, condition: str, timeout: float = 20_000, polling: int = 20) -> None:
        async with asyncio.timeout(timeout / 1000):
            while not await self.evaluate(f"() => {condition}"):  # noqa: ASYNC110 - the other side has no event
                await asyncio.sleep(polling / 1000)

    async def hide(self) -> None:
        """Hide it behind a new tab."""
        await self._context.new_page()
        await self.wait_for_function("document.visibilityState === 'hidden'")

    async def freeze(self) -> None:
        """Hide it, and stop it, as the browser does with tabs that nobody looks at."""
        await self.hide()
        await self._call("Page.setWebLifecycleState", state="frozen")

    async def thaw(self) -> None:
        """Let it go on, still hidden."""
        await self._call("Page.setWebLifecycleState", state="active")


class Context:
    """A profile."""

    def __init__(self, browser: Browser, id: str) -> None:
        self.browser = browser
        self._id = id

    async def new_page(self) -> Tab:
        """A tab in front of the others."""
        target = await self.browser.call("Target.createTarget", url="about:blank", browserContextId=self._id)
        session = await self.browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        await self.browser.call("Target.activateTarget", targetId=target["targetId"])
        return Tab(self, target["targetId"], session["sessionId"])

    async def close(self) -> None:
        await self.browser.call("Target.disposeBrowserContext", browserContextId=self._id)


class Browser:
    """A connection to the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}

    async def read(self) -> None:
        async for text in self._socket:
            answer = json.loads(text)
            future = self._open.pop(answer.get("id"), None)
            if future is not None and not future.done():
                future.set_result(answer)

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        future = self._open[number] = asyncio.get_running_loop().create_future()
        frame: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            frame["sessionId"] = session
        await self._socket.send(json.dumps(frame))
        answer = await asyncio.wait_for(future, 20)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    async def new_context(self) -> Context:
        answer = await self.call("Target.createBrowserContext")
        return Context(self, answer["browserContextId"])


@asynccontextmanager
async def background() -> AsyncIterator[Browser]:
    """A browser whose tabs are hidden where one is in front of them."""
    if CHROMIUM is None:
        cannot_run("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(  # noqa: ASYNC220 - there at once
            [CHROMIUM, "--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", *FLAGS],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            address = None
            while address is None:
                line = await asyncio.to_thread(process.stderr.readline)
                assert line, "the browser has ended"
                address = re.search(r"ws://\S+", line)
            async with websockets.connect(address.group(), max_size=None) as socket:
                browser = Browser(socket)
                reading = asyncio.ensure_future(browser.read())
                yield browser
                reading.cancel()
                await asyncio.wait({reading})
        finally:
            process.terminate()
            process.wait()
            process.stderr.close()
