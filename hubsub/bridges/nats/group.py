"""A member of a group: a durable pull consumer of JetStream that all members share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .bucket import Entry
from .jetapi import NANO
from .pulls import Pull, Stored
from .streams import Streams, from_number

MOST_UNFINISHED = 20_000
"""Messages that the members of a group may have in hand, all together."""
MOST_COUNTED = 10_000
"""Messages for which it is remembered that they were handed back."""


class Member:
    """A member, as long as its connection lasts.

    Args:
        streams: The streams.
        name: The name of the consumer.
        came: Called whenever messages may have come.
        in_hand: By their numbers, where to acknowledge the messages that this process has. It outlives connections.
    """

    def __init__(self, streams: Streams, name: str, came: Callable[[], None], in_hand: dict[int, bytes]) -> None:
        self._streams = streams
        self._api = streams.api
        self._consumer = f"{streams.name}.{name}"
        self._name = name
        self._news = came
        self._pull = self._begin()
        self._in_hand = in_hand
        self._created = ""  # when the consumer was made
        self._skipped = 0  # by how much the stream's numbers are ahead of the consumer's, in first deliveries
        self._again = 0  # messages that came again since then
        self._last = 0  # the number of the last first delivery

    def _begin(self) -> Pull:
        streams = self._streams
        return Pull(self._api, streams.name, self._name, self._came, streams.setup.max_payload)

    async def join(self, after: int, lease: float) -> bool:
        """Join the group; return whether it was created, to begin after a number."""
        info = await self._api.find(f"CONSUMER.INFO.{self._consumer}")
        is_new = info is None
        wait = int(lease * NANO)
        if info is None or info["config"]["ack_wait"] != wait:
            config = {
                "durable_name": self._name,
                "ack_policy": "explicit",
                "max_deliver": -1,
                "max_ack_pending": MOST_UNFINISHED,
                **(from_number(after + 1) if info is None else info["config"]),
                "ack_wait": wait,
            }
            data = {"stream_name": self._streams.name, "config": config}
            info = await self._api.ask(f"CONSUMER.DURABLE.CREATE.{self._consumer}", data)
        self._created = info["created"]
        self._count_from(info)
        return is_new

    def _count_from(self, info: Mapping[str, Any]) -> None:
        """Count what is missing from the state of the consumer on."""
        # Some servers let `delivered` pass what is trimmed before anybody has asked for more. Where nothing is in hand,
        # the last acknowledgement was at the same place.
        at = info["delivered"] if info["num_ack_pending"] else info["ack_floor"]
        self._last, self._skipped = at["stream_seq"], at["stream_seq"] - at["consumer_seq"]
        self._again = 0

    async def take(self, limit: int) -> tuple[list[Stored], int]:
        """Return messages that have come, and how many are missing before them; ask for more if none have.

        Raises:
            ConnectionResetError: The group was deleted, or the server leaves.
        """
        pull = self._pull
        if pull.is_forgotten and await self._api.find(f"CONSUMER.INFO.{self._consumer}") is None:
            pull.gone = pull.gone or "it was deleted"
        if not pull.rows and pull.is_interrupted:
            info = await self._api.find(f"CONSUMER.INFO.{self._consumer}")
            await pull.end()
            if info is not None and info["created"] == self._created and not pull.rows:
                pull = self._pull = self._begin()
                self._count_from(info)
        if not pull.rows and pull.gone:
            raise ConnectionResetError(f"JetStream ends the reading of a group: {pull.gone}")
        if not pull.rows:
            if pull.is_asked:
                await self._api.reader.ask(b"")  # notices a server that does not answer
            else:
                await pull.ask(limit)
        rows = pull.pop(limit)
        missing = sum([await self._missing(row) for row in rows])
        if any(row[5] for row in rows):
            rows = await self._without_returns(rows)
        return rows, missing

    async def _missing(self, row: Stored) -> int:
        """Return how many messages were deleted before they were delivered to any member, if none has reported it."""
        if row[5]:
            self._again += 1
            return 0
        last, number = self._last, row[0]
        skipped = number - row.delivered
        missing = skipped - self._skipped + self._again
        self._last, self._skipped, self._again = number, skipped, 0
        if missing <= 0:
            return 0  # less than none, if messages came again to other members
        noted = await self._entry("missing")
        # Every member sees that numbers are missing; one reports it.
        if noted.value.get("before", 0) > last:
            return 0
        is_first = await self._streams.bucket.replace(f"{self._name}.missing", noted.revision, {"before": number})
        return missing if is_first else 0

    async def _entry(self, what: str) -> Entry:
        return await self._streams.bucket.get(f"{self._name}.{what}")

    # What is in hand

    def _came(self, row: Stored | None) -> None:
        if row is not None:
            self._in_hand[row[0]] = row.message.reply
        self._news()

    async def extend(self, numbers: Iterable[int]) -> None:
        """Extend the lease of messages, and of those that have come and were not returned yet."""
        await self._say(b"+WPI", [*numbers, *(row[0] for row in self._pull.rows)])

    async def done(self, numbers: Sequence[int]) -> None:
        """Acknowledge messages; return when the last acknowledgement is confirmed, and with it all before."""
        await self._say(b"+ACK", numbers)
        for number in numbers:
            self._in_hand.pop(number, None)

    async def hand_back(self, numbers: Iterable[int] | None) -> None:
        """Hand messages back, or all; JetStream counts them as delivered, so it is noted that they were not tried."""
        await self._pull.end()  # otherwise they would come here again
        # This has the server forget requests for which nobody waits any more. Otherwise it would send the first message
        # to one of them, and that message would come back last.
        await self._api.find(f"CONSUMER.INFO.{self._consumer}")
        self._pull = self._begin()
        numbers = [number for number in (self._in_hand if numbers is None else numbers) if number in self._in_hand]
        if numbers:
            await self._note_returns(numbers)
            await self._say(b"-NAK", numbers)
        for number in numbers:
            self._in_hand.pop(number, None)

    async def _say(self, word: bytes, numbers: Iterable[int]) -> None:
        replies = [self._in_hand[number] for number in numbers if number in self._in_hand]
        if replies:
            before = [b"PUB %b %d\r\n%b\r\n" % (reply, len(word), word) for reply in replies[:-1]]
            # If the consumer is gone, nobody is there to confirm it: the reply says so, and that is enough.
            await self._api.request(replies[-1], word, b"".join(before))

    async def _note_returns(self, numbers: Iterable[int]) -> None:
        for _ in range(10):  # another member may write at the same time
            noted = await self._entry("returns")
            counts: dict[str, int] = noted.value.get("counts", {})
            for number in map(str, numbers):
                counts[number] = counts.pop(number, 0) + 1
            newest = dict(list(counts.items())[-MOST_COUNTED:])
            if await self._streams.bucket.replace(f"{self._name}.returns", noted.revision, {"counts": newest}):
                return

    async def _without_returns(self, rows: list[Stored]) -> list[Stored]:
        """Return rows with attempts that do not count when they were handed back."""
        counts: dict[str, Any] = (await self._entry("returns")).value.get("counts", {})
        returned = [counts.get(str(row[0]), 0) if row[5] else 0 for row in rows]
        return [row.after(max(0, row[5] - times)) if times else row for row, times in zip(rows, returned, strict=True)]
