"""A pytest plugin: `pytest_plugins = ["hubsub.testing.plugin"]` gives every test a `hub`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubsub import Hub, Listener


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A hub for this test alone; registrations end with the test, which fails if somebody is still busy."""
    hub = Hub(name=request.node.name)
    failures = request.session.testsfailed
    yield hub
    busy = "".join(f"\n  {each!r}: {each.pending} pending" for each in hub.busy())
    for match in hub.explain("*").matches:
        subscription = match.subscription
        if isinstance(subscription, Listener):
            subscription.remove()
        else:
            subscription.close()
    if request.session.testsfailed > failures:
        return  # the test has failed already, and its own error must show
    assert not busy, f"the test ended while these were busy; await hubsub.testing.settle(hub), or hub.close():{busy}"
    assert not hub.patterns(), f"registered while the hub was being cleared: {list(hub.patterns())}"
