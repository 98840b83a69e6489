"""Requests that cross a bridge, and the way back of their replies."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any, TypeAlias

from ..._core.asking import Question, ReplyAddress
from ...describe import describe_error
from ...errors import DecodeError, RemoteError
from ...event import Meta
from ...key import NAMESPACE, Key

Send: TypeAlias = Callable[[Key[Any], Key[Any], Any, Meta], None]
"""Sends a reply: its key, the key of the request, the reply itself, and its metadata."""

MOST_CORRELATION = 128
"""The most characters of a correlation from elsewhere."""

_NAME = re.compile(r"[A-Za-z0-9-]{1,128}\Z")


class OpenRequests:
    """The requests that have left by one bridge; a reply is for one of them, or is ignored.

    A reply is accepted by its correlation alone. So the correlation is random for each request and bridge: it cannot be
    guessed, and a request that was sent to one broker cannot be answered by another.

    Args:
        name: A random name of this bridge in this process.
    """

    # The number of requests from which on those that are over are dropped.
    MOST = 4096

    def __init__(self, name: str) -> None:
        self.address: Key[Any] = Key(NAMESPACE, "reply", name)
        """The key that replies to them are sent to."""
        self._requests: dict[str, Question] = {}
        self._most = self.MOST

    def open(self, request: Question) -> str:
        """Expect replies to a request that is about to leave; return its correlation."""
        if len(self._requests) >= self._most:
            self._requests = {each: it for each, it in self._requests.items() if not it.is_over}
            self._most = max(self.MOST, 2 * len(self._requests))
        correlation = secrets.token_hex(16)
        self._requests[correlation] = request
        return correlation

    def receive(self, message: Any, meta: Meta | None) -> bool:
        """Give a reply to its request; return whether there is one."""
        request = self._find(meta)
        if request is None:
            return False
        error = meta.headers.get("error") if meta is not None else None
        if error is None:
            request.take(message)
        else:
            request.take_error(RemoteError(getattr(request, "key", self.address), error))
        return True

    def lose(self, meta: Meta | None) -> None:
        """Notify who asked that nobody at this broker will reply; others may."""
        request = self._find(meta)
        if request is not None and meta is not None and meta.correlation is not None:
            del self._requests[meta.correlation]
            request.lose()

    def receive_garbled(self, error: DecodeError) -> bool:
        """Fail a request, since its reply cannot be decoded; return whether there is one."""
        request = self._find(getattr(error, "meta", None))
        if request is not None:
            request.take_error(error)
        return request is not None

    def _find(self, meta: Meta | None) -> Question | None:
        correlation = None if meta is None or meta.correlation is None else meta.correlation
        if correlation is None or (request := self._requests.get(correlation)) is None:
            return None
        if request.is_over:
            del self._requests[correlation]
            return None
        return request


class RemoteRequest:
    """A request that came in by a bridge: its reply leaves by that bridge, and by no other way."""

    __slots__ = ("_correlation", "_send", "_to", "key")

    is_over = False  # that is unknown here

    def __init__(self, send: Send, key: Key[Any], to: Key[Any], correlation: str) -> None:
        self._send = send
        self.key = key
        self._to = to
        self._correlation = correlation

    def expect(self) -> None:
        """Do nothing: the caller has a timeout."""

    def lose(self, error: Exception | None = None) -> None:
        """Send the reason why nobody can answer, if there is one; otherwise the caller has a timeout."""
        if error is not None:
            self.fail(error)

    def reply(self, reply: Any) -> None:
        """Send the reply; if it cannot be encoded, send that error at once."""
        self._send(self._to, self.key, reply, Meta(correlation=self._correlation))

    def fail(self, error: BaseException) -> None:
        """Send an error instead."""
        self._send(
            self._to, self.key, None, Meta(correlation=self._correlation, headers={"error": describe_error(error)})
        )

    # Like a request that leaves again by another bridge: replies from there are passed on.
    take = reply
    take_error = fail


def address_of_request(send: Send, key: Key[Any], meta: Meta) -> ReplyAddress | None:
    """Return where to reply to a received message; None if it is not a request, or its reply address is not allowed.

    Bridges reply to bridges only: to the name of one, in the namespace of hubs. With any other address, a sender could
    have something published to a key of its choice.
    """
    to, correlation = meta.reply_to, meta.correlation
    if to is None or correlation is None or len(correlation) > MOST_CORRELATION:
        return None
    if len(to) != 3 or to[:2] != (NAMESPACE, "reply") or not _NAME.match(to[2]):
        return None
    return ReplyAddress.of(tuple(to), RemoteRequest(send, key, Key.create_from(to), correlation))
