"""A connection to an MQTT broker: sends packets, keeps to the window of the broker, and gets the answers."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import BridgeError, PayloadTooLarge
from ..adapter import Record, bytes_moved
from .errors import OLD, refusal

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
LAST_ID = 65535
FAREWELL = 1.0
"""Seconds in which a broker may close a connection that has said goodbye."""
CLOSED = "the connection to the MQTT broker is closed"
UNSAID = (
    "the MQTT broker closed the connection and did not say why: look in its log; if another client has the same client"
    " id, give each bridge a name= or client_id= of its own"
)
CONNACK = b"\x20"
"""How everything begins that a broker sends."""
OLD_CONNACK = b"\x20\x02"
"""How the answer of MQTT 3.1.1 begins, which has no properties."""

Pack = Callable[[Record, int | None], bytes]
"""Makes a packet of a record and an id; None with QoS 0."""
Question = tuple[Callable[[int], Any], Callable[[], None] | None]
"""What makes a packet of an id; and what is called the moment the answer comes, before whatever comes behind it."""


def short(kind: int, id: int) -> bytes:
    """Return a packet that has nothing but an id."""
    return struct.pack(">BBH", kind, 2, id)


class Connection(asyncio.Protocol):
    """A connection; once it has failed, every later call fails.

    Args:
        driver: The module `mqtt5`, which makes packets of bytes and bytes of packets.
        take: Called with each message that comes.
        taken: Called after the last of the messages that came together.
        lost: Called when the connection has failed, or was closed.
    """

    def __init__(
        self, driver: Any, take: Callable[[Any], None], taken: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._take = take
        self._taken = taken
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = bytearray()
        self._needed = 0  # bytes of the packet that has come in part
        self._written = 0
        self._answering: list[bytes] = []  # to what is being handled, sent together
        self._connack: asyncio.Future[Any] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._id = 0
        self._answers: dict[int, Callable[[Any], None]] = {}
        self._sent: dict[int, tuple[Batch, int]] = {}
        self._batch: Batch | None = None
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._window = LAST_ID
        self._keeping: asyncio.TimerHandle | None = None
        self._kept = 0
        self.error: Exception | None = None
        """Why it has failed; None while it has not."""
        self.received = 0
        """Bytes that came."""
        self.limit: int | None = None
        """Bytes that a packet to the broker may have."""
        self.kinds: dict[Any, Callable[[Any], None]] = {
            driver.PublishPacket: take,
            driver.PubAckPacket: self._acknowledged,
            driver.PubRecPacket: self._received_once,
            driver.PubRelPacket: lambda packet: self.answer(short(PUBCOMP, packet.packet_id)),
            driver.PubCompPacket: self._acknowledged,
            driver.SubAckPacket: self._answered,
            driver.UnsubAckPacket: self._answered,
            driver.PingRespPacket: lambda packet: self._pong(),
            driver.ConnAckPacket: self._connected,
            driver.DisconnectPacket: lambda packet: self._fail(refusal("ends the connection", packet)),
        }
        """What is done with each kind of packet."""

    # Opening and closing

    async def open(self, host: str, port: int, context: ssl.SSLContext | None, hello: Any) -> Any:
        """Connect, and return the broker's answer to a `ConnectPacket`.

        Raises:
            OSError: There is no broker.
            BridgeError: It refuses the bridge.
        """
        await self._loop.create_connection(lambda: self, host, port, ssl=context)
        self.write(hello.write())
        answer = await self._connack
        if int(answer.reason_code) >= 0x80:
            self._fail(error := refusal("refuses the bridge", answer))
            raise error
        self._window = answer.receive_max
        self.limit = answer.max_packet_size
        keep_alive = hello.keep_alive if answer.server_keep_alive is None else answer.server_keep_alive
        if keep_alive:
            self._keep_alive(keep_alive / 3)
        return answer

    def _connected(self, answer: Any) -> None:
        if not self._connack.done():
            self._connack.set_result(answer)

    def _keep_alive(self, pause: float, heard: int = 0) -> None:
        """Send a ping unless something else was sent, so that the broker keeps the connection."""
        # While one is not answered, only what comes is a sign of life: of a frozen broker, the system still
        # acknowledges pings, which would pass for a line that moves.
        if self._kept == self._written and (self.received != heard or not self._pongs):
            self.write(PINGREQ)
            self._pongs.append(self._loop.create_future())
        self._kept = self._written
        self._keeping = self._loop.call_later(pause, self._keep_alive, pause, self.received)

    async def close(self, goodbye: bool = True) -> None:
        """End it, whatever it is doing; with a goodbye its last will is not published. Closing twice is safe."""
        if goodbye and self.error is None and self._connack.done():
            self.write(DISCONNECT)
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._ended.wait()
            except TimeoutError:
                pass
        self._fail(None)
        if self._transport is not None:
            # Aborted, not closed: closing would wait for a broker that has stopped reading.
            self._transport.abort()
            await self._ended.wait()

    # Sending

    def write(self, data: bytes) -> None:
        """Send packets without waiting; if they are lost, `error` is set."""
        if self._transport is not None and self.error is None:
            self._written += len(data)
            self._transport.write(data)

    def answer(self, data: bytes) -> None:
        """Send a packet together with the other answers to what is being handled."""
        self._answering.append(data)

    async def publish(
        self, records: Sequence[Record], pack: Pack, qos: Callable[[Record], int]
    ) -> dict[int, Exception]:
        """Publish records in order; return the errors of those that are refused when the broker has answered for all.

        Args:
            records: The records.
            pack: Makes a packet of each; what it raises is the error of that record.
            qos: Says with which QoS a record is published.

        Raises:
            ConnectionError: The connection is lost.
        """
        if self.error is not None or self._transport is None:
            raise self.failure()
        self._batch = batch = Batch(records, pack, qos, self._loop.create_future())
        self._pump()
        await batch.future
        if batch.is_unconfirmed:
            await self.ping()
        return batch.refused

    def _pump(self) -> None:
        """Send as much of the batch as the broker's window lets through."""
        batch, sent, window = self._batch, self._sent, self._window
        if batch is None:
            return
        records, pack, out = batch.records, batch.pack, []
        while batch.next < len(records) and len(sent) < window:
            index, record = batch.next, records[batch.next]
            batch.next += 1
            id = self._next_id() if batch.qos(record) else None
            try:
                data = pack(record, id)
                if self.limit is not None and len(data) > self.limit:
                    raise PayloadTooLarge(record.key, len(data), self.limit)
            except Exception as error:
                batch.refused[index] = error
                continue
            if id is None:
                batch.is_unconfirmed = True
            else:
                sent[id] = batch, index
                batch.open += 1
            out.append(data)
        if out:
            self.write(b"".join(out))
        if batch.next == len(records):
            self._batch = None
            batch.finish_if_done()

    def _next_id(self) -> int:
        while True:
            self._id = self._id % LAST_ID + 1
            if self._id not in self._sent and self._id not in self._answers:
                return self._id

    def _acknowledged(self, packet: Any) -> None:
        batch, index = self._sent.pop(packet.packet_id, (None, 0))
        if batch is None:
            return
        batch.open -= 1
        if int(packet.reason_code) >= 0x80:
            batch.refused[index] = refusal(f"refuses a message of {batch.records[index].key!r}", packet)
        if not batch.open:
            batch.finish_if_done()

    def _received_once(self, packet: Any) -> None:
        if int(packet.reason_code) >= 0x80:
            self._acknowledged(packet)
        else:
            self.answer(short(PUBREL, packet.packet_id))

    async def ask(self, packets: Sequence[Question]) -> list[Any]:
        """Send packets that are answered, such as SUBSCRIBE; return the answers.

        Raises:
            ConnectionError: The connection is lost.
        """
        if self.error is not None or self._transport is None:
            raise self.failure()
        futures, out = [], []
        for make, then in packets:
            id, future = self._next_id(), self._loop.create_future()
            self._answers[id] = _answering(future, then)
            futures.append(future)
            out.append(make(id).write())
        self.write(b"".join(out))
        return [await future for future in futures]

    def _answered(self, packet: Any) -> None:
        answer = self._answers.pop(packet.packet_id, None)
        if answer is not None:
            answer(packet)

    async def ping(self) -> None:
        """Return when the broker has answered: then it has read all that was sent before.

        Raises:
            ConnectionError: The connection is lost.
        """
        if self.error is not None or self._transport is None:
            raise self.failure()
        self._pongs.append(pong := self._loop.create_future())
        self.write(PINGREQ)
        await pong

    def _pong(self) -> None:
        if self._pongs and not (pong := self._pongs.popleft()).done():
            pong.set_result(None)

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.error is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.received and data[:1] != CONNACK:
            # Read as a packet, it would seem to have a length, and would be waited for.
            self._fail(self._stranger(data))
            return
        self.received += len(data)
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
        try:
            rest = self._read(memoryview(self._buffer or data))
            if self._buffer:
                del self._buffer[: len(self._buffer) - rest]
            elif rest:
                self._buffer += data[-rest:]
        except Exception as error:
            self._fail(error if self._connack.done() else self._stranger(bytes(self._buffer) or data))

    def _stranger(self, said: bytes) -> Exception:
        if said.startswith(OLD_CONNACK):
            return BridgeError(OLD)
        return ConnectionError(f"it is no MQTT broker: it has sent {said[:24]!r}")

    def _read(self, data: memoryview) -> int:
        """Handle all packets that are there; return how many bytes are left."""
        read, kinds, begin, end = self._driver.read, self.kinds, 0, len(data)
        while begin < end:
            try:
                packet, size = read(data[begin:])
            except IndexError:
                self._needed = size_of(data[begin : begin + 5])
                break
            begin += size
            kinds[type(packet)](packet)
        if self._batch is not None:
            self._pump()
        if self._answering:
            self.write(b"".join(self._answering))
            self._answering.clear()
        self._taken()
        return end - begin

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()
        self._fail(exc or ConnectionResetError(UNSAID))

    def _fail(self, cause: Exception | None) -> None:
        """Mark it as failed, and wake every caller with an error."""
        if self.error is not None:
            return
        self.error = cause or ConnectionResetError(CLOSED)
        if self._keeping is not None:
            self._keeping.cancel()
        waiting: list[asyncio.Future[Any]] = [self._connack, *self._pongs]
        waiting += {id(batch): batch.future for batch, _ in self._sent.values()}.values()
        if self._batch is not None:
            waiting.append(self._batch.future)
        for future in waiting:
            if not future.done():
                future.set_exception(self.failure())
                future.exception()  # its caller may be gone
        for answer in self._answers.values():
            answer(self.failure())
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    def failure(self) -> Exception:
        """Return an error that says why the connection failed."""
        if isinstance(self.error, BridgeError):
            return self.error
        failure = ConnectionResetError(CLOSED if self.error is None else str(self.error))
        failure.__cause__ = self.error
        return failure

    @property
    def moved(self) -> int:
        """A number that changes whenever bytes have moved over the connection."""
        transport = self._transport
        if transport is None:
            return 0
        # Where the system does not say what has arrived on the other side, count what has left this one.
        return 1 + self.received + (bytes_moved(transport) or self._written - transport.get_write_buffer_size())


