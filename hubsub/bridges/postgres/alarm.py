"""An alarm whose time can be brought forward."""

from __future__ import annotations

import asyncio
import math


class Alarm:
    """Wakes one task at the earliest of the times that were set; for one connection, on its loop."""

    def __init__(self) -> None:
        self._at = math.inf
        self._is_earlier = asyncio.Event()

    def clear(self) -> None:
        """Forget all times."""
        self._at = math.inf

    def set(self, seconds: float) -> None:
        """Wake the task after so many seconds, or earlier if that was set before."""
        at = asyncio.get_running_loop().time() + seconds
        if at < self._at:
            self._at = at
            self._is_earlier.set()

    async def wait(self) -> None:
        """Return when the earliest time has come."""
        clock = asyncio.get_running_loop().time
        while (seconds := self._at - clock()) > 0:
            self._is_earlier.clear()
            waiting = asyncio.ensure_future(self._is_earlier.wait())
            try:
                await asyncio.wait([waiting], timeout=None if seconds == math.inf else seconds)
            finally:
                waiting.cancel()
