"""A pytest plugin: `pytest_plugins = ["hubsub.testing.plugin"]` gives every test a `hub`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubsub import Hub, Listener


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A hub for this test alone; what the test leaves registered ends with it, but nobody may be busy still."""
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
        return  # the test has failed already, and that is what is to be read
    assert not busy, f"the test ended before they were done; await hubsub.testing.settle(hub), or hub.close():{busy}"
    assert not hub.patterns(), f"registered while everything was being removed: {list(hub.patterns())}"
