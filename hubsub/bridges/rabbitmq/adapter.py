"""RabbitMQ: a topic exchange, with a queue for each group, name or bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...key import Key
from ..adapter import Adapter, Buried, Features, Link, Loss, Received, Record
from .options import Settings

if TYPE_CHECKING:
    from .letters import Letters
    from .line import Joined, Line
    from .names import Names


class RabbitMQAdapter(Adapter):
    """RabbitMQ by AMQP 0-9-1, through two connections: one reads, the other sends.

    Args:
        url: `amqp://user:password@host:5672/vhost`, or `amqps://` with TLS; of several hosts, with commas between them,
            each is tried in turn. Options may stand in its query.
        options: `exchange`, the topic exchange if it is not named like the namespace; `expires`, the seconds for which
            messages are kept for a bridge that is away and has neither group nor name, 600; `heartbeat`, the seconds
            between two signs of life, 10; `connection_name`; `user` and `password`; `ssl_context`, or `cafile`,
            `certfile` and `keyfile`.

    Raises:
        MissingDriver: pamqp is not installed.
        TypeError: There is no URL, or an option does not exist, or is given twice.
        ValueError: The URL or an option is invalid.
    """

    features = Features(
        order="all",
        confirms="stored",
        durable=True,
        acks="each",
        patterns=True,
        groups=True,
        names=True,
        dead_letters=True,
        delays=True,
        headers=True,
        max_payload=128 << 20,
    )

    def __init__(self, url: str, **options: Any) -> None:
        self._settings = Settings(type(self).__name__, url, options)
        self._line: Line | None = None
        self._names: Names | None = None
        self._reader = ""
        self._losses: list[Loss] = []
        self._joined: Joined = {}
        self._unroutable = 0

    def __repr__(self) -> str:
        exchange = self._settings.exchange
        return f"<{type(self).__name__} {self._settings!r}{'' if exchange is None else f' exchange={exchange}'}>"

    def features_for(self, link: Link) -> Features:
        self._named(link)
        return replace(self.features, order="none") if link.group is not None else self.features

    def _named(self, link: Link) -> Names:
        from .names import Names

        return Names(link, self._settings.exchange)

    # Connecting

    async def connect(self, link: Link) -> None:
        from .line import Line

        self._unroutable = self.unroutable
        self._names = self._named(link)
        self._reader = link.reader
        self._line = Line(self._settings, link, self._names, self._losses, self._joined)
        try:
            await self._line.open()
        except BaseException:
            await self._line.close(leave=False)
            raise

    def _connected(self) -> Line:
        if self._line is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._line

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self._connected().listen(keys)

    async def ping(self) -> None:
        await self._connected().ping()

    async def lost(self) -> None:
        if self._line is not None:
            await self._line.close(leave=False)

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close(leave=True)

    def forget(self) -> None:
        self._line = None

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of its connections."""
        line = self._line
        return 0 if line is None else sum(line.reading.moved) + sum(line.sending.moved)

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it reads."""
        return None if self._line is None else self._line.reading.moved[1]

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it sends."""
        return None if self._line is None else sum(self._line.sending.moved)

    @property
    def unroutable(self) -> int:  # type: ignore[override]
        """Messages that were confirmed, and that no queue wanted."""
        return self._unroutable + (0 if self._line is None else self._line.unroutable)

    # Carrying

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self._connected().send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self._connected().receive()

    async def ack(self, tokens: Sequence[Any]) -> None:
        await self._connected().acknowledge(tokens)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        await self._connected().give_back(tokens)

    async def bury(self, received: Received, why: str) -> Exception | None:
        return await self._letters().bury(received, why, self._reader)

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        return await self._letters().last(limit, before)

    async def redeliver(self, position: str) -> None:
        await self._letters().redeliver(position)

    def _letters(self) -> Letters:
        from .letters import Letters

        return Letters(self._connected())
