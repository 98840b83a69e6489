"""How notebooks show a hub and its parts: as small tables. What comes from outside is bounded, and escaped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from ..describe import describe

V = TypeVar("V")

# The subscriptions that are shown; of the others, their number.
MOST = 50


def table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Return an HTML table of values; strings are shown as they are, and anything else as it is described."""
    from html import escape  # seldom needed

    def cells(row: Sequence[object], tag: str) -> str:
        shown = (value if isinstance(value, str) else describe(value) for value in row)
        return "<tr>" + "".join(f"<{tag}>{escape(each)}</{tag}>" for each in shown) + "</tr>"

    lines = [cells(row, "td") for row in rows]
    heading = f"<thead>{cells(head, 'th')}</thead>" if head else ""
    return f"<table><caption>{escape(title)}</caption>{heading}<tbody>{''.join(lines)}</tbody></table>"


def bounded(things: Collection[V], row: Callable[[V], Sequence[object]]) -> list[Sequence[object]]:
    """Return a row for each of the first things, and one with the number of the others."""
    rows = [row(each) for each in islice(things, MOST)]
    left = len(things) - len(rows)
    return [*rows, (f"and {left} more",)] if left else rows


def figures(thing: object, names: Iterable[str]) -> list[tuple[str, object]]:
    """Return the attributes of these names that say something: neither None nor zero."""
    found = ((name, getattr(thing, name, None)) for name in names)
    return [(name, value) for name, value in found if value is not None and value != 0]
