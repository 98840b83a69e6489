"""Three ways of a message: server to client, client to client, and across instances of a server that a broker joins.

Two servers, each with a hub and an endpoint; a bridge joins them by a file of SQLite (`redis://localhost` does the same
for any number of machines). The clients are Python programs. Needs `starlette`, `uvicorn` and `websockets`.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

import hubsub
from hubsub import Hub
from hubsub.web import endpoint, lifespan, listen

KEYS = [("news", "+"), ("room", "+")]


@asynccontextmanager
async def instance(broker: str) -> AsyncIterator[tuple[Hub, str]]:
    """Run one server; yield its hub and its address."""
    hub = Hub()
    bridge = hubsub.Bridge(hub, broker, both=KEYS)
    app = Starlette(
        routes=[WebSocketRoute("/ws", endpoint(hub, outgoing=KEYS, incoming=KEYS))], lifespan=lifespan(hub, bridge)
    )
    with listen() as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        await bridge.ready()
        yield hub, f"ws://127.0.0.1:{listening.getsockname()[1]}/ws"
        server.should_exit = True
        await serving


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = f"sqlite://{Path(folder) / 'broker.db'}"
        async with (
            instance(broker) as (server, here),
            instance(broker) as (_, there),
            hubsub.connect(here, keys=KEYS) as ann,
            hubsub.connect(here, keys=KEYS) as bob,
            hubsub.connect(there, keys=KEYS) as eve,
        ):
            reading = {name: hub.subscribe(KEYS) for name, hub in (("ann", ann), ("bob", bob), ("eve", eve))}
            for hub in (ann, bob, eve):
                for bridge in hub.bridges:
                    await bridge.synced()

            for publish, key, text in (
                (server.publish, ("news", "weather"), "server to clients, of both instances"),
                (ann.publish, ("room", "1"), "client to clients, of both instances"),
            ):
                publish(key, text)
                for name, queue in reading.items():
                    print(f"{name} reads: {(await queue.consume())[1]}")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# ann reads: server to clients, of both instances
# bob reads: server to clients, of both instances
# eve reads: server to clients, of both instances
# ann reads: client to clients, of both instances
# bob reads: client to clients, of both instances
# eve reads: client to clients, of both instances
