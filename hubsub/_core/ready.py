"""A queue for whoever does not wait at it, but wants to be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..event import Event, Gap
from .message_queue import Mailbox, Overflow, QueueOwner


class ReadyMailbox(Mailbox):
    """A mailbox that says when there is something to take where there was nothing.

    Args:
        check: Refuses the wrong thread.
        ready: Called then, when the mailbox is whole.
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
