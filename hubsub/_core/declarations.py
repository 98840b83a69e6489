"""The declared types of messages: one registry for decoding, checking and describing."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, is_typeddict

from ..key import NAMESPACE, PLUS, STAR, Key, KeyLike, as_patterns
from ..log import Logger
from .matcher import Matcher
from .routes import Observer

if TYPE_CHECKING:
    from types import FrameType

logger = Logger("hubsub.hub")

Pattern = tuple[str, ...]


class Declarations:
    """The types of messages by pattern. If several patterns match a key, the most specific one counts.

    A literal part is more specific than a wildcard, and `+` or an inner `*` more specific than a last `*`; if two
    patterns differ in several parts, the first of these decides. The order of the declarations does not matter.
    """

    # Keys whose type is cached; beyond it the cache is cleared.
    MOST_KNOWN = 65536

    def __init__(self) -> None:
        self._types: dict[Pattern, Any] = {}
        self._matcher: Matcher[Pattern] = Matcher()
        self._known: dict[tuple[str, ...], Any] = {}

    def declare(self, pattern: KeyLike[Any], type: Any) -> Key[Any]:
        """Declare the type of what is published to the keys that match; return the pattern.

        Raises:
            InvalidKey: It is not a pattern.
            ValueError: Another type is declared for the very same keys.
        """
        key: Key[Any] = Key.create_from(pattern)
        as_patterns(key)
        form = _form(key)
        wanted = types.NoneType if type is None else type
        if form not in self._types:
            self._types[form] = wanted
            self._matcher.add(form, form)
            self._known.clear()
        elif self._types[form] != wanted:
            raise ValueError(f"{key!r} is declared as {name_of(self._types[form])} already, not as {name_of(wanted)}")
        return key

    def type_of(self, key: tuple[str, ...]) -> Any:
        """Return the declared type of an exact key; None if there is none.

        Only patterns that name the hub's own namespace apply to its messages.
        """
        try:
            return self._known[key]
        except KeyError:
            if len(self._known) >= self.MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._find(key)
            return found

    def _find(self, key: tuple[str, ...]) -> Any:
        forms = self._matcher.match(key)
        if key[0] == NAMESPACE:
            forms = [form for form in forms if form[0] == NAMESPACE]
        # No two are equally specific: they would have the same literal parts, and so be equal.
        return self._types[min(forms, key=_width)] if forms else None

    def observer(self, key: Key[Any], routed: int) -> Observer | None:
        """Return an observer that logs messages not of the declared type of an exact key; None if there is no type.

        For debug mode only.
        """
        declared = self.type_of(key)
        if declared is None:
            return None

        def check(key: Key[Any], message: Any) -> None:
            if not accepts(declared, message):
                what, wanted, where = type(message).__qualname__, name_of(declared), _where_published()
                logger.error("%r is declared as %s, but a message of type %s is published%s", key, wanted, what, where)

        return Observer(check, lambda event: check(*event))

    def items(self) -> list[tuple[Key[Any], Any]]:
        """Every pattern with its type, in the order of declaration."""
        return [(Key.create_from(form), type) for form, type in self._types.items()]


def _form(pattern: Pattern) -> Pattern:
    """Return the pattern with its inner wildcards in one spelling, equal for all patterns that mean the same."""
    return (*(STAR if part == PLUS else part for part in pattern[:-1]), pattern[-1])


def _width(form: Pattern) -> tuple[int, ...]:
    inner = (int(part == STAR) for part in form[:-1])
    return (*inner, 2 if form[-1] == STAR else int(form[-1] == PLUS))


def name_of(type: Any) -> str:
    """Return the name of a type, as short as possible."""
    return type.__qualname__ if isinstance(type, _CLASS) and not get_args(type) else str(type).replace("typing.", "")


_CLASS = type  # for functions with a parameter named `type`


def accepts(type: Any, value: Any) -> bool:
    """True unless a value is plainly not of a type; looks at the value itself, not at its items.

    Like type checkers, it accepts an `int` as a `float`. If it cannot decide, it accepts.
    """
    origin = get_origin(type)
    if origin is Annotated:
        return accepts(get_args(type)[0], value)
    if origin is Literal:
        return any(value == each and value.__class__ is each.__class__ for each in get_args(type))
    if origin in (Union, types.UnionType):
        return any(accepts(each, value) for each in get_args(type))
    if is_typeddict(origin or type):
        return isinstance(value, Mapping)
    if isinstance(type, TypeVar):
        return True
    for inner in ("__supertype__", "__value__"):  # of a NewType, and of a `type` statement
        if hasattr(type, inner):
            return accepts(getattr(type, inner), value)
    if type in (float, complex) and isinstance(value, int):
        return True
    try:
        return isinstance(value, types.NoneType if type is None else origin or type)
    except TypeError:
        return True


def _where_published() -> str:
    """Return the line outside this package that is publishing, as text for a log."""
    frame: FrameType | None = sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
    return "" if frame is None else f" by {frame.f_code.co_filename}:{frame.f_lineno}"
