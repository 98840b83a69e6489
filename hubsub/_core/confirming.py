"""Publishing that waits until everybody has finished with the message."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from math import inf
from types import coroutine
from typing import Any

from ..confirm import Confirmation
from ..errors import ConfirmationTimeout, DeliveryError, Undelivered, WaitingForItself
from ..event import Event, Meta
from ..key import Key, KeyLike
from .async_listener import AsyncListener
from .checks import seconds_or_none
from .delays import carriers_of, is_delayed
from .exchange import Exchange
from .message_queue import as_tuple
from .room import publish_with_room


class Outcome:
    """The result of one confirmed publish; called when it is known."""

    __slots__ = ("failures", "finished", "future")

    def __init__(self) -> None:
        self.finished: int | None = None  # how many have finished, once everybody has finished or failed
        self.failures: list[Undelivered] = []
        # Made only if somebody has to wait for it: where all listeners are plain, nobody has to.
        self.future: asyncio.Future[None] | None = None

    def __call__(self, finished: int, failures: list[Undelivered]) -> None:
        self.finished, self.failures = finished, failures
        self.wake()

    def wake(self) -> None:
        """Wake whoever waits, even if the result is not known."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


async def publish_until_finished(
    exchange: Exchange, key: KeyLike[Any], message: Any, meta: Meta | None, timeout: float | None
) -> int:
    """As `Hub.publish_confirmed`, with metadata."""
    if type(timeout) is not float or not 0 <= timeout < inf:
        timeout = seconds_or_none(timeout, "timeout")
    loop = exchange._life.bind()
    route = exchange._route_of(key)
    key = route.key
    event: Event[Any] = as_tuple(Event, (key, message))
    delayed = meta is not None and is_delayed(meta)
    if meta is not None and not delayed:
        meta = meta._replace(due=None)
    if meta is not None:
        event.meta = meta
    outboxes: list[Any] = []
    for target in carriers_of(route) if delayed else route.targets:
        if target.remote:
            outboxes.append(target)
        elif isinstance(target, AsyncListener) and target.is_caller():
            raise WaitingForItself(target, key)
    outcome = Outcome()
    confirmation: Confirmation | None = None
    left = timeout
    target = None if delayed else route.sole
    if target is not None:
        # No copy is needed: the event is for this target alone.
        route.published += 1
        exchange._deliver_to_one(target, event, outcome)
    else:
        confirmation = Confirmation(outcome)

        def deliver() -> int:
            now = exchange._route_of(key)
            return exchange._deliver_confirmed(carriers_of(now) if delayed else now.targets, event, confirmation)

        if any(len(outbox.mailbox.items) >= outbox.mailbox.room for outbox in outboxes):
            began = loop.time()
            try:
                async with asyncio.timeout(timeout):
                    await publish_with_room(key, lambda: _outgoing_queues(exchange, key), exchange._life.bind, deliver)
            except TimeoutError:
                raise ConfirmationTimeout(key, timeout or 0, outboxes) from None
            left = None if timeout is None else max(0.0, began + timeout - loop.time())
        else:
            deliver()
    if outcome.finished is None:
        # An async listener that has nothing else to do is called in the loop's next turn; mostly that is all.
        began = loop.time()
        await _turn()
        left = None if left is None else max(0.0, began + left - loop.time())
    if outcome.finished is None:
        # A timer and not asyncio.timeout, which takes as long as all the rest.
        outcome.future = loop.create_future()
        timer = None if left is None else loop.call_later(left, outcome.wake)
        try:
            await outcome.future
        finally:
            if timer is not None:
                timer.cancel()
        if outcome.finished is None:
            waiting_for = [event.registration] if confirmation is None else confirmation.waiting_for
            failures = [] if confirmation is None else confirmation.failures
            raise ConfirmationTimeout(key, timeout or 0, waiting_for, failures)
    if outcome.failures:
        error = DeliveryError(f"{key!r} was not finished by everybody", outcome.failures)
        error.finished = outcome.finished
        raise error
    return outcome.finished


@coroutine
def _turn() -> Generator[None, None, None]:
    """Give the loop a turn: as `asyncio.sleep(0)`, at less cost."""
    yield


def _outgoing_queues(exchange: Exchange, key: Key[Any]) -> list[Any]:
    """Return the queues of the outboxes that an exact key leaves by."""
    return [target.mailbox for target in exchange._route_of(key).targets if target.remote]
