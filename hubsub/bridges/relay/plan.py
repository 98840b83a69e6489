"""The options of a bridge, checked once and frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from ..._core.checks import choice, count, seconds
from ...describe import describe
from ...key import NAMESPACE, Key, Patterns, as_patterns, is_subset, overlaps
from ..adapter import Features, Link
from .signing import Secrets

Unclaimed: TypeAlias = Literal["hold", "ack", "dead-letter"]
Start: TypeAlias = Literal["new", "earliest"] | float

GAPS: Key[Any] = Key(NAMESPACE, "gap")
"""The key under which bridges notify each other of what their outboxes had to drop."""


class Backoff(NamedTuple):
    """How long a bridge waits between attempts to connect: a random time up to a bound that doubles."""

    first: float = 0.05
    """Seconds, the first bound."""
    most: float = 0.7
    """Seconds, the largest bound in the first minute of an interruption."""
    later: float = 10.0
    """Seconds, the largest bound after that."""

    def bound(self, attempt: int, elapsed: float) -> float:
        """The longest wait before the attempt of this number, counted from 0, `elapsed` seconds after the first."""
        most = self.most if elapsed < 60 else self.later
        return min(most, self.first * 2.0 ** min(attempt, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of a `Bridge`, by their names there."""

    outgoing: tuple[Key[Any], ...]
    incoming: tuple[Key[Any], ...]
    group: str | None
    name: str | None
    start: Start | None
    history: int
    history_scan: int
    lazy: bool
    ordered: bool | None
    envelope: bool
    encode_now: bool
    outbox: int
    outbox_bytes: int
    window: int
    window_bytes: int
    attempts: int
    retry_pause: float
    unclaimed: Unclaimed | None
    namespace: str
    prefix: Key[Any]
    backoff: Backoff
    secret: Secrets | None = field(repr=False)
    replay_window: float | None

    @property
    def signed_for(self) -> float:
        """Seconds during which a signed message is accepted."""
        return 300.0 if self.replay_window is None else self.replay_window

    @property
    def keeps_position(self) -> bool:
        """True if the broker keeps a position for it, so that nothing may be missed."""
        return self.group is not None or self.name is not None

    @property
    def reader(self) -> str:
        """As `Link.reader`."""
        return Link(sender="", namespace=self.namespace, group=self.group, name=self.name).reader

    @property
    def diverted(self) -> list[Key[Any]]:
        """The outgoing patterns that go to the broker only, and come back to one member of the group."""
        if self.group is None:
            return []
        return [key for key in self.outgoing if any(is_subset(key, other) for other in self.incoming)]

    def at_broker(self, pattern: Key[Any]) -> Key[Any]:
        """A key or pattern of this side, as it is at the broker."""
        if not self.prefix or pattern[0] == NAMESPACE:
            return pattern
        return Key.create_from(pattern[len(self.prefix) :])

    def link(
        self,
        sender: str,
        features: Features,
        control: tuple[Key[Any], ...] = (),
        room: Callable[[], int] | None = None,
        release: Callable[[Collection[Hashable]], Awaitable[None]] | None = None,
        wanted: Callable[[], Sequence[Key[Any]]] = lambda: (),
        encode: Callable[[Any], bytes] | None = None,
    ) -> Link:
        """The options that an adapter gets; `features` are the most that it has."""
        start = self.start
        if start is None:
            # What was there before the first member was meant for the group.
            start = "earliest" if self.group is not None and features.replay else "new"
        return Link(
            sender=sender,
            namespace=self.namespace,
            group=self.group,
            name=self.name,
            start=start,
            reads=bool(self.incoming) or features.push,
            incoming=tuple(map(self.at_broker, uncovered(self.incoming))),
            control=control,
            window=self.window,
            room=room or (lambda: self.window),
            wanted=wanted,
            release=release,
            encode=encode,
        )

    def check(self, adapter: str, features: Features) -> None:
        """Refuse options that contradict each other, or that the broker does not support.

        Raises:
            ValueError: It names the option and the remedy.
        """
        self._check_values()
        if not self.outgoing and not self.incoming:
            raise ValueError("a bridge needs patterns of what it carries: give outgoing, incoming or both")
        for pattern in (*self.outgoing, *self.incoming):
            if pattern[0] == NAMESPACE:
                raise ValueError(f"{pattern!r}: the hub's own namespace does not cross bridges")
            if self.prefix and (pattern[: len(self.prefix)] != self.prefix or len(pattern) == len(self.prefix)):
                raise ValueError(f"{pattern!r} must begin with the prefix {self.prefix!r}, and have more parts")
        if self.group is not None and self.name is not None:
            raise ValueError("a group keeps its own position: choose group or name")
        for wanted, can, what in (
            (self.group is not None, features.groups, "groups"),
            (self.name is not None, features.names, "named positions"),
            (self.history, features.history, "history"),
            (self.start not in (None, "new"), features.replay, "messages from before"),
        ):
            if wanted and not can:
                raise ValueError(f"{adapter} has no {what}")
        if self.secret is not None and not features.verbatim:
            raise ValueError(f"{adapter} cannot carry signatures: leave out secret=")
        if self.group is not None:
            self._check_group()

    def _check_values(self) -> None:
        """Refuse values that are invalid for every broker."""
        count(self.history, "history", least=0)
        count(self.history_scan, "history_scan")
        count(self.outbox, "outbox")
        count(self.outbox_bytes, "outbox_bytes", "bytes")
        count(self.window, "window")
        count(self.window_bytes, "window_bytes", "bytes")
        count(self.attempts, "attempts", "calls")
        if self.replay_window is not None:
            seconds(self.replay_window, "replay_window", zero=False)
            if self.secret is None:
                raise ValueError("replay_window is of what is signed: give secret= too, or leave it out")
        seconds(self.retry_pause, "retry_pause")
        if not isinstance(self.backoff, tuple) or len(self.backoff) != len(Backoff._fields):
            raise ValueError(f"backoff is a hubsub.bridges.Backoff, not {describe(self.backoff)}")
        for name, value in zip(Backoff._fields, self.backoff, strict=True):
            seconds(value, f"backoff.{name}", zero=False)
        if self.unclaimed is not None:
            choice(self.unclaimed, "unclaimed", ("hold", "ack", "dead-letter"))
        if isinstance(self.start, str):
            choice(self.start, "start", ("new", "earliest"))
        elif self.start is not None:
            seconds(self.start, "start, as a time since the epoch,")
        for option in ("group", "name", "namespace"):
            value = getattr(self, option)
            may_be_empty = option == "namespace"
            if not isinstance(value, str) and (may_be_empty or value is not None):
                raise ValueError(f"{option} is a str, not {describe(value)}")
            if value == "" and not may_be_empty:
                raise ValueError(f"{option} is a str that is not empty, or None")

    def _check_group(self) -> None:
        for out in self.outgoing:
            if not any(is_subset(out, each) for each in self.incoming):
                for into in self.incoming:
                    if overlaps(out, into):
                        raise ValueError(
                            f"with a group, what goes out comes back to one of its members: {out!r} overlaps "
                            f"{into!r} only in part; make one cover the other"
                        )


def named(*several: Patterns | None) -> tuple[Key[Any], ...]:
    """The patterns of several arguments, each once."""
    patterns = [
        pattern for patterns in several if patterns is not None and patterns != [] for pattern in as_patterns(patterns)
    ]
    return tuple(dict.fromkeys(map(Key.create_from, patterns)))


def uncovered(patterns: Sequence[Key[Any]]) -> list[Key[Any]]:
    """The patterns that none of the others covers, without those of the hub's own namespace."""
    unique = list(dict.fromkeys(pattern for pattern in patterns if pattern[0] != NAMESPACE))
    wide = [pattern for pattern in unique if pattern.is_wildcard]
    kept: list[Key[Any]] = []
    for pattern in wide:
        if not any(is_subset(pattern, other) for other in kept):
            kept = [other for other in kept if not is_subset(other, pattern)] + [pattern]
    exact = [pattern for pattern in unique if not pattern.is_wildcard]
    return kept + [key for key in exact if not any(is_subset(key, other) for other in kept)]
