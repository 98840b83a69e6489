"""Metadata of topics with their ids: a topic that was deleted and created again has another id.

The driver uses a version of the request without ids, so this module has one with them. Brokers before 2.8 have no ids.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequestStruct, MetadataResponse_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)


class _Id(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


NO_ID = bytes(16)
_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class _Answer(Response):  # type: ignore[misc]
    API_KEY = 3  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 10  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("id", _Id),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        _TAGS,
    )


class _Question(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("id", _Id), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class TopicsRequest(Request[MetadataRequestStruct | _Question]):  # type: ignore[misc]
    """Asks about topics, with their ids if the broker has them.

    Args:
        topics: Their names; None for all.
        may_create: Let the broker create missing ones, if it is configured to.
    """

    API_KEY = 3

    def __init__(self, topics: list[str] | None, may_create: bool = True) -> None:
        self._topics = topics
        self._may_create = may_create

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is not _Question:
            return MetadataRequest(self._topics, self._may_create).build(request_struct_class)
        named: Any = None if self._topics is None else [(NO_ID, topic, {}) for topic in self._topics]
        return _Question(named, self._may_create, False, False, {})


def in_old_form(answer: Any) -> tuple[Any, dict[str, bytes]]:
    """An answer in the driver's form, and the ids of the topics that exist."""
    if not isinstance(answer, _Answer):
        return answer, {}
    given: Any = answer
    ids: dict[str, bytes] = {}
    topics: list[Any] = []
    for error, topic, id, is_internal, partitions, *_ in given.topics:
        topics.append((error, topic, is_internal, [(*each[:3], *each[4:7]) for each in partitions]))
        if not error and id != NO_ID:
            ids[topic] = id
    brokers = [broker[:4] for broker in given.brokers]
    old = MetadataResponse_v5(given.throttle_time_ms, brokers, given.cluster_id, given.controller_id, topics)
    return old, ids


def missing_topic(topic: str) -> LookupError:
    """Return the error of a topic that does not exist."""
    return LookupError(f"Kafka has no topic {topic!r}, and does not make one: create it, or allow it to be created")


def denied_topic(topic: str, right: str = "Describe") -> PermissionError:
    """Return the error of a topic that this client has no right to."""
    return PermissionError(f"Kafka does not give this client the right {right} to the topic {topic!r}")
