"""MQTT: messages reach the bridges that are subscribed at that moment; one with a name also gets them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...key import Key
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from .options import Server
from .session import Session

MOST = 255 * 1024 * 1024
"""The most bytes of a message; a packet may have slightly more."""


class MQTTAdapter(Adapter):
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
        self._session: Session | None = None
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

    # Connecting

    async def connect(self, link: Link) -> None:
        self._session = Session(self._server, link, is_durable=self._keeps(link), was_there=self._was_there)
        try:
            await self._session.open()
        except BaseException:
            await self._session.close(goodbye=False)
            raise
        self._was_there = self._keeps(link)

    def _connected(self) -> Session:
        if self._session is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._session

    async def ping(self) -> None:
        await self._connected().ping()

    async def lost(self) -> None:
        if self._session is not None:
            await self._session.close(goodbye=False)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close(goodbye=True)

    def forget(self) -> None:
        self._session = None

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of its connections."""
        return 0 if self._session is None else sum(connection.moved for connection in self._session.connections)

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it reads; or while much is sent, behind which its beat waits."""
        session = self._session
        if session is None or session.reader is None or session.sender is None:
            return None
        return session.reader.received + session.sender.uploads

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it sends."""
        sender = None if self._session is None else self._session.sender
        return None if sender is None else sender.moved

    # Carrying

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self._connected().send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self._connected().receive()

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self._connected().listen(keys)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self._connected().subscribe(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self._connected().unsubscribe(patterns)

    async def ack(self, tokens: Sequence[Any]) -> None:
        self._connected().ack(max(tokens))

    async def bury(self, received: Received, why: str) -> Exception | None:
        return await self._connected().bury(received, why)
