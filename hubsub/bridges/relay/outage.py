"""Interruptions of a connection, each logged as two lines: when it begins, and when it is over."""

from __future__ import annotations

import time

from ...log import Logger


class Outage:
    """An interruption: from the first failure until a connection works.

    Args:
        log: For its two lines.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._began: float | None = None
        self.attempts = 0
        """The number of failed attempts."""

    @property
    def seconds(self) -> float:
        """Its duration so far, in seconds."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def failed(self, error: BaseException | None) -> None:
        """Note another failure."""
        if self._began is None:
            self._began = time.monotonic()
            self._log_begin(error)
        self.attempts += 1

    def over(self) -> None:
        """Note that the connection works again."""
        if self._began is not None:
            self._log_end()
            self._began = None
            self.attempts = 0

    def _log_begin(self, error: BaseException | None) -> None:
        self._log.warning("not connected, trying again: %s", error)

    def _log_end(self) -> None:
        self._log.info("connected again after %.1f s, at attempt %d", self.seconds, self.attempts + 1)


class Refusal(Outage):
    """A period in which the broker accepts no messages over a sound connection."""

    def _log_begin(self, error: BaseException | None) -> None:
        self._log.warning("the broker accepts no messages, so the outbox waits: %s", error)

    def _log_end(self) -> None:
        self._log.info("the broker accepts messages again after %.1f s", self.seconds)
