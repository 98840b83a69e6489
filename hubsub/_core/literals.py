"""Very many exact keys, filed by their parts: which of them a pattern matches, without a look at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..key import PLUS, STAR, is_subset

Pattern = tuple[str, ...]


class Literals:
    """A set of exact keys.

    To file a key takes as long as to subscribe to it. So the last ones that came wait, and are looked at one by one:
    what comes and goes is never filed.
    """

    __slots__ = ("_places", "_waiting")

    # Keys that wait before they are filed, all at once.
    MOST_WAITING = 512

    def __init__(self, keys: Iterable[Pattern]) -> None:
        # By length of key, then place, then part: the keys that have this part in this place, or the only one.
        self._places: dict[int, list[dict[str, Pattern | dict[Pattern, None]]]] = {}
        self._waiting: dict[Pattern, None] = {}
        for key in keys:
            self._file(key)

    def add(self, key: Pattern) -> None:
        """Add a key that it does not hold yet."""
        waiting = self._waiting
        waiting[key] = None
        if len(waiting) > self.MOST_WAITING:
            for each in waiting:
                self._file(each)
            self._waiting = {}

    def _file(self, key: Pattern) -> None:
        places = self._places.get(len(key))
        if places is None:
            places = self._places[len(key)] = [{} for _ in key]
        for keys, part in zip(places, key, strict=False):
            held = keys.get(part)
            if held is None:
                keys[part] = key
            elif type(held) is dict:
                held[key] = None
            else:
                keys[part] = {held: None, key: None}  # type: ignore[dict-item]

    def remove(self, key: Pattern) -> None:
        """Remove a key that it holds."""
        if key in self._waiting:
            del self._waiting[key]
            return
        places = self._places[len(key)]
        for keys, part in zip(places, key, strict=False):
            held = keys[part]
            if type(held) is dict and len(held) > 1:
                del held[key]
            else:
                del keys[part]
        if not places[0]:
            del self._places[len(key)]

    def matching(self, pattern: Pattern) -> Iterator[Pattern]:
        """The keys that a pattern matches; costs what the rarest of its literal parts has."""
        yield from [key for key in self._waiting if is_subset(key, pattern)]
        literal = [(place, part) for place, part in enumerate(pattern) if part != STAR and part != PLUS]
        for length, places in self._places.items():
            if length < len(pattern) or (length > len(pattern) and pattern[-1] != STAR):
                continue
            if not literal:
                for held in places[0].values():
                    yield from _keys(held)
                continue
            groups = [places[place].get(part, {}) for place, part in literal]
            yield from (key for key in _keys(min(groups, key=_number)) if is_subset(key, pattern))


def _keys(held: Pattern | dict[Pattern, None]) -> Iterable[Pattern]:
    return held if type(held) is dict else (held,)  # type: ignore[return-value]


def _number(held: Pattern | dict[Pattern, None]) -> int:
    return len(held) if type(held) is dict else 1
