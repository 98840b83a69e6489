"""WebSocket endpoints of `hubsub.web`: `ws://`, and `wss://` with TLS."""

from ...errors import MissingDriver

try:
    import msgspec as _msgspec  # noqa: F401
except ImportError:
    raise MissingDriver("WebSocketAdapter", "msgspec", "ws") from None

from .adapter import WebSocketAdapter

__all__ = ["WebSocketAdapter"]
