"""The position of reading in a Redis stream, and the state of the stream: together they show what was missed."""

from __future__ import annotations

from dataclasses import dataclass

BEGINNING = b"0-0"


@dataclass(slots=True)
class Position:
    """A position in a stream: behind the entry `id`, the `ordinal`-th ever added to the stream of that epoch.

    An epoch is a random string stored beside the stream, a new one for each stream of that name.
    """

    id: bytes = BEGINNING
    ordinal: int | None = 0
    """None if it is unknown: the position was chosen by time, and reading has not reached the end since."""
    epoch: bytes | None = None

    def __bytes__(self) -> bytes:
        return b"%b %b %b" % (self.id, b"?" if self.ordinal is None else b"%d" % self.ordinal, self.epoch or b"")

    @classmethod
    def read(cls, text: bytes) -> Position:
        """Return the position that `bytes` has written.

        Raises:
            ValueError: It is not a position.
        """
        id, ordinal, epoch = text.split(b" ")
        number_of(id)
        return cls(id, None if ordinal == b"?" else int(ordinal), epoch)

    def is_void(self, stream: State) -> bool:
        """True if this is not the stream that the position belongs to."""
        return self.ordinal != 0 and (
            self.epoch != stream.epoch
            or stream.added < (self.ordinal or 0)
            or number_of(stream.last) < number_of(self.id)
        )

    def missed(self, stream: State, read: int, is_all: bool, before: int = 0) -> int:
        """Return how many entries after this position were missed, if `read` entries were just read from it.

        If `is_all`, reading has reached the end and the number is exact; else it is a minimum. The entries that are
        gone are those ever added less those still there; entries before this position may be among them. Of the entries
        that were read, `before` may be gone by now without having been missed.
        """
        if self.ordinal is None:
            return 0
        gone = stream.added - read if is_all else stream.added - stream.length - before
        return max(0, gone - self.ordinal)

    def advance(self, id: bytes, count: int) -> None:
        """Advance by `count` entries, the last of them `id`."""
        self.id = id
        if self.ordinal is not None:
            self.ordinal += count


@dataclass(frozen=True, slots=True)
class State:
    """The state of a stream at the server."""

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
    """Return an id as numbers, for comparison."""
    milliseconds, _, counter = id.partition(b"-")
    return int(milliseconds), int(counter)
