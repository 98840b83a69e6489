"""What servers need besides an application: a socket that notices dead clients, and a lifespan that ends streams."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from ..hub import Hub
from .application import applications_of

# Seconds that sent bytes may stay without an answer before the kernel ends a connection.
UNANSWERED = 4.0


def listen(
    host: str = "127.0.0.1", port: int = 0, *, unanswered: float = UNANSWERED, backlog: int = 2048
) -> socket.socket:
    """Return a listening socket whose connections end when the client stops reading.

    An ASGI application cannot end such a connection itself. Pass the socket to the server:
    `uvicorn.Server.serve(sockets=[...])`, or `--fd` with its `fileno()`, which child processes inherit.

    Args:
        host: The address to listen on.
        port: 0 for a free one.
        unanswered: Seconds that what was sent may stay unacknowledged (`TCP_USER_TIMEOUT`; Linux only).
        backlog: Connections that wait to be accepted.

    Raises:
        OSError: The address is in use, or this machine does not have it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unanswered * 1000))
        listening.bind((host, port))
        listening.listen(backlog)
        listening.setblocking(False)
        listening.set_inheritable(True)
    except BaseException:
        listening.close()
        raise
    return listening


def lifespan(hub: Hub, *parts: AbstractAsyncContextManager[Any]) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Make the `lifespan` of a Starlette or FastAPI application from a hub, its bridges and other context managers.

    The hub opens first and closes last. To a server a stream is an unfinished request, for which it waits long or for
    ever. So the signal that ends the server first ends all connections of the hub's endpoints.

    >>> from hubsub import Hub
    >>> hub = Hub()
    >>> manage = lifespan(hub)     # FastAPI(lifespan=manage)
    """

    @asynccontextmanager
    async def manage(app: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hub)
            for part in parts:
                await stack.enter_async_context(part)
            for each in applications_of(hub):
                each.start()
            stack.enter_context(_stopped_by_signals(hub))
            try:
                yield
            finally:
                _stop(hub)

    return manage


def _stop(hub: Hub) -> None:
    for each in applications_of(hub):
        each.stop()


@contextmanager
def _stopped_by_signals(hub: Hub) -> Iterator[None]:
    """Stop the endpoints of a hub on a signal that ends the server, then pass the signal on to the server."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import asyncio

    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}
    ours: dict[int, Any] = {}
    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        theirs = signal.getsignal(number)
        if not callable(theirs):
            continue  # nobody handles it: the process just ends

        def handle(signum: int, frame: Any, theirs: Any = theirs) -> None:
            loop.call_soon_threadsafe(_stop, hub)
            theirs(signum, frame)

        before[number], ours[number] = theirs, handle
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, theirs in before.items():
            if signal.getsignal(number) is ours[number]:
                signal.signal(number, theirs)
