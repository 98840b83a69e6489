"""Waiting for one message, and the awaitables that `next` and `request` return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ..errors import HubClosed
from ..event import Event
from ..key import NAMESPACE, Key
from .callables import truth
from .notices import Notices
from .registration import Core, Registration

V = TypeVar("V")


class Wait(Protocol):
    """Something that a caller waits for."""

    loop: asyncio.AbstractEventLoop

    @property
    def is_over(self) -> bool: ...
    def end(self) -> None:
        """End it and clean up; nobody waits any longer."""


S = TypeVar("S", bound=Wait)


class WaitHandle(Generic[S]):
    """Owns what is waited for, and ends it when the last reference to the handle is dropped."""

    __slots__ = ("_wait",)

    _wait: S

    def __del__(self) -> None:
        wait = self._wait
        if wait.is_over:
            return
        # The garbage collector may call this in any thread, in the middle of anything.
        try:
            wait.loop.call_soon_threadsafe(wait.end)
        except RuntimeError:  # the loop is closed
            wait.end()


class Waiting(WaitHandle[Wait], Coroutine[Any, Any, V]):
    """What `next` and `request` return: await it once, or drop it.

    It is accepted wherever a coroutine is, such as by `asyncio.create_task`, but need not be awaited.
    """

    __slots__ = ("_future", "_steps")

    def __init__(self, wait: Wait, future: asyncio.Future[V]) -> None:
        self._wait = wait
        self._future = future
        self._steps: Generator[Any, Any, V] | None = None

    def __await__(self) -> Generator[Any, Any, V]:
        try:
            return (yield from self._future.__await__())
        finally:
            self._wait.end()

    def send(self, value: Any, /) -> Any:
        """As of a coroutine."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a coroutine."""
        if self._steps is None:
            self._steps = self.__await__()
            next(self._steps, None)  # so that the error is raised in the caller that waits
        return self._steps.throw(*error)

    def close(self) -> None:
        """Stop waiting."""
        if self._steps is not None:
            self._steps.close()
        self._wait.end()


class NextMessage(Registration):
    """A registration until the first message that matches and that `where` admits."""

    __slots__ = ("_adding", "_timer", "_where", "future", "loop")

    lasting = False

    def __init__(
        self,
        hub: Core,
        patterns: Sequence[tuple[str, ...]],
        loop: asyncio.AbstractEventLoop,
        timeout: float | None,
        where: Callable[[Key[Any], Any], object] | None,
    ) -> None:
        super().__init__(hub, self._deliver)
        self.loop = loop
        self.future: asyncio.Future[Event[Any]] = loop.create_future()
        self._where = where
        self._adding = True
        self._timer = None if timeout is None else loop.call_later(timeout, self._time_out, timeout)
        try:
            hub._add(self, patterns)
        except BaseException:
            self._cancel_timer()
            raise
        self._adding = False

    def _deliver(self, key: Key[Any], message: Any) -> None:
        self.deliver_event(Event(key, message))

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        self._hub._life.check_thread()
        # Waiting for any message does not mean the meta-event that announces the wait.
        if self.future.done() or (self._adding and event.key[0] == NAMESPACE):
            return False
        try:
            if self._where is not None and not truth(self._where(*event), self._where, "where"):
                return False
        except Exception as error:
            fail_future(self.future, error)
        else:
            if not self.loop.is_closed():
                self.future.set_result(event)
        self.end()
        return False

    def _time_out(self, timeout: float) -> None:
        patterns = ", ".join(map(repr, self._patterns))
        fail_future(self.future, TimeoutError(f"no message of {patterns} came within {timeout} seconds"))
        self.end()

    @property
    def is_over(self) -> bool:
        return self.closed

    def end(self) -> None:
        if not self.closed:
            self._hub._remove(self)

    def _removed(self) -> Notices:
        self._cancel_timer()
        fail_future(self.future, HubClosed(self._hub))  # unless it has ended otherwise
        return []

    def forked(self) -> None:
        # Nobody is woken: the caller that waits is in the parent process.
        self.future = self.loop.create_future()
        self.future.cancel()
        self._timer = None
        self.end()

    forked.__doc__ = Registration.forked.__doc__

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def fail_future(future: asyncio.Future[Any], error: Exception) -> None:
    if future.done() or future.get_loop().is_closed():
        return
    if isinstance(error, StopIteration):
        another = RuntimeError("StopIteration was raised where it says nothing")
        another.__cause__, error = error, another
    future.set_exception(error)
    future.exception()  # retrieved: asyncio need not warn a caller that drops it
