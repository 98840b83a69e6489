"""Bridges carry the messages of a hub to other processes, and theirs to it, by a broker.

async with Hub() as hub, Bridge(hub, "redis://localhost:6379", both=[Key("orders", "*")]):
...
"""

from .adapter import Adapter, Features, Link, Loss, Received, Record
from .address import Addresses, Copies
from .bridge import Backoff, Bridge, Health, Leftover, connect
from .codec import Codec

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
    "connect",
]
