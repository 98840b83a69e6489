"""The driver's client, with its connections watched: one that moves bytes is alive, and a silent one is given up.

The driver has a deadline for each request, counted from its start. A large answer over a slow line misses it, and is
requested again, for ever. So the driver's deadlines are set very far off, and this module measures silence instead:
time in which the event loop ran and nothing moved.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, CloseReason
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    NotLeaderForPartitionError,
    StaleMetadata,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from ..adapter import bytes_each_way
from .metadata import TopicsRequest, denied_topic, in_old_form, missing_topic

# Seconds of silence after which a connection is given up, beyond what its answers may take.
SILENCE = 5.0
# The same while connecting: over a slow line, the first answers take several times as long as later ones.
CONNECT = 15.0
# The most seconds of a TLS handshake.
HANDSHAKE = 60.0
# Seconds after which a broker may close an unused connection; nothing is lost by that.
IDLE = 60.0
# Seconds between two checks.
TICK = 0.25
# Seconds that the creation of a topic may take.
TOPIC_TIMEOUT = 3.0
# Seconds between two requests for metadata, and over how many that is an average: the driver asks for missing topics
# without a pause.
METADATA_PAUSE, METADATA_BURST = 0.02, 20
# Bytes that may be buffered on the way, where they are not seen to move, and bytes a second of the slowest line.
BUFFERED, SLOWEST = 1 << 20, 64 * 1024
# The number of sent bytes that count as one sign of life. The few bytes of a request do not count: the kernel of a
# frozen broker acknowledges them too.
SENT = 4096


class Line:
    """The traffic between the clients of one kind and their brokers; it outlives both.

    Args:
        patience: Seconds that an answer may take without anything being wrong.
        group_patience: Seconds that a rebalance of a group may take.
    """

    def __init__(self, patience: float = 0.0, group_patience: float = 0.0) -> None:
        self.received = 0
        """Bytes received."""
        self.sent = 0
        """Pieces of `SENT` bytes that the other side has acknowledged."""
        self.connected = 0
        """Connections that were made."""
        self.silent = 0.0
        """Seconds of silence, while the loop ran."""
        self.rate: float | None = None
        """Received bytes a second while an answer took a whole `TICK`; None if no answer takes that long."""
        self.round_trip = 0.0
        """Seconds that the newest connection took to answer."""
        self.owed = 0
        """Bytes of requests that are not answered yet."""
        self.broken: ConnectionError | None = None
        """Set when a connection is lost, even if the driver goes on with another one."""
        self.on_broken: Callable[[], object] = _nothing
        """Called when a connection is lost."""
        self._patience = patience
        self._group_patience = group_patience
        self._clients: list[Client] = []
        self._waits: set[_Wait] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last = 0.0
        self._moved = 0

    @property
    def moved(self) -> int:
        """Grows with every sign of life, in either direction."""
        self._look()
        return self.received + self.sent

    @property
    def limit(self) -> float:
        """Seconds of silence after which a connection counts as lost."""
        on_the_way = min(self.owed, BUFFERED) / SLOWEST
        return SILENCE + self._patience + min(30.0, self.round_trip) + on_the_way

    @asynccontextmanager
    async def patience(
        self,
        what: str = "Kafka does not answer",
        *,
        silence: float | None = None,
        most: float = float("inf"),
        of: Connection | None = None,
    ) -> AsyncIterator[None]:
        """Run the block as long as something moves, unless it is interrupted.

        Args:
            what: The text of the error if nothing moves.
            silence: Seconds of silence, by default the line's `limit`.
            most: The most seconds that it may take in all.
            of: Returns the sign of what must move; by default of anything.

        Raises:
            ConnectionError: Nothing moved for that long, it took too long, or it was interrupted.
        """
        wait: _Wait | None = None
        try:
            async with asyncio.timeout(None) as timeout:
                wait = _Wait(timeout, what, silence, most, of)
                self._waits.add(wait)
                self._start()
                yield
        except TimeoutError:
            if wait is None or not wait.timeout.expired():
                raise
            raise ConnectionError(wait.what) from None
        finally:
            if wait is not None:
                self._waits.discard(wait)

    def interrupt(self) -> None:
        """End everything that waits."""
        for wait in self._waits:
            wait.end("the connection to Kafka is given up")

    def cut(self) -> None:
        """Cut all connections: the driver makes new ones."""
        for client in self._clients:
            for connection in list(client.connections):
                connection.is_ready = False  # it was closed on purpose
                connection.close(reason=CloseReason.CONNECTION_BROKEN)

    def lose(self, connection: Connection) -> None:
        """Note that a connection was lost."""
        self.broken = ConnectionError(f"the connection to {connection.host}:{connection.port} was lost")
        self.on_broken()

    # Watching

    def add(self, client: Client) -> None:
        """Watch the connections of a client."""
        self._clients.append(client)
        self.silent = 0.0
        self._start()

    def remove(self, client: Client) -> None:
        """Stop watching a client."""
        if client in self._clients:
            self._look()
            self._clients.remove(client)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._last = loop.time()
            loop.call_later(TICK, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        if not self._clients and not self._waits:
            self._loop = None
            return
        now = loop.time()
        # While the loop was blocked, nothing could be received.
        elapsed, self._last = now - self._last, now
        passed = min(elapsed, 2 * TICK)
        self._look()
        moved, self._moved = self.received + self.sent - self._moved, self.received + self.sent
        self.silent = 0.0 if moved else self.silent + passed
        for wait in list(self._waits):
            wait.step(passed, bool(moved if wait.of is None else wait.of.moved), self.limit)
        self.rate = None
        for client in self._clients:
            for connection in list(client.connections):
                self._watch(connection, elapsed, passed)
        loop.call_later(TICK, self._tick, loop)

    def _look(self) -> None:
        for client in self._clients:
            for connection in client.connections:
                received, sent = connection.look()
                self.received += received
                self.sent += sent

    def _watch(self, connection: Connection, elapsed: float, passed: float) -> None:
        """Give up a connection that owes an answer and was silent for too long."""
        owed = connection.owed()
        moved, connection.moved = connection.moved, 0
        is_same = owed is not None and owed == connection.owed_before
        if is_same and moved and connection.is_coming:
            self.rate = moved / elapsed
        connection.silent = connection.silent + passed if is_same and not moved else 0.0
        connection.owed_before, connection.is_coming = owed, is_same and moved > 0
        limit = self.limit + (self._group_patience if connection.waits_for_group() else 0.0)
        if connection.is_ready and connection.silent > limit:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)


def _nothing() -> None:
    pass


class _Wait:
    """A wait that goes on as long as something moves."""

    def __init__(
        self, timeout: asyncio.Timeout, what: str, silence: float | None, most: float, of: Connection | None
    ) -> None:
        self.timeout = timeout
        self.what = what
        self.of = of
        self._silence = silence
        self._most = most
        self._silent = self._taken = 0.0

    def step(self, passed: float, moved: bool, limit: float) -> None:
        """Called after each tick with the time that has passed."""
        self._silent = 0.0 if moved else self._silent + passed
        self._taken += passed
        if self._silent > (limit if self._silence is None else self._silence) or self._taken > self._most:
            self.end(self.what)

    def end(self, what: str) -> None:
        """End it now."""
        when = self.timeout.when()
        if when is None:
            self.what = what
            self.timeout.reschedule(asyncio.get_running_loop().time())


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection of the driver that counts what moves over it."""

    is_ready = False
    """True once it is established."""
    silent = 0.0
    """Seconds of silence while it owes an answer."""
    owed_before: int | None = None
    moved = 0
    """Bytes received and pieces sent since the last check."""
    is_coming = False
    """True if an answer has arrived in part."""
    _plain: Any = None
    _seen = (0, 0)
    _sign: object = None

    async def connect(self) -> Any:
        """Connect; TLS is a separate step, so that its traffic can be seen."""
        if "SSL" not in self._security_protocol:
            return await super().connect()
        loop = self._loop
        reader = asyncio.StreamReader(loop=loop)
        self._closed_fut = loop.create_future()
        protocol = AIOKafkaProtocol(self._closed_fut, reader, loop=loop)
        self._plain, _ = await loop.create_connection(lambda: protocol, self.host, self.port)
        writer = asyncio.StreamWriter(self._plain, protocol, reader, loop)
        try:
            context: Any = self._ssl_context
            await writer.start_tls(context, server_hostname=self.host, ssl_handshake_timeout=HANDSHAKE)
        except BaseException:
            self._plain.abort()
            raise
        reader._transport = writer.transport  # type: ignore[attr-defined]  # else it holds the wrong one back
        self._reader, self._writer, self._protocol = reader, writer, protocol
        self._read_task = self._create_reader_task()
        if self._max_idle_ms is not None:
            self._idle_handle = loop.call_soon(self._idle_check, weakref.ref(self))
        try:
            await self._do_version_lookup()
            if self._security_protocol == "SASL_SSL":
                await self._do_sasl_handshake()
        except BaseException:
            self.close()
            raise
        return reader, writer

    def close(self, reason: Any = None, exc: Any = None) -> Any:
        writer = self._writer
        closed = super().close(reason, exc)
        if writer is not None:
            # It would wait until everything is sent, which nobody receives any more.
            writer.transport.abort()
        return closed

    def look(self) -> tuple[int, int]:
        """Return the bytes received since the last check, and the pieces sent."""
        transport = self._plain or (self._writer and self._writer.transport)
        if transport is None:
            return 0, 0
        acknowledged, received = bytes_each_way(transport)
        seen, self._seen = self._seen, (received, acknowledged // SENT)
        received, sent = max(0, self._seen[0] - seen[0]), max(0, self._seen[1] - seen[1])
        if not (acknowledged or self._seen[0]):
            received = self._look_closer()
        self.moved += received + sent
        return received, sent

    def _look_closer(self) -> int:
        """The same where the system does not count them: only whether anything was received."""
        reader: Any = self._reader
        sign = (self._last_action, reader and len(reader._buffer))
        before, self._sign = self._sign, sign
        return int(before is not None and sign != before)

    def owed(self) -> int | None:
        """The request whose answer is due next; None if none is."""
        return id(self._requests[0][2]) if self._requests else None

    def is_polling(self) -> bool:
        """True if the broker may hold back its next answers until there are records."""
        return any(request is not None and request.API_KEY == FetchRequest.API_KEY for _, request, _ in self._requests)

    def waits_for_group(self) -> bool:
        """True if the answer may take as long as a rebalance of a group."""
        return any(request is not None and request.API_KEY in _OF_GROUPS for _, request, _ in self._requests)


# The driver's `ConnectionGroup` has 0 and 1. A broker answers the requests of a connection in order: over this one, a
# question does not wait behind a fetch.
ASKING = 2
_LOST = {CloseReason.CONNECTION_BROKEN, CloseReason.CONNECTION_TIMEOUT, CloseReason.OUT_OF_SYNC}
_MOVED = {NotLeaderForPartitionError.errno, UnknownTopicOrPartitionError.errno}
_OF_GROUPS = {JoinGroupRequest.API_KEY, SyncGroupRequest.API_KEY}


class Client(AIOKafkaClient):  # type: ignore[misc]
    """A client of the driver with watched connections, which keeps the reason when it cannot connect."""

    line: Line
    connections: set[Connection]
    """All connections, including those that are being made."""
    failure: BaseException | None
    """The error by which the last connection failed to be made."""
    ids: dict[str, bytes]
    """The ids of known topics, a new dictionary at each change. A topic that is created again has another id."""
    is_in_doubt: bool
    """True if a partition was not found: its topic may have been created again."""
    _is_closed: bool
    _asked_at: float
    _locks: dict[object, asyncio.Lock]
    _sync_task: Any
    _md_update_fut: Any

    @classmethod
    def adopt(cls, client: Any, line: Line) -> Client:
        """Turn an unused client of the driver into one of these, since the driver refers to it in many places."""
        client.__class__ = cls
        client.line, client.connections, client.failure, client.ids = line, set(), None, {}
        client.is_in_doubt = False
        client._locks, client._asked_at, client._is_closed = {}, 0.0, False
        line.add(client)
        return client  # type: ignore[no-any-return]

    @property
    def is_down(self) -> bool:
        """True if there is no connection and none can be made."""
        return self.failure is not None and not any(connection.connected() for connection in self.connections)

    def why(self) -> str:
        """Return the error by which no connection could be made."""
        failure = self.failure
        return "no broker is known" if failure is None else f"{type(failure).__name__}: {failure}"

    async def bootstrap(self) -> None:
        """Ask one of the servers for the brokers, and for the topics that are wanted already.

        Raises:
            ConnectionError: No server answers; it has the error of the last one.
        """
        for host, port, _ in self.hosts:
            try:
                await self._bootstrap_from(host, port)
            except (OSError, EOFError, KafkaError) as error:
                self.failure = error
            else:
                break
        else:
            servers = ", ".join(f"{host}:{port}" for host, port, _ in self.hosts)
            raise ConnectionError(f"cannot bootstrap from {servers}: {self.why()}") from self.failure
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def _bootstrap_from(self, host: str, port: int) -> None:
        connection = await self._connect(host, port)
        try:
            self._update(await self._ask(connection, list(self._topics)))
        except BaseException:
            connection.close()
            raise
        # It may be the connection to one of the brokers.
        brokers = [each for each in self.cluster.brokers() if (each.host, each.port) == (host, port)]
        if brokers:
            self._conns[brokers[0].nodeId, ConnectionGroup.DEFAULT] = connection
        elif self.cluster.brokers():
            connection.close()
        else:
            self._conns["bootstrap", ConnectionGroup.DEFAULT] = connection

    async def _connect(self, host: str, port: int) -> Connection:
        connection = Connection(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            on_close=self._on_connection_closed,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_kerberos_service_name=self._sasl_kerberos_service_name,
            sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )
        began = self._loop.time()
        self.connections.add(connection)
        try:
            async with self.line.patience(f"nobody answers at {host}:{port}", silence=CONNECT, of=connection):
                await connection.connect()
        except BaseException:
            connection.close()
            self.connections.discard(connection)
            raise
        connection.is_ready = True
        self.failure = None
        self.line.connected += 1
        self.line.round_trip = self._loop.time() - began
        return connection

    def _on_connection_closed(self, connection: Any, reason: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.connections.discard(connection)
        if connection.is_ready and reason in _LOST and time.monotonic() - connection._last_action < IDLE:
            self.line.lose(connection)
        super()._on_connection_closed(connection, reason)

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        """Return the connection to a broker, made if necessary; None if it cannot be made."""
        if self._is_closed:
            return None
        name = (node_id, group)
        connection = self._conns.get(name)
        if connection is not None and connection.connected():
            return connection
        # One lock for each broker: a dead broker must not delay the others.
        async with self._locks.setdefault(name, asyncio.Lock()):
            connection = self._conns.pop(name, None)
            if connection is None or not connection.connected():
                try:
                    broker = self.cluster.broker_metadata(node_id)
                    if broker is None:
                        raise StaleMetadata(f"there is no broker {node_id} any more")
                    connection = await self._connect(broker.host, broker.port)
                except (OSError, EOFError, KafkaError) as error:
                    self.failure = error
                    self.force_metadata_update()
                    return None
            self._conns[name] = connection
            return connection

    async def send(self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        answer = await super().send(node_id, request, group=group)
        if type(request) is FetchRequest and any(part[1] in _MOVED for _, parts in answer.topics for part in parts):
            self.is_in_doubt = True
        return answer

    # Metadata

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Update the metadata from any broker that answers."""
        now = self._loop.time()
        self._asked_at = max(self._asked_at, now - METADATA_PAUSE * METADATA_BURST) + METADATA_PAUSE
        if self._asked_at > now:
            await asyncio.sleep(self._asked_at - now)
        try:
            metadata = await self.ask(None if topics is None else list(topics))
        except (OSError, KafkaError):
            cluster_metadata.failed_update(None)
            return False
        if not metadata.brokers:
            return False
        cluster_metadata.update_metadata(metadata)
        bootstrap = self._conns.pop(("bootstrap", ConnectionGroup.DEFAULT), None)
        if bootstrap is not None:
            bootstrap.close()
        return True

    async def ask(self, topics: list[str] | None = [], may_create: bool = True) -> Any:  # noqa: B006 - not changed
        """Return a broker's answer about these topics, by default about none; None is about all.

        Args:
            topics: Their names.
            may_create: Let the broker create missing ones, if it is configured to.

        Raises:
            ConnectionError: No broker answers.
        """
        known = [broker.nodeId for broker in self.cluster.brokers()]
        # All brokers may have been replaced by now: ask the bootstrap servers.
        named = [name for name in self.cluster._bootstrap_brokers if name not in known]
        bootstrap = ["bootstrap"] if ("bootstrap", ConnectionGroup.DEFAULT) in self._conns else []
        for nodes in (known + bootstrap, named):
            for node in random.sample(nodes, len(nodes)):
                connection = await self._get_conn(node)
                if connection is not None and connection.is_polling():
                    connection = await self._get_conn(node, group=ASKING)
                if connection is None:
                    continue
                try:
                    return await self._ask(connection, topics, may_create)
                except (OSError, EOFError, KafkaError) as error:
                    self.failure = error
        raise ConnectionError(f"no broker of Kafka answers: {self.why()}") from self.failure

    async def _ask(self, connection: Connection, topics: list[str] | None, may_create: bool = True) -> Any:
        metadata, ids = in_old_form(await connection.send(TopicsRequest(topics, may_create)))
        known = {topic: id for topic, id in ids.items() if topic in self._topics}
        if not known.items() <= self.ids.items():
            self.ids = self.ids | known
        return metadata

    def _update(self, metadata: Any) -> dict[str, int]:
        """Apply metadata, except of topics with an error; return the error of each of those."""
        errors = {topic: error for error, topic, *_ in metadata.topics if error}
        if errors:
            # The driver would log them, even those that are being created.
            metadata.topics = [each for each in metadata.topics if not each[0]]
        self.cluster.update_metadata(metadata)
        return errors

    async def learn(self, topics: Iterable[str]) -> dict[str, Exception]:
        """Load the partitions of these topics; return the errors of the others. A broker may create missing topics."""
        unknown = {topic for topic in topics if not self.cluster.partitions_for_topic(topic)}
        self._topics |= unknown
        errors: dict[str, Exception] = {}
        waited = 0.0
        while unknown:
            failed = self._update(await self.ask(list(self._topics)))
            for topic in unknown & failed.keys():
                if failed[topic] == TopicAuthorizationFailedError.errno:
                    errors[topic] = denied_topic(topic)
                elif failed[topic] == InvalidTopicError.errno:
                    errors[topic] = ValueError(f"Kafka does not take {topic!r} for a topic")
            unknown = {each for each in unknown - errors.keys() if not self.cluster.partitions_for_topic(each)}
            if not unknown or waited >= TOPIC_TIMEOUT:
                break
            await asyncio.sleep(0.1)
            waited += 0.1
        errors |= {topic: missing_topic(topic) for topic in unknown}
        # Do not keep asking for missing topics.
        self._topics -= errors.keys()
        return errors

    async def exists(self, topic: str) -> bool:
        """Return whether a topic exists."""
        return any(error == 0 for error, *_ in (await self.ask([topic], may_create=False)).topics)

    async def create(self, topic: str, like: str, **settings: object) -> bool:
        """Create a topic with one partition, replicated like another one; return whether it exists now."""
        replicas = [len(each.replicas) for each in self.cluster._partitions.get(like, {}).values()]
        wanted = [(name.replace("_", "."), str(value)) for name, value in settings.items()]
        topics: Any = [(topic, 1, max(replicas, default=-1), [], wanted)]
        request = CreateTopicsRequest(topics, 10_000, False)
        controller = self.cluster.controller
        node = self.get_random_node() if controller is None else controller.nodeId
        answer = await self.send(node, request)
        return all(code in (0, TopicAlreadyExistsError.errno) for _, code, *_ in answer.topic_errors)

    def force_metadata_update(self) -> Any:
        if self._is_closed:
            # The update would never be done, and parts of the driver would wait for it for ever.
            done = self._loop.create_future()
            done.set_result(False)
            return done
        return super().force_metadata_update()

    async def close(self) -> None:
        self._is_closed = True
        for connection in list(self.connections):
            connection.close()
        await super().close()
        update, self._md_update_fut = self._md_update_fut, None
        if update is not None and not update.done():
            update.set_result(False)
        self.line.remove(self)
