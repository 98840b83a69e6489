"""Very many exact keys, indexed by their parts: finds those that a pattern matches without a look at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..key import PLUS, STAR, is_subset

Pattern = tuple[str, ...]


class Literals:
    """A set of exact keys."""

    __slots__ = ("_by_length",)

    def __init__(self, keys: Iterable[Pattern]) -> None:
        # By length of key, then position, then part: the keys that have this part at this position, or the only one.
        self._by_length: dict[int, list[dict[str, Pattern | dict[Pattern, None]]]] = {}
        for key in keys:
            self.add(key)

    def add(self, key: Pattern) -> None:
        """Add a key that it does not hold yet."""
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
