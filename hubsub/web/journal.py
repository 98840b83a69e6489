"""The messages that an endpoint has sent lately, and what a client that comes back missed of them."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from .._core.ids import COUNTED, is_unguessable
from ..event import Gap, Meta
from ..key import Key, is_subset
from .protocol import Position

# Beyond so many origins, the one that has been silent longest is forgotten.
MOST_ORIGINS = 256

# Seconds by which a message over a bridge may arrive later than one that was published here.
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
    if meta is None or meta.id is None or meta.source is None or not is_unguessable(meta.id):
        return None
    return meta.source, int(meta.id[: 2 * COUNTED], 16) + 1


def not_resumed() -> Gap:
    """The gap that a client gets if nobody can know what it missed."""
    now = time.time()
    return Gap("not resumed", None, now, now, None)


class Journal:
    """The last messages of an endpoint, in the order in which it had them.

    A client says the highest number that it has seen of each origin. What it missed is known only if the journal has
    everything of that origin since then, in the order of the numbers. The journal says no if

    - it is younger than the client's number, or has dropped something behind it;
    - a message without a countable name came since;
    - an origin's messages came out of order, as they do over a broker that keeps only the order of each key.

    Args:
        own: Returns the origin of the hub's own messages, another one after a fork.
        messages: The most that are kept.
        size: Bytes of them.
        age: Seconds that they are kept.
    """

    def __init__(self, own: Callable[[], str], messages: int, size: int, age: float) -> None:
        self._own = own
        self._most = messages
        self._size = size
        self._age = age
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._first = 1
        self._next = 1
        # The highest number of each origin, the one silent longest first.
        self._last: OrderedDict[str, int] = OrderedDict()
        # Of each origin, the number behind which all its messages are here.
        self._begins: dict[str, int] = {}
        # Origins whose messages came out of order, by the number of the last entry that did.
        self._unordered: dict[str, int] = {}
        self._nameless = 0  # number of the last entry without a countable name
        # What was pushed out: its origins, the number of the last gap, and the time of the last entry.
        self._pushed_out: set[str] = set()
        self._gap_gone = 0
        self._gone_until = 0.0
        self.know(own())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> Position:
        """The highest number of each origin."""
        self.know(self._own())
        return dict(self._last)

    def know(self, origin: str, number: int = 0) -> None:
        """Note an origin; everything that it published up to that number is known."""
        if origin not in self._last:
            self._last[origin] = number
            self._begins[origin] = number
            if len(self._last) > MOST_ORIGINS:
                forgotten, _ = self._last.popitem(last=False)
                self._begins.pop(forgotten, None)
                self._unordered.pop(forgotten, None)
                self._pushed_out.discard(forgotten)

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
                # Nobody here knows whether there was anything before it.
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
            self._gone_until = oldest.time
            if oldest.gap is not None:
                self._gap_gone = oldest.number
            if oldest.origin in self._begins:
                self._begins[oldest.origin] = max(self._begins[oldest.origin], oldest.sequence)
                self._pushed_out.add(oldest.origin)

    def since(self, seen: Position, patterns: Iterable[Sequence[str]]) -> list[Entry] | None:
        """Return what a client at this position missed of some patterns, in order; None if nobody can know."""
        self._push_out(time.time())
        known = self._known(seen)
        if known is None:
            return None
        start, left = self._bounds(known)
        if any(number > left for number in (self._nameless, self._gap_gone, *self._unordered.values())):
            return None
        # Of an origin that is new to the client, it missed everything that came after it left. Here that is what
        # follows its last message; at another worker it may begin a little earlier.
        is_here = self._own() in known
        since = 0.0 if is_here or not left else self._entries[left - self._first].time - SKEW
        are_gone = left < self._first if is_here else since <= self._gone_until
        if are_gone and any(origin not in known for origin in self._pushed_out):
            return None
        named = [tuple(pattern) for pattern in patterns]
        missed = []
        for entry in self._from(start, left, since):
            if entry.key is None:
                if entry.number > left:
                    missed.append(entry)
            elif any(is_subset(entry.key, pattern) for pattern in named):
                before = known.get(entry.origin or "")
                if before is not None:
                    is_missed = entry.sequence > before
                elif is_here:
                    is_missed = entry.number > left
                elif left:
                    is_missed = entry.time >= since
                else:
                    return None
                if is_missed:
                    missed.append(entry)
        return missed

    def _from(self, start: int, left: int, since: float) -> Iterator[Entry]:
        """The entries from a number on, and from a time on where that is earlier."""
        begin = max(min(start, left + 1) - self._first, 0)
        if since:
            while begin and self._entries[begin - 1].time >= since:
                begin -= 1
        return islice(self._entries, begin, None)

    def keys_since(self, seen: Position, patterns: Iterable[Sequence[str]]) -> list[Key[Any]]:
        """The keys of what `since` returns."""
        return [entry.key for entry in self.since(seen, patterns) or () if entry.key is not None]

    def _known(self, seen: Position) -> Position | None:
        """The numbers behind which the journal has everything; None if it lacks something, or if there are none."""
        known = {}
        for origin, number in seen.items():
            begins = self._begins.get(origin)
            if begins is not None and begins <= number <= self._last[origin]:
                known[origin] = number
            elif number:
                return None
        return known or None

    def _bounds(self, known: Position) -> tuple[int, int]:
        """The number of the first entry that the client has not seen, and of the last one that it has.

        Without a first one, it is the next number; without a last one, 0.
        """
        start, left = self._next, 0
        behind = {origin for origin, number in known.items() if self._last[origin] > number}
        for entry in reversed(self._entries):
            number = known.get(entry.origin or "")
            if number is None:
                continue
            if entry.sequence > number:
                start = entry.number
            else:
                left = left or entry.number
                behind.discard(entry.origin or "")
            if left and not behind:
                break
        return start, left
