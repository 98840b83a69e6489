"""WebSockets and server-sent events: the messages of a hub in browsers, and those of browsers in the hub.

Plain ASGI, for every framework and server. Needs msgspec: `pip install 'hubsub[web]'`.
"""

from ..errors import MissingDriver

try:
    import msgspec as _msgspec  # noqa: F401
except ImportError:
    raise MissingDriver("hubsub.web", "msgspec", "web") from None

from .access import Connection, Refused
from .application import Connections
from .bare import plain
from .limits import Limits
from .module import script
from .posting import Publishing, publishing
from .serving import lifespan, listen
from .sockets import Endpoint, endpoint, serve
from .streams import Events, events

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
    "script",
    "serve",
]
