"""Checks and faults that do not pass yet, each with its reason. What is in here is to be mended."""

from __future__ import annotations

from typing import Any

import pytest

# By the name of the check or fault, and the kind of broker; "" stands for all.
PENDING: dict[tuple[str, str], str] = {}


def pending(name: str, kind: str) -> list[Any]:
    """The marks of a check with a kind of broker."""
    reason = PENDING.get((name, kind)) or PENDING.get((name, "")) or PENDING.get(("", kind))
    return [pytest.mark.xfail(reason=reason, strict=False)] if reason else []
