"""Redis Cluster: exact keys by sharded Pub/Sub, patterns by what every node passes on to all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ...errors import BridgeError
from ...key import Key
from ..adapter import Features, Link, Loss, Received, Record
from ..address import cached
from ..lines import Line
from ..urls import Option, read_options
from .answers import Moved, refusal, sound
from .connection import Connection
from .entries import unpackable
from .pubsub import RedisAdapter, addresses_of
from .resp import decode, pack
from .server import Node, Server
from .shard import SLOTS, Shard, Wanted, slot_of
from .subscriber import CONTROL, PLAIN, Subscriber

_TRUTHS = ("yes", "no", "true", "false")
V = TypeVar("V")
OPTIONS = {"broadcast": Option("yes or no, True or False", lambda value: _TRUTHS.index(str(value).lower()) % 2 == 0)}
"""The options of the adapter itself."""
MOST_MOVES = 8
"""How often a command is sent to another node before the cluster counts as lost."""
MOVE_SECONDS = 0.05
"""Seconds by which each further attempt waits longer, while the nodes do not agree who owns a slot."""
LOOK_SECONDS = 1.0
"""Seconds between two looks at the connections that receive."""
SILENT_LOOKS = 4
"""How many looks one of them may fail to reply while others do."""
Remap = Callable[[Node], Node]


class RedisClusterAdapter(RedisAdapter):
    """Redis Cluster: exact keys by sharded Pub/Sub, at the master of their slot; patterns at any node.

    Args:
        url: `redis+cluster://user:password@host:port,host:port`, or `rediss+cluster://` with TLS: one node or several,
            from which the others are learned; options in its query.
        broadcast: Messages are also passed to all nodes, for those who subscribe to patterns. In a URL `yes` or `no`.
        address_remap: Returns where to reach a node, from the host and the port that the cluster names: for tunnels.
        options: Options of redis-py's connections, and `ssl_context`.

    Raises:
        MissingDriver: redis-py is not installed.
        TypeError: There is no address, or more than one; or an option does not exist, or is set by the bridge.
        ValueError: The URL is invalid.
    """

    features = Features(order="key", confirms="received", patterns=True, max_payload=512 * 1024 * 1024)

    def __init__(
        self,
        url: str | None = None,
        *,
        broadcast: bool = True,
        address_remap: Remap | None = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        self._server = Server(name, url, None, options, scheme="redis+cluster", own=OPTIONS, is_cluster=True)
        own = read_options(name, OPTIONS, {"broadcast": broadcast})
        self._broadcasts: bool = (own | read_options(name, OPTIONS, {}, self._server.own))["broadcast"]
        self._nodes = list(self._server.nodes)
        self._remap = address_remap or (lambda node: node)

    def line(self, link: Link) -> ClusterLine:
        return ClusterLine(
            self._server, link, self.most_patterns, self._nodes, self._remap, broadcasts=self._broadcasts
        )


class ClusterLine(Line):
    """The connections to the nodes of a cluster, from one `connect` until one of them is lost, or all are closed.

    One leads to the node at home, whichever answered first: what concerns the whole cluster goes there. Others are made
    when they are needed: to publish to the master of a slot, and to subscribe there.

    Args:
        server: Opens connections.
        link: The settings of the relay.
        most_patterns: If there are more patterns, they are merged into wider ones.
        nodes: The nodes to try, in this order; replaced by those that the first that answers knows.
        remap: Returns where to reach a node.
        broadcasts: Messages go to those who subscribe to patterns, too.
    """

    def __init__(
        self, server: Server, link: Link, most_patterns: int, nodes: list[Node], remap: Remap, *, broadcasts: bool
    ) -> None:
        self._server = server
        self._link = link
        self._most_patterns = most_patterns
        self._nodes = nodes
        self._remap = remap
        self._broadcasts = broadcasts
        self._addresses = addresses_of(link.namespace, 0)
        self._heads = cached(self._heads_of)
        self._news = asyncio.Event()
        self._is_closed = False
        self._home: Node = ("", 0)
        self._owners: list[Node | None] = [None] * SLOTS
        self._senders: dict[Node, Connection] = {}
        self._shards: dict[Node, Shard] = {}
        self._opening: dict[tuple[int, Node], asyncio.Task[None]] = {}
        self._wanted: Wanted = {}
        self._control: set[Key[Any]] = set()
        self._patterns: dict[Node, Subscriber] = {}
        self._look_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._silent: dict[Connection, tuple[int, int]] = {}
        self.connections: list[Connection] = []

    # Beginning and ending

    async def open(self) -> None:
        """Connect to the first node that answers, and ask it for the owners of the slots."""
        for left in range(len(self._nodes) - 1, -1, -1):
            # If it does not answer, another one is the first in the next attempt.
            node = self._nodes.pop(0)
            self._nodes.append(node)
            try:
                ((connection, (slots,)),) = await self._server.open(
                    self.connections, self._lost, [("CLUSTER", "SLOTS")], where=node
                )
            except self._server.failures:
                if not left:
                    raise
                for connection in self.connections:
                    await connection.close()
                self.connections.clear()
                continue
            self._home = node
            self._senders[node] = connection
            self._learn(slots)
            break
        # Together, since the line may be slow, and the first beat must not wait for them.
        nodes = {self._owner(slot_of(self._channel(key))) for key in self._link.control}
        is_wild = self._link.reads and any(pattern.is_wildcard for pattern in self._link.wanted())
        await asyncio.gather(
            *map(self._sender, nodes), *map(self._shard, nodes), *([self._patterned()] if is_wild else [])
        )

    def _learn(self, slots: Any) -> None:
        """Note which nodes own the slots."""
        if isinstance(slots, Exception) and "cluster support disabled" in str(slots):
            raise BridgeError(f"{self._server!r} is no Redis Cluster; without one, the URL begins with redis://")
        owners: list[Node | None] = [None] * SLOTS
        nodes = [self._home]
        for begin, end, *places in sound(slots):
            those = [self._place(host, port) for host, port, *_ in places]
            owners[begin : end + 1] = [those[0]] * (end + 1 - begin)
            nodes += those
        self._owners = owners
        self._nodes[:] = dict.fromkeys(nodes + self._server.nodes)

    def _place(self, host: bytes | None, port: int) -> Node:
        # A node without a name of its own is where it was asked.
        return self._remap((decode(host) if host and host != b"?" else self._home[0], int(port)))

    async def _sender(self, node: Node) -> Connection:
        if node not in self._senders:
            await self._connect(node, self._senders, lambda connection: connection)
        return self._senders[node]

    async def _shard(self, node: Node) -> Shard:
        if node not in self._shards:
            await self._connect(node, self._shards, lambda connection: Shard(connection, self._news.set))
        return self._shards[node]

    async def _patterned(self) -> Subscriber:
        def made(connection: Connection) -> Subscriber:
            return Subscriber(connection, self._addresses, self._most_patterns, self._news.set)

        if self._home not in self._patterns:
            await self._connect(self._home, self._patterns, made)
        return self._patterns[self._home]

    async def _connect(self, node: Node, known: dict[Node, V], made: Callable[[Connection], V]) -> None:
        """Open the only connection of its kind to a node, or wait for whoever does."""

        async def connect() -> None:
            if self._is_closed:
                raise ConnectionResetError("the connection to Redis is closed")
            ((connection, _),) = await self._server.open(self.connections, self._lost, [], where=node)
            known[node] = made(connection)

        opening = self._opening.get((id(known), node))
        if opening is None:
            opening = self._opening[id(known), node] = asyncio.create_task(connect())
        # Others may wait for it as well.
        await asyncio.shield(opening)

    def _lost(self) -> None:
        """Called when a connection has failed."""
        for subscriber in self._patterns.values():
            subscriber.lost()
        for shard in self._shards.values():
            shard.lost()
        self._news.set()

    async def close(self) -> None:
        """Cut the connections. Closing twice is safe."""
        self._is_closed = True
        for connection in self.connections:
            await connection.close()
        self._lost()
        tasks = [*self._opening.values(), *([self._asking] if self._asking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What was opened meanwhile.
        for connection in self.connections:
            await connection.close()

    # Signs of life

    @property
    def activity(self) -> int:
        return sum(connection.moved for connection in self.connections)

    @property
    def receiving(self) -> int | None:
        """A number that changes whenever bytes have come where messages are received."""
        return sum(connection.received for connection in self._receiving())

    def _receiving(self) -> list[Connection]:
        shards = [shard.connection for shard in self._shards.values()]
        return shards + [subscriber.connection for subscriber in self._patterns.values()]

    @property
    def sending(self) -> int | None:
        """A number that changes whenever bytes have moved where messages are sent."""
        return sum(connection.moved for connection in self._senders.values())

    async def ping(self) -> None:
        """Return when the node at home has replied; a refusal is a reply, too."""
        await (await self._sender(self._home)).ask(("PING",))

    # Sending

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Publish records, in order for each key; return the errors of those that are refused."""
        refused: dict[int, Exception] = {}
        exact: list[tuple[int, int, bytes]] = []
        broadcast: list[tuple[int, bytes]] = []
        for index, (key, payload, _, _, is_control) in enumerate(records):
            try:
                slot, to_shard, to_all = self._heads(key)
                tail = b"%d\r\n%b\r\n" % (len(payload), payload)
            except Exception as error:
                refused[index] = unpackable(key, error)
                continue
            exact.append((index, slot, to_shard + tail))
            if self._broadcasts and not is_control:
                broadcast.append((index, to_all + tail))
        found = await asyncio.gather(self._send_exact(exact), self._send_broadcast(broadcast))
        return refused | found[0] | found[1]

    async def _send_broadcast(self, parts: Sequence[tuple[int, bytes]]) -> dict[int, Exception]:
        if not parts:
            return {}
        home = await self._sender(self._home)
        replies = await home.exchange(b"".join([data for _, data in parts]), len(parts))
        return {
            index: refusal(reply) for (index, _), reply in zip(parts, replies, strict=True) if type(reply) is not int
        }

    async def _send_exact(self, parts: list[tuple[int, int, bytes]]) -> dict[int, Exception]:
        """Publish to the masters of the slots, and again wherever a slot has moved."""
        refused: dict[int, Exception] = {}
        for attempt in range(MOST_MOVES):
            by_node: dict[Node, list[tuple[int, int, bytes]]] = {}
            for part in parts:
                by_node.setdefault(self._owner(part[1]), []).append(part)
            answers = await asyncio.gather(*(self._send_to(node, some) for node, some in by_node.items()))
            parts = []
            for some, replies in zip(by_node.values(), answers, strict=True):
                for part, reply in zip(some, replies, strict=True):
                    if isinstance(reply, Moved):
                        self._follow(reply)
                        parts.append(part)
                    elif type(reply) is not int:
                        refused[part[0]] = refusal(reply)
            if not parts:
                return refused
            await asyncio.sleep(attempt * MOVE_SECONDS)
        raise ConnectionError(f"the nodes of {self._server!r} do not agree on who owns a slot")

    async def _send_to(self, node: Node, parts: Sequence[tuple[int, int, bytes]]) -> list[Any]:
        return await (await self._sender(node)).exchange(b"".join([data for _, _, data in parts]), len(parts))

    def _owner(self, slot: int) -> Node:
        owner = self._owners[slot]
        if owner is None:
            raise ConnectionError(f"no node of {self._server!r} owns slot {slot}")
        return owner

    def _follow(self, moved: Moved) -> None:
        """Note the new owner of a slot."""
        self._owners[moved.slot] = self._place(moved.host.encode(), moved.port)

    def _heads_of(self, key: Key[Any]) -> tuple[int, bytes, bytes]:
        """Return the slot of a key, and SPUBLISH and PUBLISH up to the length of the payload."""
        address = self._channel(key)
        rest = b"$%d\r\n%b\r\n$" % (len(address), address)
        return slot_of(address), b"*3\r\n$8\r\nSPUBLISH\r\n" + rest, b"*3\r\n$7\r\nPUBLISH\r\n" + rest

    def _channel(self, key: Key[Any]) -> bytes:
        return self._addresses.to_bytes(self._addresses.address(key))

    # Subscribing

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        """Receive what is sent to these keys as control messages."""
        self._control.update(keys)
        await self._subscribe({self._channel(key): (key, CONTROL) for key in keys})

    async def subscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Receive what matches these patterns; return when the nodes have confirmed that.

        Raises:
            BridgeError: The user lacks the permission.
        """
        wild = [pattern for pattern in patterns if pattern.is_wildcard]
        if wild:
            await (await self._patterned()).subscribe(wild)
        exact = (key for key in patterns if not key.is_wildcard and key not in self._control)
        await self._subscribe({self._channel(key): (key, PLAIN) for key in exact})

    async def _subscribe(self, channels: Wanted) -> None:
        """Subscribe at the masters of the channels' slots, wherever those have moved."""
        self._wanted |= channels
        for attempt in range(MOST_MOVES):
            moved = [each for some in await self._at_each(channels, Shard.subscribe) for each in some]
            for _, reply in moved:
                self._follow(reply)
            channels = {channel: self._wanted[channel] for channel, _ in moved if channel in self._wanted}
            if not channels:
                return
            await asyncio.sleep(attempt * MOVE_SECONDS)
        raise ConnectionError(f"the nodes of {self._server!r} do not agree on who owns a slot")

    async def unsubscribe(self, patterns: Sequence[Key[Any]]) -> None:
        """Undo `subscribe`."""
        wild = [pattern for pattern in patterns if pattern.is_wildcard]
        if wild:
            await (await self._patterned()).unsubscribe(wild)
        exact = (key for key in patterns if not key.is_wildcard and key not in self._control)
        gone = {channel: self._wanted.pop(channel) for channel in map(self._channel, exact) if channel in self._wanted}
        await self._at_each(gone, Shard.unsubscribe)

    async def _at_each(self, channels: Wanted, call: Callable[[Shard, Wanted], Any]) -> list[Any]:
        """Call something with the channels of each master."""
        by_node: dict[Node, Wanted] = {}
        for channel, what in channels.items():
            by_node.setdefault(self._owner(slot_of(channel)), {})[channel] = what
        shards = await asyncio.gather(*map(self._shard, by_node))
        return await asyncio.gather(*map(call, shards, by_node.values()))

    # Receiving

    async def receive(self) -> list[Received | Loss]:
        """Wait for messages, and return all that have come; a loss where a slot has moved."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            self._check()
            received: list[Received | Loss] = []
            gone: Wanted = {}
            for shard in self._shards.values():
                received += shard.receive()
                gone |= shard.gone()
            for subscriber in self._patterns.values():
                received += subscriber.receive()
            if gone := {channel: what for channel, what in gone.items() if self._wanted.get(channel) == what}:
                await self._subscribe(gone)
                keys = tuple(key for key, tail in gone.values() if tail is PLAIN)
                received += [Loss("a slot has moved", keys=keys)] if keys else []
            if received:
                return received
            if self._asking is not None and self._asking.done():
                asking, self._asking = self._asking, None
                asking.result()
                continue
            if loop.time() >= self._look_at:
                self._look_at = loop.time() + LOOK_SECONDS
                self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._look_at):
                    await self._news.wait()

    def _check(self) -> None:
        if self._is_closed:
            raise ConnectionResetError("the connection to Redis is closed")
        for connection in self.connections:
            if connection.error is not None:
                raise connection.reason()

    def _look(self) -> None:
        """Detect a node that is dead, while the relay's beat travels by another one.

        Looks are counted, not time: while the loop is blocked nothing can be received.

        Raises:
            ConnectionError: A node is dead.
        """
        signs = {connection: connection.moved for connection in self._senders.values() if connection.owes}
        signs |= {connection: connection.received for connection in self._receiving()}
        for connection, sign in signs.items():
            before, looks = self._silent.get(connection, (-1, 0))
            looks = looks + 1 if sign == before else 0
            if looks > SILENT_LOOKS:
                raise ConnectionError(f"no reply for {looks} s from a node of {self._server!r}, while others reply")
            self._silent[connection] = sign, looks
        self._silent = {connection: self._silent[connection] for connection in signs}
        for connection in self._receiving():
            connection.write(pack((b"PING",)))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(self._senders[self._home]))
            self._asking.add_done_callback(lambda _: self._news.set())

    async def _ask(self, home: Connection) -> None:
        """Detect that the cluster is down, and slots that have moved without a word from whoever had them.

        Raises:
            ConnectionError: The cluster is down, or the node at home is apart from it.
        """
        info, slots = await home.ask(("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
        if b"cluster_state:ok" not in sound(info):
            raise ConnectionError(f"{self._server!r} says that the cluster is down")
        self._learn(slots)
        for node, shard in self._shards.items():
            shard.leave(channel for channel in shard.channels if self._owners[slot_of(channel)] != node)
