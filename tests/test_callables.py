"""Whatever a user's callable does concerns that callable alone: refused where it is given, or a failure of its call."""

import asyncio
import gc
import logging
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, partialmethod, singledispatch, wraps
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

import hubsub
from hubsub import DeliveryError, Event, Hub, InvalidFunction, InvalidListener, Key, ListenerFailure, Retry, Subscriber
from hubsub._core.callables import checked_async_function, checked_function, checked_listener, is_async
from hubsub._core.wide import WideRoutes


async def pair(key: Any, message: Any) -> None: ...


async def single(event: Any) -> None: ...


def plain_pair(key: Any, message: Any) -> None: ...


def plain_single(event: Any) -> None: ...


async def async_generator(key: Any, message: Any) -> AsyncIterator[int]:
    yield 1


def generator(key: Any, message: Any) -> Iterator[int]:
    yield 1


@types.coroutine
def old_coroutine(key: Any, message: Any) -> Iterator[Any]:
    yield from asyncio.sleep(0).__await__()


class Both:
    """Every way in which a class can be, or have, a listener."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    async def __call__(self, key: Any, message: Any) -> None: ...

    async def method(self, key: Any, message: Any) -> None: ...

    def plain(self, key: Any, message: Any) -> None: ...

    @classmethod
    async def of_the_class(cls, key: Any, message: Any) -> None: ...

    @staticmethod
    async def of_nobody(key: Any, message: Any) -> None: ...

    @classmethod
    async def generates(cls, key: Any, message: Any) -> AsyncIterator[int]:
        yield 1

    prepared = partialmethod(method, "a")


class Plain:
    def __call__(self, key: Any, message: Any) -> None: ...


class Taking:
    """Takes what a listener is called with when it is made."""

    def __init__(self, key: Any, message: Any) -> None: ...

    async def __call__(self) -> None: ...


ASYNC: list[Any] = [
    pair,
    old_coroutine,
    partial(pair),
    partial(partial(Both().method)),
    Both(),
    partial(Both()),
    Both().method,
    Both.of_the_class,
    Both.of_nobody,
    Both().of_nobody,
    vars(Both)["of_nobody"],
    AsyncMock(),
    AsyncMock(spec=pair),
    create_autospec(pair),
]

PLAIN: list[Any] = [
    plain_pair,
    lambda key, message: pair(key, message),
    partial(plain_pair),
    Both().plain,
    Both,
    Taking,
    Plain(),
    Mock(),
    MagicMock(),
    Mock(spec=plain_pair),
    create_autospec(plain_pair),
    print,
    {}.__setitem__,
    dict[Any, Any]().setdefault,
    singledispatch(plain_pair),
    partial(print, "seen", sep=": "),
    partial(max, 1),
    dict,
]


@pytest.mark.parametrize("function", ASYNC, ids=lambda function: type(function).__name__)
def test_an_async_callable_is_known_in_every_disguise(function: Any) -> None:
    assert is_async(function)
    assert checked_listener(function)


@pytest.mark.parametrize("function", PLAIN, ids=lambda function: type(function).__name__)
def test_a_plain_callable_is_known_in_every_disguise(function: Any) -> None:
    assert not is_async(function)
    assert not checked_listener(function)


@pytest.mark.parametrize(
    "function",
    [
        async_generator,
        generator,
        partial(async_generator),
        Both.generates,
        type("Generating", (), {"__call__": lambda self, key, message: (yield)})(),
    ],
)
def test_a_generator_function_is_refused_as_a_listener(function: Any) -> None:
    with pytest.raises(InvalidListener, match="yield"):
        checked_listener(function)


WRONG: list[tuple[Any, str]] = [
    (lambda: None, "takes no arguments"),
    (lambda key: None, "takes only 1 argument; event=True"),
    (lambda key, message, third: None, "needs third as well"),
    (lambda key, message, *, only: None, "needs only as well"),
    (lambda *, key, message: None, "takes no arguments"),
    (partial(plain_pair, "a"), "takes only 1 argument"),
    (partial(plain_pair, "a", "b"), "takes no arguments"),
    (partial(plain_pair, message=1), "twice"),
    (plain_single, "takes only 1 argument"),
    (single, "takes only 1 argument"),
    (Both().prepared, "takes only 1 argument"),
    (type("Deaf", (), {"__call__": lambda self: None})(), "takes no arguments"),
    (object, "takes"),
    ([].append, "takes"),
    (len, "takes"),
    (Both().method.__func__, "needs message as well"),
    (5, "anything that can be called"),
    (None, "anything that can be called"),
    ("listener", "anything that can be called"),
    (pair(1, 2), "anything that can be called"),
]


@pytest.mark.parametrize(("function", "says"), WRONG)
def test_what_cannot_be_called_with_key_and_message_is_refused_as_a_listener(function: Any, says: str) -> None:
    with pytest.raises(InvalidListener, match=says):
        checked_listener(function)
    if asyncio.iscoroutine(function):
        function.close()


@pytest.mark.parametrize("function", [single, plain_single, [].append, len, Mock(), lambda event, more=1: None, print])
def test_what_takes_an_event_is_a_listener_of_events(function: Any) -> None:
    checked_listener(function, event=True)


@pytest.mark.parametrize("function", [pair, plain_pair, lambda: None, {}.__setitem__, async_generator])
def test_what_takes_no_event_is_refused_as_a_listener_of_events(function: Any) -> None:
    with pytest.raises(InvalidListener, match=r"key and message|yield"):
        checked_listener(function, event=True)


def test_a_wrapper_is_judged_by_what_it_takes_itself() -> None:
    def with_database(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(key: Any, message: Any) -> Any:
            return function(key, message, "database")

        return wrapper

    @with_database
    def three(key: Any, message: Any, database: Any) -> None: ...

    assert not checked_listener(three)


def test_what_nobody_can_tell_is_accepted() -> None:
    class Strange:
        __signature__ = "none"

        def __call__(self, *arguments: Any) -> None: ...

    for function in (Strange(), dict.fromkeys, type("C", (), {"__call__": print})()):
        checked_listener(function)


@pytest.mark.parametrize("function", [pair, Both(), async_generator, generator, lambda key: True, 5, "f", AsyncMock()])
def test_a_predicate_that_cannot_answer_at_once_is_refused(function: Any) -> None:
    with pytest.raises(InvalidFunction, match=r"where (must be|is called)"):
        checked_function(function, "where", "key", "message")
    with pytest.raises(ValueError, match=r"where (must be|is called)"):  # as every option that makes no sense
        checked_function(function, "where", "key", "message")


@pytest.mark.parametrize("function", [lambda key: None, 5, async_generator])
def test_what_is_to_be_awaited_may_not_be_known_beforehand(function: Any) -> None:
    with pytest.raises(InvalidFunction, match="snapshot must be a function of no arguments"):
        checked_async_function(function, "snapshot")
    for good in (lambda: asyncio.sleep(0), partial(pair, 1, 2), AsyncMock(), asyncio.Event().wait):
        checked_async_function(good, "snapshot")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """A coroutine that nobody awaits makes Python warn as soon as it is forgotten."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests have left is theirs
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert not [str(warning.message) for warning in caught]


