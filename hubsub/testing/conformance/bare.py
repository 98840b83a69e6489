"""An adapter without a bridge, to see what the broker itself does; and adapters that record or block calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from os import urandom
from typing import Any, Self

from ... import Key
from ...bridges import Adapter, Buried, Features, Link, Loss, Received, Record
from .sites import TIMEOUT, until
from .table import ALL, Make


class Bare:
    """A connected adapter whose messages nobody handles: they are recorded, and acknowledged only by `ack`."""

    def __init__(self, adapter: Adapter, link: Link) -> None:
        self.adapter = adapter
        self.link = link
        self.received: list[Received] = []
        self.losses: list[Loss] = []
        self.reading: asyncio.Future[None] | None = None
        self._sequence = count(1)

    async def send(self, *records: Record) -> Mapping[int, Exception]:
        """Send records, numbering those that are not control messages."""
        numbered = [each if each.is_control else each._replace(sequence=next(self._sequence)) for each in records]
        return await asyncio.wait_for(self.adapter.send(numbered), TIMEOUT)

    async def control(self, key: Key[Any], payload: bytes) -> None:
        """Send a control message."""
        await self.send(Record(key, payload, is_control=True))

    @property
    def payloads(self) -> list[bytes | None]:
        """The payloads that came, in order."""
        return [each.payload for each in self.received]

    async def see(self, payload: bytes) -> Received:
        """Wait for a payload; return the message that it came in."""

        def came() -> bool:
            if self.reading is not None and self.reading.done():
                self.reading.result()
            return payload in self.payloads

        await until(came, lambda: f"{payload!r} among {self.payloads[-20:]}")
        return self.received[self.payloads.index(payload)]

    async def ack(self) -> None:
        """Acknowledge all messages that came."""
        tokens: dict[Hashable, Any] = {}
        for index, each in enumerate(self.received):
            if each.token is not None:
                tokens[index if self.adapter.features.acks == "each" else each.lane] = each.token
        if tokens:
            await self.adapter.ack(list(tokens.values()))

    async def read(self) -> None:
        """Record all messages until the connection ends."""
        while True:
            for each in await self.adapter.receive():
                (self.losses if isinstance(each, Loss) else self.received).append(each)  # type: ignore[arg-type]
            await asyncio.sleep(0)


@asynccontextmanager
async def bare(make: Make, namespace: str, *, control: Sequence[Key[Any]] = (), **options: Any) -> AsyncIterator[Bare]:
    """Yield an adapter that is connected, reads everything, and listens to these control keys.

    Args:
        make: Makes the adapter.
        namespace: The namespace at the broker.
        control: Exact keys of control messages to listen to.
        options: Options of the `Link`.
    """

    async def release(lanes: Collection[Hashable]) -> None:
        pass

    adapter = make()
    given: dict[str, Any] = {"sender": f"bare{urandom(6).hex()}", "incoming": (ALL,), "release": release} | options
    link = Link(namespace=namespace, control=tuple(control), **given)
    it: Bare | None = None
    try:
        async with asyncio.timeout(TIMEOUT):
            await adapter.connect(link)
        it = Bare(adapter, link)
        if link.reads:
            it.reading = asyncio.ensure_future(it.read())
        async with asyncio.timeout(TIMEOUT):
            if control:
                await adapter.listen(control)
            if link.reads and adapter.features.patterns:
                await adapter.subscribe(link.incoming)
        yield it
    finally:
        await adapter.close()
        if it is not None and it.reading is not None:
            # Closing has ended it, or before that an error that the check has seen.
            with suppress(Exception):
                await asyncio.wait_for(it.reading, TIMEOUT)


def _leaves(adapter: Adapter, name: str) -> bool:
    return getattr(type(adapter), name) is getattr(Adapter, name)


class Watched(Adapter):
    """Passes every call on to another adapter, and records the calls; subclasses may change them."""

    def __new__(cls, inner: Adapter) -> Self:
        # Do not override what the other adapter does not override: bridges check for that.
        left = {name: getattr(Adapter, name) for name in ("listen", "ping") if _leaves(inner, name)}
        kind: Any = type(cls.__name__, (cls,), left) if left else cls
        watched: Self = super().__new__(kind)
        return watched

    def __init__(self, inner: Adapter) -> None:
        self.inner = inner
        self.sent: list[Record] = []
        """Every record, as often as it was sent."""
        self.unsubscribed: list[Key[Any]] = []
        self.acked: list[Any] = []
        self.buried: list[Received] = []
        self.connections = 0

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def features(self) -> Features:  # type: ignore[override]
        """The features of the other adapter."""
        return self.inner.features

    @property
    def lag(self) -> int | None:  # type: ignore[override]
        """The lag of the other adapter."""
        return self.inner.lag

    @property
    def unroutable(self) -> int:  # type: ignore[override]
        """The unroutable messages of the other adapter."""
        return self.inner.unroutable

    @property
    def activity(self) -> int:  # type: ignore[override]
        """The activity of the other adapter."""
        return self.inner.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """The receiving counter of the other adapter."""
        return self.inner.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """The sending counter of the other adapter."""
        return self.inner.sending

    def features_for(self, link: Link) -> Features:
        return self.inner.features_for(link)

    async def connect(self, link: Link) -> None:
        await self.inner.connect(link)
        self.connections += 1

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self.inner.listen(keys)

    async def ping(self) -> None:
        await self.inner.ping()

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        self.sent += records
        return await self.inner.send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self.inner.receive()

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self.inner.subscribe(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        self.unsubscribed += patterns
        await self.inner.unsubscribe(patterns)

    async def ack(self, tokens: Sequence[Any]) -> None:
        await self.inner.ack(tokens)
        self.acked += tokens

    async def extend(self, tokens: Sequence[Any]) -> None:
        await self.inner.extend(tokens)

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        await self.inner.hand_back(tokens)

    async def bury(self, received: Received, why: str) -> Exception | None:
        self.buried.append(received)
        return await self.inner.bury(received, why)

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        return await self.inner.dead_letters(limit, before)

    async def redeliver(self, position: str) -> None:
        await self.inner.redeliver(position)

    async def history(
        self, limit: int, before: str | float | None = None, after: str | float | None = None
    ) -> Sequence[Received]:
        return await self.inner.history(limit, before, after)

    async def lost(self) -> None:
        await self.inner.lost()

    async def close(self) -> None:
        await self.inner.close()


class Gated(Watched):
    """An adapter that a check can keep from its broker."""

    is_shut = False

    async def connect(self, link: Link) -> None:
        if self.is_shut:
            raise ConnectionError("kept away by the check")
        await super().connect(link)

    async def shut(self) -> None:
        """Lose the connection, and refuse to connect until `is_shut` is False."""
        self.is_shut = True
        await self.inner.lost()
