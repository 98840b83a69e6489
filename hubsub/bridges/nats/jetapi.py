"""Requests to JetStream and its replies, over the two connections of a bridge."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import BridgeError, BrokerBusy
from ..inbox import Inbox
from ..together import together
from .connection import Connection, Message
from .headers import unpack
from .server import Server, explained

if TYPE_CHECKING:
    from typing import Self

NANO = 1_000_000_000
PATIENCE = 5.0
"""Seconds without any reply after which the connection counts as lost."""
DENIED, MISSING, BUSY = 403, 404, 500
"""Statuses in JetStream's errors: there is no such thing; `BUSY` and all above, it cannot do it now. `DENIED` is ours,
where the server has not permitted a subject."""
BATCH = b"Nats-Batch-Id: "
"""What stands in a message that is stored together with others; nothing but what belongs to it follows."""
OFF = "JetStream is off at this server, or for this account: start nats-server with -js, or enable it"

Reply = Callable[[Message, int], None]


class _Line(Inbox):
    """Fails when a connection is lost, and an inbox with it."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self._whole = inbox

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self._whole.fail(error)


class Refused(BridgeError):
    """JetStream refuses a request; `status` is like that of HTTP, `code` is its own."""

    def __init__(self, message: str, status: int, code: int) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> Self:
        """Return the error that a reply describes."""
        message = f"JetStream refuses it: {error.get('description')}"
        return cls(message, int(error.get("code", 0)), int(error.get("err_code", 0)))


class Silence(ConnectionResetError):
    """JetStream has not replied, though the server has: a stream may lack a leader, or the server its cluster."""


