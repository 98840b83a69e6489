"""Core messages that are received and published over the two connections of a bridge."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import BridgeError, EncodeError, PayloadTooLarge
from ...key import NAMESPACE, Key
from ..adapter import Link, Loss, Received, Record
from ..address import cached
from ..inbox import Inbox
from ..lines import Line
from ..together import together
from .connection import Connection, Message
from .headers import NONE, pack, unpack
from .server import Server, explained
from .subjects import FOREIGN, LONGEST, REPLY, Subjects, queue_of

as_tuple = tuple.__new__
# The fields of a received message beside key, payload and headers.
PLAIN = tuple(Received._field_defaults.values())[1:]
SENDER = "hubsub-sender"
"""The header that names the sender where `envelope=False`, and no other one does."""
_CORRELATION = re.compile(r"[A-Za-z0-9-]+")
# Where it is replied to, as clients name it; what begins with $ is the server's.
_INBOX = re.compile(rb"(?!\$)[!-)+-=?-~]{1,128}")
NOBODY = "503"
"""The status of the server's own reply to a request that has no subscriber."""


class Traffic(Line):
    """From one connect until it is lost.

    One connection receives, and the other one publishes: a server that waits for the slow line of a client leaves what
    publishes to it alone meanwhile, for as long as a dead line would be silent.

    Args:
        server: Where to connect.
        link: What for.
    """

    def __init__(self, server: Server, link: Link) -> None:
        server.turn()
        self._inbox = Inbox()
        self._reader = Connection(server, self._inbox, self._take)
        self._writer = Connection(server, self._inbox, self._take)
        self._subjects = subjects = Subjects(link.namespace)
        # Of overlapping patterns of one queue group the server sends one copy. Another one for each connection: a lost
        # one, of which the server does not know yet, would get its share.
        self._queue = queue_of(link.group if link.group is not None else f"{link.sender}-{os.urandom(8).hex()}")
        self._sender = link.sender
        self._from_us = {SENDER: link.sender}
        self._shares = link.group is not None
        self._sids: dict[Key[Any], int] = {}
        self._open: dict[int, bool] = {}  # subscriptions, and whether they begin with a wildcard
        self._control: dict[int, Key[Any]] = {}
        self._head: Callable[[Key[Any]], bytes] = cached(lambda key: b"HPUB %b " % subjects.subject(key))

    async def open(self) -> None:
        """Open both connections at once.

        Raises:
            BridgeError: The server refuses it for good; the error says what to change.
            OSError: It does not answer, or cannot serve now.
        """
        await together(each.open() for each in (self._reader, self._writer))

    async def close(self) -> None:
        """Cut both, whatever they are doing. Closing twice is safe."""
        await asyncio.gather(self._reader.close(), self._writer.close())

    async def ping(self) -> None:
        """Return when the server has answered."""
        await self._reader.ask(b"")

    @property
    def activity(self) -> int:
        """Changes whenever bytes have moved."""
        return sum(self._reader.moved) + sum(self._writer.moved)

    @property
    def receiving(self) -> int | None:
        """Changes whenever bytes have come where it receives; None where the system does not say."""
        return self._reader.moved[1] or None

    @property
    def sending(self) -> int | None:
        """Changes whenever bytes have moved where it publishes; None where the system does not say."""
        return sum(self._writer.moved) or None

    # What comes

    async def receive(self) -> list[Received | Loss]:
        """Wait for messages, and return those that are there."""
        items = await self._inbox.receive()
        self._reader.drained()
        self._writer.drained()
        return items

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive what is sent to these keys as control messages; return when that is confirmed."""
        commands = b"".join([self._listening(key, self._subjects.subject(key)) for key in keys])
        # A client that is no hub replies to a subject, which has to say to which request. It is where requests go out:
        # there alone, and to no queue group, the server reports a request without subscribers.
        replies = [self._listening(key, self._subjects.subject(key) + b".*") for key in keys if key[:2] == REPLY]
        await together((self._change(self._reader, commands), self._change(self._writer, b"".join(replies))))

    def _listening(self, key: Key[Any], subject: bytes) -> bytes:
        self._control[sid := self._reader.next_sid()] = key
        return b"SUB %b %d\r\n" % (subject, sid)

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive what matches these patterns; return when that is confirmed.

        Raises:
            BridgeError: The user lacks the permission.
        """
        data = b""
        for pattern in patterns:
            self._sids[pattern] = sid = self._reader.next_sid()
            subject = self._subjects.pattern(pattern)
            self._open[sid] = subject[:1] in (b"*", b">")
            data += b"SUB %b %b %d\r\n" % (subject, self._queue, sid)
        await self._change(self._reader, data)

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        sids = [self._sids.pop(pattern) for pattern in patterns if pattern in self._sids]
        await self._change(self._reader, b"".join([b"UNSUB %d\r\n" % sid for sid in sids]))
        for sid in sids:
            del self._open[sid]

    async def _change(self, connection: Connection, commands: bytes) -> None:
        connection.denied.clear()
        await connection.ask(commands)
        if connection.denied:
            raise explained(BridgeError(connection.denied[0]))

    def _take(self, messages: list[Message]) -> None:
        received: list[Received] = []
        append, key_of, is_open, control = received.append, self._subjects.key, self._open, self._control
        for sid, subject, reply, head, payload in messages:
            status, headers, own = unpack(head) if head else ("", {}, NONE)
            if sid in control:
                append(self._controlled(control[sid], key_of(subject), status, payload, headers))
                continue
            if sid not in is_open or (is_open[sid] and subject.startswith((b"_INBOX.", b"$"))):
                continue  # replies of others, and the server's own: no wildcard is meant to match them
            key = key_of(subject)
            if key is None or key[0] == NAMESPACE:
                continue
            if reply and "ce_replyto" not in headers and _INBOX.fullmatch(reply):
                to = reply.decode()
                headers = {"ce_specversion": "1.0", **headers, "ce_replyto": FOREIGN.text, "ce_correlation": to}
            elif "ce_replyto" in headers and headers["ce_replyto"] == FOREIGN.text:
                del headers["ce_replyto"]  # only the subject for replies leads to clients that are no hubs
            if own and own.get(SENDER) == self._sender and not self._shares:
                continue
            append(as_tuple(Received, (key, payload, headers, *PLAIN)))
        if received:
            self._inbox.put(received)

    @staticmethod
    def _controlled(
        key: Key[Any], came_by: Key[Any] | None, status: str, payload: bytes, headers: dict[str, str]
    ) -> Received:
        """A control message; one from a client that is no hub replies to a request that its subject names."""
        if came_by is not None and len(came_by) > len(key):
            headers = {"ce_specversion": "1.0", **headers, "ce_correlation": came_by[-1]}
            if status == NOBODY:
                nobody = ConnectionError("nobody is subscribed to it")
                return Received(key, None, headers, is_control=True, trouble=nobody)
            if (error := headers.get("Nats-Service-Error")) is not None:
                return Received(key, None, {**headers, "error": error}, is_control=True)
        return Received(key, payload, headers, is_control=True)

    # What goes

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Publish, in order; return the errors of those that are refused."""
        refused: dict[int, Exception] = {}
        lines: list[bytes] = []
        head_of, most = self._head, self._writer.client.max_payload
        self._writer.denied.clear()
        for index, (key, payload, headers, _, is_control) in enumerate(records):
            try:
                if "ce_replyto" in headers or (is_control and key == FOREIGN):
                    begin, own = self._asking(key, headers)
                else:
                    begin, own = head_of(key), NONE if "ce_source" in headers else self._from_us
                head = pack(headers, own)
                if len(begin) > LONGEST:
                    raise ValueError(f"its subject has {len(begin)} bytes, and NATS accepts {LONGEST}")
                if (size := len(head) + len(payload)) > most:
                    refused[index] = PayloadTooLarge(key, size, most)
                    continue
            except Exception as error:
                refused[index] = EncodeError(key, f"it cannot be sent to NATS: {error}")
                refused[index].__cause__ = error
                continue
            lines.append(b"%b%d %d\r\n%b%b\r\n" % (begin, len(head), size, head, payload))
        await self._writer.ask(b"".join(lines))
        for text in self._writer.denied:
            self._deny(text, records, refused)
        return refused

    def _asking(self, key: Key[Any], headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        """How a command begins that expects a reply, or is one to a client that is no hub; and further headers."""
        correlation = headers.get("ce_correlation", "")
        if key == FOREIGN:
            if not _INBOX.fullmatch(correlation.encode()):
                raise ValueError("there is no such subject to reply to")
            error = headers.get("error")
            service = NONE if error is None else {"Nats-Service-Error": error, "Nats-Service-Error-Code": "500"}
            return b"HPUB %b " % correlation.encode(), service
        if not _CORRELATION.fullmatch(correlation):
            return self._head(key), NONE
        address = self._subjects.subject(Key.parse(headers["ce_replyto"]))
        return b"%b%b.%b " % (self._head(key), address, correlation.encode()), NONE

    def _deny(self, text: str, records: Sequence[Record], refused: dict[int, Exception]) -> None:
        """Note the error for the records that the server did not permit."""
        for index, record in enumerate(records):
            subject = self._subjects.subject(record.key).decode(errors="replace")
            if f'"{subject}"' in text and index not in refused:
                refused[index] = explained(BridgeError(text))