# In the hub: what a plain listener returns


async def work(message: Any) -> None:
    raise AssertionError("nobody awaits it")


def decorated(function: Any) -> Any:
    """What a decorator that was not made for async functions returns."""

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class Decorated:
    @decorated
    async def method(self, key: Any, message: Any) -> None:
        await work(message)

    @decorated
    async def __call__(self, key: Any, message: Any) -> None:
        await work(message)


@singledispatch
async def dispatched(key: Any, message: Any) -> None:
    await work(message)


class Waits:
    """To be awaited, and no coroutine."""

    def __init__(self, *arguments: Any) -> None: ...

    def __await__(self) -> Iterator[Any]:
        yield


RETURNING: list[Any] = [
    lambda key, message: work(message),
    lambda key, message: asyncio.wait_for(work(message), 1),
    decorated(pair),
    Decorated().method,
    Decorated(),
    partial(decorated(pair)),
    dispatched,
    Mock(side_effect=lambda key, message: work(message)),
    Waits,
    lambda key, message: (part for part in message),
    lambda key, message: async_generator(key, message),
]


@pytest.fixture
def failures() -> list[ListenerFailure]:
    return []


@pytest.fixture
def hub(failures: list[ListenerFailure]) -> Hub:
    return Hub(on_error=failures.append)


