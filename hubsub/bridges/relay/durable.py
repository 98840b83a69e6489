"""Messages of a durable broker, from receiving to acknowledging: handled, retried, or made dead letters."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from contextlib import suppress
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
from .delivery import A, Delivery, Lane, PendingAck
from .plan import Plan
from .seen import Name, SeenWindow

MOST_REASON = 1000
"""Characters of the reason of a dead letter."""


class Relay(Protocol):
    """Delivers an event to the hub, for the targets that have not handled it yet."""

    def __call__(
        self,
        event: Event[Any],
        *,
        exclude: Target | None,
        confirmed: Confirmed | None,
        only: Collection[Registration] | None,
    ) -> object: ...


class RelayAtOnce(Protocol):
    """Delivers an event to the hub if it is finished by then, as `Border.relay_at_once` does."""

    def __call__(
        self, event: Event[Any], exclude: Target | None
    ) -> tuple[()] | tuple[Undelivered, BaseException | None] | None: ...


class Durable:
    """Delivers the messages of a durable broker, and acknowledges each when everybody has finished with it.

    Args:
        plan: The options.
        features: What the broker can do.
        seen: What the hub has seen.
        relay: Delivers an event to the hub.
        relay_at_once: The same, if that finishes it.
        exclude: The outbox that does not get it.
        interrupted: Called with what a listener raised that is not an `Exception`.
        is_open: Returns whether the hub is open.
        log: For failures.
    """

    def __init__(
        self,
        plan: Plan,
        features: Features,
        seen: SeenWindow,
        relay: Relay,
        relay_at_once: RelayAtOnce,
        exclude: Target | None,
        interrupted: Callable[[Event[Any], BaseException], None],
        is_open: Callable[[], bool],
        log: Logger,
    ) -> None:
        self._plan = plan
        self._features = features
        self._seen = seen
        self._relay = relay
        self._relay_at_once = relay_at_once
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
        # Listeners may be added while it does not run: then messages that wait for them continue when it does.
        self._loop: asyncio.AbstractEventLoop | None = None
        # By key with an unfinished message: the last message that waits for that one, or itself.
        self._chains: dict[Key[Any], Delivery] = {}
        self._deliveries: dict[Delivery, None] = {}
        self._held: dict[Delivery, None] = {}
        self._suspects: deque[Delivery] = deque()
        self._is_innocent = False  # a suspect has been handled by this process
        self._lanes: dict[Hashable, Lane] = {}
        self._blocked = 0  # acknowledgements that wait only for earlier ones of their lane
        self._acks: list[Any] = []
        self._many_acks = max(1, plan.window // 4) if features.push else 1 << 62
        self._has_many_acks = asyncio.Event()
        self._moved: list[Lane] = []  # the lanes that have something to acknowledge
        self._acking = 0  # how many of them are in a call of the adapter
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._says_held = False
        self.is_closing = False
        """Publish nothing more; what is unfinished stays so."""
        self.bytes = 0
        self.failures = 0
        self.dead_letters = 0
        self.lost_letters = 0
        self.unclaimed = 0

    def connected(self, adapter: Adapter) -> None:
        """Called for each new connection, which delivers again what is acknowledged in order."""
        self.adapter = adapter
        self._loop = asyncio.get_running_loop()
        for lane in self._lanes.values():
            lane.is_over = True
        self._lanes.clear()
        self._blocked = 0
        self._moved.clear()

    # Handling

    def begin(self, received: Received, event: Event[Any], name: Name | None) -> None:
        """Deliver a message that was not seen before, and is noted as seen now."""
        key = event[0]
        before = self._chains.get(key) if self._ordered else None
        if before is None and received.attempts < self._plan.attempts and not self.is_closing:
            # Most messages end here: nothing has to be kept of one that is handled by now.
            result = self._relay_at_once(event, self._exclude)
            if result is not None:
                if result:
                    self._has_failed(self._keep(Delivery(received, event, name)), *result)
                else:
                    self.skip(received)
                return
        delivery = self._keep(Delivery(received, event, name))
        if delivery.attempts >= self._plan.attempts:
            self._suspect(delivery)
        elif not self._ordered:
            self._publish(delivery)
        else:
            self._chains[key] = delivery
            if before is None:
                self._go_on(delivery)
            else:
                before.then = delivery

    def _has_failed(self, delivery: Delivery, failure: Undelivered, interrupt: BaseException | None) -> None:
        """Go on with a message that its only listener has failed to handle, the first time."""
        event = delivery.event
        assert event is not None
        if self._ordered:
            self._chains[event[0]] = delivery
        self._confirmed(delivery, 0, [failure])
        if interrupt is not None:
            self._interrupted(event, interrupt)

    def refuse(self, received: Received, error: BaseException) -> None:
        """Make a dead letter of a message that cannot be read or delivered."""
        delivery = self._keep(Delivery(received, None, None))
        self.dead_letters += 1
        self._put_aside(delivery, describe_error(error))

    def again(self, received: Received, known: Any) -> None:
        """Handle a message that was seen before: join it to the one that is being handled, or finish it."""
        if isinstance(known, Delivery) and not known.is_finished:
            known.repeats = [*known.repeats, self._owe(PendingAck(received.token), received)]
        else:
            self.skip(received)

    def is_burying(self, known: Any) -> bool:
        """True if a message that was seen before is being stored as a dead letter, or is one by now."""
        return isinstance(known, Delivery) and known.is_buried

    def _keep(self, delivery: Delivery) -> Delivery:
        self._deliveries[delivery] = None
        if delivery.name is not None:
            self._seen.note(delivery.name, delivery)
        self.bytes += delivery.size
        self._owe(delivery, delivery.received)
        return delivery

    def _suspect(self, delivery: Delivery) -> None:
        """Hold a message that was never finished, and may have killed its readers, until it can harm no other."""
        delivery.is_suspect = True
        self._suspects.append(delivery)
        if len(self._suspects) == 1:
            self._start(self._try_suspects())

    async def _try_suspects(self) -> None:
        """Handle suspects one by one, each acknowledged before the next: one that kills the process is the first left.

        The broker counts the deliveries of all messages that the process had, not only of the one that killed it.
        """
        while self._suspects:
            delivery = self._suspects[0]
            while len(self._deliveries) > len(self._suspects) or self.to_ack:
                await self.progress()
            if not self._is_innocent and delivery.attempts > self._plan.attempts:
                self.dead_letters += 1
                # The processes that made these calls are dead: only the broker has counted them.
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

    def _go_on(self, delivery: Delivery | None) -> None:
        """Publish the first waiting message of a key, and the next ones while each is finished at once."""
        while delivery is not None:
            self._publish(delivery)
            if not delivery.is_finished:
                return
            delivery = self._after(delivery)

    def _after(self, delivery: Delivery) -> Delivery | None:
        """Return the message that waits for one that is finished."""
        if delivery.then is None and delivery.event is not None:
            del self._chains[delivery.event[0]]
        return delivery.then

    def _publish(self, delivery: Delivery) -> None:
        event = delivery.event
        if self.is_closing or event is None:
            return
        delivery.inline = True
        try:
            confirmed = partial(self._confirmed, delivery)
            self._relay(event, exclude=self._exclude, confirmed=confirmed, only=delivery.only)
        except HubClosed:
            pass  # it will be delivered again
        except Exception as error:
            # Not one of its listeners: the hub refused the message.
            self.dead_letters += 1
            self._put_aside(delivery, describe_error(error))
        except BaseException as error:
            self._interrupted(event, error)
        finally:
            delivery.inline = False

    def _confirmed(self, delivery: Delivery, number: int, failures: list[Undelivered]) -> None:
        """Called when every target of a message has finished or failed."""
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
            return  # it stays unfinished, and is delivered again to a reader
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
        """Retry a message whose targets are gone without having handled it, for those that are subscribed then."""
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

    # Nobody subscribed

    def _nobody(self, delivery: Delivery) -> None:
        """Do with a message that nobody is subscribed to what `unclaimed` says."""
        self.unclaimed += 1
        if self._unclaimed == "ack":
            self._finish(delivery, handled=False)
        elif self._unclaimed == "hold":
            self._held[delivery] = None
            if not self._says_held:
                self._says_held = True
                self._log.warning(
                    "nobody is subscribed to %r: it is held, and reading pauses; subscribe to it, or choose"
                    " unclaimed='ack' or 'dead-letter'",
                    delivery.received.key,
                )
        else:
            self.dead_letters += 1
            self._put_aside(delivery, "nobody is subscribed to it")

    def changed(self) -> None:
        """Called when subscriptions have changed: deliver held messages that somebody is subscribed to now."""
        held, self._held = self._held, {}
        for delivery in held:
            self.unclaimed -= 1
            self._publish_again(delivery)
        if held and not self._held:
            self._says_held = False
        self._news.set()

    @property
    def is_holding(self) -> bool:
        """True while messages are held because nobody is subscribed to them."""
        return bool(self._held)

    # Finishing

    def _finish(self, delivery: Delivery, *, handled: bool) -> None:
        """Acknowledge it. Only a handled message is remembered as seen: a dead letter may be sent back."""
        delivery.is_finished = True
        del self._deliveries[delivery]
        if delivery.name is not None:
            if handled:
                self._seen.note(delivery.name)
            elif self._seen.get(delivery.name) is delivery:
                self._seen.forget(delivery.name)
        self.bytes -= delivery.size
        self._settle(delivery)
        for ack in delivery.repeats:
            self._settle(ack)
        self._news.set()
        if self._ordered and not delivery.inline and not delivery.is_suspect:
            self._next(delivery)

    def _next(self, delivery: Delivery) -> None:
        event = delivery.event
        if event is not None and event[0] in self._chains:
            self._go_on(self._after(delivery))

    # Dead letters

    def _put_aside(self, delivery: Delivery, why: str) -> None:
        """Store a message as a dead letter. It is unfinished until that is confirmed, or refused for good."""
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
                    self._episode.warning("a dead letter of %r waits to be stored", received.key, error=error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            if refusal is None:
                self._episode.error("gave up a message of %r, which is now a dead letter: %s", received.key, why)
            else:
                self.lost_letters += 1
                self._episode.error(
                    "gave up a message of %r, and the broker refuses it as a dead letter (%s): %s",
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
        """How many more messages there is room for."""
        if self.bytes >= self._plan.window_bytes or self._held or self._suspects:
            return 0
        return max(0, self._plan.window - len(self._deliveries) - self._blocked)

    async def progress(self) -> None:
        """Wait until another message is finished, or subscriptions have changed."""
        self._news.clear()
        await self._news.wait()

    def wake(self) -> None:
        """Wake those that wait for progress."""
        self._news.set()

    # Acknowledging

    def _owe(self, ack: A, received: Received) -> A:
        """Note a message that must be finished before it is acknowledged."""
        if self._acks_in_order and received.token is not None:
            lane = self._lanes.get(received.lane)
            if lane is None:
                lane = self._lanes[received.lane] = Lane()
            ack.lane = lane
            lane.append(ack)
        return ack

    def skip(self, received: Received) -> None:
        """Note a message as finished that nothing is kept of."""
        token = received.token
        if token is None or not self._acknowledges:
            return
        if not self._acks_in_order:
            self._can_acknowledge(token)
            return
        lane = self._lanes.get(received.lane)
        if lane is None or lane:
            self._settle(self._owe(PendingAck(token), received))
        else:
            # As that would do, where nothing before it is unfinished.
            if lane.last is None:
                self._moved.append(lane)
            lane.last = token

    def _settle(self, ack: PendingAck) -> None:
        """Note that a message is finished."""
        lane = ack.lane
        if lane is None:
            if self._acknowledges and ack.token is not None:
                self._can_acknowledge(ack.token)
            return
        ack.is_due = True
        if lane.is_over:
            return
        self._blocked += 1
        if lane[0] is not ack:
            return
        if lane.last is None:
            self._moved.append(lane)
        while lane and lane[0].is_due:
            self._blocked -= 1
            lane.last = lane.popleft().token

    def _can_acknowledge(self, token: Any) -> None:
        """Note what can be acknowledged, of a lane where each is acknowledged by itself."""
        self._acks.append(token)
        if len(self._acks) == self._many_acks:
            self._has_many_acks.set()

    @property
    def to_ack(self) -> int:
        """Acknowledgements that are due or being sent."""
        return len(self._acks) + len(self._moved) + self._acking

    async def wait_to_acknowledge(self, seconds: float) -> None:
        """Wait so long; or until so many are due that a broker which sends no more than the window waits for them."""
        self._has_many_acks.clear()
        if len(self._acks) < self._many_acks:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._has_many_acks.wait()

    async def acknowledge(self, adapter: Adapter) -> None:
        """Acknowledge what is finished."""
        acks, self._acks = self._acks, []
        moved, self._moved = self._moved, []
        last = [lane.last for lane in moved]
        for lane in moved:
            lane.last = None
        tokens = [*acks, *last]
        if not tokens:
            return
        self._acking += len(tokens)
        try:
            await patiently(lambda: adapter.ack(tokens))
        except BaseException:
            self._acks = acks + self._acks
            for lane, token in zip(moved, last, strict=True):
                # Unless a later one has been finished meanwhile, or the lane has gone.
                if lane.last is None and not lane.is_over:
                    lane.last = token
                    self._moved.append(lane)
            raise
        finally:
            self._acking -= len(tokens)
        self._news.set()

    @property
    def tokens(self) -> list[Any]:
        """The tokens of all unfinished messages, in order of arrival: to extend their leases, or to give them back."""
        return [
            ack.token for delivery in self._deliveries for ack in (delivery, *delivery.repeats) if ack.token is not None
        ]

    async def release(self, lanes: Collection[Hashable], adapter: Adapter, timeout: float) -> None:
        """Finish the messages of some lanes within that many seconds, and acknowledge them; then forget the lanes."""

        async def finish() -> None:
            while any(delivery.received.lane in lanes for delivery in self._deliveries):
                await self.progress()

        try:
            await asyncio.wait_for(finish(), timeout)
        except TimeoutError:
            self._log.warning("%d messages that went to other members are unfinished", self.unfinished)
        await self.acknowledge(adapter)
        for gone in lanes:
            if (lane := self._lanes.pop(gone, None)) is not None:
                lane.is_over = True
                self._blocked -= sum(ack.is_due for ack in lane)
        self._moved = [lane for lane in self._moved if not lane.is_over]

    async def end(self) -> None:
        """Cancel its tasks and timers."""
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
    """Return the tokens of received messages."""
    return [each.token for each in batch if isinstance(each, Received) and each.token is not None]
