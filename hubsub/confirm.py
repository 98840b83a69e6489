"""Knowing when everybody has finished with a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ._core.callables import refuse_awaitable
from .errors import Undelivered
from .log import Logger

Confirmed = Callable[[int, list[Undelivered]], object]
"""Called when everybody has finished or failed: with how many finished, and the failures of the others."""

logger = Logger("hubsub.hub")


class Confirmation:
    """Counts who still has to finish with one message, and calls back when everybody has.

    It needs no task, timer or future: the last one to finish calls back. The publish itself counts as one, until
    everybody has the message.
    """

    __slots__ = ("_confirmed", "_events", "_left", "failures", "finished")

    def __init__(self, confirmed: Confirmed) -> None:
        self._confirmed = confirmed
        self._left = 1
        self.finished = 0
        self.failures: list[Undelivered] = []
        self._events: list[Any] = []

    def hand_out(self, event: Any, registration: Any) -> None:
        """Count one more that gets the message; `event`, its own copy, reports here when it is finished."""
        event.confirmed = self.settle
        event.registration = registration
        self._left += 1
        self._events.append(event)

    def settle(self, finished: int, failures: list[Undelivered]) -> None:
        """Count one as finished or failed; call back if it was the last."""
        self.finished += finished
        self.failures += failures
        self._left -= 1
        if not self._left:
            try:
                refuse_awaitable(self._confirmed(self.finished, self.failures), self._confirmed, "confirmed")
            except (Exception, asyncio.CancelledError) as error:
                complain(self._confirmed, error)

    @property
    def waiting_for(self) -> list[Any]:
        """The registrations that have not finished."""
        return [event.registration for event in self._events if event.confirmed is not None]


def complain(confirmed: Confirmed, error: BaseException) -> None:
    """Log what the callback of a confirmation raised.

    It runs inside whoever happens to finish last, or drops the message for a newer one: the failure is not theirs.
    """
    logger.error("the confirmation callback %r failed", confirmed, error=error)
