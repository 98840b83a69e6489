"""A hub for programs without an event loop: it runs in a thread of its own, and sync code calls it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from .errors import HubClosed, SubscriptionClosed, WrongContext
from .hub import Hub
from .key import Patterns

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
V = TypeVar("V")


class HubThread:
    """Runs a hub on an event loop in a thread of its own, so that sync code can use all of it.

    It starts with the first call, with `start()`, or as a context manager. `close()` closes the hub as `Hub.close`
    does, and so does the end of the program. It starts again after a close, and in a forked process.

    Listeners run in that thread. `hub.publish_threadsafe` publishes without waiting.

    Args:
        hub: The hub.
        *parts: Bridges and other async context managers: entered after the hub in this order, left before it.
    """

    def __init__(self, hub: Hub, *parts: AbstractAsyncContextManager[Any]) -> None:
        self.hub = hub
        self._parts = parts
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._running: _Running | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<HubThread of {self.hub!r}>"

    def start(self) -> None:
        """Return when the hub has started and every part is entered. Starting twice is safe.

        Raises whatever a part raises when it is entered; then the thread has ended.
        """
        self._check_outside("start")
        if self._process != os.getpid():
            self._forget()  # what was forked has no such thread
        with self._starting:
            if self._running is None:
                running = _Running(self.hub, self._parts)
                self._thread = running.thread
                running.start()
                self._running = running
                atexit.register(self.close)

    def close(self) -> None:
        """Close the parts and the hub, and return when the thread has ended. Closing twice is safe.

        Calls that are in progress then raise `concurrent.futures.CancelledError`.
        """
        self._check_outside("close")
        if self._process != os.getpid():
            return
        with self._starting:
            if self._running is not None:
                self._running.end()
                self._running = None
                atexit.unregister(self.close)

    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, V]], *args: P.args, **kwargs: P.kwargs) -> V: ...
    @overload
    def call(self, function: Callable[P, V], *args: P.args, **kwargs: P.kwargs) -> V: ...

    def call(self, function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call a plain or async function in the thread of the hub; return what it returns, or raise what it raises.

        It runs in the caller's context (`contextvars`). If the caller is interrupted, such as by Ctrl-C, an async
        function is cancelled.

        Raises:
            WrongContext: It was called from the thread of the hub, which would wait for itself.
        """
        self._check_outside("call")
        while True:
            self.start()
            running = self._running
            if running is not None:
                return running.call(function, *args, **kwargs)

    def read(self, patterns: Patterns, **options: Any) -> Reader:
        """Subscribe now, and return an iterator over the messages as they come, which ends when the hub is closed.

        Close it, or read it in a `with` block; then the subscription is closed. Asking for the next message finishes
        the one before, and so does closing; leaving the block by an exception fails it, see `publish_confirmed`.
        What is yielded is what `Subscription.consume` returns.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            **options: Those of `Hub.subscribe`.
        """
        return self.call(lambda: Reader(self._life(), self.hub.subscribe(patterns, **options)))

    def _life(self) -> _Running:
        assert self._running is not None
        return self._running

    def _check_outside(self, what: str) -> None:
        if self._thread is threading.current_thread():
            raise WrongContext(
                f"HubThread.{what} was called in the thread of {self.hub!r}, which would wait for itself; "
                "there, use the hub directly, and await what is async"
            )

    def _forget(self) -> None:
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._running = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reader:
    """Reads a subscription from another thread; `HubThread.read` makes it."""

    def __init__(self, running: _Running, subscription: Any) -> None:
        self.subscription = subscription
        """What it reads; in the thread of its hub, its counters are right."""
        self._running = running

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Wait for the next message; raise `StopIteration` when the subscription or the hub is closed."""
        try:
            return self._running.call(self.subscription.consume)
        except (SubscriptionClosed, HubClosed, concurrent.futures.CancelledError):
            raise StopIteration from None

    def close(self) -> None:
        """Finish the message in hand, and close the subscription. Closing twice is safe."""
        self._leave(None)

    def _leave(self, error: BaseException | None) -> None:
        with suppress(HubClosed):
            self._running.call(self.subscription.__exit__, type(error) if error else None, error, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(error)

    def __del__(self) -> None:
        # Whoever drops it may have failed with the message in hand.
        self._running.send(self.subscription.close)


class _Running:
    """One life of the thread."""

    def __init__(self, hub: Hub, parts: tuple[AbstractAsyncContextManager[Any], ...]) -> None:
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._hub = hub
        self._parts = parts
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._lock = threading.RLock()  # the garbage collector may close a reader in any line
        self._calls: set[concurrent.futures.Future[Any]] = set()
        # A daemon, since Python waits for other threads before it calls what `atexit` has, which closes the hub.
        self.thread = threading.Thread(target=self._run, name=f"hubsub {hub.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()
        try:
            self._started.result()
        finally:
            if not self._started.done():
                self.send(self._stop.set)  # the wait was interrupted

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        with self._lock:
            if self._loop is None:
                raise HubClosed(self._hub)
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
            self._calls.add(future)
        try:
            return future.result()
        finally:
            future.cancel()  # if the wait was interrupted
            self._calls.discard(future)

    def send(self, function: Callable[[], object]) -> None:
        """Have a function called, without waiting, unless the thread has ended."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def end(self) -> None:
        self.send(self._stop.set)
        self.thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                try:
                    runner.run(self._live())
                finally:
                    with self._lock:
                        self._loop = None  # from now on nothing comes
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            for future in list(self._calls):
                future.cancel()  # whatever came too late to be called

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for part in (self._hub, *self._parts):
                await stack.enter_async_context(part)
            self._started.set_result(None)
            await self._stop.wait()
