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

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._core.asking import Replies
from ._core.explain import Explanation, Match
from ._core.history import Retention
from ._core.listener import Listener
from ._core.message_queue import Overflow
from ._core.retry import Retry
from ._core.subscription import GapSubscription, SnapshotSubscription, Subscription
from ._core.tap import Tap, Tapped
from ._core.wrapping import Call, Wrapping
from .errors import (
    AccessRefused,
    BridgeClosed,
    BridgeError,
    BridgeNotReady,
    BrokerBusy,
    ClosedError,
    ConfirmationTimeout,
    DecodeError,
    DeliveryError,
    EmptyKey,
    EncodeError,
    HistoryUnavailable,
    HubClosed,
    HubsubError,
    InvalidFunction,
    InvalidKey,
    InvalidListener,
    InvalidPart,
    MissingDriver,
    NameTaken,
    NoResponders,
    NoRunningLoop,
    NoSuchLetter,
    PayloadTooLarge,
    RemoteError,
    RequestError,
    RequestTimeout,
    SignatureError,
    SubscriberTooSlow,
    SubscriptionClosed,
    Undelivered,
    UnknownListener,
    UnknownScheme,
    UnknownSubscription,
    Unsupported,
    WaitingForItself,
    WildcardPublished,
    WrongContext,
    WrongLoop,
    WrongThread,
)
from .event import DeadLetter, Event, Gap, ListenerFailure, Meta, Snapshot
from .hub import Hub, Stats
from .key import Key
from .publisher import Publisher
from .subscriber import Subscriber

if _TYPE_CHECKING:
    from .bridges import Bridge, connect
    from .threads import HubThread

__version__ = "0.1.0"


# What programs written for aiopubsub find in its package, beside the names that are the same.
_AIOPUBSUB = {
    "loop": "loop",
    "utils": "utils",
    "testing": "testing.mocks",
    "logging_compat": "logging_compat",
    "PossibleKey": "_aiopubsub",
    "ListenerCallback": "_aiopubsub",
    "ListenerSyncCallback": "_aiopubsub",
    "ListenerAsyncCallback": "_aiopubsub",
    "UnreadCallback": "_aiopubsub",
    "ConsumeQueueNotFoundError": "_aiopubsub",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> _Any:
    # Imported on first use: programs without one do not wait for it.
    if name in ("Bridge", "connect"):
        from . import bridges

        return getattr(bridges, name)
    if name == "HubThread":
        from .threads import HubThread

        return HubThread
    if name in _AIOPUBSUB:
        import importlib

        module = importlib.import_module(f".{_AIOPUBSUB[name]}", __name__)
        return getattr(module, name) if _AIOPUBSUB[name] == "_aiopubsub" else globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AccessRefused",
    "Bridge",
    "BridgeClosed",
    "BridgeError",
    "BridgeNotReady",
    "BrokerBusy",
    "Call",
    "ClosedError",
    "ConfirmationTimeout",
    "DeadLetter",
    "DecodeError",
    "DeliveryError",
    "EmptyKey",
    "EncodeError",
    "Event",
    "Explanation",
    "Gap",
    "GapSubscription",
    "HistoryUnavailable",
    "Hub",
    "HubClosed",
    "HubThread",
    "HubsubError",
    "InvalidFunction",
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
    "NoSuchLetter",
    "Overflow",
    "PayloadTooLarge",
    "Publisher",
    "RemoteError",
    "Replies",
    "RequestError",
    "RequestTimeout",
    "Retention",
    "Retry",
    "SignatureError",
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
    "UnknownScheme",
    "UnknownSubscription",
    "Unsupported",
    "WaitingForItself",
    "WildcardPublished",
    "Wrapping",
    "WrongContext",
    "WrongLoop",
    "WrongThread",
    "connect",
]


def _settle() -> None:
    """Set the `__module__` of public classes to this package, so that pickles survive a move of their module."""
    from typing import ForwardRef

    for name in __all__:
        kind = globals().get(name)
        if isinstance(kind, type):
            # Annotations are still resolved in the module that defines the class.
            for field, annotation in vars(kind).get("__annotations__", {}).items():
                text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
                if isinstance(text, str):
                    kind.__annotations__[field] = ForwardRef(text, module=kind.__module__)
            kind.__module__ = __name__


_settle()
del _settle
