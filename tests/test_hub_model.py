"""The whole hub against a naive one, in lockstep: whatever publishes, comes, goes, overflows or interferes, and when.

Both run the same program. Listeners, those of announcements, and a handler of the log do as they are told by a script:
publish, close, remove, add, take, in the middle of whatever has called them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_key import naive

from hubsub import Event, Gap, Hub, HubClosed, Key, Meta, Overflow, SubscriptionClosed

KEYS = [("a", "x"), ("a", "y"), ("b", "x")]
PATTERNS = [*KEYS, ("a", "+"), ("+", "x"), ("a", "*"), ("b", "*")]
ANNOUNCEMENTS = ["addedSubscriber", "removedSubscriber", "slowSubscriber", "gap"]
# Those who are told of each other's announcements for ever would never end.
ACTIONS_AT_MOST = 40

Action = tuple[Any, ...]


def travels(number: int) -> bool:
    """True for messages that are published with metadata: another path through the hub."""
    return number % 3 == 0


@dataclass(eq=False)
class Naive:
    """A registration of the naive hub."""

    name: int
    patterns: list[tuple[str, ...]]
    order: int
    script: list[Action]
    overflow: Overflow | None = None  # a listener has no queue
    maxsize: int = 0
    gaps: bool = False
    odd: bool = False  # only odd messages are wanted
    once: bool = False
    closed: bool = False
    overfull: bool = False
    replay: list[Any] = field(default_factory=list)
    queue: list[Any] = field(default_factory=list)  # pairs, and holes: lists of what is missing
    delivered: int = 0
    dropped: int = 0
    superseded: int = 0
    filtered: int = 0

    def is_on(self, key: tuple[str, ...]) -> bool:
        return not self.closed and any(naive(pattern, key) for pattern in self.patterns)

    @property
    def items(self) -> list[Any]:
        return [each for each in self.queue if not isinstance(each, list)]

    @property
    def pending(self) -> int:
        return len(self.items) + len(self.replay)

    def has_room(self, key: tuple[str, ...]) -> bool:
        if len(self.items) < self.maxsize:
            return True
        return self.overflow is Overflow.LATEST and any(item[0] == key for item in self.items)

    def lose(self, place: int, pair: Any) -> None:
        self.dropped += 1
        if place < len(self.queue) and isinstance(self.queue[place], list):
            self.queue[place].append(pair)
        elif place and isinstance(self.queue[place - 1], list):
            self.queue[place - 1].append(pair)
        else:
            self.queue.insert(place, [pair])


class World:
    """What a script can do; the trace is what is to be the same in both worlds."""

    def __init__(self) -> None:
        self.trace: list[Any] = []
        self.number = 0
        self.actions = 0
        self.names = 0
        self.log_script: list[Action] = []

    def next_message(self) -> int:
        self.number += 1
        return self.number

    def run(self, script: list[Action]) -> None:
        """Do what is next in a script."""
        if script and self.actions < ACTIONS_AT_MOST:
            self.actions += 1
            what, *arguments = script.pop(0)
            getattr(self, what)(*arguments)

    def new_name(self) -> int:
        self.names += 1
        return self.names


class NaiveWorld(World):
    """The hub as its documentation has it, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[int, Naive] = {}
        self.registered: list[Naive] = []
        self.running: list[tuple[tuple[str, ...], set[int]]] = []  # publishes, and who is not to get them any more
        self.orders = 0
        self.retained: dict[tuple[str, ...], list[int]] = {}
        self.kept: list[tuple[tuple[str, ...], int]] = []
        self.open = True

    # Publishing

    def publish(self, place: int, message: int | None = None) -> None:
        key = KEYS[place % len(KEYS)]
        number = self.next_message() if message is None else message
        self.kept.append((key, number))
        targets = [each for each in self.registered if each.is_on(key)]
        withdrawn: set[int] = set()
        self.running.append((key, withdrawn))
        routed, with_meta = 0, message is None and travels(number)
        for target in targets:
            # With what travels along it is asked each time who is on the key; without, nobody comes back.
            if target.is_on(key) if with_meta else target.name not in withdrawn:
                routed += 1
                self.deliver(target, key, number)
        self.running.pop()
        self.trace.append(("published", key, number, routed if with_meta else len(targets)))

    def announce(self, what: str, about: tuple[str, ...], but: Naive | None = None) -> None:
        key = ("Hub", what, *(part.replace("*", r"\*").replace("+", r"\+") for part in about))
        newest = self.orders
        for target in [each for each in self.registered if each.is_on(key) and each is not but]:
            if target.is_on(key) and target.order <= newest:
                self.deliver(target, key, what)

    def deliver(self, target: Naive, key: tuple[str, ...], message: Any) -> None:
        if target.odd and not (isinstance(message, int) and message % 2):
            target.filtered += 1
            return
        if target.overflow is None:
            if target.once:
                self.end(target)
            target.delivered += 1
            self.trace.append(("called", target.name, key, message))
            self.run(target.script)
            return
        pair = (key, message)
        full = len(target.items) >= target.maxsize
        match target.overflow:
            case Overflow.LATEST if any(item[0] == key for item in target.items):
                place = next(n for n, each in enumerate(target.queue) if isinstance(each, tuple) and each[0] == key)
                target.queue[place] = pair
                target.superseded += 1
                return
            case Overflow.GROW:
                target.queue.append(pair)
                full = len(target.items) > target.maxsize
            case _ if not full:
                target.queue.append(pair)
            case Overflow.DROP_OLDEST | Overflow.LATEST:
                place = next(n for n, each in enumerate(target.queue) if isinstance(each, tuple))
                oldest = target.queue.pop(place)
                target.lose(place, oldest)
                target.queue.append(pair)
            case Overflow.DROP_NEWEST:
                target.lose(len(target.queue), pair)
            case Overflow.CLOSE:
                target.dropped += 1
                begins = not target.overfull
                target.overfull = True
                self.end(target)
                if begins:
                    self.slow(target)
                return
        if full and not target.overfull:
            target.overfull = True
            self.slow(target)

    def slow(self, target: Naive) -> None:
        self.run(self.log_script)
        for pattern in list(target.patterns):
            self.announce("slowSubscriber", pattern, target)

    # Coming and going

    def register(self, target: Naive, history: int = 0) -> None:
        self.orders += 1
        target.order = self.orders
        self.all[target.name] = target
        self.registered.append(target)
        self.replay_to(target, target.patterns, (), history)
        for pattern in list(target.patterns):
            self.announce("addedSubscriber", pattern)

    def replay_to(self, target: Naive, patterns: Any, without: Any, history: int) -> None:
        found = []
        for key in KEYS:
            if any(naive(pattern, key) for pattern in patterns) and not any(naive(each, key) for each in without):
                found += [pair for pair in self.kept if pair[0] == key][-2:][-history:] if history else []
        for pair in sorted(found, key=lambda pair: pair[1]):
            if target.odd and not pair[1] % 2:
                target.filtered += 1
            else:
                target.replay.append(pair)

    def add_queue(self, pattern: int, overflow: Overflow, maxsize: int, gaps: bool, odd: bool, history: int) -> None:
        target = Naive(self.new_name(), [PATTERNS[pattern % len(PATTERNS)]], 0, [], overflow, maxsize, gaps, odd)
        self.register(target, history)

    def add_listener(self, pattern: int, script: list[Action], odd: bool, once: bool) -> None:
        patterns = [PATTERNS[pattern % len(PATTERNS)]]
        self.register(Naive(self.new_name(), patterns, 0, list(script), odd=odd, once=once))

    def add_watcher(self, what: str, script: list[Action]) -> None:
        self.register(Naive(self.new_name(), [("Hub", what, "*")], 0, list(script)))

    def named(self, place: int, queues: bool) -> Naive | None:
        among = [each for each in self.all.values() if (each.overflow is not None) is queues]
        return among[place % len(among)] if among else None

    def end(self, target: Naive) -> None:
        if target.closed:
            return
        target.closed = True
        self.registered.remove(target)
        self.withdraw(target)
        for pattern in list(target.patterns):
            self.announce("removedSubscriber", pattern)

    def withdraw(self, target: Naive) -> None:
        for key, withdrawn in self.running:
            if not target.is_on(key):
                withdrawn.add(target.name)

    def close(self, place: int) -> None:
        target = self.named(place, True)
        if target is not None:
            self.end(target)

    def remove(self, place: int) -> None:
        target = self.named(place, False)
        if target is not None:
            self.end(target)

    def add(self, place: int, pattern: int, history: int) -> None:
        target, new = self.named(place, True), PATTERNS[pattern % len(PATTERNS)]
        if target is not None and not target.closed and new not in target.patterns:
            before = list(target.patterns)
            target.patterns.append(new)
            self.replay_to(target, [new], before, history)
            self.announce("addedSubscriber", new)

    def discard(self, place: int, pattern: int) -> None:
        target, old = self.named(place, True), PATTERNS[pattern % len(PATTERNS)]
        if target is not None and not target.closed and old in target.patterns:
            target.patterns.remove(old)
            self.withdraw(target)
            self.announce("removedSubscriber", old)

    # Reading

    def take(self, place: int, most: int) -> None:
        target = self.named(place, True)
        if target is not None:
            self.trace.append(("taken", target.name, self.taken(target, most)))

    def taken(self, target: Naive, most: int) -> list[Any]:
        taken: list[Any] = []
        while len(taken) < most:
            if target.replay:
                taken.append(target.replay.pop(0))
                target.delivered += 1
            elif target.queue and isinstance(target.queue[0], list):
                missing = target.queue.pop(0)
                if target.gaps:
                    taken.append(("gap", len(missing)))
                else:
                    for pattern in list(target.patterns):
                        self.announce("gap", pattern, target)
            elif target.queue:
                taken.append(target.queue.pop(0))
                target.delivered += 1
                if len(target.items) <= target.maxsize // 2:
                    target.overfull = False
            else:
                break
        return taken


