"""hiredis, which stays out of the environment: redis-py would use it there, and the tests run without it, too."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import redis  # before it, so that it does not find it

__all__ = ["hiredis"]

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "hiredis"

assert redis.__version__


@cache
def hiredis() -> ModuleType | None:
    """The module, imported by nobody else; None if it is not here for this Python."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module("hiredis")
    except ImportError:
        return None
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("hiredis", None)
