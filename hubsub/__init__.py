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

from .asking import Replies
from .errors import (
    ClosedError,
    ConfirmationTimeout,
    DeliveryError,
    EmptyKey,
    HistoryUnavailable,
    HubClosed,
    HubsubError,
    InvalidKey,
    InvalidListener,
    InvalidPart,
    MissingDriver,
    NameTaken,
    NoResponders,
    NoRunningLoop,
    RemoteError,
    RequestError,
    RequestTimeout,
    SubscriberTooSlow,
    SubscriptionClosed,
    Undelivered,
    UnknownListener,
    UnknownSubscription,
    WaitingForItself,
    WildcardPublished,
    WrongContext,
    WrongLoop,
    WrongThread,
)
from .event import DeadLetter, Event, Gap, ListenerFailure, Meta, Snapshot
from .explain import Explanation, Match
from .history import Retention
from .hub import Hub, Stats
from .key import Key
from .mailbox import Overflow
from .publisher import Publisher
from .retry import Retry
from .subscriber import Subscriber
from .subscription import GapSubscription, Listener, SnapshotSubscription, Subscription
from .tap import Tap, Tapped

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "ConfirmationTimeout",
    "DeadLetter",
    "DeliveryError",
    "EmptyKey",
    "Event",
    "Explanation",
    "Gap",
    "GapSubscription",
    "HistoryUnavailable",
    "Hub",
    "HubClosed",
    "HubsubError",
    "InvalidKey",
    "InvalidListener",
    "InvalidPart",
    "Key",
    "Listener",
    "ListenerFailure",
    "Match",
    "Meta",
    "MissingDriver",
    "NameTaken",
    "NoResponders",
    "NoRunningLoop",
    "Overflow",
    "Publisher",
    "RemoteError",
    "Replies",
    "RequestError",
    "RequestTimeout",
    "Retention",
    "Retry",
    "Snapshot",
    "SnapshotSubscription",
    "Stats",
    "Subscriber",
    "SubscriberTooSlow",
    "Subscription",
    "SubscriptionClosed",
    "Tap",
    "Tapped",
    "Undelivered",
    "UnknownListener",
    "UnknownSubscription",
    "WaitingForItself",
    "WildcardPublished",
    "WrongContext",
    "WrongLoop",
    "WrongThread",
]
