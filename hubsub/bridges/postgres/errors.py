"""What errors of PostgreSQL mean to a bridge: a refusal, a database that takes nothing just now, a lost connection."""

from __future__ import annotations

from ...errors import BridgeError, BrokerBusy

REMEDIES = {
    "28P01": "correct user and password in the URL, in PGPASSWORD or in ~/.pgpass",
    "28": "create the role (CREATE ROLE name LOGIN PASSWORD '...'), or allow it to connect in pg_hba.conf",
    "3D": "create the database (CREATE DATABASE name), or name another one in the URL",
    "25006": "the server takes no writes: name the primary, or all hosts with commas between them",
    "42501": "GRANT it to the role; the documentation of the bridge lists the rights",
    "42704": "correct the name in server_settings or options",
    "22023": "correct the value in server_settings or options",
    "53300": "raise max_connections, or the limit of the role or database; a bridge has two connections",
}
"""What to do about an error, by the beginning of its SQLSTATE; longer ones first."""
BUSY = ("40", "53", "54000", "55", "57014")
"""The statement was not carried out, and might be later."""


def explained(error: Exception) -> Exception:
    """Return the error to raise for one that a connection ended with: it says what to do, if it is known."""
    code = getattr(error, "sqlstate", None) or ""
    remedy = next((text for known, text in REMEDIES.items() if code.startswith(known)), None)
    if type(error).__name__ == "TargetServerAttributeNotMatched":
        remedy = REMEDIES["25006"]
    if remedy is not None:
        told: Exception = BridgeError(f"Postgres refuses the bridge: {error}; {remedy}")
    elif type(error).__module__.startswith("asyncpg"):
        told = ConnectionResetError(f"there is no connection to Postgres: {error}")
    else:
        return error
    told.__cause__ = error
    return told


def refusal(error: Exception) -> Exception:
    """Return the error by which the database refuses for good what was sent; raise one that may pass.

    Raises:
        BrokerBusy: It takes nothing just now, and nothing was sent.
        Exception: The connection is lost, or it leads to a server that cannot do it.
    """
    code = getattr(error, "sqlstate", None) or ""
    if code.startswith(BUSY):
        raise BrokerBusy(f"Postgres takes nothing just now: {error}") from error
    if code == "42501":
        return explained(error)
    if code.startswith("22"):
        return error
    raise explained(error)
