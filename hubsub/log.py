"""Logging through logwood where it is installed and configured, else through the standard module.

The choice is made when a line is logged, not at import: applications configure their logging after importing. A
logwood that nobody configured refuses to make loggers, so it is left alone until somebody does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING

from .describe import Description, describe, describe_error

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_PACKAGE = __name__.partition(".")[0]
# Shown as they are; anything else is described first, so that no `repr` of a user's class can break a handler.
_PLAIN = (int, float, Description)


class Logger:
    """Logs under one name to whichever back end is in use; never raises, whatever the values or a handler do.

    Each method logs one line: `values` fill the `%` fields of `message`, and the traceback of `error` is shown with
    it. Records of the standard module have the error in `exc_info`, and the file and line that called this package; in
    a task of the package's own, the line in the package that logged.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def debug(self, message: str, *values: object, error: BaseException | None = None) -> None:
        """Log a detail that helps to follow what happened."""
        self._log(logging.DEBUG, message, values, error)

    def info(self, message: str, *values: object, error: BaseException | None = None) -> None:
        """Log something worth knowing that is in order."""
        self._log(logging.INFO, message, values, error)

    def warning(self, message: str, *values: object, error: BaseException | None = None) -> None:
        """Log something that somebody should look at."""
        self._log(logging.WARNING, message, values, error)

    def error(self, message: str, *values: object, error: BaseException | None = None) -> None:
        """Log a failure."""
        self._log(logging.ERROR, message, values, error)

    def _log(self, level: int, message: str, values: tuple[object, ...], error: BaseException | None) -> None:
        try:
            # An application that configured logwood has imported it: looking in sys.modules avoids the import.
            state = sys.modules.get("logwood.state")
            if state is not None and state.config_called:
                self._log_with_logwood(level, message, _shown(values), error)
                return
            logger = logging.getLogger(self.name)
            if logger.isEnabledFor(level):
                exc_info = None if error is None else _exc_info(error)
                logger.log(level, message, *_shown(values), exc_info=exc_info, stacklevel=_stacklevel())
        except RecursionError:
            raise  # there is room for it further up
        except (Exception, asyncio.CancelledError):
            # As the standard module does with most errors of its handlers: print it, and go on.
            if sys.stderr is not None:
                traceback.print_exc()

    def _log_with_logwood(
        self, level: int, message: str, values: tuple[object, ...], error: BaseException | None
    ) -> None:
        if error is not None:
            # As an argument: it may have % signs.
            message += "\n%s"
            values += ("".join(traceback.format_exception(*_exc_info(error))).rstrip(),)
        method = logging.getLevelName(level).lower()
        getattr(sys.modules["logwood"].get_logger(self.name), method)(message, *values)


class Episode:
    """Logs trouble that goes on as a few lines: the first of a kind at once, its repeats as a number.

    An episode lasts as long as the trouble that it logs: an outage, a full queue. A kind is an unformatted message and
    the type of its error. A repeat is logged again, with how many were left out, `every` seconds after the last line of
    its kind at the earliest; `end` logs how many were left out since. There is no timer and no task.

    >>> outage = Episode(Logger("hubsub.bridge.docs"))
    >>> outage.warning("%r is not connected", "bridge")     # logged
    True
    >>> outage.warning("%r is not connected", "bridge")     # counted
    False
    >>> outage.end()        # logs that it came once more, and starts over
    2
    >>> outage.end()        # there was nothing: logs nothing
    0

    A relay makes one, calls `warning` or `error` at each failed attempt, and `end` when the connection is up:

        if outage.end():
            logger.info("%r is connected again", self)

    Args:
        logger: Where the lines go.
        every: Seconds between two lines of a kind.
    """

    __slots__ = ("_kinds", "_logger", "every")

    # Kinds that are distinguished; beyond it all are logged as one.
    MOST_KINDS = 32

    def __init__(self, logger: Logger, every: float = 60.0) -> None:
        self._logger = logger
        self.every = every
        self._kinds: dict[tuple[str, type | None], _Kind] = {}

    @property
    def is_on(self) -> bool:
        """True if something was logged or counted since it began."""
        return bool(self._kinds)

    def warning(self, message: str, *values: object, error: BaseException | None = None) -> bool:
        """Log it as a warning, or count it; return whether it was logged."""
        return self._log_or_count(logging.WARNING, message, values, error)

    def error(self, message: str, *values: object, error: BaseException | None = None) -> bool:
        """Log it as an error, or count it; return whether it was logged."""
        return self._log_or_count(logging.ERROR, message, values, error)

    def end(self) -> int:
        """Log what was only counted, and start over; return how often there was trouble, 0 for never."""
        kinds, self._kinds = self._kinds, {}
        for kind in kinds.values():
            if kind.left_out:
                self._logger._log(kind.level, f"{kind.message} (%d more like it)", (*kind.values, kind.left_out), None)
        return sum(kind.count for kind in kinds.values())

    def _log_or_count(self, level: int, message: str, values: tuple[object, ...], error: BaseException | None) -> bool:
        named = (message, type(error) if error is not None else None)
        kind = self._kinds.get(named)
        if kind is None and len(self._kinds) >= self.MOST_KINDS:
            kind = next(reversed(self._kinds.values()))
        at = time.monotonic()
        if kind is None:
            kind = self._kinds[named] = _Kind(level, message)
        elif at - kind.logged < self.every:
            # Shown now, since an episode should keep nothing alive.
            kind.message, kind.values = message, _shown(values)
            kind.count += 1
            kind.left_out += 1
            return False
        kind.count += 1
        kind.logged = at
        if kind.left_out:
            message, values = f"{message} (%d more like it)", (*values, kind.left_out)
            kind.left_out = 0
        self._logger._log(level, message, values, error)
        return True


class _Kind:
    """One kind of trouble in an episode."""

    __slots__ = ("count", "left_out", "level", "logged", "message", "values")

    def __init__(self, level: int, message: str) -> None:
        self.level = level
        self.message = message
        self.values: tuple[object, ...] = ()
        self.count = 0
        self.left_out = 0
        self.logged = 0.0


def _shown(values: tuple[object, ...]) -> tuple[object, ...]:
    """Return the values of a line in a form that cannot fail to be formatted."""
    return tuple(map(_show, values))


def _show(value: object) -> object:
    if type(value) in _PLAIN:
        return value
    if type(value) is str:
        return value if len(value) <= 10_000 else f"{value[:10_000]}…"
    return Description(describe_error(value) if isinstance(value, BaseException) else describe(value))


def _exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return the error to log: itself, or a stand-in with its traceback if it cannot be formatted."""
    try:
        # Without its frames this is cheap, and finds what would break the handler later.
        "".join(traceback.TracebackException(type(error), error, None, limit=0).format())
    except (Exception, asyncio.CancelledError):
        stand_in = Exception(f"a {type(error).__name__}, whose text cannot be formatted")
        return Exception, stand_in, error.__traceback__
    return type(error), error, error.__traceback__


def _stacklevel() -> int:
    """Return how far above `Logger._log` the call of this package is, as the standard module counts frames.

    In a task of our own there is no such call, only the event loop: then it is the line in the package that logs.
    """
    frame: FrameType | None = sys._getframe(1)
    level = own = 0
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module != "logging":
            package = module.partition(".")[0]
            level += 1
            if package == _PACKAGE:
                own = own or (level if module != __name__ else 0)
            elif package in ("asyncio", "threading", "concurrent"):
                break
            elif package != "contextlib":
                return level
        frame = frame.f_back
    return max(own, 1)
