"""Private brokers, which are those of the tests: started for the first benchmark that needs them, gone with us."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .harness import Missing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def private(kind: str) -> Any:
    """A new `Redis`, `Kafka`, `Nats` or `Postgres`, not started yet.

    Raises:
        Missing: This machine cannot run it.
    """
    # Not before it is needed: listing the benchmarks takes no driver.
    import brokers

    reason = "BROKERS=0" if os.environ.get("BROKERS") == "0" else getattr(brokers, kind).missing()
    if reason is not None:
        raise Missing(reason)
    # For it, a topic that has yet to be made is an error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # What Redis does by itself once it keeps a log: with a disk that is waited for, everything costs the same.
    return brokers.Redis(appendfsync="everysec") if kind == "Redis" else getattr(brokers, kind)()


@cache
def shared(kind: str) -> Any:
    """The one `Redis`, `Kafka`, `Nats` or `Postgres` of all benchmarks that leave it running."""
    return private(kind).start()
