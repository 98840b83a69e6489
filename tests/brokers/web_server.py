"""An endpoint of `hubsub.web` under uvicorn, as the broker that it is to a Python client."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from .broker import Broker

SCRIPT = Path(__file__).parent / "web_app.py"
# What a test sends in a second, and no browser ever would.
NO_LIMITS = {
    "frame_bytes": 1 << 26,
    "publishes_per_second": 1e6,
    "publish_burst": 1_000_000,
    "connections_per_address": 0,
    "queue_messages": 1_000_000,
    "queue_bytes": 1 << 28,
    "log_messages": 200_000,
    "log_bytes": 1 << 28,
    "not_reading_seconds": 60.0,
    # A frame is heard when it is whole, and over a narrow line that takes long.
    "silent_seconds": 600.0,
    "headers_bytes": 1 << 20,
}


class WebServer(Broker):
    """A worker with a hub and an endpoint for everything, both ways.

    Args:
        redis: The URL of a Redis that joins it to others.
        limits: Of the endpoint; by default none that a test could feel.
        ws: How uvicorn speaks WebSocket.
    """

    name = "web"

    def __init__(
        self, *, redis: str | None = None, limits: dict[str, float] | None = None, ws: str = "websockets-sansio"
    ) -> None:
        super().__init__()
        self._options: dict[str, object] = {"limits": NO_LIMITS if limits is None else limits, "ws": ws}
        if redis is not None:
            self._options["redis"] = redis

    @classmethod
    def missing(cls) -> str | None:
        needed = [name for name in ("uvicorn", "starlette", "websockets", "msgspec") if find_spec(name) is None]
        return f"{', '.join(needed)} is not installed: pip install 'hubsub[test]'" if needed else None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def http(self) -> str:
        """Where it is asked by HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str | Path]:
        return [sys.executable, SCRIPT, str(self.port), json.dumps(self._options)]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
