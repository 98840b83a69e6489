"""The frames that wait for one connection, and what a full queue does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, TypeAlias

from .._core.gaps import OpenGap
from .._core.message_queue import Overflow
from ..event import Gap
from ..key import Key
from .limits import Limits

Item: TypeAlias = bytes | Gap


class Owner(Protocol):
    """Whose queue it is."""

    def has_something(self) -> None:
        """There is something to send."""

    def too_slow(self) -> None:
        """The queue was full under `CLOSE`."""


class FrameQueue:
    """Frames that wait for one connection, within two bounds: messages, and bytes.

    Beyond a bound its owner is too slow: what would be put is dropped. One replay at a time may exceed the bounds,
    since a client that comes back may have missed more than that.
    """

    __slots__ = ("_most", "_most_bytes", "_owner", "_room", "_room_bytes", "bytes", "is_marked", "items")

    def __init__(self, limits: Limits, owner: Owner) -> None:
        # An empty list is small, and most connections have nothing that waits.
        self.items: list[Any] = []
        self.bytes = 0
        self.is_marked = False
        """The owner knows that there is something."""
        self._most = limits.queue_messages
        self._most_bytes = limits.queue_bytes
        # The bounds, and what is left of a replay.
        self._room = self._most
        self._room_bytes = self._most_bytes
        self._owner = owner

    def __len__(self) -> int:
        return len(self.items)

    def put(self, key: Key[Any], frame: bytes) -> None:
        """Queue a frame; the listener of a connection."""
        items = self.items
        items.append(frame)
        size = self.bytes = self.bytes + len(frame)
        if len(items) > self._room or (size > self._room_bytes and len(items) > 1):
            items.pop()
            self.bytes -= len(frame)
            self._owner.too_slow()
        elif not self.is_marked:
            self._owner.has_something()

    def reply(self, frame: bytes) -> None:
        """Queue the answer to a request, in its place among the messages: it says up to where these are."""
        items = self.items
        items.append(frame)
        self.bytes += len(frame)
        if len(items) > self._room or (self.bytes > self._room_bytes and len(items) > 1):
            # The client asks and does not read the answers.
            self._owner.too_slow()
        elif not self.is_marked:
            self._owner.has_something()

    def replay(self, frames: Collection[bytes]) -> None:
        """Queue the frames of a replay, however many; while one waits, those of the next take room like answers."""
        if self._room == self._most:
            self._room += len(frames)
            self._room_bytes += sum(map(len, frames))
        for frame in frames:
            self.reply(frame)

    def miss(self, gap: Gap) -> None:
        """Queue a gap, which takes no room."""
        self.items.append(gap)
        if not self.is_marked:
            self._owner.has_something()

    def take(self, most: int, most_bytes: int) -> list[Item]:
        """Pop at most so many frames, of at most so many bytes together; a larger frame comes alone."""
        items = self.items
        if len(items) <= most and self.bytes <= most_bytes:
            self.items = []
            self.bytes = 0
            if self._room > self._most:
                self._shrink(len(items), self._room_bytes)
            return items
        taken: list[Item] = []
        size = 0
        for item in items[:most]:
            length = len(item) if isinstance(item, bytes) else 0
            if taken and size + length > most_bytes:
                break
            size += length
            taken.append(item)
        del items[: len(taken)]
        self.bytes -= size
        self._shrink(len(taken), size)
        return taken

    def _shrink(self, count: int, size: int) -> None:
        """Give up the room of a replay as it is sent."""
        if self._room > self._most:
            self._room = max(self._room - count, self._most)
            self._room_bytes = max(self._room_bytes - size, self._most_bytes)

    def clear(self) -> None:
        self.items = []
        self.bytes = 0


class DroppingQueue(FrameQueue):
    """Under the other policies a full queue drops messages, and a gap stands where they are missing."""

    __slots__ = ("_count", "_keys", "_overflow")

    def __init__(self, limits: Limits, owner: Owner, overflow: Overflow) -> None:
        super().__init__(limits, owner)
        self._overflow = overflow
        self._keys: dict[Key[Any], None] = {}
        self._count = 0  # messages, without the gaps

    # Items are pairs of key and frame, answers, gaps, and open gaps.

    def put(self, key: Key[Any], frame: bytes) -> None:
        if self._overflow is Overflow.LATEST and key in self._keys:
            self._replace(key, frame)
        elif self._overflow is Overflow.DROP_NEWEST and self._is_full(frame):
            self._open_at_the_end().add(key)
        else:
            while self._is_full(frame) and self._drop_oldest():
                pass
            self._keys[key] = None
            self.items.append((key, frame))
            self.bytes += len(frame)
            self._count += 1
        if not self.is_marked:
            self._owner.has_something()

    def _is_full(self, frame: bytes) -> bool:
        return self._count >= self._most or (self.bytes + len(frame) > self._room_bytes and self.bytes > 0)

    def _replace(self, key: Key[Any], frame: bytes) -> None:
        for index, item in enumerate(self.items):
            if type(item) is tuple and item[0] == key:
                self.bytes += len(frame) - len(item[1])
                self.items[index] = key, frame
                return

    def _drop_oldest(self) -> bool:
        """Drop the first message; return False if there is none."""
        items = self.items
        index = next((index for index, item in enumerate(items) if type(item) is tuple), None)
        if index is None:
            return False
        key, frame = items[index]
        self.bytes -= len(frame)
        self._count -= 1
        self._keys.pop(key, None)
        for beside in (index - 1, index + 1):
            if 0 <= beside < len(items) and type(items[beside]) is OpenGap:
                items[beside].add(key)
                del items[index]
                return True
        items[index] = OpenGap(self._overflow.value, 0)
        items[index].add(key)
        return True

    def _open_at_the_end(self) -> OpenGap:
        if not self.items or type(self.items[-1]) is not OpenGap:
            self.items.append(OpenGap(self._overflow.value, 0))
        last: OpenGap = self.items[-1]
        return last

    def take(self, most: int, most_bytes: int) -> list[Item]:
        taken: list[Item] = []
        size = 0
        for item in self.items[:most]:
            if type(item) is OpenGap:
                taken.append(item.gap())
            elif type(item) is Gap:
                taken.append(item)
            else:
                key, frame = item if type(item) is tuple else (None, item)
                if taken and size + len(frame) > most_bytes:
                    break
                size += len(frame)
                taken.append(frame)
                if key is not None:
                    self._count -= 1
                    self._keys.pop(key, None)
        del self.items[: len(taken)]
        self.bytes -= size
        self._shrink(len(taken), size)
        return taken

    def clear(self) -> None:
        super().clear()
        self._keys.clear()
        self._count = 0


def queue_for(overflow: Overflow, limits: Limits, owner: Owner) -> FrameQueue:
    """Make the queue of a policy."""
    if overflow is Overflow.CLOSE:
        return FrameQueue(limits, owner)
    return DroppingQueue(limits, owner, overflow)
