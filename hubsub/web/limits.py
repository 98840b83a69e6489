"""What one client may ask of an endpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from .._core.checks import count, seconds

# Those that are counted; all others are times or rates.
_COUNTS_FROM_ZERO = frozenset(("connections_per_address", "history_messages"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of an endpoint. Beyond a limit it gets an error or a close code; nothing is logged.

    Raises:
        ValueError: A limit is not a number, or too small.
    """

    frame_bytes: int = 64 * 1024
    """Bytes of one frame, or of one request body."""
    depth: int = 32
    """How deeply the arrays and objects of one frame may be nested, the payload included."""
    key_parts: int = 16
    """Parts of a key."""
    part_characters: int = 256
    """Characters of a part of a key."""
    headers_bytes: int = 4096
    """Bytes of the headers of one message, names and values."""
    subscriptions: int = 100
    """Subscriptions and responders of one connection."""
    patterns: int = 500
    """Patterns of all of them together."""
    requests: int = 100
    """Unanswered requests of one connection, in each direction."""
    publishes_per_second: float = 100.0
    """Messages and requests of one connection a second, in the long run."""
    publish_burst: int = 200
    """Messages and requests at once, after a rest."""
    connections_per_address: int = 100
    """Connections of one address; 0 for no limit."""
    history_messages: int = 1000
    """The most that `history` of a subscription may ask for, for each key."""
    queue_messages: int = 1000
    """Messages that wait for one connection."""
    queue_bytes: int = 1024 * 1024
    """Bytes of them."""
    not_reading_seconds: float = 10.0
    """A client that reads nothing for so long is disconnected."""
    silent_seconds: float = 60.0
    """A client that sends nothing for so long, not even a pong, is disconnected."""
    ping_seconds: float = 25.0
    """After so long without anything from a client the endpoint sends a ping."""
    token_seconds: float = 10.0
    """How long the endpoint waits for the `hello` with a token."""
    batch_messages: int = 256
    """Messages that travel in one frame."""
    batch_bytes: int = 256 * 1024
    """Bytes of them; a larger message travels alone."""
    log_messages: int = 10_000
    """Messages that are kept for clients that come back."""
    log_bytes: int = 16 * 1024 * 1024
    """Bytes of them."""
    log_seconds: float = 300.0
    """How long they are kept."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                least = 0 if field.name in _COUNTS_FROM_ZERO else 1
                of = "bytes" if field.name.endswith("_bytes") else "things"
                count(value, field.name, of, least=least)
            else:
                seconds(value, field.name, zero=False)

    def fault_of_key(self, parts: Sequence[str]) -> str | None:
        """Return which limit a key or pattern exceeds; None if it exceeds none."""
        if not 0 < len(parts) <= self.key_parts:
            return f"a key must have 1 to {self.key_parts} parts"
        if any(len(part) > self.part_characters for part in parts):
            return f"a part of a key must have at most {self.part_characters} characters"
        return None

    def fault_of_headers(self, headers: Mapping[str, str]) -> str | None:
        """Return which limit headers exceed; None if they exceed none."""
        if sum(len(name) + len(value) for name, value in headers.items()) > self.headers_bytes:
            return f"headers must have at most {self.headers_bytes} bytes"
        return None


class Bucket:
    """Says whether one more is within a rate: so many at once, and so many a second after that."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._since = time.monotonic()

    def wait(self) -> float:
        """Take one, and return 0; or return in how many seconds there is one."""
        now = time.monotonic()
        self._left = min(float(self._burst), self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0
