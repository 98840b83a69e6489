"""Whether there is room for a batch, so that no message is refused while one behind it is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import BridgeError
from .jetapi import JetApi
from .records import Storable
from .streams import Streams

SPARE = 10
"""How many times a batch must have room to be stored at once: others store, too, and JetStream counts more bytes."""
UNLIMITED = 64 << 20
"""Bytes after which it is looked up again whether the account has become limited."""


class Room:
    """The room of streams and of the account, as far as JetStream says, as one connection sees it.

    Args:
        api: The connections.
        streams: The streams.
    """

    def __init__(self, api: JetApi, streams: Streams) -> None:
        self._api = api
        self._streams = streams
        self._budget = 0.0  # bytes that may be stored before the account is looked at again

    async def suffices(self, messages: Sequence[Storable]) -> bool:
        """True if more than these messages are stored before any is refused, as far as JetStream says."""
        if len(messages) < 2:
            return True
        size = sum([len(each.head) + len(each.payload) for each in messages])
        if size > self._budget and size > (await self._look()):
            return False
        self._budget -= size
        doubtful = self._streams.may_be_full
        for stream in {message.stream for message in messages} & doubtful if doubtful else ():
            info = await self._api.find(f"STREAM.INFO.{stream}")
            if info is not None and not _has_room(info, [each for each in messages if each.stream == stream]):
                return False
        return True

    async def _look(self) -> float:
        """Look at what the account may store; return how many bytes may be stored at once."""
        try:
            info = await self._api.ask("INFO")
        except (BridgeError, OSError):  # the user may not ask; or nobody can say it now, and storing may work
            info = {}
        left = min(_left(info, self._streams.setup.replicas), default=math.inf)
        self._budget = min(left / SPARE, UNLIMITED)
        return left / SPARE


def _left(info: Mapping[str, Any], replicas: int) -> Iterator[float]:
    """What an account may still store in files, by each limit that holds for it."""
    tier = info.get("tiers", {}).get(f"R{replicas}", {})
    for usage in (info, tier):
        most = usage.get("limits", {}).get("max_storage", -1)
        if most > 0:
            yield most - usage["storage"]


def _has_room(info: Mapping[str, Any], messages: Sequence[Storable]) -> bool:
    config, state = info["config"], info["state"]
    if config["discard"] != "new":
        return True
    size = sum(len(each.head) + len(each.payload) for each in messages)
    bounds = (
        (config["max_msgs"], state["messages"], len(messages)),
        (config["max_bytes"], state["bytes"], size),
    )
    # How many there are of each subject it does not say.
    return not config.get("discard_new_per_subject") and all(
        most <= 0 or used + SPARE * more <= most for most, used, more in bounds
    )
