"""Very many exact keys, indexed by their parts: finds those that a pattern matches without a look at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..key import PLUS, STAR, is_subset

Pattern = tuple[str, ...]


class Literals:
    """A set of exact keys.

    Filing a key takes as long as subscribing to it. So the latest ones stay unfiled, and are compared one by one: a
    pattern that comes and goes is never filed.
    """

    __slots__ = ("_by_length", "_unfiled")

    # Keys that may be unfiled; one more, and all of them are filed.
    MOST_UNFILED = 512

    def __init__(self, keys: Iterable[Pattern]) -> None:
        # By length of key, then position, then part: the keys that have this part at this position, or the only one.
        self._by_length: dict[int, list[dict[str, Pattern | dict[Pattern, None]]]] = {}
        self._unfiled: dict[Pattern, None] = {}
        for key in keys:
            self._file(key)

    def add(self, key: Pattern) -> None:
        """Add a key that it does not hold yet."""
        unfiled = self._unfiled
        unfiled[key] = None
        if len(unfiled) > self.MOST_UNFILED:
            for each in unfiled:
                self._file(each)
            self._unfiled = {}

    def _file(self, key: Pattern) -> None:
        positions = self._by_length.get(len(key))
        if positions is None:
            positions = self._by_length[len(key)] = [{} for _ in key]
        for keys, part in zip(positions, key, strict=False):
            held = keys.get(part)
            if held is None:
                keys[part] = key
            elif type(held) is dict:
                held[key] = None
            else:
                keys[part] = {held: None, key: None}  # type: ignore[dict-item]

    def remove(self, key: Pattern) -> None:
        """Remove a key that it holds."""
        if key in self._unfiled:
            del self._unfiled[key]
            return
        positions = self._by_length[len(key)]
        for keys, part in zip(positions, key, strict=False):
            held = keys[part]
            if type(held) is dict and len(held) > 1:
                del held[key]
            else:
                del keys[part]
        if not positions[0]:
            del self._by_length[len(key)]

    def matching(self, pattern: Pattern) -> Iterator[Pattern]:
        """Yield the keys that a pattern matches; costs as much as there are keys with its rarest literal part."""
        yield from [key for key in self._unfiled if is_subset(key, pattern)]
        literal = [(position, part) for position, part in enumerate(pattern) if part != STAR and part != PLUS]
        for length, positions in self._by_length.items():
            if length < len(pattern) or (length > len(pattern) and pattern[-1] != STAR):
                continue
            if not literal:
                for held in positions[0].values():
                    yield from _keys(held)
                continue
            groups = [positions[position].get(part, {}) for position, part in literal]
            yield from (key for key in _keys(min(groups, key=_number)) if is_subset(key, pattern))


def _keys(held: Pattern | dict[Pattern, None]) -> Iterable[Pattern]:
    return held if type(held) is dict else (held,)  # type: ignore[return-value]


def _number(held: Pattern | dict[Pattern, None]) -> int:
    return len(held) if type(held) is dict else 1
