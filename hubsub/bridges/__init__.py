"""Bridges carry the messages of a hub to other processes, and theirs to it, by a broker.

async with Hub() as hub, Bridge(hub, "redis://localhost:6379", both=[Key("orders", "*")]):
...
"""

from ..codec import Codec
from .adapter import Adapter, Features, Link, Loss, Received, Record, bytes_moved
from .address import Addresses, Copies
from .relay.bridge import Bridge, Health, Leftover, connect
from .relay.plan import Backoff

__all__ = [
    "Adapter",
    "Addresses",
    "Backoff",
    "Bridge",
    "Codec",
    "Copies",
    "Features",
    "Health",
    "Leftover",
    "Link",
    "Loss",
    "Received",
    "Record",
    "bytes_moved",
    "connect",
]
