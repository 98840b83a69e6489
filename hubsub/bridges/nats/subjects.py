"""Keys as subjects, and what becomes of requests and replies of NATS clients that are no hubs."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...key import NAMESPACE, Key
from ..address import Addresses, cached

ALLOWED = r"!-$&-)+-\-/-=?-~\x80-\ud7ff\ue000-\U0010ffff"
"""The characters of a token: neither wildcards nor what ends one, no control characters, no surrogates."""
FORBIDDEN = "".join(map(chr, range(0x21))) + "*>\x7f"
"""What of the others no server sends."""
LONGEST = 3500
"""Bytes of a subject and of where to reply, together: a command of the protocol has 4096."""
REPLY: Key[Any] = Key(NAMESPACE, "reply")
"""What the address of a reply begins with."""
FOREIGN: Key[Any] = REPLY + "nats"
"""Where a hub replies to clients that are none; the correlation is the subject."""


class Subjects:
    """Turns keys into subjects and back.

    Args:
        namespace: Their first token; may be empty.
    """

    def __init__(self, namespace: str) -> None:
        plain = partial(Addresses, ".", forbidden=FORBIDDEN, allowed=ALLOWED, empty="%", binary=True)
        prefix = f"{plain().escape(namespace)}." if namespace else ""
        self._addresses = plain(prefix=prefix, foreign=not namespace)
        self.subject = cached(self._subject)
        """The subject of an exact key."""
        self.key = cached(self._key)
        """The key of a subject."""

    def _subject(self, key: Key[Any]) -> bytes:
        return self._addresses.to_bytes(self._addresses.address(key))

    def _key(self, subject: bytes) -> Key[Any] | None:
        return self._addresses.key(self._addresses.to_text(subject))

    def pattern(self, pattern: Key[Any]) -> bytes:
        """What to subscribe to for a pattern: where that would be too long, more than it matches."""
        subject = self._addresses.to_bytes(self._addresses.pattern(pattern))
        if len(subject) > LONGEST:
            subject = subject[:LONGEST].rpartition(b".")[0] + b".>"
        return subject


_QUEUES = Addresses("\n", allowed=r"!-~\x80-\ud7ff\ue000-\U0010ffff", empty="%", foreign=True)


def queue_of(name: str) -> bytes:
    """The queue group of that name; what cannot stand in one is escaped."""
    return _QUEUES.escape(name).encode()
