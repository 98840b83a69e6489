"""Knowing when everybody has finished with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import Undelivered

Confirmed = Callable[[int, list[Undelivered]], object]
"""Called when everybody has: with how many finished, and the failures of the others."""


class Confirmation:
    """Counts who has still to finish with one message, and calls back when nobody has.

    No task, no timer, no future: whoever finishes last calls.
    """

    __slots__ = ("_confirmed", "failures", "finished", "open")

    def __init__(self, confirmed: Confirmed) -> None:
        self._confirmed = confirmed
        self.finished = 0
        self.failures: list[Undelivered] = []
        # Those who have not finished; none of them may be the last before all have the message.
        self.open: dict[Ticket | None, None] = {None: None}

    def close(self, ticket: Ticket | None) -> None:
        """One has finished, in whatever way; None is the publish itself."""
        del self.open[ticket]
        if not self.open:
            self._confirmed(self.finished, self.failures)


class Ticket:
    """One registration's part of a confirmation; the first word on it counts."""

    __slots__ = ("_confirmation", "registration")

    def __init__(self, confirmation: Confirmation, registration: Any) -> None:
        self._confirmation = confirmation
        self.registration = registration
        confirmation.open[self] = None

    def done(self) -> None:
        """It has finished with the message."""
        confirmation = self._confirmation
        if self in confirmation.open:
            confirmation.finished += 1
            confirmation.close(self)

    def fail(self, why: str, cause: BaseException | None = None) -> None:
        """It will not finish with it."""
        confirmation = self._confirmation
        if self in confirmation.open:
            failure = Undelivered(self.registration, why)
            failure.__cause__ = cause
            confirmation.failures.append(failure)
            confirmation.close(self)
