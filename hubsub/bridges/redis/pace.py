"""How many entries to request at a time, so that a slow line delivers them soon."""

from __future__ import annotations

SECONDS = 0.5
"""Seconds within which the requested entries should arrive."""
FIRST_BYTES = 1 << 14
FIRST_SIZE = 1 << 12
MOST_BYTES = 4 << 20
MOST_ENTRIES = 500


class Pace:
    """Estimates how many entries the line carries in about half a second: few at first, then more."""

    __slots__ = ("_bytes", "_each")

    def __init__(self) -> None:
        self._bytes = FIRST_BYTES
        self._each = FIRST_SIZE  # bytes of an entry

    def count(self, most: int) -> int:
        """Return how many entries to request: at least one, and at most `most`."""
        return max(1, min(most, MOST_ENTRIES, self._bytes // self._each))

    def note(self, entries: int, size: int, seconds: float) -> None:
        """Note a reply: its entries, its size in bytes, and the seconds from its first byte to its last."""
        if not entries:
            return
        # A much larger entry raises the estimate at once, and lowers it again only slowly.
        self._each = max(100, size // entries, self._each // 2)
        if seconds > SECONDS:
            self._bytes = max(FIRST_BYTES, int(size * SECONDS / seconds))
        elif 2 * size >= self._bytes:
            self._bytes = min(MOST_BYTES, 2 * self._bytes)
