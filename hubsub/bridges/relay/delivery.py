"""Unfinished messages of a durable broker, and the acknowledgements of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

from ..._core.registration import Registration
from ...event import Event
from ..adapter import Received
from .seen import Name

A = TypeVar("A", bound="PendingAck")


class Lane(deque["PendingAck"]):
    """What is unfinished of a lane that is acknowledged in order, the oldest first; it ends with its connection."""

    __slots__ = ("is_over", "last")

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None  # the token to acknowledge, which stands for all before it
        self.is_over = False


class PendingAck:
    """An acknowledgement to send. In a lane that is acknowledged in order, it waits for those before it."""

    lane: Lane | None = None
    is_due = False

    def __init__(self, token: Any) -> None:
        self.token = token


class Delivery(PendingAck):
    """An unfinished message, and the acknowledgement of it."""

    # What few messages need is an attribute of the class until it is set: there are tens of thousands a second.
    repeats: Sequence[PendingAck] = ()  # the same message, received again meanwhile
    calls = 0  # how often listeners were called with it
    is_buried = False  # it was given up, and is being stored as a dead letter
    only: list[Registration] | None = None  # the targets that have failed
    is_finished = False
    is_handled = False  # by one listener, at least
    inline = False  # it is being published at the moment
    is_suspect = False  # it may kill the process
    then: Delivery | None = None  # the next one of its key, which waits for it

    def __init__(self, received: Received, event: Event[Any] | None, name: Name | None) -> None:
        self.token = received.token
        self.received = received
        self.event = event  # None if it could not be read
        self.name = name
        self.size = len(received.payload or b"")
        self.attempts = received.attempts  # including earlier ones that the broker counted
