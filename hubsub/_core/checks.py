"""Options from outside, judged where they are given: each returns what it was given, ready for use, or refuses it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from operator import index
from typing import Any, TypeVar

from ..describe import describe

E = TypeVar("E", bound=Enum)


def seconds(value: Any, name: str, *, zero: bool = True) -> float:
    """Return a number of seconds as a float: not negative, finite, and with `zero=False` more than zero.

    Raises:
        ValueError: It is none. A string, a bool, `nan` and `inf` are none.
    """
    number = _number(value)
    if number is not None and (0 < number < math.inf or (zero and number == 0)):
        return number
    raise ValueError(f"{name} is a number of seconds{'' if zero else ', more than 0'}, not {describe(value)}")


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value
    # A string has no __float__, though float() takes it.
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def factor_of(value: Any, name: str) -> float:
    """Return what something is multiplied with again and again as a float: at least 1, finite.

    Raises:
        ValueError: It is none.
    """
    number = _number(value)
    if number is None or not 1 <= number < math.inf:
        raise ValueError(f"{name} is a number, at least 1, not {describe(value)}")
    return number


def seconds_or_none(value: Any, name: str, *, zero: bool = True) -> float | None:
    """Return a number of seconds as `seconds` does; None, which is no limit, as it is."""
    if value is None:
        return None
    try:
        return seconds(value, name, zero=zero)
    except ValueError as error:
        raise ValueError(f"{error}; None is no limit") from None


def count(value: Any, name: str, of: str = "messages", *, least: int = 1) -> int:
    """Return a number of things as an int, at least `least`.

    Raises:
        ValueError: It is none. A bool and a float are none.
    """
    if not isinstance(value, bool):
        try:
            number = index(value)
        except TypeError:
            pass
        else:
            if number >= least:
                return number
    raise ValueError(f"{name} is a number of {of}, at least {least}, not {describe(value)}")


def count_or_none(value: Any, name: str, of: str = "messages", *, least: int = 1) -> int | None:
    """Return a number of things as `count` does; None as it is."""
    return None if value is None else count(value, name, of, least=least)


def member(value: Any, name: str, kind: type[E]) -> E:
    """Return a member of an enumeration, which may be given by its value.

    Raises:
        ValueError: It is none; the error names them all.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name}" for each in kind)
        raise ValueError(f"{name} is one of {known}, not {describe(value)}") from None


def choice(value: Any, name: str, known: Iterable[Any]) -> Any:
    """Return one of a few values.

    Raises:
        ValueError: It is none of them.
    """
    known = tuple(known)
    if not any(value is each or (type(value) is type(each) and value == each) for each in known):
        raise ValueError(f"{name} is {' or '.join(map(repr, known))}, not {describe(value)}")
    return value


def headers_of(value: Any, name: str = "headers") -> dict[str, str]:
    """Return headers as a dictionary of their own; None for none.

    Raises:
        ValueError: They are no mapping of strings to strings.
    """
    if value is None:
        return {}
    try:
        headers = dict(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a mapping of str to str, not {describe(value)}") from None
    for each in (*headers.keys(), *headers.values()):
        if not isinstance(each, str):
            raise ValueError(f"{name} is a mapping of str to str, and {describe(each)} is none")
    return headers


def options_of(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse options that `what` does not know.

    Raises:
        TypeError: There is one; the error names the nearest that is known.
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            from difflib import get_close_matches  # seldom needed, and not light

            near = get_close_matches(name, known, 1, 0.6)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(f'{each}=' for each in sorted(known))}"
            raise TypeError(f"{what} has no option {name}=; {hint}")
