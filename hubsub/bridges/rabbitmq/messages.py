"""What came as a message of AMQP, as the contract has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...key import Key
from ..adapter import Received, SentBack
from . import frames
from .frames import BROKERS, COUNT, Message
from .names import Names

LETTER = "x-hubsub-dead-"
"""How headers begin in which it is written what a letter is: texts, as a stream keeps no tables."""
BACK = "x-hubsub-back"
"""The header of a message that goes back, and of a note in the stream that a letter did."""


def read_message(message: Message, names: Names, token: object) -> Received:
    """Return a message of a queue."""
    headers, attempts, back = message.headers, int(message.redelivered), None
    if any(name.startswith("x-") for name in headers):
        count, back = headers.get(COUNT), headers.get(BACK)
        attempts = count if isinstance(count, int) else attempts
    key = names.key(frames.decoded(message.routing_key)) or Key("")
    received = Received(key, message.body, own_headers(message), token=token, attempts=attempts, time=message.time)
    if not isinstance(back, dict):
        return received
    text, reader = (frames.as_text(back.get(name, "")) for name in ("key", "reader"))
    try:
        return SentBack.to(reader, received._replace(key=Key.parse(text)))
    except ValueError as error:
        return received._replace(trouble=error)


def own_headers(message: Message) -> dict[str, str]:
    """Return the headers of a message as it was published."""
    headers: Mapping[str, Any] = message.headers
    content_type = message.properties.get("content_type")
    found = {
        frames.name_in(name): value if type(value) is str else frames.as_text(value)
        for name, value in headers.items()
        if not (name[:1] in "xh" and name.startswith(BROKERS))
    }
    if content_type is not None:
        found["content-type"] = content_type
    return found
