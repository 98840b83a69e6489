"""`jetstream://`: a durable log in a stream of NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import BridgeError, EncodeError, PayloadTooLarge
from ...key import Key
from ..adapter import Buried, Features, Link, Received, Record, SentBack
from ..log import LogAdapter, LogState, Row, letter_number
from ..together import together
from ..urls import Option, count, or_none, seconds
from .connection import Message
from .core import HEADROOM
from .group import Member
from .headers import pack, unpack
from .jetapi import MISSING, JetApi, Refused, denied, stream_name
from .letters import ID, READER, bury, listed, send_back
from .pulls import MOST_BYTES, Pull, Stored
from .server import TEXT, Server
from .storing import Error, Storable, Storing
from .streams import Setup, Streams, from_number, from_time
from .subjects import LONGEST

as_tuple = tuple.__new__

LEASE = 3.0
AHEAD = 1000
"""Messages that a reader without a group asks for at a time."""
ID_LINE = f"\r\n{ID}: ".encode()
OWN: Mapping[str, Option] = {
    "stream": TEXT,
    "maxlen": or_none(count("messages")),
    "max_age": or_none(seconds(most=1e9)),
    "lease": seconds(least=0.1, most=3600),
    "replicas": count("servers"),
}


class JetStreamAdapter(LogAdapter):
    """A durable log in a stream of JetStream, one for each namespace, through two connections.

    Args:
        url: `jetstream://user:password@host:4222`, several hosts with commas between them, or `jetstream+tls://`;
            options in its query.
        route: Returns the name of the stream of a key; without it there is one stream, named like the namespace.
        sources: The names of the streams to read; required with `route`.
        stream: The name of the stream, if it is not that of the namespace.
        maxlen: Messages that a stream keeps, by default 1 000 000; None, in a URL `none`, for all.
        max_age: Seconds for which a message is kept; by default, and with None, for ever.
        lease: Seconds, by default 3, after which a message that a member has not finished goes to another member.
        replicas: Servers of a cluster that store a stream, by default 1.
        options: Those of `NatsAdapter`.

    Raises:
        MissingDriver: nats-py is not installed.
        TypeError: There is no address, or an option does not exist, is given twice, or is set by the bridge.
        ValueError: The URL or an option is invalid.
    """

    features = replace(LogAdapter.features, headers=True, dead_letters=True)

    def __init__(
        self,
        url: str | None = None,
        *,
        route: Callable[[Key[Any]], str] | None = None,
        sources: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        if route is not None and sources is None:
            raise TypeError("route= needs sources=, the streams to read, which may be an empty list")
        if isinstance(sources, str):
            raise TypeError("sources= must be several names of streams, such as a list")
        schemes = {"jetstream": False, "jetstream+tls": True}
        self._server = server = Server(type(self).__name__, url, options, schemes, OWN)
        own = server.own
        super().__init__(own.get("lease", LEASE))
        largest = max(1, server.max_payload - HEADROOM)
        self.features = replace(self.features, lease=self.lease, max_payload=largest)
        given = own.get("stream"), own.get("maxlen", 1_000_000), own.get("max_age"), own.get("replicas", 1)
        names = None if sources is None else tuple(dict.fromkeys(sources))
        self._setup = Setup(*given, self.lease, server.max_payload, route, names)
        self._api: JetApi | None = None
        self._in_hand: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    def features_for(self, link: Link) -> Features:
        if not link.namespace and self._setup.stream is None:
            raise ValueError("a stream needs a name: give a namespace, or stream=")
        found = super().features_for(link)
        return replace(found, order="key") if self._setup.route is not None and found.order == "all" else found

    # Connecting

    async def open(self) -> None:
        link = self.link
        api = self._api = JetApi(self._server, self.inbox)
        self._holding = asyncio.Lock()  # what we write ourselves is no sign of another owner
        self._pull: Pull | None = None
        self._follows = -1  # the number before the first that `_pull` brings
        await api.open()
        self._streams = streams = Streams(api, link.namespace, self._setup)
        self._storing = Storing(api, streams)
        await streams.open(reads=link.reads, remembers=link.reads and bool(link.group or link.name))
        if link.group:
            self._member = Member(streams, stream_name(link.group), self.inbox.ring, self._in_hand)

    async def shut(self) -> None:
        if self._api is not None:
            await self._api.close()

    def forget(self) -> None:
        self._api, self._in_hand = None, {}

    def _connected(self) -> JetApi:
        if self._api is None:
            raise ConnectionError(f"{self!r} is not connected")
        return self._api

    async def ping(self) -> None:
        await self._connected().reader.ask(b"")

    @property
    def activity(self) -> int:  # type: ignore[override]
        """Changes whenever bytes have moved."""
        return 0 if self._api is None else sum(self._api.reader.moved) + sum(self._api.writer.moved)

    @property
    def receiving(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have come where it reads."""
        return None if self._api is None else self._api.reader.moved[1] or None

    @property
    def sending(self) -> int | None:  # type: ignore[override]
        """Changes whenever bytes have moved where it sends."""
        return None if self._api is None else sum(self._api.writer.moved) or None

    # Sending

    async def send(self, records: Sequence[Record]) -> Mapping[int, Exception]:
        api, streams, sender, refused = self._connected(), self._streams, self.link.sender, dict[int, Exception]()
        stored: list[Storable] = []
        indices: list[int] = []
        control: list[tuple[int, bytes, bytes]] = []
        most, stream, id = api.writer.client.max_payload, "", b""
        for index, (key, payload, headers, sequence, is_control) in enumerate(records):
            try:
                if is_control:
                    subject = streams.control.subject(key)
                else:
                    stream, subject = await streams.place(key)
                head = pack(headers)
                if len(subject) > LONGEST:
                    raise ValueError(f"its subject has {len(subject)} bytes, and NATS takes {LONGEST}")
            except (OSError, BridgeError):
                raise
            except Exception as error:
                refused[index] = EncodeError(key, f"it cannot be stored: {error}")
                refused[index].__cause__ = error
                continue
            if not is_control:
                id = b"%b-%d" % (sender.encode(), sequence)
                head = b"%b%b%b\r\n\r\n" % (head[:-4], ID_LINE, id)
            if (size := len(head) + len(payload)) > most:
                refused[index] = PayloadTooLarge(key, size, most)
            elif is_control:
                line = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), size, head, payload)
                control.append((index, subject, line))
            else:
                indices.append(index)
                stored.append(as_tuple(Storable, (stream, id, subject, head, payload)))
        errors = await self._storing.store(stored) if stored else ()
        for index, found in zip(indices, errors, strict=False):
            if found is not None:
                refused[index] = await self._judged(found)
        # Behind the stored ones: if JetStream stores nothing for now, none is sent.
        if control:
            await api.writer.ask(b"".join([line for *_, line in control]))
            for index, subject, _ in control:
                if (trouble := denied(api.writer, subject)) is not None:
                    refused[index] = trouble
        return refused

    async def _judged(self, error: Error) -> Exception:
        """Return the error of a record that is refused for good.

        Raises:
            ConnectionResetError: The stream is gone; the next connection makes it again.
        """
        streams = self._streams
        if error["code"] == MISSING and (self._setup.route or await streams.look_at(streams.name) is None):
            raise ConnectionResetError(f"a stream of {self.link.namespace!r} was deleted")
        return BridgeError(error["description"]) if error["code"] == 403 else Refused.of(error)

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await together(map(self._listen, keys))

    async def _listen(self, key: Key[Any]) -> None:
        def came(message: Message) -> None:
            headers = unpack(message.head)[1] if message.head else {}
            self.inbox.put([Received(key, message.payload, headers, is_control=True)])

        await self._connected().subscribe(self._streams.control.subject(key), came)

    # The log

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        self._connected()
        state = await self._streams.look_at()
        assert state is not None
        if not limit or after >= state.last:
            return state, []
        return state, await self._streams.read(self._streams.name, limit, **from_number(after + 1))

    async def follow(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        self._connected()
        streams, pull, ring = self._streams, self._pull, self.inbox.ring
        if pull is None or after != self._follows or (pull.gone and not pull.rows):
            if pull is not None:
                await pull.end()
            pull, _ = await streams.consumer(streams.name, lambda row: ring(), **from_number(after + 1))
            self._pull, self._follows = pull, after
        if not pull.is_asked and len(pull.rows) < AHEAD // 2 and pull.size < MOST_BYTES // 2:
            await pull.ask(AHEAD)
        if not pull.rows:
            state = await streams.look_at()
            assert state is not None
            is_coming = state.last > after and await self._is_coming(pull)
            if not pull.rows:
                return (state._replace(last=after) if is_coming else state), []
        rows = pull.pop(limit)
        self._follows = last = rows[-1][0]
        return streams.state._replace(last=last + len(pull.rows) + pull.pending), rows

    async def _is_coming(self, pull: Pull) -> bool:
        """True if the consumer has messages that have not come; False if the last ones of the stream were deleted."""
        info = await self._connected().find(f"CONSUMER.INFO.{self._streams.name}.{pull.consumer}")
        if info is None:
            # Nobody has asked it for so long that it was removed. Of some servers a request to it gets no reply.
            pull.gone = pull.gone or "it was removed"
            return True
        return bool(info["num_pending"]) or info["delivered"]["consumer_seq"] > pull.delivered

    def received(self, row: Row, position: str | None, token: Any = None) -> Received:
        assert isinstance(row, Stored)
        _, subject, _, head, payload = row.message
        headers: dict[str, str] = {}
        own: Mapping[str, str] = {}
        if head:
            at = head.rfind(ID_LINE)
            if at > 0 and head.find(b"\r\n", at + 2) == len(head) - 4:
                head = head[:at] + b"\r\n\r\n"  # what is left is alike for many, and is read once
            _, headers, own = unpack(head)
        reader = own.get(READER) if own else None
        key = self._streams.key(subject)
        found = as_tuple(Received, (key, payload, headers, None, position, token, row[5], row[3], False, False, None))
        return found if reader is None else SentBack.to(reader, found)

    async def before(self, moment: float) -> int:
        # The server compares nanoseconds, and a float is not that exact: what is near is compared here.
        state = await self._streams.look_at()
        assert state is not None
        rows = await self._streams.read(self._streams.name, 32, **from_time(moment - 2e-6))
        later = next((row[0] for row in rows if (row[3] or 0) >= moment), None)
        return later - 1 if later is not None else rows[-1][0] if rows else state.last

    async def hold(self, seconds: float, position: str | None = None) -> str | None:
        self._connected()
        async with self._holding:
            return await self._hold_name(f"name.{self.link.name}", seconds, position)

    async def _hold_name(self, key: str, seconds: float, position: str | None) -> str | None:
        sender, bucket = self.link.sender, self._streams.bucket
        held = await bucket.get(key)
        owner = held.value.get("owner", "")
        is_free = owner in (sender, "")
        if not is_free and position is None:
            is_free = held.time + held.value["seconds"] <= await self._streams.clock()
        if not is_free:
            return None
        kept: str = held.value.get("position", "") if position is None else position
        new = {"owner": sender if seconds else "", "seconds": seconds, "position": kept}
        return kept if await bucket.replace(key, held.revision, new) else None

    # Groups

    async def join(self, after: int) -> bool:
        return await self._member.join(after, self.lease)

    async def take(self, limit: int) -> tuple[str, Sequence[Row], int]:
        rows, missing = await self._member.take(limit)
        return self._streams.state.epoch, rows, missing

    async def prolong(self, numbers: Sequence[int] | None, seconds: float) -> None:
        if seconds:
            await self._member.extend(self._in_hand if numbers is None else numbers)
        else:
            await self._member.hand_back(numbers)

    async def extend(self, tokens: Sequence[Any]) -> None:
        if self.link.group:
            await self.prolong(tokens, self.lease)

    async def done(self, numbers: Sequence[int]) -> None:
        await self._member.done(numbers)

    # Dead letters

    async def bury(self, received: Received, why: str) -> Exception | None:
        self._connected()
        return await bury(self._streams, received, self.link.reader, why)

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        self._connected()
        return await listed(self._streams, limit, None if before is None else letter_number(before))

    async def redeliver(self, position: str) -> None:
        self._connected()
        await send_back(self._streams, position)
