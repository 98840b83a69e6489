"""`jetstream://`: a durable log in a stream of NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import BridgeError, BrokerBusy
from ...key import Key
from ..adapter import Buried, Features, Link, Received, Record
from ..log import LogAdapter, LogState, Row, letter_number
from ..together import together
from ..urls import Option, count, or_none, seconds
from .connection import Message
from .core import HEADROOM
from .group import Member
from .headers import unpack
from .jetapi import DENIED, PATIENCE, JetApi, Refused, Silence, denied, stream_name
from .letters import bury, listed, send_back
from .pulls import MOST_BYTES, Pull
from .records import read, write
from .server import TEXT, Server
from .storing import Storing
from .streams import Setup, Streams, from_number, from_time

LEASE = 3.0
AHEAD = 1000
"""Messages that a reader without a group asks for at a time."""
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
        self._is_silent = False  # JetStream has not confirmed what was sent last
        self._pull: Pull | None = None
        self._ahead_since: float | None = None  # what has come is ahead of what the leader of the stream has
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
        api = self._connected()
        try:
            refused = await self._send(api, records)
        except Silence as error:
            # No message is to blame for it, so that none is given up.
            if self._is_silent:
                api.reader.lost(error)  # another server may be better off
            self._is_silent = True
            raise BrokerBusy(str(error)) from error
        self._is_silent = False
        return refused

    async def _send(self, api: JetApi, records: Sequence[Record]) -> Mapping[int, Exception]:
        most = api.writer.client.max_payload
        stored, indices, control, refused = await write(self._streams, records, self.link.sender, most)
        errors = await self._storing.store(stored) if stored else ()
        for index, error in zip(indices, errors, strict=False):
            if error is not None:
                refused[index] = BridgeError(error["description"]) if error["code"] == DENIED else Refused.of(error)
        # Behind the stored ones: if JetStream stores nothing for now, none is sent.
        if control:
            await api.writer.ask(b"".join([line for *_, line in control]))
            for index, subject, _ in control:
                if (trouble := denied(api.writer, subject)) is not None:
                    refused[index] = trouble
        return refused

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
        streams, clock = self._streams, asyncio.get_running_loop().time
        until = clock() + PATIENCE
        while True:
            rows = await streams.read(streams.name, limit, **from_number(after + 1))
            last = rows[-1][0] if rows else after
            is_whole = len(rows) == limit or last >= state.last or not streams.has_replicas
            if is_whole or not await streams.has_after(last):
                return state, rows
            # They were read from a replica that lags behind.
            if clock() > until:
                raise ConnectionResetError(f"a server lacks the end of {streams.name!r} since {PATIENCE:g} s")
            await asyncio.sleep(0.02)

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
            is_coming = await self._is_coming(pull, after) if state.last > after else self._is_ahead(state.last < after)
            if not pull.rows:
                return (state._replace(last=after) if is_coming else state), []
        rows = pull.pop(limit)
        self._follows = last = rows[-1][0]
        return streams.state._replace(last=last + len(pull.rows) + pull.pending), rows

    async def _is_coming(self, pull: Pull, after: int) -> bool:
        """True if messages have not come that the consumer has; False if the last ones of the stream were deleted."""
        info = await self._connected().find(f"CONSUMER.INFO.{self._streams.name}.{pull.consumer}")
        if info is None:
            # Nobody has asked it for so long that it was removed. Of some servers a request to it gets no reply.
            pull.gone = pull.gone or "it was removed"
            return True
        if info["num_pending"] or info["delivered"]["consumer_seq"] > pull.delivered:
            return True
        return self._streams.has_replicas and await self._streams.has_after(after)

    def _is_ahead(self, is_ahead: bool) -> bool:
        """True if messages have come which the leader of the stream does not have yet, since it is new, for example."""
        now = asyncio.get_running_loop().time()
        if not is_ahead or not self._streams.has_replicas:
            self._ahead_since = None
            return False
        self._ahead_since = self._ahead_since or now
        return now - self._ahead_since < PATIENCE

    def received(self, row: Row, position: str | None, token: Any = None) -> Received:
        return read(self._streams, row, position, token)

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
