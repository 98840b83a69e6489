"""Trying again: a failing call of an async listener, after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..key import Key
from .callables import refuse_awaitable
from .checks import count, factor_of, seconds

if TYPE_CHECKING:
    from typing import Self


class _Figures(NamedTuple):
    attempts: int
    """Calls at most, the first one included."""
    backoff: float
    """Seconds before the second call, at most."""
    factor: float
    """How many times longer each further wait is than the one before."""
    maximum: float
    """Seconds that no wait is longer than."""
    jitter: bool
    """Wait a random part of that time, so that what failed together is not tried again together."""
    on: type[BaseException] | tuple[type[BaseException], ...]
    """The exceptions after which another attempt makes sense; any other is given up at once."""


# Not a dataclass: what makes them would take a tenth of the import of the package.
class Retry(_Figures):
    """How often, and when, a failing call of an async listener is tried again.

    Raises:
        ValueError: A figure makes no sense.
    """

    __slots__ = ()

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
                raise ValueError(f"on is made of classes of exceptions, and {kind!r} is none")
        return super().__new__(cls, attempts, backoff, factor, maximum, jitter, on)

    def delays(self) -> Iterator[float]:
        """The seconds to wait before the second call, the third, and so on."""
        from random import uniform  # not with the package, for the same reason

        longest = min(self.backoff, self.maximum)
        for _ in range(self.attempts - 1):
            yield uniform(0, longest) if self.jitter else longest
            longest = min(longest * self.factor, self.maximum)


class GivenUp(asyncio.CancelledError):
    """A message was given up while it waited for another attempt, since its task is being ended.

    The cause is why the last attempt failed; it was reported.
    """


class Retrying:
    """An async function that is called again when it fails; what is given up is told to `give_up` and raises nothing.

    Args:
        function: Called with an event, or with key and message.
        retry: How often, and when.
        time_left: Tells how many seconds are left for all attempts; None for no limit, 0 for none at all.
        give_up: Called with key, message, error and the number of attempts.
    """

    __slots__ = ("_function", "_give_up", "_pauses", "_retry", "_time_left")

    # With fewer seconds left, nothing is tried again: better a dead letter that still finds its readers.
    TOO_LATE = 0.05

    def __init__(
        self,
        function: Callable[..., Awaitable[object]],
        retry: Retry,
        time_left: Callable[[], float | None],
        give_up: Callable[[Key[Any], Any, BaseException, int], None],
    ) -> None:
        self._function = function
        self._retry = retry
        self._time_left = time_left
        self._give_up = give_up
        self._pauses: dict[asyncio.Future[bool], None] = {}

    async def __call__(self, *arguments: Any) -> BaseException | None:
        """Call it until it succeeds; return why it was given up, if it was."""
        key, message = arguments if len(arguments) == 2 else arguments[0]
        task = asyncio.current_task()
        assert task is not None
        delays = self._retry.delays()
        attempts = 0
        while True:
            attempts += 1
            try:
                refuse_awaitable(await self._function(*arguments), self._function)
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
        """Wait so long, but no longer than half of the time that is left, so that attempts come while there is some."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        is_over = False
        while not is_over:
            now, left = loop.time(), self._time_left()
            if left is not None:
                end = min(end, now + left / 2)
            is_over = await self._sleep(loop, end - now)

    async def _sleep(self, loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
        """Wait so long; return whether nobody has cut it short."""
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
        """Have those who wait look anew how much time is left."""
        for pause in self._pauses:
            if not pause.get_loop().is_closed():  # one that was closed under it
                _end(pause, False)


def _end(pause: asyncio.Future[bool], is_over: bool) -> None:
    if not pause.done():
        pause.set_result(is_over)
