"""What a server's errors mean: a refusal, a server that takes nothing just now, or a connection that is lost."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import BridgeError, BrokerBusy

BUSY = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "OOM"})
"""The server is sound, and does nothing of the kind for the moment."""
LOST = frozenset({"CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN"})
"""It is not the one to ask, or not yet: another connection may lead to one that is."""
ELSEWHERE = frozenset({"ASK", "CROSSSLOT", "MOVED"})
"""It is a part of a Redis Cluster."""
NAMED = {
    "NOAUTH": "AuthenticationError",
    "NOPERM": "NoPermissionError",
    "NOSCRIPT": "NoScriptError",
    "WRONGPASS": "AuthenticationError",
}
"""What redis-py calls some others."""


def error_of(words: str, adapter: str) -> Exception:
    """Return the exception for an error that the server has answered, with all its words."""
    code = words.partition(" ")[0]
    if code in BUSY:
        return BrokerBusy(f"Redis takes nothing just now: {words}")
    if code in LOST:
        return ConnectionError(f"Redis cannot serve {adapter}: {words}")
    if code in ELSEWHERE:
        return BridgeError(f"{adapter} cannot use a Redis Cluster, but one server, or Sentinel: {words}")
    error: Exception = getattr(_exceptions(), NAMED.get(code, "ResponseError"))(words)
    return error


def sound(reply: Any) -> Any:
    """Return a reply; raise it if it is an error.

    Raises:
        BrokerBusy: The server takes nothing just now.
        ConnectionError: It is the wrong one.
        BridgeError: Its user has not the right to do this, or it is a cluster.
        redis.ResponseError: It is anything else.
    """
    if not isinstance(reply, Exception):
        return reply
    if is_denied(reply):
        raise BridgeError(
            f"Redis denies its user what the bridge needs: {reply}. Grant it by ACL SETUSER; the documentation of"
            " the bridge lists the rights"
        ) from reply
    raise reply


def refusal(reply: Exception) -> Exception:
    """Return the error by which the server refuses this very command for good; raise one that may pass.

    Raises:
        BrokerBusy: The server takes nothing just now.
        ConnectionError: It is the wrong one.
    """
    may_pass = is_unknown(reply) or str(reply).startswith(("EXECABORT", "UNBLOCKED"))
    if is_denied(reply) or (isinstance(reply, _exceptions().ResponseError) and not may_pass):
        return reply
    raise reply


def is_denied(reply: Any) -> bool:
    """True if the user has not the right to do this."""
    return isinstance(reply, Exception) and isinstance(
        reply, (_exceptions().NoPermissionError, _exceptions().AuthenticationError)
    )


def is_unknown(reply: Any) -> bool:
    """True if the server does not have the script that it was to run."""
    return isinstance(reply, Exception) and isinstance(reply, _exceptions().NoScriptError)


def is_no_stream(reply: Any) -> bool:
    """True if the key holds something else than a stream."""
    return isinstance(reply, Exception) and "WRONGTYPE" in str(reply)


def is_without_group(reply: Any) -> bool:
    """True if there is no such group; UNBLOCKED is what a client is told that waited while it went."""
    return isinstance(reply, Exception) and any(
        words in str(reply) for words in ("NOGROUP", "UNBLOCKED", "no such key")
    )


def _exceptions() -> Any:
    # Not imported before there is a server: it is an extra.
    return import_module("redis.exceptions")
