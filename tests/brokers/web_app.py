"""An endpoint in a process of its own: `python web_app.py PORT '{"redis": url, "limits": {...}}'`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import uvicorn  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.routing import Mount, Route, WebSocketRoute  # noqa: E402

from hubsub import Bridge, Hub  # noqa: E402
from hubsub.web import Limits, endpoint, lifespan, listen, publishing  # noqa: E402


async def ready(request: object) -> PlainTextResponse:
    return PlainTextResponse("ready")


def app_of(options: dict[str, object]) -> Starlette:
    hub = Hub(name="server")
    limits = Limits(**options.get("limits", {}))  # type: ignore[arg-type]
    bridges = [Bridge(hub, str(options["redis"]), both=["*"])] if "redis" in options else []
    hub.respond(("double", "+", "at the server"), lambda key, number: 2 * number)
    return Starlette(
        routes=[
            WebSocketRoute("/ws", endpoint(hub, outgoing="*", incoming="*", limits=limits)),
            Mount("/publish", app=publishing(hub, incoming="*", limits=limits)),  # type: ignore[arg-type]
            Route("/ready", ready),
        ],
        lifespan=lifespan(hub, *bridges),
    )


def main() -> None:
    port, options = int(sys.argv[1]), json.loads(sys.argv[2])
    config = uvicorn.Config(
        app_of(options),
        ws=options.get("ws", "websockets-sansio"),
        ws_max_size=1 << 26,
        # The endpoint pings, too. uvicorn disconnects a client whose pong waits for 20 s behind what it sends.
        ws_ping_interval=None,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listen("127.0.0.1", port)])


if __name__ == "__main__":
    main()
