"""Core NATS: messages reach the clients that are subscribed at that moment, and are not stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...key import Key
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from .server import Server
from .traffic import Traffic

HEADROOM = 1024
"""Bytes that the lines of headers take beside their names and values."""


class NatsAdapter(Adapter):
    """Core NATS through two connections, one that receives and one that publishes.

    Args:
        url: `nats://user:password@host:4222`, `nats://token@host`, several hosts with commas between them, or `tls://`;
            options in its query.
        options: `user` and `password`, `token`, `user_credentials` (the path of a .creds file), `nkeys_seed` (that of a
            seed) or `nkeys_seed_str`; `tls` (an `ssl.SSLContext`), or `tls_ca`, `tls_cert` and `tls_key` (paths), and
            `tls_hostname`; `client_name`, `inbox_prefix`; `max_payload`, bytes, as the servers have it.

    Raises:
        MissingDriver: nats-py is not installed.
        TypeError: There is no address, or an option does not exist, is given twice, or is set by the bridge.
        ValueError: The URL or an option is invalid.
    """

    features = Features(order="all", confirms="received", patterns=True, groups=True, headers=True)

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._server = Server(type(self).__name__, url, options, {"nats": False, "tls": True})
        self.features = replace(self.features, max_payload=max(1, self._server.max_payload - HEADROOM))
        self._line: Traffic | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def features_for(self, link: Link) -> Features:
        return replace(self.features, order="none" if link.group else "all")

    async def connect(self, link: Link) -> None:
        self._line = line = Traffic(self._server, link)
        try:
            await line.open()
        except BaseException:
            await line.close()
            raise

    def _connected(self) -> Traffic:
        if self._line is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._line

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self._connected().listen(keys)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self._connected().subscribe(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self._connected().unsubscribe(patterns)

    async def ping(self) -> None:
        await self._connected().ping()

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self._connected().send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self._connected().receive()

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()

    def forget(self) -> None:
        self._line = None

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved."""
        return 0 if self._line is None else self._line.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it receives."""
        return None if self._line is None else self._line.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it publishes."""
        return None if self._line is None else self._line.sending
