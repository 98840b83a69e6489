"""Waiting for one message, and asking: a request, its responders, and the replies that come back."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from ..describe import describe, name_of_callable
from ..errors import HubClosed, NoResponders, NoRunningLoop, RemoteError, RequestTimeout, WaitingForItself
from ..event import Event, Meta
from ..key import NAMESPACE, Key, KeyLike, Patterns, as_patterns
from .callables import awaitable, checked_function, discard, is_awaitable, refuse_awaitable, truth
from .checks import count_or_none, seconds_or_none
from .listener import AsyncListener, Listener
from .message_queue import Overflow
from .notices import Notices
from .registration import Core, Registration, Removal
from .routes import Route

V = TypeVar("V")


class AskingCore(Core, Protocol):
    """What asking needs of its hub."""

    _requests: Requests

    def _route_of(self, key: KeyLike[Any]) -> Route: ...
    def publish_event(self, event: Event[Any]) -> int: ...


class Wait(Protocol):
    """What somebody waits for."""

    loop: asyncio.AbstractEventLoop

    @property
    def is_over(self) -> bool: ...
    def end(self) -> None:
        """Leave nothing behind; nobody waits any more."""


S = TypeVar("S", bound=Wait)


class WaitHandle(Generic[S]):
    """Keeps what is waited for as long as somebody has the handle: let go of, it ends it."""

    __slots__ = ("_wait",)

    _wait: S

    def __del__(self) -> None:
        wait = self._wait
        if wait.is_over:
            return
        # The garbage collector may run us in any thread, and in the middle of anything.
        try:
            wait.loop.call_soon_threadsafe(wait.end)
        except RuntimeError:  # the loop is closed
            wait.end()


class Waiting(WaitHandle[Wait], Coroutine[Any, Any, V]):
    """What `next` and `request` return: await it once, or let go of it.

    It acts like a coroutine where one is wanted, by `asyncio.create_task` say, but for not having to be awaited.
    """

    __slots__ = ("_future", "_steps")

    def __init__(self, wait: Wait, future: asyncio.Future[V]) -> None:
        self._wait = wait
        self._future = future
        self._steps: Generator[Any, Any, V] | None = None

    def __await__(self) -> Generator[Any, Any, V]:
        try:
            return (yield from self._future.__await__())
        finally:
            self._wait.end()

    def send(self, value: Any, /) -> Any:
        """As of a coroutine."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a coroutine."""
        if self._steps is None:
            self._steps = self.__await__()
            next(self._steps, None)  # so that the error is raised where somebody waits
        return self._steps.throw(*error)

    def close(self) -> None:
        """Wait no more."""
        if self._steps is not None:
            self._steps.close()
        self._wait.end()


class Replies(WaitHandle["ManyReplies"], AsyncIterator[Any]):
    """The replies to a `request_many`, as they come: `async for reply in replies`.

    It ends when everyone has answered who got the request, at the limit, or at the timeout. What failed is in
    `errors`. Cancelling a step loses nothing. The request ends with the last reference to this, or with `close()`.
    """

    __slots__ = ()

    def __init__(self, wait: ManyReplies) -> None:
        self._wait = wait

    @property
    def errors(self) -> list[Exception]:
        """The failures so far, in the order in which they came.

        Each is a `RemoteError`, or tells why somebody could not be asked or understood: an `EncodeError`, a
        `DecodeError`, `WaitingForItself`.
        """
        return self._wait.errors

    def close(self) -> None:
        """End the request: what comes later is ignored, what has come can still be read."""
        self._wait.end()

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


# Waiting for one


