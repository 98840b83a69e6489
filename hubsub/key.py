r"""Keys, and patterns: keys with wildcards.

`*` stands for exactly one part; as the last part for one *or more*. `+` stands for exactly one part, also last.
Only the whole parts `*` and `+` are special: `"a*"` is an ordinary part. Matching is string equality and nothing is
ever unescaped: `r"\*"` is simply the customary spelling of a literal star, in keys and in patterns alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, SupportsIndex, TypeAlias

from .errors import EmptyKey, InvalidKey, InvalidPart, WildcardPublished

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")
    V = TypeVar("V")

STAR = "*"  # one part; one or more where it stands last
PLUS = "+"  # one part

NAMESPACE = "Hub"  # the first part of the keys of meta-events
# The second part: what a hub announces, to those whose patterns may match.
Announced: TypeAlias = Literal["addedSubscriber", "removedSubscriber", "slowSubscriber", "gap", "deadLetter"]


class Key(tuple[str, ...], Generic[T]):
    """A tuple of strings that names what is published, or with wildcards, what is subscribed to.

    Equal to and hashed as the plain tuple. For a type checker, `Key[T]` says what type the messages have.

    Examples:
        >>> Key("sensor", "kitchen") + ("temperature",)
        ('sensor', 'kitchen', 'temperature')
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # Makes a `Key` no `PlainKey`: only then can a checker refuse a message that is not of its type.
        __rmul__: None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __new__(cls, *parts: str) -> Self:
        return tuple.__new__(cls, parts)

    def __getnewargs__(self) -> tuple[str, ...]:
        # Pickle and copy call __new__(*these): without this they would nest the tuple in itself.
        return tuple(self)

    @classmethod
    def create_from(cls, parts: str | Iterable[str]) -> Self:
        """Make a key of one part from a string, or of many from an iterable. A string is never split."""
        return tuple.__new__(cls, (parts,) if isinstance(parts, str) else parts)

    def __add__(self, other: str | Iterable[str]) -> Self:  # type: ignore[override]
        return tuple.__new__(type(self), (*self, other) if isinstance(other, str) else (*self, *other))

    @property
    def is_wildcard(self) -> bool:
        """True if any part is `*` or `+`."""
        return STAR in self or PLUS in self

    def is_subset_of(self, other: str | Iterable[str]) -> bool:
        """True exactly if every publishable key that this pattern matches is matched by `other` too."""
        if type(other) is not Key:
            other = (other,) if isinstance(other, str) else tuple(other)
        return is_subset(self, other)

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Read the text form: parts joined by `/`, with `\/` for a slash and `\\` for a backslash in a part.

        Raises:
            InvalidKey: A backslash stands before anything but `/` or another backslash.
        """
        parts = [""]
        characters = iter(text)
        for character in characters:
            if character == "/":
                parts.append("")
                continue
            if character == "\\":
                character = next(characters, "")
                if character not in ("/", "\\"):
                    raise InvalidKey(text, r"a backslash must be followed by '/' or by another backslash")
            parts[-1] += character
        return cls(*parts)

    @property
    def text(self) -> str:
        """The text form, the inverse of `parse`.

        Raises:
            EmptyKey: The empty key has no text form.
        """
        if not self:
            raise EmptyKey(self)
        return "/".join(part.replace("\\", "\\\\").replace("/", "\\/") for part in self)


class PlainKey(Protocol):
    """A tuple of strings that is not a `Key`, so nothing is known about its messages; for type checkers only."""

    def __rmul__(self, value: SupportsIndex, /) -> tuple[str, ...]: ...


KeyLike: TypeAlias = "Key[T] | tuple[str, ...] | str"
"""What is accepted wherever a key is expected: a `Key`, a plain tuple, or a string for a key of one part."""

Patterns: TypeAlias = "KeyLike[Any] | Sequence[KeyLike[Any]] | AbstractSet[KeyLike[Any]]"
"""What is accepted wherever several patterns make sense: one, or a list, set or frozenset of them.

