"""What a fault suite has to be able to do to a broker, and to the line that leads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from unittest import SkipTest

from ...bridges import Adapter


class Line(Protocol):
    """The line between an adapter and its broker. `Proxy` is one, for whatever speaks TCP."""

    @property
    def connections(self) -> int:
        """How many are open."""
        ...

    def cut(self) -> None:
        """Break all connections; what was on its way is lost."""
        ...

    def cut_after(self, size: int) -> None:
        """Break all connections when so many bytes more have passed in one of them, in the middle of a message."""
        ...

    def stall(self) -> None:
        """Let nothing through, in neither direction, while connections stay and new ones are accepted."""
        ...

    def stall_replies(self) -> None:
        """Let through what is sent to the broker and not what it answers: it does what it is told, and nobody knows."""
        ...

    def resume(self) -> None:
        """Let through what was kept back, and all that follows."""
        ...

    def slow(self, rate: float | None) -> None:
        """Let through so many bytes a second, in each direction, over all connections; None: as many as there are."""
        ...

    def delay(self, seconds: float) -> None:
        """Have everything arrive so much later, in each direction, without narrowing the line."""
        ...

    def refuse(self) -> None:
        """Refuse new connections; those which are open stay."""
        ...

    async def accept(self) -> None:
        """Accept new connections again."""
        ...


class Raw(NamedTuple):
    """A message as another program, or an enemy, writes it: nothing of it need make sense."""

    parts: tuple[str, ...] | bytes
    """What the address is made of: parts to join as the broker's addresses are, none of them escaped; or the bytes."""
    payload: bytes | None
    """None for a broker in which a message may have none."""
    headers: Mapping[str, bytes] = {}
    """For brokers that have any."""


class Broker(Protocol):
    """A broker of one's own, to be harmed. Inherit from it: what is optional is left out then.

    A fault takes it as it finds it, starts it if it does not run, and leaves it running and unharmed.
    """

    line: Line
    """Leads there."""

    def adapter(self, *, direct: bool = False) -> Adapter:
        """Make an adapter that reaches it by `line`; or past it."""
        ...

    async def start(self) -> None:
        """Return when it answers; at once if it does. What it had stored is there again."""
        ...

    def kill(self) -> None:
        """Kill it without warning, and return when it is dead; what it stored stays."""
        ...

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does: connections stay and connect, and nothing answers."""
        ...

    def thaw(self) -> None:
        """Let it go on."""
        ...

    # Optional

    async def refuse_writes(self) -> None:
        """Have it take no messages for the time being, over connections that are sound: out of memory, say."""
        raise SkipTest("this broker cannot be made to take no writes")

    async def take_writes(self) -> None:
        """Have it take messages again."""

    async def forbid(self, namespace: str) -> None:
        """Forbid the adapters to send into a namespace."""
        raise SkipTest("this broker cannot be made to forbid anything")

    async def allow(self, namespace: str) -> None:
        """Allow it again."""

    async def inject(self, namespace: str, messages: Sequence[Raw]) -> None:
        """Write these messages as another program would, in order, past every adapter.

        What cannot be written at all is left out.
        """
        raise SkipTest("nobody else can write to this broker")
