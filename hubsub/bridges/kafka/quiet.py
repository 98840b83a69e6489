"""What the driver logs for an adapter, reduced to one line for each episode.

The driver retries by itself and logs each attempt, tens of thousands of lines in an outage. Its loggers belong to the
whole process, so lines are distinguished by the context that they are logged in, which tasks and callbacks inherit.
Lines of other users of the driver pass unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Lines of one kind with fewer seconds than this between them are one episode.
EPISODE = 60.0


class Quiet:
    """Lets through one line of an episode, and counts the others.

    All warnings and errors are one kind, since an outage causes many different ones. Other lines are distinguished by
    the place in the driver that logs them. With the driver's loggers at level `DEBUG`, everything passes.
    """

    def __init__(self) -> None:
        self.left_out = 0
        """Lines that were only counted since the last one that passed."""
        self.is_closing = False
        """True if nothing passes: when it is stopped, the driver logs every request that this interrupts."""
        self._last: dict[object, float] = {}

    def lets_through(self, line: logging.LogRecord) -> bool:
        """Return whether a line passes; add to it how many did not."""
        kind = "trouble" if line.levelno >= logging.WARNING else (line.pathname, line.lineno)
        now = time.monotonic()
        last = self._last.get(kind)
        self._last[kind] = now
        if self.is_closing or (last is not None and now - last < EPISODE):
            self.left_out += 1
            return False
        if self.left_out:
            line.msg, line.args = "%s (%d lines before it were left out)", (line.getMessage(), self.left_out)
            self.left_out = 0
        return True


_QUIET: ContextVar[Quiet | None] = ContextVar("hubsub_kafka_quiet", default=None)


@contextmanager
def kept(quiet: Quiet) -> Iterator[None]:
    """Apply `quiet` to what the driver logs in the block, and in everything started there."""
    token = _QUIET.set(quiet)
    try:
        yield
    finally:
        _QUIET.reset(token)


def _passes(line: logging.LogRecord) -> bool:
    # A level that logs every request logs the one with the password too.
    if line.name == "aiokafka.conn" and "sasl_auth_bytes=" in line.getMessage():
        return False
    quiet = _QUIET.get()
    return quiet is None or line.levelno < logging.INFO or _wants_all(line.name) or quiet.lets_through(line)


def _wants_all(name: str) -> bool:
    """True if these loggers, and not merely the root logger, are set to log everything."""
    while name:
        level = logging.getLogger(name).level
        if level != logging.NOTSET:
            return level <= logging.DEBUG
        name = name.rpartition(".")[0]
    return False


def install() -> None:
    """Install the filter on all loggers of the driver that exist by now."""
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logger = logging.getLogger(name)
            if _passes not in logger.filters:
                logger.addFilter(_passes)