class NextMessage(Registration):
    """Registered until the first message that matches, and `where` it is so."""

    __slots__ = ("_adding", "_timer", "_where", "future", "loop")

    lasting = False

    def __init__(
        self,
        hub: AskingCore,
        patterns: Sequence[tuple[str, ...]],
        loop: asyncio.AbstractEventLoop,
        timeout: float | None,
        where: Callable[[Key[Any], Any], object] | None,
    ) -> None:
        super().__init__(hub, self._deliver)
        self.loop = loop
        self.future: asyncio.Future[Event[Any]] = loop.create_future()
        self._where = where
        self._adding = True
        self._timer = None if timeout is None else loop.call_later(timeout, self._time_out, timeout)
        try:
            hub._add(self, patterns)
        except BaseException:
            self._cancel_timer()
            raise
        self._adding = False

    def _deliver(self, key: Key[Any], message: Any) -> None:
        self.deliver_event(Event(key, message))

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        self._hub._life.check_thread()
        # Nobody who waits for anything at all means the announcement of the waiting.
        if self.future.done() or (self._adding and event.key[0] == NAMESPACE):
            return False
        try:
            if self._where is not None and not truth(self._where(*event), self._where, "where"):
                return False
        except Exception as error:
            _fail(self.future, error)
        else:
            if not self.loop.is_closed():
                self.future.set_result(event)
        self.end()
        return False

    def _time_out(self, timeout: float) -> None:
        patterns = ", ".join(map(repr, self._patterns))
        _fail(self.future, TimeoutError(f"no message of {patterns} came within {timeout} seconds"))
        self.end()

    @property
    def is_over(self) -> bool:
        return self.closed

    def end(self) -> None:
        if not self.closed:
            self._hub._remove(self)

    def _removed(self) -> Notices:
        self._cancel_timer()
        _fail(self.future, HubClosed(self._hub))  # unless it has ended otherwise
        return []

    def forked(self) -> None:
        # Nobody is told: whoever waits, waits in the parent.
        self.future = self.loop.create_future()
        self.future.cancel()
        self._timer = None
        self.end()

    forked.__doc__ = Registration.forked.__doc__

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if future.done() or future.get_loop().is_closed():
        return
    if isinstance(error, StopIteration):
        another = RuntimeError("StopIteration was raised where it says nothing")
        another.__cause__, error = error, another
    future.set_exception(error)
    future.exception()  # looked at: who lets go of it need not be warned


# Asking


class Question(Protocol):
    """A request, as whoever answers it sees it."""

    @property
    def is_over(self) -> bool:
        """True if nobody waits for a reply any more."""
        ...

    def expect(self) -> None:
        """A responder has got it: it replies, fails or loses it."""

    def reply(self, reply: Any) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def lose(self, error: Exception | None = None) -> None:
        """A responder that has got it will not answer; for that reason, if there is one that the asker should know."""

    def take(self, reply: Any) -> None:
        """A reply has come from elsewhere, perhaps one of several."""

    def take_error(self, error: Exception) -> None:
        """An error has come from elsewhere, perhaps one of several."""


class ReplyAddress(Key[Any]):
    """Where the reply to a request goes: whoever answers finds the request itself here.

    Only the hub and its bridges make them. A key of the same parts that came from elsewhere leads nowhere, so nobody
    can have a reply published where he likes, or answer what he was not asked.
    """

    request: Question
    is_local: bool
    """The request is for this process: bridges carry it as a message that nobody answers."""

    @classmethod
    def of(cls, parts: tuple[str, ...], request: Question, *, is_local: bool = False) -> ReplyAddress:
        """The address of a request."""
        address = tuple.__new__(cls, parts)
        address.request = request
        address.is_local = is_local
        return address

    def __reduce__(self) -> tuple[Any, ...]:
        return Key, tuple(self)


def question_of(event: Event[Any]) -> Question | None:
    """What there is to answer, if an event is a request that somebody waits for."""
    address = None if event.meta is None else event.meta.reply_to
    if type(address) is not ReplyAddress or address.request.is_over:
        return None
    return address.request


class OpenRequest:
    """A request of this hub while it is open."""

    __slots__ = ("_requests", "_owed", "_timer", "correlation", "key", "loop", "reached", "reason")

    def __init__(
        self, requests: Requests, key: Key[Any], loop: asyncio.AbstractEventLoop, timeout: float | None
    ) -> None:
        self._requests = requests
        self.key = key
        self.loop = loop
        self.reached = 0
        self.reason: Exception | None = None  # why somebody whom it reached will not answer
        self._owed = 1  # answers that are still to come; one stands for the delivery itself
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
        """A reply has come."""
        raise NotImplementedError

    def take_error(self, error: Exception) -> None:
        """An error has come."""
        raise NotImplementedError

    def learn(self, error: Exception) -> None:
        """Somebody whom it reached cannot answer, but others may."""

    def all_answered(self) -> None:
        """No other answer can come."""
        raise NotImplementedError

    def time_out(self, timeout: float) -> None:
        """Nobody waits any longer."""
        raise NotImplementedError

    def close(self, error: HubClosed) -> None:
        """The hub is closed."""
        raise NotImplementedError


class OneReply(OpenRequest):
    """Asks for one reply; an error is one too."""

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
        _fail(self.future, error)
        self.end()

    def all_answered(self) -> None:
        self.take_error(self.reason or NoResponders(self.key, self.reached))

    def time_out(self, timeout: float) -> None:
        self.take_error(RequestTimeout(self.key, timeout))

    def close(self, error: HubClosed) -> None:
        self.take_error(error)


