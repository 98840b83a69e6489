"""A queue that calls a function when it has something to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..event import Event, Gap
from .message_queue import Mailbox, Overflow, QueueOwner


class ReadyMailbox(Mailbox):
    """A mailbox that calls `ready` when it was empty and now has something to read.

    Args:
        check: Refuses the wrong thread.
        ready: Called once the mailbox is consistent again.
        maxsize: As of `Mailbox`; the other arguments too.
        overflow: As of `Mailbox`.
        owner: As of `Mailbox`.
        gaps: As of `Mailbox`.
    """

    __slots__ = ("_check", "_ready")

    def __init__(
        self,
        check: Callable[[], None],
        ready: Callable[[], None],
        maxsize: int,
        overflow: Overflow,
        owner: QueueOwner,
        *,
        gaps: bool = False,
    ) -> None:
        super().__init__(maxsize, overflow, owner, gaps=gaps)
        self._check = check
        self._ready = ready
        put = self.put
        self.put = lambda key, message: self._filling(put, key, message)

    def put_event(self, event: Event[Any], bounded: bool = False) -> None:
        """As `Mailbox.put_event`."""
        self._filling(super().put_event, event, bounded)

    def replay(self, events: list[Event[Any]]) -> None:
        """As `Mailbox.replay`."""
        self._filling(super().replay, events)

    def miss(self, gap: Gap) -> None:
        """As `Mailbox.miss`."""
        self._filling(super().miss, gap)

    def _filling(self, fill: Callable[..., object], *arguments: Any) -> None:
        if not self.is_empty:
            fill(*arguments)
            return
        self._check()
        try:
            fill(*arguments)
        finally:
            if not self.is_empty:
                self._ready()
