"""Bad input: each its own clear error, from one tree, with nothing half-done."""

import contextlib
import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import hubsub
from hubsub import EmptyKey, Hub, HubsubError, InvalidKey, InvalidPart, MissingDriver, WildcardPublished, errors

PUBLISHING = [
    ((), EmptyKey, "at least one part"),
    ("*", WildcardPublished, "for subscribing only"),
    (("a", "*"), WildcardPublished, "for subscribing only"),
    (("a", "+", "b"), WildcardPublished, "for subscribing only"),
    (("a", 1), InvalidPart, "1 is of type int"),
    (("a", None), InvalidPart, "None is of type NoneType"),
    (("a", ["b"]), InvalidPart, "of type list"),
    ((b"a",), InvalidPart, "of type bytes"),
    (["a", "b"], InvalidKey, "not a list"),
    ({"a"}, InvalidKey, "not a set"),
    (None, InvalidKey, "not a NoneType"),
    (7, InvalidKey, "not a int"),
]


@pytest.mark.parametrize(("key", "error", "says"), PUBLISHING)
def test_what_cannot_be_published_to_is_told(key: Any, error: type[HubsubError], says: str) -> None:
    hub = Hub()
    seen: list[Any] = []
    hub.add_listener("*", lambda key, message: seen.append(key))
    seen.clear()  # of the announcement of the listener to itself
    for publish in (hub.publish, hubsub.Publisher(hub, "x").publish):
        for _ in range(2):
            with pytest.raises(error, match=says):
                publish(key)
    assert seen == []
    assert hub.stats().published == 1


@pytest.mark.parametrize(("key", "error", "says"), [row for row in PUBLISHING if row[1] is not WildcardPublished])
def test_what_cannot_be_subscribed_to_is_told_and_nothing_is_registered(
    key: Any, error: type[HubsubError], says: str
) -> None:
    if isinstance(key, (list, set)):
        return  # several patterns of one part each
    hub = Hub()
    for subscribe in (hub.subscribe, hubsub.Subscriber(hub, "s").subscribe):
        with pytest.raises(InvalidKey):
            subscribe(key)
        with pytest.raises(InvalidKey):
            subscribe(["good", key])
    assert hub.patterns() == {}


def test_publish_event_refuses_what_publish_refuses() -> None:
    hub = Hub()
    for key, error, _ in PUBLISHING:
        with pytest.raises(error):
            hub.publish_event(hubsub.Event(key, None))


def test_every_error_belongs_to_the_tree_that_its_module_draws() -> None:
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, Exception):
            assert issubclass(thing, HubsubError)
            assert name in hubsub.__all__
            assert name in (errors.__doc__ or "")


def test_the_documentation_draws_the_same_tree() -> None:
    page = (Path(__file__).parent.parent / "docs" / "errors.md").read_text(encoding="utf-8")
    tree = inspect.cleandoc(errors.__doc__ or "").partition("HubsubError")[2]
    assert "".join(tree.split()) in "".join(page.split())


def test_errors_that_are_python_errors_too_can_be_caught_as_such() -> None:
    assert issubclass(InvalidKey, ValueError)
    assert issubclass(hubsub.InvalidListener, TypeError)
    assert issubclass(hubsub.UnknownListener, LookupError)
    assert issubclass(hubsub.UnknownSubscription, LookupError)
    assert issubclass(hubsub.WrongContext, RuntimeError)
    assert issubclass(hubsub.MissingDriver, ImportError)
    assert issubclass(hubsub.RequestTimeout, TimeoutError)


def test_values_survive_pickle() -> None:
    event = hubsub.Event(hubsub.Key("a"), 1, hubsub.Meta(id="7", headers={"a": "b"}))
    again = pickle.loads(pickle.dumps(event))
    assert again == event
    assert again.meta == event.meta
    assert type(again) is hubsub.Event
    assert type(again.key) is hubsub.Key
    assert repr(again) == repr(event)
    assert repr(hubsub.Event(hubsub.Key("a"), 1)) == "Event(('a',), 1)"


# Errors that travel


