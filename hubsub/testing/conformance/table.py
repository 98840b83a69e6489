"""The tables of checks and faults, and how they are filled and run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast
from unittest import SkipTest

from ... import Key
from ...bridges import Adapter, Features, Link

if TYPE_CHECKING:
    from .broker import Broker

Make = Callable[[], Adapter]
"""Makes an adapter; all that it makes reach the same broker."""
Check = Callable[[Make], Awaitable[None]]

ALL: Key[Any] = Key("*")


class Fault(Protocol):
    """A fault of a broker or a line, and what must hold all the same."""

    __name__: str
    is_long: bool
    """True if it takes more than a few seconds with a real broker."""

    def __call__(self, broker: Broker, **options: Any) -> Awaitable[None]:
        """Run it; `options` are those of the bridge that receives, such as `group="workers"`."""
        ...


CHECKS: list[Check] = []
"""What every adapter must do."""

FAULTS: list[Fault] = []
"""What every adapter must survive."""


def check(function: Check) -> Check:
    """Add a check to the table."""
    CHECKS.append(function)
    return function


def fault(*, long: bool = False) -> Callable[[Callable[..., Awaitable[None]]], Fault]:
    """Add a fault to the table."""

    def add(function: Callable[..., Awaitable[None]]) -> Fault:
        added = cast(Fault, function)
        added.is_long = long
        FAULTS.append(added)
        return added

    return add


def features_of(make: Make, **options: Any) -> Features:
    """Return the features that the adapters promise to a bridge with these options, such as `group="workers"`."""
    known = {name: value for name, value in options.items() if name in ("group", "name", "start")}
    return make().features_for(Link(sender="nobody", namespace="nowhere", incoming=(ALL,), **known))


def need(make: Make, *promises: str, **options: Any) -> Features:
    """Return the features; skip the check unless they promise all of this."""
    features = features_of(make, **options)
    for promise in promises:
        if getattr(features, promise) in (False, "none", None):
            raise SkipTest(f"not promised: Features.{promise}")
    return features


def ways(make: Make, *promises: str, of: str = "plain name group") -> list[dict[str, Any]]:
    """Return the options of a bridge for which all of this is promised: none, a name, a group.

    Skips the check if there are none.
    """
    features = make().features
    kinds: list[dict[str, Any]] = []
    if "plain" in of:
        kinds.append({})
    if "name" in of and features.names:
        kinds.append({"name": "reader"})
    if "group" in of and features.groups:
        kinds.append({"group": "workers"})
    found = []
    for options in kinds:
        can = features_of(make, **options)
        if not any(getattr(can, promise) in (False, "none", None) for promise in promises):
            found.append(options)
    if not found:
        raise SkipTest(f"not promised: {', '.join(f'Features.{promise}' for promise in promises) or of}")
    return found


def each_way(*promises: str, of: str = "plain name group") -> Callable[[Callable[..., Awaitable[None]]], Check]:
    """Make a check of a function that also gets the options of the receiving bridge: run it for each of `ways`."""

    def of_all(function: Callable[..., Awaitable[None]]) -> Check:
        @wraps(function)
        async def run_each(make: Make) -> None:
            for options in ways(make, *promises, of=of):
                try:
                    await function(make, **options)
                except Exception as error:
                    error.add_note(f"with {options or 'neither name nor group'}")
                    raise

        return run_each

    return of_all


def listens(make: Make, **options: Any) -> bool:
    """True if control messages reach a bridge with these options; see `Adapter.listen`."""
    features = features_of(make, **options)
    return type(make()).listen is not Adapter.listen or not (features.durable or features.groups)


def need_control(make: Make, **options: Any) -> None:
    """Skip the check unless control messages reach a bridge with these options."""
    if not listens(make, **options):
        raise SkipTest("not promised: it is durable or has groups, and leaves `Adapter.listen` as it is")


async def run(make: Make, checks: Iterable[Check] = ()) -> dict[str, str]:
    """Run all checks, or some; return a result for each: "passed", "skipped: ..." or "failed: ..."."""
    results = {}
    for each in checks or CHECKS:
        try:
            await each(make)
        except SkipTest as skip:
            results[each.__name__] = f"skipped: {skip}"
        except Exception as error:
            results[each.__name__] = f"failed: {type(error).__name__}: {error}"
        else:
            results[each.__name__] = "passed"
    return results
