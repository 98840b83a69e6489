"""WebSockets and server-sent events: the messages of a hub in browsers, and those of browsers in the hub.

Plain ASGI, for every framework and server. Needs msgspec: `pip install 'hubsub[web]'`.
"""

from ..errors import MissingDriver

try:
    import msgspec as _msgspec  # noqa: F401
except ImportError:
    raise MissingDriver("hubsub.web", "msgspec", "web") from None

from .access import Connection, Refused
from .endpoint import Connections, Endpoint, endpoint, serve
from .events import Events, events
from .limits import Limits
from .plain import plain
from .publishing import Publishing, publishing
from .serving import lifespan, listen

__all__ = [
    "Connection",
    "Connections",
    "Endpoint",
    "Events",
    "Limits",
    "Publishing",
    "Refused",
    "endpoint",
    "events",
    "lifespan",
    "listen",
    "plain",
    "publishing",
    "serve",
]
