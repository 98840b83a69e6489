"""The base of adapters that have nothing but their connections: made by each `connect`, and thrown away with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from ..key import Key
from .adapter import Adapter, Link, Loss, Received, Record


class Line:
    """The connections of a `LineAdapter`, from one `connect` until they are lost or closed. If one is lost, all are."""

    async def open(self) -> None:
        """Connect, as `Adapter.connect` does. If it fails, or is cancelled, `close` is called."""
        raise NotImplementedError

    async def close(self) -> None:
        """Cut the connections, whatever state they are in; what waits ends. Closing twice is safe."""
        raise NotImplementedError

    async def leave(self) -> None:
        """End the connections for good, with a goodbye if the broker expects one. The default cuts them."""
        await self.close()

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """As `Adapter.listen`. The default subscribes."""
        await self.subscribe(keys)

    async def ping(self) -> None:
        """As `Adapter.ping`."""
        raise NotImplementedError

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        """As `Adapter.send`."""
        raise NotImplementedError

    async def receive(self) -> Sequence[Received | Loss]:
        """As `Adapter.receive`."""
        raise NotImplementedError

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """As `Adapter.subscribe`. The default does nothing, as for brokers without patterns."""

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """As `Adapter.unsubscribe`."""

    @property
    def activity(self) -> int:
        """As `Adapter.activity`."""
        return 0

    @property
    def receiving(self) -> int | None:
        """As `Adapter.receiving`."""
        return None

    @property
    def sending(self) -> int | None:
        """As `Adapter.sending`."""
        return None


L = TypeVar("L", bound=Line)


class LineAdapter(Adapter, Generic[L]):
    """An adapter that keeps hardly anything from one connection to the next: a `Line` does its work.

    A subclass implements `line`, and what a `Line` has no method for.
    """

    _line: L | None = None  # the last one; it may be closed

    def line(self, link: Link) -> L:
        """Return the line of a link; it is opened next."""
        raise NotImplementedError

    def connected(self) -> L:
        """Return the line.

        Raises:
            ConnectionError: There is none yet.
        """
        if self._line is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._line

    async def connect(self, link: Link) -> None:
        self._line = line = self.line(link)
        try:
            await line.open()
        except BaseException:
            await line.close()
            raise

    async def lost(self) -> None:
        if self._line is not None:
            await self._line.close()

    async def close(self) -> None:
        if self._line is not None:
            await self._line.leave()

    def forget(self) -> None:
        self._line = None

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await self.connected().listen(keys)

    async def ping(self) -> None:
        await self.connected().ping()

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        return await self.connected().send(records)

    async def receive(self) -> Sequence[Received | Loss]:
        return await self.connected().receive()

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self.connected().subscribe(patterns)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        await self.connected().unsubscribe(patterns)

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved over any of the connections."""
        return 0 if self._line is None else self._line.activity

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have arrived where messages are received; None if that is not counted."""
        return None if self._line is None else self._line.receiving

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where messages are sent; None if that is not counted."""
        return None if self._line is None else self._line.sending
