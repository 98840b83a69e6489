"""The owner of the session of a name, and its subscriptions: a broker reveals neither."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...errors import NameTaken
from ...key import NAMESPACE, Key
from ..adapter import Link, Record
from .connection import Connection
from .topics import Topics

PATIENCE = 1.0
"""Seconds, and two round trips, in which an owner that lives answers."""


class Owner:
    """The record of the session of a name, a retained message beside the messages of the namespace.

    It names the owner of the session, and the filters that the session is subscribed to, with their identifiers. An
    owner that ends leaves a record without an owner, by its last will at the latest. A bridge that finds an owner asks
    it whether it lives, and a live owner answers by writing the record again.

    The owner writes the record by the connection of the session alone: from the moment when another bridge has the
    session, the broker accepts nothing by that connection, so an owner whose line was dead cannot claim it again.

    Args:
        link: The link that is connected.
        topics: The topics of its namespace.
        driver: The module `mqtt5`.
    """

    def __init__(self, link: Link, topics: Topics, driver: Any) -> None:
        assert link.name is not None
        self._name = link.name
        self._me = link.sender
        self._driver = driver
        self.record = topics.below("session", link.name)
        """The topic of the record."""
        self.call = topics.below("owner", link.name)
        """Where an owner is asked whether it lives."""
        self._line: Connection | None = None  # that of the session, while it is ours
        self._found: tuple[str, dict[str, int]] | None = None
        self._lives = asyncio.Event()
        self._filters: Mapping[str, int] = {}

    @property
    def filters(self) -> dict[str, int] | None:
        """What the session was subscribed to; None if there is no record of one."""
        return None if self._found is None else self._found[1]

    def hear(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        """A message came by one of the two topics."""
        if topic == self.call:
            if payload != self._me.encode():
                self._write_again()
        elif is_retained:
            self._found = _read(payload)
        elif (found := _read(payload)) is not None and found[0] != self._me:
            if found[0]:
                self._lives.set()
            else:
                # The last will of the owner before us, which a broker may publish after it has given us the session.
                self._write_again()

    def _write_again(self) -> None:
        if self._line is not None:
            self._line.write(self._packet(self._me, self._filters).write())

    async def learn(self, line: Connection, round_trip: float) -> None:
        """Read the record, by a connection that is subscribed to both topics.

        Raises:
            NameTaken: Another bridge has the session, and lives.
        """
        await line.ping()  # what is retained has come by now
        if self._found is None or self._found[0] in ("", self._me):
            return
        self._lives.clear()
        line.write(self._driver.PublishPacket(self.call, self._me.encode()).write())
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE + 2 * round_trip):
                await self._lives.wait()
            raise NameTaken(self._name)

    def will(self, filters: Mapping[str, int]) -> Any:
        """What the broker is to retain when the connection is lost."""
        payload = _written("", filters)
        return self._driver.Will(self.record, payload=payload, qos=self._driver.QoS.AT_LEAST_ONCE, retain=True)

    async def write(self, line: Connection, filters: Mapping[str, int]) -> None:
        """Write that the session is ours, and what it is subscribed to.

        Args:
            line: The connection of the session.
            filters: The filters, and the identifier of each.

        Raises:
            BridgeError: The broker does not allow it.
            ConnectionError: The connection is lost, perhaps because another bridge has the session.
        """
        self._filters, self._line = filters, line
        about = {"qos": self._driver.QoS.AT_LEAST_ONCE, "retain": True}

        def pack(record: Record, id: int | None) -> bytes:
            data: bytes = self._driver.PublishPacket(self.record, record.payload, packet_id=id, **about).write()
            return data

        record = Record(Key(NAMESPACE, "session", self._name), _written(self._me, filters))
        for error in (await line.publish([record], pack, lambda record: 1)).values():
            raise error

    def leave(self) -> None:
        """Write that the session is nobody's, if it is ours."""
        if self._line is not None:
            self._line.write(self._packet("", self._filters).write())
            self._line = None

    def _packet(self, owner: str, filters: Mapping[str, int]) -> Any:
        return self._driver.PublishPacket(self.record, _written(owner, filters), retain=True)


def _written(owner: str, filters: Mapping[str, int]) -> bytes:
    return json.dumps({"owner": owner, "filters": filters}).encode()


def _read(payload: bytes) -> tuple[str, dict[str, int]] | None:
    """Return owner and filters of a record; None if it is none."""
    try:
        record = json.loads(payload)
        filters = {str(filter): int(number) for filter, number in record["filters"].items()}
        return str(record["owner"]), filters
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
