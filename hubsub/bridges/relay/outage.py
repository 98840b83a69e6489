"""An interruption, from its first failure until it is over, as two lines in the log."""

from __future__ import annotations

import time

from ...log import Logger


class Outage:
    """An interruption of the connection: from the first failure until one has been of use.

    Args:
        log: Where its two lines go.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._began: float | None = None
        self.attempts = 0
        """How often it was tried in vain."""

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def failed(self, error: BaseException | None) -> None:
        """Once more it did not work."""
        if self._began is None:
            self._began = time.monotonic()
            self._log_begin(error)
        self.attempts += 1

    def over(self) -> None:
        """It works again."""
        if self._began is not None:
            self._log_end()
            self._began = None
            self.attempts = 0

    def _log_begin(self, error: BaseException | None) -> None:
        self._log.warning("not connected, trying again: %s", error)

    def _log_end(self) -> None:
        self._log.info("connected again after %.1f s, at attempt %d", self.seconds, self.attempts + 1)


class Refusal(Outage):
    """A time in which the broker takes nothing, over a sound connection."""

    def _log_begin(self, error: BaseException | None) -> None:
        self._log.warning("the broker takes nothing just now, and the outbox waits: %s", error)

    def _log_end(self) -> None:
        self._log.info("the broker takes messages again after %.1f s", self.seconds)
