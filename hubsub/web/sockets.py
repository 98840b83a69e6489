"""The WebSocket endpoint: an ASGI application."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from .._core.message_queue import Overflow
from ..codec import Codec
from ..describe import describe
from ..hub import Hub
from ..key import Patterns
from . import protocol
from .access import Access, Authorize, Connection, Hook, Identify, Refused, called, logger
from .feed import Feed
from .limits import Limits
from .module import NAME, script
from .session import Session
from .stream import Receive, Send

# Seconds between two looks at the connections.
TICK = 1.0

_NO_PATTERNS: list[Any] = []

_endpoints: WeakKeyDictionary[Hub, WeakSet[Any]] = WeakKeyDictionary()


def endpoints_of(hub: Hub) -> list[Any]:
    """The endpoints and streams of a hub that are not gone."""
    return list(_endpoints.get(hub, ()))


def enlist(hub: Hub, endpoint: Any) -> None:
    """Have an endpoint stopped when the server of its hub stops, see `lifespan`."""
    _endpoints.setdefault(hub, WeakSet()).add(endpoint)


class Connections(Collection[Connection]):
    """The clients that are connected, in the order in which they came."""

    def __init__(self, sessions: Mapping[Connection, Any]) -> None:
        self._sessions = sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._sessions))

    def __contains__(self, connection: object) -> bool:
        return connection in self._sessions

    def __repr__(self) -> str:
        return f"<{len(self)} connections>"


class Endpoint:
    """What `endpoint` returns: an ASGI application for WebSockets that speak `hubsub.v1`."""

    def __init__(
        self,
        hub: Hub,
        outgoing: Patterns,
        incoming: Patterns,
        authorize: Authorize | None,
        identify: Identify | None,
        origins: str | Collection[str],
        codec: str | Codec,
        overflow: Overflow,
        limits: Limits,
        on_connect: Hook | None,
        on_disconnect: Hook | None,
    ) -> None:
        if overflow is Overflow.GROW:
            raise ValueError("overflow: a queue that grows would let a client fill the memory; choose another policy")
        if not isinstance(limits, Limits):
            raise TypeError(f"limits is a hubsub.web.Limits, not {describe(limits)}")
        for name, hook in (("on_connect", on_connect), ("on_disconnect", on_disconnect)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} is a function, not {describe(hook)}")
        self.hub = hub
        self.limits = limits
        self.overflow = Overflow(overflow)
        self.access = Access(outgoing, incoming, authorize, identify, origins)
        self.feed = Feed(hub, self.access.everything, codec, limits)
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._sessions: dict[Connection, Session] = {}
        self._addresses: Counter[str] = Counter()
        self._clock: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[Any]] = set()
        self._is_stopped = False
        enlist(hub, self)

    def __repr__(self) -> str:
        return f"<Endpoint {self.hub!r} {len(self._sessions)} connections>"

    @property
    def connections(self) -> Connections:
        """The clients that are connected now; a live collection."""
        return Connections(self._sessions)

    def disconnect(self, identity: str) -> asyncio.Task[None]:
        """Disconnect all clients of an identity, with code 4401. Awaiting what it returns is optional."""
        sessions = [session for session in self._sessions.values() if session.connection.identity == identity]
        return self._soon(self._end_all(sessions, protocol.IDENTITY, "disconnected"))

    def recheck(self, identity: str | None = None) -> asyncio.Task[None]:
        """Ask `authorize` again for what clients are subscribed to: those of an identity, or all.

        A subscription that is refused now ends with an `error` frame. Awaiting what it returns is optional.
        """
        sessions = [each for each in self._sessions.values() if identity in (None, each.connection.identity)]

        async def recheck() -> None:
            for session in sessions:
                await session.commands.recheck()

        return self._soon(recheck())

    def stop(self) -> None:
        """Disconnect everybody with code 1012, and let nobody in any more: the server is about to end."""
        self._is_stopped = True
        for session in list(self._sessions.values()):
            session.end(protocol.RESTART, "the server restarts")

    def start(self) -> None:
        """Let clients in again."""
        self._is_stopped = False

    async def close(self) -> None:
        """Disconnect everybody, and take nothing more from the hub. Closing twice is safe."""
        self.stop()
        await self._end_all(list(self._sessions.values()), protocol.RESTART, "the server restarts")
        self.feed.close()

    def _soon(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    @staticmethod
    async def _end_all(sessions: list[Session], code: int, reason: str) -> None:
        for session in sessions:
            session.end(code, reason)
        for session in sessions:
            await session.close(code, reason)

    # ASGI

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one WebSocket, as ASGI says; mounted, it serves `hubsub.js`, too. Anything else is answered by 426."""
        if scope["type"] == "lifespan":
            await _pass_lifespan(receive, send)
        elif scope["type"] == "websocket":
            message = await receive()
            if message["type"] == "websocket.connect":
                await self.handle(scope, receive, send)
        elif scope["path"].endswith(f"/{NAME}"):
            await script(scope, receive, send)
        else:
            await _respond(send, 426, b"this address takes WebSockets", [(b"upgrade", b"websocket")])

    async def handle(
        self,
        scope: Mapping[str, Any],
        receive: Receive,
        send: Send,
        *,
        identity: str | None = None,
        opened: bool = False,
    ) -> None:
        """Serve a WebSocket of which the `websocket.connect` was received.

        Args:
            scope: As of ASGI.
            receive: As of ASGI.
            send: As of ASGI.
            identity: Who it is, if that is known; then `identify` is not called.
            opened: The socket is accepted already.
        """
        connection = Connection(secrets.token_hex(8), scope)
        limit = self.limits.connections_per_address
        try:
            if self._is_stopped:
                raise Refused(503, "the server restarts")
            if limit and connection.address and self._addresses[connection.address] >= limit:
                raise Refused(429, "too many connections from this address")
            if self.access.is_foreign(connection, scope.get("scheme", "")):
                raise Refused(403, "this page may not connect")
            wants_token = False
            if identity is not None:
                connection.identity = identity
            else:
                try:
                    await self.access.identify(connection)
                except Refused:
                    # It looked for a token, and there was none: the client may have one to say hello with.
                    if not connection.asked_for_token:
                        raise
                    wants_token = True
            if not wants_token:
                await called(self._on_connect, "on_connect", connection)
        except Refused as refused:
            await self._refuse(scope, send, refused, opened)
            return
        if not opened:
            subprotocols = scope.get("subprotocols") or ()
            chosen = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in subprotocols else None
            await send({"type": "websocket.accept", "subprotocol": chosen})
        session = Session(
            self.feed, self.access, self.overflow, self.limits, connection, self._admit_late, receive, send
        )
        self._sessions[connection] = session
        self._addresses[connection.address] += 1
        if self._clock is None or self._clock.done() or self._clock.get_loop() is not asyncio.get_running_loop():
            self._clock = asyncio.get_running_loop().create_task(self._watch())
        try:
            await session.run(wants_token)
        finally:
            del self._sessions[connection]
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
            if not self._sessions and self._clock is not None:
                self._clock.cancel()
            if session.was_admitted:
                await called(self._on_disconnect, "on_disconnect", connection)

    async def _admit_late(self, connection: Connection) -> bool:
        """Find out again who it is, since there is a token now; return whether it may stay."""
        try:
            await self.access.identify(connection)
            await called(self._on_connect, "on_connect", connection)
        except Refused:
            return False
        return True

    async def _refuse(self, scope: Mapping[str, Any], send: Send, refused: Refused, opened: bool) -> None:
        code = {401: protocol.IDENTITY, 429: protocol.TOO_MANY, 503: protocol.RESTART}.get(
            refused.status, protocol.FORBIDDEN
        )
        if not opened and "websocket.http.response" in (scope.get("extensions") or {}):
            body = refused.reason.encode("utf-8", "replace")
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            # Before it is accepted most servers make a plain 403 of it.
            await send({"type": "websocket.close", "code": code, "reason": refused.reason})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                session.look(now)


