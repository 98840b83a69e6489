"""Knowing when everybody has finished with a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .errors import Undelivered
from .log import Logger

Confirmed = Callable[[int, list[Undelivered]], object]
"""Called when everybody has: with how many finished, and the failures of the others."""

logger = Logger("hubsub.hub")


class Confirmation:
    """Counts who has still to finish with one message, and calls back when nobody has.

    No task, no timer, no future: whoever finishes last calls. The publish itself is one of them, until everybody has
    the message.
    """

    __slots__ = ("_confirmed", "_events", "_left", "failures", "finished")

    def __init__(self, confirmed: Confirmed) -> None:
        self._confirmed = confirmed
        self._left = 1
        self.finished = 0
        self.failures: list[Undelivered] = []
        self._events: list[Any] = []

    def hand_out(self, event: Any, registration: Any) -> None:
        """One more gets the message, as an event of its own: have that tell here."""
        event.confirmed = self.settle
        event.registration = registration
        self._left += 1
        self._events.append(event)

    def settle(self, finished: int, failures: list[Undelivered]) -> None:
        """One of those who were counted has said its word."""
        self.finished += finished
        self.failures += failures
        self._left -= 1
        if not self._left:
            try:
                self._confirmed(self.finished, self.failures)
            except (Exception, asyncio.CancelledError) as error:
                complain(self._confirmed, error)

    @property
    def waiting_for(self) -> list[Any]:
        """Who has not."""
        return [event.registration for event in self._events if event.confirmed is not None]


def complain(confirmed: Confirmed, error: BaseException) -> None:
    """Log what was raised by what is told of a confirmation.

    It is called by whoever happens to finish, or to drop that message for another: it is no failure of theirs.
    """
    logger.error("%r failed to hear of a confirmation", confirmed, error=error)