class JetApi:
    """From one connect until it is lost: one connection reads and asks, the other one stores messages.

    Args:
        server: Where to connect.
        inbox: Fails when a connection is lost.
    """

    def __init__(self, server: Server, inbox: Inbox) -> None:
        server.turn()
        # A bridge that closes reads nothing more, and still has something to say.
        line = _Line(inbox)
        self.reader = Connection(server, line, self._take)
        self.writer = Connection(server, line, self._take)
        self._calls: dict[int, Callable[[Message], None]] = {}
        self._asked: dict[bytes, Reply] = {}
        self._waiting: set[asyncio.Future[Any]] = set()
        self._prefix = f"{server.inbox_prefix}.{os.urandom(11).hex()}".encode()
        self._count = 0

    async def open(self) -> None:
        """Open both connections at once.

        Raises:
            BridgeError: The server refuses it for good; the error says what to change.
            OSError: It does not answer, or cannot serve now.
        """
        await together(each.open() for each in (self.reader, self.writer))
        await together(
            (
                self.subscribe(self._prefix + b".r.*", self._replied),
                self.subscribe(self._prefix + b".w.*", self._replied, self.writer),
            )
        )

    async def close(self) -> None:
        """Cut both. Closing twice is safe."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionResetError("the connection to NATS is closed"))
                future.exception()  # perhaps nobody waits any more
        await asyncio.gather(self.reader.close(), self.writer.close())

    # Subscriptions

    def new_subject(self) -> bytes:
        """Return a subject that nobody else has."""
        self._count += 1
        return b"%b.i%d" % (self._prefix, self._count)

    async def subscribe(
        self, subject: bytes, call: Callable[[Message], None], connection: Connection | None = None
    ) -> int:
        """Have a function called with the messages of a subject; return the subscription when that is confirmed.

        Raises:
            BridgeError: The user lacks the permission.
        """
        connection = connection or self.reader
        sid = self.reader.next_sid()
        self._calls[sid] = call
        await connection.ask(b"SUB %b %d\r\n" % (subject, sid))
        if error := denied(connection, subject):
            raise error
        return sid

    async def unsubscribe(self, sid: int) -> None:
        """Undo `subscribe`; the messages on their way have come when it returns."""
        await self.reader.ask(b"UNSUB %d\r\n" % sid)
        self._calls.pop(sid, None)

    def _take(self, messages: list[Message]) -> None:
        calls = self._calls
        for message in messages:
            if (call := calls.get(message[0])) is not None:
                call(message)
        # No more comes than was asked for: nothing has to wait in the socket.
        self.reader.drained()
        self.writer.drained()

    def _replied(self, message: Message) -> None:
        name, _, index = message.subject.rpartition(b".")[2].partition(b"-")
        if (call := self._asked.get(name)) is not None:
            call(message, int(index))

    def _expect(self, call: Reply) -> bytes:
        self._count += 1
        name = b"%d" % self._count
        self._asked[name] = call
        return name

    async def wait(self, future: asyncio.Future[Any], connection: Connection | None = None) -> None:
        """Wait until a future is done, or for so long that JetStream must have replied if it is there.

        Raises:
            OSError: The connection is lost.
        """
        await asyncio.wait([future], timeout=PATIENCE)
        if not future.done():
            # What came while the loop was blocked is read before the reply to this.
            await (connection or self.reader).ask(b"")
            await asyncio.sleep(0)

    # Storing

    async def publish(self, messages: Sequence[tuple[bytes, bytes, bytes]]) -> list[dict[str, Any] | None]:
        """Store messages: subject, headers and payload of each; return an error or None for each, when all are stored.

        Raises:
            OSError: There is no reply; nobody knows which ones are stored.
        """
        errors = await self._confirmed(messages, range(len(messages)))
        return [errors.get(index) for index in range(len(messages))]

    async def publish_whole(self, messages: Sequence[tuple[bytes, bytes, bytes]]) -> dict[str, Any] | None:
        """Store two messages or more of one stream, which has to allow it, or none of them; return the error, or None.

        Raises:
            OSError: There is no reply; nobody knows whether they are stored.
        """
        self._count += 1
        last = len(messages) - 1
        begin = b"%b%b-%d\r\nNats-Batch-Sequence: " % (BATCH, self._prefix[-12:], self._count)
        lines = [b"%b%d\r\n\r\n" % (begin, number) for number in range(1, len(messages))]
        lines.append(b"%b%d\r\nNats-Batch-Commit: 1\r\n\r\n" % (begin, len(messages)))
        whole = [
            (subject, head[:-2] + line, payload) for (subject, head, payload), line in zip(messages, lines, strict=True)
        ]
        # The first reply says why it cannot begin, the last one that all are stored.
        errors = await self._confirmed(whole, (0, last))
        for subject, _, _ in messages if self.writer.denied else ():
            if (refused := denied(self.writer, subject)) is not None:
                errors[0] = {"code": DENIED, "description": str(refused)}
        return errors.get(0, errors.get(last))

    async def _confirmed(
        self, messages: Sequence[tuple[bytes, bytes, bytes]], asked: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        """Publish messages; return the errors of these ones of them, by their indices, when each has a reply."""
        errors: dict[int, dict[str, Any]] = {}
        left = len(asked)
        done = asyncio.get_running_loop().create_future()

        def stored(message: Message, index: int) -> None:
            nonlocal left
            if message.head:
                errors[index] = {"code": MISSING, "description": "no stream stores this subject"}
            elif b'"error"' in message.payload:
                errors[index] = json.loads(message.payload)["error"]
            left -= 1
            if not left and not done.done():
                done.set_result(None)

        name = self._expect(stored)
        reply = b"%b.w.%b" % (self._prefix, name)
        replies = [b""] * len(messages)
        for index in asked:
            replies[index] = b" %b-%d" % (reply, index)
        lines = [
            b"HPUB %b%b %d %d\r\n%b%b\r\n" % (subject, to, len(head), len(head) + len(payload), head, payload)
            for (subject, head, payload), to in zip(messages, replies, strict=True)
        ]
        self._waiting.add(done)
        try:
            await self.writer.ask(b"".join(lines))
            for index in asked if self.writer.denied else ():
                if (error := denied(self.writer, messages[index][0])) is not None:
                    errors[index] = {"code": DENIED, "description": str(error)}
                    left -= 1
            while not done.done() and left:
                before = left
                await self.wait(done, self.writer)
                if left == before and not done.done():
                    raise Silence(f"JetStream has not confirmed {left} messages within {PATIENCE:g} s")
            if left:
                await done
        finally:
            self._waiting.discard(done)
            del self._asked[name]
        return errors

    # Requests

    async def ask(self, subject: str, data: dict[str, Any] | None = None) -> Any:
        """Return the reply of JetStream to a request, decoded.

        Raises:
            Refused: It refuses it.
            BrokerBusy: It cannot do it now.
            BridgeError: It is off, or the user lacks the permission.
            OSError: There is no reply.
        """
        reply = await self.request(f"$JS.API.{subject}".encode(), json.dumps(data).encode() if data else b"")
        if reply.head and unpack(reply.head)[0].startswith("503"):
            raise BridgeError(OFF)
        found = json.loads(reply.payload)
        if "error" in found:
            error = Refused.of(found["error"])
            if error.status == 503:
                raise BrokerBusy(str(error)) from error
            raise error
        return found

    async def find(self, subject: str, data: dict[str, Any] | None = None) -> Any:
        """As `ask`; return None if what is asked for does not exist."""
        try:
            return await self.ask(subject, data)
        except Refused as error:
            if error.status != MISSING:
                raise
            return None

    async def request(self, subject: bytes, payload: bytes, before: bytes = b"") -> Message:
        """Return the reply to a request, which is sent behind some other commands.

        Raises:
            BridgeError: The user lacks the permission.
            OSError: There is no reply.
        """
        done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        name = self._expect(lambda message, index: None if done.done() else done.set_result(message))
        self._waiting.add(done)
        try:
            reply = b"%b.r.%b-0" % (self._prefix, name)
            await self.reader.ask(before + b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload))
            if error := denied(self.reader, subject):
                raise error
            await self.wait(done)
            if not done.done():
                raise Silence(f"JetStream has not replied within {PATIENCE:g} s")
            return await done
        finally:
            self._waiting.discard(done)
            del self._asked[name]


def denied(connection: Connection, subject: bytes) -> Exception | None:
    """Return the error, once, if the server has not permitted this subject."""
    quoted = f'"{subject.decode(errors="replace")}"'
    for text in connection.denied:
        if quoted in text:
            connection.denied.remove(text)
            return explained(BridgeError(text))
    return None


def stream_name(text: str) -> str:
    """Return a valid name of a stream, consumer or bucket for any text, a different one for each."""
    return "".join(char if char.isascii() and (char.isalnum() or char == "-") else f"_{ord(char):x}_" for char in text)