@pytest.mark.parametrize("function", RETURNING, ids=lambda function: type(function).__name__)
def test_an_awaitable_from_a_plain_listener_is_a_failure_of_it(
    function: Any, hub: Hub, failures: list[ListenerFailure]
) -> None:
    listener = hub.add_listener("a", function)
    got: list[Any] = []
    hub.add_listener("a", lambda key, message: got.append(message))
    for number in ("x", "y", "z"):
        assert hub.publish("a", number) == 2
    assert got == ["x", "y", "z"]
    assert (listener.failed, hub.stats().failed, listener.accepted) == (3, 3, 3)
    assert [(failure.key, failure.message, failure.listener) for failure in failures] == [
        (("a",), message, listener) for message in got
    ]
    assert all(isinstance(failure.error, InvalidListener) for failure in failures)
    assert "async def" in str(listener.last_error)


@pytest.mark.parametrize("function", RETURNING, ids=lambda function: type(function).__name__)
def test_an_awaitable_is_a_failure_too_on_every_other_path(
    function: Any, hub: Hub, failures: list[ListenerFailure]
) -> None:
    listener = hub.add_listener(("a", "*"), function, where=lambda key, message: True)
    events = hub.add_listener(("a", "*"), lambda event: function(*event), event=True)
    once = hub.add_listener(("a", "*"), function, once=True)
    hub.publish(("a", "b"), "x")
    hub.publish_event(Event(Key("a", "c"), "y"))
    hub.publish(("a", "d"), "z")
    assert (listener.failed, events.failed, once.failed, len(failures)) == (3, 3, 1, 7)


@pytest.mark.parametrize("function", RETURNING, ids=lambda function: type(function).__name__)
async def test_an_awaitable_from_a_plain_listener_is_never_a_confirmation(function: Any, hub: Hub) -> None:
    hub.add_listener("a", function)
    hub.add_listener("a", lambda key, message: None)
    for _ in range(2):
        with pytest.raises(DeliveryError) as caught:
            await hub.publish_confirmed("a", "x")
        [failure] = caught.value.exceptions
        assert isinstance(failure.__cause__, InvalidListener)
        assert caught.value.finished == 1
        hub.publish("a", "y")
    await hub.close()


async def test_a_message_whose_listener_returns_an_awaitable_is_not_acknowledged(hub: Hub) -> None:
    told: list[tuple[int, list[Any]]] = []
    hub.add_listener("a", lambda key, message: work(message))
    hub.border.relay(Event(Key("a"), 1), confirmed=lambda finished, failures: told.append((finished, failures)))
    [(finished, [failure])] = told
    assert (finished, type(failure.__cause__)) == (0, InvalidListener)


def test_a_listener_that_returns_an_awaitable_only_later_is_watched_from_then_on(hub: Hub) -> None:
    listener = hub.add_listener(("a", "+"), lambda key, message: work(message) if message else None)
    hub.publish(("a", "1"), None)
    assert listener.failed == 0
    hub.publish(("a", "2"), 1)  # the first of another key
    hub.publish(("a", "1"), 1)
    hub.publish(("a", "1"), 1)
    assert listener.failed == 3


async def test_the_first_message_that_waits_for_room_is_looked_at_too(hub: Hub) -> None:
    listener = hub.add_listener("a", lambda key, message: work(message))
    await hub.publish_wait("a", 1)
    assert listener.failed == 1


def test_a_function_at_two_places_fails_at_both(hub: Hub, failures: list[ListenerFailure]) -> None:
    def function(key: Any, message: Any) -> Any:
        return work(message)

    one, two = hub.add_listener("a", function), hub.add_listener("a", function)
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert (one.failed, two.failed) == (2, 2)


def test_a_failure_finds_its_listener_though_that_is_watched_since_its_call_began(hub: Hub) -> None:
    def function(key: Any, message: Any) -> Any:
        if key != ("a", "outer"):
            return work(message)
        if message:
            hub.publish(("a", "inner"), 1)
            raise ValueError
        return None

    listener = hub.add_listener(("a", "+"), function)
    other = hub.add_listener(("a", "+"), function)
    hub.publish(("a", "outer"), 0)
    assert (listener.failed, other.failed) == (0, 0)
    hub.publish(("a", "outer"), 1)
    assert (listener.failed, other.failed) == (3, 3)


