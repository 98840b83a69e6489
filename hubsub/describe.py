"""Things from outside as text, for logs, errors and reports: bounded in length, and without ever raising."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

# The characters of a description, of a string in one, the items of a container, and how deep containers are opened.
MOST, MOST_STRING, MOST_ITEMS, MOST_DEEP = 1000, 200, 20, 4


def describe(thing: object) -> str:
    """Return the `repr` of anything in at most `MOST` characters; never raise, whatever `repr` does.

    Long strings and containers are shortened before they are formatted, and functions, methods and partials never
    show what they hold, so that describing a listener costs microseconds whatever it is bound to.
    """
    return _cut(_form(thing, MOST_DEEP), MOST)


def describe_all(things: Iterable[object]) -> str:
    """Return the descriptions of several, separated by commas; of very many only the first."""
    first = list(islice(things, MOST_ITEMS + 1))
    more = ", …" if len(first) > MOST_ITEMS else ""
    return ", ".join(map(describe, first[:MOST_ITEMS])) + more


def describe_error(error: BaseException) -> str:
    """Return type and text of an error in one bounded line; never raise."""
    kind = type(error).__name__
    try:
        text = str(error)
    except (Exception, asyncio.CancelledError):
        return f"{kind}, whose text cannot be formatted"
    return f"{kind}: {_cut(text, MOST)}" if text else kind


def name_of_callable(function: Any) -> str:
    """Return the name of a callable, without running any code of its own: for the names of tasks."""
    while type(function) is partial:
        function = function.func
    if isinstance(function, FunctionType | MethodType | BuiltinMethodType | type):
        return function.__qualname__
    return f"{type(function).__qualname__} object"


class Description(str):
    """A description that both `%r` and `%s` show unchanged."""

    __slots__ = ()

    __repr__ = str.__str__


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}…{text[-half:]}"


def _form(thing: Any, deep: int) -> str:
    # By the repr and not the class: whatever has a container's own repr is shown as that container, a Key as a tuple.
    try:
        form = _FORMS.get(type(thing).__repr__)
        return repr(thing) if form is None else form(thing, deep)
    except (Exception, asyncio.CancelledError):
        return object.__repr__(thing)


def _form_string(text: Any, deep: int) -> str:
    if len(text) <= MOST_STRING:
        return repr(text)
    half = MOST_STRING // 2
    return f"{text[:half]!r}…{text[-half:]!r}"


def _form_items(brackets: str) -> Callable[[Any, int], str]:
    def form(items: Any, deep: int) -> str:
        if not items:
            return repr(items)
        if not deep:
            return brackets.replace("%", "…")
        parts = [_form(item, deep - 1) for item in islice(items, MOST_ITEMS)]
        if len(items) > MOST_ITEMS:
            parts.append("…")
        comma = "," if brackets == "(%)" and len(parts) == 1 else ""
        return brackets.replace("%", ", ".join(parts) + comma, 1)

    return form


def _form_dict(items: Any, deep: int) -> str:
    if not deep:
        return "{…}"
    parts = [f"{_form(key, deep - 1)}: {_form(items[key], deep - 1)}" for key in islice(items, MOST_ITEMS)]
    if len(items) > MOST_ITEMS:
        parts.append("…")
    return f"{{{', '.join(parts)}}}"


def _form_partial(function: Any, deep: int) -> str:
    held = ", …" if function.args or function.keywords else ""
    return f"partial({_form(function.func, deep)}{held})"


def _form_method(method: Any, deep: int) -> str:
    owner = method.__self__
    shown = owner.__qualname__ if isinstance(owner, type) else object.__repr__(owner)
    return f"<bound method {method.__func__.__qualname__} of {shown}>"


# By the `__repr__` that would otherwise be called.
_FORMS: dict[Any, Callable[[Any, int], str]] = {
    str.__repr__: _form_string,
    bytes.__repr__: _form_string,
    bytearray.__repr__: _form_string,
    tuple.__repr__: _form_items("(%)"),
    list.__repr__: _form_items("[%]"),
    set.__repr__: _form_items("{%}"),
    frozenset.__repr__: _form_items("frozenset({%})"),
    deque.__repr__: _form_items("deque([%])"),
    dict.__repr__: _form_dict,
    partial.__repr__: _form_partial,
    MethodType.__repr__: _form_method,
}
