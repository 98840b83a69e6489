"""Knowing when everybody has finished with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import Undelivered

Confirmed = Callable[[int, list[Undelivered]], object]
"""Called when everybody has: with how many finished, and the failures of the others."""


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
        ticket = Ticket(self, registration)
        self._left += 1
        self.tickets.append(ticket)
        return ticket

    def settle(self) -> None:
        """One of those who were counted has said its word."""
        self._left -= 1
        if not self._left:
            self.tickets.clear()  # which know this: without a cycle there is nothing for the garbage collector
            self._confirmed(self.finished, self.failures)

    @property
    def waiting_for(self) -> list[Any]:
        """Who has not."""
        return [ticket.registration for ticket in self.tickets if ticket.is_open]


class Ticket:
    """One registration's part of a confirmation; the first word on it counts."""

    __slots__ = ("_confirmation", "is_open", "registration")

    def __init__(self, confirmation: Confirmation, registration: Any) -> None:
        self._confirmation = confirmation
        self.registration = registration
        self.is_open = True

    def done(self) -> None:
        """It has finished with the message."""
        if self.is_open:
            self.is_open = False
            self._confirmation.finished += 1
            self._confirmation.settle()

    def fail(self, why: str, cause: BaseException | None = None) -> None:
        """It will not finish with it."""
        if self.is_open:
            self.is_open = False
            failure = Undelivered(self.registration, why)
            failure.__cause__ = cause
            self._confirmation.failures.append(failure)
            self._confirmation.settle()
