"""A sender and a receiver on a line that can fail, and a record of what became of each message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ... import ConfirmationTimeout, DeliveryError, Key
from ...bridges import Features
from .broker import Broker
from .sites import SOON, TIMEOUT, Site, Sites, sites, until
from .table import ALL, features_of

COUNTED = Key("k", "+")
"""The keys that are published to and checked."""
PATIENCE = 90.0
"""Seconds within which everything must be back to normal, on a busy machine."""
LINES = 4
"""Lines that an interruption may log for each bridge: that it began, why, that it is over, what was lost."""


class Lines(logging.Handler):
    """Counts the lines logged by any logger, including those of drivers; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.name, str(record.msg)] += 1

    def __enter__(self) -> Lines:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)

    @property
    def total(self) -> int:
        """How many lines were logged."""
        return self.counts.total()

    def __str__(self) -> str:
        return "\n".join(f"  {count} × {name}: {text}" for (name, text), count in self.counts.most_common(10))


class Scene:
    """A sender and a receiver, and what was published, confirmed and received.

    Args:
        broker: The broker.
        those: Makes the sites.
        features: The features promised to the receiver.
        options: Options of the receiver's bridge.
    """

    def __init__(self, broker: Broker, those: Sites, features: Features, options: dict[str, Any]) -> None:
        self.broker = broker
        self.line = broker.line
        self.those = those
        self.features = features
        self.options = options
        self.lines = Lines()
        self.sender: Site
        self.receiver: Site
        self.published: dict[int, float] = {}
        self.confirmed: set[int] = set()
        self.was_killed = False
        self._reconnects: dict[Site, int] = {}
        self._going: set[asyncio.Task[None]] = set()

    @property
    def keeps(self) -> bool:
        """True if no message is missed because of what was done to the broker, or to the line."""
        has_forgotten = self.was_killed and self.broker.forgets
        return self.features.durable or (self.features.resumes and not has_forgotten)

    def kill(self) -> None:
        """Kill the broker."""
        self.broker.kill()
        self.was_killed = True

    @property
    def received(self) -> list[int]:
        """The numbers that came, in order."""
        return self.receiver.messages

    async def join(self, *, ready: bool = True) -> None:
        """Make the sender and the receiver."""
        self.sender = await self.those.add(outgoing=ALL, ready=False)
        self.receiver = await self.those.add(COUNTED, incoming=ALL, ready=False, **self.options)
        if ready:
            await self.sender.bridge.ready(PATIENCE)
            await self.receiver.bridge.ready(PATIENCE)

    async def publish(self, seconds: float, pause: float = 0.01) -> None:
        """Publish a message every `pause` seconds, without waiting for confirmations."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.publish_one()
            await asyncio.sleep(pause)

    def publish_one(self) -> int:
        """Publish a message; return its number."""
        number = len(self.published)
        self.published[number] = time.time()
        task = asyncio.ensure_future(self._publish(number))
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        return number

    async def _publish(self, number: int) -> None:
        try:
            await self.sender.hub.publish_confirmed(("k", str(number % 3)), number, timeout=2 * PATIENCE)
        except (DeliveryError, ConfirmationTimeout):
            return
        self.confirmed.add(number)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish in the background until the block is left."""
        going = asyncio.ensure_future(self.publish(3600))
        try:
            yield
        finally:
            going.cancel()
            await asyncio.wait([going])

    async def settle(self) -> None:
        """Wait until both are connected, everything is confirmed, and what is published now arrives."""
        for site in (self.sender, self.receiver):
            await self.is_up(site)
            await site.bridge.ready(PATIENCE)
        if self._going:
            await asyncio.wait(self._going, timeout=PATIENCE)
        for key in range(3):
            # One message of each key: earlier messages come before it.
            while (number := self.publish_one()) % 3 != key:
                pass
            await self.receiver.see(number, PATIENCE)
        await until(lambda: not self._going, lambda: f"{len(self._going)} confirmations", PATIENCE)
        if self.broker.keeps_leases and self.features.lease is not None:
            # Within its lease, and a little.
            await self.give_time(2 * self.features.lease + SOON)

    async def give_time(self, seconds: float) -> None:
        """Wait until all confirmed messages have come, but no longer than this: `check` says what is missing then."""
        with suppress(AssertionError):
            await until(lambda: self.confirmed.issubset(self.received), "the confirmed messages", seconds)

    async def is_down(self, site: Site | None = None) -> None:
        """Wait until the receiver, or another site, has noticed that its connection is lost, if only for a moment."""
        site = site or self.receiver

        def noticed() -> bool:
            health = site.bridge.health()
            return health.state != "up" or health.reconnects > self._reconnects.get(site, 0)

        await site.until(noticed, "noticing that its connection is lost", PATIENCE)

    async def is_up(self, site: Site | None = None) -> None:
        """Wait until the receiver, or another site, is connected, from whatever state it is in."""
        site = site or self.receiver
        await site.until(lambda: site.bridge.health().state == "up", "coming up", PATIENCE)
        self._reconnects[site] = site.bridge.health().reconnects

    def check(self, episodes: int = 1, gaps: int | None = None) -> None:
        """Compare the confirmed messages with those that came.

        Args:
            episodes: How many faults there were; the number of logged lines may grow with it.
            gaps: How many gaps there must be if lost connections lose messages; by default one for each episode.
        """
        received = self.received
        assert len(received) == len(set(received)), "a listener got a message twice"
        assert len(self.confirmed) > 5, "hardly anything was confirmed"
        missing = self.confirmed - set(received)
        if self.keeps:
            assert not missing, f"{len(missing)} were confirmed and lost, {sorted(missing)[:10]} among them"
            assert not self.receiver.gaps, f"there are gaps, and nothing was lost: {self.receiver.gaps}"
        else:
            expected = episodes if gaps is None else gaps
            assert len(self.receiver.gaps) == expected, f"{len(self.receiver.gaps)} gaps, expected {expected}"
            self.check_missing(missing)
        if self.features.order != "none":
            for lane in range(3):
                numbers = [number for number in received if number % 3 == lane]
                if self.was_killed and self.broker.forgets:
                    # What a gap has reported may come late: its sender sends it again, since nobody had confirmed it.
                    numbers = [number for number in numbers if not self.is_in_a_gap(number)]
                assert numbers == sorted(numbers), "the order of a key is not kept"
        most = LINES * 2 * episodes
        assert self.lines.total <= most, f"{self.lines.total} lines for {episodes} episodes, most of them\n{self.lines}"

    def check_missing(self, missing: set[int]) -> None:
        """Check that messages are missing only where gaps are reported."""
        for number in missing:
            at, gaps = self.published[number], list(dict.fromkeys(self.receiver.gaps))
            assert self.is_in_a_gap(number), f"{number}, published at {at}, is missing without a gap: {gaps}"

    def is_in_a_gap(self, number: int) -> bool:
        """True if a gap was reported where a message should have come: between those before and after it with its key.

        Times would not do: how long a message waits in an outbox, and how far a reader is behind, has no limit.
        """
        places = {other: place for place, other in enumerate(self.received) if other % 3 == number % 3}
        before = max((place for other, place in places.items() if other < number), default=-1)
        after = min((place for other, place in places.items() if other > number), default=len(self.received))
        first, last = sorted((before, after))
        return any(first < place <= last for place in self.receiver.gap_places)

    async def give_up(self) -> None:
        """Stop waiting for confirmations."""
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)

    async def end(self) -> None:
        """Close both, and check that this is quick, since nothing is left to do."""
        await self.receiver.until(lambda: not self.receiver.bridge.health().in_flight, "all to be handled", PATIENCE)
        for site in (self.sender, self.receiver):
            left = await site.close(within=SOON)
            assert tuple(left) == (0, 0)