class Watched(Hub):
    """A hub that says when a message of `publish_wait` is published."""

    waited: Callable[[tuple[str, ...], Any], None]

    def publish(self, key: Any, message: Any = None) -> int:
        if isinstance(message, Waited) and not message.is_known:
            message.is_known = True
            self.waited(tuple(key), message.number)
        return super().publish(key, message)

    def _publish_first(self, route: Any, message: Any) -> int:
        if isinstance(message, Waited) and not message.is_known:
            message.is_known = True
            self.waited(tuple(route.key), message.number)
        return super()._publish_first(route, message)


class Waited:
    """A message of `publish_wait`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_known = False


def plain(message: Any) -> Any:
    """A message as the naive world has it."""
    if isinstance(message, Waited):
        return message.number
    return message if isinstance(message, int) else "announced"


class RealWorld(World):
    """The same words, said to the hub."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.hub = Watched(route_cache=4)
        self.hub.retain([("a", "*"), ("b", "*")], limit=2)
        self.queues: dict[int, Any] = {}
        self.listeners: dict[int, Any] = {}

    def publish(self, place: int) -> None:
        key, number = KEYS[place % len(KEYS)], self.next_message()
        if travels(number):
            routed = self.hub.publish_event(Event(Key(*key), number, Meta(id=str(number))))
        else:
            routed = self.hub.publish(key, number)
        self.trace.append(("published", key, number, routed))

    def where(self, key: Any, message: Any) -> bool:
        return isinstance(plain(message), int) and plain(message) % 2 == 1

    def add_queue(self, pattern: int, overflow: Overflow, maxsize: int, gaps: bool, odd: bool, history: int) -> None:
        name = self.new_name()
        options: Any = {"gaps": True} if gaps else {}
        # Whoever is told of the announcement may take from it already: so it is known before.
        subscription = self.hub._subscription(
            maxsize=maxsize, overflow=overflow, where=self.where if odd else None, **options
        )
        self.queues[name] = subscription
        self.hub._add(subscription, [PATTERNS[pattern % len(PATTERNS)]], history)

    def add_listener(self, pattern: int, script: list[Action], odd: bool, once: bool) -> None:
        self._listen(PATTERNS[pattern % len(PATTERNS)], script, where=self.where if odd else None, once=once)

    def add_watcher(self, what: str, script: list[Action]) -> None:
        self._listen(("Hub", what, "*"), script)

    def _listen(self, pattern: tuple[str, ...], script: list[Action], **options: Any) -> None:
        name, script = self.new_name(), list(script)

        def listen(key: Key[Any], message: Any) -> None:
            self.trace.append(("called", name, key, key[1] if key[0] == "Hub" else plain(message)))
            self.run(script)

        class Book:
            """Knows the listener before that is announced."""

            def _note(book, registration: Any, patterns: Any) -> None:
                self.listeners[name] = registration

            def _forget(book, registration: Any, patterns: Any) -> None:
                pass

        self.hub._add_listener([pattern], listen, False, owner=Book(), **options)

    @staticmethod
    def _named(place: int, among: dict[int, Any]) -> Any:
        return list(among.values())[place % len(among)] if among else None

    def close(self, place: int) -> None:
        queue = self._named(place, self.queues)
        if queue is not None:
            queue.close()

    def remove(self, place: int) -> None:
        listener = self._named(place, self.listeners)
        if listener is not None:
            listener.remove()

    def add(self, place: int, pattern: int, history: int) -> None:
        queue = self._named(place, self.queues)
        if queue is not None:
            with suppress(SubscriptionClosed):
                queue.add(PATTERNS[pattern % len(PATTERNS)], history)

    def discard(self, place: int, pattern: int) -> None:
        queue = self._named(place, self.queues)
        if queue is not None:
            queue.discard(PATTERNS[pattern % len(PATTERNS)])

    def take(self, place: int, most: int) -> None:
        queue = self._named(place, self.queues)
        if queue is not None:
            name = next(name for name, each in self.queues.items() if each is queue)
            self.trace.append(("taken", name, [self.shown(each) for each in queue.take(most)]))

    @staticmethod
    def shown(read: Any) -> Any:
        return ("gap", read.count) if isinstance(read, Gap) else (tuple(read[0]), plain(read[1]))


