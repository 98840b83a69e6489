"""Options from outside, judged where they are given: each function returns a valid value, or raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum
from functools import wraps
from operator import index
from typing import Any, ParamSpec, TypeVar

from ..describe import describe

E = TypeVar("E", bound=Enum)
P = ParamSpec("P")
R = TypeVar("R")


def seconds(value: Any, name: str, *, zero: bool = True) -> float:
    """Return a number of seconds as a float: not negative, finite, and with `zero=False` more than zero.

    Raises:
        ValueError: It is not one; nor are strings, bools, `nan` and `inf`.
    """
    number = _number(value)
    if number is not None and (0 < number < math.inf or (zero and number == 0)):
        return number
    raise ValueError(f"{name} must be a number of seconds{'' if zero else ', more than 0'}, not {describe(value)}")


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value
    # A string has no __float__, though float() accepts it.
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def factor_of(value: Any, name: str) -> float:
    """Return a growth factor as a float: at least 1, finite.

    Raises:
        ValueError: It is not one.
    """
    number = _number(value)
    if number is None or not 1 <= number < math.inf:
        raise ValueError(f"{name} must be a number, at least 1, not {describe(value)}")
    return number


def seconds_or_none(value: Any, name: str, *, zero: bool = True) -> float | None:
    """Return a number of seconds as `seconds` does, or None for no limit."""
    if value is None:
        return None
    try:
        return seconds(value, name, zero=zero)
    except ValueError as error:
        raise ValueError(f"{error}; None is no limit") from None


def count(value: Any, name: str, of: str = "messages", *, least: int = 1) -> int:
    """Return a number of things as an int, at least `least`.

    Raises:
        ValueError: It is not one; nor are bools and floats.
    """
    if not isinstance(value, bool):
        try:
            number = index(value)
        except TypeError:
            pass
        else:
            if number >= least:
                return number
    raise ValueError(f"{name} must be a number of {of}, at least {least}, not {describe(value)}")


def count_or_none(value: Any, name: str, of: str = "messages", *, least: int = 1) -> int | None:
    """Return a number of things as `count` does, or None."""
    return None if value is None else count(value, name, of, least=least)


def member(value: Any, name: str, kind: type[E]) -> E:
    """Return a member of an enumeration, which may be given by its value.

    Raises:
        ValueError: It is not one; the error names them all.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name}" for each in kind)
        raise ValueError(f"{name} must be one of {known}, not {describe(value)}") from None


def choice(value: Any, name: str, known: Iterable[Any]) -> Any:
    """Return a value that is one of a few.

    Raises:
        ValueError: It is not one of them.
    """
    known = tuple(known)
    if not any(value is each or (type(value) is type(each) and value == each) for each in known):
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {describe(value)}")
    return value


def headers_of(value: Any, name: str = "headers") -> dict[str, str]:
    """Return a copy of headers as a dictionary; None means no headers.

    Raises:
        ValueError: They are not a mapping of strings to strings.
    """
    if value is None:
        return {}
    try:
        headers = dict(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a mapping of str to str, not {describe(value)}") from None
    for each in (*headers.keys(), *headers.values()):
        if not isinstance(each, str):
            raise ValueError(f"{name} must be a mapping of str to str, and {describe(each)} is not a str")
    return headers


def options_of(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse options that `what` does not know.

    Raises:
        TypeError: There is an unknown option; the error names the nearest known one.
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            from difflib import get_close_matches  # seldom needed, and not light

            near = get_close_matches(name, known, 1, 0.6)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(f'{each}=' for each in sorted(known))}"
            raise TypeError(f"{what} has no option {name}=; {hint}")


def named_options(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse options that a function does not know as `options_of` does; Python would not name the nearest one."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        code = function.__code__
        known = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]

        names = frozenset(known)

        @wraps(function)
        def call(*arguments: P.args, **options: P.kwargs) -> R:
            if not names.issuperset(options):
                options_of(options, [name for name in known if name not in ("self", "cls")], what)
            return function(*arguments, **options)

        return call

    return decorate
