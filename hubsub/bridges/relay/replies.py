"""Requests that cross a bridge, and how their replies find back."""

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
"""Sends a reply: where to, what was asked, the reply itself, and its metadata."""

MOST_CORRELATION = 128
"""Characters of a correlation that came from elsewhere; nobody needs longer ones."""

_NAME = re.compile(r"[A-Za-z0-9-]{1,128}\Z")


class OpenRequests:
    """The requests that have left by one bridge; a reply is for one of them, or for nobody.

    A reply is believed by its correlation alone. So that is random for each request and bridge: whoever guesses one
    cannot answer, and what one broker was asked cannot be answered by another.

    Args:
        name: Random, for this bridge in this process.
    """

    # Requests that are kept although they may be over; then those that are over are let go of.
    MOST = 4096

    def __init__(self, name: str) -> None:
        self.address: Key[Any] = Key(NAMESPACE, "reply", name)
        """Where replies to them come."""
        self._requests: dict[str, Question] = {}
        self._most = self.MOST

    def open(self, request: Question) -> str:
        """Expect replies to a request, which is about to leave, under the correlation that is returned."""
        if len(self._requests) >= self._most:
            self._requests = {each: it for each, it in self._requests.items() if not it.is_over}
            self._most = max(self.MOST, 2 * len(self._requests))
        correlation = secrets.token_hex(16)
        self._requests[correlation] = request
        return correlation

    def receive(self, message: Any, meta: Meta | None) -> bool:
        """Hand a reply to who asked; return whether anybody did."""
        request = self._find(meta)
        if request is None:
            return False
        error = meta.headers.get("error") if meta is not None else None
        if error is None:
            request.take(message)
        else:
            request.take_error(RemoteError(getattr(request, "key", self.address), error))
        return True

    def receive_garbled(self, error: DecodeError) -> bool:
        """Tell who asked that the reply cannot be decoded; return whether anybody did."""
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
    """A request that a bridge has brought: its reply leaves by that bridge, and in no other way."""

    __slots__ = ("_correlation", "_send", "_to", "key")

    is_over = False  # nobody here knows

    def __init__(self, send: Send, key: Key[Any], to: Key[Any], correlation: str) -> None:
        self._send = send
        self.key = key
        self._to = to
        self._correlation = correlation

    def expect(self) -> None:
        """Whoever asked has a timeout."""

    def lose(self, error: Exception | None = None) -> None:
        """Whoever asked has a timeout, but learns at once of a reason why nobody can answer."""
        if error is not None:
            self.fail(error)

    def reply(self, reply: Any) -> None:
        """Send the reply; one that cannot be encoded is an error to who asked, at once."""
        self._send(self._to, self.key, reply, Meta(correlation=self._correlation))

    def fail(self, error: BaseException) -> None:
        """Send an error instead."""
        self._send(
            self._to, self.key, None, Meta(correlation=self._correlation, headers={"error": describe_error(error)})
        )

    # As a request that has left again, by another bridge: what comes back there goes on.
    take = reply
    take_error = fail


def address_of_request(send: Send, key: Key[Any], meta: Meta) -> ReplyAddress | None:
    """Where to reply to a message that has come; None if it is no request, or asks for a reply where none may go.

    Bridges reply to bridges: to the name of one, in the namespace of hubs. An address of any other form would be
    somebody's wish to have something published there.
    """
    to, correlation = meta.reply_to, meta.correlation
    if to is None or correlation is None or len(correlation) > MOST_CORRELATION:
        return None
    if len(to) != 3 or to[:2] != (NAMESPACE, "reply") or not _NAME.match(to[2]):
        return None
    return ReplyAddress.of(tuple(to), RemoteRequest(send, key, Key.create_from(to), correlation))
