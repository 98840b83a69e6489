"""What the fault suite must be able to do to a broker, and to the line that leads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from unittest import SkipTest

from ...bridges import Adapter


class Line(Protocol):
    """The line between an adapter and its broker. `Proxy` is one, for whatever speaks TCP."""

    @property
    def connections(self) -> int:
        """How many connections are open."""
        ...

    def cut(self) -> None:
        """Break all connections; bytes on their way are lost."""
        ...

    def abandon(self) -> None:
        """Break all connections on the side of the adapters; the broker keeps its own, until `forget`."""
        ...

    def forget(self) -> None:
        """Break on the side of the broker what was abandoned."""
        ...

    def cut_after(self, size: int) -> None:
        """Break all connections when `size` more bytes have passed in one of them, in the middle of a message."""
        ...

    def stall(self) -> None:
        """Let nothing through, in neither direction, while connections stay and new ones are accepted."""
        ...

    def stall_replies(self) -> None:
        """Let through what is sent to the broker but not its replies: it carries out requests, and nobody knows."""
        ...

    def resume(self) -> None:
        """Let through the bytes that were held back, and all that follow."""
        ...

    def slow(self, rate: float | None) -> None:
        """Let through `rate` bytes a second in each direction, over all connections together; None for no limit."""
        ...

    def delay(self, seconds: float) -> None:
        """Delay everything by `seconds` in each direction, without limiting the rate."""
        ...

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        ...

    async def accept(self) -> None:
        """Accept new connections again."""
        ...


class Raw(NamedTuple):
    """A message as another program, or an attacker, writes it: none of it need be valid."""

    parts: tuple[str, ...] | bytes
    """The address: parts to join as the broker's addresses are, without escaping; or the bytes themselves."""
    payload: bytes | None
    """The payload; None is for brokers that allow messages without one."""
    headers: Mapping[str, bytes] = {}
    """The headers, for brokers that have them."""


class Broker(Protocol):
    """A private broker that the suite may harm. Inherit from it: then the optional methods need not be written.

    A fault accepts the broker in any state, starts it if it is not running, and leaves it running and unharmed.
    """

    line: Line
    """Leads there."""
    forgets: bool = False
    """True if nothing is left of what it kept for clients that are away when it is killed; see `Features.resumes`."""
    keeps_leases: bool = False
    """True if what was on its way to a lost connection comes again only when its lease is over: the broker does not say
    what that was, so that the reader cannot hand it back. See `Features.lease`."""

    def adapter(self, *, direct: bool = False) -> Adapter:
        """Make an adapter that reaches it through `line`, or past the line if `direct`."""
        ...

    async def start(self) -> None:
        """Start it, and return when it replies; at once if it is running. Stored messages are there again."""
        ...

    def kill(self) -> None:
        """Kill it without warning, and return when it is dead; stored messages stay."""
        ...

    def freeze(self) -> None:
        """Stop it in the middle of anything: connections stay, new ones are accepted, and nothing replies."""
        ...

    def thaw(self) -> None:
        """Let it go on."""
        ...

    # Optional

    async def refuse_writes(self) -> None:
        """Make it accept no messages, over connections that are sound, as if it were out of memory."""
        raise SkipTest("this broker cannot be made to refuse writes")

    async def take_writes(self) -> None:
        """Make it accept messages again."""

    async def forbid(self, namespace: str) -> None:
        """Forbid the adapters to send into a namespace."""
        raise SkipTest("this broker cannot be made to deny permissions")

    async def allow(self, namespace: str) -> None:
        """Allow it again."""

    async def inject(self, namespace: str, messages: Sequence[Raw]) -> None:
        """Write these messages as another program would, in order, without any adapter.

        Messages that cannot be written at all are left out.
        """
        raise SkipTest("no other program can write to this broker")
