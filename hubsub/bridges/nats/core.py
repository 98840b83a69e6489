"""Core NATS: messages reach the clients that are subscribed at that moment, and are not stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..adapter import Features, Link
from ..lines import LineAdapter
from .server import Server
from .traffic import Traffic

HEADROOM = 1024
"""Bytes that the lines of headers take beside their names and values."""


class NatsAdapter(LineAdapter[Traffic]):
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def features_for(self, link: Link) -> Features:
        return replace(self.features, order="none" if link.group else "all")

    def line(self, link: Link) -> Traffic:
        return Traffic(self._server, link)
