"""Which copy of a message counts, where a broker sends one for each subscription that matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...key import Key, escaped, is_subset
from ..address import cached


class Copies:
    """The subscriptions of a connection, by their identifiers, which a broker sends with each message.

    Identifiers grow. Of the subscriptions that match a message, the one with the lowest was there before the others, so
    its copy comes whenever one of theirs does: that one counts. A message by a subscription that is gone by now was on
    its way, and counts: whatever it moved to may have been subscribed after the message was published.
    """

    def __init__(self) -> None:
        self._exact: dict[tuple[str, ...], int] = {}
        self._wild: dict[int, Key[Any]] = {}
        self._live: set[int] = set()
        self._first: Callable[[Key[Any]], int | None] = cached(self._find)

    def add(self, pattern: Key[Any], number: int) -> None:
        """Expect copies by a pattern, with this identifier."""
        if pattern.is_wildcard:
            self._wild[number] = pattern
        else:
            self._exact[pattern] = number
        self._live.add(number)
        self._first = cached(self._find)

    def remove(self, pattern: Key[Any], number: int) -> None:
        """Expect no more of them; for when the broker has confirmed that."""
        self._wild.pop(number, None)
        if self._exact.get(pattern) == number:
            del self._exact[pattern]
        self._live.discard(number)
        self._first = cached(self._find)

    def counts(self, key: Key[Any], numbers: Sequence[int]) -> bool:
        """True if a message that came by these subscriptions is the one that counts."""
        first = self._first(key)
        return first is None or not numbers or first in numbers or self._live.isdisjoint(numbers)

    def _find(self, key: Key[Any]) -> int | None:
        # A key that others publish may look like a pattern: it is an exact key all the same.
        exact = escaped(key)
        found = [number for number, pattern in self._wild.items() if is_subset(exact, pattern)]
        if key in self._exact:
            found.append(self._exact[key])
        return min(found, default=None)
