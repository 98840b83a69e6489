"""Bad input: each its own clear error, from one tree, with nothing half-done."""

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

import hubsub
from hubsub import EmptyKey, Hub, HubsubError, InvalidKey, InvalidPart, WildcardPublished, errors

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
