"""A name: a consumer group whose members exclude each other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_GENERATION = struct.Struct(">q")


class ExclusiveAssignor:
    """Assigns all partitions to one member of a group: the one that had them last, otherwise any.

    So the broker decides which owner of a name is alive. It numbers the generations of a group, and each member reports
    the last generation in which it had everything. A member that was frozen for so long that another one got its name
    comes back with a smaller number than that one has by then.

    Args:
        generation: Returns the current generation of the group.
    """

    name = "hubsub-exclusive"

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._held = 0  # in that generation this member had everything
        self.is_holder = False
        """Whether this member has all partitions, if there are any."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what the assigning member must know of this one."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), _GENERATION.pack(self._held))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return the assignment of each member."""
        held = {member: _GENERATION.unpack(metadata.user_data)[0] for member, metadata in members.items()}
        holder = max(members, key=lambda member: (held[member], member))
        topics = members[holder].subscription
        everything = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
        nothing = ConsumerProtocolMemberAssignment(0, [], b"")
        return dict.fromkeys(members, nothing) | {holder: ConsumerProtocolMemberAssignment(0, everything, b"holder")}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Note what this member was assigned."""
        self.is_holder = bool(assignment.user_data)
        if self.is_holder:
            self._held = self._generation()
