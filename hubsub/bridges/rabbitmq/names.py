"""How things of a link are called at RabbitMQ: exchanges, queues, and keys as routing keys."""

from __future__ import annotations

import re
from typing import Any

from ...key import Key
from ..adapter import Link
from ..address import Addresses
from .frames import MOST_NAME

# No control characters, and no halves of surrogate pairs.
_BEYOND = r"\xa0-\ud7ff\ue000-\U0010ffff"
_IN_NAMES = Addresses(":", allowed=rf"\x20-9;-~{_BEYOND}", empty="%")
RECREATED = "recreated"
"""The routing key by which bridges learn that the exchange was made anew, without their bindings."""
ANYONE = "anyone"
"""The routing key of dead letters that go back to all that have neither group nor name."""


class Names:
    """The names for a link.

    Args:
        link: The link.
        exchange: The exchange, if it is not named after the namespace.

    Raises:
        ValueError: There is no exchange, or a name is too long.
    """

    def __init__(self, link: Link, exchange: str | None) -> None:
        if not link.namespace and exchange is None:
            raise ValueError("without a namespace, name the exchange: amqp://host?exchange=amq.topic")
        escape = _IN_NAMES.escape
        self.exchange = exchange or escape(link.namespace)
        """The topic exchange to which everything is published."""
        # Exchanges and queues of our own may not be named as RabbitMQ's own are.
        base = f"hubsub:{self.exchange}" if self.exchange.startswith("amq.") else self.exchange
        prefix = ""
        if exchange is not None and link.namespace:
            base, prefix = f"{base}:{escape(link.namespace)}", f"{_Words('', False).escape(link.namespace)}."
        self.control = f"{base}:control"
        """The direct exchange of control messages."""
        self.dead = f"{base}:dead"
        """The exchange of dead letters, and the stream that keeps them."""
        self.delay = f"{base}:delay"
        """How the names of the exchanges and queues of delayed messages begin."""
        self.lock = f"{base}:lock"
        """The queue that exists while a bridge creates the exchange."""
        self._base = base
        self._prefix = prefix
        self.queue = self.queue_of(link.reader) or f"{base}:{link.sender}"
        """The queue that is read."""
        foreign = not link.namespace
        self._words = _Words(prefix, foreign)
        # A routing key without any text has no words, and no pattern matches it but "#".
        self._word = self._words if prefix else _Words(prefix, foreign, empty="%")
        longest = max(len(name.encode()) for name in (self.queue + ":bound", self.exchange, self.control))
        if longest > MOST_NAME:
            raise ValueError(f"namespace and group or name are too long for RabbitMQ: {longest} of {MOST_NAME} bytes")

    def queue_of(self, reader: str) -> str | None:
        """Return the queue of a reader, in the form of `Link.reader`; None for one with neither group nor name."""
        kind, _, name = reader.partition(":")
        return f"{self._base}:{kind}:{_IN_NAMES.escape(name)}" if kind else None

    def address(self, key: Key[Any]) -> str:
        """Return the routing key of an exact key."""
        return (self._words if len(key) > 1 else self._word).address(key)

    def key(self, address: str) -> Key[Any] | None:
        """Return the key of a routing key; None if it belongs to another namespace."""
        return (self._words if "." in address else self._word).key(address)

    def pattern(self, key: Key[Any]) -> str:
        """Return the binding key of a key or pattern."""
        return (self._words if len(key) > 1 else self._word).pattern(key, "*", "*.#")


class _Words(Addresses):
    """The words of routing keys: `#` and `*` have a meaning as whole words only."""

    def __init__(self, prefix: str, foreign: bool, empty: str = "") -> None:
        # All but the separator, "#" and "*".
        allowed = rf"\x20-\x22\x24-\x29\x2b-\x2d/-~{_BEYOND}"
        super().__init__(".", allowed=allowed, empty=empty, prefix=prefix, foreign=foreign)
        self._forbidden = re.compile(rf"^[#*]$|[^\x20-\x2d/-~{_BEYOND}]")