(A checker needs the wider types to accept a list of narrower ones; a tuple is always one pattern.)
"""

PlainPatterns: TypeAlias = "PlainKey | str | list[Any] | AbstractSet[Any]"
"""`Patterns` from which a checker learns no type."""

TypedPatterns: TypeAlias = "Key[T] | Sequence[Key[T]] | AbstractSet[Key[T]]"
"""`Patterns` that all have the same type of message."""

Deliver: TypeAlias = "Callable[[Key[Any], Any], object]"
"""What a message is delivered to: a listener, or the entrance of a queue."""


def publishable(key: KeyLike[T]) -> Key[T]:
    """Return `key` as a `Key` that may be published to.

    Raises:
        EmptyKey: It has no parts.
        InvalidPart: A part is not a string.
        WildcardPublished: It has wildcards.
    """
    checked = key if type(key) is Key else _as_key(key)
    try:
        "".join(checked)  # the fastest check that every part is a string
    except TypeError:
        _check_parts(checked)
    if not checked:
        raise EmptyKey(key)
    if STAR in checked or PLUS in checked:
        raise WildcardPublished(key)
    return checked


def as_patterns(patterns: Patterns) -> list[tuple[str, ...]]:
    """Return the patterns as tuples, each once, in the order given.

    Raises:
        EmptyKey: A pattern has no parts.
        InvalidPart: A part of a pattern is not a string.
        InvalidKey: There are no patterns, or one is neither a tuple nor a str.
    """
    if isinstance(patterns, tuple):
        one: Any = patterns
        _check_parts(one)
        return [one]
    if isinstance(patterns, str):
        return [(patterns,)]
    if not isinstance(patterns, (list, set, frozenset)):
        raise InvalidKey(patterns, "a pattern is a tuple of strings or a str; several are a list, set or frozenset")
    if not patterns:
        raise InvalidKey(patterns, "name at least one pattern")
    checked: dict[tuple[str, ...], None] = {}
    for pattern in map(_as_key, patterns):
        _check_parts(pattern)
        checked[pattern] = None
    return list(checked)


def _as_key(key: object) -> Key[Any]:
    if isinstance(key, Key):
        return key
    if not isinstance(key, (str, tuple)):
        raise InvalidKey(key, f"a key is a tuple of strings or a str, not a {type(key).__name__}")
    return Key.create_from(key)


def _check_parts(key: tuple[Any, ...]) -> None:
    if not key:
        raise EmptyKey(key)
    try:
        "".join(key)
    except TypeError:
        raise InvalidPart(key, next(part for part in key if not isinstance(part, str))) from None


def is_subset(narrow: tuple[str, ...], wide: tuple[str, ...]) -> bool:
    """True exactly if every publishable key that `narrow` matches is matched by `wide`.

    With an exact key as `narrow` this is matching itself.
    """
    if not narrow or not wide:
        return False
    if wide[-1] == STAR:
        # One or more parts may stand for the last star; the rest must fit part by part.
        if len(narrow) < len(wide):
            return False
    elif len(narrow) != len(wide) or narrow[-1] == STAR:
        return False
    # A plain loop: a generator takes three times as long, and strict=False is not free either.
    for part, mask in zip(narrow, wide):  # noqa: B905, SIM110
        if part != mask and mask != STAR and mask != PLUS:
            return False
    return True


def overlaps(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """True exactly if some publishable key matches both patterns."""
    if not one or not other:
        return False
    if len(one) > len(other):
        one, other = other, one
    if len(one) < len(other) and one[-1] != STAR:
        return False
    wild = (STAR, PLUS)
    return all(a == b or a in wild or b in wild for a, b in zip(one, other, strict=False))


def meet(one: tuple[str, ...], other: tuple[str, ...]) -> Key[Any] | None:
    """The pattern of exactly those publishable keys that match both; None if there are none."""
    if not overlaps(one, other):
        return None
    if len(one) > len(other):
        one, other = other, one
    parts = []
    for index, part in enumerate(other):
        mask = one[min(index, len(one) - 1)]
        if index >= len(one) - 1 and one[-1] == STAR:
            parts.append(part)
        elif mask in (STAR, PLUS):
            # In the middle a star is one part, and where the other pattern ends at most one can follow.
            parts.append(PLUS if part == STAR else part)
        else:
            parts.append(mask)
    return Key(*parts)


def escaped(pattern: tuple[str, ...]) -> tuple[str, ...]:
    r"""Return `pattern` with its wildcards as literal parts: `*` as `\*`, `+` as `\+`."""
    if STAR not in pattern and PLUS not in pattern:
        return pattern
    return tuple(f"\\{part}" if part in (STAR, PLUS) else part for part in pattern)
