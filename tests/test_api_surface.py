"""What is public is `__all__`, and documented; imports go strictly downwards; no name of aiopubsub is forgotten."""

import ast
import graphlib
import importlib
import inspect
import pickle
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from source import parsed

import hubsub
import hubsub.bridges
import hubsub.opentelemetry
import hubsub.testing
import hubsub.web
from hubsub import errors, event

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hubsub"

GROUND = {"errors", "describe", "log", "key", "confirm", "event"}
CONTRACT = {
    f"bridges.{name}" for name in ("adapter", "address", "inbox", "lines", "log", "schemes", "tls", "together", "urls")
}
PUBLIC = {"__init__", "bridges"}

# The rooms of the house, and the rooms or modules that each may import besides itself. What is not named, it may not.
ROOMS: dict[str, set[str]] = {
    # What everybody may import stands on nothing, but on what judges a user's callables.
    "ground": {"_core.callables"},
    # The engine does not know the face on top of it.
    "_core": {"ground"},
    "face": {"ground", "_core"},
    # Bridges use codecs, and so may whatever else leaves the process.
    "codec": {"ground", "_core.declarations"},
    # An adapter knows its broker and the contract, and neither the relay nor another adapter.
    "contract": {"ground"},
    "bridges.memory": {"ground", "contract"},
    "bridges.redis": {"ground", "contract"},
    "bridges.kafka": {"ground", "contract"},
    # What it publishes in a user's transaction is JSON without a bridge.
    "bridges.postgres": {"ground", "contract", "codec"},
    "bridges.rabbitmq": {"ground", "contract"},
    "bridges.sqlite": {"ground", "contract"},
    "bridges.nats": {"ground", "contract"},
    "bridges.websocket": {"ground", "contract"},
    "bridges.mqtt": {"ground", "contract"},
    # The relay knows the contract and no adapter.
    "bridges.relay": {"ground", "_core", "face", "contract", "codec"},
    "bridges": {"contract", "codec", "bridges.relay"},
    # As bridges do, it stands on what a hub has for whatever leaves it.
    "web": {"ground", "_core", "face", "codec"},
    # Reads the figures of all the parts of a hub.
    "prometheus": {"ground", "_core", "face", "bridges.relay"},
    # As does what records a hub; it names the version of the package.
    "opentelemetry": {"ground", "_core", "face", "__init__"},
    "__init__": {"ground", "_core", "face", "bridges"},
    # Like any user: only what is public.
    "testing": PUBLIC,
    "cli": PUBLIC | {"bridges.relay", "web"},
    "__main__": PUBLIC | {"cli", "bridges.postgres"},
}


def name_of(path: Path) -> str:
    """The name of a module within the package; a package's is that of its folder."""
    inner = path.relative_to(PACKAGE).with_suffix("")
    if inner.name == "__init__" and inner.parent.parts:
        inner = inner.parent
    return ".".join(inner.parts)


def room_of(module: str) -> str:
    """The room in which a module is."""
    if module in GROUND:
        return "ground"
    if module in CONTRACT:
        return "contract"
    if module in ("hub", "publisher", "subscriber", "threads", "loop", "utils", "logging_compat", "_aiopubsub"):
        return "face"
    if module.partition(".")[0] == "_face":
        return "face"
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported_by(module: str) -> Iterator[str]:
    """Yield the modules of the package that `module` imports, wherever in it the import stands."""
    path = MODULES[module]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            bases = [(name.name, "") for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = str(node.module)
            if node.level:
                above = path.parents[node.level - 1].relative_to(ROOT).parts
                base = ".".join(above + ((node.module,) if node.module else ()))
            bases = [(base, name.name) for name in node.names]
        else:
            continue
        for base, name in bases:
            package, _, inner = base.partition(".")
            if package == "hubsub":
                deeper = f"{inner}.{name}".strip(".")
                yield deeper if deeper in MODULES else inner or "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    allowed = ROOMS[room_of(module)] | {room_of(module)}
    for imported in imported_by(module):
        assert imported in allowed or room_of(imported) in allowed, f"{module} imports {imported}"


def test_imports_have_no_cycle() -> None:
    # A package imports its own modules; whoever imports the package is above them all.
    graph = {module: set(imported_by(module)) - {module, "bridges"} for module in MODULES if module != "__init__"}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [module for module in MODULES if module[:2] != "__"])
def test_no_module_shadows_one_of_the_standard_library(module: str) -> None:
    assert module.rpartition(".")[2] not in sys.stdlib_module_names


def test_what_the_package_shows_is_all_public() -> None:
    shown = {name for name, value in vars(hubsub).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    lazy = {"Bridge", "HubThread", "connect"}  # which come when they are asked for
    assert shown - {"annotations"} - lazy == set(hubsub.__all__) - lazy
    assert hubsub.__all__ == sorted(set(hubsub.__all__))


def test_completion_shows_what_is_public_and_nothing_else() -> None:
    assert dir(hubsub) == hubsub.__all__


@pytest.mark.parametrize("module", [errors, event])
def test_every_error_and_all_that_travels_is_public(module: ModuleType) -> None:
    source = parsed(Path(str(module.__file__)))
    defined = {node.name for node in source.body if isinstance(node, ast.ClassDef)}
    assert {name for name in defined if name[0] != "_"} <= set(hubsub.__all__)


def test_the_reference_documents_what_is_public() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: hubsub\.(\S+)$", reference, re.MULTILINE)
    kit = [f"testing.{name}" for name in hubsub.testing.__all__]
    bridges = [f"bridges.{name}" for name in hubsub.bridges.__all__ if name not in hubsub.__all__]
    web = [f"web.{name}" for name in hubsub.web.__all__]
    traces = [f"opentelemetry.{name}" for name in hubsub.opentelemetry.__all__]
    assert sorted(documented) == sorted([*hubsub.__all__, *kit, *bridges, *web, *traces, "prometheus.HubCollector"])


PUBLIC_CLASSES = [kind for name in hubsub.__all__ if isinstance(kind := vars(hubsub).get(name), type)]


@pytest.mark.parametrize("kind", PUBLIC_CLASSES)
def test_a_public_class_is_pickled_by_its_public_name_and_keeps_its_annotations(kind: type) -> None:
    assert b"chubsub\n" + kind.__name__.encode() in pickle.dumps(kind, protocol=0)
    assert typing.get_type_hints(kind) is not None


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in (hubsub, hubsub.bridges, hubsub.testing) for name in module.__all__],
)
def test_whatever_is_public_says_what_it_promises(module: ModuleType, name: str) -> None:
    kind = getattr(module, name)
    assert inspect.getdoc(kind)
    # What it has from a base class of ours is public, too.
    bases = [base for base in kind.__mro__ if base.__module__.startswith("hubsub")] if isinstance(kind, type) else []
    members = {member: value for base in reversed(bases) for member, value in vars(base).items()}
    for member, value in members.items():
        if member[0] != "_" and isinstance(value, FunctionType | property | classmethod):
            # What an override promises may stand in what it overrides.
            assert inspect.getdoc(getattr(kind, member)), f"{name}.{member}"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names_only(script: Path) -> None:
    tree = parsed(script)
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hubsub":
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hubsub"):
            names = {name.name for name in node.names}
            # The web, the kit for tests, and the adapter of one broker.
            if node.module in ("hubsub.web", "hubsub.testing") or str(node.module).startswith("hubsub.bridges."):
                assert names <= set(importlib.import_module(str(node.module)).__all__)
            else:
                assert node.module == "hubsub"
                used |= names
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
