"""Storing batches in order, though a stream may be full for a part of one, or change its leader in the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import BridgeError, BrokerBusy
from ..together import together
from .jetapi import BUSY, MISSING, JetApi, Silence
from .records import Storable
from .room import Room
from .streams import Streams

FULL = 10002
"""JetStream's code of an account that is full, which may end, as do the errors of its statuses from 500 on."""
PASSING = (10158, 10210)
"""Its codes of errors that end soon, and of which no room is the reason: an id that was proposed to the replicas and is
not stored yet; too many others that store whole batches."""
INCOMPLETE, ATTEMPTS = 10176, 3
"""Its code of the error that a part of a batch has not come, since the leader has changed meanwhile, or one message is
refused; and how often the same batch is sent until the second is likely."""
NOT_WHOLE = (10174, 10199)
"""Its codes of errors that a stream stores no batches as a whole, or no larger ones."""
CAREFUL = 1000
"""Messages that are stored one by one after one was refused."""

MOST_ADDED = 200
"""Bytes by which a message grows at most that is stored with others as a whole."""

Error = Mapping[str, Any]
NO_LEADER: Error = {"code": BUSY, "description": "the stream has no leader at the moment"}


class Storing:
    """Stores the messages of a link, from one connect until the connection is lost.

    What comes at once is stored as far as it goes: a stream with `discard: new` refuses a message that has no room, and
    stores a smaller one behind it, or any, if room is made meanwhile. So where there is little room, and for a while
    after a refusal, each message is stored when the one before it is.

    A stream with replicas loses what comes while it changes its leader, and stores what comes after it. So there a
    batch is stored as a whole, or not at all, where the stream can do that.

    Args:
        api: The connections.
        streams: The streams.
    """

    def __init__(self, api: JetApi, streams: Streams) -> None:
        self._api = api
        self._streams = streams
        self._room = Room(api, streams)
        self._careful = 0  # so many more are stored one by one
        self._stored: set[bytes] = set()  # of the batch that was refused in part

    async def store(self, messages: Sequence[Storable]) -> list[Error | None]:
        """Store messages; return an error or None for each, when all are stored that can be.

        Raises:
            BrokerBusy: A stream stores nothing now. What it has stored is not sent once more with the next call.
            OSError: There is no reply; nobody knows which ones are stored. Or a stream is gone.
        """
        errors: list[Error | None] = [None] * len(messages)
        known = self._stored
        left = [index for index, message in enumerate(messages) if message.id not in known]
        is_careful = self._careful or not await self._room.suffices([messages[index] for index in left])
        step = 1 if is_careful else max(1, len(left))
        for begin in range(0, len(left), step):
            now = left[begin : begin + step]
            found = await self._store([messages[index] for index in now])
            self._careful = max(0, self._careful - step)
            for index, error in zip(now, found, strict=True):
                errors[index] = error
            busy = [index for index in now if _is_busy(errors[index])]
            if busy:
                known.update(messages[index].id for index in left[: begin + step] if errors[index] is None)
                why = errors[busy[0]] or {}
                refusing = {messages[index].stream for index in busy}
                if why is NO_LEADER and refusing - self._streams.whole:
                    # Not at once: a leader that appears in the middle would store the last ones first.
                    self._careful = max(1, self._careful)
                elif why is not NO_LEADER and why.get("err_code") not in PASSING:
                    self._streams.may_be_full |= refusing
                    self._careful = CAREFUL
                raise BrokerBusy(f"JetStream stores nothing now: {why['description']}")
        known.clear()
        return errors

    async def _store(self, messages: Sequence[Storable]) -> list[Error | None]:
        """Store messages at once, those of one stream in their order."""
        whole = self._streams.whole
        if len(messages) < 2 or not whole:
            return await self._publish(messages)
        lots: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            lots.setdefault(message.stream if message.stream in whole else "", []).append(index)
        found = await together(
            (self._store_whole if stream and len(indices) > 1 else self._publish)(
                [messages[index] for index in indices]
            )
            for stream, indices in lots.items()
        )
        errors: list[Error | None] = [None] * len(messages)
        for indices, those in zip(lots.values(), found, strict=True):
            for index, error in zip(indices, those, strict=True):
                errors[index] = error
        return errors

    async def _store_whole(self, messages: Sequence[Storable]) -> list[Error | None]:
        """Store all messages, which are of one stream, or none; if one of them is the reason, all but that one."""
        most = self._api.writer.client.max_payload - MOST_ADDED
        if any(len(message.head) + len(message.payload) > most for message in messages):
            return await self._one_by_one(messages)
        for _ in range(ATTEMPTS):
            error = await self._api.publish_whole([message[2:] for message in messages])
            if error is None or _is_busy(error):
                return [error] * len(messages)
            if error.get("err_code") in NOT_WHOLE:
                self._streams.whole.discard(messages[0].stream)
            if error.get("err_code") != INCOMPLETE:
                break
        # Some are stored already, or one of them is refused: each has an answer of its own.
        return await self._one_by_one(messages)

    async def _one_by_one(self, messages: Sequence[Storable]) -> list[Error | None]:
        errors: list[Error | None] = []
        for message in messages:
            errors += await self._publish([message])
            if _is_busy(errors[-1]):
                break
        return errors + errors[-1:] * (len(messages) - len(errors))

    async def _publish(self, messages: Sequence[Storable]) -> list[Error | None]:
        return await self._explained(messages, await self._api.publish([message[2:] for message in messages]))

    async def _explained(self, messages: Sequence[Storable], errors: list[dict[str, Any] | None]) -> list[Error | None]:
        """Find out why nobody has stored a message: the stream may have no leader, or be gone, or have no such subject.

        Raises:
            ConnectionResetError: A stream is gone; the next connection makes it again.
        """
        found: list[Error | None] = [*errors]
        if not any(error is not None and error["code"] == MISSING for error in errors):
            return found
        subjects: dict[str, Sequence[bytes]] = {}
        for index, (message, error) in enumerate(zip(messages, errors, strict=True)):
            if error is None or error["code"] != MISSING:
                continue
            if message.stream not in subjects:
                try:
                    subjects[message.stream] = await self._streams.subjects(message.stream)
                except (BridgeError, Silence):
                    subjects[message.stream] = [b">"]  # it cannot say so now
            if any(_covers(each, message.subject) for each in subjects[message.stream]):
                found[index] = NO_LEADER
        return found


def _is_busy(error: Error | None) -> bool:
    return error is not None and (error["code"] >= BUSY or error.get("err_code") in (FULL, *PASSING))


def _covers(pattern: bytes, subject: bytes) -> bool:
    """True if a subject of a stream, perhaps with wildcards, stands for this one."""
    parts, tokens = pattern.split(b"."), subject.split(b".")
    if parts[-1] == b">":
        parts, tokens = parts[:-1], tokens[: len(parts) - 1] if len(tokens) >= len(parts) else []
    return len(parts) == len(tokens) and all(part in (b"*", token) for part, token in zip(parts, tokens, strict=True))
