"""Wrappers around the calls of listeners: which concern a call, in which order, and the call that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeAlias

from ..describe import describe_all, name_of_callable
from ..event import Event
from ..key import Key, T, is_subset, overlaps
from .handles import Handle, Removal

Pattern = tuple[str, ...]

# Called with each call, in place of the listener.
Wrapper: TypeAlias = Callable[["Call[Any]"], object]


class Call(Generic[T]):
    """A call of a listener, as a wrapper gets it: `call()` goes on, to the next wrapper or to the listener.

    Around an async listener it is `await call()`. It returns what the listener returned and raises what it raised. A
    wrapper that does not go on keeps the listener from being called; one that goes on twice calls it twice.
    """

    __slots__ = ("_functions", "_inner", "event", "listener")

    def __init__(
        self, event: Event[T], listener: Any, functions: Sequence[Wrapper], inner: Callable[[Event[T]], Any]
    ) -> None:
        self._functions = functions
        self._inner = inner
        self.event = event
        """The message, with what is known of it: `call.event.meta`."""
        self.listener = listener
        """The handle of the `Listener`; `call.listener.function` is the callable."""

    @property
    def key(self) -> Key[T]:
        """What was published to."""
        return self.event[0]

    @property
    def message(self) -> T:
        """What was published."""
        return self.event[1]

    def __call__(self) -> Any:
        """Go on; return what the next wrapper or the listener returns, which for an async one is to be awaited."""
        functions = self._functions
        if not functions:
            return self._inner(self.event)
        return functions[0](Call(self.event, self.listener, functions[1:], self._inner))

    def __repr__(self) -> str:
        return f"<Call of {self.listener!r} with {self.event[0]!r}>"


class Wrapping(Handle):
    """A wrapper around calls of listeners. `remove()` ends it, as leaving it as a context manager does."""

    __slots__ = ("_patterns", "_remove", "closed", "function", "is_async")

    def __init__(
        self, remove: Callable[[Wrapping], None], patterns: Sequence[Pattern], function: Wrapper, is_async: bool
    ) -> None:
        self._remove = remove
        self._patterns = tuple(patterns)
        self.function = function
        """The wrapper."""
        self.is_async = is_async
        """True if it wraps async listeners, False if it wraps sync ones."""
        self.closed = False
        """True once it was removed."""

    @property
    def patterns(self) -> tuple[Key[Any], ...]:
        """The patterns whose messages it concerns."""
        return tuple(Key.create_from(pattern) for pattern in self._patterns)

    def remove(self) -> Removal:
        """Wrap no further calls; those that have begun go on inside it. Removing twice is safe."""
        if not self.closed:
            self._remove(self)
            self.closed = True
        return Removal()

    def _end(self) -> Removal:
        return self.remove()

    @property
    def described(self) -> str:
        """Its function, its patterns, and which listeners it wraps."""
        kind = "async" if self.is_async else "plain"
        return f"{name_of_callable(self.function)} on {describe_all(self._patterns)}, around {kind} listeners"

    def __repr__(self) -> str:
        return f"<Wrapping {self.described}{' removed' if self.closed else ''}>"


class Wrappings:
    """The wrappers of a hub, the outermost first."""

    # Keys whose wrappers are remembered.
    MOST_KEYS = 10_000

    def __init__(self) -> None:
        self._all: list[Wrapping] = []
        self._by_key: tuple[dict[Key[Any], tuple[Wrapper, ...]], dict[Key[Any], tuple[Wrapper, ...]]] = ({}, {})

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[Wrapping]:
        return iter(self._all)

    def add(self, wrapping: Wrapping) -> None:
        """Add one inside all others."""
        self._all.append(wrapping)
        self._forget()

    def remove(self, wrapping: Wrapping) -> None:
        """Remove one."""
        self._all.remove(wrapping)
        self._forget()

    def _forget(self) -> None:
        for known in self._by_key:
            known.clear()

    def concern(self, patterns: Iterable[Pattern], is_async: bool) -> bool:
        """True if one of them concerns a listener on these patterns, for some key."""
        patterns = tuple(patterns)
        return any(
            overlaps(own, other)
            for each in self._all
            if each.is_async == is_async
            for own in each._patterns
            for other in patterns
        )

    def around(self, key: Key[Any], is_async: bool) -> tuple[Wrapper, ...]:
        """The wrappers around a call with an exact key, the outermost first."""
        by_key = self._by_key[is_async]
        try:
            return by_key[key]
        except KeyError:
            pass
        if len(by_key) >= self.MOST_KEYS:
            by_key.clear()
        found = tuple(
            each.function
            for each in self._all
            if each.is_async == is_async and any(is_subset(key, pattern) for pattern in each._patterns)
        )
        by_key[key] = found
        return found


class Wrapped:
    """What is called instead of the function of a listener that wrappers concern: takes an event."""

    __slots__ = ("_is_async", "_listener", "_wrappings", "function", "with_event")

    def __init__(self, listener: Any, wrappings: Wrappings, *, is_async: bool) -> None:
        self._listener = listener
        self._wrappings = wrappings
        self._is_async = is_async
        self.function: Callable[..., Any] = listener.function
        """What it stands around."""
        self.with_event = False
        """Whether that takes an event."""

    def __call__(self, event: Event[Any]) -> Any:
        """Call the function inside the wrappers of the key."""
        functions = self._wrappings.around(event[0], self._is_async)
        if not functions:
            return self._go_on(event)
        return functions[0](Call(event, self._listener, functions[1:], self._go_on))

    def __repr__(self) -> str:
        return f"{self._listener.function!r} inside its wrappers"

    def _go_on(self, event: Event[Any]) -> Any:
        return self.function(event) if self.with_event else self.function(*event)
