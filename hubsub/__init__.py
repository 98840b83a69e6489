"""Hierarchical publish/subscribe within a process, for asyncio.

>>> import hubsub
>>> hub = hubsub.Hub()
>>> @hub.on(("sensor", "*", "temperature"))
... def show(key, celsius):
...     print(key[1], celsius)
>>> hub.publish(("sensor", "kitchen", "temperature"), 21.5)
kitchen 21.5
1
"""

from .errors import (
    ClosedError,
    EmptyKey,
    HubClosed,
    HubsubError,
    InvalidKey,
    InvalidListener,
    InvalidPart,
    NoRunningLoop,
    SubscriberTooSlow,
    SubscriptionClosed,
    UnknownListener,
    UnknownSubscription,
    WildcardPublished,
    WrongContext,
    WrongLoop,
    WrongThread,
)
from .event import DeadLetter, Event, Gap, ListenerFailure, Meta
from .hub import Hub, Stats
from .key import Key
from .mailbox import Overflow
from .publisher import Publisher
from .retry import Retry
from .subscriber import Subscriber
from .subscription import GapSubscription, Listener, Subscription

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DeadLetter",
    "EmptyKey",
    "Event",
    "Gap",
    "GapSubscription",
    "Hub",
    "HubClosed",
    "HubsubError",
    "InvalidKey",
    "InvalidListener",
    "InvalidPart",
    "Key",
    "Listener",
    "ListenerFailure",
    "Meta",
    "NoRunningLoop",
    "Overflow",
    "Publisher",
    "Retry",
    "Stats",
    "Subscriber",
    "SubscriberTooSlow",
    "Subscription",
    "SubscriptionClosed",
    "UnknownListener",
    "UnknownSubscription",
    "WildcardPublished",
    "WrongContext",
    "WrongLoop",
    "WrongThread",
]
