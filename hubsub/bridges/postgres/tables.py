"""Having the tables of the log in a database: creating, upgrading and repairing them."""

from __future__ import annotations

from typing import Any

from ...errors import BridgeError
from . import schema

# From the catalogue itself: a name in a query may be resolved by a plan that is older than the table.
TABLES = """select c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'hubsub' and c.relname = any($1)"""


async def make_sure(connection: Any, whose: object) -> None:
    """Create the tables, upgrade older ones, or create those that somebody has dropped; do nothing if all are there.

    Args:
        connection: A connection of asyncpg.
        whose: Named in errors.

    Raises:
        BridgeError: The role may not, or the tables are those of a newer hubsub.
    """
    if await _version(connection) == schema.VERSION:
        return
    version = None
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(7232, 1)")
            # Another bridge may have done it meanwhile.
            version = await _version(connection)
            if version is None or version < schema.VERSION:
                await connection.execute(schema.SCRIPT)
    except Exception as error:
        if getattr(error, "sqlstate", None) != "42501":
            raise
        what = f"have version {version}, and this hubsub needs {schema.VERSION}" if version else "are missing"
        raise BridgeError(
            f"tables of {whose!r} {what}, and its role may not make them: {error}; as a role that may, run"
            " python -m hubsub postgres-schema --grant ROLE | psql DATABASE"
        ) from error
    if version is not None and version > schema.VERSION:
        raise BridgeError(
            f"{whose!r} has tables of version {version}, and this hubsub knows version {schema.VERSION}: upgrade"
            " hubsub, or use another database"
        )


async def _version(connection: Any) -> int | None:
    """Return the version of the tables; None if one of them is missing."""
    there = {row[0] for row in await connection.fetch(TABLES, schema.NAMES)}
    if "version" not in there:
        return None
    version: int | None = await connection.fetchval("select max(version) from hubsub.version")
    is_whole = version != schema.VERSION or there.issuperset(schema.NAMES)
    return version if is_whole else None
