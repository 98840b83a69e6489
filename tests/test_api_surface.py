"""What is public is `__all__`, and documented; imports go strictly downwards; no name of aiopubsub is forgotten."""

import ast
import graphlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import hubsub
import hubsub.bridges
import hubsub.testing
from hubsub import errors, event

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hubsub"

# Which modules each one may import: all of them on lower floors.
FLOORS: dict[str, set[str]] = {
    "errors": set(),
    "log": set(),
    "key": {"errors"},
    "confirm": {"errors", "log"},
    "event": {"confirm", "errors", "key"},
    "matcher": {"key"},
    "types": {"key", "matcher"},
    "routes": {"event", "key"},
    "router": {"key", "matcher", "routes"},
    "mailbox": {"event", "key"},
    "history": {"errors", "event", "key", "routes"},
    "tap": {"event", "key", "routes"},
    "life": {"errors", "log"},
    "retry": {"key"},
    "subscription": {"errors", "event", "key", "life", "log", "mailbox", "retry", "router"},
    "asking": {"errors", "event", "key", "mailbox", "routes", "subscription"},
    "concurrent": {"event", "mailbox", "subscription"},
    "explain": {"history", "key", "outbox", "router", "subscription"},
    "outbox": {"event", "key", "mailbox", "subscription"},
    "hub": {
        "asking",
        "concurrent",
        "confirm",
        "errors",
        "event",
        "explain",
        "history",
        "key",
        "life",
        "log",
        "mailbox",
        "outbox",
        "retry",
        "router",
        "routes",
        "subscription",
        "tap",
        "types",
    },
    "publisher": {"hub", "key"},
    "subscriber": {"errors", "event", "hub", "key", "subscription"},
    "__init__": {
        "asking",
        "bridges",  # imported when it is asked for
        "errors",
        "event",
        "explain",
        "history",
        "hub",
        "key",
        "mailbox",
        "publisher",
        "retry",
        "subscriber",
        "subscription",
        "tap",
    },
    "bridges.adapter": {"key"},
    "bridges.address": {"key"},
    "bridges.plain": {"types"},
    "bridges.typed": {"types"},
    "bridges.codec": {"bridges.plain", "bridges.typed", "log", "types"},
    "bridges.wire": {"bridges.codec", "errors", "event", "key"},
    "bridges.seen": {"hub", "key"},
    "bridges.sender": {"bridges.adapter", "bridges.wire", "errors", "event", "hub", "key", "mailbox", "outbox"},
    "bridges.receiver": {
        "bridges.adapter",
        "bridges.address",
        "bridges.seen",
        "bridges.sender",
        "bridges.wire",
        "errors",
        "event",
        "hub",
        "key",
        "log",
        "outbox",
        "subscription",
    },
    "bridges.bridge": {
        "bridges.adapter",
        "bridges.codec",
        "bridges.receiver",
        "bridges.seen",
        "bridges.sender",
        "bridges.wire",
        "errors",
        "event",
        "hub",
        "key",
        "life",
        "log",
    },
    "bridges.resp": set(),
    "bridges.redis_connection": {"bridges.resp", "errors"},
    "bridges.redis_server": {"bridges.redis_connection", "bridges.resp", "errors"},
    "bridges.redis_pubsub": {
        "bridges.adapter",
        "bridges.address",
        "bridges.redis_connection",
        "bridges.redis_server",
        "bridges.resp",
        "key",
    },
    "bridges.redis_place": {"errors"},
    "bridges.redis_scripts": set(),
    "bridges.redis_stream": {
        "bridges.adapter",
        "bridges.address",
        "bridges.redis_connection",
        "bridges.redis_place",
        "bridges.redis_scripts",
        "bridges.redis_server",
        "bridges.resp",
        "errors",
        "key",
    },
    "bridges.kafka_options": set(),
    "bridges.kafka_writer": {"bridges.adapter", "bridges.address", "bridges.kafka_options", "key"},
    "bridges.kafka_reader": {"bridges.adapter", "bridges.kafka_options", "bridges.kafka_writer", "errors"},
    "bridges.kafka_history": {"bridges.kafka_options", "bridges.kafka_writer"},
    "bridges.kafka": {
        "bridges.adapter",
        "bridges.address",
        "bridges.kafka_history",
        "bridges.kafka_options",
        "bridges.kafka_reader",
        "bridges.kafka_writer",
        "errors",
        "key",
    },
    "bridges.memory": {"bridges.adapter", "key"},
    "bridges": {"bridges.adapter", "bridges.address", "bridges.bridge", "bridges.codec"},
    # Only what is public, like anybody.
    "testing": {"__init__"},
    "testing.plugin": {"__init__", "testing"},
    "testing.conformance": {"__init__", "bridges"},
    "demo_bridge": {"__init__", "bridges", "bridges.bridge"},
    "demo": {"__init__", "bridges", "demo_bridge"},
    "__main__": {"__init__", "demo", "demo_bridge"},
}


