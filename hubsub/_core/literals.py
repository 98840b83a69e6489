"""Very many exact keys, filed by their parts: which of them a pattern matches, without a look at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..key import PLUS, STAR, is_subset

Pattern = tuple[str, ...]


class Literals:
    """A set of exact keys."""

    __slots__ = ("_places",)

    def __init__(self, keys: Iterable[Pattern]) -> None:
        # By length of key, then place, then part: the keys that have this part in this place, or the only one.
        self._places: dict[int, list[dict[str, Pattern | dict[Pattern, None]]]] = {}
        for key in keys:
            self.add(key)

    def add(self, key: Pattern) -> None:
        """Add a key that it does not hold yet."""
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
