"""Dead letters: messages of a stream of their own, with what is to be known of them in headers."""

from __future__ import annotations

import base64

from ...errors import NoSuchLetter, PayloadTooLarge
from ..adapter import Buried, Received
from ..log import letter_number
from .headers import pack, unpack
from .jetapi import BUSY, Refused
from .pulls import Stored
from .streams import Streams, from_number

READER, ID = "hubsub-reader", "Nats-Msg-Id"
"""Headers: to which `Link.reader` a message was sent back; by what JetStream knows a message that is stored again."""
DEAD = "hubsub-dead-"
"""What the headers of a letter begin with that are not those of its message."""
MOST_READ = 4096
"""Numbers that are looked through at a time: those of letters that were sent back are empty."""


def letter_head(received: Received, reader: str, why: str) -> bytes:
    """Return the headers of a letter."""
    of_letter = {"reason": why, "reader": reader, "attempts": str(received.attempts)}
    if received.position is not None:
        of_letter["position"] = received.position
    if received.time is not None:
        of_letter["time"] = repr(received.time)
    return pack(received.headers, {f"{DEAD}{name}": value for name, value in of_letter.items()})


async def bury(streams: Streams, received: Received, reader: str, why: str) -> Exception | None:
    """Store a letter; return the error if it is refused for good."""
    head, payload = letter_head(received, reader, why), received.payload or b""
    most = streams.api.writer.client.max_payload
    if len(head) + len(payload) > most:
        return PayloadTooLarge(received.key, len(head) + len(payload), most)
    await streams.make_dead()
    (error,) = await streams.api.publish([(streams.dead.subject(received.key), head, payload)])
    if error is None:
        return None
    if error["code"] >= BUSY:
        raise ConnectionResetError(f"JetStream does not store a dead letter: {error['description']}")
    return Refused.of(error)


async def listed(streams: Streams, limit: int, before: int | None) -> list[Buried]:
    """Return the last letters below a number, the oldest first."""
    state = await streams.look_at(streams.dead_name)
    found: list[Stored] = []
    if state is not None:
        end = state.last if before is None else min(state.last, before - 1)
        many = limit
        while len(found) < limit and end >= state.first:
            begin = max(state.first, end - many + 1)
            rows = await streams.read(streams.dead_name, end - begin + 1, **from_number(begin))
            found = [row for row in rows if row[0] <= end] + found
            end, many = begin - 1, min(2 * many, MOST_READ)
    return [_letter(streams, row) for row in found[max(0, len(found) - limit) :]]


def _headers(head: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers of the message in a letter, and those of the letter, by their names without `DEAD`."""
    _, headers, own = unpack(head) if head else ("", {}, {})
    return headers, {name[len(DEAD) :]: value for name, value in own.items() if name.startswith(DEAD)}


def _letter(streams: Streams, row: Stored) -> Buried:
    message = row.message
    headers, said = _headers(message.head)
    key = streams.dead.key(message.subject)
    assert key is not None
    attempts, time = said.get("attempts", ""), said.get("time")
    received = Received(
        key,
        message.payload,
        headers,
        position=said.get("position"),
        attempts=int(attempts) if attempts.isdecimal() else 0,
        time=None if time is None else float(time),
    )
    return Buried(received, said.get("reason", ""), f"dead-{row[0]}", row[3], said.get("reader"))


async def send_back(streams: Streams, position: str) -> None:
    """Store the message of a letter again, for the reader that gave it up; then remove the letter.

    Raises:
        NoSuchLetter: There is no letter at that position, or no longer one.
    """
    number, name = letter_number(position), streams.dead_name
    found = await streams.api.find(f"STREAM.MSG.GET.{name}", {"seq": number})
    if found is None:
        raise NoSuchLetter(position)
    message = found["message"]
    headers, said = _headers(base64.b64decode(message.get("hdrs", "")))
    key = streams.dead.key(message["subject"].encode())
    assert key is not None
    # Whoever does it twice stores it once.
    own = {ID: f"{name}-{number}-{message['time']}"}
    head = pack(headers, own if (reader := said.get("reader")) is None else {READER: reader, **own})
    _, subject = await streams.place(key)
    (error,) = await streams.api.publish([(subject, head, base64.b64decode(message.get("data", "")))])
    if error is not None:
        raise Refused.of(error)
    try:
        await streams.api.ask(f"STREAM.MSG.DELETE.{name}", {"seq": number, "no_erase": True})
    except Refused:
        if await streams.api.find(f"STREAM.MSG.GET.{name}", {"seq": number}) is not None:
            raise
        raise NoSuchLetter(position) from None  # somebody else has sent it back
