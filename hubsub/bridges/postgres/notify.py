"""PostgreSQL by LISTEN and NOTIFY: messages reach whoever listens at that moment, and are kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...key import NAMESPACE, PLUS, STAR, Key
from ..adapter import Adapter, Features, Link, Loss, Received, Record
from ..urls import Option
from .database import Database
from .frames import LONGEST, MOST_BYTES
from .traffic import Traffic

LONGEST_NAME = 63
OWN_FOR = 60.0
"""Seconds in which a server may still send on what was left in a connection that is lost."""


def _channel(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name.encode()) <= LONGEST_NAME or "\0" in name:
        raise ValueError
    if name in (NAMESPACE, STAR, PLUS):
        raise ValueError
    return name


OWN = {"channel": Option("a name of 1 to 63 bytes, and neither Hub, * nor +", _channel, several=True)}


class PostgresAdapter(Adapter):
    """LISTEN and NOTIFY through two connections, one that listens and one that notifies.

    Args:
        url: `postgres://user:password@host:5432/database`; options in its query.
        channel: A channel of other programs, or several. What is published to `Key("chat")` goes to the channel `chat`
            as it stands, and what they send there is received under that key. For bridges with `envelope=False`.
        options: `host`, `user`, `password`, `ssl` (an `ssl.SSLContext`) and so on; those of libpq by their names there.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: There is no one address, or an option does not exist or is for the bridge to decide.
        ValueError: The URL or an option makes no sense.
    """

    features = Features(order="all", confirms="received", max_payload=MOST_BYTES)

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._database = Database(type(self).__name__, url, options, OWN)
        self._channels: tuple[str, ...] = self._database.own.get("channel", ())
        if self._channels:
            self.features = replace(self.features, max_payload=LONGEST)
        self._pids: dict[int, float] = {}  # of our own backends that notify, and until when
        self._line: Traffic | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database!r}{''.join(f' channel={name}' for name in self._channels)}>"

    def features_for(self, link: Link) -> Features:
        if not link.namespace and not self._channels:
            raise ValueError("without a namespace name the channels: postgres://...?channel=chat&channel=news")
        return self.features

    async def connect(self, link: Link) -> None:
        now = time.monotonic()
        self._pids = {pid: min(end, now + OWN_FOR) for pid, end in self._pids.items() if end > now}
        self._line = Traffic(self._database, link, self._channels, self._pids)
        await self._line.begin()

    def _connected(self) -> Traffic:
        if self._line is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._line

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self._connected().listen_to(keys)

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
        # What the parent process notifies of is not our own any more.
        self._pids, self._line = {}, None

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of its connections."""
        return 0 if self._line is None else self._line.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it listens."""
        return None if self._line is None else self._line.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it notifies."""
        return None if self._line is None else self._line.sending
