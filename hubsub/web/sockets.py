"""The WebSocket endpoint: an ASGI application."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

from .._core.message_queue import Overflow
from ..codec import Codec
from ..describe import describe
from ..hub import Hub
from ..key import Patterns
from . import protocol
from .access import Access, Authorize, Connection, Hook, Identify, Refused, called
from .application import Application, checked, pass_lifespan
from .feed import Feed
from .limits import Limits
from .module import is_file, script
from .session import Session
from .stream import Receive, Send

_NO_PATTERNS: list[Any] = []


class Endpoint(Application[Session]):
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
        for name, hook in (("on_connect", on_connect), ("on_disconnect", on_disconnect)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be a function, not {describe(hook)}")
        policy = checked(overflow, limits)
        access = Access(outgoing, incoming, authorize, identify, origins)
        super().__init__(hub, access, Feed(hub, access.everything, codec, limits), policy, limits)
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._closing: set[asyncio.Task[Any]] = set()

    def disconnect(self, identity: str) -> asyncio.Task[None]:
        """Disconnect all clients of an identity, with code 4401. Awaiting what it returns is optional."""
        sessions = [each for each in self._clients.values() if each.connection.identity == identity]
        return self._soon(self._end_all(sessions, protocol.IDENTITY, "disconnected"))

    def recheck(self, identity: str | None = None) -> asyncio.Task[None]:
        """Ask `authorize` again for what clients are subscribed to: those of an identity, or all.

        A subscription that is refused now ends with an `error` frame. Awaiting what it returns is optional.
        """
        sessions = [each for each in self._clients.values() if identity in (None, each.connection.identity)]

        async def recheck() -> None:
            for session in sessions:
                await session.commands.recheck()

        return self._soon(recheck())

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
        """Serve one WebSocket, as ASGI says; mounted, `hubsub.js` and its types, too.

        Anything else is answered by 426.
        """
        if scope["type"] == "lifespan":
            await pass_lifespan(receive, send)
        elif scope["type"] == "websocket":
            message = await receive()
            if message["type"] == "websocket.connect":
                await self.handle(scope, receive, send)
        elif is_file(scope["path"]):
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
            identity: The client's identity, if it is known; then `identify` is not called.
            opened: The socket is accepted already.
        """
        connection = Connection(secrets.token_hex(8), scope)
        try:
            self._check(connection)
            wants_token = False
            if identity is not None:
                connection.identity = identity
            else:
                try:
                    await self.access.identify(connection)
                except Refused:
                    # It looked for a token and found none: the client may send one in its hello.
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
        try:
            with self._connected(session):
                await session.run(wants_token)
        finally:
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

    Only what `outgoing` and `incoming` name crosses. Clients speak `hubsub.v1`, see docs/web/protocol.md.

    Args:
        hub: The hub.
        outgoing: Patterns of what clients may subscribe to and respond to. A part `{identity}` stands for the client's
            own identity; without one such a pattern matches nothing.
        incoming: Patterns of what clients may publish to and ask, likewise.
        authorize: `authorize(connection, action, key)`, plain or async, returns whether a client may do it; it only
            narrows. The action is "subscribe" or "respond" with a pattern, or "publish", "request" or "receive" with a
            key. "receive" is asked for each key that is delivered, and its answer is remembered for a minute. If
            `authorize` fails, the answer is no.
        identify: `identify(connection)`, plain or async, returns the client's identity, or None for an anonymous
            client; or raises `Refused`. If it looks at `connection.token`, finds none and refuses, it is called again
            once the client has sent `hello` with a token.
        origins: Pages that may connect: "same" for those of this host, "*" for all, or a list of origins, such as
            "https://example.org". Clients other than browsers send no origin, and may connect.
        codec: Encodes the messages. What is not JSON travels in base64.
        overflow: What happens if a client reads more slowly than messages come: by default it is disconnected, with
            code 4413, and resumes. The other policies, except `GROW`, drop messages and send a gap.
        limits: What a client may ask.
        on_connect: Called with each `Connection` before it is accepted, plain or async; it may raise `Refused`.
        on_disconnect: Called with each accepted `Connection` when it has ended.

    Raises:
        ValueError: An option has an invalid value.
        TypeError: An option has the wrong type.
        InvalidKey: A pattern is invalid.
    """
    return Endpoint(
        hub, outgoing, incoming, authorize, identify, origins, codec, overflow, limits, on_connect, on_disconnect
    )


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(websocket: Any, endpoint: Endpoint, *, identity: str | None = None) -> None:
    """Serve a WebSocket of Starlette or FastAPI by an endpoint, from a route of your own.

    This way the framework's dependencies decide who the client is. Returns when either side has ended the connection.

    Args:
        websocket: A `starlette.websockets.WebSocket`, accepted or not.
        endpoint: The endpoint that serves it.
        identity: The client's identity; None asks the endpoint's `identify`.
    """
    opened = websocket.application_state.name == "CONNECTED"
    if websocket.client_state.name == "CONNECTING":
        await websocket.receive()
    await endpoint.handle(websocket.scope, websocket.receive, websocket.send, identity=identity, opened=opened)
