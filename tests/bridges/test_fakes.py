"""The contract carries brokers of kinds that have not landed: each is tried with a fake of it, in virtual time."""

import asyncio

import pytest
import virtual_time

from hubsub.testing import conformance

from .fakes import Delaying, Fake, FakeBroker, Mqtt, Nats, Rabbit

KINDS = [
    pytest.param(Rabbit, {}, id="rabbit"),
    pytest.param(Rabbit, {"name": "reader"}, id="rabbit name"),
    pytest.param(Rabbit, {"group": "readers"}, id="rabbit group"),
    pytest.param(Nats, {}, id="nats"),
    pytest.param(Nats, {"group": "readers"}, id="nats group"),
    pytest.param(Mqtt, {}, id="mqtt"),
]


@pytest.mark.parametrize("kind", [Rabbit, Nats, Mqtt])
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_brokers_to_come_conform(check: conformance.Check, kind: type[Fake]) -> None:
    broker = FakeBroker(kind)

    async def main() -> None:
        await asyncio.wait_for(check(broker.adapter), 3600)

    virtual_time.run(main())


OF_DELAYS = [check for check in conformance.CHECKS if "delayed" in check.__name__]


@pytest.mark.parametrize("check", OF_DELAYS, ids=lambda check: check.__name__)
def test_a_broker_that_delays_conforms(check: conformance.Check) -> None:
    broker = FakeBroker(Delaying)

    async def main() -> None:
        await asyncio.wait_for(check(broker.adapter), 3600)

    virtual_time.run(main())


FAULTS = [
    pytest.param(fault, id=fault.__name__, marks=[pytest.mark.long, pytest.mark.timeout(600)] if fault.is_long else [])
    for fault in conformance.FAULTS
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_brokers_to_come_survive(fault: conformance.Fault, kind: type[Fake], options: dict[str, str]) -> None:
    async def main() -> None:
        await asyncio.wait_for(fault(FakeBroker(kind), **options), 36000)

    virtual_time.run(main())