class Batch:
    """Records that are being published."""

    __slots__ = ("future", "is_unconfirmed", "next", "open", "pack", "qos", "records", "refused")

    def __init__(
        self, records: Sequence[Record], pack: Pack, qos: Callable[[Record], int], future: asyncio.Future[None]
    ) -> None:
        self.records = records
        self.pack = pack
        self.qos = qos
        self.future = future
        self.next = 0  # what is sent next
        self.open = 0  # those that the broker has not answered for
        self.is_unconfirmed = False  # there is one that it will not answer for
        self.refused: dict[int, Exception] = {}

    def finish_if_done(self) -> None:
        """Wake the caller if everything was sent, and answered for."""
        if self.next == len(self.records) and not self.open and not self.future.done():
            self.future.set_result(None)


def _answering(future: asyncio.Future[Any], then: Callable[[], None] | None) -> Callable[[Any], None]:
    def answer(packet: Any) -> None:
        if isinstance(packet, Exception):
            if not future.done():
                future.set_exception(packet)
                future.exception()
            return
        if then is not None:
            then()
        if not future.done():
            future.set_result(packet)

    return answer


def size_of(head: memoryview) -> int:
    """Return the size of the packet that begins with these bytes; 0 if they are too few to know."""
    size = 0
    for index, byte in enumerate(head[1:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return 2 + index + size
    return 0
