"""How fast a client may publish: within what the endpoint allows, so that nothing is refused for being too fast."""

from __future__ import annotations

import time

# The share of the limit that is used: a delayed message may arrive together with the next ones.
OF_BURST = 0.5
OF_RATE = 0.95


class Pace:
    """A bucket of tokens, as the endpoint has one.

    Args:
        rate: Messages a second.
        burst: Messages at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = max(rate * OF_RATE, 0.001)
        self._burst = max(burst * OF_BURST, 1.0)
        self._left = self._burst
        self._since = time.monotonic()

    def room(self) -> int:
        """How many may be sent now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        return int(self._left)

    def wait(self) -> float:
        """Seconds until the next one may be sent."""
        return max(0.0, (1 - self._left) / self._rate)

    def spend(self, number: int) -> None:
        """Count messages that are sent."""
        self._left -= number

    def refused(self) -> None:
        """Begin again with nothing: the endpoint has counted more than this did."""
        self._left = min(self._left, 0.0)
