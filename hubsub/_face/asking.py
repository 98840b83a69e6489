"""The methods of a hub that wait for one message, make requests, or add responders."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, Unpack, overload

from .._core.asking import Replies, Requests
from .._core.checks import headers_of, named_options
from .._core.listener import Listener
from .._core.registration import QueueOptions
from .._core.registry import Registry, decorated
from ..event import Event
from ..key import Key, KeyLike, Patterns, T, TypedPatterns
from .subscribing import Decorator


class Asking(Registry):
    """Waiting for the next message; making requests, and responding to them."""

    _requests: Requests

    @overload
    def next(
        self,
        patterns: TypedPatterns[T],
        timeout: float | None = None,
        where: Callable[[Key[T], T], object] | None = None,
    ) -> Coroutine[Any, Any, Event[T]]: ...
    @overload
    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Coroutine[Any, Any, Event[Any]]: ...

    @named_options("next")
    def next(
        self,
        patterns: Patterns,
        timeout: float | None = None,
        where: Callable[[Key[Any], Any], object] | None = None,
    ) -> Coroutine[Any, Any, Event[Any]]:
        """Wait for the first message, from now on, that matches one of `patterns`: `event = await hub.next("tick")`.

        It is subscribed when this returns, so a message that is published before the `await` counts. Await the result
        once, or drop it; either way nothing stays subscribed.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            timeout: Seconds from now; None for no limit.
            where: Called with key and message of each that matches, until it returns something true. An error that it
                raises is raised by the `await`.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            NoRunningLoop: No event loop is running.
            HubClosed: The hub is closed or closing; by the `await`: it was closed meanwhile.
            TimeoutError: By the `await`: no message came in time.
        """
        return self._requests.next(patterns, timeout, where)

    @named_options("request")
    def request(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Publish a request and return an awaitable of its reply: `price = await hub.request("price", "tea")`.

        It is published when this returns, as by `publish_event`: subscriptions and listeners get it like any message.
        The first answer of a responder (see `respond`) counts, whether it is a reply or an error. Await the result
        once, or drop it.

        Args:
            key: The key to ask.
            message: The request; responders get it unchanged.
            timeout: Seconds from now; None for no limit.
            local: Ask within this process only. With False, bridges that carry `key` ask other processes too; whether
                anybody responds there is unknown.
            headers: Sent with the message, see `publish_with_headers`.

        Raises:
            NoResponders: Nobody responds to `key`; nothing is published. By the `await`: all that got it are gone.
            InvalidKey: Nothing can be published to `key`.
            NoRunningLoop: No event loop is running.
            HubClosed: The hub is closed; by the `await`: it was closed meanwhile.
            RequestTimeout: By the `await`: nobody answered in time.
            RemoteError: By the `await`: the responder failed; its error is the `__cause__`.
        """
        return self._requests.request(key, message, timeout, local, headers_of(headers))

    @named_options("request_many")
    def request_many(
        self,
        key: KeyLike[T],
        message: T = None,  # type: ignore[assignment]
        timeout: float | None = 30.0,
        limit: int | None = None,
        local: bool = True,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Replies:
        """Publish a request and return its replies, to iterate: `async for reply in hub.request_many("who")`.

        They come in the order in which they are given, until everyone that got the request has answered, or `limit`
        replies have come, or the timeout has passed, which is no error here. If bridges ask other processes, it is
        unknown who got it, so only the limit and the timeout end it. Failures end nothing: see `Replies.errors`.
        Otherwise as `request`.
        """
        return self._requests.request_many(key, message, timeout, limit, local, headers_of(headers))

    def respond(
        self,
        patterns: Patterns,
        function: Callable[..., object],
        *,
        event: bool = False,
        **options: Unpack[QueueOptions],
    ) -> Listener:
        """Answer every request that matches one of `patterns` with what `function(key, message)` returns.

        It is a listener, and is called for other messages too; then its return value is ignored. An error that it
        raises reaches the caller of `request`, and is also a listener's failure like any other. An async function
        answers one request after the other. A plain one may return a future, a task or the result of `request`; then
        that is awaited for the reply.

        Args, returns and raises as `add_listener`.
        """
        return self._add_listener(patterns, function, None, event=event, responding=True, **options)

    @overload
    def responds(self, patterns: TypedPatterns[T], **options: Unpack[QueueOptions]) -> Decorator[[Key[T], T]]: ...
    @overload
    def responds(
        self, patterns: TypedPatterns[T], *, event: Literal[True], **options: Unpack[QueueOptions]
    ) -> Decorator[[Event[T]]]: ...
    @overload
    def responds(
        self, patterns: Patterns, *, event: bool = False, **options: Unpack[QueueOptions]
    ) -> Decorator[...]: ...

    def responds(self, patterns: Patterns, *, event: bool = False, **options: Unpack[QueueOptions]) -> Any:
        """Add the decorated function as a responder and return it unchanged. Options as of `respond`."""
        named = decorated(patterns, "responds")

        def add(function: Callable[..., object]) -> Callable[..., object]:
            self.respond(named, function, event=event, **options)
            return function

        return add
