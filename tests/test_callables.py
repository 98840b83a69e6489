"""Whatever a user's callable does concerns that callable alone: refused where it is given, or a failure of its call."""

import asyncio
import gc
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, partialmethod, singledispatch, wraps
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from hubsub._core.callables import checked_async_function, checked_function, checked_listener, is_async
from hubsub.errors import InvalidFunction, InvalidListener


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
    with pytest.raises(InvalidFunction, match="where is"):
        checked_function(function, "where", "key", "message")
    with pytest.raises(ValueError, match="where is"):  # as every option that makes no sense
        checked_function(function, "where", "key", "message")


@pytest.mark.parametrize("function", [lambda key: None, 5, async_generator])
def test_what_is_to_be_awaited_may_not_be_known_beforehand(function: Any) -> None:
    with pytest.raises(InvalidFunction, match="snapshot is a function of no arguments"):
        checked_async_function(function, "snapshot")
    for good in (lambda: asyncio.sleep(0), partial(pair, 1, 2), AsyncMock(), asyncio.Event().wait):
        checked_async_function(good, "snapshot")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """A coroutine that nobody awaits makes Python warn as soon as it is forgotten."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert not [str(warning.message) for warning in caught]
