"""Reading the source of the project, for tests that hold it to a rule."""

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """Parse a module.

    No garbage is collected meanwhile: the finalizer of a failed task logs its traceback, which parses too, and CPython
    3.11 fails over parsing while it parses.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if collects:
            gc.enable()