def name_of(path: Path) -> str:
    """The name of a module as it stands in `FLOORS`; a package's is its `__init__`."""
    inner = path.relative_to(PACKAGE).with_suffix("")
    if inner.name == "__init__" and inner.parent.parts:
        inner = inner.parent
    return ".".join(inner.parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported_by(module: str) -> Iterator[str]:
    """Yield the modules of the package that `module` imports, wherever in it the import stands."""
    path = MODULES[module]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = str(node.module)
            if node.level:
                above = path.parents[node.level - 1].relative_to(ROOT).parts
                base = ".".join(above + ((node.module,) if node.module else ()))
            names = [f"{base}.{name.name}" for name in node.names] if base == "hubsub" else [base]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "hubsub":
                yield rest if rest in FLOORS else "__init__"


def test_every_module_has_a_floor() -> None:
    assert MODULES.keys() == FLOORS.keys()


@pytest.mark.parametrize("module", FLOORS)
def test_imports_stay_on_the_floors_below(module: str) -> None:
    assert set(imported_by(module)) <= FLOORS[module]


def test_floors_have_no_cycle() -> None:
    graphlib.TopologicalSorter(FLOORS).prepare()


def test_what_the_package_shows_is_all_public() -> None:
    shown = {name for name, value in vars(hubsub).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert shown - {"annotations"} == set(hubsub.__all__) - {"Bridge", "connect"}  # which come when they are asked for
    assert hubsub.__all__ == sorted(set(hubsub.__all__))


@pytest.mark.parametrize("module", [errors, event])
def test_every_error_and_all_that_travels_is_public(module: ModuleType) -> None:
    defined = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    assert {name for name in defined if name[0] != "_"} <= set(hubsub.__all__)


def test_the_reference_documents_what_is_public() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: hubsub\.(\S+)$", reference, re.MULTILINE)
    kit = [f"testing.{name}" for name in hubsub.testing.__all__]
    bridges = [f"bridges.{name}" for name in hubsub.bridges.__all__ if name not in hubsub.__all__]
    assert sorted(documented) == sorted([*hubsub.__all__, *kit, *bridges])


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in (hubsub, hubsub.bridges, hubsub.testing) for name in module.__all__],
)
def test_whatever_is_public_says_what_it_promises(module: ModuleType, name: str) -> None:
    kind = getattr(module, name)
    assert inspect.getdoc(kind)
    members = vars(kind) if isinstance(kind, type) else {}
    for member, value in members.items():
        if member[0] != "_" and isinstance(value, FunctionType | property | classmethod):
            # What an override promises may stand in what it overrides.
            assert inspect.getdoc(getattr(kind, member)), f"{name}.{member}"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names_only(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hubsub":
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hubsub"):
            assert node.module == "hubsub"
            used |= {name.name for name in node.names}
    assert used <= set(hubsub.__all__)


# Every public name of aiopubsub 3.0, attributes and fields included.
AIOPUBSUB = """
    Key Key.create_from Key.is_subset_of Key.is_wildcard PossibleKey
    Hub Hub.publish Hub.add_subscriber Hub.remove_subscriber Hub.has_subscribers
    Hub.get_subscriber_queue_sizes Hub.get_all_subscriber_queue_sizes
    Publisher Publisher.prefix Publisher.publish Publisher.has_subscribers
    Subscriber Subscriber.DEFAULT_SUBSCRIPTION_ID Subscriber.id
    Subscriber.subscribe Subscriber.sync_subscribe Subscriber.async_subscribe Subscriber.unsubscribe Subscriber.consume
    Subscriber.add_listener Subscriber.add_sync_listener Subscriber.add_async_listener
    Subscriber.remove_listener Subscriber.remove_all_listeners
    Listener loop keys Subscription callback queue unread_callback ConsumeQueueNotFoundError
    ListenerCallback ListenerSyncCallback ListenerAsyncCallback UnreadCallback
    loop.Loop coro delay name task start stop stop_wait is_running
    logging_compat.get_logger
    testing.mocks.MockHub published published_by_key subscribers
    utils.ThrottledPublisher ThrottledPublisher.publish
"""


@pytest.mark.parametrize("name", AIOPUBSUB.split())
def test_every_name_of_aiopubsub_has_its_counterpart_named(name: str) -> None:
    page = (ROOT / "docs" / "aiopubsub.md").read_text(encoding="utf-8")
    table = page[page.index("## Name by name") : page.index("## What differs")]
    theirs = "\n".join(row.split(" | ")[0] for row in table.splitlines() if row.startswith("| "))
    assert re.search(rf"`{re.escape(name)}[`(]", theirs)
