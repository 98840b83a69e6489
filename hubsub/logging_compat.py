"""aiopubsub's `logging_compat`, for programs that were written for it."""

from __future__ import annotations

import logging
import sys
from typing import Any


def get_logger(name: str) -> Any:
    """Return logwood's logger of that name if logwood is configured by now, else the standard module's."""
    state = sys.modules.get("logwood.state")
    if state is not None and state.config_called:
        return sys.modules["logwood"].get_logger(name)
    return logging.getLogger(name)
