"""The messages that a hub has seen, and what all of its bridges share."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from ..._core.ids import is_unguessable
from ...hub import Hub
from ...key import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Identifies a message within a hub, see `name_of`.
Name = tuple[Hashable, ...]

# What is noted of a message that was handled.
DONE = object()


def name_of(source: str | None, id: str, key: Key[Any], bridge: int, lane: Hashable) -> Name:
    """Return what identifies a message among all that a hub receives.

    An id that nobody can guess identifies the message by whatever bridge it comes, as long as its key is the same. Any
    other id identifies it only within the bridge and lane that it came by. Otherwise anyone who can write to one broker
    could use up the ids of messages that are still to come from another.
    """
    if is_unguessable(id):
        return source, id, key
    return source, id, key, bridge, lane


class SeenWindow:
    """Remembers the last messages by identity: at least `most`, at most twice as many."""

    __slots__ = ("_most", "_new", "_old")

    def __init__(self, most: int = 65536) -> None:
        self._most = most
        # Two generations: dropping the older one as a whole costs nothing per message.
        self._new: dict[Name, Any] = {}
        self._old: dict[Name, Any] = {}

    def get(self, name: Name) -> Any:
        """Return what was noted of a message; None if it was not seen, or was forgotten."""
        return self._new.get(name) or self._old.get(name)

    def see(self, name: Name, what: Any = DONE) -> Any:
        """Return what was noted of a message; if it was not seen, note `what` and return None."""
        new = self._new
        known = new.get(name)
        if known is None:
            if self._old:
                known = self._old.get(name)
            if known is None:
                if len(new) >= self._most:
                    self._old, self._new = new, {}
                    new = self._new
                new[name] = what
        return known

    def note(self, name: Name, what: Any = DONE) -> None:
        """Note a message: `DONE`, or what is handling it."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, {}
        self._new[name] = what

    def forget(self, name: Name) -> None:
        """Forget a message."""
        self._new.pop(name, None)
        self._old.pop(name, None)


class OtherBridge(Protocol):
    """A bridge, as the others of its hub see it."""

    @property
    def outgoing(self) -> Sequence[Key[Any]]:
        """Patterns of the messages that it sends."""
        ...

    def changed(self, patterns: Iterable[tuple[str, ...]]) -> None:
        """Called when other bridges begin or cease to send these patterns."""


class HubBridges:
    """What the bridges of one hub share, so that two of them, or a ring, deliver a message once."""

    def __init__(self) -> None:
        self.seen = SeenWindow()
        self._of: object = None
        self.numbers = count(1)
        self.bridges: list[OtherBridge] = []

    def begin_anew(self, of: object) -> None:
        """Forget what was seen, once for each `of`: some of it was being handled by tasks that have ended."""
        if of != self._of:
            self._of = of
            self.seen = SeenWindow()

    _all: ClassVar[WeakKeyDictionary[Hub, HubBridges]] = WeakKeyDictionary()

    @classmethod
    def of(cls, hub: Hub) -> HubBridges:
        """Return the one of a hub."""
        return cls._all.setdefault(hub, cls())
