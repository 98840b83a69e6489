"""A loop whose time passes only when nobody has anything to do: waiting takes none, and always comes out the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

V = TypeVar("V")


class VirtualLoop(asyncio.SelectorEventLoop):
    """For what happens within the process: of files and sockets it hears only between two waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Goes forward in time where others wait."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else, for ever")
        # A little more than was asked for: else rounding could leave it a hair before the time that is due.
        self._loop.now += max(timeout, 0.0) + 1e-9
        return []


def run(main: Coroutine[Any, Any, V]) -> V:
    """Run it as `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
