"""What every test has: the loop that `make matrix` asks for, and a look at what is left behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings

import hubsub

pytest_plugins = ["brokers.fixtures"]

# How long an example takes says something of the machine, and of what else it has to do.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A script that was started in the background ignores Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set by `make matrix`: asyncio, debug (asyncio's debug mode) or uvloop.
LOOP = os.environ.get("HUBSUB_TEST_LOOP", "asyncio")


# Modules whose tests `make matrix` leaves out: what waits for real time, files and processes, what brings a loop of its
# own, and pure rules.
ONCE = {
    "test_address",
    "test_api_surface",
    "test_fakes",
    "test_faults",
    "test_processes",
    "test_prometheus",
    "test_relay_model",
    "test_resp",
    "test_signing",
    "test_sqlite_adapter",
    "test_third_party",
    "test_wire",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in ONCE or "pytester" in getattr(item, "fixturenames", ()):
            item.add_marker("once")


def pytest_configure(config: pytest.Config) -> None:
    if LOOP == "debug":
        # pytest-asyncio sets the debug flag of every loop itself, over what a loop factory or the environment says.
        config.option.asyncio_debug = True


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if LOOP == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return {LOOP: asyncio.new_event_loop}


@pytest.fixture
async def hub() -> AsyncIterator[hubsub.Hub]:
    """An open hub; it is closed after the test and must have left nothing behind."""
    hub = hubsub.Hub()
    await hub.start()
    yield hub
    await hub.close()
    assert_nothing_left(hub)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def loopless() -> Iterator[hubsub.Hub]:
    """A hub without a loop; it must be empty when everything was removed."""
    hub = hubsub.Hub()
    yield hub
    assert_nothing_left(hub)


def assert_nothing_left(hub: hubsub.Hub) -> None:
    """Remove what is registered: then no trie node, route or task may be left."""
    for registration in list(hub._registered):
        hub._remove(registration)
    assert hub._router.matcher.is_empty()
    assert hub._watchers == 0
    assert not hub._life.running
    assert not hub._life.unstarted
    assert not hub._router.retired
    assert [route for route in hub._router.cache.routes.values() if route] == []
