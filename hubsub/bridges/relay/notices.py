"""Notices, by which bridges report to each other what their outboxes have dropped."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

from ...event import Gap
from ...key import Key
from .attributes import LONGEST_KEY, LONGEST_NAME, check_length, exact_key

MOST_KEYS = 64
"""The most keys in a `Notice`; there may be 16 times as many patterns."""


class Notice(NamedTuple):
    """The report of one bridge to the others about messages that its outbox dropped."""

    gap: Gap
    patterns: tuple[Key[Any], ...]
    """The patterns that the bridge sends, which may be affected if `gap.keys` is None."""


def notice_data(notice: Notice) -> dict[str, Any]:
    """Return a notice as JSON data."""
    gap, patterns = notice
    keys = None if gap.keys is None else [key.text for key in gap.keys]
    return {**gap._asdict(), "keys": keys, "patterns": [pattern.text for pattern in patterns]}


def notice_of(data: Any) -> Notice:
    """Return the notice in foreign data.

    Raises:
        Exception: It is not a notice. Any exception is possible, since the data is arbitrary.
    """
    reason, count, keys, patterns = data["reason"], data["count"], data["keys"], data["patterns"]
    since, until = float(data["since"]), float(data["until"])
    if not isinstance(reason, str) or not isinstance(patterns, list) or not isinstance(keys, (list, type(None))):
        raise TypeError("it is not the notice of a gap")
    if not (isfinite(since) and isfinite(until)) or not (count is None or (type(count) is int and count >= 0)):
        raise ValueError("it is the notice of a gap with impossible figures")
    check_length("reason", reason, LONGEST_NAME)
    if len(keys or ()) > MOST_KEYS or len(patterns) > 16 * MOST_KEYS:
        raise ValueError("it is a notice of a gap in too many keys")
    for pattern in patterns:
        check_length("pattern", pattern, LONGEST_KEY)
    gap = Gap(reason, count, since, until, None if keys is None else tuple(map(exact_key, keys)))
    return Notice(gap, tuple(map(Key.parse, patterns)))
