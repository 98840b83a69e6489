"""Logging through logwood where it is installed and configured, else through the standard module.

The choice is made when a line is logged, not at import: applications configure their logging after importing. A
logwood that nobody configured refuses to make loggers, so it is left alone until somebody does.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any


class Logger:
    """A logger of that name in whichever back end is in use."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def warning(self, message: str, *values: object) -> None:
        """Log one line; `values` fill the `%` places of `message`."""
        self._log("warning", message, values)

    def error(self, message: str, *values: object, cause: BaseException | None = None) -> None:
        """Log one line and, below it, the traceback of `cause`."""
        if cause is not None:
            message += "\n%s"
            values += ("".join(traceback.format_exception(cause)).rstrip(),)
        self._log("error", message, values)

    def _log(self, level: str, message: str, values: tuple[object, ...]) -> None:
        try:
            getattr(self._backend(), level)(message, *values)
        except RecursionError:
            raise  # there is room for it further up
        except Exception:
            # As the standard module does with most errors of its handlers: say so, and hurt nobody.
            if sys.stderr is not None:
                traceback.print_exc()

    def _backend(self) -> Any:
        # Who configured logwood has imported it: asking sys.modules spares an import, and works without logwood.
        state = sys.modules.get("logwood.state")
        if state is not None and state.config_called:
            return sys.modules["logwood"].get_logger(self.name)
        return logging.getLogger(self.name)
