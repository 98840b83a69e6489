"""What a member of a consumer group knows of the group: what it gets and gives back, and whether it is one still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

Hears = Callable[[list[TopicPartition]], Any]


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what happens to the partitions of a group.

    Args:
        taken: Told which ones are this member's now.
        given_back: Told which ones are somebody else's in a moment.
        is_open: Says whether anybody wants to know: who is closed in the middle of a rebalance still ends it.
    """

    def __init__(self, taken: Hears, given_back: Hears, is_open: Callable[[], bool]) -> None:
        self._taken = taken
        self._given_back = given_back
        self._is_open = is_open

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Any:
        return self._given_back(list(revoked)) if self._is_open() else None

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> Any:
        return self._taken(list(assigned)) if self._is_open() else None


class Membership:
    """Knows when the group knew this member last.

    Args:
        session: Seconds after which the group gives up a member that shows no sign.
    """

    def __init__(self, session: float) -> None:
        self._session = session
        self._known_at = 0.0

    def watch(self, coordinator: Any) -> None:
        """Hear of the heartbeats of a member of the driver."""
        heartbeat = coordinator._do_heartbeat

        async def beat() -> bool:
            began = monotonic()
            is_member: bool = await heartbeat()
            if is_member:
                self._known_at = began
            return is_member

        coordinator._do_heartbeat = beat

    def confirm(self) -> None:
        """The group has just given it something."""
        self._known_at = monotonic()

    @property
    def is_in_doubt(self) -> bool:
        """True if the group may have given this member up, and its partitions to others."""
        return monotonic() - self._known_at > self._session
