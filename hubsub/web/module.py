"""The module for browsers and its types, as files that are served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .stream import Receive, Send

NAME = "hubsub.js"
TYPES = "hubsub.d.ts"

_KINDS = {NAME: b"text/javascript; charset=utf-8", TYPES: b"text/plain; charset=utf-8"}


def is_file(path: str) -> bool:
    """True if a request's path is that of the module or of its types, wherever they are mounted."""
    return path.rpartition("/")[2] in _KINDS


class Script:
    """What `script` is: an ASGI application, and no function, which routes of frameworks would call with a request."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI says: `hubsub.d.ts` to a path of that name, `hubsub.js` to any other."""
        name = TYPES if scope["path"].endswith(TYPES) else NAME
        data = (Path(__file__).parent / name).read_bytes()
        tag = b'"%b"' % hashlib.sha256(data).hexdigest()[:16].encode()
        headers = [(b"etag", tag), (b"cache-control", b"no-cache"), (b"content-type", _KINDS[name])]
        asked = dict(scope["headers"]).get(b"if-none-match", b"")
        if tag in asked:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers.append((b"content-length", str(len(data)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data if scope["method"] == "GET" else b""})


script = Script()
"""Serves the module for browsers, as in `Route("/hubsub.js", script)`, and its types at `/hubsub.d.ts`."""
