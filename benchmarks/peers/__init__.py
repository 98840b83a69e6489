"""The libraries beside us, one module each. A module has what its library can do:

`sync(messages)`: publish so many to one sync listener;
`bulk(messages)`: the same to one async listener, in lots, until all of a lot are handled;
`queue(messages)`: the same to one queue, and take each out of it.

Each returns the seconds it took, without the preparations. A peer gets the key in the form that suits it best, and is
called by its fastest way. The last message of a lot is None: who sees it has seen them all.
"""

from __future__ import annotations

LOT = 1_000


def lots(messages: int, lot: int = LOT) -> list[list[int | None]]:
    """Return the messages of each lot."""
    return [[*range(start, min(start + lot, messages) - 1), None] for start in range(0, messages, lot)]
