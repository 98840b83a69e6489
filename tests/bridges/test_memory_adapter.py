"""The memory adapter keeps the contract; what it can be made to do wrong, the relay notices."""

import os

import pytest

from hubsub.bridges.memory import MemoryAdapter
from hubsub.testing import conformance


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
async def test_it_conforms(check: conformance.Check) -> None:
    url = f"memory://{os.urandom(4).hex()}"
    await check(lambda: MemoryAdapter(url))
