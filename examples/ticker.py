"""A ticker by server-sent events: a page with `EventSource` and nothing else, which resumes by itself.

`python examples/ticker.py --serve` serves the page at http://127.0.0.1:8000/. Without it a client reads two prices, is
cut, and goes on where it was. Needs `starlette`, `uvicorn` and `httpx2`.
"""

import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from hubsub import Hub
from hubsub.web import events, lifespan, listen

PRICES = [("price", "+")]
PAGE = Path(__file__).with_suffix(".html")

hub = Hub()


async def page(request: Request) -> FileResponse:
    return FileResponse(PAGE)


app = Starlette(routes=[Route("/", page), Route("/events", events(hub, PRICES))], lifespan=lifespan(hub))


@asynccontextmanager
async def trading(app: Starlette) -> AsyncIterator[None]:
    """Publish prices that rise and fall, until the server ends."""

    async def trade() -> None:
        prices = {"ACME": 100.0, "GLOB": 40.0, "HUBS": 12.5, "WAYN": 310.0}
        while True:
            name = random.choice(list(prices))
            prices[name] *= random.uniform(0.985, 1.0165)
            hub.publish(("price", name), round(prices[name], 2))
            await asyncio.sleep(0.1)

    async with lifespan(hub)(app):
        task = asyncio.create_task(trade())
        yield
        task.cancel()


async def read(url: str, last: str = "") -> AsyncGenerator[tuple[str, Any], None]:
    """Yield the id of each event, from which a client goes on, and its data. The first one says that the line is open."""
    async with httpx2.AsyncClient() as http, http.stream("GET", url, headers={"Last-Event-ID": last}) as stream:
        async for line in stream.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                last = value
            elif field == "data":
                yield last, json.loads(value)


async def main() -> None:
    with listen() as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/events?pattern=price/ACME&pattern=price/HUBS"

        async with aclosing(read(url)) as client:
            last, _ = await anext(client)
            for name, price in (("ACME", 99.5), ("GLOB", 41.25), ("HUBS", 12.75)):
                hub.publish(("price", name), price)
            for _ in range(2):
                last, message = await anext(client)
                print(message["key"][1], message["data"])

        print("cut, and back")
        hub.publish(("price", "HUBS"), 13.0)
        async with aclosing(read(url, last)) as client:
            last, message = await anext(client)
            print(message["key"][1], message["data"])

        server.should_exit = True
        await serving


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        app.router.lifespan_context = trading
        uvicorn.run(app, port=8000)
    else:
        asyncio.run(main())

# Output:
# ACME 99.5
# HUBS 12.75
# cut, and back
# HUBS 13.0