def errors_of_the_tree() -> Iterator[type[HubsubError]]:
    """Yield every class of error, also those of single adapters."""
    for module in pkgutil.walk_packages(hubsub.__path__, "hubsub."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(MissingDriver):
                importlib.import_module(module.name)
    waiting = [HubsubError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.partition(".")[0] == "hubsub":
            yield kind


def argument(kind: type[HubsubError], parameter: inspect.Parameter) -> Any:
    """What one of them may be made with: something alive, wherever anything will do."""
    named: dict[str, Any] = {
        "hub": Hub(),
        "key": hubsub.Key("a", "b"),
        "payload": b"\xff",
        "pattern": ("a", "*"),
        "waiting_for": [Hub(), lambda: None],
        "known": ["memory", "redis"],
        "reached": 2,
        "closing": True,
    }
    if parameter.name in named:
        return named[parameter.name]
    by_annotation: dict[str, Any] = {"str": "why", "int": 3, "float": 1.5, "bool": True}
    return by_annotation.get(str(parameter.annotation), lambda: None)


def example(kind: type[HubsubError]) -> HubsubError:
    if kind is hubsub.DeliveryError:
        error: HubsubError = hubsub.DeliveryError("not by everybody", [hubsub.Undelivered(Hub(), "it failed")])
        error.finished = 2  # type: ignore[attr-defined]
    elif isinstance(kind.__init__, FunctionType):
        error = kind(*[argument(kind, each) for each in inspect.signature(kind).parameters.values()])
    else:
        error = kind("why")
    error.__cause__ = OSError(7, "lost")
    error.add_note("seen in a test")
    return error


def fields(error: BaseException) -> dict[str, Any]:
    named = dict(vars(error))
    if isinstance(error, ImportError):
        named["name"] = error.name
    return named


TREE = sorted(errors_of_the_tree(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_with_its_fields(kind: type[HubsubError]) -> None:
    error = example(kind)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.__notes__ == ["seen in a test"]
        assert (type(again.__cause__), again.__cause__.args) == (OSError, (7, "lost"))
        assert fields(again).keys() == fields(error).keys()
        for name, value in fields(error).items():
            if isinstance(value, str | int | float | bytes | tuple | None):
                assert fields(again)[name] == value
            elif isinstance(value, list) and not isinstance(value[0], str):
                assert fields(again)[name] == [repr(each) for each in value]
            elif not isinstance(value, list):
                assert fields(again)[name] == repr(value)  # what is alive becomes its description


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_copy_with_its_fields(kind: type[HubsubError], duplicate: Callable[[Any], Any]) -> None:
    error = example(kind)
    again = duplicate(error)
    assert again is not error
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__cause__.args == (7, "lost")
    assert fields(again) == fields(error)  # what is alive is shared


def test_the_members_of_a_group_survive_pickle_too() -> None:
    failure = hubsub.Undelivered(Hub(name="h"), "it failed")
    failure.__cause__ = KeyError("x")
    error = hubsub.DeliveryError("not by everybody", [failure])
    error.finished = 4
    again = pickle.loads(pickle.dumps(error))
    assert again.finished == 4
    [member] = again.exceptions
    assert (member.why, member.registration, repr(member.__cause__)) == ("it failed", "<Hub 'h'>", "KeyError('x')")


class Stubborn(Exception):
    """Can be pickled, and not made again."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("stubborn")


def test_a_cause_that_cannot_be_pickled_becomes_its_description() -> None:
    error = hubsub.RemoteError("price", "no")
    error.__cause__ = Stubborn(1, 2)
    again = pickle.loads(pickle.dumps(error))
    assert str(again.__cause__) == "Stubborn: stubborn"


def test_what_an_error_is_about_may_have_a_repr_that_fails() -> None:
    class Weird:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    hub = Hub()
    with pytest.raises(InvalidPart, match="Weird object at"):
        hub.publish(("a", Weird()))  # type: ignore[arg-type]
    with pytest.raises(hubsub.InvalidListener, match="Weird object at"):
        hub.add_listener("a", Weird())  # type: ignore[arg-type]
    with pytest.raises(InvalidKey) as caught:
        hub.publish(["x" * 1000] * 300_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 5000
