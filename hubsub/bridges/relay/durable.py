"""Messages of a durable broker, from being read to being acknowledged: handled, tried again, or buried."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from functools import partial
from typing import Any, Protocol

from ..._core.registration import Registration
from ..._core.routes import Target
from ...confirm import Confirmed
from ...describe import describe_error
from ...errors import BrokerBusy, HubClosed, Undelivered
from ...event import Event
from ...key import Key
from ...log import Episode, Logger
from ..adapter import Adapter, Features, Received
from .plan import Plan
from .seen import Name, SeenWindow

MOST_REASON = 1000
"""Letters of why a message became a dead letter."""


class Relay(Protocol):
    """Brings an event into the hub, for those who have not handled it yet."""

    def __call__(
        self,
        event: Event[Any],
        *,
        exclude: Target | None,
        confirmed: Confirmed | None,
        only: Collection[Registration] | None,
    ) -> object: ...


class PendingAck:
    """An acknowledgement that is owed. Those of a lane that is acknowledged in order wait for the ones before them."""

    __slots__ = ("is_due", "lane", "queue", "token")

    def __init__(self, token: Any, lane: Hashable, queue: deque[PendingAck] | None) -> None:
        self.token = token
        self.lane = lane
        self.queue = queue
        self.is_due = False
        if queue is not None:
            queue.append(self)


class Delivery:
    """A message that is not finished."""

    __slots__ = (
        "acks",
        "attempts",
        "calls",
        "event",
        "inline",
        "is_buried",
        "is_finished",
        "is_handled",
        "is_suspect",
        "name",
        "only",
        "received",
        "size",
    )

    def __init__(self, received: Received, event: Event[Any] | None, name: Name | None) -> None:
        self.received = received
        self.event = event  # None if it could not be read
        self.name = name
        self.size = len(received.payload or b"")
        self.acks: list[PendingAck] = []
        self.attempts = received.attempts  # those before that the broker knows of, too
        self.calls = 0  # how often listeners were called with it
        self.is_buried = False  # it was given up, and is being written to the dead letters
        self.only: list[Registration] | None = None  # those who have failed
        self.is_finished = False
        self.is_handled = False  # by one listener, at least
        self.inline = False  # it is just being published
        self.is_suspect = False  # perhaps it kills the process


class Durable:
    """Hands over what a durable broker delivers, and has it acknowledged when everybody has finished with it.

    Args:
        plan: The options.
        features: What the broker can do.
        seen: What the hub has seen.
        relay: Brings an event into the hub.
        exclude: Who does not get it there.
        interrupted: Hears of what a listener raised that is no failure of a listener.
        is_open: Tells whether the hub is open.
        log: Where to complain.
    """

    def __init__(
        self,
        plan: Plan,
        features: Features,
        seen: SeenWindow,
        relay: Relay,
        exclude: Target | None,
        interrupted: Callable[[Event[Any], BaseException], None],
        is_open: Callable[[], bool],
        log: Logger,
    ) -> None:
        self._plan = plan
        self._features = features
        self._seen = seen
        self._relay = relay
        self._exclude = exclude
        self._acks_in_order = features.acks == "prefix"
        self._interrupted = interrupted
        self._is_open = is_open
        self._log = log
        self._episode = Episode(log)
        ordered = plan.ordered
        self._ordered = (plan.group is None or features.order != "none") if ordered is None else ordered
        default = "hold" if plan.keeps_position else "ack"
        self._unclaimed = plan.unclaimed or default
        self._acknowledges = features.acks != "none"
        self.adapter: Adapter | None = None
        # Listeners may come and leave while it does not run: then what waits for them goes on with it.
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of each key with an unfinished message: those that wait behind it.
        self._chains: dict[Key[Any], deque[Delivery]] = {}
        self._deliveries: dict[Delivery, None] = {}
        self._held: dict[Delivery, None] = {}
        self._suspects: deque[Delivery] = deque()
        self._is_innocent = False  # a suspect has been handled by this process
        self._lanes: dict[Hashable, deque[PendingAck]] = {}
        self._blocked = 0  # acknowledgements that are due but for those before them in their lane
        self._acks: list[Any] = []
        self._last_acks: dict[Hashable, Any] = {}
        self._acking = 0  # of those, so many are on their way
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._says_held = False
        self.is_closing = False
        """Nothing more is published; what is unfinished stays so."""
        self.bytes = 0
        self.failures = 0
        self.dead_letters = 0
        self.lost_letters = 0
        self.unclaimed = 0

    def connected(self, adapter: Adapter) -> None:
        """There is a new connection. What is acknowledged in order is delivered anew by it."""
        self.adapter = adapter
        self._loop = asyncio.get_running_loop()
        self._lanes.clear()
        self._blocked = 0
        self._last_acks.clear()

    # Handling

    def begin(self, delivery: Delivery) -> None:
        """Hand over a message that was not seen before."""
        self._keep(delivery)
        event = delivery.event
        assert event is not None
        if delivery.attempts >= self._plan.attempts:
            self._suspect(delivery)
            return
        key = event[0]
        if not self._ordered:
            self._publish(delivery)
        elif (chain := self._chains.get(key)) is not None:
            chain.append(delivery)
        else:
            self._chains[key] = deque((delivery,))
            self._go_on(key)

    def refuse(self, received: Received, error: BaseException) -> None:
        """Put aside a message that cannot be read, or brought into the hub at all."""
        delivery = self._keep(Delivery(received, None, None))
        self.dead_letters += 1
        self._put_aside(delivery, describe_error(error))

    def again(self, received: Received, known: Any) -> None:
        """A message that was seen before: it joins the one that is being handled, or is finished."""
        if isinstance(known, Delivery) and not known.is_finished:
            known.acks.append(self._owe(received))
        else:
            self.skip(received)

    def is_burying(self, known: Any) -> bool:
        """True if a message that was seen before is being written to the dead letters, or is there by now."""
        return isinstance(known, Delivery) and known.is_buried

    def _keep(self, delivery: Delivery) -> Delivery:
        self._deliveries[delivery] = None
        self.bytes += delivery.size
        delivery.acks.append(self._owe(delivery.received))
        return delivery

    def _suspect(self, delivery: Delivery) -> None:
        """Keep a message that never was finished, and perhaps killed who tried, until nothing else can be hurt."""
        delivery.is_suspect = True
        self._suspects.append(delivery)
        if len(self._suspects) == 1:
            self._start(self._try_suspects())

    async def _try_suspects(self) -> None:
        """Handle them one by one, each acknowledged before the next: if one kills the process, it is the first left.

        The broker counts the deliveries of all that were in hand, guilty or not.
        """
        while self._suspects:
            delivery = self._suspects[0]
            while len(self._deliveries) > len(self._suspects) or self.to_ack:
                await self.progress()
            if not self._is_innocent and delivery.attempts > self._plan.attempts:
                self.dead_letters += 1
                # Nobody has lived to count these calls but the broker.
                delivery.calls = delivery.attempts
                self._put_aside(delivery, f"it was not finished in {delivery.attempts} attempts")
            else:
                self._publish(delivery)
            while not delivery.is_finished:
                await self.progress()
            self._is_innocent = True
            self._suspects.popleft()
        self._news.set()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_on(self, key: Key[Any]) -> None:
        """Publish the first message of a key that waits, and those after it as far as they are finished at once."""
        chain = self._chains[key]
        while chain:
            self._publish(chain[0])
            if not chain[0].is_finished:
                return
            chain.popleft()
        del self._chains[key]

    def _publish(self, delivery: Delivery) -> None:
        event = delivery.event
        if self.is_closing or event is None:
            return
        delivery.inline = True
        try:
            confirmed = partial(self._confirmed, delivery)
            self._relay(event, exclude=self._exclude, confirmed=confirmed, only=delivery.only)
        except HubClosed:
            pass  # it comes again
        except Exception as error:
            # Not one of its listeners: the hub would not have it.
            self.dead_letters += 1
            self._put_aside(delivery, describe_error(error))
        except BaseException as error:
            self._interrupted(event, error)
        finally:
            delivery.inline = False

    def _confirmed(self, delivery: Delivery, number: int, failures: list[Undelivered]) -> None:
        """Everybody has said something of a message."""
        delivery.is_handled = delivery.is_handled or number > 0
        if not failures:
            if delivery.is_handled:
                self._finish(delivery, handled=True)
            elif delivery.only is None:
                self._nobody(delivery)
            else:
                self._for_whoever_is_there(delivery)
            return
        if self.is_closing or not self._is_open():
            return  # it stays unfinished, and comes again to somebody
        failed = [failure.registration for failure in failures if not failure.registration.closed]
        if not failed:
            if delivery.is_handled:
                self._finish(delivery, handled=True)
            else:
                self._for_whoever_is_there(delivery)
            return
        delivery.only = failed
        causes = [failure.__cause__ for failure in failures if failure.__cause__ is not None]
        if causes:
            self.failures += 1
            delivery.attempts += 1
            delivery.calls += 1
            if delivery.attempts >= self._plan.attempts:
                self.dead_letters += 1
                self._put_aside(delivery, describe_error(causes[0]))
                return
        self._later(delivery, min(60.0, self._plan.retry_pause * 2 ** min(delivery.attempts, 16)))

    def _for_whoever_is_there(self, delivery: Delivery) -> None:
        """Whoever had it is gone, and nobody has handled it: those who are here by then get it."""
        delivery.only = None
        self._later(delivery, self._plan.retry_pause)

    def _later(self, delivery: Delivery, pause: float) -> None:
        assert self._loop is not None
        self._loop.call_later(pause * random.uniform(0.5, 1.0), self._publish_again, delivery)

    def _publish_again(self, delivery: Delivery) -> None:
        if not delivery.is_finished:
            self._publish(delivery)
            if delivery.is_finished and self._ordered and not delivery.is_suspect:
                self._next(delivery)

    # Nobody there

    def _nobody(self, delivery: Delivery) -> None:
        """Nobody is subscribed."""
        self.unclaimed += 1
        if self._unclaimed == "ack":
            self._finish(delivery, handled=False)
        elif self._unclaimed == "hold":
            self._held[delivery] = None
            if not self._says_held:
                self._says_held = True
                self._log.warning(
                    "nobody is subscribed to %r: it is held, and nothing behind it is read; subscribe to it, or choose"
                    " unclaimed='ack' or 'dead-letter'",
                    delivery.received.key,
                )
        else:
            self.dead_letters += 1
            self._put_aside(delivery, "nobody is subscribed to it")

    def changed(self) -> None:
        """Subscriptions came or went: somebody may take what nobody took."""
        held, self._held = self._held, {}
        for delivery in held:
            self.unclaimed -= 1
            self._publish_again(delivery)
        if held and not self._held:
            self._says_held = False
        self._news.set()

    @property
    def is_holding(self) -> bool:
        """True while there are messages that nobody takes."""
        return bool(self._held)

    # Finishing

    def _finish(self, delivery: Delivery, *, handled: bool) -> None:
        """Have it acknowledged. Only what somebody has handled is remembered: a dead letter may be put back."""
        delivery.is_finished = True
        del self._deliveries[delivery]
        if delivery.name is not None:
            if handled:
                self._seen.note(delivery.name)
            elif self._seen.get(delivery.name) is delivery:
                self._seen.forget(delivery.name)
        self.bytes -= delivery.size
        for ack in delivery.acks:
            self._settle(ack)
        self._news.set()
        if self._ordered and not delivery.inline and not delivery.is_suspect:
            self._next(delivery)

    def _next(self, delivery: Delivery) -> None:
        event = delivery.event
        if event is not None and event[0] in self._chains:
            self._chains[event[0]].popleft()
            self._go_on(event[0])

    # Dead letters

    def _put_aside(self, delivery: Delivery, why: str) -> None:
        """Bury a message; when that is confirmed, or refused for good, go on. It counts as unfinished till then."""
        delivery.is_buried = True
        self._start(self._bury(delivery, why if len(why) <= MOST_REASON else f"{why[:MOST_REASON]}…"))

    async def _bury(self, delivery: Delivery, why: str) -> None:
        received = delivery.received._replace(attempts=delivery.calls, trouble=None)
        pause, is_logged = self._plan.retry_pause, False
        while not self.is_closing:
            try:
                assert self.adapter is not None
                refusal = await self.adapter.bury(received, why)
                if refusal is not None and received.payload:
                    note = f"{why} (without its {len(received.payload)} bytes, which were refused: {refusal})"[:2000]
                    refusal = await self.adapter.bury(received._replace(payload=b"", headers={}), note)
            except Exception as error:
                if not is_logged:
                    is_logged = True
                    self._episode.warning("a dead letter of %r waits to be written", received.key, error=error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            if refusal is None:
                self._episode.error("gave up a message of %r, now among the dead letters: %s", received.key, why)
            else:
                self.lost_letters += 1
                self._episode.error(
                    "gave up a message of %r, which the broker refuses among the dead letters, too (%s): %s",
                    received.key,
                    refusal,
                    why,
                )
            self._finish(delivery, handled=False)
            return

    # The window

    @property
    def unfinished(self) -> int:
        """Messages that are not finished."""
        return len(self._deliveries)

    @property
    def room(self) -> int:
        """For how many more messages there is room."""
        if self.bytes >= self._plan.window_bytes or self._held or self._suspects:
            return 0
        return max(0, self._plan.window - len(self._deliveries) - self._blocked)

    async def progress(self) -> None:
        """Wait until another message is finished, or subscriptions have changed."""
        self._news.clear()
        await self._news.wait()

    def wake(self) -> None:
        """Let whoever waits for progress look again."""
        self._news.set()

    # Acknowledging

    def _owe(self, received: Received) -> PendingAck:
        """A message has to be finished before it is acknowledged."""
        lane, token = received.lane, received.token
        if token is None or not self._acks_in_order:
            return PendingAck(token, lane, None)
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
        return PendingAck(token, lane, queue)

    def skip(self, received: Received) -> None:
        """A message is none of ours: as good as finished."""
        if received.token is not None and self._acknowledges:
            if self._lanes.get(received.lane):
                self._settle(self._owe(received))
            else:
                self._due(received.lane, received.token)

    def _settle(self, ack: PendingAck) -> None:
        """A message is finished."""
        queue = ack.queue
        if not self._acknowledges or ack.token is None:
            return
        if queue is None:
            self._due(ack.lane, ack.token)
            return
        ack.is_due = True
        if self._lanes.get(ack.lane) is not queue:
            return  # of a connection that is no more
        self._blocked += 1
        while queue and queue[0].is_due:
            self._blocked -= 1
            first = queue.popleft()
            self._due(first.lane, first.token)

    def _due(self, lane: Hashable, token: Any) -> None:
        if self._acks_in_order:
            self._last_acks[lane] = token
        else:
            self._acks.append(token)

    @property
    def to_ack(self) -> int:
        """Acknowledgements that are due, or on their way."""
        return len(self._acks) + len(self._last_acks) + self._acking

    async def acknowledge(self, adapter: Adapter) -> None:
        """Acknowledge what is finished."""
        acks, self._acks = self._acks, []
        last, self._last_acks = self._last_acks, {}
        tokens = [*acks, *last.values()]
        if not tokens:
            return
        self._acking += len(tokens)
        try:
            await patiently(lambda: adapter.ack(tokens))
        except BaseException:
            self._acks = acks + self._acks
            self._last_acks = last | self._last_acks
            raise
        finally:
            self._acking -= len(tokens)
        self._news.set()

    @property
    def tokens(self) -> list[Any]:
        """Of what is in hand, in the order in which it came: to be kept from others, or to be given back to them."""
        return [ack.token for delivery in self._deliveries for ack in delivery.acks if ack.token is not None]

    async def release(self, lanes: Collection[Hashable], adapter: Adapter, timeout: float) -> None:
        """Finish what is in hand of some lanes, within so many seconds, and acknowledge it; then forget them."""

        async def finish() -> None:
            while any(delivery.received.lane in lanes for delivery in self._deliveries):
                await self.progress()

        try:
            await asyncio.wait_for(finish(), timeout)
        except TimeoutError:
            self._log.warning("%d messages are unfinished of what was given to others", self.unfinished)
        await self.acknowledge(adapter)
        for lane in lanes:
            self._blocked -= sum(ack.is_due for ack in self._lanes.pop(lane, ()))
            self._last_acks.pop(lane, None)

    async def end(self) -> None:
        """Let nothing go on by itself."""
        self.is_closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


async def patiently(call: Callable[[], Awaitable[None]]) -> None:
    """Call again and again until the broker accepts it: the first time, unless it raises `BrokerBusy`."""
    pause = 0.05
    while True:
        try:
            return await call()
        except BrokerBusy:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


def tokens_of(batch: Sequence[Any]) -> list[Any]:
    """The tokens of what was received."""
    return [each.token for each in batch if isinstance(each, Received) and each.token is not None]