class ManyReplies(OpenRequest):
    """Asks for the replies of all."""

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
    """The open requests of a hub, and how they are made."""

    __slots__ = ("_hub", "_name", "_numbers", "_process", "open")

    def __init__(self, hub: AskingCore) -> None:
        self._hub = hub
        self._name = ""
        self._process = 0
        self._numbers = count(1)
        self.open: dict[str, OpenRequest] = {}

    @property
    def name(self) -> str:
        """Random, for this hub in this process: no other hub that bridges connect has it, a fork neither."""
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
        """Return an exact key that somebody responds to, or may do so where it leads by a bridge."""
        route = self._hub._route_of(key)
        leaves = self._leaves(route)
        if not any(target.responds for target in route.targets) and (local or not leaves):
            raise NoResponders(route.key, leaves=leaves)
        return route.key

    @staticmethod
    def _leaves(route: Route) -> bool:
        return any(target.remote for target in route.targets)

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
                if target.remote:
                    request.expect()  # of nobody knows whom: it ends by its timeout
        try:
            meta = Meta(headers=headers, correlation=request.correlation, reply_to=address)
            self._hub.publish_event(Event(request.key, message, meta))
        except BaseException:
            request.end()
            raise
        request.lose()

    def register(self, request: OpenRequest) -> str:
        """Keep a request, until it ends, under the name that is returned."""
        correlation = f"{self.name}-{next(self._numbers)}"
        self.open[correlation] = request
        return correlation

    def forked(self) -> None:
        """Forget the requests of the parent of this process."""
        self.open.clear()

    def close(self) -> None:
        """Let nobody wait any more."""
        for request in list(self.open.values()):
            request.close(HubClosed(self._hub))


# Responding


class Responder(Listener):
    """A plain function whose return value is the reply; if that has to be awaited, a task of its own awaits it."""

    __slots__ = ("_awaited",)

    responds = True

    def __init__(self, hub: Core, function: Callable[..., object], **options: Any) -> None:
        super().__init__(hub, function, **options)
        self._awaited = Awaited(hub, self)

    def remove(self) -> Removal:
        tasks = self._awaited.others()
        super().remove()
        return Removal(tasks)

    remove.__doc__ = Listener.remove.__doc__

    def _removed(self) -> Notices:
        self._awaited.stop()
        return []

    @property
    def is_busy(self) -> bool:
        """True while something that it returned is being awaited, other than by the call that asks."""
        return self._awaited.is_busy

    def forked(self) -> None:
        super().forked()
        self._awaited.forked()

    forked.__doc__ = Listener.forked.__doc__

    def returned(self, event: Event[Any], result: object, /) -> None:
        """What it returned to a message that is no request has to run, too, if it is a coroutine."""
        if is_awaitable(result) and not isinstance(result, Waiting | asyncio.Future):
            self._watch()
            self._awaited.start_task(result).add_done_callback(partial(self._ended, event))

    def _ended(self, event: Event[Any], task: asyncio.Task[Any]) -> None:
        if not (task.cancelled() and self.closed):
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                self._hub._report(self, *event, error)

    def _take(self, event: Event[Any]) -> None:
        question = question_of(event)
        if question is None:
            super()._take(event)
            return
        question.expect()
        try:
            reply = self._called_with(event)
        except (Exception, asyncio.CancelledError) as error:
            question.fail(error)
            raise
        except BaseException:
            question.lose()
            raise
        if isinstance(reply, Waiting | asyncio.Future):
            self._reply_later(question, reply, event)
        elif is_awaitable(reply):
            try:
                task = self._awaited.start_task(reply)
            except Exception as error:
                question.fail(error)
                raise
            self._reply_later(question, task, event)
        else:
            question.reply(reply)

    def _reply_later(self, question: Question, reply: Waiting[Any] | asyncio.Future[Any], event: Event[Any]) -> None:
        def done(future: asyncio.Future[Any]) -> None:
            nonlocal reply
            reply = future  # what was waited for is let go of
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if error is None:
                question.reply(future.result())
            elif future.cancelled() and self.closed:
                question.lose()
            else:
                question.fail(error)
                # Somebody else failed, who reports it: this one only passes on what that answered.
                if not isinstance(error, RemoteError):
                    self._hub._report(self, *event, error)

        (reply._future if isinstance(reply, Waiting) else reply).add_done_callback(done)


