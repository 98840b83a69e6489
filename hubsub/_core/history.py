"""The messages that a hub retains, for late subscribers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, KeysView
from itertools import count
from time import time as now
from typing import TYPE_CHECKING, Any

from ..errors import HistoryUnavailable
from ..event import Event, Meta
from ..key import PLUS, STAR, Key, is_subset, overlaps
from .handles import Handle, Removal
from .routes import Observer

if TYPE_CHECKING:
    pass

Pattern = tuple[str, ...]

# A retained message: its number in the order of publishing, the time, the message, and its metadata.
Entry = tuple[int, float, Any] | tuple[int, float, Any, Meta]


class Retention(Handle):
    """Keeps the last messages of some keys, until `close()`, or leaving it as a context manager."""

    __slots__ = ("_history", "closed", "limit", "max_age", "max_keys", "patterns", "recent")

    def __init__(
        self, history: History, patterns: list[Pattern], limit: int, max_age: float | None, max_keys: int | None
    ) -> None:
        self._history = history
        self.patterns = patterns
        self.limit = limit
        self.max_age = max_age
        self.max_keys = max_keys
        self.closed = False
        # When each of its keys was last published, the oldest first; only kept if it has a bound that needs it.
        self.recent: OrderedDict[Key[Any], float] = OrderedDict()

    def close(self) -> Removal:
        """Forget the messages that no other retention keeps. Closing twice is safe; awaiting it is optional."""
        if not self.closed:
            self.closed = True
            self._history.release(self)
        return Removal()

    def _end(self) -> Removal:
        return self.close()

    def covers(self, key: Pattern) -> bool:
        """True if its patterns match an exact key."""
        return any(is_subset(key, pattern) for pattern in self.patterns)

    def holds(self, key: Key[Any]) -> bool:
        """True if it keeps an exact key now: its patterns match, and its bounds have not pushed the key out."""
        return (key in self.recent) if self.is_bounded else self.covers(key)

    @property
    def is_bounded(self) -> bool:
        """True if it bounds the age or the number of its keys."""
        return self.max_age is not None or self.max_keys is not None

    def __repr__(self) -> str:
        return f"<Retention {', '.join(map(repr, self.patterns))} limit={self.limit}{' closed' if self.closed else ''}>"


class History:
    """The retained messages of one hub.

    Args:
        changed: Called with a pattern when retentions of it come or go.
        origin: Returns the origin of messages published here.
    """

    def __init__(self, changed: Callable[[Pattern], None], origin: Callable[[], str]) -> None:
        self._changed = changed
        self._origin = origin
        self._retentions: list[Retention] = []
        # A key with one message has it without a deque: a hundred thousand deques would be most of the memory.
        self._kept: dict[Key[Any], Entry | deque[Entry]] = {}
        self._numbers = count(1)
        self._keepers: dict[tuple[Retention, ...], Observer] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def patterns(self) -> list[Pattern]:
        """Return the patterns whose messages are kept."""
        return [pattern for retention in self._retentions for pattern in retention.patterns]

    def keys(self) -> KeysView[Key[Any]]:
        """Return the keys whose messages are kept."""
        return self._kept.keys()

    def retain(self, patterns: list[Pattern], limit: int, max_age: float | None, max_keys: int | None) -> Retention:
        """Keep the messages of these patterns from now on."""
        retention = Retention(self, patterns, limit, max_age, max_keys)
        self._retentions.append(retention)
        self._change(patterns)
        return retention

    def release(self, retention: Retention) -> None:
        """Forget the messages that only this retention kept, and those beyond what the others keep."""
        self._retentions.remove(retention)
        self._change(retention.patterns)
        for key in [key for key in self._kept if retention.covers(key)]:
            self._trim(key)

    def _change(self, patterns: list[Pattern]) -> None:
        self._keepers.clear()
        for pattern in patterns:
            self._changed(pattern)

    # Keeping

    def keeper(self, key: Key[Any]) -> Observer | None:
        """Return the observer that keeps the messages of an exact key, if any retention does."""
        matching = tuple(retention for retention in self._retentions if retention.covers(key))
        if not matching:
            return None
        if matching not in self._keepers:
            self._keepers[matching] = self._make_keeper(matching)
        return self._keepers[matching]

    def _make_keeper(self, retentions: tuple[Retention, ...]) -> Observer:
        limit = max(retention.limit for retention in retentions)
        bounded = [retention for retention in retentions if retention.is_bounded]
        kept, numbers = self._kept, self._numbers

        def keep(key: Key[Any], entry: Entry) -> None:
            if limit == 1:
                kept[key] = entry
            else:
                held = kept.get(key)
                if type(held) is deque and held.maxlen == limit:
                    held.append(entry)
                else:
                    kept[key] = deque([*_entries(held), entry], limit)
            for retention in bounded:
                retention.recent[key] = entry[1]
                retention.recent.move_to_end(key)
                self._push_out(retention, entry[1])

        def keep_message(key: Key[Any], message: Any) -> None:
            keep(key, (next(numbers), now(), message))

        def keep_event(event: Event[Any]) -> None:
            entry: Entry = (next(numbers), now(), event.message)
            keep(event.key, entry if event.meta is None else (*entry[:3], event.meta))

        return Observer(keep_message, keep_event)

    def _push_out(self, retention: Retention, at: float) -> None:
        """Drop the keys that are beyond the bounds of a retention."""
        recent = retention.recent
        while recent:
            key, last = next(iter(recent.items()))
            too_many = retention.max_keys is not None and len(recent) > retention.max_keys
            too_old = retention.max_age is not None and at - last > retention.max_age
            if not (too_many or too_old):
                return
            del recent[key]
            self._trim(key)

    def _trim(self, key: Key[Any]) -> None:
        """Drop the messages of a key that no retention wants any longer."""
        limit = max((retention.limit for retention in self._retentions if retention.holds(key)), default=0)
        held = self._kept.get(key)
        if limit == 0:
            self._kept.pop(key, None)
        elif type(held) is deque:
            self._kept[key] = held[-1] if limit == 1 else deque(held, limit)

    def forget(self, patterns: list[Pattern]) -> int:
        """Forget the messages kept of matching keys, but keep later ones; return how many were forgotten."""
        forgotten = 0
        for key in self._matching(patterns):
            forgotten += len(_entries(self._kept.pop(key)))
            for retention in self._retentions:
                retention.recent.pop(key, None)
        return forgotten

    # Reading

    def check(self, patterns: Iterable[Pattern]) -> None:
        """Refuse patterns that no retention covers.

        Raises:
            HistoryUnavailable: No retention has a key in common with one of them.
        """
        for pattern in patterns:
            if not any(overlaps(pattern, ours) for retention in self._retentions for ours in retention.patterns):
                raise HistoryUnavailable(pattern)

    def select(
        self, patterns: Iterable[Pattern], most: int | None, without: Iterable[Pattern] = (), after: int = 0
    ) -> list[Event[Any]]:
        """Return the last messages, at most `most` of each key, of the keys that match `patterns` and not `without`.

        Only those after the position `after`; the oldest first, across keys. An exact key is looked up; a pattern goes
        through all keys that are kept.
        """
        patterns, without = list(patterns), list(without)
        keys = self._matching(patterns)
        at = now()
        found: list[tuple[Entry, Key[Any]]] = []
        for key in keys:
            if not any(is_subset(key, pattern) for pattern in without):
                entries = _entries(self._kept[key])
                entries = entries[-most:] if most is not None else entries
                found += [(entry, key) for entry in entries if entry[0] > after and self._is_fresh(key, entry, at)]
        found.sort(key=lambda pair: pair[0][0])
        origin = self._origin()
        return [Event(key, entry[2], _meta(entry, origin)) for entry, key in found]

    def _matching(self, patterns: list[Pattern]) -> list[Key[Any]]:
        """Return the kept keys that match; an exact key is looked up."""
        if any(STAR in pattern or PLUS in pattern for pattern in patterns):
            return [key for key in self._kept if any(is_subset(key, pattern) for pattern in patterns)]
        return [Key.create_from(pattern) for pattern in dict.fromkeys(patterns) if pattern in self._kept]

    def _is_fresh(self, key: Key[Any], entry: Entry, at: float) -> bool:
        return any(
            retention.max_age is None or at - entry[1] <= retention.max_age
            for retention in self._retentions
            if retention.holds(key)
        )


def _meta(entry: Entry, origin: str) -> Meta:
    """Return the metadata of a kept message, with an id that stays the same however often it is read."""
    number, at = entry[:2]
    if len(entry) == 3:
        return Meta(str(number), origin, at, position=number, replayed=True)
    meta = entry[3]
    if meta.id is None:
        meta = meta._replace(id=str(number), source=origin)
    return meta._replace(time=meta.time or at, position=number, replayed=True)


def _entries(held: Entry | deque[Entry] | None) -> list[Entry]:
    if held is None:
        return []
    return list(held) if type(held) is deque else [held]  # type: ignore[list-item]
