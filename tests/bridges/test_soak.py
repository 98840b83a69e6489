"""A minute of `make soak`."""

import pytest

from bridges.soak import KINDS, soak
from brokers.fixtures import require

MEGABYTE = 1 << 20
SLOW = ("kafka", "rabbitmq", "jetstream")


@pytest.mark.once
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    [
        # Those whose kills a fault has too take a minute in `make soak`.
        pytest.param(name, marks=[pytest.mark.xdist_group(f"soak of {name}"), *[pytest.mark.long] * (name in SLOW)])
        for name in KINDS
    ],
)
async def test_nothing_confirmed_is_lost_by_a_broker_that_is_killed_every_few_seconds(
    name: str, namespace: str
) -> None:
    kind = KINDS[name]
    require(kind.broker)
    figures = await soak(kind, namespace, messages=200_000, seconds=30, least_kills=2)
    assert figures.confirmed == figures.published
    assert (figures.lost, figures.doubled, figures.gaps, figures.failed) == (0, 0, 0, 0), f"\n{figures}"
    # What a bridge remembers to have seen takes 25 of them, and is full only after a longer time.
    assert figures.grown < 48 * MEGABYTE, f"\n{figures}"
