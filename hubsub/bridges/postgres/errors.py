"""What an error of PostgreSQL means to a bridge: a refusal, a database that is busy, or a lost connection."""

from __future__ import annotations

from ...errors import BridgeError, BrokerBusy

REMEDIES = {
    "28P01": "correct the user and password in the URL, in PGPASSWORD or in ~/.pgpass",
    "28": "create the role (CREATE ROLE name LOGIN PASSWORD '...'), or allow it to connect in pg_hba.conf",
    "3D": "create the database (CREATE DATABASE name), or name another one in the URL",
    "25006": "the server accepts no writes: name the primary, or all hosts, separated by commas",
    "42501": "GRANT the right to the role; the documentation of the bridge lists the rights",
    "42704": "correct the name in server_settings or options",
    "22023": "correct the value in server_settings or options",
    "53300": "raise max_connections, or the limit of the role or database; each bridge uses two connections",
}
"""The remedy for an error, by the beginning of its SQLSTATE; longer ones come first."""
BUSY = ("40", "53", "54000", "55", "57014")
"""The SQLSTATEs of statements that failed, but may succeed later, by their beginnings."""


def explained(error: Exception) -> Exception:
    """Return the error to raise for an error that ended a connection; it names the remedy, if there is a known one."""
    code = getattr(error, "sqlstate", None) or ""
    remedy = next((text for known, text in REMEDIES.items() if code.startswith(known)), None)
    if type(error).__name__ == "TargetServerAttributeNotMatched":
        remedy = REMEDIES["25006"]
    if remedy is not None:
        explanation: Exception = BridgeError(f"Postgres refuses the bridge: {error}; {remedy}")
    elif type(error).__module__.startswith("asyncpg"):
        explanation = ConnectionResetError(f"the connection to Postgres failed: {error}")
    else:
        return error
    explanation.__cause__ = error
    return explanation


def refusal(error: Exception) -> Exception:
    """Return the error if the database refuses a statement for good; otherwise raise what it means.

    Raises:
        BrokerBusy: The database accepts no statements now, and did not execute this one.
        Exception: The connection is lost, or the server cannot execute such statements.
    """
    code = getattr(error, "sqlstate", None) or ""
    if code.startswith(BUSY):
        raise BrokerBusy(f"Postgres does not accept statements at present: {error}") from error
    if code == "42501":
        return explained(error)
    if code.startswith("22"):
        return error
    raise explained(error)
