"""WebSockets without a protocol: one payload a frame."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from .._core.message_queue import Overflow
from ..codec import BytesCodec, Codec, JsonCodec, StrCodec, codec_of
from ..errors import EncodeError, SubscriptionClosed
from ..hub import Hub
from ..key import Key, KeyLike, Patterns, as_patterns
from .access import logger
from .stream import ended

# The most messages that wait for one client; beyond that it is disconnected.
QUEUE = 1000


async def plain(
    websocket: Any,
    hub: Hub,
    *,
    send: Patterns | None = None,
    receive: KeyLike[Any] | None = None,
    codec: str | type | Codec = str,
    history: int = 0,
) -> None:
    """Connect a WebSocket of Starlette or FastAPI to a hub, one payload a frame; return when either side ends it.

    A part `{room}` of a key or pattern stands for what the framework's route found in the path under that name; it is
    never a wildcard.

    Args:
        websocket: A `starlette.websockets.WebSocket`; accepted here unless it is already.
        hub: The hub.
        send: Patterns of what the client receives.
        receive: The key to which the client's payloads are published; None ignores them.
        codec: What a payload is: `str`, `bytes`, "json", or a codec. Text travels in text frames, all else in binary
            ones.
        history: Begin with the last so many retained messages of each key.

    Raises:
        KeyError: The path has no such part.
        HistoryUnavailable: `history` is asked for, and nothing is retained.
    """
    chosen = _codec(codec)
    values = websocket.path_params
    key = (
        None
        if receive is None
        else Key.create_from(_filled([receive] if isinstance(receive, str) else receive, values))
    )
    patterns = [_filled(pattern, values) for pattern in as_patterns(send)] if send is not None else []
    if websocket.client_state.name == "CONNECTING":
        await websocket.receive()
    if websocket.application_state.name == "CONNECTING":
        await websocket.accept()
    subscription = None
    if patterns:
        subscription = hub.subscribe(
            [Key.create_from(each) for each in patterns], maxsize=QUEUE, overflow=Overflow.CLOSE, history=history
        )
    reading = asyncio.ensure_future(_read(websocket, hub, key, chosen))
    both = {reading}
    if subscription is not None:
        both.add(asyncio.ensure_future(_write(websocket, subscription, chosen)))
    try:
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if subscription is not None:
            subscription.close()
        for task in both:
            task.cancel()
        await ended(both)
    for task in done:
        if (error := task.exception()) is not None and not _is_gone(error):
            raise error
    if reading not in done:
        await _close(websocket, 1013 if _was_too_slow(done) else 1001)


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, OSError | SubscriptionClosed) or type(error).__name__ in (
        "WebSocketDisconnect",
        "ClientDisconnected",
    )


def _was_too_slow(done: set[asyncio.Task[None]]) -> bool:
    return any(isinstance(task.exception(), SubscriptionClosed) for task in done)


async def _close(websocket: Any, code: int) -> None:
    try:
        async with asyncio.timeout(1.0):
            await websocket.close(code)
    except Exception as error:
        logger.debug("a web client was gone before its socket was closed", error=error)


def _codec(codec: str | type | Codec) -> Codec:
    if codec is str:
        return StrCodec()
    if codec is bytes:
        return BytesCodec()
    return codec_of(codec)  # type: ignore[arg-type]


def _filled(parts: Sequence[str], values: Any) -> tuple[str, ...]:
    filled = []
    for part in parts:
        if len(part) > 2 and part[0] == "{" and part[-1] == "}":
            part = str(values[part[1:-1]])
            if part in ("*", "+", ""):
                raise ValueError(f"{part!r} in the path cannot be a part of a key")
        filled.append(part)
    return tuple(filled)


async def _read(websocket: Any, hub: Hub, key: Key[Any] | None, codec: Codec) -> None:
    while True:
        frame = await websocket.receive()
        if frame["type"] == "websocket.disconnect":
            return
        if key is None:
            continue
        payload = frame.get("text")
        payload = frame.get("bytes") or b"" if payload is None else payload.encode("utf-8", "surrogatepass")
        try:
            message = codec.decode(payload, hub.border.type_of(key))
        except (ValueError, TypeError) as error:
            logger.debug("a web client has sent a payload that cannot be decoded", error=error)
            await _close(websocket, 1007)
            return
        hub.publish(key, message)


async def _write(websocket: Any, subscription: Any, codec: Codec) -> None:
    is_text = isinstance(codec, StrCodec | JsonCodec)
    async for key, message in subscription:
        try:
            payload = codec.encode(message)
        except (EncodeError, ValueError, TypeError) as error:
            logger.error("a message of %r cannot be encoded for a web client", key, error=error)
            continue
        if is_text:
            await websocket.send_text(payload.decode("utf-8", "replace"))
        else:
            await websocket.send_bytes(payload)
