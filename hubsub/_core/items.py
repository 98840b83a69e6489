"""What a queue holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..event import Event
from ..key import Key

Item = tuple[Key[Any], Any]  # a plain pair, or an `Event` where metadata travels with the message

as_tuple = tuple.__new__


def as_event(item: Item) -> Event[Any]:
    """Return what a mailbox holds as an event."""
    return item if type(item) is Event else as_tuple(Event, item)


class Latest(OrderedDict[Key[Any], Item]):
    """The newest item of each key, in the order in which the keys were queued.

    An OrderedDict, because popping the first item of a plain dict skips the slots of all that were popped before.
    """

    def popleft(self) -> Item:
        """Remove and return the first item."""
        return self.popitem(last=False)[1]
