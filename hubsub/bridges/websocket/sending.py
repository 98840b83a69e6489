"""What leaves: messages at the pace that the endpoint allows, requests, replies, and signs of life."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from ...describe import describe_error
from ...errors import AccessRefused, BridgeError, EncodeError, PayloadTooLarge
from ...key import NAMESPACE, Key
from ..adapter import ConfirmedRecord, Link, NotFinished, Received, Record
from . import frames
from .flow import Position
from .frames import Frame, encode, said
from .options import Endpoint
from .pace import Pace
from .talk import Talk

# How long a responder elsewhere has for a reply, seconds: the most that an endpoint grants.
REPLY_SECONDS = 60
# Bytes in one frame, unless a message alone has more: over a slow line, answers come in between.
MOST_AT_ONCE = 256 * 1024
# How long everybody at the endpoint has to finish with a message that is confirmed, seconds.
CONFIRM_SECONDS = 30
# The longest pause in which nothing is sent while something waits, seconds.
PAUSE = 0.5


class Piece(NamedTuple):
    """A request of ours, encoded, and the record that it is made of."""

    at: int
    """Its index among the records."""
    id: int
    text: bytes
    record: Record


class Sending(Talk):
    """Sends what the relay hands over."""

    def __init__(self, endpoint: Endpoint, link: Link, position: Position, ids: count[int]) -> None:
        super().__init__(endpoint, link, position, ids)
        self.name = f"ws-{secrets.token_hex(16)}"
        """Names this connection, in correlations and in replies."""
        self.origin = link.sender.rpartition("-")[0] or link.sender
        self.pace = Pace(1.0, 1.0)
        self.turns = 0
        """Pauses while something waits to be sent."""
        self.echoed: set[str] = set()
        """Ids of requests of ours that came to ourselves."""
        self._beats: frozenset[Key[Any]] = frozenset()

    @property
    def sending(self) -> int | None:
        # An answer comes after everything sent before it; and bytes may wait because the endpoint allows no more now.
        return self.activity + self.turns

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        self._beats = frozenset(key for key in keys if key[:2] == (NAMESPACE, "beat"))

    async def send(self, records: Sequence[Record]) -> dict[int, Exception]:
        """Send records in order, at the pace that the endpoint allows; return the errors of those that it refuses."""
        refused: dict[int, Exception] = {}
        pieces: deque[Piece] = deque()
        for index, record in enumerate(records):
            try:
                if record.is_control and not self._is_notice(record):
                    await self._send_control(record)
                else:
                    pieces.append(self._piece(index, record))
            except (BridgeError, ValueError, TypeError) as error:
                refused[index] = error
        while pieces:
            if not (room := self.pace.room()):
                self.turns += 1
                await asyncio.sleep(min(self.pace.wait(), PAUSE))
                continue
            batch = self._next_batch(pieces, room)
            self.pace.spend(len(batch))
            again = await self._exchange(batch, refused)
            if again:
                self.pace.refused()
                pieces.extendleft(reversed(again))
        return refused

    def _next_batch(self, pieces: deque[Piece], room: int) -> list[Piece]:
        """Pop the pieces of the next frame: `most` of them at most, and one at least."""
        batch: list[Piece] = []
        size = 2
        confirmed = 0
        while pieces and len(batch) < room:
            piece = pieces[0]
            # What is confirmed is an open request there.
            confirmed += isinstance(piece.record, ConfirmedRecord)
            if batch and (
                size + len(piece.text) >= min(self._frame_bytes, MOST_AT_ONCE) or confirmed > self.limits["requests"]
            ):
                break
            size += len(piece.text) + 1
            batch.append(pieces.popleft())
        return batch

    @property
    def _frame_bytes(self) -> int:
        return int(self.limits["frame_bytes"])

    @staticmethod
    def _is_notice(record: Record) -> bool:
        return record.key == (NAMESPACE, "gap")

    async def _exchange(self, batch: list[Piece], refused: dict[int, Exception]) -> list[Piece]:
        """Send pieces in one frame, and wait for the answers; return those that are to be sent again."""
        future: asyncio.Future[None] = self.loop.create_future()
        answers: dict[int, Frame] = {}
        awaited = {piece.id for piece in batch if "ce_replyto" not in piece.record.headers}

        def answered(frame: Frame) -> None:
            assert frame.id is not None
            answers[frame.id] = frame
            if len(answers) == len(awaited) and not future.done():
                future.set_result(None)

        for piece in batch:
            if piece.id in awaited:
                self.answers[piece.id] = answered
        await self.send_text((b"[" + b",".join(piece.text for piece in batch) + b"]").decode())
        if not awaited:
            return []
        waiting = asyncio.ensure_future(self.until(future))
        try:
            while not waiting.done():
                # Listeners at the endpoint may need long to finish with a message.
                self.turns += any(isinstance(piece.record, ConfirmedRecord) for piece in batch)
                await asyncio.wait([waiting], timeout=PAUSE)
            waiting.result()
        finally:
            waiting.cancel()
        again = []
        for piece in batch:
            answer = answers.get(piece.id)
            if answer is None or answer.type == "ok":
                continue
            if answer.code in ("rate", "too-many"):
                again.append(piece)
            elif answer.code == "closing":
                raise ConnectionError(f"{self.endpoint!r} is closing")
            else:
                refused[piece.at] = self._error_of(piece.record, answer)
        return again

    def _error_of(self, record: Record, answer: Frame) -> Exception:
        if isinstance(record, ConfirmedRecord) and answer.code in ("failed", "timeout"):
            return NotFinished(f"{self.endpoint!r}, {record.key!r}: {said(answer)}")
        if answer.code == "forbidden":
            return AccessRefused(
                f"{self.endpoint!r} refuses {record.key!r}: {said(answer)}; allow it in the endpoint's incoming="
            )
        return BridgeError(f"{self.endpoint!r} refuses a message of {record.key!r}: {said(answer)}")

    def _piece(self, index: int, record: Record) -> Piece:
        """What is sent for a record.

        Raises:
            EncodeError: The endpoint would not understand it.
            PayloadTooLarge: It is too large for one frame.
        """
        id = next(self.ids)
        frame: dict[str, Any]
        if self._is_notice(record):
            frame = self._notice(id, record)
        else:
            is_request = "ce_replyto" in record.headers
            named = f"{self.link.sender}-{record.sequence}"
            frame = {
                "type": "request" if is_request else "publish",
                "id": id,
                "key": record.key,
                **frames.data_of(record, int(self.limits["depth"]) - 2),
                "headers": frames.headers_of(record, self.origin, named),
            }
            if isinstance(record, ConfirmedRecord):
                frame["confirm"] = CONFIRM_SECONDS
            if is_request:
                frame["timeout"] = REPLY_SECONDS
                self.answers[id] = lambda answer: self._replied(record, frame, answer)
        try:
            text = encode(frame)
        except UnicodeError as error:
            raise EncodeError(record.key, f"half of a surrogate pair is in it: {error}") from error
        if len(text) + 2 > self._frame_bytes:
            self.answers.pop(id, None)
            raise PayloadTooLarge(record.key, len(text) + 2, self._frame_bytes)
        return Piece(index, id, text, record)

    @staticmethod
    def _notice(id: int, record: Record) -> dict[str, Any]:
        """The notice that messages were dropped before they could be sent."""
        notice = json.loads(record.payload)
        keys = notice["keys"] if notice["keys"] is not None else notice["patterns"]
        return {
            "type": "gap",
            "id": id,
            **{name: notice[name] for name in ("reason", "count", "since", "until")},
            "patterns": [Key.parse(text) for text in keys],
        }

    def _replied(self, record: Record, frame: dict[str, Any], answer: Frame) -> None:
        """A request of ours has got its answer."""
        headers = record.headers
        id = headers.get("ce_id", "")
        error = None
        payload: bytes = b"null"
        if answer.type == "ok":
            try:
                payload, _ = frames.payload_of(answer)
            except ValueError as invalid:
                error = str(invalid)
        elif answer.code == "rate":
            self.answers[frame["id"]] = lambda answer: self._replied(record, frame, answer)
            self.loop.call_later(PAUSE, self.say, frame)
            return
        elif answer.code == "timeout" or (answer.code == "failed" and id in self.echoed):
            return  # the caller has its own timeout, and may get a reply from elsewhere
        else:
            error = said(answer)
        more = dict(frames.reply_headers(f"{self.name}-{answer.id}", self.name, headers["ce_correlation"], error))
        if error is not None or answer.data_base64 is None:
            more["content-type"] = frames.JSON
        self.flow.put(Received(Key.parse(headers["ce_replyto"]), payload, more, is_control=True))

    async def _send_control(self, record: Record) -> None:
        kind = record.key[1]
        if record.key in self._beats:
            received = Received(record.key, record.payload, record.headers, is_control=True)
            if not any(isinstance(each, Received) for each in self.pongs):
                self.pongs.append(received)
                await self.send_text('[{"type":"ping"}]')
        elif kind == "beat":
            await self.ping()
        elif kind == "reply":
            await self._reply(record)

    async def _reply(self, record: Record) -> None:
        """Answer a request that came over this line; one of another line is over."""
        name, _, id = record.headers.get("ce_correlation", "").rpartition("-")
        if name != self.name or not id.isdigit():
            return
        frame: dict[str, Any] = {"type": "reply", "id": int(id)}
        error = record.headers.get("error")
        try:
            frame |= {"error": error} if error is not None else frames.data_of(record, int(self.limits["depth"]) - 2)
            text = encode([frame])
            if len(text) > self._frame_bytes:
                raise PayloadTooLarge(record.key, len(text), self._frame_bytes)
        except (BridgeError, UnicodeError) as refused:
            error = "the reply cannot be sent: " + describe_error(refused)[: frames.MOST_TEXT]
            text = encode([{"type": "reply", "id": int(id), "error": error}])
        await self.send_text(text.decode())
