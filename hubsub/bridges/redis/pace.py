"""How much to ask for at a time, so that a slow line delivers it soon."""

from __future__ import annotations

SECONDS = 0.5
"""In which what is asked for is to come."""
FIRST_BYTES = 1 << 14
FIRST_SIZE = 1 << 12
MOST_BYTES = 4 << 20
MOST_ENTRIES = 500


class Pace:
    """What the line carries in about half a second, as it has shown so far: few entries at first, then more."""

    __slots__ = ("_bytes", "_each")

    def __init__(self) -> None:
        self._bytes = FIRST_BYTES
        self._each = FIRST_SIZE  # bytes of an entry

    def count(self, most: int) -> int:
        """How many entries to ask for; at least one, and no more than `most` otherwise."""
        return max(1, min(most, MOST_ENTRIES, self._bytes // self._each))

    def note(self, entries: int, size: int, seconds: float) -> None:
        """So many entries were so many bytes, and so long on their way from the first byte to the last."""
        if not entries:
            return
        # One that is much larger than those before it is not forgotten at once.
        self._each = max(100, size // entries, self._each // 2)
        if seconds > SECONDS:
            self._bytes = max(FIRST_BYTES, int(size * SECONDS / seconds))
        elif 2 * size >= self._bytes:
            self._bytes = min(MOST_BYTES, 2 * self._bytes)
