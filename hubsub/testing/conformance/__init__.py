"""What every adapter must do, as plain async functions: run them against your adapter and a real broker.

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    async def test_my_adapter_conforms(check):
        await check(lambda: MyAdapter("mybroker://localhost"))

Each check is called with a function that makes adapters; all of these must reach the same broker. A check of a promise
that the adapter's `Features` do not make is skipped, by `unittest.SkipTest`, which pytest shows with its reason.
"""

from . import carrying, connection, control, delays, durable, faults, groups, interest, letters
from .broker import Broker, Line, Raw
from .proxy import Proxy
from .sites import TIMEOUT, Site, Sites, sites, until
from .table import CHECKS, FAULTS, Check, Fault, Make, features_of, run

# Importing the modules has filled the tables.
_ROOMS = (carrying, interest, control, connection, durable, delays, letters, groups, faults)

__all__ = [
    "Broker",
    "CHECKS",
    "Check",
    "FAULTS",
    "Fault",
    "Line",
    "Make",
    "Proxy",
    "Raw",
    "Site",
    "Sites",
    "TIMEOUT",
    "features_of",
    "run",
    "sites",
    "until",
]
