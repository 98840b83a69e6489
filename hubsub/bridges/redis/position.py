"""Where reading is in a stream of Redis, and what the server says of the stream: together they tell what was missed."""

from __future__ import annotations

from dataclasses import dataclass

BEGINNING = b"0-0"


@dataclass(slots=True)
class Position:
    """A position in a stream: behind the entry `id`, the `ordinal`-th that was ever added to the stream of that epoch.

    An epoch is a random string beside the stream, a new one for each stream of that name.
    """

    id: bytes = BEGINNING
    ordinal: int | None = 0
    """None if it is not known: it was chosen by time, and the end was not reached since."""
    epoch: bytes | None = None

    def __bytes__(self) -> bytes:
        return b"%b %b %b" % (self.id, b"?" if self.ordinal is None else b"%d" % self.ordinal, self.epoch or b"")

    @classmethod
    def read(cls, text: bytes) -> Position:
        """The position that was written so.

        Raises:
            ValueError: It is none.
        """
        id, ordinal, epoch = text.split(b" ")
        number_of(id)
        return cls(id, None if ordinal == b"?" else int(ordinal), epoch)

    def is_void(self, stream: State) -> bool:
        """True if this is not the stream in which the position was."""
        return self.ordinal != 0 and (
            self.epoch != stream.epoch
            or stream.added < (self.ordinal or 0)
            or number_of(stream.last) < number_of(self.id)
        )

    def missed(self, stream: State, read: int, is_all: bool, before: int = 0) -> int:
        """How many entries behind this position are gone, if `read` were read just now; at least, unless that `is_all`.

        Of all that were ever added, as many are gone as the stream is shorter; those before this position may be among
        them. All that are gone show where reading comes to the end. Of those that were read, so many `before` may be
        gone by now without being missed.
        """
        if self.ordinal is None:
            return 0
        gone = stream.added - read if is_all else stream.added - stream.length - before
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
    first: bytes | None = None
    """The id of the first entry there; None if there is none."""


def number_of(id: bytes) -> tuple[int, int]:
    """An id, to be compared."""
    milliseconds, _, counter = id.partition(b"-")
    return int(milliseconds), int(counter)
