"""Records as packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import EncodeError
from ...key import NAMESPACE, Key, is_subset
from ..adapter import Record
from ..address import cached
from .options import Server
from .topics import Topics, properties_of

GAPS: Key[Any] = Key(NAMESPACE, "gap")
JSON = "application/json"
NULL = b"null"
"""A retained None is published as an empty payload, which ends the retaining."""


class Packing:
    """Makes packets of records: with which QoS, and whether they are retained."""

    def __init__(self, server: Server, topics: Topics) -> None:
        self._packet = server.driver.PublishPacket
        self._levels = server.levels
        self._topics = topics
        self._own = server.qos
        self._is_retained: Callable[[Key[Any]], bool] = cached(
            lambda key: any(is_subset(key, pattern) for pattern in server.retain)
        )

    def qos(self, record: Record) -> int:
        """Return the QoS of a record: 0 for control messages, so that no session keeps them, except notices of gaps."""
        return 0 if record.is_control and record.key != GAPS else self._own

    def pack(self, record: Record, id: int | None) -> bytes:
        """Return the packet of a record; its QoS is 0 without an id.

        Raises:
            EncodeError: There is no such packet.
        """
        key, payload, headers, _, is_control = record
        content_type, properties = properties_of(headers) if headers else (None, [])
        retain = not is_control and self._is_retained(key)
        if retain and payload == NULL and content_type == JSON and "ce_signature" not in headers:
            payload = b""
        try:
            packet: bytes = self._packet(
                self._topics.topic(key),
                payload,
                qos=self._levels[0 if id is None else self._own],
                retain=retain,
                packet_id=id,
                content_type=content_type,
                user_properties=properties,
            ).write()
        except (ValueError, OverflowError) as error:
            if isinstance(error, EncodeError):
                raise
            raise EncodeError(key, f"it cannot be sent by MQTT: {error}") from error
        return packet
