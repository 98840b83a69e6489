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
    """The newest item of each key, taken in the order in which the keys began to wait.

    Ordered, because taking the first of a plain dict passes over the places of all that were taken before.
    """

    def popleft(self) -> Item:
        """Remove and return the first item."""
        return self.popitem(last=False)[1]
