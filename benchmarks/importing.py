"""What importing hubsub takes."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

from .harness import Side, compare


def _seconds(module: str) -> float:
    # Without its compiled form every import would compile it anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    return perf_counter() - began


@compare(at_most=1.25, rounds=40)
def import_in_fresh_interpreter() -> tuple[Side, Side]:
    """A fresh interpreter that imports hubsub and ends, against one that imports asyncio and ends."""
    _seconds("hubsub")
    return lambda: _seconds("hubsub"), lambda: _seconds("asyncio")
