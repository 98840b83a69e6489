"""An interruption, from its first failure until it is over, as two lines in the log."""

from __future__ import annotations

import time

from ...describe import describe_error
from ...log import Logger


class Outage:
    """An interruption: from the first failure until a connection has been of use. Each is one line in the log.

    Args:
        log: Where that is.
        lost: What the first line says.
        found: What the last one says.
    """

    def __init__(self, log: Logger, lost: str = "not connected, trying again", found: str = "connected again") -> None:
        self._log = log
        self._lost = lost
        self._found = found
        self._began: float | None = None
        self.attempts = 0
        """How often it was tried in vain."""

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def failed(self, error: BaseException | None) -> None:
        """A connection was lost, or did not come about."""
        if self._began is None:
            self._began = time.monotonic()
            self._log.warning("%s: %s", self._lost, "it ended" if error is None else describe_error(error))
        self.attempts += 1

    def over(self) -> None:
        """Something was sent or heard."""
        if self._began is not None:
            self._log.info("%s after %.1f s, at attempt %d", self._found, self.seconds, self.attempts + 1)
            self._began = None
            self.attempts = 0
