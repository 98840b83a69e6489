"""The driver's client and its connections, which are watched by a `Line`."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Iterable
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
from ..tls import Tls
from .line import SENT, Line
from .metadata import TopicsRequest, denied_topic, in_old_form, missing_topic

# Seconds of silence while connecting: over a slow line, the first answers take several times as long as later ones.
CONNECT = 15.0
# The most seconds of a TLS handshake.
HANDSHAKE = 60.0
# Seconds after which a broker may close an unused connection; nothing is lost by that.
IDLE = 60.0
# Seconds that the creation of a topic may take.
TOPIC_TIMEOUT = 3.0
# Seconds between two requests for metadata, and over how many that is an average: the driver asks for missing topics
# without a pause.
METADATA_PAUSE, METADATA_BURST = 0.02, 20


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
    tls: Tls | None
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
    def adopt(cls, client: Any, line: Line, tls: Tls | None = None) -> Client:
        """Turn an unused client of the driver into one of these, since the driver refers to it in many places."""
        client.__class__ = cls
        client.line, client.connections, client.failure, client.ids = line, set(), None, {}
        client.tls, client.is_in_doubt = tls, False
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
            ssl_context=None if self.tls is None else self.tls.context(),
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
