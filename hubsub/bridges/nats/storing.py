"""Storing batches in order, though a stream may be full for a part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import BrokerBusy
from .jetapi import BUSY, JetApi
from .streams import Streams

FULL = (10002,)
"""JetStream's codes of errors that end when there is space again, beside those of its statuses from 500 on."""
SPARE = 10
"""How many times a batch must have room to be stored at once: others store, too, and JetStream counts more bytes."""
CAREFUL = 1000
"""Messages that are stored one by one after one was refused."""

Error = Mapping[str, Any]


class Storable(NamedTuple):
    """A message that a stream is to store."""

    stream: str
    id: bytes
    """By which JetStream knows it when it is stored again."""
    subject: bytes
    head: bytes
    payload: bytes


class Storing:
    """Stores the messages of a link, from one connect until the connection is lost.

    What comes at once is stored as far as it goes: a stream with `discard: new` refuses a message that has no room, and
    stores a smaller one behind it, or any, if room is made meanwhile. So where there is little room, and for a while
    after a refusal, each message is stored when the one before it is.

    Args:
        api: The connections.
        streams: The streams.
    """

    def __init__(self, api: JetApi, streams: Streams) -> None:
        self._api = api
        self._streams = streams
        self._careful = 0  # so many more are stored one by one
        self._stored: set[bytes] = set()  # of the batch that was refused in part

    async def store(self, messages: Sequence[Storable]) -> list[Error | None]:
        """Store messages; return an error or None for each, when all are stored that can be.

        Raises:
            BrokerBusy: A stream stores nothing now. What it has stored is not sent once more with the next call.
            OSError: There is no reply; nobody knows which ones are stored.
        """
        errors: list[Error | None] = [None] * len(messages)
        known = self._stored
        left = [index for index, message in enumerate(messages) if message.id not in known]
        is_careful = self._careful or not await self._have_room([messages[index] for index in left])
        step = 1 if is_careful else max(1, len(left))
        for begin in range(0, len(left), step):
            now = left[begin : begin + step]
            found = await self._api.publish([messages[index][2:] for index in now])
            self._careful = max(0, self._careful - step)
            for index, error in zip(now, found, strict=True):
                errors[index] = error
            busy = [index for index in now if _is_busy(errors[index])]
            if busy:
                known.update(messages[index].id for index in left[: begin + step] if errors[index] is None)
                self._careful = CAREFUL
                self._streams.may_be_full.update(messages[index].stream for index in busy)
                why = errors[busy[0]] or {}
                raise BrokerBusy(f"JetStream stores nothing now: {why['description']}")
        known.clear()
        return errors

    async def _have_room(self, messages: Sequence[Storable]) -> bool:
        """True if streams store more than these messages before they refuse any, as far as they say."""
        doubtful = self._streams.may_be_full
        if len(messages) < 2 or not doubtful:
            return True
        for stream in {message.stream for message in messages} & doubtful:
            info = await self._api.find(f"STREAM.INFO.{stream}")
            if info is not None and not _has_room(info, [each for each in messages if each.stream == stream]):
                return False
        return True


def _has_room(info: Mapping[str, Any], messages: Sequence[Storable]) -> bool:
    config, state = info["config"], info["state"]
    if config["discard"] != "new":
        return True
    size = sum(len(each.head) + len(each.payload) for each in messages)
    bounds = (
        (config["max_msgs"], state["messages"], len(messages)),
        (config["max_bytes"], state["bytes"], size),
    )
    # How many there are of each subject it does not say.
    return not config.get("discard_new_per_subject") and all(
        most <= 0 or used + SPARE * more <= most for most, used, more in bounds
    )


def _is_busy(error: Error | None) -> bool:
    return error is not None and (error["code"] >= BUSY or error.get("err_code") in FULL)
