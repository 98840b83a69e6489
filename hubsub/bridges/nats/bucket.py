"""What bridges remember in a key-value bucket of JetStream: names with their positions, and what groups have missed."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any, NamedTuple

from ...errors import BrokerBusy
from .headers import pack
from .jetapi import BUSY, JetApi, stream_name


class Entry(NamedTuple):
    """The value of a key."""

    revision: int
    """0 if there is none."""
    value: dict[str, Any]
    time: float
    """When it was written, in seconds since the epoch, by the server's clock."""


NOTHING = Entry(0, {}, 0.0)


class Bucket:
    """Reads and replaces values, each by a key of any text.

    Args:
        api: The connections.
        name: The name of the bucket.
    """

    def __init__(self, api: JetApi, name: str) -> None:
        self._api = api
        self.stream = f"KV_{name}"
        self.subject = f"$KV.{name}"

    async def get(self, key: str) -> Entry:
        """Return the value of a key."""
        last = {"last_by_subj": f"{self.subject}.{stream_name(key)}"}
        found = await self._api.find(f"STREAM.MSG.GET.{self.stream}", last)
        if found is None:
            return NOTHING
        message = found["message"]
        value = json.loads(base64.b64decode(message.get("data", "")) or b"{}")
        return Entry(message["seq"], value, seconds_of(message["time"]))

    async def replace(self, key: str, revision: int, value: dict[str, Any]) -> bool:
        """Write a value in the place of that of a revision; return False if it is no longer the last one.

        Raises:
            BrokerBusy: Nothing can be stored now.
            OSError: Nobody knows whether it was stored.
        """
        subject = f"{self.subject}.{stream_name(key)}".encode()
        head = pack({}, {"Nats-Expected-Last-Subject-Sequence": str(revision)})
        (error,) = await self._api.publish([(subject, head, json.dumps(value).encode())])
        if error is not None and error["code"] >= BUSY:
            raise BrokerBusy(f"JetStream stores no position now: {error['description']}")
        if error is not None and error.get("err_code") != WRONG_LAST:
            raise ConnectionResetError(f"JetStream does not store a position: {error['description']}")
        return error is None


WRONG_LAST = 10071
"""JetStream's code for a revision that is not the last one."""


def seconds_of(text: str) -> float:
    """Return a time as the API writes it, in seconds since the epoch."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
