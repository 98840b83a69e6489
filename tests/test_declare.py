"""`Hub.declare`: one registry of what messages are, and who looks at it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub import EmptyKey, Hub, InvalidPart, Key, WildcardPublished
from hubsub._core.declarations import Declarations, accepts, name_of
from hubsub.key import PLUS, STAR

PARTS = st.sampled_from(["a", "b", "Hub", STAR, PLUS])
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map(tuple)
KEYS = st.lists(st.sampled_from(["a", "b", "Hub"]), min_size=1, max_size=4).map(tuple)


def naive(declared: Sequence[tuple[str, ...]], key: tuple[str, ...]) -> tuple[str, ...] | None:
    """The most specific pattern that matches: by place from the left, literal, any one part, any rest."""

    def score(pattern: tuple[str, ...]) -> list[int]:
        kinds = ["literal" if part not in "*+" else "one" for part in pattern]
        if pattern[-1] == STAR:
            kinds[-1] = "rest"
        return [["literal", "one", "rest"].index(kind) for kind in kinds]

    matching = [
        pattern
        for pattern in declared
        if Key(*key).is_subset_of(pattern) and ("Hub" in pattern[:1] or "Hub" not in key[:1])
    ]
    return min(matching, key=score) if matching else None


@given(st.lists(PATTERNS, max_size=8), st.lists(KEYS, min_size=1, max_size=5))
def test_the_most_specific_pattern_counts_whatever_was_declared_first(
    patterns: list[tuple[str, ...]], keys: list[tuple[str, ...]]
) -> None:
    # Inner stars and pluses mean the same.
    spelled = {tuple(STAR if part == PLUS else part for part in each[:-1]) + each[-1:]: each for each in patterns}
    declarations = Declarations()
    for pattern in spelled.values():
        declarations.declare(pattern, Annotated[int, pattern])
        for key in keys:
            declarations.type_of(key)  # what is remembered may not outlive the next declaration
    for key in keys:
        found = naive(list(spelled.values()), key)
        assert declarations.type_of(key) == (None if found is None else Annotated[int, found])
        assert declarations.type_of(key) == declarations.type_of(key)


def test_a_declared_pattern_is_returned_as_a_key(loopless: Hub) -> None:
    pattern = loopless.declare(("order", "*"), dict)
    assert type(pattern) is Key
    assert pattern == ("order", "*")
    assert loopless.declare("tick", float) == ("tick",)
    assert loopless.declared(("order", "new")) is dict
    assert loopless.declared("tick") is float
    assert loopless.declared(("tick", "more")) is None


def test_nothing_else_can_be_declared_for_the_same_keys(loopless: Hub) -> None:
    loopless.declare(("a", "*", "c"), int)
    loopless.declare(("a", "*", "c"), int)
    loopless.declare(("a", "+", "c"), int)
    with pytest.raises(ValueError, match=r"\('a', '\+', 'c'\) is declared as int already, not as list\[str\]"):
        loopless.declare(("a", "+", "c"), list[str])
    loopless.declare(("a", "*"), str)
    loopless.declare(("a", "+"), bytes)  # which other keys match
    assert loopless.declared(("a", "b")) is bytes
    assert loopless.declared(("a", "b", "d")) is str


def test_what_is_no_pattern_cannot_be_declared_and_what_is_no_key_has_no_type(loopless: Hub) -> None:
    with pytest.raises(EmptyKey):
        loopless.declare((), int)
    with pytest.raises(InvalidPart):
        loopless.declare(("a", 1), int)  # type: ignore[arg-type]
    with pytest.raises(WildcardPublished):
        loopless.declared(("a", "*"))


def test_none_can_be_declared(loopless: Hub) -> None:
    loopless.declare("tick", None)
    assert loopless.declared("tick") is type(None)


def test_only_so_many_keys_are_remembered() -> None:
    declarations = Declarations()
    declarations.declare("*", int)
    declarations.MOST_KNOWN = 3  # type: ignore[misc]
    for number in range(10):
        assert declarations.type_of((str(number),)) is int
        assert len(declarations._known) <= 3
    assert declarations.items() == [(("*",), int)]


@dataclass
class Order:
    item: str


class Row(TypedDict):
    item: str


class HasItem(Protocol):
    item: str


UserId = NewType("UserId", int)
T = TypeVar("T")

ACCEPTED: list[tuple[Any, Any]] = [
    (int, 1),
    (int, True),
    (float, 1),
    (complex, 1),
    (None, None),
    (Any, object()),
    (T, object()),
    (Order, Order("tea")),
    (Row, {}),
    (HasItem, object()),  # nobody can tell
    (list[int], ["what it holds is not looked at"]),
    (Sequence[int], (1,)),
    (int | None, None),
    (Literal["a", "b"], "b"),
    (Annotated[int, "more"], 1),
    (UserId, 7),
    (UserId | str, 7),
]
REFUSED: list[tuple[Any, Any]] = [
    (int, 1.0),
    (float, "1"),
    (None, 0),
    (Order, {"item": "tea"}),
    (Row, [("item", "tea")]),
    (list[int], (1,)),
    (int | None, "1"),
    (Literal["a", 1], True),
    (Annotated[int, "more"], "1"),
    (UserId, "7"),
]


@pytest.mark.parametrize(("type", "value"), ACCEPTED)
def test_a_value_of_the_type_is_accepted(type: Any, value: object) -> None:
    assert accepts(type, value)


@pytest.mark.parametrize(("type", "value"), REFUSED)
def test_a_value_of_another_type_is_not(type: Any, value: object) -> None:
    assert not accepts(type, value)


def test_types_are_called_by_their_short_names() -> None:
    names = [name_of(type) for type in (int, Order, list[int], int | None, Literal["a"])]
    assert names == ["int", "Order", "list[int]", "int | None", "Literal['a']"]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_debug_mode_complains_of_messages_of_another_type_and_delivers_them(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)
    await hub.close()
    await hub.start()
    hub.declare(("order", "*"), Order)
    seen: list[Any] = []
    hub.add_listener(("order", "*"), lambda key, message: seen.append(message))
    caplog.clear()
    assert hub.publish(("order", "new"), {"item": "tea"}) == 1
    (complaint,) = complaints(caplog)
    said = "('order', 'new') is declared as Order, but a message of type dict is published by "
    assert complaint.startswith(said + __file__)
    hub.publish(("order", "new"), Order("tea"))
    hub.publish(("price", "tea"), "anything")
    assert len(complaints(caplog)) == 1
    assert seen == [{"item": "tea"}, Order("tea")]


async def test_debug_mode_complains_also_where_nobody_is_subscribed_and_of_events(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)
    await hub.close()
    await hub.start()
    hub.declare("tick", int)
    caplog.clear()
    assert hub.publish("tick", "1") == 0
    assert await hub.publish_confirmed("tick", "2") == 0
    assert len(complaints(caplog)) == 2


async def test_no_debug_mode_costs_no_check(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    for debug in (True, False, True, False):
        loop.set_debug(debug)
        await hub.close()
        await hub.start()
        assert len(hub._router.observers) == debug
    hub.declare("tick", int)
    hub.publish("tick", "1")
    assert hub._router.routes[Key("tick")] == []
    assert complaints(caplog) == []
