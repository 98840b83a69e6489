"""What a hub promises to whoever waits for one message, asks or answers."""

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
    """Waiting for the next message; requests, and responding to them."""

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

        It is subscribed when this returns: what is published before the `await` counts. Await it once, or let go of
        it; either way nothing stays subscribed.

        Args:
            patterns: One pattern, or a list, set or frozenset of them.
            timeout: Seconds from now; None for no limit.
            where: Called with key and message of each that matches, until it returns something true. What it raises
                is raised to who awaits.

        Raises:
            InvalidKey: A pattern cannot be subscribed to.
            NoRunningLoop: There is none to wait on.
            HubClosed: The hub is closed or closing; awaited: it was closed meanwhile.
            TimeoutError: Awaited: no message came in time.
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

        It is published when this returns, to everyone as `publish_event` does: a subscriber or listener sees it as
        any message. The first answer of those who `respond` to the key counts, be it a reply or an error. Await it
        once, or let go of it.

        Args:
            key: What to ask.
            message: Goes to the responders as it is.
            timeout: Seconds from now; None for no limit.
            local: Ask within this process only; False also asks where bridges carry `key`, and there nobody knows
                whether somebody responds.
            headers: Travel along, see `publish_with_headers`.

        Raises:
            NoResponders: Nobody responds to `key`; nothing is published. Awaited: who got it was removed.
            InvalidKey: Nothing can be published to `key`.
            NoRunningLoop: There is none to wait on.
            HubClosed: The hub is closed; awaited: it was closed meanwhile.
            RequestTimeout: Awaited: nobody answered in time.
            RemoteError: Awaited: the responder failed, by its `__cause__`.
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

        They come as they are given, until everyone has answered who got the request, or `limit` have come, or the
        timeout is over, which is no error here; where bridges are asked too, nobody knows who got it. Responders that
        fail end nothing: see `Replies.errors`. Otherwise as `request`.
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

        It is a listener, and called for other messages too; then its return value is ignored. What it raises reaches
        who asked, and is a listener's failure like any other. An async one answers one request after the other; a
        plain one may return a future or a task, or what `request` returned, whose result is then the reply.

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
