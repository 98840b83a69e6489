"""Callables from outside, judged here and nowhere else: when they are given, and by what they return.

A fault in a user's callable affects that callable alone. What can be seen beforehand is refused where the callable is
given; what shows only in the value that it returns is a failure of that call, as if it had raised.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, FunctionType, GeneratorType, MethodType
from typing import Any

from ..describe import describe
from ..errors import InvalidFunction, InvalidListener

# How many wrappers within wrappers are unwrapped.
_DEEPEST = 20


def is_async(function: object) -> bool:
    """True if calling `function` makes a coroutine: a coroutine function, a partial of one, an async `__call__`."""
    return _has(function, _makes_coroutine)


def checked_listener(function: object, *, event: bool = False, batch: bool = False) -> bool:
    """Return whether a listener is async; refuse what cannot be a listener.

    Raises:
        InvalidListener: It is not callable, is a generator function, or cannot be called with key and message, or with
            the event if `event` is set, or with a list of events if `batch` is set.
    """
    event = event or batch
    if type(function) is FunctionType and not function.__dict__:
        # The usual case. Looking closer would take as long as registering it.
        code = function.__code__
        if code.co_argcount == 2 - event and not code.co_kwonlyargcount and not code.co_flags & _ANY_GENERATOR:
            return code.co_flags & _COROUTINE != 0
    if not callable(function):
        raise InvalidListener(function, "a listener is a function, or anything that can be called")
    if _has(function, _makes_generator):
        raise InvalidListener(
            function, "calling a generator function runs none of its code; remove yield, or call it in a plain function"
        )
    why = _refusal(function, 1 if event else 2)
    if why is not None:
        hint = "without event=True it is called with key and message"
        if not event:
            hint = "event=True calls it with the event alone"
        if batch:
            hint = "without batch= it is called with key and message"
        called = "a list of events" if batch else "the event" if event else "key and message"
        raise InvalidListener(function, f"it is called with {called}, and {why}; {hint}")
    return is_async(function)


def checked_function(function: Any, name: str, *arguments: str) -> Any:
    """Return a plain function that was given as the option `name` and will be called with `arguments`.

    Raises:
        InvalidFunction: It is not callable, is async or a generator function, or takes other arguments.
    """
    _check_option(function, name, arguments)
    if is_async(function):
        instead = "it may start a task" if name != "where" else "look at the message in the listener instead"
        raise InvalidFunction(function, f"{name} is called synchronously, so it cannot be async; {instead}")
    return function


def checked_async_function(function: Any, name: str, *arguments: str) -> Any:
    """Return a callable that was given as the option `name` and must return an awaitable.

    Whether it does is checked when it is called: see `awaitable`.

    Raises:
        InvalidFunction: It is not callable, is a generator function, or takes other arguments.
    """
    _check_option(function, name, arguments)
    return function


def _check_option(function: object, name: str, arguments: tuple[str, ...]) -> None:
    given = f"{name} must be a function of {' and '.join(arguments) or 'no arguments'}"
    if not callable(function):
        raise InvalidFunction(function, given)
    if _has(function, _makes_generator):
        raise InvalidFunction(function, f"{given}, and calling a generator function runs none of its code")
    why = _refusal(function, len(arguments))
    if why is not None:
        raise InvalidFunction(function, f"{given}, and {why}")


def identity_of(function: Callable[..., object]) -> Hashable:
    """Return a value that is equal for equal callables; one that cannot be hashed is equal to itself only."""
    try:
        hash(function)
    except Exception:
        return id(function)
    return function


# What was returned


def refuse_awaitable(result: object, function: object, name: str = "") -> None:
    """Refuse what a function has returned, if it would have to be awaited or iterated to do anything.

    A coroutine is closed, so that Python does not warn about it as well.

    Args:
        result: What was returned.
        function: What returned it.
        name: The name of the option, such as `on_error`, if it is not a listener.

    Raises:
        InvalidListener: It would.
        InvalidFunction: It would, and the function has a name.
    """
    if result is None or not is_awaitable(result):
        return
    what = type(result).__qualname__
    discard(result)
    if name:
        raise InvalidFunction(function, f"{name} returned a {what}, which nobody awaits; it may start a task instead")
    raise InvalidListener(function, f"it returned a {what}, which nobody awaits; make it an async function (async def)")


def truth(result: object, function: object, name: str) -> bool:
    """Return whether the value that a predicate returned is true.

    Raises:
        InvalidFunction: The value is an awaitable, which would always be true.
    """
    if result is True or result is False:
        return result
    if is_awaitable(result):
        what = type(result).__qualname__
        discard(result)
        raise InvalidFunction(function, f"{name} returned a {what}, which is always true; it must be a plain function")
    return bool(result)


def awaitable(result: Any, function: object, name: str) -> Awaitable[Any]:
    """Return the awaitable that a function has returned.

    Raises:
        InvalidFunction: It cannot be awaited.
    """
    if not isinstance(result, Awaitable):
        discard(result)
        raise InvalidFunction(
            function, f"{name} must return an awaitable, and returned {describe(result)}; make it an async function"
        )
    return result


def is_awaitable(result: object) -> bool:
    """True if a value has to be awaited, or iterated, to do anything."""
    kind = type(result)
    if hasattr(kind, "__await__"):
        return not getattr(kind, "awaiting_is_optional", False)
    return kind is GeneratorType or kind is AsyncGeneratorType


def discard(result: object) -> None:
    """Close a coroutine that nobody will await, and the coroutines that it holds; a task or future goes on."""
    if not isinstance(result, Coroutine | GeneratorType):
        return
    # wait_for(f(), 1) holds another coroutine, about which Python would warn instead.
    held: list[object] = []
    frame = result.cr_frame if isinstance(result, CoroutineType) else None
    if frame is not None and inspect.getcoroutinestate(result) == inspect.CORO_CREATED:  # type: ignore[arg-type]
        held += frame.f_locals.values()
    try:
        result.close()
    except Exception:
        pass
    for each in held:
        if isinstance(each, Coroutine):
            discard(each)


# What can be seen beforehand


def _has(function: Any, flag: Callable[[Any], bool]) -> bool:
    """True if `flag` is true for a callable, or for what it certainly wraps."""
    for _ in range(_DEEPEST):
        inner, _, _ = _unwrapped(function)
        if inner is None or flag(function):
            break
        function = inner
    return flag(function)


def _unwrapped(function: Any) -> tuple[Any, int, Any]:
    """Return what a call ends up calling, how many arguments are put before those of the call, and the keywords."""
    # Not by isinstance: a mock of a function claims to be a function.
    kind = type(function)
    if kind is FunctionType or issubclass(kind, type):
        return None, 0, ()
    if issubclass(kind, partial):
        return function.func, len(function.args), function.keywords
    if kind is MethodType:
        return function.__func__, 1, ()
    if issubclass(kind, staticmethod):
        return function.__wrapped__, 0, ()
    # Looked up on the type: an instance attribute of this name is not called.
    call = getattr(kind, "__call__", None)  # noqa: B004
    return (call, 1, ()) if type(call) is FunctionType else (None, 0, ())


def _makes_coroutine(function: Any) -> bool:
    if type(function) is FunctionType and function.__code__.co_flags & _COROUTINE:
        return True
    if issubclass(type(function), type):
        return False
    # Mocks of async functions, and functions marked as coroutine functions, the old way or the new way.
    try:
        return inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) is _MARK
    except Exception:  # a mock that claims to be a function
        return False


def _makes_generator(function: Any) -> bool:
    return type(function) is FunctionType and function.__code__.co_flags & _ANY_GENERATOR in _GENERATORS


_MARK = getattr(asyncio.coroutines, "_is_coroutine", object())
_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
# A generator function marked by `types.coroutine` is a coroutine function.
_ANY_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
_GENERATORS = (inspect.CO_GENERATOR, inspect.CO_ASYNC_GENERATOR)


def _refusal(function: Any, number: int) -> str | None:
    """Return why a callable cannot be called with `number` positional arguments; None if it can, or that is unknown."""
    keywords: set[str] = set()
    given = 0
    for _ in range(_DEEPEST):
        inner, more, named = _unwrapped(function)
        if inner is None:
            break
        given += more
        keywords.update(named)
        function = inner
    judge = _refusal_by_code if type(function) is FunctionType else _refusal_by_signature
    return judge(function, number + given, keywords, given)


def _refusal_by_code(function: FunctionType, called: int, keywords: set[str], given: int) -> str | None:
    """Answer for a function written in Python, in a fraction of the time that a signature takes."""
    code: CodeType = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    takes_any = bool(code.co_flags & inspect.CO_VARARGS)
    if called > len(positional) and not takes_any:
        return f"takes {_arguments(len(positional) - given)}"
    if any(name in keywords for name in positional[code.co_posonlyargcount : called]):
        return "gets one of its arguments twice"
    missing = list(positional[called : len(positional) - len(function.__defaults__ or ())])
    first = code.co_argcount
    only = code.co_varnames[first : first + code.co_kwonlyargcount]
    missing += [name for name in only if name not in (function.__kwdefaults__ or ())]
    missing = [name for name in missing if name not in keywords]
    return f"needs {', '.join(missing)} as well" if missing else None


def _refusal_by_signature(function: Any, called: int, keywords: set[str], given: int) -> str | None:
    """Answer for anything else; wrappers are not unwrapped, since they may accept more than what they wrap."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # it has no signature: unknown
        return None
    try:
        signature.bind(*[None] * called, **dict.fromkeys(keywords))
    except TypeError:
        return f"takes {signature}"
    return None


def _arguments(number: int) -> str:
    return "no arguments" if number < 1 else f"only {number} argument{'' if number == 1 else 's'}"
