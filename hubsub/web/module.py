"""The module for browsers, as a file that is served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .stream import Receive, Send

NAME = "hubsub.js"


async def script(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Serve the module for browsers: an ASGI application, as in `Route("/hubsub.js", script)`."""
    data = (Path(__file__).parent / NAME).read_bytes()
    tag = b'"%b"' % hashlib.sha256(data).hexdigest()[:16].encode()
    headers = [(b"etag", tag), (b"cache-control", b"no-cache"), (b"content-type", b"text/javascript; charset=utf-8")]
    asked = dict(scope["headers"]).get(b"if-none-match", b"")
    if tag in asked:
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    headers.append((b"content-length", str(len(data)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data if scope["method"] == "GET" else b""})
