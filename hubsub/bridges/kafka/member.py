"""A member of a consumer group: what it is assigned and gives back, and whether the group still counts it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

Hears = Callable[[list[TopicPartition]], Any]


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what happens to the partitions of a group.

    Args:
        taken: Called with the partitions that this member has from now on.
        given_back: Called with the partitions that it is about to lose.
        is_open: Returns whether these are wanted; a closed reader still ends a rebalance.
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
    """Knows when the group last counted this member.

    Args:
        session: Seconds without a heartbeat after which the group gives up a member.
    """

    def __init__(self, session: float) -> None:
        self._session = session
        self._known_at = 0.0

    def watch(self, coordinator: Any) -> None:
        """Observe the heartbeats of a member of the driver, and how its commits end."""
        heartbeat, commit = coordinator._do_heartbeat, coordinator._do_commit_offsets

        async def beat() -> bool:
            began = monotonic()
            is_member: bool = await heartbeat()
            if is_member:
                self._known_at = began
            return is_member

        async def store(*arguments: Any) -> None:
            # The driver gives it a task, which goes on when whoever waits for it is cancelled; its error is heard here.
            if (task := asyncio.current_task()) is not None:
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await commit(*arguments)

        coordinator._do_heartbeat, coordinator._do_commit_offsets = beat, store

    def confirm(self) -> None:
        """Note that the group has just assigned something to it."""
        self._known_at = monotonic()

    @property
    def is_in_doubt(self) -> bool:
        """True if the group may have given this member up, and its partitions to others."""
        return monotonic() - self._known_at > self._session
