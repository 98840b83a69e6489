"""The transactional outbox: publishing in a transaction of the user."""

from __future__ import annotations

from importlib import import_module
from inspect import isawaitable
from typing import Any

from ...describe import describe

MOST_DUE = 253_402_300_800.0
"""The year 10000: as `Meta.due`."""
PUBLISH = """select hubsub.publish(cast({} as text), cast({} as bytea), cast({} as text),
    to_timestamp(cast({} as double precision)))"""
NAMES = ("key", "message", "namespace", "due")


async def publish(connection: Any, address: str, payload: bytes, namespace: str, due: float | None) -> None:
    """Publish a message in the transaction of a connection.

    Args:
        connection: A connection, cursor or session of asyncpg, psycopg 3 or SQLAlchemy.
        address: The address of the key.
        payload: The encoded message.
        namespace: The namespace of the bridges that read it.
        due: When to deliver it, in seconds since the epoch; None means at once.

    Raises:
        TypeError: `connection` is none of these.
        ValueError: `due` is not a time.
        Exception: An error of the driver.
    """
    if due is not None:
        if not isinstance(due, int | float) or isinstance(due, bool) or not abs(due) < MOST_DUE:
            raise ValueError(f"due is a time in seconds since the epoch, not {describe(due)}")
        due = float(due)
    arguments = (address, payload, namespace, due)
    modules = {each.__module__.partition(".")[0] for each in type(connection).__mro__}
    if "asyncpg" in modules:
        done = connection.execute(PUBLISH.format("$1", "$2", "$3", "$4"), *arguments)
    elif "psycopg" in modules:
        done = connection.execute(PUBLISH.format("%s", "%s", "%s", "%s"), arguments)
    elif "sqlalchemy" in modules:
        sql = import_module("sqlalchemy").text(PUBLISH.format(*(f":{name}" for name in NAMES)))
        done = connection.execute(sql, dict(zip(NAMES, arguments, strict=True)))
    else:
        raise TypeError(f"publish_in needs a connection of asyncpg, psycopg or SQLAlchemy, not {type(connection)}")
    if isawaitable(done):
        await done
