"""Which messages a hub has seen, and what all of its bridges share."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from ...hub import Hub
from ...key import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Names a message: where it comes from, and its id there.
Id = tuple[str | None, str | None]

# What is known of a message that everybody has finished with.
DONE = object()


class Seen:
    """Remembers the last messages by source and id: at least `most`, at most twice as many."""

    __slots__ = ("_most", "_new", "_old")

    def __init__(self, most: int = 65536) -> None:
        self._most = most
        # Two generations: forgetting the older one at once costs nothing for each message.
        self._new: dict[Id, Any] = {}
        self._old: dict[Id, Any] = {}

    def get(self, id: Id) -> Any:
        """What was noted of a message; None if it was not seen, or a long time ago."""
        return self._new.get(id) or self._old.get(id)

    def note(self, id: Id, what: Any = DONE) -> None:
        """Remember a message; `DONE`, or whoever is handling it."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, {}
        self._new[id] = what

    def forget(self, id: Id) -> None:
        """Let it count as not seen."""
        self._new.pop(id, None)
        self._old.pop(id, None)


class Neighbour(Protocol):
    """A bridge, as the others of its hub see it."""

    @property
    def leads_out(self) -> Sequence[Key[Any]]:
        """Patterns of what it carries away."""
        ...

    def changed(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Others carry these away now, or no more."""


class Shared:
    """What the bridges of one hub share: two bridges, or a ring of them, bring a message once."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.numbers = count(1)
        self.bridges: list[Neighbour] = []

    _of: ClassVar[WeakKeyDictionary[Hub, Shared]] = WeakKeyDictionary()

    @classmethod
    def of(cls, hub: Hub) -> Shared:
        """That of a hub."""
        return cls._of.setdefault(hub, cls())
