"""Bridges carry the messages of a hub to other processes, and theirs to it, by a broker.

async with Hub() as hub, Bridge(hub, "redis://localhost:6379", both=[Key("orders", "*")]):
...
"""

from ..codec import Codec
from .adapter import (
    Adapter,
    Buried,
    ConfirmedRecord,
    DelayedRecord,
    Features,
    Link,
    Loss,
    NotFinished,
    Received,
    Record,
    SentBack,
    bytes_moved,
)
from .address import Addresses, Copies
from .inbox import Inbox
from .lines import Line, LineAdapter
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
    "ConfirmedRecord",
    "Copies",
    "DelayedRecord",
    "Features",
    "Health",
    "Inbox",
    "Leftover",
    "Line",
    "LineAdapter",
    "Link",
    "LogAdapter",
    "LogState",
    "Loss",
    "NotFinished",
    "Received",
    "Record",
    "SentBack",
    "StoredLetter",
    "adapter_for",
    "bytes_moved",
    "connect",
]
