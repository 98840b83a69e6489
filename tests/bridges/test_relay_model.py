"""The relay against a ledger: whatever happens, and in whatever order, every confirmed message is accounted for.

Over a fake broker with durable queues, and over `memory://`, in virtual time, by Hypothesis.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from virtual_time import VirtualLoop

from hubsub import ConfirmationTimeout, DeliveryError, Hub, Key
from hubsub.bridges import Adapter, Bridge, Record
from hubsub.bridges.memory import MemoryAdapter, MemoryBroker
from hubsub.testing import conformance

from .fakes import Exchange, FakeLine, Rabbit

V = TypeVar("V")

ALL: Key[Any] = Key("*")
WORK: Key[Any] = Key("k", "+")
ATTEMPTS = 3
WINDOW = 5
PATIENCE = 300.0
"""Virtual seconds in which everything has to be well again."""


class Life:
    """A process: a hub with a bridge, and what its listener did. It ends by closing, or by dying."""

    def __init__(self, adapter: Adapter, fails: dict[int, int], failed: Counter[int], **options: Any) -> None:
        self.adapter = adapter
        self.hub = Hub(on_error=lambda failure: None, drain=1)
        self.bridge = Bridge(self.hub, adapter, namespace="model", **options)
        self.fails = fails
        # By whichever process of its kind: they share the attempts.
        self.failed = failed
        self.handled: list[int] = []
        self.gaps: list[Any] = []
        self.listener: Any = None
        self.is_dead = False
        self.most_in_hand = 0
        self.hub.add_listener(Key("Hub", "gap", "*"), lambda key, gap: self.gaps.append(gap))

    def listen(self) -> None:
        """Handle messages from now on."""
        if self.listener is None:
            self.listener = self.hub.add_listener(WORK, self.work)

    def look_away(self) -> None:
        """Handle no more, for now."""
        if self.listener is not None:
            self.listener.remove()
            self.listener = None

    async def work(self, key: Key[Any], number: int) -> None:
        if self.is_dead:
            return
        self.most_in_hand = max(self.most_in_hand, self.bridge.health().in_flight)
        if number % 3 == 0:
            await asyncio.sleep(0.02)
        if self.is_dead:
            return
        if self.failed[number] < self.fails.get(number, 0):
            self.failed[number] += 1
            raise ValueError("not now")
        self.handled.append(number)

    async def start(self) -> None:
        await self.hub.start()
        await self.bridge.start()

    async def close(self, timeout: float) -> None:
        await self.bridge.close(timeout)
        await self.hub.close()
        self.is_dead = True

    async def die(self) -> None:
        """End without a word. What is still done here is done by nobody, and reaches nobody."""
        self.is_dead = True
        await self.bridge.close(0)
        await self.hub.close()


class Model(RuleBasedStateMachine):
    """What both have in common: a sender, the ledger, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.fails: dict[int, int] = {}
        self.keys: dict[int, str] = {}
        self.confirmed: set[int] = set()
        self.going: set[asyncio.Task[None]] = set()
        self.lives: list[Life] = []
        self.sender: Life

    def do(self, action: Coroutine[Any, Any, V]) -> V:
        """Run something for as long as it takes."""
        return self.runner.run(action)

    async def start(self, life: Life) -> Life:
        self.lives.append(life)
        await life.start()
        return life

    async def publish(self, keys: list[str], fails: int) -> None:
        for key in keys:
            number = len(self.keys)
            self.keys[number] = key
            if fails:
                self.fails[number] = fails
            task = asyncio.ensure_future(self._publish(number, self.sender))
            self.going.add(task)
            task.add_done_callback(self.going.discard)
        await asyncio.sleep(0)

    async def _publish(self, number: int, sender: Life) -> None:
        try:
            await sender.hub.publish_confirmed(("k", self.keys[number]), number, timeout=2 * PATIENCE)
        except (DeliveryError, ConfirmationTimeout):
            return
        if not sender.is_dead:
            self.confirmed.add(number)

    @rule(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
    def publish_some(self, keys: list[str]) -> None:
        self.do(self.publish(keys, 0))

    @rule(key=st.sampled_from("abc"))
    def publish_one_that_fails_at_first(self, key: str) -> None:
        self.do(self.publish([key], 1))

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 2.0, 9.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @invariant()
    def nothing_has_ended_for_good(self) -> None:
        for life in self.lives:
            assert life.bridge.health().state != "failed", life.bridge.health().last_error

    @invariant()
    def no_more_is_in_hand_than_the_window(self) -> None:
        for life in self.lives:
            assert life.most_in_hand <= WINDOW

    @invariant()
    def no_listener_got_a_message_twice(self) -> None:
        for life in self.lives:
            twice = [number for number, times in Counter(life.handled).items() if times > 1]
            assert not twice, f"{twice} were handled twice by one process"

    async def until(self, condition: Any, what: Any) -> None:
        await conformance.until(condition, what, PATIENCE)

    def teardown(self) -> None:
        try:
            if self.lives:
                self.do(asyncio.wait_for(self.settle(), 10 * PATIENCE))
        finally:
            self.do(self.clean_up())
            self.runner.close()

    async def settle(self) -> None:
        """Undo all harm, wait until everything has come to rest, and look at the ledger."""
        raise NotImplementedError

    async def clean_up(self) -> None:
        for task in self.going:
            task.cancel()
        await asyncio.gather(*self.going, return_exceptions=True)
        for life in self.lives:
            if not life.is_dead:
                await life.close(1)


class Durable(Model):
    """A broker with durable queues: a reader with a name, and a group of two."""

    @initialize()
    def begin(self) -> None:
        self.exchange = Exchange()
        self.lines = {name: FakeLine(self.exchange) for name in ("sender", "reader", "first", "second")}
        self.readers: dict[str, Life] = {}
        self.failed: dict[str, Counter[int]] = {"the name": Counter(), "the group": Counter()}
        self.interruptions: Counter[str] = Counter()
        self.named: list[Life] = []
        self.do(self._begin())

    async def _begin(self) -> None:
        # The queues have to be there, else nobody would keep anything.
        for name in ("reader", "first", "second"):
            await self._read(name)
            await self.readers[name].bridge.ready(PATIENCE)
        await self._send()

    async def _send(self) -> None:
        self.sender = await self.start(
            Life(Rabbit(self.exchange, self.lines["sender"]), {}, Counter(), outgoing=ALL, outbox=50)
        )

    async def _read(self, name: str) -> None:
        options = {"name": "reader"} if name == "reader" else {"group": "workers"}
        life = Life(
            Rabbit(self.exchange, self.lines[name]),
            self.fails,
            self.failed[self._kind(name)],
            incoming=ALL,
            attempts=ATTEMPTS,
            retry_pause=0.01,
            window=WINDOW,
            **options,
        )
        life.listen()
        self.readers[name] = await self.start(life)
        if name == "reader":
            self.named.append(life)

    def _kind(self, name: str) -> str:
        return "the name" if name == "reader" else "the group"

    def _interrupt(self, name: str) -> FakeLine:
        """The line of one, which is about to be harmed: what is in hand comes again, and that counts as an attempt."""
        if name != "sender":
            self.interruptions[self._kind(name)] += 1
        return self.lines[name]

    # Harm

    @rule(key=st.sampled_from("abc"))
    def publish_poison(self, key: str) -> None:
        self.do(self.publish([key], 1000))

    @rule(name=st.sampled_from(["sender", "reader", "first", "second"]))
    def cut(self, name: str) -> None:
        self._interrupt(name).cut()

    @rule(name=st.sampled_from(["sender", "reader", "first"]), size=st.integers(0, 400))
    def cut_in_the_middle(self, name: str, size: int) -> None:
        self._interrupt(name).cut_after(size)

    @rule(name=st.sampled_from(["sender", "reader", "first"]))
    def stall(self, name: str) -> None:
        self._interrupt(name).stall()

    @rule(name=st.sampled_from(["sender", "reader", "first"]))
    def stall_replies(self, name: str) -> None:
        self._interrupt(name).stall_replies()

    @rule(name=st.sampled_from(["sender", "reader", "first"]))
    def resume(self, name: str) -> None:
        self.lines[name].resume()

    @rule(name=st.sampled_from(["sender", "reader", "first"]), seconds=st.sampled_from([0.0, 0.01, 0.4]))
    def delay(self, name: str, seconds: float) -> None:
        self._interrupt(name).delay(seconds)

    @rule()
    def kill_the_broker(self) -> None:
        self.interruptions.update(["the name", "the group"])
        self.exchange.is_down = True
        for connection in list(self.exchange.connections):
            self.exchange.disconnect(connection)

    @rule()
    def start_the_broker(self) -> None:
        self.exchange.is_down = False

    @rule()
    def freeze(self) -> None:
        self.interruptions.update(["the name", "the group"])
        self.exchange.thawed.clear()

    @rule()
    def thaw(self) -> None:
        self.exchange.thawed.set()

    @rule(does=st.booleans())
    def double(self, does: bool) -> None:
        self.exchange.duplicate = lambda record: does

    @rule(is_full=st.booleans())
    def fill(self, is_full: bool) -> None:
        self.exchange.is_full = is_full

    # Processes

    @rule(name=st.sampled_from(["reader", "first", "second"]))
    def a_process_dies(self, name: str) -> None:
        self._interrupt(name)
        self.do(self._die(self.readers[name]))
        self.do(self._read(name))

    async def _die(self, life: Life) -> None:
        assert isinstance(life.adapter, Rabbit)
        life.adapter.is_dead = life.is_dead = True
        for connection in list(self.exchange.connections):
            if connection.line is life.adapter.line:
                self.exchange.disconnect(connection)
        await life.die()

    @rule(name=st.sampled_from(["reader", "first", "second"]), timeout=st.sampled_from([0.0, 0.05, 5.0]))
    def a_process_is_replaced(self, name: str, timeout: float) -> None:
        self._interrupt(name)
        self.do(self.readers[name].close(timeout))
        self.do(self._read(name))

    @rule()
    def the_sender_dies(self) -> None:
        self.do(self._die(self.sender))
        self.do(self._send())

    @rule(name=st.sampled_from(["reader", "first", "second"]))
    def a_listener_leaves(self, name: str) -> None:
        self.readers[name].look_away()

    @rule(name=st.sampled_from(["reader", "first", "second"]))
    def a_listener_comes(self, name: str) -> None:
        self.readers[name].listen()

    # The ledger

    async def settle(self) -> None:
        self.exchange.is_down = self.exchange.is_full = False
        self.exchange.thawed.set()
        for line in self.lines.values():
            line.resume()
            line.delay(0)
            line.left = None
        for reader in self.readers.values():
            reader.listen()
        await self.until(
            lambda: not self.going, lambda: f"{len(self.going)} confirmations; {self.sender.bridge.health()}"
        )
        for kind, lives in (("the name", self.named), ("the group", self._of_the_group())):
            await self._are_handled(kind, lives)
        await self.until(
            lambda: all(self._dead()[number] >= self._times_not_handled(number) for number in self.confirmed),
            lambda: f"dead letters of the name and of the group: {self._dead()}",
        )
        for number in self._dead():
            kinds = [kind for kind in self.failed if self._is_good(number, kind)]
            assert len(kinds) < 2, f"{number}, which can be handled, is a dead letter"
        await self.until(
            lambda: (
                not any(queue.ready for queue in self.exchange.queues.values())
                and not any(connection.unacked for connection in self.exchange.connections)
            ),
            "everything to be acknowledged",
        )
        for life in self.lives:
            assert not life.gaps, f"a durable broker has lost nothing: {life.gaps}"
        self._check_order()

    def _is_good(self, number: int, kind: str) -> bool:
        """True if it has to be handled: whatever happened, it has attempts left.

        One that never fails has one more: what was in hand that often when a process died is tried alone first.
        """
        fails = self.fails.get(number, 0)
        return fails + self.interruptions[kind] < ATTEMPTS + (not fails)

    def _times_not_handled(self, number: int) -> int:
        """By how many of the two kinds a message was not handled: so often it has to be a dead letter."""
        return sum(all(number not in life.handled for life in lives) for lives in (self.named, self._of_the_group()))

    def _dead(self) -> Counter[int]:
        return Counter(int(received.payload or b"-1") for received, _ in self.exchange.dead)

    async def _are_handled(self, kind: str, lives: list[Life]) -> None:
        def left() -> set[int]:
            good = {number for number in self.confirmed if self._is_good(number, kind)}
            return good - {number for life in lives for number in life.handled}

        await self.until(
            lambda: not left(),
            lambda: (
                f"{sorted(left())}, which were confirmed, to be handled by {kind}: "
                f"{[life.bridge.health() for life in self.readers.values()]}"
            ),
        )

    def _of_the_group(self) -> list[Life]:
        return [life for life in self.lives if life not in self.named]

    def _check_order(self) -> None:
        """Whoever reads by a name gets the messages of a key in order; again, perhaps, if a process died.

        What was in hand at so many deaths as there are attempts is tried alone, after all others.
        """
        if self.interruptions["the name"] >= ATTEMPTS:
            return
        first: dict[str, list[int]] = {}
        seen: set[int] = set()
        for life in self.named:
            for number in life.handled:
                if number not in seen:
                    seen.add(number)
                    first.setdefault(self.keys[number], []).append(number)
        for numbers in first.values():
            assert numbers == sorted(numbers), "the order of a key is not kept"


class Memory(Model):
    """A broker that keeps nothing: what is missing is within a gap, or the broker itself has dropped it."""

    @initialize()
    def begin(self) -> None:
        self.url = f"memory://{os.urandom(6).hex()}"
        self.broker = MemoryBroker.named[self.url] = MemoryBroker()
        self.broker.drop = self._pass_by
        self.is_dropping = False
        self.arrived: dict[int, float] = {}
        self.dropped: set[int] = set()
        self.since: dict[Life, int] = {}
        self.do(self._begin())

    async def _begin(self) -> None:
        self.readers = [await self._read() for _ in range(2)]
        self.sender = await self.start(Life(MemoryAdapter(self.url), {}, Counter(), outgoing=ALL, outbox=50))
        await self.sender.bridge.ready(PATIENCE)

    async def _read(self) -> Life:
        life = Life(MemoryAdapter(self.url), {}, Counter(), incoming=ALL)
        life.listen()
        await self.start(life)
        await life.bridge.ready(PATIENCE)
        # What was published before is not for it.
        self.since[life] = len(self.keys)
        return life

    def _pass_by(self, record: Record) -> bool:
        if record.is_control or record.key[0] == "Hub":
            return False
        number = int(record.payload)
        self.arrived[number] = time.time()
        if self.is_dropping:
            self.dropped.add(number)
        return self.is_dropping

    @rule(does=st.booleans())
    def drop(self, does: bool) -> None:
        self.is_dropping = does

    @rule(does=st.booleans())
    def double(self, does: bool) -> None:
        self.broker.duplicate = lambda record: does

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.4]))
    def delay(self, seconds: float) -> None:
        self.broker.delay = seconds

    @rule()
    def cut(self) -> None:
        self.broker.cut()

    @rule(which=st.integers(0, 1))
    def cut_one(self, which: int) -> None:
        adapter = self.readers[which].adapter
        assert isinstance(adapter, MemoryAdapter)
        adapter.break_off()

    @rule()
    def kill_the_broker(self) -> None:
        self.broker.is_down = True
        self.broker.cut()

    @rule()
    def start_the_broker(self) -> None:
        self.broker.is_down = False

    @rule()
    def freeze(self) -> None:
        self.broker.thawed.clear()

    @rule()
    def thaw(self) -> None:
        self.broker.thawed.set()

    @precondition(lambda self: not self.broker.is_down and self.broker.thawed.is_set())
    @rule(which=st.integers(0, 1), closes=st.booleans())
    def a_process_is_replaced(self, which: int, closes: bool) -> None:
        life = self.readers[which]
        if closes:
            self.do(life.close(1))
        else:
            assert isinstance(life.adapter, MemoryAdapter)
            life.adapter.break_off()
            life.adapter.broker = MemoryBroker()
            self.do(life.die())
        self.readers[which] = self.do(self._read())

    async def settle(self) -> None:
        self.broker.is_down = False
        self.broker.delay = 0.0
        self.broker.thawed.set()
        self.is_dropping = False
        await self.until(lambda: not self.going, lambda: f"{len(self.going)} confirmations")
        # Whoever does not know yet that its connection was cut misses what comes before it knows, and is told so.
        for number in await self._publish_last():
            for life in self.readers:
                await self.until(
                    lambda life=life, number=number: self._is_accounted_for(life, number),
                    lambda life=life, number=number: f"{number} to come, or to be in a gap: {life.gaps}",
                )
        # From then on, nothing is missed.
        last = await self._publish_last()
        for life in self.readers:
            await self.until(lambda life=life: last <= set(life.handled), lambda life=life: f"{last}: {life.handled}")
            for number in self.confirmed:
                if number >= self.since[life]:
                    at = self.arrived[number]
                    assert self._is_accounted_for(life, number), f"{number} is missing at {at}, {life.gaps}"
            for key in "abc":
                numbers = [number for number in life.handled if self.keys[number] == key]
                assert numbers == sorted(numbers), "the order of a key is not kept"

    async def _publish_last(self) -> set[int]:
        """Publish a message of each key when all are connected, as far as they know."""
        for life in self.lives:
            if not life.is_dead:
                await life.bridge.ready(PATIENCE)
        first = len(self.keys)
        await self.publish(["a", "b", "c"], 0)
        return set(range(first, len(self.keys)))

    def _is_accounted_for(self, life: Life, number: int) -> bool:
        """True if it was handled, or the broker has dropped it, or it was at the broker within a gap."""
        if number in life.handled or number in self.dropped:
            return True
        at = self.arrived.get(number)
        return at is not None and any(gap.since <= at <= gap.until for gap in life.gaps)

    async def clean_up(self) -> None:
        await super().clean_up()
        MemoryBroker.named.pop(self.url, None)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """All that goes wrong here is logged, and means to."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


BRIEF = settings(max_examples=40, stateful_step_count=40, derandomize=True, report_multiple_bugs=False)
LONG = settings(max_examples=1000, stateful_step_count=60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", [Durable, Memory])
def test_every_confirmed_message_is_accounted_for(model: type[Model]) -> None:
    run_state_machine_as_test(model, settings=BRIEF)  # type: ignore[no-untyped-call]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", [Durable, Memory])
def test_every_confirmed_message_is_accounted_for_whatever_happens(model: type[Model]) -> None:
    run_state_machine_as_test(model, settings=LONG)  # type: ignore[no-untyped-call]
