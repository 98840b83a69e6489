"""A name: a consumer group whose members exclude each other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_GENERATION = struct.Struct(">q")


class ExclusiveAssignor:
    """Assigns everything to one member of a group: to the one that had it last, else to any.

    So the broker itself decides which owner of a name is alive. It numbers the assignments of a group, and each
    member says by which number it had everything. One that stood still for so long that its name was given to another
    comes back with a smaller number than the other has by then.

    Args:
        generation: Returns the number of the assignment that the group has now.
    """

    name = "hubsub-exclusive"

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._held = 0  # in that generation this member had everything
        self.is_holder = False
        """Whether this member has everything, if there is anything."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Say what the member that assigns has to know of this one."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), _GENERATION.pack(self._held))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Say who gets what."""
        held = {member: _GENERATION.unpack(metadata.user_data)[0] for member, metadata in members.items()}
        holder = max(members, key=lambda member: (held[member], member))
        topics = members[holder].subscription
        everything = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
        nothing = ConsumerProtocolMemberAssignment(0, [], b"")
        return dict.fromkeys(members, nothing) | {holder: ConsumerProtocolMemberAssignment(0, everything, b"holder")}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Hear what this member got."""
        self.is_holder = bool(assignment.user_data)
        if self.is_holder:
            self._held = self._generation()
