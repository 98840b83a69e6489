"""`postgres://`: messages by LISTEN and NOTIFY reach those who listen at that moment, and are not stored."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ...key import NAMESPACE, PLUS, STAR
from ..adapter import Features, Link
from ..lines import LineAdapter
from ..urls import Option
from .database import Database
from .frames import LONGEST, MOST_BYTES
from .traffic import Traffic

LONGEST_NAME = 63
OWN_FOR = 60.0
"""Seconds after the loss of a connection in which the server may still deliver what was sent over it."""


def _channel(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name.encode()) <= LONGEST_NAME or "\0" in name:
        raise ValueError
    if name in (NAMESPACE, STAR, PLUS):
        raise ValueError
    return name


OWN = {"channel": Option("a name of 1 to 63 bytes, and neither Hub, * nor +", _channel, several=True)}


class PostgresAdapter(LineAdapter[Traffic]):
    """LISTEN and NOTIFY over two connections: one listens, the other notifies.

    Args:
        url: `postgres://user:password@host:5432/database`; options in its query.
        channel: A channel of other programs, or several. A message published to `Key("chat")` goes to the channel
            `chat` unchanged, and notifications of that channel are received under that key. For bridges with
            `envelope=False`.
        options: `host`, `user`, `password`, `ssl` (an `ssl.SSLContext`) and so on, with the names of libpq.

    Raises:
        MissingDriver: asyncpg is not installed.
        TypeError: No address is given, or two are; or an option does not exist, or the bridge sets it.
        ValueError: The URL or an option is invalid.
    """

    features = Features(order="all", confirms="received", max_payload=MOST_BYTES)

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._database = Database(type(self).__name__, url, options, OWN)
        self._channels: tuple[str, ...] = self._database.own.get("channel", ())
        if self._channels:
            self.features = replace(self.features, max_payload=LONGEST)
        self._pids: dict[int, float] = {}  # process ids of our own backends, and until when they may notify

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database!r}{''.join(f' channel={name}' for name in self._channels)}>"

    def features_for(self, link: Link) -> Features:
        if not link.namespace and not self._channels:
            raise ValueError("a bridge without a namespace needs channels: postgres://...?channel=chat&channel=news")
        return self.features

    def line(self, link: Link) -> Traffic:
        now = time.monotonic()
        self._pids = {pid: min(end, now + OWN_FOR) for pid, end in self._pids.items() if end > now}
        return Traffic(self._database, link, self._channels, self._pids)

    def forget(self) -> None:
        super().forget()
        self._pids = {}  # notifications of the parent process are no longer our own
