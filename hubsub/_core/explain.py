"""Explains where a key leads, with counters, and which keys or patterns are nearest if it leads nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from typing import Any, NamedTuple, cast

from ..describe import describe, name_of_callable
from ..key import PLUS, STAR, Key, KeyLike, as_patterns, is_subset, overlaps
from .async_listener import AsyncListener
from .display import bounded, table
from .hints import Hints, hint_on_list, hint_on_pattern, hint_on_waiting, meant_by
from .history import History
from .listener import Listener
from .outbox import Attachment, Outbox
from .registration import Registration
from .router import Router
from .subscription import GapSubscription, Subscription
from .wrapping import Wrapping

Pattern = tuple[str, ...]


class Match(NamedTuple):
    """A subscription or listener that a key leads to, with its counters at that moment, over all of its keys."""

    subscription: Listener | Subscription[Any] | GapSubscription[Any] | Outbox
    patterns: tuple[Key[Any], ...]
    """Those of its patterns that match."""
    accepted: int
    delivered: int
    pending: int
    dropped: int
    superseded: int
    failed: int
    """Calls that raised; 0 for a subscription, which calls no function."""
    last_error: BaseException | None
    """What the last such call raised."""

    def __str__(self) -> str:
        return self._text(f"on {', '.join(map(repr, self.patterns))}")

    @property
    def who(self) -> str:
        """Its kind, and the name of its function if it has one."""
        function = getattr(self.subscription, "function", None)
        who = str(getattr(self.subscription, "name", type(self.subscription).__name__))
        return who if function is None else f"{who} {name_of_callable(function)}"

    def _text(self, where: str) -> str:
        troubles = ("pending", "dropped", "superseded", "failed")
        counters = [f"delivered {self.delivered}", *(f"{name} {n}" for name in troubles if (n := getattr(self, name)))]
        error = "" if self.last_error is None else f"; last error: {describe(self.last_error)}"
        return f"{self.who} {where}: {', '.join(counters)}{error}"


class Explanation(NamedTuple):
    """The result of `Hub.explain` for a key or pattern; `str()` of it is text to read."""

    key: Key[Any]
    matches: tuple[Match, ...]
    """What it leads to, in order of subscription; for a pattern, what overlaps it."""
    seen: int
    """Keys that match among those whose route is cached or whose messages are retained: 0 or 1 for an exact key."""
    nearest_patterns: tuple[Key[Any], ...]
    """Similar subscribed patterns, if it leads to nobody."""
    nearest_keys: tuple[Key[Any], ...]
    """Similar keys among those seen, if it was not seen itself."""
    outboxes: tuple[Match, ...] = ()
    """The bridges it leaves by; their `subscription` is an `Outbox`."""
    arrivals: tuple[str, ...] = ()
    """The bridges that may bring it, and what happened to the messages that came."""
    hints: tuple[str, ...] = ()
    """Likely mistakes, each with its remedy."""
    wrappings: tuple[Wrapping, ...] = ()
    """The wrappers around its listeners, the outermost first; see `Hub.wrap`."""

    def __str__(self) -> str:
        number = len(self.matches)
        lines = [f"{self.key!r} leads to {number or 'no'} subscription{'' if number == 1 else 's'}"]
        lines += [f"  {match._text('on ' + ', '.join(map(self._related, match.patterns)))}" for match in self.matches]
        lines += [f"  leaves by {match._text('on ' + ', '.join(map(repr, match.patterns)))}" for match in self.outboxes]
        lines += [f"  comes by {arrival}" for arrival in self.arrivals]
        lines += [f"  wrapped by {wrapping.described}" for wrapping in self.wrappings]
        if self.nearest_patterns:
            lines.append(f"  subscribed: {', '.join(map(repr, self.nearest_patterns))}")
        if self.nearest_keys:
            lines.append(f"  published: {', '.join(map(repr, self.nearest_keys))}")
        lines += [f"  note: {hint}" for hint in self.hints]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ("", "patterns", "delivered", "pending", "dropped", "superseded", "failed", "last error")
        rows = bounded(
            (*self.matches, *self.outboxes),
            lambda each: (
                each.who,
                ", ".join(map(self._related, each.patterns)),
                *(each.delivered, each.pending, each.dropped, each.superseded, each.failed),
                "" if each.last_error is None else each.last_error,
            ),
        )
        rows += [(f"comes by {arrival}",) for arrival in self.arrivals]
        near = (("subscribed", self.nearest_patterns), ("published", self.nearest_keys))
        rows += [(name, ", ".join(map(repr, keys))) for name, keys in near if keys]
        rows += [("note", hint) for hint in self.hints]
        number = len(self.matches)
        return table(f"{self.key!r} leads to {number or 'no'} subscription{'' if number == 1 else 's'}", rows, head)

    def _related(self, pattern: Key[Any]) -> str:
        """Return a pattern as text, with how it relates to this one."""
        if not self.key.is_wildcard or pattern == self.key:
            return repr(pattern)
        if is_subset(pattern, self.key):
            return f"{pattern!r} (covered)"
        return f"{pattern!r} ({'covers it' if is_subset(self.key, pattern) else 'overlaps'})"


def explain(
    key: KeyLike[Any],
    router: Router[Any],
    registered: Iterable[Registration],
    outboxes: Iterable[Registration],
    history: History,
    bridges: Iterable[Attachment],
    hints: Hints | None,
    is_bound: bool,
    wrappings: Iterable[Wrapping],
) -> Explanation:
    """Explain a key or pattern."""
    [named] = as_patterns([key])
    exact = STAR not in named and PLUS not in named
    related: Callable[[Pattern, Pattern], bool] = is_subset if exact else overlaps
    targets = router.targets(Key.create_from(named)) if exact else registered

    def matches_of(targets: Iterable[Registration]) -> tuple[Match, ...]:
        return tuple(
            _match(target, matching)
            for target in targets
            if (matching := [pattern for pattern in target._patterns if related(named, pattern)])
        )

    matches = matches_of(targets)
    leaving = matches_of(outboxes if not exact else (each for each in outboxes if each.is_on(named)))
    around = tuple(each for each in wrappings if any(related(named, pattern) for pattern in each.patterns))
    kept = history.keys()
    if exact:
        seen = int(named in router.routes or named in kept)
    else:
        seen = sum(is_subset(known, named) for known in _known(router, history))
    return Explanation(
        Key.create_from(named),
        matches,
        seen,
        () if matches or leaving else _nearest(named, (pattern for pattern, _ in router.matcher.counts())),
        () if seen else _nearest(named, _known(router, history)),
        leaving,
        tuple(arrival for bridge in bridges if (arrival := bridge.arrival(Key.create_from(named))) is not None),
        (*_hints(named, router, registered, matches, leaving, hints, is_bound), *_hints_on_kinds(matches, around)),
        around,
    )


def _hints_on_kinds(matches: Iterable[Match], wrappings: Iterable[Wrapping]) -> Iterator[str]:
    """Yield a hint if there are wrappers, and all are of the other kind than the listeners, so that none is wrapped."""
    listeners = [each.subscription for each in matches if isinstance(each.subscription, Listener)]
    kinds = {isinstance(each, AsyncListener) for each in listeners}
    wrappings = tuple(wrappings)
    if kinds and wrappings and not any(each.is_async in kinds for each in wrappings):
        is_async = wrappings[0].is_async
        one, other = ("an async", "plain") if is_async else ("a plain", "async")
        another = "a plain one" if is_async else "an async one"
        name = name_of_callable(wrappings[0].function)
        yield f"{name} is {one} function, which wraps no {other} listener; for those, wrap {another} too"


def _hints(
    named: Pattern,
    router: Router[Any],
    registered: Iterable[Registration],
    matches: Iterable[Match],
    leaving: Iterable[Match],
    hints: Hints | None,
    is_bound: bool,
) -> Iterator[str]:
    patterns = dict.fromkeys([named, *(pattern for match in (*matches, *leaving) for pattern in match.patterns)])
    for pattern in patterns:
        if (hint := hint_on_pattern(pattern)) is not None:
            yield hint
    if not matches:
        # A pattern by which somebody may have meant to subscribe to it.
        for pattern, _ in router.matcher.counts():
            meant = meant_by(pattern)
            if meant is not None and pattern not in patterns and overlaps(meant, named):
                yield f"somebody has subscribed, but {hint_on_pattern(pattern)}"
        parts = [(part,) for part in named]
        if len(parts) > 1 and any(list(each._patterns) == parts for each in registered):
            yield f"somebody has subscribed to its parts: {hint_on_list(named)}"
    for match in matches:
        registration = cast(Registration, match.subscription)
        slow = None if hints is None else hints.hint_on_slow(registration)
        for hint in (hint_on_waiting(registration, is_bound), slow):
            if hint is not None:
                yield f"{match.who}: {hint}"


def _match(target: Registration, patterns: list[Pattern]) -> Match:
    subscription = cast("Listener | Subscription[Any] | GapSubscription[Any] | Outbox", target)
    return Match(
        subscription,
        tuple(map(Key.create_from, patterns)),
        accepted=target.accepted,
        delivered=target.delivered,
        pending=target.pending,
        dropped=target.dropped,
        superseded=target.superseded,
        failed=getattr(target, "failed", 0),
        last_error=getattr(target, "last_error", None),
    )


def _known(router: Router[Any], history: History) -> set[Key[Any]]:
    return {route.key for route in router.routes.values()} | history.keys()


# Nearness

# Comparing texts takes time: only the candidates with the most parts in common are compared.
MOST_COMPARED = 500
# Letters of each that are compared: the time grows with the square of the length.
MOST_LETTERS = 64
# The similarity that difflib requires of close matches.
ALIKE = 0.6


def _nearest(key: Pattern, candidates: Iterable[Pattern]) -> tuple[Key[Any], ...]:
    """Return up to three similar candidates, the nearest first."""
    candidates = nlargest(MOST_COMPARED, candidates, key=lambda candidate: _in_common(key, candidate))
    if not candidates:
        return ()
    from difflib import SequenceMatcher  # seldom needed, and not light

    matcher = SequenceMatcher(autojunk=False)

    def alike(candidate: Pattern) -> float:
        matcher.set_seqs(*_texts(key, candidate))
        return matcher.ratio() if matcher.quick_ratio() >= ALIKE else 0.0

    near = [(likeness, candidate) for candidate in candidates if (likeness := alike(candidate)) >= ALIKE]
    return tuple(Key.create_from(candidate) for _, candidate in nlargest(3, near))


def _in_common(key: Pattern, candidate: Pattern) -> int:
    equal = sum(ours == theirs or theirs in (STAR, PLUS) for ours, theirs in zip(key, candidate, strict=False))
    return 2 * equal - abs(len(key) - len(candidate))


def _texts(key: Pattern, candidate: Pattern) -> tuple[str, str]:
    """Return both as text, without the parts in which a wildcard makes them agree."""
    wild = {STAR, PLUS}
    pairs = [pair for pair in zip(key, candidate, strict=False) if not wild & set(pair)]
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if candidate[-1] != STAR:
        ours += key[len(candidate) :]
    if key[-1] != STAR:
        theirs += candidate[len(key) :]
    return "/".join(ours)[:MOST_LETTERS], "/".join(theirs)[:MOST_LETTERS]
