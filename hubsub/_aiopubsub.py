"""Names of aiopubsub's package for which there is no other use here: type hints, and an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from .errors import UnknownSubscription
from .key import Key

PossibleKey: TypeAlias = str | Iterable[str]
ListenerSyncCallback: TypeAlias = Callable[[Key[Any], Any], None]
ListenerAsyncCallback: TypeAlias = Callable[[Key[Any], Any], Awaitable[None]]
ListenerCallback: TypeAlias = ListenerAsyncCallback | ListenerSyncCallback
UnreadCallback: TypeAlias = Callable[..., int]

# There, consuming a subscription that has no queue; here, any id that nothing can be consumed of.
ConsumeQueueNotFoundError = UnknownSubscription
