"""An endpoint of `hubsub.web` as a broker: the Python client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from ...key import Key
from ..adapter import Features, Link
from ..lines import LineAdapter
from .flow import Position
from .line import SocketLine
from .options import Endpoint, Token


class WebSocketAdapter(LineAdapter[SocketLine]):
    """A client of a WebSocket endpoint that speaks `hubsub.v1`.

    Messages of the endpoint's hub are received here, and messages published here are published there. A lost connection
    costs nothing if the endpoint still has what was missed; otherwise there is a gap. Requests go both ways.

    Args:
        url: `wss://user:password@host:443/path?option=value`, or `ws://` without TLS. Several hosts are
            tried in turn. Other options in the query are passed on to the endpoint.
        token: Identifies the client: text, or a sync or async function that returns it, called for each connection.
        headers: HTTP headers of the request that opens the connection.
        snapshot: Begin with the last message of each key that the endpoint retains, again after a gap.
        max_size: The most bytes of a received frame; 16 MiB by default.
        compression: "deflate" or "none", by default none.
        proxy: The URL of a proxy; None for no proxy; by default the system's.
        ssl_context: For TLS, instead of the files.
        ssl_ca_certs: The file of trusted authorities.
        ssl_certfile: The file of the client's certificate.
        ssl_keyfile: The file of its key.

    Raises:
        MissingDriver: websockets or msgspec is not installed.
        TypeError: An option does not exist, is given twice, or needs TLS.
        ValueError: The URL or an option is invalid.
    """

    features = Features(
        order="all",
        confirms="received",
        resumes=True,
        patterns=True,
        responders=True,
        finishes=True,
        verbatim=False,
        headers=True,
    )

    def __init__(self, url: str, *, token: Token | None = None, **options: Any) -> None:
        given = options if token is None else {"token": token, **options}
        self._endpoint = Endpoint(type(self).__name__, url, given)
        self._position = Position()
        self._ids = count(1)
        self._back_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._endpoint!r}>"

    def line(self, link: Link) -> SocketLine:
        return SocketLine(self._endpoint, link, self._position, self._ids)

    async def connect(self, link: Link) -> None:
        # The endpoint has said when to come back.
        await asyncio.sleep(max(0.0, self._back_at - time.monotonic()))
        await super().connect(link)

    async def lost(self) -> None:
        if self._line is not None:
            self._back_at = time.monotonic() + self._line.away
        await super().lost()

    async def close(self) -> None:
        await super().close()
        self._position.forget()

    def forget(self) -> None:
        super().forget()
        self._position = Position()

    @property
    def refused_patterns(self) -> Mapping[Key[Any], Exception]:  # type: ignore[override]
        """The patterns that the endpoint refuses, each with the error."""
        return {} if self._line is None else self._line.refused

    async def respond(self, patterns: Sequence[Key[Any]]) -> None:
        await self.connected().respond(patterns)

    async def unrespond(self, patterns: Sequence[Key[Any]]) -> None:
        await self.connected().unrespond(patterns)
