"""RabbitMQ: a topic exchange, with a queue for each group, name or bridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..adapter import Buried, Features, Link, Loss, Received
from ..lines import LineAdapter
from .options import Settings

if TYPE_CHECKING:
    from .letters import Letters
    from .line import AmqpLine, Joined
    from .names import Names


class RabbitMQAdapter(LineAdapter["AmqpLine"]):
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

    def line(self, link: Link) -> AmqpLine:
        from .line import AmqpLine

        self._unroutable = self.unroutable
        self._reader = link.reader
        return AmqpLine(self._settings, link, self._named(link), self._losses, self._joined)

    @property
    def unroutable(self) -> int:  # type: ignore[override]
        """Messages that were confirmed, and that no queue wanted."""
        return self._unroutable + (0 if self._line is None else self._line.unroutable)

    async def ack(self, tokens: Sequence[Any]) -> None:
        await self.connected().acknowledge(tokens)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        await self.connected().give_back(tokens)

    async def bury(self, received: Received, why: str) -> Exception | None:
        return await self._letters().bury(received, why, self._reader)

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        return await self._letters().last(limit, before)

    async def redeliver(self, position: str) -> None:
        await self._letters().redeliver(position)

    def _letters(self) -> Letters:
        from .letters import Letters

        return Letters(self.connected())
