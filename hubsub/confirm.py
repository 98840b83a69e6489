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


class Ticket:
    """One registration's part of a confirmed publish; the first word on it counts.

    Where there is no other part, whoever published is told directly, else a `Confirmation` is.
    """

    __slots__ = ("confirmed", "registration")

    # No __init__: without one it is made in C, in half the time. Who makes a ticket sets both.
    confirmed: Confirmed | None  # None once there was a word; so nothing keeps who was told, nor makes a cycle of it
    registration: Any

    def done(self) -> None:
        """It has finished with the message."""
        confirmed = self.confirmed
        if confirmed is not None:
            self.confirmed = None
            try:
                confirmed(1, [])
            except (Exception, asyncio.CancelledError) as error:
                _complain(confirmed, error)

    def fail(self, why: str, cause: BaseException | None = None) -> None:
        """It will not finish with it."""
        confirmed = self.confirmed
        if confirmed is not None:
            self.confirmed = None
            failure = Undelivered(self.registration, why)
            failure.__cause__ = cause
            try:
                confirmed(0, [failure])
            except (Exception, asyncio.CancelledError) as error:
                _complain(confirmed, error)


class Confirmation:
    """Counts who has still to finish with one message, and calls back when nobody has.

    No task, no timer, no future: whoever finishes last calls. The publish itself is one of them, until everybody has
    the message.
    """

    __slots__ = ("_confirmed", "_left", "failures", "finished", "tickets")

    def __init__(self, confirmed: Confirmed) -> None:
        self._confirmed = confirmed
        self._left = 1
        self.finished = 0
        self.failures: list[Undelivered] = []
        self.tickets: list[Ticket] = []

    def hand_out(self, registration: Any) -> Ticket:
        """A ticket for one who gets the message."""
        ticket = Ticket()
        ticket.confirmed = self.settle
        ticket.registration = registration
        self._left += 1
        self.tickets.append(ticket)
        return ticket

    def settle(self, finished: int, failures: list[Undelivered]) -> None:
        """One of those who were counted has said its word."""
        self.finished += finished
        self.failures += failures
        self._left -= 1
        if not self._left:
            try:
                self._confirmed(self.finished, self.failures)
            except (Exception, asyncio.CancelledError) as error:
                _complain(self._confirmed, error)

    @property
    def waiting_for(self) -> list[Any]:
        """Who has not."""
        return [ticket.registration for ticket in self.tickets if ticket.confirmed is not None]


def _complain(confirmed: Confirmed, error: BaseException) -> None:
    # It is called by whoever happens to finish, or to drop this message for another: it is no failure of theirs.
    logger.error("%r failed to hear of a confirmation", confirmed, cause=error)
