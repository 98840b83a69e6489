"""What one client is subscribed to, and which of these messages may reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from .._core.listener import Listener
from ..errors import EncodeError, HistoryUnavailable
from ..event import Gap
from ..key import NAMESPACE, PLUS, STAR, Key
from . import protocol
from .access import Access, Answers, Connection, covered, logger
from .feed import Feed
from .protocol import Position
from .stream import Stream

# Rounds of asking about keys that came meanwhile, before a replay begins.
MOST_ROUNDS = 5


class Subscription:
    """What a client has subscribed to under one id."""

    __slots__ = ("gaps", "patterns", "snapshot")

    def __init__(self, patterns: list[Key[Any]], gaps: bool = True, snapshot: bool = False) -> None:
        self.patterns = patterns
        self.gaps = gaps
        self.snapshot = snapshot


def _unless_announced(put: Callable[[Key[Any], bytes], None], key: Key[Any], frame: bytes) -> None:
    if key[0] != NAMESPACE:
        put(key, frame)


class Subscriptions(dict[int, Subscription]):
    """The subscriptions of one client, by its ids.

    One listener on the feed's frames has the patterns of all of them, so that each message comes once. Where there is
    an `authorize`, it is asked for each key; messages wait behind one on which it has not decided, in order.

    Args:
        feed: Where messages come from.
        stream: Where they go.
        access: Who may receive what.
        connection: The client.
    """

    def __init__(self, feed: Feed, stream: Stream, access: Access, connection: Connection) -> None:
        super().__init__()
        self._feed = feed
        self._stream = stream
        self._access = access
        self._connection = connection
        self._listener: Listener | None = None
        self._answers = Answers()
        self._awaited: dict[Key[Any], Awaitable[bool]] = {}
        self._undecided: list[tuple[Key[Any] | None, bytes]] = []
        self.deciding: asyncio.Task[None] | None = None

    @property
    def patterns(self) -> list[Key[Any]]:
        """The patterns of all of them."""
        return [pattern for each in self.values() for pattern in each.patterns]

    def listen(self) -> None:
        """Listen to the patterns that are subscribed now."""
        before, self._listener = self._listener, None
        patterns = list(dict.fromkeys(self.patterns))
        if patterns:
            put = self._put_allowed if self._access.narrows else self._stream.queue.put
            # The inner hub announces its listeners to those who listen to everything.
            if any(pattern[0] in (STAR, PLUS) for pattern in patterns):
                put = partial(_unless_announced, put)
            self._listener = self._feed.frames.add_listener(patterns, put)
        if before is not None:
            before.remove()

    def leave(self) -> None:
        """Receive nothing more."""
        self.clear()
        self.listen()
        self._undecided.clear()
        if self.deciding is not None:
            self.deciding.cancel()
        for answer in self._awaited.values():
            if isinstance(answer, Coroutine):
                answer.close()

    # What may reach it

    def _put_allowed(self, key: Key[Any], frame: bytes) -> None:
        if not self._undecided:
            allowed = self._allowed(key)
            if allowed is not None:
                if allowed:
                    self._stream.queue.put(key, frame)
                return
        if len(self._undecided) >= self._stream.limits.queue_messages:
            self._stream.too_slow()
            return
        self._undecided.append((key, frame))
        if self.deciding is None:
            self.deciding = asyncio.get_running_loop().create_task(self._decide())

    def put_behind(self, frames: Iterable[bytes]) -> bool:
        """Put answers behind the messages that wait for `authorize`; return False if there are none."""
        if self._undecided:
            self._undecided += [(None, frame) for frame in frames]
            return True
        return False

    def _allowed(self, key: Key[Any]) -> bool | None:
        """Whether the client may receive a key; None if that has to be awaited, see `_learn`."""
        known = self._answers.get(key)
        if known is None and key not in self._awaited:
            answer = self._access.answer(self._connection, "receive", key)
            if isinstance(answer, bool):
                self._answers.note(key, answer)
                return answer
            self._awaited[key] = answer
        return known

    async def _learn(self, key: Key[Any]) -> bool:
        """Wait for the answer about a key."""
        allowed = self._allowed(key)
        if allowed is None:
            answer = self._awaited.pop(key, None)
            allowed = answer is not None and await self._access.judged(answer)
            self._answers.note(key, allowed)
        return allowed

    async def _decide(self) -> None:
        try:
            while self._undecided:
                key, frame = self._undecided[0]
                allowed = key is None or await self._learn(key)
                del self._undecided[0]
                if key is None:
                    self._stream.queue.reply(frame)
                elif allowed:
                    self._stream.queue.put(key, frame)
        finally:
            self.deciding = None

    async def learn_all(self, keys: Callable[[], Iterable[Key[Any]]]) -> None:
        """Ask about keys until all that `keys` returns are decided; while it waits, there may be more."""
        if self._access.narrows:
            for _ in range(MOST_ROUNDS):
                unknown = [key for key in dict.fromkeys(keys()) if self._allowed(key) is None]
                if not unknown:
                    break
                for key in unknown:
                    await self._learn(key)

    def may_have(self, key: Key[Any]) -> bool:
        """True if the client is known to be allowed to receive a key."""
        return not self._access.narrows or self._allowed(key) is True

    def forget_answers(self) -> None:
        """Ask again for each key."""
        self._answers.forget()

    # What is replayed, and what is missing

    def retained_keys(self, patterns: list[Key[Any]]) -> list[Key[Any]]:
        """The keys of what is retained; none if nothing is."""
        try:
            return [event[0] for event in self._feed.hub.history(patterns, 1)] if patterns else []
        except HistoryUnavailable:
            return []

    def retained(self, patterns: list[Key[Any]], history: int) -> list[bytes]:
        """The last messages of each key that the client may receive, as frames.

        Raises:
            HistoryUnavailable: Nothing retains the patterns.
        """
        frames = []
        feed = self._feed
        for event in feed.hub.history(list(patterns), history):
            if self.may_have(event[0]):
                try:
                    frames.append(feed.replay_frame(event))
                except EncodeError as error:
                    logger.debug("a retained message cannot be sent to web clients", error=error)
        return frames

    async def missed(self, seen: Position | None, patterns: list[Key[Any]]) -> list[bytes] | None:
        """Return what a client at this position missed of some patterns, as frames; None if nobody can know.

        The feed has handed over everything by then, and nothing is awaited after the last question to `authorize`: a
        caller that listens at once misses nothing, and gets nothing twice.
        """
        journal = self._feed.journal
        if seen is not None:
            known = seen
            await self.learn_all(lambda: journal.keys_since(known, patterns))
        self._feed.dispatch()
        entries = None if seen is None else journal.since(seen, patterns)
        if entries is None:
            return None
        frames: list[bytes] = []
        for entry in entries:
            if entry.gap is not None:
                frames += self._stream.gap_frames(entry.gap)
            elif entry.key is not None and self.may_have(entry.key):
                frames.append(entry.frame)
        return frames

    def concerns(self, gap: Gap) -> bool:
        """True if messages of what is subscribed may be missing."""
        return gap.keys is None or any(covered(key, self.patterns) for key in gap.keys)

    def gap_frames(self, gap: Gap, ids: Collection[int] | None = None) -> list[bytes]:
        """A gap as it concerns each subscription, or those of some ids.

        Nothing of keys that the client may not receive is in it.
        """
        frames: list[bytes] = []
        for id, subscription in self.items():
            if ids is not None and id not in ids:
                continue
            mine = gap
            if gap.keys is not None:
                keys = tuple(key for key in gap.keys if covered(key, subscription.patterns) and self.may_have(key))
                if not keys:
                    continue
                mine = gap._replace(keys=keys, count=gap.count if len(keys) == len(gap.keys) else None)
            if subscription.gaps:
                frames.append(protocol.gap_frame(mine, id))
            if subscription.snapshot:
                # Resumed here, and subscribed elsewhere: perhaps nothing is retained here.
                with suppress(HistoryUnavailable):
                    frames += self.retained(subscription.patterns, 1)
        return frames
