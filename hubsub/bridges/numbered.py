"""What an adapter says of its broker's log, whose records are numbered 1, 2, 3 …; `log` makes an `Adapter` of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .adapter import Adapter, Link, Loss, Received
from .address import Addresses
from .inbox import Inbox

as_tuple = tuple.__new__

Row = tuple[int, Any, Any, float | None]
"""A record: its number, the address of its key, its payload, and when it was stored, in seconds since the epoch."""


class LogState(NamedTuple):
    """What there is of a log."""

    epoch: str
    """Random; another one when the log was made anew."""
    first: int
    """The number of the oldest record that is kept; `last + 1` if none is."""
    last: int
    """The number of the newest record that ever was added; 0 if none was."""


class NumberedLog(Adapter):
    """What a subclass of `LogAdapter` says, beside `send`, `listen` and `bury` of `Adapter`.

    Each may raise `BrokerBusy`, and is then asked again; every other exception means that the connection is lost.
    Nothing is asked before `open` and after `shut`. Numbers have no holes, and whoever can see one can see all below
    it: so a broker gives them in the order of its commits.
    """

    link: Link
    """What the relay says; there from `open` on."""
    inbox: Inbox
    """For control messages, as they come. `ring` has the log be read at once, which else happens once a second; `fail`
    ends the connection. Another one for each connection."""
    addresses = Addresses("/", allowed="\x01-.0-\ud7ff\ue000-\U0010ffff")  # what may stand in any text
    """Makes addresses of keys, and keys of addresses."""

    async def open(self) -> None:
        """Connect, and make what is missing at the broker; `self.link` says what for."""
        raise NotImplementedError

    async def state(self) -> LogState:
        """What there is of the log now."""
        raise NotImplementedError

    async def read(self, after: int, limit: int) -> tuple[LogState, Sequence[Row]]:
        """The first records behind a number, no more than `limit`, without waiting; and the state just before that."""
        raise NotImplementedError

    async def before(self, moment: float) -> int:
        """The number of the last record that was stored before a time; 0, or that before the first, if none was."""
        raise NotImplementedError

    async def hold(self, name: str, seconds: float) -> bool:
        """Have a name for so long from now on; False if another sender has it. 0 gives it back."""
        raise NotImplementedError

    async def kept(self, name: str) -> str | None:
        """What was kept for a name last."""
        raise NotImplementedError

    async def keep(self, name: str, place: str) -> bool:
        """Keep this for a name; False, and nothing is kept, if another sender has it."""
        raise NotImplementedError

    async def join(self, group: str, after: int) -> bool:
        """Become a member; a group that is not there is made, to begin after a number. Return whether it was made.

        What this sender has in hand of the group, from a connection before, is there for all again: no attempt counts.
        """
        raise NotImplementedError

    async def take(self, group: str, limit: int) -> Sequence[Received | Loss]:
        """What of a group nobody has in hand, without waiting: first what was handed back, or whose lease is over.

        It is in hand for `lease` seconds from now on. `token` makes the number a token; what is gone is a `Loss`.
        """
        raise NotImplementedError

    async def done(self, group: str, numbers: Sequence[int]) -> None:
        """These count as handled."""
        raise NotImplementedError

    async def prolong(self, group: str, numbers: Sequence[int]) -> None:
        """Those of these which this sender has in hand stay so for another lease."""
        raise NotImplementedError

    async def give_back(self, group: str, numbers: Sequence[int] | None) -> None:
        """What this sender has in hand of these, or all of it, is there for the others at once: no attempt counts."""
        raise NotImplementedError

    async def shut(self) -> None:
        """Let go of the connection, whatever state it is in. Shutting twice is safe."""
        raise NotImplementedError

    def received(self, row: Row, token: Any, epoch: str, attempts: int = 0) -> Received:
        """What a record becomes; its own trouble is its own. For `take`."""
        number, address, payload, time = row
        trouble: Exception | None = None
        if isinstance(address, bytes):
            address = address.decode("utf-8", "surrogateescape")
        elif not isinstance(address, str):
            address, trouble = "?", TypeError(f"its key is {address!r}, and no text")
        if isinstance(payload, str):
            payload = payload.encode("utf-8", "surrogatepass")
        elif not isinstance(payload, bytes | None):
            payload, trouble = repr(payload).encode(), TypeError(f"its payload is {payload!r}, and no bytes")
        key, position = self.addresses.key(address), f"{epoch}-{number}"
        return as_tuple(Received, (key, payload, {}, None, position, token, attempts, time, False, False, trouble))
