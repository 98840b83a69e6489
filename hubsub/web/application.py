"""What sockets and streams have in common: who is connected, how many, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from .._core.message_queue import Overflow
from ..describe import describe
from ..hub import Hub
from ..key import Key
from .access import Access, Connection, Refused
from .feed import Feed
from .limits import Limits
from .protocol import FORBIDDEN, RESTART
from .stream import Receive, Send

# Seconds between two looks at the connections.
TICK = 1.0

_applications: WeakKeyDictionary[Hub, WeakSet[Application[Any]]] = WeakKeyDictionary()


def applications_of(hub: Hub) -> list[Application[Any]]:
    """The applications of a hub that still exist."""
    return list(_applications.get(hub, ()))


def dispatched(hub: Hub, message: object) -> int:
    """Have all applications of a hub hand over what was published; return how many connections got a message."""
    return sum(each.feed.dispatch(message) for each in applications_of(hub))


async def confirmed(
    hub: Hub, key: Key[Any], message: Any, headers: Mapping[str, str] | None, seconds: float
) -> tuple[asyncio.Task[int], int]:
    """Publish a message now; return a task that ends as `Hub.publish_confirmed`, and what is to be added to its result.

    Together that is how many subscriptions and connections there are.
    """
    task = asyncio.ensure_future(hub.publish_confirmed(key, message, timeout=seconds, headers=headers))
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    # It publishes in its first step, and so before whatever the caller does next.
    await asyncio.sleep(0)
    carriers = sum(each.feed.carries(key) for each in applications_of(hub))
    return task, dispatched(hub, message) - carriers


class Client(Protocol):
    """What an application keeps of each client."""

    connection: Connection

    def look(self, now: float) -> None:
        """See whether the client is still there and may stay."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Disconnect it."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Disconnect it, and wait until it is."""
        ...


C = TypeVar("C", bound=Client)


class Connections(Collection[Connection]):
    """The clients that are connected, in the order in which they came."""

    def __init__(self, clients: Mapping[Connection, Any]) -> None:
        self._clients = clients

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._clients))

    def __contains__(self, connection: object) -> bool:
        return connection in self._clients

    def __repr__(self) -> str:
        return f"<{len(self)} connections>"


class Application(Generic[C]):
    """An ASGI application whose connections last: WebSockets, or streams of events.

    It is stopped with the server of its hub, see `lifespan`.
    """

    def __init__(self, hub: Hub, access: Access, feed: Feed, overflow: Overflow, limits: Limits) -> None:
        self.hub = hub
        self.access = access
        self.feed = feed
        self.overflow = overflow
        self.limits = limits
        self._clients: dict[Connection, C] = {}
        self._addresses: Counter[str] = Counter()
        self._clock: asyncio.Task[None] | None = None
        self._is_stopped = False
        _applications.setdefault(hub, WeakSet()).add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hub!r} {len(self._clients)} connections>"

    @property
    def connections(self) -> Connections:
        """The clients that are connected now; a live collection."""
        return Connections(self._clients)

    def stop(self) -> None:
        """Disconnect all clients and refuse new ones: the server is about to end."""
        self._is_stopped = True
        for client in list(self._clients.values()):
            client.end(RESTART, "the server restarts")

    def start(self) -> None:
        """Accept clients again."""
        self._is_stopped = False

    async def close(self) -> None:
        """Disconnect all clients, and receive nothing more from the hub. Closing twice is safe."""
        self.stop()
        for client in list(self._clients.values()):
            await client.close(RESTART, "the server restarts")
        self.feed.close()

    def _check(self, connection: Connection) -> None:
        """Refuse a client that may not connect, whatever its identity.

        Raises:
            Refused: The server is stopping, its address has too many connections, or its page is of another host.
        """
        limit = self.limits.connections_per_address
        if self._is_stopped:
            raise Refused(503, "the server restarts")
        if limit and connection.address and self._addresses[connection.address] >= limit:
            raise Refused(429, "too many connections from this address")
        if self.access.is_foreign(connection):
            raise Refused(403, "this page may not connect")

    @contextmanager
    def _connected(self, client: C) -> Iterator[None]:
        """Register a client while it is connected; the clock checks it."""
        connection = client.connection
        self._clients[connection] = client
        self._addresses[connection.address] += 1
        loop = asyncio.get_running_loop()
        if self._clock is None or self._clock.done() or self._clock.get_loop() is not loop:
            self._clock = loop.create_task(self._watch())
        try:
            yield
        finally:
            del self._clients[connection]
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
            if not self._clients and self._clock is not None:
                self._clock.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for client in list(self._clients.values()):
                client.look(now)


def checked(overflow: Overflow, limits: Limits) -> Overflow:
    """Return the overflow policy of the connections' queues.

    Raises:
        ValueError: It is no policy, or it would let a client fill the memory.
        TypeError: `limits` is no `Limits`.
    """
    if overflow is Overflow.GROW:
        raise ValueError("overflow must not be GROW: a client could fill the memory; choose another policy")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a hubsub.web.Limits, not {describe(limits)}")
    return Overflow(overflow)


async def is_request(scope: Mapping[str, Any], receive: Receive, send: Send, takes: str) -> bool:
    """True for an ordinary request. Anything else is answered here: a WebSocket is closed with the reason `takes`."""
    if scope["type"] == "lifespan":
        await pass_lifespan(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": FORBIDDEN, "reason": takes})
    return bool(scope["type"] == "http")


async def pass_lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan events: an application that is served by itself does nothing on start and shutdown."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