def test_a_listener_that_joins_very_many_is_looked_at_too(hub: Hub, failures: list[ListenerFailure]) -> None:
    for _ in range(WideRoutes.LEAST):
        hub.add_listener("a", lambda key, message: None)
    hub.publish("a")
    leaves = hub.add_listener("a", lambda key, message: None)
    hub.publish("a")
    leaves.remove()
    hub.publish("a")
    wrong = hub.add_listener("a", lambda key, message: asyncio.sleep(0))
    hub.publish("a")
    assert (wrong.failed, [failure.listener for failure in failures]) == (1, [wrong])


def test_a_listener_removed_by_the_report_of_its_awaitable_is_called_no_more(hub: Hub) -> None:
    calls: list[Any] = []
    listener = hub.add_listener("a", lambda key, message: calls.append(message) or work(message))  # type: ignore[func-returns-value]
    hub.on_error = lambda failure: failure.listener.remove()
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert (calls, listener.failed, hub.patterns()) == ([1], 1, {})


def test_what_else_a_plain_listener_returns_is_nobodys_business(hub: Hub) -> None:
    other = hub.add_listener("b", lambda key, message: None)
    for returned in (1, "text", object(), [1], MagicMock(), Mock(), iter([]), other.remove()):
        listener = hub.add_listener("a", lambda key, message, returned=returned: returned)
        hub.publish("a", 1)
        assert listener.failed == 0


async def test_a_plain_listener_may_remove_others_as_its_value() -> None:
    async with Hub() as hub:
        other = hub.add_listener("b", pair)
        listener = hub.add_listener("a", lambda key, message: other.remove())
        assert await hub.publish_confirmed("a") == 1
        assert (listener.failed, other.closed) == (0, True)


async def test_a_task_that_a_plain_listener_returns_goes_on_but_confirms_nothing(hub: Hub) -> None:
    done: list[Any] = []

    async def note(message: Any) -> None:
        done.append(message)

    listener = hub.add_listener("a", lambda key, message: asyncio.ensure_future(note(message)))
    with pytest.raises(DeliveryError):
        await hub.publish_confirmed("a", 1)
    await asyncio.sleep(0)
    assert (done, listener.failed) == ([1], 1)


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"retry": Retry(2, 0)}])
async def test_an_async_listener_that_returns_an_awaitable_has_failed(
    options: Any, hub: Hub, failures: list[ListenerFailure]
) -> None:
    async def forgets(key: Any, message: Any) -> Any:
        return work(message)

    async with hub:
        listener = hub.add_listener("a", forgets, **options)
        hub.publish("a", 1)
        with pytest.raises(DeliveryError):
            await hub.publish_confirmed("a", 2)
    assert (listener.failed, [failure.message for failure in failures]) == (2, [1, 2])
    assert all(isinstance(failure.error, InvalidListener) for failure in failures)


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"retry": Retry(2, 0)}])
async def test_what_else_an_async_listener_returns_is_nobodys_business(options: Any, hub: Hub) -> None:
    async def returns(key: Any, message: Any) -> Any:
        return message

    async with hub:
        listener = hub.add_listener("a", returns, **options)
        hub.publish("a", 1)
        assert await hub.publish_confirmed("a", ValueError("just a value")) == 1
    assert listener.failed == 0


# Predicates


@pytest.mark.parametrize(
    "where", [lambda key, message: pair(key, message), decorated(pair), Waits, lambda key, message: generator(key, 1)]
)
def test_a_where_whose_answer_has_to_be_awaited_lets_nothing_pass(
    where: Any, hub: Hub, failures: list[ListenerFailure], caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Any] = []
    listener = hub.add_listener("a", lambda key, message: got.append(message), where=where)
    hub.publish("a", 1)
    hub.publish("a", 2)
    hub.publish_event(Event(Key("a"), 3))
    assert (got, listener.filtered, listener.failed, len(failures)) == ([], 3, 3, 3)
    subscription = hub.subscribe("b", where=where)
    hub.publish("b", 1)
    assert (subscription.pending, subscription.filtered) == (0, 1)
    assert "where returned a" in caplog.text or "where returned a" in str(caplog.records[-1].exc_info)


async def test_a_where_of_next_whose_answer_has_to_be_awaited_is_raised_to_who_awaits(hub: Hub) -> None:
    waiting = hub.next("a", 5, lambda key, message: pair(key, message))
    hub.publish("a", 1)
    with pytest.raises(InvalidFunction, match="where returned a"):
        await waiting


