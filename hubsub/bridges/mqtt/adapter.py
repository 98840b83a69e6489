"""MQTT: messages reach the bridges that are subscribed at that moment; one with a name also gets them later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..adapter import Features, Link, Received
from ..lines import LineAdapter
from .options import Server
from .session import Session

MOST = 255 * 1024 * 1024
"""The most bytes of a message; a packet may have slightly more."""


class MQTTAdapter(LineAdapter[Session]):
    """An MQTT 5 broker.

    Args:
        url: `mqtt://user:password@host:1883`, `mqtts://` with TLS; options in its query. Of several hosts, with commas
            between them, the first that can be reached is used.
        options: `qos` (0, 1 or 2), `retain` (patterns whose messages are published as retained), `will` (a key for the
            state of the bridge), `client_id`, `session` (seconds for which the broker keeps the messages of a name),
            `keep_alive` (seconds), `user`, `password`; `cafile`, `certfile`, `keyfile` or `ssl_context` for TLS.

    Raises:
        MissingDriver: mqtt5 is not installed.
        TypeError: There is no URL, or an option does not exist.
        ValueError: The URL or an option is invalid.
    """

    features = Features(
        order="all", confirms="received", patterns=True, groups=True, names=True, headers=True, max_payload=MOST
    )

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._server = Server(type(self).__name__, url, options)
        self._was_there = False  # a session at the broker

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def features_for(self, link: Link) -> Features:
        if link.namespace.startswith("$"):
            raise ValueError("a namespace that begins with $ is the broker's own: choose another one")
        if not self._keeps(link):
            return self.features
        if self._server.qos == 0:
            raise ValueError("with qos=0 a broker keeps nothing for a name: choose qos=1 or qos=2, or leave out name=")
        return replace(self.features, durable=True, acks="prefix")

    def _keeps(self, link: Link) -> bool:
        """True if the link has a session at the broker that outlives its connections."""
        return link.name is not None and bool(link.incoming)

    def line(self, link: Link) -> Session:
        return Session(self._server, link, is_durable=self._keeps(link), was_there=self._was_there)

    async def connect(self, link: Link) -> None:
        await super().connect(link)
        self._was_there = self._keeps(link)

    async def ack(self, tokens: Sequence[Any]) -> None:
        self.connected().ack(max(tokens))

    async def bury(self, received: Received, why: str) -> Exception | None:
        return await self.connected().bury(received, why)
