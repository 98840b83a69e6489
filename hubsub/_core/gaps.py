"""Gaps in the making."""

from __future__ import annotations

from time import time as now
from typing import Any

from ..event import Gap
from ..key import Key


class OpenGap:
    """What is missing at one point of a queue, until a consumer reaches it: a gap that may still grow."""

    __slots__ = ("before", "count", "keys", "reason", "since", "until")

    MOST_KEYS = 64

    def __init__(self, reason: str, before: int) -> None:
        self.reason = reason
        self.before = before  # items between it and the open gap before it, or the front
        self.count: int | None = 0
        self.since = self.until = now()
        self.keys: dict[Key[Any], None] | None = {}

    @classmethod
    def of(cls, gap: Gap, before: int = 0) -> OpenGap:
        """Return an open gap for what is missing in `gap`."""
        open_gap = cls(gap.reason, before)
        open_gap.count, open_gap.since, open_gap.until = gap.count, gap.since, gap.until
        open_gap.keys = None if gap.keys is None else dict.fromkeys(gap.keys)
        return open_gap

    def add(self, key: Key[Any]) -> None:
        """Count a message of this key as missing."""
        if self.count is not None:
            self.count += 1
        self.until = now()
        if self.keys is not None and key not in self.keys:
            self.keys[key] = None
            if len(self.keys) > self.MOST_KEYS:
                self.keys = None

    def merge(self, other: OpenGap) -> None:
        """Count everything that is missing in `other` as missing here."""
        if other.reason not in self.reason.split(", "):
            self.reason += f", {other.reason}"
        self.count = None if self.count is None or other.count is None else self.count + other.count
        self.since = min(self.since, other.since)
        self.until = max(self.until, other.until)
        keys = None if self.keys is None or other.keys is None else self.keys | other.keys
        self.keys = None if keys is None or len(keys) > self.MOST_KEYS else keys

    def gap(self) -> Gap:
        keys = None if self.keys is None else tuple(self.keys)
        return Gap(self.reason, self.count, self.since, self.until, keys)
