"""What the driver logs on an adapter's behalf: of each episode one line, however many it has to say.

The driver retries by itself and logs each attempt, tens of thousands of lines in an outage. Its loggers belong to the
whole process, so lines are told apart by the context in which they are logged: tasks and callbacks inherit it from
whoever started them. Lines of other users of the driver pass as they always did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Lines of one kind with less than so many seconds between them are one episode.
EPISODE = 60.0


class Quiet:
    """Lets through one line of an episode, and counts the others.

    All warnings and errors are one kind: an outage has many voices. Lines that only inform are told apart by where
    they stand in the driver. Whoever sets the level of the driver's loggers to `DEBUG` gets everything.
    """

    def __init__(self) -> None:
        self.left_out = 0
        """Lines that were counted only, since the last one that passed."""
        self.is_closing = False
        """Nothing passes: the driver logs every request that its end interrupts."""
        self._last: dict[object, float] = {}

    def lets_through(self, line: logging.LogRecord) -> bool:
        """Say whether a line passes; it then says how many did not."""
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
    """Have `quiet` judge what the driver logs within, and in all that is started within."""
    token = _QUIET.set(quiet)
    try:
        yield
    finally:
        _QUIET.reset(token)


def _passes(line: logging.LogRecord) -> bool:
    # Where it logs every request, it logs the one with the password too.
    if line.name == "aiokafka.conn" and "sasl_auth_bytes=" in line.getMessage():
        return False
    quiet = _QUIET.get()
    return quiet is None or line.levelno < logging.INFO or _wants_all(line.name) or quiet.lets_through(line)


def _wants_all(name: str) -> bool:
    """True if somebody has asked for all that these loggers have to say: of them, not of all loggers there are."""
    while name:
        level = logging.getLogger(name).level
        if level != logging.NOTSET:
            return level <= logging.DEBUG
        name = name.rpartition(".")[0]
    return False


def install() -> None:
    """Have all loggers of the driver that exist by now ask who keeps them."""
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logger = logging.getLogger(name)
            if _passes not in logger.filters:
                logger.addFilter(_passes)
