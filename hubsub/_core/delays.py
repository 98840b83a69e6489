"""Messages that are due later: they leave for a broker, which keeps them, and nobody here gets them before."""

from __future__ import annotations

from time import time as now
from typing import Any

from ..describe import describe
from ..errors import Unsupported
from ..event import Meta
from .routes import Route

MOST_DUE = 253_402_300_800.0
"""The year 10000: what is later cannot be written as a date."""


def is_delayed(meta: Meta) -> bool:
    """Return whether a message is due later than now.

    Raises:
        ValueError: What it says is no time.
    """
    due: Any = meta.due
    if due is None:
        return False
    if not isinstance(due, int | float) or isinstance(due, bool) or not abs(due) < MOST_DUE:
        raise ValueError(f"due is a time in seconds since the epoch, not {describe(due)}")
    return due > now()


def carriers_of(route: Route) -> list[Any]:
    """Return who gets the delayed messages of a route: the bridges that carry them to a broker.

    Raises:
        Unsupported: There is none.
    """
    targets = [target for target in route.targets if target.remote]
    if not targets:
        why = f"no bridge carries {route.key!r} to a broker that keeps what is due later"
        raise Unsupported("this hub", "delays", why)
    return targets