def test_a_where_that_cannot_be_asked_is_refused_everywhere(hub: Hub) -> None:
    for wrong in (5, pair, async_generator, lambda key: True):
        for add in (
            lambda: hub.add_listener("a", plain_pair, where=wrong),  # noqa: B023
            lambda: hub.add_listener("a", pair, where=wrong),  # noqa: B023
            lambda: hub.on("a", where=wrong)(plain_pair),  # noqa: B023
            lambda: hub.subscribe("a", where=wrong),  # noqa: B023
            lambda: Subscriber(hub, "s").add_listener("a", plain_pair, where=wrong),  # noqa: B023
        ):
            with pytest.raises(InvalidFunction, match=r"where (must be|is called)"):
                add()
    assert hub.patterns() == {}


async def test_next_refuses_a_where_that_cannot_be_asked(hub: Hub) -> None:
    for wrong in (5, pair, lambda key: True):
        with pytest.raises(InvalidFunction, match=r"where (must be|is called)"):
            hub.next("a", where=wrong)  # type: ignore[call-overload]
    assert hub.patterns() == {}


# on_error, snapshot


@pytest.mark.parametrize("wrong", [5, pair, single, lambda: None, async_generator])
def test_on_error_is_refused_when_it_could_not_be_called(wrong: Any, hub: Hub) -> None:
    with pytest.raises(InvalidFunction, match=r"on_error (must be|is called)"):
        Hub(on_error=wrong)
    before = hub.on_error
    with pytest.raises(InvalidFunction, match=r"on_error (must be|is called)"):
        hub.on_error = wrong
    assert hub.on_error == before


@pytest.mark.parametrize("on_error", [lambda failure: work(failure), Mock(side_effect=asyncio.CancelledError)])
def test_what_on_error_returns_or_raises_is_logged_and_goes_no_further(
    on_error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(on_error=on_error)

    def broken(key: Any, message: Any) -> None:
        raise ValueError

    hub.add_listener("a", broken)
    assert hub.publish("a") == 1
    assert [(record.name, record.levelno) for record in caplog.records][1:] == [("hubsub.hub", logging.ERROR)]
    # An async function is no remedy here: on_error is not awaited either.
    assert "async def" not in str(caplog.records[-1].exc_info)


@pytest.mark.parametrize("wrong", [5, lambda key: None, async_generator])
def test_a_snapshot_that_could_not_be_called_is_refused(wrong: Any, hub: Hub) -> None:
    with pytest.raises(InvalidFunction, match="snapshot must be a function of no arguments"):
        hub.subscribe("a", snapshot=wrong)
    assert hub.patterns() == {}


@pytest.mark.parametrize("value", [None, 5, [1]])
async def test_a_snapshot_that_returns_no_awaitable_is_named_at_the_read(value: Any, hub: Hub) -> None:
    subscription = hub.subscribe("a", snapshot=lambda: value)  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidFunction, match="snapshot must return an awaitable"):
        await subscription.consume()


async def test_a_snapshot_may_return_any_awaitable(hub: Hub) -> None:
    async def state() -> int:
        return 5

    for load in (state, lambda: state(), lambda: asyncio.ensure_future(state()), AsyncMock(return_value=5)):
        first = await hub.subscribe("a", snapshot=load).consume()
        assert first == (5,)


# Decorators


def test_a_decorator_without_its_pattern_says_what_to_write(hub: Hub) -> None:
    with pytest.raises(InvalidListener, match=r"@hub\.on\(pattern\)"):

        @hub.on  # type: ignore[arg-type]
        def listener(key: Any, message: Any) -> None: ...

    with pytest.raises(InvalidListener, match=r"@hub\.responds\(pattern\)"):
        hub.responds(pair)  # type: ignore[arg-type]
    with pytest.raises(InvalidListener, match="say what to listen to"):
        Subscriber(hub, "s").on(pair)  # type: ignore[arg-type]


def test_a_decorator_refuses_its_pattern_before_it_sees_the_function(hub: Hub) -> None:
    for decorator in (hub.on, hub.responds, Subscriber(hub, "s").on):
        with pytest.raises(hubsub.InvalidKey):
            decorator(5)  # type: ignore[operator]