@asynccontextmanager
async def scene(broker: Broker, *, join: bool = True, **options: Any) -> AsyncIterator[Scene]:
    """Yield a scene that is connected and has carried some messages; check in the end that it closes quickly.

    Args:
        broker: The broker that may be harmed; it is left unharmed.
        join: Connect the sites.
        options: Options of the bridge that receives.
    """
    await broker.start()
    features = features_of(broker.adapter, **options)
    try:
        async with sites(broker.adapter) as those:
            it = Scene(broker, those, features, options)
            try:
                with it.lines:
                    if join:
                        await it.join()
                        await it.publish(0.1)
                        await it.settle()
                    yield it
                    if join:
                        await it.end()
            finally:
                await it.give_up()
                # Before the bridges are closed, since closing would otherwise take until its deadline.
                await heal(broker)
    finally:
        await heal(broker)
    with_line = broker.line
    await until(lambda: not with_line.connections, lambda: f"{with_line.connections} connections to end", TIMEOUT)


async def heal(broker: Broker) -> None:
    """Undo whatever was done to a broker and its line."""
    broker.line.slow(None)
    broker.line.delay(0)
    broker.line.resume()
    broker.line.forget()
    await broker.line.accept()
    broker.thaw()
    await broker.start()
    await broker.take_writes()


async def within(seconds: float, what: str, action: Callable[[], Awaitable[Any]]) -> Any:
    """Run an action that must end within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await action()
    except TimeoutError:
        raise AssertionError(f"{what} took more than {seconds:g} s") from None
