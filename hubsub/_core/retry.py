"""Retries of failed calls of async listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..key import Key
from .callables import refuse_awaitable
from .checks import count, factor_of, named_options, seconds

if TYPE_CHECKING:
    from typing import Self


class _Options(NamedTuple):
    attempts: int
    """The most calls, the first one included."""
    backoff: float
    """The longest wait before the second call, in seconds."""
    factor: float
    """The factor by which each further wait is longer."""
    maximum: float
    """The longest wait of all, in seconds."""
    jitter: bool
    """Wait a random part of that time, so that calls that failed together are not retried together."""
    on: type[BaseException] | tuple[type[BaseException], ...]
    """The exceptions after which to try again; after any other, the message is given up at once."""


# Not a dataclass: importing dataclasses would take a tenth of the import time of the package.
class Retry(_Options):
    """How often, and when, a failed call of an async listener is retried.

    Raises:
        ValueError: A value is invalid.
    """

    __slots__ = ()

    @named_options("Retry")
    def __new__(
        cls,
        attempts: int = 3,
        backoff: float = 0.1,
        factor: float = 2.0,
        maximum: float = 10.0,
        jitter: bool = True,
        on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    ) -> Self:
        attempts = count(attempts, "attempts", "calls")
        backoff, maximum = seconds(backoff, "backoff"), seconds(maximum, "maximum")
        factor = factor_of(factor, "factor")
        for kind in on if isinstance(on, tuple) else (on,):
            if not (isinstance(kind, type) and issubclass(kind, Exception | asyncio.CancelledError)):
                raise ValueError(f"on must be an exception class or a tuple of them, and {kind!r} is not one")
        return super().__new__(cls, attempts, backoff, factor, maximum, jitter, on)

    def delays(self) -> Iterator[float]:
        """Yield the seconds to wait before the second call, the third, and so on."""
        from random import uniform  # imported here for the same reason

        longest = min(self.backoff, self.maximum)
        for _ in range(self.attempts - 1):
            yield uniform(0, longest) if self.jitter else longest
            longest = min(longest * self.factor, self.maximum)


class GivenUp(asyncio.CancelledError):
    """A message was given up while it waited for another attempt, since its task is being cancelled.

    The cause is the error of the last attempt, which has been reported.
    """


class Retrying:
    """An async function that is called again when it fails; in the end it calls `give_up` instead of raising.

    Args:
        function: Called with an event, or with key and message.
        retry: How often, and when.
        time_left: Returns how many seconds are left for all attempts; None for no limit, 0 for no further attempt.
        give_up: Called with key, message, error and the number of attempts.
    """

    __slots__ = ("_give_up", "_pauses", "_retry", "_time_left", "function")

    # With fewer seconds left there is no retry: better a dead letter while its readers are still there.
    TOO_LATE = 0.05

    def __init__(
        self,
        function: Callable[..., Awaitable[object]],
        retry: Retry,
        time_left: Callable[[], float | None],
        give_up: Callable[[Key[Any], Any, BaseException, int], None],
    ) -> None:
        self.function = function
        self._retry = retry
        self._time_left = time_left
        self._give_up = give_up
        self._pauses: dict[asyncio.Future[bool], None] = {}

    async def __call__(self, *arguments: Any) -> BaseException | None:
        """Call it until it succeeds; return the error if it was given up."""
        key, message = arguments if len(arguments) == 2 else arguments[0]
        function = self.function  # another one may want other arguments
        task = asyncio.current_task()
        assert task is not None
        delays = self._retry.delays()
        attempts = 0
        while True:
            attempts += 1
            try:
                refuse_awaitable(await function(*arguments), function)
                return None
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    raise
                failure = error
            delay = next(delays, None) if isinstance(failure, self._retry.on) else None
            if delay is None:
                break
            try:
                await self._pause(delay)
            except asyncio.CancelledError:
                self._give_up(key, message, failure, attempts)
                raise GivenUp from failure
            left = self._time_left()
            if left is not None and left < self.TOO_LATE:
                break
        self._give_up(key, message, failure, attempts)
        return failure

    async def _pause(self, seconds: float) -> None:
        """Wait so long, but at most half of the time that is left, so that there is time for another attempt."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        is_over = False
        while not is_over:
            now, left = loop.time(), self._time_left()
            if left is not None:
                end = min(end, now + left / 2)
            is_over = await self._sleep(loop, end - now)

    async def _sleep(self, loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
        """Wait so long; return False if `hasten` has cut the wait short."""
        if seconds <= 0:
            return True
        pause: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, _end, pause, True)
        self._pauses[pause] = None
        try:
            return await pause
        finally:
            timer.cancel()
            del self._pauses[pause]

    def hasten(self) -> None:
        """Wake the calls that wait, so that they check again how much time is left."""
        for pause in self._pauses:
            if not pause.get_loop().is_closed():  # else the loop was closed under the call
                _end(pause, False)


def _end(pause: asyncio.Future[bool], is_over: bool) -> None:
    if not pause.done():
        pause.set_result(is_over)
