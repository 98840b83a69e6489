"""Refusing another thread's publish before anyone is called."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from ..event import Event
from ..key import Deliver, Key
from .life import Life


class ThreadGuard:
    """Comes first in routes to plain listeners and to a target that may refuse the calling thread.

    Without it, listeners would be called before the publish raises. Checking the thread in every publish would cost too
    much; here it takes as long as calling one more listener.
    """

    __slots__ = ("deliver", "missed", "order")

    def __init__(self, life: Life) -> None:
        self.deliver: Deliver = _checking(life)
        self.order = 0  # before all others
        self.missed = 0

    def returned(self, event: Event[Any], result: object, /) -> None:
        """It returns nothing."""


def _checking(life: Life) -> Callable[[Key[Any], Any], None]:
    def check(key: Key[Any], message: Any) -> None:
        thread = life.thread
        if thread and thread != get_ident():
            life.check_thread()

    return check