class Awaited:
    """What a plain responder returned and what has to be awaited, each in a task.

    The hub waits for them when it is closed, as for those of async listeners, and then cancels them.
    """

    __slots__ = ("_hub", "_quiet", "_responder", "_tasks", "deadline")

    def __init__(self, hub: Core, responder: Responder) -> None:
        self._hub = hub
        self._responder = responder
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._quiet: list[asyncio.Future[None]] = []
        self.deadline: float | None = None

    def start_task(self, result: Any) -> asyncio.Task[Any]:
        """Await something in a task.

        Raises:
            InvalidListener: Nothing comes of awaiting it: it is a generator.
            NoRunningLoop: There is no loop to do that.
        """
        if not isinstance(result, Awaitable):
            refuse_awaitable(result, self._responder.function)
        life = self._hub._life
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            discard(result)
            raise NoRunningLoop(self._hub, "to await what a responder returned") from None
        life.bind()
        name = f"hubsub responder {name_of_callable(self._responder.function)}"
        task = loop.create_task(_await(result), name=name)
        self._tasks[task] = None
        life.running[self] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._hub._life.running.pop(self, None)
        for future in self._quiet:
            if not future.done():
                future.set_result(None)
        self._quiet.clear()

    def others(self) -> list[asyncio.Task[Any]]:
        """The tasks, but not one in which this is called."""
        try:
            own = asyncio.current_task()
        except RuntimeError:
            own = None
        return [task for task in self._tasks if task is not own and not task.get_loop().is_closed()]

    # What the life of the hub asks

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """Those that run."""
        return tuple(self._tasks)

    @property
    def is_working(self) -> bool:
        """True while something is being awaited."""
        return bool(self._tasks)

    @property
    def is_busy(self) -> bool:
        """True while something is being awaited, other than by the call that asks."""
        return bool(self.others())

    def is_caller(self) -> bool:
        """True inside one of the tasks."""
        return len(self.others()) < len(self._tasks)

    def start(self) -> None:
        """A task starts by itself."""

    def hasten(self) -> None:
        """No task waits to try again."""

    def stop(self) -> list[asyncio.Task[Any]]:
        """Cancel the tasks, but not one in which this is called; return them."""
        others = self.others()
        for task in others:
            task.cancel()
        return others

    def forked(self) -> None:
        """Forget the tasks, which are those of the parent of this process."""
        self._tasks.clear()
        self._quiet.clear()

    def drop(self, notices: Notices) -> int:
        """Nothing is queued."""
        return 0

    def give_up(self, task: asyncio.Task[Any]) -> None:
        """It goes on in spite of being cancelled; should it fail then, that is reported."""

    def reset(self) -> None:
        """Forget the tasks of a loop that was closed under them."""
        self._tasks = {task: None for task in self._tasks if not task.get_loop().is_closed()}
        if self._tasks:
            self._hub._life.running[self] = None

    def quiet(self) -> asyncio.Future[None]:
        """A future that is done when one of the tasks has ended; then look again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet.append(future)
        return future


async def _await(result: Awaitable[V]) -> V:
    return await result


class AsyncResponder(AsyncListener):
    """An async function whose result is the reply."""

    __slots__ = ()

    _hub: AskingCore
    responds = True

    def deliver_event(self, event: Event[Any], bounded: bool = False, /) -> bool:
        question = question_of(event)
        if question is None:
            return super().deliver_event(event, bounded)
        question.expect()
        if self.is_caller():
            # It waits for the reply within the very call behind which the request would wait.
            question.lose(WaitingForItself(self, event.key))
            meta = event.meta and event.meta._replace(reply_to=None)
            return super().deliver_event(Event(event[0], event[1], meta), bounded)
        dropped = self._mailbox.dropped
        is_queued = super().deliver_event(event, bounded)
        if self._mailbox.dropped > dropped and self.overflow in REFUSING:
            question.lose()
        return is_queued

    def _callee(self) -> tuple[Callable[..., Any], bool]:
        return self._answer, True

    async def _answer(self, event: Event[Any]) -> None:
        question = question_of(event)
        if question is None:
            await self._called_with(event)
            return
        try:
            reply = await self._called_with(event)
            while is_awaitable(reply):
                reply = await awaitable(reply, self.function, "a responder")
        except BaseException as error:
            task = self._task
            leaked = isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()
            if isinstance(error, Exception) or leaked:
                question.fail(error)
            else:
                question.lose()
            raise
        question.reply(reply)

    def _removed(self) -> Notices:
        queued = [] if self._winding_up else self._mailbox.queued()
        notices = super()._removed()
        questions = map(question_of, queued)
        return notices + [question.lose for question in questions if question is not None]


# These drop what is being put: then it is known at once that nobody will answer.
REFUSING = (Overflow.DROP_NEWEST, Overflow.CLOSE)
