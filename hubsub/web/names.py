"""The names that clients give to their messages, so that one which is sent again is published once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ..key import Key

NAME = "hubsub"
"""The header with a name: a JSON object with at least `id` and `source`, as of a CloudEvent."""


class Names:
    """Remembers the names of the last messages: at least `most`, at most twice as many.

    A client whose line was cut before it got an answer sends its message again, to this worker or to another, which
    may have got it by a bridge.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Two generations: forgetting the older one at once costs nothing for each message.
        self._new: set[tuple[Key[Any], str]] = set()
        self._old: set[tuple[Key[Any], str]] = set()
        self._confirming: dict[tuple[Key[Any], str], tuple[asyncio.Task[int], int]] = {}

    def is_known(self, key: Key[Any], name: str) -> bool:
        """True if a message of this name came lately."""
        return (key, name) in self._new or (key, name) in self._old

    def note(self, key: Key[Any], name: str) -> None:
        """A message of this name has come."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, set()
        self._new.add((key, name))

    def confirm(self, key: Key[Any], name: str, task: asyncio.Task[int], more: int) -> None:
        """A message of this name is being confirmed by a task; who has sent it may come back and ask again."""
        self._confirming[key, name] = task, more
        task.add_done_callback(lambda task: self._confirming.pop((key, name), None))

    def confirming(self, key: Key[Any], name: str) -> tuple[asyncio.Task[int], int] | None:
        """What `confirm` was given of a message that is not finished; None if there is none."""
        return self._confirming.get((key, name))


class _Source(msgspec.Struct):
    source: str = ""


_decode = msgspec.json.Decoder(_Source).decode


def source_of(name: str) -> str:
    """Who gave a name; an empty text if it is none."""
    try:
        return _decode(name).source
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