numbers = st.integers(0, 6)
actions = st.one_of(
    st.tuples(st.just("publish"), numbers),
    st.tuples(st.just("publish"), numbers),
    st.tuples(st.just("close"), numbers),
    st.tuples(st.just("remove"), numbers),
    st.tuples(st.just("take"), numbers, st.integers(1, 3)),
    st.tuples(st.just("add"), numbers, numbers, st.integers(0, 2)),
    st.tuples(st.just("discard"), numbers, numbers),
    st.tuples(st.just("add_listener"), numbers, st.just([]), st.booleans(), st.booleans()),
    st.tuples(
        st.just("add_queue"),
        numbers,
        st.sampled_from(Overflow),
        st.integers(1, 3),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2),
    ),
)
scripts = st.lists(actions, max_size=4)


class HubMachine(RuleBasedStateMachine):
    """Both worlds, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.real = RealWorld(self.loop)
        self.naive = NaiveWorld()
        self.waiting: list[asyncio.Task[Any]] = []
        self.reading: list[tuple[int, asyncio.Task[Any]]] = []
        self.real.hub.waited = self.waited
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.logged(record)  # type: ignore[method-assign]
        logger = logging.getLogger("hubsub.listener")
        self.propagated = logger.propagate
        logger.propagate = False
        logger.addHandler(self.handler)
        self.loop.run_until_complete(self.real.hub.start())

    def teardown(self) -> None:
        tasks = [*self.waiting, *(task for _, task in self.reading)]
        failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is not None]
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        logger = logging.getLogger("hubsub.listener")
        logger.removeHandler(self.handler)
        logger.propagate = self.propagated
        self.loop.run_until_complete(self.real.hub.close())
        self.loop.close()
        assert not failed, failed[0].exception()

    def logged(self, record: logging.LogRecord) -> None:
        if "does not keep up" in record.getMessage():
            self.real.run(self.real.log_script)

    def both(self, what: str, *arguments: Any) -> None:
        async def do() -> None:
            # In one step: whoever waits runs before or after it.
            self.real.actions = self.naive.actions = 0
            getattr(self.real, what)(*arguments)
            getattr(self.naive, what)(*arguments)

        self.loop.run_until_complete(do())

    # What is done from outside

    @initialize(
        script=scripts,
        slow=scripts,
        overflow=st.sampled_from(Overflow),
        maxsize=st.integers(1, 2),
        gaps=st.booleans(),
    )
    def begin(self, script: list[Action], slow: list[Action], overflow: Overflow, maxsize: int, gaps: bool) -> None:
        """With a small queue, and with somebody who interferes when it overflows: else few examples come to that."""
        self.real.log_script, self.naive.log_script = list(script), list(script)
        self.both("add_watcher", "slowSubscriber", slow)
        self.both("add_queue", 5, overflow, maxsize, gaps, False, 0)

    @rule(action=actions)
    def act(self, action: Action) -> None:
        self.both(*action)

    @rule(places=st.lists(numbers, min_size=1, max_size=4))
    def publish(self, places: list[int]) -> None:
        for place in places:
            self.both("publish", place)

    @rule(pattern=numbers, script=scripts, odd=st.booleans(), once=st.booleans())
    def add_listener(self, pattern: int, script: list[Action], odd: bool, once: bool) -> None:
        self.both("add_listener", pattern, script, odd, once)

    @rule(what=st.sampled_from(ANNOUNCEMENTS), script=scripts)
    def add_watcher(self, what: str, script: list[Action]) -> None:
        self.both("add_watcher", what, script)

    # Waiting for room, and for messages, in competition

    def waited(self, key: tuple[str, ...], number: int) -> None:
        """A `publish_wait` is just about to publish."""
        for each in self.naive.registered:
            if each.overflow is not None and each.is_on(key):
                assert each.has_room(key), f"no room in {each}"
        self.naive.actions = self.real.actions
        self.naive.publish(KEYS.index(key), number)
        self.naive.trace.pop()  # how many it is routed to, its task learns

    @rule(place=numbers)
    def publish_wait(self, place: int) -> None:
        number = self.real.next_message()
        self.naive.next_message()
        coroutine = self.real.hub.publish_wait(KEYS[place % len(KEYS)], Waited(number))
        self.waiting.append(self.loop.create_task(coroutine))

    @precondition(lambda self: self.real.queues)
    @rule(place=numbers)
    def consume(self, place: int) -> None:
        name, subscription = list(self.real.queues.items())[place % len(self.real.queues)]

        async def read() -> None:
            with suppress(SubscriptionClosed, HubClosed):
                event = await subscription.consume()
                taken = self.naive.taken(self.naive.all[name], 1)
                assert [RealWorld.shown(event)] == taken

        self.reading.append((name, self.loop.create_task(read())))

    @precondition(lambda self: self.waiting or self.reading)
    @rule(place=numbers)
    def cancel(self, place: int) -> None:
        tasks = [*self.waiting, *(task for _, task in self.reading)]
        tasks[place % len(tasks)].cancel()

    @rule()
    def turn(self) -> None:
        self.real.actions = self.naive.actions = 0
        self.loop.run_until_complete(asyncio.sleep(0))
        for tasks in (self.waiting, [task for _, task in self.reading]):
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
        self.waiting = [task for task in self.waiting if not task.done()]
        self.reading = [(name, task) for name, task in self.reading if not task.done()]

    @precondition(lambda self: not self.waiting and not self.reading)
    @rule()
    def close_and_start_again(self) -> None:
        async def again() -> None:
            await self.real.hub.close()
            await self.real.hub.start()

        self.loop.run_until_complete(again())
        for each in list(self.naive.registered):
            if each.overflow is not None:
                each.closed = True
                self.naive.registered.remove(each)

    # What holds at every step

    @invariant()
    def both_have_done_the_same(self) -> None:
        assert self.real.trace == self.naive.trace
        assert self.real.names == self.naive.names

    @invariant()
    def figures_are_the_same_and_add_up(self) -> None:
        for name, queue in self.real.queues.items():
            other = self.naive.all[name]
            assert queue.accepted == queue.delivered + queue.pending + queue.dropped + queue.superseded
            found = (queue.pending, queue.dropped, queue.superseded, queue.filtered, queue.delivered, queue.closed)
            assert found == (
                other.pending,
                other.dropped,
                other.superseded,
                other.filtered,
                other.delivered,
                other.closed,
            )
            assert queue.overflow is Overflow.GROW or len(queue._mailbox.items) <= queue.maxsize
        for name, listener in self.real.listeners.items():
            other = self.naive.all[name]
            assert (listener.accepted, listener.delivered, listener.filtered, listener.closed, listener.failed) == (
                other.delivered,
                other.delivered,
                other.filtered,
                other.closed,
                0,
            )


TestHubMachine = HubMachine.TestCase
TestHubMachine.settings = settings(
    max_examples=int(os.environ.get("HUBSUB_TEST_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
