"""What an endpoint has sent lately, for clients that come back; and what it can promise them."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..event import Gap, Meta
from ..key import Key, is_subset
from .protocol import Position

# Digits of an id that count; see `_core.ids`.
_COUNTING = 10
_DIGITS = 26

# Origins that are remembered; of more, the one that was silent longest is forgotten.
MOST_ORIGINS = 256

# What crosses a bridge may arrive so much later than what was published here, seconds.
SKEW = 5.0


class Entry(NamedTuple):
    """A message as it was sent, or a gap among messages."""

    number: int
    """In the order in which the endpoint had it."""
    time: float
    key: Key[Any] | None
    origin: str | None
    sequence: int
    frame: bytes
    gap: Gap | None = None


def place_of(meta: Meta | None) -> tuple[str, int] | None:
    """The origin of a message, and its number there; None for a name that does not count."""
    if meta is None or meta.id is None or meta.source is None or len(meta.id) != _DIGITS:
        return None
    try:
        return meta.source, int(meta.id[:_COUNTING], 16) + 1
    except ValueError:
        return None


class Journal:
    """The last messages of an endpoint, in the order in which it had them.

    A client says the highest number that it has seen of each origin. From that follows what it missed only where the
    journal has all of an origin since then, in the order of the numbers. What proves otherwise makes it say no:

    - it is younger than the client's number, or has pushed out something behind it;
    - a message without a countable name came since;
    - an origin's messages came out of order, as those of a broker that keeps the order of a key only.

    Args:
        messages: The most that are kept.
        size: Bytes of them.
        age: Seconds that they are kept.
    """

    def __init__(self, messages: int, size: int, age: float) -> None:
        self._most = messages
        self._size = size
        self._age = age
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._first = 1
        self._next = 1
        # The highest number of each origin, the one silent longest first.
        self._last: OrderedDict[str, int] = OrderedDict()
        # Of each origin, the number of the entry from which on all its messages are here, by its last one before that.
        self._begins: dict[str, int] = {}
        # Origins whose messages came out of order, by the number of the last entry that did.
        self._unordered: dict[str, int] = {}
        self._nameless = 0  # number of the last entry without a countable name

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> Position:
        """The highest number of each origin."""
        return dict(self._last)

    def know(self, origin: str, number: int = 0) -> None:
        """This origin has published nothing that is not known of, up to that number."""
        if origin not in self._last:
            self._last[origin] = number
            self._begins[origin] = number
            if len(self._last) > MOST_ORIGINS:
                forgotten, _ = self._last.popitem(last=False)
                self._begins.pop(forgotten, None)
                self._unordered.pop(forgotten, None)

    def append(self, key: Key[Any], place: tuple[str, int] | None, frame: bytes) -> None:
        """Keep a message."""
        now = time.time()
        number = self._next
        self._next += 1
        origin, sequence = (None, 0) if place is None else place
        if origin is None:
            self._nameless = number
        else:
            last = self._last.get(origin)
            if last is None:
                # Whether there was anything before it, nobody here knows.
                self.know(origin, sequence - 1)
                self._last[origin] = sequence
            elif sequence > last:
                self._last[origin] = sequence
                self._last.move_to_end(origin)
            else:
                self._unordered[origin] = number
        self._entries.append(Entry(number, now, key, origin, sequence, frame))
        self._bytes += len(frame)
        self._push_out(now)

    def miss(self, gap: Gap) -> None:
        """Messages are missing here."""
        now = time.time()
        self._entries.append(Entry(self._next, now, None, None, 0, b"", gap))
        self._next += 1
        self._push_out(now)

    def _push_out(self, now: float) -> None:
        entries = self._entries
        while entries and (len(entries) > self._most or self._bytes > self._size or entries[0].time < now - self._age):
            oldest = entries.popleft()
            self._first = oldest.number + 1
            self._bytes -= len(oldest.frame)
            if oldest.origin is not None:
                self._begins[oldest.origin] = max(self._begins.get(oldest.origin, 0), oldest.sequence)

    def since(self, seen: Position, patterns: Iterable[Sequence[str]]) -> list[Entry] | None:
        """What a client that has seen so much missed of some patterns, in order; None if nobody can know."""
        self._push_out(time.time())
        named = [tuple(pattern) for pattern in patterns]
        known = self._known(seen)
        if known is None:
            return None
        start = self._start(known)
        if any(number >= start for number in (self._nameless, *self._unordered.values())):
            return None
        entries = self._entries
        first = start - self._first
        # Of an origin that was not known there: all that came while the client was away, and a little before.
        since = (entries[first].time if first < len(entries) else time.time()) - SKEW
        begin = first
        while begin and entries[begin - 1].time >= since:
            begin -= 1
        missed = []
        for entry in islice(entries, begin, None):
            if entry.key is None:
                if entry.number >= start:
                    missed.append(entry)
            elif entry.sequence > known.get(entry.origin or "", 0) and any(
                is_subset(entry.key, pattern) for pattern in named
            ):
                missed.append(entry)
        return missed

    def keys_since(self, seen: Position, patterns: Iterable[Sequence[str]]) -> list[Key[Any]]:
        """The keys of what `since` returns."""
        return [entry.key for entry in self.since(seen, patterns) or () if entry.key is not None]

    def _known(self, seen: Position) -> Position | None:
        """Those of the numbers from which on everything is here; None if something is not, or if there are none."""
        known = {}
        for origin, number in seen.items():
            begins = self._begins.get(origin)
            if begins is not None and begins <= number <= self._last[origin]:
                known[origin] = number
            elif number:
                return None
        return known or None

    def _start(self, known: Position) -> int:
        """The number of the first entry that is behind one of these numbers."""
        start = self._next
        left = {origin for origin, number in known.items() if self._last[origin] > number}
        for entry in reversed(self._entries):
            if not left:
                break
            if entry.origin in left:
                if entry.sequence > known[entry.origin]:
                    start = entry.number
                else:
                    left.discard(entry.origin)
        return start