def endpoint(
    hub: Hub,
    *,
    outgoing: Patterns = _NO_PATTERNS,
    incoming: Patterns = _NO_PATTERNS,
    authorize: Authorize | None = None,
    identify: Identify | None = None,
    origins: str | Collection[str] = "same",
    codec: str | Codec = "json",
    overflow: Overflow = Overflow.CLOSE,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    on_connect: Hook | None = None,
    on_disconnect: Hook | None = None,
) -> Endpoint:
    """Make an ASGI application that connects browsers and other clients to a hub by WebSocket.

    Nothing crosses that is not named. Clients speak `hubsub.v1`, see docs/web/protocol.md.

    Args:
        hub: The hub.
        outgoing: Patterns of what clients may subscribe to and respond to. A part `{identity}` stands for the client's
            own identity; without one such a pattern matches nothing.
        incoming: Patterns of what clients may publish to and ask, likewise.
        authorize: `authorize(connection, action, key)`, plain or async, returns whether a client may do it; it only
            narrows. The action is "subscribe" or "respond" with a pattern, or "publish", "request" or "receive" with a
            key. "receive" is asked for each key that is delivered, and its answer is remembered for a minute. If it
            fails, that is a no.
        identify: `identify(connection)`, plain or async, returns who it is, or None for nobody in particular; or raises
            `Refused`. If it looks at `connection.token`, finds none and refuses, it is called again once the client has
            said `hello` with a token.
        origins: Pages that may connect: "same" for those of this host, "*" for all, or a list of origins, such as
            "https://example.org". What is no browser sends no origin, and may connect.
        codec: Of the messages. One that does not make JSON travels in base64.
        overflow: What happens if a client reads more slowly than messages come: by default it is disconnected, with
            code 4413, and comes back where it was. The other policies, but for `GROW`, drop messages, and send a gap.
        limits: What a client may ask.
        on_connect: Called with a `Connection` that comes in, plain or async; it may raise `Refused`.
        on_disconnect: Called with each that has come in and is gone.

    Raises:
        ValueError: An option makes no sense.
        TypeError: Likewise.
        InvalidKey: A pattern is none.
    """
    return Endpoint(
        hub, outgoing, incoming, authorize, identify, origins, codec, overflow, limits, on_connect, on_disconnect
    )


async def _pass_lifespan(receive: Receive, send: Send) -> None:
    """An endpoint that is served by itself has nothing to do when the server starts and ends."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(websocket: Any, endpoint: Endpoint, *, identity: str | None = None) -> None:
    """Serve a WebSocket of Starlette or FastAPI by an endpoint, from a route of your own.

    So that dependencies of the framework decide who it is. Returns when either side has ended the connection.

    Args:
        websocket: A `starlette.websockets.WebSocket`, accepted or not.
        endpoint: Who serves it.
        identity: Who it is; None asks the endpoint's `identify`.
    """
    opened = websocket.application_state.name == "CONNECTED"
    if websocket.client_state.name == "CONNECTING":
        await websocket.receive()
    await endpoint.handle(websocket.scope, websocket.receive, websocket.send, identity=identity, opened=opened)


__all__ = ["Connections", "Endpoint", "endpoint", "logger", "serve"]
