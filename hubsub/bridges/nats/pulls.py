"""Messages that a consumer of JetStream is asked for, a few at a time."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .connection import Message
from .headers import unpack
from .jetapi import NANO, JetApi

EXPIRES = 1.0
"""Seconds after which JetStream ends a request that it could not fill; what is sent to a dead line is no older."""
LATE = 5.0
"""Seconds after which a request counts as forgotten."""
MOST_BYTES = 16 << 20
"""Bytes that a request brings at most, beyond which a server might take the bridge for a slow consumer."""
ENDS = ("503", "409 Consumer Deleted", "409 Server Shutdown", "409 Leadership Change", "409 Consumer is push based")
"""Statuses after which the consumer brings nothing more here; all others end only the request."""
INTERRUPTIONS = ("503", "409 Leadership Change")
"""Those of them that the consumer may survive, with replicas."""

as_tuple = tuple.__new__


class Stored(tuple[int, str, bytes | None, float | None, str | None, int]):
    """A `Row` with the message that it was read from."""

    message: Message
    delivered: int
    """The consumer's own number of it."""

    def after(self, attempts: int) -> Stored:
        """Return it with another number of attempts."""
        row: Stored = as_tuple(Stored, (*self[:5], attempts))
        row.message, row.delivered = self.message, self.delivered
        return row


class Pull:
    """What comes from one consumer.

    Args:
        api: The connections.
        stream: The name of the stream.
        consumer: The name of the consumer.
        came: Called with each message that has come, and with None when a request has ended.
        max_payload: The largest message of the server, in bytes.
    """

    def __init__(
        self, api: JetApi, stream: str, consumer: str, came: Callable[[Stored | None], None], max_payload: int
    ) -> None:
        self._api = api
        self.consumer = consumer
        self._request = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
        self._came = came
        self._max_bytes = max(MOST_BYTES, 2 * max_payload)
        self._subject = api.new_subject()
        self._sid = 0
        self._late = 0.0
        self.left = 0
        """How many of the messages that were asked for last may still come."""
        self.rows: deque[Stored] = deque()
        """What has come and was not popped yet."""
        self.size = 0
        """How many bytes that is."""
        self.delivered = 0
        """The consumer's own number of the last message that came."""
        self.pending = 0
        """How many messages are behind the last one that came."""
        self.gone = ""
        """Why the consumer brings nothing more; empty while it does."""

    @property
    def is_asked(self) -> bool:
        """True if messages may still come that were asked for; False if JetStream seems to have forgotten that."""
        return self.left > 0 and time.monotonic() < self._late

    @property
    def is_forgotten(self) -> bool:
        """True if JetStream seems to have forgotten what it was asked for: the consumer may be gone."""
        return self.left > 0 and not self.is_asked

    @property
    def is_interrupted(self) -> bool:
        """True if the consumer brings nothing more here, and may be there all the same."""
        return self.gone.startswith(INTERRUPTIONS)

    async def ask(self, number: int) -> None:
        """Ask for the next `number` messages; return when the server has the request."""
        if not self._sid:
            self._sid = await self._api.subscribe(self._subject, self._take)
        self.left, self._late = number, time.monotonic() + LATE
        data: dict[str, Any] = {"batch": number, "expires": int(EXPIRES * NANO), "max_bytes": self._max_bytes}
        payload = json.dumps(data).encode()
        command = b"PUB %b %b %d\r\n%b\r\n" % (self._request, self._subject, len(payload), payload)
        await self._api.reader.ask(command)

    async def end(self) -> None:
        """Let nothing more come; return when what was on its way has come."""
        self.gone = self.gone or "it was ended"
        if self._sid:
            sid, self._sid = self._sid, 0
            await self._api.unsubscribe(sid)

    def pop(self, limit: int) -> list[Stored]:
        """Return the oldest rows, `limit` of them at most."""
        rows = [self.rows.popleft() for _ in range(min(limit, len(self.rows)))]
        self.size -= sum([len(row.message.payload) for row in rows])
        return rows

    def _take(self, message: Message) -> None:
        row = None
        if message.reply:
            self.left -= 1
            row = self._row(message)
            self.rows.append(row)
            self.size += len(message.payload)
        elif message.head:
            status = unpack(message.head)[0]
            self.left = 0
            if status.startswith(ENDS):
                self.gone = status
        self._came(row)

    def _row(self, message: Message) -> Stored:
        words = message.reply.split(b".")
        # $JS.ACK.stream.consumer…, or with a domain and an account before the stream.
        first = 4 if len(words) == 9 else 6
        attempts, number, self.delivered, nanoseconds, self.pending = map(int, words[first : first + 5])
        fields = (number, "", message.payload, nanoseconds / NANO, None, attempts - 1)
        row: Stored = as_tuple(Stored, fields)
        row.message, row.delivered = message, self.delivered
        return row
