"""Adjacent queues of a route that share one index of it, and one queued object for each message."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from ..event import Event
from ..key import Key
from .message_queue import Item, Mailbox

_by_order: Any = attrgetter("order")


class Run(list[Callable[[Item], None]]):
    """Puts the same pair into each of several queues, which would otherwise make a pair each.

    Its items put a pair into the queue of the target at the same index.
    """

    __slots__ = ("missed", "order", "targets")

    # From this many adjacent queues on, a run pays off.
    LEAST = 4

    def __init__(self, targets: list[Any]) -> None:
        super().__init__([target.mailbox.put_pair for target in targets])
        self.targets = targets
        self.order = targets[0].order
        self.missed = 0  # times that all of them failed together

    def __call__(self, key: Key[Any], message: Any) -> None:
        """Deliver a message, as `Target.deliver`."""
        pair = (key, message)
        raised: BaseException | None = None
        for put in self:
            try:
                put(pair)
            except BaseException as error:
                # If the stack is full, nothing can be called here.
                is_full = error.__class__ is RecursionError
                raised = error if is_full else self._failed(put, pair, error) or raised
        if raised is not None:
            raise raised

    def _failed(self, put: Callable[[Item], None], pair: Item, error: BaseException) -> BaseException | None:
        target = self.targets[self.index(put)]
        failure: BaseException | None = target._hub._failure(target, *pair, error)
        return failure

    @property
    def deliver(self) -> Run:
        """Its callable in a route."""
        return self

    def returned(self, event: Event[Any], result: object, /) -> None:
        """None of its targets returns anything."""

    def withdraw(self, target: Any, reordered: bool = False) -> bool:
        """Make running publishes skip a target; return whether it is one of this run.

        `reordered`: the targets may not be in order any more.
        """
        index = bisect_left(self.targets, target.order, key=_by_order)
        if index == len(self.targets) or self.targets[index] is not target:
            if not reordered or target not in self.targets:
                return False
            index = self.targets.index(target)
        self[index] = partial(_miss, target)
        return True

    def __repr__(self) -> str:
        return f"{len(self)} queues, from {self.targets[0]!r} on"


def _miss(target: Any, pair: Item) -> None:
    target._miss(*pair)


def joined(targets: Sequence[Any]) -> list[Any] | None:
    """Return the targets with adjacent queues joined to runs; None if there are too few queues for a run."""
    if sum(map(_is_shared, targets)) < Run.LEAST:
        return None
    steps = list(_steps(targets))
    return steps if len(steps) < len(targets) else None


def _steps(targets: Sequence[Any]) -> Iterator[Any]:
    for is_shared, group in groupby(targets, _is_shared):
        several = list(group)
        if is_shared and len(several) >= Run.LEAST:
            yield Run(several)
        else:
            yield from several


def _is_shared(target: Any) -> bool:
    """True if a target queues every message unconditionally."""
    mailbox = target.mailbox
    return type(mailbox) is Mailbox and target.deliver is mailbox.put and mailbox.takes_pairs
