"""Requests: how they are made, and the replies that come back."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Any, Protocol

from ..describe import describe
from ..errors import HubClosed, NoResponders, NoRunningLoop, RemoteError, RequestTimeout
from ..event import Event, Meta
from ..key import NAMESPACE, Key, KeyLike, Patterns, as_patterns
from .callables import checked_function
from .checks import count_or_none, seconds_or_none
from .handles import Handle, Removal
from .registration import Core
from .routes import Route
from .waiting import NextMessage, WaitHandle, Waiting, fail_future


class AskingCore(Core, Protocol):
    """What requests need of their hub."""

    _requests: Requests

    def _route_of(self, key: KeyLike[Any]) -> Route: ...
    def publish_event(self, event: Event[Any]) -> int: ...


class Replies(WaitHandle["ManyReplies"], Handle, AsyncIterator[Any]):
    """The replies to a `request_many`, as they come: `async for reply in replies`.

    Iteration ends when everyone that got the request has answered, at the limit, or at the timeout. Failures are in
    `errors`. Cancelling a step loses nothing. The request ends with the last reference to this object, with `close()`,
    or when it is left as a context manager.
    """

    __slots__ = ()

    def __init__(self, wait: ManyReplies) -> None:
        self._wait = wait

    @property
    def errors(self) -> list[Exception]:
        """The failures so far, in the order in which they came.

        Each is a `RemoteError`, or says why a request could not be sent or a reply not be read: an `EncodeError`, a
        `DecodeError`, `WaitingForItself`.
        """
        return self._wait.errors

    def close(self) -> None:
        """End the request: later replies are ignored; those that have come can still be read."""
        self._wait.end()

    def _end(self) -> Removal:
        self.close()
        return Removal()

    async def __anext__(self) -> Any:
        many = self._wait
        while not many.replies:
            if many.is_over:
                if many.closed is not None:
                    raise many.closed
                raise StopAsyncIteration
            many.news.clear()
            await many.news.wait()
        return many.replies.popleft()


class Question(Protocol):
    """A request, as its responders see it."""

    @property
    def is_over(self) -> bool:
        """True if nobody waits for a reply any more."""
        ...

    def expect(self) -> None:
        """Count a responder that has got it: it will `reply`, `fail` or `lose` it."""

    def reply(self, reply: Any) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def lose(self, error: Exception | None = None) -> None:
        """Count a responder that will not answer; `reason` is for the caller, if there is one to give."""

    def take(self, reply: Any) -> None:
        """Accept a reply from elsewhere, perhaps one of several."""

    def take_error(self, error: Exception) -> None:
        """Accept an error from elsewhere, perhaps one of several."""


class ReplyAddress(Key[Any]):
    """The reply address of a request, which holds the request itself.

    Only the hub and its bridges make them. A key of the same parts that came from elsewhere addresses nothing. So a
    sender can neither direct a reply to a key of its choice nor answer a request that it did not get.
    """

    request: Question
    is_local: bool
    """The request stays in this process: bridges carry it as a message without a reply address."""

    @classmethod
    def of(cls, parts: tuple[str, ...], request: Question, *, is_local: bool = False) -> ReplyAddress:
        """Return the reply address of a request."""
        address = tuple.__new__(cls, parts)
        address.request = request
        address.is_local = is_local
        return address

    def __reduce__(self) -> tuple[Any, ...]:
        return Key, tuple(self)


def question_of(event: Event[Any]) -> Question | None:
    """Return the request that an event carries, if somebody waits for its reply."""
    address = None if event.meta is None else event.meta.reply_to
    if type(address) is not ReplyAddress or address.request.is_over:
        return None
    return address.request


class OpenRequest:
    """An open request of this hub."""

    __slots__ = ("_requests", "_owed", "_timer", "correlation", "key", "loop", "reached", "reason")

    def __init__(
        self, requests: Requests, key: Key[Any], loop: asyncio.AbstractEventLoop, timeout: float | None
    ) -> None:
        self._requests = requests
        self.key = key
        self.loop = loop
        self.reached = 0
        self.reason: Exception | None = None  # why a responder that got it will not answer
        self._owed = 1  # answers still to come; the delivery itself counts as one
        self._timer = None if timeout is None else loop.call_later(timeout, self.time_out, timeout)
        self.correlation = requests.register(self)

    @property
    def is_over(self) -> bool:
        return self.correlation not in self._requests.open

    def expect(self) -> None:
        self._owed += 1
        self.reached += 1

    def lose(self, error: Exception | None = None) -> None:
        self._owed -= 1
        if self.is_over:
            return
        if error is not None:
            self.reason = error
            self.learn(error)
        if not self._owed:
            self.all_answered()

    def reply(self, reply: Any) -> None:
        if not self.is_over:
            self.take(reply)
        self.lose()

    def fail(self, error: BaseException) -> None:
        if not self.is_over:
            remote = RemoteError(self.key, describe(error))
            remote.__cause__ = error
            self.take_error(remote)
        self.lose()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._requests.open.pop(self.correlation, None)

    def take(self, reply: Any) -> None:
        """Accept a reply."""
        raise NotImplementedError

    def take_error(self, error: Exception) -> None:
        """Accept an error."""
        raise NotImplementedError

    def learn(self, error: Exception) -> None:
        """Note that one responder cannot answer; others may."""

    def all_answered(self) -> None:
        """Called when no further answer can come."""
        raise NotImplementedError

    def time_out(self, timeout: float) -> None:
        """Called when nobody waits any longer."""
        raise NotImplementedError

    def close(self, error: HubClosed) -> None:
        """Called when the hub is closed."""
        raise NotImplementedError


class OneReply(OpenRequest):
    """A request for one answer: a reply or an error."""

    __slots__ = ("future",)

    def __init__(
        self, requests: Requests, key: Key[Any], loop: asyncio.AbstractEventLoop, timeout: float | None
    ) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        super().__init__(requests, key, loop, timeout)

    def take(self, reply: Any) -> None:
        if not self.future.done() and not self.loop.is_closed():
            self.future.set_result(reply)
        self.end()

    def take_error(self, error: Exception) -> None:
        fail_future(self.future, error)
        self.end()

    def all_answered(self) -> None:
        self.take_error(self.reason or NoResponders(self.key, self.reached))

    def time_out(self, timeout: float) -> None:
        self.take_error(RequestTimeout(self.key, timeout))

    def close(self, error: HubClosed) -> None:
        self.take_error(error)


class ManyReplies(OpenRequest):
    """A request for the replies of all responders."""

    __slots__ = ("closed", "errors", "limit", "news", "replies")

    def __init__(
        self,
        requests: Requests,
        key: Key[Any],
        loop: asyncio.AbstractEventLoop,
        timeout: float | None,
        limit: int | None,
    ) -> None:
        self.replies: deque[Any] = deque()
        self.errors: list[Exception] = []
        self.limit = limit
        self.news = asyncio.Event()
        self.closed: HubClosed | None = None
        super().__init__(requests, key, loop, timeout)

    def take(self, reply: Any) -> None:
        self.replies.append(reply)
        if self.limit is not None:
            self.limit -= 1
            if not self.limit:
                self.end()
        self._wake()

    def take_error(self, error: Exception) -> None:
        self.errors.append(error)

    def learn(self, error: Exception) -> None:
        self.errors.append(error)

    def all_answered(self) -> None:
        self.end()

    def time_out(self, timeout: float) -> None:
        self.end()

    def close(self, error: HubClosed) -> None:
        self.closed = error
        self.end()

    def end(self) -> None:
        super().end()
        self._wake()

    def _wake(self) -> None:
        if not self.loop.is_closed():
            self.news.set()


class Requests:
    """Makes the requests of a hub, and keeps those that are open."""

    __slots__ = ("_hub", "_name", "_numbers", "_process", "open")

    def __init__(self, hub: AskingCore) -> None:
        self._hub = hub
        self._name = ""
        self._process = 0
        self._numbers = count(1)
        self.open: dict[str, OpenRequest] = {}

    @property
    def name(self) -> str:
        """A random name of this hub in this process, shared with no other hub, nor with a fork."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._name = os.urandom(12).hex()
        return self._name

    def next(
        self, patterns: Patterns, timeout: float | None, where: Callable[[Key[Any], Any], object] | None
    ) -> Waiting[Event[Any]]:
        """As `Hub.next`."""
        named = as_patterns(patterns)
        timeout = seconds_or_none(timeout, "timeout")
        if where is not None:
            checked_function(where, "where", "key", "message")
        waiter = NextMessage(self._hub, named, self._loop("next"), timeout, where)
        return Waiting(waiter, waiter.future)

    def request(
        self, key: KeyLike[Any], message: Any, timeout: float | None, local: bool, headers: Mapping[str, str]
    ) -> Waiting[Any]:
        """As `Hub.request`."""
        timeout = seconds_or_none(timeout, "timeout")
        exact = self._answerable(key, local)
        request = OneReply(self, exact, self._loop("request"), timeout)
        self._ask(request, message, local, headers)
        return Waiting(request, request.future)

    def request_many(
        self,
        key: KeyLike[Any],
        message: Any,
        timeout: float | None,
        limit: int | None,
        local: bool,
        headers: Mapping[str, str],
    ) -> Replies:
        """As `Hub.request_many`."""
        limit = count_or_none(limit, "limit", "replies")
        timeout = seconds_or_none(timeout, "timeout")
        exact = self._answerable(key, local)
        request = ManyReplies(self, exact, self._loop("request_many"), timeout, limit)
        self._ask(request, message, local, headers)
        return Replies(request)

    def _answerable(self, key: KeyLike[Any], local: bool) -> Key[Any]:
        """Return `key` as an exact key, if there is a responder or a bridge that may lead to one."""
        route = self._hub._route_of(key)
        leaves = self._leaves(route)
        if not any(target.responds for target in route.targets) and (local or not leaves):
            raise NoResponders(route.key, leaves=leaves)
        return route.key

    @staticmethod
    def _leaves(route: Route) -> bool:
        return any(target.may_respond for target in route.targets)

    def _loop(self, what: str) -> asyncio.AbstractEventLoop:
        life = self._hub._life
        if life.state == "closed":
            raise HubClosed(self._hub)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise NoRunningLoop(self._hub, what) from None
        return life.bind()

    def _ask(self, request: OpenRequest, message: Any, local: bool, headers: Mapping[str, str]) -> None:
        address = ReplyAddress.of((NAMESPACE, "reply", self.name), request, is_local=local)
        if not local:
            for target in self._hub._route_of(request.key).targets:
                if target.may_respond:
                    request.expect()  # their number is unknown: only the timeout ends it
        try:
            meta = Meta(headers=headers, correlation=request.correlation, reply_to=address)
            self._hub.publish_event(Event(request.key, message, meta))
        except BaseException:
            request.end()
            raise
        request.lose()

    def register(self, request: OpenRequest) -> str:
        """Keep a request until it ends; return the name that it is kept under."""
        correlation = f"{self.name}-{next(self._numbers)}"
        self.open[correlation] = request
        return correlation

    def forked(self) -> None:
        """In a forked process, forget the requests of the parent."""
        self.open.clear()

    def close(self) -> None:
        """End every request."""
        for request in list(self.open.values()):
            request.close(HubClosed(self._hub))
