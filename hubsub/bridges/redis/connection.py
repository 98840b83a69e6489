"""A connection to a Redis server: sends commands, and receives replies or messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...describe import describe_error
from ...errors import BridgeError
from ..adapter import bytes_moved
from .answers import error_of, is_denied, is_unknown, sound
from .resp import Command, pack, parser
from .scripts import Script

Take = Callable[[list[Any]], None]


class Connection(asyncio.Protocol):
    """A connection; once it has failed, every later call fails.

    redis-py opens it: TCP, TLS or a Unix socket. Commands are written and replies read here. Either any number of
    callers send commands and get their own replies, or everything received goes to one function, as after SUBSCRIBE.

    Args:
        driver: A redis-py connection that is not connected yet.
        adapter: The name of the adapter's class, for messages.
        lost: Called when the connection has failed, or was closed.
    """

    def __init__(self, driver: Any, adapter: str, lost: Callable[[], None] | None = None) -> None:
        self._driver = driver
        self._adapter = adapter
        self._lost = lost
        self._stream: Any = None
        self._transport: Any = None
        self._parser = parser(lambda words: error_of(words, adapter))
        self._exchanges: deque[_Exchange] = deque()
        self._take: Take | None = None
        self._written = 0
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        """Why it has failed; None while it has not."""
        self.received = 0
        """Bytes that came."""
        self.size = 0
        """Size of the last replies, in bytes."""
        self.seconds = 0.0
        """Seconds between the first and the last of these bytes."""
        self._is_logged_in = False
        self.round_trip = 0.0
        """Seconds that the login took."""
        self.unread = 0
        """Bytes that have gone to the function of `hand_over` since `resume`."""

    # Opening

    async def open(self, *commands: Command) -> list[Any]:
        """Connect, log in, and return the replies to some more commands: a single round trip once connected.

        Raises:
            redis.ConnectionError: There is no server, or it does not speak the protocol.
            redis.AuthenticationError: The password is wrong, or missing.
        """
        driver = self._driver
        await driver.connect()
        # Keep the stream alive as long as the connection: it would close the transport.
        self._stream, early = driver._writer, driver._reader
        driver._reader = driver._writer = None
        if self.error is not None:
            self._stream.transport.abort()
            raise self.failure()
        self._transport = self._stream.transport
        self._transport.set_protocol(self)
        if early._buffer:
            self.data_received(bytes(early._buffer))
        if self._transport.is_closing():
            self.connection_lost(early.exception())
        login, may_fail = await self._login()
        began = self._loop.time()
        replies = await self.ask(*login, *commands)
        self.round_trip = self._loop.time() - began
        self._is_logged_in = True
        for command, reply in zip(login, replies, strict=False):
            if isinstance(reply, Exception) and not command[:2] == may_fail:
                raise reply
        answers = replies[len(login) :]
        for reply in answers:
            if is_denied(reply) and str(reply).startswith("NOAUTH"):
                raise reply
        return answers

    async def _login(self) -> tuple[list[Command], Command]:
        """Return the commands of the login, and the prefix of those that may fail."""
        driver = self._driver
        commands: list[Command] = []
        if driver.credential_provider is not None:
            commands.append(("AUTH", *await driver.credential_provider.get_credentials_async()))
        elif driver.username:
            commands.append(("AUTH", driver.username, driver.password or ""))
        elif driver.password:
            commands.append(("AUTH", driver.password))
        if driver.client_name:
            commands.append(("CLIENT", "SETNAME", driver.client_name))
        about = getattr(driver, "driver_info", None)
        name = getattr(about, "formatted_name", None) or getattr(driver, "lib_name", None)
        version = getattr(about, "lib_version", None) or getattr(driver, "lib_version", None)
        if name:
            commands.append(("CLIENT", "SETINFO", "LIB-NAME", name))
        if version:
            commands.append(("CLIENT", "SETINFO", "LIB-VER", version))
        if driver.db:
            commands.append(("SELECT", driver.db))
        return commands, ("CLIENT", "SETINFO")

    # Asking

    def write(self, data: bytes) -> None:
        """Send packed commands without waiting; if they are lost, `error` is set."""
        if self._transport is not None:
            self._written += len(data)
            self._transport.write(data)

    async def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send `count` packed commands; return the reply to each: bytes, int, None, a list of such, or an exception.

        Cancelling a call does not affect others: its replies are dropped when they come.

        Raises:
            ConnectionResetError: The connection is lost.
        """
        if self.error is not None or self._transport is None:
            raise self.failure()
        if not count:
            return []
        exchange = _Exchange(count, self._loop.create_future())
        self._exchanges.append(exchange)
        self._written += len(data)
        self._transport.write(data)
        return await exchange.future

    def send(self, *commands: Command) -> None:
        """Send the commands, and drop the replies when they come."""
        if self.error is None and self._transport is not None:
            nobody: asyncio.Future[list[Any]] = self._loop.create_future()
            nobody.cancel()
            self._exchanges.append(_Exchange(len(commands), nobody))
            self.write(pack(*commands))

    async def ask(self, *commands: Command) -> list[Any]:
        """Send the commands together; return the reply to each."""
        return await self.exchange(pack(*commands), len(commands))

    async def run(self, script: Script, keys: Sequence[bytes], *arguments: Any) -> Any:
        """Run a script, sending it if the server lacks it; return its reply, which may be an error."""
        (reply,) = await self.ask(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if is_unknown(reply):
            (reply,) = await self.ask(("EVAL", script.text, len(keys), *keys, *arguments))
        return reply

    async def ask_scripts(self, scripts: Sequence[Script], *commands: Command) -> list[Any]:
        """Return the reply to each command that runs one of the scripts; load those if the server lacks one."""
        replies = await self.ask(*commands)
        if any(map(is_unknown, replies)):
            await self.load(scripts)
            replies = await self.ask(*commands)
        return replies

    async def load(self, scripts: Sequence[Script]) -> None:
        """Load scripts into the server."""
        for reply in await self.ask(*(("SCRIPT", "LOAD", script.text) for script in scripts)):
            sound(reply)

    async def atomically(self, *commands: Command) -> list[Any]:
        """Send the commands as a transaction; return the reply to each."""
        queued: list[Any]
        replies: Any
        *queued, replies = await self.ask(("MULTI",), *commands, ("EXEC",))
        if isinstance(replies, Exception):
            # The reason is the reply to the command that could not be queued.
            sound(next((reply for reply in queued if isinstance(reply, Exception)), replies))
        answers: Any = replies
        return list(answers)

    def hand_over(self, take: Take) -> None:
        """Call a function with everything that is received from now on."""
        self._take = take

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self.error is None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, since what was received has been used."""
        self.unread = 0
        if self.error is None and not self._transport.is_reading():
            self._transport.resume_reading()

    # Called by the loop

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.received += size
        take, exchanges = self._take, self._exchanges
        try:
            if take is not None:
                self.unread += size
                replies = self._parser.feed(data)
                if replies:
                    take(replies)
                return
            if exchanges:
                exchanges[0].note(size, self._loop.time())
            replies = self._parser.feed(data, is_flow=False)
            while replies:
                replies = self._answer(replies)
        except ValueError as error:
            self._fail(error if self._is_logged_in else ConnectionError(f"it is no Redis: it has sent {data[:24]!r}"))
        except Exception as error:
            self._fail(error)

    def _answer(self, replies: list[Any]) -> list[Any]:
        """Pass replies to the callers in the order of their commands; return those that are left."""
        if not self._exchanges:
            raise next((each for each in replies if isinstance(each, Exception)), None) or ConnectionError(
                "Redis has sent a reply to no command"
            )
        first = self._exchanges[0]
        rest = first.take(replies)
        if first.left == 0:
            self._exchanges.popleft()
            self.size, self.seconds = first.size, self._loop.time() - first.began
            if not first.future.done():
                first.future.set_result(first.replies)
        return rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()
        self._fail(exc)

    def _fail(self, cause: Exception | None) -> None:
        """Mark it as failed, and wake every caller with an error."""
        if self.error is not None:
            return
        self.error = cause or ConnectionResetError(self._closed)
        while self._exchanges:
            future = self._exchanges.popleft().future
            if not future.done():
                future.set_exception(self.failure())
        if self._transport is not None:
            self._transport.abort()
        if self._lost is not None:
            self._lost()

    def failure(self) -> Exception:
        """Return a new exception that says why the connection failed, for each caller its own."""
        cause = self.error
        why = "" if cause is None or str(cause) == self._closed else f": {describe_error(cause)}"
        failure = ConnectionResetError(self._closed + why)
        failure.__cause__ = cause
        return failure

    @property
    def _closed(self) -> str:
        return f"the connection of {self._adapter} to Redis is closed"

    def reason(self) -> Exception:
        """Return why the connection was lost: an error that the server has sent, if that was the reason."""
        return self.error if isinstance(self.error, BridgeError) else self.failure()

    @property
    def owes(self) -> bool:
        """True while a reply is outstanding."""
        return bool(self._exchanges)

    @property
    def moved(self) -> int:
        """A number that changes whenever bytes have moved over the connection."""
        transport = self._transport
        if transport is None:
            return 0
        # Where the system does not report what has arrived on the other side, count what has left this one.
        return 1 + self.received + (bytes_moved(transport) or self._written - transport.get_write_buffer_size())

    async def close(self) -> None:
        """Cut it, whatever it is doing; callers that wait for a reply get an exception. Closing twice is safe."""
        self._fail(None)
        if self._transport is not None:
            # Aborted, not closed: closing would wait for a server that has stopped reading.
            self._transport.abort()
            await self._ended.wait()


class _Exchange:
    """Commands whose replies are outstanding."""

    __slots__ = ("began", "future", "left", "replies", "size")

    def __init__(self, count: int, future: asyncio.Future[list[Any]]) -> None:
        self.left = count
        self.future = future
        self.replies: list[Any] = []
        self.size = 0
        self.began = 0.0

    def note(self, size: int, time: float) -> None:
        """Count bytes of the replies that have come."""
        if not self.size:
            self.began = time
        self.size += size

    def take(self, replies: list[Any]) -> list[Any]:
        """Keep the replies that belong to these commands; return the rest."""
        count = len(replies)
        if count <= self.left:
            self.left -= count
            mine, rest = replies, []
        else:
            mine, rest = replies[: self.left], replies[self.left :]
            self.left = 0
        if not self.future.done():
            if self.replies:
                self.replies += mine
            else:
                self.replies = mine
        return rest
