"""The meaning of a server's errors: a refusal, a server that accepts nothing for now, or a lost connection."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from ...errors import BridgeError, BrokerBusy

BUSY = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "OOM"})
"""The server is sound, but does not carry out such commands for now."""
LOST = frozenset({"CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN"})
"""The server cannot be used, or not yet: another connection may lead to one that can."""
ELSEWHERE = frozenset({"ASK", "CROSSSLOT", "MOVED"})
"""The server is part of a Redis Cluster."""
NAMED = {
    "NOAUTH": "AuthenticationError",
    "NOPERM": "NoPermissionError",
    "NOSCRIPT": "NoScriptError",
    "WRONGPASS": "AuthenticationError",
}
"""redis-py's exceptions for some errors."""


class Moved(BridgeError):
    """A node of a Redis Cluster names the one that has the slot.

    Args:
        message: What it means to whoever does not follow.
        slot: The slot.
        host: Where it is; empty if that is the host that was asked.
        port: The port there.
    """

    def __init__(self, message: str, slot: int, host: str, port: int) -> None:
        super().__init__(message)
        self.slot = slot
        self.host = host
        self.port = port


def error_of(words: str, adapter: str) -> Exception:
    """Return the exception for an error reply, with its whole text."""
    code = words.partition(" ")[0]
    if code in BUSY:
        return BrokerBusy(f"Redis accepts nothing for now: {words}")
    if code in LOST:
        return ConnectionError(f"Redis cannot serve {adapter}: {words}")
    if code in ELSEWHERE:
        message = f"{adapter} needs a single Redis server or Sentinel, not a Redis Cluster: {words}"
        if moved := _MOVED.fullmatch(words):
            return Moved(message, int(moved[1]), moved[2], int(moved[3]))
        return BridgeError(message)
    error: Exception = getattr(_exceptions(), NAMED.get(code, "ResponseError"))(words)
    return error


_MOVED = re.compile(r"MOVED ([0-9]{1,5}) ([^ ]*):([0-9]{1,5})")


def sound(reply: Any) -> Any:
    """Return a reply; raise it if it is an error.

    Raises:
        BrokerBusy: The server accepts nothing for now.
        ConnectionError: It is the wrong server.
        BridgeError: The user lacks a permission, or the server is part of a cluster.
        redis.ResponseError: Any other error.
    """
    if not isinstance(reply, Exception):
        return reply
    if is_denied(reply):
        raise BridgeError(
            f"Redis denies its user a permission that the bridge needs: {reply}. Grant it with ACL SETUSER; the"
            " documentation of the bridge lists the permissions"
        ) from reply
    raise reply


def refusal(reply: Exception) -> Exception:
    """Return an error by which the server refuses this command for good; raise one that may pass.

    Raises:
        BrokerBusy: The server accepts nothing for now.
        ConnectionError: It is the wrong server.
    """
    may_pass = is_unknown(reply) or str(reply).startswith(("EXECABORT", "UNBLOCKED"))
    if is_denied(reply) or (isinstance(reply, _exceptions().ResponseError) and not may_pass):
        return reply
    raise reply


def is_denied(reply: Any) -> bool:
    """True if the user lacks the permission for a command."""
    return isinstance(reply, Exception) and isinstance(
        reply, (_exceptions().NoPermissionError, _exceptions().AuthenticationError)
    )


def is_unknown(reply: Any) -> bool:
    """True if the server does not have the script that it should run."""
    return isinstance(reply, Exception) and isinstance(reply, _exceptions().NoScriptError)


def is_no_stream(reply: Any) -> bool:
    """True if the key holds something other than a stream."""
    return isinstance(reply, Exception) and "WRONGTYPE" in str(reply)


def is_without_group(reply: Any) -> bool:
    """True if there is no such group; a client that was waiting when the group was deleted gets UNBLOCKED."""
    return isinstance(reply, Exception) and any(
        words in str(reply) for words in ("NOGROUP", "UNBLOCKED", "no such key")
    )


def _exceptions() -> Any:
    # Imported late: redis-py is an extra.
    return import_module("redis.exceptions")
