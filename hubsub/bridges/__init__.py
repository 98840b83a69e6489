"""Bridges carry the messages of a hub to other processes, and theirs to it, by a broker.

async with Hub() as hub, Bridge(hub, "redis://localhost:6379", both=[Key("orders", "*")]):
...
"""

from ..codec import Codec
from .adapter import Adapter, Buried, DelayedRecord, Features, Link, Loss, Received, Record, SentBack, bytes_moved
from .address import Addresses, Copies
from .inbox import Inbox
from .log import LogAdapter, LogState
from .relay.bridge import Bridge, connect
from .relay.health import Health, Leftover
from .relay.letters import StoredLetter
from .relay.plan import Backoff
from .schemes import adapter_for

__all__ = [
    "Adapter",
    "Addresses",
    "Backoff",
    "Bridge",
    "Buried",
    "Codec",
    "Copies",
    "DelayedRecord",
    "Features",
    "Health",
    "Inbox",
    "Leftover",
    "Link",
    "LogAdapter",
    "LogState",
    "Loss",
    "Received",
    "Record",
    "SentBack",
    "StoredLetter",
    "adapter_for",
    "bytes_moved",
    "connect",
]
