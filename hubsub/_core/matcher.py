"""Finds the subscriptions of a key: exact patterns are looked up, wildcard patterns live in a trie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from ..key import PLUS, STAR, is_subset
from .literals import Literals

S = TypeVar("S")

Pattern = tuple[str, ...]


class Node(Generic[S]):
    """A node of the trie of wildcard patterns; each level is one part.

    `*` in the middle and `+` match the same parts, so they share the branch `one`.
    """

    __slots__ = ("here", "one", "parts", "rest")

    def __init__(self) -> None:
        # Most nodes have one or two of these four. A None for each of the others saves the match a memory access.
        self.parts: dict[str, Node[S]] = _NO_PARTS
        self.one: Node[S] | None = None
        # The number counts the spellings (`*`, `+`) by which a subscription is held here.
        self.here: dict[S, int] | None = None  # of patterns that end here
        self.rest: dict[S, int] | None = None  # of patterns whose last `*` stands for one or more parts below here

    def is_empty(self) -> bool:
        return not self.parts and self.one is None and self.here is None and self.rest is None


_NO_PARTS: dict[str, Any] = {}  # shared, never filled


class Matcher(Generic[S]):
    """A set of (pattern, subscription) pairs that finds the subscriptions matching a key.

    The cost of adding, removing and matching grows with the length of the pattern or key (wildcards make it branch),
    not with the number of patterns. `S` is anything hashable.
    """

    __slots__ = ("_exact", "_literals", "_root", "_wild")

    # From this many exact patterns on, they are also indexed by their parts, to find those that a pattern matches.
    MANY = 4096

    def __init__(self) -> None:
        # Most exact patterns have one subscription: a dict for each would double the memory of a million of them.
        self._exact: dict[Pattern, S | _Group[S]] = {}
        self._literals: Literals | None = None
        self._wild: dict[Pattern, int] = {}
        self._root: Node[S] = Node()

    def add(self, pattern: Pattern, subscription: S) -> int:
        """Add a pair that is not held yet; return how many subscriptions the pattern has now."""
        if STAR not in pattern and PLUS not in pattern:
            held = self._exact.get(pattern)
            if held is None:
                self._exact[pattern] = subscription
                if self._literals is not None:
                    self._literals.add(pattern)
                elif len(self._exact) >= self.MANY:
                    self._literals = Literals(self._exact)
                return 1
            if type(held) is not _Group:
                held = self._exact[pattern] = _Group({held: None})  # type: ignore[dict-item]
            held[subscription] = None
            return len(held)
        node = self._branch(pattern)
        if pattern[-1] == STAR:
            entries = node.rest = node.rest or {}
        else:
            entries = node.here = node.here or {}
        entries[subscription] = entries.get(subscription, 0) + 1
        count = self._wild[pattern] = self._wild.get(pattern, 0) + 1
        return count

    def remove(self, pattern: Pattern, subscription: S) -> int:
        """Remove a pair that is held; return how many subscriptions the pattern has left. Empty branches go."""
        if STAR not in pattern and PLUS not in pattern:
            held = self._exact[pattern]
            if type(held) is _Group:
                del held[subscription]
                if held:
                    return len(held)
            del self._exact[pattern]
            if self._literals is not None:
                self._literals.remove(pattern)
                if not self._exact:
                    self._literals = None
            return 0
        node = self._branch(pattern)
        entries = node.rest if pattern[-1] == STAR else node.here
        assert entries is not None
        entries[subscription] -= 1
        if not entries[subscription]:
            del entries[subscription]
        count = self._wild[pattern] = self._wild[pattern] - 1
        if not count:
            del self._wild[pattern]
        if not entries:
            if pattern[-1] == STAR:
                node.rest = None
            else:
                node.here = None
            self._prune(pattern)
        return count

    def match(self, key: Pattern) -> list[S]:
        """Return the subscriptions that match an exact key, unordered; one with several such patterns repeats."""
        found: list[S] = []
        if key in self._exact:
            held = self._exact[key]
            if type(held) is _Group:
                found += held
            else:
                found.append(held)  # type: ignore[arg-type]
        nodes = [self._root]
        for part in key[:-1]:
            below = []
            for node in nodes:
                if node.rest is not None:
                    found += node.rest
                parts = node.parts
                if part in parts:
                    below.append(parts[part])
                if node.one is not None:
                    below.append(node.one)
            if not below:
                return found
            nodes = below
        # The last part is a loop of its own: below it, nothing but `here` is looked at.
        last = key[-1]
        for node in nodes:
            if node.rest is not None:
                found += node.rest
            if last in node.parts:
                here = node.parts[last].here
                if here is not None:
                    found += here
            if node.one is not None:
                here = node.one.here
                if here is not None:
                    found += here
        return found

    def overlaps(self, pattern: Pattern) -> bool:
        """True if some publishable key matches both `pattern` and a subscription."""
        if STAR not in pattern and PLUS not in pattern:
            return bool(self.match(pattern))
        return any(True for _ in self._exact_within(pattern)) or any(True for _ in self._wild_beside(pattern))

    def overlapping(self, pattern: Pattern) -> Iterator[S]:
        """Yield the subscriptions that share a publishable key with `pattern`; one of several patterns repeats."""
        if STAR not in pattern and PLUS not in pattern:
            yield from self.match(pattern)
            return
        for key in self._exact_within(pattern):
            held = self._exact[key]
            if type(held) is _Group:
                yield from held
            else:
                yield held  # type: ignore[misc]
        for entries in self._wild_beside(pattern):
            yield from entries

    def _exact_within(self, pattern: Pattern) -> Iterable[Pattern]:
        """Return the exact patterns that `pattern` matches."""
        if self._literals is not None:
            return self._literals.matching(pattern)
        return (key for key in self._exact if is_subset(key, pattern))

    def _wild_beside(self, pattern: Pattern) -> Iterator[dict[S, int]]:
        """Yield the subscriptions of the wildcard patterns that overlap `pattern`, those of each node together."""
        nodes = [(self._root, 0)]
        while nodes:
            node, position = nodes.pop()
            if position == len(pattern):
                if node.here is not None:
                    yield node.here
                continue
            if node.rest is not None:
                yield node.rest
            part = pattern[position]
            if part in (STAR, PLUS):
                below = list(node.parts.values())
            else:
                below = [node.parts[part]] if part in node.parts else []
            if node.one is not None:
                below.append(node.one)
            if part == STAR and position == len(pattern) - 1:
                yield from self._below(below)
            else:
                nodes += [(child, position + 1) for child in below]

    @staticmethod
    def _below(nodes: list[Node[S]]) -> Iterator[dict[S, int]]:
        """Yield all subscriptions of these nodes and of the nodes below, those of each node together."""
        while nodes:
            node = nodes.pop()
            if node.here is not None:
                yield node.here
            if node.rest is not None:
                yield node.rest
            nodes += node.parts.values()
            if node.one is not None:
                nodes.append(node.one)

    def counts(self) -> Iterator[tuple[Pattern, int]]:
        """Yield every pattern with its number of subscriptions."""
        for key, held in self._exact.items():
            yield key, len(held) if type(held) is _Group else 1
        yield from self._wild.items()

    def __len__(self) -> int:
        return len(self._exact) + len(self._wild)

    def is_empty(self) -> bool:
        """True if it holds nothing, and no empty branch is left."""
        return not (self._exact or self._wild) and self._root.is_empty()

    def _branch(self, pattern: Pattern) -> Node[S]:
        """Return the node where a pattern ends, without its last `*`; make the branch to it if need be."""
        node = self._root
        for part in pattern if pattern[-1] != STAR else pattern[:-1]:
            if part in (STAR, PLUS):
                if node.one is None:
                    node.one = Node()
                node = node.one
            elif part in node.parts:
                node = node.parts[part]
            else:
                if not node.parts:
                    node.parts = {}
                child: Node[S] = Node()
                node.parts[part] = child
                node = child
        return node

    def _prune(self, pattern: Pattern) -> None:
        """Remove the nodes of a branch that no longer hold anything, from its end upwards."""
        path = []
        node = self._root
        for part in pattern if pattern[-1] != STAR else pattern[:-1]:
            child = node.one if part in (STAR, PLUS) else node.parts[part]
            assert child is not None
            path.append((node, part, child))
            node = child
        for parent, part, child in reversed(path):
            if not child.is_empty():
                return
            if part in (STAR, PLUS):
                parent.one = None
            else:
                del parent.parts[part]
                parent.parts = parent.parts or _NO_PARTS


class _Group(dict[S, None]):
    """Several subscriptions of one exact pattern; a class of its own, to tell it from a subscription."""

    __slots__ = ()
