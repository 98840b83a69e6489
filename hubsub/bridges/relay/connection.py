"""One connection of a bridge: an object made for it, and thrown away with it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ...errors import BrokerBusy
from ...event import Gap
from ...key import NAMESPACE, Key
from ...log import Logger
from ..adapter import Adapter, Features, Link, Loss, Received
from .durable import patiently, tokens_of
from .interest import Interest
from .plan import GAPS, Plan
from .receiver import Receiver
from .replies import OpenRequests
from .sender import Sender

V = TypeVar("V")


class Timing(NamedTuple):
    """Time limits of a connection, in seconds. Silence is time in which the loop ran and nothing moved."""

    connect: float
    """Silence after which connecting or subscribing is given up."""
    ack_every: float
    """Between two calls that acknowledge."""
    tick: float
    """Between two checks of whether it is alive."""
    silent: float
    """Silence after which the bridge sends a beat, where messages are pushed."""
    deaf: float
    """Silence after which such a connection counts as lost."""
    deaf_pulling: float
    """The same where messages are polled."""
    stuck: float
    """Silence after which a call that sends counts as lost."""


class Parts(NamedTuple):
    """The parts of an open bridge, which outlast its connections."""

    plan: Plan
    adapter: Adapter
    features: Features
    sender: Sender
    receiver: Receiver
    interest: Interest
    requests: OpenRequests
    log: Logger
    beat: Key[Any]
    """The key of its beats."""


class Silence:
    """For how many seconds something has shown no sign of life, while the loop ran."""

    __slots__ = ("_sign", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sign: object = None

    def listen(self, sign: object, step: float) -> float:
        """Add `step`, or start over if `sign` has changed, which means that something was received."""
        if sign == self._sign:
            self.seconds += step
        else:
            self._sign = sign
            self.seconds = 0.0
        return self.seconds


class Connection:
    """Connects, subscribes, reads, sends and acknowledges, until one of these fails.

    `run` raises whatever ends it: failures of a connection are handled nowhere else. Every state that it can be in is
    checked for silence.

    Args:
        parts: The parts of the bridge.
        timing: Its time limits.
        down_since: When the connection before it was lost, in seconds since the epoch; None if there was none.
        synced: Called whenever every subscription that was wanted has been confirmed.
    """

    # The most messages held while it subscribes.
    MOST_HELD = 10_000
    # Bytes per second of the slowest expected line, and bytes that the kernels on both sides may buffer.
    SLOWEST = 64 * 1024
    BUFFERED = 1 << 20
    # Seconds for which a broker may refuse to be read before the connection counts as lost, and between two attempts.
    REFUSED, REST = 10.0, 0.5

    def __init__(self, parts: Parts, timing: Timing, down_since: float | None, synced: Callable[[], None]) -> None:
        self._parts = parts
        self._timing = timing
        self._down_since = down_since
        self._synced = synced
        self._adapter = parts.adapter
        # A durable or shared link has control messages only if its adapter provides them.
        apart = type(parts.adapter).listen is not Adapter.listen
        self._controls_apart = apart
        self._has_control = apart or not (parts.features.durable or parts.plan.group)
        self._pings = type(parts.adapter).ping is not Adapter.ping
        self._tasks: list[asyncio.Task[None]] = []
        self._reader: asyncio.Task[None] | None = None
        self._phase: str | None = "connecting"
        self._is_reading = False
        self._reads = 0  # calls of `receive` that have returned
        self._rests_until = 0.0  # until then no messages are read
        self._pinging = False
        self._pongs = 0
        self._wants_ping = asyncio.Event()
        self._held: deque[Received | Loss] = deque()
        self._overran = False
        self._subscribed: dict[Key[Any], None] = {}
        self._responding: dict[Key[Any], None] = {}
        self._refused: set[Key[Any]] = set()
        self._stale = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last_heard = time.time()
        self._round_trip = 0.0
        self._progress = parts.sender.progress
        self._worked: Callable[[], None] | None = None
        self._reads_when_up = 0
        self.has_worked = False
        """True once something was sent or received over it; being connected is not enough."""
        self.is_up = False
        """True once everything that was wanted has been subscribed."""
        self.is_stale = True
        """True while the subscriptions at the broker differ from what is wanted."""
        self.is_stopping = False
        """True once only control messages are read."""
        self.is_ending = False
        """True if no other connection will follow."""
        self.patience = timing.connect
        """Seconds that disconnecting may take."""
        self.is_leaving = False
        """True while it is disconnecting."""

    def _judge(self, *, is_sound: bool) -> None:
        """Note that it works: when something was sent, or was received while nothing waits to be sent."""
        if not self.has_worked and self.is_up:
            sent = self._parts.sender.progress > self._progress
            self.has_worked = sent or (self._reads_when_up < self._reads and is_sound)
            if self.has_worked and self._worked is not None:
                self._worked()

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """Its tasks."""
        return self._tasks

    @property
    def last_heard(self) -> float:
        """When something was received last, in seconds since the epoch."""
        return self._last_heard

    # Its life

    async def run(
        self,
        sender: str,
        came_up: Callable[[], None],
        worked: Callable[[], None],
        busy: Callable[[BrokerBusy | None], None],
    ) -> None:
        """Connect, and run until the connection is lost, which raises.

        Args:
            sender: Names the bridge in this process.
            came_up: Called when everything that is wanted is subscribed.
            worked: Called when it works: see `has_worked`.
            busy: Called with the error when the broker stops accepting messages, and with None when it accepts them.
        """
        parts = self._parts
        self._worked = worked
        try:
            self._start(self._watch(), "watching")
            await self._finish(self._adapter.connect(self._link(sender)), "connecting")
            parts.receiver.connected(self._adapter)
            if parts.features.push or parts.plan.incoming or self._listens:
                self._reader = self._start(self._read(), "reading")
            await self._finish(self._join(), "subscribing")
            self._phase = None
            self._report_gap()
            self.is_up = True
            self._reads_when_up = self._reads
            came_up()
            held, self._held = list(self._held), deque()
            parts.receiver.receive(held)
            sending = self._start(parts.sender.send(self._adapter, busy), "sending")
            self._start(self._reconcile(), "following subscriptions")
            if parts.features.acks != "none":
                self._start(self._acknowledge(), "acknowledging")
            try:
                await self._first_to_end([])
            finally:
                self._judge(is_sound=not sending.done())
        finally:
            await self._leave()

    def _link(self, sender: str) -> Link:
        parts = self._parts
        return parts.plan.link(sender, parts.features, self._control, self._room, self._release, self._wanted)

    def _wanted(self) -> list[Key[Any]]:
        parts = self._parts
        return list(dict.fromkeys(map(parts.plan.at_broker, parts.interest.wanted())))

    @property
    def _listens(self) -> bool:
        return self._has_control and bool(self._control)

    @property
    def _control(self) -> tuple[Key[Any], ...]:
        """The keys of control messages for this connection."""
        plan, features = self._parts.plan, self._parts.features
        keys = [self._parts.beat] if features.push else []
        if plan.incoming:
            keys.append(GAPS)
        if plan.outgoing:
            keys.append(self._parts.requests.address)
        return tuple(keys)

    def _start(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{what} of {type(self._adapter).__name__}")
        task.add_done_callback(_retrieve)
        self._tasks.append(task)
        return task

    async def _finish(self, coroutine: Coroutine[Any, Any, None], what: str) -> None:
        """Wait for a step, unless another task of the connection ends first."""
        self._phase = what
        task = self._start(coroutine, what)
        await self._first_to_end([task])
        self._tasks.remove(task)

    async def _first_to_end(self, may_end: Collection[asyncio.Task[None]]) -> None:
        """Wait until a task ends, and raise the reason, unless that task may end."""
        everything: list[asyncio.Future[None]] = [*self._tasks, self._lost]
        done, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task not in may_end:
                task.result()
        for task in may_end:
            if task.done():
                task.result()
                return
        raise ConnectionError("the connection has ended")

    async def _leave(self) -> None:
        """Disconnect; that ends the reader too."""
        self.is_leaving = True
        for task in self._tasks:
            if task is not self._reader or not self._is_reading:
                task.cancel()
        adapter = self._adapter
        closing = asyncio.ensure_future(adapter.close() if self.is_ending else adapter.lost())
        closing.add_done_callback(_retrieve)
        tasks = [closing, *self._tasks]
        _, stuck = await asyncio.wait(tasks, timeout=self.patience)
        for task in stuck:
            self._parts.log.error("%r does not end, and is cancelled", task)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._lost.done():
            self._lost.set_exception(ConnectionError("the connection has ended"))
        self._lost.exception()
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self._parts.log.warning("disconnecting %r failed: %s", adapter, error)

    async def call(self, coroutine: Coroutine[Any, Any, V]) -> V:
        """Wait for a call of the adapter on behalf of a caller, whose cancellation affects nothing else.

        Raises:
            ConnectionError: The connection was lost meanwhile.
        """
        task = asyncio.ensure_future(coroutine)
        task.add_done_callback(_retrieve)
        try:
            waiting: list[asyncio.Future[Any]] = [task, self._lost]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionError("the connection was lost")
            return task.result()
        except (ConnectionError, EOFError) as error:
            # This call is the first to notice: end the connection for all.
            if not self._lost.done():
                self._lost.set_exception(error)
            raise

    # Reading

    def _room(self) -> int:
        features = self._parts.features
        if self.is_stopping or self._parts.interest.is_idle or self._rests_until > asyncio.get_running_loop().time():
            return 0
        if not self.is_up and features.durable and self._controls_apart and not features.patterns:
            # A log counts messages as read at the next call: what is held here could be lost with the process.
            return 0
        room = self._parts.receiver.durable.room if features.durable else self._parts.plan.window
        return room if self.is_up else max(0, min(room, self._parts.plan.window - len(self._held)))

    async def _read(self) -> None:
        """The only reader: it is never cancelled while it waits, but ends with the connection."""
        adapter, receiver, clock = self._adapter, self._parts.receiver, asyncio.get_running_loop().time
        refused_since: float | None = None
        # After the connection is lost, more messages could fill the window, which nothing would empty.
        while not self.is_leaving:
            while not self._controls_apart and not self._room() and self._parts.features.durable:
                await receiver.durable.progress()
            self._is_reading = True
            began = clock()
            try:
                batch = await adapter.receive()
                # Not if it fails: messages may be missing since the last one was received.
                self._last_heard = time.time()
                refused_since = refused_since if began < self._rests_until else None
            except BrokerBusy:
                # What a broker cannot note is not handed over. Control messages come all the same.
                refused_since = refused_since or began
                if clock() - refused_since > self.REFUSED:
                    raise
                batch = ()
                if self._controls_apart:
                    self._rests_until = clock() + self.REST
                else:
                    await asyncio.sleep(self.REST)
            finally:
                self._is_reading = False
                self._reads += 1
            if not batch:
                if not self._room():
                    await asyncio.sleep(0)
            elif self.is_stopping:
                await self._turn_away(batch)
            elif self.is_up or self._parts.features.resumes:
                # No gap has to be reported before it; held, it would be lost with the connection.
                receiver.receive(batch)
            else:
                self._hold(batch)

    def _hold(self, batch: Sequence[Received | Loss]) -> None:
        """Hold what is received while it subscribes: the gap before it must be reported first."""
        receiver, durable = self._parts.receiver, self._parts.features.durable
        for received in batch:
            if isinstance(received, Received) and received.key[0] == NAMESPACE and received.token is None:
                receiver.receive([received])
                continue
            self._held.append(received)
            if len(self._held) > self.MOST_HELD and not durable:
                # It cannot just stop reading: the broker would then drop messages, or this connection.
                self._held.popleft()
                self._overran = True

    async def _turn_away(self, batch: Sequence[Received | Loss]) -> None:
        """Handle control messages only, and give the rest back to the broker."""
        control = [each for each in batch if isinstance(each, Received) and each.key[0] == NAMESPACE]
        self._parts.receiver.receive(control)
        tokens = tokens_of([each for each in batch if each not in control])
        if tokens and self._parts.plan.group is not None:
            await patiently(lambda: self._adapter.hand_back(tokens))

    def _report_gap(self) -> None:
        """Report what may be missing between the previous connection and this one."""
        features, now = self._parts.features, time.time()
        if not self._parts.plan.incoming or features.durable:
            return
        if self._down_since is not None and not features.resumes:
            self._parts.receiver.report(Gap("disconnected", None, self._down_since, now, None))
        elif self._overran:
            self._parts.receiver.report(Gap("too much while subscribing", None, self._last_heard, now, None))

    # Liveness

    async def _watch(self) -> None:
        """Check that the connection is alive, in every state.

        Time in which the loop was blocked is not silence: between two checks, at most two ticks count.
        """
        loop, timing, adapter, sender = asyncio.get_running_loop(), self._timing, self._adapter, self._parts.sender
        step, read, sent, ping = Silence(), Silence(), Silence(), Silence()
        push = self._parts.features.push
        heard: object = None
        beats = 0
        last = loop.time()
        while True:
            await asyncio.sleep(timing.tick)
            now = loop.time()
            passed = min(now - last, 2 * timing.tick)
            last = now
            self._judge(is_sound=not sender.pending)
            if self._phase is not None:
                silent = step.listen((self._phase, adapter.activity, len(self._subscribed)), passed)
                # The line is still unknown, and over a slow one the first answer takes two round trips.
                most = 2 * timing.connect if self._phase == "connecting" else timing.connect
                if silent > most:
                    raise ConnectionError(f"nothing was heard for {most:g} s while {self._phase}")
            size = sender.bytes_in_hand
            unmoved = sent.listen((sender.calls, size is None, adapter.sending), passed)
            if size is not None and unmoved > (most := self._patience(size)):
                raise ConnectionError(f"nothing moved for {most:.1f} s of what is being sent")
            if self._phase == "connecting":
                continue
            slack = 2 * self._round_trip
            sign = (self._reads, self._is_reading, adapter.receiving, self._pongs)
            if sign != heard:
                heard, beats = sign, sender.beats
            # Nothing can answer the first beat while it waits behind what is being sent over a slow line. There bytes
            # move from time to time, and not with every tick.
            waits = size is not None and adapter.sending is not None and sender.has_beat and sender.beats == beats
            silent = read.listen(sign, 0.0 if waits else passed)
            hears = self._is_reading and (not push or self._listens)
            if hears:
                deaf = (timing.deaf if push else timing.deaf_pulling) + slack
                if (unmoved if waits else silent) > deaf:
                    raise ConnectionError(f"nothing was heard for {deaf:.1f} s")
                if push and silent > timing.silent:
                    if self._pings and (sender.is_refused or sender.beats_are_refused):
                        # A broker that accepts no messages, or none of this account, may still be sound.
                        self._wants_ping.set()
                    else:
                        sender.beat(self._parts.beat)
            elif silent > timing.silent and self._pings:
                self._wants_ping.set()
            silent = ping.listen((self._pinging, self._pongs, adapter.activity), passed)
            if self._pinging and silent > timing.stuck + slack:
                raise ConnectionError(f"no answer for {timing.stuck + slack:.1f} s")

    def _patience(self, size: int) -> float:
        """The seconds of silence to allow while so many bytes may be on their way over a slow line."""
        if self._adapter.sending is not None:
            size = min(size, self.BUFFERED)
        return self._timing.stuck + 2 * self._round_trip + size / self.SLOWEST

    async def _answer_pings(self) -> None:
        """Send a beat whenever one is asked for."""
        while True:
            await self._wants_ping.wait()
            self._wants_ping.clear()
            await self._ping()

    async def _ping(self) -> None:
        self._pinging = True
        try:
            await self._adapter.ping()
        finally:
            self._pinging = False
        self._pongs += 1
        self._last_heard = time.time()

    # Subscriptions at the broker

    async def _join(self) -> None:
        """Subscribe everything that is wanted, and before that, replay the history that was asked for."""
        loop, parts = asyncio.get_running_loop(), self._parts
        began = loop.time()
        if self._pings:
            await self._ping()
            self._start(self._answer_pings(), "asking for life")
        elif self._listens:
            await self._adapter.listen(self._control)
        self._round_trip = min(30.0, loop.time() - began)
        if self._pings and self._listens:
            await self._adapter.listen(self._control)
        # Once: however often subscriptions change meanwhile, it comes up.
        await self.sync(once=True)
        await parts.receiver.begin_with_history(self._adapter)

    def changed(self) -> None:
        """Called when the wanted patterns may have changed."""
        if self._parts.features.patterns:
            self.is_stale = True
            self._stale.set()

    async def sync(self, *, once: bool = False) -> None:
        """Make the subscriptions at the broker match what is wanted, or was wanted a moment ago if `once`."""
        adapter, interest = self._adapter, self._parts.interest
        while True:
            self.is_stale = False
            if not self._parts.features.patterns:
                return
            wanted = dict.fromkeys(self._wanted())
            added = [key for key in wanted if key not in self._subscribed]
            removed = [key for key in self._subscribed if key not in wanted and not interest.is_lasting]
            # Subscribe first, then unsubscribe: what both cover is not missed in between.
            try:
                if added:
                    await adapter.subscribe(added)
                    self._subscribed.update(dict.fromkeys(added))
                if removed:
                    await adapter.unsubscribe(removed)
                    for key in removed:
                        del self._subscribed[key]
                if self._parts.features.responders:
                    await self._sync_responders()
            except BaseException:
                self.is_stale = True
                raise
            self._log_refused()
            if once or not self.is_stale:
                return

    async def _sync_responders(self) -> None:
        """Have the broker pass on the requests that somebody here responds to, and no others."""
        parts = self._parts
        wanted = dict.fromkeys(map(parts.plan.at_broker, parts.interest.responding()))
        if added := [key for key in wanted if key not in self._responding]:
            await self._adapter.respond(added)
        if removed := [key for key in self._responding if key not in wanted]:
            await self._adapter.unrespond(removed)
        self._responding = wanted

    def _log_refused(self) -> None:
        refused = self._adapter.refused_patterns
        for key in refused.keys() - self._refused:
            self._parts.log.error("no messages of %r arrive: %s", key, refused[key])
        self._refused = set(refused)

    async def _reconcile(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            begun = time.thread_time()
            await self.sync()
            self._parts.receiver.durable.wake()
            self._synced()
            # Comparing many patterns takes time: leave most of it to other tasks.
            await asyncio.sleep(2 * (time.thread_time() - begun))

    async def leave_group(self) -> None:
        """Have what comes from now on go to the others of the group; what is on its way here still comes."""
        await self.call(self._adapter.unsubscribe(list(self._subscribed)))
        await asyncio.sleep(0)  # for the reader, which is about to get it

    # Acknowledging

    async def _acknowledge(self) -> None:
        durable, adapter = self._parts.receiver.durable, self._adapter
        lease = self._parts.features.lease
        extended = time.monotonic()
        while True:
            await durable.wait_to_acknowledge(self._timing.ack_every)
            await durable.acknowledge(adapter)
            if lease is not None and time.monotonic() - extended > lease / 3:
                extended = time.monotonic()
                with suppress(BrokerBusy):  # while nothing can be written, nobody else can get them
                    await adapter.extend(durable.tokens)

    async def _release(self, lanes: Collection[Hashable]) -> None:
        await self._parts.receiver.durable.release(lanes, self._adapter, self._timing.connect)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an error: whoever waits for the task may be cancelled before it ends."""
    if not task.cancelled():
        task.exception()
