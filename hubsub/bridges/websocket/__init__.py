"""WebSocket endpoints of `hubsub.web`: `ws://`, and `wss://` with TLS."""

from .adapter import WebSocketAdapter

__all__ = ["WebSocketAdapter"]
