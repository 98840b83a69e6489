"""A real server on the loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from hubsub.testing.conformance import until
from hubsub.web import listen


@asynccontextmanager
async def served(app: Any, ws: str = "websockets-sansio", *, port: int = 0, **options: Any) -> AsyncIterator[str]:
    with listen(port=port) as listening:
        server = uvicorn.Server(uvicorn.Config(app, ws=ws, log_level="warning", **options))
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        await until(lambda: server.started or task.done(), "the server to start")
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, 20)
