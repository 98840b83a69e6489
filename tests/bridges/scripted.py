"""An adapter that does what a test says: what comes, what is refused, what costs the connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubsub import Key
from hubsub.bridges import Adapter, Features, Link, Loss, Received, Record


class Scripted(Adapter):
    """A durable broker without patterns, as it is by default; `sent` is what it was given, `put` brings something."""

    def __init__(self, **features: Any) -> None:
        default: dict[str, Any] = {
            "confirms": "stored",
            "durable": True,
            "acks": "each",
            "groups": True,
            "names": True,
            "replay": True,
            "headers": True,
            "push": False,
        }
        self.features = Features(**(default | features))
        self.links: list[Link] = []
        self.sent: list[Record] = []
        self.acked: list[Any] = []
        self.buried: list[tuple[Received, str]] = []
        self.handed_back: list[Any] = []
        self.subscribed: list[Key[Any]] = []
        self.unsubscribed: list[Key[Any]] = []
        self.listening: list[Key[Any]] = []
        self.inbox: deque[Received | Loss] = deque()
        self.on_send: Callable[[Sequence[Record]], Mapping[int, Exception] | None] = lambda records: None
        self.on_bury: Callable[[Received, str], Exception | None] = lambda received, why: None
        self.on_connect: Callable[[], None] = lambda: None
        self.numbers = 0
        self._news = asyncio.Event()
        self._is_connected = False

    def __repr__(self) -> str:
        return "Scripted()"

    def put(self, key: Any, payload: bytes = b"1", headers: Mapping[str, str] | None = None, **more: Any) -> Received:
        """Bring a message; its token is its number."""
        self.numbers += 1
        more = {"token": self.numbers} | more
        received = Received(Key.create_from(key), payload, headers or {}, **more)
        self.inbox.append(received)
        self._news.set()
        return received

    def cut(self) -> None:
        self._is_connected = False
        self._news.set()

    async def connect(self, link: Link) -> None:
        self.on_connect()
        self.links.append(link)
        self._is_connected = True

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        self.listening = list(keys)

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        await asyncio.sleep(0)
        refused = self.on_send(records) or {}
        self.sent += [record for index, record in enumerate(records) if index not in refused]
        return refused

    async def receive(self) -> Sequence[Received | Loss]:
        if not self.inbox and self._is_connected:
            self._news.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._news.wait()
            except TimeoutError:
                return []
        if not self._is_connected:
            raise ConnectionError("the connection is broken")
        control = [each for each in self.inbox if isinstance(each, Received) and each.is_control]
        if control:
            self.inbox = deque(each for each in self.inbox if each not in control)
            return control
        room = self.links[-1].room()
        if not room:
            await asyncio.sleep(0.02)
        return [self.inbox.popleft() for _ in range(min(room, len(self.inbox)))]

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        self.subscribed += patterns

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        self.unsubscribed += patterns

    async def ack(self, tokens: Sequence[Any]) -> None:
        self.acked += tokens

    async def bury(self, received: Received, why: str) -> Exception | None:
        refusal = self.on_bury(received, why)
        if refusal is None:
            self.buried.append((received, why))
        return refusal

    async def hand_back(self, tokens: Sequence[Any]) -> None:
        self.handed_back += tokens

    async def close(self) -> None:
        self.cut()
