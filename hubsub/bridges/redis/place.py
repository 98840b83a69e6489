"""Where reading is in a stream of Redis, and what the server says of the stream: together they tell what was missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import HubsubError

BEGINNING = b"0-0"


@dataclass(slots=True)
class Place:
    """A place in a stream: behind the entry `id`, the `ordinal`-th that was ever added to the stream of that epoch."""

    id: bytes = BEGINNING
    ordinal: int | None = 0
    """None if it is not known: it was chosen by time, and the end was not reached since."""
    epoch: bytes | None = None

    def __bytes__(self) -> bytes:
        return b"%b %b %b" % (self.id, b"?" if self.ordinal is None else b"%d" % self.ordinal, self.epoch or b"")

    @classmethod
    def read(cls, text: bytes) -> Place:
        """The place that was written so."""
        id, ordinal, epoch = text.split(b" ")
        return cls(id, None if ordinal == b"?" else int(ordinal), epoch)

    def is_void(self, stream: State) -> bool:
        """True if this is not the stream in which the place was."""
        return self.ordinal != 0 and (
            self.epoch != stream.epoch
            or stream.added < (self.ordinal or 0)
            or number_of(stream.last) < number_of(self.id)
        )

    def missed(self, stream: State, read: int, is_all: bool) -> int:
        """How many entries behind this place are gone, if `read` were read just now; at least, unless that `is_all`.

        Of all that were ever added, as many are gone as the stream is shorter; those before this place may be among
        them. All that are gone show where reading comes to the end.
        """
        if self.ordinal is None:
            return 0
        gone = stream.added - read if is_all else stream.added - stream.length
        return max(0, gone - self.ordinal)

    def advance(self, id: bytes, count: int) -> None:
        """Go on behind `count` more, the last of them `id`."""
        self.id = id
        if self.ordinal is not None:
            self.ordinal += count


@dataclass(frozen=True, slots=True)
class State:
    """What the server says of a stream."""

    epoch: bytes | None
    added: int = 0
    """Entries ever added."""
    length: int = 0
    """Entries there."""
    last: bytes = BEGINNING
    """The last id ever given."""

    @classmethod
    def of(cls, epoch: bytes | None, info: Any) -> State:
        """Of the replies to GET and XINFO STREAM."""
        if isinstance(info, Exception):
            if "no such key" not in str(info):
                raise info
            return cls(epoch)
        named = dict(zip(info[::2], info[1::2], strict=True))
        if b"entries-added" not in named:
            raise HubsubError("RedisStreamAdapter needs Redis 7.0 or newer, which counts the entries of a stream")
        return cls(epoch, named[b"entries-added"], named[b"length"], named[b"last-generated-id"])


def number_of(id: bytes) -> tuple[int, int]:
    """An id, to be compared."""
    milliseconds, _, counter = id.partition(b"-")
    return int(milliseconds), int(counter)
