"""The module for browsers, as a file that is served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .stream import Receive, Send

NAME = "hubsub.js"


class Script:
    """What `script` is: an ASGI application, and no function, which routes of frameworks take for something else."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI says."""
        data = (Path(__file__).parent / NAME).read_bytes()
        tag = b'"%b"' % hashlib.sha256(data).hexdigest()[:16].encode()
        headers = [
            (b"etag", tag),
            (b"cache-control", b"no-cache"),
            (b"content-type", b"text/javascript; charset=utf-8"),
        ]
        asked = dict(scope["headers"]).get(b"if-none-match", b"")
        if tag in asked:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers.append((b"content-length", str(len(data)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data if scope["method"] == "GET" else b""})


script = Script()
"""Serves the module for browsers, as in `Route("/hubsub.js", script)`."""