@pytest.mark.parametrize(("function", "says"), WRONG[:10])
def test_what_cannot_be_called_is_refused_wherever_a_listener_is_added(function: Any, says: str, hub: Hub) -> None:
    subscriber = Subscriber(hub, "s")
    for add in (
        hub.add_listener,
        hub.respond,
        subscriber.add_listener,
        subscriber.add_sync_listener,
        subscriber.add_async_listener,
        lambda pattern, function: hub.on(pattern)(function),
        lambda pattern, function: hub.responds(pattern)(function),
    ):
        with pytest.raises(InvalidListener, match="called"):
            add("a", function)  # type: ignore[operator]
    assert hub.patterns() == {}


# Responders


@pytest.mark.parametrize(
    "wrap",
    [
        lambda function: lambda key, message: function(key, message),
        decorated,
        lambda function: partial(decorated(function)),
        lambda function: lambda key, message: asyncio.ensure_future(function(key, message)),
        lambda function: lambda key, message: asyncio.wait_for(function(key, message), 5),
    ],
)
async def test_the_awaitable_of_a_plain_responder_is_awaited(wrap: Any, hub: Hub) -> None:
    async def double(key: Any, message: Any) -> Any:
        await asyncio.sleep(0)
        return 2 * message

    async with hub:
        responder = hub.respond("double", wrap(double))
        assert [await hub.request("double", number) for number in range(3)] == [0, 2, 4]
        assert [reply async for reply in hub.request_many("double", 5)] == [10]
        assert responder.failed == 0


async def test_a_responder_whose_awaitable_fails_has_failed(hub: Hub, failures: list[ListenerFailure]) -> None:
    async def fail(key: Any, message: Any) -> None:
        raise ValueError("not today")

    async with hub:
        responder = hub.respond("a", lambda key, message: fail(key, message))
        with pytest.raises(hubsub.RemoteError, match="not today"):
            await hub.request("a", 1)
    assert (responder.failed, [failure.message for failure in failures]) == (1, [1])


async def test_an_awaitable_within_the_reply_of_an_async_responder_is_awaited_too(hub: Hub) -> None:
    async def inner(message: Any) -> Any:
        return 2 * message

    async def outer(key: Any, message: Any) -> Any:
        return inner(message)

    async with hub:
        hub.respond("double", outer)
        assert await hub.request("double", 4) == 8


async def test_what_a_plain_responder_returns_to_an_ordinary_message_runs_too(
    hub: Hub, failures: list[ListenerFailure]
) -> None:
    seen: list[Any] = []

    async def note(key: Any, message: Any) -> None:
        await asyncio.sleep(0)
        seen.append(message)
        if message == 3:
            raise ValueError

    async with hub:
        responder = hub.respond("a", lambda key, message: note(key, message))
        for number in range(5):
            hub.publish("a", number)
        assert hub.busy() == (responder,)
    assert seen == [0, 1, 2, 3, 4]  # closing the hub has waited for them
    assert (responder.failed, [failure.message for failure in failures]) == (1, [3])


async def test_removing_a_plain_responder_cancels_what_it_returned(hub: Hub, failures: list[ListenerFailure]) -> None:
    started = asyncio.Event()

    async def never(key: Any, message: Any) -> None:
        started.set()
        await asyncio.sleep(1000)

    async with hub:
        responder = hub.respond("a", lambda key, message: never(key, message))
        request = hub.request("a", 1)
        await started.wait()
        await responder.remove()
        with pytest.raises(hubsub.NoResponders):
            await request
    assert failures == []


async def test_closing_the_hub_ends_what_a_plain_responder_returned_and_never_finishes() -> None:
    hub = Hub(drain=0.01)
    responder = hub.respond("a", lambda key, message: asyncio.sleep(1000))
    request = hub.request("a", 1)
    await asyncio.sleep(0)
    await hub.close()
    with pytest.raises(hubsub.HubClosed):
        await request
    assert not responder.is_busy


def test_a_plain_responder_without_a_loop_cannot_have_its_awaitable_awaited(
    hub: Hub, failures: list[ListenerFailure]
) -> None:
    hub.respond("a", lambda key, message: work(message))
    hub.publish("a", 1)
    [failure] = failures
    assert isinstance(failure.error, hubsub.NoRunningLoop)


async def test_a_responder_that_generates_has_failed(hub: Hub) -> None:
    async with hub:
        hub.respond("a", lambda key, message: (part for part in "ab"))
        with pytest.raises(hubsub.RemoteError, match="generator"):
            await hub.request("a")
