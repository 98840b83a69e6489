"""Dead letters: in a stream, which can be read as often as one likes; what was sent back is noted behind it."""

from __future__ import annotations

import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from pamqp import commands

from ...errors import BridgeError, NoSuchLetter
from ...key import Key
from ..adapter import Buried, Received
from . import frames
from .client import Connection, Refused
from .errors import explained, is_about_one
from .frames import OFFSET, Message
from .messages import BACK, LETTER, own_headers
from .names import ANYONE
from .streams import STREAM, entries

if TYPE_CHECKING:
    from .line import AmqpLine


async def declare(connection: Connection, name: str) -> None:
    """Declare exchange and stream."""
    channel = await connection.channel(
        commands.Queue.Declare(queue=name, durable=True, arguments=dict(STREAM)),
        commands.Exchange.Declare(exchange=name, exchange_type="topic", durable=True),
        commands.Queue.Bind(queue=name, exchange=name, routing_key="#"),
    )
    channel.close()


async def offsets(connection: Connection, name: str) -> dict[int, bool]:
    """Return the offsets of all letters that were not sent back, in order."""
    there: dict[int, bool] = {}
    async for message in entries(connection, name, "first"):
        if isinstance(back := message.headers.get(BACK), int):
            there.pop(back, None)
        else:
            there[int(message.headers[OFFSET])] = True
    return there


class Letters:
    """The dead letters of a namespace, over a connection."""

    def __init__(self, line: AmqpLine) -> None:
        self._line = line
        self._name = line.names.dead

    async def _declare(self) -> None:
        """Declare exchange and stream, once for each connection, and never twice at a time."""
        async with self._line.aside_lock:
            if not self._line.has_letters:
                await declare(self._line.reader, self._name)
                self._line.has_letters = True

    async def bury(self, received: Received, why: str, reader: str) -> Exception | None:
        """Write a letter; return the error if RabbitMQ will never accept it."""
        about = {
            "key": received.key.text,
            "reason": why,
            "attempts": str(received.attempts),
            "reader": reader,
            "time": str(time.time()),
        }
        if received.position is not None:
            about["position"] = received.position
        letter = received.headers, received.payload or b"", {f"{LETTER}{name}": text for name, text in about.items()}
        address = self._line.names.address(received.key)
        try:
            await self._declare()
            if not await self._line.put(self._name, address, *letter):
                # The stream was deleted.
                self._line.has_letters = False
                await self._declare()
                await self._line.put(self._name, address, *letter)
        except ValueError as error:
            return error
        except Refused as error:
            if is_about_one(error):
                return explained(error)
            raise explained(error) from error.__cause__
        return None

    async def last(self, limit: int, before: str | None = None) -> list[Buried]:
        """Return the last letters, or the last ones before the one of that position."""
        end = None if before is None else self._offset(before)
        name, connection = self._name, self._line.reader
        await self._declare()
        wanted = [offset for offset in await offsets(connection, name) if end is None or offset < end][-limit:]
        if not wanted:
            return []
        found: list[Buried] = []
        async with aclosing(entries(connection, name, wanted[0])) as messages:
            async for message in messages:
                if message.headers[OFFSET] in wanted:
                    found.append(self._read(message))
                if len(found) == len(wanted):
                    break
        return found

    async def redeliver(self, position: str) -> None:
        """Send a letter back to the reader that gave it up, and note that it is gone.

        Raises:
            NoSuchLetter: There is none at that position.
        """
        offset, line = self._offset(position), self._line
        await self._declare()
        if offset not in await offsets(line.reader, self._name):
            raise NoSuchLetter(position)
        async with aclosing(entries(line.reader, self._name, offset)) as messages:
            letter = self._read(await anext(messages))
        received, names = letter.received, line.names
        back: dict[str, Any] = {"key": received.key.text, "reader": letter.reader or ""}
        body, own = received.payload or b"", received.headers
        if letter.reader is None:
            await line.put(names.exchange, names.address(received.key), own, body)
        elif (queue := names.queue_of(letter.reader)) is None:
            await line.put(names.control, ANYONE, own, body, {BACK: back})
        elif not await line.put("", queue, own, body, {BACK: back}):
            raise BridgeError(f"the queue of {letter.reader} is gone, so the letter cannot go back: {queue}")
        await line.put(self._name, names.address(received.key), {}, b"", {BACK: offset})

    def _read(self, message: Message) -> Buried:
        start = len(LETTER)
        text = {
            name[start:]: frames.as_text(value) for name, value in message.headers.items() if name.startswith(LETTER)
        }
        key = self._line.names.key(frames.decoded(message.routing_key)) or Key("")
        moment, attempts = message.time, 0
        with suppress(KeyError, ValueError):
            key = Key.parse(text["key"])
            moment, attempts = float(text["time"]), int(text["attempts"])
        received = Received(key, message.body, own_headers(message), None, text.get("position"), attempts=attempts)
        position = f"{self._name}:{message.headers[OFFSET]}"
        return Buried(received, text.get("reason", ""), position, moment, text.get("reader"))

    def _offset(self, position: str) -> int:
        name, _, offset = position.rpartition(":")
        if name != self._name or not (offset.isascii() and offset.isdigit() and len(offset) < 20):
            raise NoSuchLetter(position)
        return int(offset)
