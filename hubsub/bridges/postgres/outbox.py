"""The transactional outbox: messages that are published within a transaction of the user's."""

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
    """Publish a message within the transaction of a connection.

    Args:
        connection: One of asyncpg, psycopg 3 or SQLAlchemy, or a cursor or session of theirs.
        address: The address of its key.
        payload: The message.
        namespace: That of the bridges that read it.
        due: When it is delivered, in seconds since the epoch; None for at once.

    Raises:
        TypeError: It is no such connection.
        ValueError: `due` is no time.
        Exception: Whatever the driver raises.
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
